//! Arrow IPC, message by message: a stream, or a file, which is a stream between its magic bytes and a footer. The
//! lengths that a message states are checked before anything is allocated for them.

use std::io::{self, Read};

use arrow_array::RecordBatch;
use arrow_buffer::Buffer;
use arrow_ipc::reader::StreamDecoder;
use arrow_ipc::{MessageHeader, root_as_message};
use arrow_schema::SchemaRef;
use messages::WireError;
use messages::plan::TextEncoding;

use super::arrays::converted;
use super::packed::{self, Unpacked};
use super::parquet_file::guarded;
use super::{CHUNK_ROWS, Chunk, File, Format, Summary, Want, foreign_format, path};
use crate::check::{MAX_COLUMNS, Violation, Violations};

const MAGIC: &[u8] = b"ARROW1";
const CONTINUATION: u32 = u32::MAX;
/// Largest description of a message, and largest message, packed and unpacked, in bytes.
const MAX_HEAD_BYTES: usize = 64 << 20;
const MAX_BODY_BYTES: u64 = 1 << 30;
/// Bodies are read in parts, so that one that lies about its size takes no more than it holds.
const PART_BYTES: u64 = 1 << 20;

pub struct ArrowFile {
    path: String,
    stream: Unpacked,
    decoder: StreamDecoder,
    /// Of the last message, what is not yet decoded.
    left: Buffer,
    schema: SchemaRef,
    columns: Vec<String>,
    wanted: Vec<(usize, Want)>,
    /// Rows of a batch that are not yet given.
    batch: Option<(RecordBatch, usize)>,
    rows: u64,
}

/// Why a message cannot be read.
enum Broken {
    Bomb,
    Because(String),
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Self::Because(if error.kind() == io::ErrorKind::UnexpectedEof {
            "it is cut short".to_owned()
        } else {
            error.to_string()
        })
    }
}

impl From<String> for Broken {
    fn from(message: String) -> Self {
        Self::Because(message)
    }
}

impl ArrowFile {
    pub fn open(file: &File, violations: &mut Violations) -> Result<Option<Self>, WireError> {
        let mut stream = Unpacked::open(file)?;
        let mut head = [0; 8];
        let mut have = 0;
        while have < head.len() {
            match stream.read(&mut head[have..]) {
                Ok(0) => break,
                Ok(read) => have += read,
                Err(error) => {
                    violations.add(broken(&file.path, &stream, Broken::from(error)));
                    return Ok(None);
                }
            }
        }
        if have == 0 {
            violations.add(Violation::new("is empty").file(&file.path));
            return Ok(None);
        }
        if let Some(violation) = foreign_format(&file.path, &head[..have], Format::Arrow, TextEncoding::Utf8) {
            violations.add(violation);
            return Ok(None);
        }
        let mut this = Self {
            path: file.path.clone(),
            stream,
            decoder: StreamDecoder::new(),
            left: Buffer::from_vec(Vec::<u8>::new()),
            schema: SchemaRef::new(arrow_schema::Schema::empty()),
            columns: Vec::new(),
            wanted: Vec::new(),
            batch: None,
            rows: 0,
        };
        let begun = if head.starts_with(MAGIC) { this.skip_padding() } else { Ok(head[..have].to_vec()) };
        match begun.and_then(|begun| this.read_schema(begun)) {
            Ok(()) => {}
            Err(why) => {
                violations.add(broken(&this.path, &this.stream, why));
                return Ok(None);
            }
        }
        if this.schema.fields().len() > MAX_COLUMNS {
            let message = format!("has {} columns, expected at most {MAX_COLUMNS}", this.schema.fields().len());
            violations.add(Violation::new(message).file(&this.path));
            return Ok(None);
        }
        this.columns = this.schema.fields().iter().map(|field| field.name().clone()).collect();
        Ok(Some(this))
    }

    /// A file has its stream behind its magic, which is padded with zeros. Gives the first bytes that are none.
    fn skip_padding(&mut self) -> Result<Vec<u8>, Broken> {
        /// What writers align to, at most.
        const MAX_PADDING: usize = 512;
        let mut word = Vec::new();
        for _ in 0..MAX_PADDING / 8 {
            word.clear();
            if !self.fill(&mut word, 8)? || word.iter().any(|byte| *byte != 0) {
                break;
            }
        }
        Ok(word)
    }

    fn read_schema(&mut self, begun: Vec<u8>) -> Result<(), Broken> {
        let Some(message) = self.message(begun)? else {
            return Err("it ends before its schema".to_owned().into());
        };
        self.left = Buffer::from_vec(message);
        self.decode()?;
        self.schema = self.decoder.schema().ok_or_else(|| "it does not begin with its schema".to_owned())?;
        Ok(())
    }

    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    pub fn want(&mut self, wanted: &[(usize, Want)]) {
        self.wanted = wanted.to_vec();
    }

    fn decode(&mut self) -> Result<Option<RecordBatch>, Broken> {
        let (decoder, left) = (&mut self.decoder, &mut self.left);
        guarded(move || decoder.decode(left)).map_err(Broken::Because)
    }

    /// The next batch with rows; none at the end.
    fn next_batch(&mut self) -> Result<Option<RecordBatch>, Broken> {
        loop {
            // A batch without a body is only seen once more comes behind it.
            if self.left.is_empty() {
                let Some(message) = self.message(Vec::new())? else { return Ok(None) };
                self.left = Buffer::from_vec(message);
            }
            if let Some(batch) = self.decode()?.filter(|batch| batch.num_rows() > 0) {
                return Ok(Some(batch));
            }
        }
    }

    /// The next message with its body, checked; none at the end of the stream.
    fn message(&mut self, begun: Vec<u8>) -> Result<Option<Vec<u8>>, Broken> {
        let mut message = begun;
        if message.len() < 4 && !self.fill(&mut message, 4)? {
            return Ok(None);
        }
        let number = |bytes: &[u8]| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        let mut prefix = 4;
        if number(&message) == CONTINUATION {
            prefix = 8;
            if message.len() < 8 && !self.fill(&mut message, 8)? {
                return Err("it is cut short".to_owned().into());
            }
        }
        let length = number(&message[prefix - 4..]) as usize;
        if length == 0 {
            return Ok(None);
        }
        if length > MAX_HEAD_BYTES {
            let what =
                format!("a message says that its description takes {length} bytes, expected at most {MAX_HEAD_BYTES}");
            return Err(what.into());
        }
        if message.len() < prefix + length && !self.fill(&mut message, prefix + length)? {
            return Err("it is cut short".to_owned().into());
        }
        let head = root_as_message(&message[prefix..prefix + length])
            .map_err(|error| format!("a message has no description that can be read: {error}"))?;
        let body = u64::try_from(head.bodyLength()).unwrap_or(u64::MAX);
        let unpacked = unpacked_bytes(&head);
        if body > MAX_BODY_BYTES {
            return Err(format!("a message says that it takes {body} bytes, expected at most {MAX_BODY_BYTES}").into());
        }
        let whole = prefix + length + body as usize;
        if message.len() < whole && !self.fill(&mut message, whole)? {
            return Err("it is cut short".to_owned().into());
        }
        if let Some(buffers) = unpacked {
            let claimed = claimed_bytes(&message[prefix + length..], &buffers);
            if claimed > MAX_BODY_BYTES {
                return Err(Broken::Bomb);
            }
        }
        Ok(Some(message))
    }

    /// Reads on until the message has so many bytes; false where nothing at all was left.
    fn fill(&mut self, message: &mut Vec<u8>, size: usize) -> Result<bool, Broken> {
        let before = message.len();
        while message.len() < size {
            let part = (size - message.len()).min(PART_BYTES as usize) as u64;
            let read = self.stream.by_ref().take(part).read_to_end(message)?;
            if read == 0 {
                if message.len() == before {
                    return Ok(false);
                }
                return Err("it is cut short".to_owned().into());
            }
        }
        Ok(true)
    }

    pub fn next_chunk(&mut self, violations: &mut Violations) -> Option<Chunk> {
        if self.batch.is_none() {
            match self.next_batch() {
                Ok(batch) => self.batch = batch.map(|batch| (batch, 0)),
                Err(why) => violations.add(broken(&self.path, &self.stream, why)),
            }
        }
        let (batch, from) = self.batch.take()?;
        let rows = CHUNK_ROWS.min(batch.num_rows() - from);
        let part = batch.slice(from, rows);
        if from + rows < batch.num_rows() {
            self.batch = Some((batch, from + rows));
        }
        let mut columns = Vec::with_capacity(self.wanted.len());
        for &(index, want) in &self.wanted {
            let array = part.column(index);
            let Some(column) = converted(array, want) else {
                let message =
                    format!("is of type {}, expected a number, a text, a boolean, a date or a time", array.data_type());
                let hint = "leave the column out with data.exclude";
                violations.add(Violation::new(message).file(&self.path).column(&self.columns[index]).hint(hint));
                return None;
            };
            columns.push(column);
        }
        let first_row = self.rows;
        self.rows += rows as u64;
        Some(Chunk { rows, columns, lines: Vec::new(), first_row, picked: None })
    }

    pub fn finish(mut self) -> Result<Summary, WireError> {
        let (blake3, size_bytes) = self.stream.finish().map_err(|e| path::cannot_open(&self.path, &e))?;
        Ok(Summary { blake3, size_bytes, rows: self.rows })
    }
}

/// Where the buffers of a packed body lie.
fn unpacked_bytes(head: &arrow_ipc::Message<'_>) -> Option<Vec<(usize, usize)>> {
    let batch = match head.header_type() {
        MessageHeader::RecordBatch => head.header_as_record_batch()?,
        MessageHeader::DictionaryBatch => head.header_as_dictionary_batch()?.data()?,
        _ => return None,
    };
    batch.compression()?;
    let place = |value: i64| usize::try_from(value).unwrap_or(usize::MAX);
    Some(batch.buffers()?.iter().map(|buffer| (place(buffer.offset()), place(buffer.length()))).collect())
}

/// The sum of the sizes that packed buffers say they unpack to.
fn claimed_bytes(body: &[u8], buffers: &[(usize, usize)]) -> u64 {
    let claimed = |&(offset, length): &(usize, usize)| {
        let head = body.get(offset..offset.checked_add(8)?).filter(|_| length >= 8)?;
        let size = i64::from_le_bytes(head.try_into().ok()?);
        // -1 says that this buffer is not packed.
        Some(u64::try_from(size).unwrap_or(if size == -1 { length as u64 } else { u64::MAX }))
    };
    buffers.iter().filter_map(claimed).fold(0, u64::saturating_add)
}

fn broken(path: &str, stream: &Unpacked, why: Broken) -> Violation {
    match why {
        Broken::Because(_) | Broken::Bomb if stream.is_bomb() => packed::bomb(path),
        Broken::Bomb => Violation::new(format!(
            "holds a batch that says it unpacks to more than {MAX_BODY_BYTES} bytes: write smaller batches"
        ))
        .file(path),
        Broken::Because(why) => {
            Violation::new(format!("is not an Arrow file or stream that can be read: {why}")).file(path)
        }
    }
}
