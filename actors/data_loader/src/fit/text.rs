//! The tokenizer of a text column: a vocabulary of train's words, hashing, or that of a pretrained encoder.

use std::collections::HashSet;

use frame::clean::clean;
use frame::manifest::{Encoding, Statistics};
use kernels::text::{Hashing, Method, Tokenizer, VocabularyBuilder, VocabularyLimits};
use messages::WireError;
use messages::error::Code;
use messages::plan::{TextCleaning, TextPlan, TokenizerType};

use crate::check::Violation;
use crate::load::Texts;
use crate::pretrained::Pretrained;

pub fn statistics(texts: &Texts, train: &[u32]) -> Statistics {
    let mut distinct = HashSet::new();
    let mut count = 0;
    for &row in train {
        let text = texts.get(row as usize);
        if !text.is_empty() {
            count += 1;
            distinct.insert(text);
        }
    }
    let missing = train.len() as u64 - count;
    Statistics { count, missing, distinct: distinct.len() as u64, ..Statistics::default() }
}

/// The texts as the tokenizer gets them.
pub fn cleaned(texts: &Texts, how: &[TextCleaning]) -> Texts {
    let mut out = Texts::default();
    (0..texts.len()).for_each(|row| out.push(&clean(texts.get(row), how)));
    out
}

pub fn fit(
    plan: &TextPlan,
    name: &str,
    texts: &Texts,
    train: &[u32],
    pretrained: Option<&Pretrained>,
    warnings: &mut Vec<String>,
) -> Result<Encoding, WireError> {
    let failed = |e: kernels::Error| WireError::from(Violation::new(e.to_string()).column(name));
    let tokenizer = match (plan.tokenizer, pretrained) {
        (TokenizerType::Pretrained, Some(pretrained)) => return Ok(encoding(&pretrained.tokenizer)),
        (TokenizerType::Pretrained, None) => {
            let message = "data.text.tokenizer is pretrained, but data.text.pretrained names no folder";
            return Err(WireError::new(Code::ConfigError, message));
        }
        (TokenizerType::Hashing, _) => Method::Hashing(Hashing::new(plan.vocab_size).map_err(failed)?),
        (TokenizerType::Vocabulary, _) => {
            let mut words = VocabularyBuilder::default();
            for &row in train {
                words.add(texts.get(row as usize)).map_err(failed)?;
            }
            let limits =
                VocabularyLimits { min_frequency: u64::from(plan.min_frequency), max_size: plan.vocab_size as usize };
            Method::Vocabulary(words.finish(&limits).map_err(failed)?)
        }
    };
    let tokenizer = Tokenizer::new(tokenizer, plan.max_length as usize).map_err(failed)?;
    warn_of_cut_texts(&tokenizer, name, texts, train, warnings).map_err(failed)?;
    Ok(encoding(&tokenizer))
}

fn encoding(tokenizer: &Tokenizer) -> Encoding {
    Encoding::Text {
        tokenizer: tokenizer.to_text(),
        max_length: tokenizer.max_length() as u32,
        vocab_size: tokenizer.size() as u32,
    }
}

/// Texts that fill a row were probably cut. Looked for in some rows only.
fn warn_of_cut_texts(
    tokenizer: &Tokenizer,
    name: &str,
    texts: &Texts,
    train: &[u32],
    warnings: &mut Vec<String>,
) -> kernels::Result<()> {
    const LOOKED_AT: usize = 2_000;
    let (mut full, mut ids) = (0, Vec::new());
    let looked_at = train.len().min(LOOKED_AT);
    for &row in train.iter().step_by((train.len() / LOOKED_AT).max(1)).take(looked_at) {
        ids.clear();
        tokenizer.encode(texts.get(row as usize), &mut ids)?;
        full += usize::from(ids.len() == tokenizer.max_length());
    }
    if full * 20 > looked_at {
        warnings.push(format!(
            "column {name:?}: {full} of {looked_at} texts of train fill all {} tokens of a row and are probably cut: raise data.text.max_length",
            tokenizer.max_length()
        ));
    }
    Ok(())
}
