//! A table as the bytes of an Arrow IPC file, which any Arrow library opens, and back. The same table gives
//! the same bytes; hostile bytes give an error. Columns may lie in smaller types than a table's own; reading gives
//! the table's types again.

use std::collections::{BTreeMap, HashMap};
use std::io::Cursor;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{ArrowPrimitiveType, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type};
use arrow_array::{Array, ArrayRef, DictionaryArray, PrimitiveArray, RecordBatch, StringArray};
use arrow_ipc::reader::FileReader;
use arrow_ipc::writer::FileWriter;
use arrow_schema::{ArrowError, DataType, Field, Schema};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::ipc;
use crate::table::{TARGET, Table, WEIGHT};

/// The type in which a column lies in shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stored {
    Int8,
    Int16,
    Int32,
    Float32,
    Float64,
    /// Plain texts.
    Text,
    /// Texts as keys into the distinct ones.
    Dictionary,
}

/// Metadata of a field whose dictionary stands for plain texts.
const TEXT_FIELD: &str = "within.text";

impl Stored {
    /// The smallest type that holds every value as it is; NaN is missing and needs none. `at_most_f32`: rounded, if
    /// need be.
    pub fn of_numbers(values: &[f64], at_most_f32: bool) -> Self {
        let present = || values.iter().filter(|value| !value.is_nan());
        let whole = |low: i32, high: i32| {
            present().all(|&value| {
                let as_int = value as i32;
                f64::from(as_int).to_bits() == value.to_bits() && (low..=high).contains(&as_int)
            })
        };
        if whole(i32::from(i8::MIN), i32::from(i8::MAX)) {
            Self::Int8
        } else if whole(i32::from(i16::MIN), i32::from(i16::MAX)) {
            Self::Int16
        } else if whole(i32::MIN, i32::MAX) {
            Self::Int32
        } else if at_most_f32 || present().all(|&value| f64::from(value as f32).to_bits() == value.to_bits()) {
            Self::Float32
        } else {
            Self::Float64
        }
    }

    /// Bytes of a number.
    pub fn width(self) -> u64 {
        match self {
            Self::Int8 => 1,
            Self::Int16 => 2,
            Self::Int32 | Self::Float32 | Self::Dictionary => 4,
            Self::Float64 => 8,
            Self::Text => 0,
        }
    }
}

/// The table as one file of one batch.
pub fn write_shard(table: &Table) -> Result<Bytes, Error> {
    write_batch(table.batch())
}

/// The same with the columns that `stored` names in the types that it says.
pub fn write_shard_as(table: &Table, stored: &BTreeMap<String, Stored>) -> Result<Bytes, Error> {
    if stored.is_empty() {
        return write_shard(table);
    }
    let failed = |e: ArrowError| Error::layout(format!("cannot write a shard: {e}"));
    let batch = table.batch();
    let (mut fields, mut arrays) = (Vec::new(), Vec::new());
    for (field, array) in batch.schema_ref().fields().iter().zip(batch.columns()) {
        let (field, array) = match stored.get(field.name()) {
            Some(kind) => small(field, array, *kind).map_err(failed)?,
            None => (Field::clone(field), array.clone()),
        };
        fields.push(field);
        arrays.push(array);
    }
    write_batch(&RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).map_err(failed)?)
}

fn write_batch(batch: &RecordBatch) -> Result<Bytes, Error> {
    let failed = |e: ArrowError| Error::layout(format!("cannot write a shard: {e}"));
    let mut writer = FileWriter::try_new(Vec::new(), batch.schema_ref()).map_err(failed)?;
    writer.write(batch).map_err(failed)?;
    writer.finish().map_err(failed)?;
    Ok(Bytes::from(writer.into_inner().map_err(failed)?))
}

/// A column in a smaller type.
fn small(field: &Field, array: &ArrayRef, kind: Stored) -> Result<(Field, ArrayRef), ArrowError> {
    if let Some(numbers) = array.as_primitive_opt::<Float64Type>() {
        let array = match kind {
            Stored::Int8 => cast::<Int8Type>(numbers, |value| value as i8),
            Stored::Int16 => cast::<Int16Type>(numbers, |value| value as i16),
            Stored::Int32 => cast::<Int32Type>(numbers, |value| value as i32),
            Stored::Float32 => cast::<Float32Type>(numbers, |value| value as f32),
            Stored::Float64 | Stored::Text | Stored::Dictionary => array.clone(),
        };
        return Ok((Field::new(field.name(), array.data_type().clone(), true), array));
    }
    match (kind, array.as_string_opt::<i32>()) {
        (Stored::Dictionary, Some(texts)) => {
            let array: ArrayRef = Arc::new(dictionary(texts)?);
            let marked = Field::new(field.name(), array.data_type().clone(), true);
            Ok((marked.with_metadata(HashMap::from([(TEXT_FIELD.to_owned(), "true".to_owned())])), array))
        }
        _ => Ok((field.clone(), array.clone())),
    }
}

fn cast<T: ArrowPrimitiveType>(numbers: &PrimitiveArray<Float64Type>, to: impl Fn(f64) -> T::Native) -> ArrayRef {
    Arc::new(numbers.iter().map(|value| value.map(&to)).collect::<PrimitiveArray<T>>())
}

/// Distinct texts in the order of their first row.
fn dictionary(texts: &StringArray) -> Result<DictionaryArray<Int32Type>, ArrowError> {
    let (mut places, mut distinct) = (HashMap::new(), Vec::new());
    let mut place = |text| {
        *places.entry(text).or_insert_with(|| {
            distinct.push(text);
            distinct.len() as i32 - 1
        })
    };
    let keys: PrimitiveArray<Int32Type> = texts.iter().map(|text| text.map(&mut place)).collect();
    DictionaryArray::try_new(keys, Arc::new(StringArray::from(distinct)))
}

/// Reads the table of a file written by [`write_shard`].
pub fn read_shard(bytes: &[u8]) -> Result<Table, Error> {
    ipc::check_file(bytes)?;
    let malformed = |e: ArrowError| Error::malformed(format!("shard: {e}"));
    let mut reader = FileReader::try_new(Cursor::new(bytes), None).map_err(malformed)?;
    let batches = reader.num_batches();
    if batches != 1 {
        return Err(Error::malformed(format!("shard of {batches} batches, expected 1")));
    }
    let batch = reader.next().ok_or_else(|| Error::malformed("shard without a batch"))?.map_err(malformed)?;
    Table::from_batch(expanded(batch)?)
}

/// Numbers as f64 and texts plain again.
fn expanded(batch: RecordBatch) -> Result<RecordBatch, Error> {
    let large = |field: &Field, array: &ArrayRef| -> Option<ArrayRef> {
        match array.data_type() {
            DataType::Int8 => Some(grown::<Int8Type>(array)),
            DataType::Int16 => Some(grown::<Int16Type>(array)),
            DataType::Int32 => Some(grown::<Int32Type>(array)),
            DataType::Float32 if ![TARGET, WEIGHT].contains(&field.name().as_str()) => {
                Some(grown::<Float32Type>(array))
            }
            DataType::Dictionary(..) if field.metadata().contains_key(TEXT_FIELD) => plain(array),
            _ => None,
        }
    };
    let schema = batch.schema();
    let found: Vec<Option<ArrayRef>> =
        schema.fields().iter().zip(batch.columns()).map(|(field, array)| large(field, array)).collect();
    if found.iter().all(Option::is_none) {
        return Ok(batch);
    }
    let (mut fields, mut arrays) = (Vec::new(), Vec::new());
    for ((field, array), large) in schema.fields().iter().zip(batch.columns()).zip(found) {
        let array = large.unwrap_or_else(|| array.clone());
        fields.push(Field::new(field.name(), array.data_type().clone(), field.is_nullable()));
        arrays.push(array);
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).map_err(|e| Error::malformed(format!("shard: {e}")))
}

fn grown<T: ArrowPrimitiveType>(array: &ArrayRef) -> ArrayRef
where
    T::Native: Into<f64>,
{
    let values = array.as_primitive::<T>();
    Arc::new(values.iter().map(|value| value.map(Into::into)).collect::<PrimitiveArray<Float64Type>>())
}

fn plain(array: &ArrayRef) -> Option<ArrayRef> {
    let dictionary = array.as_any().downcast_ref::<DictionaryArray<Int32Type>>()?;
    let texts = dictionary.values().as_string_opt::<i32>()?;
    let text = |row: usize| dictionary.key(row).filter(|key| texts.is_valid(*key)).map(|key| texts.value(key));
    Some(Arc::new((0..dictionary.len()).map(text).collect::<StringArray>()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::ColumnValues;
    use arrow_array::Float64Array;
    use proptest::prelude::*;

    #[test]
    fn the_smallest_type_that_holds_all() {
        for (values, expected) in [
            (vec![], Stored::Int8),
            (vec![-128.0, f64::NAN, 127.0], Stored::Int8),
            (vec![128.0], Stored::Int16),
            (vec![-32_769.0], Stored::Int32),
            (vec![2_147_483_648.0], Stored::Float32),
            (vec![-0.0], Stored::Float32),
            (vec![0.5], Stored::Float32),
            (vec![0.1], Stored::Float64),
            (vec![2_147_483_649.0], Stored::Float64),
        ] {
            assert_eq!(Stored::of_numbers(&values, false), expected, "{values:?}");
        }
        assert_eq!(Stored::of_numbers(&[0.1], true), Stored::Float32);
    }

    fn table(numbers: &[Option<f64>], texts: &[Option<String>]) -> Table {
        let columns = vec![
            ("n".to_owned(), ColumnValues::Number(numbers.iter().copied().collect::<Float64Array>())),
            ("t".to_owned(), ColumnValues::Text(texts.iter().map(Option::as_deref).collect::<StringArray>())),
        ];
        let rows = numbers.len();
        Table::new((0..rows as u64).collect(), columns, vec![0.0; rows], Some(vec![1.0; rows])).expect("a table")
    }

    proptest! {
        #[test]
        fn small_types_come_back_and_hostile_bytes_are_refused(
            numbers in prop::collection::vec(prop::option::of(prop_oneof![
                (-200i32..200).prop_map(f64::from), any::<i32>().prop_map(f64::from), -1e9f64..1e9, (-8i32..8).prop_map(|n| f64::from(n) / 4.0),
            ]), 1..40),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        ) {
            let texts: Vec<Option<String>> = numbers.iter().map(|n| n.map(|n| format!("t{}", n as i64 % 3))).collect();
            let table = table(&numbers, &texts);
            let values: Vec<f64> = numbers.iter().map(|n| n.unwrap_or(f64::NAN)).collect();
            let stored = BTreeMap::from([
                ("n".to_owned(), Stored::of_numbers(&values, false)),
                ("t".to_owned(), Stored::Dictionary),
            ]);
            let bytes = write_shard_as(&table, &stored).expect("writes");
            prop_assert_eq!(&read_shard(&bytes).expect("reads"), &table);
            let mut bytes = bytes.to_vec();
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            let _ = read_shard(&bytes);
        }
    }
}
