//! Goal: a pipeline over the Kinesis API makes the tables of a pipeline over the embedded stream, whatever the service does and
//! however often the program dies.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use sluicebox::run::block_on;
use sluicebox_actors::model::position::{Position, ShardId};
use sluicebox_actors::model::row::{ShardState, WindowStatus};
use sluicebox_actors::ports::Clock;
use sluicebox_aws::client::{self, ClientSettings};
use sluicebox_stream::api::{self, FaultKind, FaultPlan, FaultRule, Options, Server};

use super::support::process::Running;
use super::support::site::{LAST_US, Site, events, more};

mod denied;
mod forgotten;
mod packed;
mod reshard;

const EVENTS: u64 = 2_500;
/// Of a run that is watched while it works: its commits are waited for.
const OFTEN: &str = "commit.interval=500ms";

/// The moment at which the last event has arrived: the service has forgotten nothing, whatever year it is.
pub(crate) struct Then;

impl Clock for Then {
    fn now_us(&self) -> i64 {
        LAST_US
    }

    fn random(&self) -> u64 {
        0x5_1C_E0
    }
}

/// From that moment on, a fifth of a second later whenever anybody looks: subscriptions end while they are read.
struct Onwards(AtomicI64);

impl Clock for Onwards {
    fn now_us(&self) -> i64 {
        self.0.fetch_add(200_000, Ordering::Relaxed)
    }

    fn random(&self) -> u64 {
        Then.random()
    }
}

/// The Kinesis API on the stream of a site; its settings lead there.
pub(crate) fn served(site: Site) -> (Site, Server) {
    served_by(site, Arc::new(Then))
}

fn served_by(site: Site, clock: Arc<dyn Clock>) -> (Site, Server) {
    let server = Server::new(site.data().join("stream"), clock, Options::default()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("aws.endpoint=http://{}", listener.local_addr().unwrap());
    let serving = api::serve(listener, server.clone(), std::future::pending());
    // It ends with the test's process.
    std::thread::spawn(|| sluicebox::run::block_on(serving).unwrap().unwrap());
    // Five reads a second are a shard's limit, so a read is worth more records here.
    let site = ["stream.kind=kinesis", &endpoint, "limits.fetch_records=200", "limits.fetch=64KiB", "limits.in_flight=256KiB"]
        .into_iter()
        .fold(site, Site::set);
    (site.set("commit.size=64KiB"), server)
}

/// The SDK at an endpoint, as nobody of any account.
pub(crate) async fn sdk(endpoint: &str) -> aws_sdk_kinesis::Client {
    let (endpoint, region) = (Some(endpoint.to_owned()), Some("us-east-1".to_owned()));
    let config = client::load(&ClientSettings { endpoint, region, ..ClientSettings::default() }).await.unwrap();
    let keys = aws_sdk_kinesis::config::Credentials::new("none", "none", None, None, "test");
    let config = aws_sdk_kinesis::config::Builder::from(&config).credentials_provider(keys).build();
    aws_sdk_kinesis::Client::from_conf(config)
}

/// Demo events as Kinesis would stamp them: to the millisecond.
pub(crate) fn stamped() -> Site {
    let site = Site::empty();
    site.put(events(EVENTS).map(|(event, arrival_us)| (event, arrival_us / 1_000 * 1_000)));
    site
}

/// From now on every call about this shard (of this operation, where one is named) meets the fault, and no other call does.
fn always(server: &Server, operation: Option<&str>, shard: &ShardId, fault: FaultKind) {
    let operation = operation.map(str::to_owned);
    let shard = Some(shard.as_str().to_owned());
    let rule = FaultRule { operation, stream: None, shard, skip: 0, times: None, rate: None, fault };
    server.set_faults(FaultPlan { seed: 7, rules: vec![rule] }).unwrap();
}

/// No more faults.
fn lift(server: &Server) {
    server.set_faults(FaultPlan::default()).unwrap();
}

/// The number of calls of an operation so far.
fn calls(server: &Server, operation: &str) -> u64 {
    server.state()["calls"][operation].as_u64().unwrap_or(0)
}

/// A shard that takes records, by number.
fn shard(site: &Site, number: usize) -> ShardId {
    site.stream().shards_blocking().unwrap()[number].shard.clone()
}

/// Splits a shard of a site's stream in the middle.
fn halve(site: &Site, parent: &ShardId) -> Vec<ShardId> {
    let stream = site.stream();
    let info = stream.shards_blocking().unwrap().into_iter().find(|info| info.shard == *parent).unwrap();
    stream.split(parent, info.hash_start + (info.hash_end - info.hash_start) / 2).unwrap()
}

/// The number of the newest record of a shard.
fn newest(site: &Site, shard: &ShardId) -> Position {
    site.stream().end_blocking(shard).unwrap()
}

/// Where a shard stands; none before it has a row.
fn stands(site: &Site, shard: &ShardId) -> Option<(ShardState, Position)> {
    site.rows().into_iter().find(|row| row.shard == *shard).map(|row| (row.state, row.position))
}

/// Waits until all of these are committed to their end.
fn until_read(running: &mut Running, site: &Site, shards: &[ShardId]) {
    let at_end = |shard| stands(site, shard).is_some_and(|(_, position)| position == newest(site, shard));
    running.until("all records of some shards", || shards.iter().all(at_end).then_some(()));
}

/// Windows that the stream can no longer change, or that all shards have passed.
fn closed(site: &Site) -> usize {
    let Some(stores) = site.stores() else { return 0 };
    let tables = ["hourly_by_type", "hourly_total"].into_iter();
    let windows = tables.flat_map(|table| block_on(stores.rows.windows(table)).unwrap().unwrap());
    windows.filter(|window| window.status != WindowStatus::Open).count()
}

/// Stops a run that has read everything, and what is left for a later one is done.
fn end(running: Running, site: &Site) -> super::support::site::Evidence {
    running.terminate();
    running.end("a run that was told to stop").expect(0, "run");
    site.finish()
}

/// Two calls of an operation, after so many that go through.
fn rule(operation: &str, skip: u64, fault: FaultKind) -> FaultRule {
    FaultRule { operation: Some(operation.into()), stream: None, shard: None, skip, times: Some(2), rate: None, fault }
}

#[test]
fn a_service_that_throttles_repeats_forgets_and_breaks_off_changes_no_table_and_neither_do_crashes() {
    let local = stamped();
    let (site, server) = served(Site::with_stream_of(&local));
    let expected = local.finish();
    server
        .set_faults(FaultPlan {
            seed: 7,
            rules: vec![
                rule("GetRecords", 1, FaultKind::Throttle),
                rule("GetRecords", 4, FaultKind::DropReply),
                rule("GetRecords", 6, FaultKind::RepeatBatch),
                rule("GetRecords", 9, FaultKind::ExpireIterator),
                rule("GetShardIterator", 1, FaultKind::InternalFailure),
                rule("ListShards", 0, FaultKind::Throttle),
            ],
        })
        .unwrap();
    #[cfg(debug_assertions)]
    for point in ["commit.after_put:2", "commit.after_swap:2"] {
        site.crash(point);
    }
    site.finish().must_equal(&expected, "by way of Kinesis");
    let state = server.state();
    let struck: Vec<_> = state["rules"].as_array().unwrap().iter().map(|rule| rule["hit"].as_u64().unwrap()).collect();
    assert_eq!(struck, [2; 6], "every fault has struck as often as it was to");
}

#[test]
fn enhanced_fan_out_makes_the_same_tables_whatever_breaks_and_however_often_the_program_dies() {
    let local = stamped();
    let (site, server) = served_by(Site::with_stream_of(&local), Arc::new(Onwards(AtomicI64::new(LAST_US))));
    let expected = local.finish();
    server
        .set_faults(FaultPlan {
            seed: 7,
            rules: vec![
                rule("SubscribeToShard", 0, FaultKind::InternalFailure),
                rule("SubscribeToShard", 3, FaultKind::DropReply),
                rule("DescribeStreamConsumer", 0, FaultKind::Throttle),
            ],
        })
        .unwrap();
    let site = site.set("stream.fan_out=pipeline");
    #[cfg(debug_assertions)]
    site.crash("commit.after_swap:2");
    site.finish().must_equal(&expected, "by way of subscriptions");
    let state = server.state();
    let struck: Vec<_> = state["rules"].as_array().unwrap().iter().map(|rule| rule["hit"].as_u64().unwrap()).collect();
    assert_eq!(struck, [2; 3], "every fault has struck as often as it was to");
    assert_eq!(state["calls"]["RegisterStreamConsumer"], 1, "the second run finds the consumer");
}

#[test]
fn put_says_where_the_records_of_a_kinesis_stream_come_from() {
    let site = Site::empty().set("stream.kind=kinesis").set("aws.endpoint=http://127.0.0.1:9");
    let refused = site.ran(&["put", "-"]).expect(78, "put");
    assert!(refused.err.contains("aws kinesis put-records"), "{}", refused.err);
}
