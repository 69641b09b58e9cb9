//! Aggregate states as bytes: one Arrow IPC stream (format 1 of Apache Arrow's columnar IPC) per piece.
//!
//! Owns: the encoding. Does not own: what the columns mean (engine).

use arrow_array::RecordBatch;
use arrow_ipc::reader::StreamReader;
use arrow_ipc::writer::StreamWriter;
use arrow_schema::ArrowError;
use bytes::Bytes;

use super::fault::{Fault, Kind, Result};

fn unwritten(error: ArrowError) -> Fault {
    Fault::caused(Kind::Bug, "writing aggregate states", &error)
}

fn unread(error: ArrowError) -> Fault {
    Fault::caused(Kind::Corrupt, "reading aggregate states", &error)
}

/// Writes one batch.
pub fn encode(states: &RecordBatch) -> Result<Bytes> {
    encode_all(std::iter::once(Ok(states.clone())))
}

/// Writes batches of one schema, at least one.
pub fn encode_all(mut states: impl Iterator<Item = Result<RecordBatch>>) -> Result<Bytes> {
    let first = states.next().ok_or_else(|| Fault::bug("aggregate states without a batch"))??;
    let mut out = Vec::with_capacity(first.get_array_memory_size() + 1024);
    let mut writer = StreamWriter::try_new(&mut out, first.schema_ref()).map_err(unwritten)?;
    for batch in std::iter::once(Ok(first)).chain(states) {
        writer.write(&batch?).map_err(unwritten)?;
    }
    writer.finish().map_err(unwritten)?;
    drop(writer);
    Ok(out.into())
}

/// Reads the one batch back.
pub fn decode(data: &[u8]) -> Result<RecordBatch> {
    let mut batches = decode_all(data)?;
    let batch = batches.next().ok_or_else(|| Fault::corrupt("aggregate states without a batch"))??;
    if batches.next().is_some() {
        return Err(Fault::corrupt("aggregate states with more than one batch"));
    }
    Ok(batch)
}

/// Reads the batches back, one after the other.
pub fn decode_all(data: &[u8]) -> Result<impl Iterator<Item = Result<RecordBatch>>> {
    let reader = StreamReader::try_new(data, None).map_err(unread)?;
    Ok(reader.map(|batch| batch.map_err(unread)))
}
