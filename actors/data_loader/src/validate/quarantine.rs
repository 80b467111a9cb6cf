//! Rows that are left out, kept as a Parquet file with where they stood and why. Written as they come, to a temporary
//! file: memory does not grow with their number.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow_array::builder::StringBuilder;
use arrow_array::{Array, ArrayRef, RecordBatch, StringArray, UInt64Array};
use arrow_schema::{DataType, Field, Schema};
use messages::WireError;
use messages::error::Code;
use parquet::arrow::ArrowWriter;
use tempfile::NamedTempFile;

use super::engine::{Place, Quarantined};
use crate::check::At;

/// Columns that stand before those of the data.
const OWN: [&str; 3] = ["within.file", "within.line", "within.reasons"];

/// The file, once a row was left out.
#[derive(Debug, Default)]
pub struct Quarantine {
    open: Option<(ArrowWriter<File>, NamedTempFile)>,
    /// A bit for each row of the files, in reading order.
    dropped: Dropped,
}

/// Rows of the files, in reading order, that are left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dropped {
    bits: Vec<u64>,
    count: u64,
}

impl Dropped {
    fn add(&mut self, row: u64) {
        let (word, bit) = ((row / 64) as usize, 1u64 << (row % 64));
        if self.bits.len() <= word {
            self.bits.resize(word + 1, 0);
        }
        self.count += u64::from(self.bits[word] & bit == 0);
        self.bits[word] |= bit;
    }

    pub fn contains(&self, row: u64) -> bool {
        self.bits.get((row / 64) as usize).is_some_and(|word| word >> (row % 64) & 1 == 1)
    }

    pub fn len(&self) -> u64 {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

fn failed(error: impl std::fmt::Display) -> WireError {
    WireError::new(Code::ArtifactStoreUnavailable, format!("rows that are left out cannot be written: {error}"))
}

impl Quarantine {
    /// Keeps the rows of a chunk that some rule leaves out. `names` are those of the columns.
    pub fn add(
        &mut self,
        place: &Place<'_>,
        names: &[String],
        columns: &[&StringArray],
        rows: &Quarantined,
        rule_name: impl Fn(usize) -> String,
    ) -> Result<(), WireError> {
        if rows.is_empty() {
            return Ok(());
        }
        let mut reasons: BTreeMap<usize, Vec<String>> = BTreeMap::new();
        for &(row, rule) in rows {
            self.dropped.add(place.table_row(row));
            reasons.entry(row).or_default().push(rule_name(rule));
        }
        let schema = schema(names);
        let batch = batch(&schema, place, columns, &reasons)?;
        if self.open.is_none() {
            let file = NamedTempFile::new().map_err(failed)?;
            let writer = ArrowWriter::try_new(file.reopen().map_err(failed)?, schema, None).map_err(failed)?;
            self.open = Some((writer, file));
        }
        match &mut self.open {
            Some((writer, _)) => writer.write(&batch).map_err(failed),
            None => Ok(()),
        }
    }

    /// The file, if any row was left out, and which.
    pub fn finish(self) -> Result<(Option<QuarantineFile>, Dropped), WireError> {
        let file = match self.open {
            Some((writer, file)) => {
                writer.close().map_err(failed)?;
                Some(QuarantineFile(file))
            }
            None => None,
        };
        Ok((file, self.dropped))
    }
}

/// A finished file; removed with this value.
#[derive(Debug)]
pub struct QuarantineFile(NamedTempFile);

impl QuarantineFile {
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

fn schema(names: &[String]) -> Arc<Schema> {
    let own = [
        Field::new(OWN[0], DataType::Utf8, false),
        Field::new(OWN[1], DataType::UInt64, false),
        Field::new(OWN[2], DataType::Utf8, false),
    ];
    let data = names.iter().map(|name| Field::new(name, DataType::Utf8, true));
    Arc::new(Schema::new(own.into_iter().chain(data).collect::<Vec<_>>()))
}

fn batch(
    schema: &Arc<Schema>,
    place: &Place<'_>,
    columns: &[&StringArray],
    reasons: &BTreeMap<usize, Vec<String>>,
) -> Result<RecordBatch, WireError> {
    let line = |row: &usize| match place.chunk.at(*row) {
        At::Line(number) | At::Row(number) => number,
    };
    let mut arrays: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(reasons.keys().map(|_| place.file))),
        Arc::new(UInt64Array::from_iter_values(reasons.keys().map(line))),
        Arc::new(StringArray::from_iter_values(reasons.values().map(|reasons| reasons.join("; ")))),
    ];
    for column in columns {
        let mut builder = StringBuilder::new();
        for &row in reasons.keys() {
            builder.append_option((!column.is_null(row)).then(|| column.value(row)));
        }
        arrays.push(Arc::new(builder.finish()));
    }
    RecordBatch::try_new(Arc::clone(schema), arrays).map_err(failed)
}
