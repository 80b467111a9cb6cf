//! The catalog of metrics: name, aliases, direction and tasks of each, in one table.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::MetricError;

/// What a model predicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Task {
    /// A number.
    #[serde(rename = "regression")]
    Regression,
    /// One of two classes.
    #[serde(rename = "binary_classification")]
    Binary,
    /// One of several classes.
    #[serde(rename = "multiclass")]
    Multiclass,
}

impl Task {
    /// The name on the wire and in a job spec.
    pub fn name(self) -> &'static str {
        match self {
            Self::Regression => "regression",
            Self::Binary => "binary_classification",
            Self::Multiclass => "multiclass",
        }
    }

    /// The metrics computed when a job names none (specification, "Evaluation Framework").
    pub fn default_metrics(self) -> &'static [Metric] {
        use Metric as M;
        match self {
            Self::Regression => &[M::Rmse, M::Mae, M::R2, M::PearsonCorrelation],
            Self::Binary => &[M::Accuracy, M::Precision, M::Recall, M::F1, M::Auc, M::AveragePrecision],
            Self::Multiclass => &[M::Accuracy, M::PrecisionMacro, M::RecallMacro, M::F1Macro],
        }
    }

    /// The metric that selects a model when a job names none (specification, same section).
    pub fn default_primary(self) -> Metric {
        match self {
            Self::Regression => Metric::Rmse,
            Self::Binary => Metric::F1,
            Self::Multiclass => Metric::F1Macro,
        }
    }
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Which way a metric gets better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// A score.
    HigherIsBetter,
    /// An error.
    LowerIsBetter,
}

impl Direction {
    /// Whether `candidate` is strictly better than `incumbent`; false if either is NaN.
    pub fn improves(self, candidate: f64, incumbent: f64) -> bool {
        match self {
            Self::HigherIsBetter => candidate > incumbent,
            Self::LowerIsBetter => candidate < incumbent,
        }
    }
}

macro_rules! catalog {
    ($($variant:ident = $name:literal $aliases:expr, $direction:ident, $tasks:expr, $doc:literal;)*) => {
        /// A metric. It is written by its canonical name and read by that or an alias.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Metric {
            $(#[doc = $doc] $variant,)*
        }

        impl Metric {
            /// Every metric, in the order in which results list them.
            pub const ALL: &'static [Metric] = &[$(Self::$variant),*];

            /// The canonical name.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }

            /// Other names that are understood.
            pub fn aliases(self) -> &'static [&'static str] {
                match self { $(Self::$variant => &$aliases),* }
            }

            /// Which way it gets better.
            pub fn direction(self) -> Direction {
                match self { $(Self::$variant => Direction::$direction),* }
            }

            /// The tasks it exists for.
            pub fn tasks(self) -> &'static [Task] {
                match self { $(Self::$variant => $tasks),* }
            }
        }
    };
}

const REGRESSION: &[Task] = &[Task::Regression];
const BINARY: &[Task] = &[Task::Binary];
const MULTICLASS: &[Task] = &[Task::Multiclass];
const CLASSIFICATION: &[Task] = &[Task::Binary, Task::Multiclass];

catalog! {
    Rmse = "rmse" ["root_mean_squared_error"], LowerIsBetter, REGRESSION, "Root of the mean squared error.";
    Mae = "mae" ["mean_absolute_error"], LowerIsBetter, REGRESSION, "Mean absolute error.";
    R2 = "r2" ["r2_score"], HigherIsBetter, REGRESSION, "Coefficient of determination.";
    PearsonCorrelation = "pearson_correlation" ["pearson", "pearsonr"], HigherIsBetter, REGRESSION, "Linear correlation.";
    Mse = "mse" ["mean_squared_error"], LowerIsBetter, REGRESSION, "Mean squared error.";
    Mape = "mape" [], LowerIsBetter, REGRESSION, "Mean absolute percentage error over nonzero targets, in percent.";
    MapeEps = "mape_eps" ["mean_absolute_percentage_error"], LowerIsBetter, REGRESSION, "scikit-learn's percentage error: a fraction, zero targets count as machine epsilon.";
    ExplainedVariance = "explained_variance" ["explained_variance_score"], HigherIsBetter, REGRESSION, "R² that ignores a constant bias.";
    MedianAbsoluteError = "median_absolute_error" ["medae"], LowerIsBetter, REGRESSION, "Median absolute error.";
    MaxError = "max_error" [], LowerIsBetter, REGRESSION, "Largest absolute error.";
    Accuracy = "accuracy" ["acc", "accuracy_score"], HigherIsBetter, CLASSIFICATION, "Share of right predictions.";
    Precision = "precision" ["precision_score"], HigherIsBetter, BINARY, "Share of positive predictions that are right.";
    Recall = "recall" ["recall_score"], HigherIsBetter, BINARY, "Share of positive labels that are found.";
    F1 = "f1" ["f1_score"], HigherIsBetter, BINARY, "Harmonic mean of precision and recall.";
    Auc = "auc" ["roc_auc", "roc_auc_score", "auroc"], HigherIsBetter, BINARY, "Area under the ROC curve.";
    AveragePrecision = "average_precision" ["average_precision_score"], HigherIsBetter, BINARY, "Step sum under the precision-recall curve.";
    BalancedAccuracy = "balanced_accuracy" ["balanced_accuracy_score"], HigherIsBetter, BINARY, "Mean recall of the classes present.";
    Mcc = "mcc" ["matthews_corrcoef"], HigherIsBetter, BINARY, "Matthews correlation coefficient.";
    Brier = "brier" ["brier_score", "brier_score_loss"], LowerIsBetter, BINARY, "Mean squared error of the probability.";
    Ece = "ece" ["expected_calibration_error"], LowerIsBetter, BINARY, "Expected calibration error.";
    LogLoss = "log_loss" ["logloss"], LowerIsBetter, CLASSIFICATION, "Mean negative log likelihood.";
    PrecisionMacro = "precision_macro" [], HigherIsBetter, MULTICLASS, "Precision, every label alike.";
    RecallMacro = "recall_macro" [], HigherIsBetter, MULTICLASS, "Recall, every label alike.";
    F1Macro = "f1_macro" ["macro_f1"], HigherIsBetter, MULTICLASS, "F1, every label alike.";
    PrecisionWeighted = "precision_weighted" [], HigherIsBetter, MULTICLASS, "Precision, labels by frequency.";
    RecallWeighted = "recall_weighted" [], HigherIsBetter, MULTICLASS, "Recall, labels by frequency.";
    F1Weighted = "f1_weighted" ["weighted_f1"], HigherIsBetter, MULTICLASS, "F1, labels by frequency.";
    PrecisionMicro = "precision_micro" [], HigherIsBetter, MULTICLASS, "Precision, every sample alike.";
    RecallMicro = "recall_micro" [], HigherIsBetter, MULTICLASS, "Recall, every sample alike.";
    F1Micro = "f1_micro" ["micro_f1"], HigherIsBetter, MULTICLASS, "F1, every sample alike.";
    AucOvrMacro = "auc_ovr_macro" ["auc_ovr", "roc_auc_ovr", "roc_auc_ovr_macro"], HigherIsBetter, MULTICLASS, "Mean one-versus-rest AUC.";
}

impl Metric {
    /// The metrics of `task`.
    pub fn of(task: Task) -> impl Iterator<Item = Metric> {
        Self::ALL.iter().copied().filter(move |metric| metric.tasks().contains(&task))
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Metric {
    type Err = MetricError;

    fn from_str(name: &str) -> Result<Self, MetricError> {
        let known = |metric: &&Metric| metric.name() == name || metric.aliases().contains(&name);
        let found = Self::ALL.iter().find(known).copied();
        found.ok_or_else(|| MetricError::UnknownMetric { name: name.to_owned() })
    }
}

impl Serialize for Metric {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Metric {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        name.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn every_name_means_one_metric() {
        let mut owner = BTreeMap::new();
        for &metric in Metric::ALL {
            for name in std::iter::once(&metric.name()).chain(metric.aliases()) {
                assert_eq!(owner.insert(*name, metric), None, "{name} is taken");
                assert_eq!(name.parse::<Metric>().unwrap(), metric);
            }
        }
    }

    #[test]
    fn it_is_written_by_its_canonical_name() {
        let metrics: BTreeMap<Metric, f64> = serde_json::from_str(r#"{"roc_auc": 0.5, "f1_score": 1.0}"#).unwrap();
        assert_eq!(serde_json::to_string(&metrics).unwrap(), r#"{"f1":1.0,"auc":0.5}"#);
        assert!(serde_json::from_str::<Metric>(r#""f7""#).is_err());
    }

    #[test]
    fn defaults_are_the_specification_s() {
        let check = |task: Task, metrics: &[&str], primary: &str| {
            let names: Vec<_> = task.default_metrics().iter().map(|metric| metric.name()).collect();
            assert_eq!(names, metrics);
            assert_eq!(task.default_primary().name(), primary);
            assert!(task.default_metrics().contains(&task.default_primary()));
            assert!(task.default_metrics().iter().all(|metric| metric.tasks().contains(&task)));
            assert_eq!(serde_json::to_string(&task).unwrap(), format!("\"{task}\""));
        };
        check(Task::Regression, &["rmse", "mae", "r2", "pearson_correlation"], "rmse");
        check(Task::Binary, &["accuracy", "precision", "recall", "f1", "auc", "average_precision"], "f1");
        check(Task::Multiclass, &["accuracy", "precision_macro", "recall_macro", "f1_macro"], "f1_macro");
    }

    #[test]
    fn errors_fall_and_scores_rise() {
        assert!(Metric::Rmse.direction().improves(1.0, 2.0));
        assert!(Metric::Auc.direction().improves(0.9, 0.8));
        assert!(!Metric::Auc.direction().improves(f64::NAN, 0.8));
        assert!(!Metric::Rmse.direction().improves(1.0, 1.0));
    }
}
