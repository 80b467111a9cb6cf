//! Aggregates of a group's values in train. A group that train does not have gets the aggregate of all of train.

use std::collections::BTreeMap;

use frame::derive::{Column, MISSING_KEY, Step, cross};
use messages::plan::Aggregate;

use super::column;
use crate::check::Violation;
use crate::fit::number::mean_and_std;
use crate::load::{Loaded, Values};

/// A step for each column and aggregate, in the order of their names.
pub fn fit(
    columns: &[String],
    by: &[String],
    aggregates: &[Aggregate],
    loaded: &Loaded,
    train: &[u32],
) -> Result<Vec<Step>, Violation> {
    let by_columns: Vec<Column<'_>> =
        by.iter().filter_map(|name| loaded.column(name).and_then(|(_, values)| column(values))).collect();
    let Column::Category { keys, texts } = cross(loaded.rows, &by_columns) else { return Ok(Vec::new()) };
    let mut steps = Vec::new();
    for name in columns {
        let Some(Values::Number(numbers)) = loaded.column(name).map(|(_, values)| values) else {
            return Err(Violation::new("data.derive: aggregate: holds texts, expected numbers").column(name));
        };
        let mut groups: Vec<Vec<f64>> = vec![Vec::new(); texts.len()];
        // A group whose values are all missing is known too.
        let mut known = vec![false; texts.len()];
        let mut all = Vec::new();
        for &row in train {
            let (key, number) = (keys[row as usize], numbers[row as usize]);
            if key != MISSING_KEY {
                known[key as usize] = true;
            }
            if !number.is_nan() {
                all.push(number);
                if key != MISSING_KEY {
                    groups[key as usize].push(number);
                }
            }
        }
        for how in aggregates {
            let prior = if *how == Aggregate::Count { 0.0 } else { aggregate(*how, &all).unwrap_or(0.0) };
            let of_group = |group: usize| aggregate(*how, &groups[group]).unwrap_or(prior);
            let fitted: BTreeMap<String, f64> = (0..texts.len())
                .filter(|&group| known[group])
                .map(|group| (texts[group].clone(), of_group(group)))
                .collect();
            let name = format!("{name}_{}", how.as_str());
            steps.push(Step::Aggregate { name, by: by.to_vec(), groups: fitted, prior });
        }
    }
    Ok(steps)
}

/// Summed in the order of the rows; none of no value, but for the count.
pub fn aggregate(how: Aggregate, values: &[f64]) -> Option<f64> {
    if how == Aggregate::Count {
        return Some(values.len() as f64);
    }
    if values.is_empty() {
        return None;
    }
    let found = match how {
        Aggregate::Mean => mean_and_std(values).0,
        Aggregate::Std => mean_and_std(values).1,
        Aggregate::Sum => values.iter().sum(),
        Aggregate::Min => values.iter().copied().fold(f64::INFINITY, f64::min),
        Aggregate::Max => values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        Aggregate::Count => values.len() as f64,
    };
    (found.abs() <= f64::from(f32::MAX)).then_some(found)
}
