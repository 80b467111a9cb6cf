//! What the beginning of a text file says of how it is written: its delimiter, its header, its line ends.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use flate2::read::MultiGzDecoder;
use messages::plan::CsvPlan;

use super::profile::Finding;

/// How much of a file is looked at.
const HEAD_BYTES: u64 = 256 * 1024;
/// Records that are compared.
const RECORDS: usize = 200;
const DELIMITERS: [u8; 4] = *b",;\t|";

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sniff {
    /// None: the file has one column.
    pub delimiter: Option<char>,
    pub header: bool,
    pub byte_order_mark: bool,
    /// Lines of the head that end with CR LF, and all of them.
    pub crlf_lines: u64,
    pub lines: u64,
    pub blank_lines: u64,
    /// Fields of the first record.
    pub first: Vec<String>,
    /// Whether blanks stand behind the delimiters of most records.
    pub blanks: bool,
}

/// Looks at a text file, also one packed with gzip. None where it cannot be read or is no text.
pub fn sniff(path: &Path) -> Option<Sniff> {
    let packed = path.extension().is_some_and(|suffix| suffix.eq_ignore_ascii_case("gz"));
    let file = File::open(path).ok()?;
    let mut head = Vec::new();
    if packed {
        MultiGzDecoder::new(file).take(HEAD_BYTES).read_to_end(&mut head).ok()?;
    } else {
        file.take(HEAD_BYTES).read_to_end(&mut head).ok()?;
    }
    of_head(&head)
}

fn of_head(head: &[u8]) -> Option<Sniff> {
    let cut = head.len() as u64 >= HEAD_BYTES;
    let byte_order_mark = head.starts_with(b"\xef\xbb\xbf");
    let head = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head);
    // A last line that is cut off says nothing.
    let end =
        if cut { head.iter().rposition(|byte| *byte == b'\n').map_or(head.len(), |at| at + 1) } else { head.len() };
    let head = &head[..end];
    let invalid = std::str::from_utf8(head).err().is_some_and(|error| error.error_len().is_some());
    if head.is_empty() || head.contains(&0) || invalid {
        return None;
    }
    let lines: Vec<&[u8]> = head.split_inclusive(|byte| *byte == b'\n').collect();
    let is_blank = |line: &&&[u8]| line.iter().all(|byte| matches!(byte, b'\r' | b'\n'));
    let delimiter = delimiter(head);
    let records = records(head, delimiter.unwrap_or(0));
    let first: Vec<String> = records.first()?.clone();
    let begins_blank = |record: &Vec<String>| {
        record.iter().skip(1).filter(|field| field.starts_with(' ')).count() * 2 >= record.len().max(2) - 1
    };
    let blanks =
        first.len() > 1 && records.iter().skip(1).filter(|record| begins_blank(record)).count() * 2 > records.len();
    Some(Sniff {
        delimiter: delimiter.map(char::from),
        header: is_header(&first, &records[1..]),
        byte_order_mark,
        crlf_lines: lines.iter().filter(|line| line.ends_with(b"\r\n")).count() as u64,
        lines: lines.len() as u64,
        blank_lines: lines.iter().filter(is_blank).count() as u64,
        first,
        blanks,
    })
}

/// The delimiter that cuts most records into equally many fields, more than one.
fn delimiter(head: &[u8]) -> Option<u8> {
    let mut best: Option<(usize, usize, u8)> = None;
    for delimiter in DELIMITERS {
        let records = records(head, delimiter);
        let fields = records.first()?.len();
        let alike = records.iter().filter(|record| record.len() == fields).count();
        // Sentences have commas too, but not equally many.
        if fields > 1
            && alike * 10 >= records.len() * 9
            && best.is_none_or(|(most, many, _)| (alike, fields) > (most, many))
        {
            best = Some((alike, fields, delimiter));
        }
    }
    best.map(|(_, _, delimiter)| delimiter)
}

/// The first records. A delimiter of 0 cuts nothing.
fn records(head: &[u8], delimiter: u8) -> Vec<Vec<String>> {
    let text = String::from_utf8_lossy(head);
    let mut records = Vec::new();
    let (mut record, mut field, mut quoted) = (Vec::new(), String::new(), false);
    for c in text.chars() {
        match c {
            '"' if delimiter != 0 => quoted = !quoted,
            '\n' if !quoted => {
                if field.ends_with('\r') {
                    field.pop();
                }
                record.push(std::mem::take(&mut field));
                let done = std::mem::take(&mut record);
                if done.len() > 1 || !done[0].is_empty() {
                    records.push(done);
                }
                if records.len() >= RECORDS {
                    return records;
                }
            }
            c if !quoted && delimiter != 0 && c == char::from(delimiter) => record.push(std::mem::take(&mut field)),
            c => field.push(c),
        }
    }
    if !field.is_empty() || !record.is_empty() {
        record.push(field);
        records.push(record);
    }
    records
}

/// Names are no numbers, and a single column has no sentence for a name.
fn is_header(first: &[String], rest: &[Vec<String>]) -> bool {
    let number = |field: &String| field.trim().parse::<f64>().is_ok();
    if first.iter().any(number) {
        return false;
    }
    if let [name] = first {
        return name.split_whitespace().count() <= 3
            && rest.iter().any(|record| record.iter().any(|field| !number(field) || field.len() < name.len()));
    }
    true
}

impl Sniff {
    /// What is remarkable about how the file is written. `plan` is how it is read.
    pub fn findings(&self, path: &str, plan: &CsvPlan) -> Vec<Finding> {
        let mut found = Vec::new();
        let mut add = |kind, columns: &[&str], count, message: String| {
            found.push(Finding::new(kind, columns, count, message).examples(vec![path.to_owned()]));
        };
        if self.crlf_lines > 0 {
            let all = if self.crlf_lines == self.lines { "lines end" } else { "some lines end" };
            add("crlf_line_endings", &[], self.crlf_lines, format!("{all} with CR LF"));
        }
        if self.byte_order_mark {
            add("byte_order_mark", &[], 1, "the file begins with a byte order mark".to_owned());
        }
        if self.blank_lines > 0 {
            let message = format!("{} of the first {} lines are blank", self.blank_lines, self.lines);
            add("blank_lines", &[], self.blank_lines, message);
        }
        if let Some(delimiter) = self.delimiter.filter(|delimiter| *delimiter != ',') {
            add("delimiter", &[], 1, format!("fields are cut by {delimiter:?}"));
        }
        if !self.header {
            add("no_header", &[], 1, "the first line is data and no header".to_owned());
        }
        if self.blanks {
            add("blanks_after_delimiter", &[], 1, "blanks follow the delimiters: read with data.csv.trim".to_owned());
        }
        if plan.header && self.header && self.first.len() > 1 {
            for (index, name) in self.first.iter().enumerate().filter(|(_, name)| name.trim().is_empty()) {
                let name = if name.is_empty() { format!("column_{}", index + 1) } else { name.clone() };
                add("unnamed_column", &[&name], 1, format!("column {} has no name", index + 1));
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_as_they_are_written() {
        let sniffed = |text: &str| of_head(text.as_bytes()).expect("a text");
        let plain = sniffed("a,b\n1,2\n3,4\n");
        assert_eq!((plain.delimiter, plain.header, plain.crlf_lines, plain.blanks), (Some(','), true, 0, false));
        let other = sniffed("\u{feff}a;b;c\r\n1,5;\"x;y\";2\r\n2,5;z;3\r\n");
        assert_eq!(
            (other.delimiter, other.header, other.crlf_lines, other.byte_order_mark),
            (Some(';'), true, 3, true)
        );
        let blanks = sniffed("age, job, pay\n30, clerk, 5\n40, cook, 6\n");
        assert!(blanks.blanks);
        let bare = sniffed("1,2\n3,4\n");
        assert!(!bare.header);
        let lines = sniffed("Ten things that you never knew\n\nWhat happens next, will surprise you\n");
        assert_eq!((lines.delimiter, lines.header, lines.blank_lines), (None, false, 1));
        let unnamed = sniffed(",a,b\n0,1,2\n");
        assert_eq!(unnamed.first, ["", "a", "b"]);
        assert_eq!(of_head(b"PAR1\0\0"), None);
        assert_eq!(of_head(b""), None);
    }
}
