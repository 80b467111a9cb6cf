//! Weight files: safetensors, written in canonical order so that equal contents are equal bytes, and read
//! as hostile input: every name, shape, element type and length is checked, nothing panics, and no memory
//! is reserved that the file does not back.

use crate::error::{Error, Result};
use crate::nn::model::Declared;
use crate::nn::{Model, ModelConfig};
use crate::params::ParamId;
use safetensors::{Dtype, SafeTensors};
use std::collections::BTreeMap;

/// The metadata key that holds the model's configuration as JSON.
pub const MODEL_KEY: &str = "within.model";
/// The largest file that is read, in bytes.
pub const MAX_FILE_BYTES: usize = 8 << 30;

/// A tensor to write.
pub(crate) struct Entry<'a> {
    pub name: String,
    pub shape: Vec<usize>,
    pub values: &'a [f32],
}

/// Writes tensors in the given order: 8 bytes header length, JSON header (keys sorted, padded with blanks
/// to 8 bytes), then the values, f32 little-endian.
pub(crate) fn write(entries: &[Entry<'_>], metadata: &BTreeMap<String, String>) -> Result<Vec<u8>> {
    let mut header = serde_json::Map::new();
    if !metadata.is_empty() {
        header.insert("__metadata__".into(), serde_json::json!(metadata));
    }
    let mut offset = 0usize;
    for entry in entries {
        let end = offset + entry.values.len() * 4;
        header.insert(
            entry.name.clone(),
            serde_json::json!({ "dtype": "F32", "shape": entry.shape, "data_offsets": [offset, end] }),
        );
        offset = end;
    }
    let mut text = serde_json::to_vec(&header).map_err(|e| Error::weights("header", "JSON", e.to_string()))?;
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut bytes = Vec::with_capacity(8 + text.len() + offset);
    bytes.extend_from_slice(&(text.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&text);
    for entry in entries {
        entry.values.iter().for_each(|v| bytes.extend_from_slice(&v.to_le_bytes()));
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
    /// The values of one tensor, which must have this shape and be f32.
    pub(crate) fn tensor(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let view =
            self.tensors.tensor(name).map_err(|_| Error::weights("tensors", format!("`{name}`"), "no such tensor"))?;
        if view.dtype() != Dtype::F32 {
            return Err(Error::weights(format!("`{name}`"), "element type F32", format!("{:?}", view.dtype())));
        }
        if view.shape() != shape {
            return Err(Error::weights(format!("`{name}`"), format!("shape {shape:?}"), format!("{:?}", view.shape())));
        }
        Ok(view.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
    }

    /// Refuses tensors beyond those that were asked for.
    pub(crate) fn expect_count(&self, count: usize) -> Result<()> {
        if self.tensors.len() != count {
            return Err(Error::weights("tensors", format!("{count} tensors"), self.tensors.len().to_string()));
        }
        Ok(())
    }
}

/// A self-contained model file: parameters, the model's configuration and the caller's metadata (strings;
/// JSON by convention). Equal arguments give equal bytes. The key [`MODEL_KEY`] is taken.
pub fn save(model: &Model, metadata: &BTreeMap<String, String>) -> Result<Vec<u8>> {
    if metadata.contains_key(MODEL_KEY) {
        return Err(Error::weights("metadata", format!("no key `{MODEL_KEY}`"), "one"));
    }
    let mut metadata = metadata.clone();
    let config =
        serde_json::to_string(model.config()).map_err(|e| Error::weights("metadata", "JSON", e.to_string()))?;
    metadata.insert(MODEL_KEY.into(), config);
    write(&entries(model), &metadata)
}

fn entries(model: &Model) -> Vec<Entry<'_>> {
    let params = model.params().iter();
    params.map(|(p, values)| Entry { name: p.name.clone(), shape: p.shape.clone(), values }).collect()
}

/// The model of a file by [`save`], and the caller's metadata.
pub fn load(bytes: &[u8]) -> Result<(Model, BTreeMap<String, String>)> {
    let file = read(bytes)?;
    let text =
        file.metadata.get(MODEL_KEY).ok_or_else(|| Error::weights("metadata", format!("`{MODEL_KEY}`"), "none"))?;
    let config: ModelConfig =
        serde_json::from_str(text).map_err(|e| Error::weights("model", "a configuration", e.to_string()))?;
    let declared = Declared::new(&config)?;
    // Sizes come from the file's metadata: believe them only as far as the file holds such data.
    if declared.count() > bytes.len() / 4 {
        return Err(Error::weights(
            "model",
            format!("{} parameters", declared.count()),
            format!("{} bytes", bytes.len()),
        ));
    }
    let (mut model, _) = declared.build()?;
    fill(&mut model, &file)?;
    let mut metadata = file.metadata;
    metadata.remove(MODEL_KEY);
    Ok((model, metadata))
}

/// Replaces the parameters of a model by those of a file with exactly the same names and shapes. On an
/// error the model is unchanged.
pub fn load_into(model: &mut Model, bytes: &[u8]) -> Result<()> {
    fill(model, &read(bytes)?)
}

fn fill(model: &mut Model, file: &File<'_>) -> Result<()> {
    file.expect_count(model.params().len())?;
    let read: Result<Vec<_>> = model.params().iter().map(|(p, _)| file.tensor(&p.name, &p.shape)).collect();
    for (id, values) in read?.into_iter().enumerate() {
        model.params_mut().set(ParamId(id), &values)?;
    }
    Ok(())
}

/// BLAKE3 (hex) of the parameters in canonical order and of nothing else. Per parameter: length of the
/// name, name, number of axes, sizes (u64 little-endian each), values (f32 little-endian).
pub fn params_blake3(model: &Model) -> String {
    let mut hasher = blake3::Hasher::new();
    let mut block = Vec::with_capacity(1 << 16);
    for (param, values) in model.params().iter() {
        hasher.update(&(param.name.len() as u64).to_le_bytes());
        hasher.update(param.name.as_bytes());
        hasher.update(&(param.shape.len() as u64).to_le_bytes());
        for &size in &param.shape {
            hasher.update(&(size as u64).to_le_bytes());
        }
        for values in values.chunks(1 << 14) {
            block.clear();
            values.iter().for_each(|v| block.extend_from_slice(&v.to_le_bytes()));
            hasher.update(&block);
        }
    }
    hasher.finalize().to_hex().to_string()
}
