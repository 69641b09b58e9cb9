//! `gold TABLE`: the latest content of a Gold table, window by window, with each window's status and revision.
//!
//! Owns: choosing windows, pairing a row with exactly the content it names. Does not own: SQL over Gold (query), proving it
//! (audit).

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use bytes::Bytes;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use sluicebox_actors::model::epoch::Hash;
use sluicebox_actors::model::fault::{Fault, Kind, Result};
use sluicebox_actors::model::row::WindowRow;

use super::files;
use super::query::Answer;
use super::sources::{Sources, blocking, cannot_read, folders, hour_folder, segment, time_text, visible};

/// A window that is being replaced is looked at this often.
const LOOKS: u32 = 5;

/// Which windows.
#[derive(Clone, Copy, Default, Debug)]
pub struct Range {
    /// Windows that start at or after, microseconds since 1970.
    pub from_us: Option<i64>,
    /// Windows that start before, microseconds since 1970.
    pub to_us: Option<i64>,
    /// Only the last so many of them.
    pub last: Option<usize>,
}

/// The rows of the chosen windows in order, with `status` and `revision` at the end (`_status`, `_revision` where the statement
/// has columns of that name). `schema` is the table's as the pipeline file makes it; without it, that of the newest window. A
/// table that has neither is `Config` and names those there are. One window is in memory at a time.
pub async fn content(sources: &Sources, table: &str, schema: Option<SchemaRef>, range: Range) -> Result<Answer> {
    let mut rows = sources.rows.windows(table).await?;
    rows.retain(|row| {
        row.content.is_some()
            && range.from_us.is_none_or(|from| row.start_us >= from)
            && range.to_us.is_none_or(|to| row.start_us < to)
    });
    if let Some(last) = range.last {
        rows.drain(..rows.len().saturating_sub(last));
    }
    let schema = match (schema, rows.last()) {
        (Some(schema), _) => schema,
        (None, Some(row)) => {
            let (row, data) = exact(sources, row.clone()).await?;
            files::decode_schema(&data, &row.table)?
        }
        (None, None) => return Err(unknown(sources, table).await),
    };
    let schema = files::nullable(&schema);
    let full = with_revision(&schema);
    let (sources, answer) = (sources.clone(), full.clone());
    let batches = stream::iter(rows)
        .then(move |row| {
            let (sources, schema, full) = (sources.clone(), schema.clone(), full.clone());
            async move {
                let (row, data) = exact(&sources, row).await?;
                let batches = blocking(move || window(&row, data, &schema, &full)).await?;
                Ok::<_, Fault>(stream::iter(batches.into_iter().map(Ok)))
            }
        })
        .try_flatten();
    Ok(Answer { schema: answer, batches: batches.boxed() })
}

fn window(row: &WindowRow, data: Bytes, schema: &SchemaRef, full: &SchemaRef) -> Result<Vec<RecordBatch>> {
    let mut out = Vec::new();
    for batch in files::decode(data, &row.table, Some(schema))? {
        let batch = batch?;
        let rows = batch.num_rows();
        let mut columns = batch.columns().to_vec();
        let status: ArrayRef = Arc::new(StringArray::from_iter_values(std::iter::repeat_n(row.status.as_str(), rows)));
        let revision = i64::try_from(row.revision).unwrap_or(i64::MAX);
        columns.extend([status, Arc::new(Int64Array::from(vec![revision; rows]))]);
        let batch = RecordBatch::try_new(full.clone(), columns);
        out.push(batch.map_err(|error| Fault::caused(Kind::Bug, "Gold with its revision", &error))?);
    }
    Ok(out)
}

fn with_revision(schema: &SchemaRef) -> SchemaRef {
    let mut fields: Vec<Arc<Field>> = schema.fields().iter().cloned().collect();
    for (name, kind) in [("status", DataType::Utf8), ("revision", DataType::Int64)] {
        let name = if schema.column_with_name(name).is_some() { format!("_{name}") } else { name.to_owned() };
        fields.push(Arc::new(Field::new(name, kind, true)));
    }
    Arc::new(Schema::new(fields))
}

/// A row and the bytes it names: the visible object if it is that revision, else the stored content.
async fn exact(sources: &Sources, mut row: WindowRow) -> Result<(WindowRow, Bytes)> {
    for _ in 0..LOOKS {
        let Some(content) = row.content.clone() else { break };
        let (data, under) = (sources.data.clone(), format!("gold/{}/{}", segment(&row.table), hour_folder(row.start_us)));
        let wanted = content.sha256.clone();
        if let Some(bytes) = blocking(move || matching(&data, &under, &wanted)).await? {
            return Ok((row, bytes));
        }
        match sources.blobs.get(&content.key).await {
            Ok(bytes) if Hash::of(&bytes) == content.sha256 => return Ok((row, bytes)),
            Ok(_) => {}
            Err(fault) if fault.kind() == Kind::Corrupt => {}
            Err(fault) => return Err(fault),
        }
        // Replaced between reading the row and its content: the row names a newer one by now.
        match sources.rows.window(&row.table, row.start_us).await? {
            Some(newer) => row = newer,
            None => break,
        }
    }
    let message = format!("the window {} of {} has no content; run `audit`", time_text(row.start_us), row.table);
    Err(Fault::corrupt(message))
}

fn matching(data: &std::path::Path, under: &str, wanted: &Hash) -> Result<Option<Bytes>> {
    for file in visible(data, under)? {
        match std::fs::read(&file.path) {
            Ok(bytes) if Hash::of(&bytes) == *wanted => return Ok(Some(bytes.into())),
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(cannot_read(&file.relative, &error)),
        }
    }
    Ok(None)
}

async fn unknown(sources: &Sources, table: &str) -> Fault {
    let data = sources.data.clone();
    match blocking(move || folders(&data, "gold")).await {
        Err(fault) => fault,
        Ok(tables) if tables.is_empty() => Fault::config("there is no Gold yet: no window has been emitted"),
        Ok(tables) if tables.iter().any(|known| known == table) => {
            Fault::config(format!("no window of {table} lies in the asked range"))
        }
        Ok(tables) => Fault::config(format!("there is no Gold table {table}; there are: {}", tables.join(", "))),
    }
}
