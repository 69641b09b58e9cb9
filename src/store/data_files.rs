//! Bronze and Silver files of one epoch of one shard, staged.
//!
//! Owns: one open file per (table, hour, partition values), the cap on open files and on memory, why a file closed. Does not own:
//! the split of rows (split), names and durability (staged), publication (outputs).

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryBuilder, Int32Builder, RecordBatch, StringBuilder, TimestampMicrosecondBuilder};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use sluicebox_actors::model::epoch::{OutputClass, PendingOutput};
use sluicebox_actors::model::fault::{Fault, Kind, Result};
use sluicebox_actors::model::record::{RawRecord, RawSlice};
use sluicebox_actors::ports::DataFiles;

use super::outputs::OutputOptions;
use super::paths;
use super::row_file::{Format, RowFile};
use super::split::split;
use super::staged::{Door, StagedFile, Staging, Ticket};

/// Payload bytes per batch of Bronze: well below what 32-bit offsets hold.
const BRONZE_BATCH: usize = 64 << 20;

/// One try at one epoch's data files.
pub(crate) struct DiskDataFiles {
    staging: Staging,
    options: Arc<OutputOptions>,
    open: BTreeMap<Key, OpenFile>,
    closed: Vec<PendingOutput>,
    used: u64,
    door: Door,
}

type Key = (OutputClass, i64, String);

struct OpenFile {
    ticket: Ticket,
    file: RowFile<StagedFile>,
    rows: u64,
    last_used: u64,
}

impl OpenFile {
    fn buffered(&self) -> usize {
        self.file.buffered() + self.file.destination().buffered()
    }
}

impl DiskDataFiles {
    pub(crate) fn new(staging: Staging, options: Arc<OutputOptions>) -> Self {
        Self { staging, options, open: BTreeMap::new(), closed: Vec::new(), used: 0, door: Door::default() }
    }

    fn take_bronze(&mut self, slice: &RawSlice) -> Result<()> {
        let mut rest = slice.records.as_slice();
        while let Some(first) = rest.first() {
            let hour = paths::hour_of(first.arrival_us);
            let run = run_of(rest, hour);
            let (run, after) = rest.split_at(run);
            rest = after;
            let batch = match self.options.bronze {
                Format::Parquet => bronze_batch(slice, run)?,
                Format::Ndjson | Format::NdjsonGzip => bronze_text_batch(slice, run)?,
            };
            self.write((OutputClass::Bronze, hour, String::new()), &batch)?;
        }
        Ok(())
    }

    fn take_silver(&mut self, rows: &RecordBatch) -> Result<()> {
        for piece in split(rows, &self.options.partition_by)? {
            self.write((OutputClass::Silver, piece.hour, piece.values), &piece.rows)?;
        }
        Ok(())
    }

    fn write(&mut self, key: Key, rows: &RecordBatch) -> Result<()> {
        if !self.open.contains_key(&key) {
            self.make_room()?;
            let opened = self.begin(&key, rows)?;
            self.open.insert(key.clone(), opened);
        }
        self.used += 1;
        let used = self.used;
        let Some(open) = self.open.get_mut(&key) else { return Err(Fault::bug("a file that was just opened is not there")) };
        open.file.write(rows)?;
        open.rows += rows.num_rows() as u64;
        open.last_used = used;
        if open.file.destination().taken() >= self.options.file_bytes {
            self.close(&key, "size")?;
        }
        self.keep_within_memory()
    }

    fn begin(&mut self, (class, hour, values): &Key, first: &RecordBatch) -> Result<OpenFile> {
        let format = match class {
            OutputClass::Bronze => self.options.bronze,
            OutputClass::Silver => self.options.silver,
            OutputClass::Dlq => return Err(Fault::bug("letters are no data files")),
        };
        let hour = paths::hour_folder(*hour);
        let within = if values.is_empty() { hour } else { format!("{hour}/{values}") };
        let (ticket, file) = self.staging.create(*class, &within, format.extension())?;
        let file = RowFile::new(format, file, first, self.options.row_group_bytes)?;
        Ok(OpenFile { ticket, file, rows: 0, last_used: 0 })
    }

    /// Closes the file that was not used for longest, if no more may be open.
    fn make_room(&mut self) -> Result<()> {
        while self.open.len() >= self.options.open_files.max(1) {
            let oldest = self.open.iter().min_by_key(|(_, open)| open.last_used).map(|(key, _)| key.clone());
            let Some(oldest) = oldest else { return Ok(()) };
            self.close(&oldest, "open_files")?;
        }
        Ok(())
    }

    /// Writes row groups out, the largest first, until what is in memory fits again.
    fn keep_within_memory(&mut self) -> Result<()> {
        let mut buffered: usize = self.open.values().map(OpenFile::buffered).sum();
        while buffered > self.options.buffer_bytes {
            let Some(largest) = self.open.values_mut().max_by_key(|open| open.buffered()) else { return Ok(()) };
            let before = largest.buffered();
            largest.file.flush()?;
            let freed = before.saturating_sub(largest.buffered());
            if freed == 0 {
                return Ok(());
            }
            buffered = buffered.saturating_sub(freed);
        }
        Ok(())
    }

    fn close(&mut self, key: &Key, because: &str) -> Result<()> {
        let Some(open) = self.open.remove(key) else { return Ok(()) };
        let file = open.file.finish()?;
        self.closed.push(self.staging.close(open.ticket, file, open.rows, because)?);
        Ok(())
    }

    fn close_all(&mut self) -> Result<()> {
        let keys: Vec<Key> = self.open.keys().cloned().collect();
        for key in keys {
            self.close(&key, "epoch")?;
        }
        if self.closed.is_empty() { Ok(()) } else { self.staging.sync() }
    }
}

impl DataFiles for DiskDataFiles {
    fn bronze(&mut self, slice: &RawSlice) -> Result<()> {
        self.door.pass()?;
        let taken = self.take_bronze(slice);
        self.door.shut_on_error(taken)
    }

    fn silver(&mut self, rows: &RecordBatch) -> Result<()> {
        self.door.pass()?;
        let taken = self.take_silver(rows);
        self.door.shut_on_error(taken)
    }

    fn buffered(&self) -> usize {
        self.open.values().map(OpenFile::buffered).sum()
    }

    fn flush(&mut self) -> Result<()> {
        self.door.pass()?;
        let flushed = self.open.values_mut().try_for_each(|open| open.file.flush());
        self.door.shut_on_error(flushed)
    }

    fn finish(mut self: Box<Self>) -> Result<Vec<PendingOutput>> {
        self.door.pass()?;
        self.close_all()?;
        Ok(self.closed)
    }
}

/// How many records from the front share this arrival hour and fit into one batch.
fn run_of(records: &[RawRecord], hour: i64) -> usize {
    let mut bytes = 0;
    let fits = |record: &&RawRecord| {
        bytes += record.data.len() + record.partition_key.len();
        paths::hour_of(record.arrival_us) == hour && bytes <= BRONZE_BATCH
    };
    records.iter().take_while(fits).count().max(1)
}

/// The columns of Bronze beside the payload.
fn coordinates() -> Vec<Field> {
    vec![
        Field::new("_stream", DataType::Utf8, false),
        Field::new("_shard", DataType::Utf8, false),
        Field::new("_sequence", DataType::Utf8, false),
        Field::new("_sub_sequence", DataType::Int32, false),
        Field::new("_partition_key", DataType::Utf8, false),
        Field::new("_arrival_time", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), false),
    ]
}

/// Columns of a Bronze file in Parquet: `data` and the record's coordinates.
pub fn bronze_schema() -> SchemaRef {
    let mut fields = vec![Field::new("data", DataType::Binary, false)];
    fields.extend(coordinates());
    Arc::new(Schema::new(fields))
}

fn bronze_batch(slice: &RawSlice, records: &[RawRecord]) -> Result<RecordBatch> {
    let mut data = BinaryBuilder::with_capacity(records.len(), records.iter().map(|record| record.data.len()).sum());
    for record in records {
        data.append_value(&record.data);
    }
    assembled(bronze_schema(), vec![Arc::new(data.finish())], slice, records)
}

/// JSON holds no bytes: `data` where the payload is text, else `data_hex`.
fn bronze_text_batch(slice: &RawSlice, records: &[RawRecord]) -> Result<RecordBatch> {
    let (mut data, mut hex) = (StringBuilder::new(), BinaryBuilder::new());
    for record in records {
        match std::str::from_utf8(&record.data) {
            Ok(text) => {
                data.append_value(text);
                hex.append_null();
            }
            Err(_) => {
                data.append_null();
                hex.append_value(&record.data);
            }
        }
    }
    let mut fields = vec![Field::new("data", DataType::Utf8, true), Field::new("data_hex", DataType::Binary, true)];
    fields.extend(coordinates());
    assembled(Arc::new(Schema::new(fields)), vec![Arc::new(data.finish()), Arc::new(hex.finish())], slice, records)
}

fn assembled(schema: SchemaRef, payload: Vec<ArrayRef>, slice: &RawSlice, records: &[RawRecord]) -> Result<RecordBatch> {
    let mut streams = StringBuilder::with_capacity(records.len(), records.len() * slice.stream.len());
    let mut shards = StringBuilder::with_capacity(records.len(), records.len() * slice.shard.as_str().len());
    let mut sequences = StringBuilder::with_capacity(records.len(), records.len() * 20);
    let mut sub_sequences = Int32Builder::with_capacity(records.len());
    let mut keys = StringBuilder::with_capacity(records.len(), records.len() * 16);
    let mut arrivals = TimestampMicrosecondBuilder::with_capacity(records.len());
    for record in records {
        streams.append_value(&slice.stream);
        shards.append_value(slice.shard.as_str());
        sequences.append_value(record.sequence.to_string());
        let sub = i32::try_from(record.sub_sequence).map_err(|_| Fault::bug("a sub-sequence number beyond 2^31"))?;
        sub_sequences.append_value(sub);
        keys.append_value(record.partition_key_str());
        arrivals.append_value(record.arrival_us);
    }
    let mut columns = payload;
    columns.push(Arc::new(streams.finish()));
    columns.push(Arc::new(shards.finish()));
    columns.push(Arc::new(sequences.finish()));
    columns.push(Arc::new(sub_sequences.finish()));
    columns.push(Arc::new(keys.finish()));
    columns.push(Arc::new(arrivals.finish().with_timezone("UTC")));
    RecordBatch::try_new(schema, columns).map_err(|error| Fault::caused(Kind::Bug, "building a Bronze batch", &error))
}
