//! Images as an input: [samples, C, H, W] bytes or numbers, read where they lie and laid out as pixels:
//! a row per pixel, a column per channel, so that convolutions and poolings see contiguous channels and
//! everything that works on items works on pixels.

use super::{DeviceEnv, Env, GradStore, Op, Raw, RawId, Var};
use crate::cpu::gemm::Scratch;
use crate::cuda::machine::word;
use crate::cuda::{Argument, ITEMS, Launch};
use crate::error::{Error, Result};
use crate::tape::Tape;
use std::ops::Range;

/// Pixels, [samples, C, H, W].
#[derive(Clone, Copy, Debug)]
pub enum Pixels<'a> {
    /// 0 to 255.
    Bytes(&'a [u8]),
    Floats(&'a [f32]),
}

/// A grid of pixels and its channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    pub height: usize,
    pub width: usize,
    pub channels: usize,
}

impl Grid {
    /// Pixels of one image.
    pub fn pixels(&self) -> usize {
        self.height * self.width
    }
}

/// One recorded image input.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Image {
    pub output: Var,
    raw: RawId,
    channels: usize,
    pixels: usize,
    factor: f32,
    shift: f32,
}

impl<'a> Tape<'a> {
    /// Pixels [samples, C, H, W] to rows of pixels in raster order, [samples * H * W, C], each
    /// `factor * value + shift`. `Shape` error where the count differs.
    pub fn image(&mut self, pixels: Pixels<'a>, grid: Grid, factor: f32, shift: f32) -> Result<Var> {
        let (len, raw) = match pixels {
            Pixels::Bytes(bytes) => (bytes.len(), Raw::Bytes(bytes)),
            Pixels::Floats(floats) => (floats.len(), Raw::Floats(floats)),
        };
        let one = grid.channels.checked_mul(grid.height).and_then(|n| n.checked_mul(grid.width));
        if one.and_then(|n| n.checked_mul(self.samples())) != Some(len) {
            let expected = format!("{} images of {} x {} x {}", self.samples(), grid.channels, grid.height, grid.width);
            return Err(Error::shape("image", expected, format!("{len} values")));
        }
        let raw = self.hold(raw)?;
        let space = self.items(grid.pixels());
        let output = self.fresh_in(space, grid.channels)?;
        let (channels, pixels) = (grid.channels, grid.pixels());
        self.record(Op::Image(Image { output, raw, channels, pixels, factor, shift }))?;
        Ok(output)
    }
}

impl Image {
    pub(super) fn forward(&self, env: &Env<'_>, samples: Range<usize>, _: &mut Scratch) {
        for sample in samples {
            let y = env.rows_mut(self.output, &env.rows_of(self.output, &(sample..sample + 1)));
            let span = sample * self.channels * self.pixels..(sample + 1) * self.channels * self.pixels;
            match env.raws[self.raw.0] {
                Raw::Bytes(x) => self.spread(x[span].iter().map(|v| f32::from(*v)), y),
                Raw::Floats(x) => self.spread(x[span].iter().copied(), y),
                Raw::Ids(_) => unreachable!("invariant: held as pixels"),
            }
        }
    }

    fn spread(&self, values: impl Iterator<Item = f32>, y: &mut [f32]) {
        let mut values = values.map(|v| v * self.factor + self.shift);
        for c in 0..self.channels {
            y[c..].iter_mut().step_by(self.channels).zip(&mut values).for_each(|(y, v)| *y = v);
        }
    }

    pub(super) fn backward(&self, _: &Env<'_>, _: Range<usize>, _: [GradStore; 2], _: &mut Scratch) {}
}

impl Image {
    pub(super) fn forward_on(&self, env: &mut DeviceEnv<'_>) -> Result<()> {
        let count = env.count(self.output);
        let name = match env.host_raw(self.raw) {
            Raw::Bytes(_) => "image_of_bytes",
            _ => "image_of_floats",
        };
        let arguments = [
            env.raw(self.raw),
            env.data(self.output),
            Argument::Word64(count),
            Argument::Word(word("image", self.channels)?),
            Argument::Word(word("image", self.pixels)?),
            Argument::Float(self.factor),
            Argument::Float(self.shift),
        ];
        env.start("image", ITEMS, name, Launch::over("image", count, 256), &arguments)
    }

    pub(super) fn backward_on(&self, _: &mut DeviceEnv<'_>, _: [GradStore; 2]) -> Result<()> {
        Ok(())
    }
}
