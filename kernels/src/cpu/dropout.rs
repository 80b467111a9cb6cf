//! Dropout masks from addressed random words.

use super::simd;
use crate::philox::fill_words;

simd! {
    fn apply(x: &[f32], words: &[u32], below: u32, scale: f32, mask: &mut [f32], y: &mut [f32]) {
        for (((x, w), m), y) in x.iter().zip(words).zip(mask).zip(y) {
            *m = if *w < below { 0.0 } else { scale };
            *y = *x * *m;
        }
    }
}

simd! {
    /// out = grad * mask
    pub(crate) fn set_masked(grad: &[f32], mask: &[f32], out: &mut [f32]) {
        for ((o, g), m) in out.iter_mut().zip(grad).zip(mask) {
            *o = *g * *m;
        }
    }
}

simd! {
    /// out += grad * mask
    pub(crate) fn add_masked(grad: &[f32], mask: &[f32], out: &mut [f32]) {
        for ((o, g), m) in out.iter_mut().zip(grad).zip(mask) {
            *o += *g * *m;
        }
    }
}

/// One sample: element j is dropped where word j of (key, sample, step) is below p 2^32, else scaled by
/// 1 / (1 - p). The factors are kept in `mask`.
pub(crate) fn row(
    x: &[f32],
    rate: f32,
    key: [u32; 2],
    sample: u64,
    step: u32,
    mask: &mut [f32],
    y: &mut [f32],
    words: &mut Vec<u32>,
) {
    words.resize(x.len(), 0);
    fill_words(key, sample, step, 0, words);
    let below = (f64::from(rate) * 2f64.powi(32)) as u32;
    apply(x, words, below, 1.0 / (1.0 - rate), mask, y);
}
