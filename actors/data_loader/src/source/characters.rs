//! The characters of a text file: its bytes as UTF-8, whatever they were. Watched, so that a wrong byte and a record
//! without end are told by place.

use std::io::{self, Read};

use encoding_rs::{Decoder, DecoderResult, Encoding, UTF_16BE, UTF_16LE, WINDOWS_1252};
use messages::plan::TextEncoding;

use super::packed::Unpacked;

const READ_BYTES: usize = 64 * 1024;

/// Turns what it reads into UTF-8. What is UTF-8 passes as it is: it is checked above.
pub struct Characters {
    inner: Unpacked,
    mode: Mode,
}

enum Mode {
    Utf8,
    Decoding(Box<Decoding>),
}

struct Decoding {
    decoder: Decoder,
    input: Vec<u8>,
    /// Not yet decoded part of `input`.
    from: usize,
    to: usize,
    ended: bool,
    finished: bool,
    /// Small outputs are cut out of this.
    spare: Vec<u8>,
    wrong: bool,
}

impl Characters {
    pub fn new(inner: Unpacked, encoding: TextEncoding) -> Self {
        let decoder = |encoding: &'static Encoding| encoding.new_decoder_with_bom_removal();
        let decoder = match encoding {
            TextEncoding::Utf8 => None,
            TextEncoding::Windows1252 => Some(WINDOWS_1252.new_decoder_without_bom_handling()),
            // A byte order mark decides.
            TextEncoding::Utf16 => Some(UTF_16LE.new_decoder()),
            TextEncoding::Utf16Le => Some(decoder(UTF_16LE)),
            TextEncoding::Utf16Be => Some(decoder(UTF_16BE)),
        };
        let mode = decoder.map_or(Mode::Utf8, |decoder| {
            Mode::Decoding(Box::new(Decoding {
                decoder,
                input: vec![0; READ_BYTES],
                from: 0,
                to: 0,
                ended: false,
                finished: false,
                spare: Vec::new(),
                wrong: false,
            }))
        });
        Self { inner, mode }
    }

    pub fn inner(&mut self) -> &mut Unpacked {
        &mut self.inner
    }

    /// Whether reading stopped at bytes that are no characters.
    pub fn is_wrong(&self) -> bool {
        matches!(&self.mode, Mode::Decoding(decoding) if decoding.wrong)
    }
}

impl Read for Characters {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match &mut self.mode {
            Mode::Utf8 => self.inner.read(out),
            Mode::Decoding(decoding) => decoding.read(&mut self.inner, out),
        }
    }
}

impl Decoding {
    fn read(&mut self, inner: &mut Unpacked, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() || (self.finished && self.spare.is_empty()) {
            return Ok(0);
        }
        if out.len() < 16 || !self.spare.is_empty() {
            return self.read_spare(inner, out);
        }
        loop {
            if self.from == self.to && !self.ended {
                (self.from, self.to) = (0, inner.read(&mut self.input)?);
                self.ended = self.to == 0;
            }
            let (result, read, written) =
                self.decoder.decode_to_utf8_without_replacement(&self.input[self.from..self.to], out, self.ended);
            self.from += read;
            if let DecoderResult::Malformed(..) = result {
                self.wrong = true;
                return Err(io::Error::other("not text of the encoding"));
            }
            self.finished = self.ended && matches!(result, DecoderResult::InputEmpty);
            if written > 0 || self.finished {
                return Ok(written);
            }
        }
    }

    fn read_spare(&mut self, inner: &mut Unpacked, out: &mut [u8]) -> io::Result<usize> {
        if self.spare.is_empty() {
            let mut spare = vec![0; 256];
            let read = self.read(inner, &mut spare)?;
            spare.truncate(read);
            self.spare = spare;
        }
        let given = out.len().min(self.spare.len());
        out[..given].copy_from_slice(&self.spare[..given]);
        self.spare.drain(..given);
        Ok(given)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::packed::Packing;
    use crate::source::{File, Format};

    fn read(bytes: &[u8], encoding: TextEncoding, at_once: usize) -> Option<String> {
        let folder = tempfile::tempdir().expect("a folder");
        let real = folder.path().join("a");
        std::fs::write(&real, bytes).expect("writes");
        let file = File {
            path: "a".into(),
            real,
            format: Format::Csv,
            packing: Packing::None,
            test: false,
            partitions: Vec::new(),
        };
        let mut characters = Characters::new(Unpacked::open(&file).expect("opens"), encoding);
        let (mut out, mut buffer) = (Vec::new(), vec![0; at_once]);
        loop {
            match characters.read(&mut buffer) {
                Ok(0) => return String::from_utf8(out).ok(),
                Ok(read) => out.extend_from_slice(&buffer[..read]),
                Err(_) => {
                    assert!(characters.is_wrong());
                    return None;
                }
            }
        }
    }

    #[test]
    fn encodings_become_utf_8_however_they_are_read() {
        let text = "gr\u{fc}n;\u{20ac};\u{1f600};\u{5e9}\u{5dc}\n".repeat(200);
        let units: Vec<u16> = text.encode_utf16().collect();
        let little: Vec<u8> = units.iter().flat_map(|unit| unit.to_le_bytes()).collect();
        let big: Vec<u8> = units.iter().flat_map(|unit| unit.to_be_bytes()).collect();
        let marked = |mark: [u8; 2], bytes: &[u8]| [&mark[..], bytes].concat();
        for at_once in [1, 3, 15, 16, 17, 64, 4096, 1 << 18] {
            for (bytes, encoding) in [
                (little.clone(), TextEncoding::Utf16),
                (marked([0xff, 0xfe], &little), TextEncoding::Utf16),
                (marked([0xfe, 0xff], &big), TextEncoding::Utf16),
                (little.clone(), TextEncoding::Utf16Le),
                (marked([0xfe, 0xff], &big), TextEncoding::Utf16Be),
            ] {
                assert_eq!(read(&bytes, encoding, at_once).as_deref(), Some(text.as_str()), "{encoding:?} {at_once}");
            }
            let latin = b"M\xfcnchen \x80 \x93x\x94";
            let expected = "M\u{fc}nchen \u{20ac} \u{201c}x\u{201d}";
            assert_eq!(read(latin, TextEncoding::Windows1252, at_once).as_deref(), Some(expected));
            // Half of a surrogate pair.
            assert_eq!(read(&[b'a', 0, 0x3d, 0xd8, b'b', 0], TextEncoding::Utf16Le, at_once), None);
        }
        assert_eq!(read(b"", TextEncoding::Utf16, 64).as_deref(), Some(""));
    }
}
