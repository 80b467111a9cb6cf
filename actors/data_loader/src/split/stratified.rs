//! Stratified split: each class, or each bin of a number, is cut in the same proportion.

use messages::plan::{DataPlan, Task};

use super::{Cut, ranks};
use crate::check::target::TargetValues;
use crate::load::{Loaded, Values};

/// Bins of a number.
const BINS: usize = 10;
/// Up to so many distinct values, a number's values are strata themselves.
const MOST_VALUES: usize = 20;

/// The stratum of each row: by the plan's column, else by the target.
pub fn strata(plan: &DataPlan, loaded: &Loaded, target: &TargetValues, warnings: &mut Vec<String>) -> Vec<u32> {
    let column = plan.split.stratify_column.as_deref().filter(|column| *column != plan.target.column);
    if let Some((usage, values)) = column.and_then(|column| loaded.column(column)) {
        return of_column(&usage.name, values, warnings);
    }
    if target.classes.is_empty() {
        let numbers = target.values.iter().map(|&value| f64::from(value)).collect();
        return of_column(&plan.target.column, &Values::Number(numbers), warnings);
    }
    target.values.iter().map(|&class| class as u32).collect()
}

fn of_column(name: &str, values: &Values, warnings: &mut Vec<String>) -> Vec<u32> {
    let ranks = ranks(values);
    let distinct = ranks.iter().max().map_or(0, |&top| top as usize + 1);
    if distinct <= MOST_VALUES || matches!(values, Values::Category { .. }) {
        return ranks;
    }
    warnings.push(format!(
        "the split is stratified by {name:?}, a number: its values are put into {BINS} bins of equal counts"
    ));
    // Bins by the count of rows below each value, so that equal values share a bin.
    let mut below = vec![0usize; distinct + 1];
    for &rank in &ranks {
        below[rank as usize + 1] += 1;
    }
    for rank in 0..distinct {
        below[rank + 1] += below[rank];
    }
    ranks.iter().map(|&rank| (below[rank as usize] * BINS / ranks.len()) as u32).collect()
}

/// Each stratum gives its share of the held rows: whole rows first, then the largest remainders.
pub fn held(cut: Cut, strata: &[u32]) -> Vec<bool> {
    let count = strata.iter().max().map_or(0, |&top| top as usize + 1);
    let mut rows: Vec<Vec<u32>> = vec![Vec::new(); count];
    for (row, &stratum) in strata.iter().enumerate() {
        rows[stratum as usize].push(row as u32);
    }
    let share = |stratum: &Vec<u32>| stratum.len() as u128 * cut.held as u128;
    let total = strata.len().max(1) as u128;
    let mut take: Vec<usize> = rows.iter().map(|stratum| (share(stratum) / total) as usize).collect();
    let mut by_remainder: Vec<usize> = (0..count).collect();
    by_remainder.sort_by_key(|&stratum| std::cmp::Reverse(share(&rows[stratum]) % total));
    let missing = cut.held - take.iter().sum::<usize>();
    for &stratum in by_remainder.iter().take(missing) {
        take[stratum] += 1;
    }
    let mut held = vec![false; strata.len()];
    for (index, (stratum, take)) in rows.iter().zip(take).enumerate() {
        // Another key for each stratum, so that strata of the same size are not cut alike.
        let order = Cut { lane: cut.lane | (index as u64 + 1) << 8, ..cut }.order(stratum.len());
        for place in order.into_iter().take(take) {
            held[stratum[place as usize] as usize] = true;
        }
    }
    held
}

/// Says what classes are too small to be in every part.
pub fn warn_of_small_classes(task: Task, target: &TargetValues, warnings: &mut Vec<String>) {
    if task == Task::Regression {
        return;
    }
    let mut counts = vec![0u64; target.classes.len()];
    for &class in &target.values {
        counts[class as usize] += 1;
    }
    let small: Vec<_> = target
        .classes
        .iter()
        .zip(&counts)
        .filter(|(_, count)| **count < 3)
        .map(|(class, count)| format!("{class:?} ({count})"))
        .collect();
    if !small.is_empty() {
        warnings.push(format!("classes with fewer rows than there are parts: {}", small.join(", ")));
    }
}
