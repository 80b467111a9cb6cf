//! Every file in `deploy/jobs` is what it says: a job that runs, or one that says what it waits for.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use expect_test::expect;
use within_messages::plan::{JobPlan, Task};
use within_messages::rpc::SpecFormat;
use within_messages::spec::{PlanDefaults, SpecError, SpecInput, plan, resolve_base};

use crate::spec::lines;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/jobs")
}

fn planned(name: &str) -> Result<JobPlan, Vec<SpecError>> {
    let text = fs::read_to_string(folder().join(name)).expect("the file is there");
    let input = SpecInput { file: Some(name), text: &text, format: SpecFormat::Yaml };
    let mut load = |path: &str, _: Option<&str>| fs::read_to_string(folder().join(path)).map_err(|e| e.to_string());
    resolve_base(&input, &mut load).and_then(|tree| plan(&tree, &[], &PlanDefaults::default()))
}

#[test]
fn all_are_accepted_but_the_one_that_waits() {
    let mut answers = BTreeMap::new();
    for entry in fs::read_dir(folder()).expect("a folder") {
        let name = entry.expect("an entry").file_name().into_string().expect("a plain name");
        if name == "deterministic_config.yaml" {
            continue; // a base, not a job
        }
        let answer = match planned(&name) {
            Ok(plan) => {
                format!("{} on {}, {} warnings\n", plan.task.as_str(), plan.data.path.join(", "), plan.warnings.len())
            }
            Err(errors) => lines(&errors),
        };
        answers.insert(name, answer);
    }
    let text: String = answers.iter().map(|(name, answer)| format!("== {name}\n{answer}")).collect();
    expect![[r#"
        == ad_score_predictor.yaml
        regression on multimodal_ads/ads.csv, 0 warnings
        == ad_score_pretrained.yaml
        regression on multimodal_ads/ads.csv, 0 warnings
        == adult.yaml
        binary_classification on adult/adult.data, 0 warnings
        == avazu.yaml
        binary_classification on criteo_sample/avazu_sample.txt, 0 warnings
        == bank_marketing.yaml
        binary_classification on bank_marketing/bank-additional-full.csv, 0 warnings
        == california_housing.yaml
        regression on california_housing/housing.csv, 0 warnings
        == clickbait_headlines.yaml
        binary_classification on clickbait_headlines.csv, 0 warnings
        == criteo_sample.yaml
        binary_classification on criteo_sample/criteo_sample.txt, 0 warnings
        == deterministic.yaml
        regression on ads.csv, 11 warnings
        == fashion_mnist.yaml
        multiclass on fashion_mnist.csv, 0 warnings
        == kag_conversion.yaml
        binary_classification on kag_conversion/KAG_conversion_data.csv, 0 warnings
        == meridian_geo.yaml
        regression on meridian_geo/geo_all_channels.csv, 0 warnings
        == nab_ad_exchange.yaml
        regression on nab/data/realAdExchange/*.csv, 0 warnings
        == online_ads_daily.yaml
        regression on online_ads_daily/april_may.csv, 0 warnings
        == open_bandit.yaml
        binary_classification on open_bandit/obd_60k.csv.gz, 0 warnings
        == quickstart.yaml
        regression on ads.csv, 0 warnings
    "#]]
    .assert_eq(&text);
}

#[test]
fn leaks_and_identifiers_are_no_features() {
    for (name, columns) in [
        ("bank_marketing.yaml", vec!["duration"]),
        ("kag_conversion.yaml", vec!["Total_Conversion", "fb_campaign_id"]),
        ("adult.yaml", vec!["fnlwgt"]),
    ] {
        let plan = planned(name).expect("is accepted");
        for column in columns {
            assert!(plan.data.exclude.iter().any(|excluded| excluded == column), "{name}: {column}");
        }
    }
    for name in ["kag_conversion.yaml", "quickstart.yaml", "deterministic.yaml"] {
        assert_eq!(planned(name).expect("is accepted").data.id_column.as_deref(), Some("ad_id"), "{name}");
    }
}

#[test]
fn adult_follows_the_official_split() {
    let plan = planned("adult.yaml").expect("is accepted");
    assert_eq!(plan.task, Task::BinaryClassification);
    assert_eq!(plan.data.test_path, ["adult/adult.test"]);
    assert_eq!((plan.data.target.positive.as_str(), plan.data.target.strip_suffix.as_str()), (">50K", "."));
    assert!(plan.data.csv.trim);
}

#[test]
fn the_base_is_the_specification_s_own_file() {
    let ours = fs::read_to_string(folder().join("deterministic_config.yaml")).expect("the file is there");
    assert_eq!(ours, include_str!("spec/deterministic_config.yaml"));
}
