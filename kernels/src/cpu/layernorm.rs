//! Layer normalization over each row (Ba, Kiros, Hinton 2016): y = (x - mean) / sqrt(var + eps) * gain +
//! bias, with the biased variance.

use super::{LANES, join, lanes, simd};

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
            let mean = lanes(x, |v| v) / n as f32;
            let variance = lanes(x, |v| (v - mean) * (v - mean)) / n as f32;
            let inverse = 1.0 / (variance + epsilon).sqrt();
            for (((y, x), gain), bias) in y.iter_mut().zip(x).zip(gain).zip(bias) {
                *y = ((*x - mean) * inverse).mul_add(*gain, *bias);
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
            let (mut first, mut second) = ([0.0f32; LANES], [0.0f32; LANES]);
            let mut add = |l: usize, g: f32, x: f32, gain: f32| {
                let term = g * gain;
                first[l] += term;
                second[l] += term * ((x - mean) * inverse);
            };
            let ((g, g_rest), (v, v_rest), (w, w_rest)) =
                (grad.as_chunks::<LANES>(), x.as_chunks::<LANES>(), gain.as_chunks::<LANES>());
            for ((g, v), w) in g.iter().zip(v).zip(w) {
                for l in 0..LANES {
                    add(l, g[l], v[l], w[l]);
                }
            }
            for (l, ((g, v), w)) in g_rest.iter().zip(v_rest).zip(w_rest).enumerate() {
                add(l, *g, *v, *w);
            }
            let (first, second) = (join(first) / n as f32, join(second) / n as f32);
            for (((out, x), g), gain) in out.iter_mut().zip(x).zip(grad).zip(gain) {
                let normalized = (*x - mean) * inverse;
                *out = inverse * (normalized.mul_add(-second, *g * *gain - first));
            }
        }
    }
}
