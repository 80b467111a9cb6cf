//! The specification's own YAML files, as they stand, and what each is answered.

use expect_test::{Expect, expect, expect_file};
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
    check(
        "ad_score_sweep.yaml",
        expect![[r#"
            ad_score_sweep.yaml:8: not yet supported: method: how the search proposes trials
            ad_score_sweep.yaml:8: not yet supported: kind: sweep is understood, and only kind job runs in this version
            ad_score_sweep.yaml:9: not yet supported: max_evals: the number of trials
            ad_score_sweep.yaml:10: not yet supported: objective_metric: what trials are judged by
            ad_score_sweep.yaml:11: not yet supported: direction: whether less or more is better
            ad_score_sweep.yaml:12: not yet supported: n_jobs: trials at the same time
            ad_score_sweep.yaml:14: not yet supported: param_space: 11 settings
        "#]],
    );
}

#[test]
fn evaluation() {
    check(
        "kfold_evaluation.yaml",
        expect![[r#"
        kfold_evaluation.yaml:3: not yet supported: validation_strategy: 4 settings
        kfold_evaluation.yaml:3: not yet supported: kind: evaluation is understood, and only kind job runs in this version
        kfold_evaluation.yaml:9: not yet supported: metrics: 3 settings
        kfold_evaluation.yaml:32: not yet supported: primary_metrics: 3 settings
        kfold_evaluation.yaml:37: not yet supported: generate_plots: plots
        kfold_evaluation.yaml:38: not yet supported: calibration: 3 settings
    "#]],
    );
}

#[test]
fn experiment() {
    check(
        "ad_score_experiment.yaml",
        expect![[r#"
        ad_score_experiment.yaml:3: not yet supported: kind: experiment is understood, and only kind job runs in this version
        ad_score_experiment.yaml:6: not yet supported: experiment.tracking_uri: a tracking server of the job's own; runs are recorded by the platform's tracker
        ad_score_experiment.yaml:7: not yet supported: experiment.artifact_location: an artifact store of the job's own; artifacts lie in the platform's store
        ad_score_experiment.yaml:42: not yet supported: tracking.resources: monitoring of resources
        ad_score_experiment.yaml:49: not yet supported: tracking.artifacts: a choice of the artifacts to keep
    "#]],
    );
}

#[test]
fn gates() {
    check(
        "production_quality_gates.yaml",
        expect![[r#"
        production_quality_gates.yaml:3: not yet supported: metrics: 5 settings
        production_quality_gates.yaml:3: not yet supported: kind: gates is understood, and only kind job runs in this version
        production_quality_gates.yaml:90: not yet supported: baseline_comparisons: 3 settings
        production_quality_gates.yaml:103: not yet supported: drift_detection: 3 settings
        production_quality_gates.yaml:121: not yet supported: validation_datasets: data sets of the gates
        production_quality_gates.yaml:135: not yet supported: validation: 3 settings
    "#]],
    );
}

#[test]
fn transformer() {
    check(
        "transformer_classifier.yaml",
        expect![[r#"
            transformer_classifier.yaml:4: model.name: transformer_classifier reads 1 text column, found none: declare data.columns.<name>.type: text
            transformer_classifier.yaml: task: missing: What is learnt.
            transformer_classifier.yaml: data.path: missing: Files of one table, in order, relative to a data root: names, patterns, or URLs of allowed origins.
            transformer_classifier.yaml: data.target.column: missing: The column to predict.
        "#]],
    );
}

#[test]
fn deterministic_alone_lacks_only_what_it_does_not_speak_of() {
    check(
        "deterministic_config.yaml",
        expect![[r#"
        deterministic_config.yaml:12: data.path: missing: Files of one table, in order, relative to a data root: names, patterns, or URLs of allowed origins.
        deterministic_config.yaml:12: data.target.column: missing: The column to predict.
        deterministic_config.yaml: task: missing: What is learnt.
    "#]],
    );
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
    expect![[r#"
        data.dataset_version = "2023Q1" (base_config configs/deterministic_config.yaml:13)
        data.drop_last = false (base_config configs/deterministic_config.yaml:19)
        data.path = ["ads.csv"] (file job.yaml:4)
        data.shuffle = true (base_config configs/deterministic_config.yaml:18)
        data.shuffle_seed = 42 (base_config configs/deterministic_config.yaml:14)
        data.split.random_state = 42 (base_config configs/deterministic_config.yaml:15)
        data.target.column = "ad_score" (file job.yaml:5)
        model.dropout_seed = 42 (base_config configs/deterministic_config.yaml:30)
        model.initialization.mean = 0.0 (base_config configs/deterministic_config.yaml:28)
        model.initialization.std = 0.02 (base_config configs/deterministic_config.yaml:29)
        model.initialization.type = "normal" (base_config configs/deterministic_config.yaml:27)
        model.initialization_seed = 42 (base_config configs/deterministic_config.yaml:25)
        seed = 42 (base_config configs/deterministic_config.yaml:4)
        task = "regression" (file job.yaml:2)
        training.epochs = 7 (override job.yaml:10)
        training.log_interval = 5 (Set)
        training.optimizer.beta1 = 0.9 (base_config configs/deterministic_config.yaml:37)
        training.optimizer.beta2 = 0.999 (base_config configs/deterministic_config.yaml:38)
        training.optimizer.epsilon = 1e-8 (base_config configs/deterministic_config.yaml:39)
        training.optimizer.learning_rate = 0.001 (base_config configs/deterministic_config.yaml:35)
        training.optimizer.type = "adamw" (base_config configs/deterministic_config.yaml:34)
        training.optimizer.weight_decay = 0.05 (file job.yaml:8)
        training.scheduler.T_max = 20 (base_config configs/deterministic_config.yaml:42)
        training.scheduler.eta_min = 0.00001 (base_config configs/deterministic_config.yaml:43)
        training.scheduler.type = "cosine_annealing" (base_config configs/deterministic_config.yaml:41)
        warning: data.batching.num_workers (configs/deterministic_config.yaml:20): accepted, no effect because batches are read and encoded ahead by data_loaders, under credits
        warning: data.batching.prefetch_factor (configs/deterministic_config.yaml:21): accepted, no effect because batches are read and encoded ahead by data_loaders, under credits
        warning: data.batching.worker_init_seed (configs/deterministic_config.yaml:22): accepted, no effect because no random choice depends on the process that reads
        warning: environment.benchmark (configs/deterministic_config.yaml:8): accepted, no effect because kernels are chosen by shape alone, never by timing
        warning: environment.cublas_workspace_config (configs/deterministic_config.yaml:10): accepted, no effect because cuBLAS is not used where its order of sums could change
        warning: environment.cudnn_deterministic (configs/deterministic_config.yaml:6): accepted, no effect because every kernel of this platform is deterministic, always
        warning: environment.deterministic (configs/deterministic_config.yaml:5): accepted, no effect because every kernel of this platform is deterministic, always
        warning: environment.python_hash_seed (configs/deterministic_config.yaml:9): accepted, no effect because there is no Python, and nothing depends on the order of a hash table
        warning: environment.use_deterministic_algorithms (configs/deterministic_config.yaml:7): accepted, no effect because every kernel of this platform is deterministic, always
        warning: training.batch_order (configs/deterministic_config.yaml:44): beside shuffle: true: batches follow an order that data.shuffle_seed fixes, the same in every run
        warning: data.augmentation_seed (configs/deterministic_config.yaml:16): accepted, no effect because no augmentation is asked for
    "#]].assert_eq(&written(&plan));
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
        serde_json::to_vec(
            &rmp_serde::from_slice::<SpecDocument>(&rmp_serde::to_vec_named(&document).expect("packs"))
                .expect("unpacks"),
        )
        .expect("serializes"),
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
    expect![[r#"
        job.yaml:1: base_config: "configs/deterministic_config.yaml" cannot be read: a spec on the wire must be self-contained: `within submit` inlines base_config
    "#]].assert_eq(&lines(&errors));
    let object = serde_json::json!({"base_config": "x.yaml"}).as_object().cloned().expect("an object");
    let errors = parse_document(&SpecDocument::Object(object)).expect_err("lacks its base");
    expect![[r#"
        base_config: a spec that comes as an object must be self-contained: merge the base into it
    "#]]
    .assert_eq(&lines(&errors));
}

#[test]
fn an_object_and_json_mean_what_yaml_means() {
    let yaml =
        "task: binary\ndata:\n  path: [a.csv]\n  target: {column: y, positive: \"yes\"}\nmodel: {hidden_layers: [8]}\n";
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
    expect_file!["./spec/defaults.json"].assert_eq(&serde_json::to_string_pretty(&value).expect("serializes"));
}

#[test]
fn every_scheduler_has_its_settings() {
    let mut found = String::new();
    for name in ["constant", "cosine", "linear_warmup", "warmup_cosine", "plateau", "step", "one_cycle"] {
        let plan = planned(SMALL, &[&format!("training.scheduler={name}")]).expect("plans");
        let scheduler = serde_json::to_string(&plan.training.scheduler).expect("serializes");
        found.push_str(&format!("{scheduler}\n"));
    }
    expect![[r#"
        {"type":"constant"}
        {"type":"cosine_annealing","T_max":20,"eta_min":0.0}
        {"type":"linear_warmup","warmup_steps":100,"start_factor":0.1}
        {"type":"warmup_cosine","warmup_steps":100,"start_factor":0.0,"eta_min":0.0}
        {"type":"reduce_on_plateau","factor":0.1,"patience":10,"threshold":0.0001,"cooldown":0,"min_lr":0.0}
        {"type":"step","step_size":10,"gamma":0.1}
        {"type":"one_cycle","max_lr":0.001,"pct_start":0.3,"div_factor":25.0,"final_div_factor":10000.0}
    "#]]
    .assert_eq(&found);
}

#[test]
fn a_job_picks_the_metrics_of_its_task() {
    let metrics = "metrics:\n  regression: [rmse, mae]\n  multiclass: [accuracy, confusion_matrix]\n";
    let plan = planned(&format!("{SMALL}{metrics}"), &[]).expect("plans");
    assert_eq!(plan.evaluation.metrics, ["rmse", "mae"]);
    assert_eq!(plan.origins["evaluation.metrics"], Origin::File { file: "job.yaml".into(), line: 4 });
    let plan = planned(&format!("{SMALL}{metrics}"), &["task=multiclass"]).expect("plans");
    assert_eq!(plan.evaluation.metrics, ["accuracy"]);
    assert_eq!(plan.evaluation.primary_metric, "accuracy");
    let plan = planned(&format!("{SMALL}{metrics}"), &["evaluation.metrics=[r2]"]).expect("plans");
    assert_eq!(plan.evaluation.metrics, ["r2"]);
}

#[test]
fn early_stopping_is_off_unless_something_is_said_of_it() {
    let stops =
        |more: &str, set: &[&str]| planned(&format!("{SMALL}{more}"), set).expect("plans").training.early_stopping;
    assert_eq!(stops("", &[]), None);
    assert_eq!(stops("training: {early_stopping: {patience: 2}}\n", &["training.early_stopping=false"]), None);
    assert_eq!(stops("training: {early_stopping: {patience: 2}}\n", &[]).map(|stop| stop.patience), Some(2));
    let on = stops("training: {early_stopping: true}\n", &[]).expect("is on");
    assert_eq!((on.monitor.as_str(), on.patience, on.restore_best), ("val_loss", 5, true));
}

#[test]
fn quality_is_off_unless_something_is_said_of_it() {
    let quality = |more: &str, set: &[&str]| planned(&format!("{SMALL}{more}"), set).expect("plans").data.quality;
    let off = quality("", &[]);
    assert_eq!((off.enabled, off.correct, off.seed), (false, false, 42));
    assert_eq!(off, within_messages::plan::QualityPlan::default());
    assert!(!quality("", &["data.quality.trees=50", "data.quality=false"]).enabled);
    let on = quality("", &["data.quality=true", "seed=7"]);
    assert_eq!((on.enabled, on.trees, on.seed), (true, 100, 7));
    let binary =
        ["task=binary_classification", "data.quality.correct=true", "data.quality.checks=[mislabels, outlier]"];
    let on = quality("", &binary);
    assert_eq!((on.enabled, on.correct, on.checks.len()), (true, true, 2));
    let mistakes = |set: &[&str]| planned(SMALL, set).expect_err("mistakes")[0].to_string();
    let said = mistakes(&["data.quality.correct=true"]);
    assert!(said.contains("the targets of a regression are numbers"), "{said}");
    let said = mistakes(&["task=multiclass", "data.quality={checks: [leakage], correct: true}"]);
    assert!(said.contains("data.quality.checks does not list mislabels"), "{said}");
    let said = mistakes(&["model.type=lstm_sequence", "data.sequence.group_column=account", "data.quality=true"]);
    assert!(said.contains("not yet supported: data.quality: the quality of sequences"), "{said}");
    let said = mistakes(&["data.quality.contamination=0.7"]);
    assert!(said.contains("expected a number above 0 and up to 0.5, found 0.7"), "{said}");
}

#[test]
fn precedence_is_set_overrides_file_base() {
    let base = "training: {epochs: 1, batch_size: 1, log_interval: 1}\nseed: 1\noverrides: {seed: 2}\n";
    let text = format!(
        "base_config: base.yaml\n{SMALL}training: {{epochs: 2, batch_size: 2}}\noverrides: {{training.epochs: 3}}\n"
    );
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
    expect![[r#"
        training.scheduler.T_max (deterministic_config.yaml:42): no effect because training.scheduler.type is constant
        training.scheduler.eta_min (deterministic_config.yaml:43): no effect because training.scheduler.type is constant"#]].assert_eq(&about.join("\n"));
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
    expect![[r#"
        data.columns.emp.var.rate.scale = null (Set)
        data.columns.emp.var.rate.type (file job.yaml:6)
        data.columns.k.null_values = ["?"] (file job.yaml:6)
        data.columns.k.type = "category" (file job.yaml:6)
        data.csv.delimiter = "\t" (file job.yaml:7)
        data.path = ["/data/a.csv"] (file job.yaml:3)
        data.target.column = "y" (file job.yaml:4)
        description = "d" (file job.yaml:14)
        evaluation.metrics = ["auc","f1"] (file job.yaml:11)
        evaluation.primary_metric = "auc" (file job.yaml:11)
        model.type = "mlp" (file job.yaml:9)
        task = "binary_classification" (file job.yaml:1)
        tracking.experiment = "e" (file job.yaml:13)
        tracking.parameters = ["training.batch_size","model.*"] (file job.yaml:17)
        tracking.tags.dataset_version = "2023Q1" (file job.yaml:16)
        tracking.tags.framework = "1.10" (file job.yaml:16)
        tracking.tags.project = "p" (file job.yaml:15)
        training.batch_size = 16 (file job.yaml:5)
        training.early_stopping.monitor = "val_auc" (file job.yaml:10)
        training.early_stopping.patience = 2 (file job.yaml:10)
        training.epochs = 2 (file job.yaml:10)
        training.optimizer.learning_rate = 0.5 (file job.yaml:10)
        training.optimizer.type = "sgd" (file job.yaml:10)
    "#]]
    .assert_eq(&written(&plan).replace("emp.var.rate.type = null", "emp.var.rate.type"));
    assert_eq!(plan.data.path, ["/data/a.csv"]);
    assert_eq!(plan.data.csv.delimiter, "\t");
    assert_eq!(plan.evaluation.metrics, ["auc", "f1"]);
    assert_eq!(plan.tracking.parameters, ["training.batch_size", "model.*"]);
    assert_eq!(plan.tracking.tags["framework"], "1.10");
}
