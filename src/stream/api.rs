//! The Kinesis JSON API on embedded streams, so that the AWS CLI, any SDK, agent or the KCL can use a laptop.
//!
//! Requests are `POST /` with `X-Amz-Target: Kinesis_20131202.<Operation>` and `application/x-amz-json-1.1`. Signatures are not
//! checked and accounts not told apart: listen on the loopback interface only. Differences from AWS that a client can see:
//!
//! - Sequence numbers are dense decimal numbers per shard, from 1 on, and not 56 digits.
//! - CBOR is refused: a Java SDK wants the system property `aws.cborEnabled=false`.
//! - Streams and consumers are ACTIVE at once, and a reshard is done when its call returns.
//! - The ARN's region and account are always us-east-1 and 000000000000.
//! - There are no limits unless [`Limits::aws`] asks for them; then those of a shard's throughput.
//!
//! Owns: the server, what its requests share, its life. Does not own: operations (the modules beside), records (embedded).

mod consumers;
mod error;
mod fault;
mod frame;
mod get;
mod http;
mod limits;
mod list;
mod manage;
mod put;
mod streams;
mod subscribe;
mod token;
mod wire;

use std::future::Future;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::serve::ListenerExt;
use sluicebox_actors::model::fault::{Fault, Kind, Result};
use sluicebox_actors::ports::Clock;
use tokio::sync::watch;

use crate::database::lock;

use error::{Answer, ApiError};
use fault::{Decision, Faults};
use streams::Streams;
use wire::Request;

pub use fault::{FaultKind, FaultPlan, FaultRule};
pub use limits::Limits;

// How often retention is looked after.
const SWEEP: Duration = Duration::from_secs(60);

/// How a server behaves.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// What a shard allows per second.
    pub limits: Limits,
    /// Whether `POST /__fault` and `GET /__state` are there.
    pub faults: bool,
}

/// The API over all streams under one directory. Clones are the same server.
#[derive(Clone)]
pub struct Server(Arc<Shared>);

/// What all requests share.
struct Shared {
    streams: Streams,
    clock: Arc<dyn Clock>,
    limits: Limits,
    faults: Mutex<Faults>,
    faults_allowed: bool,
    closing: watch::Sender<bool>,
}

impl Server {
    /// A server of the streams under this directory, which is made if it is not there. Time is this clock's: arrival, expiry of
    /// iterators, retention, the `Date` of answers.
    pub fn new(root: PathBuf, clock: Arc<dyn Clock>, options: Options) -> Result<Self> {
        std::fs::create_dir_all(&root).map_err(|error| crate::database::io_fault(&error, "create", &root))?;
        Ok(Self(Arc::new(Shared {
            streams: Streams::new(root, clock.clone()),
            clock,
            limits: options.limits,
            faults: Mutex::default(),
            faults_allowed: options.faults,
            closing: watch::Sender::new(false),
        })))
    }

    /// Forgets what is older than each stream's retention period; the number of records forgotten. [`serve`] calls it once a
    /// minute.
    pub async fn sweep(&self) -> Result<u64> {
        let shared = self.0.clone();
        blocking(move || shared.sweep()).await.map_err(|error| Fault::retry(format!("retention: {}", error.message)))
    }

    /// Replaces the fault plan, as `POST /__fault` does.
    pub fn set_faults(&self, plan: FaultPlan) -> Result<()> {
        lock(&self.0.faults).set(plan)
    }

    /// Calls, faults and the plan, as `GET /__state` gives them.
    pub fn state(&self) -> serde_json::Value {
        lock(&self.0.faults).state()
    }
}

/// Serves until `shutdown` is ready and the requests under way are answered; subscriptions end at once. Which address is the
/// caller's choice: anything but loopback lets strangers in.
pub async fn serve(
    listener: std::net::TcpListener,
    server: Server,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<()> {
    let failed = |error: std::io::Error| Fault::caused(Kind::Retry, "serving the Kinesis API", &error);
    listener.set_nonblocking(true).map_err(failed)?;
    let listener = tokio::net::TcpListener::from_std(listener).map_err(failed)?.tap_io(|connection| {
        // Answers are written whole; waiting for more to send only adds 40 ms.
        if let Err(error) = connection.set_nodelay(true) {
            tracing::debug!(%error, "a connection of the Kinesis endpoint keeps its delay");
        }
    });
    let closing = server.0.clone();
    let stopped = async move {
        shutdown.await;
        closing.closing.send_replace(true);
    };
    let serving = axum::serve(listener, http::router(server.0.clone())).with_graceful_shutdown(stopped);
    let sweeping = async {
        let mut every = tokio::time::interval(SWEEP);
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            every.tick().await;
            if let Err(fault) = server.sweep().await {
                tracing::warn!(%fault, "the Kinesis endpoint could not trim: it tries again in a minute");
            }
        }
    };
    tokio::select! {
        served = serving => served.map_err(failed),
        () = sweeping => Ok(()),
    }
}

impl Shared {
    fn sweep(&self) -> Answer<u64> {
        let mut forgotten = 0;
        for name in self.streams.names()? {
            let entry = self.streams.get(&name)?;
            let before_us = self.clock.now_us() - i64::from(entry.notes().retention_hours) * 3_600_000_000;
            forgotten += entry.trim(before_us)?;
        }
        Ok(forgotten)
    }

    /// Which records of a put the plan fails.
    fn fails(&self, decision: &Decision, records: usize) -> Vec<Option<&'static str>> {
        match &decision.fail_records {
            Some(share) => lock(&self.faults).fails(share, records),
            None => vec![None; records],
        }
    }

    /// Answers one request, blocking.
    fn answer(&self, operation: &str, body: &[u8], decision: &Decision) -> Answer<Vec<u8>> {
        match operation {
            "PutRecords" => return put::put_records(self, body, decision),
            "PutRecord" => return put::put_record(self, body),
            _ => {}
        }
        let request: Request = serde_json::from_slice(body)?;
        match operation {
            "GetRecords" => get::get_records(self, &request, decision),
            "GetShardIterator" => get::get_shard_iterator(self, &request),
            "ListShards" => list::list_shards(self, &request, decision),
            "DescribeStream" => list::describe_stream(self, &request, decision),
            "DescribeStreamSummary" => list::describe_stream_summary(self, &request),
            "ListStreams" => list::list_streams(self, &request),
            "CreateStream" => manage::create_stream(self, &request),
            "DeleteStream" => manage::delete_stream(self, &request),
            "SplitShard" => manage::split_shard(self, &request),
            "MergeShards" => manage::merge_shards(self, &request),
            "UpdateShardCount" => manage::update_shard_count(self, &request),
            "IncreaseStreamRetentionPeriod" => manage::change_retention(self, &request, true),
            "DecreaseStreamRetentionPeriod" => manage::change_retention(self, &request, false),
            "UpdateMaxRecordSize" => manage::update_max_record_size(self, &request),
            "DescribeLimits" => manage::describe_limits(self),
            "RegisterStreamConsumer" => consumers::register(self, &request),
            "DescribeStreamConsumer" => consumers::describe(self, &request),
            "DeregisterStreamConsumer" => consumers::deregister(self, &request),
            "ListStreamConsumers" => consumers::list(self, &request),
            _ => Err(ApiError::new("UnknownOperationException", 400, "this endpoint does not have the operation")),
        }
    }
}

/// Runs what waits for the disk on a thread that may.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Answer<T> + Send + 'static) -> Answer<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(answer) => answer,
        Err(error) => Err(ApiError::internal(format!("a request ended abnormally: {error}"))),
    }
}
