//! What happens to an image: bytes, channel by channel, changed in place by the chosen methods in the order of
//! [`ImageMethod::ALL`]. Arithmetic is in f32 with functions of our own, so a host's library moves no bit.

mod color;
mod geometry;
mod style;

use kernels::philox::Rng;
use messages::plan::{Chance, ImageAugmentation, ImageMethod};

pub use style::Style;

use super::lane::{Draws, Lane, between};

/// Sides of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    pub channels: usize,
    pub height: usize,
    pub width: usize,
}

impl Shape {
    /// Bytes of an image.
    pub fn size(self) -> usize {
        self.channels * self.height * self.width
    }

    fn area(self) -> usize {
        self.height * self.width
    }
}

/// The nearest byte.
fn byte(value: f32) -> u8 {
    // The cast saturates, and takes NaN for 0.
    (value + 0.5).floor() as u8
}

/// Changes the image of a sample.
pub fn augment(pixels: &mut [u8], shape: Shape, plan: &ImageAugmentation, styles: &[Style], draws: Draws) {
    for method in ImageMethod::ALL {
        if plan.methods.contains(&method) {
            let (lane, prob) = lane_and_prob(method, plan);
            let mut rng = draws.of(lane);
            if rng.uniform() < prob {
                apply(method, pixels, shape, plan, styles, &mut rng);
            }
        }
    }
}

fn lane_and_prob(method: ImageMethod, plan: &ImageAugmentation) -> (Lane, f64) {
    match method {
        ImageMethod::Crop => (Lane::Crop, plan.crop.prob),
        ImageMethod::Rotation => (Lane::Rotation, plan.rotation.prob),
        ImageMethod::Flip => (Lane::Flip, plan.flip.prob),
        ImageMethod::Brightness => (Lane::Brightness, plan.brightness.prob),
        ImageMethod::Contrast => (Lane::Contrast, plan.contrast.prob),
        ImageMethod::Saturation => (Lane::Saturation, plan.saturation.prob),
        ImageMethod::Hue => (Lane::Hue, plan.hue.prob),
        ImageMethod::Style => (Lane::Style, plan.style.prob),
        ImageMethod::Blur => (Lane::Blur, plan.blur.prob),
        ImageMethod::Noise => (Lane::Noise, plan.noise.prob),
        ImageMethod::Cutout => (Lane::Cutout, plan.cutout.prob),
    }
}

/// One method, certainly, with what `rng` draws within its range.
pub fn apply(
    method: ImageMethod,
    pixels: &mut [u8],
    shape: Shape,
    plan: &ImageAugmentation,
    styles: &[Style],
    rng: &mut Rng,
) {
    let factor = |chance: Chance, rng: &mut Rng| between(rng, 1.0 - chance.range, 1.0 + chance.range) as f32;
    let up_to = |range: f64, rng: &mut Rng| range * rng.uniform();
    match method {
        ImageMethod::Crop => geometry::crop(pixels, shape, geometry::draw_crop(shape, plan.crop.range, rng)),
        ImageMethod::Rotation => {
            let degrees = between(rng, -plan.rotation.range, plan.rotation.range);
            geometry::rotate(pixels, shape, degrees / 360.0);
        }
        ImageMethod::Flip => geometry::flip(pixels, shape),
        ImageMethod::Brightness => color::brightness(pixels, factor(plan.brightness, rng)),
        ImageMethod::Contrast => color::contrast(pixels, shape, factor(plan.contrast, rng)),
        ImageMethod::Saturation => color::saturation(pixels, shape, factor(plan.saturation, rng)),
        ImageMethod::Hue => color::hue(pixels, shape, between(rng, -plan.hue.range, plan.hue.range) as f32),
        ImageMethod::Style => {
            if let Some(count) = u32::try_from(styles.len()).ok().filter(|&count| count > 0) {
                let style = &styles[rng.below(count) as usize];
                style.transfer(pixels, shape, up_to(plan.style.range, rng));
            }
        }
        ImageMethod::Blur => geometry::blur(pixels, shape, up_to(plan.blur.range, rng)),
        ImageMethod::Noise => {
            let std = (255.0 * up_to(plan.noise.range, rng)) as f32;
            for pixel in pixels {
                *pixel = byte(f32::from(*pixel) + std * rng.normal() as f32);
            }
        }
        ImageMethod::Cutout => {
            let side = up_to(plan.cutout.range, rng) * shape.height.min(shape.width) as f64;
            let (row, column) = (rng.below(shape.height as u32), rng.below(shape.width as u32));
            geometry::cutout(pixels, shape, (row as usize, column as usize), (side + 0.5).floor() as usize);
        }
    }
}

#[cfg(test)]
mod tests;
