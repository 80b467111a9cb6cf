//! One kept outcome as a file: the outcome, then what it is and what it hashes to, then a tail that says where that
//! begins. A file that was cut, mixed up or never finished is told from a whole one before anything of it is used.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};

use messages::UnixMs;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::recipe::Key;

/// The end of every entry; its last digit is the version of this layout.
const MAGIC: &[u8; 8] = b"WITHIN-1";
/// Length of the label (4), the first half of its BLAKE3 (16), and [`MAGIC`].
const TAIL_BYTES: u64 = 28;
/// Largest label.
const MAX_LABEL_BYTES: u32 = 1 << 20;
/// Outcomes up to this size are read at once, and others twice: to be checked, then to be decoded.
const AT_ONCE_BYTES: u64 = 64 << 20;

/// What an entry holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Label {
    pub key: Key,
    pub step: String,
    pub created_at: UnixMs,
    pub payload_bytes: u64,
    pub payload_blake3: String,
}

/// Why an entry cannot be used.
#[derive(Debug)]
pub enum Unusable {
    /// It is not what was written.
    Damaged(String),
    Io(io::Error),
}

impl From<io::Error> for Unusable {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Damaged("it is cut short".into()),
            _ => Self::Io(error),
        }
    }
}

fn damaged<T>(what: impl Into<String>) -> Result<T, Unusable> {
    Err(Unusable::Damaged(what.into()))
}

/// Writes the outcome through `write`; more than `limit_bytes` is an error of kind `FileTooLarge`.
pub fn write(
    file: File,
    key: &Key,
    step: &str,
    created_at: UnixMs,
    limit_bytes: u64,
    write: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>,
) -> io::Result<u64> {
    let mut counted = Counted {
        inner: BufWriter::with_capacity(1 << 18, file),
        hasher: blake3::Hasher::new(),
        written: 0,
        limit_bytes,
    };
    write(&mut counted)?;
    let label = Label {
        key: key.clone(),
        step: step.to_owned(),
        created_at,
        payload_bytes: counted.written,
        payload_blake3: counted.hasher.finalize().to_hex().to_string(),
    };
    let label = serde_json::to_vec(&label)?;
    let mut out = counted.inner;
    out.write_all(&label)?;
    out.write_all(&(label.len() as u32).to_le_bytes())?;
    out.write_all(&blake3::hash(&label).as_bytes()[..16])?;
    out.write_all(MAGIC)?;
    out.flush()?;
    Ok(counted.written + label.len() as u64 + TAIL_BYTES)
}

/// An outcome as it is written.
pub fn write_value<T: Serialize>(mut out: &mut dyn Write, value: &T) -> io::Result<()> {
    match rmp_serde::encode::write_named(&mut out, value) {
        Ok(()) => Ok(()),
        // The error of the writer below.
        Err(rmp_serde::encode::Error::InvalidValueWrite(inner)) => Err(inner.into()),
        Err(other) => Err(io::Error::other(other.to_string())),
    }
}

struct Counted {
    inner: BufWriter<File>,
    hasher: blake3::Hasher,
    written: u64,
    limit_bytes: u64,
}

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.written += written as u64;
        if self.written > self.limit_bytes {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "larger than the whole cache may be"));
        }
        self.hasher.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Reads what an entry says of itself. The outcome is not looked at, but for its length.
pub fn label(file: &mut File) -> Result<Label, Unusable> {
    let size = file.metadata()?.len();
    if size < TAIL_BYTES {
        return damaged("it is cut short");
    }
    file.seek(SeekFrom::Start(size - TAIL_BYTES))?;
    let mut tail = [0; TAIL_BYTES as usize];
    file.read_exact(&mut tail)?;
    let (head, magic) = tail.split_at(20);
    let (length, hash) = head.split_at(4);
    let length = u32::from_le_bytes([length[0], length[1], length[2], length[3]]);
    if magic != MAGIC || length > MAX_LABEL_BYTES || u64::from(length) > size - TAIL_BYTES {
        return damaged("its end is not that of an entry");
    }
    file.seek(SeekFrom::Start(size - TAIL_BYTES - u64::from(length)))?;
    let mut text = vec![0; length as usize];
    file.read_exact(&mut text)?;
    if &blake3::hash(&text).as_bytes()[..16] != hash {
        return damaged("its label has another hash than it says");
    }
    let label: Label = serde_json::from_slice(&text).map_err(|e| Unusable::Damaged(format!("its label: {e}")))?;
    if label.payload_bytes != size - TAIL_BYTES - u64::from(length) {
        return damaged("its length is not what it says");
    }
    Ok(label)
}

/// The outcome, once its hash was checked.
pub fn payload<T: DeserializeOwned>(file: &mut File, label: &Label) -> Result<T, Unusable> {
    let wrong = |e: rmp_serde::decode::Error| Unusable::Damaged(format!("its content is not what is expected: {e}"));
    file.seek(SeekFrom::Start(0))?;
    if label.payload_bytes <= AT_ONCE_BYTES {
        let mut bytes = vec![0; label.payload_bytes as usize];
        file.read_exact(&mut bytes)?;
        check(blake3::hash(&bytes), label)?;
        return rmp_serde::from_slice(&bytes).map_err(wrong);
    }
    let mut hasher = blake3::Hasher::new();
    let mut piece = vec![0; 1 << 20];
    let mut whole = Read::by_ref(file).take(label.payload_bytes);
    loop {
        let read = whole.read(&mut piece)?;
        if read == 0 {
            break;
        }
        hasher.update(&piece[..read]);
    }
    check(hasher.finalize(), label)?;
    file.seek(SeekFrom::Start(0))?;
    rmp_serde::from_read(BufReader::with_capacity(1 << 20, file.take(label.payload_bytes))).map_err(wrong)
}

fn check(found: blake3::Hash, label: &Label) -> Result<(), Unusable> {
    if found.to_hex().as_str() == label.payload_blake3 {
        return Ok(());
    }
    damaged("its content has another hash than it says")
}
