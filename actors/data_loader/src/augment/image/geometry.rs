//! Crop and resize, rotation, flip, blur, cut-out: what moves or covers pixels. Beyond its border an image goes
//! on with its last pixel.

use kernels::cpu::math::{cos_sin_turns, exp_f64, ln_f64};
use kernels::philox::Rng;

use super::super::lane::between;
use super::{Shape, byte};

/// The part of an image that stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crop {
    pub top: usize,
    pub left: usize,
    pub height: usize,
    pub width: usize,
}

/// A share of the area from `least` to 1, sides from 3:4 to 4:3 of the image's, anywhere.
pub fn draw_crop(shape: Shape, least: f64, rng: &mut Rng) -> Crop {
    let share = between(rng, least, 1.0);
    let widest = ln_f64(4.0 / 3.0);
    let ratio = exp_f64(between(rng, -widest, widest));
    let side = |length: usize, share: f64| ((length as f64 * share.sqrt() + 0.5) as usize).clamp(1, length);
    let (height, width) = (side(shape.height, share / ratio), side(shape.width, share * ratio));
    let top = rng.below((shape.height - height + 1) as u32) as usize;
    let left = rng.below((shape.width - width + 1) as u32) as usize;
    Crop { top, left, height, width }
}

/// One output pixel's two neighbors along a side, and the share of the second.
#[derive(Clone, Copy)]
struct Between {
    low: usize,
    high: usize,
    share: f32,
}

impl Between {
    /// Of a place in pixels from the first one's middle.
    fn of(place: f32, length: usize) -> Self {
        let place = place.clamp(0.0, (length - 1) as f32);
        let low = place.floor();
        Self { low: low as usize, high: (low as usize + 1).min(length - 1), share: place - low }
    }
}

fn mix(plane: &[u8], width: usize, row: Between, column: Between) -> u8 {
    let at = |row: usize, column: usize| f32::from(plane[row * width + column]);
    let top = at(row.low, column.low) + column.share * (at(row.low, column.high) - at(row.low, column.low));
    let bottom = at(row.high, column.low) + column.share * (at(row.high, column.high) - at(row.high, column.low));
    byte(top + row.share * (bottom - top))
}

/// Cuts a part out and stretches it to the old size, bilinear between pixel middles.
pub fn crop(pixels: &mut [u8], shape: Shape, crop: Crop) {
    let places = |first: usize, length: usize, out: usize| {
        let scale = length as f32 / out as f32;
        let place = move |i: usize| ((i as f32 + 0.5) * scale - 0.5).clamp(0.0, (length - 1) as f32);
        (0..out)
            .map(|i| {
                let at = Between::of(place(i), length);
                Between { low: first + at.low, high: first + at.high, ..at }
            })
            .collect::<Vec<_>>()
    };
    let rows = places(crop.top, crop.height, shape.height);
    let columns = places(crop.left, crop.width, shape.width);
    for plane in pixels.chunks_exact_mut(shape.area()) {
        let old = plane.to_vec();
        let mut out = plane.iter_mut();
        for &row in &rows {
            for (&column, pixel) in columns.iter().zip(&mut out) {
                *pixel = mix(&old, shape.width, row, column);
            }
        }
    }
}

/// Turns the image around its middle, counterclockwise.
pub fn rotate(pixels: &mut [u8], shape: Shape, turns: f64) {
    let (cos, sin) = cos_sin_turns(turns);
    let (cos, sin) = (cos as f32, sin as f32);
    let (middle_row, middle_column) = ((shape.height - 1) as f32 / 2.0, (shape.width - 1) as f32 / 2.0);
    for plane in pixels.chunks_exact_mut(shape.area()) {
        let old = plane.to_vec();
        for (row, line) in plane.chunks_exact_mut(shape.width).enumerate() {
            let y = row as f32 - middle_row;
            for (column, pixel) in line.iter_mut().enumerate() {
                let x = column as f32 - middle_column;
                let from_row = Between::of(middle_row + sin * x + cos * y, shape.height);
                let from_column = Between::of(middle_column + cos * x - sin * y, shape.width);
                *pixel = mix(&old, shape.width, from_row, from_column);
            }
        }
    }
}

/// Left to right.
pub fn flip(pixels: &mut [u8], shape: Shape) {
    pixels.chunks_exact_mut(shape.width).for_each(<[u8]>::reverse);
}

/// A Gaussian bell of this standard deviation in pixels, cut at three of them.
pub fn blur(pixels: &mut [u8], shape: Shape, sigma: f64) {
    let radius = (3.0 * sigma).ceil() as usize;
    if radius == 0 {
        return;
    }
    let weight = |d: usize| if sigma > 0.0 { exp_f64(-0.5 * (d as f64 / sigma).powi(2)) } else { 0.0 };
    let half: Vec<f64> = (0..=radius).map(weight).collect();
    let total = half[0] + 2.0 * half[1..].iter().sum::<f64>();
    let bell: Vec<f32> = (0..=2 * radius).map(|i| (half[i.abs_diff(radius)] / total) as f32).collect();
    let mut middle = vec![0f32; shape.area()];
    for plane in pixels.chunks_exact_mut(shape.area()) {
        for (line, out) in plane.chunks_exact(shape.width).zip(middle.chunks_exact_mut(shape.width)) {
            for (column, out) in out.iter_mut().enumerate() {
                *out = weighted(&bell, column, shape.width, |at| f32::from(line[at]));
            }
        }
        for (index, pixel) in plane.iter_mut().enumerate() {
            let (row, column) = (index / shape.width, index % shape.width);
            *pixel = byte(weighted(&bell, row, shape.height, |at| middle[at * shape.width + column]));
        }
    }
}

/// The bell's sum around a place of a line.
fn weighted(bell: &[f32], place: usize, length: usize, at: impl Fn(usize) -> f32) -> f32 {
    let radius = bell.len() / 2;
    let near = |i: usize| (place + i).saturating_sub(radius).min(length - 1);
    bell.iter().enumerate().map(|(i, weight)| weight * at(near(i))).sum()
}

/// Covers a square around a place with the mean of each channel (DeVries and Taylor 2017).
pub fn cutout(pixels: &mut [u8], shape: Shape, (row, column): (usize, usize), side: usize) {
    let span = |middle: usize, length: usize| {
        let first = middle.saturating_sub(side / 2);
        first..(middle + side - side / 2).min(length)
    };
    let (rows, columns) = (span(row, shape.height), span(column, shape.width));
    for plane in pixels.chunks_exact_mut(shape.area()) {
        let sum: u64 = plane.iter().map(|&pixel| u64::from(pixel)).sum();
        let mean = byte(sum as f32 / shape.area() as f32);
        for row in rows.clone() {
            plane[row * shape.width..][columns.clone()].fill(mean);
        }
    }
}
