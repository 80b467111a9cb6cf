//! The data_loader: turns the files of a plan into an immutable dataset version, and feeds batches of it.
//!
//! Subscribes: `work.data_loader.>` (prepare tasks), `svc.data_loader.open_feed`, its own `feed_control`.
//! Publishes: reports of its tasks, `evt.<job>.step`, frames on `feed.<job>.<rank>`, heartbeats.
//! Owns: nothing but what it writes to the artifact store: shards, then their manifest.
//! Invariants: a dataset version follows from the plan and the files alone; a feed's order from (seed, epoch)
//! alone; nothing of val or test moves a fitted value; no file outside the data roots is opened.
//! A crash loses nothing: the task is done again with the same result, a feed is opened elsewhere at its position.
//!
//! Memory: the used columns of a table are held once while it is prepared (about twice the size of a text file), those
//! beyond the memory limit in files; an encoded part stays in memory while a feed uses it, and in a cache of [`state::CACHE_BYTES`] after.

mod actor;
pub mod augment;
pub mod cache;
pub mod check;
mod column;
pub mod derive;
pub mod feed;
pub mod fit;
#[cfg(test)]
mod golden;
pub mod load;
pub mod memory;
mod mirror;
pub mod nearest;
pub mod parallel;
mod pictures;
pub mod prepare;
mod pretrained;
pub mod quality;
mod sequence;
pub mod source;
pub mod split;
pub mod state;
mod storage;
mod task;
pub mod validate;
pub mod versions;
pub mod write;

use messages::WireError;
use ractor::ActorCell;

/// What an operator can set.
#[derive(Debug, Clone)]
pub struct Config {
    /// Prepare tasks at once.
    pub slots: u32,
    /// Bytes of encoded rows kept for feeds to come.
    pub cache_bytes: usize,
    /// Outcomes of the steps of preparing data.
    pub step_cache: cache::CacheConfig,
    /// Folders in which programs are looked for, such as a translator; none: no program is used.
    pub program_path: Option<std::ffi::OsString>,
    /// Bytes that the columns of a preparation may take; none: half of what the machine has.
    pub memory_limit_bytes: Option<usize>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            slots: 2,
            cache_bytes: state::CACHE_BYTES,
            step_cache: cache::CacheConfig::default(),
            memory_limit_bytes: None,
            program_path: std::env::var_os("PATH"),
        }
    }
}

/// Starts the role.
///
/// # Errors
/// `retry: false` when it can never run.
pub async fn start(env: bus::role::RoleEnv, config: Config, supervisor: ActorCell) -> Result<ActorCell, WireError> {
    if let Some(limit) = config.memory_limit_bytes {
        memory::set_limit_bytes(limit);
    }
    mirror::sweep(&env.home);
    actor::spawn(env, config, supervisor).await
}
