//! An image as a PNG file: what a page shows of pictures that are data themselves.

use std::io::Write;

use flate2::write::ZlibEncoder;
use flate2::{Compression, Crc};

/// What the bytes of a pixel are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pixels {
    /// One byte.
    Gray,
    /// Three bytes: red, green, blue.
    Rgb,
}

/// Pixels row by row from the top left. None where there are not `width x height` of them, or none at all.
pub fn encode(width: u32, height: u32, pixels: Pixels, bytes: &[u8]) -> Option<Vec<u8>> {
    let (channels, color) = match pixels {
        Pixels::Gray => (1, 0),
        Pixels::Rgb => (3, 2),
    };
    let row = width as usize * channels;
    if row == 0 || height == 0 || bytes.len() != row.checked_mul(height as usize)? {
        return None;
    }
    let mut packed = ZlibEncoder::new(Vec::new(), Compression::default());
    for line in bytes.chunks(row) {
        // Each line begins with its filter: none.
        packed.write_all(&[0]).ok()?;
        packed.write_all(line).ok()?;
    }
    let packed = packed.finish().ok()?;
    let mut out = b"\x89PNG\r\n\x1a\n".to_vec();
    let mut header = Vec::with_capacity(13);
    header.extend_from_slice(&width.to_be_bytes());
    header.extend_from_slice(&height.to_be_bytes());
    header.extend_from_slice(&[8, color, 0, 0, 0]);
    for (name, content) in [(b"IHDR", header.as_slice()), (b"IDAT", packed.as_slice()), (b"IEND", &[])] {
        out.extend_from_slice(&u32::try_from(content.len()).ok()?.to_be_bytes());
        out.extend_from_slice(name);
        out.extend_from_slice(content);
        let mut crc = Crc::new();
        crc.update(name);
        crc.update(content);
        out.extend_from_slice(&crc.sum().to_be_bytes());
    }
    Some(out)
}

/// Base 64, as a `data:` address needs it.
pub(crate) fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let byte = |index: usize| u32::from(group.get(index).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for index in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * index)) as usize & 63];
            out.push(if index > group.len() { '=' } else { char::from(digit) });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_its_parts_and_sums() {
        let file = encode(2, 2, Pixels::Rgb, &[255; 12]).expect("a picture");
        assert_eq!(&file[..8], b"\x89PNG\r\n\x1a\n");
        assert_eq!(&file[12..16], b"IHDR");
        // The end of every PNG file, with its well-known checksum.
        assert_eq!(&file[file.len() - 8..], [b'I', b'E', b'N', b'D', 0xae, 0x42, 0x60, 0x82]);
        assert_eq!(encode(2, 2, Pixels::Gray, &[0; 5]), None);
        assert_eq!(encode(0, 2, Pixels::Gray, &[]), None);
    }

    #[test]
    fn base64_is_that_of_rfc_4648() {
        for (text, expected) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64(text.as_bytes()), expected);
        }
    }
}
