//! Predicting and evaluating without a bus: real shards, real models.

use std::sync::Arc;

use expect_test::expect;
use messages::error::Code;
use messages::feed::Split;
use messages::plan::Task;
use messages::{ArtifactRef, JobId};
use tokio_util::sync::CancellationToken;

use crate::evaluation::Evaluation;
use crate::fixture::{manifest, model, plan, shard};
use crate::predict::{Predictions, Predictor};
use crate::report::{Analysis, Report};

/// A reference to nothing that is stored.
fn artifact(name: &str) -> ArtifactRef {
    ArtifactRef { uri: format!("file:///store/{name}"), blake3: "0".repeat(64), size_bytes: 1 }
}

const VAL: u64 = 40;
const TEST: u64 = 60;

fn report_of(task: Task) -> Report {
    let parts = [
        (Split::Train, 0, vec![]),
        (Split::Val, VAL, vec![artifact("val")]),
        (Split::Test, TEST, vec![artifact("t1"), artifact("t2")]),
    ];
    let manifest = Arc::new(manifest(task, parts));
    let (file, reference) = model(task);
    let plan = plan(task);
    let mut predictor = Predictor::open(&file, &reference, &manifest, &plan, 1).expect("opens");
    let stop = CancellationToken::new();
    let (mut val, mut test) = (Predictions::new(manifest.outputs()), Predictions::new(manifest.outputs()));
    predictor.shard(&shard(task, 0, VAL), &mut val, &stop).expect("predicts");
    for first in [100, 100 + TEST / 2] {
        predictor.shard(&shard(task, first, TEST / 2), &mut test, &stop).expect("predicts");
    }
    assert_eq!(test.sample_ids, (100..100 + TEST).collect::<Vec<_>>());
    let evaluation = Evaluation {
        job: &JobId::new("j1").expect("id"),
        plan: &plan,
        dataset: &artifact("manifest.json"),
        manifest: &manifest,
        model: &reference,
        parameters: predictor.model().parameter_count(),
        val: &val,
        test: &test,
    };
    evaluation.report().expect("a report")
}

#[test]
fn a_learned_target_has_no_error_in_its_own_unit() {
    let report = report_of(Task::Regression);
    // Target 10 + 2 x, standardized by (16, 4), is x standardized by (3, 2).
    for part in [&report.metrics.val, &report.metrics.test] {
        assert!(part["rmse"].get().expect("defined") < 1e-5, "{part:?}");
        assert!(part["loss"].get().expect("defined") < 1e-9, "{part:?}");
    }
    assert_eq!(report.primary_metric.beats_baseline, Some(true));
    let names: Vec<_> = report.metrics.baseline.keys().cloned().collect();
    assert_eq!(names, ["mae", "r2", "rmse"]);
    // The mean of x over the test rows differs from that of train: a constant 16 has an r2 of 0 at most.
    assert!(report.metrics.baseline["r2"].get().expect("defined") <= 0.0);
    assert_eq!(report.confusion_matrix, None);
    let Analysis::Done(test) = &report.error_analysis["test"] else { panic!("no analysis") };
    assert_eq!(test.largest_errors.len(), 10);
    expect![[r"
        rmse on test is 0 against 3.916 of the baseline: the model is better than a constant answer.
        r2 on test is 1.000: the model explains 100 % of the variance of score.
        The test part has 60 rows: its figures are rough."]]
    .assert_eq(&report.interpretations.join("\n"));
}

#[test]
fn classes_are_counted_by_name() {
    let report = report_of(Task::BinaryClassification);
    let confusion = report.confusion_matrix.as_ref().expect("a matrix");
    assert_eq!(confusion.labels, ["no", "yes"]);
    assert_eq!(confusion.counts.iter().flatten().sum::<u64>(), TEST);
    // The primary metric is computed although the list does not name it.
    assert!(report.metrics.test.contains_key("f1") && report.metrics.test.contains_key("auc"));
    assert!(report.metrics.test["loss"].get().is_some());
    assert_eq!(report.threshold, Some(0.5));
    let Analysis::Done(test) = &report.error_analysis["test"] else { panic!("no analysis") };
    assert!(test.largest_errors.iter().all(|e| (0.0..=1.0).contains(&e.error) && e.true_value.is_string()));

    let report = report_of(Task::Multiclass);
    let names: Vec<_> = report.metrics.test.keys().map(String::as_str).collect();
    assert_eq!(names, ["accuracy", "f1_macro", "loss", "precision_macro", "recall_macro"]);
    let counts = &report.confusion_matrix.as_ref().expect("a matrix").counts;
    assert_eq!(counts.iter().flatten().sum::<u64>(), TEST);
}

#[test]
fn the_same_evaluation_is_the_same_bytes() {
    for task in [Task::Regression, Task::BinaryClassification, Task::Multiclass] {
        let report = report_of(task);
        let bytes = report.to_json();
        assert_eq!(bytes, report_of(task).to_json());
        assert_eq!(serde_json::from_slice::<Report>(&bytes).expect("reads back"), report);
    }
    assert_eq!(report_of(Task::Regression).file_name(1_700_000_000_000), "ads_regression_report_20231114_221320.json");
}

#[test]
fn an_empty_part_is_undefined_and_says_why() {
    let task = Task::Regression;
    let manifest = manifest(task, [Split::Train, Split::Val, Split::Test].map(|split| (split, 0, vec![])));
    let (plan, reference, empty) = (plan(task), model(task).1, Predictions::new(1));
    let evaluation = Evaluation {
        job: &JobId::new("j1").expect("id"),
        plan: &plan,
        dataset: &artifact("manifest.json"),
        manifest: &manifest,
        model: &reference,
        parameters: 2,
        val: &empty,
        test: &empty,
    };
    let report = evaluation.report().expect("a report");
    assert!(report.metrics.test.values().all(|value| value.get().is_none()));
    assert_eq!(report.primary_metric.beats_baseline, None);
    assert!(
        matches!(&report.error_analysis["test"], Analysis::Undefined { reason } if reason == "there are no samples")
    );
    assert!(report.interpretations[0].contains("undefined"), "{:?}", report.interpretations);
}

#[test]
fn a_model_that_is_damaged_or_another_is_refused() {
    let task = Task::Regression;
    let parts = || [Split::Train, Split::Val, Split::Test].map(|split| (split, 0, vec![]));
    let fitting = Arc::new(manifest(task, parts()));
    let (file, reference) = model(task);
    let open = |file: &[u8], reference, manifest| Predictor::open(file, reference, manifest, &plan(task), 1).err();
    assert_eq!(open(&file, &reference, &fitting), None);
    let mut damaged = file.clone();
    let last = damaged.len() - 1;
    damaged[last] ^= 1;
    let mut other = (*fitting).clone();
    other.feature_names.push("y".into());
    for (error, word) in [
        (open(&file[..10], &reference, &fitting), "expected"),
        (open(b"", &reference, &fitting), "expected"),
        (open(&damaged, &reference, &fitting), "hash"),
        (open(&file, &reference, &Arc::new(other)), "1 features and 1 outputs, but the dataset has 2 and 1"),
    ] {
        let error = error.expect("refused");
        assert_eq!(error.code, Code::ModelInvalid);
        assert!(error.message.contains(word) && error.message.contains("model.safetensors"), "{error}");
    }
}

#[test]
fn a_bad_shard_and_a_stop_end_the_evaluation() {
    let task = Task::Regression;
    let manifest = Arc::new(manifest(task, [Split::Train, Split::Val, Split::Test].map(|split| (split, 0, vec![]))));
    let (file, reference) = model(task);
    let mut predictor = Predictor::open(&file, &reference, &manifest, &plan(task), 1).expect("opens");
    let (mut part, stop) = (Predictions::new(1), CancellationToken::new());
    let error = predictor.shard(b"no shard", &mut part, &stop).expect_err("no shard");
    assert_eq!(error.code, Code::DatasetValidationError);
    stop.cancel();
    let error = predictor.shard(&shard(task, 0, 5), &mut part, &stop).expect_err("stopped");
    assert_eq!(error.code, Code::Cancelled);
    assert_eq!(part.rows(), 0);
}
