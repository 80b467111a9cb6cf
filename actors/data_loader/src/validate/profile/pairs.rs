//! Pairs of counts of which one is nearly always the smaller: clicks and impressions, rooms and bedrooms.

use super::Spot;
use super::column::Column;

/// Most columns that are paired.
const MAX_COLUMNS: usize = 24;

/// What a column of an ad's funnel counts. An event of a later stage mostly follows from one of an earlier one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    Shown,
    Clicked,
    Converted,
}

/// The stage that a column's name says.
pub fn stage(name: &str) -> Option<Stage> {
    let name = name.to_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| name.contains(word));
    let no_count = [
        "amount", "revenue", "cost", "spend", "spent", "rate", "ratio", "value", "price", "per_", "ctr", "cpc",
        "score", "_id",
    ];
    if has(&no_count) {
        None
    } else if has(&["conversion", "purchase", "signup", "orders", "leads"]) {
        Some(Stage::Converted)
    } else if has(&["click"]) {
        Some(Stage::Clicked)
    } else if has(&["impression", "display", "views"]) {
        Some(Stage::Shown)
    } else {
        None
    }
}

/// One pair: the first is expected to be the greater.
#[derive(Debug, Clone)]
pub struct Pair {
    pub greater: usize,
    pub smaller: usize,
    pub rows: u64,
    /// Rows where the smaller is above the greater, and the first of them.
    pub exceptions: u64,
    pub first: Vec<(Spot, f64, f64)>,
    /// Rows where the greater is 0 and the smaller is not.
    pub from_nothing: u64,
}

#[derive(Debug, Clone, Default)]
pub struct Pairs {
    pub pairs: Vec<Pair>,
}

impl Pairs {
    /// All pairs of columns that hold counts, by their first rows.
    pub fn new(columns: &[Column]) -> Self {
        let counts = |column: &Column| {
            column.numbers > 0 && column.texts.count == 0 && column.integers == column.numbers && column.least[0] >= 0.0
        };
        let mut chosen: Vec<usize> = (0..columns.len()).filter(|&index| counts(&columns[index])).collect();
        // Those with a name of the funnel first.
        chosen.sort_by_key(|&index| (stage(&columns[index].name).is_none(), index));
        chosen.truncate(MAX_COLUMNS);
        let mut pairs = Vec::new();
        for &greater in &chosen {
            for &smaller in chosen.iter().filter(|&&smaller| smaller != greater) {
                pairs.push(Pair { greater, smaller, rows: 0, exceptions: 0, first: Vec::new(), from_nothing: 0 });
            }
        }
        Self { pairs }
    }

    pub fn observe(&mut self, numbers: &[Vec<f64>], rows: usize, spot: &dyn Fn(usize) -> Spot) {
        for pair in &mut self.pairs {
            let (greater, smaller) = (&numbers[pair.greater], &numbers[pair.smaller]);
            for row in 0..rows {
                let (a, b) = (greater[row], smaller[row]);
                pair.rows += u64::from(!a.is_nan() && !b.is_nan());
                if b > a {
                    pair.exceptions += 1;
                    pair.from_nothing += u64::from(a == 0.0);
                    if pair.first.len() < 3 {
                        pair.first.push((spot(row), a, b));
                    }
                }
            }
        }
    }
}
