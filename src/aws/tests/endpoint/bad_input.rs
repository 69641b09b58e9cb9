//! Goal: bad input gets the error AWS gives, and changes nothing.

use aws_sdk_kinesis::primitives::Blob;
use aws_sdk_kinesis::types::ShardIteratorType;

use super::differences::allowed;
use super::harness::{Contract, code, entry};

const SHARD: &str = "shardId-000000000000";

#[tokio::test]
async fn a_put_keeps_the_bounds_of_a_request() {
    let contract = Contract::new("bounds", 1).await;
    let put = |entries: Vec<_>| contract.client.put_records().stream_name(&contract.stream).set_records(Some(entries)).send();
    let large = vec![7u8; 1 << 20];
    allowed(&contract, "501 records", put(vec![entry("k", b"x"); 501]).await, "ValidationException");
    allowed(&contract, "no record", put(Vec::new()).await, "ValidationException");
    allowed(&contract, "no key", put(vec![entry("", b"x")]).await, "ValidationException");
    allowed(&contract, "long key", put(vec![entry(&"k".repeat(257), b"x")]).await, "ValidationException");
    allowed(&contract, "1 MiB and a key", put(vec![entry("k", &large)]).await, "InvalidArgumentException");
    if contract.ours.is_none() {
        return;
    }
    assert_eq!(contract.read_all(SHARD).await.len(), 0, "nothing of them is stored");
    let fits = put(vec![entry(&"ü".repeat(256), b""), entry("k", &large[1..])]).await.expect("puts");
    assert_eq!(fits.failed_record_count(), Some(0));
    assert_eq!(contract.read_all(SHARD).await.len(), 2);
}

#[tokio::test]
async fn a_hash_key_is_a_decimal_number_below_2_to_the_128() {
    let contract = Contract::new("hash-keys", 1).await;
    for (hash, expected) in [
        ("340282366920938463463374607431768211456", "InvalidArgumentException"),
        ("-1", "ValidationException"),
        ("0x10", "ValidationException"),
    ] {
        let put = contract.client.put_record().stream_name(&contract.stream).partition_key("k").data(Blob::new("x"));
        allowed(&contract, hash, put.explicit_hash_key(hash).send().await, expected);
    }
}

#[tokio::test]
async fn what_is_not_there_is_not_found() {
    let contract = Contract::new("not-there", 1).await;
    let client = &contract.client;
    let iterator = |stream: &str, shard: &str, kind| {
        client.get_shard_iterator().stream_name(stream).shard_id(shard).shard_iterator_type(kind).send()
    };
    let latest = ShardIteratorType::Latest;
    assert_eq!(code(iterator("nobody", SHARD, latest.clone()).await), "ResourceNotFoundException");
    assert_eq!(code(iterator(&contract.stream, "shardId-000000000009", latest).await), "ResourceNotFoundException");
    assert_eq!(code(client.list_shards().stream_name("nobody").send().await), "ResourceNotFoundException");
    let put = client.put_record().stream_name("nobody").partition_key("k").data(Blob::new("x"));
    assert_eq!(code(put.send().await), "ResourceNotFoundException");
}

#[tokio::test]
async fn a_foreign_iterator_or_number_is_refused() {
    let contract = Contract::new("foreign", 1).await;
    let (_, number) = contract.put("k", b"x").await;
    let client = &contract.client;
    allowed(&contract, "iterator", client.get_records().shard_iterator("AAAAgarbage").send().await, "InvalidArgumentException");
    let at = |number: String| {
        let get = client.get_shard_iterator().stream_name(&contract.stream).shard_id(SHARD);
        get.shard_iterator_type(ShardIteratorType::AfterSequenceNumber).starting_sequence_number(number).send()
    };
    allowed(&contract, "number not given yet", at(format!("{number}0")).await, "InvalidArgumentException");
    allowed(&contract, "not a number", at("x".to_owned()).await, "InvalidArgumentException");
    let token = client.list_shards().next_token("garbage").send().await;
    allowed(&contract, "token", token, "InvalidArgumentException");
    let iterator = contract.iterator(SHARD, ShardIteratorType::TrimHorizon, None).await;
    let many = client.get_records().shard_iterator(iterator).limit(10_001).send().await;
    allowed(&contract, "limit of 10,001", many, "ValidationException");
}
