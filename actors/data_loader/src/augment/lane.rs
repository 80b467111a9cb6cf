//! Lanes of the augmentation stream, one for each choice. They are part of what a seed means: never renumber.

use kernels::philox::{Key, Rng, Stream};

/// What a random number is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Lane {
    /// Whether a text is changed, and by which method.
    Text = 0,
    SynonymReplacement = 1,
    RandomInsertion = 2,
    RandomDeletion = 3,
    WordSwap = 4,
    Crop = 16,
    Rotation = 17,
    Flip = 18,
    Brightness = 19,
    Contrast = 20,
    Saturation = 21,
    Hue = 22,
    Style = 23,
    Blur = 24,
    Noise = 25,
    Cutout = 26,
    Perturbation = 32,
    MixupPartner = 33,
    MixupShare = 34,
    Smote = 48,
}

/// The numbers of (seed, epoch, sample); each lane is a sequence of its own.
#[derive(Debug, Clone, Copy)]
pub struct Draws {
    pub seed: u64,
    pub epoch: u64,
    pub sample: u64,
}

impl Draws {
    pub fn of(self, lane: Lane) -> Rng {
        Key::new(self.seed, Stream::Augment).lane(lane as u32).epoch(self.epoch).rng(self.sample, 0)
    }
}

/// Uniform between two bounds.
pub fn between(rng: &mut Rng, low: f64, high: f64) -> f64 {
    low + (high - low) * rng.uniform()
}
