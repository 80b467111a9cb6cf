//! What is remarkable between columns: one that repeats another, counts that contradict each other, rows whose position
//! says something.

use std::collections::HashMap;

use report::{number, percent};

use super::column::{Column, MISSING, OTHER, Type};
use super::pairs::{Pairs, Stage, stage};
use super::sample::Sample;
use super::{Finding, Spot};
use crate::check::shown;

/// Most numeric columns that are correlated with each other.
const MAX_CORRELATED: usize = 48;
/// From here on one column says what the other says.
const NEARLY_ONE: f64 = 0.99;
/// Most values of a column that may be another spelling of a second one.
const MAX_KEYS: usize = 1_000;
/// Most exceptions of an order between two counts that still is one.
const ORDER_SHARE: f64 = 0.005;
const FUNNEL_SHARE: f64 = 0.35;
/// A value whose share differs so much between the beginning and the end of a file.
const DRIFT: f64 = 0.15;

pub fn between_columns(
    columns: &[Column],
    sample: &Sample,
    pairs: &Pairs,
    place: &dyn Fn(&Spot) -> String,
    found: &mut Vec<Finding>,
) {
    correlated(columns, sample, found);
    equivalent(columns, sample, found);
    order(columns, sample, pairs, place, found);
    by_position(columns, sample, found);
    concentrated(columns, sample, found);
    without_year(columns, found);
}

fn correlated(columns: &[Column], sample: &Sample, found: &mut Vec<Finding>) {
    let varies = |index: &usize| columns[*index].is_numeric() && columns[*index].std() > 0.0;
    let numeric: Vec<usize> = (0..columns.len()).filter(varies).take(MAX_CORRELATED).collect();
    for (place, &a) in numeric.iter().enumerate() {
        for &b in &numeric[place + 1..] {
            let Some(r) = sample.correlation(a, b).filter(|r| r.abs() >= NEARLY_ONE) else { continue };
            let message = format!("correlate with {r:.3}: one of them says what the other says");
            let names = [columns[a].name.as_str(), columns[b].name.as_str()];
            found.push(Finding::new("nearly_collinear", &names, 2, message));
        }
    }
}

/// Columns whose values stand for each other one to one.
fn equivalent(columns: &[Column], sample: &Sample, found: &mut Vec<Finding>) {
    let few = |index: &usize| {
        let column = &columns[*index];
        !column.more_values
            && (2..=MAX_KEYS).contains(&column.values.len())
            && (column.values.len() as u64) < column.rows
    };
    let chosen: Vec<usize> = (0..columns.len()).filter(few).collect();
    for (place, &a) in chosen.iter().enumerate() {
        for &b in chosen[place + 1..].iter().filter(|&&b| columns[a].values.len() == columns[b].values.len()) {
            let (mut there, mut back) = (HashMap::new(), HashMap::new());
            let one_to_one = sample.keys[a]
                .iter()
                .zip(&sample.keys[b])
                .all(|(&x, &y)| *there.entry(x).or_insert(y) == y && *back.entry(y).or_insert(x) == x);
            if one_to_one && there.len() > 1 {
                let message =
                    format!("stand for each other one to one, in {} values: one of them is enough", there.len());
                let names = [columns[a].name.as_str(), columns[b].name.as_str()];
                found.push(Finding::new("equivalent_columns", &names, there.len() as u64, message));
            }
        }
    }
}

/// Counts of which one is nearly always the smaller, and the rows where it is not.
fn order(
    columns: &[Column],
    sample: &Sample,
    pairs: &Pairs,
    place: &dyn Fn(&Spot) -> String,
    found: &mut Vec<Finding>,
) {
    for pair in &pairs.pairs {
        let (greater, smaller) = (&columns[pair.greater], &columns[pair.smaller]);
        if pair.exceptions == 0 || pair.rows == 0 || !greater.is_numeric() || !smaller.is_numeric() {
            continue;
        }
        let share = pair.exceptions as f64 / pair.rows as f64;
        let funnel = match (stage(&greater.name), stage(&smaller.name)) {
            (Some(before), Some(after)) => before < after,
            _ => false,
        };
        let alike = || sample.correlation(pair.greater, pair.smaller).is_some_and(|r| r >= 0.3);
        let rare =
            pair.exceptions >= 1 && share <= ORDER_SHARE && greater.values.len() > 20 && smaller.values.len() > 20;
        let tells = funnel && share <= FUNNEL_SHARE || rare && alike();
        if !tells {
            continue;
        }
        let mut message =
            format!("{} is above {} in {} rows ({})", smaller.name, greater.name, pair.exceptions, percent(share));
        if pair.from_nothing > 0 {
            message.push_str(&format!(", in {} of them {} is 0", pair.from_nothing, greater.name));
        }
        let each = |(spot, a, b): &(Spot, f64, f64)| {
            format!("{}: {} = {}, {} = {}", place(spot), greater.name, number(*a), smaller.name, number(*b))
        };
        let names = [greater.name.as_str(), smaller.name.as_str()];
        let examples = pair.first.iter().map(each).collect();
        found.push(Finding::new("order_exceptions", &names, pair.exceptions, message).of(pair.rows).examples(examples));
    }
}

/// Values that are much more frequent at the end of the file than before it.
fn by_position(columns: &[Column], sample: &Sample, found: &mut Vec<Finding>) {
    let rows = sample.rows;
    if rows < 200 {
        return;
    }
    let cut = rows * 4 / 5;
    let mut drifting: Vec<(f64, String, &str)> = Vec::new();
    for (index, column) in columns.iter().enumerate() {
        let different = column.values.len();
        let blocks = column.runs == different as u64;
        if column.more_values || !(2..=20).contains(&different) || blocks {
            continue;
        }
        let share = |keys: &[u32], key: u32| keys.iter().filter(|k| **k == key).count() as f64 / keys.len() as f64;
        let shares = (0..different as u32).map(|key| {
            let (first, last) = (share(&sample.keys[index][..cut], key), share(&sample.keys[index][cut..], key));
            (key, first, last)
        });
        // The value that changes most; of two that change alike, the rarer one.
        let change = |(_, first, last): &(u32, f64, f64)| (first - last).abs();
        let most = shares.max_by(|a, b| change(a).total_cmp(&change(b)).then_with(|| b.1.total_cmp(&a.1)));
        if let Some(found @ (key, first, last)) = most.filter(|found| change(found) >= DRIFT) {
            let value = shown(&column.values[key as usize].text);
            let (first, last) = (percent(first), percent(last));
            let text = format!("{} = {value}: {first} of the first rows, {last} of the last", column.name);
            drifting.push((change(&found), text, &column.name));
        }
    }
    if drifting.is_empty() {
        return;
    }
    drifting.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    let names: Vec<&str> = drifting.iter().map(|(_, _, name)| *name).collect();
    let message = "the last fifth of the rows is unlike those before: their order means something, perhaps time";
    let examples = drifting.iter().map(|(_, text, _)| text.clone()).collect();
    found.push(Finding::new("drift_by_position", &names, names.len() as u64, message).examples(examples));
}

/// One category that holds nearly all of a count.
fn concentrated(columns: &[Column], sample: &Sample, found: &mut Vec<Finding>) {
    let shown_counts =
        (0..columns.len()).filter(|&i| stage(&columns[i].name) == Some(Stage::Shown) && columns[i].is_numeric());
    for count in shown_counts {
        for (index, column) in columns.iter().enumerate() {
            if index == count || column.more_values || !(2..=50).contains(&column.values.len()) {
                continue;
            }
            let mut sums: HashMap<u32, (f64, usize)> = HashMap::new();
            for (key, value) in sample.keys[index].iter().zip(&sample.numbers[count]) {
                let sum = sums.entry(*key).or_default();
                *sum = (sum.0 + if value.is_nan() { 0.0 } else { *value }, sum.1 + 1);
            }
            let all: f64 =
                column.values.iter().enumerate().map(|(key, _)| sums.get(&(key as u32)).map_or(0.0, |s| s.0)).sum();
            let keys = sums.iter().filter(|(key, _)| **key != MISSING && **key != OTHER);
            let Some((key, (sum, rows))) = keys.max_by(|a, b| a.1.0.total_cmp(&b.1.0).then_with(|| b.0.cmp(a.0)))
            else {
                continue;
            };
            let (share, row_share) = (sum / all, *rows as f64 / sample.rows as f64);
            if share >= 0.9 && row_share < 0.8 {
                let value = shown(&column.values[*key as usize].text);
                let message = format!(
                    "{} of {} is of {} = {value}, which has {} of the rows",
                    percent(share),
                    columns[count].name,
                    column.name,
                    percent(row_share)
                );
                let names = [column.name.as_str(), columns[count].name.as_str()];
                found.push(Finding::new("concentrated", &names, *rows as u64, message));
            }
        }
    }
}

/// A month and a day without a year are no date.
fn without_year(columns: &[Column], found: &mut Vec<Finding>) {
    let named = |name: &str| columns.iter().any(|column| column.name.trim().eq_ignore_ascii_case(name));
    let dated = columns.iter().any(|column| column.r#type() == Type::Date);
    if named("month") && named("day") && !named("year") && !named("date") && !dated {
        let message = "month and day stand there without a year: rows cannot be dated";
        found.push(Finding::new("date_without_year", &["month", "day"], 1, message));
    }
}
