//! Raw typed rows: what a shard holds. Numbers are Float64 with nulls, categories a dictionary of texts
//! with nulls, texts Utf8 with nulls, images their pixels (FixedSizeBinary), beside the sample's id (UInt64), its target (Float32; a class as its index, a regression target
//! untransformed) and, if the data have them, its weight (Float32).

use std::sync::Arc;

use arrow_array::types::Int32Type;
use arrow_array::{
    Array, ArrayRef, DictionaryArray, FixedSizeBinaryArray, Float32Array, Float64Array, RecordBatch, StringArray,
    UInt64Array,
};
use arrow_schema::{DataType, Field, Schema};

use crate::error::Error;

/// Column of sample ids in a table.
pub const SAMPLE_ID: &str = "within.sample_id";
/// Column of targets in a table.
pub const TARGET: &str = "within.target";
/// Column of weights in a table, if any.
pub const WEIGHT: &str = "within.weight";

/// The values of one feature column.
#[derive(Debug, Clone)]
pub enum ColumnValues {
    Number(Float64Array),
    Category(DictionaryArray<Int32Type>),
    Text(StringArray),
    Image(FixedSizeBinaryArray),
}

/// Rows with the columns above, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    batch: RecordBatch,
}

impl Table {
    /// All columns must have the same length.
    pub fn new(
        sample_ids: Vec<u64>,
        columns: Vec<(String, ColumnValues)>,
        targets: Vec<f32>,
        weights: Option<Vec<f32>>,
    ) -> Result<Self, Error> {
        let mut fields = vec![Field::new(SAMPLE_ID, DataType::UInt64, false)];
        let mut arrays: Vec<ArrayRef> = vec![Arc::new(UInt64Array::from(sample_ids))];
        for (name, values) in columns {
            let array: ArrayRef = match values {
                ColumnValues::Number(array) => Arc::new(array),
                ColumnValues::Category(array) => Arc::new(array),
                ColumnValues::Text(array) => Arc::new(array),
                ColumnValues::Image(array) => Arc::new(array),
            };
            fields.push(Field::new(name, array.data_type().clone(), true));
            arrays.push(array);
        }
        fields.push(Field::new(TARGET, DataType::Float32, false));
        arrays.push(Arc::new(Float32Array::from(targets)));
        if let Some(weights) = weights {
            fields.push(Field::new(WEIGHT, DataType::Float32, false));
            arrays.push(Arc::new(Float32Array::from(weights)));
        }
        let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays)
            .map_err(|e| Error::layout(format!("columns do not make a table: {e}")))?;
        Self::from_batch(batch)
    }

    /// Checks that the batch has a table's own columns, without nulls, and only feature columns beside them.
    pub fn from_batch(batch: RecordBatch) -> Result<Self, Error> {
        for (field, column) in batch.schema_ref().fields().iter().zip(batch.columns()) {
            let expected = match field.name().as_str() {
                SAMPLE_ID => Some(DataType::UInt64),
                TARGET | WEIGHT => Some(DataType::Float32),
                _ => None,
            };
            match expected {
                Some(expected) if *field.data_type() != expected => {
                    return Err(Error::layout(format!(
                        "column {:?} is {}, expected {expected}",
                        field.name(),
                        field.data_type()
                    )));
                }
                Some(_) if column.null_count() > 0 => {
                    return Err(Error::layout(format!("column {:?} has nulls, expected none", field.name())));
                }
                Some(_) => {}
                None if is_feature(field.data_type()) => {}
                None => {
                    return Err(Error::layout(format!(
                        "column {:?} is {}, expected Float64, Utf8, a dictionary of Utf8 or FixedSizeBinary",
                        field.name(),
                        field.data_type()
                    )));
                }
            }
        }
        for name in [SAMPLE_ID, TARGET] {
            if batch.column_by_name(name).is_none() {
                return Err(Error::layout(format!("no column {name:?}")));
            }
        }
        Ok(Self { batch })
    }

    pub fn batch(&self) -> &RecordBatch {
        &self.batch
    }

    pub fn rows(&self) -> usize {
        self.batch.num_rows()
    }

    pub fn sample_ids(&self) -> &[u64] {
        sample_ids(&self.batch).expect("invariant: a table has sample ids")
    }

    /// Classes as their index; regression targets untransformed.
    pub fn targets(&self) -> &[f32] {
        floats(&self.batch, TARGET).expect("invariant: a table has targets")
    }

    pub fn weights(&self) -> Option<&[f32]> {
        floats(&self.batch, WEIGHT)
    }
}

fn is_feature(kind: &DataType) -> bool {
    matches!(kind, DataType::Float64 | DataType::Utf8 | DataType::FixedSizeBinary(_)) || is_category(kind)
}

fn is_category(kind: &DataType) -> bool {
    matches!(kind, DataType::Dictionary(key, value) if **key == DataType::Int32 && **value == DataType::Utf8)
}

pub(crate) fn sample_ids(batch: &RecordBatch) -> Option<&[u64]> {
    Some(batch.column_by_name(SAMPLE_ID)?.as_any().downcast_ref::<UInt64Array>()?.values())
}

pub(crate) fn floats<'a>(batch: &'a RecordBatch, name: &str) -> Option<&'a [f32]> {
    Some(batch.column_by_name(name)?.as_any().downcast_ref::<Float32Array>()?.values())
}

/// The category texts of a column: the dictionary's keys and values, or, for plain texts, each row its own.
pub(crate) enum Texts<'a> {
    Dictionary(&'a DictionaryArray<Int32Type>, &'a StringArray),
    Plain(&'a StringArray),
}

pub(crate) fn texts(array: &ArrayRef) -> Option<Texts<'_>> {
    if let Some(dictionary) = array.as_any().downcast_ref::<DictionaryArray<Int32Type>>() {
        return Some(Texts::Dictionary(dictionary, dictionary.values().as_any().downcast_ref::<StringArray>()?));
    }
    array.as_any().downcast_ref::<StringArray>().map(Texts::Plain)
}
