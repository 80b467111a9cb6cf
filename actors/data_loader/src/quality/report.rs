//! The report on the quality of a dataset version: what was found, by sample id. Lists are bounded by
//! `data.quality.max_listed`; totals count everything. Sample ids are texts, since they may pass 2^53.

use messages::ArtifactRef;
use messages::feed::Split;
use messages::plan::{OutlierMethod, QualityCheck, QualityPlan};
use serde::{Deserialize, Serialize};

/// Version of this schema.
pub const REPORT_VERSION: u16 = 1;
/// Kind under which reports are stored.
pub const ARTIFACT_KIND: &str = "quality";
/// Name of the report.
pub const ARTIFACT_NAME: &str = "quality_report.json";
/// Name of the report as a page.
pub const PAGE_NAME: &str = "quality_report.html";
/// Name of the record of all corrections: one JSON object a line.
pub const CORRECTIONS_NAME: &str = "corrections.jsonl";

/// A sample's id as a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SampleId(pub u64);

impl Serialize for SampleId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for SampleId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(Self).map_err(serde::de::Error::custom)
    }
}

/// Everything that was found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub schema: u16,
    pub settings: QualityPlan,
    pub rows: PartCounts,
    pub totals: Totals,
    pub detected_outliers: Vec<ColumnOutliers>,
    /// None where the check was not asked for, or could not be run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anomalies: Option<Anomalies>,
    /// The most suspicious first.
    pub potential_mislabels: Vec<Mislabel>,
    /// Regression: targets that cross-validated predictions miss by far, the farthest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub suspicious_targets: Vec<SuspiciousTarget>,
    /// Of the given labels, and what cross-validated predictions say about them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label_distribution: Option<LabelDistribution>,
    /// The first ones; all of them in `corrections_record`.
    pub corrections_applied: Vec<Correction>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub corrections_record: Option<ArtifactRef>,
    pub duplicates: Duplicates,
    /// Columns that alone predict the target better than an honest one should, or are counted together with it.
    pub leakage_suspects: Vec<ColumnScore>,
    /// How well each column alone predicts the target, the best first.
    pub single_column_scores: Vec<ColumnScore>,
    /// What was asked for and could not be done, and why.
    pub not_run: Vec<NotRun>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartCounts {
    pub train: u64,
    pub val: u64,
    pub test: u64,
}

impl PartCounts {
    pub fn count(&mut self, part: Split) {
        match part {
            Split::Train => self.train += 1,
            Split::Val => self.val += 1,
            Split::Test => self.test += 1,
        }
    }

    pub fn all(&self) -> u64 {
        self.train + self.val + self.test
    }
}

/// How many there are, listed or not.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Values, summed over columns and methods.
    pub detected_outliers: u64,
    pub anomalies: u64,
    pub potential_mislabels: u64,
    pub suspicious_targets: u64,
    pub corrections_applied: u64,
    /// Rows with the features of an earlier one.
    pub exact_duplicates: u64,
    /// Rows of val and test with the features of a row of an earlier part.
    pub leaked_rows: u64,
    /// Groups of rows with the same features and different targets.
    pub conflicts: u64,
    /// Pairs of similar texts.
    pub near_duplicates: u64,
    /// Those between parts.
    pub near_leaks: u64,
    pub leakage_suspects: u64,
}

/// Outliers of one column by one method. The bounds follow from train alone; lists go together, the farthest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ColumnOutliers {
    pub column: String,
    pub method: OutlierMethod,
    /// Mean, or median.
    pub center: f64,
    /// Standard deviation (ddof 0; missing values count as the median), or interquartile range.
    pub spread: f64,
    pub lower: f64,
    pub upper: f64,
    pub found: PartCounts,
    pub sample_ids: Vec<SampleId>,
    pub parts: Vec<Split>,
    pub values: Vec<f64>,
    /// Distance from the center in spreads; `null` by IQR where the spread is 0.
    pub z_scores: Vec<Option<f64>>,
}

/// Rows unlike the others.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Anomalies {
    /// Scores above this are anomalies; from train.
    pub offset: f64,
    pub found: PartCounts,
    /// The most anomalous first.
    pub listed: Vec<Anomaly>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Anomaly {
    pub sample_id: SampleId,
    pub part: Split,
    /// In (0, 1), near 1 for anomalies.
    pub score: f64,
}

/// A label that predictions contradict: of train by models that did not see the row, of val and test by the mean of
/// these models.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Mislabel {
    pub sample_id: SampleId,
    pub part: Split,
    pub original_label: String,
    pub suggested_label: String,
    /// Probability of the suggested label.
    pub confidence: f64,
    /// Probability of the label given (self-confidence).
    pub own_probability: f64,
    /// (own probability - greatest other one + 1) / 2: the lower, the more suspicious.
    pub normalized_margin: f64,
    /// Whether confident learning counts it among the errors of train.
    pub label_issue: bool,
    /// Whether the isolation forest calls it an anomaly; none where that was not run.
    pub is_anomaly: Option<bool>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SuspiciousTarget {
    pub sample_id: SampleId,
    pub part: Split,
    pub value: f64,
    pub predicted: f64,
    /// Of the residual: 0.6745 (residual - median) / median absolute deviation, of train.
    pub robust_z: f64,
    pub is_anomaly: Option<bool>,
}

/// Labels by class.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LabelDistribution {
    pub classes: Vec<ClassLabels>,
    /// Rows of train by label given (row) and estimated true label (column): the calibrated confident joint.
    pub joint: Vec<Vec<u64>>,
    /// Share of train whose label is estimated to be wrong.
    pub noise: f64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClassLabels {
    pub label: String,
    pub rows: PartCounts,
    /// Mean probability of the class among the rows of train that carry it; none without such rows.
    pub threshold: Option<f64>,
    /// Rows of train that are estimated to belong to it.
    pub estimated: u64,
}

/// A label that was changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Correction {
    pub sample_id: SampleId,
    pub part: Split,
    pub original_value: String,
    pub corrected_value: String,
    /// Probability that the corrected value is right, of a row that carries the original one.
    pub confidence: f64,
}

/// Rows and texts that stand several times.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Duplicates {
    /// Rows with the same features: those across parts first, then the largest groups.
    pub exact: Vec<DuplicateGroup>,
    pub near: Vec<NearDuplicate>,
    /// Whether the search for near duplicates ended before all candidates were compared.
    #[serde(default)]
    pub near_cut_short: bool,
    /// What is compared for near duplicates, in words.
    pub near_method: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DuplicateGroup {
    /// BLAKE3 of the features.
    pub blake3: String,
    pub rows: PartCounts,
    /// Whether it stands in several parts.
    pub leak: bool,
    /// Whether its rows have different targets.
    pub conflict: bool,
    /// At most [`MAX_GROUP`].
    pub sample_ids: Vec<SampleId>,
    pub parts: Vec<Split>,
}

/// Most samples that are listed of one group.
pub const MAX_GROUP: usize = 20;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NearDuplicate {
    pub column: String,
    /// Jaccard similarity of the sets of shingles.
    pub similarity: f64,
    pub sample_ids: [SampleId; 2],
    pub parts: [Split; 2],
    /// In different parts.
    pub leak: bool,
    /// With different targets.
    pub conflict: bool,
}

/// How well a column alone predicts the target.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ColumnScore {
    pub column: String,
    pub measure: LeakageMeasure,
    /// Cross-validated on train.
    pub value: f64,
    /// Above it the column is a suspect.
    pub limit: f64,
}

impl ColumnScore {
    /// Why it is a suspect.
    pub fn reason(&self) -> String {
        let (value, limit) = (self.value, self.limit);
        match self.measure {
            LeakageMeasure::R2 => format!("alone predicts the target (R2 {value:.3}, above {limit})"),
            LeakageMeasure::Auc | LeakageMeasure::AucOvrMacro => {
                format!("alone predicts the target (AUC {value:.3}, above {limit})")
            }
            LeakageMeasure::Total => format!(
                "and the target seem to be a total and its part (one never exceeds the other, and both are equal in {:.0} % \
                 of the rows where the part is not 0)",
                100.0 * value
            ),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LeakageMeasure {
    Auc,
    /// Of each class against the others, averaged.
    AucOvrMacro,
    R2,
    /// Share of rows in which column and target are the same number other than 0, where one never exceeds the other.
    Total,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotRun {
    pub check: QualityCheck,
    pub reason: String,
}
