//! Goal: what passes with time passes by the server's clock: iterators and page tokens expire, records are forgotten.

use aws_sdk_kinesis::operation::RequestId as _;
use aws_sdk_kinesis::types::ShardIteratorType;
use sluicebox_stream::api::Limits;

use super::harness::{BEGIN_US, Contract, SECOND_US, code, ours};

const SHARD: &str = "shardId-000000000000";
const HOUR_US: i64 = 3600 * SECOND_US;

async fn contract(stream: &str) -> Contract {
    let ours = ours(Limits::none());
    ours.client.create_stream().stream_name(stream).shard_count(2).send().await.expect("creates");
    Contract { client: ours.client.clone(), stream: stream.to_owned(), ours: Some(ours) }
}

fn advance(contract: &Contract, micros: i64) {
    contract.ours.as_ref().expect("ours").clock.advance(micros);
}

#[tokio::test]
async fn an_iterator_lives_for_five_minutes_and_reading_renews_it() {
    let contract = contract("expiry").await;
    let first = contract.iterator(SHARD, ShardIteratorType::TrimHorizon, None).await;
    advance(&contract, 300 * SECOND_US);
    let answer = contract.client.get_records().shard_iterator(&first).send().await.expect("reads");
    let second = answer.next_shard_iterator().expect("goes on").to_owned();
    advance(&contract, 1);
    assert_eq!(code(contract.client.get_records().shard_iterator(&first).send().await), "ExpiredIteratorException");
    contract.client.get_records().shard_iterator(second).send().await.expect("renewed");
}

#[tokio::test]
async fn a_page_token_lives_for_five_minutes() {
    let contract = contract("token").await;
    let answer = contract.client.list_shards().stream_name("token").max_results(1).send().await.expect("lists");
    let token = answer.next_token().expect("more").to_owned();
    let next = || contract.client.list_shards().next_token(&token).send();
    assert_eq!(next().await.expect("lists").shards().len(), 1);
    advance(&contract, 300 * SECOND_US + 1);
    assert_eq!(code(next().await), "ExpiredNextTokenException");
}

#[tokio::test]
async fn how_far_a_reader_is_behind_is_told_by_the_servers_clock() {
    let contract = contract("behind").await;
    contract.put("k", b"a").await;
    advance(&contract, SECOND_US);
    let (shard, _) = contract.put("k", b"b").await;
    advance(&contract, 6 * SECOND_US);
    let iterator = contract.iterator(&shard, ShardIteratorType::TrimHorizon, None).await;
    let answer = contract.client.get_records().shard_iterator(iterator).limit(1).send().await.expect("reads");
    assert_eq!(answer.millis_behind_latest(), Some(7000));
    let arrival = answer.records()[0].approximate_arrival_timestamp().expect("a time");
    assert_eq!(arrival.to_millis().expect("fits"), BEGIN_US / 1000);
    let next = answer.next_shard_iterator().expect("goes on");
    let answer = contract.client.get_records().shard_iterator(next).send().await.expect("reads");
    assert_eq!((answer.records().len(), answer.millis_behind_latest()), (1, Some(0)));
    assert!(answer.request_id().is_some_and(|id| id.len() == 36));
}

#[tokio::test]
async fn retention_forgets_and_an_iterator_from_before_goes_on_at_the_horizon() {
    let contract = contract("retention").await;
    let (shard, first) = contract.put("k", b"a").await;
    let iterator = contract.iterator(&shard, ShardIteratorType::AtSequenceNumber, Some(&first)).await;
    let server = contract.ours.as_ref().expect("ours").server.clone();
    advance(&contract, 23 * HOUR_US);
    contract.put("k", b"b").await;
    assert_eq!(server.sweep().await.expect("sweeps"), 0);
    let increase = contract.client.increase_stream_retention_period().stream_name("retention").retention_period_hours(25);
    increase.send().await.expect("raises");
    advance(&contract, 2 * HOUR_US);
    assert_eq!(server.sweep().await.expect("sweeps"), 0, "exactly as old as it may be");
    advance(&contract, 1);
    assert_eq!(server.sweep().await.expect("sweeps"), 1);
    assert_eq!(code(contract.client.get_records().shard_iterator(iterator).send().await), "ExpiredIteratorException");
    for (kind, sequence) in [
        (ShardIteratorType::TrimHorizon, None),
        (ShardIteratorType::AtSequenceNumber, Some(first.as_str())),
        (ShardIteratorType::AfterSequenceNumber, Some(first.as_str())),
    ] {
        let iterator = contract.iterator(&shard, kind, sequence).await;
        let records = contract.read(iterator).await.0;
        assert_eq!(records.iter().map(|record| record.data().as_ref()).collect::<Vec<_>>(), [b"b"]);
    }
}

#[tokio::test]
async fn a_closed_shard_is_listed_until_its_last_record_is_forgotten() {
    let contract = contract("forgotten").await;
    let put = contract.client.put_record().stream_name("forgotten").partition_key("k").explicit_hash_key("0");
    put.data(aws_sdk_kinesis::primitives::Blob::new("x")).send().await.expect("puts");
    let split = contract.client.split_shard().stream_name("forgotten").shard_to_split(SHARD).new_starting_hash_key("7");
    split.send().await.expect("splits");
    let server = contract.ours.as_ref().expect("ours").server.clone();
    advance(&contract, 24 * HOUR_US);
    server.sweep().await.expect("sweeps");
    assert_eq!(contract.shards().await.len(), 4);
    advance(&contract, 1);
    server.sweep().await.expect("sweeps");
    let left: Vec<_> = contract.shards().await.iter().map(|shard| shard.shard_id().to_owned()).collect();
    assert_eq!(left, ["shardId-000000000001", "shardId-000000000002", "shardId-000000000003"]);
    let gone = contract.client.get_shard_iterator().stream_name("forgotten").shard_id(SHARD);
    let gone = gone.shard_iterator_type(ShardIteratorType::TrimHorizon).send().await;
    assert_eq!(code(gone), "ResourceNotFoundException");
}

#[tokio::test]
async fn a_time_to_come_is_refused_as_a_place_to_begin() {
    let contract = contract("future").await;
    let get = contract.client.get_shard_iterator().stream_name("future").shard_id(SHARD);
    let future = aws_sdk_kinesis::primitives::DateTime::from_secs(BEGIN_US / SECOND_US + 60);
    let answer = get.shard_iterator_type(ShardIteratorType::AtTimestamp).timestamp(future).send().await;
    assert_eq!(code(answer), "InvalidArgumentException");
}
