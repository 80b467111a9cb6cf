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
    /// AdamW whose step is scaled per parameter tensor, for large batches.
    #[serde(rename = "lamb")]
    Lamb(LambConfig),
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

/// Settings of LAMB. Tensors without weight decay (biases, norms) take steps without the trust ratio, as
/// in the authors' implementation.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LambConfig {
    #[serde(alias = "lr")]
    pub learning_rate: f64,
    /// Biases and norms are exempt.
    pub weight_decay: f64,
    pub beta1: f64,
    pub beta2: f64,
    #[serde(alias = "eps")]
    pub epsilon: f64,
}

impl Default for LambConfig {
    fn default() -> Self {
        LambConfig { learning_rate: 1e-3, weight_decay: 0.01, beta1: 0.9, beta2: 0.999, epsilon: 1e-6 }
    }
}

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
            OptimizerConfig::Lamb(c) => c.learning_rate,
        }
    }

    /// The weight decay of parameters that are not exempt.
    pub fn weight_decay(&self) -> f64 {
        match self {
            OptimizerConfig::AdamW(c) => c.weight_decay,
            OptimizerConfig::Adam(c) => c.weight_decay,
            OptimizerConfig::Sgd(c) => c.weight_decay,
            OptimizerConfig::Lamb(c) => c.weight_decay,
        }
    }

    /// Refuses values out of range, naming the key.
    pub fn validate(&self) -> Result<()> {
        let rates = match self {
            OptimizerConfig::AdamW(AdamWConfig { beta1, beta2, epsilon, .. })
            | OptimizerConfig::Adam(AdamConfig { beta1, beta2, epsilon, .. })
            | OptimizerConfig::Lamb(LambConfig { beta1, beta2, epsilon, .. }) => {
                if !(epsilon.is_finite() && *epsilon > 0.0) {
                    return Err(Error::value("optimizer", "a finite epsilon above 0", epsilon));
                }
                vec![("beta1", beta1), ("beta2", beta2)]
            }
            OptimizerConfig::Sgd(SgdConfig { momentum, .. }) => vec![("momentum", momentum)],
        };
        let (rate, decay) = (self.learning_rate(), self.weight_decay());
        if !(rate.is_finite() && rate >= 0.0) {
            return Err(Error::value("optimizer", "a finite learning_rate of at least 0", rate));
        }
        if !(decay.is_finite() && decay >= 0.0) {
            return Err(Error::value("optimizer", "a finite weight_decay of at least 0", decay));
        }
        match rates.into_iter().find(|(_, value)| !(0.0..1.0).contains(*value)) {
            Some((key, value)) => Err(Error::value("optimizer", format!("{key} in [0, 1)"), value)),
            None => Ok(()),
        }
    }
}

/// Parameters that are treated apart. Of several groups whose pattern fits, the first counts.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ParamGroup {
    /// Names of parameters; `*` stands for any run of characters, such as `encoder.*` or `*.bias`.
    pub pattern: String,
    /// Times the scheduled learning rate; 0 freezes.
    #[serde(default = "one", alias = "lr_multiplier")]
    pub learning_rate_multiplier: f64,
    /// In place of the optimizer's, also for biases and norms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight_decay: Option<f64>,
}

fn one() -> f64 {
    1.0
}

impl ParamGroup {
    /// Refuses values out of range.
    pub fn validate(&self) -> Result<()> {
        let fine = |v: f64| v.is_finite() && v >= 0.0;
        if !fine(self.learning_rate_multiplier) {
            let expected = format!("a finite learning_rate_multiplier of at least 0 for `{}`", self.pattern);
            return Err(Error::value("parameter groups", expected, self.learning_rate_multiplier));
        }
        match self.weight_decay {
            Some(decay) if !fine(decay) => {
                let expected = format!("a finite weight_decay of at least 0 for `{}`", self.pattern);
                Err(Error::value("parameter groups", expected, decay))
            }
            _ => Ok(()),
        }
    }

    /// Whether a name fits the pattern.
    pub fn fits(&self, name: &str) -> bool {
        let mut parts = self.pattern.split('*');
        let first = parts.next().unwrap_or_default();
        let Some(mut rest) = name.strip_prefix(first) else { return false };
        let mut parts: Vec<&str> = parts.collect();
        let Some(last) = parts.pop() else { return rest.is_empty() };
        for part in parts {
            let Some(at) = rest.find(part) else { return false };
            rest = &rest[at + part.len()..];
        }
        rest.ends_with(last)
    }
}

/// An exponential moving average of the weights (Polyak and Juditsky 1992; decay as in Tarvainen and
/// Valpola 2017): average = d * average + (1 - d) * weights after every step, from the initial weights on.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EmaConfig {
    pub decay: f64,
    /// Whether d begins low: after step t it is min(decay, (1 + t) / (10 + t)).
    pub warmup: bool,
}

impl Default for EmaConfig {
    fn default() -> Self {
        EmaConfig { decay: 0.999, warmup: true }
    }
}

impl EmaConfig {
    /// Refuses a decay out of range.
    pub fn validate(&self) -> Result<()> {
        if (0.0..1.0).contains(&self.decay) {
            return Ok(());
        }
        Err(Error::value("ema", "decay in [0, 1)", self.decay))
    }

    /// The decay after step `step` (from 1).
    pub fn decay_at(&self, step: u64) -> f64 {
        let t = step as f64;
        if self.warmup { self.decay.min((1.0 + t) / (10.0 + t)) } else { self.decay }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        let fits = |pattern: &str, name: &str| {
            let group = ParamGroup { pattern: pattern.into(), learning_rate_multiplier: 1.0, weight_decay: None };
            group.fits(name)
        };
        for (pattern, name) in [
            ("a.b", "a.b"),
            ("*", ""),
            ("*", "x"),
            ("a.*", "a.b.c"),
            ("*.bias", "a.bias"),
            ("a*b*c", "a1b2b3c"),
            ("*a*", "bab"),
        ] {
            assert!(fits(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [("a.b", "a.b.c"), ("", "a"), ("a.*", "b.a."), ("*.bias", "a.bias.b"), ("ab*ba", "aba")]
        {
            assert!(!fits(pattern, name), "{pattern} {name}");
        }
    }
}
