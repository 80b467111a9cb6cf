//! Metrics of the validation part after an epoch: `val_loss` on the transformed target as it is trained,
//! the plan's metrics on values of the target column. Every rank computes all of them, so that all take
//! the same decisions without a word.

use std::str::FromStr;

use frame::{Encoded, Manifest};
use kernels::metrics::{Metric, MetricError, Options, Predictions, compute};
use kernels::nn::Model;
use kernels::train::LossSum;
use messages::WireError;
use messages::error::Code;
use messages::event::{MetricValue, Metrics};
use messages::plan::{JobPlan, Task};

use super::engine::{Engine, step_error};

/// Accumulates the validation part batch by batch.
pub struct Validation<'a> {
    manifest: &'a Manifest,
    /// The average of the weights, where that is what is announced.
    average: Option<Model>,
    loss: LossSum,
    actual: Vec<f64>,
    predicted: Vec<f64>,
}

impl<'a> Validation<'a> {
    pub fn new(manifest: &'a Manifest, average: Option<Model>) -> Self {
        Self { manifest, average, loss: LossSum::default(), actual: Vec::new(), predicted: Vec::new() }
    }

    /// One batch in stored order.
    pub fn add(&mut self, engine: &mut Engine, rows: Encoded, at: (u32, u64)) -> Result<(), WireError> {
        let transform = self.manifest.target.transform;
        // Numbers of the target column from what the model learns; probabilities and classes stay.
        let value = |learned: f32| transform.invert(f64::from(learned));
        self.actual.extend(rows.targets.iter().map(|&y| value(y)));
        let batch = engine.batch(rows);
        let step = engine.trainer().global_step();
        let failed = |e: kernels::Error| step_error(&e, step, at);
        let (loss, mut outputs) = engine.trainer_mut().validate(self.average.as_ref(), &batch).map_err(failed)?;
        self.loss.merge(loss);
        engine.trainer().config().loss.to_predictions(&mut outputs, self.manifest.outputs());
        self.predicted.extend(outputs.iter().map(|&p| value(p)));
        Ok(())
    }

    /// The metrics, each name with the prefix `val_`.
    pub fn finish(self, plan: &JobPlan) -> Result<Metrics, WireError> {
        let mut metrics = Metrics::new();
        let loss =
            self.loss.mean().map_or_else(|| MetricValue::undefined("the validation part is empty"), MetricValue::of);
        metrics.insert("val_loss".into(), loss);
        let wanted = wanted(plan)?;
        if self.actual.is_empty() {
            for metric in wanted {
                metrics
                    .insert(format!("val_{}", metric.name()), MetricValue::undefined("the validation part is empty"));
            }
            return Ok(metrics);
        }
        let failed = |e: MetricError| WireError::new(Code::TrainingError, e.to_string());
        let (positive, classes): (Vec<bool>, Vec<u32>);
        let predictions = match plan.task {
            Task::Regression => Predictions::regression(&self.actual, &self.predicted),
            Task::BinaryClassification => {
                positive = self.actual.iter().map(|&y| y > 0.5).collect();
                Predictions::binary(&positive, &self.predicted)
            }
            Task::Multiclass => {
                classes = self.actual.iter().map(|&y| y as u32).collect();
                Predictions::multiclass(&classes, &self.predicted, self.manifest.outputs())
            }
        }
        .map_err(failed)?;
        let options = Options { threshold: plan.evaluation.threshold, ..Options::default() };
        for (metric, value) in compute(&wanted, &predictions, &options).map_err(failed)? {
            let value = match value.value() {
                Some(value) => MetricValue::of(value),
                None => MetricValue::undefined(value.reason().unwrap_or("undefined")),
            };
            metrics.insert(format!("val_{}", metric.name()), value);
        }
        Ok(metrics)
    }
}

/// The plan's metrics and those that its monitors name; an unknown name is an error of the spec.
pub fn wanted(plan: &JobPlan) -> Result<Vec<Metric>, WireError> {
    let unknown = |key: &str, e: MetricError| WireError::new(Code::ConfigError, format!("{key}: {e}"));
    let mut metrics = Vec::new();
    for name in &plan.evaluation.metrics {
        metrics.push(Metric::from_str(name).map_err(|e| unknown("evaluation.metrics", e))?);
    }
    let stopping = plan.training.early_stopping.as_ref();
    let monitors = [
        ("training.early_stopping.monitor", stopping.map(|stop| stop.monitor.as_str())),
        ("training.checkpoint.metric_name", Some(plan.training.checkpoint.metric_name.as_str())),
    ];
    for (key, monitor) in monitors {
        if let Some(Monitor::Metric(metric)) = monitor.map(|name| Monitor::parse(key, name)).transpose()? {
            metrics.push(metric);
        }
    }
    metrics.sort_unstable();
    metrics.dedup();
    Ok(metrics)
}

/// What a plan may watch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Monitor {
    TrainLoss,
    ValLoss,
    Metric(Metric),
}

impl Monitor {
    /// `loss`, `val_loss` or `val_<metric>`; `key` is named in the error.
    pub fn parse(key: &str, name: &str) -> Result<Self, WireError> {
        let rest = match name {
            "loss" | "train_loss" => return Ok(Self::TrainLoss),
            "val_loss" => return Ok(Self::ValLoss),
            _ => name.strip_prefix("val_").unwrap_or(name),
        };
        Metric::from_str(rest).map(Self::Metric).map_err(|e| {
            WireError::new(Code::ConfigError, format!("{key}: {name:?}: expected loss, val_loss or val_<metric>; {e}"))
        })
    }

    /// Its name among an epoch's metrics.
    pub fn name(self) -> String {
        match self {
            Self::TrainLoss => "loss".into(),
            Self::ValLoss => "val_loss".into(),
            Self::Metric(metric) => format!("val_{}", metric.name()),
        }
    }
}
