//! A pretrained encoder's folder in the data roots: its tokenizer for the texts, its sizes and weights for the model.

use std::path::PathBuf;

use kernels::text::{Method, Tokenizer};
use kernels::weights::Folder;
use messages::WireError;
use messages::error::Code;

use crate::source::path::resolve_folder;

/// Largest `config.json`.
const MAX_CONFIG_BYTES: u64 = 1 << 20;

/// What the folder holds.
pub struct Pretrained {
    /// As in the plan.
    pub path: String,
    pub config: String,
    pub weights: Vec<u8>,
    pub tokenizer: Tokenizer,
}

impl std::fmt::Debug for Pretrained {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pretrained({}, {} bytes)", self.path, self.weights.len())
    }
}

impl Pretrained {
    /// Reads a folder of the data roots; texts are cut to `max_length` tokens.
    pub fn open(path: &str, max_length: u32, roots: &[PathBuf]) -> Result<Self, WireError> {
        let expected = "expected a folder with config.json, model.safetensors and tokenizer.json or vocab.txt";
        let real = resolve_folder(path, roots).map_err(|e| e.with_hint(expected))?;
        let wrong = |what: String| {
            WireError::new(Code::ModelInvalid, format!("{path}: {what}"))
                .with_hint(format!("data.text.pretrained: {expected}"))
        };
        let folder = Folder::open(&real).map_err(|e| wrong(e.to_string()))?;
        if max_length as usize > folder.config.max_positions {
            let most = folder.config.max_positions;
            return Err(wrong(format!("has {most} positions, but data.text.max_length is {max_length}")));
        }
        let config = real.join("config.json");
        let size = std::fs::metadata(&config).map(|found| found.len()).unwrap_or_default();
        if size > MAX_CONFIG_BYTES {
            return Err(wrong(format!("config.json of {size} bytes")));
        }
        let config = std::fs::read_to_string(config).map_err(|e| wrong(format!("config.json: {e}")))?;
        let tokenizer = Tokenizer::new(Method::Pretrained(Box::new(folder.tokenizer)), max_length as usize)
            .map_err(|e| wrong(e.to_string()))?;
        Ok(Self { path: path.to_owned(), config, weights: folder.weights, tokenizer })
    }
}
