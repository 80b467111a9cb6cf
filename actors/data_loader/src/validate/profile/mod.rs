//! What a table holds, without being told what it should: statistics of each column, and findings that a reader of the
//! file should know of. One pass in bounded memory; equal files give equal profiles.

mod column;
mod findings;
mod pairs;
mod relations;
mod sample;
mod steps;

use std::collections::HashMap;

use arrow_array::{Array, StringArray};
use serde::Serialize;

pub use column::{Column, Type};
pub use sample::Sample;

use crate::check::At;
use crate::check::value::ValueReader;
use crate::source::Chunk;

/// Most columns that are looked at one by one.
pub const MAX_COLUMNS: usize = 1_000;
/// Most row hashes that are kept; of larger tables a part by hash, and the count is an estimate.
const MAX_ROW_HASHES: usize = 1 << 22;

/// Where something was first seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spot {
    pub file: u32,
    pub at: At,
}

/// Something remarkable.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Finding {
    pub kind: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<String>,
    /// How many rows, values or columns.
    pub count: u64,
    /// Of all rows, where that says something.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub share: Option<f64>,
    pub message: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub examples: Vec<String>,
}

impl Finding {
    pub fn new(kind: &'static str, columns: &[&str], count: u64, message: impl Into<String>) -> Self {
        Self {
            kind,
            columns: columns.iter().map(|column| (*column).to_owned()).collect(),
            count,
            share: None,
            message: message.into(),
            examples: Vec::new(),
        }
    }

    pub fn of(mut self, rows: u64) -> Self {
        self.share = (rows > 0).then(|| self.count as f64 / rows as f64);
        self
    }

    pub fn examples(mut self, examples: Vec<String>) -> Self {
        self.examples = examples;
        self
    }
}

/// See the module.
pub struct Profiler {
    files: Vec<String>,
    columns: Vec<Column>,
    more_columns: usize,
    rows: u64,
    sample: Sample,
    pairs: pairs::Pairs,
    /// Repetitions of each row by its hash, of the hashes that end with `level` zero bits.
    row_hashes: HashMap<u64, u32>,
    level: u32,
    repeated: Vec<Spot>,
    reader: ValueReader,
}

/// What is known in the end.
pub struct Profile {
    pub rows: u64,
    pub columns: Vec<Column>,
    pub more_columns: usize,
    pub sample: Sample,
    pub findings: Vec<Finding>,
}

impl Profiler {
    pub fn new(names: &[String], reader: ValueReader) -> Self {
        let shown = names.len().min(MAX_COLUMNS);
        Self {
            files: Vec::new(),
            columns: names[..shown].iter().map(|name| Column::new(name, shown)).collect(),
            more_columns: names.len() - shown,
            rows: 0,
            sample: Sample::new(shown),
            pairs: pairs::Pairs::default(),
            row_hashes: HashMap::new(),
            level: 0,
            repeated: Vec::new(),
            reader,
        }
    }

    pub fn begin_file(&mut self, path: &str) {
        self.files.push(path.to_owned());
    }

    /// Looks at a chunk; `columns` are all columns as texts.
    pub fn observe(&mut self, chunk: &Chunk, columns: &[&StringArray]) {
        let file = self.files.len().saturating_sub(1) as u32;
        let spot = |row: usize| Spot { file, at: chunk.at(row) };
        let mut hashes = vec![0u64; chunk.rows];
        let first_row = self.rows;
        let mut numbers = Vec::with_capacity(self.columns.len());
        let mut keys = Vec::with_capacity(self.columns.len());
        for (column, texts) in self.columns.iter_mut().zip(columns) {
            let (of_numbers, of_keys) = column.observe(texts, first_row, &self.reader, &spot, &mut hashes);
            numbers.push(of_numbers);
            keys.push(of_keys);
        }
        for texts in columns.iter().skip(self.columns.len()) {
            for (row, hash) in hashes.iter_mut().enumerate() {
                let text = if texts.is_null(row) { "" } else { texts.value(row) };
                column::mix(hash, column::hash(text));
            }
        }
        if first_row == 0 {
            self.pairs = pairs::Pairs::new(&self.columns);
        }
        self.pairs.observe(&numbers, chunk.rows, &spot);
        self.sample.observe(first_row, chunk.rows, &numbers, &keys);
        for (row, hash) in hashes.into_iter().enumerate() {
            self.row(hash, spot(row));
        }
        self.rows += chunk.rows as u64;
    }

    fn row(&mut self, hash: u64, spot: Spot) {
        if hash & ((1 << self.level) - 1) != 0 {
            return;
        }
        let count = self.row_hashes.entry(hash).or_insert(0);
        *count += 1;
        if *count > 1 && self.repeated.len() < 3 {
            self.repeated.push(spot);
        }
        if self.row_hashes.len() > MAX_ROW_HASHES {
            self.level += 1;
            let mask = (1u64 << self.level) - 1;
            self.row_hashes.retain(|hash, _| hash & mask == 0);
        }
    }

    pub fn finish(self) -> Profile {
        let place = |spot: &Spot| {
            let file = self.files.get(spot.file as usize).map_or("", String::as_str);
            format!("{file} {}", spot.at)
        };
        let mut found = Vec::new();
        let repetitions: u64 = self.row_hashes.values().map(|count| u64::from(*count) - 1).sum::<u64>() << self.level;
        if repetitions > 0 {
            let about = if self.level > 0 { "about " } else { "" };
            let message = format!("{about}{repetitions} rows repeat an earlier row in every column");
            let examples = self.repeated.iter().map(place).collect();
            found.push(Finding::new("duplicate_rows", &[], repetitions, message).of(self.rows).examples(examples));
        }
        for column in &self.columns {
            findings::of_column(column, self.rows, &place, &mut found);
        }
        for kind in ["blanks_in_name", "surrounding_blanks"] {
            together(kind, &mut found);
        }
        relations::between_columns(&self.columns, &self.sample, &self.pairs, &place, &mut found);
        if self.more_columns > 0 {
            let message = format!("{} columns beyond the first {MAX_COLUMNS} are not looked at", self.more_columns);
            found.push(Finding::new("columns_not_profiled", &[], self.more_columns as u64, message));
        }
        Profile {
            rows: self.rows,
            columns: self.columns,
            more_columns: self.more_columns,
            sample: self.sample,
            findings: found,
        }
    }
}

/// Makes one finding of those of a kind that say the same of several columns.
fn together(kind: &str, found: &mut Vec<Finding>) {
    let of_kind = |finding: &Finding| finding.kind == kind;
    let Some(first) = found.iter().position(of_kind) else { return };
    let mut all = found.remove(first);
    for other in found.iter().filter(|finding| of_kind(finding)) {
        all.columns.extend(other.columns.clone());
        all.count += other.count;
    }
    if all.columns.len() > 1 {
        let what = if kind == "blanks_in_name" { "names" } else { "values" };
        all.message = format!("{} {what} of {} columns have blanks around them", all.count, all.columns.len());
        all.share = None;
    }
    found.retain(|finding| !of_kind(finding));
    found.insert(first, all);
}
