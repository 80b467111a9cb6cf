//! Layer normalization over each row (Ba, Kiros, Hinton 2016): y = (x - mean) / sqrt(var + eps) * gain +
//! bias, with the biased variance.

use super::{lanes, simd};

simd! {
    /// sum = x + residual
    pub(crate) fn sums(x: &[f32], residual: &[f32], sum: &mut [f32]) {
        for ((s, x), r) in sum.iter_mut().zip(x).zip(residual) {
            *s = *x + *r;
        }
    }
}

simd! {
    /// Rows of `gain.len()`; (mean, inverse deviation) of each into `statistics`.
    pub(crate) fn forward(x: &[f32], gain: &[f32], bias: &[f32], epsilon: f32, y: &mut [f32], statistics: &mut [f32]) {
        let n = gain.len();
        assert!(bias.len() == n && y.len() == x.len() && n > 0, "invariant: one size per row");
        let rows = x.chunks_exact(n).zip(y.chunks_exact_mut(n)).zip(statistics.as_chunks_mut::<2>().0);
        for ((x, y), statistic) in rows {
            let mean = lanes(n, |i| x[i]) / n as f32;
            let variance = lanes(n, |i| (x[i] - mean) * (x[i] - mean)) / n as f32;
            let inverse = 1.0 / (variance + epsilon).sqrt();
            for i in 0..n {
                y[i] = ((x[i] - mean) * inverse).mul_add(gain[i], bias[i]);
            }
            *statistic = [mean, inverse];
        }
    }
}

simd! {
    /// The gradient of rows with respect to x, written to `out`:
    /// inverse * (g gain - mean(g gain) - xhat mean(g gain xhat)).
    pub(crate) fn backward(grad: &[f32], x: &[f32], gain: &[f32], statistics: &[f32], out: &mut [f32]) {
        let n = gain.len();
        assert!(grad.len() == x.len() && out.len() == x.len() && n > 0, "invariant: one size per row");
        let rows = grad.chunks_exact(n).zip(x.chunks_exact(n)).zip(out.chunks_exact_mut(n));
        for (((grad, x), out), &[mean, inverse]) in rows.zip(statistics.as_chunks::<2>().0) {
            let first = lanes(n, |i| grad[i] * gain[i]) / n as f32;
            let second = lanes(n, |i| grad[i] * gain[i] * ((x[i] - mean) * inverse)) / n as f32;
            for i in 0..n {
                let normalized = (x[i] - mean) * inverse;
                out[i] = inverse * (normalized.mul_add(-second, grad[i] * gain[i] - first));
            }
        }
    }
}
