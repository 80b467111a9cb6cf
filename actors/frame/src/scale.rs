//! The arithmetic of scalings and target transforms. In f64 and through `kernels`' own logarithm and
//! exponential, because those of the system's mathematics library differ between hosts in the last bit.

use kernels::cpu::math::{exp_f64, ln_f64};
use serde::{Deserialize, Serialize};

/// `ln(1 + x)`, accurate near 0 (Kahan: the rounding error of `1 + x` cancels).
pub fn ln_1p(x: f64) -> f64 {
    let u = 1.0 + x;
    if u == 1.0 { x } else { ln_f64(u) * (x / (u - 1.0)) }
}

/// `exp(x) - 1`, accurate near 0 (Kahan).
pub fn exp_m1(x: f64) -> f64 {
    let u = exp_f64(x);
    if u == 1.0 {
        x
    } else if u - 1.0 == -1.0 || u.is_infinite() {
        u - 1.0
    } else {
        (u - 1.0) * (x / ln_f64(u))
    }
}

/// `sign(x) ln(1 + |x|)`.
pub fn signed_ln_1p(x: f64) -> f64 {
    ln_1p(x.abs()).copysign(x)
}

/// How a number column is scaled, with what was fitted on train. A column that was constant in train
/// becomes 0 everywhere: it taught the model nothing, so another value must not move a prediction.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum FittedScale {
    None,
    /// `(x - mean) / std`, ddof 0.
    Standard {
        mean: f64,
        std: f64,
    },
    /// `(x - min) / (max - min)`; values outside train's range leave 0..1.
    MinMax {
        min: f64,
        max: f64,
    },
    /// `sign(x) ln(1 + |x|)`, then standard with the mean and std of that.
    Log1p {
        mean: f64,
        std: f64,
    },
}

impl FittedScale {
    /// The scaled value. `clip` above 0 bounds standardized values to +- clip.
    pub fn apply(self, x: f64, clip: f64) -> f64 {
        match self {
            Self::None => x,
            Self::Standard { mean, std } => clipped(standardized(x, mean, std), clip),
            Self::MinMax { min, max } if max > min => (x - min) / (max - min),
            Self::MinMax { .. } => 0.0,
            Self::Log1p { mean, std } => clipped(standardized(signed_ln_1p(x), mean, std), clip),
        }
    }
}

fn standardized(x: f64, mean: f64, std: f64) -> f64 {
    if std > 0.0 { (x - mean) / std } else { 0.0 }
}

fn clipped(x: f64, clip: f64) -> f64 {
    if clip > 0.0 { x.clamp(-clip, clip) } else { x }
}

/// How a regression target is transformed, with what was fitted on train.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum FittedTransform {
    None,
    /// `ln(1 + y)`, y above -1.
    Log1p,
    /// `(y - mean) / std`, ddof 0.
    Standard {
        mean: f64,
        std: f64,
    },
}

impl FittedTransform {
    /// What the model learns for the value `y`.
    pub fn apply(self, y: f64) -> f64 {
        match self {
            Self::None => y,
            Self::Log1p => ln_1p(y),
            Self::Standard { mean, std } => standardized(y, mean, std),
        }
    }

    /// The value that the model's output stands for.
    pub fn invert(self, output: f64) -> f64 {
        match self {
            Self::None => output,
            Self::Log1p => exp_m1(output),
            Self::Standard { mean, std } => output * std + mean,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logarithm_and_exponential_agree_with_the_system_to_an_ulp_or_two() {
        for i in -60..60 {
            for mantissa in [1.0, 1.3, 1.999] {
                let x = mantissa * 2f64.powi(i);
                let (ours, theirs) = (ln_1p(x), x.ln_1p());
                assert!((ours - theirs).abs() <= 4.0 * f64::EPSILON * theirs.abs(), "ln_1p({x}): {ours} {theirs}");
                for y in [x, -x] {
                    let (ours, theirs) = (exp_m1(y), y.exp_m1());
                    let same = ours == theirs || (ours - theirs).abs() <= 6.0 * f64::EPSILON * theirs.abs();
                    assert!(same, "exp_m1({y}): {ours} {theirs}");
                }
            }
        }
        assert_eq!((ln_1p(0.0), exp_m1(0.0)), (0.0, 0.0));
    }

    #[test]
    fn scalings_by_hand() {
        let rows: [(FittedScale, f64, f64, f64); 8] = [
            (FittedScale::None, 7.0, 1.0, 7.0),
            (FittedScale::Standard { mean: 2.0, std: 4.0 }, 10.0, 0.0, 2.0),
            (FittedScale::Standard { mean: 2.0, std: 4.0 }, 10.0, 1.5, 1.5),
            (FittedScale::Standard { mean: 2.0, std: 4.0 }, -90.0, 1.5, -1.5),
            (FittedScale::Standard { mean: 2.0, std: 0.0 }, 10.0, 0.0, 0.0),
            (FittedScale::MinMax { min: -1.0, max: 3.0 }, 1.0, 0.0, 0.5),
            (FittedScale::MinMax { min: 3.0, max: 3.0 }, 9.0, 0.0, 0.0),
            (FittedScale::Log1p { mean: 0.0, std: 1.0 }, 0.0, 5.0, 0.0),
        ];
        for (scale, x, clip, expected) in rows {
            assert_eq!(scale.apply(x, clip), expected, "{scale:?} of {x}");
        }
        assert_eq!(signed_ln_1p(-3.0), -signed_ln_1p(3.0));
    }

    #[test]
    fn a_target_comes_back() {
        for transform in
            [FittedTransform::None, FittedTransform::Log1p, FittedTransform::Standard { mean: 3.0, std: 0.5 }]
        {
            for y in [0.0, 0.25, 3.0, 1e-9, 500_001.0] {
                let back = transform.invert(transform.apply(y));
                assert!((back - y).abs() <= 1e-12 * (1.0 + y), "{transform:?}: {y} came back as {back}");
            }
        }
    }
}
