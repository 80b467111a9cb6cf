//! The safetensors format: written in canonical order so that equal contents are equal bytes, and read as
//! hostile input: every name, shape, element type and length is checked, nothing panics, and no memory is
//! reserved that the file does not back.

use crate::dtype::Precision;
use crate::error::{Error, Result};
use safetensors::{Dtype, SafeTensors};
use std::collections::BTreeMap;

/// The largest file that is read, in bytes.
pub const MAX_FILE_BYTES: usize = 8 << 30;

/// A tensor to write.
pub(crate) struct Entry<'a> {
    pub name: String,
    pub shape: Vec<usize>,
    pub values: &'a [f32],
    /// What the values are rounded to.
    pub precision: Precision,
}

/// Writes tensors in the given order: 8 bytes header length, JSON header (keys sorted, padded with blanks
/// to 8 bytes), then the values, little-endian.
pub(crate) fn write(entries: &[Entry<'_>], metadata: &BTreeMap<String, String>) -> Result<Vec<u8>> {
    let mut header = serde_json::Map::new();
    if !metadata.is_empty() {
        header.insert("__metadata__".into(), serde_json::json!(metadata));
    }
    let mut offset = 0usize;
    for entry in entries {
        let end = offset + entry.values.len() * entry.precision.bytes();
        header.insert(
            entry.name.clone(),
            serde_json::json!({ "dtype": entry.precision.name(), "shape": entry.shape, "data_offsets": [offset, end] }),
        );
        offset = end;
    }
    let mut text = serde_json::to_vec(&header).map_err(|e| Error::weights("header", "JSON", e.to_string()))?;
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut bytes = Vec::with_capacity(8 + text.len() + offset);
    bytes.extend_from_slice(&(text.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&text);
    for entry in entries {
        entry.precision.encode(entry.values, &mut bytes);
    }
    Ok(bytes)
}

/// A file that was read and checked for form.
pub(crate) struct File<'a> {
    pub metadata: BTreeMap<String, String>,
    tensors: SafeTensors<'a>,
}

/// Reads the header; `Weights` error for anything that is not a safetensors file of reasonable size.
pub(crate) fn read(bytes: &[u8]) -> Result<File<'_>> {
    if bytes.len() > MAX_FILE_BYTES {
        return Err(Error::weights("file", format!("at most {MAX_FILE_BYTES} bytes"), bytes.len().to_string()));
    }
    let damaged = |e: safetensors::SafeTensorError| Error::weights("file", "a safetensors file", e.to_string());
    let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(damaged)?;
    let tensors = SafeTensors::deserialize(bytes).map_err(damaged)?;
    let metadata = metadata.metadata().clone().unwrap_or_default().into_iter().collect();
    Ok(File { metadata, tensors })
}

impl File<'_> {
    /// The values of one tensor, which must have this shape and be of floating point; as f32.
    pub(crate) fn tensor(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let view =
            self.tensors.tensor(name).map_err(|_| Error::weights("tensors", format!("`{name}`"), "no such tensor"))?;
        let precision = match view.dtype() {
            Dtype::F32 => Precision::F32,
            Dtype::BF16 => Precision::Bf16,
            Dtype::F16 => Precision::F16,
            other => {
                let expected = "element type F32, BF16 or F16";
                return Err(Error::weights(format!("`{name}`"), expected, format!("{other:?}")));
            }
        };
        if view.shape() != shape {
            return Err(Error::weights(format!("`{name}`"), format!("shape {shape:?}"), format!("{:?}", view.shape())));
        }
        Ok(precision.decode(view.data()))
    }

    /// Names and shapes, in the order of the names.
    pub(crate) fn shapes(&self) -> BTreeMap<String, Vec<usize>> {
        self.tensors.iter().map(|(name, view)| (name.to_owned(), view.shape().to_vec())).collect()
    }

    /// Refuses tensors beyond those that were asked for.
    pub(crate) fn expect_count(&self, count: usize) -> Result<()> {
        if self.tensors.len() != count {
            return Err(Error::weights("tensors", format!("{count} tensors"), self.tensors.len().to_string()));
        }
        Ok(())
    }
}
