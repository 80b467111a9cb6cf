//! When training saves a checkpoint, and which of them stay.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Mode;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CheckpointPlan {
    /// Epochs between two checkpoints.
    pub save_freq: u32,
    /// Optimizer steps between two checkpoints within an epoch; 0: none.
    #[serde(default)]
    pub save_steps: u32,
    /// Minutes since the last checkpoint after which one is written at the next step; 0: never.
    #[serde(default)]
    pub save_minutes: f64,
    pub keep_best: u32,
    pub metric_name: String,
    pub mode: Mode,
}
