//! Metrics of a regression.

use super::sum::{mean, sum};
use super::{Metric, MetricError, MetricValue, not_finite};

/// Targets and predictions, one of each a sample. Every metric is undefined, with a reason, if
/// there is no sample or any number is not finite.
#[derive(Debug, Clone)]
pub struct Regression<'a> {
    actual: &'a [f64],
    predicted: &'a [f64],
    invalid: Option<String>,
}

impl<'a> Regression<'a> {
    /// Fails if the slices differ in length.
    pub fn new(actual: &'a [f64], predicted: &'a [f64]) -> Result<Self, MetricError> {
        if actual.len() != predicted.len() {
            return Err(MetricError::LengthMismatch {
                what: "predictions",
                expected: actual.len(),
                got: predicted.len(),
            });
        }
        let invalid = if actual.is_empty() {
            Some("there are no samples".to_owned())
        } else {
            not_finite("target", actual).or_else(|| not_finite("prediction", predicted))
        };
        Ok(Self { actual, predicted, invalid })
    }

    /// Mean of (y - p)².
    pub fn mse(&self) -> MetricValue {
        self.value(|| Ok(self.mean_of(|y, p| (y - p) * (y - p))))
    }

    /// Root of [`mse`](Self::mse).
    pub fn rmse(&self) -> MetricValue {
        self.value(|| Ok(self.mean_of(|y, p| (y - p) * (y - p)).sqrt()))
    }

    /// Mean of |y - p|.
    pub fn mae(&self) -> MetricValue {
        self.value(|| Ok(self.mean_of(|y, p| (y - p).abs())))
    }

    /// 1 - Σ(y - p)² / Σ(y - ȳ)². A constant target gives 1 if predicted perfectly, else 0;
    /// one sample is undefined.
    pub fn r2(&self) -> MetricValue {
        self.value(|| {
            if self.actual.len() < 2 {
                return Err("R² needs at least two samples".to_owned());
            }
            let residual = sum(self.pairs().map(|(y, p)| (y - p) * (y - p)));
            Ok(explained(residual, self.actual))
        })
    }

    /// 1 - Var(y - p) / Var(y): as R², but blind to a constant bias. A constant target gives 1 if
    /// the residuals are constant, else 0.
    pub fn explained_variance(&self) -> MetricValue {
        self.value(|| {
            let residuals: Vec<f64> = self.pairs().map(|(y, p)| y - p).collect();
            Ok(explained(squared_deviation(&residuals), self.actual))
        })
    }

    /// Percent: the mean of |y - p| / |y| over the targets that are not zero, times 100, as the
    /// specification defines it.
    pub fn mape(&self) -> MetricValue {
        self.value(|| {
            let nonzero = self.pairs().filter(|(y, _)| *y != 0.0);
            let shares: Vec<f64> = nonzero.map(|(y, p)| ((y - p) / y).abs()).collect();
            if shares.is_empty() {
                return Err("every target is zero".to_owned());
            }
            Ok(mean(&shares) * 100.0)
        })
    }

    /// A fraction: the mean of |y - p| / max(|y|, machine epsilon), as scikit-learn defines it.
    pub fn mape_eps(&self) -> MetricValue {
        self.value(|| Ok(self.mean_of(|y, p| (y - p).abs() / y.abs().max(f64::EPSILON))))
    }

    /// Linear correlation of targets and predictions.
    pub fn pearson_correlation(&self) -> MetricValue {
        self.value(|| {
            if self.actual.len() < 2 {
                return Err("a correlation needs at least two samples".to_owned());
            }
            for (what, values) in [("targets", self.actual), ("predictions", self.predicted)] {
                if is_constant(values) {
                    return Err(format!("the {what} are constant"));
                }
            }
            let (mean_y, mean_p) = (mean(self.actual), mean(self.predicted));
            let joint = sum(self.pairs().map(|(y, p)| (y - mean_y) * (p - mean_p)));
            let (spread_y, spread_p) =
                (squared_deviation(self.actual).sqrt(), squared_deviation(self.predicted).sqrt());
            Ok((joint / spread_y / spread_p).clamp(-1.0, 1.0))
        })
    }

    /// Median of |y - p|; the mean of the two middle ones if their number is even.
    pub fn median_absolute_error(&self) -> MetricValue {
        self.value(|| {
            let mut errors: Vec<f64> = self.pairs().map(|(y, p)| (y - p).abs()).collect();
            errors.sort_unstable_by(f64::total_cmp);
            let middle = errors.len() / 2;
            let even = errors.len().is_multiple_of(2);
            Ok(if even { f64::midpoint(errors[middle - 1], errors[middle]) } else { errors[middle] })
        })
    }

    /// Largest |y - p|.
    pub fn max_error(&self) -> MetricValue {
        self.value(|| Ok(self.pairs().map(|(y, p)| (y - p).abs()).fold(0.0, f64::max)))
    }

    /// The metric by name; none if it is no metric of a regression.
    pub(super) fn metric(&self, metric: Metric) -> Option<MetricValue> {
        Some(match metric {
            Metric::Rmse => self.rmse(),
            Metric::Mae => self.mae(),
            Metric::R2 => self.r2(),
            Metric::PearsonCorrelation => self.pearson_correlation(),
            Metric::Mse => self.mse(),
            Metric::Mape => self.mape(),
            Metric::MapeEps => self.mape_eps(),
            Metric::ExplainedVariance => self.explained_variance(),
            Metric::MedianAbsoluteError => self.median_absolute_error(),
            Metric::MaxError => self.max_error(),
            _ => return None,
        })
    }

    fn pairs(&self) -> impl Iterator<Item = (f64, f64)> {
        self.actual.iter().copied().zip(self.predicted.iter().copied())
    }

    fn mean_of(&self, term: impl Fn(f64, f64) -> f64) -> f64 {
        sum(self.pairs().map(|(y, p)| term(y, p))) / self.actual.len() as f64
    }

    fn value(&self, formula: impl FnOnce() -> Result<f64, String>) -> MetricValue {
        match &self.invalid {
            Some(reason) => MetricValue::undefined(reason.clone()),
            None => formula().into(),
        }
    }
}

/// 1 - unexplained / spread of the targets, with the convention for a target without a spread.
fn explained(unexplained: f64, actual: &[f64]) -> f64 {
    // Asked of the values and not of the spread: the mean of equal numbers may differ from them by
    // a rounding, and scikit-learn then divides by about 1e-33.
    if is_constant(actual) {
        return if unexplained == 0.0 { 1.0 } else { 0.0 };
    }
    1.0 - unexplained / squared_deviation(actual)
}

fn is_constant(values: &[f64]) -> bool {
    values.windows(2).all(|pair| pair[0] == pair[1])
}

fn squared_deviation(values: &[f64]) -> f64 {
    if is_constant(values) {
        return 0.0;
    }
    let center = mean(values);
    sum(values.iter().map(|value| (value - center) * (value - center)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs<'a>(actual: &'a [f64], predicted: &'a [f64]) -> Regression<'a> {
        Regression::new(actual, predicted).unwrap()
    }

    #[test]
    fn a_constant_target_has_r2_one_or_zero() {
        // 0.1 three times has a mean that is not 0.1.
        assert_eq!(pairs(&[0.1; 3], &[0.1; 3]).r2().value(), Some(1.0));
        assert_eq!(pairs(&[0.1; 3], &[0.2, 0.1, 0.1]).r2().value(), Some(0.0));
    }

    #[test]
    fn explained_variance_ignores_a_bias() {
        let biased = pairs(&[1.0, 2.0, 3.0], &[2.0, 3.0, 4.0]);
        assert_eq!(biased.explained_variance().value(), Some(1.0));
        assert_eq!(biased.r2().value(), Some(-0.5));
    }

    #[test]
    fn percentage_errors_differ_in_zeros_and_in_unit() {
        let zeros = pairs(&[0.0, 2.0], &[1.0, 1.0]);
        assert_eq!(zeros.mape().value(), Some(50.0));
        assert_eq!(zeros.mape_eps().value(), Some(0.5 / f64::EPSILON + 0.25));
        let reason = pairs(&[0.0], &[1.0]).mape();
        assert_eq!(reason.reason(), Some("every target is zero"));
    }

    #[test]
    fn what_is_not_finite_is_named() {
        let nan = pairs(&[1.0, 2.0], &[1.0, f64::NAN]);
        assert_eq!(nan.rmse().reason(), Some("the prediction at position 1 is not a number"));
        let infinite = pairs(&[f64::INFINITY], &[1.0]);
        assert_eq!(infinite.mae().reason(), Some("the target at position 0 is infinite"));
        assert_eq!(pairs(&[1e300], &[-1e300]).mse().reason(), Some("the result overflows"));
        assert_eq!(pairs(&[], &[]).max_error().reason(), Some("there are no samples"));
    }

    #[test]
    fn lengths_must_agree() {
        let error = Regression::new(&[1.0], &[]).unwrap_err();
        assert_eq!(error.to_string(), "metrics: expected 1 predictions for the labels given, got 0");
    }
}
