//! Layer normalization over each row (Ba, Kiros, Hinton 2016): y = (x - mean) / sqrt(var + eps) * gain +
//! bias, with the biased variance.

use super::simd;

/// Added to the variance.
pub const EPSILON: f32 = 1e-5;

const LANES: usize = 16;

/// The sum of 16 fixed lanes, joined by halves.
#[inline(always)]
fn join(mut sums: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for l in 0..width {
            sums[l] += sums[l + width];
        }
        width /= 2;
    }
    sums[0]
}

/// Sums of a term of each element over the lanes.
#[inline(always)]
fn lanes(x: &[f32], term: impl Fn(f32) -> f32) -> f32 {
    let (whole, rest) = x.as_chunks::<LANES>();
    let mut sums = [0.0f32; LANES];
    for chunk in whole {
        for l in 0..LANES {
            sums[l] += term(chunk[l]);
        }
    }
    rest.iter().zip(&mut sums).for_each(|(v, sum)| *sum += term(*v));
    join(sums)
}

simd! {
    /// One row; returns (mean, inverse deviation).
    pub(crate) fn forward(x: &[f32], gain: &[f32], bias: &[f32], y: &mut [f32]) -> (f32, f32) {
        let n = x.len();
        assert!(gain.len() == n && bias.len() == n && y.len() == n, "invariant: one size per row");
        let mean = lanes(x, |v| v) / n as f32;
        let variance = lanes(x, |v| (v - mean) * (v - mean)) / n as f32;
        let inverse = 1.0 / (variance + EPSILON).sqrt();
        for (((y, x), gain), bias) in y.iter_mut().zip(x).zip(gain).zip(bias) {
            *y = ((*x - mean) * inverse).mul_add(*gain, *bias);
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
