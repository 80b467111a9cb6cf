//! Row loops of scaled dot-product attention. Rows of scores are padded to a multiple of 16 columns; the
//! padding is minus infinity before the softmax and zero after, so that loops have no remainder.

use super::math::{exp, ln_f64};
use super::{LANES, join, lanes, simd};

/// Columns that a row of scores is padded to.
pub(crate) fn padded(keys: usize) -> usize {
    keys.next_multiple_of(16)
}

simd! {
    /// Softmax of `scale` times each row of `columns` scores, of which the first `keys` count; the
    /// logarithm of each row's sum of exponentials (of the scaled scores) into `sums`, `step` apart.
    pub(crate) fn softmax(scores: &mut [f32], keys: usize, columns: usize, scale: f32, sums: &mut [f32], step: usize) {
        for (row, log_sum) in scores.chunks_exact_mut(columns).zip(sums.iter_mut().step_by(step)) {
            row[keys..].fill(f32::NEG_INFINITY);
            let mut top = [f32::NEG_INFINITY; 16];
            for chunk in row.as_chunks::<16>().0 {
                for l in 0..16 {
                    top[l] = if chunk[l] > top[l] { chunk[l] } else { top[l] };
                }
            }
            let top = top.iter().fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a });
            for v in row.iter_mut() {
                *v = exp(scale * (*v - top));
            }
            let sum = lanes(row, |v| v);
            let inverse = 1.0 / sum;
            for v in row.iter_mut() {
                *v *= inverse;
            }
            *log_sum = scale * top + ln_f64(f64::from(sum)) as f32;
        }
    }
}

simd! {
    /// The probabilities again from the scores and the logarithms of their sums.
    pub(crate) fn probabilities(scores: &mut [f32], keys: usize, columns: usize, scale: f32, sums: &[f32], step: usize) {
        for (row, log_sum) in scores.chunks_exact_mut(columns).zip(sums.iter().step_by(step)) {
            for v in row.iter_mut() {
                *v = exp(scale.mul_add(*v, -*log_sum));
            }
            row[keys..].fill(0.0);
        }
    }
}

simd! {
    /// mask = 0 where the word is below, else scale; masked = values * mask, so that NaN stays NaN.
    pub(crate) fn drop(values: &[f32], words: &[u32], below: u32, scale: f32, masked: &mut [f32]) {
        for ((m, v), w) in masked.iter_mut().zip(values).zip(words) {
            *m = *v * if *w < below { 0.0 } else { scale };
        }
    }
}

simd! {
    /// In place in `upstream`: the gradient of the scores, scale * p * (upstream - sum of upstream * p),
    /// where the sum is that of `output` times its gradient.
    pub(crate) fn backward(
        probabilities: &[f32],
        upstream: &mut [f32],
        columns: usize,
        scale: f32,
        output: &[f32],
        grad: &[f32],
        width: usize,
        stride: usize,
    ) {
        let rows = probabilities.chunks_exact(columns).zip(upstream.chunks_exact_mut(columns)).enumerate();
        for (i, (p, up)) in rows {
            let (o, g) = (&output[i * stride..][..width], &grad[i * stride..][..width]);
            let ((o, o_rest), (g, g_rest)) = (o.as_chunks::<LANES>(), g.as_chunks::<LANES>());
            let mut sums = [0.0f32; LANES];
            for (o, g) in o.iter().zip(g) {
                for l in 0..LANES {
                    sums[l] = o[l].mul_add(g[l], sums[l]);
                }
            }
            for (sum, (o, g)) in sums.iter_mut().zip(o_rest.iter().zip(g_rest)) {
                *sum = o.mul_add(*g, *sum);
            }
            let dot = join(sums);
            for (u, p) in up.iter_mut().zip(p) {
                *u = scale * *p * (*u - dot);
            }
        }
    }
}
