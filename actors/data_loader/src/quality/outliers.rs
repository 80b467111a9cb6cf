//! Numbers far from the others of their column. Center and spread are those of train; values of all parts are judged.

use messages::feed::Split;
use messages::plan::{OutlierMethod, Task};

use super::Inputs;
use super::report::{ColumnOutliers, PartCounts, SampleId};
use super::rows::{Rows, features, median, quantile};
use crate::fit::mean_and_std;
use crate::load::Values;

/// Where a column's usual values end.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Bounds {
    center: f64,
    spread: f64,
    lower: f64,
    upper: f64,
}

/// The outliers of each column of numbers, a regression's target too.
pub fn find(inputs: &Inputs<'_>, rows: &Rows<'_>) -> Vec<ColumnOutliers> {
    let plan = &inputs.data.quality;
    let mut columns = features(inputs);
    if inputs.task == Task::Regression {
        columns.extend(inputs.loaded.column(&inputs.data.target.column));
    }
    let all = rows.all();
    let mut found = Vec::new();
    for (usage, values) in columns {
        let Values::Number(numbers) = values else { continue };
        let train: Vec<f64> = rows.train().iter().map(|&row| numbers[row as usize]).collect();
        for &method in &plan.outlier_methods {
            let bounds = match method {
                OutlierMethod::ZScore => z_score(&train, plan.outlier_threshold),
                OutlierMethod::Iqr => iqr(&train, plan.iqr_factor),
            };
            let Some(bounds) = bounds else { continue };
            let outside = |row: &&u32| {
                let number = numbers[**row as usize];
                number < bounds.lower || number > bounds.upper
            };
            let outliers: Vec<u32> = all.iter().filter(outside).copied().collect();
            if !outliers.is_empty() {
                let most = plan.max_listed as usize;
                found.push(listed(&usage.name, method, bounds, outliers, numbers, rows, most));
            }
        }
    }
    found
}

/// Missing values count as the median. None for a constant.
fn z_score(train: &[f64], threshold: f64) -> Option<Bounds> {
    let middle = median(train.to_vec())?;
    let filled: Vec<f64> = train.iter().map(|number| if number.is_nan() { middle } else { *number }).collect();
    let (center, spread) = mean_and_std(&filled);
    let far = threshold * spread;
    (spread > 0.0).then_some(Bounds { center, spread, lower: center - far, upper: center + far })
}

fn iqr(train: &[f64], factor: f64) -> Option<Bounds> {
    let mut sorted: Vec<f64> = train.iter().copied().filter(|number| !number.is_nan()).collect();
    sorted.sort_unstable_by(f64::total_cmp);
    let (first, third) = (quantile(&sorted, 0.25)?, quantile(&sorted, 0.75)?);
    let spread = third - first;
    let center = quantile(&sorted, 0.5)?;
    let far = factor * spread;
    // A column that is mostly one value: whatever else it holds lies outside.
    (sorted.first() != sorted.last()).then_some(Bounds { center, spread, lower: first - far, upper: third + far })
}

fn listed(
    column: &str,
    method: OutlierMethod,
    bounds: Bounds,
    mut outliers: Vec<u32>,
    numbers: &[f64],
    rows: &Rows<'_>,
    most: usize,
) -> ColumnOutliers {
    let mut found = PartCounts::default();
    for &row in &outliers {
        found.count(rows.part(row));
    }
    let distance = |row: &u32| (numbers[*row as usize] - bounds.center).abs();
    outliers.sort_by(|a, b| distance(b).total_cmp(&distance(a)).then(rows.id(*a).cmp(&rows.id(*b))));
    outliers.truncate(most);
    let score = |row: &u32| (bounds.spread > 0.0).then(|| (numbers[*row as usize] - bounds.center) / bounds.spread);
    ColumnOutliers {
        column: column.to_owned(),
        method,
        center: bounds.center,
        spread: bounds.spread,
        lower: bounds.lower,
        upper: bounds.upper,
        found,
        sample_ids: outliers.iter().map(|&row| rows.id(row)).collect::<Vec<SampleId>>(),
        parts: outliers.iter().map(|&row| rows.part(row)).collect::<Vec<Split>>(),
        values: outliers.iter().map(|&row| numbers[row as usize]).collect(),
        z_scores: outliers.iter().map(score).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_by_hand() {
        // scipy.stats.zscore of [1, 2, 3, 4, 100] with the missing one filled by the median 3.
        let train = [1.0, 2.0, 3.0, f64::NAN, 4.0, 100.0];
        let found = z_score(&train, 2.0).expect("spread");
        assert!((found.center - 18.833_333_333_333_332).abs() < 1e-12, "{found:?}");
        assert!((found.spread - 36.310_772_812_241_58).abs() < 1e-12, "{found:?}");
        assert!((100.0 - found.center) / found.spread > 2.0);
        assert_eq!(z_score(&[5.0, 5.0, f64::NAN], 3.0), None);
        assert_eq!(z_score(&[f64::NAN], 3.0), None);
        let found = iqr(&train, 1.5).expect("bounds");
        assert_eq!((found.center, found.spread, found.lower, found.upper), (3.0, 2.0, -1.0, 7.0));
        let mostly = iqr(&[0.0, 0.0, 0.0, 0.0, 9.0], 1.5).expect("bounds");
        assert_eq!((mostly.lower, mostly.upper), (0.0, 0.0));
        assert_eq!(iqr(&[2.0, 2.0], 1.5), None);
    }

    /// Against SciPy and NumPy (`tests/golden/make_quality_goldens.py`).
    #[test]
    fn bounds_are_theirs() {
        let golden: serde_json::Value =
            serde_json::from_str(include_str!("../../tests/golden/quality.json")).expect("the goldens parse");
        let golden = &golden["outliers"];
        let list = |name: &str| -> Vec<Option<f64>> {
            golden[name].as_array().expect("a list").iter().map(serde_json::Value::as_f64).collect()
        };
        let train: Vec<f64> = list("values").into_iter().map(|value| value.unwrap_or(f64::NAN)).collect();
        let found = z_score(&train, 3.0).expect("spread");
        let present = train.iter().zip(list("z_scores")).filter(|(value, _)| !value.is_nan());
        for (value, expected) in present {
            let expected = expected.expect("a score");
            assert!(((value - found.center) / found.spread - expected).abs() < 1e-12, "{value}");
        }
        let quartiles: Vec<f64> = list("quartiles").into_iter().flatten().collect();
        let found = iqr(&train, 1.5).expect("bounds");
        assert!((found.center - quartiles[1]).abs() < 1e-12);
        assert!((found.spread - (quartiles[2] - quartiles[0])).abs() < 1e-12);
        assert!((found.lower - (quartiles[0] - 1.5 * found.spread)).abs() < 1e-12);
    }
}
