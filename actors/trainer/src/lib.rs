//! The trainer: gangs of rank processes.
//!
//! - Subscribes: `offer.<worker>` (request), `ctl.<worker|all>.*`; a rank: `feed.<job>.<rank>`.
//! - Publishes: `hb.trainer.<worker>`, `log.<job>.rank<N>`, reports to `svc.coordinator.report`; a rank:
//!   `rdzv.<job>.join`, `svc.data_loader.open_feed`, events, reports.
//! - Owns: its gang slots, its rank processes, the checkpoint folders of the jobs that it holds.
//! - Invariants: a slot is free again only when its process is gone, or has ended the task in order and waits; an attempt is started once; a
//!   checkpoint is whole or refused; the bits of a model do not depend on interruptions.
//! - A crash loses nothing: ranks die with their worker, the coordinator gives the task to the next
//!   attempt, which goes on from the last reported checkpoint.

mod actor;
pub mod checkpoint;
mod child;
pub mod device;
mod error;
pub mod exchange;
pub mod link;
mod rank;
pub mod routes;
pub mod state;
pub mod train;
pub mod vitals;

pub use error::{Error, ErrorKind};
pub use rank::rank_main;

use std::path::PathBuf;

use link::Connection;
use messages::WireError;
use ractor::ActorCell;

/// What an operator can set, and what the composition root knows.
#[derive(Debug, Clone)]
pub struct Config {
    /// Gang slots: rank processes at once.
    pub slots: u32,
    /// Program and arguments that start a rank: the binary itself with its hidden subcommand. The program
    /// must send its logs as JSON lines to stderr, keep stdout clean and call [`rank_main`].
    pub rank_command: Vec<String>,
    /// The bus as ranks reach it.
    pub connection: Connection,
    /// Compute threads of a rank; 0: its share of the machine.
    pub threads: u32,
    /// CUDA devices of this worker; none: ranks compute on the CPU.
    pub devices: device::Devices,
    /// Where compiled kernels are kept.
    pub cubins: PathBuf,
    /// Ranks exchange sums and states through TLS 1.3. All workers of a gang do, or none.
    pub collective_tls: bool,
    /// What ranks' sums travel by.
    pub routes: routes::Routes,
}

impl Config {
    pub(crate) fn threads_per_rank(&self) -> u32 {
        if self.threads > 0 {
            return self.threads;
        }
        (kernels::pool::available_threads() as u32 / self.slots.max(1)).max(1)
    }
}

/// Starts the role.
///
/// # Errors
/// `retry: false` when it can never run.
pub async fn start(env: bus::role::RoleEnv, config: Config, supervisor: ActorCell) -> Result<ActorCell, WireError> {
    actor::spawn(env, config, supervisor).await
}
