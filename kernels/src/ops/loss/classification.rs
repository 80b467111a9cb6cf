//! Cross-entropy of logits with label smoothing (Szegedy et al. 2016) and class weights, as PyTorch
//! defines their combination: smoothing's uniform part is weighed by each class, the mean divides by the
//! sum of the targets' weights.

use super::LossConfig;
use crate::cpu::loss;
use crate::error::{Error, Result};

pub(super) fn validate(smoothing: f64, class_weights: Option<&[f32]>, outputs: usize) -> Result<()> {
    if outputs < 2 {
        return Err(Error::shape("cross_entropy", "at least 2 outputs", outputs.to_string()));
    }
    if !(0.0..1.0).contains(&smoothing) {
        return Err(Error::value("cross_entropy", "label_smoothing in [0, 1)", smoothing));
    }
    let Some(weights) = class_weights else { return Ok(()) };
    if weights.len() != outputs {
        return Err(Error::shape("cross_entropy", format!("{outputs} class weights"), weights.len().to_string()));
    }
    match weights.iter().find(|w| !(w.is_finite() && **w >= 0.0)) {
        Some(bad) => Err(Error::value("cross_entropy", "finite class weights of at least 0", bad)),
        None => Ok(()),
    }
}

/// (loss * weight, weight) of one row; the gradient into `grad` where not empty.
pub(super) fn row(config: &LossConfig, logits: &[f32], class: usize, weight: f32, grad: &mut [f32]) -> [f64; 2] {
    let LossConfig::CrossEntropy { label_smoothing, class_weights } = config else {
        unreachable!("invariant: refused by `Loss::check`")
    };
    let class_weights = class_weights.as_deref();
    let own = class_weights.map_or(1.0, |w| w[class]);
    let sum = loss::cross_entropy(logits, class, *label_smoothing as f32, class_weights, weight, grad);
    [sum * f64::from(weight), f64::from(weight) * f64::from(own)]
}
