//! Which step follows from which setting. A setting that is new shows here: does each of these steps depend on it?

use std::collections::BTreeMap;

use expect_test::expect;
use messages::plan::{
    CacheMode, CategoryEncoding, ColumnSourcePlan, ColumnType, DataFormat, DataPlan, Impute, Scale, SplitStrategy,
    TargetTransform, Task, TextEncoding, TokenizerType,
};
use proptest::prelude::*;
use within_data_loader::cache::settings::settings_of;
use within_data_loader::cache::{Recipe, Step};

use crate::plan::{column, data_plan};

/// A plan that has everything somewhere.
fn full() -> DataPlan {
    let mut plan = data_plan(&["a.csv"], "y");
    let mut age = column(ColumnType::Number);
    age.impute = Some(Impute::Median);
    age.scale = Some(Scale::MinMax);
    age.images = Some("i.idx".into());
    let (date_format, time_zone) = (Some("%Y".into()), Some("Europe/Berlin".into()));
    age.source = ColumnSourcePlan { size: Some(vec![2, 2]), channels: 1, date_format, time_zone };
    plan.columns.insert("emp.age".into(), age);
    plan.csv.encoding = TextEncoding::Utf16;
    plan.target.threshold = Some(0.5);
    plan.id_column = Some("id".into());
    plan.weight_column = Some("w".into());
    plan.text.pretrained = Some("bert".into());
    plan.sequence.group_column = Some("g".into());
    plan.sequence.order_column = Some("o".into());
    plan.split.stratify_column = Some("s".into());
    plan.split.group_column = Some("g".into());
    plan.split.time_column = Some("t".into());
    plan
}

fn keys(plan: &DataPlan, task: Task) -> BTreeMap<Step, String> {
    let mut keys = BTreeMap::new();
    for step in Step::ALL {
        let before = step.needs().iter().map(|step: &Step| (step.as_str().to_owned(), String::clone(&keys[step])));
        let recipe = Recipe {
            step: step.as_str().into(),
            version: step.version(),
            inputs: before.collect(),
            settings: settings_of(step, plan, task),
        };
        keys.insert(step, recipe.key().to_string());
    }
    keys
}

/// The steps of their own that a setting reaches; what comes after them follows anyway.
#[test]
fn each_setting_reaches_the_steps_that_follow_from_it() {
    let plan = full();
    let mut steps: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for step in Step::ALL {
        for path in settings_of(step, &plan, Task::Regression).into_keys() {
            steps.entry(path).or_default().push(step.as_str());
        }
    }
    let lines: Vec<String> = steps.into_iter().map(|(path, steps)| format!("{path}: {}", steps.join(" "))).collect();
    expect![[r"
        data.columns.emp\.age.images: read split fit shards prepare
        data.columns.emp\.age.impute: fit prepare
        data.columns.emp\.age.impute is refuse: read
        data.columns.emp\.age.null_values: read split fit shards prepare
        data.columns.emp\.age.scale: fit prepare
        data.columns.emp\.age.type: read split fit shards prepare
        data.csv.comment: read split fit shards prepare
        data.csv.decimal: read split fit shards prepare
        data.csv.delimiter: read split fit shards prepare
        data.csv.header: read split fit shards prepare
        data.csv.null_values: read split fit shards prepare
        data.csv.quote: read split fit shards prepare
        data.csv.trim: read split fit shards prepare
        data.dataset_version: prepare
        data.exclude: read split fit shards prepare
        data.format: read split fit shards prepare
        data.id_column: read split fit shards prepare
        data.include: read split fit shards prepare
        data.preprocessing.categories: fit prepare
        data.preprocessing.clip: fit prepare
        data.preprocessing.impute: fit prepare
        data.preprocessing.impute is refuse: read
        data.preprocessing.max_categories: fit prepare
        data.preprocessing.min_frequency: fit prepare
        data.preprocessing.missing_indicator: fit prepare
        data.preprocessing.scale: fit prepare
        data.sequence.group_column: read split fit shards prepare
        data.sequence.order_column: read split fit shards prepare
        data.split.group_column: read split fit shards prepare
        data.split.random_state: split fit shards prepare
        data.split.strategy: read split fit shards prepare
        data.split.stratify_column: read split fit shards prepare
        data.split.test_size: split fit shards prepare
        data.split.time_column: read split fit shards prepare
        data.split.val_size: split fit shards prepare
        data.target.column: read split fit shards prepare
        data.target.positive: split fit shards prepare
        data.target.strip_suffix: split fit shards prepare
        data.target.threshold: read split fit shards prepare
        data.target.transform: fit prepare
        data.text.max_length: fit prepare
        data.text.min_frequency: fit prepare
        data.text.pretrained: fit prepare
        data.text.tokenizer: fit prepare
        data.text.vocab_size: fit prepare
        data.weight_column: read split fit shards prepare
        task: read split fit shards prepare"]]
    .assert_eq(&lines.join("\n"));
}

type Change = (&'static str, fn(&mut DataPlan), &'static [&'static str]);

const ALL: &[&str] = &["read", "split", "fit", "shards", "prepare"];
const FROM_SPLIT: &[&str] = &["split", "fit", "shards", "prepare"];
const FROM_FIT: &[&str] = &["fit", "prepare"];

/// Changes of a plan, and the steps that are another step's then.
const CHANGES: &[Change] = &[
    ("shuffle", |p| p.shuffle = !p.shuffle, &[]),
    ("shuffle_seed", |p| p.shuffle_seed += 1, &[]),
    ("drop_last", |p| p.drop_last = !p.drop_last, &[]),
    ("cache", |p| p.cache = CacheMode::Refresh, &[]),
    ("dataset_version", |p| p.dataset_version.push('x'), &["prepare"]),
    ("format", |p| p.format = DataFormat::Csv, ALL),
    ("csv.delimiter", |p| p.csv.delimiter = ";".into(), ALL),
    ("csv.null_values", |p| p.csv.null_values.push("?".into()), ALL),
    ("csv.trim", |p| p.csv.trim = !p.csv.trim, ALL),
    ("target.column", |p| p.target.column.push('x'), ALL),
    ("target.threshold", |p| p.target.threshold = Some(1.5), ALL),
    ("target.positive", |p| p.target.positive.push('x'), FROM_SPLIT),
    ("target.transform", |p| p.target.transform = TargetTransform::Log1p, FROM_FIT),
    ("id_column", |p| p.id_column = Some("other".into()), ALL),
    ("exclude", |p| p.exclude.push("c".into()), ALL),
    ("columns.type", |p| p.columns.get_mut("emp.age").expect("is there").r#type = ColumnType::Category, ALL),
    ("columns.scale", |p| p.columns.get_mut("emp.age").expect("is there").scale = Some(Scale::None), FROM_FIT),
    ("columns.impute", |p| p.columns.get_mut("emp.age").expect("is there").impute = Some(Impute::Zero), FROM_FIT),
    // Whether a missing value is refused is seen when the files are read.
    ("columns.impute refuse", |p| p.columns.get_mut("emp.age").expect("is there").impute = Some(Impute::Refuse), ALL),
    ("preprocessing.impute", |p| p.preprocessing.impute = Impute::Zero, FROM_FIT),
    ("preprocessing.impute refuse", |p| p.preprocessing.impute = Impute::Refuse, ALL),
    ("preprocessing.scale", |p| p.preprocessing.scale = Scale::MinMax, FROM_FIT),
    ("preprocessing.categories", |p| p.preprocessing.categories = CategoryEncoding::Embedding, FROM_FIT),
    ("text.tokenizer", |p| p.text.tokenizer = TokenizerType::Hashing, FROM_FIT),
    ("sequence.order_column", |p| p.sequence.order_column = None, ALL),
    ("split.strategy", |p| p.split.strategy = SplitStrategy::Time, ALL),
    ("split.val_size", |p| p.split.val_size = 0.3, FROM_SPLIT),
    ("split.random_state", |p| p.split.random_state += 1, FROM_SPLIT),
];

#[test]
fn a_changed_setting_changes_the_keys_of_what_depends_on_it_and_no_others() {
    let plan = full();
    let before = keys(&plan, Task::Regression);
    for (name, change, expected) in CHANGES {
        let mut changed = plan.clone();
        change(&mut changed);
        assert_ne!(changed, plan, "{name} changes nothing");
        let after = keys(&changed, Task::Regression);
        let differ: Vec<&str> =
            Step::ALL.into_iter().filter(|step| before[step] != after[step]).map(Step::as_str).collect();
        assert_eq!(&differ[..], *expected, "{name}");
    }
    let other_task = keys(&plan, Task::BinaryClassification);
    assert!(Step::ALL.iter().all(|step| other_task[step] != before[step]));
}

proptest! {
    /// Whatever is changed, and in whichever order: keys are equal exactly where the settings are that count.
    #[test]
    fn keys_follow_from_the_settings_alone(first in changes(), second in changes()) {
        let of = |changes: &[usize]| {
            let mut plan = full();
            for &index in changes {
                (CHANGES[index].1)(&mut plan);
            }
            plan
        };
        let (one, two) = (of(&first), of(&second));
        let (keys_one, keys_two) = (keys(&one, Task::Regression), keys(&two, Task::Regression));
        let json = |plan: &DataPlan| serde_json::to_value(plan).expect("JSON");
        let reread: DataPlan = serde_json::from_value(json(&one)).expect("a plan");
        prop_assert_eq!(&keys(&reread, Task::Regression), &keys_one);
        for step in Step::ALL {
            let same = Step::ALL.into_iter().take_while(|s| *s <= step)
                .filter(|s| *s == step || reaches(*s, step))
                .all(|s| settings_of(s, &one, Task::Regression) == settings_of(s, &two, Task::Regression));
            prop_assert_eq!(keys_one[&step] == keys_two[&step], same, "{:?}", step);
        }
    }
}

fn changes() -> impl Strategy<Value = Vec<usize>> {
    proptest::collection::vec(0..CHANGES.len(), 0..6)
}

/// Whether the outcome of `from` is part of what `to` follows from.
fn reaches(from: Step, to: Step) -> bool {
    to.needs().iter().any(|step| *step == from || reaches(from, *step))
}
