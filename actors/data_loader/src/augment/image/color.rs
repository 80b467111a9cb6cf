//! Brightness, contrast, saturation as in PIL's ImageEnhance (a blend with black, with the mean gray, with the
//! gray image), hue by a turn of the color circle (Smith, "Color gamut transform pairs", SIGGRAPH 1978).

use super::{Shape, byte};

/// Red, green, blue in gray (ITU-R BT.601).
const LUMA: [f32; 3] = [0.299, 0.587, 0.114];

/// Times `factor`.
pub fn brightness(pixels: &mut [u8], factor: f32) {
    let table: [u8; 256] = std::array::from_fn(|value| byte(value as f32 * factor));
    for pixel in pixels {
        *pixel = table[usize::from(*pixel)];
    }
}

/// Away from the mean gray of the image, or towards it.
pub fn contrast(pixels: &mut [u8], shape: Shape, factor: f32) {
    let area = shape.area();
    let mean_of = |plane: &[u8]| plane.iter().map(|&pixel| u64::from(pixel)).sum::<u64>() as f32 / area.max(1) as f32;
    let means: Vec<f32> = pixels.chunks_exact(area.max(1)).map(mean_of).collect();
    let mean = match means[..] {
        [red, green, blue] => LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue,
        _ => means.iter().sum::<f32>() / means.len().max(1) as f32,
    };
    let table: [u8; 256] = std::array::from_fn(|value| byte(mean + factor * (value as f32 - mean)));
    for pixel in pixels {
        *pixel = table[usize::from(*pixel)];
    }
}

/// The three planes of a colored image; none of another.
fn planes(pixels: &mut [u8], shape: Shape) -> Option<[&mut [u8]; 3]> {
    if shape.channels != 3 {
        return None;
    }
    let (red, rest) = pixels.split_at_mut(shape.area());
    let (green, blue) = rest.split_at_mut(shape.area());
    Some([red, green, blue])
}

/// Away from gray, or towards it. Images without three channels stay as they are.
pub fn saturation(pixels: &mut [u8], shape: Shape, factor: f32) {
    let Some([red, green, blue]) = planes(pixels, shape) else { return };
    for ((red, green), blue) in red.iter_mut().zip(green).zip(blue) {
        let gray = LUMA[0] * f32::from(*red) + LUMA[1] * f32::from(*green) + LUMA[2] * f32::from(*blue);
        for pixel in [red, green, blue] {
            *pixel = byte(gray + factor * (f32::from(*pixel) - gray));
        }
    }
}

/// Turns the color circle. Images without three channels stay as they are.
pub fn hue(pixels: &mut [u8], shape: Shape, turns: f32) {
    let Some([red, green, blue]) = planes(pixels, shape) else { return };
    for ((red, green), blue) in red.iter_mut().zip(green).zip(blue) {
        let turned = turn([f32::from(*red), f32::from(*green), f32::from(*blue)], turns);
        [*red, *green, *blue] = turned.map(byte);
    }
}

/// To hue, saturation and value, and back with another hue.
fn turn([r, g, b]: [f32; 3], turns: f32) -> [f32; 3] {
    let (value, least) = (r.max(g).max(b), r.min(g).min(b));
    let chroma = value - least;
    if chroma <= 0.0 {
        return [r, g, b];
    }
    // Sixths of a turn: red is 0, green 2, blue 4.
    let sixths = if value == r {
        (g - b) / chroma
    } else if value == g {
        (b - r) / chroma + 2.0
    } else {
        (r - g) / chroma + 4.0
    };
    let sixths = sixths + 6.0 * turns;
    let of = |offset: f32| {
        let k = (offset + sixths).rem_euclid(6.0);
        value - chroma * k.min(4.0 - k).clamp(0.0, 1.0)
    };
    [of(5.0), of(3.0), of(1.0)]
}
