//! Encoded rows as the Arrow IPC stream of a feed frame, with the columns that [`messages::feed`] names, and
//! back. Any Arrow library reads a frame; our own reader copies each column once and checks every bound.

use std::sync::Arc;

use arrow_array::{ArrayRef, FixedSizeListArray, Float32Array, RecordBatch, UInt64Array};
use arrow_ipc::writer::StreamWriter;
use arrow_ipc::{Precision, Schema as IpcSchema};
use arrow_schema::{DataType, Field, Schema};
use bytes::Bytes;
use messages::feed::{COLUMN_FEATURES, COLUMN_SAMPLE_ID, COLUMN_TARGET, COLUMN_WEIGHT};

use crate::encode::Encoded;
use crate::error::Error;
use crate::ipc;

/// Bytes of a frame beside its values: schema, metadata and padding.
const OVERHEAD_BYTES: usize = 2_048;

/// Largest size of a frame with so many rows, in bytes.
pub fn frame_bytes_bound(rows: usize, width: usize, weighted: bool) -> usize {
    let row = 8 + 4 * width + 4 + 4 * usize::from(weighted);
    row.saturating_mul(rows).saturating_add(OVERHEAD_BYTES)
}

/// The rows as an Arrow IPC stream of one batch. Takes the rows, so that their memory becomes the batch's.
pub fn encode_frame(encoded: Encoded) -> Result<Bytes, Error> {
    let failed = |e: arrow_schema::ArrowError| Error::layout(format!("cannot write a frame: {e}"));
    let Encoded { rows, width, features, targets, sample_ids, weights } = encoded;
    let size =
        i32::try_from(width).map_err(|_| Error::layout(format!("{width} features, expected fewer than 2^31")))?;
    let bound = frame_bytes_bound(rows, width, weights.is_some());
    let item = Arc::new(Field::new("item", DataType::Float32, false));
    let list = FixedSizeListArray::try_new_with_length(item, size, Arc::new(Float32Array::from(features)), None, rows)
        .map_err(failed)?;
    let mut columns: Vec<(&str, ArrayRef)> = vec![
        (COLUMN_SAMPLE_ID, Arc::new(UInt64Array::from(sample_ids))),
        (COLUMN_FEATURES, Arc::new(list)),
        (COLUMN_TARGET, Arc::new(Float32Array::from(targets))),
    ];
    if let Some(weights) = weights {
        columns.push((COLUMN_WEIGHT, Arc::new(Float32Array::from(weights))));
    }
    let fields: Vec<_> =
        columns.iter().map(|(name, array)| Field::new(*name, array.data_type().clone(), false)).collect();
    let schema = Arc::new(Schema::new(fields));
    let batch =
        RecordBatch::try_new(schema.clone(), columns.into_iter().map(|(_, array)| array).collect()).map_err(failed)?;
    let mut writer = StreamWriter::try_new(Vec::with_capacity(bound), &schema).map_err(failed)?;
    writer.write(&batch).map_err(failed)?;
    writer.finish().map_err(failed)?;
    Ok(Bytes::from(writer.into_inner().map_err(failed)?))
}

/// Reads the rows of a frame.
pub fn decode_frame(bytes: &[u8]) -> Result<Encoded, Error> {
    let head = ipc::message_at(bytes, 0)?.ok_or_else(|| Error::malformed("empty frame"))?;
    let schema = head.message.header_as_schema().ok_or_else(|| Error::malformed("frame without a schema"))?;
    let (width, weighted) = layout(schema)?;
    let found = ipc::message_at(bytes, head.end)?.ok_or_else(|| Error::malformed("frame without rows"))?;
    let batch = found.message.header_as_record_batch().ok_or_else(|| Error::malformed("frame without rows"))?;
    ipc::check_batch(batch, found.body)?;
    let rows = usize::try_from(batch.length()).map_err(|_| Error::malformed("frame with a negative row count"))?;
    let values = rows.checked_mul(width).ok_or_else(|| Error::malformed(format!("{rows} rows of {width} features")))?;

    // One node a column, and one for the list's values; each column a validity buffer, each but the list a data buffer.
    let mut lengths = vec![rows, rows, values, rows];
    let mut data = vec![1, 4, 6];
    if weighted {
        lengths.push(rows);
        data.push(8);
    }
    let nodes = batch.nodes().ok_or_else(|| Error::malformed("frame without columns"))?;
    let buffers = batch.buffers().ok_or_else(|| Error::malformed("frame without buffers"))?;
    if nodes.len() != lengths.len() || buffers.len() != data.last().map_or(0, |last| last + 1) {
        return Err(Error::malformed(format!("frame of {} columns and {} buffers", nodes.len(), buffers.len())));
    }
    for (node, expected) in nodes.iter().zip(&lengths) {
        if usize::try_from(node.length()) != Ok(*expected) || node.null_count() != 0 {
            return Err(Error::malformed(format!(
                "column of {} values, {} null: expected {expected}, none null",
                node.length(),
                node.null_count()
            )));
        }
    }
    let slice = |buffer: usize, count: usize, size: usize| {
        let buffer = buffers.get(buffer);
        let start = usize::try_from(buffer.offset()).unwrap_or(usize::MAX);
        let wanted = count.checked_mul(size).and_then(|bytes| bytes.checked_add(start));
        wanted
            .filter(|_| usize::try_from(buffer.length()).is_ok_and(|has| has >= count * size))
            .and_then(|end| found.body.get(start..end))
            .ok_or_else(|| Error::malformed(format!("column of {} bytes, expected {count} values", buffer.length())))
    };
    Ok(Encoded {
        rows,
        width,
        sample_ids: words(slice(data[0], rows, 8)?),
        features: floats(slice(data[1], values, 4)?),
        targets: floats(slice(data[2], rows, 4)?),
        weights: if weighted { Some(floats(slice(data[3], rows, 4)?)) } else { None },
    })
}

/// The feature count, and whether there are weights, of a frame's schema.
fn layout(schema: IpcSchema<'_>) -> Result<(usize, bool), Error> {
    let fields = schema.fields().ok_or_else(|| Error::malformed("frame without columns"))?;
    let wrong = || Error::malformed("frame whose columns are not sample_id, features, target and perhaps weight");
    if !(3..=4).contains(&fields.len()) {
        return Err(wrong());
    }
    let names = [COLUMN_SAMPLE_ID, COLUMN_FEATURES, COLUMN_TARGET, COLUMN_WEIGHT];
    if fields.iter().zip(names).any(|(field, name)| field.name() != Some(name)) {
        return Err(wrong());
    }
    let list = fields.get(1).type_as_fixed_size_list().ok_or_else(wrong)?;
    let items = fields.get(1).children().ok_or_else(wrong)?;
    let floats = items.len() == 1
        && ipc::is_float(items.get(0), Precision::SINGLE)
        && (2..fields.len()).all(|i| ipc::is_float(fields.get(i), Precision::SINGLE));
    if !floats || !ipc::is_u64(fields.get(0)) {
        return Err(wrong());
    }
    Ok((usize::try_from(list.listSize()).map_err(|_| wrong())?, fields.len() == 4))
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    let (chunks, _) = bytes.as_chunks::<4>();
    chunks.iter().map(|chunk| f32::from_le_bytes(*chunk)).collect()
}

fn words(bytes: &[u8]) -> Vec<u64> {
    let (chunks, _) = bytes.as_chunks::<8>();
    chunks.iter().map(|chunk| u64::from_le_bytes(*chunk)).collect()
}
