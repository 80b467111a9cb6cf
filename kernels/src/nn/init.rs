//! Initial weights, addressed by (seed, index of the parameter): adding a layer changes no other's.

use crate::error::{Error, Result};
use crate::philox::{Key, Stream};

/// How the weights of products begin. Biases begin at zero except with `default`; norms at gain 1, bias 0.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Init {
    /// Weights and biases uniform within 1 / sqrt(fan_in), as PyTorch's `nn.Linear`.
    #[default]
    Default,
    /// Normal.
    Normal {
        #[serde(default)]
        mean: f64,
        #[serde(default = "small")]
        std: f64,
    },
    /// Glorot and Bengio (2010): uniform within sqrt(6 / (fan_in + fan_out)).
    XavierUniform,
    /// Normal with variance 2 / (fan_in + fan_out).
    XavierNormal,
    /// He et al. (2015): uniform within sqrt(6 / fan_in).
    KaimingUniform,
    /// Normal with variance 2 / fan_in.
    KaimingNormal,
    /// All zero.
    Zeros,
}

fn small() -> f64 {
    0.02
}

/// What a parameter is, as far as its beginning goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// The [out, in] weight of a product.
    Weight { fan_in: usize, fan_out: usize },
    /// Its bias.
    Bias { fan_in: usize },
    /// The gain of a norm.
    Gain,
    /// The bias of a norm.
    Shift,
}

impl Init {
    /// Refuses a spread that is negative or not finite.
    pub fn validate(&self) -> Result<()> {
        match self {
            Init::Normal { mean, std } if !(mean.is_finite() && std.is_finite() && *std >= 0.0) => Err(Error::value(
                "init",
                "a finite mean and a finite std of at least 0",
                format!("mean {mean}, std {std}"),
            )),
            _ => Ok(()),
        }
    }

    /// Fills a parameter.
    pub(crate) fn fill(&self, role: Role, seed: u64, lane: u32, values: &mut [f32]) {
        let mut rng = Key::new(seed, Stream::Init).lane(lane).rng(0, 0);
        let mut uniform = |bound: f64, values: &mut [f32]| {
            values.iter_mut().for_each(|v| *v = ((2.0 * rng.uniform() - 1.0) * bound) as f32);
        };
        let mut rng = Key::new(seed, Stream::Init).lane(lane).rng(0, 0);
        let mut normal = |mean: f64, std: f64, values: &mut [f32]| {
            values.iter_mut().for_each(|v| *v = (mean + std * rng.normal()) as f32);
        };
        match (role, self) {
            (Role::Gain, _) => values.fill(1.0),
            (Role::Shift, _) | (_, Init::Zeros) => values.fill(0.0),
            (Role::Weight { fan_in, .. } | Role::Bias { fan_in }, Init::Default) => {
                uniform(1.0 / (fan_in as f64).sqrt(), values)
            }
            (Role::Bias { .. }, _) => values.fill(0.0),
            (Role::Weight { .. }, Init::Normal { mean, std }) => normal(*mean, *std, values),
            (Role::Weight { fan_in, fan_out }, Init::XavierUniform) => {
                uniform((6.0 / (fan_in + fan_out) as f64).sqrt(), values)
            }
            (Role::Weight { fan_in, fan_out }, Init::XavierNormal) => {
                normal(0.0, (2.0 / (fan_in + fan_out) as f64).sqrt(), values)
            }
            (Role::Weight { fan_in, .. }, Init::KaimingUniform) => uniform((6.0 / fan_in as f64).sqrt(), values),
            (Role::Weight { fan_in, .. }, Init::KaimingNormal) => normal(0.0, (2.0 / fan_in as f64).sqrt(), values),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spreads_are_as_stated() {
        let role = Role::Weight { fan_in: 300, fan_out: 100 };
        let variance = |init: &Init| {
            let mut w = vec![0.0; 30_000];
            init.fill(role, 1, 0, &mut w);
            w.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / w.len() as f64
        };
        for (init, want) in [
            (Init::Default, 1.0 / 900.0),
            (Init::Normal { mean: 0.0, std: 0.02 }, 0.0004),
            (Init::XavierUniform, 2.0 / 400.0),
            (Init::XavierNormal, 2.0 / 400.0),
            (Init::KaimingUniform, 2.0 / 300.0),
            (Init::KaimingNormal, 2.0 / 300.0),
        ] {
            assert!((variance(&init) / want - 1.0).abs() < 0.05, "{init:?}: {} {want}", variance(&init));
        }
        assert_eq!(variance(&Init::Zeros), 0.0);
        assert!(Init::Normal { mean: 0.0, std: -1.0 }.validate().is_err());
    }

    #[test]
    fn biases_and_norms() {
        let mut v = [5.0; 4];
        Init::KaimingNormal.fill(Role::Bias { fan_in: 4 }, 1, 0, &mut v);
        assert_eq!(v, [0.0; 4]);
        Init::Zeros.fill(Role::Gain, 1, 0, &mut v);
        assert_eq!(v, [1.0; 4]);
    }
}
