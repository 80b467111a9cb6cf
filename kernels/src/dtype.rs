//! Element types and their conversions, and the precision of a training.
//!
//! # Where a mixed-precision training rounds
//! Arithmetic is f32 everywhere; what has 16 bits is rounded to nearest, ties to even, at three places:
//! 1. the **compute weights**: after every optimizer step the f32 master weights are rounded, and the
//!    rounded ones are what forward and backward passes, evaluation and the model file see;
//! 2. the **mean gradient** of a global batch, after the sum over shards and ranks and before its norm
//!    (with f16 multiplied by the loss scale, as PyTorch's `GradScaler` has it, and divided again after);
//! 3. the **model file**, where 16-bit weights are stored as such.
//!
//! Running statistics of norms are no weights: they are f32 in all three.
//!
//! Activations and their gradients stay f32: a CPU has nothing to win by rounding them. Backward passes in f32
//! commute with a scale that is a power of two, so the scale is applied where the rounding is. A CUDA device also
//! rounds the factors of the products of linear layers and convolutions, whose sums are f32; the loss scale is
//! then on the way back through the model, and gradients that it makes overflow leave the step out. Each place
//! is a function of sums that do not depend on ranks or threads, so neither do the bits.

use crate::cpu::simd;
use crate::error::{Error, Result};
use half::f16;
use half::slice::HalfFloatSliceExt;

/// What weights and gradients are rounded to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// Nothing is rounded.
    #[default]
    #[serde(alias = "fp32", alias = "float32")]
    F32,
    /// 8 bits of exponent, 8 of precision: the range of f32.
    #[serde(alias = "bfloat16")]
    Bf16,
    /// 5 bits of exponent, 11 of precision: up to 65,504, and gradients need a loss scale.
    #[serde(alias = "fp16", alias = "float16")]
    F16,
}

impl Precision {
    /// Bytes of an element in a file.
    pub fn bytes(self) -> usize {
        match self {
            Precision::F32 => 4,
            Precision::Bf16 | Precision::F16 => 2,
        }
    }

    /// The name of the element type in a safetensors file.
    pub fn name(self) -> &'static str {
        match self {
            Precision::F32 => "F32",
            Precision::Bf16 => "BF16",
            Precision::F16 => "F16",
        }
    }

    /// The nearest value of this precision, as f32; beyond its range infinity.
    pub fn round(self, value: f32) -> f32 {
        match self {
            Precision::F32 => value,
            Precision::Bf16 => nearest_bf16(value),
            Precision::F16 => nearest_f16(value),
        }
    }

    /// Writes the nearest values of this precision.
    pub(crate) fn round_to(self, values: &[f32], out: &mut [f32]) {
        match self {
            Precision::F32 => out.copy_from_slice(values),
            Precision::Bf16 => round_bf16(values, out),
            Precision::F16 => round_f16(values, out),
        }
    }

    /// Appends the little-endian bytes of values, rounded.
    pub(crate) fn encode(self, values: &[f32], out: &mut Vec<u8>) {
        let mut words = [0u16; 512];
        match self {
            Precision::F32 => values.iter().for_each(|v| out.extend_from_slice(&v.to_le_bytes())),
            Precision::Bf16 | Precision::F16 => {
                for block in values.chunks(words.len()) {
                    let words = &mut words[..block.len()];
                    if self == Precision::Bf16 {
                        to_bf16(block, words)
                    } else {
                        to_f16(block, words)
                    }
                    words.iter().for_each(|w| out.extend_from_slice(&w.to_le_bytes()));
                }
            }
        }
    }

    /// The values of little-endian bytes; exact.
    pub(crate) fn decode(self, bytes: &[u8]) -> Vec<f32> {
        if self == Precision::F32 {
            return bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        }
        let words: Vec<u16> = bytes.as_chunks::<2>().0.iter().map(|b| u16::from_le_bytes(*b)).collect();
        let mut out = vec![0.0; words.len()];
        if self == Precision::Bf16 {
            from_bf16(&words, &mut out)
        } else {
            from_f16(&words, &mut out)
        }
        out
    }
}

/// To bf16, by integers: adding half a unit in the last place, and the last bit, rounds to nearest even.
/// A NaN stays one and becomes quiet.
#[inline(always)]
fn nearest_bf16(value: f32) -> f32 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) & 0xffff_0000;
    let quiet = (bits | 0x0040_0000) & 0xffff_0000;
    f32::from_bits(if value.is_nan() { quiet } else { rounded })
}

/// To f16: as above by 13 bits for normal numbers; below 2^-14 the sum with 0.5, whose unit in the last
/// place is 2^-24, rounds to a multiple of that.
#[inline(always)]
fn nearest_f16(value: f32) -> f32 {
    let bits = value.to_bits();
    let sign = bits & 0x8000_0000;
    let magnitude = bits & 0x7fff_ffff;
    let rounded = magnitude.wrapping_add(0xfff + (magnitude >> 13 & 1)) & 0xffff_e000;
    // 65,520 is half way between the largest f16 and the next that is not one.
    let normal = if magnitude >= 0x477f_f000 { 0x7f80_0000 } else { rounded };
    let tiny = ((f32::from_bits(magnitude) + 0.5) - 0.5).to_bits();
    let finite = if magnitude < 0x3880_0000 { tiny } else { normal };
    let quiet = (magnitude | 0x0040_0000) & 0xffff_e000;
    f32::from_bits(sign | if magnitude > 0x7f80_0000 { quiet } else { finite })
}

simd! {
    fn round_bf16(values: &[f32], out: &mut [f32]) {
        values.iter().zip(out).for_each(|(v, o)| *o = nearest_bf16(*v));
    }
}

simd! {
    fn round_f16(values: &[f32], out: &mut [f32]) {
        values.iter().zip(out).for_each(|(v, o)| *o = nearest_f16(*v));
    }
}

simd! {
    /// Nearest bf16, ties to even.
    pub fn to_bf16(values: &[f32], out: &mut [u16]) {
        values.iter().zip(out).for_each(|(v, o)| *o = (nearest_bf16(*v).to_bits() >> 16) as u16);
    }
}

simd! {
    /// Exact.
    pub fn from_bf16(values: &[u16], out: &mut [f32]) {
        values.iter().zip(out).for_each(|(v, o)| *o = f32::from_bits(u32::from(*v) << 16));
    }
}

/// Nearest f16, ties to even; beyond 65,504 infinity. Slices of one length.
pub fn to_f16(values: &[f32], out: &mut [u16]) {
    use half::slice::HalfBitsSliceExt;
    out.reinterpret_cast_mut::<f16>().convert_from_f32_slice(values);
}

/// Exact. Slices of one length.
pub fn from_f16(values: &[u16], out: &mut [f32]) {
    use half::slice::HalfBitsSliceExt;
    values.reinterpret_cast::<f16>().convert_to_f32_slice(out);
}

simd! {
    /// Makes a summed gradient the mean one of this precision, in place: each element times `scale` is
    /// rounded to f16 and divided by the loss scale again (`unscale`). Returns whether one overflowed.
    pub(crate) fn round_gradient_f16(gradient: &mut [f32], scale: f32, unscale: f32) -> bool {
        let mut overflow = 0u32;
        for g in gradient.iter_mut() {
            let rounded = nearest_f16(*g * scale);
            overflow |= u32::from((rounded.to_bits() & 0x7f80_0000) == 0x7f80_0000);
            *g = rounded * unscale;
        }
        overflow != 0
    }
}

simd! {
    /// The same for bf16, which needs no scale.
    pub(crate) fn round_gradient_bf16(gradient: &mut [f32], scale: f32) {
        gradient.iter_mut().for_each(|g| *g = nearest_bf16(*g * scale));
    }
}

/// Dynamic loss scaling (Micikevicius et al. 2018, section 3.2), with the defaults of PyTorch's `GradScaler`.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LossScaleConfig {
    /// The first scale.
    #[serde(alias = "init_scale")]
    pub initial_scale: f64,
    /// The scale is multiplied by this after `growth_interval` steps without overflow.
    pub growth_factor: f64,
    /// And by this at an overflow, when the step is left out.
    pub backoff_factor: f64,
    pub growth_interval: u64,
}

impl Default for LossScaleConfig {
    fn default() -> Self {
        LossScaleConfig { initial_scale: 65_536.0, growth_factor: 2.0, backoff_factor: 0.5, growth_interval: 2000 }
    }
}

impl LossScaleConfig {
    /// Refuses values out of range, naming the key.
    pub fn validate(&self) -> Result<()> {
        let refuse = |expected: &str, got: f64| Err(Error::value("loss_scale", expected, got));
        if !((self.initial_scale as f32).is_finite() && self.initial_scale as f32 > 0.0) {
            return refuse("initial_scale above 0 and within f32", self.initial_scale);
        }
        if !(self.growth_factor.is_finite() && self.growth_factor > 1.0) {
            return refuse("a finite growth_factor above 1", self.growth_factor);
        }
        if !(self.backoff_factor > 0.0 && self.backoff_factor < 1.0) {
            return refuse("backoff_factor in (0, 1)", self.backoff_factor);
        }
        if self.growth_interval == 0 {
            return refuse("growth_interval of at least 1", 0.0);
        }
        Ok(())
    }
}

/// What a saved state keeps of a [`LossScaler`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LossScaleState {
    /// f32 bits.
    pub scale_bits: u32,
    /// Steps without overflow since the scale last changed.
    pub good_steps: u64,
}

/// The scale under way.
#[derive(Clone, Debug)]
pub struct LossScaler {
    config: LossScaleConfig,
    state: LossScaleState,
}

impl LossScaler {
    /// At the first scale.
    pub fn new(config: &LossScaleConfig) -> Result<LossScaler> {
        config.validate()?;
        let scale_bits = (config.initial_scale as f32).to_bits();
        Ok(LossScaler { config: config.clone(), state: LossScaleState { scale_bits, good_steps: 0 } })
    }

    /// The scale of the next step.
    pub fn scale(&self) -> f32 {
        f32::from_bits(self.state.scale_bits)
    }

    /// A step's gradient was finite, and taken.
    pub fn on_step(&mut self) {
        self.state.good_steps += 1;
        if self.state.good_steps == self.config.growth_interval {
            let grown = (f64::from(self.scale()) * self.config.growth_factor) as f32;
            if grown.is_finite() {
                self.state.scale_bits = grown.to_bits();
            }
            self.state.good_steps = 0;
        }
    }

    /// A step's gradient overflowed, and the step was left out. The scale does not fall below the least
    /// normal f32, where it would be of no more use.
    pub fn on_overflow(&mut self) {
        let reduced = (f64::from(self.scale()) * self.config.backoff_factor) as f32;
        self.state = LossScaleState { scale_bits: reduced.max(f32::MIN_POSITIVE).to_bits(), good_steps: 0 };
    }

    /// For a saved state.
    pub fn state(&self) -> LossScaleState {
        self.state
    }

    /// From a saved state. `Weights` error for a scale that is none.
    pub fn restore(&mut self, state: LossScaleState) -> Result<()> {
        let scale = f32::from_bits(state.scale_bits);
        if !(scale.is_finite() && scale > 0.0) {
            return Err(Error::weights("loss scale", "a finite scale above 0", scale.to_string()));
        }
        self.state = state;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::bf16;

    /// Every f16 and bf16 with its neighbors in f32, and every exponent with odd mantissas.
    fn probes() -> Vec<f32> {
        let mut probes = Vec::new();
        for word in 0..=u16::MAX {
            for value in [f16::from_bits(word).to_f32(), bf16::from_bits(word).to_f32()] {
                for near in [-2i32, -1, 0, 1, 2, 0x7ff, 0x800, 0xfff, 0x1000, 0x1001, 0x7fff, 0x8000, 0x8001] {
                    probes.push(f32::from_bits(value.to_bits().wrapping_add_signed(near)));
                }
            }
        }
        probes
    }

    #[test]
    fn rounding_is_that_of_the_half_crate_for_every_neighborhood() {
        let probes = probes();
        let (mut a, mut b) = (vec![0.0; probes.len()], vec![0u16; probes.len()]);
        Precision::F16.round_to(&probes, &mut a);
        to_f16(&probes, &mut b);
        for ((x, rounded), word) in probes.iter().zip(&a).zip(&b) {
            let want = f16::from_f32(*x);
            assert!(
                *word == want.to_bits() || want.is_nan() && f16::from_bits(*word).is_nan(),
                "{x:e}: {word:x}, not {want:?}"
            );
            assert!(rounded.to_bits() == want.to_f32().to_bits() || want.is_nan() && rounded.is_nan(), "{x:e}");
        }
        Precision::Bf16.round_to(&probes, &mut a);
        to_bf16(&probes, &mut b);
        for ((x, rounded), word) in probes.iter().zip(&a).zip(&b) {
            let want = bf16::from_f32(*x);
            assert!(*word == want.to_bits() && rounded.to_bits() == want.to_f32().to_bits(), "{x:e}");
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        let values: Vec<f32> = (0..1030).map(|i| (i as f32 - 500.0) * 0.37).collect();
        for precision in [Precision::F32, Precision::Bf16, Precision::F16] {
            let mut bytes = Vec::new();
            precision.encode(&values, &mut bytes);
            assert_eq!(bytes.len(), values.len() * precision.bytes());
            let want: Vec<f32> = values.iter().map(|v| precision.round(*v)).collect();
            assert_eq!(precision.decode(&bytes), want);
        }
    }

    #[test]
    fn a_scaled_gradient_keeps_what_an_unscaled_one_loses_and_overflow_is_seen() {
        let tiny = 2f32.powi(-26);
        let mut unscaled = vec![tiny; 33];
        assert!(!round_gradient_f16(&mut unscaled, 1.0, 1.0) && unscaled.iter().all(|g| *g == 0.0));
        let mut scaled = vec![tiny; 33];
        assert!(!round_gradient_f16(&mut scaled, 1024.0, 1.0 / 1024.0) && scaled.iter().all(|g| *g == tiny));
        let mut large = vec![1.0, 70.0, -1.0];
        assert!(round_gradient_f16(&mut large, 1024.0, 1.0 / 1024.0));
        let mut undefined = vec![1.0, f32::NAN];
        assert!(round_gradient_f16(&mut undefined, 1.0, 1.0));
    }

    #[test]
    fn settings_out_of_range_are_refused_by_key() {
        for (text, key) in [
            (r#"{"initial_scale":0}"#, "initial_scale"),
            (r#"{"init_scale":1e40}"#, "initial_scale"),
            (r#"{"growth_factor":1}"#, "growth_factor"),
            (r#"{"backoff_factor":1}"#, "backoff_factor"),
            (r#"{"growth_interval":0}"#, "growth_interval"),
        ] {
            let config: LossScaleConfig = serde_json::from_str(text).expect("well-formed");
            assert!(config.validate().expect_err("out of range").to_string().contains(key), "{text}");
        }
        let mut scaler = LossScaler::new(&LossScaleConfig::default()).expect("valid");
        for state in [f32::NAN, 0.0, -1.0, f32::INFINITY] {
            assert!(scaler.restore(LossScaleState { scale_bits: state.to_bits(), good_steps: 0 }).is_err());
        }
        for _ in 0..400 {
            scaler.on_overflow();
        }
        assert_eq!(scaler.scale(), f32::MIN_POSITIVE);
    }
}
