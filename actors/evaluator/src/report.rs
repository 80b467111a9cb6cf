//! The report: one JSON document, kind `reports`, named `{model}_{task}_report_{timestamp}.json`.
//!
//! Everything outside of `generated` follows from dataset, model and plan alone, to the last bit. Metrics and
//! errors are in the target's own unit. An undefined number is `{"value": null, "reason": "…"}`. Fields are only
//! ever added under the same `schema`.

use std::collections::BTreeMap;

use messages::ArtifactRef;
use messages::UnixMs;
use messages::envelope::rfc3339;
use messages::event::{MetricSummary, MetricValue, ModelRef};
use serde::{Deserialize, Serialize};

use crate::analysis::ErrorAnalysis;

/// Kind under which reports are stored.
pub const ARTIFACT_KIND: &str = "reports";
/// Version of this schema.
pub const REPORT_VERSION: u16 = 1;

/// The document.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub schema: u16,
    /// The job, which is the run.
    pub run: String,
    /// The plan's name.
    pub model_name: String,
    /// regression, binary_classification or multiclass.
    pub task: String,
    /// Column of the target.
    pub target: String,
    pub dataset: DatasetSummary,
    pub model: ModelSummary,
    pub primary_metric: PrimaryMetric,
    /// On val and test, with the training's `loss`; `baseline` is that of the training mean or prior on test.
    pub metrics: MetricSummary,
    /// Class texts by index; binary: the negative, then the positive. Empty for regression.
    pub class_names: Vec<String>,
    /// Binary: positive at or above this probability.
    pub threshold: Option<f64>,
    /// On test; none for regression.
    pub confusion_matrix: Option<Confusion>,
    /// By part (`val`, `test`).
    pub error_analysis: BTreeMap<String, Analysis>,
    /// What the figures say, in sentences.
    pub interpretations: Vec<String>,
    /// What differs between two evaluations of the same thing.
    pub generated: Generated,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatasetSummary {
    /// The manifest.
    pub manifest: ArtifactRef,
    /// The plan's label.
    pub version: String,
    pub features: usize,
    pub rows_train: u64,
    pub rows_val: u64,
    pub rows_test: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelSummary {
    pub file: ModelRef,
    /// Trained numbers.
    pub parameters: usize,
}

/// The metric that the job is judged by.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PrimaryMetric {
    pub name: String,
    pub higher_is_better: bool,
    pub val: MetricValue,
    pub test: MetricValue,
    pub baseline: MetricValue,
    /// Whether test is better than the baseline; none where one of them is undefined.
    pub beats_baseline: Option<bool>,
}

/// True against predicted classes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confusion {
    /// Class text of each row and column.
    pub labels: Vec<String>,
    /// `counts[i][j]`: samples of class i predicted as class j.
    pub counts: Vec<Vec<u64>>,
}

/// The error analysis of a part, or why there is none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Analysis {
    Done(Box<ErrorAnalysis>),
    Undefined { reason: String },
}

/// When, where and how fast.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Generated {
    /// RFC 3339.
    pub generated_at: String,
    /// `version+commit` of the evaluator.
    pub build: String,
    /// Reading dataset and model, in seconds.
    pub load_s: f64,
    /// Encoding and predicting val and test, in seconds.
    pub predict_s: f64,
    /// Metrics and analysis, in seconds.
    pub metrics_s: f64,
    /// Rows of val and test by `predict_s`; none where that was too short to measure.
    pub rows_per_s: Option<f64>,
}

impl Report {
    /// The bytes to store.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).expect("invariant: a report serializes")
    }

    /// The name to store it under; the time in UTC.
    pub fn file_name(&self, at: UnixMs) -> String {
        let digits: String = rfc3339(at).chars().filter(char::is_ascii_digit).take(14).collect();
        let (date, time) = digits.split_at(8.min(digits.len()));
        let legal = |c: char| if c.is_ascii_alphanumeric() || c == '-' || c == '.' { c } else { '_' };
        let model: String = self.model_name.chars().map(legal).take(100).collect();
        format!("{model}_{}_report_{date}_{time}.json", self.task)
    }
}
