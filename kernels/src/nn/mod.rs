//! Models: their configuration, initial weights and forward passes.

pub mod ad_score;
pub mod classifier;
pub mod config;
mod declare;
pub mod explain;
pub mod init;
pub mod inputs;
pub mod lstm;
pub mod mlp;
pub mod model;
pub mod table;
pub mod text_encoder;
pub mod visual_encoder;

pub use ad_score::{AdScoreConfig, FusionConfig, HeadConfig};
pub use classifier::{ImageClassifierConfig, TabularConfig, TransformerClassifierConfig};
pub use config::{MlpConfig, ModelConfig, Norm};
pub use explain::InputGradients;
pub use init::Init;
pub use inputs::{Feed, Images, Inputs, PixelValues, Steps};
pub use lstm::LstmSequenceConfig;
pub use model::Model;
pub use table::TableConfig;
pub use text_encoder::{NormPlace, TextEncoderConfig};
pub use visual_encoder::{ImageNorm, VisualEncoderConfig};
