//! Loss loops over the outputs of one row. Each returns the unweighted loss (f64, terms in column order)
//! and writes `share` times its gradient where `grad` is not empty.

use super::math::{exp, ln_f64, sigmoid};
use super::simd;

/// Sum of (y - t)^2.
pub(crate) fn square(y: &[f32], t: &[f32], share: f32, grad: &mut [f32]) -> f64 {
    for ((g, y), t) in grad.iter_mut().zip(y).zip(t) {
        *g = 2.0 * share * (y - t);
    }
    y.iter().zip(t).fold(0.0, |sum, (y, t)| {
        let d = f64::from(*y) - f64::from(*t);
        sum + d * d
    })
}

fn sign(d: f32) -> f32 {
    if d > 0.0 {
        1.0
    } else if d < 0.0 {
        -1.0
    } else {
        d * 0.0
    }
}

/// Sum of |y - t|.
pub(crate) fn absolute(y: &[f32], t: &[f32], share: f32, grad: &mut [f32]) -> f64 {
    for ((g, y), t) in grad.iter_mut().zip(y).zip(t) {
        *g = share * sign(y - t);
    }
    y.iter().zip(t).fold(0.0, |sum, (y, t)| sum + (f64::from(*y) - f64::from(*t)).abs())
}

/// Sum of Huber's function of y - t.
pub(crate) fn huber(y: &[f32], t: &[f32], delta: f32, share: f32, grad: &mut [f32]) -> f64 {
    for ((g, y), t) in grad.iter_mut().zip(y).zip(t) {
        let d = y - t;
        *g = share * if d.abs() <= delta { d } else { delta * sign(d) };
    }
    let delta = f64::from(delta);
    y.iter().zip(t).fold(0.0, |sum, (y, t)| {
        let d = (f64::from(*y) - f64::from(*t)).abs();
        sum + if d <= delta { 0.5 * d * d } else { delta * (d - 0.5 * delta) }
    })
}

simd! {
    /// Sum of -(p t ln s(x) + (1 - t) ln(1 - s(x))), s the sigmoid, in the form that does not overflow:
    /// (1 - t) x + (1 + (p - 1) t) (ln(1 + e^-|x|) + max(-x, 0)).
    pub(crate) fn binary(x: &[f32], t: &[f32], positive: f32, share: f32, grad: &mut [f32]) -> f64 {
        for ((g, x), t) in grad.iter_mut().zip(x).zip(t) {
            let both = (positive - 1.0).mul_add(*t, 1.0);
            *g = share * (sigmoid(*x) * both - positive * *t);
        }
        let mut sum = 0.0;
        for (x, t) in x.iter().zip(t) {
            let (v, t) = (f64::from(*x), f64::from(*t));
            let soft = ln_f64(1.0 + f64::from(exp(-x.abs()))) + if v < 0.0 { -v } else { 0.0 };
            sum += (1.0 - t) * v + (1.0 + (f64::from(positive) - 1.0) * t) * soft;
        }
        sum
    }
}

simd! {
    /// Softmax in place, shifted by the largest.
    pub(crate) fn softmax_row(row: &mut [f32]) {
        let mut top = f32::NEG_INFINITY;
        for &v in row.iter() {
            top = if v > top { v } else { top };
        }
        let mut sum = 0.0;
        for v in row.iter_mut() {
            *v = exp(*v - top);
            sum += *v;
        }
        for v in row {
            *v /= sum;
        }
    }
}

simd! {
    /// 1 / (1 + e^-x) of each.
    pub(crate) fn sigmoid_all(values: &mut [f32]) {
        for v in values {
            *v = sigmoid(*v);
        }
    }
}

simd! {
    /// Cross-entropy of one row with smoothing e over K classes of weight w:
    /// (1 - e) w[c] (-ln p[c]) + e / K * sum over k of w[k] (-ln p[k]).
    pub(crate) fn cross_entropy(x: &[f32], class: usize, smoothing: f32, weights: Option<&[f32]>, share: f32, grad: &mut [f32]) -> f64 {
        let mut top = f32::NEG_INFINITY;
        for &v in x {
            top = if v > top { v } else { top };
        }
        let mut total = 0.0f32;
        for &v in x {
            total += exp(v - top);
        }
        let log_total = f64::from(top) + ln_f64(f64::from(total));
        let each = smoothing / x.len() as f32;
        let weight = |k: usize| weights.map_or(1.0, |w| w[k]);
        let target = |k: usize| weight(k) * if k == class { 1.0 - smoothing + each } else { each };
        let mut mass = 0.0;
        let mut sum = 0.0;
        for (k, &v) in x.iter().enumerate() {
            let t = target(k);
            mass += t;
            // A class of no weight takes no part, even at minus infinity; a row that is not a number does.
            sum += if t == 0.0 && !log_total.is_nan() { 0.0 } else { f64::from(t) * (log_total - f64::from(v)) };
        }
        for (k, g) in grad.iter_mut().enumerate() {
            *g = share * (mass * (exp(x[k] - top) / total) - target(k));
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_logits_stay_finite() {
        let mut grad = [0.0];
        for (x, t, want) in [(300.0, 1.0, 0.0), (300.0, 0.0, 300.0), (-300.0, 1.0, 300.0), (-300.0, 0.0, 0.0)] {
            assert!((binary(&[x], &[t], 1.0, 1.0, &mut grad) - want).abs() < 1e-6);
            assert!((f64::from(grad[0]) - f64::from(sigmoid(x) - t)).abs() < 1e-6);
        }
        let mut row = [1000.0, 0.0, -1000.0];
        assert!((cross_entropy(&row, 1, 0.0, None, 1.0, &mut []) - 1000.0).abs() < 1e-3);
        softmax_row(&mut row);
        assert_eq!(row, [1.0, 0.0, 0.0]);
    }

    #[test]
    fn not_a_number_shows() {
        let mut grad = [0.0; 2];
        assert!(square(&[f32::NAN], &[0.0], 1.0, &mut grad[..1]).is_nan() && grad[0].is_nan());
        assert!(absolute(&[f32::NAN], &[0.0], 1.0, &mut grad[..1]).is_nan() && grad[0].is_nan());
        assert!(huber(&[f32::NAN], &[0.0], 1.0, 1.0, &mut grad[..1]).is_nan() && grad[0].is_nan());
        assert!(binary(&[f32::NAN], &[0.0], 1.0, 1.0, &mut grad[..1]).is_nan() && grad[0].is_nan());
        assert!(cross_entropy(&[f32::NAN, 0.0], 0, 0.0, None, 1.0, &mut grad).is_nan() && grad[0].is_nan());
    }
}
