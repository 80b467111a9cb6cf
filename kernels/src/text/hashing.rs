//! Words by their hash: lower-case, cut at blanks, FNV-1a. Two words may share an id.

use super::{CLS, is_blank};
use crate::error::{Error, Result};

/// Settings of the hashing tokenizer: ids are 0 (padding), 1 (class token), and 2 up to `size`.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Hashing {
    size: u32,
}

/// The ids that are not of words.
const RESERVED: u32 = 2;

impl Hashing {
    /// Ids below `size`, which is in 3..=2^24.
    pub fn new(size: u32) -> Result<Hashing> {
        Hashing { size }.checked()
    }

    pub(super) fn checked(self) -> Result<Hashing> {
        if self.size <= RESERVED || self.size > 1 << 24 {
            return Err(Error::value("hashing tokenizer", "size in 3..=16777216", self.size));
        }
        Ok(self)
    }

    /// Every id is below this.
    pub fn size(&self) -> u32 {
        self.size
    }

    pub(super) fn encode(&self, text: &str, max_length: usize, ids: &mut Vec<u32>) {
        ids.push(CLS);
        // Lower-casing looks at a character's surroundings, so it comes before the cut.
        let text = text.to_lowercase();
        let words = text.split(is_blank).filter(|w| !w.is_empty()).take(max_length - 1);
        let slots = u64::from(self.size - RESERVED);
        ids.extend(words.map(|word| RESERVED + (fnv1a64(word.as_bytes()) % slots) as u32));
    }
}

/// FNV-1a with 64 bits (Fowler, Noll, Vo).
pub(crate) fn fnv1a64(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, b| (hash ^ u64::from(*b)).wrapping_mul(0x0000_0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_has_its_published_values() {
        assert_eq!(fnv1a64(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a64(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv1a64(b"foobar"), 0x8594_4171_f739_67e8);
    }
}
