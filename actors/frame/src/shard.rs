//! A table as the bytes of an Arrow IPC file, which any Arrow library opens, and back. The same table gives
//! the same bytes; hostile bytes give an error.

use std::io::Cursor;

use arrow_ipc::reader::FileReader;
use arrow_ipc::writer::FileWriter;
use bytes::Bytes;

use crate::error::Error;
use crate::ipc;
use crate::table::Table;

/// The table as one file of one batch.
pub fn write_shard(table: &Table) -> Result<Bytes, Error> {
    let failed = |e: arrow_schema::ArrowError| Error::layout(format!("cannot write a shard: {e}"));
    let mut writer = FileWriter::try_new(Vec::new(), table.batch().schema_ref()).map_err(failed)?;
    writer.write(table.batch()).map_err(failed)?;
    writer.finish().map_err(failed)?;
    Ok(Bytes::from(writer.into_inner().map_err(failed)?))
}

/// Reads the table of a file written by [`write_shard`].
pub fn read_shard(bytes: &[u8]) -> Result<Table, Error> {
    ipc::check_file(bytes)?;
    let malformed = |e: arrow_schema::ArrowError| Error::malformed(format!("shard: {e}"));
    let mut reader = FileReader::try_new(Cursor::new(bytes), None).map_err(malformed)?;
    let batches = reader.num_batches();
    if batches != 1 {
        return Err(Error::malformed(format!("shard of {batches} batches, expected 1")));
    }
    let batch = reader.next().ok_or_else(|| Error::malformed("shard without a batch"))?.map_err(malformed)?;
    Table::from_batch(batch)
}
