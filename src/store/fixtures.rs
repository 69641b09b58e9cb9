//! Small homes, slices and batches for the tests of this folder.
//!
//! Owns: test data. Does not own: any expectation.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::compute::concat_batches;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use sluicebox_actors::model::epoch::{OutputClass, PendingOutput};
use sluicebox_actors::model::letter::{Postmark, Rejection, Stage};
use sluicebox_actors::model::position::{Sequence, ShardId};
use sluicebox_actors::model::record::{RawRecord, RawSlice};

use super::home::Home;
use crate::clock::SystemClock;

/// 2026-11-23T15:00:00Z.
pub(crate) const THREE_O_CLOCK: i64 = 1_795_446_000_000_000;

pub(crate) fn home() -> (tempfile::TempDir, Home) {
    let dir = tempfile::tempdir().expect("a directory");
    let home = Home::open_or_create(dir.path(), "clicks", SystemClock::shared()).expect("makes");
    (dir, home)
}

pub(crate) fn shard() -> ShardId {
    ShardId::new("shardId-0")
}

pub(crate) fn record(number: u64, arrival_us: i64, data: &[u8]) -> RawRecord {
    RawRecord {
        sequence: Sequence::dense(number),
        sub_sequence: 0,
        foreign: false,
        partition_key: format!("user-{number}").into(),
        arrival_us,
        data: data.to_vec().into(),
    }
}

pub(crate) fn slice(records: Vec<RawRecord>) -> RawSlice {
    RawSlice { stream: "clicks".into(), shard: shard(), records }
}

/// Silver rows with these event times, numbered from 0.
pub(crate) fn silver(times: &[i64]) -> RecordBatch {
    let countries: StringArray = (0..times.len()).map(|i| ["DE", "FR", "a/b"].get(i % 4).copied()).collect();
    RecordBatch::try_from_iter_with_nullable([
        ("row", Arc::new(Int64Array::from_iter_values(0..times.len() as i64)) as ArrayRef, false),
        ("country", Arc::new(countries), true),
        ("event_time", Arc::new(TimestampMicrosecondArray::from(times.to_vec()).with_timezone("UTC")), false),
    ])
    .expect("a batch")
}

pub(crate) fn letter(number: u64, arrival_us: i64) -> sluicebox_actors::model::letter::Letter {
    let postmark = Postmark { fingerprint: "f".into(), version: "0".into(), request_id: "r".into() };
    let rejection = Rejection {
        index: 0,
        stage: Stage::Contract,
        reason: "missing_field",
        path: Some("$.userId".into()),
        message: "required".into(),
        causes: Vec::new(),
    };
    postmark.letter(&"clicks".into(), &shard(), &record(number, arrival_us, b"\x00\xff\n{"), rejection, 1, 7)
}

/// All rows of a Parquet file as one batch.
pub(crate) fn parquet_rows(path: &Path) -> RecordBatch {
    let file = std::fs::File::open(path).expect("opens");
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).expect("is Parquet");
    let schema = builder.schema().clone();
    let batches: Vec<_> = builder.build().expect("reads").map(|batch| batch.expect("reads")).collect();
    concat_batches(&schema, &batches).expect("one batch")
}

/// Row groups of a Parquet file.
pub(crate) fn row_groups(path: &Path) -> usize {
    let file = std::fs::File::open(path).expect("opens");
    ParquetRecordBatchReaderBuilder::try_new(file).expect("is Parquet").metadata().num_row_groups()
}

pub(crate) fn of(outputs: &[PendingOutput], class: OutputClass) -> Vec<&PendingOutput> {
    outputs.iter().filter(|output| output.class == class).collect()
}

/// Every file below a folder, relative to it, in order.
pub(crate) fn files(root: &Path) -> Vec<String> {
    let (mut out, mut folders) = (Vec::new(), vec![root.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten() {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                out.push(path.strip_prefix(root).expect("below").to_string_lossy().into_owned());
            }
        }
    }
    out.sort();
    out
}

/// Files that readers see.
pub(crate) fn visible(home: &Home) -> Vec<String> {
    let hidden = |path: &String| path.starts_with("state/") || path.starts_with('.');
    files(home.data()).into_iter().filter(|path| !hidden(path)).collect()
}
