//! Files to typed columns in memory, in two passes: the first decides types and finds what is wrong, the
//! second keeps the values. So no column is ever held as text and as numbers at once: a number costs 8 bytes
//! a row, a category 4 and its distinct texts. Peak memory is about twice the size of a text file, three times
//! that of a well compressed one.

use std::collections::HashMap;

use arrow_array::cast::AsArray;
use arrow_array::types::Float64Type;
use arrow_array::{Array, ArrayRef};
use frame::manifest::Source;
use messages::WireError;
use messages::error::Code;
use messages::plan::{DataPlan, Task};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::cache::raw;
use crate::check::names::{Layout, Need, Use};
use crate::check::scan::{ColumnScan, Kind};
use crate::check::value::Value;
use crate::check::{At, MAX_ROWS, Violation, Violations};
use crate::source::{Chunk, File, Reader};

/// Key of a missing category.
pub const MISSING_KEY: u32 = u32::MAX;

/// The values of one column, a row each.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Values {
    /// NaN is missing; nothing else is NaN or infinite.
    #[serde(with = "raw")]
    Number(Vec<f64>),
    /// Key into `texts`, which stand in the order of their first row; [`MISSING_KEY`] is missing.
    Category {
        #[serde(with = "raw")]
        keys: Vec<u32>,
        texts: Vec<String>,
    },
    #[serde(with = "raw")]
    Id(Vec<u64>),
    /// A missing text is empty.
    Text(Texts),
    Empty,
}

/// Texts behind each other.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Texts {
    #[serde(with = "raw::text")]
    text: String,
    #[serde(with = "raw")]
    ends: Vec<usize>,
}

impl Texts {
    fn push(&mut self, text: &str) {
        self.text.push_str(text);
        self.ends.push(self.text.len());
    }

    pub fn get(&self, row: usize) -> &str {
        let start = if row == 0 { 0 } else { self.ends[row - 1] };
        &self.text[start..self.ends[row]]
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }
}

/// What was read.
#[derive(Debug)]
pub struct Loaded {
    pub layout: Layout,
    /// One for each use of the layout.
    pub columns: Vec<Values>,
    pub sources: Vec<Source>,
    pub rows: usize,
    /// Rows from here on are the official test part.
    pub first_test_row: usize,
    pub warnings: Vec<String>,
    /// Row of the files that each row here stands for; none: the same one.
    pub row_of: Option<Vec<u32>>,
}

/// What was read but for the layout, which follows from the plan: as the step cache keeps it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Kept {
    names: Vec<String>,
    columns: Vec<Values>,
    sources: Vec<Source>,
    rows: usize,
    first_test_row: usize,
    warnings: Vec<String>,
}

impl From<Loaded> for Kept {
    fn from(loaded: Loaded) -> Self {
        // Every field by its name: one that is new must be kept too.
        let Loaded { layout, columns, sources, rows, first_test_row, warnings, row_of: _ } = loaded;
        Self { names: layout.names, columns, sources, rows, first_test_row, warnings }
    }
}

impl Kept {
    /// The table of a plan that it was read by.
    pub fn loaded(self, plan: &DataPlan, task: Task, files: &[File]) -> Loaded {
        let Self { names, columns, sources, rows, first_test_row, warnings } = self;
        let first = files.first().map(|file| file.path.as_str()).unwrap_or_default();
        // The names were found right when they were read.
        let layout = Layout::new(plan, task, first, &names, &mut Violations::default());
        Loaded { layout, columns, sources, rows, first_test_row, warnings, row_of: None }
    }
}

impl Loaded {
    /// Values of the column with this name.
    pub fn column(&self, name: &str) -> Option<(&Use, &Values)> {
        let index = self.layout.uses.iter().position(|usage| usage.name == name)?;
        Some((&self.layout.uses[index], &self.columns[index]))
    }

    /// File and row within it (from 1) of a row.
    pub fn place(&self, row: usize) -> (&str, At) {
        let row = self.row_of.as_ref().map_or(row, |rows| rows[row] as usize);
        let mut before = 0;
        for source in &self.sources {
            if (row as u64) < before + source.rows {
                return (&source.path, At::Row(row as u64 - before + 1));
            }
            before += source.rows;
        }
        ("", At::Row(row as u64 + 1))
    }
}

/// Fails once the task is cancelled.
pub fn alive(cancelled: &CancellationToken) -> Result<(), WireError> {
    if cancelled.is_cancelled() {
        return Err(WireError::new(Code::Cancelled, "preparing the data was cancelled"));
    }
    Ok(())
}

/// Reads the files.
pub fn load(plan: &DataPlan, task: Task, files: &[File], cancelled: &CancellationToken) -> Result<Loaded, WireError> {
    let mut violations = Violations::default();
    let mut warnings = Vec::new();
    let scanned = scan(plan, task, files, cancelled, &mut violations)?;
    let Some((layout, scans, sources)) = scanned else {
        violations.check()?;
        return Err(WireError::new(Code::InternalError, "the data could not be read, and nothing says why"));
    };
    let names: Vec<&str> = files.iter().map(|file| file.path.as_str()).collect();
    let uses_and_scans = layout.uses.iter().zip(&scans);
    let kinds: Vec<Kind> =
        uses_and_scans.map(|(usage, scan)| scan.decide(usage, &names, &mut violations, &mut warnings)).collect();
    let rows: u64 = sources.iter().map(|source| source.rows).sum();
    if rows > MAX_ROWS {
        violations.add(Violation::new(format!("{rows} rows in all, expected at most {MAX_ROWS}")));
    }
    violations.check()?;
    let columns = keep(plan, files, &layout, &kinds, &sources, cancelled)?;
    let test: u64 = sources.iter().filter(|source| source.test).map(|source| source.rows).sum();
    let loaded = Loaded {
        layout,
        columns,
        sources,
        rows: rows as usize,
        first_test_row: (rows - test) as usize,
        warnings,
        row_of: None,
    };
    check_ids(&loaded)?;
    Ok(loaded)
}

type Scanned = (Layout, Vec<ColumnScan>, Vec<Source>);

/// The first pass. `None` when the first file has no columns to go by.
fn scan(
    plan: &DataPlan,
    task: Task,
    files: &[File],
    cancelled: &CancellationToken,
    violations: &mut Violations,
) -> Result<Option<Scanned>, WireError> {
    let mut layout: Option<Layout> = None;
    let (mut scans, mut sources) = (Vec::new(), Vec::new());
    for (index, file) in files.iter().enumerate() {
        let Some(mut reader) = Reader::open(file, &plan.csv, violations)? else { continue };
        let names = reader.columns().to_vec();
        let layout = layout.get_or_insert_with(|| Layout::new(plan, task, &file.path, &names, violations));
        scans.resize_with(layout.uses.len(), ColumnScan::default);
        let wanted = layout.places(&files[0].path, &file.path, &names, violations);
        // With columns amiss, what their values are does not matter, but rows are still checked.
        let complete = wanted.len() == layout.uses.len() && !wanted.is_empty();
        if !complete {
            continue;
        }
        reader.want(&wanted)?;
        let mut rows = 0;
        while let Some(chunk) = reader.next_chunk(violations)? {
            alive(cancelled)?;
            rows += chunk.rows as u64;
            for ((usage, scan), column) in layout.uses.iter().zip(&mut scans).zip(&chunk.columns) {
                scan.observe(usage, index, &chunk, column);
            }
        }
        if rows == 0 && violations.is_empty() {
            violations.add(Violation::new("has a header but no rows").file(&file.path));
        }
        let summary = reader.finish()?;
        sources.push(Source {
            path: file.path.clone(),
            blake3: summary.blake3,
            size_bytes: summary.size_bytes,
            rows,
            test: file.test,
        });
    }
    Ok(layout.map(|layout| (layout, scans, sources)))
}

/// The second pass.
fn keep(
    plan: &DataPlan,
    files: &[File],
    layout: &Layout,
    kinds: &[Kind],
    sources: &[Source],
    cancelled: &CancellationToken,
) -> Result<Vec<Values>, WireError> {
    let rows: u64 = sources.iter().map(|source| source.rows).sum();
    let mut keepers: Vec<Keeper> = kinds.iter().map(|&kind| Keeper::new(kind, rows as usize)).collect();
    let typed = with_kinds(layout, kinds);
    for (file, source) in files.iter().zip(sources) {
        let mut violations = Violations::default();
        let changed =
            || WireError::new(Code::DatasetValidationError, format!("{}: changed while it was read", file.path));
        let Some(mut reader) = Reader::open(file, &plan.csv, &mut violations)? else { return Err(changed()) };
        let names = reader.columns().to_vec();
        let wanted = typed.places(&files[0].path, &file.path, &names, &mut violations);
        reader.want(&wanted)?;
        while let Some(chunk) = reader.next_chunk(&mut violations)? {
            alive(cancelled)?;
            for ((usage, keeper), column) in typed.uses.iter().zip(&mut keepers).zip(&chunk.columns) {
                keeper.keep(usage, &chunk, column);
            }
        }
        let summary = reader.finish()?;
        if summary.blake3 != source.blake3 || summary.rows != source.rows || !violations.is_empty() {
            return Err(changed());
        }
    }
    Ok(keepers.into_iter().map(|keeper| keeper.values).collect())
}

/// The layout with the types that were decided.
fn with_kinds(layout: &Layout, kinds: &[Kind]) -> Layout {
    let uses = layout.uses.iter().zip(kinds).map(|(usage, kind)| {
        let need = match kind {
            Kind::Number | Kind::Empty => Need::Number,
            Kind::Category => Need::Category,
            Kind::Id => Need::Id,
            Kind::Text => Need::Text,
        };
        Use { need, ..usage.clone() }
    });
    Layout { names: layout.names.clone(), uses: uses.collect() }
}

/// Collects the values of one column.
struct Keeper {
    values: Values,
    keys: HashMap<String, u32>,
}

impl Keeper {
    fn new(kind: Kind, rows: usize) -> Self {
        let values = match kind {
            Kind::Number => Values::Number(Vec::with_capacity(rows)),
            Kind::Category => Values::Category { keys: Vec::with_capacity(rows), texts: Vec::new() },
            Kind::Id => Values::Id(Vec::with_capacity(rows)),
            Kind::Text => Values::Text(Texts::default()),
            Kind::Empty => Values::Empty,
        };
        Self { values, keys: HashMap::new() }
    }

    fn keep(&mut self, usage: &Use, chunk: &Chunk, column: &ArrayRef) {
        let texts = column.as_string_opt::<i32>();
        match &mut self.values {
            Values::Number(numbers) => {
                if let Some(texts) = texts {
                    let read = |text: Option<&str>| match usage.values.read(text.unwrap_or_default()) {
                        Value::Number(number) => number,
                        _ => f64::NAN,
                    };
                    numbers.extend(texts.iter().map(read));
                } else {
                    let array = column.as_primitive::<Float64Type>();
                    numbers.extend(
                        (0..chunk.rows).map(|row| if array.is_null(row) { f64::NAN } else { array.value(row) }),
                    );
                }
            }
            Values::Category { keys, texts: distinct } => {
                for text in texts.into_iter().flatten() {
                    let text = text.unwrap_or_default();
                    keys.push(if usage.values.is_missing(text.trim()) {
                        MISSING_KEY
                    } else if let Some(&key) = self.keys.get(text) {
                        key
                    } else {
                        let key = distinct.len() as u32;
                        distinct.push(text.to_owned());
                        self.keys.insert(text.to_owned(), key);
                        key
                    });
                }
            }
            Values::Text(kept) => {
                for text in texts.into_iter().flatten() {
                    let text = text.unwrap_or_default();
                    let missing = usage.values.is_missing(text.trim());
                    kept.push(if missing { "" } else { text });
                }
            }
            Values::Id(ids) => ids.extend(texts.into_iter().flatten().map(|text| id_of(text.unwrap_or_default()))),
            Values::Empty => {}
        }
    }
}

/// First 8 bytes, little-endian, of the BLAKE3 of the text.
pub fn id_of(text: &str) -> u64 {
    id_of_bytes(text.as_bytes())
}

/// The same of bytes.
pub fn id_of_bytes(bytes: &[u8]) -> u64 {
    let hash = blake3::hash(bytes);
    let mut first = [0; 8];
    first.copy_from_slice(&hash.as_bytes()[..8]);
    u64::from_le_bytes(first)
}

/// An id must name one sample.
fn check_ids(loaded: &Loaded) -> Result<(), WireError> {
    let mut violations = Violations::default();
    for (usage, values) in loaded.layout.uses.iter().zip(&loaded.columns) {
        let Values::Id(ids) = values else { continue };
        let mut order: Vec<u32> = (0..ids.len() as u32).collect();
        order.sort_unstable_by_key(|&row| (ids[row as usize], row));
        for pair in order.windows(2).filter(|pair| ids[pair[0] as usize] == ids[pair[1] as usize]) {
            let (file, at) = loaded.place(pair[0] as usize);
            let (other_file, other_at) = loaded.place(pair[1] as usize);
            let other = if file == other_file { other_at.to_string() } else { format!("{other_file} {other_at}") };
            let message = format!("the same sample id stands in {other} too, expected a different one in each row");
            violations.add(Violation::new(message).file(file).at(at).column(&usage.name));
        }
    }
    violations.check()
}
