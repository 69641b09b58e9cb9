//! Goal: whoever watches a function has been told what an invocation raised and did by the time it answers.

use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use sluicebox::clock::SystemClock;
use sluicebox_actors::ports::Clock;
use sluicebox_aws::kinesis::api::Api;
use sluicebox_fakeaws::cloudwatch::FakeCloudWatch;
use sluicebox_fakeaws::faults::Fault as Trouble;
use sluicebox_fakeaws::sns::FakeSns;
use sluicebox_fakeaws::webhook::FakeWebhook;

use super::runtime_api::Caller;
use super::{Mapping, event, sandbox};
use crate::kinesis::served;
use crate::support::process::Running;
use crate::support::site::{Site, events};

/// How long SNS and the webhook take to answer: whoever answers sooner has not waited for them.
const SLOW: Duration = Duration::from_millis(600);

struct Watchers {
    cloudwatch: FakeCloudWatch,
    sns: FakeSns,
    webhook: FakeWebhook,
    // The services run there.
    _runtime: tokio::runtime::Runtime,
}

impl Watchers {
    fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let (cloudwatch, sns, webhook) = runtime.block_on(async {
            let (cloudwatch, sns) = (FakeCloudWatch::start().await.unwrap(), FakeSns::start().await.unwrap());
            (cloudwatch, sns, FakeWebhook::start().await.unwrap())
        });
        Self { cloudwatch, sns, webhook, _runtime: runtime }
    }

    /// A sandbox that speaks to them. One endpoint for all services would be that of Kinesis.
    fn sandbox(&self, site: &Site, runtime_api: &str) -> Running {
        let mut command = sandbox(site, runtime_api);
        command.env_remove("SLUICEBOX__AWS__ENDPOINT").env("AWS_ENDPOINT_URL_KINESIS", site.setting("aws.endpoint"));
        command.env("AWS_ENDPOINT_URL_CLOUDWATCH", self.cloudwatch.url()).env("AWS_ENDPOINT_URL_SNS", self.sns.url());
        command.env("SLUICEBOX__METRICS__CLOUDWATCH", "true").env("SLUICEBOX__ALERTS__WEBHOOK", self.webhook.url());
        command.env("SLUICEBOX__ALERTS__SNS_TOPIC", "arn:aws:sns:us-east-1:123456789012:alerts");
        Running::start(command, site.folder().join("bootstrap.log"))
    }

    /// What all calls so far say of one number, together.
    fn sum(&self, name: &str) -> f64 {
        let calls = self.cloudwatch.calls();
        let data = calls.iter().flat_map(|call| call["MetricData"].as_array().cloned().unwrap_or_default());
        data.filter(|datum| datum["MetricName"] == name).filter_map(|datum| datum["Value"].as_f64()).sum()
    }
}

/// What the ledger says, by the names that CloudWatch is told.
fn ledger(site: &Site) -> [(&'static str, f64); 4] {
    let sql =
        "SELECT sum(received) AS received, sum(rejected) AS rejected, sum(letters) AS letters, sum(bytes) AS bytes FROM ledger";
    let said = site.answers(sql).remove(0);
    let of = |name: &str| said[name].as_f64().unwrap_or_else(|| panic!("{name}: {said}"));
    [
        ("RecordsReceived", of("received")),
        ("RecordsFailed", of("rejected")),
        ("RecordsDeadLettered", of("letters")),
        ("BytesProcessed", of("bytes")),
    ]
}

#[test]
fn alerts_and_numbers_of_an_invocation_are_out_before_it_answers() {
    let local = Site::empty().set("stream.shards=1");
    let good: Vec<_> = events(120).collect();
    let bad = |good: &(Bytes, i64)| (Bytes::from_static(b"no event"), good.1);
    // A bad record among ten good ones; and then three out of four are bad.
    local.put(good[..60].chunks(10).flat_map(|ten| ten.iter().cloned().chain([bad(&ten[0])])));
    local.put(good[60..].iter().flat_map(|one| [one.clone(), bad(one), bad(one), bad(one)]));
    let (site, _server) = served(Site::with_stream_of(&local).set("stream.shards=1"));
    let site = ["breaker.window=50", "limits.fetch_records=20", "limits.fetch=8KiB", "commit.size=8KiB"]
        .into_iter()
        .fold(site, Site::set);
    let watchers = Watchers::start();
    let mut mapping = Mapping::new(&site, Caller::own());
    mapping.sandbox = Some(watchers.sandbox(&site, mapping.caller.address()));
    let listed = mapping.runtime.block_on(mapping.api.list_shards(None)).unwrap();
    let shard = listed.shards[0].shard.clone();

    let (records, _) = mapping.poll(&shard, None, 66);
    assert_eq!(records.len(), 66);
    assert_eq!(mapping.invoke(&event(&shard, &records)).unwrap(), json!({ "batchItemFailures": [] }));
    let first = ledger(&site);
    assert_eq!(first.map(|(name, _)| watchers.sum(name)), first.map(|(_, said)| said));
    assert_eq!((first[0].1, first[1].1), (66.0, 6.0));
    assert_eq!((watchers.sns.notifications().len(), watchers.webhook.bodies().len()), (0, 0));

    // A schedule's invocation is watched, too: how far everything has come.
    mapping.invoke(&json!({ "detail-type": "Scheduled Event", "source": "aws.events" })).unwrap();
    assert!(watchers.sum("IteratorAgeMs") > 0.0 && watchers.sum("BoundLagMs") > 0.0);

    watchers.sns.faults().next("Publish", 1, Trouble::Delay(SLOW));
    watchers.webhook.faults().next("post", 1, Trouble::Delay(SLOW));
    let (storm, _) = mapping.poll(&shard, Some(records[65].sequence), 240);
    let began_us = SystemClock.now_us();
    let answer = mapping.invoke(&event(&shard, &storm)).unwrap();
    let took_us = SystemClock.now_us() - began_us;
    // Nothing here waits: it has all arrived, or the answer came too soon.
    let (told, posted) = (watchers.sns.notifications(), watchers.webhook.bodies());
    let numbers = ledger(&site).map(|(name, said)| (name, watchers.sum(name), said));
    assert_eq!(answer["batchItemFailures"].as_array().map(Vec::len), Some(1), "{answer}");
    assert_eq!((told.len(), posted.len()), (1, 1), "{told:?} {posted:?}");
    assert_eq!(told[0].subject, format!("sluicebox clickstream: breaker {shard}"));
    assert_eq!(posted[0]["alert"], "breaker");
    assert!(took_us >= SLOW.as_micros() as i64, "answered after {took_us} µs");
    for (name, sent, said) in numbers {
        assert_eq!(sent, said, "{name}: sent, in the ledger");
    }
    assert_eq!(watchers.sum("ShardsQuarantined"), 1.0);
}
