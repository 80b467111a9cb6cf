//! The step cache: outcomes of the steps of preparing data, by a hash of what they follow from.
//!
//! | module | holds |
//! | --- | --- |
//! | [`recipe`] | [`Recipe`]: inputs, settings and version of a step, its [`Key`], and what differs between two |
//! | [`settings`] | [`Step`]: the steps, what each needs, and the settings that it does not follow from |
//! | [`files`] | content hashes of source files, remembered by what the file system says of them |
//! | [`entry`] | one kept outcome as a file, checked when it is read |
//! | [`tier`] | a folder of entries: lifetime, size limit, eviction of what was not used for longest |
//! | [`steps`] | [`Steps`]: a task's way through its steps: find, or compute and keep; and what is told of it |
//! | [`raw`] | columns of numbers as bytes |
//!
//! There are two tiers: this host's, in the home folder, and one beside the artifact store that all workers of
//! the store share. An entry is written beside and renamed into place; nothing is believed that does not hash to
//! what it says. So writers need no lock, a killed one leaves nothing that counts, and a cache that cannot be
//! written to costs time and no result.

pub mod entry;
pub mod files;
pub mod raw;
pub mod recipe;
pub mod settings;
pub mod steps;
pub mod tier;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bus::artifact::ArtifactStore;
use messages::UnixMs;

pub use files::Files;
pub use recipe::{Key, Recipe};
pub use settings::Step;
pub use steps::Steps;
pub use tier::{Limits, Listed, Pruned, Tier};

/// Folder of the cache in the home folder and, under [`SHARED_NAME`], in the artifact store.
pub const FOLDER: &str = "cache";
/// Name of the shared tier's folder.
pub const SHARED_NAME: &str = "steps";

/// What an operator can set: `cache:` in `within.yaml`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheConfig {
    /// Seconds after which an entry no longer counts; none: it always does.
    pub ttl_s: Option<u64>,
    /// Bytes of all entries of a tier; beyond, those go that were not used for longest. None: no limit.
    pub size_limit_bytes: Option<u64>,
    /// Whether entries go to the artifact store's cache too; none: where the store is not this home's own.
    pub share: Option<bool>,
}

/// Default of `cache.size_limit_bytes`: 10 GiB.
pub const SIZE_LIMIT_BYTES: u64 = 10 << 30;

impl Default for CacheConfig {
    fn default() -> Self {
        Self { ttl_s: None, size_limit_bytes: Some(SIZE_LIMIT_BYTES), share: None }
    }
}

/// Tells the time; a test tells its own.
pub type Clock = Arc<dyn Fn() -> UnixMs + Send + Sync>;

/// The tiers of a process.
#[derive(Clone)]
pub struct StepCache {
    pub local: Tier,
    pub shared: Option<Tier>,
    pub files: Files,
    clock: Clock,
}

impl std::fmt::Debug for StepCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StepCache").field("local", &self.local).field("shared", &self.shared).finish_non_exhaustive()
    }
}

impl StepCache {
    /// The cache of a home folder. Nothing is created before something is kept.
    pub fn of(home: &Path, artifacts: &ArtifactStore, config: &CacheConfig) -> Self {
        let limits =
            Limits { ttl_ms: config.ttl_s.map(|s| s.saturating_mul(1_000)), size_limit_bytes: config.size_limit_bytes };
        let folder = home.join(FOLDER);
        let own = artifacts.root().starts_with(home);
        let shared = config.share.unwrap_or(!own).then(|| artifacts.local_dir(FOLDER, SHARED_NAME));
        Self::new(folder, shared, limits, Arc::new(bus::now_ms))
    }

    /// A cache in these folders.
    pub fn new(local: PathBuf, shared: Option<PathBuf>, limits: Limits, clock: Clock) -> Self {
        Self {
            files: Files::new(local.join(tier::FILES)),
            local: Tier::new(local, limits),
            shared: shared.map(|folder| Tier::new(folder, limits)),
            clock,
        }
    }

    pub fn now(&self) -> UnixMs {
        (self.clock)()
    }

    /// The tiers with their names.
    pub fn tiers(&self) -> impl Iterator<Item = (&'static str, &Tier)> {
        std::iter::once(("local", &self.local)).chain(self.shared.iter().map(|tier| ("shared", tier)))
    }
}
