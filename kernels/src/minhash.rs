//! Similar texts among many: the Jaccard similarity of sets of shingles, estimated by the share of equal minima of
//! random permutations (Broder 1997), and bands of such minima that let only similar texts meet (Indyk and Motwani 1998).

use std::sync::OnceLock;

use crate::philox::{Key, Stream};
use crate::pool::Pool;
use crate::text::fnv1a64;

/// The lane of the stream that permutations are drawn from.
const LANE: u32 = 3;
/// A prime above every hash that is permuted: 2^61 - 1.
const PRIME: u64 = (1 << 61) - 1;

/// Random permutations of 61-bit numbers: `(a x + b) mod (2^61 - 1)`.
#[derive(Clone, Debug, PartialEq)]
pub struct MinHasher {
    factors: Vec<(u64, u64)>,
}

impl MinHasher {
    pub fn new(permutations: usize, seed: u64) -> MinHasher {
        let mut rng = Key::new(seed, Stream::Sample).lane(LANE).rng(0, 0);
        let factors = (0..permutations).map(|_| (1 + rng.next_u64() % (PRIME - 1), rng.next_u64() % PRIME));
        MinHasher { factors: factors.collect() }
    }

    /// The least image of the set under each permutation, in its upper 32 bits.
    pub fn signature(&self, set: &[u64]) -> Vec<u32> {
        let least = |&(a, b): &(u64, u64)| {
            let images = set.iter().map(|x| modulo(u128::from(a) * u128::from(x % PRIME) + u128::from(b)));
            (images.min().unwrap_or(PRIME) >> 29) as u32
        };
        self.factors.iter().map(least).collect()
    }
}

/// Modulo 2^61 - 1, by folding.
fn modulo(x: u128) -> u64 {
    let folded = (x & u128::from(PRIME)) as u64 + (x >> 61) as u64;
    if folded >= PRIME { folded - PRIME } else { folded }
}

/// Hashes of all runs of `length` characters, in rising order, each once. Letters are lower-case and blanks are one; a
/// shorter text is one shingle, an empty one none.
pub fn shingles(text: &str, length: usize) -> Vec<u64> {
    let mut plain = String::with_capacity(text.len());
    for word in text.to_lowercase().split_whitespace() {
        if !plain.is_empty() {
            plain.push(' ');
        }
        plain.push_str(word);
    }
    let mut ends: Vec<usize> = plain.char_indices().map(|(at, _)| at).collect();
    ends.push(plain.len());
    let characters = ends.len() - 1;
    let mut hashes: Vec<u64> = if characters == 0 {
        Vec::new()
    } else if characters <= length {
        vec![fnv1a64(plain.as_bytes())]
    } else {
        (0..=characters - length).map(|at| fnv1a64(&plain.as_bytes()[ends[at]..ends[at + length]])).collect()
    };
    hashes.sort_unstable();
    hashes.dedup();
    hashes
}

/// Share of two sets that both have, of sets in rising order. 1 for two empty ones.
pub fn jaccard(a: &[u64], b: &[u64]) -> f64 {
    let (mut i, mut j, mut both) = (0, 0, 0_usize);
    while i < a.len() && j < b.len() {
        match a[i].cmp(&b[j]) {
            std::cmp::Ordering::Less => i += 1,
            std::cmp::Ordering::Greater => j += 1,
            std::cmp::Ordering::Equal => (i, j, both) = (i + 1, j + 1, both + 1),
        }
    }
    let all = a.len() + b.len() - both;
    if all == 0 { 1.0 } else { both as f64 / all as f64 }
}

/// The similarity that two signatures show.
pub fn estimate(a: &[u32], b: &[u32]) -> f64 {
    let equal = a.iter().zip(b).filter(|(a, b)| a == b).count();
    equal as f64 / a.len().max(1) as f64
}

/// Minima of a band so that of two sets as similar as this all but one in a hundred pairs share a band; the more,
/// the fewer others meet.
pub fn band_rows(permutations: usize, similarity: f64) -> usize {
    let missed = |rows: usize| {
        let bands = (permutations / rows) as i32;
        (1.0 - similarity.powi(rows as i32)).powi(bands)
    };
    (1..=permutations).rev().find(|&rows| missed(rows) <= 0.01).unwrap_or(1)
}

/// What pairs are looked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PairConfig {
    pub permutations: usize,
    /// Least Jaccard similarity, in (0, 1].
    pub similarity: f64,
    pub seed: u64,
    /// Most pairs that are compared; beyond, the search ends.
    pub compared: usize,
}

/// Sets that are similar.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pairs {
    /// Two sets, the lower number first, and their exact similarity; in rising order.
    pub similar: Vec<(u32, u32, f64)>,
    /// Whether the search ended before all candidates were compared.
    pub cut_short: bool,
}

/// Sets that are compared at once, and signatures computed.
const BLOCK: usize = 256;

/// The pairs of these sets (in rising order each) that are at least so similar: those that share a band of minima are
/// compared exactly. Empty sets are similar to none.
pub fn similar_pairs(sets: &[Vec<u64>], config: &PairConfig, pool: &Pool) -> Pairs {
    let hasher = MinHasher::new(config.permutations, config.seed);
    let signatures = blocks(pool, sets.len(), |set| hasher.signature(&sets[set]));
    let rows = band_rows(config.permutations, config.similarity);
    let mut candidates: Vec<(u32, u32)> = Vec::new();
    let mut pairs = Pairs::default();
    for band in 0..config.permutations / rows {
        let of = |set: u32| &signatures[set as usize][band * rows..][..rows];
        let mut order: Vec<u32> = (0..sets.len() as u32).filter(|&set| !sets[set as usize].is_empty()).collect();
        order.sort_unstable_by(|&a, &b| of(a).cmp(of(b)).then(a.cmp(&b)));
        for bucket in order.chunk_by(|&a, &b| of(a) == of(b)) {
            for (place, &a) in bucket.iter().enumerate() {
                candidates.extend(bucket[place + 1..].iter().map(|&b| (a, b)).take(config.compared));
                if candidates.len() > 2 * config.compared {
                    candidates.sort_unstable();
                    candidates.dedup();
                    if candidates.len() > config.compared {
                        candidates.truncate(config.compared);
                        pairs.cut_short = true;
                        break;
                    }
                }
            }
        }
    }
    candidates.sort_unstable();
    candidates.dedup();
    pairs.cut_short |= candidates.len() > config.compared;
    candidates.truncate(config.compared);
    let similarities = blocks(pool, candidates.len(), |pair| {
        let (a, b) = candidates[pair];
        jaccard(&sets[a as usize], &sets[b as usize])
    });
    let found = candidates.iter().zip(similarities).filter(|(_, similarity)| *similarity >= config.similarity);
    pairs.similar = found.map(|(&(a, b), similarity)| (a, b, similarity)).collect();
    pairs
}

/// A value for each index, computed by several threads.
fn blocks<T: Send + Sync>(pool: &Pool, count: usize, value: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let slots: Vec<OnceLock<Vec<T>>> = (0..count.div_ceil(BLOCK)).map(|_| OnceLock::new()).collect();
    pool.parallel_for(count, BLOCK, |_, range| {
        let block = range.start / BLOCK;
        assert!(slots[block].set(range.map(&value).collect()).is_ok(), "invariant: each block is computed once");
    });
    slots.into_iter().flat_map(|slot| slot.into_inner().expect("invariant: every block is computed")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shingles_are_of_characters() {
        assert_eq!(shingles("  Äpfel\tund  ", 20), vec![fnv1a64("äpfel und".as_bytes())]);
        assert_eq!(shingles("aaaaaaa", 3).len(), 1);
        assert_eq!(shingles("abcdef", 5).len(), 2);
        assert!(shingles(" \n", 5).is_empty());
        let (a, b) = (shingles("abcd", 3), shingles("bcde", 3));
        assert_eq!(jaccard(&a, &b), 1.0 / 3.0);
        assert_eq!(jaccard(&[], &[]), 1.0);
    }

    /// The estimate's standard error is sqrt(J (1 - J) / permutations); four of them are allowed, and the mean over many
    /// pairs is much nearer.
    #[test]
    fn estimates_are_within_their_error() {
        let hasher = MinHasher::new(128, 4);
        let mut rng = Key::new(2, Stream::Generate).rng(0, 0);
        let (mut bias, mut pairs) = (0.0, 0);
        for shared in [0, 5, 20, 50, 80, 95, 100] {
            for _ in 0..20 {
                let mut draw = |count: usize| (0..count).map(|_| rng.next_u64()).collect::<Vec<u64>>();
                let (both, left, right) = (draw(shared), draw(100 - shared), draw(100 - shared));
                let sorted = |own: &[u64]| {
                    let mut set: Vec<u64> = both.iter().chain(own).copied().collect();
                    set.sort_unstable();
                    set
                };
                let (a, b) = (sorted(&left), sorted(&right));
                let exact = jaccard(&a, &b);
                let found = estimate(&hasher.signature(&a), &hasher.signature(&b));
                let error = (exact * (1.0 - exact) / 128.0).sqrt();
                assert!((found - exact).abs() <= 4.0 * error + 1e-12, "{shared}: {found}, exactly {exact}");
                bias += found - exact;
                pairs += 1;
            }
        }
        assert!((bias / f64::from(pairs)).abs() < 0.01, "{bias}");
    }

    #[test]
    fn bands_let_similar_sets_meet() {
        assert_eq!(band_rows(128, 1.0), 128);
        for similarity in [0.5_f64, 0.8, 0.95] {
            let rows = band_rows(128, similarity);
            let meet = 1.0 - (1.0 - similarity.powi(rows as i32)).powi((128 / rows) as i32);
            assert!(meet >= 0.99, "{similarity}: {rows} rows, {meet}");
        }
        assert!((4..=7).contains(&band_rows(128, 0.8)));
    }

    /// All pairs by hand against those that share a band.
    #[test]
    fn similar_pairs_are_found_and_no_others() {
        let mut rng = Key::new(6, Stream::Generate).rng(0, 0);
        let texts: Vec<String> = (0..300)
            .map(|i| {
                let words: Vec<String> = (0..12).map(|w| format!("word{}", (i / 3 * 31 + w * 7) % 400)).collect();
                let mut words = words;
                let at = rng.below(12) as usize;
                words[at] = format!("other{}", rng.below(50));
                words.join(" ")
            })
            .collect();
        let mut sets: Vec<Vec<u64>> = texts.iter().map(|text| shingles(text, 5)).collect();
        sets.push(Vec::new());
        sets.push(Vec::new());
        let config = PairConfig { permutations: 128, similarity: 0.7, seed: 1, compared: 1_000_000 };
        let pairs = similar_pairs(&sets, &config, &Pool::new(3));
        assert_eq!(similar_pairs(&sets, &config, &Pool::new(1)), pairs);
        let all = (0..300_u32).flat_map(|a| (a + 1..300).map(move |b| (a, b)));
        let expected: Vec<(u32, u32, f64)> = all
            .map(|(a, b)| (a, b, jaccard(&sets[a as usize], &sets[b as usize])))
            .filter(|(_, _, similarity)| *similarity >= 0.7)
            .collect();
        assert!(expected.len() > 50, "{}", expected.len());
        let missed = expected.iter().filter(|pair| !pairs.similar.contains(pair)).count();
        assert!(missed * 50 <= expected.len(), "{missed} of {} missed", expected.len());
        assert!(pairs.similar.iter().all(|pair| expected.contains(pair)));
        let few = similar_pairs(&sets, &PairConfig { compared: 10, ..config }, &Pool::new(2));
        assert!(few.cut_short && few.similar.len() <= 10);
    }
}
