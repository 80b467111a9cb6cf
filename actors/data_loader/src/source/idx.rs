//! Images of an IDX file: big-endian header, then bytes, [images, rows, columns] or [images, channels, rows, columns]
//! (the format of the MNIST files). Compressed where the name ends in `.gz`.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use flate2::read::GzDecoder;
use frame::manifest::Source;
use messages::WireError;
use messages::error::Code;

use super::packed::Hashed;
use super::path::{cannot_open, resolve};
use super::picture::Shape;
use crate::pictures::Gallery;

/// Type code of bytes without a sign.
const BYTES: u8 = 0x08;
/// Longest side of an image, and most channels.
const MAX_SIDE: u32 = 16_384;
/// Largest file, unpacked.
const MAX_BYTES: u64 = 8 << 30;

/// Images of one size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Images {
    pub source: Source,
    pub count: usize,
    pub channels: u32,
    pub height: u32,
    pub width: u32,
    pixels: Vec<u8>,
}

impl Images {
    /// Reads a file of the data roots.
    pub fn open(path: &str, roots: &[PathBuf]) -> Result<Self, WireError> {
        let real = resolve(path, roots)?;
        let file = File::open(&real).map_err(|e| cannot_open(path, &e))?;
        let mut hashed = Hashed::new(file);
        let packed = path.to_ascii_lowercase().ends_with(".gz");
        let images = if packed { Self::read(path, GzDecoder::new(&mut hashed)) } else { Self::read(path, &mut hashed) };
        let mut images = images?;
        let (blake3, size_bytes) = hashed.finish().map_err(|e| cannot_open(path, &e))?;
        (images.source.blake3, images.source.size_bytes) = (blake3, size_bytes);
        Ok(images)
    }

    fn read(path: &str, mut reader: impl Read) -> Result<Self, WireError> {
        let wrong = |what: String| WireError::new(Code::DatasetValidationError, format!("{path}: {what}"));
        let cut = |e: std::io::Error| wrong(format!("is cut short or damaged: {e}"));
        let mut head = [0; 4];
        reader.read_exact(&mut head).map_err(cut)?;
        if head[..3] != [0, 0, BYTES] || !(3..=4).contains(&head[3]) {
            let expected = "expected an IDX file of bytes with 3 or 4 dimensions (0 0 8 3)";
            return Err(wrong(format!("begins with {head:?}: {expected}")));
        }
        let mut sides = Vec::new();
        for _ in 0..head[3] {
            let mut side = [0; 4];
            reader.read_exact(&mut side).map_err(cut)?;
            sides.push(u32::from_be_bytes(side));
        }
        let (count, channels, height, width) = match sides[..] {
            [count, height, width] => (count, 1, height, width),
            [count, channels, height, width] => (count, channels, height, width),
            _ => (0, 0, 0, 0),
        };
        let sane = [channels, height, width].iter().all(|side| (1..=MAX_SIDE).contains(side));
        // Sides that are not sane may be as large as they like.
        let size = [height, width].iter().fold(u64::from(channels), |size, side| size.saturating_mul(u64::from(*side)));
        let total = size.saturating_mul(u64::from(count));
        if !sane || total > MAX_BYTES {
            let message = format!("says {count} images of {channels} x {height} x {width}");
            return Err(wrong(format!("{message}: expected sides of 1 to {MAX_SIDE} and at most {MAX_BYTES} bytes")));
        }
        let mut pixels = Vec::new();
        reader.by_ref().take(total).read_to_end(&mut pixels).map_err(cut)?;
        if (pixels.len() as u64) < total {
            let whole = pixels.len() as u64 / size;
            return Err(wrong(format!("says {count} images, but holds {whole}")));
        }
        if reader.read(&mut [0]).map_err(cut)? > 0 {
            return Err(wrong(format!("goes on behind the {count} images that it says")));
        }
        let source = Source { path: path.to_owned(), blake3: String::new(), size_bytes: 0, rows: 0, test: false };
        Ok(Self { source, count: count as usize, channels, height, width, pixels })
    }

    /// The pictures of a column.
    pub(crate) fn of_gallery(gallery: Gallery, column: &str) -> Self {
        let Shape { channels, height, width } = gallery.shape;
        let source = gallery.source(column);
        Self { source, count: gallery.count(), channels, height, width, pixels: gallery.pixels }
    }

    /// Bytes of one image.
    pub fn size(&self) -> usize {
        self.channels as usize * self.height as usize * self.width as usize
    }

    /// Pixels of one image, channel by channel.
    pub fn pixels(&self, index: usize) -> &[u8] {
        &self.pixels[index * self.size()..(index + 1) * self.size()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn idx(dims: &[u32], bytes: usize) -> Vec<u8> {
        let mut out = vec![0, 0, BYTES, dims.len() as u8];
        out.extend(dims.iter().flat_map(|side| side.to_be_bytes()));
        out.extend((0..bytes).map(|i| i as u8));
        out
    }

    #[test]
    fn images_are_read_and_lies_refused() {
        let read = |bytes: &[u8]| Images::read("a.idx", bytes);
        let images = read(&idx(&[3, 2, 4], 24)).expect("well formed");
        assert_eq!((images.count, images.channels, images.height, images.width), (3, 1, 2, 4));
        assert_eq!(images.pixels(2), [16, 17, 18, 19, 20, 21, 22, 23]);
        let color = read(&idx(&[2, 3, 1, 1], 6)).expect("well formed");
        assert_eq!((color.channels, color.pixels(1)), (3, &[3u8, 4, 5][..]));
        for (bytes, says) in [
            (idx(&[3, 2, 4], 23), "says 3 images, but holds 2"),
            (idx(&[3, 2, 4], 25), "goes on behind the 3 images"),
            (idx(&[u32::MAX, 16_000, 16_000], 9), "at most"),
            (idx(&[1, 0, 4], 0), "expected sides of 1 to"),
            (idx(&[u32::MAX; 4], 9), "expected sides of 1 to"),
            (idx(&[1, 2], 2), "expected an IDX file"),
            (b"PK\x03\x04".to_vec(), "expected an IDX file"),
            (vec![0, 0], "cut short"),
        ] {
            let error = read(&bytes).expect_err(says);
            assert!(error.message.contains(says), "{}", error.message);
        }
    }

    #[test]
    fn a_packed_file_is_the_same_and_its_bytes_are_hashed() {
        use std::io::Write;
        let folder = tempfile::tempdir().expect("a folder");
        let plain = idx(&[2, 3, 3], 18);
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        packed.write_all(&plain).expect("packs");
        let packed = packed.finish().expect("packs");
        for (name, bytes) in [("a.idx", &plain), ("a.idx.gz", &packed)] {
            std::fs::write(folder.path().join(name), bytes).expect("writes");
            let images = Images::open(name, &[folder.path().to_owned()]).expect("reads");
            assert_eq!(images.pixels(1), &plain[16 + 9..]);
            assert_eq!(images.source.blake3, blake3::hash(bytes).to_hex().to_string());
            assert_eq!(images.source.size_bytes, bytes.len() as u64);
        }
        assert!(Images::open("b.idx", &[folder.path().to_owned()]).is_err());
    }
}
