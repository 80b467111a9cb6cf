//! The steps of a time column from row to row: gaps, repetitions, jumps back.

use std::collections::HashMap;

use super::Spot;
use crate::validate::date;

/// Most different steps that are counted apart.
const MAX_STEPS: usize = 4_096;

/// Steps in milliseconds, with how often they were taken and where first.
#[derive(Debug, Clone, Default)]
pub struct Steps {
    previous: Option<(i64, u64)>,
    by_length: HashMap<i64, (u64, Spot, i64)>,
    pub taken: u64,
    /// Steps of lengths beyond the most that are counted.
    uncounted: u64,
}

/// Steps of one sort.
#[derive(Debug, Clone, Default)]
pub struct Sort {
    pub count: u64,
    /// Where the first of them ended, and at which moment.
    pub first: Option<(Spot, String)>,
}

/// What a regular series of time has of irregular steps.
#[derive(Debug, Clone)]
pub struct Irregular {
    pub usual_ms: i64,
    pub gaps: Sort,
    pub repeated: Sort,
    pub back: Sort,
    /// Steps that are shorter than the usual one.
    pub short: Sort,
}

impl Steps {
    pub fn add(&mut self, ms: i64, row: u64, spot: &dyn Fn() -> Spot) {
        if let Some((before, before_row)) = self.previous
            && before_row + 1 == row
        {
            self.taken += 1;
            let step = ms - before;
            if let Some((count, _, _)) = self.by_length.get_mut(&step) {
                *count += 1;
            } else if self.by_length.len() >= MAX_STEPS {
                self.uncounted += 1;
            } else {
                self.by_length.insert(step, (1, spot(), ms));
            }
        }
        self.previous = Some((ms, row));
    }

    /// Steps that never go back.
    pub fn rise(&self) -> bool {
        self.taken > 0 && self.uncounted == 0 && self.by_length.keys().all(|step| *step >= 0)
    }

    /// None where no step is usual: the rows are no series, or belong to several.
    pub fn irregular(&self) -> Option<Irregular> {
        let (&usual_ms, (most, _, _)) =
            self.by_length.iter().max_by_key(|(step, (count, _, _))| (*count, std::cmp::Reverse(**step)))?;
        if usual_ms <= 0 || (*most as f64) < 0.8 * self.taken as f64 {
            return None;
        }
        let sort = |belongs: &dyn Fn(i64) -> bool| {
            let found = self.by_length.iter().filter(|(step, _)| belongs(**step));
            let mut found: Vec<_> = found.map(|(_, taken)| *taken).collect();
            found.sort_unstable_by_key(|(_, spot, ms)| (spot.file, line(*spot), *ms));
            let first = found.first().map(|(_, spot, ms)| (*spot, date::shown(*ms)));
            Sort { count: found.iter().map(|(count, _, _)| count).sum(), first }
        };
        Some(Irregular {
            usual_ms,
            gaps: sort(&|step| step > usual_ms),
            repeated: sort(&|step| step == 0),
            back: sort(&|step| step < 0),
            short: sort(&|step| step > 0 && step < usual_ms),
        })
    }
}

fn line(spot: Spot) -> u64 {
    match spot.at {
        crate::check::At::Line(line) | crate::check::At::Row(line) => line,
    }
}
