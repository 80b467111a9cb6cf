//! What a table holds, without being told what it should: statistics of each column, and findings that a reader of the
//! file should know of. One pass in bounded memory; equal files give equal profiles.

mod column;
mod findings;
mod pairs;
mod relations;
mod sample;
mod steps;

use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::{Array, StringArray};
use serde::Serialize;

pub use column::{Column, Type};
pub use sample::Sample;

use pairs::Pairs;

use crate::check::At;
use crate::check::value::ValueReader;
use crate::parallel;
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
    by_column: ByColumn,
    across: Across,
    more_columns: usize,
}

/// What is seen of each column for itself: chunk by chunk, on all cores.
pub struct ByColumn {
    columns: Vec<Column>,
    rows: u64,
    reader: ValueReader,
}

/// What is seen of a chunk when its columns have been looked at.
pub struct Seen {
    chunk: Arc<Chunk>,
    file: u32,
    first_row: u64,
    numbers: Vec<Vec<f64>>,
    keys: Vec<Vec<u32>>,
    hashes: Vec<Vec<u64>>,
    /// The pairs of columns that are compared, with the first chunk.
    pairs: Option<Pairs>,
}

/// What is seen of rows and between columns: a chunk at a time, beside the columns of the next one.
pub struct Across {
    sample: Sample,
    pairs: Pairs,
    /// Repetitions of each row by its hash, of the hashes that end with `level` zero bits.
    row_hashes: HashMap<u64, u32, column::Hashed>,
    level: u32,
    repeated: Vec<Spot>,
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
        let columns = names[..shown].iter().map(|name| Column::new(name, shown)).collect();
        Self {
            files: Vec::new(),
            by_column: ByColumn { columns, rows: 0, reader },
            across: Across {
                sample: Sample::new(shown),
                pairs: Pairs::default(),
                row_hashes: HashMap::default(),
                level: 0,
                repeated: Vec::new(),
            },
            more_columns: names.len() - shown,
        }
    }

    pub fn begin_file(&mut self, path: &str) {
        self.files.push(path.to_owned());
    }

    /// The number of the file that was begun last, and the two who look at its chunks.
    pub fn parts(&mut self) -> (u32, &mut ByColumn, &mut Across) {
        (self.files.len().saturating_sub(1) as u32, &mut self.by_column, &mut self.across)
    }
}

impl ByColumn {
    /// Looks at the columns of a chunk; `columns` are all of them as texts.
    pub fn observe(&mut self, file: u32, chunk: &Arc<Chunk>, columns: &[&StringArray]) -> Seen {
        let spot = |row: usize| Spot { file, at: chunk.at(row) };
        let (first_row, reader, shown) = (self.rows, &self.reader, self.columns.len());
        let pieces = self.columns.iter_mut().zip(columns).collect();
        let cells = parallel::each(pieces, |(column, texts): (&mut Column, &&StringArray)| {
            column.observe(texts, first_row, reader, spot)
        });
        let mut seen = Seen {
            chunk: Arc::clone(chunk),
            file,
            first_row,
            numbers: Vec::with_capacity(cells.len()),
            keys: Vec::with_capacity(cells.len()),
            hashes: Vec::with_capacity(cells.len() + 1),
            pairs: (first_row == 0).then(|| Pairs::new(&self.columns)),
        };
        for cells in cells {
            seen.numbers.push(cells.numbers);
            seen.keys.push(cells.keys);
            seen.hashes.push(cells.hashes);
        }
        if columns.len() > shown {
            let mut more = vec![0; chunk.rows];
            for texts in &columns[shown..] {
                for (row, hash) in more.iter_mut().enumerate() {
                    let text = if texts.is_null(row) { "" } else { texts.value(row) };
                    column::mix(hash, column::hash(text));
                }
            }
            seen.hashes.push(more);
        }
        self.rows += chunk.rows as u64;
        seen
    }
}

impl Across {
    /// Looks at what the columns of a chunk have in common.
    pub fn observe(&mut self, seen: Seen) {
        let Seen { chunk, file, first_row, numbers, keys, hashes, pairs } = seen;
        let spot = |row: usize| Spot { file, at: chunk.at(row) };
        self.pairs = pairs.unwrap_or_else(|| std::mem::take(&mut self.pairs));
        self.pairs.observe(&numbers, chunk.rows, &spot);
        self.sample.observe(first_row, chunk.rows, &numbers, &keys);
        let mut rows = vec![0u64; chunk.rows];
        for cells in &hashes {
            for (row, cell) in rows.iter_mut().zip(cells) {
                column::mix(row, *cell);
            }
        }
        for (row, hash) in rows.into_iter().enumerate() {
            self.row(hash, || spot(row));
        }
    }

    fn row(&mut self, hash: u64, spot: impl Fn() -> Spot) {
        if hash & ((1 << self.level) - 1) != 0 {
            return;
        }
        let count = self.row_hashes.entry(hash).or_insert(0);
        *count += 1;
        if *count > 1 && self.repeated.len() < 3 {
            self.repeated.push(spot());
        }
        if self.row_hashes.len() > MAX_ROW_HASHES {
            self.level += 1;
            let mask = (1u64 << self.level) - 1;
            self.row_hashes.retain(|hash, _| hash & mask == 0);
        }
    }
}

impl Profiler {
    pub fn finish(self) -> Profile {
        let Self { files, by_column: ByColumn { mut columns, rows, .. }, across, more_columns } = self;
        columns.iter_mut().for_each(Column::settle);

        let place = |spot: &Spot| {
            let file = files.get(spot.file as usize).map_or("", String::as_str);
            format!("{file} {}", spot.at)
        };
        let mut found = Vec::new();
        let repetitions: u64 =
            across.row_hashes.values().map(|count| u64::from(*count) - 1).sum::<u64>() << across.level;
        if repetitions > 0 {
            let about = if across.level > 0 { "about " } else { "" };
            let message = format!("{about}{repetitions} rows repeat an earlier row in every column");
            let examples = across.repeated.iter().map(place).collect();
            found.push(Finding::new("duplicate_rows", &[], repetitions, message).of(rows).examples(examples));
        }
        for column in &columns {
            findings::of_column(column, rows, &place, &mut found);
        }
        for kind in ["blanks_in_name", "surrounding_blanks"] {
            together(kind, &mut found);
        }
        relations::between_columns(&columns, &across.sample, &across.pairs, &place, &mut found);
        if more_columns > 0 {
            let message = format!("{more_columns} columns beyond the first {MAX_COLUMNS} are not looked at");
            found.push(Finding::new("columns_not_profiled", &[], more_columns as u64, message));
        }
        Profile { rows, columns, more_columns, sample: across.sample, findings: found }
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
