//! Columns of typed files as the numbers, texts and bytes that the rest reads.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{
    ArrowPrimitiveType, Date32Type, Date64Type, Decimal128Type, Float16Type, Float32Type, Float64Type, Int8Type,
    Int16Type, Int32Type, Int64Type, Time32MillisecondType, Time32SecondType, Time64MicrosecondType,
    Time64NanosecondType, TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType,
    TimestampSecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow_array::{Array, ArrayRef, BinaryArray, Float64Array, StringArray, TimestampMicrosecondArray};
use arrow_schema::{DataType, TimeUnit};

use super::Want;

/// Whole numbers beyond this lose digits as a 64-bit float.
const MAX_EXACT: u64 = 1 << 53;

/// The column as it is wanted; none where its type is nothing of the kind.
pub fn converted(array: &ArrayRef, want: Want) -> Option<ArrayRef> {
    match want {
        // Identifiers of 64 bits keep their digits.
        Want::Native if is_beyond_exact(array) => texts(array),
        Want::Native => numbers(array).or_else(|| times(array)).or_else(|| texts(array)),
        Want::Text => texts(array),
        Want::Bytes => bytes(array).or_else(|| texts(array)),
    }
}

fn is_beyond_exact(array: &ArrayRef) -> bool {
    match array.data_type() {
        DataType::Int64 => array.as_primitive::<Int64Type>().iter().flatten().any(|v| v.unsigned_abs() > MAX_EXACT),
        DataType::UInt64 => array.as_primitive::<UInt64Type>().iter().flatten().any(|v| v > MAX_EXACT),
        _ => false,
    }
}

fn bytes(array: &ArrayRef) -> Option<ArrayRef> {
    match array.data_type() {
        DataType::Binary => Some(array.clone()),
        DataType::LargeBinary => Some(Arc::new(array.as_binary::<i64>().iter().collect::<BinaryArray>())),
        DataType::BinaryView => Some(Arc::new(array.as_binary_view().iter().collect::<BinaryArray>())),
        DataType::FixedSizeBinary(_) => Some(Arc::new(array.as_fixed_size_binary().iter().collect::<BinaryArray>())),
        _ => None,
    }
}

/// Numbers, booleans as 0 and 1, times of day in their own unit.
fn numbers(array: &ArrayRef) -> Option<ArrayRef> {
    let values: Vec<Option<f64>> = match array.data_type() {
        DataType::Float64 => return Some(array.clone()),
        DataType::Float32 => each::<Float32Type, _>(array, f64::from),
        DataType::Float16 => each::<Float16Type, _>(array, f64::from),
        DataType::Int8 => each::<Int8Type, _>(array, f64::from),
        DataType::Int16 => each::<Int16Type, _>(array, f64::from),
        DataType::Int32 => each::<Int32Type, _>(array, f64::from),
        DataType::Int64 => each::<Int64Type, _>(array, |v| v as f64),
        DataType::UInt8 => each::<UInt8Type, _>(array, f64::from),
        DataType::UInt16 => each::<UInt16Type, _>(array, f64::from),
        DataType::UInt32 => each::<UInt32Type, _>(array, f64::from),
        DataType::UInt64 => each::<UInt64Type, _>(array, |v| v as f64),
        DataType::Decimal128(_, scale) => {
            let unit = 10f64.powi(i32::from(*scale));
            each::<Decimal128Type, _>(array, |v| v as f64 / unit)
        }
        DataType::Time32(TimeUnit::Second) => each::<Time32SecondType, _>(array, f64::from),
        DataType::Time32(TimeUnit::Millisecond) => each::<Time32MillisecondType, _>(array, f64::from),
        DataType::Time64(TimeUnit::Microsecond) => each::<Time64MicrosecondType, _>(array, |v| v as f64),
        DataType::Time64(TimeUnit::Nanosecond) => each::<Time64NanosecondType, _>(array, |v| v as f64),
        DataType::Boolean => array.as_boolean().iter().map(|v| v.map(|b| f64::from(u8::from(b)))).collect(),
        _ => return None,
    };
    Some(Arc::new(Float64Array::from(values)))
}

/// Dates and timestamps, in microseconds since the epoch; beyond the range of those none is there.
fn times(array: &ArrayRef) -> Option<ArrayRef> {
    const MILLI: i64 = 1_000;
    const SECOND: i64 = 1_000_000;
    let times = |unit: i64| move |v: i64| v.checked_mul(unit);
    let values: Vec<Option<Option<i64>>> = match array.data_type() {
        DataType::Date32 => each::<Date32Type, _>(array, |v| i64::from(v).checked_mul(86_400 * SECOND)),
        DataType::Date64 => each::<Date64Type, _>(array, times(MILLI)),
        DataType::Timestamp(TimeUnit::Second, _) => each::<TimestampSecondType, _>(array, times(SECOND)),
        DataType::Timestamp(TimeUnit::Millisecond, _) => each::<TimestampMillisecondType, _>(array, times(MILLI)),
        DataType::Timestamp(TimeUnit::Microsecond, _) => each::<TimestampMicrosecondType, _>(array, times(1)),
        DataType::Timestamp(TimeUnit::Nanosecond, _) => {
            each::<TimestampNanosecondType, _>(array, |v| Some(v.div_euclid(1_000)))
        }
        _ => return None,
    };
    Some(Arc::new(values.into_iter().map(Option::flatten).collect::<TimestampMicrosecondArray>()))
}

/// Texts; integers exactly, floats in the shortest form that reads back, booleans as `true` and `false`, times in
/// ISO 8601.
fn texts(array: &ArrayRef) -> Option<ArrayRef> {
    let values: Vec<Option<String>> = match array.data_type() {
        DataType::Utf8 => return Some(array.clone()),
        DataType::LargeUtf8 => return Some(Arc::new(array.as_string::<i64>().iter().collect::<StringArray>())),
        DataType::Utf8View => return Some(Arc::new(array.as_string_view().iter().collect::<StringArray>())),
        DataType::Dictionary(..) => {
            let dictionary = array.as_any_dictionary();
            let distinct = texts(dictionary.values())?;
            let distinct = distinct.as_string::<i32>();
            if distinct.is_empty() {
                return Some(Arc::new((0..array.len()).map(|_| None::<&str>).collect::<StringArray>()));
            }
            let keys = dictionary.normalized_keys();
            let text = |(row, key): (usize, usize)| {
                (array.is_valid(row) && distinct.is_valid(key)).then(|| distinct.value(key))
            };
            return Some(Arc::new(keys.into_iter().enumerate().map(text).collect::<StringArray>()));
        }
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => {
            let bytes = bytes(array)?;
            let texts = bytes.as_binary::<i32>().iter().map(|v| v.map(|b| String::from_utf8(b.to_vec())).transpose());
            texts.collect::<Result<_, _>>().ok()?
        }
        DataType::Boolean => array.as_boolean().iter().map(|v| v.map(|b| b.to_string())).collect(),
        DataType::Int64 => each::<Int64Type, _>(array, |v| v.to_string()),
        DataType::UInt64 => each::<UInt64Type, _>(array, |v| v.to_string()),
        DataType::Float32 => each::<Float32Type, _>(array, |v| v.to_string()),
        _ => match times(array) {
            Some(times) => each::<TimestampMicrosecondType, _>(&times, in_iso),
            None => each::<Float64Type, _>(&numbers(array)?, |v| v.to_string()),
        },
    };
    Some(Arc::new(StringArray::from(values)))
}

fn in_iso(microseconds: i64) -> String {
    jiff::Timestamp::from_microsecond(microseconds).map_or_else(|_| microseconds.to_string(), |time| time.to_string())
}

/// The column's values of a primitive type, each turned by `turn`.
fn each<T: ArrowPrimitiveType, U>(array: &ArrayRef, turn: impl Fn(T::Native) -> U) -> Vec<Option<U>> {
    array.as_primitive::<T>().iter().map(|value| value.map(&turn)).collect()
}
