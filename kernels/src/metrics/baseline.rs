//! What a model has to beat: a prediction that looks at the training targets and at no feature.

use super::sum::mean;
use super::{MetricError, not_finite};

/// A constant prediction, fitted on the targets of the training part. Its metrics on val and test
/// come from the same code as the model's.
#[derive(Debug, Clone, PartialEq)]
pub enum Baseline {
    /// Regression: the mean target.
    Mean(f64),
    /// Binary: the share of positive labels. Thresholded at one half it is the majority class.
    PositiveShare(f64),
    /// Multiclass: the share of each class. The most probable one is the majority class.
    ClassShares(Vec<f64>),
}

impl Baseline {
    /// The most classes of a multiclass baseline: a wrong number must not allocate without bound.
    pub const MAX_CLASSES: usize = 1 << 20;

    /// The mean of `targets`. Fails if there is none or one is not finite.
    pub fn regression(targets: &[f64]) -> Result<Self, MetricError> {
        not_empty(targets.len())?;
        if let Some(reason) = not_finite("target", targets) {
            return Err(MetricError::NoBaseline { reason });
        }
        let center = mean(targets);
        if center.is_finite() {
            return Ok(Self::Mean(center));
        }
        Err(MetricError::NoBaseline { reason: "the mean target overflows".to_owned() })
    }

    /// The share of positive `labels`. Fails if there is none.
    pub fn binary(labels: &[bool]) -> Result<Self, MetricError> {
        not_empty(labels.len())?;
        let positive = labels.iter().filter(|label| **label).count();
        Ok(Self::PositiveShare(positive as f64 / labels.len() as f64))
    }

    /// The share of each of `classes` among `labels`. Fails if there is no label or one is not
    /// below `classes`.
    pub fn multiclass(labels: &[u32], classes: usize) -> Result<Self, MetricError> {
        not_empty(labels.len())?;
        if let Some(label) = labels.iter().find(|label| **label as usize >= classes) {
            let reason = format!("label {label} is not below the number of classes, {classes}");
            return Err(MetricError::NoBaseline { reason });
        }
        if classes > Self::MAX_CLASSES {
            let reason = format!("{classes} classes exceed the limit of {}", Self::MAX_CLASSES);
            return Err(MetricError::NoBaseline { reason });
        }
        let mut counts = vec![0_u64; classes];
        for label in labels {
            counts[*label as usize] += 1;
        }
        let share = |count| count as f64 / labels.len() as f64;
        Ok(Self::ClassShares(counts.into_iter().map(share).collect()))
    }

    /// Its prediction for one sample: a number, a score, or a row of class probabilities.
    pub fn row(&self) -> &[f64] {
        match self {
            Self::Mean(value) | Self::PositiveShare(value) => std::slice::from_ref(value),
            Self::ClassShares(shares) => shares,
        }
    }

    /// Its predictions for `samples` samples, in the layout that
    /// [`Predictions`](super::Predictions) takes: [`row`](Self::row) repeated.
    pub fn predictions(&self, samples: usize) -> Vec<f64> {
        self.row().repeat(samples)
    }
}

fn not_empty(samples: usize) -> Result<(), MetricError> {
    if samples > 0 {
        return Ok(());
    }
    Err(MetricError::NoBaseline { reason: "there are no training samples".to_owned() })
}

#[cfg(test)]
mod tests {
    use super::super::{Metric, Options, Predictions, compute};
    use super::*;

    #[test]
    fn the_mean_has_r2_zero_on_its_own_targets() {
        let targets = [1.0, 2.0, 6.0];
        let predicted = Baseline::regression(&targets).unwrap().predictions(3);
        assert_eq!(predicted, [3.0; 3]);
        let predictions = Predictions::regression(&targets, &predicted).unwrap();
        let metrics = compute(&[Metric::R2], &predictions, &Options::default()).unwrap();
        assert_eq!(metrics[&Metric::R2].value(), Some(0.0));
    }

    #[test]
    fn shares_predict_the_majority() {
        let positive = Baseline::binary(&[true, false, false, false]).unwrap();
        assert_eq!(positive.predictions(2), [0.25, 0.25]);
        let classes = Baseline::multiclass(&[2, 2, 0, 2], 3).unwrap();
        assert_eq!(classes.predictions(2), [0.25, 0.0, 0.75, 0.25, 0.0, 0.75]);
        let predictions = Predictions::multiclass(&[2], classes.row(), 3).unwrap();
        let metrics = compute(&[Metric::Accuracy], &predictions, &Options::default()).unwrap();
        assert_eq!(metrics[&Metric::Accuracy].value(), Some(1.0));
    }

    #[test]
    fn no_baseline_without_usable_targets() {
        assert!(Baseline::regression(&[]).is_err());
        assert!(Baseline::regression(&[f64::NAN]).is_err());
        assert!(Baseline::regression(&[f64::MAX; 2]).is_err());
        assert!(Baseline::binary(&[]).is_err());
        assert!(Baseline::multiclass(&[0, 3], 3).is_err());
        assert!(Baseline::multiclass(&[], 0).is_err());
        assert!(Baseline::multiclass(&[0], usize::MAX).is_err());
    }
}
