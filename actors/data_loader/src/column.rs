//! One column as it passes by in chunks: counted, typed, and kept in the smallest form that its type allows. Numbers
//! that turn out to stand among texts were not kept as texts: such a column is lost, and read again.

use std::collections::HashMap;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, TimestampMicrosecondType};
use arrow_array::{Array, ArrayRef, BinaryArray, StringArray};
use foldhash::fast::FixedState;

use crate::check::At;
use crate::check::names::{Need, Use};
use crate::check::scan::{ColumnScan, Kind};
use crate::check::value::{Value, usable};
use crate::load::{MISSING_KEY, Texts, Values, id_of};
use crate::pictures::Gallery;
use crate::source::Chunk;

const SECOND_MICROS: f64 = 1e6;

/// A column of the layout, and what has passed of it.
#[derive(Debug)]
pub struct Column {
    pub usage: Use,
    pub scan: ColumnScan,
    kept: Kept,
    /// Whether all texts so far are dates.
    dates: bool,
}

#[derive(Debug)]
enum Kept {
    /// So many rows, all of them missing.
    Nothing(usize),
    Numbers(Vec<f64>),
    Categories(Categories),
    Ids(Vec<u64>),
    Texts(Texts),
    Pictures(Box<Gallery>),
    Lost,
}

#[derive(Debug, Default)]
struct Categories {
    keys: Vec<u32>,
    texts: Vec<String>,
    places: HashMap<String, u32, FixedState>,
    text_bytes: usize,
}

impl Categories {
    /// Says whether the text is a new one.
    fn push(&mut self, text: &str) -> bool {
        if let Some(&key) = self.places.get(text) {
            self.keys.push(key);
            return false;
        }
        let key = self.texts.len() as u32;
        self.keys.push(key);
        self.texts.push(text.to_owned());
        self.places.insert(text.to_owned(), key);
        self.text_bytes += text.len();
        true
    }
}

impl Column {
    pub fn new(usage: Use, gallery: impl FnOnce(crate::source::picture::Shape) -> Gallery) -> Self {
        let kept = match usage.need {
            Need::Infer => Kept::Nothing(0),
            Need::Number | Need::Time => Kept::Numbers(Vec::new()),
            Need::Category => Kept::Categories(Categories::default()),
            Need::Id => Kept::Ids(Vec::new()),
            Need::Text => Kept::Texts(Texts::default()),
            Need::Picture(shape) => Kept::Pictures(Box::new(gallery(shape))),
        };
        Self { usage, scan: ColumnScan::default(), kept, dates: true }
    }

    /// Takes in the values of a chunk.
    pub fn observe(&mut self, file: usize, chunk: &Chunk, column: &ArrayRef) {
        let before = self.scan.begin(file);
        if let Some(texts) = column.as_string_opt::<i32>() {
            self.observe_texts(file, chunk, texts);
        } else if let Some(numbers) = column.as_primitive_opt::<Float64Type>() {
            for row in 0..numbers.len() {
                let number = numbers.is_valid(row).then(|| numbers.value(row));
                self.observe_number(file, || chunk.at(row), number);
            }
        } else if let Some(times) = column.as_primitive_opt::<TimestampMicrosecondType>() {
            for (row, time) in times.iter().enumerate() {
                self.observe_time(file, || chunk.at(row), time);
            }
        } else if let Some(bytes) = column.as_binary_opt::<i32>() {
            self.observe_bytes(file, chunk, bytes);
        }
        self.scan.end(file, before);
    }

    fn observe_texts(&mut self, file: usize, chunk: &Chunk, texts: &StringArray) {
        for row in 0..texts.len() {
            let text = if texts.is_valid(row) { texts.value(row) } else { "" };
            match self.usage.need {
                Need::Infer => self.infer(file, || chunk.at(row), text),
                Need::Number => {
                    let number = match self.usage.values.read(text) {
                        Value::Number(number) => {
                            self.scan.numbers += 1;
                            number
                        }
                        Value::Missing => {
                            self.scan.missing.add(file, || chunk.at(row), text);
                            f64::NAN
                        }
                        Value::Unusable(text) => {
                            self.scan.unusable.add(file, || chunk.at(row), text);
                            f64::NAN
                        }
                        Value::Text(text) => {
                            self.scan.texts.add(file, || chunk.at(row), text);
                            f64::NAN
                        }
                    };
                    self.keep_number(number);
                }
                Need::Time => self.observe_date(file, || chunk.at(row), text),
                Need::Picture(_) => self.observe_picture(file, || chunk.at(row), text),
                Need::Category | Need::Id | Need::Text => self.keep_text(file, || chunk.at(row), text),
            }
        }
    }

    fn keep_text(&mut self, file: usize, at: impl FnOnce() -> At, text: &str) {
        let missing = self.usage.values.is_missing(text);
        if missing {
            self.scan.missing.add(file, at, text);
        } else {
            self.scan.texts.count += 1;
        }
        match &mut self.kept {
            Kept::Categories(categories) if missing => categories.keys.push(MISSING_KEY),
            Kept::Categories(categories) => drop(categories.push(text)),
            Kept::Ids(ids) => ids.push(id_of(text)),
            Kept::Texts(texts) => texts.push(if missing { "" } else { text }),
            _ => {}
        }
    }

    fn keep_number(&mut self, number: f64) {
        match &mut self.kept {
            Kept::Numbers(numbers) => numbers.push(number),
            Kept::Nothing(rows) if number.is_nan() => *rows += 1,
            Kept::Nothing(rows) => {
                let mut numbers = vec![f64::NAN; *rows];
                numbers.push(number);
                self.kept = Kept::Numbers(numbers);
            }
            // Typed numbers in one file, texts in another.
            Kept::Categories(categories) if number.is_nan() => categories.keys.push(MISSING_KEY),
            Kept::Categories(_) => self.kept = Kept::Lost,
            _ => {}
        }
    }

    /// A text of a column that nobody said anything about.
    fn infer(&mut self, file: usize, at: impl FnOnce() -> At, text: &str) {
        let value = self.usage.values.infer(text);
        match value {
            Value::Missing => {
                self.scan.missing.add(file, at, text);
                return self.keep_number(f64::NAN);
            }
            Value::Number(number) => {
                self.scan.numbers += 1;
                if let Kept::Nothing(_) | Kept::Numbers(_) = self.kept {
                    return self.keep_number(number);
                }
                self.scan.first_number.get_or_insert_with(|| text.to_owned());
            }
            Value::Unusable(text) => {
                self.scan.unusable.add(file, at, text);
                if let Kept::Nothing(_) | Kept::Numbers(_) = self.kept {
                    // Not missing: the column is one of numbers, with something wrong in it.
                    self.keep_number(0.0);
                    return;
                }
            }
            Value::Text(text) => {
                if self.dates {
                    let known = matches!(&self.kept, Kept::Categories(all) if all.places.contains_key(text));
                    self.dates = known || self.usage.dates.read(text).is_some();
                }
                self.scan.texts.add(file, at, text);
            }
        }
        match &mut self.kept {
            Kept::Nothing(rows) => {
                let mut categories = Categories { keys: vec![MISSING_KEY; *rows], ..Categories::default() };
                categories.push(text);
                self.kept = Kept::Categories(categories);
            }
            Kept::Numbers(_) => self.kept = Kept::Lost,
            Kept::Categories(categories) => drop(categories.push(text)),
            _ => {}
        }
    }

    fn observe_number(&mut self, file: usize, at: impl FnOnce() -> At, number: Option<f64>) {
        match number {
            None => {
                self.scan.missing.add(file, at, "");
                self.keep_number(f64::NAN);
            }
            Some(number) if self.usage.need == Need::Time => {
                // A number is a date in a declared format only, and then it is read as a text.
                self.scan.texts.add(file, at, &number.to_string());
                self.keep_number(f64::NAN);
            }
            Some(number) if usable(number) => {
                self.scan.numbers += 1;
                self.scan.first_number.get_or_insert_with(|| number.to_string());
                self.keep_number(number);
            }
            // As a text "NaN" or "inf" would be.
            Some(number) => {
                if self.usage.values.read(&number.to_string()) == Value::Missing {
                    self.scan.missing.add(file, at, "");
                    self.keep_number(f64::NAN);
                } else {
                    self.scan.unusable.add(file, at, &number.to_string());
                    self.keep_number(0.0);
                }
            }
        }
    }

    /// A moment of a typed file: where a number was asked for, it is seconds too.
    fn observe_time(&mut self, file: usize, at: impl FnOnce() -> At, time: Option<i64>) {
        match time {
            None => {
                self.scan.missing.add(file, at, "");
                self.keep_number(f64::NAN);
            }
            Some(time) => {
                if self.usage.need == Need::Number {
                    self.scan.numbers += 1;
                } else {
                    self.scan.times += 1;
                }
                self.keep_number(time as f64 / SECOND_MICROS);
            }
        }
    }

    fn observe_date(&mut self, file: usize, at: impl Fn() -> At, text: &str) {
        if self.usage.values.is_missing(text) {
            self.scan.missing.add(file, at, text);
            return self.keep_number(f64::NAN);
        }
        if let Some(moment) = self.usage.dates.read(text) {
            self.scan.dates.add(moment, 1, || (file, at(), text.to_owned()));
            self.keep_number(moment.seconds);
        } else {
            self.scan.texts.add(file, at, text);
            self.keep_number(f64::NAN);
        }
    }

    fn observe_picture(&mut self, file: usize, at: impl FnOnce() -> At, text: &str) {
        let Kept::Pictures(gallery) = &mut self.kept else { return };
        if self.usage.values.is_missing(text) {
            gallery.push_missing();
            self.scan.missing.add(file, at, text);
        } else if let Err(problem) = gallery.push_file(file, text) {
            self.scan.texts.add(file, at, &problem);
        }
    }

    fn observe_bytes(&mut self, file: usize, chunk: &Chunk, bytes: &BinaryArray) {
        let Kept::Pictures(gallery) = &mut self.kept else { return };
        for row in 0..bytes.len() {
            if bytes.is_null(row) {
                gallery.push_missing();
                self.scan.missing.add(file, || chunk.at(row), "");
            } else if let Err(problem) = gallery.push_bytes(bytes.value(row)) {
                self.scan.texts.add(file, || chunk.at(row), &problem);
            }
        }
    }

    /// Whether texts that nobody declared are all dates.
    pub fn has_dates(&self) -> bool {
        let numbers = self.scan.numbers + self.scan.unusable.count;
        self.usage.need == Need::Infer && numbers == 0 && self.dates && matches!(self.kept, Kept::Categories(_))
    }

    /// Whether the values must be read again.
    pub fn is_lost(&self) -> bool {
        matches!(self.kept, Kept::Lost)
    }

    /// Bytes that are kept in memory, about; of vectors that may lie in files, those that are too small for it.
    pub fn kept_bytes(&self, files: bool) -> usize {
        /// Of a text in its own allocation, twice: in the list and in the look-up.
        const TEXT_BYTES: usize = 2 * (24 + IN_HEAP) + 8;
        /// What the allocator takes for it.
        const IN_HEAP: usize = 16;
        let vector = |bytes: usize| if files && bytes >= scratch::LARGE_BYTES { 0 } else { bytes };
        match &self.kept {
            Kept::Nothing(_) | Kept::Lost => 0,
            Kept::Numbers(numbers) => vector(8 * numbers.len()),
            Kept::Categories(categories) => {
                let list = categories.texts.capacity() * size_of::<String>();
                // A long list, and its look-up, which is longer, are large pieces.
                let each = if vector(list) == 0 { 2 * IN_HEAP } else { TEXT_BYTES };
                vector(4 * categories.keys.len()) + categories.texts.len() * each + 2 * categories.text_bytes
            }
            Kept::Ids(ids) => vector(8 * ids.len()),
            Kept::Texts(texts) => vector(texts.bytes()),
            Kept::Pictures(gallery) => vector(gallery.bytes()),
        }
    }

    /// The values as they were kept, and the pictures where they are some.
    pub fn finish(self, kind: Kind) -> (Values, Option<Gallery>) {
        let values = match self.kept {
            Kept::Numbers(numbers) => Values::Number(numbers),
            Kept::Nothing(rows) if matches!(kind, Kind::Number | Kind::Time) => Values::Number(vec![f64::NAN; rows]),
            Kept::Categories(categories) => Values::Category { keys: categories.keys, texts: categories.texts },
            Kept::Ids(ids) => Values::Id(ids),
            Kept::Texts(texts) => Values::Text(texts),
            Kept::Pictures(gallery) => return (Values::Number(gallery.numbers()), Some(*gallery)),
            Kept::Nothing(_) | Kept::Lost => Values::Empty,
        };
        (values, None)
    }
}
