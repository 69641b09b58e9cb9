//! Goal: what is put comes back, once, in order, unchanged, from wherever a reader begins.

use aws_sdk_kinesis::primitives::{Blob, DateTime};
use aws_sdk_kinesis::types::ShardIteratorType;

use super::harness::{Contract, entry};

const SHARD: &str = "shardId-000000000000";

fn data(records: &[aws_sdk_kinesis::types::Record]) -> Vec<Vec<u8>> {
    records.iter().map(|record| record.data().as_ref().to_vec()).collect()
}

#[tokio::test]
async fn records_come_back_unchanged_and_in_order() {
    let contract = Contract::new("unchanged", 1).await;
    let payloads: Vec<Vec<u8>> =
        (0..=255u8).map(|byte| vec![byte; usize::from(byte) % 7]).filter(|data| !data.is_empty()).collect();
    for chunk in payloads.chunks(100) {
        let entries = chunk.iter().map(|data| entry("schlüssel \"\\/ 鍵", data)).collect();
        let answer =
            contract.client.put_records().stream_name(&contract.stream).set_records(Some(entries)).send().await.expect("puts");
        assert_eq!(answer.failed_record_count(), Some(0));
    }
    let records = contract.read_all(SHARD).await;
    assert_eq!(data(&records), payloads);
    assert!(records.iter().all(|record| record.partition_key() == Some("schlüssel \"\\/ 鍵")));
    let rising = records.windows(2).all(|pair| number(&pair[0]) < number(&pair[1]));
    assert!(rising, "sequence numbers rise");
}

fn number(record: &aws_sdk_kinesis::types::Record) -> (usize, String) {
    (record.sequence_number().len(), record.sequence_number().to_owned())
}

#[tokio::test]
async fn a_record_goes_to_the_shard_that_holds_the_hash_of_its_key_or_the_hash_key_given() {
    let contract = Contract::new("routing", 4).await;
    let shards = contract.shards().await;
    let bounds = |shard: &aws_sdk_kinesis::types::Shard| {
        let range = shard.hash_key_range().expect("a range");
        let parse = |text: &str| text.parse::<u128>().expect("a number");
        (parse(range.starting_hash_key()), parse(range.ending_hash_key()))
    };
    for i in 0..40 {
        use md5::Digest as _;
        let key = format!("key-{i}");
        let hash = u128::from_be_bytes(md5::Md5::digest(key.as_bytes()).into());
        let (shard, _) = contract.put(&key, b"x").await;
        let holder = shards.iter().find(|shard| bounds(shard).0 <= hash && hash <= bounds(shard).1).expect("covered");
        assert_eq!(shard, holder.shard_id(), "{key}");
    }
    for shard in &shards {
        for hash in [bounds(shard).0, bounds(shard).1] {
            let put = contract.client.put_record().stream_name(&contract.stream).partition_key("any").data(Blob::new("x"));
            let answer = put.explicit_hash_key(hash.to_string()).send().await.expect("puts");
            assert_eq!(answer.shard_id(), shard.shard_id());
        }
    }
}

#[tokio::test]
async fn a_reader_begins_where_it_says() {
    let contract = Contract::new("begins", 1).await;
    let mut numbers = Vec::new();
    for text in ["a", "b", "c"] {
        numbers.push(contract.put("k", text.as_bytes()).await.1);
    }
    let latest = contract.iterator(SHARD, ShardIteratorType::Latest, None).await;
    let at = contract.iterator(SHARD, ShardIteratorType::AtSequenceNumber, Some(&numbers[1])).await;
    let after = contract.iterator(SHARD, ShardIteratorType::AfterSequenceNumber, Some(&numbers[1])).await;
    contract.put("k", b"d").await;
    for (iterator, expected) in [(at, "bcd"), (after, "cd"), (latest, "d")] {
        let (records, next) = contract.read(iterator).await;
        assert_eq!(data(&records).concat(), expected.as_bytes());
        assert!(next.is_some(), "an open shard goes on");
    }
    let first = contract.shards().await[0].sequence_number_range().expect("a range").starting_sequence_number().to_owned();
    let from_first = contract.iterator(SHARD, ShardIteratorType::AtSequenceNumber, Some(&first)).await;
    assert_eq!(data(&contract.read(from_first).await.0).concat(), b"abcd");
}

#[tokio::test]
async fn a_reader_begins_at_a_time() {
    let contract = Contract::new("at-a-time", 1).await;
    contract.put("k", b"a").await;
    if let Some(ours) = &contract.ours {
        ours.clock.advance(1_500_000);
    }
    contract.put("k", b"b").await;
    contract.put("k", b"c").await;
    let all = contract.read_all(SHARD).await;
    let arrival = |at: usize| *all[at].approximate_arrival_timestamp().expect("a time");
    let get = |at: DateTime| {
        let get = contract.client.get_shard_iterator().stream_name(&contract.stream).shard_id(SHARD);
        get.shard_iterator_type(ShardIteratorType::AtTimestamp).timestamp(at).send()
    };
    for at in [arrival(1), DateTime::from_secs(arrival(0).secs() - 60)] {
        let answer = get(at).await.expect("an iterator");
        let (records, _) = contract.read(answer.shard_iterator().expect("an iterator").to_owned()).await;
        let millis = at.to_millis().expect("fits");
        let expected = all
            .iter()
            .filter(|record| record.approximate_arrival_timestamp().expect("a time").to_millis().expect("fits") >= millis);
        assert_eq!(data(&records), expected.map(|record| record.data().as_ref().to_vec()).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn an_answer_keeps_the_limit_and_the_next_one_goes_on_behind_it() {
    let contract = Contract::new("limit", 1).await;
    let entries = (0..25u8).map(|i| entry("k", &[i])).collect();
    contract.client.put_records().stream_name(&contract.stream).set_records(Some(entries)).send().await.expect("puts");
    let mut iterator = contract.iterator(SHARD, ShardIteratorType::TrimHorizon, None).await;
    let mut read = Vec::new();
    for expected in [10, 10, 5, 0] {
        let answer = contract.client.get_records().shard_iterator(iterator).limit(10).send().await.expect("reads");
        assert_eq!(answer.records().len(), expected);
        read.extend(data(answer.records()).concat());
        iterator = answer.next_shard_iterator().expect("goes on").to_owned();
    }
    assert_eq!(read, (0..25).collect::<Vec<u8>>());
}
