//! Every metric against scikit-learn 1.9 on small cases: `tests/golden/metrics_ref.py` writes them.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{Metric, Multiclass, Options, Predictions, Task, ZeroDivision, compute};

#[derive(Deserialize)]
struct Case {
    task: Task,
    name: String,
    actual: Vec<f64>,
    predicted: Vec<f64>,
    classes: Option<usize>,
    threshold: Option<f64>,
    zero_division: Option<String>,
    calibration_bins: Option<usize>,
    expected: BTreeMap<String, Option<f64>>,
    labels: Option<Vec<u32>>,
    confusion_matrix: Option<Vec<Vec<u64>>>,
}

impl Case {
    fn options(&self) -> Options {
        let default = Options::default();
        let zero_division = match self.zero_division.as_deref() {
            None | Some("zero") => ZeroDivision::Zero,
            Some("one") => ZeroDivision::One,
            Some("undefined") => ZeroDivision::Undefined,
            Some(other) => panic!("zero_division {other}"),
        };
        Options {
            threshold: self.threshold.unwrap_or(default.threshold),
            zero_division,
            calibration_bins: self.calibration_bins.unwrap_or(default.calibration_bins),
        }
    }

    fn labels_of(&self) -> Vec<u32> {
        self.actual.iter().map(|label| *label as u32).collect()
    }
}

fn cases() -> Vec<Case> {
    serde_json::from_str(include_str!("../../tests/golden/metrics.json")).expect("golden file")
}

#[test]
fn every_metric_agrees_with_the_reference() {
    let mut seen = BTreeMap::<Metric, usize>::new();
    for case in cases() {
        let positive: Vec<bool> = case.actual.iter().map(|label| *label == 1.0).collect();
        let labels = case.labels_of();
        let predictions = match case.task {
            Task::Regression => Predictions::regression(&case.actual, &case.predicted),
            Task::Binary => Predictions::binary(&positive, &case.predicted),
            Task::Multiclass => Predictions::multiclass(&labels, &case.predicted, case.classes.unwrap_or(0)),
        }
        .expect("golden shapes");
        let all: Vec<Metric> = Metric::of(case.task).collect();
        let got = compute(&all, &predictions, &case.options()).expect("golden options");
        assert_eq!(got.len(), case.expected.len(), "{}: every metric of the task", case.name);
        for (metric, value) in &got {
            let expected = case.expected[metric.name()];
            let agrees = match (value.value(), expected) {
                (Some(got), Some(want)) => (got - want).abs() <= 1e-12 * want.abs() + 1e-15,
                (None, None) => value.reason().is_some_and(|reason| !reason.is_empty()),
                _ => false,
            };
            assert!(agrees, "{} {metric}: got {value}, expected {expected:?}", case.name);
            *seen.entry(*metric).or_default() += 1;
        }
    }
    assert_eq!(seen.len(), Metric::ALL.len(), "a metric without a golden");
}

#[test]
fn confusion_matrices_agree_with_the_reference() {
    let mut compared = 0;
    for case in cases() {
        let Some(expected) = &case.confusion_matrix else {
            continue;
        };
        let actual = case.labels_of();
        let rows = Multiclass::new(&actual, &case.predicted, case.classes.unwrap_or(0));
        let matrix = rows.expect("golden shapes").confusion_matrix().expect("few labels");
        assert_eq!(Some(&matrix.labels), case.labels.as_ref(), "{}", case.name);
        assert_eq!(&matrix.counts, expected, "{}", case.name);
        compared += 1;
    }
    assert!(compared >= 10);
}
