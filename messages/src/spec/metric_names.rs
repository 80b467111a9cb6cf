//! Names, aliases, directions and tasks of metrics. The arithmetic is in `kernels::metrics`, whose
//! catalog must say the same: a spec that is accepted here must be computable there.

use crate::plan::{Mode, Task};

/// A metric as a spec may name it.
#[derive(Debug, Clone, Copy)]
pub struct MetricName {
    pub name: &'static str,
    pub aliases: &'static [&'static str],
    /// `Min` for an error, `Max` for a score.
    pub better: Mode,
    pub tasks: &'static [Task],
}

const REGRESSION: &[Task] = &[Task::Regression];
const BINARY: &[Task] = &[Task::BinaryClassification];
const MULTICLASS: &[Task] = &[Task::Multiclass];
const CLASSIFICATION: &[Task] = &[Task::BinaryClassification, Task::Multiclass];

const fn metric(
    name: &'static str,
    aliases: &'static [&'static str],
    better: Mode,
    tasks: &'static [Task],
) -> MetricName {
    MetricName { name, aliases, better, tasks }
}

/// Every metric.
pub const METRICS: &[MetricName] = &[
    metric("rmse", &["root_mean_squared_error"], Mode::Min, REGRESSION),
    metric("mae", &["mean_absolute_error"], Mode::Min, REGRESSION),
    metric("r2", &["r2_score"], Mode::Max, REGRESSION),
    metric("pearson_correlation", &["pearson", "pearsonr"], Mode::Max, REGRESSION),
    metric("mse", &["mean_squared_error"], Mode::Min, REGRESSION),
    metric("mape", &[], Mode::Min, REGRESSION),
    metric("mape_eps", &["mean_absolute_percentage_error"], Mode::Min, REGRESSION),
    metric("explained_variance", &["explained_variance_score"], Mode::Max, REGRESSION),
    metric("median_absolute_error", &["medae"], Mode::Min, REGRESSION),
    metric("max_error", &[], Mode::Min, REGRESSION),
    metric("accuracy", &["acc", "accuracy_score"], Mode::Max, CLASSIFICATION),
    metric("precision", &["precision_score"], Mode::Max, BINARY),
    metric("recall", &["recall_score"], Mode::Max, BINARY),
    metric("f1", &["f1_score"], Mode::Max, BINARY),
    metric("auc", &["roc_auc", "roc_auc_score", "auroc"], Mode::Max, BINARY),
    metric("average_precision", &["average_precision_score"], Mode::Max, BINARY),
    metric("balanced_accuracy", &["balanced_accuracy_score"], Mode::Max, BINARY),
    metric("mcc", &["matthews_corrcoef"], Mode::Max, BINARY),
    metric("brier", &["brier_score", "brier_score_loss"], Mode::Min, BINARY),
    metric("ece", &["expected_calibration_error"], Mode::Min, BINARY),
    metric("log_loss", &["logloss"], Mode::Min, CLASSIFICATION),
    metric("precision_macro", &[], Mode::Max, MULTICLASS),
    metric("recall_macro", &[], Mode::Max, MULTICLASS),
    metric("f1_macro", &["macro_f1"], Mode::Max, MULTICLASS),
    metric("precision_weighted", &[], Mode::Max, MULTICLASS),
    metric("recall_weighted", &[], Mode::Max, MULTICLASS),
    metric("f1_weighted", &["weighted_f1"], Mode::Max, MULTICLASS),
    metric("precision_micro", &[], Mode::Max, MULTICLASS),
    metric("recall_micro", &[], Mode::Max, MULTICLASS),
    metric("f1_micro", &["micro_f1"], Mode::Max, MULTICLASS),
    metric("auc_ovr_macro", &["auc_ovr", "roc_auc_ovr", "roc_auc_ovr_macro"], Mode::Max, MULTICLASS),
];

impl MetricName {
    /// By name or alias.
    pub fn find(name: &str) -> Option<&'static Self> {
        METRICS.iter().find(|metric| metric.name == name || metric.aliases.contains(&name))
    }

    pub fn fits(&self, task: Task) -> bool {
        self.tasks.contains(&task)
    }

    /// Names and aliases of the metrics of a task.
    pub fn names_of(task: Task) -> impl Iterator<Item = &'static str> {
        METRICS
            .iter()
            .filter(move |metric| metric.fits(task))
            .flat_map(|metric| std::iter::once(metric.name).chain(metric.aliases.iter().copied()))
    }

    /// What is computed where a job names nothing (specification, "Evaluation Framework").
    pub fn defaults(task: Task) -> &'static [&'static str] {
        match task {
            Task::Regression => &["rmse", "mae", "r2", "pearson_correlation"],
            Task::BinaryClassification => &["accuracy", "precision", "recall", "f1", "auc", "average_precision"],
            Task::Multiclass => &["accuracy", "precision_macro", "recall_macro", "f1_macro"],
        }
    }

    /// The metric that leads where a job names none (same section).
    pub fn default_primary(task: Task) -> &'static str {
        match task {
            Task::Regression => "rmse",
            Task::BinaryClassification => "f1",
            Task::Multiclass => "f1_macro",
        }
    }
}
