//! What CSV and JSON lines have in common: a stream of checked characters, and what a user hears where it breaks off.

use std::fmt::Display;
use std::io::Read;

use messages::WireError;
use messages::error::Code;
use messages::plan::TextEncoding;

use super::characters::Characters;
use super::guard::{Fault, Guard};
use super::packed::{self, Unpacked};
use super::{File, Format, Summary, foreign_format, path};
use crate::check::{At, MAX_FIELD_BYTES, Violation, Violations};

pub type Stream = Guard<Characters>;

/// Opens a text file; none where it is something else by its first bytes.
pub fn open(
    file: &File,
    format: Format,
    encoding: TextEncoding,
    violations: &mut Violations,
) -> Result<Option<Stream>, WireError> {
    let mut head = Vec::new();
    let mut unpacked = Unpacked::open(file)?;
    if let Err(error) = unpacked.by_ref().take(8).read_to_end(&mut head) {
        violations.add(broken(&file.path, &mut unpacked, &error)?);
        return Ok(None);
    }
    if let Some(violation) = foreign_format(&file.path, &head, format, encoding) {
        violations.add(violation);
        return Ok(None);
    }
    Ok(Some(Guard::new(Characters::new(Unpacked::open(file)?, encoding))))
}

/// Why the stream broke off, at a line.
pub fn stopped(
    stream: &mut Stream,
    encoding: TextEncoding,
    path: &str,
    line: u64,
    error: &dyn Display,
) -> Result<Violation, WireError> {
    let violation = match stream.fault() {
        Some(Fault::NotUtf8 { offset, byte, line }) => {
            Violation::new(format!("byte {byte:#04x} at offset {offset} is not UTF-8, expected UTF-8 text"))
                .at(At::Line(line))
                .hint("set data.csv.encoding, such as windows-1252, or save the file as UTF-8")
        }
        Some(Fault::RecordTooLong) => {
            Violation::new(format!("a record that begins here is longer than {MAX_FIELD_BYTES} bytes"))
                .at(At::Line(line))
                .hint("a quote may be open: check data.csv.quote")
        }
        None if stream.inner().is_wrong() => {
            let name = serde_json::to_string(&encoding).unwrap_or_default();
            Violation::new(format!("holds bytes that are no {} text", name.trim_matches('"')))
                .at(At::Line(line))
                .hint("check data.csv.encoding")
        }
        None => broken(path, stream.inner().inner(), error)?.at(At::Line(line)),
    };
    Ok(violation.file(path))
}

/// A packed file that cannot be unpacked is the data's fault; what else cannot be read is the disk's.
fn broken(path: &str, unpacked: &mut Unpacked, error: &dyn Display) -> Result<Violation, WireError> {
    if unpacked.is_bomb() {
        return Ok(packed::bomb(path));
    }
    if unpacked.is_packed() {
        return Ok(Violation::new(format!("cannot be unpacked, it is cut short or damaged: {error}")).file(path));
    }
    Err(WireError::new(Code::DatasetNotFound, format!("{path}: cannot be read: {error}")))
}

/// What is known of the file at its end.
pub fn summary(stream: &mut Stream, path: &str, rows: u64) -> Result<Summary, WireError> {
    let (blake3, size_bytes) = stream.inner().inner().finish().map_err(|e| path::cannot_open(path, &e))?;
    Ok(Summary { blake3, size_bytes, rows })
}
