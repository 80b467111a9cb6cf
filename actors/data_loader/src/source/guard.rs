//! A reader that watches a text pass by: whether it is UTF-8 (and where not), and whether one record grows beyond all bounds, as it does after a quote that is never closed.

use std::io::{self, Read};

use memchr::memchr_iter;

use crate::check::MAX_FIELD_BYTES;

/// Why reading stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The first byte, from 0, that is no UTF-8, its value, and its line.
    NotUtf8 { offset: u64, byte: u8, line: u64 },
    /// The record that was being read is larger than a field may be.
    RecordTooLong,
}

/// Watches what is read through it.
pub struct Guard<R> {
    inner: R,
    read_bytes: u64,
    lines: u64,
    /// A character cut by the end of a read: its first bytes.
    carry: Vec<u8>,
    /// Where the record being read begins.
    record_start: u64,
    fault: Option<Fault>,
}

impl<R: Read> Guard<R> {
    pub fn new(inner: R) -> Self {
        Self { inner, read_bytes: 0, lines: 1, carry: Vec::new(), record_start: 0, fault: None }
    }

    pub fn fault(&self) -> Option<Fault> {
        self.fault
    }

    /// The reader above begins a record at this byte.
    pub fn begin_record(&mut self, at: u64) {
        self.record_start = at;
    }

    pub fn inner(&mut self) -> &mut R {
        &mut self.inner
    }

    fn fail(&mut self, fault: Fault) -> io::Error {
        self.fault = Some(fault);
        io::Error::other("reading stopped")
    }

    /// Checks that the bytes go on from the last ones as UTF-8.
    fn check_text(&mut self, bytes: &[u8], at_end: bool) -> io::Result<()> {
        let joined;
        let (text, start) = if self.carry.is_empty() {
            (bytes, self.read_bytes)
        } else {
            joined = [self.carry.as_slice(), bytes].concat();
            (joined.as_slice(), self.read_bytes - self.carry.len() as u64)
        };
        let (valid, wrong) = match std::str::from_utf8(text) {
            Ok(_) => (text.len(), false),
            Err(error) => (error.valid_up_to(), error.error_len().is_some() || at_end),
        };
        self.lines += memchr_iter(b'\n', &text[..valid]).count() as u64;
        if wrong {
            let fault = Fault::NotUtf8 { offset: start + valid as u64, byte: text[valid], line: self.lines };
            return Err(self.fail(fault));
        }
        self.carry = text[valid..].to_vec();
        Ok(())
    }
}

impl<R: Read> Read for Guard<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.fault.is_some() {
            return Err(io::Error::other("reading stopped"));
        }
        let read = self.inner.read(buffer)?;
        self.check_text(&buffer[..read], read == 0 && !buffer.is_empty())?;
        self.read_bytes += read as u64;
        if self.read_bytes.saturating_sub(self.record_start) > 2 * MAX_FIELD_BYTES as u64 {
            return Err(self.fail(Fault::RecordTooLong));
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives its bytes in reads of one size.
    struct Dripping<'a>(&'a [u8], usize);

    impl Read for Dripping<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let n = self.1.min(self.0.len()).min(buffer.len());
            buffer[..n].copy_from_slice(&self.0[..n]);
            self.0 = &self.0[n..];
            Ok(n)
        }
    }

    #[test]
    fn characters_may_be_cut_anywhere_and_the_first_wrong_byte_is_named() {
        let good = "a;é;€;😀\nzwei\n".as_bytes();
        for size in 1..8 {
            let mut guard = Guard::new(Dripping(good, size));
            let mut out = Vec::new();
            guard.read_to_end(&mut out).expect("is UTF-8");
            assert_eq!(out, good);

            let latin: &[u8] = b"a\nb\nM\xfcnchen\n";
            let mut guard = Guard::new(Dripping(latin, size));
            guard.read_to_end(&mut Vec::new()).expect_err("is Latin-1");
            assert_eq!(guard.fault(), Some(Fault::NotUtf8 { offset: 5, byte: 0xfc, line: 3 }));

            let mut guard = Guard::new(Dripping(&good[..11], size));
            guard.read_to_end(&mut Vec::new()).expect_err("ends inside a character");
            assert_eq!(guard.fault(), Some(Fault::NotUtf8 { offset: 9, byte: 0xf0, line: 1 }));
        }
    }

    #[test]
    fn an_endless_record_stops() {
        let mut guard = Guard::new(io::repeat(b'x'));
        let mut sink = io::sink();
        io::copy(&mut guard, &mut sink).expect_err("stops");
        assert_eq!(guard.fault(), Some(Fault::RecordTooLong));
    }
}
