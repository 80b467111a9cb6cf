//! Windows and lags: values of earlier rows of the same group. Earlier means a smaller time: rows of one time do not
//! see each other. A row sees rows of its own part and of the parts before it (train, val, test) only, so that
//! nothing of val or test moves a value of train, however rows were split.

use frame::derive::{Column, MISSING_KEY, cross};
use messages::WireError;
use messages::plan::{Aggregate, DataPlan, DeriveStep, WindowUnit};
use tokio_util::sync::CancellationToken;

use super::aggregate::aggregate;
use super::{PartRows, column, is_date};
use crate::check::Violation;
use crate::load::{Loaded, Values, alive};
use crate::split::{ranks, time};

const DAY: f64 = 86_400.0;

/// What is looked at of earlier rows.
enum Look<'a> {
    Window { length: usize, days: bool, aggregates: &'a [Aggregate], include_current: bool, min_rows: usize },
    Lags(&'a [u32]),
}

/// The values of the step's columns, a row each.
pub fn columns(
    plan: &DataPlan,
    step: &DeriveStep,
    loaded: &Loaded,
    parts: PartRows<'_>,
    cancelled: &CancellationToken,
) -> Result<Vec<Vec<f64>>, WireError> {
    let (columns, by, time_column, look) = match step {
        DeriveStep::Rolling { columns, by, time_column, window, unit, aggregates, include_current, min_rows } => {
            let look = Look::Window {
                length: *window as usize,
                days: *unit == WindowUnit::Days,
                aggregates,
                include_current: *include_current,
                min_rows: *min_rows as usize,
            };
            (columns, by, time_column, look)
        }
        DeriveStep::Lag { columns, by, time_column, lags } => (columns, by, time_column, Look::Lags(lags)),
        _ => return Ok(Vec::new()),
    };
    let times = times(plan, loaded, time_column, &look)?;
    let groups = groups(loaded, by);
    let mut part_of = vec![u8::MAX; loaded.rows];
    for (part, rows) in parts.iter().enumerate() {
        rows.iter().for_each(|&row| part_of[row as usize] = part as u8);
    }
    let mut out = Vec::new();
    for name in columns {
        let Some(Values::Number(numbers)) = loaded.column(name).map(|(_, values)| values) else {
            let message = format!("data.derive: {}: holds texts, expected numbers", step.kind());
            return Err(Violation::new(message).column(name).into());
        };
        let made = match &look {
            Look::Window { aggregates, .. } => aggregates.len(),
            Look::Lags(lags) => lags.len(),
        };
        let mut columns = vec![vec![f64::NAN; loaded.rows]; made];
        for rows in &groups {
            alive(cancelled)?;
            for part in 0..parts.len() as u8 {
                let seen = Seen::of(rows, &times, &part_of, part);
                seen.fill(part, &look, numbers, &mut columns);
            }
        }
        out.extend(columns);
    }
    Ok(out)
}

/// When rows are: seconds, or for windows and lags of rows any order.
fn times(plan: &DataPlan, loaded: &Loaded, name: &str, look: &Look<'_>) -> Result<Vec<f64>, WireError> {
    let Some((_, values)) = loaded.column(name) else {
        return Err(Violation::new("data.derive: has no values").column(name).into());
    };
    if matches!(look, Look::Window { days: true, .. }) {
        return Ok(time::seconds(is_date(plan, loaded, name), name, values)?);
    }
    let missing = |row: usize| match values {
        Values::Number(numbers) => numbers[row].is_nan(),
        Values::Category { keys, .. } => keys[row] == MISSING_KEY,
        _ => false,
    };
    let ranks = ranks(values);
    Ok(ranks.iter().enumerate().map(|(row, &rank)| if missing(row) { f64::NAN } else { f64::from(rank) }).collect())
}

/// Rows of each group; a row without a group has none.
fn groups(loaded: &Loaded, by: &[String]) -> Vec<Vec<u32>> {
    let columns: Vec<Column<'_>> =
        by.iter().filter_map(|name| loaded.column(name).and_then(|(_, values)| column(values))).collect();
    let Column::Category { keys, texts } = cross(loaded.rows, &columns) else { return Vec::new() };
    let mut groups = vec![Vec::new(); texts.len().max(1)];
    for (row, &key) in keys.iter().enumerate().filter(|(_, key)| **key != MISSING_KEY) {
        groups[key as usize].push(row as u32);
    }
    groups
}

/// The rows of a group that rows of a part may see, in the order of time, then of the files.
struct Seen<'a> {
    rows: Vec<u32>,
    times: Vec<f64>,
    part_of: &'a [u8],
}

impl<'a> Seen<'a> {
    fn of(rows: &[u32], times: &[f64], part_of: &'a [u8], part: u8) -> Self {
        let visible = |row: &u32| part_of[*row as usize] <= part && !times[*row as usize].is_nan();
        let mut rows: Vec<u32> = rows.iter().copied().filter(visible).collect();
        rows.sort_by(|&a, &b| times[a as usize].total_cmp(&times[b as usize]).then(a.cmp(&b)));
        let times = rows.iter().map(|&row| times[row as usize]).collect();
        Self { rows, times, part_of }
    }

    fn fill(&self, part: u8, look: &Look<'_>, numbers: &[f64], columns: &mut [Vec<f64>]) {
        let mut values: Vec<f64> = Vec::new();
        for (place, &row) in self.rows.iter().enumerate().filter(|(_, row)| self.part_of[**row as usize] == part) {
            let now = self.times[place];
            let end = self.times.partition_point(|time| *time < now);
            match look {
                Look::Lags(lags) => {
                    for (column, &lag) in columns.iter_mut().zip(*lags) {
                        let earlier = end.checked_sub(lag as usize).map(|place| numbers[self.rows[place] as usize]);
                        column[row as usize] = earlier.unwrap_or(f64::NAN);
                    }
                }
                Look::Window { length, days, aggregates, include_current, min_rows } => {
                    let first = if *days {
                        let from = now - *length as f64 * DAY;
                        // As long as the window is: without its beginning where the row itself ends it.
                        self.times.partition_point(|time| if *include_current { *time <= from } else { *time < from })
                    } else {
                        end.saturating_sub(length - usize::from(*include_current))
                    };
                    let earlier = self.rows[first.min(end)..end].iter();
                    let rows = earlier.chain(include_current.then_some(&row));
                    values.clear();
                    values.extend(rows.map(|&row| numbers[row as usize]).filter(|value| !value.is_nan()));
                    for (column, how) in columns.iter_mut().zip(*aggregates) {
                        let enough = values.len() >= *min_rows || *how == Aggregate::Count;
                        let found = if enough { aggregate(*how, &values) } else { None };
                        column[row as usize] = found.unwrap_or(f64::NAN);
                    }
                }
            }
        }
    }
}
