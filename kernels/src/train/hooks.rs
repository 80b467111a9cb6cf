//! Hooks: what others do at the moments of a training. Whoever runs the loop tells a [`Hooks`] each moment
//! and asks it after every epoch whether to stop; a hook that turns moments into events is an [`Observer`].

use super::early_stop::EarlyStopping;
use super::engine::StepOutcome;
use std::collections::BTreeMap;

/// A moment of a training. Epochs count from 0.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "hook", rename_all = "snake_case")]
pub enum Moment {
    /// Before the first epoch (after a resume: before the next).
    OnTrainBegin {
        epochs: u64,
        first_epoch: u64,
    },
    OnEpochBegin {
        epoch: u64,
    },
    /// After each optimizer step, skipped ones included.
    OnStepEnd {
        epoch: u64,
        outcome: StepOutcome,
    },
    /// With the epoch's metrics; those of validation are named `val_…`.
    OnEpochEnd {
        epoch: u64,
        metrics: BTreeMap<String, f64>,
    },
    /// After the last epoch, or the one after which a hook said why to stop.
    OnTrainEnd {
        epochs_done: u64,
        stopped: Option<String>,
    },
}

/// Something that follows a training.
pub trait Hook: Send {
    /// A moment came.
    fn on(&mut self, moment: &Moment);

    /// Why training should stop, asked after each epoch; the trait's own answer is that it need not.
    fn should_stop(&self) -> Option<String> {
        None
    }
}

/// Hands every moment to a function.
pub struct Observer<F>(pub F);

impl<F: FnMut(&Moment) + Send> Hook for Observer<F> {
    fn on(&mut self, moment: &Moment) {
        (self.0)(moment);
    }
}

/// Watches its metric at the end of each epoch; an epoch that does not report it does not count.
impl Hook for EarlyStopping {
    fn on(&mut self, moment: &Moment) {
        if let Moment::OnEpochEnd { metrics, .. } = moment
            && let Some(value) = metrics.get(&self.config().monitor).copied()
        {
            self.observe(value);
        }
    }

    fn should_stop(&self) -> Option<String> {
        let config = self.config();
        let reason = || format!("{} has not improved for {} epochs", config.monitor, config.patience);
        self.is_over().then(reason)
    }
}

/// Hooks in the order in which they were added.
#[derive(Default)]
pub struct Hooks(Vec<Box<dyn Hook>>);

impl Hooks {
    /// Adds one.
    pub fn add(&mut self, hook: impl Hook + 'static) {
        self.0.push(Box::new(hook));
    }
}

impl Hook for Hooks {
    fn on(&mut self, moment: &Moment) {
        self.0.iter_mut().for_each(|hook| hook.on(moment));
    }

    /// The first hook's reason.
    fn should_stop(&self) -> Option<String> {
        self.0.iter().find_map(|hook| hook.should_stop())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::optim::Direction;
    use crate::train::EarlyStoppingConfig;
    use std::sync::mpsc::channel;

    #[test]
    fn every_hook_hears_every_moment_and_one_can_stop_the_training() {
        let (sender, heard) = channel();
        let mut hooks = Hooks::default();
        hooks.add(Observer(move |moment: &Moment| {
            let text = serde_json::to_string(moment).expect("a moment serializes");
            sender.send(text).expect("the test listens");
        }));
        let config =
            EarlyStoppingConfig { monitor: "val_loss".into(), patience: 2, min_delta: 0.0, mode: Direction::Min };
        hooks.add(EarlyStopping::new(config).expect("valid"));
        hooks.on(&Moment::OnTrainBegin { epochs: 10, first_epoch: 0 });
        let mut stopped = None;
        for (epoch, loss) in (0..10).zip([1.0, 0.5, 0.6, 0.7, 0.1]) {
            hooks.on(&Moment::OnEpochBegin { epoch });
            let outcome =
                StepOutcome { loss, grad_norm: 1.0, rows: 4, learning_rate: 0.1, step: epoch + 1, skipped: false };
            hooks.on(&Moment::OnStepEnd { epoch, outcome });
            let metrics = BTreeMap::from([("val_loss".to_owned(), loss)]);
            hooks.on(&Moment::OnEpochEnd { epoch, metrics });
            stopped = hooks.should_stop();
            if stopped.is_some() {
                hooks.on(&Moment::OnTrainEnd { epochs_done: epoch + 1, stopped: stopped.clone() });
                break;
            }
        }
        assert_eq!(stopped.as_deref(), Some("val_loss has not improved for 2 epochs"));
        drop(hooks);
        let heard: Vec<String> = heard.iter().collect();
        assert_eq!(heard.len(), 2 + 3 * 4);
        assert!(heard[0].contains("on_train_begin") && heard[3].contains("on_epoch_end"), "{heard:?}");
        assert!(heard[13].contains("on_train_end") && heard[13].contains(r#""epochs_done":4"#), "{heard:?}");
        let again: Moment = serde_json::from_str(&heard[2]).expect("a moment");
        assert!(matches!(again, Moment::OnStepEnd { epoch: 0, outcome } if outcome.loss == 1.0));
    }

    #[test]
    fn an_epoch_without_the_monitored_metric_does_not_count() {
        let config =
            EarlyStoppingConfig { monitor: "val_f1".into(), patience: 1, min_delta: 0.0, mode: Direction::Max };
        let mut stopping = EarlyStopping::new(config).expect("valid");
        for epoch in 0..5 {
            stopping.on(&Moment::OnEpochEnd { epoch, metrics: BTreeMap::new() });
        }
        assert_eq!(stopping.should_stop(), None);
    }
}
