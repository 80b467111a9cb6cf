//! The colors of another image: mean and spread of each channel, transferred in the decorrelated color space
//! l-alpha-beta (Reinhard, Ashikhmin, Gooch, Shirley, "Color transfer between images", 2001). Images without
//! three channels are treated channel by channel.

use kernels::cpu::math::{exp_f64, ln_f64};
use serde::{Deserialize, Serialize};

use super::{Shape, byte};

/// RGB to the cones' long, middle and short waves; equation 4 of the paper.
const LMS: [[f64; 3]; 3] = [[0.3811, 0.5783, 0.0402], [0.1967, 0.7244, 0.0782], [0.0241, 0.1288, 0.8444]];
/// Black has no logarithm: the darkest that is told apart.
const DARKEST: f64 = 1.0 / 255.0;

/// Mean and standard deviation (ddof 0) of each channel, of three in l-alpha-beta.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Style {
    pub mean: Vec<f64>,
    pub std: Vec<f64>,
}

impl Style {
    /// That of an image.
    pub fn of(pixels: &[u8], shape: Shape) -> Self {
        let planes = planes(pixels, shape);
        let moments = planes.iter().map(|plane| moments(plane));
        let (mean, std) = moments.unzip();
        Self { mean, std }
    }

    /// Gives an image these colors, by a share.
    pub fn transfer(&self, pixels: &mut [u8], shape: Shape, share: f64) {
        if self.mean.len() != shape.channels || self.std.len() != shape.channels {
            return;
        }
        let mut planes = planes(pixels, shape);
        for (channel, plane) in planes.iter_mut().enumerate() {
            let (mean, std) = moments(plane);
            let scale = if std > 0.0 { self.std[channel] / std } else { 0.0 };
            for value in plane {
                *value = (*value - mean) * scale + self.mean[channel];
            }
        }
        let area = shape.area();
        let mixed = |old: u8, new: f64| byte((f64::from(old) + share * (new - f64::from(old))) as f32);
        if shape.channels == 3 {
            let back = inverse();
            for at in 0..area {
                let rgb = to_rgb([planes[0][at], planes[1][at], planes[2][at]], &back);
                for (channel, value) in rgb.into_iter().enumerate() {
                    let pixel = &mut pixels[channel * area + at];
                    *pixel = mixed(*pixel, value.clamp(0.0, 255.0));
                }
            }
        } else {
            for (pixel, value) in pixels.iter_mut().zip(planes.iter().flatten()) {
                *pixel = mixed(*pixel, value.clamp(0.0, 255.0));
            }
        }
    }
}

/// The channels as numbers, of three in l-alpha-beta.
fn planes(pixels: &[u8], shape: Shape) -> Vec<Vec<f64>> {
    let area = shape.area();
    if shape.channels != 3 {
        return pixels.chunks_exact(area).map(|plane| plane.iter().map(|&p| f64::from(p)).collect()).collect();
    }
    let mut out: Vec<Vec<f64>> = (0..3).map(|_| Vec::with_capacity(area)).collect();
    for at in 0..area {
        let rgb = [0, 1, 2].map(|channel| f64::from(pixels[channel * area + at]) / 255.0);
        for (plane, value) in out.iter_mut().zip(to_lab(rgb)) {
            plane.push(value);
        }
    }
    out
}

fn moments(values: &[f64]) -> (f64, f64) {
    let count = values.len().max(1) as f64;
    let mean = values.iter().sum::<f64>() / count;
    let variance = values.iter().map(|value| (value - mean) * (value - mean)).sum::<f64>() / count;
    (mean, variance.sqrt())
}

fn times(matrix: &[[f64; 3]; 3], [x, y, z]: [f64; 3]) -> [f64; 3] {
    matrix.map(|row| row[0] * x + row[1] * y + row[2] * z)
}

fn to_lab(rgb: [f64; 3]) -> [f64; 3] {
    let [l, m, s] = times(&LMS, rgb).map(|cone| ln_f64(cone.max(DARKEST)));
    [(l + m + s) / 3f64.sqrt(), (l + m - 2.0 * s) / 6f64.sqrt(), (l - m) / 2f64.sqrt()]
}

fn to_rgb([light, alpha, beta]: [f64; 3], back: &[[f64; 3]; 3]) -> [f64; 3] {
    let (light, alpha, beta) = (light / 3f64.sqrt(), alpha / 6f64.sqrt(), beta / 2f64.sqrt());
    let cones = [light + alpha + beta, light + alpha - beta, light - 2.0 * alpha].map(exp_f64);
    times(back, cones).map(|value| value * 255.0)
}

/// The inverse of [`LMS`], by cofactors.
fn inverse() -> [[f64; 3]; 3] {
    let [a, b, c] = LMS;
    let cross =
        |x: [f64; 3], y: [f64; 3]| [x[1] * y[2] - x[2] * y[1], x[2] * y[0] - x[0] * y[2], x[0] * y[1] - x[1] * y[0]];
    let (bc, ca, ab) = (cross(b, c), cross(c, a), cross(a, b));
    let determinant = a[0] * bc[0] + a[1] * bc[1] + a[2] * bc[2];
    [0, 1, 2].map(|row| [bc[row] / determinant, ca[row] / determinant, ab[row] / determinant])
}
