//! Losses against real targets: squares, absolute values, Huber, binary cross-entropy of logits.

use super::LossConfig;
use crate::cpu::loss;

/// (loss * weight, weight) of one row; the gradient of loss * weight into `grad` where not empty.
pub(super) fn row(config: &LossConfig, y: &[f32], t: &[f32], weight: f32, grad: &mut [f32]) -> [f64; 2] {
    let share = weight / y.len().max(1) as f32;
    let sum = match config {
        LossConfig::Mse => loss::square(y, t, share, grad),
        LossConfig::Mae => loss::absolute(y, t, share, grad),
        LossConfig::Huber { delta } => loss::huber(y, t, *delta as f32, share, grad),
        LossConfig::BceWithLogits { pos_weight } => loss::binary(y, t, pos_weight.unwrap_or(1.0) as f32, share, grad),
        LossConfig::CrossEntropy { .. } => unreachable!("invariant: refused by `Loss::check`"),
    };
    [sum * f64::from(weight) / y.len().max(1) as f64, f64::from(weight)]
}
