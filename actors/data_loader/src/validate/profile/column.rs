//! Everything that is counted of one column.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use arrow_array::{Array, StringArray};
use twox_hash::XxHash3_64;

use super::Spot;
use super::findings::stands_for_nothing;
use super::steps::Steps;
use crate::check::value::{Value, ValueReader, trimmed};
use crate::validate::date;

/// Different values of all columns together that are kept with their counts.
const ALL_DISTINCT: usize = 2_000_000;
const MAX_DISTINCT: usize = 20_000;
/// A value in one of so many rows is frequent.
const FREQUENT: u64 = 1000;
/// Longest text that is kept.
const MAX_TEXT: usize = 120;
/// 2^53: from here on not every whole number is a 64-bit float.
const EXACT: i128 = 1 << 53;
/// Key of a missing value, and of one that is not kept.
pub const MISSING: u32 = u32::MAX;
pub const OTHER: u32 = u32::MAX - 1;

/// What most of a column's values are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    Empty,
    Integer,
    Number,
    Date,
    Text,
}

impl Type {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Date => "date",
            Self::Text => "text",
        }
    }
}

/// A value and how often it stands there.
#[derive(Debug, Clone)]
pub struct Counted {
    pub text: String,
    pub count: u64,
    pub first: Spot,
}

/// Where a value stands among those that are kept, and how often it came: beside its key, as it is counted for each row.
#[derive(Debug, Clone, Copy)]
struct Known {
    place: u32,
    count: u64,
}

/// How many values are of a sort, and the first of them.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    pub count: u64,
    pub first: Option<(Spot, String)>,
}

impl Seen {
    fn add(&mut self, spot: impl FnOnce() -> Spot, text: &str) {
        self.count += 1;
        if self.first.is_none() {
            self.first = Some((spot(), cut(text)));
        }
    }
}

fn cut(text: &str) -> String {
    text.chars().take(MAX_TEXT).collect()
}

pub fn hash(text: &str) -> u64 {
    XxHash3_64::oneshot(text.as_bytes())
}

/// Makes a column's hash part of its row's.
pub fn mix(row: &mut u64, cell: u64) {
    *row = (row.rotate_left(5) ^ cell).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    *row ^= *row >> 29;
}

/// A column's part of a chunk.
pub struct Cells {
    /// NaN where there is none.
    pub numbers: Vec<f64>,
    /// Keys of its values.
    pub keys: Vec<u32>,
    pub hashes: Vec<u64>,
}

/// The sum over those that are there, in as many lanes as a processor adds at once.
fn sum(numbers: &[f64], of: impl Fn(f64) -> f64) -> f64 {
    const LANES: usize = 8;
    let mut lanes = [0.0; LANES];
    let term = |number: f64| if number.is_nan() { 0.0 } else { of(number) };
    let (whole, rest) = numbers.as_chunks::<LANES>();
    for part in whole {
        for (lane, number) in lanes.iter_mut().zip(part) {
            *lane += term(*number);
        }
    }
    lanes.into_iter().chain(rest.iter().map(|number| term(*number))).sum()
}

fn is_whole(number: f64) -> bool {
    /// From 2^52 on all are.
    const MOST: f64 = (1u64 << 52) as f64;
    number.abs() > MOST || number as i64 as f64 == number
}

/// Of keys that are hashes already.
pub type Hashed = BuildHasherDefault<Itself>;

#[derive(Debug, Clone, Copy, Default)]
pub struct Itself(u64);

impl Hasher for Itself {
    /// Of sampled rows the low bits are alike.
    fn finish(&self) -> u64 {
        self.0.rotate_left(32)
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = XxHash3_64::oneshot(bytes);
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Column {
    pub name: String,
    pub rows: u64,
    pub missing: Seen,
    pub numbers: u64,
    pub first_number: Option<(Spot, String)>,
    pub integers: u64,
    pub texts: Seen,
    pub mean: f64,
    squares: f64,
    /// The two least and the two greatest different numbers, how often the outermost stand there.
    pub least: [f64; 2],
    pub greatest: [f64; 2],
    pub at_least: u64,
    pub at_greatest: u64,
    pub zeros: u64,
    pub beyond_exact: Seen,
    pub beyond_i64: u64,
    pub blanks: Seen,
    pub dots: Seen,
    pub controls: Seen,
    pub dates: u64,
    pub with_offset: u64,
    /// Minutes, up to a handful of different ones.
    pub offsets: Vec<i32>,
    pub steps: Steps,
    places: HashMap<u64, Known, Hashed>,
    pub values: Vec<Counted>,
    /// Whether there are more values than `values`: of these, only frequent ones are counted to the end.
    pub more_values: bool,
    max_distinct: usize,
    /// Numbers that do not fall from row to row; runs of equal values.
    pub rising: bool,
    pub runs: u64,
    previous: (u64, f64),
    /// Row minus value, while that is the same for all rows.
    pub row_index: Option<i64>,
}

impl Column {
    pub fn new(name: &str, columns: usize) -> Self {
        Self {
            name: name.to_owned(),
            rows: 0,
            missing: Seen::default(),
            numbers: 0,
            first_number: None,
            integers: 0,
            texts: Seen::default(),
            mean: 0.0,
            squares: 0.0,
            least: [f64::INFINITY; 2],
            greatest: [f64::NEG_INFINITY; 2],
            at_least: 0,
            at_greatest: 0,
            zeros: 0,
            beyond_exact: Seen::default(),
            beyond_i64: 0,
            blanks: Seen::default(),
            dots: Seen::default(),
            controls: Seen::default(),
            dates: 0,
            with_offset: 0,
            offsets: Vec::new(),
            steps: Steps::default(),
            places: HashMap::default(),
            values: Vec::new(),
            more_values: false,
            max_distinct: (ALL_DISTINCT / columns.max(1)).clamp(64, MAX_DISTINCT),
            rising: true,
            runs: 0,
            previous: (0, f64::NEG_INFINITY),
            row_index: None,
        }
    }

    /// Values that are there.
    pub fn count(&self) -> u64 {
        self.rows - self.missing.count
    }

    /// Standard deviation, ddof 0.
    pub fn std(&self) -> f64 {
        (self.squares / self.numbers as f64).sqrt()
    }

    pub fn r#type(&self) -> Type {
        match self.count() {
            0 => Type::Empty,
            count if self.dates * 10 >= count * 9 => Type::Date,
            _ if self.texts.count > self.numbers / 10 => Type::Text,
            _ if self.integers == self.numbers => Type::Integer,
            _ => Type::Number,
        }
    }

    pub fn is_numeric(&self) -> bool {
        matches!(self.r#type(), Type::Integer | Type::Number)
    }

    /// Looks at the column's part of a chunk.
    pub fn observe(
        &mut self,
        texts: &StringArray,
        first_row: u64,
        reader: &ValueReader,
        spot: impl Fn(usize) -> Spot,
    ) -> Cells {
        let room = texts.len();
        let (mut numbers, mut keys) = (Vec::with_capacity(room), Vec::with_capacity(room));
        let mut hashes = Vec::with_capacity(room);
        for row in 0..texts.len() {
            let text = if texts.is_null(row) { "" } else { texts.value(row) };
            let hash = hash(text);
            hashes.push(hash);
            self.rows += 1;
            if reader.is_missing(text) {
                self.missing.add(|| spot(row), text);
                numbers.push(f64::NAN);
                keys.push(MISSING);
                continue;
            }
            keys.push(self.value(hash, text, || spot(row)));
            numbers.push(self.parsed(text, first_row + row as u64, reader, &|| spot(row)));
            if self.previous.0 != hash || self.runs == 0 {
                self.runs += 1;
                self.previous.0 = hash;
            }
        }
        self.moments(&numbers);
        Cells { numbers, keys, hashes }
    }

    fn value(&mut self, hash: u64, text: &str, spot: impl Fn() -> Spot) -> u32 {
        if let Some(known) = self.places.get_mut(&hash) {
            known.count += 1;
            return known.place;
        }
        if self.values.len() >= self.max_distinct {
            if !self.more_values {
                self.more_values = true;
                self.forget_rare();
            }
            return OTHER;
        }
        let place = self.values.len() as u32;
        self.places.insert(hash, Known { place, count: 1 });
        self.values.push(Counted { text: cut(text), count: 1, first: spot() });
        place
    }

    /// There are more values than are kept: from here on those are counted that are frequent so far, or stand for nothing.
    /// Whatever is rare among so many says nothing, and looking it up takes longer than all else that is done with a value.
    fn forget_rare(&mut self) {
        self.settle();
        let (values, least) = (&self.values, (self.rows / FREQUENT).max(2));
        self.places.retain(|_, known| known.count >= least || stands_for_nothing(&values[known.place as usize].text));
        self.places.shrink_to_fit();
    }

    /// Writes down how often each value came so far.
    pub fn settle(&mut self) {
        for known in self.places.values() {
            self.values[known.place as usize].count = known.count;
        }
    }

    fn parsed(&mut self, text: &str, row: u64, reader: &ValueReader, spot: &dyn Fn() -> Spot) -> f64 {
        let trimmed = trimmed(text);
        if trimmed.len() != text.len() {
            self.blanks.add(spot, text);
        }
        let first = trimmed.as_bytes().first().copied().unwrap_or_default();
        let numeric = first.is_ascii_digit() || matches!(first, b'+' | b'-' | b'.');
        let Value::Number(number) = (if numeric { reader.read(text) } else { Value::Missing }) else {
            self.text(text, trimmed, row, first, spot);
            return f64::NAN;
        };
        if self.first_number.is_none() {
            self.first_number = Some((spot(), cut(text)));
        }
        if number > self.greatest[1] || number < self.least[1] {
            self.extremes(number);
        }
        self.zeros += u64::from(number == 0.0);
        self.rising &= number >= self.previous.1;
        self.previous.1 = number;
        if is_whole(number) {
            self.integers += 1;
            if trimmed.len() >= 16 {
                self.long_integer(text, trimmed, spot);
            }
            let offset = row as i64 - number as i64;
            match self.row_index {
                None if row == 0 => self.row_index = Some(offset),
                Some(known) if known == offset => {}
                _ => self.row_index = None,
            }
        } else {
            self.row_index = None;
        }
        number
    }

    /// Adds the chunk's numbers to mean and squares, as Chan, Golub and LeVeque (1983) join those of two parts.
    fn moments(&mut self, numbers: &[f64]) {
        let count = numbers.iter().filter(|number| !number.is_nan()).count();
        if count == 0 {
            return;
        }
        let (before, here) = (self.numbers as f64, count as f64);
        let mean = sum(numbers, |number| number) / here;
        let squares = sum(numbers, |number| (number - mean) * (number - mean));
        let (delta, all) = (mean - self.mean, before + here);
        self.mean += delta * (here / all);
        self.squares += squares + delta * delta * (before * here / all);
        self.numbers += count as u64;
    }

    fn extremes(&mut self, number: f64) {
        if number == self.greatest[0] {
            self.at_greatest += 1;
        } else if number > self.greatest[0] {
            (self.greatest, self.at_greatest) = ([number, self.greatest[0]], 1);
        } else if number > self.greatest[1] {
            self.greatest[1] = number;
        }
        if number == self.least[0] {
            self.at_least += 1;
        } else if number < self.least[0] {
            (self.least, self.at_least) = ([number, self.least[0]], 1);
        } else if number < self.least[1] {
            self.least[1] = number;
        }
    }

    fn long_integer(&mut self, text: &str, trimmed: &str, spot: &dyn Fn() -> Spot) {
        let Ok(whole) = trimmed.parse::<i128>() else { return };
        if whole.abs() > EXACT {
            self.beyond_exact.add(spot, text);
        }
        self.beyond_i64 += u64::from(i64::try_from(whole).is_err());
    }

    fn text(&mut self, text: &str, trimmed: &str, row: u64, first: u8, spot: &dyn Fn() -> Spot) {
        self.texts.add(spot, text);
        self.row_index = None;
        if trimmed.ends_with('.') {
            self.dots.add(spot, text);
        }
        let turning = |c: char| matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{fffd}');
        let plain = trimmed.bytes().all(|byte| matches!(byte, b' '..=b'~'));
        if !plain && trimmed.chars().any(|c| c.is_control() || turning(c)) {
            self.controls.add(spot, text);
        }
        let moment = if first.is_ascii_digit() { date::parse(trimmed) } else { None };
        let Some(moment) = moment else { return };
        self.dates += 1;
        if let Some(offset) = moment.offset_minutes {
            self.with_offset += 1;
            if self.offsets.len() < 8 && !self.offsets.contains(&offset) {
                self.offsets.push(offset);
            }
        }
        self.steps.add(moment.ms, row, spot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::At;

    #[test]
    fn frequent_values_and_those_that_stand_for_nothing_are_counted_to_the_end() {
        // Every tenth row, three in all, and otherwise more different numbers than are kept.
        let text = |row: usize| match row {
            5 | 70_001 | 90_001 => "unknown".to_owned(),
            _ if row.is_multiple_of(10) => "7".to_owned(),
            _ => format!("{row}.5"),
        };
        let (rows, chunk) = (100_000, 1 << 14);
        let mut column = Column::new("a", 1);
        for first in (0..rows).step_by(chunk) {
            let texts: StringArray = (first..rows.min(first + chunk)).map(|row| Some(text(row))).collect();
            let reader = ValueReader::new(Vec::new(), false);
            let spot = |row: usize| Spot { file: 0, at: At::Row((first + row) as u64) };
            column.observe(&texts, first as u64, &reader, spot);
        }
        column.settle();
        assert!(column.more_values && column.values.len() == MAX_DISTINCT);
        let count = |text: &str| column.values.iter().find(|value| value.text == text).map(|value| value.count);
        assert_eq!(
            (count("7"), count("unknown"), count("1.5"), count("90001.5")),
            (Some(10_000), Some(3), Some(1), None)
        );

        let numbers: Vec<f64> = (0..rows).filter_map(|row| text(row).parse().ok()).collect();
        let (mean, std) = crate::fit::number::mean_and_std(&numbers);
        assert_eq!(column.numbers, numbers.len() as u64);
        assert!((column.mean - mean).abs() <= 1e-12 * mean && (column.std() - std).abs() <= 1e-12 * std);
        assert_eq!((column.least, column.greatest), ([1.5, 2.5], [99_999.5, 99_998.5]));
    }

    #[test]
    fn halves_are_no_whole_numbers_as_far_as_there_are_some() {
        let half = (1u64 << 52) as f64 - 0.5;
        assert!(!is_whole(half) && !is_whole(-half) && is_whole(half + 0.5) && is_whole(1e300) && is_whole(-0.0));
    }
}
