//! The shared data sets as their files stand, with the options that their traps need.

use std::path::PathBuf;

use frame::Manifest;
use messages::feed::Split;
use messages::plan::{ColumnType, DataPlan, Task};
use messages::rpc::SpecFormat;
use messages::spec::{self, PlanDefaults, SpecInput, resolve_base};
use tokio_util::sync::CancellationToken;
use within_data_loader::prepare::{Prepared, prepare};

use crate::plan::{column, data_plan, encoded, manifest};

/// The folder of the data sets, or none: then the test says that it is skipped.
pub fn data() -> Option<PathBuf> {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data");
    let folder = PathBuf::from(std::env::var("WITHIN_DATA").unwrap_or_else(|_| default.to_owned()));
    if folder.is_dir() {
        return Some(folder);
    }
    println!("skipped: no data sets at {}; set WITHIN_DATA", folder.display());
    None
}

fn prepared(plan: &DataPlan, task: Task) -> Option<Prepared> {
    Some(prepare(plan, task, &[data()?], &CancellationToken::new()).expect("the data are good"))
}

fn rows(prepared: &Prepared) -> [usize; 3] {
    Split::ALL.map(|split| prepared.rows(split))
}

#[test]
fn kag_conversion() {
    let mut plan = data_plan(&["kag_conversion/KAG_conversion_data.csv"], "Approved_Conversion");
    plan.exclude = vec!["ad_id".into(), "Total_Conversion".into()];
    for name in ["xyz_campaign_id", "fb_campaign_id", "interest"] {
        plan.columns.insert(name.into(), column(ColumnType::Category));
    }
    plan.target.threshold = Some(0.0);
    let Some(prepared) = prepared(&plan, Task::BinaryClassification) else { return };
    assert_eq!(rows(&prepared), [731, 183, 229]);
    let manifest = manifest(&prepared);
    let positives: u64 = manifest.parts.iter().map(|part| part.class_counts[1]).sum();
    assert_eq!(manifest.target.classes, ["<= 0", "> 0"]);
    assert_eq!(positives, 584);
}

#[test]
fn bank_marketing() {
    let mut plan = data_plan(&["bank_marketing/bank-additional-full.csv"], "y");
    plan.csv.delimiter = ";".into();
    plan.csv.null_values = vec!["unknown".into()];
    plan.exclude = vec!["duration".into()];
    let Some(prepared) = prepared(&plan, Task::BinaryClassification) else { return };
    assert_eq!(rows(&prepared).iter().sum::<usize>(), 41_188);
    let manifest = manifest(&prepared);
    assert_eq!(manifest.target.classes, ["no", "yes"]);
    assert_eq!(manifest.parts.iter().map(|part| part.class_counts[1]).sum::<u64>(), 4_640);
    assert!(encoded(&prepared, Split::Train).features.iter().all(|value| value.is_finite()));
}

#[test]
fn adult() {
    let mut plan = data_plan(&["adult/adult.data"], "outcome");
    plan.test_path = vec!["adult/adult.test".into()];
    plan.csv.trim = true;
    plan.csv.null_values = vec!["?".into()];
    plan.target.strip_suffix = ".".into();
    plan.exclude = vec!["fnlwgt".into()];
    let Some(prepared) = prepared(&plan, Task::BinaryClassification) else { return };
    assert_eq!(rows(&prepared), [26_048, 6_513, 16_281]);
    let manifest = manifest(&prepared);
    let positives: Vec<u64> = manifest.parts.iter().map(|part| part.class_counts[1]).collect();
    assert_eq!((positives[0] + positives[1], positives[2]), (7_841, 3_846));
    let missing = manifest
        .columns
        .iter()
        .find(|c| c.name == "occupation")
        .and_then(|c| c.statistics.clone())
        .expect("statistics")
        .missing;
    assert!((1_400..1_550).contains(&missing), "{missing} of about 0.8 x 1843");

    plan.target.strip_suffix = String::new();
    let error = prepare(&plan, Task::BinaryClassification, &[data().expect("there")], &CancellationToken::new())
        .expect_err("dots");
    assert!(error.hint.expect("a hint").contains("strip_suffix"));
}

#[test]
fn california_housing() {
    let plan = data_plan(&["california_housing/housing.csv"], "median_house_value");
    let Some(prepared) = prepared(&plan, Task::Regression) else { return };
    assert_eq!(rows(&prepared), [13_209, 3_303, 4_128]);
    let manifest = manifest(&prepared);
    assert!(manifest.feature_names.contains(&"total_bedrooms=<missing>".to_owned()));
    assert!(manifest.feature_names.contains(&"ocean_proximity=NEAR BAY".to_owned()));
    let missing: usize = Split::ALL
        .iter()
        .map(|&split| {
            let part = encoded(&prepared, split);
            let at = manifest.feature_names.iter().position(|name| name == "total_bedrooms=<missing>").expect("there");
            part.features.chunks(part.width).filter(|row| row[at] == 1.0).count()
        })
        .sum();
    assert_eq!(missing, 207);
}

/// The job of `deploy/jobs`, prepared; none where the data are missing.
fn job(name: &str) -> Option<(Prepared, Manifest)> {
    let text = std::fs::read_to_string(format!("{}/../../deploy/jobs/{name}.yaml", env!("CARGO_MANIFEST_DIR")));
    let input = SpecInput { file: Some(name), text: &text.expect("a job"), format: SpecFormat::Yaml };
    let mut none = |_: &str, _: Option<&str>| Err("has no base".to_owned());
    let plan = resolve_base(&input, &mut none).and_then(|tree| spec::plan(&tree, &[], &PlanDefaults::default()));
    let plan = plan.expect("is accepted");
    let found = prepare(&plan.data, plan.task, &[data()?], &CancellationToken::new());
    let prepared = found.unwrap_or_else(|error| panic!("{name}: {error}"));
    let manifest = manifest(&prepared);
    assert!(encoded(&prepared, Split::Train).features.iter().all(|value| value.is_finite()), "{name}");
    Some((prepared, manifest))
}

fn total(prepared: &Prepared) -> usize {
    rows(prepared).iter().sum()
}

/// Type and missing values of a column, over all rows.
fn read_as<'a>(manifest: &'a Manifest, column: &str) -> (&'a str, u64) {
    let found = manifest.inference.iter().find(|found| found.column == column);
    found.map(|found| (found.r#type.as_str(), found.missing)).expect("is read")
}

#[test]
fn online_ads_daily() {
    let Some((prepared, manifest)) = job("online_ads_daily") else { return };
    assert_eq!(total(&prepared), 10_974);
    assert_eq!(read_as(&manifest, "placement"), ("category", 287));
    assert_eq!(read_as(&manifest, "clicks"), ("number", 0));
    // CR LF is no part of the last column's name, nor of its values.
    assert_eq!(manifest.columns.last().map(|column| column.name.as_str()), Some("post_click_sales_amount"));
    assert!(manifest.feature_names.contains(&"banner=160 x 600".to_owned()));
}

#[test]
fn open_bandit() {
    let Some((prepared, manifest)) = job("open_bandit") else { return };
    assert_eq!(total(&prepared), 60_000);
    assert_eq!(manifest.parts.iter().map(|part| part.class_counts[1]).sum::<u64>(), 287);
    // Hashes, some of which are digits alone, or 0409e701.
    for column in ["user_feature_3", "item_feature_1", "item_feature_2", "item_feature_3"] {
        assert_eq!(read_as(&manifest, column), ("category", 0), "{column}");
    }
    assert_eq!(read_as(&manifest, "item_feature_0").0, "number");
}

#[test]
fn criteo_sample() {
    let Some((prepared, manifest)) = job("criteo_sample") else { return };
    assert_eq!(total(&prepared), 200);
    assert_eq!(manifest.parts.iter().map(|part| part.class_counts[1]).sum::<u64>(), 49);
    assert_eq!(read_as(&manifest, "C22"), ("category", 159));
    assert_eq!(read_as(&manifest, "I12"), ("number", 157));
}

#[test]
fn avazu() {
    let Some((prepared, manifest)) = job("avazu") else { return };
    assert_eq!(total(&prepared), 100);
    let mut ids: Vec<u64> = Split::ALL.iter().flat_map(|&split| encoded(&prepared, split).sample_ids).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 100);
    assert!(ids.contains(&within_data_loader::load::id_of("10015745448500295401")));
    assert_eq!(read_as(&manifest, "hour"), ("datetime", 0));
    let hour = manifest.columns.iter().find(|column| column.name == "hour").and_then(|c| c.statistics.clone());
    // 2014-10-21 00:00 UTC.
    assert_eq!(hour.expect("numbers").min, Some(1_413_849_600.0));
    assert_eq!(manifest.parts.iter().map(|part| part.class_counts[1]).sum::<u64>(), 20);
}

#[test]
fn meridian_geo() {
    let Some((prepared, manifest)) = job("meridian_geo") else { return };
    assert_eq!(total(&prepared), 6_240);
    assert_eq!(manifest.columns[0].name, "column_1");
    assert_eq!(read_as(&manifest, "time"), ("category", 0));
    assert_eq!(manifest.feature_names.iter().filter(|name| name.starts_with("geo=")).count(), 40);
}

#[test]
fn nab_ad_exchange() {
    let Some((prepared, manifest)) = job("nab_ad_exchange") else { return };
    let files: Vec<&str> = manifest.sources.iter().map(|source| source.path.as_str()).collect();
    assert!(files.is_sorted() && files.iter().all(|file| file.starts_with("nab/data/realAdExchange/exchange-")));
    assert_eq!(total(&prepared) as u64, manifest.sources.iter().map(|source| source.rows).sum::<u64>());
    assert_eq!(read_as(&manifest, "timestamp"), ("datetime", 0));
    let time = manifest.columns[0].statistics.clone().expect("numbers");
    assert!(time.min.is_some_and(|first| (1_309_478_000.0..1_309_565_000.0).contains(&first)), "{time:?}");
}
