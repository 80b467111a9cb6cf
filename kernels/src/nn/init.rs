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
    /// All this.
    Constant { value: f64 },
    /// Normal, drawn again beyond two standard deviations from the mean (the BERT family's beginning).
    TruncatedNormal {
        #[serde(default)]
        mean: f64,
        #[serde(default = "small")]
        std: f64,
    },
}

fn small() -> f64 {
    0.02
}

/// What a parameter is, as far as its beginning goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// The [out, in] weight of a product.
    Weight { fan_in: usize, fan_out: usize },
    /// The [entries, width] table of an embedding: with `default` and the methods that go by fan, normal with
    /// deviation 1 as PyTorch's `nn.Embedding`.
    Table,
    /// The same for tokens and positions: with those methods normal with deviation 0.02, as the BERT family's.
    Tokens,
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
            Init::Normal { mean, std } | Init::TruncatedNormal { mean, std }
                if !(mean.is_finite() && std.is_finite() && *std >= 0.0) =>
            {
                let got = format!("mean {mean}, std {std}");
                Err(Error::value("init", "a finite mean and a finite std of at least 0", got))
            }
            Init::Constant { value } if !value.is_finite() => Err(Error::value("init", "a finite value", value)),
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
        let mut normal = |mean: f64, std: f64, bound: f64, values: &mut [f32]| {
            values.iter_mut().for_each(|v| *v = (mean + std * within(bound, || rng.normal())) as f32);
        };
        let all = f64::INFINITY;
        match (role, self) {
            (Role::Gain, _) => values.fill(1.0),
            (Role::Shift, _) | (_, Init::Zeros) => values.fill(0.0),
            (Role::Weight { fan_in, .. } | Role::Bias { fan_in }, Init::Default) => {
                uniform(1.0 / (fan_in as f64).sqrt(), values)
            }
            (Role::Bias { .. }, _) => values.fill(0.0),
            (_, Init::Constant { value }) => values.fill(*value as f32),
            (_, Init::Normal { mean, std }) => normal(*mean, *std, all, values),
            (_, Init::TruncatedNormal { mean, std }) => normal(*mean, *std, 2.0, values),
            (Role::Table, _) => normal(0.0, 1.0, all, values),
            (Role::Tokens, _) => normal(0.0, small(), all, values),
            (Role::Weight { fan_in, fan_out }, Init::XavierUniform) => {
                uniform((6.0 / (fan_in + fan_out) as f64).sqrt(), values)
            }
            (Role::Weight { fan_in, fan_out }, Init::XavierNormal) => {
                normal(0.0, (2.0 / (fan_in + fan_out) as f64).sqrt(), all, values)
            }
            (Role::Weight { fan_in, .. }, Init::KaimingUniform) => uniform((6.0 / fan_in as f64).sqrt(), values),
            (Role::Weight { fan_in, .. }, Init::KaimingNormal) => {
                normal(0.0, (2.0 / fan_in as f64).sqrt(), all, values)
            }
        }
    }
}

/// The first draw within +- `bound`; at two deviations 64 draws miss with a probability of 1e-86, and the last
/// is bounded then.
fn within(bound: f64, mut draw: impl FnMut() -> f64) -> f64 {
    let mut value = draw();
    for _ in 0..64 {
        if value.abs() <= bound {
            return value;
        }
        value = draw();
    }
    value.clamp(-bound, bound)
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
            (Init::Constant { value: 0.5 }, 0.25),
            // The variance of a normal cut at two deviations is 1 - 4 phi(2) / (2 Phi(2) - 1) of the whole one's.
            (Init::TruncatedNormal { mean: 0.0, std: 0.02 }, 0.0004 * 0.773_741),
        ] {
            assert!((variance(&init) / want - 1.0).abs() < 0.05, "{init:?}: {} {want}", variance(&init));
        }
        assert_eq!(variance(&Init::Zeros), 0.0);
        assert!(Init::Normal { mean: 0.0, std: -1.0 }.validate().is_err());
        assert!(Init::TruncatedNormal { mean: f64::NAN, std: 1.0 }.validate().is_err());
        assert!(Init::Constant { value: f64::INFINITY }.validate().is_err());
    }

    #[test]
    fn a_truncated_normal_stays_within_two_deviations_and_a_table_is_normal() {
        let mut w = vec![0.0; 20_000];
        Init::TruncatedNormal { mean: 1.0, std: 0.5 }.fill(Role::Table, 3, 0, &mut w);
        assert!(w.iter().all(|v| (0.0..=2.0).contains(v)) && w.iter().any(|v| *v > 1.9));
        Init::Default.fill(Role::Table, 3, 0, &mut w);
        let variance = w.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / w.len() as f64;
        assert!((variance - 1.0).abs() < 0.05, "{variance}");
        let parsed: Init = serde_json::from_str(r#"{"type":"truncated_normal"}"#).expect("well-formed");
        assert_eq!(parsed, Init::TruncatedNormal { mean: 0.0, std: 0.02 });
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
