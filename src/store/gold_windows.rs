//! The table `gold_windows`: what is known of each window, one Parquet file of one row a window.
//!
//! Owns: its columns. Does not own: where the file lies (paths), when it is replaced (gold_files).

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, TimeUnit};
use arrow::error::ArrowError;
use bytes::Bytes;
use parquet::arrow::arrow_reader::ParquetRecordBatchReader;
use sluicebox_actors::model::fault::{Fault, Kind, Result};
use sluicebox_actors::model::row::WindowRow;

use super::row_file::{Format, RowFile};

/// The file of one window. `missing_shards`, `vector` and `sequences` are JSON text, which every reader can take apart.
pub(crate) fn encode(row: &WindowRow) -> Result<Bytes> {
    let rows = batch(row)?;
    let mut file = RowFile::new(Format::Parquet, Vec::new(), &rows, 1 << 20)?;
    file.write(&rows)?;
    Ok(file.finish()?.into())
}

/// The revision that a visible file shows.
pub(crate) fn revision(file: Bytes, path: &str) -> Result<u64> {
    let damaged = || Fault::corrupt(format!("{path} cannot be read: delete it, it is written again"));
    let mut reader = ParquetRecordBatchReader::try_new(file, 1).map_err(|_| damaged())?;
    let rows = reader.next().and_then(std::result::Result::ok).ok_or_else(damaged)?;
    let column = rows.column_by_name("revision").and_then(|column| column.as_primitive_opt::<Int64Type>());
    let revision = column.filter(|column| column.is_valid(0)).and_then(|column| u64::try_from(column.value(0)).ok());
    revision.ok_or_else(damaged)
}

fn batch(row: &WindowRow) -> Result<RecordBatch> {
    let mut columns = Columns::default();
    columns.text("table", Some(row.table.clone()));
    columns.time("window_start", Some(row.start_us));
    columns.time("window_end", Some(row.end_us));
    columns.text("status", Some(row.status.as_str().to_owned()));
    columns.number("revision", row.revision)?;
    columns.json("missing_shards", &row.missing)?;
    columns.number("on_time", row.counts.on_time)?;
    columns.number("late", row.counts.late)?;
    columns.number("too_late", row.counts.too_late)?;
    columns.number("rows", row.rows)?;
    columns.add("overflow", DataType::Boolean, Arc::new(BooleanArray::from(vec![row.overflow])), false);
    columns.json("vector", &row.vector)?;
    let sequences = row.sequences.iter().map(|(shard, (first, last))| (shard, [first.to_string(), last.to_string()]));
    columns.json("sequences", &sequences.collect::<std::collections::BTreeMap<_, _>>())?;
    columns.time("empty_since", row.empty_since_us);
    columns.text("sha256", row.content.as_ref().map(|object| object.sha256.as_str().to_owned()));
    columns.batch().map_err(|error| Fault::caused(Kind::Bug, "building a row of gold_windows", &error))
}

#[derive(Default)]
struct Columns {
    fields: Vec<Field>,
    arrays: Vec<ArrayRef>,
}

impl Columns {
    fn add(&mut self, name: &str, kind: DataType, array: ArrayRef, nullable: bool) {
        self.fields.push(Field::new(name, kind, nullable));
        self.arrays.push(array);
    }

    fn text(&mut self, name: &str, value: Option<String>) {
        self.add(name, DataType::Utf8, Arc::new(StringArray::from(vec![value])), true);
    }

    fn time(&mut self, name: &str, value: Option<i64>) {
        let array = TimestampMicrosecondArray::from(vec![value]).with_timezone("UTC");
        self.add(name, DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), Arc::new(array), true);
    }

    fn number(&mut self, name: &str, value: u64) -> Result<()> {
        let value = i64::try_from(value).map_err(|_| Fault::bug(format!("gold_windows.{name} is beyond 2^63")))?;
        self.add(name, DataType::Int64, Arc::new(Int64Array::from(vec![value])), false);
        Ok(())
    }

    fn json<T: serde::Serialize>(&mut self, name: &str, value: &T) -> Result<()> {
        let text = serde_json::to_string(value).map_err(|error| Fault::bug(format!("gold_windows.{name}: {error}")))?;
        self.text(name, Some(text));
        Ok(())
    }

    fn batch(self) -> Result<RecordBatch, ArrowError> {
        RecordBatch::try_new(Arc::new(Schema::new(self.fields)), self.arrays)
    }
}
