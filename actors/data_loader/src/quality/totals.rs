//! Columns that count the target with something else, or are counted within it: one of the two never exceeds the other,
//! and often equals it. Conversions of a kind are within all conversions; knowing those is knowing these, though many
//! rows with other kinds may keep a score low. What only makes room for the target (impressions for clicks) is never
//! exceeded either, but hardly ever reached.

use super::Inputs;
use super::report::{ColumnScore, LeakageMeasure};
use super::rows::{Rows, features};
use crate::load::Values;

/// Rows in which chance would have the part exceed the total, at least.
const LEAST_EXPECTED: f64 = 20.0;
/// Of these, rows in which it may do so by mistake.
const MISTAKES: f64 = 0.02;
/// Above this share of the rows in which the part is not zero, both are equal.
const LIMIT: f64 = 0.1;

/// Suspects, by the name of their column.
pub fn find(inputs: &Inputs<'_>, rows: &Rows<'_>) -> Vec<ColumnScore> {
    let Some((_, Values::Number(target))) = inputs.loaded.column(&inputs.data.target.column) else { return Vec::new() };
    let mut found = Vec::new();
    for (usage, values) in features(inputs) {
        let Values::Number(column) = values else { continue };
        let pairs = rows.train().iter().map(|&row| (target[row as usize], column[row as usize]));
        let pairs: Vec<(f64, f64)> = pairs.filter(|(a, b)| !a.is_nan() && !b.is_nan()).collect();
        let turned: Vec<(f64, f64)> = pairs.iter().map(|(a, b)| (*b, *a)).collect();
        if let Some(value) = [pairs, turned].iter().find_map(|pairs| part_of(pairs)).filter(|share| *share > LIMIT) {
            let (column, measure) = (usage.name.clone(), LeakageMeasure::Total);
            found.push(ColumnScore { column, measure, value, limit: LIMIT });
        }
    }
    found.sort_by(|a, b| a.column.cmp(&b.column));
    found
}

/// Of pairs (part, total): how often both are equal where the part is not zero; none where these cannot be part and
/// total.
fn part_of(pairs: &[(f64, f64)]) -> Option<f64> {
    if pairs.iter().any(|(part, total)| *part < 0.0 || *total < 0.0) {
        return None;
    }
    let mut totals: Vec<f64> = pairs.iter().map(|(_, total)| *total).collect();
    totals.sort_unstable_by(f64::total_cmp);
    // If the two had nothing to do with each other: how many of the totals a part exceeds, on average.
    let below = |part: f64| totals.partition_point(|total| *total < part) as f64 / totals.len() as f64;
    let expected: f64 = pairs.iter().map(|(part, _)| below(*part)).sum();
    let exceeding = pairs.iter().filter(|(part, total)| part > total).count() as f64;
    if expected < LEAST_EXPECTED || exceeding > expected * MISTAKES {
        return None;
    }
    let of_rows = pairs.iter().filter(|(part, _)| *part != 0.0).count();
    let equal = pairs.iter().filter(|(part, total)| *part != 0.0 && part == total).count();
    Some(equal as f64 / of_rows as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pair: impl Fn(u32) -> (u32, u32), expected: Option<f64>) {
        let pairs: Vec<(f64, f64)> = (0..400).map(&pair).map(|(a, b)| (f64::from(a), f64::from(b))).collect();
        assert_eq!(part_of(&pairs).map(|share| (share * 1000.0).round() / 1000.0), expected);
    }

    #[test]
    fn a_part_never_exceeds_its_total_and_often_equals_it() {
        // Other kinds stand beside in three rows of four; in one of ten nothing is counted.
        check(|n| (n % 10, n % 10 + n % 4), Some(0.222));
        // Room for the target: never reached.
        check(|n| (n % 10, (n % 10 + 1) * 3), Some(0.0));
        // Far above whatever the target is: nothing is bounded.
        check(|n| (n % 10, 1000 + n % 10), None);
        // As often as not.
        check(|n| (n % 10, n % 7), None);
        // One mistake in four hundred rows.
        check(|n| (n % 10 + u32::from(n == 8), n % 10), Some(0.997));
    }
}
