//! Time split: the latest rows are held out, never shuffled; of equal times, the later rows of the files.

use super::Cut;
use crate::check::{Violation, Violations, shown};
use crate::load::Values;

pub fn held(cut: Cut, times: &[u32]) -> Vec<bool> {
    let mut order: Vec<u32> = (0..times.len() as u32).collect();
    order.sort_by_key(|&row| times[row as usize]);
    let mut held = vec![false; times.len()];
    for &row in order.iter().rev().take(cut.held) {
        held[row as usize] = true;
    }
    held
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

/// Begins with year, month and day.
fn is_iso(text: &str) -> bool {
    let digits =
        |range: std::ops::Range<usize>| text.get(range).is_some_and(|part| part.bytes().all(|b| b.is_ascii_digit()));
    digits(0..4) && digits(5..7) && digits(8..10) && text.get(4..5) == Some("-") && text.get(7..8) == Some("-")
}
