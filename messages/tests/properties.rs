//! Whatever comes in, an answer comes out: no panic, no unbounded work, no plan that is not sound.

use proptest::prelude::*;
use within_messages::plan::JobPlan;
use within_messages::rpc::{SpecDocument, SpecFormat};
use within_messages::spec::{PlanDefaults, SpecInput, parse_document, plan, resolve_base};

fn answer(text: &str, format: SpecFormat, set: &[String]) -> Option<JobPlan> {
    let input = SpecInput { file: Some("job.yaml"), text, format };
    let tree = resolve_base(&input, &mut |_, _| Err("no files here".into()))
        .inspect_err(|errors| assert!(!errors.is_empty()))
        .ok()?;
    plan(&tree, set, &PlanDefaults::default()).inspect_err(|errors| assert!(!errors.is_empty())).ok()
}

fn scalar() -> impl Strategy<Value = serde_json::Value> {
    prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<f64>().prop_map(Into::into),
        prop_oneof![
            Just("mlp".to_owned()),
            Just("val_loss".to_owned()),
            Just("regression".to_owned()),
            Just("a.csv".to_owned()),
            ".{0,12}"
        ]
        .prop_map(Into::into),
    ]
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        8 => prop::sample::select(vec![
            "data", "model", "training", "evaluation", "tracking", "task", "seed", "name", "target", "path", "columns", "split",
            "optimizer", "scheduler", "type", "early_stopping", "epochs", "metrics", "tags", "overrides", "kind", "param_space",
            "experiment", "environment", "notifications", "webhooks", "resources", "metadata", "regression", "base_config",
            "training.epochs", "data.columns.a.b.type", "initialization", "checkpoint", "hidden_layers", "batch_order",
        ]).prop_map(str::to_owned),
        1 => "[a-zA-Z_.*~-]{0,10}",
    ]
}

fn tree() -> impl Strategy<Value = serde_json::Value> {
    scalar().prop_recursive(5, 64, 6, |inner| {
        prop_oneof![
            1 => prop::collection::vec(inner.clone(), 0..4).prop_map(serde_json::Value::from),
            4 => prop::collection::btree_map(name(), inner, 0..6).prop_map(|map| map.into_iter().collect()),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_answered(text in "\\PC{0,200}", set in prop::collection::vec(".{0,30}", 0..3)) {
        answer(&text, SpecFormat::Yaml, &set);
        answer(&text, SpecFormat::Json, &set);
    }

    #[test]
    fn any_text_with_the_signs_of_yaml_is_answered(text in "[a-c:{}\\[\\]\\-,&*!|>'\"#%@ \t\n0-9.]{0,120}") {
        answer(&text, SpecFormat::Yaml, &[]);
        answer(&text, SpecFormat::Json, &[]);
    }

    #[test]
    fn any_object_is_answered_alike_as_object_json_and_yaml(value in tree()) {
        let Some(object) = value.as_object().cloned() else { return Ok(()) };
        let text = serde_json::to_string_pretty(&value).expect("serializes");
        let from_text = answer(&text, SpecFormat::Json, &[]);
        let from_object = parse_document(&SpecDocument::Object(object))
            .ok()
            .and_then(|tree| plan(&tree, &[], &PlanDefaults { name: Some("job") }).ok());
        prop_assert_eq!(
            from_text.as_ref().map(JobPlan::content_blake3),
            from_object.as_ref().map(JobPlan::content_blake3)
        );
    }

    #[test]
    fn every_plan_reads_back(epochs in -3_i64..5, rate in -0.1_f64..1.0, dropout in -0.5_f64..1.5, layers in prop::collection::vec(-1_i64..9, 0..4)) {
        let text = serde_json::json!({
            "task": "regression", "data": {"path": "a.csv", "target": "y"},
            "training": {"epochs": epochs, "learning_rate": rate}, "model": {"dropout": dropout, "hidden_layers": layers},
        }).to_string();
        let sound = epochs >= 1 && rate > 0.0 && (0.0..1.0).contains(&dropout) && layers.iter().all(|width| *width >= 1);
        let plan = answer(&text, SpecFormat::Json, &[]);
        prop_assert_eq!(plan.is_some(), sound);
        if let Some(plan) = plan {
            let json = serde_json::to_vec(&plan).expect("serializes");
            prop_assert_eq!(&serde_json::from_slice::<JobPlan>(&json).expect("parses"), &plan);
            let packed = rmp_serde::to_vec_named(&plan).expect("packs");
            prop_assert_eq!(&rmp_serde::from_slice::<JobPlan>(&packed).expect("unpacks"), &plan);
        }
    }
}
