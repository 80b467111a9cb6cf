//! From predictions to the report, pure: metrics, baseline, confusion matrix, error analysis.

use std::collections::BTreeMap;

use frame::Manifest;
use kernels::metrics::{self, Baseline, Binary, Direction, Metric, Multiclass, Options, Task as MetricTask};
use messages::error::Code;
use messages::event::{MetricSummary, MetricValue, Metrics, ModelRef};
use messages::feed::Split;
use messages::plan::{JobPlan, Task};
use messages::{ArtifactRef, JobId, WireError};
use serde_json::json;

use crate::analysis::{Sample, analyze};
use crate::interpretation::interpret;
use crate::predict::Predictions;
use crate::report::{
    Analysis, Confusion, DatasetSummary, Generated, ModelSummary, PrimaryMetric, REPORT_VERSION, Report,
};

/// Names in `evaluation.metrics` that are no metrics but parts of every report.
const PARTS: [&str; 2] = ["loss", "confusion_matrix"];

/// Everything that a report is made of.
pub struct Evaluation<'a> {
    pub job: &'a JobId,
    pub plan: &'a JobPlan,
    pub dataset: &'a ArtifactRef,
    pub manifest: &'a Manifest,
    pub model: &'a ModelRef,
    /// Trained numbers of the model.
    pub parameters: usize,
    pub val: &'a Predictions,
    pub test: &'a Predictions,
}

impl Evaluation<'_> {
    /// The report, its field `generated` still empty.
    pub fn report(&self) -> Result<Report, WireError> {
        let primary = parse(&self.plan.evaluation.primary_metric)?;
        let metrics = self.summary(primary)?;
        let primary_metric = primary_metric(primary, &metrics);
        let mut report = Report {
            schema: REPORT_VERSION,
            run: self.job.to_string(),
            model_name: self.plan.name.clone(),
            task: self.task().as_str().to_owned(),
            target: self.manifest.target.column.clone(),
            dataset: self.dataset_summary(),
            model: ModelSummary { file: self.model.clone(), parameters: self.parameters },
            primary_metric,
            metrics,
            class_names: self.manifest.target.classes.clone(),
            threshold: (self.task() == Task::BinaryClassification).then_some(self.plan.evaluation.threshold),
            confusion_matrix: self.confusion_matrix(),
            error_analysis: BTreeMap::from([
                ("val".to_owned(), self.analysis(self.val)),
                ("test".to_owned(), self.analysis(self.test)),
            ]),
            interpretations: vec![],
            generated: Generated::default(),
        };
        report.interpretations = interpret(&report);
        Ok(report)
    }

    fn task(&self) -> Task {
        self.manifest.target.task
    }

    fn dataset_summary(&self) -> DatasetSummary {
        DatasetSummary {
            manifest: self.dataset.clone(),
            version: self.manifest.dataset_version.clone(),
            features: self.manifest.width(),
            rows_train: self.manifest.rows(Split::Train),
            rows_val: self.manifest.rows(Split::Val),
            rows_test: self.manifest.rows(Split::Test),
        }
    }

    fn summary(&self, primary: Metric) -> Result<MetricSummary, WireError> {
        let mut names = vec![];
        for name in self.plan.evaluation.metrics.iter().filter(|name| !PARTS.contains(&name.as_str())) {
            names.push(parse(name)?);
        }
        if names.is_empty() {
            names.extend_from_slice(metric_task(self.task()).default_metrics());
        }
        if !names.contains(&primary) {
            names.push(primary);
        }
        let of = |part: &Predictions| -> Result<Metrics, WireError> {
            let mut metrics = self.metrics(&names, &part.actual, &part.predicted)?;
            metrics.insert("loss".into(), part.loss());
            Ok(metrics)
        };
        let baseline = self.baseline().predictions(self.test.rows());
        Ok(MetricSummary {
            val: of(self.val)?,
            test: of(self.test)?,
            baseline: self.metrics(&names, &self.test.actual, &baseline)?,
        })
    }

    /// A constant answer, fitted on train.
    fn baseline(&self) -> Baseline {
        let target = &self.manifest.target;
        match target.task {
            Task::Regression => Baseline::Mean(target.train_mean),
            Task::BinaryClassification => Baseline::PositiveShare(target.train_mean),
            Task::Multiclass => Baseline::ClassShares(target.train_priors.clone()),
        }
    }

    fn metrics(&self, names: &[Metric], actual: &[f64], predicted: &[f64]) -> Result<Metrics, WireError> {
        let failed = |error: metrics::MetricError| WireError::new(Code::EvaluationError, error.to_string());
        let options = Options { threshold: self.plan.evaluation.threshold, ..Options::default() };
        let (positive, classes) = (positive(actual), class_indices(actual));
        let predictions = match self.task() {
            Task::Regression => metrics::Predictions::regression(actual, predicted),
            Task::BinaryClassification => metrics::Predictions::binary(&positive, predicted),
            Task::Multiclass => metrics::Predictions::multiclass(&classes, predicted, self.manifest.outputs()),
        };
        let computed = metrics::compute(names, &predictions.map_err(failed)?, &options).map_err(failed)?;
        Ok(computed.into_iter().map(|(metric, value)| (metric.name().to_owned(), wire(&value))).collect())
    }

    /// On test; none for regression, without samples, or with more classes than a matrix can show.
    fn confusion_matrix(&self) -> Option<Confusion> {
        let test = self.test;
        match self.task() {
            Task::Regression => None,
            Task::BinaryClassification => {
                let positive = positive(&test.actual);
                let c = Binary::new(&positive, &test.predicted).ok()?.confusion(self.plan.evaluation.threshold).ok()?;
                Some(Confusion {
                    labels: (0..2).map(|class| self.class_name(class)).collect(),
                    counts: vec![vec![c.true_negative, c.false_positive], vec![c.false_negative, c.true_positive]],
                })
            }
            Task::Multiclass => {
                let classes = class_indices(&test.actual);
                let rows = Multiclass::new(&classes, &test.predicted, self.manifest.outputs()).ok()?;
                let matrix = rows.confusion_matrix().ok()?;
                Some(Confusion {
                    labels: matrix.labels.iter().map(|class| self.class_name(*class as usize)).collect(),
                    counts: matrix.counts,
                })
            }
        }
    }

    fn class_name(&self, class: usize) -> String {
        self.manifest.target.classes.get(class).cloned().unwrap_or_else(|| class.to_string())
    }

    fn analysis(&self, part: &Predictions) -> Analysis {
        let samples: Vec<Sample> = part
            .sample_ids
            .iter()
            .enumerate()
            .map(|(row, sample_id)| Sample { sample_id: *sample_id, error: self.error(part, row) })
            .collect();
        match analyze(&samples, |row| self.shown(part, row)) {
            Ok(analysis) => Analysis::Done(Box::new(analysis)),
            Err(reason) => Analysis::Undefined { reason },
        }
    }

    fn error(&self, part: &Predictions, row: usize) -> f64 {
        let actual = part.actual[row];
        match self.task() {
            Task::Regression => part.predicted[row] - actual,
            Task::BinaryClassification if actual > 0.5 => 1.0 - part.predicted[row],
            Task::BinaryClassification => part.predicted[row],
            Task::Multiclass => 1.0 - part.row(row).get(actual as usize).copied().unwrap_or(0.0),
        }
    }

    /// True and predicted value of a row for a reader.
    fn shown(&self, part: &Predictions, row: usize) -> (serde_json::Value, serde_json::Value) {
        let actual = part.actual[row];
        let predicted = match self.task() {
            Task::Regression => return (json!(actual), json!(part.predicted[row])),
            Task::BinaryClassification => usize::from(part.predicted[row] >= self.plan.evaluation.threshold),
            Task::Multiclass => first_largest(part.row(row)),
        };
        (json!(self.class_name(actual as usize)), json!(self.class_name(predicted)))
    }
}

/// Index of the largest value, the lowest of equals.
fn first_largest(values: &[f64]) -> usize {
    values.iter().enumerate().fold(0, |best, (index, value)| if *value > values[best] { index } else { best })
}

fn positive(actual: &[f64]) -> Vec<bool> {
    actual.iter().map(|class| *class > 0.5).collect()
}

fn class_indices(actual: &[f64]) -> Vec<u32> {
    actual.iter().map(|class| *class as u32).collect()
}

fn parse(name: &str) -> Result<Metric, WireError> {
    name.parse().map_err(|error: metrics::MetricError| {
        WireError::new(Code::ConfigError, format!("evaluation.metrics: {error}"))
    })
}

fn metric_task(task: Task) -> MetricTask {
    match task {
        Task::Regression => MetricTask::Regression,
        Task::BinaryClassification => MetricTask::Binary,
        Task::Multiclass => MetricTask::Multiclass,
    }
}

fn wire(value: &metrics::MetricValue) -> MetricValue {
    value.value().map_or_else(|| MetricValue::undefined(value.reason().unwrap_or_default()), MetricValue::Defined)
}

fn primary_metric(metric: Metric, summary: &MetricSummary) -> PrimaryMetric {
    let of = |metrics: &Metrics| {
        metrics.get(metric.name()).cloned().unwrap_or_else(|| MetricValue::undefined("not computed"))
    };
    let (test, baseline) = (of(&summary.test), of(&summary.baseline));
    PrimaryMetric {
        name: metric.name().to_owned(),
        higher_is_better: metric.direction() == Direction::HigherIsBetter,
        beats_baseline: test
            .get()
            .zip(baseline.get())
            .map(|(test, baseline)| metric.direction().improves(test, baseline)),
        val: of(&summary.val),
        test,
        baseline,
    }
}
