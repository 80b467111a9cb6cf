//! Where a training runs, on how many ranks, and what becomes of slow ones. Nothing here changes the result but the kind of
//! device and `collective_mode: fast`, which change its last bits.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::collective::{Collective, CollectiveMode};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ResourcePlan {
    /// `auto`, `cpu`, `cuda` or `cuda:N`.
    pub device: String,
    /// Ranks of the training gang at its beginning, where so many slots are free.
    pub world_size: u32,
    /// It begins and goes on with no fewer.
    #[serde(default = "one_rank")]
    pub min_world_size: u32,
    /// It grows to so many while slots are free; never below `world_size`.
    #[serde(default = "one_rank")]
    pub max_world_size: u32,
    /// A rank whose steps take this many times the median of all ranks is a straggler.
    #[serde(default = "three")]
    pub straggler_factor: f64,
    #[serde(default)]
    pub straggler_policy: StragglerPolicy,
    #[serde(default)]
    pub collective: Collective,
    #[serde(default)]
    pub collective_mode: CollectiveMode,
    /// Compute threads of a rank; 0: what the machine gives, shared by its ranks.
    pub threads: u32,
}

fn one_rank() -> u32 {
    1
}

fn three() -> f64 {
    3.0
}

/// What becomes of a rank that is much slower than the others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StragglerPolicy {
    /// An event names it.
    #[default]
    Warn,
    /// It leaves the gang at the next step boundary, if enough ranks remain.
    Evict,
}
