//! Goal: a stream to test against: our server in this process with a clock of the test's, or the endpoint the environment names.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::config::retry::RetryConfig;
use aws_sdk_kinesis::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_kinesis::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_kinesis::primitives::Blob;
use aws_sdk_kinesis::types::{PutRecordsRequestEntry, Record, Shard, ShardIteratorType, StreamStatus};
use sluicebox_actors::ports::Clock;
use sluicebox_stream::api::{Limits, Options, Server, serve};

/// Where time begins, microseconds.
pub(crate) const BEGIN_US: i64 = 1_763_900_000_000_000;
pub(crate) const SECOND_US: i64 = 1_000_000;

/// Time that stands still until the test moves it, and names that do not repeat.
pub(crate) struct TestClock {
    now_us: AtomicI64,
    names: AtomicU64,
}

impl TestClock {
    pub(crate) fn advance(&self, micros: i64) {
        self.now_us.fetch_add(micros, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now_us(&self) -> i64 {
        self.now_us.load(Ordering::SeqCst)
    }

    fn random(&self) -> u64 {
        self.names.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::SeqCst)
    }
}

/// Our server.
pub(crate) struct Ours {
    pub(crate) server: Server,
    pub(crate) clock: Arc<TestClock>,
    pub(crate) url: String,
    pub(crate) client: Client,
    _dir: tempfile::TempDir,
}

/// Starts our server in this runtime; it ends with it.
pub(crate) fn ours(limits: Limits) -> Ours {
    let dir = tempfile::tempdir().expect("a directory");
    let clock = Arc::new(TestClock { now_us: AtomicI64::new(BEGIN_US), names: AtomicU64::new(1) });
    let options = Options { limits, faults: true };
    let server = Server::new(dir.path().to_owned(), clock.clone(), options).expect("a server");
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(serve(listener, server.clone(), std::future::pending()));
    let client = client(&url);
    Ours { server, clock, url, client, _dir: dir }
}

/// The SDK without its own retries: the contract is about single calls.
pub(crate) fn client(url: &str) -> Client {
    let config = aws_sdk_kinesis::Config::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new("test", "test", None, None, "test"))
        .retry_config(RetryConfig::disabled())
        .endpoint_url(url)
        .build();
    Client::from_conf(config)
}

/// A stream of its own for each test, wherever it is.
pub(crate) struct Contract {
    pub(crate) client: Client,
    pub(crate) stream: String,
    /// None = somebody else's endpoint.
    pub(crate) ours: Option<Ours>,
}

impl Contract {
    pub(crate) async fn new(stream: &str, shards: i32) -> Self {
        let contract = match std::env::var("SLUICEBOX_TEST_KINESIS_URL") {
            Ok(url) => {
                let stream = format!("{stream}-{}", std::process::id());
                Self { client: client(&url), stream, ours: None }
            }
            Err(_not_set) => {
                let ours = ours(Limits::none());
                Self { client: ours.client.clone(), stream: stream.to_owned(), ours: Some(ours) }
            }
        };
        contract.client.create_stream().stream_name(&contract.stream).shard_count(shards).send().await.expect("creates");
        contract.active().await;
        contract
    }

    /// Waits until a change is done; at most a thousand looks, each an answer of the endpoint.
    pub(crate) async fn active(&self) {
        for _ in 0..1000 {
            let answer = self.client.describe_stream_summary().stream_name(&self.stream).send().await.expect("describes");
            let summary = answer.stream_description_summary().expect("a summary");
            if *summary.stream_status() == StreamStatus::Active {
                return;
            }
        }
        panic!("stream {} did not become active", self.stream);
    }

    pub(crate) async fn shards(&self) -> Vec<Shard> {
        let answer = self.client.list_shards().stream_name(&self.stream).send().await.expect("lists");
        answer.shards().to_vec()
    }

    /// Puts one record; its shard and sequence number.
    pub(crate) async fn put(&self, key: &str, data: &[u8]) -> (String, String) {
        let put = self.client.put_record().stream_name(&self.stream).partition_key(key).data(Blob::new(data));
        let answer = put.send().await.expect("puts");
        (answer.shard_id().to_owned(), answer.sequence_number().to_owned())
    }

    pub(crate) async fn iterator(&self, shard: &str, kind: ShardIteratorType, sequence: Option<&str>) -> String {
        let get = self.client.get_shard_iterator().stream_name(&self.stream).shard_id(shard).shard_iterator_type(kind);
        let answer = get.set_starting_sequence_number(sequence.map(str::to_owned)).send().await.expect("an iterator");
        answer.shard_iterator().expect("an iterator").to_owned()
    }

    /// Everything of a shard from an iterator on: to its end, or until the endpoint says that nothing is left.
    pub(crate) async fn read(&self, iterator: String) -> (Vec<Record>, Option<String>) {
        let mut iterator = Some(iterator);
        let mut records = Vec::new();
        for _ in 0..1000 {
            let Some(at) = &iterator else { break };
            let answer = self.client.get_records().shard_iterator(at).send().await.expect("reads");
            let caught_up = answer.records().is_empty() && answer.millis_behind_latest() == Some(0);
            records.extend_from_slice(answer.records());
            iterator = answer.next_shard_iterator().map(str::to_owned);
            if caught_up && iterator.is_some() {
                break;
            }
        }
        (records, iterator)
    }

    pub(crate) async fn read_all(&self, shard: &str) -> Vec<Record> {
        let iterator = self.iterator(shard, ShardIteratorType::TrimHorizon, None).await;
        self.read(iterator).await.0
    }
}

/// A record to put.
pub(crate) fn entry(key: &str, data: &[u8]) -> PutRecordsRequestEntry {
    PutRecordsRequestEntry::builder().partition_key(key).data(Blob::new(data)).build().expect("complete")
}

/// What the service calls the error.
pub(crate) fn code<E: ProvideErrorMetadata + std::fmt::Debug, T: std::fmt::Debug>(
    answer: Result<T, SdkError<E, impl std::fmt::Debug>>,
) -> String {
    let error = answer.expect_err("refused");
    error.code().map_or_else(|| format!("{error:?}"), str::to_owned)
}
