//! Text to token ids. Three tokenizers: hashed words (nothing to fit, nothing to keep), a vocabulary fitted
//! on the training part, and the files of a pretrained model. Rows are packed one after the other without
//! padding ([`Packed`]), cut to a greatest length; what a tokenizer is travels in the model file as text.

mod hashing;
mod pretrained;
mod vocabulary;

pub use hashing::Hashing;
pub(crate) use hashing::fnv1a64;
pub use pretrained::{Casing, Pretrained};
pub use vocabulary::{Vocabulary, VocabularyBuilder, VocabularyLimits};

use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// The id that pads a row, where rows are padded; of the tokenizers of this module.
pub const PAD: u32 = 0;
/// The id that begins each row (the class token), of the tokenizers of this module.
pub const CLS: u32 = 1;

/// The longest row that a tokenizer can be asked for.
const MAX_LENGTH: usize = 1 << 16;

/// Rows of token ids of different lengths: row r is `ids[offsets[r]..offsets[r + 1]]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Packed {
    pub ids: Vec<u32>,
    /// One more than rows; begins with 0.
    pub offsets: Vec<u32>,
}

impl Packed {
    /// The first `lengths[r]` ids of each row of a tensor [rows, longest] of i32, i64 or u8: rows padded on the right,
    /// as other libraries hand them in. `Shape` errors name the row, `Value` errors the id and where it is.
    pub fn from_tensor(ids: &Tensor, lengths: &[usize]) -> Result<Packed> {
        let (rows, longest) = (ids.shape().rows(), ids.shape().columns());
        if lengths.len() != rows || ids.shape().sizes().len() != 2 {
            let expected = format!("ids [{}, longest]", lengths.len());
            return Err(Error::shape("token ids", expected, format!("{:?}", ids.shape())));
        }
        if let Some(row) = lengths.iter().position(|&n| n > longest) {
            let got = format!("{} in row {row}", lengths[row]);
            return Err(Error::shape("token ids", format!("lengths of at most {longest}"), got));
        }
        let all = ids.to_ids()?;
        let mut packed = Packed { ids: Vec::with_capacity(lengths.iter().sum()), offsets: vec![0] };
        for (row, &length) in lengths.iter().enumerate() {
            packed.ids.extend_from_slice(&all[row * longest..][..length]);
            packed.offsets.push(packed.ids.len() as u32);
        }
        Ok(packed)
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.offsets.len().saturating_sub(1)
    }

    /// One row's ids.
    pub fn row(&self, row: usize) -> &[u32] {
        &self.ids[self.offsets[row] as usize..self.offsets[row + 1] as usize]
    }

    /// [rows, length] with `pad` behind each row; longer rows are cut.
    pub fn padded(&self, length: usize, pad: u32) -> Vec<u32> {
        let mut out = vec![pad; self.rows() * length];
        for row in 0..self.rows() {
            let ids = self.row(row);
            let kept = ids.len().min(length);
            out[row * length..][..kept].copy_from_slice(&ids[..kept]);
        }
        out
    }
}

/// How words become ids.
#[derive(Debug)]
pub enum Method {
    Hashing(Hashing),
    Vocabulary(Vocabulary),
    Pretrained(Box<Pretrained>),
}

/// A tokenizer with the greatest length of its rows, special tokens included.
#[derive(Debug)]
pub struct Tokenizer {
    method: Method,
    max_length: usize,
}

/// A tokenizer as it is kept in a model file.
#[derive(serde::Serialize, serde::Deserialize)]
struct Saved {
    max_length: usize,
    #[serde(flatten)]
    method: SavedMethod,
}

#[derive(serde::Serialize, serde::Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum SavedMethod {
    Hashing(Hashing),
    Vocabulary(Vocabulary),
    /// The contents of a `tokenizer.json`.
    Pretrained {
        json: String,
    },
}

impl Tokenizer {
    /// `Value` error where `max_length` leaves no room for text.
    pub fn new(method: Method, max_length: usize) -> Result<Tokenizer> {
        let least = match &method {
            Method::Hashing(_) | Method::Vocabulary(_) => 1,
            Method::Pretrained(pretrained) => pretrained.special_tokens(),
        };
        if max_length <= least || max_length > MAX_LENGTH {
            let expected = format!("max_length above {least} (special tokens) and at most {MAX_LENGTH}");
            return Err(Error::value("tokenizer", expected, max_length));
        }
        let method = match method {
            Method::Pretrained(pretrained) => Method::Pretrained(Box::new(pretrained.truncated(max_length)?)),
            other => other,
        };
        Ok(Tokenizer { method, max_length })
    }

    /// How words become ids.
    pub fn method(&self) -> &Method {
        &self.method
    }

    /// The greatest length of a row.
    pub fn max_length(&self) -> usize {
        self.max_length
    }

    /// Every id is below this: the rows of an embedding.
    pub fn size(&self) -> usize {
        match &self.method {
            Method::Hashing(hashing) => hashing.size() as usize,
            Method::Vocabulary(vocabulary) => vocabulary.size(),
            Method::Pretrained(pretrained) => pretrained.size(),
        }
    }

    /// The id to pad with.
    pub fn pad(&self) -> u32 {
        match &self.method {
            Method::Hashing(_) | Method::Vocabulary(_) => PAD,
            Method::Pretrained(pretrained) => pretrained.pad(),
        }
    }

    /// Appends one text's ids: at least one, at most `max_length`.
    pub fn encode(&self, text: &str, ids: &mut Vec<u32>) -> Result<()> {
        match &self.method {
            Method::Hashing(hashing) => hashing.encode(text, self.max_length, ids),
            Method::Vocabulary(vocabulary) => vocabulary.encode(text, self.max_length, ids),
            Method::Pretrained(pretrained) => pretrained.encode(text, ids)?,
        }
        Ok(())
    }

    /// The ids of many texts.
    pub fn pack<'a>(&self, texts: impl IntoIterator<Item = &'a str>) -> Result<Packed> {
        let mut packed = Packed { ids: Vec::new(), offsets: vec![0] };
        for text in texts {
            self.encode(text, &mut packed.ids)?;
            let end = u32::try_from(packed.ids.len())
                .map_err(|_| Error::value("tokenizer", "at most 2^32 - 1 tokens at once", packed.ids.len()))?;
            packed.offsets.push(end);
        }
        Ok(packed)
    }

    /// The tokenizer as text, for a model file.
    pub fn to_text(&self) -> String {
        let method = match &self.method {
            Method::Hashing(hashing) => SavedMethod::Hashing(hashing.clone()),
            Method::Vocabulary(vocabulary) => SavedMethod::Vocabulary(vocabulary.clone()),
            Method::Pretrained(pretrained) => SavedMethod::Pretrained { json: pretrained.json().to_owned() },
        };
        let saved = Saved { max_length: self.max_length, method };
        serde_json::to_string(&saved).expect("invariant: strings and numbers serialize")
    }

    /// The tokenizer of [`Tokenizer::to_text`]; the text may be hostile.
    pub fn from_text(text: &str) -> Result<Tokenizer> {
        let saved: Saved =
            serde_json::from_str(text).map_err(|e| Error::value("tokenizer", "a tokenizer as JSON", e.to_string()))?;
        let method = match saved.method {
            SavedMethod::Hashing(hashing) => Method::Hashing(hashing.checked()?),
            SavedMethod::Vocabulary(vocabulary) => Method::Vocabulary(vocabulary),
            SavedMethod::Pretrained { json } => Method::Pretrained(Box::new(Pretrained::from_json(&json)?)),
        };
        Tokenizer::new(method, saved.max_length)
    }
}

/// What separates words: Unicode white space and the four ASCII separators, as Python's `str.split`.
fn is_blank(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}
