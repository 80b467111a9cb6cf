//! Random numbers that are addressed, not drawn: Philox4x32-10 (Salmon et al., "Parallel random numbers:
//! as easy as 1, 2, 3", SC 2011). A number is a function of (seed, stream, lane, epoch, sample, step,
//! index), never of a rank, a thread or what was asked before.
//!
//! Layout: a [`Key`] is the first 64 bits of the block with key = seed and counter = (stream, lane,
//! epoch low, epoch high); a number is then a word of the block with that key and counter =
//! (block, step, sample low, sample high).

use crate::cpu::math::{cos_sin_turns, exp_f64, ln_f64};
use crate::cpu::simd;

const MUL_0: u32 = 0xD251_1F53;
const MUL_1: u32 = 0xCD9E_8D57;
const WEYL_0: u32 = 0x9E37_79B9;
const WEYL_1: u32 = 0xBB67_AE85;

/// One block: 128 random bits for a 128-bit counter and a 64-bit key.
#[inline(always)]
pub fn block(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let a = u64::from(MUL_0) * u64::from(counter[0]);
        let b = u64::from(MUL_1) * u64::from(counter[2]);
        counter = [(b >> 32) as u32 ^ counter[1] ^ key[0], b as u32, (a >> 32) as u32 ^ counter[3] ^ key[1], a as u32];
        key = [key[0].wrapping_add(WEYL_0), key[1].wrapping_add(WEYL_1)];
    }
    counter
}

/// What random numbers are for. The numbers are part of what a seed means: never renumber.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Stream {
    /// Initial weights.
    Init = 0,
    /// Order of samples.
    Shuffle = 1,
    /// Dropped activations.
    Dropout = 2,
    /// Data augmentation.
    Augment = 3,
    /// Train, validation and test assignment.
    Split = 4,
    /// Generated data.
    Generate = 5,
    /// Sampling in searches, bootstraps and permutation tests.
    Sample = 6,
}

/// A seed, a stream, a lane within the stream (a layer, a parameter) and an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    seed: u64,
    stream: Stream,
    lane: u32,
    epoch: u64,
}

impl Key {
    /// Lane 0 and epoch 0 of a stream.
    pub fn new(seed: u64, stream: Stream) -> Key {
        Key { seed, stream, lane: 0, epoch: 0 }
    }

    /// The same with this lane: what two layers or parameters differ in.
    pub fn lane(self, lane: u32) -> Key {
        Key { lane, ..self }
    }

    /// The same with this epoch.
    pub fn epoch(self, epoch: u64) -> Key {
        Key { epoch, ..self }
    }

    /// The 64 bits under which numbers of this key are computed.
    pub fn words(self) -> [u32; 2] {
        let counter = [self.stream as u32, self.lane, self.epoch as u32, (self.epoch >> 32) as u32];
        let derived = block(counter, [self.seed as u32, (self.seed >> 32) as u32]);
        [derived[0], derived[1]]
    }

    /// The numbers of one sample at one step, in sequence.
    pub fn rng(self, sample: u64, step: u32) -> Rng {
        Rng { key: self.words(), sample, step, index: 0, held: [0; 4] }
    }
}

/// A sequence of numbers: word `index % 4` of block `index / 4`.
#[derive(Clone, Debug)]
pub struct Rng {
    key: [u32; 2],
    sample: u64,
    step: u32,
    index: u64,
    held: [u32; 4],
}

impl Rng {
    /// 32 random bits. A sequence is 2^34 words long, then repeats.
    pub fn next_u32(&mut self) -> u32 {
        if self.index.is_multiple_of(4) {
            let counter = [(self.index / 4) as u32, self.step, self.sample as u32, (self.sample >> 32) as u32];
            self.held = block(counter, self.key);
        }
        let word = self.held[(self.index % 4) as usize];
        self.index += 1;
        word
    }

    /// 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        u64::from(self.next_u32()) | u64::from(self.next_u32()) << 32
    }

    /// Uniform in [0, 1), a multiple of 2^-53.
    pub fn uniform(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 * 2f64.powi(-53)
    }

    /// Standard normal, by Box and Muller (1958); two uniforms each.
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * ln_f64(1.0 - self.uniform())).sqrt();
        radius * cos_sin_turns(self.uniform()).0
    }

    /// Beta(alpha, alpha) for alpha in (0, 1], by rejection (Joehnk 1964), in logarithms as small alphas underflow.
    pub fn beta(&mut self, alpha: f64) -> f64 {
        assert!(alpha > 0.0 && alpha <= 1.0, "invariant: alpha in (0, 1]");
        loop {
            let (x, y) = (ln_f64(1.0 - self.uniform()) / alpha, ln_f64(1.0 - self.uniform()) / alpha);
            if exp_f64(x) + exp_f64(y) <= 1.0 {
                return 1.0 / (1.0 + exp_f64(y - x));
            }
        }
    }

    /// Uniform in `0..n` without bias, by multiplication and rejection (Lemire 2019). `n` above 0.
    pub fn below(&mut self, n: u32) -> u32 {
        assert!(n > 0, "invariant: a draw among at least one");
        let floor = n.wrapping_neg() % n;
        loop {
            let product = u64::from(self.next_u32()) * u64::from(n);
            if product as u32 >= floor {
                return (product >> 32) as u32;
            }
        }
    }

    /// Shuffles in place (Fisher and Yates). At most 2^32 - 1 items.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            let bound = u32::try_from(i + 1).expect("invariant: fewer than 2^32 items are shuffled");
            items.swap(i, self.below(bound) as usize);
        }
    }
}

/// A permutation of `0..n`, a function of (seed, stream, epoch, n).
pub fn permutation(seed: u64, stream: Stream, epoch: u64, n: usize) -> Vec<u32> {
    let count = u32::try_from(n).expect("invariant: fewer than 2^32 items are permuted");
    let mut order: Vec<u32> = (0..count).collect();
    Key::new(seed, stream).epoch(epoch).rng(0, 0).shuffle(&mut order);
    order
}

/// Lanes of [`fill_words`]: blocks computed side by side so that the loop vectorizes.
const WIDE: usize = 8;

simd! {
    /// Fills `out` with the words of one sample and step, from block `first` on: word `i` is word `i % 4`
    /// of block `first + i / 4`.
    pub(crate) fn fill_words(key: [u32; 2], sample: u64, step: u32, first: u32, out: &mut [u32]) {
        for (group, words) in out.chunks_mut(4 * WIDE).enumerate() {
            let mut c = [[0u32; WIDE]; 4];
            for lane in 0..WIDE {
                c[0][lane] = first.wrapping_add((group * WIDE + lane) as u32);
            }
            c[1] = [step; WIDE];
            c[2] = [sample as u32; WIDE];
            c[3] = [(sample >> 32) as u32; WIDE];
            let mut k = key;
            for _ in 0..10 {
                let mut next = [[0u32; WIDE]; 4];
                for lane in 0..WIDE {
                    let a = u64::from(MUL_0) * u64::from(c[0][lane]);
                    let b = u64::from(MUL_1) * u64::from(c[2][lane]);
                    next[0][lane] = (b >> 32) as u32 ^ c[1][lane] ^ k[0];
                    next[1][lane] = b as u32;
                    next[2][lane] = (a >> 32) as u32 ^ c[3][lane] ^ k[1];
                    next[3][lane] = a as u32;
                }
                c = next;
                k = [k[0].wrapping_add(WEYL_0), k[1].wrapping_add(WEYL_1)];
            }
            for (i, word) in words.iter_mut().enumerate() {
                *word = c[i % 4][i / 4];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers of the Random123 distribution, file kat_vectors, lines `philox4x32 10`.
    #[test]
    fn published_vectors() {
        let ones = u32::MAX;
        assert_eq!(block([0; 4], [0; 2]), [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
        assert_eq!(block([ones; 4], [ones; 2]), [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]);
        let pi = [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344];
        assert_eq!(block(pi, [0xa4093822, 0x299f31d0]), [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1]);
    }

    #[test]
    fn the_wide_loop_gives_the_same_words() {
        let key = Key::new(7, Stream::Dropout).lane(3).epoch(2);
        for n in [0, 1, 4, 31, 32, 33, 100] {
            let mut wide = vec![0; n];
            fill_words(key.words(), 0x1_2345_6789, 11, 0, &mut wide);
            let mut rng = key.rng(0x1_2345_6789, 11);
            let narrow: Vec<u32> = (0..n).map(|_| rng.next_u32()).collect();
            assert_eq!(wide, narrow);
        }
    }

    #[test]
    fn addresses_differ_in_every_part() {
        let base = Key::new(1, Stream::Init);
        let first = |key: Key, sample, step| key.rng(sample, step).next_u64();
        let seen = [
            first(base, 0, 0),
            first(base, 1, 0),
            first(base, 1 << 32, 0),
            first(base, 0, 1),
            first(base.lane(1), 0, 0),
            first(base.epoch(1), 0, 0),
            first(base.epoch(1 << 32), 0, 0),
            first(Key::new(1, Stream::Shuffle), 0, 0),
            first(Key::new(1 << 32, Stream::Init), 0, 0),
        ];
        for (i, a) in seen.iter().enumerate() {
            assert!(seen[..i].iter().all(|b| a != b), "address {i} repeats");
        }
    }

    #[test]
    fn moments_are_right() {
        let mut rng = Key::new(42, Stream::Generate).rng(0, 0);
        let n = 40_000;
        let (mut mean, mut square, mut uniform) = (0.0, 0.0, 0.0);
        for _ in 0..n {
            let z = rng.normal();
            mean += z / n as f64;
            square += z * z / n as f64;
            uniform += rng.uniform() / n as f64;
        }
        assert!(mean.abs() < 0.02 && (square - 1.0).abs() < 0.03 && (uniform - 0.5).abs() < 0.01);
    }

    /// Mean 1/2, variance 1 / (4 (2 alpha + 1)).
    #[test]
    fn beta_has_its_moments() {
        for alpha in [0.05, 0.2, 0.5, 1.0] {
            let mut rng = Key::new(3, Stream::Augment).rng(1, 0);
            let n = 20_000;
            let all: Vec<f64> = (0..n).map(|_| rng.beta(alpha)).collect();
            let mean = all.iter().sum::<f64>() / f64::from(n);
            let variance = all.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / f64::from(n);
            let expected = 1.0 / (4.0 * (2.0 * alpha + 1.0));
            assert!(all.iter().all(|x| (0.0..=1.0).contains(x)));
            assert!(
                (mean - 0.5).abs() < 0.01 && (variance / expected - 1.0).abs() < 0.03,
                "{alpha}: {mean} {variance}"
            );
        }
    }

    #[test]
    fn permutations_are_permutations_and_keyed() {
        for n in [0, 1, 2, 97, 1000] {
            let mut order = permutation(5, Stream::Shuffle, 3, n);
            assert_eq!(order, permutation(5, Stream::Shuffle, 3, n));
            order.sort_unstable();
            assert_eq!(order, (0..n as u32).collect::<Vec<_>>());
        }
        assert_ne!(permutation(5, Stream::Shuffle, 3, 100), permutation(5, Stream::Shuffle, 4, 100));
        let counts = (0..3000).fold([0; 3], |mut counts, seed| {
            counts[permutation(seed, Stream::Shuffle, 0, 3)[0] as usize] += 1;
            counts
        });
        assert!(counts.iter().all(|&c| (900..1100).contains(&c)), "{counts:?}");
    }
}
