//! Where a model errs: the distribution of its errors and its worst samples. Pure.
//!
//! The error of a regression is predicted minus true, in the target's unit; of a classification one minus
//! the probability that the true class was given.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

/// Percentiles that the specification names.
const PERCENTILES: [u8; 6] = [25, 50, 75, 90, 95, 99];
/// Worst samples that are listed.
pub const LARGEST: usize = 10;

/// A distribution's percentiles, by linear interpolation between order statistics (numpy's default).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Percentiles {
    #[serde(rename = "25%")]
    pub p25: f64,
    #[serde(rename = "50%")]
    pub p50: f64,
    #[serde(rename = "75%")]
    pub p75: f64,
    #[serde(rename = "90%")]
    pub p90: f64,
    #[serde(rename = "95%")]
    pub p95: f64,
    #[serde(rename = "99%")]
    pub p99: f64,
}

/// The distribution of errors over a part. Fields as in the specification's `analyze_errors`;
/// `error_std` has ddof 0.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ErrorAnalysis {
    /// Largest absolute error.
    pub max_error: f64,
    /// Smallest absolute error.
    pub min_error: f64,
    pub mean_error: f64,
    pub median_error: f64,
    pub error_std: f64,
    /// Of the errors with their signs.
    pub error_percentiles: Percentiles,
    /// Of their absolute values.
    pub absolute_error_percentiles: Percentiles,
    /// By falling absolute error, equal ones in stored order.
    pub largest_errors: Vec<LargeError>,
}

/// One of the worst samples.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LargeError {
    /// Decimal; a text because it may pass 2^53.
    pub sample_id: String,
    pub error: f64,
    /// Regression: the value. Classification: the class's text.
    pub true_value: serde_json::Value,
    pub predicted_value: serde_json::Value,
}

/// One sample's error, and how to show it.
pub struct Sample {
    pub sample_id: u64,
    pub error: f64,
}

/// Analyzes errors; `show` gives true and predicted value of a sample by its index.
///
/// # Errors
/// Why there is nothing to analyze: no samples, or an error that is not finite.
pub fn analyze(
    samples: &[Sample],
    show: impl Fn(usize) -> (serde_json::Value, serde_json::Value),
) -> Result<ErrorAnalysis, String> {
    if samples.is_empty() {
        return Err("there are no samples".into());
    }
    if let Some(wrong) = samples.iter().find(|sample| !sample.error.is_finite()) {
        return Err(format!("the error of sample {} is not finite", wrong.sample_id));
    }
    let mut errors: Vec<f64> = samples.iter().map(|sample| sample.error).collect();
    let mean = errors.iter().sum::<f64>() / errors.len() as f64;
    let variance = errors.iter().map(|error| (error - mean) * (error - mean)).sum::<f64>() / errors.len() as f64;
    let mut absolute: Vec<f64> = errors.iter().map(|error| error.abs()).collect();
    errors.sort_unstable_by(f64::total_cmp);
    absolute.sort_unstable_by(f64::total_cmp);
    Ok(ErrorAnalysis {
        max_error: absolute[absolute.len() - 1],
        min_error: absolute[0],
        mean_error: mean,
        median_error: percentile(&errors, 50),
        error_std: variance.sqrt(),
        error_percentiles: percentiles(&errors),
        absolute_error_percentiles: percentiles(&absolute),
        largest_errors: largest(samples, show),
    })
}

fn largest(samples: &[Sample], show: impl Fn(usize) -> (serde_json::Value, serde_json::Value)) -> Vec<LargeError> {
    let mut order: Vec<usize> = (0..samples.len()).collect();
    let worse = |a: &usize, b: &usize| -> Ordering {
        samples[*b].error.abs().total_cmp(&samples[*a].error.abs()).then(a.cmp(b))
    };
    if order.len() > LARGEST {
        order.select_nth_unstable_by(LARGEST - 1, worse);
        order.truncate(LARGEST);
    }
    order.sort_unstable_by(worse);
    let entry = |index: usize| {
        let (true_value, predicted_value) = show(index);
        LargeError {
            sample_id: samples[index].sample_id.to_string(),
            error: samples[index].error,
            true_value,
            predicted_value,
        }
    };
    order.into_iter().map(entry).collect()
}

fn percentiles(sorted: &[f64]) -> Percentiles {
    let [p25, p50, p75, p90, p95, p99] = PERCENTILES.map(|percent| percentile(sorted, percent));
    Percentiles { p25, p50, p75, p90, p95, p99 }
}

/// `numpy.percentile` of sorted values.
fn percentile(sorted: &[f64], percent: u8) -> f64 {
    let place = f64::from(percent) / 100.0 * (sorted.len() - 1) as f64;
    let below = place.floor() as usize;
    let above = (below + 1).min(sorted.len() - 1);
    let share = place - below as f64;
    sorted[below] + (sorted[above] - sorted[below]) * share
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn samples(errors: &[f64]) -> Vec<Sample> {
        errors.iter().zip(100..).map(|(error, sample_id)| Sample { sample_id, error: *error }).collect()
    }

    #[test]
    fn percentiles_are_those_of_numpy() {
        // numpy.percentile([1, 2, 4, 8, 16], [25, 50, 75, 90, 95, 99])
        let got = percentiles(&[1.0, 2.0, 4.0, 8.0, 16.0]);
        let expected = [2.0, 4.0, 8.0, 12.8, 14.4, 15.68];
        for (got, expected) in [got.p25, got.p50, got.p75, got.p90, got.p95, got.p99].into_iter().zip(expected) {
            assert!((got - expected).abs() < 1e-12, "{got} {expected}");
        }
        assert_eq!(percentile(&[3.0], 99), 3.0);
    }

    #[test]
    fn errors_keep_their_sign_and_worst_come_first() {
        let errors = [1.0, -3.0, 2.0, -3.0];
        let analysis = analyze(&samples(&errors), |index| (json!(index), json!(errors[index]))).expect("analyzes");
        assert_eq!((analysis.max_error, analysis.min_error), (3.0, 1.0));
        assert_eq!((analysis.mean_error, analysis.median_error), (-0.75, -1.0));
        assert!((analysis.error_std - 5.1875f64.sqrt()).abs() < 1e-12);
        let worst: Vec<_> = analysis.largest_errors.iter().map(|e| (e.sample_id.as_str(), e.error)).collect();
        assert_eq!(worst, [("101", -3.0), ("103", -3.0), ("102", 2.0), ("100", 1.0)]);
    }

    #[test]
    fn only_the_ten_largest_are_listed() {
        let errors: Vec<f64> = (0..1_000).map(|i| f64::from(i * 7919 % 1_000)).collect();
        let analysis = analyze(&samples(&errors), |_| (json!(0), json!(0))).expect("analyzes");
        let worst: Vec<_> = analysis.largest_errors.iter().map(|e| e.error).collect();
        assert_eq!(worst, (990..1_000).rev().map(f64::from).collect::<Vec<_>>());
    }

    #[test]
    fn nothing_and_nan_have_a_reason() {
        assert!(analyze(&[], |_| (json!(0), json!(0))).is_err());
        let reason = analyze(&samples(&[0.0, f64::NAN]), |_| (json!(0), json!(0))).expect_err("is NaN");
        assert_eq!(reason, "the error of sample 101 is not finite");
    }
}
