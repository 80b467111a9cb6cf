//! A vocabulary fitted on texts: the most frequent words, ties by their bytes. Counting commutes, so
//! several readers count apart and their counts are added; the vocabulary is the same.

use super::{CLS, is_blank};
use crate::error::{Error, Result};
use std::collections::HashMap;

/// The id of every word that is not in a vocabulary.
pub const UNKNOWN: u32 = 2;
/// The ids that are not of words.
const RESERVED: u32 = 3;
/// The most words, of a vocabulary and of a count under way.
const MAX_WORDS: usize = 1 << 23;
/// Longer words (in bytes) are unknown: they are links, not words.
const MAX_WORD_BYTES: usize = 128;

/// What becomes part of a vocabulary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct VocabularyLimits {
    /// Occurrences that a word needs.
    pub min_frequency: u64,
    /// The greatest [`Vocabulary::size`], the three special ids included.
    pub max_size: usize,
}

impl Default for VocabularyLimits {
    fn default() -> Self {
        VocabularyLimits { min_frequency: 2, max_size: 30_000 }
    }
}

/// Counts words.
#[derive(Clone, Debug, Default)]
pub struct VocabularyBuilder {
    counts: HashMap<String, u64>,
}

impl VocabularyBuilder {
    /// Counts the words of a text. `Value` error past 2^23 different words.
    pub fn add(&mut self, text: &str) -> Result<()> {
        let text = text.to_lowercase();
        words(&text).filter(|word| word.len() <= MAX_WORD_BYTES).try_for_each(|word| self.count(word, 1))
    }

    /// Adds the counts of another reader.
    pub fn merge(&mut self, other: &VocabularyBuilder) -> Result<()> {
        other.counts.iter().try_for_each(|(word, count)| self.count(word, *count))
    }

    fn count(&mut self, word: &str, count: u64) -> Result<()> {
        if let Some(held) = self.counts.get_mut(word) {
            *held = held.saturating_add(count);
        } else if self.counts.len() < MAX_WORDS {
            self.counts.insert(word.to_owned(), count);
        } else {
            return Err(Error::value("vocabulary", format!("texts of at most {MAX_WORDS} different words"), "more"));
        }
        Ok(())
    }

    /// The vocabulary: by falling frequency, ties by bytes.
    pub fn finish(self, limits: &VocabularyLimits) -> Result<Vocabulary> {
        if !(RESERVED as usize + 1..=MAX_WORDS).contains(&limits.max_size) {
            let expected = format!("max_size in {}..={MAX_WORDS}", RESERVED + 1);
            return Err(Error::value("vocabulary", expected, limits.max_size));
        }
        let mut kept: Vec<(String, u64)> =
            self.counts.into_iter().filter(|(_, count)| *count >= limits.min_frequency).collect();
        kept.sort_unstable_by(|(a, m), (b, n)| n.cmp(m).then_with(|| a.cmp(b)));
        kept.truncate(limits.max_size - RESERVED as usize);
        Vocabulary::try_from(Words { words: kept.into_iter().map(|(word, _)| word).collect() })
    }
}

/// Words with the ids 3, 4, … in their order; 0 pads, 1 begins a row, 2 stands for other words.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "Words", into = "Words")]
pub struct Vocabulary {
    words: Vec<String>,
    ids: HashMap<String, u32>,
}

/// The form in which a vocabulary is kept.
#[derive(serde::Serialize, serde::Deserialize)]
struct Words {
    words: Vec<String>,
}

impl TryFrom<Words> for Vocabulary {
    type Error = Error;

    fn try_from(Words { words: list }: Words) -> Result<Vocabulary> {
        if list.len() > MAX_WORDS {
            return Err(Error::value("vocabulary", format!("at most {MAX_WORDS} words"), list.len()));
        }
        let mut ids = HashMap::with_capacity(list.len());
        for (id, word) in (RESERVED..).zip(&list) {
            if word.is_empty() || word.len() > MAX_WORD_BYTES {
                return Err(Error::value("vocabulary", format!("words of 1 to {MAX_WORD_BYTES} bytes"), word.len()));
            }
            if ids.insert(word.clone(), id).is_some() {
                return Err(Error::value("vocabulary", "each word once", format!("{word:?} twice")));
            }
        }
        Ok(Vocabulary { words: list, ids })
    }
}

impl From<Vocabulary> for Words {
    fn from(vocabulary: Vocabulary) -> Words {
        Words { words: vocabulary.words }
    }
}

impl Vocabulary {
    /// Every id is below this.
    pub fn size(&self) -> usize {
        self.words.len() + RESERVED as usize
    }

    /// The words in the order of their ids.
    pub fn words(&self) -> &[String] {
        &self.words
    }

    pub(super) fn encode(&self, text: &str, max_length: usize, out: &mut Vec<u32>) {
        out.push(CLS);
        let text = text.to_lowercase();
        out.extend(words(&text).take(max_length - 1).map(|word| self.ids.get(word).copied().unwrap_or(UNKNOWN)));
    }
}

/// Runs of letters and digits (with the marks that follow them), and every other visible character alone.
fn words(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        rest = rest.trim_start_matches(|c: char| is_blank(c) || c.is_control());
        let first = rest.chars().next()?;
        let part_of_word = |c: char| c.is_alphanumeric() || ('\u{300}'..='\u{36f}').contains(&c);
        let end =
            if part_of_word(first) { rest.find(|c| !part_of_word(c)).unwrap_or(rest.len()) } else { first.len_utf8() };
        let (word, after) = rest.split_at(end);
        rest = after;
        Some(word)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_runs_of_letters_and_single_signs() {
        let cut = |text: &str| words(text).map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(cut(" don't  stop, 50% off!\u{0}"), ["don", "'", "t", "stop", ",", "50", "%", "off", "!"]);
        assert_eq!(cut("été\u{301} 你好"), ["été\u{301}", "你好"]);
        assert!(cut(" \t\u{1c}").is_empty());
    }
}
