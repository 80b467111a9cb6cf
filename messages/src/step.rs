//! A step of a task, and whether its outcome was computed or came from the step cache.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How a job uses the step cache.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CacheMode {
    /// What was computed before from the same inputs and settings is used again.
    #[default]
    Use,
    /// Everything is computed anew and put in the place of what was kept: `within run --force`.
    Refresh,
    /// Nothing is looked up and nothing is kept.
    Off,
}

/// Where the outcome of a step came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CacheOutcome {
    /// From the cache of this host.
    Hit,
    /// From the cache beside the artifact store, where another worker had put it.
    SharedHit,
    /// Computed: there was nothing of the same inputs and settings.
    Miss,
    /// Computed because the job asked for it.
    Refresh,
}

impl CacheOutcome {
    pub fn is_hit(self) -> bool {
        matches!(self, Self::Hit | Self::SharedHit)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::SharedHit => "shared_hit",
            Self::Miss => "miss",
            Self::Refresh => "refresh",
        }
    }
}

/// One step of a task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StepReport {
    /// prepare (all of it), read, split, fit, shards.
    pub step: String,
    pub cache: CacheOutcome,
    /// BLAKE3 of inputs, settings and the step's version.
    pub key: String,
    /// Why: for a miss, the first input or setting that differs from the last time.
    pub reason: String,
    pub duration_ms: f64,
    /// Of the kept outcome; 0 where nothing was kept.
    #[serde(default)]
    pub size_bytes: u64,
}
