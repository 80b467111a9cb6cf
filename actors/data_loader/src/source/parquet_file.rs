//! A Parquet file, batch by batch. Its types are those of the Parquet schema itself; what is neither number
//! nor text nor time is reported where it is wanted.

use std::fs;
use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};

use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::SchemaRef;
use messages::WireError;
use messages::error::Code;
use messages::plan::TextEncoding;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};

use super::arrays::converted;
use super::{CHUNK_ROWS, Chunk, File, Format, Summary, Want, foreign_format, path};
use crate::check::{MAX_COLUMNS, Violation, Violations};

pub struct ParquetFile {
    path: String,
    file: File,
    builder: Option<ParquetRecordBatchReaderBuilder<fs::File>>,
    reader: Option<ParquetRecordBatchReader>,
    schema: SchemaRef,
    columns: Vec<String>,
    wanted: Vec<(usize, Want)>,
    rows: u64,
}

impl ParquetFile {
    pub fn open(file: &File, violations: &mut Violations) -> Result<Option<Self>, WireError> {
        let mut opened = fs::File::open(&file.real).map_err(|e| path::cannot_open(&file.path, &e))?;
        let mut head = [0; 4];
        let read = opened.read(&mut head).map_err(|e| path::cannot_open(&file.path, &e))?;
        if let Some(violation) = foreign_format(&file.path, &head[..read], Format::Parquet, TextEncoding::Utf8) {
            violations.add(violation);
            return Ok(None);
        }
        if read == 0 {
            violations.add(Violation::new("is empty").file(&file.path));
            return Ok(None);
        }
        let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
        let opened = guarded(|| ParquetRecordBatchReaderBuilder::try_new_with_options(opened, options));
        let builder = match opened {
            Ok(builder) => builder,
            Err(reason) => {
                violations
                    .add(Violation::new(format!("is not a Parquet file that can be read: {reason}")).file(&file.path));
                return Ok(None);
            }
        };
        let schema = builder.schema().clone();
        if schema.fields().len() > MAX_COLUMNS {
            let message = format!("has {} columns, expected at most {MAX_COLUMNS}", schema.fields().len());
            violations.add(Violation::new(message).file(&file.path));
            return Ok(None);
        }
        let columns = schema.fields().iter().map(|field| field.name().clone()).collect();
        Ok(Some(Self {
            path: file.path.clone(),
            file: file.clone(),
            builder: Some(builder),
            reader: None,
            schema,
            columns,
            wanted: Vec::new(),
            rows: 0,
        }))
    }

    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    pub fn want(&mut self, wanted: &[(usize, Want)]) -> Result<(), WireError> {
        self.wanted = wanted.to_vec();
        if let Some(builder) = self.builder.take() {
            let mask = ProjectionMask::roots(builder.parquet_schema(), wanted.iter().map(|(index, _)| *index));
            let reader = guarded(|| builder.with_projection(mask).with_batch_size(CHUNK_ROWS).build());
            self.reader = Some(reader.map_err(|reason| self.damaged(&reason))?);
        }
        Ok(())
    }

    fn damaged(&self, reason: &str) -> WireError {
        WireError::new(Code::DatasetValidationError, format!("{}: cannot be read: {reason}", self.path))
    }

    pub fn next_chunk(&mut self, violations: &mut Violations) -> Result<Option<Chunk>, WireError> {
        let Some(mut reader) = self.reader.take() else { return Ok(None) };
        let batch = match guarded(|| reader.next().transpose()) {
            Ok(Some(batch)) => batch,
            Ok(None) => return Ok(None),
            Err(reason) => return Err(self.damaged(&reason)),
        };
        let mut columns = Vec::with_capacity(self.wanted.len());
        for &(index, want) in &self.wanted {
            match self.convert(&batch, index, want) {
                Ok(array) => columns.push(array),
                Err(violation) => {
                    violations.add(violation);
                    return Ok(None);
                }
            }
        }
        self.reader = Some(reader);
        let first_row = self.rows;
        self.rows += batch.num_rows() as u64;
        Ok(Some(Chunk { rows: batch.num_rows(), columns, lines: Vec::new(), first_row, picked: None }))
    }

    /// A wanted column as numbers or texts. The batch holds the wanted columns in the file's order.
    fn convert(&self, batch: &RecordBatch, index: usize, want: Want) -> Result<ArrayRef, Violation> {
        let place = self.wanted.iter().filter(|(other, _)| *other < index).count();
        let array = batch.column(place);
        let found = converted(array, want);
        found.ok_or_else(|| {
            let kind = self.schema.field(index).data_type();
            let message = format!("is of type {kind}, expected a number, a text, a boolean, a date or a time");
            Violation::new(message)
                .file(&self.path)
                .column(&self.columns[index])
                .hint("leave the column out with data.exclude")
        })
    }

    /// Hashes the file in a pass of its own: the reader above jumps about in it.
    pub fn finish(self) -> Result<Summary, WireError> {
        let failed = |e: std::io::Error| path::cannot_open(&self.path, &e);
        let mut file = fs::File::open(&self.file.real).map_err(failed)?;
        let mut hasher = blake3::Hasher::new();
        let (mut buffer, mut size_bytes) = (vec![0; 1 << 18], 0);
        loop {
            let read = file.read(&mut buffer).map_err(failed)?;
            if read == 0 {
                break;
            }
            hasher.update(&buffer[..read]);
            size_bytes += read as u64;
        }
        Ok(Summary { blake3: hasher.finalize().to_hex().to_string(), size_bytes, rows: self.rows })
    }
}

/// Calls into the parquet crate, which panics on some damaged files: whoever sent one must hear of the file, not
/// of a bug. Nothing that the call touched is used again after a panic.
pub(super) fn guarded<T, E: std::fmt::Display>(call: impl FnOnce() -> Result<T, E>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err("its contents are damaged".to_owned()),
    }
}
