//! Layer normalization over each row (Ba, Kiros, Hinton 2016): y = (x - mean) / sqrt(var + eps) * gain +
//! bias, with the biased variance.

use super::simd;

/// Added to the variance.
pub const EPSILON: f32 = 1e-5;

/// Sums over 16 fixed lanes, joined by halves.
#[inline(always)]
fn lanes(n: usize, term: impl Fn(usize) -> f32) -> f32 {
    const LANES: usize = 16;
    let mut sums = [0.0f32; LANES];
    let whole = n / LANES * LANES;
    for start in (0..whole).step_by(LANES) {
        for l in 0..LANES {
            sums[l] += term(start + l);
        }
    }
    for i in whole..n {
        sums[i - whole] += term(i);
    }
    let mut width = LANES / 2;
    while width > 0 {
        for l in 0..width {
            sums[l] += sums[l + width];
        }
        width /= 2;
    }
    sums[0]
}

simd! {
    /// One row; returns (mean, inverse deviation).
    pub(crate) fn forward(x: &[f32], gain: &[f32], bias: &[f32], y: &mut [f32]) -> (f32, f32) {
        let n = x.len();
        assert!(gain.len() == n && bias.len() == n && y.len() == n, "invariant: one size per row");
        let mean = lanes(n, |i| x[i]) / n as f32;
        let variance = lanes(n, |i| (x[i] - mean) * (x[i] - mean)) / n as f32;
        let inverse = 1.0 / (variance + EPSILON).sqrt();
        for i in 0..n {
            y[i] = ((x[i] - mean) * inverse).mul_add(gain[i], bias[i]);
        }
        (mean, inverse)
    }
}

simd! {
    /// One row's gradient with respect to x, written to `out`:
    /// inverse * (g gain - mean(g gain) - xhat mean(g gain xhat)).
    pub(crate) fn backward(grad: &[f32], x: &[f32], gain: &[f32], mean: f32, inverse: f32, out: &mut [f32]) {
        let n = x.len();
        assert!(gain.len() == n && grad.len() == n && out.len() == n, "invariant: one size per row");
        let first = lanes(n, |i| grad[i] * gain[i]) / n as f32;
        let second = lanes(n, |i| grad[i] * gain[i] * ((x[i] - mean) * inverse)) / n as f32;
        for i in 0..n {
            let normalized = (x[i] - mean) * inverse;
            out[i] = inverse * (normalized.mul_add(-second, grad[i] * gain[i] - first));
        }
    }
}
