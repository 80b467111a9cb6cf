//! Statistics and scaling of number columns: f64, summed in row order, so that the bits depend on the rows only.

use frame::manifest::{Encoding, FittedScale, Statistics};
use frame::scale::signed_ln_1p;
use messages::plan::{DataPlan, FittingPlan, Impute, Outliers, Scale};

/// Mean and standard deviation (ddof 0), in two passes; zeros for no value.
pub fn mean_and_std(values: &[f64]) -> (f64, f64) {
    if values.is_empty() {
        return (0.0, 0.0);
    }
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    // A constant's mean may differ from it by a rounding error, which is no spread.
    if values.iter().all(|value| *value == values[0]) {
        return (values[0], 0.0);
    }
    let variance = values.iter().map(|value| (value - mean) * (value - mean)).sum::<f64>() / count;
    (mean, variance.sqrt())
}

/// The values of these rows that are there.
fn present(numbers: &[f64], rows: &[u32]) -> Vec<f64> {
    rows.iter().map(|&row| numbers[row as usize]).filter(|value| !value.is_nan()).collect()
}

pub fn statistics(numbers: &[f64], train: &[u32]) -> Statistics {
    let mut values = present(numbers, train);
    let count = values.len();
    let (mean, std) = mean_and_std(&values);
    values.sort_unstable_by(f64::total_cmp);
    let median = median_of_sorted(&values);
    let (min, max) = (values.first().copied(), values.last().copied());
    values.dedup();
    Statistics {
        count: count as u64,
        missing: (train.len() - count) as u64,
        distinct: values.len() as u64,
        mean: (count > 0).then_some(mean),
        std: (count > 0).then_some(std),
        min,
        max,
        median,
    }
}

fn median_of_sorted(values: &[f64]) -> Option<f64> {
    let middle = values.len() / 2;
    let upper = *values.get(middle)?;
    Some(if values.len().is_multiple_of(2) { f64::midpoint(values[middle - 1], upper) } else { upper })
}

/// The encoding of a number column. Scalings are fitted on the values that are there; the imputed value is
/// scaled like any other.
pub fn fit(plan: &DataPlan, name: &str, numbers: &[f64], train: &[u32], statistics: &Statistics) -> Encoding {
    let declared = plan.columns.get(name);
    let fitting = declared.map(|column| &column.fitting);
    let impute = match declared.and_then(|column| column.impute).unwrap_or(plan.preprocessing.impute) {
        Impute::Mean | Impute::Refuse => statistics.mean,
        Impute::Median => statistics.median,
        Impute::Mode => mode(&present(numbers, train)),
        Impute::Zero => Some(0.0),
        Impute::Constant => {
            Some(fitting.and_then(|own| own.impute_value).unwrap_or(plan.preprocessing.fitting.impute_value))
        }
    };
    let indicator = fitting.and_then(|own| own.missing_indicator).unwrap_or(plan.preprocessing.missing_indicator);
    let chosen = declared.and_then(|column| column.scale).unwrap_or(plan.preprocessing.scale);
    Encoding::Number {
        impute: or_zero(impute),
        missing_indicator: indicator && statistics.missing > 0,
        scale: bounded_scale(plan, name, chosen, &present(numbers, train), Some(statistics)),
        clip: plan.preprocessing.clip,
    }
}

/// The scaling of numbers that stand for a column's categories.
pub fn scale_of(plan: &DataPlan, name: &str, values: &[f64]) -> FittedScale {
    let chosen = plan.columns.get(name).and_then(|column| column.scale).unwrap_or(plan.preprocessing.scale);
    scale(chosen, values, &plan.preprocessing.fitting, None)
}

/// Outliers are cut off first, and what is left is scaled.
fn bounded_scale(
    plan: &DataPlan,
    name: &str,
    chosen: Scale,
    values: &[f64],
    statistics: Option<&Statistics>,
) -> FittedScale {
    let own = plan.columns.get(name).and_then(|column| column.fitting.outliers);
    let fitting = &plan.preprocessing.fitting;
    let Some((low, high)) = bounds(own.unwrap_or(fitting.outliers), values, fitting) else {
        return scale(chosen, values, fitting, statistics);
    };
    let cut: Vec<f64> = values.iter().map(|value| value.max(low).min(high)).collect();
    FittedScale::Bounded { low, high, then: Box::new(scale(chosen, &cut, fitting, None)) }
}

fn bounds(outliers: Outliers, values: &[f64], fitting: &FittingPlan) -> Option<(f64, f64)> {
    let in_order = || {
        let mut sorted = values.to_vec();
        sorted.sort_unstable_by(f64::total_cmp);
        sorted
    };
    match outliers {
        Outliers::None => None,
        Outliers::Quantile => {
            let (sorted, share) = (in_order(), fitting.outlier_quantile);
            Some((quantile_of_sorted(&sorted, share)?, quantile_of_sorted(&sorted, 1.0 - share)?))
        }
        Outliers::Iqr => {
            let sorted = in_order();
            let (first, third) = (quantile_of_sorted(&sorted, 0.25)?, quantile_of_sorted(&sorted, 0.75)?);
            let reach = fitting.outlier_iqr * (third - first);
            Some((first - reach, third + reach))
        }
    }
}

/// Fitted on these values; `statistics` are theirs, where they are known.
fn scale(chosen: Scale, values: &[f64], fitting: &FittingPlan, statistics: Option<&Statistics>) -> FittedScale {
    let sorted = || {
        let mut sorted = values.to_vec();
        sorted.sort_unstable_by(f64::total_cmp);
        sorted
    };
    let mean_std = |values: &[f64]| match statistics {
        Some(known) => (or_zero(known.mean), or_zero(known.std)),
        None => mean_and_std(values),
    };
    match chosen {
        Scale::None => FittedScale::None,
        Scale::Standard => {
            let (mean, std) = mean_std(values);
            FittedScale::Standard { mean, std }
        }
        Scale::MinMax => {
            let sorted = sorted();
            FittedScale::MinMax { min: or_zero(sorted.first().copied()), max: or_zero(sorted.last().copied()) }
        }
        Scale::Log1p => {
            let logs: Vec<f64> = values.iter().copied().map(signed_ln_1p).collect();
            let (mean, std) = mean_and_std(&logs);
            FittedScale::Log1p { mean, std }
        }
        Scale::Robust => {
            let sorted = sorted();
            let at = |share| or_zero(quantile_of_sorted(&sorted, share));
            let range = at(0.75) - at(0.25);
            // Where more than half the values are one, the others still differ: in their own unit.
            let constant = sorted.first() == sorted.last();
            FittedScale::Robust { center: at(0.5), range: if range > 0.0 || constant { range } else { 1.0 } }
        }
        Scale::Quantile | Scale::QuantileNormal => {
            let sorted = sorted();
            let points = (fitting.quantiles as usize).min(sorted.len()).max(2);
            let at = |point: usize| or_zero(quantile_of_sorted(&sorted, point as f64 / (points - 1) as f64));
            let mut quantiles: Vec<f64> = (0..points).map(at).collect();
            // Rounding must not make them fall.
            for point in 1..points {
                quantiles[point] = quantiles[point].max(quantiles[point - 1]);
            }
            FittedScale::Quantile { quantiles, normal: chosen == Scale::QuantileNormal }
        }
    }
}

/// The quantile with linear interpolation between two values.
pub fn quantile_of_sorted(sorted: &[f64], share: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let place = share * last as f64;
    let below = (place.floor() as usize).min(last);
    let (a, b) = (sorted[below], sorted[(below + 1).min(last)]);
    let part = place - below as f64;
    // From the nearer of both, so that the ends are exact.
    Some(if part < 0.5 { a + (b - a) * part } else { b - (b - a) * (1.0 - part) })
}

/// The most frequent value, of several the least.
fn mode(values: &[f64]) -> Option<f64> {
    let mut sorted: Vec<f64> = values.iter().map(|value| value + 0.0).collect();
    sorted.sort_unstable_by(f64::total_cmp);
    let mut best: Option<(usize, f64)> = None;
    for run in sorted.chunk_by(|a, b| a == b) {
        if best.is_none_or(|(count, _)| run.len() > count) {
            best = Some((run.len(), run[0]));
        }
    }
    best.map(|(_, value)| value)
}

/// A column without a value in train is 0 wherever it is imputed.
fn or_zero(value: Option<f64>) -> f64 {
    value.unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_by_hand() {
        let numbers = [2.0, f64::NAN, 4.0, 4.0, 6.0, 1e9];
        let found = statistics(&numbers, &[0, 1, 2, 3, 4]);
        let expected = Statistics {
            count: 4,
            missing: 1,
            distinct: 3,
            mean: Some(4.0),
            std: Some(2f64.sqrt()),
            min: Some(2.0),
            max: Some(6.0),
            median: Some(4.0),
        };
        assert_eq!(found, expected);
        assert_eq!(statistics(&numbers, &[1]), Statistics { missing: 1, ..Statistics::default() });
        assert_eq!(median_of_sorted(&[1.0, 2.0, 4.0, 9.0]), Some(3.0));
        assert_eq!(mean_and_std(&[0.1; 10]), (0.1, 0.0));
        assert_eq!((mode(&[3.0, 1.0, 3.0, 1.0, 2.0]), mode(&[])), (Some(1.0), None));
        assert_eq!(quantile_of_sorted(&[1.0, 2.0, 4.0], 0.75), Some(3.0));
    }
}
