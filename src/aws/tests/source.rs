//! Goal: the Kinesis source, by the real SDK against our own endpoint: every record once and in order through reshards, expired
//! iterators, throttles, repeated answers and lost replies; what retention took is told.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use sluicebox_actors::model::fault::Kind;
use sluicebox_actors::model::position::{Position, ShardId};
use sluicebox_actors::ports::{Clock, Read, Recall, Stream};
use sluicebox_aws::client::AwsRuntime;
use sluicebox_aws::kinesis::elapsed::Pauses;
use sluicebox_aws::kinesis::sdk::SdkApi;
use sluicebox_aws::kinesis::source::{KinesisStream, Settings};
use sluicebox_stream::api::{FaultKind, FaultPlan, FaultRule, Limits};

use crate::endpoint::harness::{BEGIN_US, Contract, Ours, SECOND_US, entry};

pub(crate) const HOUR_US: i64 = 3600 * SECOND_US;

/// Pauses that are over as soon as they begin.
#[derive(Default)]
struct Skipped(AtomicU64);

#[async_trait]
impl Pauses for Skipped {
    fn elapsed_us(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    async fn pause(&self, micros: u64) {
        self.0.fetch_add(micros, Ordering::SeqCst);
    }
}

pub(crate) fn polling(contract: &Contract) -> KinesisStream {
    let api = Arc::new(SdkApi::new(contract.client.clone(), contract.stream.as_str()));
    let clock: Arc<dyn Clock> = ours(contract).clock.clone();
    let pauses = Arc::new(Skipped::default());
    KinesisStream::with_pauses(&contract.stream, api, AwsRuntime::current(), clock, Settings::default(), pauses)
}

pub(crate) fn ours(contract: &Contract) -> &Ours {
    contract.ours.as_ref().expect("these tests need a clock and faults of their own")
}

/// Always on our endpoint: time and faults are the test's.
pub(crate) async fn stream(shards: i32) -> Contract {
    let ours = crate::endpoint::harness::ours(Limits::none());
    let contract = Contract { client: ours.client.clone(), stream: "s".to_owned(), ours: Some(ours) };
    contract.client.create_stream().stream_name("s").shard_count(shards).send().await.expect("creates");
    contract.active().await;
    contract
}

pub(crate) async fn put(contract: &Contract, from: usize, to: usize) {
    let entries = (from..to).map(|n| entry(&format!("k{n}"), n.to_string().as_bytes())).collect();
    let answer = contract.client.put_records().stream_name(&contract.stream).set_records(Some(entries)).send().await;
    assert_eq!(answer.expect("puts").failed_record_count(), Some(0));
}

pub(crate) fn faults(contract: &Contract, operation: &str, times: u64, fault: FaultKind) {
    let (operation, times) = (Some(operation.to_owned()), Some(times));
    let rule = FaultRule { operation, stream: None, shard: None, skip: 0, times, rate: None, fault };
    ours(contract).server.set_faults(FaultPlan { seed: 1, rules: vec![rule] }).expect("a plan");
}

/// Reads on from a position until the source says that it is caught up, or that the shard has ended.
pub(crate) async fn drain(source: &KinesisStream, shard: &ShardId, mut after: Position) -> (Vec<String>, Position, Read) {
    let mut texts = Vec::new();
    for _ in 0..1000 {
        let read = source.read(shard, after, 7, 1 << 20).await.expect("reads");
        assert!(read.records.len() <= 7);
        for record in &read.records {
            assert!(Position::after(record.sequence) > after, "order");
            after = Position::after(record.sequence);
            texts.push(String::from_utf8(record.data.to_vec()).expect("text"));
        }
        if read.records.is_empty() && (read.caught_up || read.ended.is_some()) {
            return (texts, after, read);
        }
    }
    panic!("{shard} does not come to its end");
}

pub(crate) fn numbers(from: usize, to: usize) -> Vec<String> {
    (from..to).map(|n| n.to_string()).collect()
}

#[tokio::test]
async fn every_record_comes_once_and_in_order_and_the_clock_is_the_services() {
    let contract = stream(1).await;
    let source = polling(&contract);
    let shard = source.shards().await.expect("lists").remove(0).shard;
    assert_eq!(source.behind(&shard), None);
    put(&contract, 0, 40).await;
    let (texts, _, last) = drain(&source, &shard, Position::START).await;
    assert_eq!(texts, numbers(0, 40));
    assert!(last.caught_up && last.ended.is_none() && last.trimmed_before.is_none());
    assert_eq!(last.now_us, BEGIN_US);
    assert_eq!(source.behind(&shard), Some(0));
}

// Rows 19, 20, 22: children after their parents, found although nobody was there when it happened; a merge names both parents.
#[tokio::test]
async fn a_split_and_a_merge_end_their_parents_and_name_their_children() {
    let contract = stream(1).await;
    put(&contract, 0, 20).await;
    let half = (1u128 << 127).to_string();
    let split = contract.client.split_shard().stream_name("s").shard_to_split("shardId-000000000000").new_starting_hash_key(half);
    split.send().await.expect("splits");
    put(&contract, 20, 40).await;
    let merge = contract.client.merge_shards().stream_name("s").shard_to_merge("shardId-000000000001");
    merge.adjacent_shard_to_merge("shardId-000000000002").send().await.expect("merges");
    put(&contract, 40, 60).await;

    let source = polling(&contract);
    let listed = source.shards().await.expect("lists");
    assert_eq!(listed.iter().map(|info| info.closed).collect::<Vec<_>>(), [true, true, true, false]);
    let (mut texts, _, end) = drain(&source, &listed[0].shard, Position::START).await;
    let children = end.ended.expect("ends");
    assert_eq!(children, listed[1..3]);
    assert!(children.iter().all(|child| child.parents == [listed[0].shard.clone()]));
    for child in children {
        let (more, _, end) = drain(&source, &child.shard, Position::START).await;
        texts.extend(more);
        let merged = end.ended.expect("ends");
        assert_eq!(merged, listed[3..]);
        assert!(merged[0].parents.contains(&child.shard) && merged[0].parents.len() == 2);
    }
    let (more, _, end) = drain(&source, &listed[3].shard, Position::START).await;
    texts.extend(more);
    assert!(end.ended.is_none());
    texts.sort_by_key(|text| text.parse::<usize>().expect("a number"));
    assert_eq!(texts, numbers(0, 60));
}

// Rows 50 and 53: an iterator that has expired is made anew after the last record; an answer given twice counts once.
#[tokio::test]
async fn expired_iterators_and_repeated_answers_neither_lose_nor_double() {
    let contract = stream(1).await;
    let source = polling(&contract);
    let shard = source.shards().await.expect("lists").remove(0).shard;
    let start = Position::arrival(BEGIN_US);
    let (none, after, _) = drain(&source, &shard, start).await;
    assert!(none.is_empty() && after == start);
    ours(&contract).clock.advance(600 * SECOND_US);
    put(&contract, 0, 10).await;
    let (texts, after, _) = drain(&source, &shard, after).await;
    assert_eq!(texts, numbers(0, 10), "expired before any record");
    ours(&contract).clock.advance(600 * SECOND_US);
    put(&contract, 10, 20).await;
    faults(&contract, "GetRecords", 2, FaultKind::RepeatBatch);
    let (texts, after, last) = drain(&source, &shard, after).await;
    assert_eq!(texts, numbers(10, 20));
    assert_eq!(last.now_us, BEGIN_US + 1200 * SECOND_US);
    put(&contract, 20, 30).await;
    faults(&contract, "GetRecords", 2, FaultKind::ExpireIterator);
    assert_eq!(drain(&source, &shard, after).await.0, numbers(20, 30));
}

// Row 26: a shard that answers nothing but throttles is not caught up; the reader is told, and nothing is lost.
#[tokio::test]
async fn a_throttled_shard_is_a_fault_to_wait_for_and_not_an_empty_answer() {
    let contract = stream(1).await;
    let source = polling(&contract);
    let shard = source.shards().await.expect("lists").remove(0).shard;
    put(&contract, 0, 5).await;
    faults(&contract, "GetRecords", 4, FaultKind::Throttle);
    let fault = source.read(&shard, Position::START, 10, 1 << 20).await.expect_err("throttled");
    assert!(fault.kind() == Kind::Retry && fault.to_string().contains("ProvisionedThroughputExceeded"), "{fault}");
    faults(&contract, "GetRecords", 1, FaultKind::DropReply);
    assert_eq!(source.read(&shard, Position::START, 10, 1 << 20).await.expect_err("no answer").kind(), Kind::Retry);
    assert_eq!(drain(&source, &shard, Position::START).await.0, numbers(0, 5));
}

// Rows 23 and 24: a listing with a hole is not believed; a shard that is said to be gone is looked for in the listing.
#[tokio::test]
async fn a_shard_that_is_denied_or_hidden_is_not_an_end() {
    let contract = stream(2).await;
    let source = polling(&contract);
    let shard = source.shards().await.expect("lists").remove(0).shard;
    faults(&contract, "GetShardIterator", 1, FaultKind::NotFound);
    let fault = source.read(&shard, Position::START, 10, 1 << 20).await.expect_err("denied");
    assert!(fault.kind() == Kind::Retry && fault.to_string().contains("lists it"), "{fault}");
    let foreign = ShardId::new("shardId-000000000099");
    let lost = source.read(&foreign, Position::arrival(BEGIN_US), 10, 1 << 20).await.expect("reads");
    assert!(lost.ended.is_some() && lost.trimmed_before.is_some(), "{lost:?}");
    let hide = FaultRule {
        operation: Some("ListShards".to_owned()),
        stream: None,
        shard: Some(shard.as_str().to_owned()),
        skip: 0,
        times: Some(1),
        rate: None,
        fault: FaultKind::HideShard,
    };
    ours(&contract).server.set_faults(FaultPlan { seed: 1, rules: vec![hide] }).expect("a plan");
    assert_eq!(source.shards().await.expect_err("a hole").kind(), Kind::Retry);
    assert_eq!(source.shards().await.expect("whole again").len(), 2);
}

// Row 51: retention passed while nobody read: told to a new process and to one that lived on; a position that is kept is no gap.
#[tokio::test]
async fn records_that_retention_took_are_told() {
    let contract = stream(1).await;
    let first = polling(&contract);
    let shard = first.shards().await.expect("lists").remove(0).shard;
    put(&contract, 0, 10).await;
    let (_, after, _) = drain(&first, &shard, Position::START).await;
    assert!(polling(&contract).read(&shard, after, 10, 1 << 20).await.expect("reads").trimmed_before.is_none());
    put(&contract, 10, 20).await;
    ours(&contract).clock.advance(25 * HOUR_US);
    put(&contract, 20, 30).await;
    ours(&contract).server.sweep().await.expect("sweeps");
    for reader in [polling(&contract), first] {
        let read = reader.read(&shard, after, 10, 1 << 20).await.expect("reads");
        assert!(read.trimmed_before.is_some_and(|left| left > after), "{read:?}");
    }
}

// A shard that was silent for longer than the retention has lost nothing if it was read until less than a day ago, which no
// retention is shorter than. What the retention is now does not prove more: it may have been lowered meanwhile.
#[tokio::test]
async fn silence_is_no_gap_for_who_was_away_for_less_than_a_day() {
    let contract = stream(1).await;
    let first = polling(&contract);
    let shard = first.shards().await.expect("lists").remove(0).shard;
    let increase = contract.client.increase_stream_retention_period().stream_name("s").retention_period_hours(72);
    increase.send().await.expect("raises");
    put(&contract, 0, 10).await;
    let (_, after, read) = drain(&first, &shard, Position::START).await;
    assert_eq!((read.behind_us, read.fresh_us), (Some(0), Some(BEGIN_US)));
    ours(&contract).clock.advance(73 * HOUR_US);
    ours(&contract).server.sweep().await.expect("sweeps");
    put(&contract, 10, 20).await;
    for (away_hours, lost) in [(23, false), (25, true), (71, true), (74, true)] {
        let second = polling(&contract);
        let recall = Recall { fresh_us: BEGIN_US + (73 - away_hours) * HOUR_US, before: Vec::new() };
        second.recall(&shard, after, &recall).await.expect("recalls");
        let read = second.read(&shard, after, 10, 1 << 20).await.expect("reads");
        assert_eq!((read.trimmed_before.is_some(), read.records.len()), (lost, 10), "away for {away_hours} hours");
    }
    // Who has been away for long, and finds the position's own record, has lost nothing either.
    let (again, last, _) = drain(&polling(&contract), &shard, after).await;
    assert_eq!(again, numbers(10, 20));
    let second = polling(&contract);
    second.recall(&shard, last, &Recall { fresh_us: BEGIN_US, before: Vec::new() }).await.expect("recalls");
    assert_eq!(second.read(&shard, last, 10, 1 << 20).await.expect("reads").trimmed_before, None);
}

// A child that nobody opened, of a parent that was read to its end long after it was split: its records are as old as the split.
#[tokio::test]
async fn a_child_is_told_to_have_lost_records_from_the_last_record_of_its_parent_on() {
    let contract = stream(1).await;
    let increase = contract.client.increase_stream_retention_period().stream_name("s").retention_period_hours(72);
    increase.send().await.expect("raises");
    put(&contract, 0, 5).await;
    let half = (1u128 << 127).to_string();
    let split = contract.client.split_shard().stream_name("s").shard_to_split("shardId-000000000000").new_starting_hash_key(half);
    split.send().await.expect("splits");
    put(&contract, 5, 30).await;
    ours(&contract).clock.advance(30 * HOUR_US);
    let first = polling(&contract);
    let parent = first.shards().await.expect("lists").remove(0).shard;
    let (texts, after, end) = drain(&first, &parent, Position::START).await;
    assert_eq!((texts, end.fresh_us), (numbers(0, 5), Some(BEGIN_US)));
    let recall = Recall { fresh_us: BEGIN_US, before: vec![(parent, after.sequence().expect("a record"))] };
    let child = end.ended.expect("ends").remove(0).shard;
    for lost in [false, true] {
        let second = polling(&contract);
        second.recall(&child, Position::START, &recall).await.expect("recalls");
        let read = second.read(&child, Position::START, 100, 1 << 20).await.expect("reads");
        assert_eq!(read.trimmed_before.is_some(), lost, "{read:?}");
        assert!(!read.records.is_empty() || lost, "the last record of the parent is there, and so is everything after it");
        ours(&contract).clock.advance(43 * HOUR_US);
        put(&contract, 30, 40).await;
        ours(&contract).server.sweep().await.expect("sweeps");
    }
}
