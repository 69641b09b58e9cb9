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
        let format = self.options.bronze;
        bronze_pieces(slice, format, &mut |hour, rows| self.write((OutputClass::Bronze, hour, String::new()), rows))
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
        let within = folder(*hour, values);
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

/// Where rows of an hour and of these partition values lie, within their table.
pub(crate) fn folder(hour: i64, values: &str) -> String {
    let hour = paths::hour_folder(hour);
    if values.is_empty() { hour } else { format!("{hour}/{values}") }
}

/// Calls `with` for each hour of arrival and its rows of Bronze, as often as rows of one hour come in a row.
pub(crate) fn bronze_pieces(
    slice: &RawSlice,
    format: Format,
    with: &mut dyn FnMut(i64, &RecordBatch) -> Result<()>,
) -> Result<()> {
    let mut rest = slice.records.as_slice();
    while let Some(first) = rest.first() {
        let hour = paths::hour_of(first.arrival_us);
        let run = run_of(rest, hour);
        let (run, after) = rest.split_at(run);
        rest = after;
        let batch = match format {
            Format::Parquet => bronze_batch(slice, run)?,
            Format::Ndjson | Format::NdjsonGzip => bronze_text_batch(slice, run)?,
        };
        with(hour, &batch)?;
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::super::fixtures::{THREE_O_CLOCK, home, of, parquet_rows, record, row_groups, shard, silver, slice};
    use super::super::home::Home;
    use super::super::outputs::DiskOutputs;
    use super::*;

    use arrow::array::AsArray;
    use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
    use proptest::prelude::*;
    use sluicebox_actors::model::window::HOUR_US;
    use sluicebox_actors::ports::Outputs;

    fn begin(home: &Home, options: OutputOptions) -> Box<dyn DataFiles> {
        DiskOutputs::new(home, options).data_files(&shard(), 1, 1).expect("begins")
    }

    /// `dt=…/hour=HH` by another way than the code under test.
    fn folder(time_us: i64) -> String {
        let at = chrono::DateTime::from_timestamp_micros(time_us).expect("in range");
        at.format("/dt=%Y-%m-%d/hour=%H/").to_string()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(8))]
        #[test]
        fn every_row_is_read_back_once_from_the_folder_of_its_own_hour(
            batches in proptest::collection::vec(proptest::collection::vec(0i64..6 * HOUR_US, 0..20), 0..4),
            open_files in 2usize..8,
        ) {
            let (_dir, home) = home();
            let mut data = begin(&home, OutputOptions { open_files, ..OutputOptions::default() });
            for times in &batches {
                let records = times.iter().zip(1..).map(|(time, number)| record(number, *time, b"x")).collect();
                data.bronze(&slice(records)).expect("writes");
                data.silver(&silver(times)).expect("writes");
            }
            let outputs = data.finish().expect("ends");
            let mut sent: Vec<i64> = batches.into_iter().flatten().collect();
            sent.sort_unstable();
            for (class, column) in [(OutputClass::Bronze, "_arrival_time"), (OutputClass::Silver, "event_time")] {
                let mut seen = Vec::new();
                for output in of(&outputs, class) {
                    let rows = parquet_rows(&home.data().join(&output.staged));
                    prop_assert_eq!(output.rows, rows.num_rows() as u64);
                    for time in rows[column].as_primitive::<TimestampMicrosecondType>().values() {
                        prop_assert!(output.path.contains(&folder(*time)), "{} in {}", time, output.path);
                        seen.push(*time);
                    }
                }
                seen.sort_unstable();
                prop_assert_eq!(&seen, &sent);
            }
        }
    }

    #[test]
    fn bronze_holds_the_bytes_as_received_and_where_they_stood() {
        let (_dir, home) = home();
        let mut data = begin(&home, OutputOptions::default());
        let payloads: [&[u8]; 3] = [b"{\"a\":1}", b"\xff\x00", b""];
        let records = payloads.iter().zip(7..).map(|(data, number)| record(number, THREE_O_CLOCK, data)).collect();
        data.bronze(&slice(records)).expect("writes");
        let outputs = data.finish().expect("ends");
        let rows = parquet_rows(&home.data().join(&outputs[0].staged));
        assert_eq!(rows.schema_ref().fields(), bronze_schema().fields());
        assert_eq!(rows["data"].as_binary::<i32>().iter().flatten().collect::<Vec<_>>(), payloads);
        assert_eq!(rows["_sequence"].as_string::<i32>().iter().flatten().collect::<Vec<_>>(), ["7", "8", "9"]);
        assert_eq!(rows["_partition_key"].as_string::<i32>().value(0), "user-7");
        assert_eq!(
            (rows["_stream"].as_string::<i32>().value(2), rows["_shard"].as_string::<i32>().value(2)),
            ("clicks", "shardId-0")
        );
    }

    #[test]
    fn bronze_as_text_keeps_bytes_that_are_no_text() {
        let (_dir, home) = home();
        let mut data = begin(&home, OutputOptions { bronze: Format::Ndjson, ..OutputOptions::default() });
        data.bronze(&slice(vec![record(1, 0, b"{\"a\":1}"), record(2, 0, b"\xff\x00")])).expect("writes");
        let outputs = data.finish().expect("ends");
        let text = std::fs::read_to_string(home.data().join(&outputs[0].staged)).expect("reads");
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).expect("json")).collect();
        assert_eq!((&lines[0]["data"], &lines[0]["data_hex"]), (&"{\"a\":1}".into(), &serde_json::Value::Null));
        assert_eq!((&lines[1]["data"], &lines[1]["data_hex"]), (&serde_json::Value::Null, &"ff00".into()));
    }

    #[test]
    fn partition_columns_become_folders_below_the_hour() {
        let (_dir, home) = home();
        let partition_by = vec!["country".to_owned()];
        let mut data = begin(&home, OutputOptions { partition_by, ..OutputOptions::default() });
        data.silver(&silver(&[THREE_O_CLOCK; 8])).expect("writes");
        let outputs = data.finish().expect("ends");
        let folders: Vec<_> = outputs.iter().map(|output| output.path.split('/').nth(3).expect("a segment")).collect();
        assert_eq!(folders, ["country=DE", "country=FR", "country=__HIVE_DEFAULT_PARTITION__", "country=a%2Fb"]);
        for output in &outputs {
            assert_eq!((output.rows, parquet_rows(&home.data().join(&output.staged)).num_columns()), (2, 3));
        }
    }

    #[test]
    fn the_file_unused_for_longest_closes_when_too_many_are_open() {
        let (_dir, home) = home();
        let mut data = begin(&home, OutputOptions { open_files: 2, ..OutputOptions::default() });
        for hour in [0, 1, 0, 2, 1] {
            data.silver(&silver(&[hour * HOUR_US])).expect("writes");
        }
        let closed: Vec<_> = data
            .finish()
            .expect("ends")
            .into_iter()
            .map(|output| (output.path.contains("hour=00"), output.path.contains("hour=01"), output.rows, output.closed_because))
            .collect();
        let why = |hour: usize, rows, why: &str| (hour == 0, hour == 1, rows, why.to_owned());
        let expected = [why(1, 1, "open_files"), why(0, 2, "open_files"), why(1, 1, "epoch"), why(2, 1, "epoch")];
        assert_eq!(closed, expected);
    }

    #[test]
    fn a_large_file_closes_early_and_a_new_one_goes_on() {
        let (_dir, home) = home();
        let mut data = begin(&home, OutputOptions { silver: Format::Ndjson, file_bytes: 100, ..OutputOptions::default() });
        for _ in 0..4 {
            data.silver(&silver(&[0, 1])).expect("writes");
        }
        let outputs = data.finish().expect("ends");
        assert!(outputs.len() > 1);
        assert!(outputs.iter().all(|output| output.closed_because == "size"));
        assert_eq!(outputs.iter().map(|output| output.rows).sum::<u64>(), 8);
    }

    #[test]
    fn a_flush_empties_the_memory_into_a_row_group_of_the_same_file() {
        let (_dir, home) = home();
        let mut data = begin(&home, OutputOptions::default());
        for _ in 0..3 {
            data.silver(&silver(&[0; 100])).expect("writes");
            assert!(data.buffered() > 0);
            data.flush().expect("flushes");
            assert_eq!(data.buffered(), 0);
        }
        let outputs = data.finish().expect("ends");
        let path = home.data().join(&outputs[0].staged);
        assert_eq!((outputs.len(), row_groups(&path), parquet_rows(&path).num_rows()), (1, 3, 300));
    }

    #[test]
    fn memory_stays_within_its_bound_without_being_asked() {
        let (_dir, home) = home();
        let mut data = begin(&home, OutputOptions { buffer_bytes: 1, ..OutputOptions::default() });
        for _ in 0..5 {
            data.silver(&silver(&[0; 100])).expect("writes");
            assert!(data.buffered() <= 1);
        }
        let outputs = data.finish().expect("ends");
        let rows = parquet_rows(&home.data().join(&outputs[0].staged));
        assert_eq!(rows["row"].as_primitive::<Int64Type>().len(), 500);
    }

    #[test]
    fn after_a_failed_call_nothing_more_goes_in_and_nothing_comes_out() {
        let (_dir, home) = home();
        let mut data = begin(&home, OutputOptions::default());
        data.silver(&silver(&[0])).expect("writes");
        let without_time = silver(&[0]).project(&[0, 1]).expect("two columns");
        assert_eq!(data.silver(&without_time).expect_err("refused").kind(), Kind::Bug);
        assert_eq!(data.silver(&silver(&[0])).expect_err("shut").kind(), Kind::Bug);
        assert_eq!(data.bronze(&slice(vec![record(1, 0, b"")])).expect_err("shut").kind(), Kind::Bug);
        assert_eq!(data.flush().expect_err("shut").kind(), Kind::Bug);
        assert_eq!(data.finish().expect_err("shut").kind(), Kind::Bug);
    }
}
