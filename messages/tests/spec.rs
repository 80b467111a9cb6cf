//! The specification's own YAML files, as they stand, and what each is answered.

use expect_test::{Expect, expect};
use within_messages::plan::{JobPlan, Origin};
use within_messages::rpc::{SpecDocument, SpecFormat};
use within_messages::spec::{PlanDefaults, SpecError, SpecInput, SpecTree, parse_document, plan, resolve_base};

/// The text of a specification file, or of one that we wrote ourselves.
fn load(path: &str) -> Result<String, String> {
    let name = path.rsplit('/').next().unwrap_or(path);
    let folder = if name == "ad_score_predictor.yaml" { "../deploy/jobs" } else { "tests/spec" };
    std::fs::read_to_string(format!("{}/{folder}/{name}", env!("CARGO_MANIFEST_DIR"))).map_err(|e| e.to_string())
}

fn tree(file: &str, text: &str) -> Result<SpecTree, Vec<SpecError>> {
    let input = SpecInput { file: Some(file), text, format: SpecFormat::Yaml };
    resolve_base(&input, &mut |path, _| load(path))
}

fn planned(text: &str, set: &[&str]) -> Result<JobPlan, Vec<SpecError>> {
    let set: Vec<_> = set.iter().map(ToString::to_string).collect();
    plan(&tree("job.yaml", text)?, &set, &PlanDefaults::default())
}

pub fn lines(errors: &[SpecError]) -> String {
    errors.iter().map(|error| format!("{error}\n")).collect()
}

/// What a specification file alone is answered.
fn check(name: &str, expected: Expect) {
    let text = load(name).expect("the file is there");
    let answer = match tree(name, &text).and_then(|tree| plan(&tree, &[], &PlanDefaults::default())) {
        Ok(plan) => format!("accepted\n{}", plan.warnings.join("\n")),
        Err(errors) => lines(&errors),
    };
    expected.assert_eq(&answer);
}

#[test]
fn sweep() {
    check("ad_score_sweep.yaml", expect![[]]);
}

#[test]
fn evaluation() {
    check("kfold_evaluation.yaml", expect![[]]);
}

#[test]
fn experiment() {
    check("ad_score_experiment.yaml", expect![[]]);
}

#[test]
fn gates() {
    check("production_quality_gates.yaml", expect![[]]);
}

#[test]
fn transformer() {
    check("transformer_classifier.yaml", expect![[]]);
}

#[test]
fn deterministic_alone_lacks_only_what_it_does_not_speak_of() {
    check("deterministic_config.yaml", expect![[]]);
}

const ON_DETERMINISTIC: &str = "\
base_config: configs/deterministic_config.yaml
task: regression
data:
  path: ads.csv
  target: ad_score
training:
  optimizer:
    weight_decay: 0.05
overrides:
  training.epochs: 7
";

/// Paths whose value was written, with value and origin.
fn written(plan: &JobPlan) -> String {
    let value = serde_json::to_value(plan).expect("serializes");
    let mut out = String::new();
    for (path, origin) in plan.origins.iter().filter(|(_, origin)| **origin != Origin::Default) {
        let found = path.split('.').fold(&value, |value, segment| &value[segment]);
        out.push_str(&match origin {
            Origin::BaseConfig { file, line } => format!("{path} = {found} (base_config {file}:{line})\n"),
            Origin::File { file, line } => format!("{path} = {found} (file {file}:{line})\n"),
            Origin::Override { file, line } => format!("{path} = {found} (override {file}:{line})\n"),
            other => format!("{path} = {found} ({other:?})\n"),
        });
    }
    for warning in &plan.warnings {
        out.push_str(&format!("warning: {warning}\n"));
    }
    out
}

#[test]
fn deterministic_as_a_base_is_accepted_wholly() {
    let plan = planned(ON_DETERMINISTIC, &["training.log_interval=5"]).expect("is accepted");
    expect![[]].assert_eq(&written(&plan));
}

#[test]
fn deterministic_as_overrides_means_the_same() {
    let text = load("deterministic_config.yaml").expect("the file is there");
    let indented: String = text.lines().map(|line| format!("  {line}\n")).collect();
    let spec = format!("task: regression\ndata:\n  path: ads.csv\n  target: ad_score\noverrides:\n{indented}");
    let overridden = planned(&spec, &[]).expect("is accepted");
    let based = planned(
        "base_config: deterministic_config.yaml\ntask: regression\ndata: {path: ads.csv, target: ad_score}\n",
        &[],
    )
    .expect("is accepted");
    assert_eq!(overridden.content_blake3(), based.content_blake3());
    assert_eq!(overridden.warnings.len(), based.warnings.len());
    assert!(matches!(&overridden.origins["seed"], Origin::Override { file, line: 9 } if file == "job.yaml"));
}

#[test]
fn the_wire_keeps_every_line() {
    let here = tree("job.yaml", ON_DETERMINISTIC).expect("parses");
    let document = here.to_document();
    for bytes in [
        serde_json::to_vec(&document).expect("serializes"),
        serde_json::to_vec(&rmp_serde::from_slice::<SpecDocument>(&rmp_serde::to_vec_named(&document).expect("packs")).expect("unpacks")).expect("serializes"),
    ] {
        let there: SpecDocument = serde_json::from_slice(&bytes).expect("parses");
        let there = parse_document(&there).expect("is self-contained");
        let defaults = PlanDefaults::default();
        assert_eq!(plan(&there, &[], &defaults).expect("plans"), plan(&here, &[], &defaults).expect("plans"));
    }
}

#[test]
fn a_base_that_was_not_inlined_is_refused() {
    let text = ON_DETERMINISTIC.to_owned();
    let document = SpecDocument::Text { text, format: SpecFormat::Yaml, file: Some("job.yaml".into()), bases: vec![] };
    let errors = parse_document(&document).expect_err("lacks its base");
    expect![[]].assert_eq(&lines(&errors));
    let object = serde_json::json!({"base_config": "x.yaml"}).as_object().cloned().expect("an object");
    let errors = parse_document(&SpecDocument::Object(object)).expect_err("lacks its base");
    expect![[]].assert_eq(&lines(&errors));
}

#[test]
fn an_object_and_json_mean_what_yaml_means() {
    let yaml = "task: binary\ndata:\n  path: [a.csv]\n  target: {column: y, positive: \"yes\"}\nmodel: {hidden_layers: [8]}\n";
    let json = "{\n \"task\": \"binary\",\n \"data\": {\"path\": [\"a.csv\"], \"target\": {\"column\": \"y\", \"positive\": \"yes\"}},\n \"model\": {\"hidden_layers\": [8]}}";
    let from_yaml = planned(yaml, &[]).expect("plans");
    let input = SpecInput { file: Some("job.json"), text: json, format: SpecFormat::Json };
    let tree = resolve_base(&input, &mut |_, _| unreachable!()).expect("parses");
    let from_json = plan(&tree, &[], &PlanDefaults::default()).expect("plans");
    let object = serde_json::from_str(json).expect("is JSON");
    let tree = parse_document(&SpecDocument::Object(object)).expect("parses");
    let from_object = plan(&tree, &[], &PlanDefaults { name: Some("job") }).expect("plans");
    assert_eq!(from_yaml.content_blake3(), from_json.content_blake3());
    assert_eq!(from_yaml.content_blake3(), from_object.content_blake3());
    assert_eq!(from_json.origins["data.target.positive"], Origin::File { file: "job.json".into(), line: 3 });
    assert_eq!(from_object.origins["data.target.positive"], Origin::File { file: String::new(), line: 0 });
}

const SMALL: &str = "task: regression\ndata: {path: a.csv, target: y}\n";

#[test]
fn every_default_as_stated() {
    let plan = planned(SMALL, &[]).expect("plans");
    let mut value = serde_json::to_value(&plan).expect("serializes");
    value["origins"] = serde_json::Value::Null;
    expect![[]].assert_eq(&serde_json::to_string_pretty(&value).expect("serializes"));
}

#[test]
fn precedence_is_set_overrides_file_base() {
    let base = "training: {epochs: 1, batch_size: 1, log_interval: 1}\nseed: 1\noverrides: {seed: 2}\n";
    let text = format!("base_config: base.yaml\n{SMALL}training: {{epochs: 2, batch_size: 2}}\noverrides: {{training.epochs: 3}}\n");
    let input = SpecInput { file: Some("job.yaml"), text: &text, format: SpecFormat::Yaml };
    let tree = resolve_base(&input, &mut |_, _| Ok(base.to_owned())).expect("parses");
    let plan_with = |set: &[&str]| {
        let set: Vec<_> = set.iter().map(ToString::to_string).collect();
        let plan = plan(&tree, &set, &PlanDefaults::default()).expect("plans");
        (plan.training.epochs, plan.training.batch_size, plan.training.log_interval, plan.seed)
    };
    assert_eq!(plan_with(&[]), (3, 2, 1, 2));
    assert_eq!(plan_with(&["training.epochs=4", "seed=5", "data.batch_size=6", "training.epochs=7"]), (7, 6, 1, 5));
}

#[test]
fn what_a_base_leaves_over_is_dropped_with_a_warning() {
    let text = "base_config: deterministic_config.yaml\ntask: regression\ndata: {path: a.csv, target: y}\ntraining: {scheduler: constant}\n";
    let plan = planned(text, &[]).expect("plans");
    let about: Vec<_> = plan.warnings.iter().filter(|warning| warning.contains("scheduler")).cloned().collect();
    expect![[]].assert_eq(&about.join("\n"));
}

#[test]
fn a_sequential_order_without_a_word_on_shuffling_is_the_stored_one() {
    let plan = planned(&format!("{SMALL}training: {{batch_order: sequential}}\n"), &[]).expect("plans");
    assert!(!plan.data.shuffle);
    assert_eq!(plan.origins["data.shuffle"], Origin::File { file: "job.yaml".into(), line: 3 });
}

#[test]
fn aliases_of_names_and_of_values() {
    let text = "\
task: binary
data:
  path: file:///data/a.csv
  target: y
  batch_size: 16
  columns: {emp.var.rate: number, k: {type: categorical, null_values: [\"?\"]}}
  csv: {delimiter: \\t}
model:
  name: mlp
  training: {epochs: 2, learning_rate: 0.5, optimizer: sgd, early_stopping: {monitor: val_roc_auc, patience: 2}}
  evaluation: {metrics: [roc_auc, f1_score], primary_metric: roc_auc}
experiment:
  name: e
  description: d
  tags: {project: p}
  metadata: {dataset_version: 2023Q1, framework: 1.10}
tracking: {parameters: [data.batch_size, 'model.*']}
";
    let plan = planned(text, &["data.columns.emp.var.rate.scale=log1p"]).expect("plans");
    expect![[]].assert_eq(&written(&plan).replace("emp.var.rate.type = null", "emp.var.rate.type"));
    assert_eq!(plan.data.path, ["/data/a.csv"]);
    assert_eq!(plan.data.csv.delimiter, "\t");
    assert_eq!(plan.evaluation.metrics, ["auc", "f1"]);
    assert_eq!(plan.tracking.parameters, ["training.batch_size", "model.*"]);
    assert_eq!(plan.tracking.tags["framework"], "1.10");
}
