//! Which epoch is the best: early stopping, the checkpoints that stay, and the model that is announced.

use kernels::optim::Direction;
use kernels::train::{BestK, EarlyStopping, EarlyStoppingConfig};
use messages::WireError;
use messages::event::Metrics;
use messages::plan::{EarlyStoppingPlan, JobPlan};

use super::mapping::{config_error, direction};
use super::validate::Monitor;
use crate::checkpoint::{BestEntry, BestModel, Bits};

/// What decides on the announced model. Early stopping's monitor where `restore_best` is set; the last
/// epoch where it is not; without early stopping the checkpoints' metric ("load best, else latest").
#[derive(Debug, Clone, PartialEq)]
struct Announce {
    monitor: String,
    mode: Direction,
}

/// What one epoch's metrics decide.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// Training should stop, and why.
    pub stop: Option<String>,
    /// This epoch's model is the one to announce so far.
    pub best_model: bool,
}

/// Follows the epochs.
#[derive(Debug)]
pub struct Selection {
    stopping: Option<(EarlyStoppingPlan, EarlyStopping)>,
    observed: Vec<Bits>,
    announce: Option<Announce>,
    best_model: Option<BestModel>,
    checkpoint_metric: String,
    best: BestK,
}

impl Selection {
    pub fn new(plan: &JobPlan) -> Result<Self, WireError> {
        let checkpoint = &plan.training.checkpoint;
        let checkpoint_metric = Monitor::parse("training.checkpoint.metric_name", &checkpoint.metric_name)?.name();
        let monitor = match &plan.training.early_stopping {
            Some(stop) => Monitor::parse("training.early_stopping.monitor", &stop.monitor)?.name(),
            None => String::new(),
        };
        let stopping = match &plan.training.early_stopping {
            None => None,
            Some(stop) => {
                let config = EarlyStoppingConfig {
                    monitor: monitor.clone(),
                    patience: u64::from(stop.patience),
                    min_delta: stop.min_delta,
                    mode: direction(stop.mode),
                };
                let state = EarlyStopping::new(config).map_err(|e| config_error("training.early_stopping", &e))?;
                Some((EarlyStoppingPlan { monitor: monitor.clone(), ..stop.clone() }, state))
            }
        };
        let announce = match &plan.training.early_stopping {
            Some(stop) if stop.restore_best => Some(Announce { monitor, mode: direction(stop.mode) }),
            None if checkpoint.keep_best > 0 => {
                Some(Announce { monitor: checkpoint_metric.clone(), mode: direction(checkpoint.mode) })
            }
            _ => None,
        };
        Ok(Self {
            stopping,
            observed: Vec::new(),
            announce,
            best_model: None,
            checkpoint_metric,
            best: BestK::new(checkpoint.keep_best as usize, direction(checkpoint.mode)),
        })
    }

    /// Continues from a checkpoint by replaying what was observed.
    pub fn restore(&mut self, observed: &[Bits], best: &[BestEntry], best_model: Option<BestModel>) -> Option<String> {
        let mut stop = None;
        for value in observed {
            stop = self.observe(value.0);
        }
        for entry in best {
            self.best.admit(entry.value.0, entry.name.clone());
        }
        self.best_model = best_model;
        stop
    }

    /// An epoch ended with these metrics. `epoch`: completed epochs.
    pub fn epoch(&mut self, epoch: u32, metrics: &Metrics) -> Verdict {
        let stop = match &self.stopping {
            Some((plan, _)) => {
                let value = value_of(metrics, &plan.monitor);
                self.observe(value)
            }
            None => None,
        };
        let mut best_model = false;
        if let Some(announce) = &self.announce {
            let value = value_of(metrics, &announce.monitor);
            let better = self.best_model.is_none_or(|best| match announce.mode {
                Direction::Min => value < best.value.0,
                Direction::Max => value > best.value.0,
            });
            if better && !value.is_nan() {
                self.best_model = Some(BestModel { epoch, value: Bits(value) });
                best_model = true;
            }
        }
        Verdict { stop, best_model }
    }

    /// A checkpoint of the epoch with these metrics is to be: among the best, if it is. Gives the one that is no
    /// longer among them.
    pub fn admit(&mut self, name: &str, metrics: &Metrics) -> Option<BestEntry> {
        let before = self.best();
        let evicted = self.best.admit(value_of(metrics, &self.checkpoint_metric), name).evicted?;
        before.into_iter().find(|entry| entry.name == evicted)
    }

    /// A checkpoint that was admitted does not lie in place; the one that it replaced may still.
    pub fn withdraw(&mut self, name: &str, replaced: Option<BestEntry>) {
        self.best.withdraw(name);
        if let Some(BestEntry { name, value }) = replaced {
            self.best.admit(value.0, name);
        }
    }

    pub fn observed(&self) -> &[Bits] {
        &self.observed
    }

    pub fn best_model(&self) -> Option<BestModel> {
        self.best_model
    }

    /// The best checkpoints, best first.
    pub fn best(&self) -> Vec<BestEntry> {
        self.best.held().map(|(value, name)| BestEntry { name: name.to_owned(), value: Bits(value) }).collect()
    }

    /// The best as they would be with this checkpoint; a checkpoint's own state lists itself.
    pub fn best_with(&self, name: &str, metrics: &Metrics) -> Vec<BestEntry> {
        let mut best = self.best.clone();
        best.admit(value_of(metrics, &self.checkpoint_metric), name);
        best.held().map(|(value, name)| BestEntry { name: name.to_owned(), value: Bits(value) }).collect()
    }

    fn observe(&mut self, value: f64) -> Option<String> {
        let (plan, state) = self.stopping.as_mut()?;
        self.observed.push(Bits(value));
        state.observe(value).then(|| {
            let best = state.best().map_or_else(|| "none".into(), |best| best.to_string());
            format!(
                "{} has not improved by more than {} for {} epochs; best {best}",
                plan.monitor, plan.min_delta, plan.patience
            )
        })
    }
}

/// The metric, NaN where it is undefined: no improvement over anything.
fn value_of(metrics: &Metrics, name: &str) -> f64 {
    metrics.get(name).and_then(messages::event::MetricValue::get).unwrap_or(f64::NAN)
}
