//! How the ranks of a gang sum their gradients where they have devices.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What gradients travel by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Collective {
    /// NCCL where every rank has a device of its own and the library, else TCP.
    #[default]
    Auto,
    Tcp,
    /// NCCL, or the job fails.
    Nccl,
}

/// In which order NCCL sums.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CollectiveMode {
    /// That of the tree over logical shards, as over TCP: the same bits for every number of ranks.
    #[default]
    Deterministic,
    /// The library's own: the bits depend on the number of ranks.
    Fast,
}
