//! The decoder: every record is one row or one rejection, and no neighbour changes which.
//!
//! Owns: two contracts and the properties of a decoded slice. Does not own: what the structure pass accepts (tape).

use std::cell::RefCell;

use bytes::Bytes;
use serde_json::Value;
use sluicebox_actors::model::letter::{Rejection, Stage};
use sluicebox_actors::model::position::{Sequence, ShardId};
use sluicebox_actors::model::record::{RawRecord, RawSlice};

use crate::engine::contract::{Contract, EventOptions, TimeFormat, TimeSource};
use crate::engine::decode::{Decoder, Events};

const CLICKSTREAM: &str = include_str!("../../config/schemas/clickstream.schema.json");
const NESTED: &str = include_str!("nested.schema.json");
const ARRIVAL_US: i64 = 1_769_904_000_000_000;
const MOST_RECORDS: usize = 32;
/// Shorter values are too often words of a message.
const TELLING_BYTES: usize = 10;

/// A contract, a decoder that sees slices, and one that sees each record alone.
struct Bench {
    slices: Decoder,
    alone: Decoder,
}

impl Bench {
    fn new(schema: &str, member: &[&str], time_format: TimeFormat) -> Self {
        let time = TimeSource::Path(member.iter().map(|name| (*name).to_owned()).collect());
        let options = EventOptions { time, time_format, default_offset_s: 0, max_future_us: 600_000_000 };
        let contract = Contract::compile(schema, &options).expect("the contract is fixed");
        Self { slices: contract.decoder(), alone: contract.decoder() }
    }
}

thread_local! {
    static BENCHES: RefCell<[Bench; 2]> = RefCell::new([
        Bench::new(CLICKSTREAM, &["timestamp"], TimeFormat::Rfc3339),
        Bench::new(NESTED, &["at", "ms"], TimeFormat::EpochMs),
    ]);
}

/// One input: a byte that names the contract, then records, one a line.
pub fn check(data: &[u8]) {
    let Some((which, lines)) = data.split_first() else { return };
    let records: Vec<RawRecord> =
        (0u64..).zip(lines.split(|byte| *byte == b'\n')).take(MOST_RECORDS).map(|(index, line)| record(index, line)).collect();
    BENCHES.with_borrow_mut(|benches| {
        let bench = &mut benches[usize::from(which % 2)];
        let events = bench.slices.decode(&slice(records.clone())).expect("a slice decodes");
        adds_up(&events, records.len());
        let (mut row, mut rejections) = (0, events.rejections.iter());
        for (index, record) in (0u32..).zip(&records) {
            let alone = bench.alone.decode(&slice(vec![record.clone()])).expect("a record decodes");
            adds_up(&alone, 1);
            if events.origin.binary_search(&index).is_ok() {
                assert_eq!(alone.batch, events.batch.slice(row, 1), "record {index} is another row when alone");
                row += 1;
            } else {
                let rejection = rejections.next().expect("a record is a row or a rejection");
                let [only] = alone.rejections.as_slice() else { panic!("record {index} is a row when alone") };
                assert_eq!(told(only), told(rejection), "record {index}");
                says_no_value(&mut bench.alone, rejection, record);
            }
        }
    });
}

fn record(index: u64, data: &[u8]) -> RawRecord {
    RawRecord {
        sequence: Sequence::dense(index + 1),
        sub_sequence: 0, foreign: false,
        partition_key: Bytes::from_static(b"k"),
        arrival_us: ARRIVAL_US,
        data: Bytes::copy_from_slice(data),
    }
}

fn slice(records: Vec<RawRecord>) -> RawSlice {
    RawSlice { stream: "events".into(), shard: ShardId::new("shardId-0"), records }
}

fn adds_up(events: &Events, records: usize) {
    assert_eq!(events.batch.num_rows(), events.origin.len());
    let mut seen: Vec<u32> = events.origin.clone();
    seen.extend(events.rejections.iter().map(|rejection| rejection.index));
    assert!(events.origin.is_sorted() && events.rejections.is_sorted_by_key(|rejection| rejection.index));
    seen.sort_unstable();
    assert!(seen.into_iter().eq(0..records as u32), "every record is one row or one rejection");
    assert_eq!(events.max_event_us.is_some(), !events.origin.is_empty());
    assert!(events.rejections.iter().all(|rejection| rejection.reason != "panic"));
}

fn told(rejection: &Rejection) -> (&Stage, &str, Option<&str>, &str) {
    (&rejection.stage, rejection.reason, rejection.path.as_deref(), &rejection.message)
}

/// A value that stands in the message may be one of its words by chance: then another value in its place leaves the message as
/// it is. Same length, so that byte offsets stay.
fn says_no_value(alone: &mut Decoder, rejection: &Rejection, record: &RawRecord) {
    let Ok(value) = serde_json::from_slice::<Value>(&record.data) else { return };
    let mut found = Vec::new();
    values(&value, &mut found);
    let text = String::from_utf8_lossy(&record.data);
    for value in found.iter().filter(|value| value.len() >= TELLING_BYTES && rejection.message.contains(value.as_str())) {
        let other: String = value.chars().map(other_character).collect();
        let changed = RawRecord { data: text.replace(value.as_str(), &other).into(), ..record.clone() };
        let events = alone.decode(&slice(vec![changed])).expect("a record decodes");
        let Some(again) = events.rejections.first().filter(|again| again.reason == rejection.reason) else { continue };
        assert_eq!(again.message, rejection.message, "the message holds a value");
    }
}

fn other_character(character: char) -> char {
    match character {
        '0'..='9' => '7',
        'A'..='Z' | 'a'..='z' => 'q',
        other => other,
    }
}

fn values(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Null | Value::Bool(_) => {}
        Value::Number(number) => found.push(number.to_string()),
        Value::String(text) => found.push(text.clone()),
        Value::Array(items) => items.iter().for_each(|item| values(item, found)),
        Value::Object(members) => members.values().for_each(|member| values(member, found)),
    }
}
