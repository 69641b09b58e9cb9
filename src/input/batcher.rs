//! A batch on its way into a stream, until every record in it is stored or refused.
//!
//! Owns: the bounds of a batch, retries, totals. Does not own: what fills it and when it is due (put).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sluicebox_actors::model::fault::{Fault, Kind, Result};
use sluicebox_actors::model::position::ShardId;

use sluicebox_stream::embedded::{EmbeddedStream, KEY_MAX, PutError, PutOutcome, PutRecord};

const BATCH_BYTES: usize = 4 << 20;
/// How often a record is put before the run is given up.
pub(super) const ATTEMPTS: u32 = 8;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const PROBLEMS_KEPT: usize = 20;

/// Where records go.
pub trait PutTarget {
    /// Puts a batch; the outcome has one entry a record, in order.
    fn put(&self, records: &[PutRecord]) -> Result<PutOutcome>;
}

impl PutTarget for EmbeddedStream {
    fn put(&self, records: &[PutRecord]) -> Result<PutOutcome> {
        EmbeddedStream::put(self, records)
    }
}

/// What became of the input so far.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct PutTotals {
    /// Records stored.
    pub records: u64,
    /// Their payload bytes.
    pub bytes: u64,
    /// Records that can't be put: too long, for one.
    pub refused: u64,
    /// Empty lines skipped.
    pub empty_lines: u64,
    /// Records that were put more than once because the stream was busy.
    pub retried: u64,
    /// Records whose own arrival was missing, unreadable or in the future, and which took a neighbour's.
    pub arrival_unknown: u64,
    /// Records stored, by shard.
    pub per_shard: BTreeMap<ShardId, u64>,
    /// The first 20 refusals, each with file, line and remedy.
    pub problems: Vec<String>,
    /// The callback ended the run.
    pub interrupted: bool,
}

/// Records that wait to be put, with their places.
pub(super) struct Batcher<'a> {
    target: &'a dyn PutTarget,
    pub(super) records: Vec<PutRecord>,
    // File and line of each record.
    places: Vec<(Arc<str>, u64)>,
    bytes: usize,
    max_records: usize,
    pub(super) totals: PutTotals,
}

impl<'a> Batcher<'a> {
    pub(super) fn new(target: &'a dyn PutTarget, max_records: usize) -> Self {
        Self { target, records: Vec::new(), places: Vec::new(), bytes: 0, max_records, totals: PutTotals::default() }
    }

    pub(super) fn is_full(&self) -> bool {
        self.records.len() >= self.max_records || self.bytes >= BATCH_BYTES
    }

    pub(super) fn push(&mut self, data: Bytes, partition_key: Option<Bytes>, arrival_us: Option<i64>, place: (Arc<str>, u64)) {
        self.bytes += data.len();
        // A key that a stream would refuse is the record's fault, and judging records is the pipeline's business.
        let fits = |key: &Bytes| key.len() <= KEY_MAX || String::from_utf8_lossy(key).chars().count() <= KEY_MAX;
        let partition_key = partition_key.filter(fits);
        self.records.push(PutRecord { partition_key, explicit_hash_key: None, data, arrival_us });
        self.places.push(place);
    }

    pub(super) fn refuse(&mut self, problem: String) {
        self.totals.refused += 1;
        if self.totals.problems.len() < PROBLEMS_KEPT {
            self.totals.problems.push(problem);
        }
    }

    /// Puts the batch until every record is stored or refused.
    pub(super) fn flush(&mut self, sleep: &dyn Fn(Duration)) -> Result<()> {
        let mut records = std::mem::take(&mut self.records);
        let mut places = std::mem::take(&mut self.places);
        self.bytes = 0;
        let mut pause = FIRST_PAUSE;
        let mut attempts = 0;
        while !records.is_empty() {
            attempts += 1;
            let outcome = match self.target.put(&records) {
                Ok(outcome) => outcome,
                Err(fault) => vec![Err(PutError::NotStored(fault)); records.len()],
            };
            let mut again = (Vec::new(), Vec::new());
            let mut given_up = None;
            for ((record, place), outcome) in records.into_iter().zip(places).zip(outcome) {
                match outcome {
                    Ok((shard, _)) => {
                        self.totals.records += 1;
                        self.totals.bytes += record.data.len() as u64;
                        *self.totals.per_shard.entry(shard).or_default() += 1;
                    }
                    Err(PutError::NotStored(fault)) if fault.kind() == Kind::Retry && attempts < ATTEMPTS => {
                        again.0.push(record);
                        again.1.push(place);
                    }
                    Err(PutError::NotStored(fault)) => {
                        let told = || Fault::new(fault.kind(), format!("{}:{} was not put: {fault}", place.0, place.1));
                        given_up.get_or_insert_with(told);
                    }
                    Err(error @ (PutError::TooLarge(_) | PutError::KeyLength(_) | PutError::KeyNotText)) => {
                        self.refuse(format!("{}:{}: {error}", place.0, place.1));
                    }
                }
            }
            if let Some(fault) = given_up {
                return Err(fault);
            }
            (records, places) = again;
            if !records.is_empty() {
                self.totals.retried += records.len() as u64;
                sleep(pause);
                pause = (pause * 2).min(Duration::from_secs(5));
            }
        }
        Ok(())
    }
}
