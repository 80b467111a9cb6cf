//! Data against a schema, and what data hold without one. One pass over the files, in memory that does not grow with them
//! but by a bit for each row that is left out, and by a key for each row where a rule asks for uniqueness.

mod agreement;
pub mod builtin;
mod columns;
pub mod date;
pub mod engine;
pub mod expression;
mod json;
pub mod outcome;
mod page;
pub mod profile;
mod quarantine;
mod read;
pub mod schema;
pub mod sniff;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread::ScopedJoinHandle;

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, StringArray};
use messages::WireError;
use messages::error::Code;
use messages::plan::{ColumnType, DataPlan, OnViolation, ValidationPlan};
use report::Page;
use scratch::Scope;
use tokio_util::sync::CancellationToken;

use crate::check::value::ValueReader;
use crate::check::{Violation, Violations};
use crate::load::alive;
use crate::nearest::did_you_mean;
use crate::source::{self, Chunk, File, Format, Joins, Packing, Reader, Want, path};

use engine::{Engine, Example, Found, Place};
use outcome::{FileRead, REPORT_VERSION, Report, SchemaUsed};
use profile::Profiler;
pub use quarantine::{Dropped, QuarantineFile};
use schema::{Broken, DataSchema, Mistake, Severity};

/// Chunks that are read ahead, at most.
const CHUNKS_AHEAD: usize = 2;
/// Largest schema file, in bytes.
const MAX_SCHEMA_BYTES: u64 = 1 << 20;

/// What a validation found.
#[derive(Debug)]
pub struct Checked {
    pub report: Report,
    pub page: Page,
    /// Rows that are left out, if there are any.
    pub quarantine: Option<QuarantineFile>,
    pub dropped: Dropped,
}

/// Reads a schema from its text; `origin` names it in errors.
pub fn parse_schema(origin: &str, text: &str) -> Result<DataSchema, WireError> {
    read::read(text).map_err(|mistakes: Vec<Mistake>| {
        let lines: Vec<String> = mistakes.iter().take(20).map(|mistake| format!("{origin}: {mistake}")).collect();
        let more = if mistakes.len() > 20 { format!("\n… and {} more", mistakes.len() - 20) } else { String::new() };
        WireError::new(Code::ConfigError, lines.join("\n") + &more)
    })
}

/// The file of the schema that a plan names, if it is one.
pub fn schema_file(plan: &ValidationPlan) -> Option<&str> {
    let named = plan.schema.as_deref()?;
    (!named.trim_start().starts_with('{') && builtin::names().all(|name| name != named)).then_some(named)
}

/// The schema that a plan names: built in, a file below a data root, or in the plan itself.
pub fn schema_of(plan: &ValidationPlan, roots: &[PathBuf]) -> Result<Option<DataSchema>, WireError> {
    let Some(named) = &plan.schema else { return Ok(None) };
    if named.trim_start().starts_with('{') {
        return parse_schema("data.validation.schema", named).map(Some);
    }
    if let Some(schema) = builtin::schema(named) {
        return Ok(Some(schema));
    }
    let found = path::resolve(named, roots).map_err(|error| {
        let names: Vec<&str> = builtin::names().collect();
        let nearest = did_you_mean(named, names.iter().copied());
        let hint = format!("schemas that come with the program: {}{nearest}", names.join(", "));
        WireError { message: format!("data.validation.schema: {}", error.message), ..error }.with_hint(hint)
    })?;
    let size = std::fs::metadata(&found).map_err(|error| path::cannot_open(named, &error))?.len();
    if size > MAX_SCHEMA_BYTES {
        let message = format!("{named}: {size} bytes, expected a schema of at most {MAX_SCHEMA_BYTES}");
        return Err(WireError::new(Code::TooLarge, message));
    }
    let bytes = std::fs::read(&found).map_err(|error| path::cannot_open(named, &error))?;
    let text = String::from_utf8(bytes)
        .map_err(|_| WireError::new(Code::ConfigError, format!("{named}: is not UTF-8, expected a JSON file")))?;
    parse_schema(named, &text).map(Some)
}

/// Validates what a plan names, if it asks for that.
pub fn of_plan(
    data: &DataPlan,
    roots: &[PathBuf],
    now_ms: u64,
    cancelled: &CancellationToken,
) -> Result<Option<Checked>, WireError> {
    let Some(schema) = schema_of(&data.validation, roots)? else { return Ok(None) };
    check(data, Some(&schema), roots, now_ms, cancelled).map(Some)
}

/// Reads the files of a plan once: holds them against the schema, if there is one, and profiles them.
pub fn check(
    data: &DataPlan,
    schema: Option<&DataSchema>,
    roots: &[PathBuf],
    now_ms: u64,
    cancelled: &CancellationToken,
) -> Result<Checked, WireError> {
    let files = source::files(data, roots)?;
    let mut violations = Violations::default();
    let joins = Arc::new(Joins::read(data, roots, &mut violations)?);
    violations.check()?;
    let empty = DataSchema::empty();
    let pass = Pass { data, schema: schema.unwrap_or(&empty), joins, cancelled };
    let mut read = pass.read(&files, &mut violations)?;
    let (mut found, not_checked) = match read.engine.take() {
        Some(engine) => engine.finish(now_ms as f64),
        None => (Vec::new(), Vec::new()),
    };
    found.extend(unreadable(&violations));
    found.sort_by_key(|found| std::cmp::Reverse(found.severity));
    let profile = read.profiler.map_or_else(|| Profiler::new(&[], reader_of(data, &empty)).finish(), Profiler::finish);
    let mut findings = read.findings;
    findings.extend(profile.findings.iter().cloned());
    let (quarantine, dropped) = read.quarantine.finish()?;
    let report = Report {
        schema: REPORT_VERSION,
        files: read.files,
        rows: profile.rows,
        data_schema: schema.map(SchemaUsed::from),
        passed: found.iter().all(|found| found.severity != Severity::Fail),
        quarantined_rows: dropped.len(),
        schema_violations: found,
        not_checked,
        findings,
        columns: outcome::columns(&profile),
        more: BTreeMap::new(),
    };
    let page = page::page(&report, &profile);
    Ok(Checked { report, page, quarantine, dropped })
}

/// How values are read: what the plan and the schema say is missing.
fn reader_of(data: &DataPlan, schema: &DataSchema) -> ValueReader {
    let nulls = data.csv.null_values.iter().chain(&schema.null_values).cloned().collect();
    ValueReader::new(nulls, data.csv.decimal == ",")
}

/// What the reader itself could not make rows of.
fn unreadable(violations: &Violations) -> Option<Found> {
    let example = |violation: &Violation| Example {
        file: violation.file.clone(),
        line: match violation.at {
            Some(crate::check::At::Line(line)) => Some(line),
            _ => None,
        },
        row: match violation.at {
            Some(crate::check::At::Row(row)) => Some(row),
            _ => None,
        },
        value: match &violation.column {
            Some(column) => format!("column {column:?}: {}", violation.message),
            None => violation.message.clone(),
        },
    };
    (!violations.is_empty()).then(|| Found {
        r#type: Broken::Unreadable,
        rule: "the files are tables".to_owned(),
        severity: Severity::Fail,
        column: None,
        expected: "rows that can be read, of the same columns in each file".to_owned(),
        count: violations.total(),
        examples: violations.shown().iter().map(example).collect(),
    })
}

struct Pass<'a> {
    data: &'a DataPlan,
    schema: &'a DataSchema,
    joins: Arc<Joins>,
    cancelled: &'a CancellationToken,
}

/// What one pass leaves.
#[derive(Default)]
struct Read<'a> {
    /// Columns of the first file.
    names: Vec<String>,
    engine: Option<Engine<'a>>,
    profiler: Option<Profiler>,
    quarantine: quarantine::Quarantine,
    files: Vec<FileRead>,
    findings: Vec<profile::Finding>,
    rows_before: u64,
}

impl<'a> Pass<'a> {
    fn read(&self, files: &[File], violations: &mut Violations) -> Result<Read<'a>, WireError> {
        let mut read = Read::default();
        for file in files {
            let Some(reader) = Reader::open(file, &self.data.csv, &self.joins, violations)? else { continue };
            self.read_file(file, reader, &mut read, violations)?;
        }
        Ok(read)
    }

    fn read_file(
        &self,
        file: &File,
        mut reader: Reader,
        read: &mut Read<'a>,
        violations: &mut Violations,
    ) -> Result<(), WireError> {
        let names = reader.columns().to_vec();
        self.begin(file, &names, read);
        let places: Vec<Option<usize>> =
            read.names.iter().map(|name| names.iter().position(|other| other == name)).collect();
        different_columns(file, &read.names, &names, violations);
        let wanted: Vec<(usize, Want)> =
            places.iter().flatten().map(|&index| (index, self.want(&names[index]))).collect();
        reader.want(&wanted)?;
        let reader = self.look(file, reader, &places, read, violations)?;
        let summary = reader.finish()?;
        read.rows_before += summary.rows;
        read.files.push(FileRead {
            path: file.path.clone(),
            rows: summary.rows,
            blake3: summary.blake3,
            size_bytes: summary.size_bytes,
        });
        Ok(())
    }

    /// Looks at the chunks of a file; `places` says where the columns of the table stand in it. Four at once: what reads,
    /// a chunk or two ahead; what holds rules against a chunk, beside what looks at its columns; and what looks at rows
    /// and between columns, behind that.
    fn look(
        &self,
        file: &File,
        mut reader: Reader,
        places: &[Option<usize>],
        read: &mut Read<'a>,
        violations: &mut Violations,
    ) -> Result<Reader, WireError> {
        let Read { engine, profiler: Some(profiler), quarantine, names, rows_before, .. } = read else {
            return Ok(reader);
        };
        let (number, by_column, across) = profiler.parts();
        let memory = Scope::current();
        let inside = || memory.as_ref().map(Scope::enter);
        std::thread::scope(|scope| {
            let (sender, chunks) = sync_channel::<Chunk>(CHUNKS_AHEAD);
            let (seen_by_column, seen) = sync_channel(CHUNKS_AHEAD);
            let ahead = scope.spawn(move || {
                let _inside = inside();
                while let Some(chunk) = reader.next_chunk(violations)? {
                    if sender.send(chunk).is_err() {
                        break;
                    }
                }
                Ok::<_, WireError>(reader)
            });
            let behind = scope.spawn(move || {
                let _inside = inside();
                for seen in seen {
                    across.observe(seen);
                }
            });
            let looked = chunks.iter().try_for_each(|chunk| {
                alive(self.cancelled)?;
                let chunk = Arc::new(chunk);
                let mut given = chunk.columns.iter();
                let texts: Vec<StringArray> =
                    places.iter().map(|place| texts(place.and_then(|_| given.next()), chunk.rows)).collect();
                let columns: Vec<&StringArray> = texts.iter().collect();
                let place = Place { file: &file.path, chunk: &chunk, rows_before: *rows_before };
                let rows = std::thread::scope(|scope| {
                    let held = engine.as_mut().filter(|engine| engine.has_rules());
                    let held = held.map(|engine| {
                        scope.spawn(|| {
                            let _inside = inside();
                            engine.observe(&place, &columns)
                        })
                    });
                    // Who is behind has panicked if it is gone, which is seen where it is joined.
                    seen_by_column.send(by_column.observe(number, &chunk, &columns)).ok();
                    held.map(joined)
                });
                if let (Some(engine), Some(rows)) = (&engine, rows) {
                    quarantine.add(&place, names, &columns, &rows, |rule| engine.rule_name(rule).to_owned())?;
                }
                Ok(())
            });
            drop((chunks, seen_by_column));
            joined(behind);
            looked.and(joined(ahead))
        })
    }

    fn begin(&self, file: &File, names: &[String], read: &mut Read<'a>) {
        let reader = reader_of(self.data, self.schema);
        if let Some(engine) = &mut read.engine {
            engine.check_header(Some(&file.path), names);
        } else {
            read.names = names.to_vec();
            read.engine = Some(Engine::new(self.schema, names, self.on_violation(), reader.clone()));
            read.profiler = Some(Profiler::new(names, reader));
        }
        if let Some(profiler) = &mut read.profiler {
            profiler.begin_file(&file.path);
        }
        if file.format == Format::Csv
            && matches!(file.packing, Packing::None | Packing::Gzip)
            && let Some(sniffed) = sniff::sniff(&file.real)
        {
            read.findings.extend(sniffed.findings(&file.path, &self.data.csv));
        }
    }

    fn on_violation(&self) -> OnViolation {
        self.data.validation.on_violation
    }

    fn want(&self, name: &str) -> Want {
        let declared = self.data.columns.get(name).map(|column| column.r#type);
        if declared == Some(ColumnType::Image) { Want::Bytes } else { Want::Text }
    }
}

/// What a thread gave.
fn joined<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// A column as texts. One that the file lacks is missing in each row; bytes are shown by their number.
fn texts(column: Option<&ArrayRef>, rows: usize) -> StringArray {
    let Some(column) = column else { return StringArray::from(vec![None::<&str>; rows]) };
    if let Some(texts) = column.as_string_opt::<i32>() {
        return texts.clone();
    }
    match column.as_binary_opt::<i32>() {
        Some(bytes) => bytes.iter().map(|bytes| bytes.map(|bytes| format!("{} bytes", bytes.len()))).collect(),
        None => StringArray::from(vec![None::<&str>; column.len()]),
    }
}

/// Files of one table have the same columns.
fn different_columns(file: &File, expected: &[String], found: &[String], violations: &mut Violations) {
    for name in expected.iter().filter(|name| !found.contains(name)) {
        let nearest = did_you_mean(name, found.iter().map(String::as_str));
        let message = format!("is missing, but the first file has it{nearest}");
        violations.add(Violation::new(message).file(&file.path).column(name));
    }
    for name in found.iter().filter(|name| !expected.contains(name)) {
        violations.add(Violation::new("is not in the first file").file(&file.path).column(name));
    }
}
