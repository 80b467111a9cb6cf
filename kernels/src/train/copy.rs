//! A trainer's state copied between two steps: training goes on while the copy is hashed, written as files
//! and stored. Taking it is one pass over flat memory on the pool's threads; everything dear is done by
//! whoever holds the copy.

use super::engine::Trainer;
use super::state::{Counters, Runs, write_state};
use crate::buffer::AlignedBuf;
use crate::dtype::Precision;
use crate::error::Result;
use crate::nn::ModelConfig;
use crate::params::Param;
use crate::pool::Pool;
use crate::weights::{params_blake3_of, save_values};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Elements that a thread copies at a time.
const BLOCK: usize = 1 << 16;

/// What [`Trainer::save_state`] writes, and the model, as they were when the copy was taken.
#[derive(Debug)]
pub struct StateCopy {
    counters: Counters,
    config: ModelConfig,
    params: Vec<Param>,
    precision: Precision,
    /// The f32 values that steps are taken from, in the flat layout; so are the others.
    weights: AlignedBuf,
    first: AlignedBuf,
    second: AlignedBuf,
    /// Empty where no average is kept.
    averages: AlignedBuf,
}

impl Trainer {
    /// Copies the state, into the memory of an earlier copy of this trainer where there is one. `Value`
    /// error while micro-batches are accumulated and not applied.
    pub fn copy_state(&mut self, earlier: Option<StateCopy>) -> Result<StateCopy> {
        self.settle()?;
        let counters = self.counters()?;
        let runs = self.runs();
        let mut copy = match earlier {
            Some(earlier) => StateCopy { counters, ..earlier },
            None => StateCopy {
                counters,
                config: self.model.config().clone(),
                params: self.model.params().entries().to_vec(),
                precision: self.config.precision,
                weights: AlignedBuf::zeroed(0)?,
                first: AlignedBuf::zeroed(0)?,
                second: AlignedBuf::zeroed(0)?,
                averages: AlignedBuf::zeroed(0)?,
            },
        };
        for (from, to) in [
            (runs.weights, &mut copy.weights),
            (runs.first, &mut copy.first),
            (runs.second, &mut copy.second),
            (runs.averages, &mut copy.averages),
        ] {
            copy_on(&self.pool, from, to)?;
        }
        Ok(copy)
    }
}

fn copy_on(pool: &Pool, from: &[f32], to: &mut AlignedBuf) -> Result<()> {
    to.renew(from.len())?;
    let shared = to.shared();
    pool.parallel_for(from.len().div_ceil(BLOCK), 1, |_, blocks| {
        let range = blocks.start * BLOCK..(blocks.end * BLOCK).min(from.len());
        // SAFETY: ranges are disjoint, each touched by the one task that owns it.
        unsafe { shared.get_mut(range.clone()) }.copy_from_slice(&from[range]);
    });
    Ok(())
}

impl StateCopy {
    /// The bytes that [`Trainer::save_state`] gave at that moment.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let Self { weights, first, second, averages, .. } = self;
        write_state(&self.counters, &self.params, &Runs { weights, first, second, averages })
    }

    /// [`crate::weights::params_blake3`] of the trainer's model.
    pub fn params_blake3(&self) -> String {
        let values = self.rounded(&self.weights);
        params_blake3_of(self.params.iter().map(|param| (param, &values[param.range.clone()])))
    }

    /// [`crate::weights::save`] of the averaged model, where an average is kept, else of the model.
    pub fn save_announced(&self, metadata: &BTreeMap<String, String>) -> Result<Vec<u8>> {
        let values = self.rounded(if self.averages.is_empty() { &self.weights } else { &self.averages });
        save_values(&self.config, self.params.iter().map(|param| (param, &values[param.range.clone()])), metadata)
    }

    /// As the trained model holds them: rounded but for running averages.
    fn rounded<'a>(&self, flat: &'a [f32]) -> Cow<'a, [f32]> {
        if self.precision == Precision::F32 {
            return Cow::Borrowed(flat);
        }
        let mut values = vec![0.0; flat.len()];
        self.precision.round_to(flat, &mut values);
        for param in self.params.iter().filter(|param| param.is_statistic()) {
            values[param.range.clone()].copy_from_slice(&flat[param.range.clone()]);
        }
        Cow::Owned(values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::{Init, MlpConfig, Model};
    use crate::optim::EmaConfig;
    use crate::train::{Batch, LossConfig, Targets, TrainConfig};
    use std::sync::Arc;

    fn batch() -> Batch {
        Batch {
            rows: 16,
            features: (0..48).map(|i| (i as f32 * 0.37).sin()).collect(),
            inputs: crate::nn::Inputs::default(),
            targets: Targets::Real((0..16).map(|i| i as f32 * 0.1).collect()),
            weights: None,
            sample_ids: (0..16).collect(),
        }
    }

    #[test]
    fn a_copy_is_the_state_of_its_moment_whatever_comes_after() {
        for precision in [Precision::F32, Precision::Bf16, Precision::F16] {
            for ema in [None, Some(EmaConfig::default())] {
                let config =
                    ModelConfig::Mlp(MlpConfig { input_dim: 3, hidden_layers: vec![5], ..MlpConfig::default() });
                let model = Model::new(&config, &Init::Default, 1).expect("a model");
                let train = TrainConfig { loss: LossConfig::Mse, precision, ema, ..TrainConfig::default() };
                let mut trainer = Trainer::new(model, train, Arc::new(Pool::new(2))).expect("a trainer");
                let mut copy = None;
                for _ in 0..3 {
                    trainer.step(&batch()).expect("steps");
                    let taken = trainer.copy_state(copy.take()).expect("copies");
                    let announced =
                        trainer.averaged_model().expect("settled").unwrap_or_else(|| trainer.model().clone());
                    let expected = (
                        trainer.save_state().expect("saves"),
                        crate::weights::params_blake3(trainer.model()),
                        crate::weights::save(&announced, &BTreeMap::new()).expect("saves"),
                    );
                    trainer.step(&batch()).expect("steps");
                    let found = (
                        taken.to_bytes().expect("saves"),
                        taken.params_blake3(),
                        taken.save_announced(&BTreeMap::new()).expect("saves"),
                    );
                    assert!(found == expected, "{precision:?}");
                    copy = Some(taken);
                }
            }
        }
    }
}
