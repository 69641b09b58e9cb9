//! Streams that hold what somebody has read already: the records that an invocation is handed, or one answer that was looked at
//! before a shard was taken for its sake.
//!
//! Owns: handing them out as a stream would. Both fall silent when asked for more: how much there is, the shard's extent says.
//! Does not own: where they came from (the caller of ingest, tick).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;

use crate::model::fault::Result;
use crate::model::position::{Position, ShardId};
use crate::model::record::RawRecord;
use crate::model::sabotage::{self, Sabotage};
use crate::ports::{Read, ShardInfo, Stream};

/// The records of one shard that an invocation is handed.
pub(super) struct HandedRecords {
    name: Arc<str>,
    /// In order; aggregates are taken apart.
    records: Vec<RawRecord>,
    /// The youngest arrival: the only clock of the stream that they show.
    now_us: i64,
    begun: AtomicBool,
}

impl HandedRecords {
    pub(super) fn new(name: Arc<str>, records: Vec<RawRecord>) -> Self {
        let now_us = records.iter().map(|record| record.arrival_us).max().unwrap_or_default();
        Self { name, records, now_us, begun: AtomicBool::new(false) }
    }

    /// Those after a position.
    fn after(&self, position: Position) -> &[RawRecord] {
        let known = self.records.partition_point(|record| Position::after(record.sequence) <= position);
        let again = sabotage::is(Sabotage::CountAgain) && !self.begun.swap(true, Ordering::Relaxed);
        &self.records[if again { 0 } else { known }..]
    }
}

#[async_trait]
impl Stream for HandedRecords {
    fn name(&self) -> Arc<str> {
        self.name.clone()
    }

    async fn shards(&self) -> Result<Vec<ShardInfo>> {
        Ok(Vec::new())
    }

    async fn read(&self, _: &ShardId, after: Position, max_records: usize, max_bytes: usize) -> Result<Read> {
        let left = self.after(after);
        let (mut count, mut weight) = (0, 0);
        // Whole records of the stream, however many an aggregate holds: positions stand between those.
        for whole in left.chunk_by(|a, b| a.sequence == b.sequence) {
            let more: usize = whole.iter().map(RawRecord::weight).sum();
            if count > 0 && (count + whole.len() > max_records || weight + more > max_bytes) {
                break;
            }
            (count, weight) = (count + whole.len(), weight + more);
        }
        if count == 0 {
            return std::future::pending().await;
        }
        let records = left[..count].to_vec();
        // That nothing more was handed over says nothing about the shard.
        Ok(Read {
            records,
            caught_up: false,
            now_us: self.now_us,
            ended: None,
            trimmed_before: None,
            behind_us: None,
            fresh_us: None,
        })
    }
}

/// One answer of a stream, to be given again to whoever stands where it was asked for.
pub(super) struct OneAnswer {
    pub(super) name: Arc<str>,
    pub(super) at: Position,
    pub(super) read: Read,
}

#[async_trait]
impl Stream for OneAnswer {
    fn name(&self) -> Arc<str> {
        self.name.clone()
    }

    async fn shards(&self) -> Result<Vec<ShardInfo>> {
        Ok(Vec::new())
    }

    async fn read(&self, _: &ShardId, after: Position, _: usize, _: usize) -> Result<Read> {
        if after == self.at { Ok(self.read.clone()) } else { std::future::pending().await }
    }
}
