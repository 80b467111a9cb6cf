//! A pretrained model's folder as it is published: `config.json`, `model.safetensors`, and `tokenizer.json` or
//! `vocab.txt`. Sizes are bounded before anything is read.

use super::file::MAX_FILE_BYTES;
use super::pretrained::PretrainedConfig;
use crate::error::{Error, Result};
use crate::text::{Casing, Pretrained};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// The largest of the text files.
const MAX_TEXT_BYTES: usize = 64 << 20;

/// What such a folder holds.
#[derive(Debug)]
pub struct Folder {
    pub config: PretrainedConfig,
    /// The contents of `model.safetensors`, for [`super::pretrained::import`].
    pub weights: Vec<u8>,
    pub tokenizer: Pretrained,
}

impl Folder {
    /// Reads a folder. `Weights` errors name the file that is missing, too large or of another format.
    pub fn open(path: &Path) -> Result<Folder> {
        let config = PretrainedConfig::from_json(&required(path, "config.json")?)?;
        let tokenizer = match text(path, "tokenizer.json")? {
            Some(json) => Pretrained::from_json(&json)?,
            None => Pretrained::from_vocab(&required(path, "vocab.txt")?, casing(path)?)?,
        };
        if tokenizer.size() > config.vocab_size {
            let expected = format!("token ids below vocab_size {}", config.vocab_size);
            return Err(Error::weights("tokenizer", expected, format!("{} tokens", tokenizer.size())));
        }
        let weights = bytes(path, "model.safetensors", MAX_FILE_BYTES)?.ok_or_else(|| missing("model.safetensors"))?;
        Ok(Folder { config, weights, tokenizer })
    }
}

fn missing(name: &str) -> Error {
    Error::weights("folder", format!("a file {name}"), "none")
}

fn required(folder: &Path, name: &str) -> Result<String> {
    text(folder, name)?.ok_or_else(|| missing(name))
}

/// The contents of a file, none where there is no such file.
fn bytes(folder: &Path, name: &str, most: usize) -> Result<Option<Vec<u8>>> {
    let refuse = |e: std::io::Error| Error::weights(name, "a file that can be read", e.to_string());
    let file = match File::open(folder.join(name)) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(refuse)?,
    };
    let mut contents = Vec::new();
    file.take(most as u64 + 1).read_to_end(&mut contents).map_err(refuse)?;
    if contents.len() > most {
        return Err(Error::weights(name, format!("at most {most} bytes"), "more"));
    }
    Ok(Some(contents))
}

fn text(folder: &Path, name: &str) -> Result<Option<String>> {
    let Some(contents) = bytes(folder, name, MAX_TEXT_BYTES)? else { return Ok(None) };
    String::from_utf8(contents).map(Some).map_err(|e| Error::weights(name, "UTF-8", e.to_string()))
}

/// What `tokenizer_config.json` says of a `vocab.txt`; uncased where it says nothing.
fn casing(folder: &Path) -> Result<Casing> {
    let Some(text) = text(folder, "tokenizer_config.json")? else { return Ok(Casing::Uncased) };
    let json: serde_json::Value = serde_json::from_str(&text)
        .map_err(|e| Error::weights("tokenizer_config.json", "a JSON object", e.to_string()))?;
    Ok(if json.get("do_lower_case") == Some(&serde_json::Value::Bool(false)) { Casing::Cased } else { Casing::Uncased })
}
