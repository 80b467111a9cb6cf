//! Bounds of Arrow IPC bytes. The `arrow-ipc` reader trusts offsets and lengths and panics where they point
//! outside; here every one of them is checked against the bytes at hand first, and only the few types that
//! our tables use pass.

use arrow_ipc::{Block, DictionaryBatch, Field, Message, MessageHeader, Precision, RecordBatch, Schema, Type};

use crate::error::Error;

const CONTINUATION: [u8; 4] = [0xff; 4];
const MAGIC: &[u8; 6] = b"ARROW1";
/// Magic and padding at the start of a file.
const FILE_HEAD: usize = 8;
/// Footer length and magic at the end of a file.
const FILE_TAIL: usize = 10;
/// Most rows of one batch.
const MAX_BATCH_ROWS: i64 = 1 << 31;

/// An encapsulated message: its metadata, its body, and where the next one begins.
pub(crate) struct Encapsulated<'a> {
    pub message: Message<'a>,
    pub body: &'a [u8],
    pub metadata_bytes: usize,
    pub end: usize,
}

/// Reads the message at `at`; `None` at the end of a stream.
pub(crate) fn message_at(bytes: &[u8], at: usize) -> Result<Option<Encapsulated<'_>>, Error> {
    let rest = bytes.get(at..).unwrap_or_default();
    if rest.is_empty() {
        return Ok(None);
    }
    if rest.len() < 8 || rest[..4] != CONTINUATION {
        return Err(Error::malformed(format!("no Arrow IPC message at byte {at}")));
    }
    let length = length_at(rest, 4)?;
    if length == 0 {
        return Ok(None);
    }
    if !length.is_multiple_of(8) {
        return Err(Error::malformed(format!(
            "Arrow IPC message at byte {at} with {length} bytes of metadata, expected a multiple of 8"
        )));
    }
    let metadata = rest.get(8..).and_then(|r| r.get(..length)).ok_or_else(|| cut(at))?;
    let message = arrow_ipc::root_as_message(metadata)
        .map_err(|e| Error::malformed(format!("Arrow IPC message at byte {at}: {e}")))?;
    let body_bytes = usize::try_from(message.bodyLength()).map_err(|_| cut(at))?;
    let body = rest.get(8 + length..).and_then(|r| r.get(..body_bytes)).ok_or_else(|| cut(at))?;
    Ok(Some(Encapsulated { message, body, metadata_bytes: 8 + length, end: at + 8 + length + body_bytes }))
}

fn cut(at: usize) -> Error {
    Error::malformed(format!("Arrow IPC message at byte {at} is cut short"))
}

fn length_at(bytes: &[u8], at: usize) -> Result<usize, Error> {
    let word = bytes.get(at..at + 4).and_then(|b| <[u8; 4]>::try_from(b).ok());
    word.and_then(|b| usize::try_from(i32::from_le_bytes(b)).ok())
        .ok_or_else(|| Error::malformed(format!("no length at byte {at}")))
}

/// Checks that every offset, length and type of an Arrow IPC file is sound, so that the reader cannot panic.
pub(crate) fn check_file(bytes: &[u8]) -> Result<(), Error> {
    let end = bytes.len();
    if end < FILE_HEAD + FILE_TAIL || !bytes.starts_with(MAGIC) || !bytes.ends_with(MAGIC) {
        return Err(Error::malformed("not an Arrow IPC file"));
    }
    let footer_bytes = length_at(bytes, end - FILE_TAIL)?;
    let footer_at = (end - FILE_TAIL)
        .checked_sub(footer_bytes)
        .filter(|&at| at >= FILE_HEAD)
        .ok_or_else(|| Error::malformed(format!("footer of {footer_bytes} bytes in a file of {end}")))?;
    let footer = arrow_ipc::root_as_footer(&bytes[footer_at..end - FILE_TAIL])
        .map_err(|e| Error::malformed(format!("footer: {e}")))?;
    let units = check_schema(footer.schema().ok_or_else(|| Error::malformed("footer without a schema"))?)?;
    for block in footer.dictionaries().into_iter().flatten() {
        let found = block_at(bytes, footer_at, block)?;
        let batch = found.message.header_as_dictionary_batch();
        check_dictionary(batch.ok_or_else(|| wrong_header(found.message.header_type()))?, found.body)?;
    }
    for block in footer.recordBatches().into_iter().flatten() {
        let found = block_at(bytes, footer_at, block)?;
        let batch = found.message.header_as_record_batch();
        let batch = batch.ok_or_else(|| wrong_header(found.message.header_type()))?;
        check_batch(batch, found.body)?;
        check_units(batch, &units)?;
    }
    Ok(())
}

fn wrong_header(found: MessageHeader) -> Error {
    Error::malformed(format!("Arrow IPC message is a {found:?}"))
}

/// The message that a footer's block names; its lengths must be the message's own.
fn block_at<'a>(bytes: &'a [u8], footer_at: usize, block: &Block) -> Result<Encapsulated<'a>, Error> {
    let at = usize::try_from(block.offset()).ok().filter(|&at| at >= FILE_HEAD && at < footer_at);
    let at = at.ok_or_else(|| Error::malformed(format!("block at byte {}", block.offset())))?;
    let found = message_at(&bytes[..footer_at], at)?.ok_or_else(|| cut(at))?;
    let same = usize::try_from(block.metaDataLength()) == Ok(found.metadata_bytes)
        && usize::try_from(block.bodyLength()) == Ok(found.body.len());
    if same { Ok(found) } else { Err(Error::malformed(format!("block at byte {at} differs from its message"))) }
}

fn check_dictionary(batch: DictionaryBatch<'_>, body: &[u8]) -> Result<(), Error> {
    if batch.isDelta() {
        return Err(Error::malformed("a delta dictionary, expected whole ones"));
    }
    let data = batch.data().ok_or_else(|| Error::malformed("dictionary without data"))?;
    check_batch(data, body)?;
    check_units(data, &UTF8_UNITS)
}

/// Bytes of one element in each buffer of a text column: validity bits, offsets, text.
const UTF8_UNITS: [i64; 3] = [1, 4, 1];

/// Checks that each buffer is aligned and holds whole elements, and that there are as many as the columns have.
fn check_units(batch: RecordBatch<'_>, units: &[i64]) -> Result<(), Error> {
    let buffers = batch.buffers().ok_or_else(|| Error::malformed("batch without buffers"))?;
    if buffers.len() != units.len() {
        return Err(Error::malformed(format!("batch of {} buffers, expected {}", buffers.len(), units.len())));
    }
    match buffers.iter().zip(units).find(|(buffer, unit)| buffer.offset() % 8 != 0 || buffer.length() % **unit != 0) {
        Some((buffer, unit)) => Err(Error::malformed(format!(
            "buffer of {} bytes at {}, expected elements of {unit} bytes at a multiple of 8",
            buffer.length(),
            buffer.offset()
        ))),
        None => Ok(()),
    }
}

/// Checks that a batch's buffers lie in its body and its lengths are sane.
pub(crate) fn check_batch(batch: RecordBatch<'_>, body: &[u8]) -> Result<(), Error> {
    if batch.compression().is_some() {
        return Err(Error::malformed("compressed batch, expected none"));
    }
    if batch.variadicBufferCounts().is_some_and(|counts| !counts.is_empty()) {
        return Err(Error::malformed("batch with variadic buffers, expected none"));
    }
    let sane = |n: i64| (0..=MAX_BATCH_ROWS).contains(&n);
    if !sane(batch.length()) {
        return Err(Error::malformed(format!("batch of {} rows", batch.length())));
    }
    for node in batch.nodes().into_iter().flatten() {
        // A feature list's child is as long as rows times features.
        if node.length() < 0
            || node.length() > i64::MAX / 16
            || node.null_count() < 0
            || node.null_count() > node.length()
        {
            return Err(Error::malformed(format!("column of {} values, {} null", node.length(), node.null_count())));
        }
    }
    for buffer in batch.buffers().into_iter().flatten() {
        let range = usize::try_from(buffer.offset()).ok().zip(usize::try_from(buffer.length()).ok());
        if range.and_then(|(offset, length)| offset.checked_add(length)).is_none_or(|end| end > body.len()) {
            return Err(Error::malformed(format!(
                "buffer of {} bytes at {} in a body of {}",
                buffer.length(),
                buffer.offset(),
                body.len()
            )));
        }
    }
    Ok(())
}

/// Only flat Float64, Float32, UInt64, Utf8, FixedSizeBinary and Utf8 dictionaries with Int32 keys. Gives the size of an element
/// in each buffer of a batch.
fn check_schema(schema: Schema<'_>) -> Result<Vec<i64>, Error> {
    let mut units = Vec::new();
    for field in schema.fields().into_iter().flatten() {
        if !is_ours(field) {
            return Err(Error::malformed(format!(
                "column {:?} of a type ({:?}) that our tables do not have",
                field.name().unwrap_or_default(),
                field.type_type()
            )));
        }
        match field.type_type() {
            Type::Utf8 if field.dictionary().is_none() => units.extend(UTF8_UNITS),
            Type::Utf8 => units.extend([1, 4]),
            Type::FloatingPoint if is_float(field, Precision::SINGLE) => units.extend([1, 4]),
            Type::FixedSizeBinary => units.extend([1, fixed_bytes(field).map_or(1, i64::from)]),
            Type::Int => units.extend([1, field.type_as_int().map_or(8, |int| i64::from(int.bitWidth() / 8))]),
            _ => units.extend([1, 8]),
        }
    }
    Ok(units)
}

fn is_ours(field: Field<'_>) -> bool {
    let flat = field.children().is_none_or(|children| children.is_empty());
    if let Some(dictionary) = field.dictionary() {
        let keys = dictionary.indexType().is_none_or(|keys| keys.bitWidth() == 32 && keys.is_signed());
        return flat && keys && field.type_type() == Type::Utf8;
    }
    flat && match field.type_type() {
        Type::Utf8 => true,
        Type::Int => is_u64(field) || is_small(field),
        Type::FixedSizeBinary => fixed_bytes(field).is_some(),
        Type::FloatingPoint => is_float(field, Precision::SINGLE) || is_float(field, Precision::DOUBLE),
        _ => false,
    }
}

pub(crate) fn is_u64(field: Field<'_>) -> bool {
    field.dictionary().is_none() && field.type_as_int().is_some_and(|int| int.bitWidth() == 64 && !int.is_signed())
}

/// A signed number of at most 32 bits, as shards hold numbers that fit.
fn is_small(field: Field<'_>) -> bool {
    field.type_as_int().is_some_and(|int| matches!(int.bitWidth(), 8 | 16 | 32) && int.is_signed())
}

/// Bytes of a value of fixed size: at least one.
pub(crate) fn fixed_bytes(field: Field<'_>) -> Option<i32> {
    let found = field.type_as_fixed_size_binary().map(|kind| kind.byteWidth());
    found.filter(|&bytes| bytes > 0 && field.dictionary().is_none())
}

pub(crate) fn is_u32(field: Field<'_>) -> bool {
    field.dictionary().is_none() && field.type_as_int().is_some_and(|int| int.bitWidth() == 32 && !int.is_signed())
}

pub(crate) fn is_float(field: Field<'_>, precision: Precision) -> bool {
    field.dictionary().is_none() && field.type_as_floating_point().is_some_and(|float| float.precision() == precision)
}
