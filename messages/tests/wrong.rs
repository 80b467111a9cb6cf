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
        expect![[]],
    );
}

#[test]
fn nothing_given() {
    check("", expect![[]]);
    check("just text", expect![[]]);
    check("- a\n- b\n", expect![[]]);
    check("{}", expect![[]]);
}

#[test]
fn not_yaml() {
    check("data:\n\tpath: a.csv\n", expect![[]]);
    check("data: {path: a.csv\ntask: x\n", expect![[]]);
    check("data: [1, 2\n", expect![[]]);
    check("a: 1\n---\nb: 2\n", expect![[]]);
    check("a: *nowhere\n", expect![[]]);
    check("seed: 1\ntask: regression\nseed: 2\ndata: {path: a, path: b}\n", expect![[]]);
}

#[test]
fn not_json() {
    let check = |text: &str, expected: Expect| expected.assert_eq(&answer(text, SpecFormat::Json, &[]));
    check("{\"task\": \"regression\",\n \"data\": }", expect![[]]);
    check("{\"seed\": 1,\n \"seed\": 2}", expect![[]]);
    check("{\"task\": \"regression\",\n \"training\": {\"epochs\": 0}}", expect![[]]);
}

#[test]
fn too_large_too_deep_too_many_aliases() {
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
    for level in 1..12 {
        let before = level - 1;
        writeln!(bomb, "a{level}: &a{level} [*a{before}, *a{before}, *a{before}, *a{before}, *a{before}, *a{before}, *a{before}, *a{before}]").expect("writes");
    }
    check(&bomb, expect![[]]);
    let deep = format!("a: {}{}", "[".repeat(500), "]".repeat(500));
    check(&deep, expect![[]]);
    expect![[]].assert_eq(&answer(&format!("{{\"a\": {}{}}}", "[".repeat(100), "]".repeat(100)), SpecFormat::Json, &[]));
    let block: String = (0..100).fold(String::new(), |mut text, level| {
        writeln!(text, "{}a:", " ".repeat(level)).expect("writes");
        text
    });
    check(&block, expect![[]]);
    let large = "x".repeat(100 * 1024 * 1024);
    check(&large, expect![[]]);
    assert_eq!(answer(&" ".repeat(MAX_SPEC_BYTES + 1), SpecFormat::Json, &[]), answer(&" ".repeat(MAX_SPEC_BYTES + 1), SpecFormat::Yaml, &[]));
}

#[test]
fn bases_that_cannot_be() {
    check("base_config: loop.yaml\n", expect![[]]);
    check("base_config: gone.yaml\n", expect![[]]);
    check("base_config: [a]\n", expect![[]]);
    check("base_config: bad.yaml\ntask: regression\ndata: {path: a, target: y}\n", expect![[]]);
}

#[test]
fn one_setting_twice() {
    check_more("data:\n  batch_size: 3\ntraining:\n  batch_size: 4\n", expect![[]]);
    check_more("data:\n  batch_size: 3\ntraining:\n  batch_size: 3\n", expect![[]]);
    check_more("model:\n  type: mlp\n  name: lstm_sequence\n", expect![[]]);
    check_more("training:\n  batch_order: shuffled\ndata.shuffle: false\n", expect![[]]);
}

#[test]
fn paths_and_hosts() {
    for path in ["../x.csv", "a/../../x.csv", "~/x.csv", "s3://bucket/x.csv", "http://host/x.csv", "file://host/x.csv", "''", "[]"] {
        let answer = answer(&format!("task: regression\ntarget: y\ndata: {{path: {path}}}\n"), SpecFormat::Yaml, &[]);
        assert!(answer.contains("data.path: "), "{path}: {answer}");
    }
    check("task: regression\ntarget: y\ndata:\n  path: [ok.csv, ../x.csv, 's3://b/x', 'ftp://h/x']\n", expect![[]]);
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
        expect![[]],
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
        expect![[]],
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
        expect![[]],
    );
}

#[test]
fn settings_of_another_type() {
    check_more("training:\n  scheduler: {type: linear_warmup, T_max: 3}\n  optimizer: {type: sgd, beta1: 0.5}\nmodel: {pooling: cls}\n", expect![[]]);
    check_more("training:\n  scheduler: {type: cosine_annealing, eta_min: 0.5}\n", expect![[]]);
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
        expect![[]],
    );
}

#[test]
fn not_yet() {
    check_more(
        "\
model: {type: transformer_classifier, backbone: bert-base-uncased}
training: {precision: bf16, mixed_precision: false}
data.augmentation: {text_augmentation: true, visual_augmentation: false}
evaluation: {calibration: {apply: true}, fairness: {enabled: false}}
notifications: {email: {enabled: true}}
resources: {device: 'cuda:1', world_size: 2}
",
        expect![[]],
    );
}

#[test]
fn kinds_that_cannot_be_told() {
    check("param_space: {seed: {type: int, min: 1, max: 2}}\nvalidation_strategy: {type: kfold}\n", expect![[]]);
    check("data: {path: a}\nbaseline_comparisons: {enabled: true}\n", expect![[]]);
    check("kind: jbo\n", expect![[]]);
    check_more("kind: job\nparam_space: {}\n", expect![[]]);
    check("apiVersion: batch/v1\nkind: Job\n", expect![[]]);
    check("stages: [lint, test]\n", expect![[]]);
    check("param_space:\n  training.optimizer.lerning_rate: {type: log_floot, min: 1}\n  data.batch_size: {type: int}\n  training.batch_size: {type: int}\n", expect![[]]);
}

#[test]
fn sets() {
    let text = "task: regression\ndata: {path: a.csv, target: y}\n";
    let set = ["training.epochs=0", "training.epohcs=3", "nonsense", "model.hidden_layers=[8, x]", "seed={a", "=3", "name="];
    expect![[]].assert_eq(&answer(text, SpecFormat::Yaml, &set));
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
        expect![[]],
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
    expect![[]].assert_eq(&wire(&spec("a.csv", "resources: {device: cuda}")));
    expect![[]].assert_eq(&wire(&spec("../a.csv", "")));
    expect![[]].assert_eq(&wire(&spec("../a.csv", "seed: x")));
    expect![[]].assert_eq(&wire(&" ".repeat(MAX_SPEC_BYTES + 1)));
}
