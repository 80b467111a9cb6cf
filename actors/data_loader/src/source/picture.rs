//! One picture: PNG or JPEG bytes to pixels of a stated size. What a file says of itself is checked before anything is
//! allocated for it. Resizing is Pillow's bilinear filter with antialiasing, to the bit.

use std::io::Cursor;

use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

/// Largest file of one picture, in bytes.
pub const MAX_FILE_BYTES: u64 = 64 << 20;
/// Longest side, and most pixels: what a large camera takes.
const MAX_SIDE: u32 = 16_384;
const MAX_PIXELS: u64 = 100_000_000;
/// Memory for decoding beside the pixels, in bytes.
const DECODER_BYTES: usize = 64 << 20;

/// What a column's pictures become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// 1 gray, 3 color.
    pub channels: u32,
    pub height: u32,
    pub width: u32,
}

impl Shape {
    /// Bytes of one picture.
    pub fn size(self) -> usize {
        (self.channels * self.height * self.width) as usize
    }
}

/// Decoded bytes, row by row, a pixel's channels beside each other.
struct Decoded {
    channels: usize,
    height: usize,
    width: usize,
    bytes: Vec<u8>,
}

/// The pixels of a picture, channel by channel. `Err` says what is wrong with it.
pub fn pixels(file: &[u8], shape: Shape) -> Result<Vec<u8>, String> {
    let decoded = match file {
        [0x89, b'P', b'N', b'G', ..] => png_pixels(file)?,
        [0xff, 0xd8, 0xff, ..] => jpeg_pixels(file)?,
        [] => return Err("is empty, expected a PNG or JPEG picture".into()),
        _ => return Err(format!("is {}, expected a PNG or JPEG picture", foreign(file))),
    };
    let colored = decoded.in_channels(shape.channels as usize);
    let sized = resized(&colored, shape.height as usize, shape.width as usize);
    let (channels, area) = (sized.channels, sized.height * sized.width);
    let mut out = vec![0; channels * area];
    for (pixel, values) in sized.bytes.chunks_exact(channels).enumerate() {
        for (channel, value) in values.iter().enumerate() {
            out[channel * area + pixel] = *value;
        }
    }
    Ok(out)
}

fn foreign(file: &[u8]) -> &'static str {
    match file {
        [b'G', b'I', b'F', ..] => "a GIF picture",
        [b'B', b'M', ..] => "a BMP picture",
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => "a WebP picture",
        [b'I', b'I', 42, 0, ..] | [b'M', b'M', 0, 42, ..] => "a TIFF picture",
        [_, _, _, _, b'f', b't', b'y', b'p', ..] => "an AVIF or HEIC picture",
        _ => "something else",
    }
}

fn check_sides(height: u64, width: u64) -> Result<(), String> {
    let sides = 1..=u64::from(MAX_SIDE);
    if sides.contains(&height) && sides.contains(&width) && height * width <= MAX_PIXELS {
        return Ok(());
    }
    Err(format!(
        "says it has {height} x {width} pixels, expected sides of 1 to {MAX_SIDE} and at most {MAX_PIXELS} pixels"
    ))
}

fn png_pixels(file: &[u8]) -> Result<Decoded, String> {
    let damaged = |error: png::DecodingError| format!("is a PNG picture that is damaged or cut short: {error}");
    let mut decoder = png::Decoder::new_with_limits(Cursor::new(file), png::Limits { bytes: DECODER_BYTES });
    decoder.set_transformations(png::Transformations::EXPAND | png::Transformations::STRIP_16);
    let mut reader = decoder.read_info().map_err(damaged)?;
    let (width, height) = (reader.info().width, reader.info().height);
    check_sides(height.into(), width.into())?;
    // The decoder takes three bytes a color for granted.
    if let Some(palette) = reader.info().palette.as_ref().filter(|palette| palette.len() % 3 != 0) {
        return Err(format!("is a PNG picture with a palette of {} bytes, expected three a color", palette.len()));
    }
    let size = reader.output_buffer_size().ok_or("is a PNG picture that does not fit into memory")?;
    let mut bytes = vec![0; size];
    let frame = reader.next_frame(&mut bytes).map_err(damaged)?;
    bytes.truncate(frame.buffer_size());
    let channels = frame.color_type.samples();
    Ok(Decoded { channels, height: height as usize, width: width as usize, bytes })
}

fn jpeg_pixels(file: &[u8]) -> Result<Decoded, String> {
    // Without the processor's own instructions, whose results may differ.
    let options = DecoderOptions::new_safe()
        .set_max_width(MAX_SIDE as usize)
        .set_max_height(MAX_SIDE as usize)
        .set_strict_mode(true)
        .jpeg_set_out_colorspace(ColorSpace::RGB);
    let damaged = |error: zune_jpeg::errors::DecodeErrors| {
        format!("is a JPEG picture that is damaged, cut short or too large: {error:?}")
    };
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(file), options);
    decoder.decode_headers().map_err(damaged)?;
    let (width, height) = decoder.dimensions().ok_or("is a JPEG picture without a size")?;
    check_sides(height as u64, width as u64)?;
    let bytes = decoder.decode().map_err(damaged)?;
    let channels = bytes.len() / (width * height);
    if !matches!(channels, 1 | 3) || bytes.len() != channels * width * height {
        return Err("is a JPEG picture of unknown colors".into());
    }
    Ok(Decoded { channels, height, width, bytes })
}

impl Decoded {
    /// Gray of colors by ITU-R 601, colors of gray; what is transparent is taken as it stands.
    fn in_channels(self, channels: usize) -> Self {
        let gray = |p: &[u8]| {
            let sum = 19_595 * u32::from(p[0]) + 38_470 * u32::from(p[1]) + 7_471 * u32::from(p[2]) + 0x8000;
            (sum >> 16) as u8
        };
        let pixels = self.bytes.chunks_exact(self.channels);
        let bytes = match (self.channels, channels) {
            (have, want) if have == want => return self,
            (1 | 2, 1) => pixels.map(|pixel| pixel[0]).collect(),
            (1 | 2, _) => pixels.flat_map(|pixel| [pixel[0]; 3]).collect(),
            (_, 1) => pixels.map(gray).collect(),
            _ => pixels.flat_map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect(),
        };
        Self { channels, bytes, ..self }
    }
}

/// Bits behind the point of a weight.
const PRECISION: u32 = 32 - 8 - 2;

/// The weights of one pass: where the inputs of each output begin, and their share.
struct Weights {
    first: Vec<usize>,
    shares: Vec<Vec<i32>>,
}

/// A triangle over the inputs that an output covers, at least one of them on each side.
fn weights(inputs: usize, outputs: usize) -> Weights {
    let scale = inputs as f64 / outputs as f64;
    let reach = scale.max(1.0);
    let (mut first, mut shares) = (Vec::with_capacity(outputs), Vec::with_capacity(outputs));
    for output in 0..outputs {
        let center = (output as f64 + 0.5) * scale;
        let from = ((center - reach + 0.5) as isize).max(0) as usize;
        let to = ((center + reach + 0.5) as usize).min(inputs);
        let near: Vec<f64> =
            (from..to).map(|input| (1.0 - ((input as f64 - center + 0.5) * (1.0 / reach)).abs()).max(0.0)).collect();
        let sum: f64 = near.iter().fold(0.0, |sum, share| sum + share);
        let fixed = |share: f64| (share * f64::from(1u32 << PRECISION) + if share < 0.0 { -0.5 } else { 0.5 }) as i32;
        first.push(from);
        shares.push(near.iter().map(|share| fixed(if sum == 0.0 { *share } else { share / sum })).collect());
    }
    Weights { first, shares }
}

fn share_of(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}

fn resized(picture: &Decoded, height: usize, width: usize) -> Decoded {
    let channels = picture.channels;
    let mut rows = picture.bytes.clone();
    if width != picture.width {
        let weights = weights(picture.width, width);
        let mut out = Vec::with_capacity(picture.height * width * channels);
        for row in rows.chunks_exact(picture.width * channels) {
            for (first, shares) in weights.first.iter().zip(&weights.shares) {
                for channel in 0..channels {
                    let sum = shares.iter().enumerate().fold(1 << (PRECISION - 1), |sum, (i, share)| {
                        sum + i32::from(row[(first + i) * channels + channel]) * share
                    });
                    out.push(share_of(sum));
                }
            }
        }
        rows = out;
    }
    if height != picture.height {
        let (weights, stride) = (weights(picture.height, height), width * channels);
        let mut out = Vec::with_capacity(height * stride);
        let mut sums = vec![0i32; stride];
        for (first, shares) in weights.first.iter().zip(&weights.shares) {
            sums.fill(1 << (PRECISION - 1));
            for (i, share) in shares.iter().enumerate() {
                let row = &rows[(first + i) * stride..(first + i + 1) * stride];
                for (sum, value) in sums.iter_mut().zip(row) {
                    *sum += i32::from(*value) * share;
                }
            }
            out.extend(sums.iter().map(|&sum| share_of(sum)));
        }
        rows = out;
    }
    Decoded { channels, height, width, bytes: rows }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Deserialize)]
    struct Expected {
        name: String,
        channels: u32,
        height: u32,
        width: u32,
        pixels: Vec<u8>,
    }

    /// `tests/golden/pictures/make.py` made pictures and values, with Pillow.
    #[test]
    fn pictures_are_pillow_s() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/pictures");
        let expected = std::fs::read(folder.join("expected.json")).expect("is there");
        let expected: Vec<Expected> = serde_json::from_slice(&expected).expect("JSON");
        assert_eq!(expected.len(), 70);
        for case in expected {
            let Expected { name, channels, height, width, pixels: wanted } = case;
            let file = std::fs::read(folder.join(&name)).expect("is there");
            let found = pixels(&file, Shape { channels, height, width }).expect("a picture");
            let off = found.iter().zip(&wanted).map(|(a, b)| a.abs_diff(*b)).max().unwrap_or_default();
            // Decoders of JPEG may round each coefficient their own way; what is resized is then averaged.
            let most = if name.contains(".jpg") { 6 } else { 0 };
            assert!(found.len() == wanted.len() && off <= most, "{name} {channels} x {height} x {width}: off by {off}");
        }
    }

    /// Of which the decoder would read three bytes more than there are.
    #[test]
    fn a_palette_of_half_a_color_is_an_error() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/pictures");
        let mut file = std::fs::read(folder.join("palette.png")).expect("is there");
        let at = file.windows(4).position(|name| name == b"PLTE").expect("a palette");
        let colors = u32::from_be_bytes(file[at - 4..at].try_into().expect("4 bytes")) as usize;
        let mut cut = file[at..at + 4 + colors - 2].to_vec();
        let mut crc = flate2::Crc::new();
        crc.update(&cut);
        cut.extend_from_slice(&crc.sum().to_be_bytes());
        file.splice(at..at + 4 + colors + 4, cut);
        file[at - 4..at].copy_from_slice(&(colors as u32 - 2).to_be_bytes());
        let said = pixels(&file, Shape { channels: 3, height: 4, width: 4 }).expect_err("half a color");
        let expected = format!("with a palette of {} bytes, expected three a color", colors - 2);
        assert!(said.ends_with(&expected), "{said}");
    }

    #[test]
    fn damaged_pictures_are_errors_whatever_is_damaged() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/pictures");
        let shape = Shape { channels: 3, height: 8, width: 8 };
        for name in ["color.png", "palette.png", "color.jpg", "gray.jpg"] {
            let file = std::fs::read(folder.join(name)).expect("is there");
            for length in 0..file.len() {
                drop(pixels(&file[..length], shape));
            }
            for at in 0..file.len() {
                for value in [0, 0x7f, 0xff, !file[at]] {
                    let mut wrong = file.clone();
                    wrong[at] = value;
                    drop(pixels(&wrong, shape));
                }
            }
            assert!(pixels(&file[..file.len() / 3], shape).is_err(), "{name}");
        }
    }
}
