//! Wrong specs, and what each is answered: every mistake at once, with line, key, expectation and the
//! nearest valid name.

use std::fmt::Write;

use expect_test::{Expect, expect};
use within_messages::rpc::SpecFormat;
use within_messages::spec::{MAX_SPEC_BYTES, PlanDefaults, SpecInput, plan, resolve_base, to_wire};

use crate::spec::lines;

fn answer(text: &str, format: SpecFormat, set: &[&str]) -> String {
    let set: Vec<_> = set.iter().map(ToString::to_string).collect();
    let input = SpecInput { file: Some("job.yaml"), text, format };
    let result = resolve_base(&input, &mut |path, _| match path {
        "loop.yaml" => Ok("base_config: ./loop.yaml\n".into()),
        "bad.yaml" => Ok("training:\n  epoch: 3\n".into()),
        path => Err(format!("{path} does not exist")),
    })
    .and_then(|tree| plan(&tree, &set, &PlanDefaults::default()));
    match result {
        Ok(plan) => format!("accepted\n{}", plan.warnings.join("\n")),
        Err(errors) => lines(&errors),
    }
}

fn check(text: &str, expected: Expect) {
    expected.assert_eq(&answer(text, SpecFormat::Yaml, &[]));
}

/// `more` below a spec that is right.
fn check_more(more: &str, expected: Expect) {
    check(&format!("task: regression\ndata.path: a.csv\ntarget: y\n{more}"), expected);
}

#[test]
fn many_mistakes_at_once() {
    check(
        "\
nmae: x
task: regresion
data:
  paht: ads.csv
  csv: {delimiter: ';;', decimal: '.'}
  split: {test_size: 1.5, strategy: grop}
model:
  type: mpl
  dropout: 1
  hidden_layers: [64, 0, many]
training:
  epochs: 0
  optimizer:
    learning_rate: -0.1
    beta1: '0.9'
  batch_size: 12.5
  learning_rte: 0.1
evaluation: accuracy
resources: {world_size: 9, device: cdua}
",
        expect![[r#"
            job.yaml:1: nmae: unknown key (did you mean name?)
            job.yaml:2: task: expected one of regression, binary_classification, multiclass, found text "regresion" (did you mean regression?)
            job.yaml:3: data.path: missing: Files of one table, in order, relative to a data root: names, patterns, or URLs of allowed origins.
            job.yaml:3: data.target.column: missing: The column to predict.
            job.yaml:4: data.paht: unknown key (did you mean data.path?)
            job.yaml:5: data.csv.delimiter: expected one character, found text ";;"
            job.yaml:6: data.split.test_size: expected a number above 0 and below 1, found 1.5
            job.yaml:6: data.split.strategy: expected one of random, stratified, group, stratified_group, time, found text "grop" (did you mean group?)
            job.yaml:8: model.type: expected one of mlp, tabular, transformer_classifier, image_classifier, lstm_sequence, ad_score, found text "mpl" (did you mean mlp?)
            job.yaml:9: model.dropout: expected a number from 0 and below 1, found 1
            job.yaml:10: model.hidden_layers: expected a whole number from 1 to 65536, found 0
            job.yaml:10: model.hidden_layers: expected a whole number from 1 to 65536, found text "many"
            job.yaml:12: training.epochs: expected a whole number from 1 to 1000000, found 0
            job.yaml:14: training.optimizer.learning_rate: expected a number above 0 and up to 1000, found -0.1
            job.yaml:15: training.optimizer.beta1: expected a number from 0 and below 1, found text "0.9" (did you mean 0.9, without quotes?)
            job.yaml:16: training.batch_size: expected a whole number from 1 to 10000000, found 12.5
            job.yaml:17: training.learning_rte: unknown key (did you mean training.learning_rate?)
            job.yaml:18: evaluation: expected a mapping with keys such as calibration, error_analysis, fairness, generate_plots, metrics, primary_metric, robustness, threshold, validation_strategy, found text "accuracy"
            job.yaml:19: resources.world_size: 9 ranks cannot share 8 logical shards: expected at most 8
            job.yaml:19: resources.device: expected auto, cpu, cuda or cuda:<number>, found text "cdua" (did you mean cuda?)
        "#]],
    );
}

#[test]
fn nothing_given() {
    check(
        "",
        expect![[r#"
        job.yaml:1: empty: expected a mapping with keys such as data, model, training
    "#]],
    );
    check(
        "just text",
        expect![[r#"
        job.yaml:1: expected a mapping with keys such as data, model, training, found text "just text"
    "#]],
    );
    check(
        "- a\n- b\n",
        expect![[r#"
        job.yaml:1: expected a mapping with keys such as data, model, training, found a list of 2
    "#]],
    );
    check(
        "{}",
        expect![[r#"
        job.yaml: task: missing: What is learnt.
        job.yaml: data.path: missing: Files of one table, in order, relative to a data root: names, patterns, or URLs of allowed origins.
        job.yaml: data.target.column: missing: The column to predict.
    "#]],
    );
}

#[test]
fn not_yaml() {
    check(
        "data:\n\tpath: a.csv\n",
        expect![[r#"
        job.yaml:2: a tab indents this line: YAML expects blanks
    "#]],
    );
    check(
        "data: {path: a.csv\ntask: x\n",
        expect![[r#"
        job.yaml:2: not YAML: while parsing a flow mapping, did not find expected ',' or '}'
    "#]],
    );
    check(
        "data: [1, 2\n",
        expect![[r#"
        job.yaml:1: not YAML: unclosed bracket '['
    "#]],
    );
    check(
        "a: 1\n---\nb: 2\n",
        expect![[r#"
        job.yaml:2: a second document begins here: expected one
    "#]],
    );
    check(
        "a: *nowhere\n",
        expect![[r#"
        job.yaml:1: not YAML: reference to unknown value
    "#]],
    );
    check(
        "seed: 1\ntask: regression\nseed: 2\ndata: {path: a, path: b}\n",
        expect![[r#"
        job.yaml:3: seed: duplicate key: given in line 1 and again in line 3
        job.yaml:4: data.path: duplicate key: given in line 4 and again in line 4
    "#]],
    );
}

#[test]
fn not_json() {
    let check = |text: &str, expected: Expect| expected.assert_eq(&answer(text, SpecFormat::Json, &[]));
    check(
        "{\"task\": \"regression\",\n \"data\": }",
        expect![[r#"
        job.yaml:2: not JSON: expected value
    "#]],
    );
    check(
        "{\"seed\": 1,\n \"seed\": 2}",
        expect![[r#"
        job.yaml:2: seed: duplicate key: given in line 1 and again in line 2
    "#]],
    );
    check(
        "{\"task\": \"regression\",\n \"training\": {\"epochs\": 0}}",
        expect![[r#"
        job.yaml:2: training.epochs: expected a whole number from 1 to 1000000, found 0
        job.yaml: data.path: missing: Files of one table, in order, relative to a data root: names, patterns, or URLs of allowed origins.
        job.yaml: data.target.column: missing: The column to predict.
    "#]],
    );
}

#[test]
fn too_large_too_deep_too_many_aliases() {
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
    for level in 1..12 {
        let before = level - 1;
        writeln!(bomb, "a{level}: &a{level} [*a{before}, *a{before}, *a{before}, *a{before}, *a{before}, *a{before}, *a{before}, *a{before}]").expect("writes");
    }
    check(
        &bomb,
        expect![[r#"
        job.yaml:6: aliases that unfold to too much: expected at most 100000 values
    "#]],
    );
    let deep = format!("a: {}{}", "[".repeat(500), "]".repeat(500));
    check(
        &deep,
        expect![[r#"
        job.yaml:1: nested deeper than 64 levels
    "#]],
    );
    expect![[r#"
        job.yaml:1: nested deeper than 64 levels
    "#]]
    .assert_eq(&answer(&format!("{{\"a\": {}{}}}", "[".repeat(100), "]".repeat(100)), SpecFormat::Json, &[]));
    let block: String = (0..100).fold(String::new(), |mut text, level| {
        writeln!(text, "{}a:", " ".repeat(level)).expect("writes");
        text
    });
    check(
        &block,
        expect![[r#"
        job.yaml:65: nested deeper than 64 levels
    "#]],
    );
    let large = "x".repeat(100 * 1024 * 1024);
    check(
        &large,
        expect![[r#"
        job.yaml: too large: 104857600 bytes, expected at most 4194304
    "#]],
    );
    assert_eq!(
        answer(&" ".repeat(MAX_SPEC_BYTES + 1), SpecFormat::Json, &[]),
        answer(&" ".repeat(MAX_SPEC_BYTES + 1), SpecFormat::Yaml, &[])
    );
}

#[test]
fn bases_that_cannot_be() {
    check(
        "base_config: loop.yaml\n",
        expect![[r#"
        loop.yaml:1: base_config: a cycle: job.yaml → loop.yaml → loop.yaml
    "#]],
    );
    check(
        "base_config: gone.yaml\n",
        expect![[r#"
        job.yaml:1: base_config: "gone.yaml" cannot be read: gone.yaml does not exist
    "#]],
    );
    check(
        "base_config: [a]\n",
        expect![[r#"
        job.yaml:1: base_config: expected a path, found a list of 1
    "#]],
    );
    check(
        "base_config: bad.yaml\ntask: regression\ndata: {path: a, target: y}\n",
        expect![[r#"
        bad.yaml:2: training.epoch: unknown key (did you mean training.epochs?)
    "#]],
    );
}

#[test]
fn one_setting_twice() {
    check_more(
        "data:\n  batch_size: 3\ntraining:\n  batch_size: 4\n",
        expect![[r#"
        job.yaml:7: training.batch_size: 4 in line 7, but data.batch_size says 3 in line 5: they are one setting, give it once
    "#]],
    );
    check_more(
        "data:\n  batch_size: 3\ntraining:\n  batch_size: 3\n",
        expect![[r#"
        accepted
        data.batch_size (job.yaml:5): a batch of 3 rows leaves some of the 8 logical shards empty"#]],
    );
    check_more(
        "model:\n  type: mlp\n  name: lstm_sequence\n",
        expect![[r#"
        job.yaml:6: model.name: text "lstm_sequence" in line 6, but model.type says text "mlp" in line 5: they are one setting, give it once
    "#]],
    );
    check_more(
        "training:\n  batch_order: shuffled\ndata.shuffle: false\n",
        expect![[r#"
        job.yaml:5: training.batch_order: shuffled, but data.shuffle is false: expected one of both
    "#]],
    );
}

#[test]
fn paths_and_hosts() {
    for path in [
        "../x.csv",
        "a/../../x.csv",
        "~/x.csv",
        "s3://bucket",
        "s3://bucket/a/../x.csv",
        "http://user:secret@host/x.csv",
        "https://host/x.csv?token=1",
        "hdfs://bucket/x.csv",
        "file://host/x.csv",
        "''",
        "[]",
    ] {
        let answer = answer(&format!("task: regression\ntarget: y\ndata: {{path: {path}}}\n"), SpecFormat::Yaml, &[]);
        assert!(answer.contains("data.path: "), "{path}: {answer}");
    }
    check(
        "task: regression\ntarget: y\ndata:\n  path: [ok.csv, ../x.csv, 's3://b/x', 'abfs://b/x', 'ftp://h/x']\n",
        expect![[r#"
        job.yaml:4: data.path: forbidden: "../x.csv" leaves the data roots: expected a path below one, without `..`
        job.yaml:4: not yet supported: data.path: abfs:// (a path below a data root is)
        job.yaml:4: data.path: forbidden: scheme "ftp": expected a path below a data root
    "#]],
    );
    check_more(
        "\
notifications:
  webhooks:
    - https://host/ok
    - url: http://user:secret@host/x
    - url: ftp://host/x
    - {events: [done], urll: x}
    - url: 'https://'
experiment: {tracking_uri: 'mysql://user:password@host/db'}
",
        expect![[r#"
            job.yaml:7: notifications.webhooks.url: forbidden: credentials inside the URL: expected them in the notifier's configuration
            job.yaml:8: notifications.webhooks.url: forbidden: scheme "ftp": expected http:// or https:// with a host
            job.yaml:9: notifications.webhooks.url: missing: Where the notice is posted to; the notifier's configuration must allow the host.
            job.yaml:9: notifications.webhooks.events: expected one of completed, failed, cancelled, found text "done"
            job.yaml:9: notifications.webhooks.urll: unknown key: expected url, events (did you mean url?)
            job.yaml:10: notifications.webhooks.url: expected http:// or https:// with a host, found text "https://"
            job.yaml:11: not yet supported: experiment.tracking_uri: a tracking server of the job's own; runs are recorded by the platform's tracker
            job.yaml:11: experiment.tracking_uri: mysql:// is refused: expected sqlite://, postgresql:// or http(s)://
        "#]],
    );
}

#[test]
fn what_does_not_fit_the_task() {
    check(
        "\
task: multiclass
data:
  path: a.csv
  target: {column: y, positive: a, transform: log1p}
training:
  loss: mse
  early_stopping: {monitor: val_rmse}
  checkpoint: {metric_name: accuracy}
evaluation: {metrics: [accuracy, f1, aucc], primary_metric: f1_macro}
",
        expect![[r#"
            job.yaml:4: data.target.positive: belongs to task binary_classification; here task is multiclass (job.yaml:1)
            job.yaml:4: data.target.transform: belongs to task regression; here task is multiclass (job.yaml:1)
            job.yaml:6: training.loss: mse does not fit task multiclass: expected cross_entropy (did you mean cross_entropy?)
            job.yaml:7: training.early_stopping.monitor: rmse does not fit task multiclass: expected some of accuracy, log_loss, precision_macro, recall_macro, f1_macro, precision_weighted, recall_weighted, f1_weighted, precision_micro, recall_micro, f1_micro, auc_ovr_macro
            job.yaml:8: training.checkpoint.metric_name: expected val_loss or val_<metric>, found text "accuracy" (did you mean val_accuracy?)
            job.yaml:9: evaluation.metrics: f1 does not fit task multiclass: expected some of accuracy, log_loss, precision_macro, recall_macro, f1_macro, precision_weighted, recall_weighted, f1_weighted, precision_micro, recall_micro, f1_micro, auc_ovr_macro (did you mean f1_macro?)
            job.yaml:9: evaluation.metrics: unknown metric "aucc": expected some of accuracy, log_loss, precision_macro, recall_macro, f1_macro, precision_weighted, recall_weighted, f1_weighted, precision_micro, recall_micro, f1_micro, auc_ovr_macro (did you mean acc?)
        "#]],
    );
    check(
        "\
task: binary
data.path: a.csv
data.target: {column: y, positive: a, threshold: 0.5}
training:
  early_stopping: {monitor: val_auc, mode: min}
  checkpoint: {metric_name: val_mcc}
evaluation: {primary_metric: brier}
",
        expect![[r#"
            job.yaml:3: data.target.threshold: beside data.target.positive: expected one of both
            job.yaml:5: training.early_stopping.mode: of val_auc, more is better: expected max (did you mean max?)
            job.yaml:7: evaluation.primary_metric: brier is not in evaluation.metrics: expected one of accuracy, precision, recall, f1, auc, average_precision
        "#]],
    );
}

#[test]
fn settings_of_another_type() {
    check_more(
        "training:\n  scheduler: {type: linear_warmup, T_max: 3}\n  optimizer: {type: sgd, beta1: 0.5}\nmodel: {pooling: cls}\n",
        expect![[r#"
            job.yaml:5: training.scheduler.T_max: belongs to training.scheduler.type cosine_annealing; here training.scheduler.type is linear_warmup (job.yaml:5)
            job.yaml:6: training.optimizer.beta1: belongs to training.optimizer.type adamw or adam or lamb; here training.optimizer.type is sgd (job.yaml:6)
            job.yaml:7: model.pooling: belongs to model.type transformer_classifier or image_classifier or lstm_sequence; here model.type is mlp by default
        "#]],
    );
    check_more(
        "training:\n  scheduler: {type: cosine_annealing, eta_min: 0.5}\n",
        expect![[r#"
        job.yaml:5: training.scheduler.eta_min: 0.5 is above the learning rate 0.001: expected less
    "#]],
    );
}

#[test]
fn columns_with_two_roles() {
    check_more(
        "\
data:
  include: [a, y]
  exclude: [a, y, b]
  id_column: y
  columns: {b: number, c: {typ: number}, d: text}
  split: {strategy: group, time_column: t}
  csv: {delimiter: ',', decimal: ','}
",
        expect![[r#"
            job.yaml:5: data.include: column "y" is data.target.column, so it cannot be a feature
            job.yaml:5: data.include: column "y" is data.id_column, so it cannot be a feature
            job.yaml:6: data.exclude: column "y" is data.target.column: it is never a feature, and must be read
            job.yaml:6: data.exclude: column "a" stands in data.include too: expected one of both
            job.yaml:6: data.exclude: column "y" stands in data.include too: expected one of both
            job.yaml:7: data.id_column: column "y" is already data.target.column
            job.yaml:8: data.columns.c.typ: unknown key (did you mean data.columns.c.type?)
            job.yaml:8: data.columns.d: mlp reads no text column, found d
            job.yaml:9: data.split.group_column: missing: data.split.strategy group needs it
            job.yaml:10: data.csv.decimal: "," is also data.csv.delimiter: expected another character
        "#]],
    );
}

#[test]
fn not_yet() {
    check_more(
        "\
model: {type: transformer_classifier, backbone: bert-base-uncased}
training: {precision: int8, mixed_precision: true}
data.augmentation: {text_augmentation: true, visual_augmentation: false}
evaluation: {calibration: {apply: true}, fairness: {enabled: false}}
notifications: {email: {enabled: true}}
resources: {device: 'cuda:1', world_size: 2}
",
        expect![[r#"
            job.yaml:4: model.type: transformer_classifier reads 1 text column, found none: declare data.columns.<name>.type: text
            job.yaml:5: training.precision: expected one of f32, bf16, f16, found text "int8"
            job.yaml:5: not yet supported: training.mixed_precision: a switch; training.precision says bf16 or f16
            job.yaml:6: data.augmentation.text_augmentation: the data have no column of type text: declare one in data.columns
            job.yaml:7: not yet supported: evaluation.calibration: calibration
            job.yaml:8: not yet supported: notifications.email: notices by e-mail
        "#]],
    );
}

#[test]
fn kinds_that_cannot_be_told() {
    check(
        "param_space: {seed: {type: int, min: 1, max: 2}}\nvalidation_strategy: {type: kfold}\n",
        expect![[r#"
        job.yaml:2: kind: ambiguous: param_space (line 1) belongs to kind sweep, validation_strategy (line 2) belongs to kind evaluation: say which with `kind:`
    "#]],
    );
    check(
        "data: {path: a}\nbaseline_comparisons: {enabled: true}\n",
        expect![[r#"
        job.yaml:1: kind: ambiguous: baseline_comparisons (line 2) belongs to kind gates, data (line 1) belongs to kind job: say which with `kind:`
    "#]],
    );
    check(
        "kind: jbo\n",
        expect![[r#"
        job.yaml:1: kind: expected one of job, sweep, evaluation, gates, experiment, found text "jbo" (did you mean job?)
    "#]],
    );
    check_more(
        "kind: job\nparam_space: {}\n",
        expect![[r#"
        job.yaml:5: param_space: a key of kind sweep, and this spec is of another kind
    "#]],
    );
    check(
        "apiVersion: batch/v1\nkind: Job\n",
        expect![[r#"
        job.yaml:1: apiVersion: this is a Kubernetes manifest, not a job spec
    "#]],
    );
    check(
        "stages: [lint, test]\n",
        expect![[r#"
        job.yaml:1: stages: this is a CI pipeline, not a job spec
    "#]],
    );
    check(
        "param_space:\n  training.optimizer.lerning_rate: {type: log_floot, min: 1}\n  data.batch_size: {type: int}\n  training.batch_size: {type: int}\n",
        expect![[r#"
        job.yaml:1: not yet supported: param_space: 3 settings
        job.yaml:1: not yet supported: kind: sweep is understood, and only kind job runs in this version
        job.yaml:2: param_space.training.optimizer.lerning_rate: no key of a job (did you mean training.optimizer.learning_rate?)
        job.yaml:2: param_space.training.optimizer.lerning_rate.type: expected one of categorical, float, int, log_float, log_int, found text "log_floot" (did you mean log_float?)
        job.yaml:4: param_space.training.batch_size: the same setting as data.batch_size in line 3
    "#]],
    );
}

#[test]
fn sets() {
    let text = "task: regression\ndata: {path: a.csv, target: y}\n";
    let set =
        ["training.epochs=0", "training.epohcs=3", "nonsense", "model.hidden_layers=[8, x]", "seed={a", "=3", "name="];
    expect![[r#"
        --set: training.epochs: expected a whole number from 1 to 1000000, found 0
        --set: training.epohcs: unknown key (did you mean training.epochs?)
        --set: nonsense: expected key=value, such as training.epochs=3
        --set: model.hidden_layers: expected a whole number from 1 to 65536, found text "x"
        --set: seed: not YAML: unclosed bracket '{'
        --set: =3: expected key=value, such as training.epochs=3
        --set: name: expected a text, found nothing (null)
    "#]]
    .assert_eq(&answer(text, SpecFormat::Yaml, &set));
}

#[test]
fn types_are_named() {
    check_more(
        "\
name: [a]
seed: 1.5
description: {a: b}
data: {shuffle: yes, drop_last: 1, split: {val_size: half}}
training: 3
tracking: {tags: {a: [1]}, parameters: ['mdoel.*', 'training.epoch']}
limits: {deadline_s: null, max_attempts: 21}
model: {hidden_layers: .nan, initialization: {std: .inf}}
",
        expect![[r#"
            job.yaml:4: name: expected a text, found a list of 1
            job.yaml:5: seed: expected a whole number from 0 to 9007199254740991, found 1.5
            job.yaml:6: description: expected a text, found a mapping with the key "a"
            job.yaml:7: data.shuffle: expected true or false, found text "yes" (did you mean true?)
            job.yaml:7: data.drop_last: expected true or false, found 1
            job.yaml:7: data.split.val_size: expected a number above 0 and below 1, found text "half"
            job.yaml:8: training: expected a mapping with keys such as accumulation_steps, batch_order, batch_size, checkpoint, checkpoints, class_weights, clip_grad_norm, clip_grad_value, device, distributed, early_stopping, ema, found 3
            job.yaml:9: tracking.tags.a: expected a text, found a list of 1
            job.yaml:9: tracking.parameters: "mdoel.*" matches no key
            job.yaml:9: tracking.parameters: "training.epoch" matches no key (did you mean training.epochs?)
            job.yaml:10: limits.deadline_s: expected a whole number from 1 to 2592000, found nothing (null)
            job.yaml:10: limits.max_attempts: expected a whole number from 1 to 20, found 21
            job.yaml:11: model.hidden_layers: expected a whole number from 1 to 65536, found NaN
            job.yaml:11: model.initialization.std: expected a number above 0, found inf
        "#]],
    );
}

#[test]
fn the_code_for_the_wire() {
    let wire = |text: &str| {
        let input = SpecInput { file: None, text, format: SpecFormat::Yaml };
        let errors = resolve_base(&input, &mut |_, _| Err(String::new()))
            .and_then(|tree| plan(&tree, &[], &PlanDefaults::default()))
            .expect_err("is wrong");
        to_wire(&errors).to_string()
    };
    let spec = |path: &str, more: &str| format!("task: regression\ndata: {{path: '{path}', target: y}}\n{more}");
    expect!["not_supported: line 3: not yet supported: notifications.slack: notices to Slack"]
        .assert_eq(&wire(&spec("a.csv", "notifications: {slack: {channel: a}}")));
    expect![[r#"forbidden: line 2: data.path: forbidden: "../a.csv" leaves the data roots: expected a path below one, without `..`"#]].assert_eq(&wire(&spec("../a.csv", "")));
    expect![[r#"config_error: line 2: data.path: forbidden: "../a.csv" leaves the data roots: expected a path below one, without `..` (and 1 more)"#]].assert_eq(&wire(&spec("../a.csv", "seed: x")));
    expect!["too_large: too large: 4194305 bytes, expected at most 4194304"]
        .assert_eq(&wire(&" ".repeat(MAX_SPEC_BYTES + 1)));
}
