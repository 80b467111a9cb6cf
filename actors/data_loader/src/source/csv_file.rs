//! A text file of delimited values, streamed. Rows with another number of fields than the header are reported
//! by line and left out.

use std::io;
use std::sync::Arc;

use arrow_array::{ArrayRef, StringArray};
use arrow_buffer::{Buffer, OffsetBuffer};
use messages::WireError;
use messages::error::Code;
use messages::plan::{CsvPlan, TextEncoding};

use super::records::{Records, Signs};
use super::text::{self, Stream};
use super::{CHUNK_ROWS, Chunk, File, Format, Summary, Want};
use crate::check::{At, MAX_COLUMNS, MAX_FIELD_BYTES, Violation, Violations, shown};

/// Most bytes of a chunk's texts.
const CHUNK_BYTES: usize = 8 * 1024 * 1024;

pub struct CsvFile {
    path: String,
    encoding: TextEncoding,
    records: Records<Stream>,
    columns: Vec<String>,
    wanted: Vec<usize>,
    trim: bool,
    /// The first record, where it is data and not a header.
    held: bool,
    rows: u64,
    ended: bool,
}

/// Texts of one column behind each other.
#[derive(Default)]
struct Texts {
    bytes: Vec<u8>,
    ends: Vec<i32>,
}

impl CsvFile {
    pub fn open(file: &File, plan: &CsvPlan, violations: &mut Violations) -> Result<Option<Self>, WireError> {
        let Some(stream) = text::open(file, Format::Csv, plan.encoding, violations)? else { return Ok(None) };
        let mut this = Self {
            path: file.path.clone(),
            encoding: plan.encoding,
            records: Records::new(stream, signs(plan)?),
            columns: Vec::new(),
            wanted: Vec::new(),
            trim: plan.trim,
            held: false,
            rows: 0,
            ended: false,
        };
        Ok(this.read_header(plan, violations)?.then_some(this))
    }

    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    pub fn want(&mut self, wanted: &[(usize, Want)]) {
        self.wanted = wanted.iter().map(|(index, _)| *index).collect();
    }

    /// Column names from the first record, or `column_1`, … Says whether there is anything to read.
    fn read_header(&mut self, plan: &CsvPlan, violations: &mut Violations) -> Result<bool, WireError> {
        if !self.next_record(violations)? {
            if violations.is_empty() {
                violations.add(Violation::new("is empty").file(&self.path));
            }
            return Ok(false);
        }
        let count = self.records.len();
        if count > MAX_COLUMNS {
            let message = format!("has {count} columns, expected at most {MAX_COLUMNS}");
            violations.add(Violation::new(message).file(&self.path));
            return Ok(false);
        }
        let first = String::from_utf8_lossy(self.records.field(0)).into_owned();
        if count == 1
            && let Some(violation) = self.wrong_delimiter(&first, plan)
        {
            violations.add(violation);
            return Ok(false);
        }
        let numbered = |index: usize| format!("column_{}", index + 1);
        if plan.header {
            let name = |index: usize| {
                let name = String::from_utf8_lossy(self.records.field(index));
                let name = if plan.trim { name.trim() } else { &name };
                if name.is_empty() { numbered(index) } else { name.to_owned() }
            };
            self.columns = (0..count).map(name).collect();
        } else {
            self.columns = (0..count).map(numbered).collect();
            self.held = true;
        }
        Ok(true)
    }

    /// A first record of one field that another delimiter would cut.
    fn wrong_delimiter(&self, field: &str, plan: &CsvPlan) -> Option<Violation> {
        // A delimiter that no text has says that each line is one field.
        if plan.delimiter.starts_with(|c: char| c.is_control() && c != '\t') {
            return None;
        }
        let likely = [';', ',', '\t', '|', ' ']
            .into_iter()
            .filter(|c| !plan.delimiter.starts_with(*c))
            .max_by_key(|&c| (field.trim().matches(c).count(), c == ';'))
            .filter(|&c| field.trim().contains(c))?;
        let message = format!("has one column, {}, when cut at {:?}", shown(field), plan.delimiter);
        let hint = format!("the file has one column: is the delimiter {likely:?}? Set data.csv.delimiter");
        Some(Violation::new(message).file(&self.path).at(At::Line(1)).hint(hint))
    }

    /// Reads one record; false at the end, also where reading cannot go on: then a violation says why.
    fn next_record(&mut self, violations: &mut Violations) -> Result<bool, WireError> {
        if self.ended {
            return Ok(false);
        }
        match self.records.next(Stream::begin_record) {
            Ok(true) => return Ok(true),
            Ok(false) => {}
            Err(error) => violations.add(self.broken_off(&error)?),
        }
        self.ended = true;
        Ok(false)
    }

    fn broken_off(&mut self, error: &io::Error) -> Result<Violation, WireError> {
        let line = self.records.record_line();
        text::stopped(self.records.inner(), self.encoding, &self.path, line, error)
    }

    pub fn next_chunk(&mut self, violations: &mut Violations) -> Result<Option<Chunk>, WireError> {
        let mut texts: Vec<Texts> = self.wanted.iter().map(|_| Texts::default()).collect();
        let (mut lines, mut bytes) = (Vec::new(), 0);
        let first_row = self.rows;
        while lines.len() < CHUNK_ROWS && bytes < CHUNK_BYTES {
            if !std::mem::take(&mut self.held) && !self.next_record(violations)? {
                break;
            }
            let (line, count) = (self.records.record_line(), self.records.len());
            if count != self.columns.len() {
                violations.add(self.ragged(count, line));
                continue;
            }
            for (&index, texts) in self.wanted.iter().zip(&mut texts) {
                let field = self.records.field(index);
                if field.len() > MAX_FIELD_BYTES {
                    let message = format!("a field of {} bytes, expected at most {MAX_FIELD_BYTES}", field.len());
                    violations
                        .add(Violation::new(message).file(&self.path).at(At::Line(line)).column(&self.columns[index]));
                }
                let field = if self.trim { trimmed(field) } else { field };
                bytes += field.len();
                texts.bytes.extend_from_slice(field);
                // A chunk ends long before a text of it goes beyond 2^31 bytes.
                texts.ends.push(texts.bytes.len() as i32);
            }
            lines.push(line);
        }
        self.rows += lines.len() as u64;
        if lines.is_empty() {
            return Ok(None);
        }
        let columns = texts.into_iter().map(Texts::finish).collect::<Result<Vec<_>, _>>()?;
        Ok(Some(Chunk { rows: lines.len(), columns, lines, first_row, picked: None }))
    }

    fn ragged(&self, count: usize, line: u64) -> Violation {
        let message = format!("{count} fields, expected {}", self.columns.len());
        let violation = Violation::new(message).file(&self.path).at(At::Line(line));
        if count > self.columns.len() {
            violation.hint("a field that contains the delimiter must be quoted")
        } else {
            violation
        }
    }

    pub fn finish(mut self) -> Result<Summary, WireError> {
        text::summary(self.records.inner(), &self.path, self.rows)
    }
}

impl Texts {
    fn finish(self) -> Result<ArrayRef, WireError> {
        let ends = std::iter::once(0).chain(self.ends).collect::<Vec<i32>>();
        // The guard has seen that all of it is UTF-8; to say so without a check is not safe, so it is checked again.
        let texts = StringArray::try_new(OffsetBuffer::new(ends.into()), Buffer::from_vec(self.bytes), None);
        texts.map(|texts| Arc::new(texts) as ArrayRef).map_err(|e| WireError::new(Code::InternalError, e.to_string()))
    }
}

/// Without the blanks around it.
fn trimmed(field: &[u8]) -> &[u8] {
    std::str::from_utf8(field).map_or(field, |text| text.trim().as_bytes())
}

fn signs(plan: &CsvPlan) -> Result<Signs, WireError> {
    let optional = |key: &str, text: &str| if text.is_empty() { Ok(None) } else { one_byte(key, text).map(Some) };
    Ok(Signs {
        delimiter: one_byte("data.csv.delimiter", &plan.delimiter)?,
        quote: optional("data.csv.quote", &plan.quote)?,
        comment: optional("data.csv.comment", &plan.comment)?,
    })
}

fn one_byte(key: &str, text: &str) -> Result<u8, WireError> {
    match text.as_bytes() {
        [byte] => Ok(*byte),
        b"\\t" => Ok(b'\t'),
        _ => Err(WireError::new(Code::ConfigError, format!("{key}: {text:?}, expected one ASCII character"))),
    }
}
