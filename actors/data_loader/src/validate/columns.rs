//! The texts of a chunk as the values that a column's type says, and the keys of rows.

use std::borrow::Cow;

use arrow_array::{Array, StringArray};

use super::date;
use super::expression::{Cells, Truth};
use super::schema::Kind;
use crate::check::value::{Value, ValueReader};

/// 128 bits that stand for some texts: equal only for equal ones.
pub fn key_of<'a>(texts: impl IntoIterator<Item = &'a str>) -> [u32; 4] {
    let mut hasher = blake3::Hasher::new();
    for text in texts {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    }
    let mut key = [0; 4];
    for (part, bytes) in key.iter_mut().zip(hasher.finalize().as_bytes().chunks_exact(4)) {
        *part = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    }
    key
}

/// A column of a chunk, read by its type. Rows of another type are missing in the cells.
pub struct Typed<'a> {
    pub cells: Cells<'a>,
    /// Rows that hold something else.
    pub wrong: Vec<usize>,
}

/// Reads a column; `missing` says where there is no value.
pub fn typed<'a>(kind: Kind, texts: &'a StringArray, missing: &[bool], reader: &ValueReader) -> Typed<'a> {
    let mut wrong = Vec::new();
    let rows = || (0..texts.len()).map(|row| (row, (!missing[row]).then(|| texts.value(row))));
    let cells = match kind {
        Kind::Text => Cells::Texts(rows().map(|(_, text)| text.map(|text| Cow::Borrowed(text.trim()))).collect()),
        Kind::Bool => {
            let read = |(row, text): (usize, Option<&str>)| match text.map(truth) {
                None => Truth::Unknown,
                Some(Some(value)) => Truth::from(value),
                Some(None) => {
                    wrong.push(row);
                    Truth::Unknown
                }
            };
            Cells::Truths(rows().map(read).collect())
        }
        Kind::Integer | Kind::Number | Kind::Date => {
            let read = |(row, text): (usize, Option<&str>)| {
                let Some(text) = text else { return f64::NAN };
                let value = match kind {
                    Kind::Date => date::parse(text.trim()).map(|moment| moment.ms as f64),
                    Kind::Integer => number(reader, text).filter(|number| number.fract() == 0.0),
                    _ => number(reader, text),
                };
                value.unwrap_or_else(|| {
                    wrong.push(row);
                    f64::NAN
                })
            };
            Cells::Numbers(rows().map(read).collect())
        }
    };
    Typed { cells, wrong }
}

fn number(reader: &ValueReader, text: &str) -> Option<f64> {
    match reader.read(text) {
        Value::Number(number) => Some(number),
        _ => None,
    }
}

fn truth(text: &str) -> Option<bool> {
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "t" | "y" => Some(true),
        "false" | "0" | "no" | "f" | "n" => Some(false),
        _ => None,
    }
}
