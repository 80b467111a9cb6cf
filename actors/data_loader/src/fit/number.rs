//! Statistics and scaling of number columns: f64, summed in row order, so that the bits depend on the rows only.

use frame::manifest::{Encoding, FittedScale, Statistics};
use frame::scale::signed_ln_1p;
use messages::plan::{DataPlan, Impute, Scale};

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
    let impute = match declared.and_then(|column| column.impute).unwrap_or(plan.preprocessing.impute) {
        Impute::Mean | Impute::Refuse => statistics.mean,
        Impute::Median => statistics.median,
        Impute::Zero => Some(0.0),
    };
    let scale = match declared.and_then(|column| column.scale).unwrap_or(plan.preprocessing.scale) {
        Scale::None => FittedScale::None,
        Scale::Standard => FittedScale::Standard { mean: or_zero(statistics.mean), std: or_zero(statistics.std) },
        Scale::MinMax => FittedScale::MinMax { min: or_zero(statistics.min), max: or_zero(statistics.max) },
        Scale::Log1p => {
            let logs: Vec<f64> = present(numbers, train).into_iter().map(signed_ln_1p).collect();
            let (mean, std) = mean_and_std(&logs);
            FittedScale::Log1p { mean, std }
        }
    };
    Encoding::Number {
        impute: or_zero(impute),
        missing_indicator: plan.preprocessing.missing_indicator && statistics.missing > 0,
        scale,
        clip: plan.preprocessing.clip,
    }
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
    }
}
