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

/// The standard normal variate below which the share `p` lies (Wichura 1988, algorithm AS 241, PPND16).
pub fn normal_quantile(p: f64) -> f64 {
    fn ratio(r: f64, above: &[f64; 8], below: &[f64; 8]) -> f64 {
        let value = |terms: &[f64; 8]| terms.iter().rev().fold(0.0, |sum, term| sum * r + term);
        value(above) / value(below)
    }
    let q = p - 0.5;
    if q.abs() <= 0.425 {
        return q * ratio(0.180_625 - q * q, &CENTER_ABOVE, &CENTER_BELOW);
    }
    let tail = if q < 0.0 { p } else { 1.0 - p };
    if tail <= 0.0 {
        return f64::INFINITY.copysign(q);
    }
    let r = (-ln_f64(tail)).sqrt();
    let found =
        if r <= 5.0 { ratio(r - 1.6, &MIDDLE_ABOVE, &MIDDLE_BELOW) } else { ratio(r - 5.0, &FAR_ABOVE, &FAR_BELOW) };
    found.copysign(q)
}

const CENTER_ABOVE: [f64; 8] = [
    3.3871328727963665,
    133.14166789178438,
    1971.5909503065513,
    13731.69376550946,
    45921.95393154987,
    67265.7709270087,
    33430.57558358813,
    2509.0809287301227,
];
const CENTER_BELOW: [f64; 8] = [
    1.0,
    42.31333070160091,
    687.1870074920579,
    5394.196021424751,
    21213.794301586597,
    39307.89580009271,
    28729.085735721943,
    5226.495278852854,
];
const MIDDLE_ABOVE: [f64; 8] = [
    1.4234371107496835,
    4.630337846156546,
    5.769497221460691,
    3.6478483247632045,
    1.2704582524523684,
    0.2417807251774506,
    0.022723844989269184,
    0.0007745450142783414,
];
const MIDDLE_BELOW: [f64; 8] = [
    1.0,
    2.053191626637759,
    1.6763848301838038,
    0.6897673349851,
    0.14810397642748008,
    0.015198666563616457,
    0.0005475938084995345,
    1.0507500716444169e-9,
];
const FAR_ABOVE: [f64; 8] = [
    6.657904643501103,
    5.463784911164114,
    1.7848265399172913,
    0.29656057182850487,
    0.026532189526576124,
    0.0012426609473880784,
    2.7115555687434876e-5,
    2.0103343992922881e-7,
];
const FAR_BELOW: [f64; 8] = [
    1.0,
    0.599832206555888,
    0.1369298809227358,
    0.014875361290850615,
    0.0007868691311456133,
    1.8463183175100548e-5,
    1.421511758316446e-7,
    2.0442631033899397e-15,
];

/// How a number column is scaled, with what was fitted on train. A column that was constant in train
/// becomes 0 everywhere: it taught the model nothing, so another value must not move a prediction.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
    /// `(x - center) / range`: median and interquartile range.
    Robust {
        center: f64,
        range: f64,
    },
    /// The share of train below, by the quantiles at equal distances from 0 to 1; as a normal variate where asked.
    Quantile {
        quantiles: Vec<f64>,
        normal: bool,
    },
    /// Cut off at these bounds before.
    Bounded {
        low: f64,
        high: f64,
        then: Box<FittedScale>,
    },
}

/// Shares this near to 0 and 1 are taken for them where they become normal variates.
const NORMAL_EDGE: f64 = 1e-7;

impl FittedScale {
    /// The scaled value. `clip` above 0 bounds standardized values to +- clip.
    pub fn apply(&self, x: f64, clip: f64) -> f64 {
        match self {
            Self::None => x,
            Self::Standard { mean, std } => clipped(standardized(x, *mean, *std), clip),
            Self::MinMax { min, max } if max > min => (x - min) / (max - min),
            Self::MinMax { .. } => 0.0,
            Self::Log1p { mean, std } => clipped(standardized(signed_ln_1p(x), *mean, *std), clip),
            Self::Robust { center, range } => clipped(standardized(x, *center, *range), clip),
            Self::Quantile { quantiles, normal } => quantile(x, quantiles, *normal),
            Self::Bounded { low, high, then } => then.apply(x.max(*low).min(*high), clip),
        }
    }
}

/// Between the quantiles around `x`; where several quantiles are the same value, the middle of their shares.
fn quantile(x: f64, quantiles: &[f64], normal: bool) -> f64 {
    let (Some(&low), Some(&high)) = (quantiles.first(), quantiles.last()) else { return 0.0 };
    if low == high {
        return 0.0;
    }
    let top = (quantiles.len() - 1) as f64;
    let edge = if normal { NORMAL_EDGE } else { 0.0 };
    let share = if x - edge < low || x <= low {
        0.0
    } else if x + edge > high || x >= high {
        1.0
    } else {
        // The last quantile not above x, and the first not below.
        let after = quantiles.partition_point(|q| *q <= x);
        let before = quantiles.partition_point(|q| *q < x);
        let between = |left: usize| {
            let (a, b) = (quantiles[left], quantiles[left + 1]);
            (left as f64 + (x - a) / (b - a)) / top
        };
        let (from_below, from_above) = (between(after - 1), between(before - 1));
        f64::midpoint(from_below, from_above)
    };
    if !normal {
        return share;
    }
    let least = NORMAL_EDGE - f64::EPSILON;
    normal_quantile(share).clamp(normal_quantile(least), normal_quantile(1.0 - least))
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
    fn quantiles_of_the_normal_distribution() {
        // scipy.special.ndtri.
        for (p, expected) in [
            (0.5, 0.0),
            (0.975, 1.959963984540054),
            (0.1, -1.2815515655446004),
            (1e-7, -5.199337582192817),
            (1e-12, -7.034483825301132),
            (0.93, 1.4757910281791713),
        ] {
            let found = normal_quantile(p);
            assert!((found - expected).abs() <= 1e-14 * (1.0 + expected.abs()), "{p}: {found} {expected}");
        }
        assert_eq!((normal_quantile(0.0), normal_quantile(1.0)), (f64::NEG_INFINITY, f64::INFINITY));
    }

    #[test]
    fn later_scalings_by_hand() {
        let robust = FittedScale::Robust { center: 2.0, range: 4.0 };
        assert_eq!((robust.apply(10.0, 0.0), robust.apply(10.0, 1.0)), (2.0, 1.0));
        let bounded = FittedScale::Bounded { low: 0.0, high: 6.0, then: Box::new(robust) };
        assert_eq!((bounded.apply(1e9, 0.0), bounded.apply(-1e9, 0.0)), (1.0, -0.5));
        let shares = FittedScale::Quantile { quantiles: vec![0.0, 1.0, 1.0, 1.0, 5.0], normal: false };
        for (x, expected) in [(-3.0, 0.0), (0.0, 0.0), (0.5, 0.125), (1.0, 0.5), (3.0, 0.875), (5.0, 1.0), (9.0, 1.0)] {
            assert_eq!(shares.apply(x, 0.0), expected, "{x}");
        }
        let constant = FittedScale::Quantile { quantiles: vec![2.0, 2.0], normal: true };
        assert_eq!(constant.apply(7.0, 0.0), 0.0);
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
