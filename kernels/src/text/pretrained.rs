//! The tokenizer of a pretrained model: its `tokenizer.json`, or the `vocab.txt` of a WordPiece model
//! (Schuster and Nakajima 2012; Devlin et al. 2019), by the `tokenizers` crate. Both files are hostile input.

use crate::error::{Error, Result};
use std::panic::{AssertUnwindSafe, catch_unwind};
use tokenizers::{TruncationDirection, TruncationParams, TruncationStrategy};

/// The largest file that is read.
const MAX_FILE_BYTES: usize = 64 << 20;
/// The largest vocabulary.
const MAX_SIZE: usize = 1 << 24;

/// Whether a WordPiece vocabulary is of lower-case words without accents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Casing {
    #[default]
    Uncased,
    Cased,
}

/// A tokenizer that was trained elsewhere.
#[derive(Debug)]
pub struct Pretrained {
    tokenizer: tokenizers::Tokenizer,
    json: String,
    size: usize,
    pad: u32,
}

impl Pretrained {
    /// From the contents of a `tokenizer.json`. Its padding and truncation are not used.
    pub fn from_json(json: &str) -> Result<Pretrained> {
        let refuse = |got: String| Error::value("tokenizer.json", "a tokenizer of the `tokenizers` format", got);
        if json.len() > MAX_FILE_BYTES {
            return Err(refuse(format!("{} bytes; at most {MAX_FILE_BYTES} are read", json.len())));
        }
        // The parser is not ours: whatever it does with hostile input becomes an error.
        let mut tokenizer = catch_unwind(|| tokenizers::Tokenizer::from_bytes(json))
            .map_err(|_| refuse("a file on which its parser fails".into()))?
            .map_err(|e| refuse(brief(&e.to_string())))?;
        tokenizer.with_padding(None);
        let size = tokenizer.get_vocab(true).values().max().map_or(0, |id| *id as usize + 1);
        if size == 0 || size > MAX_SIZE {
            return Err(refuse(format!("ids up to {size}; 1 to {MAX_SIZE} are expected")));
        }
        let pad = ["[PAD]", "<pad>"].iter().find_map(|token| tokenizer.token_to_id(token)).unwrap_or(0);
        Ok(Pretrained { tokenizer, json: json.to_owned(), size, pad })
    }

    /// From the contents of a `vocab.txt`: one token a line, its id the line's number from 0; it must hold
    /// `[UNK]`, `[CLS]` and `[SEP]`. Splits as BERT does.
    pub fn from_vocab(text: &str, casing: Casing) -> Result<Pretrained> {
        let refuse = |expected: &str, got: String| Error::value("vocab.txt", expected, got);
        if text.len() > MAX_FILE_BYTES {
            return Err(refuse("at most 64 MiB", format!("{} bytes", text.len())));
        }
        let mut vocab = serde_json::Map::new();
        for (line, token) in text.lines().enumerate() {
            let token = token.trim_end();
            if token.is_empty() {
                return Err(refuse("a token on each line", format!("none on line {}", line + 1)));
            }
            if vocab.insert(token.to_owned(), line.into()).is_some() {
                return Err(refuse("each token once", format!("{token:?} again on line {}", line + 1)));
            }
        }
        let special = |token: &str| -> Result<serde_json::Value> {
            vocab.get(token).cloned().ok_or_else(|| refuse(&format!("a line `{token}`"), "none".into()))
        };
        let (unknown, cls, sep) = (special("[UNK]")?, special("[CLS]")?, special("[SEP]")?);
        let named = [("[PAD]", vocab.get("[PAD]").cloned()), ("[UNK]", Some(unknown)), ("[CLS]", Some(cls.clone()))];
        let named = named.into_iter().chain([("[SEP]", Some(sep.clone())), ("[MASK]", vocab.get("[MASK]").cloned())]);
        let added: Vec<_> = named
            .filter_map(|(content, id)| {
                let id = id?;
                Some(serde_json::json!({
                    "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                    "normalized": false, "special": true,
                }))
            })
            .collect();
        let json = serde_json::json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
            "normalizer": {
                "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null,
                "lowercase": casing == Casing::Uncased,
            },
            "pre_tokenizer": { "type": "BertPreTokenizer" },
            "post_processor": { "type": "BertProcessing", "sep": ["[SEP]", sep], "cls": ["[CLS]", cls] },
            "decoder": { "type": "WordPiece", "prefix": "##", "cleanup": true },
            "model": {
                "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                "max_input_chars_per_word": 100, "vocab": vocab,
            },
        });
        Pretrained::from_json(&json.to_string())
    }

    /// Cuts rows to this length, special tokens included, which stay.
    pub(super) fn truncated(mut self, max_length: usize) -> Result<Pretrained> {
        let params = TruncationParams {
            direction: TruncationDirection::Right,
            max_length,
            strategy: TruncationStrategy::LongestFirst,
            stride: 0,
        };
        self.tokenizer
            .with_truncation(Some(params))
            .map_err(|e| Error::value("tokenizer", "a max_length it can cut to", brief(&e.to_string())))?;
        Ok(self)
    }

    /// How many tokens every row has beside its text's.
    pub(super) fn special_tokens(&self) -> usize {
        use tokenizers::PostProcessor;
        self.tokenizer.get_post_processor().map_or(0, |p| p.added_tokens(false))
    }

    /// Every id is below this.
    pub fn size(&self) -> usize {
        self.size
    }

    /// The id of the padding token, 0 where there is none.
    pub fn pad(&self) -> u32 {
        self.pad
    }

    /// The id of a token.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.tokenizer.token_to_id(token)
    }

    /// The contents of the `tokenizer.json` that it is.
    pub fn json(&self) -> &str {
        &self.json
    }

    pub(super) fn encode(&self, text: &str, ids: &mut Vec<u32>) -> Result<()> {
        let refuse = |got: String| Error::value("tokenizer", "a text that it can encode", got);
        let encoded = catch_unwind(AssertUnwindSafe(|| self.tokenizer.encode_fast(text, true)))
            .map_err(|_| refuse("one on which it fails".into()))?
            .map_err(|e| refuse(brief(&e.to_string())))?;
        let found = encoded.get_ids();
        if let Some(id) = found.iter().find(|id| **id as usize >= self.size) {
            return Err(refuse(format!("id {id}, beyond its vocabulary of {}", self.size)));
        }
        ids.extend_from_slice(if found.is_empty() { std::slice::from_ref(&self.pad) } else { found });
        Ok(())
    }
}

/// The beginning of a message: a parser may quote its whole input.
fn brief(message: &str) -> String {
    let mut characters = message.chars();
    let text: String = characters.by_ref().take(300).collect();
    if characters.next().is_some() { text + " …" } else { text }
}
