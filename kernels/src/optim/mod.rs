//! Optimizers, learning-rate schedules, gradient clipping, parameter groups, averages of weights.

pub mod clip;
pub mod config;
pub(crate) mod device;
pub mod optimizer;
pub mod schedule;

pub use clip::ClipConfig;
pub use config::{AdamConfig, AdamWConfig, EmaConfig, LambConfig, OptimizerConfig, ParamGroup, SgdConfig};
pub use optimizer::{Extras, Optimizer, StepGradient};
pub use schedule::{Direction, Schedule, SchedulerConfig};
