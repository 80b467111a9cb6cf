//! The tracker: runs as a projection of the event stream into SQLite.
//!
//! - **Subscribes**: the event stream, in order, from the position that its database holds; `work.tracker.>`
//!   (`Record` tasks); `svc.tracker.runs` and `svc.tracker.run`. All of it only while it holds the lease `tracker`.
//! - **Publishes**: reports of its tasks, answers, heartbeats. Discards old events, never one above its position.
//! - **Owns**: the database: experiments, runs, params, metrics, tags, artifacts, and the stream's position.
//! - **Invariants**: rows and position move in one transaction, by compare-and-set under the lease's token, so every
//!   event counts once; a row of a lower fence than its task has been seen with is refused; params never change.
//! - **A crash loses** nothing: the projection goes on after its position, a record task is delivered again.

mod actor;
mod database;
mod error;
mod lead;
mod params;
mod projection;
mod record;
mod recorder;
mod row;
mod service;
mod state;
mod store;

use std::time::Duration;

use bus::role::RoleEnv;
use messages::WireError;
use ractor::ActorCell;
use serde::Deserialize;

pub use database::Database;
pub use error::{Error, ErrorKind};

/// How long to wait for another process that holds the database file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// What an operator sets under `tracker:` in `within.yaml`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `sqlite://PATH`; none: `tracker.db` in the home folder.
    pub database: Option<String>,
    /// Record tasks at once.
    pub slots: u32,
    /// Events older than this, in seconds, are discarded once they are projected.
    pub event_max_age_s: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self { database: None, slots: 8, event_max_age_s: 30 * 24 * 3_600 }
    }
}

/// Opens the database and starts the role under `supervisor`.
///
/// # Errors
/// Not to be retried: a database that is not served, held by another process, or of a newer version.
pub async fn start(env: RoleEnv, config: Config, supervisor: ActorCell) -> Result<ActorCell, WireError> {
    let database =
        Database::resolve(config.database.as_deref(), &env.home, env.bus.tenant()).map_err(|e| e.to_fatal())?;
    let (writer, reader) = store::open(&database, BUSY_TIMEOUT).await.map_err(|e| e.to_fatal())?;
    tracing::info!(database = %database.file.display(), version = store::SCHEMA_VERSION, "tracker database is open");
    actor::spawn(env, config, writer, reader, supervisor).await
}
