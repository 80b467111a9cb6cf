//! What is looked for in the data beyond their form: outliers, anomalies, wrong labels, doubled rows, leaks.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::feed::Split;

/// Whether and how the quality of the data is examined while they are prepared. All that is fitted for it is fitted on
/// the train part.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct QualityPlan {
    pub enabled: bool,
    pub checks: Vec<QualityCheck>,
    pub outlier_methods: Vec<OutlierMethod>,
    /// Standard deviations (ddof 0) from the mean beyond which a number is an outlier.
    pub outlier_threshold: f64,
    /// Interquartile ranges below the first or above the third quartile beyond which a number is an outlier.
    pub iqr_factor: f64,
    /// Share of the rows of train that are anomalies.
    pub contamination: f64,
    /// Trees of a forest.
    pub trees: u32,
    /// Folds of the cross-validated predictions.
    pub folds: u32,
    /// Fewest rows of a leaf of the forest that predicts labels.
    pub leaf_rows: u32,
    /// A label is corrected where another one is right with more than this probability, given the noise of the labels.
    pub confidence_threshold: f64,
    /// Whether labels are corrected; otherwise they are only reported.
    pub correct: bool,
    /// Parts whose labels are corrected.
    pub correct_parts: Vec<Split>,
    /// Texts whose sets of shingles have at least this Jaccard similarity are near duplicates.
    pub similarity: f64,
    /// Characters of a shingle.
    pub shingle: u32,
    /// A column that alone predicts the target with an AUC above this is a suspect.
    pub leakage_auc: f64,
    /// Regression: with an R2 above this.
    pub leakage_r2: f64,
    /// Most samples that the report lists of each kind; all are counted.
    pub max_listed: u32,
    pub seed: u64,
}

impl Default for QualityPlan {
    fn default() -> Self {
        Self {
            enabled: false,
            checks: QualityCheck::ALL.to_vec(),
            outlier_methods: vec![OutlierMethod::ZScore, OutlierMethod::Iqr],
            outlier_threshold: 3.0,
            iqr_factor: 1.5,
            contamination: 0.05,
            trees: 100,
            folds: 5,
            leaf_rows: 10,
            confidence_threshold: 0.95,
            correct: false,
            correct_parts: vec![Split::Train],
            similarity: 0.8,
            shingle: 5,
            leakage_auc: 0.8,
            leakage_r2: 0.8,
            max_listed: 1000,
            seed: 42,
        }
    }
}

/// One examination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum QualityCheck {
    /// Numbers far from the others of their column.
    Outliers,
    /// Rows unlike the others, by an isolation forest.
    Anomalies,
    /// Labels that cross-validated predictions contradict, by confident learning.
    Mislabels,
    /// Rows and texts that stand several times, also in different parts.
    Duplicates,
    /// Columns that give the target away.
    Leakage,
}

impl QualityCheck {
    pub const ALL: [Self; 5] = [Self::Outliers, Self::Anomalies, Self::Mislabels, Self::Duplicates, Self::Leakage];
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OutlierMethod {
    ZScore,
    Iqr,
}
