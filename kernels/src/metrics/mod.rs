//! Evaluation metrics of the three tasks: pure functions of labels and predictions, accumulated in
//! `f64` in the order of the samples, so the same input gives the same bits.
//!
//! A number that does not exist (AUC with one class, R² of one sample, anything of a NaN) is no
//! `NaN` but a [`MetricValue`] without a value and with the reason. Definitions follow scikit-learn
//! 1.9, except where a doc comment says otherwise.

mod baseline;
mod binary;
#[cfg(test)]
mod golden_tests;
mod metric;
mod multiclass;
#[cfg(test)]
mod property_tests;
mod regression;
mod sum;
mod value;

use std::collections::BTreeMap;

pub use baseline::Baseline;
pub use binary::{Binary, CalibrationBin, Confusion};
pub use metric::{Direction, Metric, Task};
pub use multiclass::{Average, ConfusionMatrix, Multiclass};
pub use regression::Regression;
pub use value::MetricValue;

/// Computed metrics, in the order in which [`Metric`] lists them.
pub type Metrics = BTreeMap<Metric, MetricValue>;

/// A question that cannot be asked, as opposed to an answer that is undefined.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum MetricError {
    /// Labels and predictions differ in number.
    #[error("metrics: expected {expected} {what} for the labels given, got {got}")]
    LengthMismatch {
        /// What was counted, for instance `predictions`.
        what: &'static str,
        /// The number that the labels ask for.
        expected: usize,
        /// The number given.
        got: usize,
    },
    /// A multiclass prediction without columns.
    #[error("metrics: a multiclass prediction needs at least one class")]
    NoClasses,
    /// The metric does not exist for the task of the predictions.
    #[error("metrics: {metric} is no metric of {task}; {task} has {}", names(Metric::of(*.task)))]
    NotApplicable {
        /// The metric asked for.
        metric: Metric,
        /// The task of the predictions.
        task: Task,
    },
    /// No metric and no alias has this name.
    #[error("metrics: unknown metric \"{name}\"; known are {}", names(Metric::ALL.iter().copied()))]
    UnknownMetric {
        /// The name as given.
        name: String,
    },
    /// An option is out of its range.
    #[error("metrics: option {option} is {got}, expected {expected}")]
    InvalidOption {
        /// The option's name.
        option: &'static str,
        /// What it may be.
        expected: &'static str,
        /// What it is.
        got: String,
    },
    /// A baseline cannot be fitted on these training targets.
    #[error("metrics: no baseline: {reason}")]
    NoBaseline {
        /// Why not.
        reason: String,
    },
    /// A table (confusion, calibration) is asked of labels and predictions that have none.
    #[error("metrics: {reason}")]
    Undefined {
        /// Why not.
        reason: String,
    },
    /// A dense confusion matrix of so many labels would not fit into memory.
    #[error("metrics: a confusion matrix of {labels} labels exceeds the limit of {limit}")]
    TooManyLabels {
        /// Labels present.
        labels: usize,
        /// Labels allowed.
        limit: usize,
    },
}

fn names(metrics: impl Iterator<Item = Metric>) -> String {
    metrics.map(Metric::name).collect::<Vec<_>>().join(", ")
}

/// What a ratio without a denominator is (a precision without a positive prediction, a recall
/// without a positive label). In an average, `Undefined` leaves the class out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ZeroDivision {
    /// 0, scikit-learn's default.
    #[default]
    Zero,
    /// 1.
    One,
    /// Undefined, with a reason.
    Undefined,
}

impl ZeroDivision {
    /// `numerator / denominator`, or what stands in for it when the denominator is zero.
    fn ratio(self, numerator: f64, denominator: f64) -> Option<f64> {
        if denominator != 0.0 {
            return Some(numerator / denominator);
        }
        match self {
            Self::Zero => Some(0.0),
            Self::One => Some(1.0),
            Self::Undefined => None,
        }
    }
}

/// The choices that a metric's definition leaves open.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Options {
    /// A binary score at or above it is a positive prediction.
    pub threshold: f64,
    /// What a ratio without a denominator is.
    pub zero_division: ZeroDivision,
    /// Equal-width bins of the expected calibration error.
    pub calibration_bins: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { threshold: 0.5, zero_division: ZeroDivision::Zero, calibration_bins: 10 }
    }
}

impl Options {
    const MAX_CALIBRATION_BINS: usize = 10_000;

    fn check(&self) -> Result<(), MetricError> {
        let invalid = |option, expected, got| MetricError::InvalidOption { option, expected, got };
        if !self.threshold.is_finite() {
            return Err(invalid("threshold", "a finite number", self.threshold.to_string()));
        }
        if !(1..=Self::MAX_CALIBRATION_BINS).contains(&self.calibration_bins) {
            return Err(invalid("calibration_bins", "1 to 10000", self.calibration_bins.to_string()));
        }
        Ok(())
    }
}

/// Labels and predictions of one task, checked for their lengths.
#[derive(Debug, Clone)]
pub enum Predictions<'a> {
    /// A number for each sample.
    Regression(Regression<'a>),
    /// A score of the positive class for each sample.
    Binary(Binary<'a>),
    /// A distribution over classes for each sample.
    Multiclass(Multiclass<'a>),
}

impl<'a> Predictions<'a> {
    /// `actual` and `predicted`: one number a sample.
    pub fn regression(actual: &'a [f64], predicted: &'a [f64]) -> Result<Self, MetricError> {
        Regression::new(actual, predicted).map(Self::Regression)
    }

    /// `score`: the probability of the positive class, one a sample.
    pub fn binary(actual: &'a [bool], score: &'a [f64]) -> Result<Self, MetricError> {
        Binary::new(actual, score).map(Self::Binary)
    }

    /// `probability`: samples x `classes`, row-major.
    pub fn multiclass(actual: &'a [u32], probability: &'a [f64], classes: usize) -> Result<Self, MetricError> {
        Multiclass::new(actual, probability, classes).map(Self::Multiclass)
    }

    /// The task that these are predictions of.
    pub fn task(&self) -> Task {
        match self {
            Self::Regression(_) => Task::Regression,
            Self::Binary(_) => Task::Binary,
            Self::Multiclass(_) => Task::Multiclass,
        }
    }
}

/// Each of `metrics` for `predictions`. Fails if one of them does not belong to the task or an
/// option is out of range; a metric without a value is no failure.
pub fn compute(metrics: &[Metric], predictions: &Predictions<'_>, options: &Options) -> Result<Metrics, MetricError> {
    options.check()?;
    let task = predictions.task();
    let one = |&metric: &Metric| {
        let value = match predictions {
            Predictions::Regression(pairs) => pairs.metric(metric),
            Predictions::Binary(scores) => scores.metric(metric, options),
            Predictions::Multiclass(rows) => rows.metric(metric, options),
        };
        let value = value.ok_or(MetricError::NotApplicable { metric, task })?;
        Ok((metric, value))
    };
    metrics.iter().map(one).collect()
}

/// Why a slice of predictions or labels can be no input to a metric, if so.
fn not_finite(what: &str, values: &[f64]) -> Option<String> {
    let index = values.iter().position(|value| !value.is_finite())?;
    let value = values[index];
    Some(if value.is_nan() {
        format!("the {what} at position {index} is not a number")
    } else {
        format!("the {what} at position {index} is infinite")
    })
}
