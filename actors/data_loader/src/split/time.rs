//! Time split: the latest rows are held out, never shuffled; of equal times, the later rows of the files. A gap
//! before them is left out.

use frame::datetime;
use messages::plan::Gap;

use super::{Cut, Side};
use crate::check::{Violation, Violations, shown};
use crate::load::{MISSING_KEY, Values};

/// When rows are.
#[derive(Debug, Clone, Default)]
pub struct Times {
    /// Rank of each row's time; equal times have the same rank.
    pub ranks: Vec<u32>,
    /// Where the gap is a duration: seconds of each row.
    pub seconds: Vec<f64>,
}

/// The last rows in time, or one of several folds of which each comes after all that is trained on.
pub(super) fn sides(cut: Cut, times: &Times, fold: Option<(usize, usize)>, gap: Option<Gap>) -> Vec<Side> {
    let rows = times.ranks.len();
    let mut order: Vec<u32> = (0..rows as u32).collect();
    order.sort_by_key(|&row| times.ranks[row as usize]);
    let held = match fold {
        None => rows - cut.held..rows,
        Some((folds, fold)) => {
            let size = rows / (folds + 1);
            let first = rows - (folds - fold) * size;
            first..first + size
        }
    };
    let mut sides = vec![Side::Out; rows];
    let first_held = order.get(held.start).map(|&row| row as usize);
    for (place, &row) in order.iter().enumerate() {
        let row = row as usize;
        sides[row] = if held.contains(&place) {
            Side::Held
        } else if place >= held.start {
            Side::Out
        } else {
            let clear = match (gap, first_held) {
                (Some(Gap::Rows(gap)), _) => ((held.start - place) as u64) > gap,
                (Some(Gap::Seconds(gap)), Some(first)) => times.seconds[first] - times.seconds[row] >= gap,
                _ => true,
            };
            if clear { Side::Stays } else { Side::Out }
        };
    }
    sides
}

/// Texts have the order of their times only as ISO 8601.
pub fn check(column: &str, values: &Values, violations: &mut Violations) {
    let Values::Category { texts, .. } = values else { return };
    if let Some(text) = texts.iter().find(|text| !is_iso(text)) {
        let message =
            format!("{} is no time to order by, expected numbers or ISO 8601 dates such as 2024-05-31", shown(text));
        violations.add(Violation::new(message).column(column));
    }
}

/// The times of a column in seconds: of a column of dates, or of texts that are some.
pub fn seconds(is_date: bool, column: &str, values: &Values) -> Result<Vec<f64>, Violation> {
    match values {
        Values::Number(numbers) if is_date => Ok(numbers.clone()),
        Values::Category { keys, texts } => {
            let mut read = Vec::with_capacity(texts.len());
            for text in texts {
                let at = datetime::parse(text).ok_or_else(|| {
                    Violation::new(format!("{} is no date, expected one such as 2024-05-31", shown(text)))
                        .column(column)
                })?;
                read.push(at);
            }
            Ok(keys.iter().map(|&key| if key == MISSING_KEY { f64::NAN } else { read[key as usize] }).collect())
        }
        _ => Err(Violation::new("holds numbers, expected dates: a duration is asked for")
            .column(column)
            .hint(format!("declare data.columns.{column}.type: datetime, or count in rows"))),
    }
}

/// Begins with year, month and day.
fn is_iso(text: &str) -> bool {
    let digits =
        |range: std::ops::Range<usize>| text.get(range).is_some_and(|part| part.bytes().all(|b| b.is_ascii_digit()));
    digits(0..4) && digits(5..7) && digits(8..10) && text.get(4..5) == Some("-") && text.get(7..8) == Some("-")
}
