//! Goal: enhanced fan-out, by the real SDK against our own endpoint: the records of polling, each once and in order, through ends
//! of subscriptions, takeovers, broken connections, refusals, reshards and what retention took.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sluicebox_actors::model::fault::Kind;
use sluicebox_actors::model::position::{Position, ShardId};
use sluicebox_actors::ports::{Clock, Read, Stream};
use sluicebox_aws::client::AwsRuntime;
use sluicebox_aws::kinesis::elapsed::Pauses;
use sluicebox_aws::kinesis::sdk::SdkApi;
use sluicebox_aws::kinesis::source::{KinesisStream, Settings};
use sluicebox_stream::api::FaultKind;

use crate::endpoint::harness::{BEGIN_US, Contract, SECOND_US, TestClock};
use crate::source::{HOUR_US, faults, numbers, ours, polling, put, stream};

/// The time of reader and service is one, and passes where the reader waits: a second in 20 ms, so that the network keeps up.
struct Shared(Arc<TestClock>);

#[async_trait]
impl Pauses for Shared {
    fn elapsed_us(&self) -> u64 {
        u64::try_from(self.0.now_us() - BEGIN_US).expect("time does not go back")
    }

    async fn pause(&self, micros: u64) {
        tokio::time::sleep(Duration::from_micros(micros / 50)).await;
        self.0.advance(i64::try_from(micros).expect("a pause"));
    }
}

fn reader(contract: &Contract, consumer: &str) -> KinesisStream {
    let api = Arc::new(SdkApi::new(contract.client.clone(), contract.stream.as_str()));
    let clock = ours(contract).clock.clone();
    let settings = Settings { fan_out: Some(consumer.into()), ..Settings::default() };
    let pauses = Arc::new(Shared(clock.clone()));
    KinesisStream::with_pauses(&contract.stream, api, AwsRuntime::current(), clock, settings, pauses)
}

/// Reads on from a position until the source says that it is caught up, or that the shard has ended. Faults of the service are
/// waited out, at most so many.
async fn drain(source: &KinesisStream, shard: &ShardId, mut after: Position, mut faults: usize) -> (Vec<String>, Position, Read) {
    let mut texts = Vec::new();
    for _ in 0..2000 {
        let read = match source.read(shard, after, 7, 1 << 20).await {
            Ok(read) => read,
            Err(fault) if fault.kind() == Kind::Retry && faults > 0 => {
                faults -= 1;
                continue;
            }
            Err(fault) => panic!("{fault}"),
        };
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

async fn consumers(contract: &Contract) -> Vec<String> {
    let answer = contract.client.describe_stream_summary().stream_name(&contract.stream).send().await.expect("describes");
    let arn = answer.stream_description_summary().expect("a summary").stream_arn().to_owned();
    let listed = contract.client.list_stream_consumers().stream_arn(arn).send().await.expect("lists");
    listed.consumers().iter().map(|consumer| consumer.consumer_arn().to_owned()).collect()
}

#[tokio::test]
async fn the_records_are_those_of_polling_and_the_consumer_is_registered_once() {
    let contract = stream(3).await;
    put(&contract, 0, 300).await;
    let (pushed, polled) = (reader(&contract, "c"), polling(&contract));
    let (mut places, mut total) = (Vec::new(), 0);
    for info in pushed.shards().await.expect("lists") {
        let (texts, after, last) = drain(&pushed, &info.shard, Position::START, 0).await;
        assert_eq!((last.trimmed_before, last.behind_us), (None, Some(0)));
        assert!(last.fresh_us.is_some_and(|fresh_us| fresh_us <= ours(&contract).clock.now_us()), "never ahead of the service");
        let (same, same_after, _) = crate::source::drain(&polled, &info.shard, Position::START).await;
        assert_eq!((&texts, after), (&same, same_after));
        total += texts.len();
        places.push((info.shard, after));
    }
    assert_eq!(total, 300);
    // Another process goes on behind the last record of each.
    put(&contract, 300, 400).await;
    let (again, mut texts) = (reader(&contract, "c"), Vec::new());
    for (shard, after) in places {
        texts.extend(drain(&again, &shard, after, 2).await.0);
    }
    texts.sort_by_key(|text| text.parse::<usize>().expect("a number"));
    assert_eq!(texts, numbers(300, 400));
    assert_eq!(consumers(&contract).await.len(), 1);
}

// Row 50: a subscription ends after five minutes, as an iterator does; nothing is lost or comes twice.
#[tokio::test]
async fn subscriptions_end_after_five_minutes_and_the_next_one_goes_on() {
    let contract = stream(1).await;
    let source = reader(&contract, "c");
    let shard = source.shards().await.expect("lists").remove(0).shard;
    let (none, mut after, first) = drain(&source, &shard, Position::arrival(BEGIN_US), 0).await;
    assert!(none.is_empty() && first.caught_up);
    for round in 0..4 {
        ours(&contract).clock.advance(301 * SECOND_US);
        put(&contract, round * 10, round * 10 + 10).await;
        let (texts, reached, last) = drain(&source, &shard, after, 0).await;
        assert_eq!(texts, numbers(round * 10, round * 10 + 10));
        assert!(last.now_us > first.now_us, "the clock of a silent shard goes on");
        after = reached;
    }
}

// Two readers under one name: each is told of the other, and neither loses nor doubles.
#[tokio::test]
async fn a_takeover_is_told_to_who_lost_and_both_see_every_record_once() {
    let contract = stream(1).await;
    put(&contract, 0, 20).await;
    let (one, other) = (reader(&contract, "c"), reader(&contract, "c"));
    let shard = one.shards().await.expect("lists").remove(0).shard;
    let (texts, after, _) = drain(&one, &shard, Position::START, 0).await;
    assert_eq!(texts, numbers(0, 20));
    assert_eq!(drain(&other, &shard, Position::START, 1).await.0, numbers(0, 20));
    put(&contract, 20, 40).await;
    let mut lost = None;
    let texts = loop {
        match one.read(&shard, after, 100, 1 << 20).await {
            Ok(read) if read.records.is_empty() => {}
            Ok(read) => break read.records.len(),
            Err(fault) => lost = Some(fault),
        }
    };
    assert_eq!(texts, 20);
    assert_eq!(drain(&other, &shard, after, 3).await.0, numbers(20, 40));
    let lost = lost.expect("the first one is told");
    assert!(lost.kind() == Kind::Retry && lost.message().contains("stream.fan_out"), "{lost}");
}

// Connections that break in mid-stream, answers that never come, throttles, errors, and a takeover by nobody.
#[tokio::test]
async fn whatever_breaks_off_is_begun_anew_behind_the_last_record() {
    let in_use = FaultKind::Error { code: "ResourceInUseException".to_owned(), status: 400 };
    let breaks = [FaultKind::DropReply, FaultKind::DropRequest, FaultKind::Throttle, FaultKind::InternalFailure, in_use];
    let contract = stream(1).await;
    let source = reader(&contract, "c");
    let shard = source.shards().await.expect("lists").remove(0).shard;
    let mut after = Position::START;
    for (round, fault) in breaks.into_iter().enumerate() {
        put(&contract, round * 30, round * 30 + 30).await;
        // The subscription under way ends by itself, and the next ones meet the fault.
        ours(&contract).clock.advance(301 * SECOND_US);
        faults(&contract, "SubscribeToShard", 3, fault.clone());
        let (texts, reached, _) = drain(&source, &shard, after, 4).await;
        assert_eq!(texts, numbers(round * 30, round * 30 + 30), "{fault:?}");
        let state = ours(&contract).server.state();
        assert!(state["rules"][0]["hit"].as_u64() > Some(0), "{fault:?} met nobody: {state}");
        after = reached;
    }
}

// Rows 19, 20, 22 under fan-out.
#[tokio::test]
async fn a_shard_that_is_split_ends_with_its_children_and_each_is_read_from_its_beginning() {
    let contract = stream(1).await;
    put(&contract, 0, 20).await;
    let source = reader(&contract, "c");
    let parent = source.shards().await.expect("lists").remove(0).shard;
    let (mut texts, after, open) = drain(&source, &parent, Position::START, 0).await;
    assert!(open.ended.is_none());
    let split = contract.client.split_shard().stream_name("s").shard_to_split(parent.as_str());
    split.new_starting_hash_key((1u128 << 127).to_string()).send().await.expect("splits");
    put(&contract, 20, 60).await;
    let (more, _, end) = drain(&source, &parent, after, 0).await;
    assert!(more.is_empty(), "the children have them");
    let children = end.ended.expect("ends");
    assert_eq!(children, source.shards().await.expect("lists")[1..]);
    for child in children {
        let (more, _, open) = drain(&source, &child.shard, Position::START, 0).await;
        assert!(open.ended.is_none() && !more.is_empty());
        texts.extend(more);
    }
    texts.sort_by_key(|text| text.parse::<usize>().expect("a number"));
    assert_eq!(texts, numbers(0, 60));
}

// Row 51 under fan-out: told to a new reader, and not to one whose position is kept.
#[tokio::test]
async fn records_that_retention_took_are_told() {
    let contract = stream(1).await;
    let first = reader(&contract, "c");
    let shard = first.shards().await.expect("lists").remove(0).shard;
    put(&contract, 0, 10).await;
    let (_, after, _) = drain(&first, &shard, Position::START, 0).await;
    drop(first);
    let kept = reader(&contract, "kept");
    assert_eq!(drain(&kept, &shard, after, 0).await.2.trimmed_before, None);
    drop(kept);
    put(&contract, 10, 20).await;
    ours(&contract).clock.advance(25 * HOUR_US);
    put(&contract, 20, 30).await;
    ours(&contract).server.sweep().await.expect("sweeps");
    let late = reader(&contract, "c");
    let mut read = late.read(&shard, after, 10, 1 << 20).await.expect("reads");
    while read.records.is_empty() {
        read = late.read(&shard, after, 10, 1 << 20).await.expect("reads");
    }
    assert!(read.trimmed_before.is_some_and(|left| left > after), "{read:?}");
}

// A person deregisters the consumer: it is registered again, as at the start, and reading goes on.
#[tokio::test]
async fn a_consumer_that_is_gone_is_registered_anew() {
    let contract = stream(1).await;
    let source = reader(&contract, "c");
    let shard = source.shards().await.expect("lists").remove(0).shard;
    put(&contract, 0, 10).await;
    let (_, after, _) = drain(&source, &shard, Position::START, 0).await;
    let arn = consumers(&contract).await.remove(0);
    ours(&contract).clock.advance(SECOND_US);
    contract.client.deregister_stream_consumer().consumer_arn(&arn).send().await.expect("deregisters");
    put(&contract, 10, 20).await;
    assert_eq!(drain(&source, &shard, after, 3).await.0, numbers(10, 20));
    assert_eq!(consumers(&contract).await.len(), 1);
}
