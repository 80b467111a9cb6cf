//! Folds, hash splits and gaps; derived columns and encoders from files to features, as training and serving see them.

use std::collections::{BTreeMap, BTreeSet};

use arrow_array::{Array, ArrayRef, RecordBatch, StringArray};
use frame::manifest::{Encoding, Fold};
use frame::shard::Stored;
use frame::{Encoded, Encoder, write_shard, write_shard_as};
use messages::feed::Split;
use messages::plan::{
    Aggregate, CategoryEncoding, ColumnType, DataPlan, DatePart, DeriveStep, Downcast, Impute, Outliers, Scale,
    SplitBy, SplitStrategy, Task, TextCleaning, TimeUnit, WindowUnit,
};
use within_data_loader::prepare::Prepared;

use crate::plan::{Root, column, data_plan, encoded, manifest};

fn prepare(content: &str, task: Task, change: impl Fn(&mut DataPlan)) -> Prepared {
    try_prepare(content, task, change).expect("the data are good")
}

fn try_prepare(content: &str, task: Task, change: impl Fn(&mut DataPlan)) -> Result<Prepared, messages::WireError> {
    let root = Root::new(&[("a.csv", content.as_bytes())]);
    let mut plan = data_plan(&["a.csv"], "y");
    change(&mut plan);
    root.prepare(&plan, task)
}

fn table(header: &str, count: usize, row: impl Fn(usize) -> String) -> String {
    let lines: Vec<String> = std::iter::once(header.to_owned()).chain((0..count).map(row)).collect();
    lines.join("\n")
}

fn ids(prepared: &Prepared) -> [Vec<u64>; 3] {
    Split::ALL.map(|split| prepared.table(split, 0..prepared.rows(split)).expect("a table").sample_ids().to_vec())
}

#[test]
fn every_row_is_held_out_by_one_fold() {
    let content = table("g,x,y", 61, |i| format!("g{},{i},{}", i * 7 % 13, i % 2));
    for strategy in
        [SplitStrategy::Random, SplitStrategy::Stratified, SplitStrategy::Group, SplitStrategy::StratifiedGroup]
    {
        for by in [SplitBy::Exact, SplitBy::Hash] {
            if by == SplitBy::Hash && !matches!(strategy, SplitStrategy::Random | SplitStrategy::Group) {
                continue;
            }
            let mut held = Vec::new();
            for fold in 0..4 {
                let prepared = prepare(&content, Task::BinaryClassification, |plan| {
                    plan.split.strategy = strategy;
                    plan.split.group_column = Some("g".into());
                    plan.exclude = vec!["g".into()];
                    plan.split.folding.folds = Some(4);
                    plan.split.folding.fold = fold;
                    plan.split.folding.by = by;
                });
                let parts = ids(&prepared);
                assert_eq!(parts.concat().iter().collect::<BTreeSet<_>>().len(), 61, "{strategy:?}");
                let found = manifest(&prepared).split;
                assert_eq!((found.fold, found.left_out), (Some(Fold { count: 4, index: fold }), 0));
                held.extend(parts[2].clone());
            }
            held.sort_unstable();
            assert_eq!(held, (0..61).collect::<Vec<u64>>(), "{strategy:?} {by:?}");
        }
    }
}

#[test]
fn another_draw_has_other_rows_and_the_same_sizes() {
    let content = table("x,y", 80, |i| format!("{i},{i}"));
    let of = |repeat| ids(&prepare(&content, Task::Regression, |plan| plan.split.folding.repeat = repeat));
    let (first, second) = (of(0), of(1));
    assert_ne!(first[2], second[2]);
    assert_eq!(first.each_ref().map(Vec::len), second.each_ref().map(Vec::len));
    assert_eq!(of(1), second);
}

#[test]
fn a_new_row_never_moves_an_old_one_of_a_hashed_split() {
    let change = |plan: &mut DataPlan| {
        plan.id_column = Some("id".into());
        plan.split.folding.by = SplitBy::Hash;
    };
    let part_of = |content: &str| {
        let parts = ids(&prepare(content, Task::Regression, change));
        let named = parts.iter().enumerate().flat_map(|(part, ids)| ids.iter().map(move |id| (*id, part)));
        named.collect::<BTreeMap<u64, usize>>()
    };
    let row = |i: usize| format!("user{i},{i},{i}");
    let old = part_of(&table("id,x,y", 400, row));
    // In front, between and behind.
    let new = part_of(&table("id,x,y", 600, |i| row((i * 7 + 350) % 600)));
    assert_eq!((old.len(), new.len()), (400, 600));
    assert!(old.iter().all(|(id, part)| new[id] == *part));
    let share = new.values().filter(|part| **part == 2).count() as f64 / 600.0;
    assert!((0.14..0.26).contains(&share), "{share} held out of 0.2 wanted");
}

#[test]
fn a_gap_is_in_no_part() {
    let content = table("t,x,y", 40, |i| format!("2024-{:02}-{:02},{i},{i}", 1 + i / 20, 1 + i % 20));
    let of = |gap: &str, kind: ColumnType| {
        let prepared = prepare(&content, Task::Regression, |plan| {
            plan.split.strategy = SplitStrategy::Time;
            plan.split.time_column = Some("t".into());
            plan.exclude = vec!["t".into()];
            plan.split.folding.gap = Some(gap.into());
            plan.columns.insert("t".into(), column(kind));
        });
        (ids(&prepared), manifest(&prepared).split.left_out)
    };
    let ends = |parts: &[Vec<u64>; 3]| {
        [parts[0].last().copied(), parts[1].first().copied(), parts[1].last().copied(), parts[2].first().copied()]
    };
    let (rows, left_out) = of("3", ColumnType::Auto);
    assert_eq!((ends(&rows), left_out), ([Some(19), Some(23), Some(28), Some(32)], 6));
    // Test begins on the 13th of February, so val ends 5 days before; from the 20th of January to the 1st of February
    // are 12 days.
    let (by_days, _) = of("5d", ColumnType::Datetime);
    assert_eq!(ends(&by_days)[2..], [Some(27), Some(32)]);
    assert_eq!(of("5d", ColumnType::Auto).0, by_days);
}

#[test]
fn the_report_of_a_split_counts_what_is_there() {
    let content = table("g,x,y", 60, |i| format!("g{},{i},{}", i % 12, ["no", "yes"][i % 2]));
    let plan = |plan: &mut DataPlan| {
        plan.split.strategy = SplitStrategy::StratifiedGroup;
        plan.split.group_column = Some("g".into());
        plan.exclude = vec!["g".into()];
    };
    let mut data = data_plan(&["a.csv"], "y");
    plan(&mut data);
    let prepared = prepare(&content, Task::BinaryClassification, plan);
    let (report, assigned) = prepared.split_report(&data);
    assert_eq!((report.samples, report.groups_shared, assigned.len()), (60, Some(0), 60));
    assert_eq!(report.parts.iter().map(|part| part.groups.unwrap_or(0)).sum::<u64>(), 12);
    for part in &report.parts {
        assert_eq!(part.classes.iter().map(|class| class.samples).sum::<u64>(), part.samples);
        assert!((part.classes[0].share - 0.5).abs() < 0.26, "{part:?}");
    }
    assert!(report.to_text().starts_with("stratified_group by \"g\": 60 samples\n  train"), "{}", report.to_text());
}

/// Every kind of step that a row tells, and every encoder.
fn rich(plan: &mut DataPlan) {
    let date = {
        let mut date = column(ColumnType::Datetime);
        date.fitting.date_parts = Some(vec![DatePart::Month, DatePart::WeekdayCyclic, DatePart::DaysSince]);
        date
    };
    plan.columns.insert("day".into(), date);
    plan.columns.insert("end".into(), column(ColumnType::Datetime));
    plan.exclude = vec!["end".into()];
    for (name, encoding) in [
        ("city", CategoryEncoding::Target),
        ("shop", CategoryEncoding::Frequency),
        ("size", CategoryEncoding::Ordinal),
        ("city_x_size", CategoryEncoding::Hashing),
    ] {
        let mut own = column(ColumnType::Category);
        own.fitting.encoding = Some(encoding);
        plan.columns.insert(name.into(), own);
    }
    if let Some(size) = plan.columns.get_mut("size") {
        size.fitting.order = Some(vec!["S".into(), "M".into(), "L".into()]);
    }
    plan.preprocessing.scale = Scale::Robust;
    plan.preprocessing.impute = Impute::Mode;
    plan.preprocessing.fitting.outliers = Outliers::Quantile;
    plan.preprocessing.fitting.hash_buckets = 4;
    plan.derive = vec![
        DeriveStep::Ratio {
            name: "ctr".into(),
            numerator: "clicks".into(),
            denominator: "shows".into(),
            zero: None,
            flag: true,
        },
        DeriveStep::Cross { name: None, columns: vec!["city".into(), "size".into()] },
        DeriveStep::Polynomial { columns: vec!["ctr".into(), "clicks".into()], degree: 2, interaction_only: false },
        DeriveStep::DateDifference {
            name: "length".into(),
            from: "day".into(),
            to: "end".into(),
            unit: TimeUnit::Days,
        },
        DeriveStep::Aggregate {
            columns: vec!["clicks".into()],
            by: vec!["city".into()],
            aggregates: vec![Aggregate::Mean, Aggregate::Max],
        },
    ];
}

fn rich_row(i: usize) -> String {
    format!(
        "{},{},{},s{},{},2024-{:02}-11,2024-{:02}-{:02},{}",
        if i.is_multiple_of(9) { "NA".into() } else { (i * 5 % 23).to_string() },
        i * 3 % 7,
        ["Oslo", "Rome", "Bergen", "NA"][i * i % 4],
        i % 5,
        ["S", "M", "L"][i % 3],
        1 + i % 12,
        1 + i % 12,
        12 + i % 9,
        i * 7 % 40
    )
}

const RICH: &str = "clicks,shows,city,shop,size,day,end,y";

fn bits(encoded: &Encoded) -> Vec<u32> {
    encoded.features.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn one_raw_row_has_the_features_that_training_and_evaluation_see() {
    let prepared = prepare(&table(RICH, 120, rich_row), Task::Regression, rich);
    let manifest = manifest(&prepared);
    let expected = [
        "clicks",
        "clicks=<missing>",
        "shows",
        "city=<target>",
        "shop=<frequency>",
        "size",
        "day_month",
        "day_weekday_sin",
        "day_weekday_cos",
        "day_days_since",
        "ctr",
        "ctr=<missing>",
        "ctr_zero",
        "city_x_size=<hash 0>",
        "city_x_size=<hash 1>",
        "city_x_size=<hash 2>",
        "city_x_size=<hash 3>",
        "ctr^2",
        "ctr^2=<missing>",
        "ctr clicks",
        "ctr clicks=<missing>",
        "clicks^2",
        "clicks^2=<missing>",
        "length",
        "clicks_mean",
        "clicks_max",
    ];
    assert_eq!(manifest.feature_names, expected);
    let encoder = Encoder::new(&manifest).expect("an encoder");
    let test = prepared.table(Split::Test, 0..prepared.rows(Split::Test)).expect("a table");
    let whole = encoder.encode(test.batch()).expect("encodes");
    assert!(whole.features.iter().all(|value| value.is_finite()));
    for row in 0..test.rows() {
        let alone = encoder.encode(&test.batch().slice(row, 1)).expect("encodes");
        assert_eq!(bits(&alone), bits(&whole)[row * whole.width..(row + 1) * whole.width], "row {row}");
    }
    // Dates as texts, as a caller has them.
    let texts = |name: &str, day: &dyn Fn(usize) -> String| {
        let rows = test.sample_ids().iter().map(|id| day(*id as usize));
        (name.to_owned(), std::sync::Arc::new(StringArray::from_iter_values(rows)) as ArrayRef)
    };
    let raw = ["clicks", "shows", "city", "shop", "size"];
    let mut columns: Vec<(String, ArrayRef)> = raw
        .iter()
        .map(|name| ((*name).to_owned(), test.batch().column_by_name(name).expect("a column").clone()))
        .collect();
    columns.push(texts("day", &|i| format!("2024-{:02}-11", 1 + i % 12)));
    columns.push(texts("end", &|i| format!("2024-{:02}-{:02}", 1 + i % 12, 12 + i % 9)));
    let served = encoder.encode(&RecordBatch::try_from_iter(columns).expect("a batch")).expect("encodes");
    assert_eq!(bits(&served), bits(&whole));
}

#[test]
fn nothing_fitted_looks_at_val_or_test() {
    let lines: Vec<String> = (0..120).map(rich_row).collect();
    let clean = prepare(&format!("{RICH}\n{}", lines.join("\n")), Task::Regression, rich);
    let parts = ids(&clean);
    let mut poisoned = lines.clone();
    for &i in parts[1].iter().chain(&parts[2]) {
        poisoned[i as usize] = format!("1e30,{},poison{i},p{i},L,1901-01-01,2999-01-01,{}", i % 2, -1e9 - i as f64);
    }
    let dirty = prepare(&format!("{RICH}\n{}", poisoned.join("\n")), Task::Regression, rich);
    let (clean_manifest, dirty_manifest) = (manifest(&clean), manifest(&dirty));
    assert_eq!(clean_manifest.derived, dirty_manifest.derived);
    assert_eq!(clean_manifest.features, dirty_manifest.features);
    assert_eq!(clean_manifest.columns, dirty_manifest.columns);
    assert_eq!(bits(&encoded(&clean, Split::Train)), bits(&encoded(&dirty, Split::Train)));
}

#[test]
fn a_row_of_train_is_encoded_by_the_targets_of_others() {
    // Each city once in train: nothing of its own target may be seen.
    let content = table("city,y", 60, |i| format!("c{i},{}", i * i));
    let prepared = prepare(&content, Task::Regression, |plan| {
        plan.preprocessing.categories = CategoryEncoding::Target;
        plan.preprocessing.scale = Scale::None;
        plan.preprocessing.fitting.target_encoding.smoothing = Some(0.0);
    });
    let manifest = manifest(&prepared);
    let Encoding::Target { categories, outputs, .. } = &manifest.features[0].encoding else { panic!("target") };
    let train = encoded(&prepared, Split::Train);
    let mean_of = |id: u64| outputs[0].means[categories.iter().position(|c| *c == format!("c{id}")).expect("a city")];
    for (row, &id) in train.sample_ids.iter().enumerate() {
        assert_eq!(mean_of(id), (id * id) as f64, "the category's own mean is the row's target");
        assert!((f64::from(train.features[row]) - (id * id) as f64).abs() > 1e-3, "but no row of train sees it");
    }
    let distinct: BTreeSet<u32> = bits(&train).into_iter().collect();
    assert_eq!(distinct.len(), 5, "an unseen city has the mean of the other folds");
    assert!(encoded(&prepared, Split::Test).features.iter().all(|value| *value == outputs[0].prior as f32));
}

#[test]
fn windows_are_kept_with_the_rows_and_asked_for_in_serving() {
    let content = table("g,t,x,y", 60, |i| format!("g{},{i},{},{i}", i % 2, i * 3 % 11));
    let prepared = prepare(&content, Task::Regression, |plan| {
        plan.split.strategy = SplitStrategy::Time;
        plan.split.time_column = Some("t".into());
        plan.exclude = vec!["t".into(), "g".into(), "x".into()];
        plan.derive = vec![DeriveStep::Rolling {
            columns: vec!["x".into()],
            by: vec!["g".into()],
            time_column: "t".into(),
            window: 2,
            unit: WindowUnit::Rows,
            aggregates: vec![Aggregate::Sum],
            include_current: false,
            min_rows: 1,
        }];
        plan.preprocessing.scale = Scale::None;
    });
    let manifest = manifest(&prepared);
    assert_eq!(manifest.feature_names, ["x_sum_2", "x_sum_2=<missing>"]);
    let test = encoded(&prepared, Split::Test);
    for (row, &id) in test.sample_ids.iter().enumerate() {
        let x = |i: u64| (i * 3 % 11) as f32;
        assert_eq!(test.features[row * 2], x(id - 2) + x(id - 4), "row {id}");
    }
    let raw = prepared.table(Split::Test, 0..1).expect("a table");
    let names: Vec<String> = raw.batch().schema_ref().fields().iter().map(|field| field.name().clone()).collect();
    assert_eq!(names, ["within.sample_id", "x_sum_2", "within.target"]);
    let error = Encoder::new(&manifest).expect("fits").encode(&raw.batch().project(&[0, 2]).expect("columns"));
    let message = error.expect_err("no history").to_string();
    assert!(
        message.contains("\"x_sum_2\"") && message.contains("rolling") && message.contains("earlier rows"),
        "{message}"
    );
}

#[test]
fn smaller_types_hold_the_same_values() {
    let content = table("flag,count,big,half,third,text,y", 200, |i| {
        format!(
            "{},{},{},{}.5,{},{},{i}",
            i % 2,
            i * 100,
            i * 1_000_000,
            i,
            1.0 / (3.0 + i as f64),
            ["same words", "others"][i % 2]
        )
    });
    let of = |downcast, dictionary| {
        prepare(&content, Task::Regression, |plan| {
            plan.columns.insert("text".into(), column(ColumnType::Text));
            plan.storage.downcast = downcast;
            plan.storage.dictionary = dictionary;
        })
    };
    let plain = of(Downcast::None, false);
    assert_eq!(manifest(&plain).storage, None);
    let small = of(Downcast::Lossless, true);
    let report = manifest(&small).storage.expect("a report");
    let stored: Vec<Stored> = report.columns.iter().map(|column| column.stored).collect();
    use Stored::{Dictionary, Float32, Float64, Int8, Int16, Int32};
    assert_eq!(stored, [Int8, Int16, Int32, Float32, Float64, Dictionary]);
    assert_eq!(report.bytes_before - report.bytes_after, report.bytes_saved);
    assert!(report.bytes_saved > 200 * (7 + 6 + 4 + 4), "{report:?}");
    let table = |prepared: &Prepared| prepared.table(Split::Train, 0..prepared.rows(Split::Train)).expect("a table");
    let bytes = write_shard_as(&table(&small), small.stored_types()).expect("writes");
    assert!(bytes.len() + 3_000 < write_shard(&table(&plain)).expect("writes").len());
    assert_eq!(frame::read_shard(&bytes).expect("reads"), table(&plain));
    let rounded = of(Downcast::F32, false);
    assert_eq!(rounded.stored_types()["third"], Float32);
    let bytes = write_shard_as(&table(&rounded), rounded.stored_types()).expect("writes");
    let read = frame::read_shard(&bytes).expect("reads");
    let third = read.batch().column_by_name("third").expect("a column");
    assert_eq!((third.data_type().to_string(), third.null_count()), ("Float64".to_owned(), 0));
}

#[test]
fn texts_are_cleaned_before_they_become_tokens() {
    let content = table("text,y", 30, |i| format!("<b>CAFÉ</b>  number{} http://x.y/{i},{i}", i % 2));
    let of = |clean: Vec<TextCleaning>| {
        let prepared = prepare(&content, Task::Regression, |plan| {
            plan.columns.insert("text".into(), column(ColumnType::Text));
            plan.text.min_frequency = 1;
            plan.text.clean = clean.clone();
        });
        let tokens = encoded(&prepared, Split::Test).inputs.tokens.expect("tokens");
        (manifest(&prepared), tokens)
    };
    use TextCleaning::{CollapseBlanks, Lower, RemoveHtml, RemoveUrls, StripAccents};
    let (manifest, tokens) = of(vec![RemoveHtml, RemoveUrls, Lower, StripAccents, CollapseBlanks]);
    // Two words and the class token; nothing of train is unknown in test.
    assert_eq!(tokens.row(0).len(), 3);
    let raw = StringArray::from(vec!["cafe NUMBER1"]);
    let batch = RecordBatch::try_from_iter([("text", std::sync::Arc::new(raw) as ArrayRef)]).expect("a batch");
    let served = Encoder::new(&manifest).expect("fits").encode(&batch).expect("encodes");
    let served = served.inputs.tokens.expect("tokens").row(0).to_vec();
    assert!((0..tokens.rows()).any(|row| tokens.row(row) == served), "{served:?}");
    assert!(of(vec![]).1.row(0).len() > 3);
}

#[test]
fn names_that_do_not_fit_are_told() {
    let content = table("a,b,y", 20, |i| format!("{i},{},{i}", i * i));
    let error = |step: DeriveStep| {
        try_prepare(&content, Task::Regression, |plan| plan.derive = vec![step.clone()]).expect_err("refused").message
    };
    let ratio = |name: &str, numerator: &str| DeriveStep::Ratio {
        name: name.into(),
        numerator: numerator.into(),
        denominator: "b".into(),
        zero: None,
        flag: false,
    };
    assert!(
        error(ratio("c", "aa")).contains("no such column, named by data.derive (did you mean"),
        "{}",
        error(ratio("c", "aa"))
    );
    assert!(error(ratio("b", "a")).contains("is made by a step of data.derive too"));
    assert!(error(ratio("c", "y")).contains("is the target"));
}
