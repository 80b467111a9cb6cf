//! Files to typed columns in memory, in one pass: each column decides its type as it passes by and keeps its values in
//! the form of that type, on threads of their own beside the one that reads. So no column is ever held as text and as
//! numbers at once: a number costs 8 bytes a row, a category 4 and its distinct texts. Columns of numbers in which a
//! text turns up late are read a second time. What is kept beyond the memory that the worker may use lies in files, if
//! the preparation has a scope (`memory`); else it is an error, as distinct texts beyond it are.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use frame::manifest::{Inference, Source};
use messages::WireError;
use messages::error::Code;
use messages::plan::{DataPlan, Task};
use scratch::Scope;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::cache::raw;
use crate::check::names::{Layout, Need, Use};
use crate::check::scan::Kind;
use crate::check::{At, MAX_ROWS, Violation, Violations, inference};
use crate::column::Column;
use crate::parallel;
use crate::pictures::{Gallery, Places};
use crate::source::{Chunk, File, Joins, Reader};
use crate::validate::Dropped;

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
    pub fn push(&mut self, text: &str) {
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

    /// What it takes.
    pub fn bytes(&self) -> usize {
        self.text.len() + 8 * self.ends.len()
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
    /// Pictures of the columns whose numbers name them.
    pub pictures: BTreeMap<String, Gallery>,
    /// Why each column has its type.
    pub inference: Vec<Inference>,
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
    row_of: Option<Vec<u32>>,
    inference: Vec<Inference>,
    /// Their files are no inputs of the step, so that what has any is not kept.
    #[serde(skip)]
    pictures: BTreeMap<String, Gallery>,
}

impl From<Loaded> for Kept {
    fn from(loaded: Loaded) -> Self {
        // Every field by its name: one that is new must be kept too.
        let Loaded { layout, columns, sources, rows, first_test_row, warnings, row_of, pictures, inference } = loaded;
        let names = layout.names;
        Self { names, columns, sources, rows, first_test_row, warnings, row_of, inference, pictures }
    }
}

impl Kept {
    /// The table of a plan that it was read by.
    pub fn loaded(self, plan: &DataPlan, task: Task, files: &[File]) -> Loaded {
        let Self { names, columns, sources, rows, first_test_row, warnings, row_of, inference, pictures } = self;
        let first = files.first().map(|file| file.path.as_str()).unwrap_or_default();
        // The names were found right when they were read.
        let layout = Layout::new(plan, task, first, &names, &mut Violations::default());
        Loaded { layout, columns, sources, rows, first_test_row, warnings, row_of, pictures, inference }
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

/// Reads the files. `memory_limit_bytes` is what columns may take of memory.
pub fn load(
    plan: &DataPlan,
    task: Task,
    files: &[File],
    roots: &[PathBuf],
    memory_limit_bytes: usize,
    cancelled: &CancellationToken,
) -> Result<Loaded, WireError> {
    load_without(plan, task, files, roots, memory_limit_bytes, &Dropped::default(), cancelled)
}

/// The same but for the rows that are `dropped`.
pub fn load_without(
    plan: &DataPlan,
    task: Task,
    files: &[File],
    roots: &[PathBuf],
    memory_limit_bytes: usize,
    dropped: &Dropped,
    cancelled: &CancellationToken,
) -> Result<Loaded, WireError> {
    let mut violations = Violations::default();
    let mut warnings = Vec::new();
    let joins = Arc::new(Joins::read(plan, roots, &mut violations)?);
    violations.check()?;
    let scope = Scope::current().filter(Scope::works);
    let input = Input { plan, task, files, roots, joins, memory_limit_bytes, scope, dropped, cancelled };
    let Some(mut table) = input.read(None, &mut violations)? else {
        violations.check()?;
        return Err(WireError::new(Code::InternalError, "the data could not be read, and nothing says why"));
    };
    input.joins.report(&mut violations, &mut warnings);
    let names: Vec<&str> = files.iter().map(|file| file.path.as_str()).collect();
    let rows = table.rows;
    let (mut kinds, mut report) = (Vec::new(), Vec::new());
    let columns = std::mem::take(&mut table.columns);
    for column in &columns {
        let has_dates = column.has_dates();
        let kind = column.scan.decide(&column.usage, has_dates, &names, &mut violations, &mut warnings);
        report.push(inference::report(&column.usage, &column.scan, kind, has_dates, rows, &names));
        kinds.push(kind);
    }
    if rows as u64 > MAX_ROWS {
        violations.add(Violation::new(format!("{rows} rows in all, expected at most {MAX_ROWS}")));
    }
    violations.check()?;
    let again = input.read_lost(&table, &columns, &kinds)?;
    let (mut values, mut pictures) = (Vec::new(), BTreeMap::new());
    for ((column, kind), again) in columns.into_iter().zip(kinds).zip(again) {
        let name = column.usage.name.clone();
        let (kept, gallery) = again.unwrap_or(column).finish(kind);
        values.push(kept);
        pictures.extend(gallery.map(|gallery| (name, gallery)));
    }
    let mut sources = table.sources;
    sources.extend(input.joins.sources().map(|(path, summary)| Source {
        path: path.to_owned(),
        blake3: summary.blake3.clone(),
        size_bytes: summary.size_bytes,
        rows: 0,
        test: false,
    }));
    let loaded = Loaded {
        layout: table.layout,
        columns: values,
        sources,
        rows,
        first_test_row: table.first_test_row.unwrap_or(rows),
        warnings,
        row_of: table.row_of,
        pictures,
        inference: report,
    };
    check_ids(&loaded)?;
    Ok(loaded)
}

/// What is read, and under which limits.
struct Input<'a> {
    plan: &'a DataPlan,
    task: Task,
    files: &'a [File],
    roots: &'a [PathBuf],
    joins: Arc<Joins>,
    memory_limit_bytes: usize,
    /// Where large columns may lie in files.
    scope: Option<Scope>,
    /// Rows of all files that are left out.
    dropped: &'a Dropped,
    cancelled: &'a CancellationToken,
}

/// What one pass over the files gives.
struct Pass {
    layout: Layout,
    columns: Vec<Column>,
    sources: Vec<Source>,
    rows: usize,
    first_test_row: Option<usize>,
    row_of: Option<Vec<u32>>,
}

/// Chunks that wait for a thread, at most.
const CHUNKS_AHEAD: usize = 2;

impl Input<'_> {
    /// One pass over the files, of the columns of `layout` or of those that the plan wants. `None` when the first file
    /// has no columns to go by.
    fn read(&self, layout: Option<Layout>, violations: &mut Violations) -> Result<Option<Pass>, WireError> {
        let mut first = None;
        for (index, file) in self.files.iter().enumerate() {
            if let Some(reader) = Reader::open(file, &self.plan.csv, &self.joins, violations)? {
                first = Some((index, reader));
                break;
            }
        }
        let Some((begin, reader)) = first else { return Ok(None) };
        let layout = layout.unwrap_or_else(|| {
            Layout::new(self.plan, self.task, &self.files[begin].path, reader.columns(), violations)
        });
        let places = self.places();
        let columns: Vec<Column> = layout
            .uses
            .iter()
            .map(|usage| Column::new(usage.clone(), |shape| Gallery::new(shape, places.clone())))
            .collect();
        // Reading takes half a core, so that all of them are busy.
        let threads = parallel::threads().min(columns.len().max(1));
        let kept = AtomicUsize::new(0);
        let mut hands: Vec<Vec<(usize, Column)>> = (0..threads).map(|_| Vec::new()).collect();
        for (index, column) in columns.into_iter().enumerate() {
            hands[index % threads].push((index, column));
        }
        std::thread::scope(|scope| {
            let (mut senders, mut joined) = (Vec::new(), Vec::new());
            for columns in hands {
                let (sender, receiver) = sync_channel(CHUNKS_AHEAD);
                let (kept, files) = (&kept, self.scope.clone());
                joined.push(scope.spawn(move || take_in(columns, &receiver, kept, files)));
                senders.push(sender);
            }
            let passed = self.pass(&layout, begin, Some(reader), &senders, &kept, violations);
            drop(senders);
            let mut columns: Vec<(usize, Column)> = Vec::new();
            for thread in joined {
                columns.extend(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            }
            columns.sort_by_key(|(index, _)| *index);
            let columns = columns.into_iter().map(|(_, column)| column).collect();
            let pass = passed?;
            self.check_memory(&kept, &self.files[begin].path)?;
            Ok(Some(Pass { layout: layout.clone(), columns, ..pass }))
        })
    }

    fn places(&self) -> Places {
        let folder = |file: &File| file.path.rsplit_once('/').map(|(folder, _)| folder.to_owned()).unwrap_or_default();
        Places { roots: Arc::new(self.roots.to_vec()), folders: Arc::new(self.files.iter().map(folder).collect()) }
    }

    /// Reads all files from the first that has columns on, and hands their chunks out.
    fn pass(
        &self,
        layout: &Layout,
        begin: usize,
        mut opened: Option<Reader>,
        senders: &[SyncSender<Handed>],
        kept: &AtomicUsize,
        violations: &mut Violations,
    ) -> Result<Pass, WireError> {
        let mut pass = Pass {
            layout: Layout { names: Vec::new(), uses: Vec::new() },
            columns: Vec::new(),
            sources: Vec::new(),
            rows: 0,
            first_test_row: None,
            row_of: None,
        };
        let mut rows_before = 0;
        for (index, file) in self.files.iter().enumerate().skip(begin) {
            let reader = match opened.take() {
                Some(reader) => Some(reader),
                None => Reader::open(file, &self.plan.csv, &self.joins, violations)?,
            };
            let Some(mut reader) = reader else { continue };
            let names = reader.columns().to_vec();
            let wanted = layout.places(&self.files[begin].path, &file.path, &names, violations);
            // With columns amiss, what their values are does not matter.
            if wanted.len() != layout.uses.len() || wanted.is_empty() {
                continue;
            }
            reader.want(&wanted)?;
            if file.test {
                pass.first_test_row.get_or_insert(pass.rows);
            }
            while let Some(chunk) = reader.next_chunk(violations)? {
                alive(self.cancelled)?;
                let chunk = chunk.keep(|row| !self.dropped.contains(rows_before + row))?;
                pass.take_rows(&chunk, rows_before);
                let chunk = Arc::new(chunk);
                for sender in senders {
                    // A thread that is gone has panicked, which is seen where it is joined.
                    sender.send(Handed { file: index, chunk: chunk.clone() }).ok();
                }
                self.check_memory(kept, &file.path)?;
            }
            let summary = reader.finish()?;
            if summary.rows == 0 && violations.is_empty() {
                violations.add(Violation::new("has a header but no rows").file(&file.path));
            }
            rows_before += summary.rows;
            pass.sources.push(Source {
                path: file.path.clone(),
                blake3: summary.blake3,
                size_bytes: summary.size_bytes,
                rows: summary.rows,
                test: file.test,
            });
        }
        Ok(pass)
    }

    fn check_memory(&self, kept: &AtomicUsize, path: &str) -> Result<(), WireError> {
        let limit = self.memory_limit_bytes;
        let in_scope = self.scope.as_ref().map_or(0, Scope::memory_bytes);
        let failure = self.scope.as_ref().and_then(|scope| scope.failure().map(|failure| (scope.folder(), failure)));
        let hint = "exclude columns that are no features, read fewer files, or raise memory_limit_bytes in within.yaml";
        let more = format!("more than the {limit} bytes of memory that a preparation may use");
        if let Some((folder, failure)) = failure {
            // From here on all is counted as in memory, where it now lies.
            if kept.load(Ordering::Relaxed) <= limit {
                return Ok(());
            }
            let folder = folder.display();
            let message =
                format!("{path}: the columns that are read take {more}, and {folder} cannot take the rest: {failure}");
            let hint = format!("make room there, or {hint}");
            return Err(WireError::new(Code::OutOfMemory, message).with_hint(hint));
        }
        if kept.load(Ordering::Relaxed) + in_scope <= limit {
            return Ok(());
        }
        let message = match self.scope {
            Some(_) => format!(
                "{path}: what cannot lie in files of the columns that are read, such as different texts of categories, takes {more}"
            ),
            None => format!("{path}: the columns that are read take {more}"),
        };
        Err(WireError::new(Code::OutOfMemory, message).with_hint(hint))
    }

    /// Reads the columns once more whose values could not be kept, as what they turned out to be.
    fn read_lost(&self, table: &Pass, columns: &[Column], kinds: &[Kind]) -> Result<Vec<Option<Column>>, WireError> {
        let mut again: Vec<Option<Column>> = columns.iter().map(|_| None).collect();
        let lost: Vec<usize> = (0..columns.len()).filter(|&index| columns[index].is_lost()).collect();
        if lost.is_empty() {
            return Ok(again);
        }
        let uses = lost.iter().map(|&index| {
            let need = if kinds[index] == Kind::Number { Need::Number } else { Need::Category };
            Use { need, ..columns[index].usage.clone() }
        });
        let layout = Layout { names: table.layout.names.clone(), uses: uses.collect() };
        let mut violations = Violations::default();
        let read = self.read(Some(layout), &mut violations)?;
        let same = |pass: &Pass| {
            let hashes = |sources: &[Source]| sources.iter().map(|source| source.blake3.clone()).collect::<Vec<_>>();
            violations.is_empty() && hashes(&pass.sources) == hashes(&table.sources)
        };
        let Some(pass) = read.filter(same) else {
            let names: Vec<&str> = self.files.iter().map(|file| file.path.as_str()).collect();
            let message = format!("{}: changed while it was read", names.join(", "));
            return Err(WireError::new(Code::DatasetValidationError, message));
        };
        for (index, column) in lost.into_iter().zip(pass.columns) {
            again[index] = Some(column);
        }
        Ok(again)
    }
}

impl Pass {
    /// Counts a chunk's rows, and keeps which rows of the file they are where some were left out.
    fn take_rows(&mut self, chunk: &Chunk, rows_before: u64) {
        if chunk.is_picked() && self.row_of.is_none() {
            self.row_of = Some((0..self.rows as u32).collect());
        }
        if let Some(row_of) = &mut self.row_of {
            row_of.extend((0..chunk.rows).map(|row| (rows_before + chunk.file_row(row)) as u32));
        }
        self.rows += chunk.rows;
    }
}

/// A chunk on its way to a thread.
struct Handed {
    file: usize,
    chunk: Arc<Chunk>,
}

/// Takes chunks into columns until there are no more.
fn take_in(
    mut columns: Vec<(usize, Column)>,
    chunks: &Receiver<Handed>,
    kept: &AtomicUsize,
    scope: Option<Scope>,
) -> Vec<(usize, Column)> {
    let _inside = scope.as_ref().map(Scope::enter);
    let mut before = 0;
    while let Ok(handed) = chunks.recv() {
        for (index, column) in &mut columns {
            column.observe(handed.file, &handed.chunk, &handed.chunk.columns[*index]);
        }
        let files = scope.as_ref().is_some_and(|scope| scope.failure().is_none());
        let now: usize = columns.iter().map(|(_, column)| column.kept_bytes(files)).sum();
        kept.fetch_add(now, Ordering::Relaxed);
        kept.fetch_sub(before, Ordering::Relaxed);
        before = now;
    }
    columns
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
        let mut sorted = ids.clone();
        sorted.sort_unstable();
        if sorted.windows(2).all(|pair| pair[0] != pair[1]) {
            continue;
        }
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
