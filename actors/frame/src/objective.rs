//! What a plan's training minimizes, for the trainer and for whoever reports the same figure later.

use kernels::train::LossConfig;
use messages::plan::{ClassWeights, JobPlan, Loss};

use crate::manifest::Manifest;

/// The plan's loss; classes are weighed by their shares in the manifest's train part.
pub fn loss(plan: &JobPlan, manifest: &Manifest) -> LossConfig {
    let training = &plan.training;
    match training.loss {
        Loss::Mse => LossConfig::Mse,
        Loss::Mae => LossConfig::Mae,
        Loss::Huber => LossConfig::Huber { delta: training.huber_delta },
        Loss::BceWithLogits => LossConfig::BceWithLogits { pos_weight: Some(training.positive_weight) },
        Loss::CrossEntropy => LossConfig::CrossEntropy {
            label_smoothing: training.label_smoothing,
            class_weights: match training.class_weights {
                ClassWeights::None => None,
                ClassWeights::Balanced => Some(balanced(&manifest.target.train_priors)),
            },
        },
    }
}

/// Rows / (classes * rows of the class); a class without rows in train weighs nothing.
fn balanced(priors: &[f64]) -> Vec<f32> {
    let classes = priors.len() as f64;
    priors.iter().map(|&share| if share > 0.0 { (1.0 / (classes * share)) as f32 } else { 0.0 }).collect()
}

#[cfg(test)]
mod tests {
    use super::balanced;

    #[test]
    fn balanced_classes_weigh_the_same() {
        assert_eq!(balanced(&[0.5, 0.25, 0.25, 0.0]), [0.5, 1.0, 1.0, 0.0]);
        assert!(balanced(&[]).is_empty());
    }
}
