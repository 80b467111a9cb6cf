//! Reading files, chunk by chunk, as columns of texts or numbers: CSV and Parquet behind one face.

mod csv_file;
mod guard;
pub mod idx;
mod parquet_file;
pub mod path;

use std::path::PathBuf;

use arrow_array::ArrayRef;
use messages::WireError;
use messages::error::Code;
use messages::plan::{CsvPlan, DataFormat, DataPlan};

use crate::check::{At, Violation, Violations};

/// Most rows of a chunk.
pub const CHUNK_ROWS: usize = 16_384;

/// One file of the plan.
#[derive(Debug, Clone)]
pub struct File {
    /// As in the plan.
    pub path: String,
    pub real: PathBuf,
    pub format: Format,
    /// Of the official test part.
    pub test: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Csv,
    Parquet,
}

/// The plan's files, in reading order: `path`, then `test_path`.
pub fn files(plan: &DataPlan, roots: &[PathBuf]) -> Result<Vec<File>, WireError> {
    let mut files = Vec::new();
    let paths = plan.path.iter().map(|path| (path, false)).chain(plan.test_path.iter().map(|path| (path, true)));
    for (path, test) in paths {
        let real = path::resolve(path, roots)?;
        let format = match plan.format {
            DataFormat::Csv => Format::Csv,
            DataFormat::Parquet => Format::Parquet,
            DataFormat::Auto => format_of(path),
        };
        files.push(File { path: path.clone(), real, format, test });
    }
    if plan.path.is_empty() {
        return Err(WireError::new(Code::DatasetNotFound, "data.path names no file: expected at least one"));
    }
    Ok(files)
}

/// By suffix: Parquet where it says so, else text (`.csv`, `.tsv`, `.data`, `.txt`, `.test`, none).
fn format_of(path: &str) -> Format {
    let suffix = path.rsplit('.').next().unwrap_or_default().to_ascii_lowercase();
    if matches!(suffix.as_str(), "parquet" | "pq" | "parq") { Format::Parquet } else { Format::Csv }
}

/// How a column's values are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// As the file has them.
    Native,
    /// As texts, also where the file has numbers.
    Text,
}

/// Rows of the wanted columns, in the order they were asked for. Each is a `StringArray` or a `Float64Array`.
pub struct Chunk {
    pub rows: usize,
    pub columns: Vec<ArrayRef>,
    /// Line of each row; without lines, the rows count from `first_row`.
    lines: Vec<u64>,
    first_row: u64,
}

impl Chunk {
    /// Where a row of this chunk stands in its file.
    pub fn at(&self, row: usize) -> At {
        self.lines.get(row).map_or(At::Row(self.first_row + row as u64 + 1), |&line| At::Line(line))
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
pub enum Reader {
    Csv(Box<csv_file::CsvFile>),
    Parquet(Box<parquet_file::ParquetFile>),
}

impl Reader {
    /// Opens the file and reads its column names. `None` when it holds nothing to go on with: then the
    /// violations say why.
    pub fn open(file: &File, plan: &CsvPlan, violations: &mut Violations) -> Result<Option<Self>, WireError> {
        Ok(match file.format {
            Format::Csv => csv_file::CsvFile::open(file, plan, violations)?.map(|file| Self::Csv(Box::new(file))),
            Format::Parquet => {
                parquet_file::ParquetFile::open(file, violations)?.map(|file| Self::Parquet(Box::new(file)))
            }
        })
    }

    pub fn columns(&self) -> &[String] {
        match self {
            Self::Csv(file) => file.columns(),
            Self::Parquet(file) => file.columns(),
        }
    }

    /// Chooses columns by their index. Must come before the first chunk.
    pub fn want(&mut self, wanted: &[(usize, Want)]) -> Result<(), WireError> {
        match self {
            Self::Csv(file) => file.want(wanted),
            Self::Parquet(file) => file.want(wanted)?,
        }
        Ok(())
    }

    /// The next rows; `None` at the end, or where the file cannot be read on (then the violations say why).
    pub fn next_chunk(&mut self, violations: &mut Violations) -> Result<Option<Chunk>, WireError> {
        match self {
            Self::Csv(file) => file.next_chunk(violations),
            Self::Parquet(file) => file.next_chunk(violations),
        }
    }

    /// What was read, once the end was reached.
    pub fn finish(self) -> Result<Summary, WireError> {
        match self {
            Self::Csv(file) => file.finish(),
            Self::Parquet(file) => file.finish(),
        }
    }
}

/// Reports the start of a file that is no table at all, by its first bytes.
fn foreign_format(path: &str, head: &[u8], expected: Format) -> Option<Violation> {
    let (found, hint) = match head {
        [b'P', b'A', b'R', b'1', ..] if expected == Format::Csv => ("a Parquet file", "set data.format: parquet"),
        [0x1f, 0x8b, ..] => ("compressed with gzip", "unpack it first"),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => ("compressed with zstd", "unpack it first"),
        [b'P', b'K', 3, 4, ..] => ("a ZIP archive or a spreadsheet", "unpack it, or export the sheet as CSV"),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => ("UTF-16 text", "save it as UTF-8"),
        _ => return None,
    };
    let expected = if expected == Format::Csv { "UTF-8 text" } else { "a Parquet file" };
    Some(Violation::new(format!("is {found}, expected {expected}")).file(path).hint(hint))
}
