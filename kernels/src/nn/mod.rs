//! Models: their configuration, initial weights and forward passes.

pub mod config;
pub mod init;
pub mod mlp;
pub mod model;

pub use config::{MlpConfig, ModelConfig, Norm};
pub use init::Init;
pub use model::Model;
