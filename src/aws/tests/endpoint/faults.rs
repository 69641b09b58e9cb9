//! Goal: the fault plan does what it says, to the calls it names, and counts it.

use aws_sdk_kinesis::error::SdkError;
use aws_sdk_kinesis::primitives::Blob;
use aws_sdk_kinesis::types::ShardIteratorType;
use sluicebox_stream::api::{FaultKind, FaultPlan, FaultRule, Limits};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::harness::{Contract, code, entry, ours};

const SHARD: &str = "shardId-000000000000";

async fn contract() -> Contract {
    let ours = ours(Limits::none());
    ours.client.create_stream().stream_name("s").shard_count(2).send().await.expect("creates");
    Contract { client: ours.client.clone(), stream: "s".to_owned(), ours: Some(ours) }
}

/// The next so many calls of an operation meet this fault.
fn plan(contract: &Contract, operation: &str, shard: Option<&str>, times: u64, fault: FaultKind) {
    let rule = FaultRule {
        operation: Some(operation.to_owned()),
        stream: Some("s".to_owned()),
        shard: shard.map(str::to_owned),
        skip: 0,
        times: Some(times),
        rate: None,
        fault,
    };
    let ours = contract.ours.as_ref().expect("ours");
    ours.server.set_faults(FaultPlan { seed: 1, rules: vec![rule] }).expect("a plan");
}

fn injected(contract: &Contract, kind: &str) -> u64 {
    contract.ours.as_ref().expect("ours").server.state()["injected"][kind].as_u64().unwrap_or(0)
}

/// One record into the first shard.
async fn put(contract: &Contract, data: &[u8]) -> Result<(), String> {
    let put = contract.client.put_record().stream_name("s").partition_key("k").explicit_hash_key("0").data(Blob::new(data));
    match put.send().await {
        Ok(_) => Ok(()),
        Err(SdkError::ServiceError(error)) => Err(format!("{:?}", error.err())),
        Err(broken) => Err(format!("broken: {broken:?}")),
    }
}

#[tokio::test]
async fn errors_hit_the_calls_and_the_shard_named() {
    let contract = contract().await;
    let mine = contract.iterator(SHARD, ShardIteratorType::TrimHorizon, None).await;
    let other = contract.iterator("shardId-000000000001", ShardIteratorType::TrimHorizon, None).await;
    let read = |iterator: &str| contract.client.get_records().shard_iterator(iterator).send();
    for (fault, expected) in [
        (FaultKind::Throttle, "ProvisionedThroughputExceededException"),
        (FaultKind::InternalFailure, "InternalFailure"),
        (FaultKind::ExpireIterator, "ExpiredIteratorException"),
        (FaultKind::NotFound, "ResourceNotFoundException"),
        (FaultKind::Error { code: "KMSThrottlingException".to_owned(), status: 400 }, "KMSThrottlingException"),
    ] {
        plan(&contract, "GetRecords", Some(SHARD), 2, fault);
        read(&other).await.expect("another shard");
        assert_eq!(code(read(&mine).await), expected);
        assert_eq!(code(read(&mine).await), expected);
        read(&mine).await.expect("the third");
    }
    assert_eq!(injected(&contract, "throttle"), 2);
}

#[tokio::test]
async fn single_records_of_a_put_fail_and_are_not_stored() {
    let contract = contract().await;
    plan(&contract, "PutRecords", None, 1, FaultKind::FailRecords { at: vec![1, 3], share: 0.0, throttle: false });
    let entries = (0..5u8).map(|i| entry("k", &[i])).collect();
    let answer = contract.client.put_records().stream_name("s").set_records(Some(entries)).send().await.expect("answers");
    assert_eq!(answer.failed_record_count(), Some(2));
    let failed: Vec<_> = answer.records().iter().map(|record| record.error_code()).collect();
    let code = Some("InternalFailure");
    assert_eq!(failed, [None, code, None, code, None]);
    let shard = answer.records()[0].shard_id().expect("stored").to_owned();
    let data: Vec<u8> = contract.read_all(&shard).await.iter().map(|record| record.data().as_ref()[0]).collect();
    assert_eq!(data, [0, 2, 4]);
    assert_eq!(injected(&contract, "failed_records"), 2);
}

#[tokio::test]
async fn a_dropped_request_has_no_effect_and_a_dropped_reply_has_one() {
    let contract = contract().await;
    for (fault, stored) in [(FaultKind::DropRequest, 0), (FaultKind::DropReply, 1)] {
        plan(&contract, "PutRecord", None, 1, fault);
        let broken = put(&contract, b"x").await.expect_err("no answer");
        assert!(broken.starts_with("broken: "), "{broken}");
        assert_eq!(contract.read_all(SHARD).await.len(), stored);
    }
    plan(&contract, "ListShards", None, 1, FaultKind::DropReply);
    let headers = "content-type: application/x-amz-json-1.1\r\nx-amz-target: Kinesis_20131202.ListShards\r\n";
    assert_eq!(raw(&contract, &post("/", headers, r#"{"StreamName":"s"}"#)).await, "", "not even a status");
    put(&contract, b"y").await.expect("the next connection is whole");
}

#[tokio::test]
async fn a_batch_comes_twice() {
    let contract = contract().await;
    put(&contract, b"a").await.expect("puts");
    put(&contract, b"b").await.expect("puts");
    plan(&contract, "GetRecords", Some(SHARD), 1, FaultKind::RepeatBatch);
    let mut iterator = contract.iterator(SHARD, ShardIteratorType::TrimHorizon, None).await;
    for expected in [2, 2, 0] {
        let answer = contract.client.get_records().shard_iterator(&iterator).send().await.expect("reads");
        assert_eq!(answer.records().len(), expected);
        iterator = answer.next_shard_iterator().expect("goes on").to_owned();
    }
}

#[tokio::test]
async fn a_shard_is_hidden_and_a_stream_is_emptied() {
    let contract = contract().await;
    plan(&contract, "ListShards", Some(SHARD), 1, FaultKind::HideShard);
    assert_eq!(contract.shards().await.len(), 1);
    assert_eq!(contract.shards().await.len(), 2);
    put(&contract, b"a").await.expect("puts");
    let iterator = contract.iterator(SHARD, ShardIteratorType::TrimHorizon, None).await;
    plan(&contract, "GetRecords", Some(SHARD), 1, FaultKind::TrimNow);
    let (records, next) = contract.read(iterator).await;
    assert_eq!(records.len(), 0);
    put(&contract, b"b").await.expect("puts");
    assert_eq!(contract.read(next.expect("goes on")).await.0.len(), 1, "what came after the trim");
}

#[tokio::test]
async fn a_delay_delays() {
    let contract = contract().await;
    plan(&contract, "ListShards", None, 1, FaultKind::Delay { millis: 600_000 });
    let delayed = contract.client.list_shards().stream_name("s").send();
    let other = contract.client.describe_stream_summary().stream_name("s").send();
    tokio::select! {
        biased;
        answer = async { tokio::join!(delayed, std::future::pending::<()>()) } => panic!("{answer:?}"),
        () = async {
            // Other calls are answered while it waits; which one the plan meant is counted once it has arrived.
            other.await.expect("answers");
            while injected(&contract, "delay") == 0 {
                tokio::task::yield_now().await;
            }
        } => {}
    }
}

async fn raw(contract: &Contract, request: &str) -> String {
    let address = contract.ours.as_ref().expect("ours").url.trim_start_matches("http://").to_owned();
    let mut connection = TcpStream::connect(address).await.expect("connects");
    connection.write_all(request.as_bytes()).await.expect("writes");
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer).await.expect("reads");
    String::from_utf8(answer).expect("text")
}

fn post(path: &str, headers: &str, body: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}content-length: {}\r\n\r\n{body}", body.len())
}

#[tokio::test]
async fn the_plan_is_set_and_the_counts_are_read_over_http() {
    let contract = contract().await;
    let body = r#"{"rules":[{"operation":"ListShards","times":1,"fault":{"kind":"throttle"}}]}"#;
    let answer = raw(&contract, &post("/__fault", "", body)).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(code(contract.client.list_shards().stream_name("s").send().await), "LimitExceededException");
    let state = raw(&contract, "GET /__state HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    let (_, state) = state.split_once("\r\n\r\n").expect("a body");
    let state: serde_json::Value = serde_json::from_str(state).expect("JSON");
    assert_eq!((&state["injected"]["throttle"], &state["calls"]["ListShards"]), (&1.into(), &1.into()));
    let refused = raw(&contract, &post("/__fault", "", r#"{"rules":[{"fault":{"kind":"explode"}}]}"#)).await;
    assert!(refused.starts_with("HTTP/1.1 400"), "{refused}");
}

#[tokio::test]
async fn requests_of_another_form_are_refused_in_awss_shape() {
    let contract = contract().await;
    let target = |operation: &str| format!("x-amz-target: Kinesis_20131202.{operation}\r\n");
    let json = "content-type: application/x-amz-json-1.1\r\n";
    for (headers, body, expected) in [
        (format!("{}content-type: application/x-amz-cbor-1.1\r\n", target("ListShards")), "", "SerializationException"),
        (format!("{}{json}", target("ListShards")), "{", "SerializationException"),
        (format!("{}{json}", target("ListShards")), r#"{"MaxResults":"x"}"#, "ValidationException"),
        (
            format!("{}{json}", target("PutRecord")),
            r#"{"StreamName":"s","PartitionKey":"k","Data":"*"}"#,
            "SerializationException",
        ),
        (format!("{}{json}", target("StartStreamEncryption")), "{}", "UnknownOperationException"),
        (json.to_owned(), "{}", "UnknownOperationException"),
    ] {
        let answer = raw(&contract, &post("/", &headers, body)).await;
        let (head, answer) = answer.split_once("\r\n\r\n").expect("a body");
        assert!(head.starts_with("HTTP/1.1 400"), "{head}");
        assert!(head.contains("x-amzn-requestid: ") && head.contains("content-type: application/x-amz-json-1.1"), "{head}");
        assert!(head.contains("date: Sun, 23 Nov 2025 12:13:20 GMT"), "the server's clock: {head}");
        let answer: serde_json::Value = serde_json::from_str(answer).expect("JSON");
        assert_eq!(answer["__type"], expected);
        assert!(answer["message"].as_str().is_some_and(|message| !message.is_empty()));
    }
}
