//! A record as it left the stream, and a run of them.
//!
//! Owns: raw records, their weight in memory, the split by partition key. Does not own: what the bytes mean (engine).

use std::hash::Hasher;
use std::sync::Arc;

use bytes::Bytes;

use super::position::{Sequence, ShardId};

/// One record, bytes unchanged. `data` and `partition_key` usually share one allocation with their neighbours.
#[derive(Clone, PartialEq, Eq)]
pub struct RawRecord {
    /// Place in the shard.
    pub sequence: Sequence,
    /// Place inside a KPL aggregate; 0 for a plain record.
    pub sub_sequence: u32,
    /// Inside a KPL aggregate, with a hash key that belongs to another shard. The real KPL sends such a record again to its own
    /// shard, other producers don't: whether it counts is for the settings to say.
    pub foreign: bool,
    /// UTF-8, at most 256 characters.
    pub partition_key: Bytes,
    /// When the stream took it in: microseconds since 1970, UTC, by the stream's clock.
    pub arrival_us: i64,
    /// The payload, at most 10 MiB.
    pub data: Bytes,
}

impl RawRecord {
    /// Bytes this record is charged for while in flight: payload, key and bookkeeping.
    pub fn weight(&self) -> usize {
        self.data.len() + self.partition_key.len() + 128
    }

    /// The partition key as text.
    pub fn partition_key_str(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.partition_key)
    }
}

// Payloads never reach a log, so Debug shows the place and the size only.
impl std::fmt::Debug for RawRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{} ({} bytes)", self.sequence, self.sub_sequence, self.data.len())
    }
}

/// Records of one shard in sequence order.
#[derive(Clone, Debug)]
pub struct RawSlice {
    /// Name of the stream.
    pub stream: Arc<str>,
    /// The shard they came from.
    pub shard: ShardId,
    /// In order of (sequence, sub-sequence).
    pub records: Vec<RawRecord>,
}

impl RawSlice {
    /// Sum of the records' weights in bytes.
    pub fn weight(&self) -> usize {
        self.records.iter().map(RawRecord::weight).sum()
    }

    /// Splits into `parts` slices by partition key, order kept within each; empty parts stay empty.
    pub fn split(self, parts: usize) -> Vec<RawSlice> {
        if parts == 1 {
            return vec![self];
        }
        let mut out: Vec<RawSlice> = (0..parts)
            .map(|_| RawSlice { stream: self.stream.clone(), shard: self.shard.clone(), records: Vec::new() })
            .collect();
        for record in self.records {
            out[part_of(&record.partition_key, parts)].records.push(record);
        }
        out
    }
}

/// FNV-1a: stable across builds; which partition a key goes to changes speed only, never a result.
fn part_of(key: &[u8], parts: usize) -> usize {
    struct Fnv(u64);
    impl Hasher for Fnv {
        fn finish(&self) -> u64 {
            self.0
        }
        fn write(&mut self, bytes: &[u8]) {
            for byte in bytes {
                self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
            }
        }
    }
    let mut hasher = Fnv(0xcbf2_9ce4_8422_2325);
    hasher.write(key);
    (hasher.finish() % parts as u64) as usize
}
