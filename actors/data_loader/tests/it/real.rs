//! The shared data sets as their files stand, with the options that their traps need.

use std::path::PathBuf;

use messages::feed::Split;
use messages::plan::{ColumnType, DataPlan, Task};
use tokio_util::sync::CancellationToken;
use within_data_loader::prepare::{Prepared, prepare};

use crate::plan::{column, data_plan, encoded, manifest};

/// The folder of the data sets, or none: then the test says that it is skipped.
fn data() -> Option<PathBuf> {
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
