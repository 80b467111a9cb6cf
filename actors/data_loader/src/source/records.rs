//! Records of a text between delimiters, as RFC 4180 and the habits of programs have them: a quote counts at the start
//! of a field only, and stands doubled within one; lines end with LF, CR LF or CR; blank lines are no records. Lines
//! without quotes, which is nearly all of them, are cut where they lie in the buffer.

use std::io::{self, Read};

use memchr::{memchr, memchr_iter, memchr2};

/// Read at once, in bytes.
const READ_BYTES: usize = 1 << 20;

/// What separates what.
#[derive(Debug, Clone, Copy)]
pub struct Signs {
    pub delimiter: u8,
    pub quote: Option<u8>,
    /// Lines that begin with it are passed over.
    pub comment: Option<u8>,
}

/// Cuts what it reads into records.
pub struct Records<R> {
    inner: R,
    signs: Signs,
    buffer: Vec<u8>,
    /// The part of the buffer that is not yet cut.
    from: usize,
    to: usize,
    /// The byte of the file that stands first in the buffer.
    base: u64,
    /// The line that `from` lies in, from 1.
    line: u64,
    ended: bool,
    begun: bool,
    /// The last record: where its fields lie, in the buffer or in `unquoted`.
    fields: Vec<(usize, usize)>,
    unquoted: Vec<u8>,
    is_unquoted: bool,
    /// The line that it begins in.
    record_line: u64,
}

impl<R: Read> Records<R> {
    pub fn new(inner: R, signs: Signs) -> Self {
        Self {
            inner,
            signs,
            buffer: vec![0; READ_BYTES],
            from: 0,
            to: 0,
            base: 0,
            line: 1,
            ended: false,
            begun: false,
            fields: Vec::new(),
            unquoted: Vec::new(),
            is_unquoted: false,
            record_line: 1,
        }
    }

    pub fn inner(&mut self) -> &mut R {
        &mut self.inner
    }

    /// The line in which the last record begins; where reading broke off, that which was being read.
    pub fn record_line(&self) -> u64 {
        self.record_line
    }

    /// Fields of the last record.
    pub fn len(&self) -> usize {
        self.fields.len()
    }

    pub fn field(&self, index: usize) -> &[u8] {
        let bytes = if self.is_unquoted { &self.unquoted } else { &self.buffer };
        self.fields.get(index).map_or(&[], |&(from, to)| &bytes[from..to])
    }

    /// Reads the next record; false at the end. `begin` is told, before more is read, at which byte the record begins.
    pub fn next(&mut self, begin: impl Fn(&mut R, u64)) -> io::Result<bool> {
        if !self.skip(&begin)? {
            return Ok(false);
        }
        self.record_line = self.line;
        let mut seen = 0;
        loop {
            let rest = &self.buffer[self.from..self.to];
            let end = memchr2(b'\n', b'\r', &rest[seen..]).map(|at| seen + at);
            let has_quote =
                self.signs.quote.is_some_and(|quote| memchr(quote, &rest[..end.unwrap_or(rest.len())]).is_some());
            if has_quote {
                return self.cut_quoted(&begin);
            }
            if let Some(end) = end {
                self.cut_plain(end);
                self.pass_line_end(end);
                return Ok(true);
            }
            seen = rest.len();
            if !self.fill(&begin)? {
                self.cut_plain(seen);
                self.from = self.to;
                return Ok(true);
            }
        }
    }

    /// Passes blank lines and comments; false at the end.
    fn skip(&mut self, begin: &impl Fn(&mut R, u64)) -> io::Result<bool> {
        loop {
            if self.from == self.to && !self.fill(begin)? {
                return Ok(false);
            }
            if !self.begun {
                while self.to - self.from < 3 && self.fill(begin)? {}
                if self.buffer[self.from..self.to].starts_with(b"\xef\xbb\xbf") {
                    self.from += 3;
                }
                self.begun = true;
                continue;
            }
            match self.buffer[self.from] {
                b'\n' => {
                    self.line += 1;
                    self.from += 1;
                }
                b'\r' => self.from += 1,
                byte if self.signs.comment == Some(byte) => loop {
                    if let Some(end) = memchr(b'\n', &self.buffer[self.from..self.to]) {
                        self.from += end;
                        break;
                    }
                    self.from = self.to;
                    if !self.fill(begin)? {
                        return Ok(false);
                    }
                },
                _ => return Ok(true),
            }
        }
    }

    /// Reads more behind what is not yet cut; false at the end of the text.
    fn fill(&mut self, begin: &impl Fn(&mut R, u64)) -> io::Result<bool> {
        if self.ended {
            return Ok(false);
        }
        if self.from > 0 {
            self.buffer.copy_within(self.from..self.to, 0);
            self.base += self.from as u64;
            self.to -= self.from;
            self.from = 0;
        }
        if self.to == self.buffer.len() {
            self.buffer.resize(2 * self.buffer.len(), 0);
        }
        begin(&mut self.inner, self.base);
        self.record_line = self.line;
        let read = self.inner.read(&mut self.buffer[self.to..])?;
        self.to += read;
        self.ended = read == 0;
        Ok(read > 0)
    }

    fn cut_plain(&mut self, end: usize) {
        self.fields.clear();
        self.is_unquoted = false;
        let mut from = self.from;
        for at in memchr_iter(self.signs.delimiter, &self.buffer[self.from..self.from + end]) {
            self.fields.push((from, self.from + at));
            from = self.from + at + 1;
        }
        self.fields.push((from, self.from + end));
    }

    /// The end of a line stands at `end` behind `from`. The LF of a CR LF is passed as a blank line is.
    fn pass_line_end(&mut self, end: usize) {
        self.line += u64::from(self.buffer[self.from + end] == b'\n');
        self.from += end + 1;
    }

    /// A record with quotes, byte by byte; begins again where more must be read first.
    fn cut_quoted(&mut self, begin: &impl Fn(&mut R, u64)) -> io::Result<bool> {
        loop {
            match self.try_quoted() {
                Some(taken) => {
                    self.from += taken;
                    return Ok(true);
                }
                // The text ended: what is there is the record.
                None if !self.fill(begin)? => {
                    let taken = self.try_quoted().unwrap_or(self.to - self.from);
                    self.from += taken;
                    return Ok(true);
                }
                None => {}
            }
        }
    }

    /// Bytes of the record with its end; none where it goes on behind what was read.
    fn try_quoted(&mut self) -> Option<usize> {
        #[derive(Clone, Copy, PartialEq)]
        enum At {
            Start,
            Plain,
            Quoted,
            /// Behind a quote within quotes: the end, or half of a doubled one.
            Quote,
        }
        let rest = &self.buffer[self.from..self.to];
        let Signs { delimiter, quote, .. } = self.signs;
        self.fields.clear();
        self.unquoted.clear();
        self.is_unquoted = true;
        let (mut at, mut first, mut lines) = (At::Start, 0, 0);
        let mut taken = None;
        for (index, &byte) in rest.iter().enumerate() {
            let is_quote = quote == Some(byte);
            lines += u64::from(byte == b'\n');
            match at {
                At::Start if is_quote => at = At::Quoted,
                At::Quoted if is_quote => at = At::Quote,
                At::Quoted => self.unquoted.push(byte),
                At::Quote if is_quote => {
                    self.unquoted.push(byte);
                    at = At::Quoted;
                }
                At::Start | At::Plain | At::Quote if byte == delimiter => {
                    self.fields.push((first, self.unquoted.len()));
                    first = self.unquoted.len();
                    at = At::Start;
                }
                At::Start | At::Plain | At::Quote if matches!(byte, b'\n' | b'\r') => {
                    taken = Some(index + 1);
                    break;
                }
                At::Start | At::Plain | At::Quote => {
                    self.unquoted.push(byte);
                    at = At::Plain;
                }
            }
        }
        if taken.is_none() && !self.ended {
            return None;
        }
        self.fields.push((first, self.unquoted.len()));
        self.line += lines;
        Some(taken.unwrap_or(rest.len()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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

    fn ours(text: &[u8], at_once: usize, signs: Signs) -> (Vec<Vec<Vec<u8>>>, Vec<u64>) {
        let mut records = Records::new(Dripping(text, at_once), signs);
        let (mut all, mut lines) = (Vec::new(), Vec::new());
        while records.next(|_, _| {}).expect("reads") {
            all.push((0..records.len()).map(|index| records.field(index).to_vec()).collect());
            lines.push(records.record_line());
        }
        (all, lines)
    }

    fn theirs(text: &[u8], signs: Signs) -> Vec<Vec<Vec<u8>>> {
        let mut builder = csv::ReaderBuilder::new();
        builder.has_headers(false).flexible(true).delimiter(signs.delimiter).comment(signs.comment);
        match signs.quote {
            Some(quote) => builder.quote(quote),
            None => builder.quoting(false),
        };
        let records = builder.from_reader(text).into_byte_records();
        records.map(|record| record.expect("reads").iter().map(<[u8]>::to_vec).collect()).collect()
    }

    proptest! {
        #[test]
        fn records_are_those_of_the_csv_crate(
            text in "[ab,\"#\n\r\\\\;é]{0,40}",
            at_once in 1..50usize,
            quoting: bool,
            comment: bool,
        ) {
            let signs = Signs {
                delimiter: b',',
                quote: quoting.then_some(b'"'),
                comment: comment.then_some(b'#'),
            };
            // A comment that ends with the text is a record there.
            let text = if comment { text + "\n" } else { text };
            let (records, _) = ours(text.as_bytes(), at_once, signs);
            prop_assert_eq!(records, theirs(text.as_bytes(), signs), "{:?}", text);
        }
    }

    #[test]
    fn lines_are_those_of_an_editor() {
        let signs = Signs { delimiter: b',', quote: Some(b'"'), comment: Some(b'#') };
        let text = b"\xef\xbb\xbfa,b\n\n1,\"x\ny\"\r\n# no record\n\"2\",\"\"\"\"\n3,4";
        for at_once in [1, 2, 5, 100] {
            let (records, lines) = ours(text, at_once, signs);
            let expected: [&[&str]; 4] = [&["a", "b"], &["1", "x\ny"], &["2", "\""], &["3", "4"]];
            let expected: Vec<Vec<Vec<u8>>> =
                expected.iter().map(|record| record.iter().map(|field| field.as_bytes().to_vec()).collect()).collect();
            assert_eq!(records, expected);
            assert_eq!(lines, [1, 3, 6, 7]);
        }
    }

    #[test]
    fn long_records_grow_the_buffer() {
        let signs = Signs { delimiter: b',', quote: Some(b'"'), comment: None };
        let long = "x".repeat(3 * READ_BYTES);
        let text = format!("{long},1\n\"{long}\",2\n");
        let (records, lines) = ours(text.as_bytes(), 1 << 16, signs);
        assert_eq!(records.iter().map(|record| record[0].len()).collect::<Vec<_>>(), [long.len(); 2]);
        assert_eq!(lines, [1, 2]);
    }
}
