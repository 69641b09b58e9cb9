//! Aggregate states as bytes: one Arrow IPC stream (format 1 of Apache Arrow's columnar IPC) per piece.
//!
//! Owns: the encoding. Does not own: what the columns mean (engine).

use arrow_array::RecordBatch;
use arrow_ipc::reader::StreamReader;
use arrow_ipc::writer::StreamWriter;
use bytes::Bytes;

use super::fault::{Fault, Kind, Result};

/// Writes one batch.
pub fn encode(states: &RecordBatch) -> Result<Bytes> {
    let fault = |error: arrow_schema::ArrowError| Fault::caused(Kind::Bug, "writing aggregate states", &error);
    let mut out = Vec::with_capacity(states.get_array_memory_size() + 1024);
    let mut writer = StreamWriter::try_new(&mut out, states.schema_ref()).map_err(fault)?;
    writer.write(states).map_err(fault)?;
    writer.finish().map_err(fault)?;
    drop(writer);
    Ok(out.into())
}

/// Reads the one batch back.
pub fn decode(data: &[u8]) -> Result<RecordBatch> {
    let fault = |error: arrow_schema::ArrowError| Fault::caused(Kind::Corrupt, "reading aggregate states", &error);
    let mut reader = StreamReader::try_new(data, None).map_err(fault)?;
    let batch = reader.next().ok_or_else(|| Fault::corrupt("aggregate states without a batch"))?.map_err(fault)?;
    if reader.next().is_some() {
        return Err(Fault::corrupt("aggregate states with more than one batch"));
    }
    Ok(batch)
}
