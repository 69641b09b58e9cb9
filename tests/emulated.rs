//! Goal: the whole program, as a worker of a fleet, over somebody else's Kinesis, DynamoDB and S3 makes the Gold of a pipeline on
//! a laptop. Only where emulators are named: see CONTRIBUTING, "Against emulators".

use std::io::{Read, Write};
use std::net::TcpStream;

use aws_sdk_kinesis::primitives::Blob;
use aws_sdk_kinesis::types::{PutRecordsRequestEntry, StreamStatus};

use super::kinesis::sdk;
use super::support::process::until;
use super::support::site::{LAST_US, Site, events};

const EVENTS: u64 = 2_500;
/// Months after they happened: nothing lies in the future, and nothing is too late, whichever shard a record is in.
const ARRIVED_US: i64 = LAST_US + 200 * 86_400_000_000;
const PATIENT: [&str; 2] = ["gold.hourly_by_type.window.allowed_lateness=400d", "gold.hourly_total.window.allowed_lateness=400d"];
/// What must be the same wherever records lie.
const GOLD: &str =
    "SELECT \"table\", window_start, rows, on_time + late AS taken, too_late, sha256 FROM gold_windows ORDER BY 1, 2";
const COUNTS: &str = "SELECT (SELECT count(*) FROM bronze) AS bronze, (SELECT count(*) FROM silver) AS silver, \
     (SELECT count(*) FROM dlq) AS letters";

fn named(service: &str) -> Option<String> {
    let name = format!("SLUICEBOX_TEST_{service}_URL");
    let url = std::env::var(&name).ok();
    if url.is_none() {
        println!("{name} names no emulator: see CONTRIBUTING.md");
    }
    url
}

/// A stream of three shards with all events in it.
async fn fill(url: &str, stream: &str) {
    let client = sdk(url).await;
    client.create_stream().stream_name(stream).shard_count(3).send().await.unwrap();
    for look in 0.. {
        let said = client.describe_stream_summary().stream_name(stream).send().await.unwrap();
        if said.stream_description_summary().is_some_and(|summary| *summary.stream_status() == StreamStatus::Active) {
            break;
        }
        assert!(look < 1_000, "{stream} does not become active");
    }
    let entry = |(event, number): (bytes::Bytes, usize)| {
        let entry = PutRecordsRequestEntry::builder().data(Blob::new(event.to_vec())).partition_key(format!("k{number}"));
        entry.build().unwrap()
    };
    let entries: Vec<_> = events(EVENTS).map(|(event, _)| event).zip(0..).map(entry).collect();
    for some in entries.chunks(250) {
        let put = client.put_records().stream_name(stream).set_records(Some(some.to_vec())).send().await.unwrap();
        assert_eq!(put.failed_record_count(), Some(0));
    }
}

fn make_bucket(url: &str, bucket: &str) {
    let address = url.trim_start_matches("http://").trim_end_matches('/');
    let mut connection = TcpStream::connect(address).unwrap();
    let scope = "Credential=none/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=00";
    let head = format!(
        "PUT /{bucket} HTTP/1.1\r\nhost: {address}\r\nauthorization: AWS4-HMAC-SHA256 {scope}\r\ncontent-length: 0\r\n\
         connection: close\r\n\r\n"
    );
    connection.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[test]
fn workers_on_emulators_make_the_gold_of_a_laptop_though_one_is_killed() {
    let (Some(kinesis), Some(dynamo), Some(s3)) = (named("KINESIS"), named("DYNAMODB"), named("S3")) else { return };
    let local = PATIENT.into_iter().fold(Site::empty(), Site::set);
    local.put(events(EVENTS).map(|(event, _)| (event, ARRIVED_US)));
    local.drain();
    let name = format!("emulated-{}", std::process::id());
    sluicebox::run::block_on(fill(&kinesis, &name)).unwrap();
    make_bucket(&s3, &name);
    let worker = || {
        let settings = [
            "stream.kind=kinesis",
            &format!("stream.name={name}"),
            "store.kind=aws",
            &format!("store.bucket={name}"),
            &format!("store.table={name}"),
            "store.create_table=true",
            "store.failover=6s",
            "limits.fetch_records=100",
        ];
        settings
            .into_iter()
            .chain(PATIENT)
            .fold(Site::empty(), Site::set)
            .env("AWS_ENDPOINT_URL_KINESIS", &kinesis)
            .env("AWS_ENDPOINT_URL_S3", &s3)
            .env("AWS_ENDPOINT_URL_DYNAMODB", &dynamo)
    };
    let first = worker();
    let running = first.start("log", &["run"]);
    let looker = worker();
    until("epochs of the first worker", || {
        let out = looker.ran(&["shards", "--format", "json"]).out;
        let epochs = out.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok()?["epoch"].as_u64());
        (epochs.sum::<u64>() > 5).then_some(())
    });
    running.kill();
    worker().drain();
    looker.ran(&["audit"]).expect(0, "audit");
    for sql in [GOLD, COUNTS] {
        assert_eq!(looker.answers(sql), local.answers(sql));
    }
}
