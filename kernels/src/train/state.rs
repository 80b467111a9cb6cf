//! Everything a bit-exact resume needs, in one safetensors file: parameters, moments, and counters as
//! exact integers in the metadata.

use super::engine::Trainer;
use crate::error::{Error, Result};
use crate::optim::schedule::ScheduleState;
use crate::weights::{Entry, read, write};
use std::collections::BTreeMap;

/// Where the counters are kept in the file's metadata.
const KEY: &str = "within.train_state";

#[derive(serde::Serialize, serde::Deserialize)]
struct Counters {
    version: u32,
    epoch: u64,
    optimizer_steps: u64,
    micro_step: u64,
    schedule: ScheduleState,
}

impl Trainer {
    /// The whole state. `Value` error while micro-batches are accumulated and not applied.
    pub fn save_state(&self) -> Result<Vec<u8>> {
        if self.pending.micro_batches > 0 {
            return Err(Error::value("save state", "no accumulated micro-batches", self.pending.micro_batches));
        }
        let counters = Counters {
            version: 1,
            epoch: self.epoch,
            optimizer_steps: self.optimizer.steps(),
            micro_step: self.micro_step,
            schedule: self.schedule.state().clone(),
        };
        let (first, second) = self.optimizer.moments();
        let params = self.model.params();
        let mut entries: Vec<Entry<'_>> = Vec::with_capacity(3 * params.len());
        for (param, values) in params.iter() {
            entries.push(Entry { name: format!("param.{}", param.name), shape: param.shape.clone(), values });
        }
        for (prefix, moments) in [("first", first), ("second", second)] {
            for (param, _) in params.iter().filter(|_| !moments.is_empty()) {
                let values = &moments[param.range.clone()];
                entries.push(Entry { name: format!("{prefix}.{}", param.name), shape: param.shape.clone(), values });
            }
        }
        let text = serde_json::to_string(&counters).expect("invariant: integers serialize");
        write(&entries, &BTreeMap::from([(KEY.to_string(), text)]))
    }

    /// Continues from [`Trainer::save_state`] of a trainer with the same model and optimizer. On an error
    /// nothing is changed.
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
        let (first, second) = self.optimizer.moments();
        let (mut first, mut second) = (vec![0.0; first.len()], vec![0.0; second.len()]);
        let mut values = Vec::with_capacity(self.model.params().len());
        let moments_per_param = usize::from(!first.is_empty()) + usize::from(!second.is_empty());
        for (param, _) in self.model.params().iter() {
            values.push(file.tensor(&format!("param.{}", param.name), &param.shape)?);
            if !first.is_empty() {
                first[param.range.clone()]
                    .copy_from_slice(&file.tensor(&format!("first.{}", param.name), &param.shape)?);
            }
            if !second.is_empty() {
                second[param.range.clone()]
                    .copy_from_slice(&file.tensor(&format!("second.{}", param.name), &param.shape)?);
            }
        }
        file.expect_count(self.model.params().len() * (1 + moments_per_param))?;
        self.optimizer.restore(&first, &second, counters.optimizer_steps)?;
        for (id, values) in values.iter().enumerate() {
            self.model.params_mut().set(crate::params::ParamId(id), values)?;
        }
        self.schedule.restore(counters.schedule);
        (self.epoch, self.micro_step) = (counters.epoch, counters.micro_step);
        self.discard();
        Ok(())
    }
}
