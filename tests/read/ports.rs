//! In-memory ports and a toy engine for the tests of the read side.
//!
//! Owns: `MemoryRows`, `MemoryBlobs`, `MemoryLedger`, `ToyEngine`, `ToyGold`. Does not own: the run they hold (support).

#![allow(clippy::unwrap_used, reason = "a helper of a test may end the test")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use arrow::array::{ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::Int64Type;
use async_trait::async_trait;
use bytes::Bytes;
use sluicebox_actors::model::epoch::LedgerLine;
use sluicebox_actors::model::fault::{Fault, Result};
use sluicebox_actors::model::feed::FeedRow;
use sluicebox_actors::model::position::ShardId;
use sluicebox_actors::model::record::RawSlice;
use sluicebox_actors::model::row::{Fence, ShardRow, WindowRow};
use sluicebox_actors::model::window::{HOUR_US, Window, Windowing};
use sluicebox_actors::ports::{
    Batches, Blobs, Cas, Decoded, Engine, Finished, GoldFiles, GoldTable, LedgerFiles, Partial, PartitionEngine, Rows,
    WindowPermit,
};

use super::support::{TABLE, parquet, times};

// ---------------------------------------------------------------- ports

#[derive(Default)]
pub(super) struct MemoryRows {
    pub(super) shards: Mutex<BTreeMap<ShardId, ShardRow>>,
    pub(super) windows: Mutex<BTreeMap<(String, i64), WindowRow>>,
    pub(super) feeds: Mutex<BTreeMap<(String, String), FeedRow>>,
}

#[async_trait]
impl Rows for MemoryRows {
    async fn shards(&self) -> Result<Vec<ShardRow>> {
        Ok(self.shards.lock().unwrap().values().cloned().collect())
    }
    async fn shard(&self, shard: &ShardId) -> Result<Option<ShardRow>> {
        Ok(self.shards.lock().unwrap().get(shard).cloned())
    }
    async fn create_shard(&self, row: &ShardRow) -> Result<Cas> {
        self.shards.lock().unwrap().insert(row.shard.clone(), row.clone());
        Ok(Cas::Won)
    }
    async fn update_shard(&self, _: Fence, row: &ShardRow) -> Result<Cas> {
        self.create_shard(row).await
    }
    async fn windows(&self, table: &str) -> Result<Vec<WindowRow>> {
        Ok(self.windows.lock().unwrap().values().filter(|row| row.table == table).cloned().collect())
    }
    async fn window(&self, table: &str, start_us: i64) -> Result<Option<WindowRow>> {
        Ok(self.windows.lock().unwrap().get(&(table.to_owned(), start_us)).cloned())
    }
    async fn update_window(&self, _: u64, row: &WindowRow) -> Result<Cas> {
        self.windows.lock().unwrap().insert((row.table.clone(), row.start_us), row.clone());
        Ok(Cas::Won)
    }
    async fn feeds(&self, sink: &str) -> Result<Vec<FeedRow>> {
        Ok(self.feeds.lock().unwrap().values().filter(|row| row.sink == sink).cloned().collect())
    }
    async fn feed(&self, sink: &str, key: &str) -> Result<Option<FeedRow>> {
        Ok(self.feeds.lock().unwrap().get(&(sink.to_owned(), key.to_owned())).cloned())
    }
    async fn update_feed(&self, _: u64, row: &FeedRow) -> Result<Cas> {
        self.feeds.lock().unwrap().insert((row.sink.clone(), row.key()), row.clone());
        Ok(Cas::Won)
    }
}

#[derive(Default)]
pub(super) struct MemoryBlobs(Mutex<BTreeMap<String, Bytes>>);

#[async_trait]
impl Blobs for MemoryBlobs {
    async fn put(&self, key: &str, data: Bytes) -> Result<()> {
        self.0.lock().unwrap().insert(key.to_owned(), data);
        Ok(())
    }
    async fn get(&self, key: &str) -> Result<Bytes> {
        self.0.lock().unwrap().get(key).cloned().ok_or_else(|| Fault::corrupt(format!("{key} is missing")))
    }
    async fn list(&self, prefix: &str) -> Result<Vec<String>> {
        Ok(self.0.lock().unwrap().keys().filter(|key| key.starts_with(prefix)).cloned().collect())
    }
    async fn delete(&self, key: &str) -> Result<()> {
        self.0.lock().unwrap().remove(key);
        Ok(())
    }
}

#[derive(Default)]
pub(super) struct MemoryLedger(Mutex<Vec<LedgerLine>>);

#[async_trait]
impl LedgerFiles for MemoryLedger {
    async fn append(&self, lines: &[LedgerLine]) -> Result<()> {
        // Through JSON, as the files do it.
        let lines = lines.iter().map(|line| serde_json::from_str(&serde_json::to_string(line).unwrap()).unwrap());
        self.0.lock().unwrap().extend(lines);
        Ok(())
    }
    async fn lines(&self, shard: &ShardId) -> Result<Vec<LedgerLine>> {
        Ok(self.0.lock().unwrap().iter().filter(|line| line.header.shard == *shard).cloned().collect())
    }
}

// ---------------------------------------------------------------- engine

/// `SELECT eventKind, count(*) AS events, sum(value) AS total FROM silver WHERE value >= 0 GROUP BY eventKind`.
pub(super) struct ToyEngine(Vec<GoldTable>);

impl ToyEngine {
    pub(super) fn new() -> Self {
        Self(vec![GoldTable { name: TABLE.into(), windowing: Windowing { size_us: HOUR_US, lateness_us: HOUR_US } }])
    }
}

type Groups = BTreeMap<String, (i64, i64)>;

fn to_states(groups: &Groups) -> RecordBatch {
    let text = |of: fn((&String, &(i64, i64))) -> String| -> ArrayRef {
        Arc::new(groups.iter().map(|group| Some(of(group))).collect::<StringArray>())
    };
    let number = |of: fn(&(i64, i64)) -> i64| -> ArrayRef { Arc::new(Int64Array::from_iter_values(groups.values().map(of))) };
    RecordBatch::try_from_iter([
        ("eventKind", text(|(kind, _)| kind.clone())),
        ("total", number(|group| group.1)),
        ("__rows", number(|group| group.0)),
    ])
    .unwrap()
}

fn from_states(batch: &RecordBatch, groups: &mut Groups) {
    let (totals, rows) = (batch.column(1).as_primitive::<Int64Type>(), batch.column(2).as_primitive::<Int64Type>());
    for row in 0..batch.num_rows() {
        let group = groups.entry(batch.column(0).as_string::<i32>().value(row).to_owned()).or_default();
        *group = (group.0 + rows.value(row), group.1 + totals.value(row));
    }
}

impl Engine for ToyEngine {
    fn tables(&self) -> &[GoldTable] {
        &self.0
    }
    fn partition(&self) -> Result<Box<dyn PartitionEngine>> {
        Ok(Box::<ToyPartition>::default())
    }
    fn merge(&self, _: usize, parts: &[RecordBatch]) -> Result<RecordBatch> {
        let mut groups = Groups::new();
        parts.iter().for_each(|part| from_states(part, &mut groups));
        Ok(to_states(&groups))
    }
    fn finish(&self, _: usize, window: Window, merged: &RecordBatch) -> Result<Finished> {
        let rows = merged.num_rows();
        let rows = RecordBatch::try_from_iter([
            ("window_start", times(vec![window.start_us; rows])),
            ("window_end", times(vec![window.end_us; rows])),
            ("eventKind", merged.column(0).clone()),
            ("events", merged.column(2).clone()),
            ("total", merged.column(1).clone()),
        ]);
        Ok(Finished { rows: rows.unwrap(), overflow: false })
    }
}

#[derive(Default)]
struct ToyPartition(BTreeMap<i64, Groups>);

impl PartitionEngine for ToyPartition {
    fn decode(&mut self, _: &RawSlice, _: i64) -> Result<Decoded> {
        Err(Fault::bug("the audit never decodes"))
    }
    fn admit(&mut self, _: usize, silver: &RecordBatch) -> Result<Option<BooleanArray>> {
        let values = silver.column_by_name("value").unwrap().as_primitive::<Int64Type>();
        Ok(Some(values.iter().map(|value| value.map(|value| value >= 0)).collect()))
    }
    fn accumulate(&mut self, _: usize, silver: &RecordBatch, rows: &[u32], windows_us: &[i64]) -> Result<()> {
        let kinds = silver.column_by_name("eventKind").unwrap().as_string::<i32>();
        let values = silver.column_by_name("value").unwrap().as_primitive::<Int64Type>();
        for (row, window) in rows.iter().zip(windows_us) {
            let group = self.0.entry(*window).or_default().entry(kinds.value(*row as usize).to_owned()).or_default();
            *group = (group.0 + 1, group.1 + values.value(*row as usize));
        }
        Ok(())
    }
    fn held(&mut self) -> usize {
        0
    }
    fn cut(&mut self) -> Result<Vec<Partial>> {
        let groups = std::mem::take(&mut self.0);
        Ok(groups
            .into_iter()
            .map(|(window_us, groups)| {
                let rows = groups.values().map(|group| group.0.unsigned_abs()).sum();
                Partial { table: 0, window_us, rows, states: to_states(&groups) }
            })
            .collect())
    }
}

/// Gold as Parquet.
pub(super) struct ToyGold;

#[async_trait]
impl GoldFiles for ToyGold {
    fn encode(&self, _: &str, mut rows: Batches<'_>) -> Result<Bytes> {
        Ok(parquet(&rows.next().unwrap()?))
    }
    async fn publish(&self, _: WindowPermit, _: &WindowRow, _: Bytes) -> Result<()> {
        Err(Fault::bug("the read side never publishes"))
    }
    async fn decode(&self, _: &str, _: Bytes) -> Result<RecordBatch> {
        Err(Fault::bug("the read side hands nothing on"))
    }
}
