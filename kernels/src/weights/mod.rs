//! Weight files: a model file is self-contained (parameters, configuration, and what the caller adds, such as
//! the fitted preprocessing and the tokenizer) and loads in one call; weights of pretrained encoders are
//! imported by the names of their families.

mod file;
mod folder;
pub mod pretrained;

use crate::dtype::Precision;
use crate::error::{Error, Result};
use crate::nn::model::Declared;
use crate::nn::{Model, ModelConfig};
use crate::params::{Param, ParamId};
use crate::text::Tokenizer;
use std::collections::BTreeMap;

pub use file::MAX_FILE_BYTES;
pub(crate) use file::{Entry, File, read, write};
pub use folder::Folder;

/// The metadata key that holds the model's configuration as JSON.
pub const MODEL_KEY: &str = "within.model";
/// The metadata key that holds the tokenizer, where the model reads text.
pub const TOKENIZER_KEY: &str = "within.tokenizer";

/// A self-contained model file: parameters, the model's configuration and the caller's metadata (strings;
/// JSON by convention). Equal arguments give equal bytes. The key [`MODEL_KEY`] is taken.
pub fn save(model: &Model, metadata: &BTreeMap<String, String>) -> Result<Vec<u8>> {
    save_with(model, None, metadata, Precision::F32)
}

/// The same with the tokenizer (under [`TOKENIZER_KEY`], which is then taken too) and with parameters
/// rounded to `precision` (running statistics stay f32); nothing is lost where they were trained in it.
pub fn save_with(
    model: &Model,
    tokenizer: Option<&Tokenizer>,
    metadata: &BTreeMap<String, String>,
    precision: Precision,
) -> Result<Vec<u8>> {
    let mut metadata = metadata.clone();
    let text = tokenizer.map(|t| (TOKENIZER_KEY, t.to_text()));
    let taken = [Some(MODEL_KEY), text.as_ref().map(|(key, _)| *key)];
    if let Some(key) = taken.into_iter().flatten().find(|key| metadata.contains_key(*key)) {
        return Err(Error::weights("metadata", format!("no key `{key}`"), "one"));
    }
    metadata.extend(text.map(|(key, text)| (key.to_owned(), text)));
    write_model(model.config(), model.params().iter(), metadata, precision)
}

/// [`save`] of a model with these values, in canonical order; the metadata hold no [`MODEL_KEY`].
pub(crate) fn save_values<'a>(
    config: &ModelConfig,
    values: impl Iterator<Item = (&'a Param, &'a [f32])>,
    metadata: &BTreeMap<String, String>,
) -> Result<Vec<u8>> {
    write_model(config, values, metadata.clone(), Precision::F32)
}

fn write_model<'a>(
    config: &ModelConfig,
    values: impl Iterator<Item = (&'a Param, &'a [f32])>,
    mut metadata: BTreeMap<String, String>,
    precision: Precision,
) -> Result<Vec<u8>> {
    let config = serde_json::to_string(config).map_err(|e| Error::weights("metadata", "JSON", e.to_string()))?;
    metadata.insert(MODEL_KEY.into(), config);
    let of = |(param, values): (&'a Param, &'a [f32])| -> Entry<'a> {
        // Running statistics count rows and hold squares: sixteen bits would lose both.
        let precision = if param.is_statistic() { Precision::F32 } else { precision };
        Entry { name: param.name.clone(), shape: param.shape.clone(), values, precision }
    };
    write(&values.map(of).collect::<Vec<_>>(), &metadata)
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
    if declared.count() > bytes.len() / 2 {
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

/// Everything that a model file holds.
#[derive(Debug)]
pub struct ModelFile {
    pub model: Model,
    /// Where the model reads text.
    pub tokenizer: Option<Tokenizer>,
    /// What the caller of [`save`] added.
    pub metadata: BTreeMap<String, String>,
}

/// The model of a file with its tokenizer.
pub fn load_file(bytes: &[u8]) -> Result<ModelFile> {
    let (model, mut metadata) = load(bytes)?;
    let tokenizer = metadata.remove(TOKENIZER_KEY).map(|text| Tokenizer::from_text(&text)).transpose()?;
    Ok(ModelFile { model, tokenizer, metadata })
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
    params_blake3_of(model.params().iter())
}

pub(crate) fn params_blake3_of<'a>(values: impl Iterator<Item = (&'a Param, &'a [f32])>) -> String {
    let mut hasher = blake3::Hasher::new();
    let mut block = Vec::with_capacity(1 << 16);
    for (param, values) in values {
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
