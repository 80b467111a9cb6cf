//! Early stopping: pure bookkeeping over a metric per epoch.

use crate::error::{Error, Result};
use crate::optim::Direction;

/// When to stop.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EarlyStoppingConfig {
    /// The metric's name; who reports it is the caller's business.
    #[serde(default = "val_loss")]
    pub monitor: String,
    /// Epochs without improvement that are tolerated: training stops after `patience` in a row.
    pub patience: u64,
    /// An improvement is more than this (absolute).
    #[serde(default)]
    pub min_delta: f64,
    #[serde(default)]
    pub mode: Direction,
}

fn val_loss() -> String {
    "val_loss".into()
}

/// Progress towards stopping.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct EarlyStopping {
    config: EarlyStoppingConfig,
    best_bits: Option<u64>,
    bad_epochs: u64,
}

impl EarlyStopping {
    /// Before the first epoch. `Value` error for a negative or undefined `min_delta` or a patience of 0.
    pub fn new(config: EarlyStoppingConfig) -> Result<EarlyStopping> {
        if !(config.min_delta.is_finite() && config.min_delta >= 0.0) {
            return Err(Error::value("early_stopping", "a finite min_delta of at least 0", config.min_delta));
        }
        if config.patience == 0 {
            return Err(Error::value("early_stopping", "patience of at least 1 epoch", 0));
        }
        Ok(EarlyStopping { config, best_bits: None, bad_epochs: 0 })
    }

    /// Takes an epoch's metric; true once training should stop. NaN is no improvement.
    pub fn observe(&mut self, value: f64) -> bool {
        let better = match (self.best(), self.config.mode) {
            (None, _) => !value.is_nan(),
            (Some(best), Direction::Min) => value < best - self.config.min_delta,
            (Some(best), Direction::Max) => value > best + self.config.min_delta,
        };
        if better {
            self.best_bits = Some(value.to_bits());
            self.bad_epochs = 0;
        } else {
            self.bad_epochs += 1;
        }
        self.is_over()
    }

    /// Whether training should stop.
    pub fn is_over(&self) -> bool {
        self.bad_epochs >= self.config.patience
    }

    /// The best metric so far.
    pub fn best(&self) -> Option<f64> {
        self.best_bits.map(f64::from_bits)
    }

    /// The configuration.
    pub fn config(&self) -> &EarlyStoppingConfig {
        &self.config
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stops_at(mode: Direction, min_delta: f64, values: &[f64]) -> Option<usize> {
        let config = EarlyStoppingConfig { monitor: "m".into(), patience: 2, min_delta, mode };
        let mut stopping = EarlyStopping::new(config).expect("valid");
        values.iter().position(|&v| stopping.observe(v))
    }

    #[test]
    fn stops_after_patience() {
        assert_eq!(stops_at(Direction::Min, 0.0, &[1.0, 0.9, 0.9, 0.9, 0.1]), Some(3));
        assert_eq!(stops_at(Direction::Min, 0.1, &[1.0, 0.95, 0.92, 0.5]), Some(2));
        assert_eq!(stops_at(Direction::Max, 0.0, &[1.0, 2.0, 1.5, 2.5, 2.5, 2.5]), Some(5));
        assert_eq!(stops_at(Direction::Min, 0.0, &[f64::NAN, f64::NAN]), Some(1));
        assert_eq!(stops_at(Direction::Min, 0.0, &[3.0, 2.0, 1.0]), None);
    }

    #[test]
    fn nonsense_is_refused() {
        let config = |patience, min_delta| EarlyStoppingConfig {
            monitor: "m".into(),
            patience,
            min_delta,
            mode: Direction::Min,
        };
        assert!(EarlyStopping::new(config(0, 0.0)).is_err() && EarlyStopping::new(config(1, f64::NAN)).is_err());
    }
}
