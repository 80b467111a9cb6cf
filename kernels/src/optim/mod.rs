//! Optimizers, learning-rate schedules and gradient clipping.

pub mod clip;
pub mod config;
pub mod optimizer;
pub mod schedule;

pub use clip::ClipConfig;
pub use config::{AdamConfig, AdamWConfig, OptimizerConfig, SgdConfig};
pub use optimizer::Optimizer;
pub use schedule::{Direction, Schedule, SchedulerConfig};
