//! The coordinator: jobs as DAGs of tasks.
//!
//! Subscribes: `job.submit`, `job.cancel`, `svc.coordinator.*`, `rdzv.*.*`, `hb.>` (while it leads).
//! Publishes: `work.*`, `offer.*`, `ctl.*`, and on `evt.<job>.*` what it decides.
//! Owns: the buckets `WITHIN_JOB` and `WITHIN_LEASE/coordinator`; it alone creates streams and buckets.
//! Invariants: every transition is a compare-and-set; one effective fence a task; one terminal event a job.
//! A crash loses nothing: the next leader derives everything from the records.

mod actor;
mod events;
mod execute;
mod intake;
mod leadership;
mod requests;
#[cfg(test)]
mod simulation;
pub mod state;

use messages::WireError;
use ractor::ActorCell;

/// What an operator can set.
#[derive(Debug, Clone)]
pub struct Config {
    /// Most records that `jobs list` looks at.
    pub list_limit: usize,
    /// Sizes of the streams that it creates.
    pub limits: bus::Limits,
}

impl Default for Config {
    fn default() -> Self {
        Self { list_limit: 1_000, limits: bus::Limits::default() }
    }
}

/// Starts the role: creates streams and buckets where they are missing, then stands by for the lease.
///
/// # Errors
/// `retry: false` when it can never run: the server is too old, or refuses what the role needs.
pub async fn start(env: bus::role::RoleEnv, config: Config, supervisor: ActorCell) -> Result<ActorCell, WireError> {
    env.bus.ensure_topology_with(&config.limits).await.map_err(|error| error.to_wire())?;
    actor::spawn(env, config, supervisor).await
}
