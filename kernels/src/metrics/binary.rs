//! Metrics of a binary classification.

use super::sum::sum;
use super::{Metric, MetricError, MetricValue, Options, ZeroDivision, not_finite};

/// Labels and scores of the positive class, one of each a sample. A score is usually the
/// probability of the positive class; the metrics that need one are undefined if it leaves [0, 1].
/// Every metric is undefined if there is no sample or a score is not finite.
#[derive(Debug, Clone)]
pub struct Binary<'a> {
    actual: &'a [bool],
    score: &'a [f64],
    invalid: Option<String>,
}

/// How labels and thresholded predictions meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Confusion {
    /// Positive, predicted positive.
    pub true_positive: u64,
    /// Negative, predicted positive.
    pub false_positive: u64,
    /// Positive, predicted negative.
    pub false_negative: u64,
    /// Negative, predicted negative.
    pub true_negative: u64,
}

/// One bin of a calibration curve; empty ones are left out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CalibrationBin {
    /// Mean probability predicted in the bin.
    pub mean_score: f64,
    /// Share of its samples that are positive.
    pub positive_share: f64,
    /// Samples in it.
    pub count: u64,
}

/// Samples of one score: how many are positive and how many negative.
struct Tie {
    positive: u64,
    negative: u64,
}

impl<'a> Binary<'a> {
    /// Fails if the slices differ in length.
    pub fn new(actual: &'a [bool], score: &'a [f64]) -> Result<Self, MetricError> {
        if actual.len() != score.len() {
            return Err(MetricError::LengthMismatch { what: "scores", expected: actual.len(), got: score.len() });
        }
        let invalid =
            if actual.is_empty() { Some("there are no samples".to_owned()) } else { not_finite("score", score) };
        Ok(Self { actual, score, invalid })
    }

    /// Counts at `threshold`: a score at or above it is a positive prediction. Fails if there is no
    /// sample or a score is not finite.
    pub fn confusion(&self, threshold: f64) -> Result<Confusion, MetricError> {
        match &self.invalid {
            Some(reason) => Err(MetricError::Undefined { reason: reason.clone() }),
            None => Ok(self.counts(threshold)),
        }
    }

    /// Share of samples on the right side of `threshold`.
    pub fn accuracy(&self, threshold: f64) -> MetricValue {
        self.of_confusion(threshold, |c| Ok((c.true_positive + c.true_negative) as f64 / self.actual.len() as f64))
    }

    /// TP / (TP + FP).
    pub fn precision(&self, threshold: f64, zero_division: ZeroDivision) -> MetricValue {
        self.of_confusion(threshold, |c| {
            let predicted = c.true_positive + c.false_positive;
            let ratio = zero_division.ratio(c.true_positive as f64, predicted as f64);
            ratio.ok_or_else(|| "no sample is predicted positive".to_owned())
        })
    }

    /// TP / (TP + FN).
    pub fn recall(&self, threshold: f64, zero_division: ZeroDivision) -> MetricValue {
        self.of_confusion(threshold, |c| {
            let positive = c.true_positive + c.false_negative;
            let ratio = zero_division.ratio(c.true_positive as f64, positive as f64);
            ratio.ok_or_else(|| "no sample is positive".to_owned())
        })
    }

    /// 2 TP / (2 TP + FP + FN).
    pub fn f1(&self, threshold: f64, zero_division: ZeroDivision) -> MetricValue {
        self.of_confusion(threshold, |c| {
            let involved = 2 * c.true_positive + c.false_positive + c.false_negative;
            let ratio = zero_division.ratio(2.0 * c.true_positive as f64, involved as f64);
            ratio.ok_or_else(|| "no sample is positive or predicted positive".to_owned())
        })
    }

    /// Mean of the recalls of the classes present.
    pub fn balanced_accuracy(&self, threshold: f64) -> MetricValue {
        self.of_confusion(threshold, |c| {
            let (positive, negative) = (c.true_positive + c.false_negative, c.true_negative + c.false_positive);
            let recall = |hits: u64, of: u64| hits as f64 / of as f64;
            Ok(match (positive, negative) {
                (0, _) => recall(c.true_negative, negative),
                (_, 0) => recall(c.true_positive, positive),
                _ => f64::midpoint(recall(c.true_positive, positive), recall(c.true_negative, negative)),
            })
        })
    }

    /// Matthews correlation coefficient (Matthews 1975); 0 if labels or predictions are all alike.
    pub fn mcc(&self, threshold: f64) -> MetricValue {
        self.of_confusion(threshold, |c| {
            let (tp, fp) = (c.true_positive as f64, c.false_positive as f64);
            let (fn_, tn) = (c.false_negative as f64, c.true_negative as f64);
            // Root by root: the product of the four sums leaves the exact integers of an f64.
            let spread = ((tp + fp) * (fn_ + tn)).sqrt() * ((tp + fn_) * (fp + tn)).sqrt();
            if spread == 0.0 {
                return Ok(0.0);
            }
            Ok(((tp * tn - fp * fn_) / spread).clamp(-1.0, 1.0))
        })
    }

    /// Area under the ROC curve: the share of (positive, negative) pairs in the right order, where
    /// a tie counts one half. Undefined with one class.
    pub fn auc(&self) -> MetricValue {
        self.value(|| {
            let mut negatives_below = 0_u64;
            let mut positives = 0_u64;
            // Twice the pairs won, a whole number; u128 because pairs grow as the square.
            let mut twice_won = 0_u128;
            for tie in self.ties().iter().rev() {
                let beaten = 2 * u128::from(negatives_below) + u128::from(tie.negative);
                twice_won += u128::from(tie.positive) * beaten;
                negatives_below += tie.negative;
                positives += tie.positive;
            }
            match (positives, negatives_below) {
                (0, _) => Err("only the negative class is present".to_owned()),
                (_, 0) => Err("only the positive class is present".to_owned()),
                (p, n) => Ok(twice_won as f64 / (2 * u128::from(p) * u128::from(n)) as f64),
            }
        })
    }

    /// Σ (Rᵢ - Rᵢ₋₁) Pᵢ over the distinct scores from the highest: the step sum, not the
    /// trapezoid. Undefined without a positive label, where scikit-learn says 0.
    pub fn average_precision(&self) -> MetricValue {
        self.value(|| {
            let positives = self.actual.iter().filter(|actual| **actual).count() as f64;
            if positives == 0.0 {
                return Err("only the negative class is present".to_owned());
            }
            let (mut hits, mut predicted) = (0_u64, 0_u64);
            let steps = self.ties().into_iter().map(|tie| {
                hits += tie.positive;
                predicted += tie.positive + tie.negative;
                tie.positive as f64 / positives * (hits as f64 / predicted as f64)
            });
            Ok(sum(steps))
        })
    }

    /// Mean of -ln(probability of the true class), probabilities kept at least machine epsilon
    /// from 0 and 1.
    pub fn log_loss(&self) -> MetricValue {
        self.of_probability(|| {
            let losses = self.pairs().map(|(actual, p)| {
                let likelihood = if actual { p } else { 1.0 - p };
                -likelihood.clamp(f64::EPSILON, 1.0 - f64::EPSILON).ln()
            });
            Ok(sum(losses) / self.actual.len() as f64)
        })
    }

    /// Mean of (label - probability)².
    pub fn brier(&self) -> MetricValue {
        self.of_probability(|| {
            let errors = self.pairs().map(|(actual, p)| {
                let error = f64::from(u8::from(actual)) - p;
                error * error
            });
            Ok(sum(errors) / self.actual.len() as f64)
        })
    }

    /// Expected calibration error (Guo et al. 2017, eq. 3): the mean over `bins` equal-width bins
    /// of |positive share - mean probability|, weighted by samples.
    pub fn ece(&self, bins: usize) -> MetricValue {
        self.of_probability(|| {
            let gaps =
                self.binned(bins).into_iter().map(|bin| (bin.positive_share - bin.mean_score).abs() * bin.count as f64);
            Ok(sum(gaps) / self.actual.len() as f64)
        })
    }

    /// The calibration curve over `bins` equal-width bins (lower, upper], without the empty ones.
    /// Fails if the scores are no probabilities.
    pub fn calibration_curve(&self, bins: usize) -> Result<Vec<CalibrationBin>, MetricError> {
        match self.no_probability() {
            Some(reason) => Err(MetricError::Undefined { reason }),
            None => Ok(self.binned(bins)),
        }
    }

    /// The metric by name; none if it is no metric of a binary classification.
    pub(super) fn metric(&self, metric: Metric, options: &Options) -> Option<MetricValue> {
        let Options { threshold, zero_division, calibration_bins } = *options;
        Some(match metric {
            Metric::Accuracy => self.accuracy(threshold),
            Metric::Precision => self.precision(threshold, zero_division),
            Metric::Recall => self.recall(threshold, zero_division),
            Metric::F1 => self.f1(threshold, zero_division),
            Metric::Auc => self.auc(),
            Metric::AveragePrecision => self.average_precision(),
            Metric::BalancedAccuracy => self.balanced_accuracy(threshold),
            Metric::Mcc => self.mcc(threshold),
            Metric::Brier => self.brier(),
            Metric::Ece => self.ece(calibration_bins),
            Metric::LogLoss => self.log_loss(),
            _ => return None,
        })
    }

    fn counts(&self, threshold: f64) -> Confusion {
        let mut counts = Confusion::default();
        for (actual, score) in self.pairs() {
            let cell = match (actual, score >= threshold) {
                (true, true) => &mut counts.true_positive,
                (false, true) => &mut counts.false_positive,
                (true, false) => &mut counts.false_negative,
                (false, false) => &mut counts.true_negative,
            };
            *cell += 1;
        }
        counts
    }

    fn binned(&self, bins: usize) -> Vec<CalibrationBin> {
        let bins = bins.max(1);
        let edges: Vec<f64> = (1..bins).map(|edge| edge as f64 / bins as f64).collect();
        let mut members: Vec<(Vec<f64>, u64)> = vec![(Vec::new(), 0); bins];
        for (actual, score) in self.pairs() {
            let (scores, positives) = &mut members[edges.partition_point(|edge| *edge < score)];
            scores.push(score);
            *positives += u64::from(actual);
        }
        let filled = members.into_iter().filter(|(scores, _)| !scores.is_empty());
        filled
            .map(|(scores, positives)| CalibrationBin {
                mean_score: super::sum::mean(&scores),
                positive_share: positives as f64 / scores.len() as f64,
                count: scores.len() as u64,
            })
            .collect()
    }

    /// The samples by score, highest first, equal scores together.
    fn ties(&self) -> Vec<Tie> {
        let mut order: Vec<(f64, bool)> = self.pairs().map(|(actual, s)| (s, actual)).collect();
        order.sort_unstable_by(|a, b| b.0.total_cmp(&a.0));
        let groups = order.chunk_by(|a, b| a.0 == b.0);
        groups
            .map(|group| {
                let positive = group.iter().filter(|(_, actual)| *actual).count() as u64;
                Tie { positive, negative: group.len() as u64 - positive }
            })
            .collect()
    }

    fn pairs(&self) -> impl Iterator<Item = (bool, f64)> {
        self.actual.iter().copied().zip(self.score.iter().copied())
    }

    fn no_probability(&self) -> Option<String> {
        self.invalid.clone().or_else(|| {
            let index = self.score.iter().position(|score| !(0.0..=1.0).contains(score))?;
            Some(format!("the score {} at position {index} is no probability", self.score[index]))
        })
    }

    fn value(&self, formula: impl FnOnce() -> Result<f64, String>) -> MetricValue {
        match &self.invalid {
            Some(reason) => MetricValue::undefined(reason.clone()),
            None => formula().into(),
        }
    }

    fn of_confusion(&self, threshold: f64, formula: impl FnOnce(Confusion) -> Result<f64, String>) -> MetricValue {
        self.value(|| formula(self.counts(threshold)))
    }

    fn of_probability(&self, formula: impl FnOnce() -> Result<f64, String>) -> MetricValue {
        match self.no_probability() {
            Some(reason) => MetricValue::undefined(reason),
            None => formula().into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scores<'a>(actual: &'a [bool], score: &'a [f64]) -> Binary<'a> {
        Binary::new(actual, score).unwrap()
    }

    #[test]
    fn ties_count_one_half() {
        assert_eq!(scores(&[true, false], &[0.5, 0.5]).auc().value(), Some(0.5));
        assert_eq!(scores(&[true, false, false], &[0.5, 0.5, 0.1]).auc().value(), Some(0.75));
        // Negative zero ties with zero.
        assert_eq!(scores(&[true, false], &[-0.0, 0.0]).auc().value(), Some(0.5));
    }

    #[test]
    fn one_class_has_no_auc() {
        let negatives = scores(&[false, false], &[0.1, 0.9]);
        assert_eq!(negatives.auc().reason(), Some("only the negative class is present"));
        assert_eq!(negatives.average_precision().value(), None);
        let positives = scores(&[true], &[0.1]);
        assert_eq!(positives.auc().reason(), Some("only the positive class is present"));
    }

    #[test]
    fn zero_division_is_the_caller_s_choice() {
        let none_predicted = scores(&[true, false], &[0.1, 0.1]);
        let precision = |zero_division| none_predicted.precision(0.5, zero_division);
        assert_eq!(precision(ZeroDivision::Zero).value(), Some(0.0));
        assert_eq!(precision(ZeroDivision::One).value(), Some(1.0));
        assert_eq!(precision(ZeroDivision::Undefined).reason(), Some("no sample is predicted positive"));
    }

    #[test]
    fn a_score_at_the_threshold_is_positive() {
        let counts = scores(&[true, true], &[0.5, 0.49]).confusion(0.5).unwrap();
        assert_eq!((counts.true_positive, counts.false_negative), (1, 1));
    }

    #[test]
    fn logits_rank_but_are_no_probabilities() {
        let logits = scores(&[true, false], &[3.0, -2.0]);
        assert_eq!(logits.auc().value(), Some(1.0));
        assert_eq!(logits.log_loss().reason(), Some("the score 3 at position 0 is no probability"));
        assert!(logits.calibration_curve(10).is_err());
    }

    #[test]
    fn a_score_on_an_edge_belongs_to_the_lower_bin() {
        let curve = scores(&[true, false, true], &[0.2, 0.5, 0.6]).calibration_curve(2).unwrap();
        assert_eq!(curve.iter().map(|bin| bin.count).collect::<Vec<_>>(), [2, 1]);
    }

    #[test]
    fn empty_calibration_bins_are_dropped() {
        let curve = scores(&[true, false, true], &[0.05, 0.05, 1.0]).calibration_curve(10).unwrap();
        let expected = [(0.05, 0.5, 2), (1.0, 1.0, 1)];
        let got: Vec<_> = curve.iter().map(|bin| (bin.mean_score, bin.positive_share, bin.count)).collect();
        assert_eq!(got, expected);
    }
}
