//! What a job says about a model: `{"type": "mlp", ...}`.

use super::ad_score::AdScoreConfig;
use super::classifier::{ImageClassifierConfig, TabularConfig, TransformerClassifierConfig};
use super::lstm::LstmSequenceConfig;
use crate::error::{Error, Result};
use crate::ops::Activation;

/// Every kind of model; the tag `type` tells which.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum ModelConfig {
    /// Fully connected layers.
    Mlp(MlpConfig),
    /// Numbers and categories with embeddings.
    Tabular(TabularConfig),
    /// A transformer over tokens, pooled, and a head.
    TransformerClassifier(TransformerClassifierConfig),
    /// Convolutions, pooled, and a head.
    ImageClassifier(ImageClassifierConfig),
    /// LSTM over sequences of steps, and a head.
    LstmSequence(LstmSequenceConfig),
    /// Text, image and table, fused.
    AdScore(AdScoreConfig),
}

/// Normalization after a hidden layer's product, before its activation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Norm {
    #[default]
    None,
    LayerNorm,
}

/// A multi-layer perceptron: per hidden layer a product, norm, activation and dropout; then a product.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MlpConfig {
    /// Features per row.
    pub input_dim: usize,
    /// Width of each hidden layer; none makes a linear model.
    #[serde(default)]
    pub hidden_layers: Vec<usize>,
    /// After each hidden layer.
    #[serde(default)]
    pub activation: Activation,
    /// Probability in [0, 1) after each hidden activation.
    #[serde(default)]
    pub dropout: f32,
    #[serde(default)]
    pub norm: Norm,
    /// Outputs per row: raw values or logits.
    #[serde(default = "one")]
    pub output_dim: usize,
}

fn one() -> usize {
    1
}

impl Default for MlpConfig {
    fn default() -> Self {
        MlpConfig {
            input_dim: 1,
            hidden_layers: Vec::new(),
            activation: Activation::Relu,
            dropout: 0.0,
            norm: Norm::None,
            output_dim: 1,
        }
    }
}

/// The widest layer: keeps sizes far from overflow before memory is asked for.
const MAX_WIDTH: usize = 1 << 24;
/// Refuses a size of zero or beyond reason.
pub(super) fn check_size(model: &'static str, key: &str, size: usize) -> Result<()> {
    if size == 0 || size > MAX_WIDTH {
        return Err(Error::value(model, format!("{key} in 1..={MAX_WIDTH}"), size));
    }
    Ok(())
}

/// The deepest model.
const MAX_LAYERS: usize = 1 << 10;

impl MlpConfig {
    /// Refuses sizes of zero or beyond reason and rates out of range.
    pub fn validate(&self) -> Result<()> {
        let widths = std::iter::once(("input_dim", self.input_dim))
            .chain(self.hidden_layers.iter().map(|&n| ("hidden_layers", n)))
            .chain(std::iter::once(("output_dim", self.output_dim)));
        for (key, width) in widths {
            check_size("mlp", key, width)?;
        }
        if self.hidden_layers.len() > MAX_LAYERS {
            return Err(Error::value("mlp", format!("at most {MAX_LAYERS} hidden_layers"), self.hidden_layers.len()));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(Error::value("mlp", "dropout in [0, 1)", self.dropout));
        }
        Ok(())
    }
}

impl ModelConfig {
    /// Refuses what cannot be built.
    pub fn validate(&self) -> Result<()> {
        match self {
            ModelConfig::Mlp(config) => config.validate(),
            ModelConfig::Tabular(config) => config.validate(),
            ModelConfig::TransformerClassifier(config) => config.validate(),
            ModelConfig::ImageClassifier(config) => config.validate(),
            ModelConfig::LstmSequence(config) => config.validate(),
            ModelConfig::AdScore(config) => config.validate(),
        }
    }
}
