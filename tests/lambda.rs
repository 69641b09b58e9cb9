//! Goal: the program as Lambda starts it makes the tables of a quiet run, whatever comes again and however often it dies.

mod runtime_api;
mod told;

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use runtime_api::{Caller, Reply};
use serde_json::{Value, json};
use sluicebox_actors::model::position::{Sequence, ShardId};
use sluicebox_actors::model::record::RawRecord;
use sluicebox_aws::kinesis::api::{Api, Begin};
use sluicebox_aws::kinesis::sdk::SdkApi;

use super::kinesis::{sdk, served};
use super::support::process::Running;
use super::support::site::{Site, events};

/// Where each process dies: in every step of an invocation, and of what the next one does about it.
const DEATHS: [&str; 8] = [
    "commit.before_put:2",
    "commit.after_put:3",
    "commit.after_swap:2",
    "commit.after_publish:4",
    "takeover.after_lease:3",
    "takeover.after_publish:2",
    "takeover.after_discard:5",
    "shard.dispatch:9",
];
const EVENTS: u64 = 2_500;
const BATCH: usize = 60;
/// Far beyond what an invocation takes here.
const TIMEOUT: Duration = Duration::from_secs(120);
const TICKS_MAX: usize = 10;

/// An event source mapping, and the sandbox it invokes.
struct Mapping<'a> {
    site: &'a Site,
    api: SdkApi,
    /// Connections live as long as the runtime they were made on.
    runtime: tokio::runtime::Runtime,
    caller: Caller,
    sandbox: Option<Running>,
    sandboxes: usize,
    /// Per shard: the last record that is acknowledged, and whether there are no more.
    done: BTreeMap<ShardId, (Option<Sequence>, bool)>,
    failures: usize,
}

impl<'a> Mapping<'a> {
    fn new(site: &'a Site, caller: Caller) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let api = SdkApi::new(runtime.block_on(sdk(site.setting("aws.endpoint"))), "events");
        Self { site, api, runtime, caller, sandbox: None, sandboxes: 0, done: BTreeMap::new(), failures: 0 }
    }

    /// The next records of a shard, and whether it ends behind them.
    fn poll(&self, shard: &ShardId, after: Option<Sequence>, limit: usize) -> (Vec<RawRecord>, bool) {
        let begin = after.map_or(Begin::Horizon, Begin::After);
        let answer = self.runtime.block_on(async {
            let iterator = self.api.iterator(shard, begin).await?;
            self.api.records(&iterator, limit).await
        });
        let batch = answer.unwrap();
        (batch.records, batch.next.is_none())
    }

    /// One round over all shards, parents first: is nothing left?
    fn round(&mut self) -> bool {
        let listed = self.runtime.block_on(self.api.list_shards(None)).unwrap().shards;
        let mut quiet = true;
        for info in &listed {
            let is_done = |parent: &ShardId| self.done.get(parent).is_some_and(|(_, ended)| *ended);
            let waits = info.parents.iter().any(|parent| listed.iter().any(|other| other.shard == *parent) && !is_done(parent));
            let (after, ended) = self.done.get(&info.shard).copied().unwrap_or_default();
            if waits || ended {
                quiet &= ended;
                continue;
            }
            let (records, ends) = self.poll(&info.shard, after, BATCH);
            if records.is_empty() {
                self.done.insert(info.shard.clone(), (after, ends));
                quiet &= !ends;
                continue;
            }
            quiet = false;
            let done = self.hand_over(&info.shard, &records);
            // Every other batch comes once more, with what was before it and behind it.
            if done > 0 && self.sandboxes.is_multiple_of(2) {
                let (more, _) = self.poll(&info.shard, after, BATCH + 7);
                self.hand_over(&info.shard, &more[..more.len().min(done + 3)]);
            }
            let after = done.checked_sub(1).map_or(after, |last| Some(records[last].sequence));
            self.done.insert(info.shard.clone(), (after, false));
        }
        quiet
    }

    /// A batch until something of it is done, by halves after errors; so many records are done.
    fn hand_over(&mut self, shard: &ShardId, records: &[RawRecord]) -> usize {
        let mut size = records.len();
        for _ in 0..20 {
            let batch = &records[..size];
            let Some(answer) = self.invoke(&event(shard, batch)) else {
                size = size.div_ceil(2);
                continue;
            };
            let failures = answer["batchItemFailures"].as_array().unwrap();
            let lowest = failures.iter().map(|failure| failure["itemIdentifier"].as_str().unwrap().parse().unwrap()).min();
            let first = |lowest: Sequence| batch.iter().position(|record| record.sequence == lowest).unwrap();
            match lowest.map_or(size, first) {
                0 => {}
                done => return done,
            }
        }
        panic!("a batch of {shard} is never done:\n{}", self.sandbox.as_ref().map(Running::said).unwrap_or_default());
    }

    /// None when there is no answer but an error, or death.
    fn invoke(&mut self, event: &Value) -> Option<Value> {
        if self.sandbox.is_none() {
            let death = DEATHS.get(self.sandboxes);
            self.sandbox = Some(bootstrap(self.site, self.caller.address(), death.copied(), self.sandboxes));
            self.sandboxes += 1;
        }
        let reply = self.caller.invoke(event, TIMEOUT);
        loop {
            match reply.recv_timeout(Duration::from_millis(20)) {
                Ok(Reply::Answer(answer)) => return Some(answer),
                Ok(Reply::Error(_)) => break,
                Err(RecvTimeoutError::Timeout) if self.sandbox.as_mut().is_some_and(|sandbox| !sandbox.has_ended()) => {}
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    self.sandbox = None;
                    break;
                }
            }
        }
        self.failures += 1;
        None
    }

    /// Until one finds nothing to do.
    fn ticks(&mut self) {
        for _ in 0..TICKS_MAX {
            let ticked = self.invoke(&json!({ "detail-type": "Scheduled Event", "source": "aws.events" })).unwrap();
            assert_eq!((&ticked["faults"], &ticked["gold"]), (&json!([]), &Value::Null), "{ticked}");
            let idle = ["settled", "drained", "moved"].iter().all(|what| ticked[what] == json!([]));
            if idle && ticked["busy"] == json!([]) && ticked["outOfTime"] == json!(false) {
                return;
            }
        }
        panic!("{TICKS_MAX} ticks still find something to do");
    }
}

fn event(shard: &ShardId, records: &[RawRecord]) -> Value {
    let item = |record: &RawRecord| {
        json!({
            "kinesis": {
                "kinesisSchemaVersion": "1.0", "partitionKey": record.partition_key_str(),
                "sequenceNumber": record.sequence.to_string(), "data": STANDARD.encode(&record.data),
                "approximateArrivalTimestamp": record.arrival_us as f64 / 1e6
            },
            "eventSource": "aws:kinesis", "eventID": format!("{shard}:{}", record.sequence), "eventName": "aws:kinesis:record",
            "eventSourceARN": "arn:aws:kinesis:us-east-1:000000000000:stream/events", "awsRegion": "us-east-1"
        })
    };
    json!({ "Records": records.iter().map(item).collect::<Vec<_>>() })
}

/// The program under the name by which Lambda starts it: no argument, everything from the environment.
fn sandbox(site: &Site, runtime_api: &str) -> Command {
    let mut command = super::support::process::program(site.folder());
    command.arg0(site.folder().join("bootstrap"));
    command.env("SLUICEBOX_DATA", "data").envs(site.variables());
    let names = ["FUNCTION_NAME", "FUNCTION_VERSION", "LOG_GROUP_NAME", "LOG_STREAM_NAME"];
    command.envs(names.map(|name| (format!("AWS_LAMBDA_{name}"), "f")));
    command.env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "1024").env("AWS_LAMBDA_RUNTIME_API", runtime_api);
    command
}

fn bootstrap(site: &Site, runtime_api: &str, death: Option<&str>, number: usize) -> Running {
    let mut command = sandbox(site, runtime_api);
    if let Some(death) = death {
        command.env("SLUICEBOX_CRASH", death);
    }
    Running::start(command, site.folder().join(format!("bootstrap-{number}.log")))
}

fn by_way_of(caller: Caller) {
    let local = Site::empty();
    // As Kinesis would stamp them: to the millisecond.
    let mut stamped = events(EVENTS).map(|(event, arrival_us)| (event, arrival_us / 1_000 * 1_000));
    local.put(stamped.by_ref().take(EVENTS as usize * 4 / 5));
    let stream = local.stream();
    let shard = stream.shards_blocking().unwrap()[0].clone();
    // Split before anybody looks: the parent must be done before its children.
    stream.split(&shard.shard, shard.hash_start + (shard.hash_end - shard.hash_start) / 2).unwrap();
    drop(stream);
    local.put(stamped);
    let (site, _server) = served(Site::with_stream_of(&local));
    let expected = local.finish();
    let mut mapping = Mapping::new(&site, caller);
    while !mapping.round() {}
    // What a sandbox that died had of a shard counts as gone when its time is over; here the next one sees to it at once.
    mapping.ticks();
    #[cfg(debug_assertions)]
    assert!(mapping.sandboxes > DEATHS.len() && mapping.failures >= DEATHS.len(), "only {} sandboxes", mapping.sandboxes);
    drop(mapping);
    let (read, all) = site.progress();
    assert_eq!(read, all, "records that Lambda committed, records in the stream");
    assert_eq!(site.invisible(), 0, "files that ticks have left invisible");
    site.finish().must_equal(&expected, "by way of Lambda");
    let audit = site.ran(&["audit"]).expect(0, "audit");
    assert!(audit.out.contains("unproven starts"), "{}", audit.out);
}

#[test]
fn batches_that_come_again_in_halves_and_after_deaths_make_the_tables_of_a_quiet_run() {
    by_way_of(Caller::own());
}

#[test]
fn the_same_against_an_emulator_of_the_runtime_api() {
    match std::env::var("SLUICEBOX_TEST_LAMBDA_URL") {
        Ok(url) => by_way_of(Caller::Emulator(url.trim_start_matches("http://").trim_end_matches('/').to_owned())),
        Err(_) => println!("SLUICEBOX_TEST_LAMBDA_URL names no emulator: see CONTRIBUTING.md"),
    }
}

#[test]
fn validate_refuses_a_mapping_under_which_records_would_be_lost_or_doubled() {
    let site = Site::empty();
    let mapping = |factor: u64| {
        let text = json!({
            "EventSourceArn": "arn:aws:kinesis:us-east-1:1:stream/events", "StartingPosition": "TRIM_HORIZON",
            "ParallelizationFactor": factor, "FunctionResponseTypes": ["ReportBatchItemFailures"], "MaximumRetryAttempts": 5
        });
        std::fs::write(site.folder().join("mapping.json"), text.to_string()).unwrap();
    };
    let suits = ["--set", "stream.kind=kinesis", "--set", "store.kind=aws", "--set", "store.bucket=b"];
    let validate = |more: &[&str]| site.ran(&[&["validate", "--lambda"], more].concat());
    let refused = validate(&[]).expect(78, "an embedded stream on a disk");
    assert!(refused.err.contains("`stream.kind`") && refused.err.contains("`store.kind`"), "{}", refused.err);
    let mapped = [&suits[..], &["--event-source-mapping", "mapping.json"]].concat();
    mapping(2);
    let refused = validate(&mapped).expect(78, "two batches of a shard at once");
    assert!(refused.err.contains("`ParallelizationFactor`"), "{}", refused.err);
    mapping(1);
    let good = validate(&mapped).expect(0, "a mapping that suits");
    assert!(good.out.contains("`MaximumRetryAttempts`") && good.out.contains("discards records"), "{}", good.out);
}
