//! The bytes of a file as they stand behind its packing: hashed on the way in, unpacked by suffix (`.gz`, `.zst`), and
//! bounded, because a small file can unpack to more than any disk holds.

use std::fs;
use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::MultiGzDecoder;
use messages::WireError;

use super::{File, path};
use crate::check::Violation;

/// A file may always unpack to this, in bytes.
const FREE_BYTES: u64 = 256 << 20;
/// Beyond that, to so many times what it takes. Plain texts stay below 30.
const MAX_RATIO: u64 = 200;
/// Largest window of a zstd file, as a power of two, in bytes: what `zstd --long` asks for at most.
const MAX_WINDOW_LOG: u32 = 27;
const READ_BYTES: usize = 256 * 1024;

/// How a file is packed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Packing {
    #[default]
    None,
    Gzip,
    Zstd,
}

impl Packing {
    /// By suffix, and what of the name is left.
    pub fn of(name: &str) -> (Self, &str) {
        for (suffix, packing) in
            [(".gz", Self::Gzip), (".gzip", Self::Gzip), (".zst", Self::Zstd), (".zstd", Self::Zstd)]
        {
            let at = name.len().saturating_sub(suffix.len());
            if name.is_char_boundary(at) && name[at..].eq_ignore_ascii_case(suffix) {
                return (packing, &name[..at]);
            }
        }
        (Self::None, name)
    }
}

/// Packings that files have and that are not read, by suffix.
pub fn foreign_packing(name: &str) -> Option<&'static str> {
    const KNOWN: [&str; 9] = ["bz2", "xz", "lzma", "lz4", "br", "zip", "7z", "tar", "tgz"];
    let suffix = name.rsplit('.').next()?.to_ascii_lowercase();
    KNOWN.into_iter().find(|known| *known == suffix)
}

/// Hashes and counts what is read through it.
pub struct Hashed<R> {
    inner: R,
    hasher: blake3::Hasher,
    size_bytes: u64,
}

impl<R: Read> Hashed<R> {
    pub fn new(inner: R) -> Self {
        Self { inner, hasher: blake3::Hasher::new(), size_bytes: 0 }
    }

    /// Reads what is left, and gives BLAKE3 and size of the whole.
    pub fn finish(&mut self) -> io::Result<(String, u64)> {
        let mut rest = vec![0; 1 << 16];
        while self.read(&mut rest)? > 0 {}
        Ok((self.hasher.finalize().to_hex().to_string(), self.size_bytes))
    }
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(out)?;
        self.hasher.update(&out[..read]);
        self.size_bytes += read as u64;
        Ok(read)
    }
}

type Bytes = BufReader<Hashed<fs::File>>;

/// A file, unpacked while it is read.
pub struct Unpacked {
    stream: Stream,
    unpacked_bytes: u64,
    bomb: bool,
}

enum Stream {
    Plain(Bytes),
    Gzip(Box<MultiGzDecoder<Bytes>>),
    Zstd(zstd::Decoder<'static, Bytes>),
}

impl Unpacked {
    pub fn open(file: &File) -> Result<Self, WireError> {
        let failed = |e: io::Error| path::cannot_open(&file.path, &e);
        let bytes = BufReader::with_capacity(READ_BYTES, Hashed::new(fs::File::open(&file.real).map_err(failed)?));
        let stream = match file.packing {
            Packing::None => Stream::Plain(bytes),
            Packing::Gzip => Stream::Gzip(Box::new(MultiGzDecoder::new(bytes))),
            Packing::Zstd => {
                let mut decoder = zstd::Decoder::with_buffer(bytes).map_err(failed)?;
                decoder.window_log_max(MAX_WINDOW_LOG).map_err(failed)?;
                Stream::Zstd(decoder)
            }
        };
        Ok(Self { stream, unpacked_bytes: 0, bomb: false })
    }

    fn packed(&mut self) -> &mut Hashed<fs::File> {
        match &mut self.stream {
            Stream::Plain(bytes) => bytes.get_mut(),
            Stream::Gzip(decoder) => decoder.get_mut().get_mut(),
            Stream::Zstd(decoder) => decoder.get_mut().get_mut(),
        }
    }

    pub fn is_packed(&self) -> bool {
        !matches!(self.stream, Stream::Plain(_))
    }

    /// Whether reading stopped because the file unpacks to too much.
    pub fn is_bomb(&self) -> bool {
        self.bomb
    }

    /// BLAKE3 and size of the file as it lies on the disk.
    pub fn finish(&mut self) -> io::Result<(String, u64)> {
        self.packed().finish()
    }
}

impl Read for Unpacked {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = match &mut self.stream {
            // Not through the buffer: who reads has one.
            Stream::Plain(bytes) if bytes.buffer().is_empty() => bytes.get_mut().read(out)?,
            Stream::Plain(bytes) => {
                let read = bytes.fill_buf()?.read(out)?;
                bytes.consume(read);
                read
            }
            Stream::Gzip(decoder) => decoder.read(out)?,
            Stream::Zstd(decoder) => decoder.read(out)?,
        };
        self.unpacked_bytes += read as u64;
        if self.is_packed() && self.unpacked_bytes > FREE_BYTES {
            let packed = self.packed().size_bytes;
            if self.unpacked_bytes > packed.saturating_mul(MAX_RATIO) {
                self.bomb = true;
                return Err(io::Error::other("unpacks to too much"));
            }
        }
        Ok(read)
    }
}

/// What a user hears of a file that unpacks to too much.
pub fn bomb(path: &str) -> Violation {
    let mib = FREE_BYTES >> 20;
    Violation::new(format!("unpacks to more than {MAX_RATIO} times its size and {mib} MiB, which no table does"))
        .file(path)
        .hint("if it is no attack, unpack the file first")
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::source::Format;

    fn file(folder: &std::path::Path, name: &str, bytes: &[u8]) -> File {
        let real = folder.join(name);
        fs::write(&real, bytes).expect("writes");
        let (packing, _) = Packing::of(name);
        File { path: name.into(), real, format: Format::Csv, packing, test: false, partitions: Vec::new() }
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        out.write_all(bytes).expect("packs");
        out.finish().expect("packs")
    }

    #[test]
    fn what_is_packed_reads_as_what_was_there() {
        let folder = tempfile::tempdir().expect("a folder");
        let text: Vec<u8> = (0..100_000).flat_map(|i| format!("{i},{}\n", i * 7 % 13).into_bytes()).collect();
        // Two members behind each other are one file.
        let members = [gzip(&text[..5000]), gzip(&text[5000..])].concat();
        let frames = zstd::encode_all(text.as_slice(), 3).expect("packs");
        for (name, bytes) in [("a.csv", &text), ("b.csv.GZ", &members), ("c.csv.zst", &frames)] {
            let mut read = Vec::new();
            let mut unpacked = Unpacked::open(&file(folder.path(), name, bytes)).expect("opens");
            unpacked.read_to_end(&mut read).expect("unpacks");
            assert_eq!(read, text, "{name}");
            let whole = (blake3::hash(bytes).to_hex().to_string(), bytes.len() as u64);
            assert_eq!(unpacked.finish().expect("reads"), whole, "{name}");
        }
        for (name, bytes) in [("d.csv.gz", &members[..members.len() - 9]), ("e.csv.zst", &frames[..frames.len() - 9])] {
            let mut unpacked = Unpacked::open(&file(folder.path(), name, bytes)).expect("opens");
            unpacked.read_to_end(&mut Vec::new()).expect_err("is cut short");
        }
    }

    #[test]
    fn bombs_stop() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut out = zstd::Encoder::new(Vec::new(), 1).expect("packs");
        let zeros = vec![b'0'; 1 << 20];
        for _ in 0..(FREE_BYTES >> 20) + 2 {
            out.write_all(&zeros).expect("packs");
        }
        let bytes = out.finish().expect("packs");
        let mut unpacked = Unpacked::open(&file(folder.path(), "bomb.csv.zst", &bytes)).expect("opens");
        io::copy(&mut unpacked, &mut io::sink()).expect_err("stops");
        assert!(unpacked.is_bomb());
    }
}
