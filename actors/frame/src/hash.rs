//! MurmurHash3 (Austin Appleby; x86, 32 bits) of the hashing encoding, with the features that scikit-learn's
//! `FeatureHasher` gives.

/// The hash with seed 0.
pub fn murmur3(bytes: &[u8]) -> u32 {
    let mix = |word: u32| word.wrapping_mul(0xcc9e_2d51).rotate_left(15).wrapping_mul(0x1b87_3593);
    let (words, tail) = bytes.as_chunks::<4>();
    let mut hash = 0u32;
    for word in words {
        hash = (hash ^ mix(u32::from_le_bytes(*word))).rotate_left(13).wrapping_mul(5).wrapping_add(0xe654_6b64);
    }
    let last = tail.iter().rev().fold(0u32, |word, byte| word << 8 | u32::from(*byte));
    hash ^= mix(last) ^ bytes.len() as u32;
    hash = (hash ^ hash >> 16).wrapping_mul(0x85eb_ca6b);
    hash = (hash ^ hash >> 13).wrapping_mul(0xc2b2_ae35);
    hash ^ hash >> 16
}

/// The feature of a text among `buckets`, and its sign.
pub fn bucket(text: &str, buckets: u32) -> (usize, f32) {
    let hash = murmur3(text.as_bytes()).cast_signed();
    ((hash.unsigned_abs() % buckets.max(1)) as usize, if hash < 0 { -1.0 } else { 1.0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `sklearn.utils.murmurhash3_32(text, seed=0, positive=True)`.
    #[test]
    fn published_values() {
        for (text, expected) in [
            ("", 0),
            ("a", 0x3c25_69b2),
            ("foo", 0xf6a5_c420),
            ("Oslo", 0xc812_3f6d),
            ("ünïcode", 0xafae_8a5c),
            ("a longer text", 0xff30_ff50),
        ] {
            assert_eq!(murmur3(text.as_bytes()), expected, "{text:?}");
        }
    }
}
