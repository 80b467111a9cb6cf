//! Metrics of a multiclass classification.

use std::collections::BTreeMap;

use super::sum::sum;
use super::{Binary, Metric, MetricError, MetricValue, Options, ZeroDivision, not_finite};

/// How far a row of probabilities may be from one in sum: the rounding of an f32 softmax over many
/// classes, and no more.
const DISTRIBUTION_TOLERANCE: f64 = 1e-3;

/// Labels and a row of class probabilities for each sample. The predicted label is the most
/// probable class, the lowest of equals. A label may lie outside the columns (a class unseen in
/// training): it counts as missed, and what needs its probability is undefined.
#[derive(Debug, Clone)]
pub struct Multiclass<'a> {
    actual: &'a [u32],
    probability: &'a [f64],
    classes: usize,
    predicted: Vec<u32>,
    invalid: Option<String>,
}

/// How the labels' figures become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Average {
    /// Every label alike, over the union of the true and the predicted ones.
    Macro,
    /// Labels by their number of true samples.
    Weighted,
    /// Every sample alike. With one label a sample this is the accuracy, for precision, recall and
    /// F1 alike.
    Micro,
}

/// True against predicted labels; labels are those that occur in either, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfusionMatrix {
    /// Label of each row and column.
    pub labels: Vec<u32>,
    /// `counts[i][j]`: samples of label i predicted as label j.
    pub counts: Vec<Vec<u64>>,
}

impl ConfusionMatrix {
    /// The most labels for which a dense matrix is made: 32 MiB.
    pub const MAX_LABELS: usize = 2048;
}

/// One label against the rest.
#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    actual: u64,
    predicted: u64,
    hits: u64,
}

#[derive(Clone, Copy)]
enum Figure {
    Precision,
    Recall,
    F1,
}

impl<'a> Multiclass<'a> {
    /// `probability` has a row of `classes` numbers for each label. Fails if it has not, or if
    /// there are no classes.
    pub fn new(actual: &'a [u32], probability: &'a [f64], classes: usize) -> Result<Self, MetricError> {
        if classes == 0 {
            return Err(MetricError::NoClasses);
        }
        let expected = actual.len().saturating_mul(classes);
        if probability.len() != expected {
            let got = probability.len();
            return Err(MetricError::LengthMismatch { what: "probabilities", expected, got });
        }
        let invalid = if actual.is_empty() {
            Some("there are no samples".to_owned())
        } else {
            not_finite("probability", probability)
        };
        let predicted = probability.chunks_exact(classes).map(most_probable).collect();
        Ok(Self { actual, probability, classes, predicted, invalid })
    }

    /// The predicted label of each sample. Meaningless if a probability is not finite.
    pub fn predicted(&self) -> &[u32] {
        &self.predicted
    }

    /// Share of samples whose label is predicted.
    pub fn accuracy(&self) -> MetricValue {
        self.value(|| {
            let hits = self.pairs().filter(|(actual, predicted)| actual == predicted).count();
            Ok(hits as f64 / self.actual.len() as f64)
        })
    }

    /// Precision of the labels, averaged.
    pub fn precision(&self, average: Average, zero_division: ZeroDivision) -> MetricValue {
        self.averaged(Figure::Precision, average, zero_division)
    }

    /// Recall of the labels, averaged.
    pub fn recall(&self, average: Average, zero_division: ZeroDivision) -> MetricValue {
        self.averaged(Figure::Recall, average, zero_division)
    }

    /// F1 of the labels, averaged.
    pub fn f1(&self, average: Average, zero_division: ZeroDivision) -> MetricValue {
        self.averaged(Figure::F1, average, zero_division)
    }

    /// The dense confusion matrix. Fails over [`ConfusionMatrix::MAX_LABELS`] labels, without a
    /// sample, or if a probability is not finite.
    pub fn confusion_matrix(&self) -> Result<ConfusionMatrix, MetricError> {
        if let Some(reason) = self.invalid.clone() {
            return Err(MetricError::Undefined { reason });
        }
        let labels: Vec<u32> = self.tallies().into_keys().collect();
        if labels.len() > ConfusionMatrix::MAX_LABELS {
            let limit = ConfusionMatrix::MAX_LABELS;
            return Err(MetricError::TooManyLabels { labels: labels.len(), limit });
        }
        let index: BTreeMap<u32, usize> = labels.iter().copied().zip(0..).collect();
        let mut counts = vec![vec![0_u64; labels.len()]; labels.len()];
        for (actual, predicted) in self.pairs() {
            counts[index[&actual]][index[&predicted]] += 1;
        }
        Ok(ConfusionMatrix { labels, counts })
    }

    /// Mean of -ln(probability of the true class), probabilities kept at least machine epsilon
    /// from 0 and 1. Rows are not normalized.
    pub fn log_loss(&self) -> MetricValue {
        self.value(|| {
            if let Some(reason) = self.no_distribution() {
                return Err(reason);
            }
            self.all_labels_have_columns()?;
            let rows = self.actual.iter().zip(self.probability.chunks_exact(self.classes));
            let losses = rows.map(|(&actual, row)| -row[actual as usize].clamp(f64::EPSILON, 1.0 - f64::EPSILON).ln());
            Ok(sum(losses) / self.actual.len() as f64)
        })
    }

    /// The unweighted mean over classes of the AUC of that class against the rest. Undefined if a
    /// class has no sample, or every sample.
    pub fn auc_ovr_macro(&self) -> MetricValue {
        self.value(|| {
            self.all_labels_have_columns()?;
            let mut areas = Vec::with_capacity(self.classes);
            for class in 0..self.classes {
                let actual: Vec<bool> = self.actual.iter().map(|label| *label as usize == class).collect();
                let column = self.probability.iter().skip(class).step_by(self.classes);
                let score: Vec<f64> = column.copied().collect();
                let area = Binary::new(&actual, &score).map_err(|error| error.to_string())?.auc();
                match area.value() {
                    Some(area) => areas.push(area),
                    None if actual.contains(&true) => {
                        return Err(format!("only class {class} is present"));
                    }
                    None => return Err(format!("class {class} has no sample")),
                }
            }
            Ok(super::sum::mean(&areas))
        })
    }

    /// The metric by name; none if it is no metric of a multiclass classification.
    pub(super) fn metric(&self, metric: Metric, options: &Options) -> Option<MetricValue> {
        let zero_division = options.zero_division;
        Some(match metric {
            Metric::Accuracy => self.accuracy(),
            Metric::LogLoss => self.log_loss(),
            Metric::PrecisionMacro => self.precision(Average::Macro, zero_division),
            Metric::RecallMacro => self.recall(Average::Macro, zero_division),
            Metric::F1Macro => self.f1(Average::Macro, zero_division),
            Metric::PrecisionWeighted => self.precision(Average::Weighted, zero_division),
            Metric::RecallWeighted => self.recall(Average::Weighted, zero_division),
            Metric::F1Weighted => self.f1(Average::Weighted, zero_division),
            Metric::PrecisionMicro => self.precision(Average::Micro, zero_division),
            Metric::RecallMicro => self.recall(Average::Micro, zero_division),
            Metric::F1Micro => self.f1(Average::Micro, zero_division),
            Metric::AucOvrMacro => self.auc_ovr_macro(),
            _ => return None,
        })
    }

    fn averaged(&self, figure: Figure, average: Average, zero_division: ZeroDivision) -> MetricValue {
        if average == Average::Micro {
            return self.accuracy();
        }
        self.value(|| {
            let tallies = self.tallies();
            let figures: Vec<(f64, f64)> = tallies
                .values()
                .filter_map(|tally| Some((tally.figure(figure, zero_division)?, tally.actual as f64)))
                .collect();
            if figures.is_empty() {
                return Err("it is undefined for every label".to_owned());
            }
            let weight: f64 = sum(figures.iter().map(|(_, weight)| *weight));
            // Labels without a true sample may be all that is left: then they count alike.
            if average == Average::Macro || weight == 0.0 {
                return Ok(sum(figures.iter().map(|(value, _)| *value)) / figures.len() as f64);
            }
            Ok(sum(figures.iter().map(|(value, weight)| value * weight)) / weight)
        })
    }

    fn tallies(&self) -> BTreeMap<u32, Tally> {
        let mut tallies = BTreeMap::<u32, Tally>::new();
        for (actual, predicted) in self.pairs() {
            let tally = tallies.entry(actual).or_default();
            tally.actual += 1;
            tally.hits += u64::from(actual == predicted);
            tallies.entry(predicted).or_default().predicted += 1;
        }
        tallies
    }

    fn pairs(&self) -> impl Iterator<Item = (u32, u32)> {
        self.actual.iter().copied().zip(self.predicted.iter().copied())
    }

    fn all_labels_have_columns(&self) -> Result<(), String> {
        match self.actual.iter().find(|label| **label as usize >= self.classes) {
            Some(label) => Err(format!("class {label} has no column of probabilities")),
            None => Ok(()),
        }
    }

    fn no_distribution(&self) -> Option<String> {
        self.probability.chunks_exact(self.classes).zip(0..).find_map(|(row, index): (_, usize)| {
            let total = sum(row.iter().copied());
            let negative = row.iter().any(|probability| *probability < 0.0);
            if negative || (total - 1.0).abs() > DISTRIBUTION_TOLERANCE {
                Some(format!("the probabilities of sample {index} are no distribution"))
            } else {
                None
            }
        })
    }

    fn value(&self, formula: impl FnOnce() -> Result<f64, String>) -> MetricValue {
        match &self.invalid {
            Some(reason) => MetricValue::undefined(reason.clone()),
            None => formula().into(),
        }
    }
}

impl Tally {
    fn figure(&self, figure: Figure, zero_division: ZeroDivision) -> Option<f64> {
        let hits = self.hits as f64;
        match figure {
            Figure::Precision => zero_division.ratio(hits, self.predicted as f64),
            Figure::Recall => zero_division.ratio(hits, self.actual as f64),
            Figure::F1 => zero_division.ratio(2.0 * hits, (self.predicted + self.actual) as f64),
        }
    }
}

/// The first of the largest; a NaN is never larger.
fn most_probable(row: &[f64]) -> u32 {
    let mut best = 0;
    for (class, probability) in row.iter().enumerate() {
        if *probability > row[best] {
            best = class;
        }
    }
    best as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROWS: [f64; 9] = [0.8, 0.1, 0.1, 0.4, 0.4, 0.2, 0.1, 0.2, 0.7];

    fn rows(actual: &[u32]) -> Multiclass<'_> {
        Multiclass::new(actual, &ROWS, 3).unwrap()
    }

    #[test]
    fn equal_probabilities_choose_the_lowest_class() {
        assert_eq!(rows(&[0, 0, 0]).predicted(), [0, 0, 2]);
    }

    #[test]
    fn macro_averages_over_true_and_predicted_labels() {
        // Label 1 is true but never predicted, label 2 predicted but never true.
        let mixed = rows(&[0, 1, 1]);
        let precision = |zero_division| mixed.precision(Average::Macro, zero_division).value();
        assert_eq!(precision(ZeroDivision::Zero), Some(0.5 / 3.0));
        assert_eq!(precision(ZeroDivision::One), Some(1.5 / 3.0));
        assert_eq!(precision(ZeroDivision::Undefined), Some(0.25));
    }

    #[test]
    fn a_class_unseen_in_training_is_missed() {
        let unseen = rows(&[0, 0, 7]);
        assert_eq!(unseen.accuracy().value(), Some(2.0 / 3.0));
        assert_eq!(unseen.log_loss().reason(), Some("class 7 has no column of probabilities"));
        let matrix = unseen.confusion_matrix().unwrap();
        assert_eq!(matrix.labels, [0, 2, 7]);
        assert_eq!(matrix.counts, [[2, 0, 0], [0, 0, 0], [0, 1, 0]]);
    }

    #[test]
    fn auc_names_the_class_it_misses() {
        assert_eq!(rows(&[0, 1, 1]).auc_ovr_macro().reason(), Some("class 2 has no sample"));
        assert_eq!(rows(&[0, 0, 0]).auc_ovr_macro().reason(), Some("only class 0 is present"));
        assert!(rows(&[0, 1, 2]).auc_ovr_macro().value().is_some());
    }

    #[test]
    fn log_loss_wants_distributions() {
        let logits = Multiclass::new(&[0], &[2.0, -1.0], 2).unwrap();
        assert_eq!(logits.accuracy().value(), Some(1.0));
        assert_eq!(logits.log_loss().reason(), Some("the probabilities of sample 0 are no distribution"));
    }

    #[test]
    fn shapes_must_agree() {
        assert_eq!(Multiclass::new(&[0], &[], 0).unwrap_err(), MetricError::NoClasses);
        let error = Multiclass::new(&[0, 1], &[0.5; 3], 2).unwrap_err();
        assert!(matches!(error, MetricError::LengthMismatch { expected: 4, got: 3, .. }));
        assert!(Multiclass::new(&[0, 1], &[0.5; 3], usize::MAX).is_err());
    }

    #[test]
    fn a_dense_matrix_has_a_limit() {
        let actual: Vec<u32> = (0..3000).collect();
        let probability = vec![1.0; 3000];
        let many = Multiclass::new(&actual, &probability, 1).unwrap();
        assert!(matches!(many.confusion_matrix(), Err(MetricError::TooManyLabels { labels: 3000, .. })));
    }
}
