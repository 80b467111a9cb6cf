//! Everything a bit-exact resume needs, in one safetensors file: parameters (the f32 ones, whatever the
//! precision of the training), moments, averages, and counters as exact integers in the metadata.

use super::engine::Trainer;
use crate::dtype::{LossScaleState, Precision};
use crate::error::{Error, Result};
use crate::optim::optimizer::Saved;
use crate::optim::schedule::ScheduleState;
use crate::params::Param;
use crate::weights::{Entry, read, write};
use std::collections::BTreeMap;

/// Where the counters are kept in the file's metadata.
const KEY: &str = "within.train_state";

#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub(super) struct Counters {
    version: u32,
    epoch: u64,
    optimizer_steps: u64,
    micro_step: u64,
    schedule: ScheduleState,
    /// With f16 only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    loss_scale: Option<LossScaleState>,
}

/// The flat runs of a state; those that a training does not have are empty.
pub(super) struct Runs<'a> {
    pub weights: &'a [f32],
    pub first: &'a [f32],
    pub second: &'a [f32],
    pub averages: &'a [f32],
}

/// The file of a state.
pub(super) fn write_state(counters: &Counters, params: &[Param], runs: &Runs<'_>) -> Result<Vec<u8>> {
    let runs = [("param", runs.weights), ("first", runs.first), ("second", runs.second), ("average", runs.averages)];
    let mut entries: Vec<Entry<'_>> = Vec::with_capacity(runs.len() * params.len());
    for (prefix, run) in runs.into_iter().filter(|(_, run)| !run.is_empty()) {
        for param in params {
            let values = &run[param.range.clone()];
            let name = format!("{prefix}.{}", param.name);
            entries.push(Entry { name, shape: param.shape.clone(), values, precision: Precision::F32 });
        }
    }
    let text = serde_json::to_string(counters).expect("invariant: integers serialize");
    write(&entries, &BTreeMap::from([(KEY.to_string(), text)]))
}

impl Trainer {
    pub(super) fn counters(&self) -> Result<Counters> {
        if self.pending.micro_batches > 0 {
            return Err(Error::value("save state", "no accumulated micro-batches", self.pending.micro_batches));
        }
        Ok(Counters {
            version: 1,
            epoch: self.epoch,
            optimizer_steps: self.optimizer.steps(),
            micro_step: self.micro_step,
            schedule: self.schedule.state().clone(),
            loss_scale: self.scaler.as_ref().map(|s| s.state()),
        })
    }

    pub(super) fn runs(&self) -> Runs<'_> {
        let (first, second) = self.optimizer.moments();
        let master = self.optimizer.master();
        let weights = if master.is_empty() { self.model.params().flat() } else { master };
        Runs { weights, first, second, averages: self.optimizer.averages() }
    }

    /// The whole state. `Value` error while micro-batches are accumulated and not applied.
    pub fn save_state(&mut self) -> Result<Vec<u8>> {
        self.settle()?;
        let params = self.model.params().entries().to_vec();
        write_state(&self.counters()?, &params, &self.runs())
    }

    /// Continues from [`Trainer::save_state`] of a trainer with the same model, optimizer and averages; the
    /// precision may be another. On an error nothing is changed.
    pub fn load_state(&mut self, bytes: &[u8]) -> Result<()> {
        let file = read(bytes)?;
        let text = file
            .metadata
            .get(KEY)
            .ok_or_else(|| Error::weights("training state", format!("metadata `{KEY}`"), "none"))?;
        let counters: Counters =
            serde_json::from_str(text).map_err(|e| Error::weights("training state", "counters", e.to_string()))?;
        if counters.version != 1 {
            return Err(Error::weights("training state", "version 1", counters.version.to_string()));
        }
        self.settle()?;
        let (first, second) = self.optimizer.moments();
        let wanted = [
            ("param", self.model.params().flat_len()),
            ("first", first.len()),
            ("second", second.len()),
            ("average", self.optimizer.averages().len()),
        ];
        let mut runs = wanted.map(|(_, len)| vec![0.0; len]);
        for ((prefix, _), run) in wanted.iter().zip(&mut runs).filter(|(_, run)| !run.is_empty()) {
            for param in self.model.params().entries() {
                let values = file.tensor(&format!("{prefix}.{}", param.name), &param.shape)?;
                run[param.range.clone()].copy_from_slice(&values);
            }
        }
        file.expect_count(self.model.params().len() * runs.iter().filter(|run| !run.is_empty()).count())?;
        let mut scaler = self.scaler.clone();
        if let (Some(scaler), Some(state)) = (&mut scaler, counters.loss_scale) {
            scaler.restore(state)?;
        }
        let [weights, first, second, averages] = runs;
        let master = if self.optimizer.master().is_empty() { Vec::new() } else { weights.clone() };
        self.optimizer.restore(&Saved { first, second, master, averages, steps: counters.optimizer_steps })?;
        let precision = self.config.precision;
        self.model.params_mut().set_flat(&weights, precision);
        if let Some(device) = &mut self.device {
            device.forget();
        }
        self.schedule.restore(counters.schedule);
        self.scaler = scaler;
        (self.epoch, self.micro_step) = (counters.epoch, counters.micro_step);
        self.discard();
        Ok(())
    }
}
