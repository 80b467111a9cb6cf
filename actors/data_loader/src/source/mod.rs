//! Reading files, chunk by chunk, as columns of texts or numbers: text, JSON lines, Parquet and Arrow behind one face,
//! with the columns that partitions and joined tables add.

mod arrays;
mod arrow_file;
mod characters;
mod csv_file;
pub mod glob;
mod guard;
pub mod idx;
mod join;
mod json_lines;
mod packed;
mod parquet_file;
pub mod path;
pub mod picture;
mod records;
mod text;

use std::path::PathBuf;
use std::sync::Arc;

use arrow_array::{ArrayRef, StringArray, UInt32Array};
use arrow_select::take::take;
use messages::WireError;
use messages::error::Code;
use messages::plan::{CsvPlan, DataFormat, DataPlan, TextEncoding};

pub use join::{Joined, Joins};
pub use packed::Packing;

use crate::check::{At, Violation, Violations};

/// Most rows of a chunk.
pub const CHUNK_ROWS: usize = 16_384;
/// Most files of a plan, patterns expanded.
pub const MAX_FILES: usize = 100_000;

/// One file of the plan.
#[derive(Debug, Clone)]
pub struct File {
    /// As in the plan; what a pattern found, below its data root.
    pub path: String,
    pub real: PathBuf,
    pub format: Format,
    pub packing: Packing,
    /// Of the official test part.
    pub test: bool,
    /// Columns that its folders name, as `year=2024` does; none is a missing value.
    pub partitions: Vec<(String, Option<String>)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Csv,
    JsonLines,
    Parquet,
    Arrow,
}

/// The plan's files, in reading order: `path`, then `test_path`; what a pattern finds in the order of the names.
pub fn files(plan: &DataPlan, roots: &[PathBuf]) -> Result<Vec<File>, WireError> {
    let mut files = Vec::new();
    let paths = plan.path.iter().map(|path| (path, false)).chain(plan.test_path.iter().map(|path| (path, true)));
    for (path, test) in paths {
        for (path, real) in glob::find(path, roots)? {
            files.push(file(path, real, plan.format, test)?);
        }
        if files.len() > MAX_FILES {
            let message = format!("data.path names {} files, expected at most {MAX_FILES}", files.len());
            return Err(WireError::new(Code::TooLarge, message));
        }
    }
    if plan.path.is_empty() {
        return Err(WireError::new(Code::DatasetNotFound, "data.path names no file: expected at least one"));
    }
    Ok(files)
}

/// A file with what its name says of it.
fn file(path: String, real: PathBuf, format: DataFormat, test: bool) -> Result<File, WireError> {
    let (packing, name) = Packing::of(&path);
    if let Some(suffix) = packed::foreign_packing(&path) {
        let message = format!("{path}: files packed as .{suffix} are not yet supported, expected none, .gz or .zst");
        return Err(WireError::new(Code::NotSupported, message).with_hint("unpack it first"));
    }
    let format = match format {
        DataFormat::Csv | DataFormat::Tsv => Format::Csv,
        DataFormat::Parquet => Format::Parquet,
        DataFormat::JsonLines => Format::JsonLines,
        DataFormat::Arrow => Format::Arrow,
        DataFormat::Auto => format_of(name),
    };
    if format == Format::Parquet && packing != Packing::None {
        let message = format!("{path}: is a packed Parquet file, expected one as it was written");
        return Err(WireError::new(Code::NotSupported, message).with_hint("unpack it: Parquet packs its pages itself"));
    }
    let partitions = glob::partitions(&path);
    Ok(File { path, real, format, packing, test, partitions })
}

/// By suffix; what says nothing else is text (`.csv`, `.tsv`, `.data`, `.txt`, `.test`, none).
fn format_of(name: &str) -> Format {
    let suffix = name.rsplit('.').next().unwrap_or_default().to_ascii_lowercase();
    match suffix.as_str() {
        "parquet" | "pq" | "parq" => Format::Parquet,
        "jsonl" | "ndjson" | "jsonlines" => Format::JsonLines,
        "arrow" | "arrows" | "ipc" | "feather" => Format::Arrow,
        _ => Format::Csv,
    }
}

/// How a column's values are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// As the file has them.
    Native,
    /// As texts, also where the file has numbers.
    Text,
    /// As bytes where the file has bytes, else as texts.
    Bytes,
}

/// Rows of the wanted columns, in the order they were asked for. Each is a `StringArray`, a `Float64Array`, a
/// `TimestampMicrosecondArray`, or, where bytes were wanted, a `BinaryArray`.
pub struct Chunk {
    pub rows: usize,
    pub columns: Vec<ArrayRef>,
    /// Line of each row that was read; without lines, rows count from `first_row`.
    lines: Vec<u64>,
    first_row: u64,
    /// The rows that an inner join left, by their place among those that were read.
    picked: Option<Vec<u32>>,
}

impl Chunk {
    /// Where a row of this chunk stands in its file.
    pub fn at(&self, row: usize) -> At {
        let read = self.read_row(row);
        self.lines.get(read).map_or(At::Row(self.first_row + read as u64 + 1), |&line| At::Line(line))
    }

    /// The row of the file, from 0, that a row of this chunk is.
    pub fn file_row(&self, row: usize) -> u64 {
        self.first_row + self.read_row(row) as u64
    }

    /// Whether rows of the file are missing here.
    pub fn is_picked(&self) -> bool {
        self.picked.is_some()
    }

    /// Without the rows of the file, from 0, that `keep` refuses.
    pub fn keep(mut self, keep: impl Fn(u64) -> bool) -> Result<Self, WireError> {
        let kept: Vec<u32> = (0..self.rows as u32).filter(|&row| keep(self.file_row(row as usize))).collect();
        if kept.len() == self.rows {
            return Ok(self);
        }
        let rows = UInt32Array::from(kept.clone());
        for column in &mut self.columns {
            *column = take(column.as_ref(), &rows, None)
                .map_err(|e| WireError::new(Code::InternalError, format!("leaving rows out: {e}")))?;
        }
        let picked = kept.iter().map(|&row| self.read_row(row as usize) as u32).collect();
        (self.rows, self.picked) = (kept.len(), Some(picked));
        Ok(self)
    }

    fn read_row(&self, row: usize) -> usize {
        self.picked.as_ref().map_or(row, |picked| picked[row] as usize)
    }
}

/// What is known of a file that was read to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    pub blake3: String,
    pub size_bytes: u64,
    pub rows: u64,
}

/// An open file, past its header.
enum Opened {
    Csv(Box<csv_file::CsvFile>),
    JsonLines(Box<json_lines::JsonLines>),
    Parquet(Box<parquet_file::ParquetFile>),
    Arrow(Box<arrow_file::ArrowFile>),
}

impl Opened {
    fn open(file: &File, plan: &CsvPlan, violations: &mut Violations) -> Result<Option<Self>, WireError> {
        Ok(match file.format {
            Format::Csv => csv_file::CsvFile::open(file, plan, violations)?.map(|file| Self::Csv(Box::new(file))),
            Format::JsonLines => json_lines::JsonLines::open(file, plan.encoding, violations)?
                .map(|file| Self::JsonLines(Box::new(file))),
            Format::Parquet => {
                parquet_file::ParquetFile::open(file, violations)?.map(|file| Self::Parquet(Box::new(file)))
            }
            Format::Arrow => arrow_file::ArrowFile::open(file, violations)?.map(|file| Self::Arrow(Box::new(file))),
        })
    }

    fn columns(&self) -> &[String] {
        match self {
            Self::Csv(file) => file.columns(),
            Self::JsonLines(file) => file.columns(),
            Self::Parquet(file) => file.columns(),
            Self::Arrow(file) => file.columns(),
        }
    }

    fn want(&mut self, wanted: &[(usize, Want)]) -> Result<(), WireError> {
        match self {
            Self::Csv(file) => file.want(wanted),
            Self::JsonLines(file) => file.want(wanted),
            Self::Parquet(file) => file.want(wanted)?,
            Self::Arrow(file) => file.want(wanted),
        }
        Ok(())
    }

    fn next_chunk(&mut self, violations: &mut Violations) -> Result<Option<Chunk>, WireError> {
        match self {
            Self::Csv(file) => file.next_chunk(violations),
            Self::JsonLines(file) => file.next_chunk(violations),
            Self::Parquet(file) => file.next_chunk(violations),
            Self::Arrow(file) => Ok(file.next_chunk(violations)),
        }
    }

    fn finish(self) -> Result<Summary, WireError> {
        match self {
            Self::Csv(file) => file.finish(),
            Self::JsonLines(file) => file.finish(),
            Self::Parquet(file) => file.finish(),
            Self::Arrow(file) => file.finish(),
        }
    }
}

/// A file with the columns that its folders and joined tables add.
pub struct Reader {
    opened: Opened,
    /// Its own columns, then partitions, then those of joined tables.
    columns: Vec<String>,
    own: usize,
    partitions: Vec<Option<String>>,
    joins: Joined,
    /// Index among all, of each wanted column.
    wanted: Vec<usize>,
    /// Index of each own column in the chunks of the file.
    places: Vec<Option<usize>>,
}

impl Reader {
    /// Opens the file and reads its column names. `None` when it holds nothing to go on with: then the
    /// violations say why.
    pub fn open(
        file: &File,
        plan: &CsvPlan,
        joins: &Arc<Joins>,
        violations: &mut Violations,
    ) -> Result<Option<Self>, WireError> {
        let Some(opened) = Opened::open(file, plan, violations)? else { return Ok(None) };
        let mut columns = opened.columns().to_vec();
        let own = columns.len();
        let mut partitions = Vec::new();
        for (name, value) in &file.partitions {
            // What the file itself says counts.
            if !columns.contains(name) {
                columns.push(name.clone());
                partitions.push(value.clone());
            }
        }
        let Some(joins) = Joined::new(joins, &file.path, &mut columns, violations) else { return Ok(None) };
        Ok(Some(Self { opened, columns, own, partitions, joins, wanted: Vec::new(), places: Vec::new() }))
    }

    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    /// Chooses columns by their index. Must come before the first chunk.
    pub fn want(&mut self, wanted: &[(usize, Want)]) -> Result<(), WireError> {
        let mut own: Vec<(usize, Want)> = wanted.iter().copied().filter(|(index, _)| *index < self.own).collect();
        for &key in self.joins.keys().iter().filter(|key| **key < self.own) {
            if !own.iter().any(|(index, _)| *index == key) {
                own.push((key, Want::Text));
            }
        }
        if own.is_empty() {
            // Its rows are counted by a column of it.
            own.push((0, Want::Text));
        }
        self.places = vec![None; self.own];
        for (place, (index, _)) in own.iter().enumerate() {
            self.places[*index] = Some(place);
        }
        self.wanted = wanted.iter().map(|(index, _)| *index).collect();
        self.joins.want(wanted);
        self.opened.want(&own)
    }

    /// The next rows; `None` at the end, or where the file cannot be read on (then the violations say why).
    pub fn next_chunk(&mut self, violations: &mut Violations) -> Result<Option<Chunk>, WireError> {
        let Some(mut chunk) = self.opened.next_chunk(violations)? else { return Ok(None) };
        let mut columns: Vec<Option<ArrayRef>> = vec![None; self.columns.len()];
        for (index, place) in self.places.iter().enumerate() {
            columns[index] = place.map(|place| chunk.columns[place].clone());
        }
        for (index, value) in (self.own..).zip(&self.partitions) {
            let texts = std::iter::repeat_n(value.as_deref(), chunk.rows);
            columns[index] = Some(Arc::new(texts.collect::<StringArray>()));
        }
        self.joins.join(&mut chunk, &mut columns)?;
        chunk.columns = self.wanted.iter().filter_map(|&index| columns[index].clone()).collect();
        Ok(Some(chunk))
    }

    /// What was read, once the end was reached.
    pub fn finish(self) -> Result<Summary, WireError> {
        self.opened.finish()
    }
}

/// Reports the start of a file that is no table at all, by its first bytes.
fn foreign_format(path: &str, head: &[u8], expected: Format, encoding: TextEncoding) -> Option<Violation> {
    let text = matches!(expected, Format::Csv | Format::JsonLines);
    let utf_16 = matches!(encoding, TextEncoding::Utf16 | TextEncoding::Utf16Le | TextEncoding::Utf16Be);
    let (found, hint) = match head {
        [b'P', b'A', b'R', b'1', ..] if expected != Format::Parquet => ("a Parquet file", "set data.format: parquet"),
        [b'A', b'R', b'R', b'O', b'W', b'1', ..] if expected != Format::Arrow => {
            ("an Arrow file", "set data.format: arrow")
        }
        [0x1f, 0x8b, ..] => ("compressed with gzip", "let its name end in .gz, or unpack it first"),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => ("compressed with zstd", "let its name end in .zst, or unpack it first"),
        [b'B', b'Z', b'h', b'1'..=b'9', ..] => ("compressed with bzip2", "unpack it first"),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => ("compressed with xz", "unpack it first"),
        [b'P', b'K', 3, 4, ..] => ("a ZIP archive or a spreadsheet", "unpack it, or export the sheet as CSV"),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] if text && !utf_16 => {
            ("UTF-16 text", "set data.csv.encoding: utf-16, or save it as UTF-8")
        }
        _ => return None,
    };
    let expected = match expected {
        Format::Csv => "UTF-8 text",
        Format::JsonLines => "JSON lines",
        Format::Parquet => "a Parquet file",
        Format::Arrow => "an Arrow file",
    };
    Some(Violation::new(format!("is {found}, expected {expected}")).file(path).hint(hint))
}
