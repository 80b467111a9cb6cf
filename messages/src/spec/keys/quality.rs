//! The keys of `data.quality`: [`crate::plan::QualityPlan`].

use super::Fallback::Derived;
use super::Shape::{self, Bool};
use super::{Key, POSITIVE, SEED, above, also, between, json, key, name, whole};

const CHECKS: Shape = Shape::Choices(&[
    also("outliers", &["outlier"]),
    also("anomalies", &["anomaly"]),
    also("mislabels", &["mislabel", "labels"]),
    also("duplicates", &["duplicate"]),
    also("leakage", &["leaks"]),
]);
const METHODS: Shape = Shape::Choices(&[also("z_score", &["zscore"]), name("iqr")]);
const PARTS: Shape = Shape::Choices(&[name("train"), name("val"), name("test")]);

pub(super) const KEYS: &[Key] = &[
    key(
        "data.quality.enabled",
        Bool,
        Derived("whether anything stands under data.quality"),
        "Whether outliers, anomalies, wrong labels, doubled rows and leaks are looked for, with a report.",
    )
    .alias(&["data.quality"]),
    key(
        "data.quality.checks",
        CHECKS,
        json(r#"["outliers", "anomalies", "mislabels", "duplicates", "leakage"]"#),
        "What is looked for.",
    ),
    key(
        "data.quality.outlier_methods",
        METHODS,
        json(r#"["z_score", "iqr"]"#),
        "How outliers are told: by standard deviations, by interquartile ranges.",
    ),
    key(
        "data.quality.outlier_threshold",
        POSITIVE,
        json("3.0"),
        "Standard deviations (ddof 0) from the mean beyond which a number is an outlier.",
    ),
    key(
        "data.quality.iqr_factor",
        POSITIVE,
        json("1.5"),
        "Interquartile ranges beyond the quartiles from which on a number is an outlier.",
    ),
    key(
        "data.quality.contamination",
        above(0.0, 0.5),
        json("0.05"),
        "Share of the rows of train that the isolation forest calls anomalies.",
    ),
    key("data.quality.trees", whole(1, 10_000), json("100"), "Trees of a forest.")
        .alias(&["data.quality.n_estimators"]),
    key("data.quality.folds", whole(2, 100), json("5"), "Folds of the cross-validated predictions.")
        .alias(&["data.quality.cv_folds"]),
    key(
        "data.quality.leaf_rows",
        whole(1, 1_000_000),
        json("10"),
        "Fewest rows of a leaf of the forest that predicts labels.",
    ),
    key(
        "data.quality.confidence_threshold",
        between(0.0, 1.0),
        json("0.95"),
        "A label is corrected where another one is right with more than this probability, given the noise of the labels.",
    ),
    key("data.quality.correct", Bool, json("false"), "Whether labels are corrected; otherwise they are only reported."),
    key(
        "data.quality.correct_parts",
        PARTS,
        json(r#"["train"]"#),
        "Parts whose labels are corrected. Corrected val or test parts no longer judge a model by the labels given.",
    ),
    key(
        "data.quality.similarity",
        above(0.0, 1.0),
        json("0.8"),
        "Texts whose sets of shingles are at least this similar (Jaccard) are near duplicates.",
    ),
    key("data.quality.shingle", whole(1, 100), json("5"), "Characters of a shingle."),
    key(
        "data.quality.leakage_auc",
        between(0.5, 1.0),
        json("0.8"),
        "A column that alone predicts the classes with an AUC above this, cross-validated, is a suspect.",
    ),
    key(
        "data.quality.leakage_r2",
        between(0.0, 1.0),
        json("0.8"),
        "Regression: a column that alone predicts the target with an R2 above this, cross-validated, is a suspect.",
    ),
    key(
        "data.quality.max_listed",
        whole(1, 1_000_000),
        json("1000"),
        "Most samples that the report lists of each kind; all are counted.",
    ),
    key("data.quality.seed", SEED, Derived("seed"), "Seed of folds and forests."),
];
