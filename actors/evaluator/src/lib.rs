//! The evaluator: metrics of a trained model on val and test, beside a baseline, and the report.
//!
//! - **Subscribes**: `work.evaluator.>` (`Evaluate` tasks), through `bus::queue`.
//! - **Publishes**: reports of its tasks (`Evaluated`), heartbeats.
//! - **Owns**: reports in the artifact store (kind `reports`); see [`report`] for their schema.
//! - **Invariants**: the same dataset, model and plan give the same metrics to the last bit and the same report but
//!   for its field `generated`; rows are encoded as training encoded them; metrics are of the target's own unit.
//! - **A crash loses** nothing: the task is delivered again, and a report that was stored twice is two files.

mod actor;
mod analysis;
mod evaluation;
#[cfg(test)]
#[path = "../tests/it/fixture.rs"]
mod fixture;
mod interpretation;
mod predict;
pub mod report;
#[cfg(test)]
mod tests;
mod worker;

use bus::role::RoleEnv;
use messages::WireError;
use ractor::ActorCell;
use serde::Deserialize;

/// What an operator sets under `evaluator:` in `within.yaml`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Evaluations at once.
    pub slots: u32,
    /// Compute threads of one evaluation; 0: what the machine gives, shared by the slots.
    pub threads: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self { slots: 2, threads: 0 }
    }
}

/// Starts the role under `supervisor`.
pub async fn start(env: RoleEnv, config: Config, supervisor: ActorCell) -> Result<ActorCell, WireError> {
    actor::spawn(env, config, supervisor).await
}
