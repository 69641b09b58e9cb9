//! The outside world as the actors see it: a page of traits.
//!
//! Owns: what the pipeline asks of a stream, of stores, of the SQL engine and of a clock. Does not own: any implementation.
//! Every method that can meet the world returns a `Fault`; `Retry` means the caller waits and asks again.

use std::sync::Arc;

use arrow_array::{BooleanArray, RecordBatch};
use async_trait::async_trait;
use bytes::Bytes;

use crate::model::epoch::{HeldOutput, LedgerLine, PendingOutput};
use crate::model::fault::{Fault, Result};
use crate::model::feed::FeedRow;
use crate::model::letter::{Letter, Rejection};
use crate::model::position::{Position, Sequence, ShardId};
use crate::model::record::{RawRecord, RawSlice};
use crate::model::row::{Fence, Lease, ShardRow, WindowRow};
use crate::model::window::{Window, Windowing};

pub mod alerts;
pub mod sinks;
mod whole;

pub use alerts::{Alert, AlertSink};
pub use sinks::{Fed, GoldRevision, GoldSink, LetterSink, PostedLetter};
pub use whole::Whole;

/// A shard as the stream lists it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ShardInfo {
    /// Its name.
    pub shard: ShardId,
    /// Shards it came from.
    pub parents: Vec<ShardId>,
    /// First hash key, inclusive.
    pub hash_start: u128,
    /// Last hash key, inclusive.
    pub hash_end: u128,
    /// Takes no more records.
    pub closed: bool,
}

/// Answer to one read.
#[derive(Clone, Debug)]
pub struct Read {
    /// In order; empty is not the end.
    pub records: Vec<RawRecord>,
    /// The reader has seen everything there is: positive evidence, needed for idleness.
    pub caught_up: bool,
    /// The stream's clock, microseconds since 1970.
    pub now_us: i64,
    /// The shard is closed and was read to its end; these came out of it.
    pub ended: Option<Vec<ShardInfo>>,
    /// Records after the asked position are gone: the first one that is left. At an end: all that followed the position.
    pub trimmed_before: Option<Position>,
    /// How far this read, or an empty one's position, lies behind the newest record, by the stream's clock (iterator age),
    /// microseconds; none where the stream does not say.
    pub behind_us: Option<i64>,
    /// All that had arrived by then, by the stream's clock, is in this read or before it; what came out of a shard that has ended
    /// had nothing yet. None where it is not known, and where nobody need know: in a stream that tells by itself what it has
    /// forgotten.
    pub fresh_us: Option<i64>,
}

/// What earlier owners committed of how far a shard was read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recall {
    /// Up to the position all had been read that arrived by then ([`Read::fresh_us`]).
    pub fresh_us: i64,
    /// Where nothing was read of the shard: the last record of each shard that it came from. Whatever it holds came later.
    pub before: Vec<(ShardId, Sequence)>,
}

/// A sharded, durable, replayable stream.
#[async_trait]
pub trait Stream: Send + Sync {
    /// Its name.
    fn name(&self) -> Arc<str>;
    /// All shards, open and closed, whose records are not all forgotten.
    async fn shards(&self) -> Result<Vec<ShardInfo>>;
    /// Records after a position: at least one if there is one, else at most `max_records` and `max_bytes` (of weight).
    async fn read(&self, shard: &ShardId, after: Position, max_records: usize, max_bytes: usize) -> Result<Read>;
    /// What earlier owners committed of a shard that is to be read on after this position. Told before the first read of a
    /// generation; a stream that knows what it forgot has no use for it.
    async fn recall(&self, shard: &ShardId, after: Position, recall: &Recall) -> Result<()> {
        let _ = (shard, after, recall);
        Ok(())
    }
    /// Number of the newest record of a shard, for people; none where numbers are not dense, as in Kinesis, or nothing was put.
    async fn newest(&self, shard: &ShardId) -> Result<Option<Sequence>> {
        let _ = shard;
        Ok(None)
    }
}

/// What a CAS said. A `Fault` instead means: unknown, read the row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cas {
    /// Ours.
    Won,
    /// The condition did not hold; nothing was changed.
    Lost,
}

/// Rows under compare-and-set.
#[async_trait]
pub trait Rows: Send + Sync {
    /// All shard rows, by shard.
    async fn shards(&self) -> Result<Vec<ShardRow>>;
    /// One shard row.
    async fn shard(&self, shard: &ShardId) -> Result<Option<ShardRow>>;
    /// Writes a row only if there is none.
    async fn create_shard(&self, row: &ShardRow) -> Result<Cas>;
    /// Replaces a row only if both numbers of the fence are still its own.
    async fn update_shard(&self, expected: Fence, row: &ShardRow) -> Result<Cas>;
    /// All window rows of a table, by start.
    async fn windows(&self, table: &str) -> Result<Vec<WindowRow>>;
    /// One window row.
    async fn window(&self, table: &str, start_us: i64) -> Result<Option<WindowRow>>;
    /// Writes the row only if the stored `version` is this one; 0 means that there is none.
    async fn update_window(&self, expected_version: u64, row: &WindowRow) -> Result<Cas>;
    /// All rows of what a sink was given, by key.
    async fn feeds(&self, sink: &str) -> Result<Vec<FeedRow>>;
    /// One of them, by [`FeedRow::key`].
    async fn feed(&self, sink: &str, key: &str) -> Result<Option<FeedRow>>;
    /// Writes the row only if the stored `version` is this one; 0 means that there is none.
    async fn update_feed(&self, expected_version: u64, row: &FeedRow) -> Result<Cas>;
}

/// What workers that share the shards of a stream need beyond [`Rows`]. Its calls travel on a connection of their own: a life
/// sign that queues behind data says that its sender is dead.
#[async_trait]
pub trait Leases: Send + Sync {
    /// A life sign: sets the heartbeat of a shard's row if its lease is still this one, and changes nothing else of it. The row
    /// as it is then; none if somebody else has the lease.
    async fn beat(&self, shard: &ShardId, lease_epoch: u64, heartbeat: u64) -> Result<Option<ShardRow>>;
    /// Notes in a shard's row who wants it, if its lease is still this one.
    async fn want(&self, shard: &ShardId, lease_epoch: u64, wanted_by: &str) -> Result<Cas>;
    /// A lease by its name.
    async fn lease(&self, name: &str) -> Result<Option<Lease>>;
    /// Writes the lease only if what is stored is this; none = nothing is.
    async fn update_lease(&self, expected: Option<&Lease>, lease: &Lease) -> Result<Cas>;
}

/// Immutable objects.
#[async_trait]
pub trait Blobs: Send + Sync {
    /// Stores durably under a key that was never used before; the same bytes again are fine.
    async fn put(&self, key: &str, data: Bytes) -> Result<()>;
    /// Reads whole. A missing object is `Corrupt`: we only ask for what a row names.
    async fn get(&self, key: &str) -> Result<Bytes>;
    /// Keys that start so, in order.
    async fn list(&self, prefix: &str) -> Result<Vec<String>>;
    /// Deletes; a missing object is fine.
    async fn delete(&self, key: &str) -> Result<()>;
}

/// Writes one epoch's Bronze and Silver files of one shard, invisible until published.
pub trait DataFiles: Send {
    /// Raw records, by arrival hour.
    fn bronze(&mut self, slice: &RawSlice) -> Result<()>;
    /// Silver rows, by event hour; the batch is the Silver statement's output with the coordinate columns.
    fn silver(&mut self, rows: &RecordBatch) -> Result<()>;
    /// Bytes taken in that are not in a staged file yet, as an estimate.
    fn buffered(&self) -> usize;
    /// Writes out everything buffered.
    fn flush(&mut self) -> Result<()>;
    /// Closes and makes durable.
    fn finish(self: Box<Self>) -> Result<Vec<PendingOutput>>;
}

/// Writes one epoch's letters of one shard.
pub trait LetterFile: Send {
    /// Appends.
    fn append(&mut self, letters: &[Letter]) -> Result<()>;
    /// Closes and makes durable; nothing if no letter came.
    fn finish(self: Box<Self>) -> Result<Vec<PendingOutput>>;
}

/// Writes lost files of one committed epoch of one shard once more. It is given all that the epoch took in.
pub trait Rewriting: Send {
    /// Raw records.
    fn bronze(&mut self, slice: &RawSlice) -> Result<()>;
    /// Silver rows.
    fn silver(&mut self, rows: &RecordBatch) -> Result<()>;
    /// Letters.
    fn letters(&mut self, letters: &[Letter]) -> Result<()>;
    /// Closes and makes durable: for each lost file one with its `path`, its epoch and as many rows, in the same order. `Corrupt`
    /// where the rows that came do not fill them exactly.
    fn finish(self: Box<Self>) -> Result<Vec<PendingOutput>>;
}

/// What came of publishing a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Publication {
    /// Readers see it.
    Visible,
    /// It was staged whole, and now it is neither held nor visible, for this reason: it can only be made once more.
    Lost(String),
}

/// Proof of how far staged files are decided. Only `CommitPermit::won` makes one under which they become visible to readers, and
/// only the commit machine may call it.
#[derive(Clone, Copy, Debug)]
pub struct CommitPermit {
    lease_epoch: u64,
    epoch: u64,
}

impl CommitPermit {
    /// To be called where a CAS has just been won, or a committed row has just been read under one's own lease.
    pub(crate) fn won(lease_epoch: u64, epoch: u64) -> Self {
        Self { lease_epoch, epoch }
    }

    /// To be called where a row has just been seen under a higher lease than this one, which was one's own: whatever was staged
    /// under it and is named by no epoch will never be. Nothing is published under it.
    pub(crate) fn overtaken(lease_epoch: u64) -> Self {
        Self { lease_epoch, epoch: u64::MAX }
    }

    /// The commit it stands for: (lease epoch, epoch).
    pub fn stands_for(&self) -> (u64, u64) {
        (self.lease_epoch, self.epoch)
    }
}

/// Staged files and their publication.
#[async_trait]
pub trait Outputs: Send + Sync {
    /// Files for one epoch of one shard under one lease. Names never collide with an earlier try's.
    fn data_files(&self, shard: &ShardId, lease_epoch: u64, epoch: u64) -> Result<Box<dyn DataFiles>>;
    /// The letter file of one epoch of one shard.
    fn letter_file(&self, shard: &ShardId, lease_epoch: u64, epoch: u64) -> Result<Box<dyn LetterFile>>;
    /// Brings staged files to where any later owner of the shard finds them, still invisible. Where all owners share one disk
    /// they are there already.
    async fn hold(&self, staged: Vec<PendingOutput>) -> Result<Vec<HeldOutput>> {
        Ok(staged.into_iter().map(HeldOutput::from).collect())
    }
    /// Makes one staged file visible. Idempotent: an output that is already visible with the same hash is fine.
    async fn publish(&self, permit: CommitPermit, held: &HeldOutput) -> Result<Publication>;
    /// Begins to write files of one committed epoch of one shard once more. `kept` are visible files of that epoch in the same
    /// folders: what they hold is left out.
    async fn again(
        &self,
        shard: &ShardId,
        lease_epoch: u64,
        lost: &[PendingOutput],
        kept: &[PendingOutput],
    ) -> Result<Box<dyn Rewriting>>;
    /// Deletes staged files of this shard that no pending output names; the number deleted.
    async fn discard_staged(&self, permit: CommitPermit, shard: &ShardId, keep: &[PendingOutput]) -> Result<u64>;
    /// Bytes of a visible file from `offset` on, at most so many and, before its end, at least one; none = it is not visible yet.
    async fn read_visible(&self, output: &PendingOutput, offset: u64, max_bytes: usize) -> Result<Option<Bytes>>;
}

/// Proof that a window row was won, as [`CommitPermit`].
#[derive(Clone, Copy, Debug)]
pub struct WindowPermit {
    revision: u64,
}

impl WindowPermit {
    pub(crate) fn won(revision: u64) -> Self {
        Self { revision }
    }

    /// The revision it stands for.
    pub fn revision(&self) -> u64 {
        self.revision
    }
}

/// Gold as readers see it: one object per window, and the table `gold_windows`.
#[async_trait]
pub trait GoldFiles: Send + Sync {
    /// The bytes of a window's object; a pure function of the batches, of which there is at least one.
    fn encode(&self, table: &str, rows: Batches<'_>) -> Result<Bytes>;
    /// Replaces the visible object, then its row in `gold_windows`. Idempotent.
    async fn publish(&self, permit: WindowPermit, row: &WindowRow, content: Bytes) -> Result<()>;
    /// The rows that such bytes were made of.
    async fn decode(&self, table: &str, content: Bytes) -> Result<RecordBatch>;
}

/// The table `ledger`: lines of epochs whose objects are about to be collected.
#[async_trait]
pub trait LedgerFiles: Send + Sync {
    /// Adds consecutive lines of one shard as one visible file, durably; those that stand already are left out, whoever wrote
    /// them. Lines that contradict them, or leave out epochs behind them, are `Corrupt`.
    async fn append(&self, lines: &[LedgerLine]) -> Result<()>;
    /// All lines of a shard, in order of epochs.
    async fn lines(&self, shard: &ShardId) -> Result<Vec<LedgerLine>>;
}

/// One Gold table as the engine knows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GoldTable {
    /// Its name.
    pub name: Arc<str>,
    /// Its windows.
    pub windowing: Windowing,
}

/// What came of one slice.
#[derive(Clone, Debug)]
pub struct Decoded {
    /// The Silver rows: the statement's columns, then `event_time, _stream, _shard, _sequence, _sub_sequence, _arrival_time`.
    pub silver: RecordBatch,
    /// Per Silver row: index of its record in the slice.
    pub origin: Vec<u32>,
    /// Records that are letters, by index, rising.
    pub rejections: Vec<Rejection>,
    /// (rule, number of records) that a filter left out.
    pub filtered: Vec<(Arc<str>, u64)>,
    /// Largest event time among accepted events (filtered ones included), microseconds.
    pub max_event_us: Option<i64>,
}

/// Partial aggregates of one (table, window) of one partition.
#[derive(Clone, Debug)]
pub struct Partial {
    /// Index into [`Engine::tables`].
    pub table: usize,
    /// Start of the window.
    pub window_us: i64,
    /// Sum of the hidden row counters.
    pub rows: u64,
    /// Group keys, states and the hidden row counter, one row a group.
    pub states: RecordBatch,
}

/// The finished rows of one window.
#[derive(Clone, Debug)]
pub struct Finished {
    /// Sorted by group key; the statement's output columns after `window_start, window_end`.
    pub rows: RecordBatch,
    /// An integer sum left its range.
    pub overflow: bool,
}

/// Decode, Silver, Gold: all that the pipeline file says about data. Shared by every partition.
pub trait Engine: Send + Sync {
    /// The Gold tables, in the file's order.
    fn tables(&self) -> &[GoldTable];
    /// State of one partition of one generation.
    fn partition(&self) -> Result<Box<dyn PartitionEngine>>;
    /// Merges partial states of one window. Associative and commutative on the final bytes; the result is a partial again.
    fn merge(&self, table: usize, parts: &[RecordBatch]) -> Result<RecordBatch>;
    /// Final projection, HAVING, order and limit over merged states.
    fn finish(&self, table: usize, window: Window, merged: &RecordBatch) -> Result<Finished>;
    /// Output columns that tell the rows of one window of a table apart: its group keys beside the window. None where the
    /// statement does not show all of them.
    fn keys(&self, table: usize) -> Option<Arc<[String]>> {
        let _ = table;
        None
    }
    /// Rows that the others do not have, each once. All have the columns of [`Engine::keys`], and there is at least one batch.
    fn without(&self, rows: &[RecordBatch], others: &[RecordBatch]) -> Result<RecordBatch> {
        let _ = (rows, others);
        Err(Fault::bug("keys of an engine that knows none"))
    }
    /// The same for windows of any size: an engine whose states may outgrow memory brings its own.
    fn merger(&self, table: usize) -> Result<Box<dyn Merger + '_>> {
        Ok(Box::new(Whole::new(self, table)))
    }
}

/// Things that come one after the other, so that they need not be in memory together.
pub type Batches<'a, T = RecordBatch> = Box<dyn Iterator<Item = Result<T>> + 'a>;

/// One merge of one window's partial states. How it finds room for them shows nowhere: whatever came in which pieces, equal
/// states come out in equal batches, at least one. Either end is called once, last.
pub trait Merger: Send {
    /// Takes in partial states.
    fn add(&mut self, states: &RecordBatch) -> Result<()>;
    /// The merged states, sorted by key: a partial again.
    fn states(&mut self) -> Result<Batches<'_>>;
    /// The finished rows. An overflow is told by any batch, perhaps the last.
    fn finish(&mut self, window: Window) -> Result<Batches<'_, Finished>>;
}

/// The part of the engine that holds state between cuts.
pub trait PartitionEngine: Send {
    /// Decodes, checks and projects. `processed_at_us` is the epoch's one `_processed_at`. A fault here is a fault of ours or
    /// of the world; a record's fault is a [`Rejection`].
    fn decode(&mut self, slice: &RawSlice, processed_at_us: i64) -> Result<Decoded>;
    /// The table's WHERE over Silver rows; `None` = all rows pass.
    fn admit(&mut self, table: usize, silver: &RecordBatch) -> Result<Option<BooleanArray>>;
    /// Adds these rows to these windows (`rows[i]` belongs to the window that starts at `windows_us[i]`).
    fn accumulate(&mut self, table: usize, silver: &RecordBatch, rows: &[u32], windows_us: &[i64]) -> Result<()>;
    /// Bytes held in states since the last cut, as an estimate that may lag a little behind.
    fn held(&mut self) -> usize;
    /// Hands out all states since the last cut and forgets them.
    fn cut(&mut self) -> Result<Vec<Partial>>;
}

/// Time and chance, so that both can be simulated.
pub trait Clock: Send + Sync {
    /// Wall clock, microseconds since 1970. For stamps that people read; never for a decision that changes a result.
    fn now_us(&self) -> i64;
    /// Random bits for names that must not collide.
    fn random(&self) -> u64;
}
