//! Goal: with AWS's limits on, a shard gives and takes what AWS's does, and says so when asked for more.

use aws_sdk_kinesis::types::ShardIteratorType;
use sluicebox_stream::api::Limits;

use super::harness::{Contract, SECOND_US, code, entry, ours};

const SHARD: &str = "shardId-000000000000";

async fn limited(shards: i32) -> Contract {
    let ours = ours(Limits::aws());
    ours.client.create_stream().stream_name("s").shard_count(shards).send().await.expect("creates");
    Contract { client: ours.client.clone(), stream: "s".to_owned(), ours: Some(ours) }
}

#[tokio::test]
async fn five_reads_a_second_and_shard() {
    let contract = limited(2).await;
    let other = contract.iterator("shardId-000000000001", ShardIteratorType::TrimHorizon, None).await;
    let iterator = contract.iterator(SHARD, ShardIteratorType::TrimHorizon, None).await;
    let read = || contract.client.get_records().shard_iterator(&iterator).send();
    for _ in 0..5 {
        read().await.expect("reads");
    }
    assert_eq!(code(read().await), "ProvisionedThroughputExceededException");
    contract.client.get_records().shard_iterator(other).send().await.expect("another shard");
    contract.ours.as_ref().expect("ours").clock.advance(SECOND_US);
    read().await.expect("a second later");
}

#[tokio::test]
async fn a_thousand_records_a_second_go_into_a_shard_and_the_others_are_named() {
    let contract = limited(1).await;
    let put = |entries: usize| {
        let entries = (0..entries).map(|_| entry("k", b"x")).collect();
        contract.client.put_records().stream_name("s").set_records(Some(entries)).send()
    };
    for (entries, failed) in [(500, 0), (400, 0), (500, 400), (1, 1)] {
        let answer = put(entries).await.expect("answers");
        assert_eq!(answer.failed_record_count(), Some(failed));
        let codes = answer.records().iter().filter_map(|record| record.error_code());
        assert!(codes.clone().all(|code| code == "ProvisionedThroughputExceededException"));
        assert_eq!(codes.count(), failed as usize);
        let stored = answer.records().iter().filter(|record| record.sequence_number().is_some()).count();
        assert_eq!(stored, entries - failed as usize);
    }
    let one = contract.client.put_record().stream_name("s").partition_key("k");
    let one = one.data(aws_sdk_kinesis::primitives::Blob::new("x")).send().await;
    assert_eq!(code(one), "ProvisionedThroughputExceededException");
    contract.ours.as_ref().expect("ours").clock.advance(SECOND_US);
    assert_eq!(put(500).await.expect("puts").failed_record_count(), Some(0));
    assert_eq!(contract.read_all(SHARD).await.len(), 1500, "what failed is not stored");
}
