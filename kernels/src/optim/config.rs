//! What a job says about its optimizer, under the names of the specification.

use crate::error::{Error, Result};

/// Which optimizer; the tag `type` tells.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "type")]
pub enum OptimizerConfig {
    /// Adam with decoupled weight decay.
    #[serde(rename = "adamw")]
    AdamW(AdamWConfig),
    /// Adam; `weight_decay` is an L2 term of the gradient.
    #[serde(rename = "adam")]
    Adam(AdamConfig),
    /// Gradient descent with momentum.
    #[serde(rename = "sgd", alias = "sgd_momentum")]
    Sgd(SgdConfig),
}

macro_rules! adam_config {
    ($(#[$meta:meta])* $name:ident, $decay:literal) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct $name {
            #[serde(alias = "lr")]
            pub learning_rate: f64,
            /// Biases and norms are exempt.
            pub weight_decay: f64,
            pub beta1: f64,
            pub beta2: f64,
            #[serde(alias = "eps")]
            pub epsilon: f64,
        }

        impl Default for $name {
            fn default() -> Self {
                $name { learning_rate: 1e-3, weight_decay: $decay, beta1: 0.9, beta2: 0.999, epsilon: 1e-8 }
            }
        }
    };
}
adam_config!(
    /// Settings of AdamW.
    AdamWConfig,
    0.01
);
adam_config!(
    /// Settings of Adam.
    AdamConfig,
    0.0
);

/// Settings of SGD.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SgdConfig {
    #[serde(alias = "lr")]
    pub learning_rate: f64,
    /// An L2 term of the gradient; biases and norms are exempt.
    pub weight_decay: f64,
    pub momentum: f64,
    pub nesterov: bool,
}

impl Default for SgdConfig {
    fn default() -> Self {
        SgdConfig { learning_rate: 1e-2, weight_decay: 0.0, momentum: 0.9, nesterov: false }
    }
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        OptimizerConfig::AdamW(AdamWConfig::default())
    }
}

impl OptimizerConfig {
    /// The learning rate before any schedule.
    pub fn learning_rate(&self) -> f64 {
        match self {
            OptimizerConfig::AdamW(c) => c.learning_rate,
            OptimizerConfig::Adam(c) => c.learning_rate,
            OptimizerConfig::Sgd(c) => c.learning_rate,
        }
    }

    /// Refuses values out of range, naming the key.
    pub fn validate(&self) -> Result<()> {
        let (decay, rates) = match self {
            OptimizerConfig::AdamW(AdamWConfig { weight_decay, beta1, beta2, epsilon, .. })
            | OptimizerConfig::Adam(AdamConfig { weight_decay, beta1, beta2, epsilon, .. }) => {
                if !(epsilon.is_finite() && *epsilon > 0.0) {
                    return Err(Error::value("optimizer", "a finite epsilon above 0", epsilon));
                }
                (weight_decay, vec![("beta1", beta1), ("beta2", beta2)])
            }
            OptimizerConfig::Sgd(SgdConfig { weight_decay, momentum, .. }) => {
                (weight_decay, vec![("momentum", momentum)])
            }
        };
        let rate = self.learning_rate();
        if !(rate.is_finite() && rate >= 0.0) {
            return Err(Error::value("optimizer", "a finite learning_rate of at least 0", rate));
        }
        if !(decay.is_finite() && *decay >= 0.0) {
            return Err(Error::value("optimizer", "a finite weight_decay of at least 0", decay));
        }
        match rates.into_iter().find(|(_, value)| !(0.0..1.0).contains(*value)) {
            Some((key, value)) => Err(Error::value("optimizer", format!("{key} in [0, 1)"), value)),
            None => Ok(()),
        }
    }
}
