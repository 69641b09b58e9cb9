//! Goal: a pipeline that takes over from a fleet of the Kinesis Client Library reads what that fleet had not processed, each
//! record once, and nothing else; and the real library beside it sees the same stream.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use sluicebox_actors::model::row::ShardState;

use super::kinesis::stamped;
use super::shared::Cloud;
use super::support::process::Ran;
use super::support::site::{LAST_US, Site, events};

const TABLE: &str = "clicks-app";
const IMPORT: [&str; 6] = ["shards", "import", "--kcl-table", TABLE, "--failover", "1s"];

/// Of a record: shard and sequence number.
type Place = (String, u64);

/// A stream of three shards, one of which was split and one of whose children was split again, and a fleet that is not quite
/// through with it: leases, and what they leave to read.
struct Fleet {
    cloud: Cloud,
    leases: Vec<Value>,
    left: BTreeSet<Place>,
}

fn lease(shard: &str, checkpoint: &str, owner: Option<&str>) -> Value {
    let mut item = json!({
        "leaseKey": {"S": shard}, "leaseCounter": {"N": "17"}, "checkpoint": {"S": checkpoint},
        "checkpointSubSequenceNumber": {"N": "0"}, "ownerSwitchesSinceCheckpoint": {"N": "0"},
    });
    if let Some(owner) = owner {
        item["leaseOwner"] = json!({"S": owner});
    }
    item
}

impl Fleet {
    fn stopped() -> Self {
        let local = stamped();
        let stream = local.stream();
        let first = stream.shards_blocking().unwrap();
        let halve = |shard: &sluicebox_actors::model::position::ShardId| {
            let all = stream.shards_blocking().unwrap();
            let info = all.iter().find(|info| info.shard == *shard).unwrap();
            stream.split(shard, info.hash_start + (info.hash_end - info.hash_start) / 2).unwrap()
        };
        let more = |from: usize, count: usize| {
            local.put(events((from + count) as u64).skip(from).map(|(event, _)| (event, LAST_US)));
        };
        let children = halve(&first[0].shard);
        more(2_500, 1_200);
        let grandchildren = halve(&children[0]);
        more(3_700, 1_200);
        let last = |shard| stream.stats(shard).unwrap().last.and_then(|last| last.as_dense()).unwrap();
        let (half, most) = (last(&children[0]) / 2, last(&first[1].shard) - 5);
        // The split shard is done and its lease deleted; one child is half read; the other has ended; the shards left over are
        // almost read, and not begun.
        let leases = vec![
            lease(children[0].as_str(), &half.to_string(), Some("gone")),
            lease(children[1].as_str(), "TRIM_HORIZON", None),
            lease(first[1].shard.as_str(), &most.to_string(), Some("gone")),
            lease(first[2].shard.as_str(), "TRIM_HORIZON", None),
            json!({"leaseKey": {"S": "Migration3.0"}, "entityType": {"S": "CLIENT_VERSION_MIGRATION"}}),
        ];
        let from = [(&children[0], half), (&children[1], 0), (&first[1].shard, most), (&first[2].shard, 0)];
        let begun = grandchildren.iter().map(|shard| (shard, 0)).chain(from);
        let left = begun.flat_map(|(shard, from)| (from + 1..=last(shard)).map(move |number| (shard.to_string(), number)));
        let left = left.collect();
        drop(stream);
        let cloud = Cloud::with_stream_of(&local);
        cloud.dynamo.given(TABLE, "leaseKey", &leases).unwrap();
        Self { cloud, leases, left }
    }

    /// A pipeline in a directory.
    fn on_disk(&self) -> Site {
        let site = Site::empty().set("stream.kind=kinesis").set("limits.fetch_records=200").set("limits.fetch=64KiB");
        let site =
            site.set("limits.in_flight=256KiB").set("commit.size=64KiB").env("AWS_ENDPOINT_URL_KINESIS", &self.cloud.endpoint);
        site.env("AWS_ENDPOINT_URL_DYNAMODB", &self.cloud.dynamo.url())
    }
}

fn bronze(site: &Site) -> Vec<Place> {
    let sql = "SELECT _shard, CAST(_sequence AS VARCHAR) AS number FROM bronze";
    let lines = site.answers(sql).into_iter();
    lines.map(|line| (line["_shard"].as_str().unwrap().to_owned(), line["number"].as_str().unwrap().parse().unwrap())).collect()
}

fn must_hold_what_was_left(site: &Site, fleet: &Fleet) {
    let found = bronze(site);
    let distinct: BTreeSet<Place> = found.iter().cloned().collect();
    assert_eq!(found.len(), distinct.len(), "records that are in Bronze twice");
    let (again, skipped) = (distinct.difference(&fleet.left).next(), fleet.left.difference(&distinct).next());
    assert_eq!((again, skipped), (None, None), "(processed before and read again, neither processed nor read)");
    site.ran(&["audit"]).expect(0, "audit");
}

#[test]
fn a_pipeline_in_a_directory_reads_what_a_fleet_had_left_each_record_once_and_nothing_before() {
    let fleet = Fleet::stopped();
    let site = fleet.on_disk();
    let Ran { out, .. } = site.ran(&[&IMPORT[..], &["--dry-run"]].concat()).expect(0, "a dry run");
    assert!(out.contains("nothing was written") && out.contains("goes on after its checkpoint"), "{out}");
    assert!(site.rows().is_empty(), "a dry run makes nothing");
    let Ran { out, .. } = site.ran(&IMPORT).expect(0, "the import");
    assert!(out.contains("the first one of each table is partial"), "{out}");
    let drained = site.rows().iter().filter(|row| row.state == ShardState::Drained).count();
    assert_eq!((site.rows().len(), drained), (7, 1));
    site.drain();
    must_hold_what_was_left(&site, &fleet);
    let Ran { err, .. } = site.ran(&IMPORT).expect(78, "an import into a pipeline that has run");
    assert!(err.contains("only where nothing was read yet") && err.contains("--data"), "{err}");
}

#[test]
fn workers_that_share_a_store_read_what_a_fleet_had_left_too() {
    let fleet = Fleet::stopped();
    fleet.cloud.worker().ran(&IMPORT).expect(0, "the import");
    let worker = fleet.cloud.worker();
    worker.drain();
    must_hold_what_was_left(&worker, &fleet);
}

#[test]
fn an_import_that_was_broken_off_holds_every_run_back_until_it_is_called_again() {
    let fleet = Fleet::stopped();
    let site = fleet.on_disk();
    site.ran(&IMPORT).expect(0, "the import");
    // As it was between the first row and the last.
    std::fs::write(site.data().join("state/import"), TABLE).unwrap();
    let Ran { err, .. } = site.ran(&["run", "--drain"]).expect(78, "a run over half an import");
    assert!(err.contains("shards import") && err.contains(TABLE), "{err}");
    site.ran(&IMPORT).expect(0, "the import, again");
    site.drain();
    must_hold_what_was_left(&site, &fleet);
}

#[test]
fn a_fleet_that_is_at_work_is_not_taken_over_unless_that_is_meant() {
    let fleet = Fleet::stopped();
    let site = fleet.on_disk();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let cloud = Arc::new(fleet.cloud);
    let beating = std::thread::spawn({
        let (cloud, mut leases) = (cloud.clone(), fleet.leases.clone());
        move || {
            for beat in 18.. {
                leases[0]["leaseCounter"] = json!({"N": beat.to_string()});
                cloud.dynamo.given(TABLE, "leaseKey", &leases).unwrap();
                if stopped.recv_timeout(Duration::from_millis(100)) != Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                    return;
                }
            }
        }
    });
    let Ran { err, .. } = site.ran(&IMPORT).expect(78, "taking over from the living");
    assert!(err.contains("the fleet is at work: 1 of 4") && err.contains("--while-running"), "{err}");
    site.ran(&[&IMPORT[..], &["--while-running"]].concat()).expect(0, "an import that is meant");
    drop(stop);
    beating.join().unwrap();
}

#[test]
fn what_can_not_be_taken_over_is_refused_before_anything_is_written() {
    let fleet = Fleet::stopped();
    let site = fleet.on_disk();
    let Ran { err, .. } = site.ran(&["shards", "import", "--kcl-table", "another"]).expect(78, "a table that is not there");
    assert!(err.contains("does not exist"), "{err}");
    let mut latest = fleet.leases.clone();
    latest[1]["checkpoint"] = json!({"S": "LATEST"});
    fleet.cloud.dynamo.given(TABLE, "leaseKey", &latest).unwrap();
    let Ran { err, .. } = site.ran(&IMPORT).expect(78, "a lease without a beginning");
    assert!(err.contains("--latest-at"), "{err}");
    assert!(!site.data().join("state").exists(), "nothing was made");
    site.ran(&[&IMPORT[..], &["--latest-at", "2026-01-05T09:00:00Z"]].concat()).expect(0, "a lease with a beginning");
    let embedded = Site::empty().ran(&IMPORT).expect(78, "an embedded stream");
    assert!(embedded.err.contains("stream.kind"), "{}", embedded.err);
}

/// The real library on real emulators: see CONTRIBUTING, "Against emulators".
#[test]
fn the_real_library_sees_the_same_stream_and_can_be_taken_over_from() {
    let needed = ["KCL_CLASSPATH", "KCL_PYTHONPATH", "KINESIS_URL", "DYNAMODB_URL", "CLOUDWATCH_URL"];
    if let Some(missing) = needed.iter().find(|name| std::env::var_os(format!("SLUICEBOX_TEST_{name}")).is_none()) {
        eprintln!("SLUICEBOX_TEST_{missing} is not set: nothing was compared with the real Kinesis Client Library");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let proof = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kcl/proof.py");
    let mut command = Command::new("python3");
    command.arg(proof).arg(env!("CARGO_BIN_EXE_sluicebox")).arg(folder.path());
    let ran = Ran::of(command).expect(0, "side by side, then one after the other");
    assert!(ran.out.contains("all of it holds"), "{}", ran.out);
}
