//! Goal: workers that share nothing but a bucket and a DynamoDB table make the tables of one process over a directory, whatever
//! the services do, whoever dies, and wherever the next one runs.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::Value;
use sluicebox_fakeaws::dynamo::FakeDynamo;
use sluicebox_fakeaws::faults::Fault;
use sluicebox_fakeaws::s3::FakeS3;
use sluicebox_stream::api::{self, Options, Server};
use tokio::runtime::Runtime;

use super::kinesis::{Then, stamped};
use super::support::process::Ran;
use super::support::site::{Evidence, Site, files};

/// A Kinesis, an S3 and a DynamoDB on loopback ports of this process.
pub(crate) struct Cloud {
    pub(crate) s3: FakeS3,
    pub(crate) dynamo: FakeDynamo,
    pub(crate) kinesis: Server,
    pub(crate) endpoint: String,
    // The services run there.
    _runtime: Runtime,
    // The stream lies there.
    _stream: Site,
}

impl Cloud {
    /// With the stream of a site.
    pub(crate) fn with_stream_of(local: &Site) -> Self {
        let stream = Site::with_stream_of(local);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let (s3, dynamo) = runtime.block_on(async { (FakeS3::start().await.unwrap(), FakeDynamo::start().await.unwrap()) });
        let server = Server::new(stream.data().join("stream"), Arc::new(Then), Options::default()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let kinesis = server.clone();
        runtime.spawn(async { api::serve(listener, server, std::future::pending()).await.unwrap() });
        Self { s3, dynamo, kinesis, endpoint, _runtime: runtime, _stream: stream }
    }

    /// A worker with a disk of its own.
    pub(crate) fn worker(&self) -> Site {
        let settings = [
            "stream.kind=kinesis",
            "store.kind=aws",
            "store.bucket=lake",
            "store.prefix=clicks/a",
            "store.failover=2s",
            "limits.fetch_records=200",
            "limits.fetch=64KiB",
            "limits.in_flight=256KiB",
            "commit.size=64KiB",
        ];
        settings
            .into_iter()
            .fold(Site::empty(), Site::set)
            .env("AWS_ENDPOINT_URL_KINESIS", &self.endpoint)
            .env("AWS_ENDPOINT_URL_S3", &self.s3.url())
            .env("AWS_ENDPOINT_URL_DYNAMODB", &self.dynamo.url())
    }

    /// The shards, as `shards` tells of them.
    pub(crate) fn shards(&self) -> Vec<Value> {
        // Before the first worker has begun there is no pipeline to look at.
        let out = self.worker().ran(&["shards", "--format", "json"]).out;
        out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Who has the shards.
    pub(crate) fn owners(&self) -> BTreeSet<String> {
        let shards = self.shards();
        let owners = shards.iter().filter_map(|line| line["owner"].as_str().map(str::to_owned));
        owners.filter(|owner| !owner.is_empty()).collect()
    }

    /// How often an operation of Kinesis was asked.
    pub(crate) fn reads(&self) -> u64 {
        self.kinesis.state()["calls"]["GetRecords"].as_u64().unwrap_or(0)
    }

    /// The tables as a machine sees them that has never worked on them; the audit holds, and no upload is left.
    pub(crate) fn evidence(&self) -> Evidence {
        let looker = self.worker();
        looker.ran(&["audit"]).expect(0, "audit");
        assert_eq!(self.s3.uploads(), 0, "uploads neither completed nor aborted");
        looker.tables(&looker.data().join("mirror"))
    }
}

pub(crate) fn staged(worker: &Site) -> Vec<PathBuf> {
    files(&worker.data().join("state/staged"))
}

#[test]
fn tables_in_a_bucket_are_those_of_a_directory_whatever_the_services_do_and_wherever_the_next_worker_runs() {
    let local = stamped();
    let cloud = Cloud::with_stream_of(&local);
    let expected = local.finish();
    let deaths = ["commit.after_hold:2", "commit.after_put:2", "commit.after_swap:2", "gold.after_swap"];
    let objects = [Fault::DropResponse, Fault::DropRequest, Fault::Status(409, "ConditionalRequestConflict")];
    for (point, fault) in deaths.into_iter().zip(objects.into_iter().chain([Fault::Status(503, "SlowDown")])) {
        // What a worker asks first is whether the store can be trusted.
        cloud.s3.faults().spare("PutObject", 3);
        cloud.s3.faults().next("PutObject", 2, fault.clone());
        cloud.s3.faults().next("GetObject", 1, fault);
        for operation in ["UpdateItem", "PutItem"] {
            cloud.dynamo.faults().next(operation, 1, Fault::DropResponse);
            cloud.dynamo.faults().next(operation, 1, Fault::DropRequest);
        }
        cloud.dynamo.faults().next("Query", 1, Fault::Throttle);
        // Each dies on a machine of its own, and its disk with it.
        #[cfg(debug_assertions)]
        cloud.worker().crash(point);
    }
    let last = cloud.worker();
    last.drain();
    assert_eq!(staged(&last), Vec::<PathBuf>::new(), "left over on the worker's disk");
    cloud.evidence().must_equal(&expected, "by way of a bucket");
    assert_eq!((cloud.s3.faults().left(), cloud.dynamo.faults().left()), (0, 0), "every fault was met");
}

#[test]
fn large_files_become_visible_as_uploads_that_whoever_comes_next_completes_or_aborts() {
    let local = stamped();
    let cloud = Cloud::with_stream_of(&local);
    let expected = local.finish();
    let worker = || cloud.worker().set("store.inline=0B");
    for (operation, fault) in [
        ("CreateMultipartUpload", Fault::DropResponse),
        ("UploadPart", Fault::DropResponse),
        ("CompleteMultipartUpload", Fault::DropResponse),
        ("CompleteMultipartUpload", Fault::BodyError("InternalError")),
    ] {
        cloud.s3.faults().next(operation, 1, fault);
    }
    #[cfg(debug_assertions)]
    for point in ["commit.after_hold:2", "commit.after_swap:2", "publish.after_rename:2"] {
        worker().crash(point);
    }
    worker().drain();
    assert!(cloud.s3.faults().calls("CompleteMultipartUpload") > 10, "files are uploaded in parts");
    cloud.evidence().must_equal(&expected, "by way of uploads");
    assert_eq!(cloud.s3.faults().left(), 0, "every fault was met");
}

#[test]
fn workers_that_run_at_the_same_time_share_the_shards_and_one_that_is_killed_is_replaced() {
    let local = stamped();
    let cloud = Cloud::with_stream_of(&local);
    let expected = local.finish();
    // Small reads, so that nobody is done before the others have begun.
    let workers: Vec<Site> =
        (0..3).map(|_| cloud.worker().set("limits.fetch_records=20").set("commit.size=8KiB").set("limits.fetch=4KiB")).collect();
    let mut running: Vec<_> = workers.iter().map(|worker| worker.start("log", &["run"])).collect();
    running[0].until("each of three workers to have a shard", || (cloud.owners().len() == 3).then_some(()));
    let killed = running.remove(0);
    let dead = format!(":{}:", killed.pid());
    killed.kill();
    running[0].until("the shard of the dead one to be somebody else's", || {
        let owners = cloud.owners();
        (owners.len() == 2 && owners.iter().all(|owner| !owner.contains(&dead))).then_some(())
    });
    for worker in running {
        worker.terminate();
        let ended = worker.end("a worker that was told to stop");
        assert_eq!(ended.code, Some(0), "{}", ended.err);
    }
    cloud.worker().drain();
    cloud.evidence().must_equal(&expected, "shared by three workers");
}

/// Found by the fleet attack: one call of the beginning was made without patience.
#[test]
fn a_worker_that_begins_waits_out_whichever_of_its_first_calls_fails() {
    let local = Site::with_events(10);
    for number in 0..8 {
        let cloud = Cloud::with_stream_of(&local);
        for (faults, operations) in [
            (cloud.dynamo.faults(), &["GetItem", "PutItem", "UpdateItem", "Query", "DescribeTable"][..]),
            (cloud.s3.faults(), &["GetObject", "HeadObject", "PutObject", "DeleteObject", "ListObjectsV2"][..]),
        ] {
            for operation in operations {
                faults.spare(operation, number);
                faults.next(operation, 1, Fault::Status(500, "InternalError"));
            }
        }
        let Ran { err, .. } =
            cloud.worker().ran(&["run", "--drain"]).expect(0, &format!("call {number} of each operation failed"));
        assert!(number > 0 || err.contains("beginning"), "{err}");
    }
}

#[test]
fn a_store_that_cannot_be_trusted_is_refused_before_anything_is_written() {
    let local = Site::with_events(10);
    let cloud = Cloud::with_stream_of(&local);
    cloud.s3.faults().ignore_conditions(true);
    let refused = cloud.worker().ran(&["run", "--drain"]).expect(78, "a store that ignores conditions");
    assert!(refused.err.contains("If-None-Match"), "{}", refused.err);
    cloud.s3.faults().ignore_conditions(false);
    let rule = "<LifecycleConfiguration><Rule><ID>tidy</ID><Status>Enabled</Status><Filter><Prefix></Prefix></Filter>\
        <AbortIncompleteMultipartUpload><DaysAfterInitiation>1</DaysAfterInitiation></AbortIncompleteMultipartUpload></Rule>\
        </LifecycleConfiguration>";
    cloud.s3.lifecycle(Some(rule));
    let refused = cloud.worker().ran(&["run", "--drain"]).expect(78, "a rule that aborts uploads too soon");
    assert!(refused.err.contains("DaysAfterInitiation"), "{}", refused.err);
    cloud.worker().set("store.max_downtime=1d").drain();
}

#[test]
fn state_and_tables_that_do_not_belong_together_are_refused_with_the_way_out() {
    let local = Site::with_events(10);
    let cloud = Cloud::with_stream_of(&local);
    let nothing = cloud.worker().ran(&["audit"]).expect(78, "looking at nothing");
    assert!(nothing.err.contains("does not exist") || nothing.err.contains("there is no pipeline"), "{}", nothing.err);
    cloud.worker().drain();
    let lost = cloud.worker().set("store.table=another").ran(&["run", "--drain"]).expect(78, "tables without state");
    assert!(lost.err.contains("count everything twice"), "{}", lost.err);
    let lost = cloud.worker().set("store.prefix=another").ran(&["run", "--drain"]).expect(78, "state without tables");
    assert!(lost.err.contains("do not carry"), "{}", lost.err);
    let foreign = cloud.worker().set("pipeline.name=orders").ran(&["run", "--drain"]).expect(78, "another's tables");
    assert!(foreign.err.contains("but not its state"), "{}", foreign.err);
}
