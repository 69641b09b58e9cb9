//! What a partition makes of what its engine says: what the breaker counts, what a letter tells, and no trust.

use std::sync::Arc;

use arrow_array::{BooleanArray, RecordBatch};
use bytes::Bytes;

use sluicebox_actors::machines::breaker::Failures;
use sluicebox_actors::machines::partition::{PartitionMachine, Processed};
use sluicebox_actors::machines::shard::Opening;
use sluicebox_actors::model::fault::{Kind, Result};
use sluicebox_actors::model::letter::{Postmark, Stage};
use sluicebox_actors::model::position::{Sequence, ShardId};
use sluicebox_actors::model::record::{RawRecord, RawSlice};
use sluicebox_actors::model::window::Bound;
use sluicebox_actors::ports::{Decoded, Engine, Partial, PartitionEngine};
use sluicebox_sim::engine::{SmallEngine, tables};
use sluicebox_sim::truth::{MINUTE, T0};

/// The small engine, whose answers are edited.
struct Edited {
    engine: Box<dyn PartitionEngine>,
    edit: Box<dyn Fn(&mut Decoded) + Send>,
}

impl PartitionEngine for Edited {
    fn decode(&mut self, slice: &RawSlice, processed_at_us: i64) -> Result<Decoded> {
        let mut decoded = self.engine.decode(slice, processed_at_us)?;
        (self.edit)(&mut decoded);
        Ok(decoded)
    }

    fn admit(&mut self, table: usize, silver: &RecordBatch) -> Result<Option<BooleanArray>> {
        self.engine.admit(table, silver)
    }

    fn accumulate(&mut self, table: usize, silver: &RecordBatch, rows: &[u32], windows_us: &[i64]) -> Result<()> {
        self.engine.accumulate(table, silver, rows, windows_us)
    }

    fn held(&mut self) -> usize {
        self.engine.held()
    }

    fn cut(&mut self) -> Result<Vec<Partial>> {
        self.engine.cut()
    }
}

fn opening(epoch: u64, bound: Bound) -> Opening {
    Opening { epoch, bound, processed_at_us: T0 }
}

fn partition(bound: Bound, edit: impl Fn(&mut Decoded) + Send + 'static) -> PartitionMachine {
    let engine = SmallEngine::new(None).partition().unwrap();
    let postmark = Postmark { fingerprint: "f".into(), version: "v".into(), request_id: "r".into() };
    PartitionMachine::new(Box::new(Edited { engine, edit: Box::new(edit) }), tables(), postmark, opening(1, bound))
}

fn slice(payloads: &[&str]) -> RawSlice {
    let record = |(number, data): (u64, &&str)| RawRecord {
        sequence: Sequence::dense(number),
        sub_sequence: 0,
        foreign: false,
        partition_key: Bytes::from_static(b"key"),
        arrival_us: T0,
        data: Bytes::copy_from_slice(data.as_bytes()),
    };
    RawSlice { stream: Arc::from("events"), shard: ShardId::new("s"), records: (1..).zip(payloads).map(record).collect() }
}

fn event(event_us: i64, value: i64) -> String {
    format!("key,{event_us},{value}")
}

// A wrong schema shows as contract, not as decode: both are what a bad deployment looks like.
#[test]
fn the_breaker_counts_records_that_fail_decode_or_contract_and_no_others() {
    for (stage, counts) in [(Stage::Decode, true), (Stage::Contract, true), (Stage::Time, false), (Stage::Silver, false)] {
        let of = stage.clone();
        let mut machine = partition(Bound::UNKNOWN, move |decoded| decoded.rejections[0].stage = of.clone());
        let Processed { records, failed, letters, .. } = machine.process(&slice(&["bad", &event(T0, 1)]), T0).unwrap();
        let expected = if counts { Failures::from([("bad_record", 1)]) } else { Failures::new() };
        assert_eq!((records, failed, letters.len()), (2, expected, 1), "{stage}");
    }
}

#[test]
fn a_letter_for_a_record_that_came_too_late_names_its_window_and_the_bound_that_judged_it() {
    // The hour has ended two hours ago by this bound: that is the allowed lateness. The ten minutes allow none.
    let bound = Bound(T0 + 180 * MINUTE);
    let mut machine = partition(bound, |_| {});
    let (late, on_time) = (event(T0 + 25 * MINUTE, 1), event(T0 + 181 * MINUTE, 2));
    let processed = machine.process(&slice(&[&late, &on_time]), T0).unwrap();
    assert_eq!(processed.silver.num_rows(), 2, "it is in Silver all the same");
    let told: Vec<_> = processed
        .letters
        .iter()
        .map(|letter| {
            let sequence = letter.sequence.as_dense();
            (sequence, letter.stage.to_string(), letter.reason.clone(), letter.window_start_us, letter.bound_us)
        })
        .collect();
    let letter =
        |table: &str, start_us: i64| (Some(1), format!("gold:{table}"), "too_late".to_owned(), Some(start_us), Some(bound.0));
    assert_eq!(told, [letter("hourly", T0), letter("tens", T0 + 20 * MINUTE)]);
    let cut = machine.barrier(opening(2, bound)).unwrap();
    assert!(cut.bodies.iter().all(|body| body.window_us >= T0 + 180 * MINUTE), "no partial of a sealed window");
    assert_eq!((cut.counts.gold["hourly"].too_late, cut.counts.gold["hourly"].on_time), (1, 1));
}

#[test]
fn a_record_one_microsecond_before_its_window_is_sealed_is_late_and_taken() {
    let mut machine = partition(Bound(T0 + 180 * MINUTE - 1), |_| {});
    let processed = machine.process(&slice(&[&event(T0 + 25 * MINUTE, 3)]), T0).unwrap();
    assert!(processed.letters.is_empty(), "{:?}", processed.letters);
    let cut = machine.barrier(opening(2, Bound(T0 + 180 * MINUTE))).unwrap();
    assert_eq!((cut.counts.gold["hourly"].late, cut.bodies.len()), (1, 1));
}

#[test]
fn an_engine_that_loses_a_record_or_counts_one_twice_is_a_bug() {
    type Lie = fn(&mut Decoded);
    let lies: [Lie; 4] = [
        |decoded| decoded.rejections.clear(),
        |decoded| decoded.filtered.push(("again".into(), 1)),
        |decoded| decoded.silver = decoded.silver.slice(0, 1),
        |decoded| decoded.origin.truncate(1),
    ];
    for (number, lie) in lies.into_iter().enumerate() {
        let mut machine = partition(Bound::UNKNOWN, lie);
        let fault = machine.process(&slice(&["bad", &event(T0, 1), &event(T0, 2)]), T0).unwrap_err();
        assert_eq!(fault.kind(), Kind::Bug, "lie {number}");
    }
}
