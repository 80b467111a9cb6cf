//! Encoded rows as the Arrow IPC stream of a feed frame, with the columns that [`messages::feed`] names, and
//! back. Any Arrow library reads a frame; our own reader copies each column once and checks every bound.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::{
    ArrayRef, FixedSizeBinaryArray, FixedSizeListArray, Float32Array, ListArray, RecordBatch, UInt32Array, UInt64Array,
};
use arrow_buffer::{Buffer, OffsetBuffer, ScalarBuffer};
use arrow_ipc::writer::StreamWriter;
use arrow_ipc::{Field as IpcField, Precision, RecordBatch as IpcBatch, Schema as IpcSchema};
use arrow_schema::{ArrowError, DataType, Field, Schema};
use bytes::Bytes;
use kernels::nn::{Images, PixelValues, Steps};
use kernels::text::Packed;
use messages::feed::{
    COLUMN_CATEGORIES, COLUMN_FEATURES, COLUMN_IMAGE, COLUMN_SAMPLE_ID, COLUMN_STEPS, COLUMN_TARGET, COLUMN_TOKENS,
    COLUMN_WEIGHT,
};

use crate::encoded::{Encoded, pixels_of};
use crate::error::Error;
use crate::ipc;

/// Bytes of a frame beside its values: schema, metadata and padding.
const OVERHEAD_BYTES: usize = 4_096;
/// Metadata key of an image column: `channels,height,width`.
const SHAPE: &str = "shape";
/// Metadata key of an image column whose pixels are floats.
const FLOATS: &str = "f32";

/// Bytes of a row of flat features.
pub fn row_bytes(width: usize, weighted: bool) -> usize {
    width.saturating_mul(4).saturating_add(8 + 4 + 4 * usize::from(weighted))
}

/// Largest size of a frame with so many rows of at most so many bytes.
pub fn frame_bytes_bound(rows: usize, row_bytes: usize) -> usize {
    row_bytes.saturating_mul(rows).saturating_add(OVERHEAD_BYTES)
}

/// The rows as an Arrow IPC stream of one batch. Takes the rows, so that their memory becomes the batch's.
pub fn encode_frame(encoded: Encoded) -> Result<Bytes, Error> {
    let failed = |e: ArrowError| Error::layout(format!("cannot write a frame: {e}"));
    let bound = encoded.size_bytes() + OVERHEAD_BYTES;
    let (fields, arrays): (Vec<Field>, Vec<ArrayRef>) = columns(encoded).map_err(failed)?.into_iter().unzip();
    let schema = Arc::new(Schema::new(fields));
    let batch = RecordBatch::try_new(schema.clone(), arrays).map_err(failed)?;
    let mut writer = StreamWriter::try_new(Vec::with_capacity(bound), &schema).map_err(failed)?;
    writer.write(&batch).map_err(failed)?;
    writer.finish().map_err(failed)?;
    Ok(Bytes::from(writer.into_inner().map_err(failed)?))
}

fn columns(encoded: Encoded) -> Result<Vec<(Field, ArrayRef)>, ArrowError> {
    let (rows, width, category_columns) = (encoded.rows, encoded.width, encoded.category_columns());
    let Encoded { features, inputs, targets, sample_ids, weights, .. } = encoded;
    let flat = if inputs.steps.is_some() { 0 } else { width };
    let mut out = vec![
        column(COLUMN_SAMPLE_ID, UInt64Array::from(sample_ids)),
        column(COLUMN_FEATURES, fixed_list(Arc::new(Float32Array::from(features)), flat, rows)?),
        column(COLUMN_TARGET, Float32Array::from(targets)),
    ];
    if let Some(weights) = weights {
        out.push(column(COLUMN_WEIGHT, Float32Array::from(weights)));
    }
    if let Some(Packed { ids, offsets }) = inputs.tokens {
        out.push(column(COLUMN_TOKENS, list(Arc::new(UInt32Array::from(ids)), offsets)?));
    }
    if let Some(images) = inputs.images {
        let shape = format!("{},{},{}", images.channels, images.height, images.width);
        let pixels = pixels_of(&images);
        let mut metadata = HashMap::from([(SHAPE.to_owned(), shape)]);
        let (size, buffer) = match images.pixels {
            PixelValues::Bytes(bytes) => (pixels, Buffer::from_vec(bytes)),
            PixelValues::Floats(floats) => {
                metadata.insert(FLOATS.to_owned(), "true".to_owned());
                (pixels.saturating_mul(4), Buffer::from_vec(floats))
            }
        };
        let array = FixedSizeBinaryArray::try_new(small(size)?, buffer, None)?;
        let (field, array) = column(COLUMN_IMAGE, array);
        out.push((field.with_metadata(metadata), array));
    }
    if category_columns > 0 {
        let indices = Arc::new(UInt32Array::from(inputs.categories));
        out.push(column(COLUMN_CATEGORIES, fixed_list(indices, category_columns, rows)?));
    }
    if let Some(Steps { values, offsets }) = inputs.steps {
        let steps = offsets.last().map_or(0, |&end| end as usize);
        let values = fixed_list(Arc::new(Float32Array::from(values)), width, steps)?;
        out.push(column(COLUMN_STEPS, list(Arc::new(values), offsets)?));
    }
    Ok(out)
}

fn column(name: &str, array: impl arrow_array::Array + 'static) -> (Field, ArrayRef) {
    (Field::new(name, array.data_type().clone(), false), Arc::new(array))
}

fn small(size: usize) -> Result<i32, ArrowError> {
    i32::try_from(size).map_err(|_| ArrowError::InvalidArgumentError(format!("{size} values, expected below 2^31")))
}

fn item(kind: &DataType) -> Arc<Field> {
    Arc::new(Field::new("item", kind.clone(), false))
}

fn fixed_list(values: ArrayRef, size: usize, rows: usize) -> Result<FixedSizeListArray, ArrowError> {
    let field = item(values.data_type());
    FixedSizeListArray::try_new_with_length(field, small(size)?, values, None, rows)
}

fn list(values: ArrayRef, offsets: Vec<u32>) -> Result<ListArray, ArrowError> {
    let offsets = offsets.into_iter().map(|end| small(end as usize)).collect::<Result<Vec<i32>, _>>()?;
    ListArray::try_new(item(values.data_type()), OffsetBuffer::new(ScalarBuffer::from(offsets)), values, None)
}

/// Reads the rows of a frame.
pub fn decode_frame(bytes: &[u8]) -> Result<Encoded, Error> {
    let head = ipc::message_at(bytes, 0)?.ok_or_else(|| Error::malformed("empty frame"))?;
    let schema = head.message.header_as_schema().ok_or_else(|| Error::malformed("frame without a schema"))?;
    let fields = layout(schema)?;
    let found = ipc::message_at(bytes, head.end)?.ok_or_else(|| Error::malformed("frame without rows"))?;
    let batch = found.message.header_as_record_batch().ok_or_else(|| Error::malformed("frame without rows"))?;
    ipc::check_batch(batch, found.body)?;
    let rows = usize::try_from(batch.length()).map_err(|_| Error::malformed("frame with a negative row count"))?;
    let mut cursor = Cursor { batch, body: found.body, node: 0, buffer: 0 };
    let mut encoded = Encoded { rows, ..Encoded::default() };
    for (kind, field) in fields {
        read(&mut encoded, kind, field, &mut cursor)?;
    }
    cursor.end()?;
    Ok(encoded)
}

/// The columns of a frame in their order, and whether each must be there.
const COLUMNS: [(&str, bool); 8] = [
    (COLUMN_SAMPLE_ID, true),
    (COLUMN_FEATURES, true),
    (COLUMN_TARGET, true),
    (COLUMN_WEIGHT, false),
    (COLUMN_TOKENS, false),
    (COLUMN_IMAGE, false),
    (COLUMN_CATEGORIES, false),
    (COLUMN_STEPS, false),
];

/// The fields of a frame's schema with their names.
fn layout(schema: IpcSchema<'_>) -> Result<Vec<(&'static str, IpcField<'_>)>, Error> {
    let fields = schema.fields().ok_or_else(|| Error::malformed("frame without columns"))?;
    let names: Vec<&str> = fields.iter().map(|field| field.name().unwrap_or_default()).collect();
    let known: Vec<&'static str> =
        COLUMNS.iter().filter(|(name, needed)| *needed || names.contains(name)).map(|(name, _)| *name).collect();
    if names != known {
        let expected = "sample_id, features, target and perhaps weight, tokens, image, categories, steps";
        return Err(Error::malformed(format!("frame whose columns are not {expected}")));
    }
    Ok(known.into_iter().zip(fields.iter()).collect())
}

fn read(encoded: &mut Encoded, name: &'static str, field: IpcField<'_>, cursor: &mut Cursor<'_>) -> Result<(), Error> {
    let rows = encoded.rows;
    let wrong = || Error::malformed(format!("column {name:?} of another type than a frame's"));
    let single = |field: IpcField<'_>| ipc::is_float(field, Precision::SINGLE);
    let fixed = |field: IpcField<'_>| {
        let list = field.type_as_fixed_size_list().ok_or_else(wrong)?;
        usize::try_from(list.listSize()).map_err(|_| wrong())
    };
    match name {
        COLUMN_SAMPLE_ID if ipc::is_u64(field) => encoded.sample_ids = words(cursor.column(rows, 8)?),
        COLUMN_TARGET if single(field) => encoded.targets = floats(cursor.column(rows, 4)?),
        COLUMN_WEIGHT if single(field) => encoded.weights = Some(floats(cursor.column(rows, 4)?)),
        COLUMN_FEATURES if single(only_child(field)?) => {
            encoded.width = fixed(field)?;
            encoded.features = floats(cursor.fixed_list(rows, encoded.width, 4)?);
        }
        COLUMN_CATEGORIES if ipc::is_u32(only_child(field)?) => {
            encoded.inputs.categories = indices(cursor.fixed_list(rows, fixed(field)?, 4)?);
        }
        COLUMN_TOKENS if field.type_as_list().is_some() && ipc::is_u32(only_child(field)?) => {
            let offsets = cursor.offsets(rows)?;
            let ids = indices(cursor.column(last(&offsets), 4)?);
            encoded.inputs.tokens = Some(Packed { ids, offsets });
        }
        COLUMN_STEPS if field.type_as_list().is_some() && encoded.width == 0 => {
            let steps = only_child(field)?;
            encoded.width = fixed(steps)?;
            if !single(only_child(steps)?) {
                return Err(wrong());
            }
            let offsets = cursor.offsets(rows)?;
            let values = floats(cursor.fixed_list(last(&offsets), encoded.width, 4)?);
            encoded.inputs.steps = Some(Steps { values, offsets });
        }
        COLUMN_IMAGE => {
            let size = ipc::fixed_bytes(field).ok_or_else(wrong)? as usize;
            let (channels, height, width) = shape(field).ok_or_else(wrong)?;
            let as_floats = has(field, FLOATS);
            let pixels = channels.checked_mul(height).and_then(|n| n.checked_mul(width));
            if pixels.and_then(|n| n.checked_mul(if as_floats { 4 } else { 1 })) != Some(size) {
                return Err(wrong());
            }
            let bytes = cursor.column(rows, size)?;
            let pixels =
                if as_floats { PixelValues::Floats(floats(bytes)) } else { PixelValues::Bytes(bytes.to_vec()) };
            encoded.inputs.images = Some(Images { channels, height, width, pixels });
        }
        _ => return Err(wrong()),
    }
    Ok(())
}

fn only_child(field: IpcField<'_>) -> Result<IpcField<'_>, Error> {
    let children = field.children().filter(|children| children.len() == 1);
    children.map(|children| children.get(0)).ok_or_else(|| Error::malformed("a list without its items' type"))
}

fn has(field: IpcField<'_>, key: &str) -> bool {
    field.custom_metadata().is_some_and(|pairs| pairs.iter().any(|pair| pair.key() == Some(key)))
}

fn shape(field: IpcField<'_>) -> Option<(usize, usize, usize)> {
    let pair = field.custom_metadata()?.iter().find(|pair| pair.key() == Some(SHAPE))?;
    let mut sides = pair.value()?.split(',').map(|side| side.parse().ok());
    let found = (sides.next()??, sides.next()??, sides.next()??);
    sides.next().is_none().then_some(found)
}

fn last(offsets: &[u32]) -> usize {
    offsets.last().map_or(0, |&end| end as usize)
}

/// Goes over the nodes and buffers of a batch, column by column, and checks each against what it must be.
struct Cursor<'a> {
    batch: IpcBatch<'a>,
    body: &'a [u8],
    node: usize,
    buffer: usize,
}

impl<'a> Cursor<'a> {
    /// The next node has so many values, none null, and a validity buffer, which is passed over.
    fn values(&mut self, expected: usize) -> Result<(), Error> {
        let nodes = self.batch.nodes().ok_or_else(|| Error::malformed("frame without columns"))?;
        if self.node >= nodes.len() {
            return Err(Error::malformed(format!("frame of {} columns, expected more", nodes.len())));
        }
        let node = nodes.get(self.node);
        if usize::try_from(node.length()) != Ok(expected) || node.null_count() != 0 {
            return Err(Error::malformed(format!(
                "column of {} values, {} null: expected {expected}, none null",
                node.length(),
                node.null_count()
            )));
        }
        self.node += 1;
        self.buffer += 1;
        Ok(())
    }

    /// The next buffer, at least `count` elements of `size` bytes: exactly those.
    fn data(&mut self, count: usize, size: usize) -> Result<&'a [u8], Error> {
        let buffers = self.batch.buffers().ok_or_else(|| Error::malformed("frame without buffers"))?;
        if self.buffer >= buffers.len() {
            return Err(Error::malformed(format!("frame of {} buffers, expected more", buffers.len())));
        }
        let buffer = buffers.get(self.buffer);
        self.buffer += 1;
        let start = usize::try_from(buffer.offset()).unwrap_or(usize::MAX);
        let bytes = count.checked_mul(size);
        bytes
            .filter(|&bytes| usize::try_from(buffer.length()).is_ok_and(|has| has >= bytes))
            .and_then(|bytes| self.body.get(start..start.checked_add(bytes)?))
            .ok_or_else(|| Error::malformed(format!("column of {} bytes, expected {count} values", buffer.length())))
    }

    fn column(&mut self, rows: usize, size: usize) -> Result<&'a [u8], Error> {
        self.values(rows)?;
        self.data(rows, size)
    }

    fn fixed_list(&mut self, rows: usize, width: usize, size: usize) -> Result<&'a [u8], Error> {
        self.values(rows)?;
        let values = rows.checked_mul(width);
        self.column(values.ok_or_else(|| Error::malformed(format!("{rows} rows of {width} values")))?, size)
    }

    /// The offsets of a list of so many rows: from 0, never falling.
    fn offsets(&mut self, rows: usize) -> Result<Vec<u32>, Error> {
        self.values(rows)?;
        if rows == 0 {
            // Writers may leave out the one offset of an empty list.
            self.data(0, 4)?;
            return Ok(vec![0]);
        }
        let count = rows.checked_add(1).ok_or_else(|| Error::malformed("too many rows"))?;
        let offsets = indices(self.data(count, 4)?);
        let rising = offsets.windows(2).all(|pair| pair[0] <= pair[1]);
        if offsets.first() != Some(&0) || !rising || last(&offsets) > i32::MAX as usize {
            return Err(Error::malformed("offsets that do not rise from 0"));
        }
        Ok(offsets)
    }

    /// Nothing is left over.
    fn end(&self) -> Result<(), Error> {
        let nodes = self.batch.nodes().map_or(0, |nodes| nodes.len());
        let buffers = self.batch.buffers().map_or(0, |buffers| buffers.len());
        if (nodes, buffers) == (self.node, self.buffer) {
            return Ok(());
        }
        Err(Error::malformed(format!("frame of {nodes} columns and {buffers} buffers")))
    }
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    let (chunks, _) = bytes.as_chunks::<4>();
    chunks.iter().map(|chunk| f32::from_le_bytes(*chunk)).collect()
}

fn indices(bytes: &[u8]) -> Vec<u32> {
    let (chunks, _) = bytes.as_chunks::<4>();
    chunks.iter().map(|chunk| u32::from_le_bytes(*chunk)).collect()
}

fn words(bytes: &[u8]) -> Vec<u64> {
    let (chunks, _) = bytes.as_chunks::<8>();
    chunks.iter().map(|chunk| u64::from_le_bytes(*chunk)).collect()
}
