//! Records that are letters unread: those that the process died of (`crashes_worker`), and those of a KPL aggregate that belong
//! to another shard (`kpl_foreign`).
//!
//! Owns: the set of the former, a decoder that steps around both. Does not own: how a record gets into the set (trial), where it
//! is kept (store/deaths), who is foreign (the stream).

use std::collections::BTreeSet;
use std::sync::Arc;

use sluicebox_actors::model::fault::{Fault, Result};
use sluicebox_actors::model::letter::{CRASHES_WORKER, Rejection, Stage};
use sluicebox_actors::model::position::{Sequence, ShardId};
use sluicebox_actors::model::record::{RawRecord, RawSlice};

use super::decode::Events;
use super::glue::EventDecoder;

/// Reason code of records that the process died of.
pub const REASON: &str = CRASHES_WORKER;
/// Reason code of records of a KPL aggregate whose hash key is not their shard's.
pub const FOREIGN: &str = "kpl_foreign";

/// Which records, by shard, sequence and sub-sequence number.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Condemned(BTreeSet<(ShardId, Sequence, u32)>);

impl Condemned {
    /// Adds one.
    pub fn add(&mut self, shard: ShardId, sequence: Sequence, sub_sequence: u32) {
        self.0.insert((shard, sequence, sub_sequence));
    }

    /// None is in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Is this record in it?
    pub fn has(&self, shard: &ShardId, record: &RawRecord) -> bool {
        self.0.contains(&(shard.clone(), record.sequence, record.sub_sequence))
    }
}

/// Decodes all records of a slice but the condemned ones.
pub struct SteppingAround {
    /// Whom to step around.
    pub condemned: Arc<Condemned>,
    /// Decodes the others.
    pub decoder: Box<dyn EventDecoder>,
}

impl EventDecoder for SteppingAround {
    fn decode(&mut self, slice: &RawSlice) -> Result<Events> {
        let is_condemned = |record: &RawRecord| !self.condemned.is_empty() && self.condemned.has(&slice.shard, record);
        if !slice.records.iter().any(|record| record.foreign || is_condemned(record)) {
            return self.decoder.decode(slice);
        }
        decode_others(self.decoder.as_mut(), slice, |index, record| {
            if is_condemned(record) {
                Err(rejection(index))
            } else if record.foreign {
                Err(foreign(index))
            } else {
                Ok(record.clone())
            }
        })
    }
}

/// Decodes the records of a slice that are not refused; `judge` gives them as they are to be read.
pub(super) fn decode_others(
    decoder: &mut dyn EventDecoder,
    slice: &RawSlice,
    judge: impl Fn(u32, &RawRecord) -> Result<RawRecord, Rejection>,
) -> Result<Events> {
    let (mut records, mut place, mut rejections) = (Vec::new(), Vec::new(), Vec::new());
    for (index, record) in (0u32..).zip(&slice.records) {
        match judge(index, record) {
            Ok(record) => {
                records.push(record);
                place.push(index);
            }
            Err(refused) => rejections.push(refused),
        }
    }
    let mut events = decoder.decode(&RawSlice { stream: slice.stream.clone(), shard: slice.shard.clone(), records })?;
    let moved = |index: u32| {
        place.get(index as usize).copied().ok_or_else(|| Fault::bug("the decoder speaks of a record that it was not given"))
    };
    for index in events.origin.iter_mut().chain(events.rejections.iter_mut().map(|rejection| &mut rejection.index)) {
        *index = moved(*index)?;
    }
    events.rejections.append(&mut rejections);
    events.rejections.sort_by_key(|rejection| rejection.index);
    Ok(events)
}

fn rejection(index: u32) -> Rejection {
    let message = "the process died each time it worked on this record, which is a bug of sluicebox; report it".to_owned();
    Rejection { index, stage: Stage::Decode, reason: REASON, path: None, message, causes: Vec::new() }
}

fn foreign(index: u32) -> Rejection {
    let message =
        "its hash key belongs to another shard: the aggregate was made before a reshard, and its producer may have sent \
                   the record again to that shard"
            .to_owned();
    Rejection { index, stage: Stage::Decode, reason: FOREIGN, path: None, message, causes: Vec::new() }
}

/// Ends the process on records that hold a text, as a bug of a parser would: for tests, in builds that people debug only.
#[cfg(debug_assertions)]
pub struct Deadly {
    /// The text.
    pub text: String,
    /// Decodes the others.
    pub decoder: Box<dyn EventDecoder>,
}

#[cfg(debug_assertions)]
impl EventDecoder for Deadly {
    fn decode(&mut self, slice: &RawSlice) -> Result<Events> {
        if slice.records.iter().any(|record| memchr::memmem::find(&record.data, self.text.as_bytes()).is_some()) {
            std::process::abort();
        }
        self.decoder.decode(slice)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::engine::contract::{Contract, EventOptions};
    use crate::engine::event_time::{TimeFormat, TimeSource};

    fn slice(records: &[&'static str]) -> RawSlice {
        let record = |(number, data): (u64, &&'static str)| RawRecord {
            sequence: Sequence::dense(number),
            sub_sequence: 0,
            foreign: false,
            partition_key: Bytes::from_static(b"k"),
            arrival_us: 1_767_600_000_000_000,
            data: Bytes::from_static(data.as_bytes()),
        };
        let records = (1..).zip(records).map(record).collect();
        RawSlice { stream: "events".into(), shard: ShardId::new("s"), records }
    }

    #[test]
    fn a_condemned_record_is_a_letter_and_its_neighbours_keep_their_places() {
        let options =
            EventOptions { time: TimeSource::Arrival, time_format: TimeFormat::Rfc3339, default_offset_s: 0, max_future_us: 0 };
        let contract = Contract::compile(r#"{"properties":{"n":{"type":"integer"}}}"#, &options).expect("contract");
        let mut condemned = Condemned::default();
        condemned.add(ShardId::new("s"), Sequence::dense(2), 0);
        condemned.add(ShardId::new("other"), Sequence::dense(3), 0);
        let mut decoder = SteppingAround { condemned: Arc::new(condemned), decoder: Box::new(contract.decoder()) };
        let mut slice = slice(&[r#"{"n":1}"#, r#"{"n":2}"#, "{", r#"{"n":4}"#, r#"{"n":5}"#]);
        slice.records[0].foreign = true;
        let events = decoder.decode(&slice).expect("decodes");
        assert_eq!(events.origin, [3, 4]);
        let refused: Vec<_> = events.rejections.iter().map(|rejection| (rejection.index, rejection.reason)).collect();
        assert_eq!(refused, [(0, FOREIGN), (1, REASON), (2, "invalid_json")]);
        let mut nobody = SteppingAround { condemned: Arc::default(), decoder: Box::new(contract.decoder()) };
        let events = nobody.decode(&slice).expect("decodes");
        assert_eq!((events.origin, events.rejections.len()), (vec![1, 3, 4], 2));
    }
}
