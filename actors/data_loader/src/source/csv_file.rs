//! A text file of delimited values, streamed. Rows with another number of fields than the header are reported
//! by line and left out.

use std::sync::Arc;

use arrow_array::ArrayRef;
use arrow_array::builder::StringBuilder;
use csv::{ByteRecord, ReaderBuilder, Trim};
use messages::WireError;
use messages::error::Code;
use messages::plan::{CsvPlan, TextEncoding};

use super::text::{self, Stream};
use super::{CHUNK_ROWS, Chunk, File, Format, Summary, Want};
use crate::check::{At, MAX_COLUMNS, MAX_FIELD_BYTES, Violation, Violations, shown};

/// Most bytes of a chunk's texts.
const CHUNK_BYTES: usize = 8 * 1024 * 1024;
const READ_BYTES: usize = 256 * 1024;

pub struct CsvFile {
    path: String,
    encoding: TextEncoding,
    reader: csv::Reader<Stream>,
    columns: Vec<String>,
    wanted: Vec<usize>,
    trim: bool,
    /// The first record, where it is data and not a header.
    held: Option<ByteRecord>,
    record: ByteRecord,
    rows: u64,
    ended: bool,
}

impl CsvFile {
    pub fn open(file: &File, plan: &CsvPlan, violations: &mut Violations) -> Result<Option<Self>, WireError> {
        let Some(stream) = text::open(file, Format::Csv, plan.encoding, violations)? else { return Ok(None) };
        let reader = builder(plan)?.from_reader(stream);
        let mut this = Self {
            path: file.path.clone(),
            encoding: plan.encoding,
            reader,
            columns: Vec::new(),
            wanted: Vec::new(),
            trim: plan.trim,
            held: None,
            record: ByteRecord::new(),
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
        let mut first = ByteRecord::new();
        if !self.read_record(&mut first, violations)? {
            if violations.is_empty() {
                violations.add(Violation::new("is empty").file(&self.path));
            }
            return Ok(false);
        }
        if first.len() > MAX_COLUMNS {
            let message = format!("has {} columns, expected at most {MAX_COLUMNS}", first.len());
            violations.add(Violation::new(message).file(&self.path));
            return Ok(false);
        }
        if first.len() == 1
            && let Some(violation) = self.wrong_delimiter(&first, plan)
        {
            violations.add(violation);
            return Ok(false);
        }
        let numbered = |index: usize| format!("column_{}", index + 1);
        if plan.header {
            let name = |(index, field): (usize, &[u8])| {
                let name = String::from_utf8_lossy(field);
                let name = if plan.trim { name.trim() } else { &name };
                if name.is_empty() { numbered(index) } else { name.to_owned() }
            };
            self.columns = first.iter().enumerate().map(name).collect();
        } else {
            self.columns = (0..first.len()).map(numbered).collect();
            self.held = Some(first);
        }
        Ok(true)
    }

    /// A first record of one field that another delimiter would cut.
    fn wrong_delimiter(&self, first: &ByteRecord, plan: &CsvPlan) -> Option<Violation> {
        let field = String::from_utf8_lossy(first.get(0).unwrap_or_default()).into_owned();
        let likely = [';', ',', '\t', '|', ' ']
            .into_iter()
            .filter(|c| !plan.delimiter.starts_with(*c))
            .max_by_key(|&c| (field.trim().matches(c).count(), c == ';'))
            .filter(|&c| field.trim().contains(c))?;
        let message = format!("has one column, {}, when cut at {:?}", shown(&field), plan.delimiter);
        let hint = format!("the file has one column: is the delimiter {likely:?}? Set data.csv.delimiter");
        Some(Violation::new(message).file(&self.path).at(At::Line(1)).hint(hint))
    }

    /// Reads one record; false at the end, also where reading cannot go on: then a violation says why.
    fn read_record(&mut self, record: &mut ByteRecord, violations: &mut Violations) -> Result<bool, WireError> {
        if self.ended {
            return Ok(false);
        }
        let at = self.reader.position().byte();
        self.reader.get_mut().begin_record(at);
        match self.reader.read_byte_record(record) {
            Ok(true) => Ok(true),
            Ok(false) => {
                self.ended = true;
                Ok(false)
            }
            Err(error) => {
                self.ended = true;
                let line = self.reader.position().line();
                let violation = text::stopped(self.reader.get_mut(), self.encoding, &self.path, line, &error)?;
                violations.add(violation);
                Ok(false)
            }
        }
    }

    pub fn next_chunk(&mut self, violations: &mut Violations) -> Result<Option<Chunk>, WireError> {
        let mut builders: Vec<StringBuilder> = self.wanted.iter().map(|_| StringBuilder::new()).collect();
        let (mut lines, mut bytes) = (Vec::new(), 0);
        let mut record = std::mem::take(&mut self.record);
        let first_row = self.rows;
        while lines.len() < CHUNK_ROWS && bytes < CHUNK_BYTES {
            if let Some(held) = self.held.take() {
                record = held;
            } else if !self.read_record(&mut record, violations)? {
                break;
            }
            let line = record.position().map_or(0, csv::Position::line);
            if record.len() != self.columns.len() {
                violations.add(self.ragged(&record, line));
                continue;
            }
            for (&index, builder) in self.wanted.iter().zip(&mut builders) {
                let field = std::str::from_utf8(record.get(index).unwrap_or_default()).unwrap_or_default();
                if field.len() > MAX_FIELD_BYTES {
                    let message = format!("a field of {} bytes, expected at most {MAX_FIELD_BYTES}", field.len());
                    violations
                        .add(Violation::new(message).file(&self.path).at(At::Line(line)).column(&self.columns[index]));
                }
                let field = if self.trim { field.trim() } else { field };
                bytes += field.len();
                builder.append_value(field);
            }
            lines.push(line);
        }
        self.record = record;
        self.rows += lines.len() as u64;
        if lines.is_empty() {
            return Ok(None);
        }
        let columns = builders.iter_mut().map(|builder| Arc::new(builder.finish()) as ArrayRef).collect();
        Ok(Some(Chunk { rows: lines.len(), columns, lines, first_row, picked: None }))
    }

    fn ragged(&self, record: &ByteRecord, line: u64) -> Violation {
        let message = format!("{} fields, expected {}", record.len(), self.columns.len());
        let violation = Violation::new(message).file(&self.path).at(At::Line(line));
        if record.len() > self.columns.len() {
            violation.hint("a field that contains the delimiter must be quoted")
        } else {
            violation
        }
    }

    pub fn finish(mut self) -> Result<Summary, WireError> {
        text::summary(self.reader.get_mut(), &self.path, self.rows)
    }
}

fn builder(plan: &CsvPlan) -> Result<ReaderBuilder, WireError> {
    let mut builder = ReaderBuilder::new();
    builder.has_headers(false).flexible(true).trim(Trim::None).buffer_capacity(READ_BYTES);
    builder.delimiter(one_byte("data.csv.delimiter", &plan.delimiter)?);
    if plan.quote.is_empty() {
        builder.quoting(false);
    } else {
        builder.quote(one_byte("data.csv.quote", &plan.quote)?);
    }
    if !plan.comment.is_empty() {
        builder.comment(Some(one_byte("data.csv.comment", &plan.comment)?));
    }
    Ok(builder)
}

fn one_byte(key: &str, text: &str) -> Result<u8, WireError> {
    match text.as_bytes() {
        [byte] => Ok(*byte),
        b"\\t" => Ok(b'\t'),
        _ => Err(WireError::new(Code::ConfigError, format!("{key}: {text:?}, expected one ASCII character"))),
    }
}
