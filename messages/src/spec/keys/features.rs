//! The keys of folds, of preprocessing beyond the first scalings, of derived columns and of storage.

use super::Fallback::{Absent, Required};
use super::Shape::{Bool, Numbers, Records, Text, Texts};
use super::{ANY_NUMBER, Choice, Key, NOT_NEGATIVE, Range, Shape, also, between, json, key, name, whole};

pub(super) const CATEGORIES: Shape = Shape::Choice(&[
    also("one_hot", &["onehot"]),
    also("embedding", &["index"]),
    also("ordinal", &["label"]),
    also("hashing", &["hash"]),
    also("target", &["target_mean"]),
    also("frequency", &["count"]),
]);
const OUTLIERS: Shape = Shape::Choice(&[name("none"), also("quantile", &["winsorize", "percentile"]), name("iqr")]);
const DATE_PART_NAMES: &[Choice] = &[
    name("year"),
    name("month"),
    name("day"),
    also("weekday", &["day_of_week", "dayofweek"]),
    name("hour"),
    also("is_weekend", &["weekend"]),
    name("month_cyclic"),
    name("weekday_cyclic"),
    name("hour_cyclic"),
    name("days_since"),
];
const DATE_PARTS: Shape = Shape::Choices(DATE_PART_NAMES);
const CLEANING: Shape = Shape::Choices(&[
    also("remove_html", &["html"]),
    also("remove_urls", &["urls", "remove_url"]),
    also("lower", &["lowercase"]),
    also("strip_accents", &["accents"]),
    also("collapse_blanks", &["collapse_whitespace", "whitespace"]),
]);
const AGGREGATES: Shape = Shape::Choices(&[
    also("mean", &["avg", "average"]),
    name("sum"),
    name("min"),
    name("max"),
    name("std"),
    name("count"),
]);
const FINITE: Range = Range { min: f64::NEG_INFINITY, max: f64::INFINITY, min_open: false, max_open: false };
const SPREAD: Range = Range { min: 0.0, max: f64::INFINITY, min_open: true, max_open: false };

/// What a step of `data.derive` may have; which of it, `spec::checks::features` says.
const STEP: &[Key] = &[
    key(
        "type",
        Shape::Choice(&[
            name("ratio"),
            also("rolling", &["rolling_window", "window"]),
            name("lag"),
            also("aggregate", &["group_aggregate"]),
            name("cross"),
            also("polynomial", &["poly"]),
            also("date_difference", &["date_diff"]),
            name("date_parts"),
        ]),
        Required,
        "What is made.",
    ),
    key("name", Text, Absent, "Name of the new column."),
    key("numerator", Text, Absent, "Ratio: the column above the line."),
    key("denominator", Text, Absent, "Ratio: the column below the line."),
    key("zero", ANY_NUMBER, Absent, "Ratio: the value where the denominator is 0; else it is missing there."),
    key("flag", Bool, Absent, "Ratio: whether a further 0/1 column NAME_zero says where the denominator is 0."),
    key("columns", Texts, Absent, "The columns that it is made of."),
    key("by", Texts, Absent, "The columns whose values make a group."),
    key("time_column", Text, Absent, "Rolling, lag: the column that says what came before."),
    key("window", whole(1, 100_000), Absent, "Rolling: length, in rows or days. Default 7."),
    key(
        "unit",
        Shape::Choice(&[name("rows"), name("days"), name("hours"), name("minutes"), name("seconds")]),
        Absent,
        "Rolling: rows (default) or days. Date difference: days (default), hours, minutes or seconds.",
    ),
    key("aggregates", AGGREGATES, Absent, "Rolling, aggregate: how values become one. Default mean."),
    key("include_current", Bool, Absent, "Rolling: whether the row itself counts. Default false."),
    key("min_rows", whole(1, 100_000), Absent, "Rolling: with fewer values the result is missing. Default 1."),
    key("lags", Shape::Wholes { min: 1, max: 100_000 }, Absent, "Lag: how many rows of the group back. Default 1."),
    key("degree", whole(2, 3), Absent, "Polynomial: the highest degree. Default 2."),
    key("interaction_only", Bool, Absent, "Polynomial: whether no column is taken twice. Default false."),
    key("from", Text, Absent, "Date difference: the earlier date."),
    key("to", Text, Absent, "Date difference: the later date."),
    key("parts", DATE_PARTS, Absent, "Date parts: which."),
    key("reference", Text, Absent, "Date parts: the day that days_since counts from; else the earliest of train."),
];

/// The keys of this file.
pub(super) const KEYS: &[Key] = &[
    key(
        "data.split.by",
        Shape::Choice(&[name("exact"), name("hash")]),
        json(r#""exact""#),
        "Sizes to the row, or by a hash of the sample's id (or group), where a new row never moves an old one.",
    ),
    key(
        "data.split.folds",
        whole(2, 1_000),
        Absent,
        "Number of folds: fold `data.split.fold` is the test part, in place of test_size; beside `data.test_path` it is the val part.",
    )
    .alias(&["data.split.n_splits"]),
    key("data.split.fold", whole(0, 999), json("0"), "Which fold is held out, from 0."),
    key("data.split.repeat", whole(0, 10_000), json("0"), "Another draw of the same split, from 0."),
    key(
        "data.split.gap",
        Text,
        Absent,
        "Time: what is left out between two parts: a number of rows, or a duration such as 36h or 7d.",
    ),
    key("data.preprocessing.impute_value", ANY_NUMBER, json("0.0"), "What `impute: constant` puts in."),
    key(
        "data.preprocessing.outliers",
        OUTLIERS,
        json(r#""none""#),
        "Where numbers are cut off before they are scaled, fitted on train: at quantiles, or at interquartile ranges beyond the quartiles.",
    ),
    key(
        "data.preprocessing.outlier_quantile",
        between(0.0, 0.5),
        json("0.01"),
        "Numbers are cut off at this quantile and at 1 - it.",
    ),
    key(
        "data.preprocessing.outlier_iqr",
        NOT_NEGATIVE,
        json("1.5"),
        "Numbers are cut off so many interquartile ranges beyond the quartiles.",
    ),
    key("data.preprocessing.quantiles", whole(2, 100_000), json("1000"), "Points of the quantile scalings.")
        .alias(&["data.preprocessing.n_quantiles"]),
    key("data.preprocessing.hash_buckets", whole(1, 100_000), json("32"), "Features of the hashing encoding."),
    key("data.preprocessing.target_encoding.folds", whole(2, 100), json("5"), "A row of train is encoded by the means of the other folds."),
    key(
        "data.preprocessing.target_encoding.smoothing",
        NOT_NEGATIVE,
        Absent,
        "Rows of the whole mean that are mixed into each category's; without it, by the variances (empirical Bayes).",
    ),
    key(
        "data.preprocessing.date_parts",
        DATE_PARTS,
        json(r#"["year", "month", "day", "weekday", "hour", "is_weekend"]"#),
        "What a column of type datetime becomes.",
    ),
    key("data.columns.*.impute_value", ANY_NUMBER, Absent, "In place of `data.preprocessing.impute_value`."),
    key("data.columns.*.missing_indicator", Bool, Absent, "In place of `data.preprocessing.missing_indicator`."),
    key("data.columns.*.outliers", OUTLIERS, Absent, "In place of `data.preprocessing.outliers`."),
    key("data.columns.*.encoding", CATEGORIES, Absent, "In place of `data.preprocessing.categories`."),
    key("data.columns.*.order", Texts, Absent, "Ordinal: the categories from the least to the greatest; else in text order."),
    key("data.columns.*.date_parts", DATE_PARTS, Absent, "In place of `data.preprocessing.date_parts`."),
    key("data.columns.*.date_reference", Text, Absent, "The day that days_since counts from; else the earliest of train."),
    key(
        "data.columns.*.normalize",
        Shape::Choice(&[name("none"), name("fitted"), name("given")]),
        Absent,
        "Of an image column: by mean and standard deviation of each channel, of train or as given.",
    ),
    key("data.columns.*.mean", Numbers(FINITE), Absent, "Of an image column: mean of each channel, of values from 0 to 1."),
    key("data.columns.*.std", Numbers(SPREAD), Absent, "Of an image column: standard deviation of each channel."),
    key(
        "data.text.clean",
        CLEANING,
        json("[]"),
        "What is done to texts before they become tokens: remove_html, remove_urls, lower, strip_accents, collapse_blanks.",
    ),
    key(
        "data.derive",
        Records(STEP),
        json("[]"),
        "Columns made of others, in order: ratio, rolling, lag, aggregate, cross, polynomial, date_difference, date_parts.",
    )
    .alias(&["data.feature_engineering", "data.features_engineering"]),
    key(
        "data.storage.downcast",
        Shape::Choice(&[name("none"), name("lossless"), name("f32")]),
        json(r#""none""#),
        "Numbers in shards: as f64, in the smallest type that holds the column as it is, or that but at most f32.",
    ),
    key(
        "data.storage.dictionary",
        Bool,
        json("false"),
        "Whether a text column with fewer than half as many distinct texts as rows is stored as a dictionary.",
    ),
];
