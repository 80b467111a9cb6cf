//! Metrics of the validation part after an epoch: `val_loss` on the transformed target as it is trained,
//! the plan's metrics on values of the target column. The ranks share the batches and then all have all
//! predictions, so that all compute the same metrics and take the same decisions.

use std::str::FromStr;

use frame::{Encoded, Manifest};
use kernels::collective::Values;
use kernels::metrics::{Metric, MetricError, Options, Predictions, compute};
use kernels::nn::Model;
use kernels::train::LossSum;
use messages::WireError;
use messages::error::Code;
use messages::event::{MetricValue, Metrics};
use messages::plan::{JobPlan, Task};

use super::engine::{Engine, step_error};
use crate::error::Error;
use crate::exchange::Group;

/// Accumulates the validation part batch by batch.
pub struct Validation<'a> {
    manifest: &'a Manifest,
    /// The average of the weights, where that is what is announced.
    average: Option<Model>,
    /// By batch.
    losses: Vec<LossSum>,
    /// Rows up to the end of each batch.
    rows: Vec<usize>,
    /// Values of the target column.
    actual: Vec<f64>,
    /// What the model answers, [rows, columns].
    outputs: Vec<f32>,
}

/// Bytes of a batch's loss on its way between ranks.
const LOSS_BYTES: usize = 24;

impl<'a> Validation<'a> {
    pub fn new(manifest: &'a Manifest, average: Option<Model>) -> Self {
        Self { manifest, average, losses: Vec::new(), rows: Vec::new(), actual: Vec::new(), outputs: Vec::new() }
    }

    /// One batch in stored order; another rank computes what is not `own`.
    pub fn add(&mut self, engine: &mut Engine, rows: Encoded, at: (u32, u64), own: bool) -> Result<(), WireError> {
        let transform = self.manifest.target.transform;
        self.actual.extend(rows.targets.iter().map(|&y| transform.invert(f64::from(y))));
        self.rows.push(self.rows.last().copied().unwrap_or(0) + rows.rows);
        if !own {
            self.losses.push(LossSum::default());
            self.outputs.resize(self.outputs.len() + rows.rows * Self::columns(engine), 0.0);
            return Ok(());
        }
        let batch = engine.batch(rows);
        let step = engine.trainer().global_step();
        let failed = |e: kernels::Error| step_error(&e, step, at);
        let (loss, mut outputs) = engine.trainer_mut().validate(self.average.as_ref(), &batch).map_err(failed)?;
        self.losses.push(loss);
        engine.trainer().config().loss.to_predictions(&mut outputs, self.manifest.outputs());
        self.outputs.extend(outputs);
        Ok(())
    }

    fn columns(engine: &Engine) -> usize {
        engine.trainer().model().output_dim()
    }

    /// The batches that a seat computes, of so many.
    pub fn share(seat: usize, world: usize, batches: u64) -> std::ops::Range<u64> {
        let cut = |seat: usize| seat as u64 * batches / world as u64;
        cut(seat)..cut(seat + 1)
    }

    /// What the other ranks computed: the numbers are those of one process, in its order.
    pub fn gather(&mut self, group: &mut Group, engine: &Engine) -> Result<(), Error> {
        let (world, columns) = (group.topology().world, Self::columns(engine));
        let batches = self.losses.len() as u64;
        let cuts: Vec<usize> = (0..world)
            .map(|seat| Self::share(seat, world, batches).start as usize)
            .chain([self.losses.len()])
            .collect();
        let mut losses = vec![0; self.losses.len() * LOSS_BYTES];
        for (loss, bytes) in self.losses.iter().zip(losses.chunks_exact_mut(LOSS_BYTES)) {
            bytes[..8].copy_from_slice(&loss.sum.to_le_bytes());
            bytes[8..16].copy_from_slice(&loss.weight.to_le_bytes());
            bytes[16..].copy_from_slice(&(loss.rows as u64).to_le_bytes());
        }
        group.all_gather(Values::Bytes(&mut losses), cuts.iter().map(|at| at * LOSS_BYTES).collect())?;
        for (loss, bytes) in self.losses.iter_mut().zip(losses.chunks_exact(LOSS_BYTES)) {
            let at = |from: usize| -> [u8; 8] { std::array::from_fn(|i| bytes[from + i]) };
            let rows = u64::from_le_bytes(at(16)) as usize;
            *loss = LossSum { sum: f64::from_le_bytes(at(0)), weight: f64::from_le_bytes(at(8)), rows };
        }
        let row = |batch: usize| if batch == 0 { 0 } else { self.rows[batch - 1] };
        let bounds = cuts.iter().map(|&batch| row(batch) * columns).collect();
        group.all_gather(Values::F32(&mut self.outputs), bounds)
    }

    /// The metrics, each name with the prefix `val_`.
    pub fn finish(self, plan: &JobPlan) -> Result<Metrics, WireError> {
        let mut metrics = Metrics::new();
        let transform = self.manifest.target.transform;
        // Numbers of the target column from what the model learns; probabilities and classes stay.
        let predicted: Vec<f64> = self.outputs.iter().map(|&p| transform.invert(f64::from(p))).collect();
        let mut loss = LossSum::default();
        self.losses.iter().for_each(|of_batch| loss.merge(*of_batch));
        let loss = loss.mean().map_or_else(|| MetricValue::undefined("the validation part is empty"), MetricValue::of);
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
            Task::Regression => Predictions::regression(&self.actual, &predicted),
            Task::BinaryClassification => {
                positive = self.actual.iter().map(|&y| y > 0.5).collect();
                Predictions::binary(&positive, &predicted)
            }
            Task::Multiclass => {
                classes = self.actual.iter().map(|&y| y as u32).collect();
                Predictions::multiclass(&classes, &predicted, self.manifest.outputs())
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
