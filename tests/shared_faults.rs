//! Goal: whatever happens to a worker over a bucket or to the services below it, at the very moment that matters, the tables are
//! those of a quiet run, and what cannot be healed is told and stops nobody else. Numbers of rows are those of the matrix that
//! the audit of the project goes by.

use std::time::Duration;

use serde_json::Value;
use sluicebox_fakeaws::faults::Fault;

use super::kinesis::stamped;
use super::shared::{Cloud, staged};
use super::support::process::Running;
use super::support::site::{Site, events};

#[cfg(debug_assertions)]
mod points;

const BUCKET: &str = "lake";
const EVENTS: u64 = 2_500;

/// A stream of one shard, so that it is known whose call is whose.
fn one_shard() -> Site {
    one_shard_of(EVENTS)
}

fn one_shard_of(count: u64) -> Site {
    let site = Site::empty().set("stream.shards=1");
    site.put(events(count).map(|(event, arrival_us)| (event, arrival_us / 1_000 * 1_000)));
    site
}

/// Small reads, so that nobody is done before the others have begun, and a budget that a few of them fill.
fn slow(cloud: &Cloud) -> Site {
    let settings = ["limits.fetch_records=20", "commit.size=8KiB", "limits.fetch=4KiB", "limits.in_flight=16KiB"];
    settings.into_iter().fold(cloud.worker(), Site::set)
}

/// A worker whose epochs are single reads of a hundred records.
fn even(cloud: &Cloud) -> Site {
    cloud.worker().set("limits.fetch_records=100").set("limits.fetch=32KiB").set("commit.size=32KiB")
}

/// Commits are made again.
fn goes_on(running: &mut Running) {
    let committed = running.said().matches(" committed ").count();
    running.until_it_says(" committed ", committed + 3);
}

/// What is done to one worker at work changes no table.
fn changes_nothing(doing: impl FnOnce(&Cloud, &mut Running), after: &str) {
    let local = stamped();
    let cloud = Cloud::with_stream_of(&local);
    let expected = local.finish();
    let worker = slow(&cloud);
    let mut running = worker.start("log", &["run"]);
    running.until_it_says(" committed ", 2);
    doing(&cloud, &mut running);
    goes_on(&mut running);
    ends_well(running);
    cloud.worker().drain();
    cloud.evidence().must_equal(&expected, after);
}

fn ends_well(running: Running) -> String {
    running.terminate();
    let ended = running.end("a worker that was told to stop");
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    ended.err
}

/// Where the only shard stands: epoch and position.
fn stands(cloud: &Cloud) -> (u64, Value) {
    let shard = cloud.shards().remove(0);
    (shard["epoch"].as_u64().unwrap(), shard["position"].clone())
}

#[cfg(debug_assertions)]
fn newest_epoch_object(cloud: &Cloud) -> String {
    cloud.s3.keys(BUCKET, "clicks/a/state/blobs/epochs/").pop().expect("an epoch object")
}

/// Row 6.
#[test]
fn a_worker_that_stands_still_until_its_shards_are_somebody_elses_stops_by_itself_and_changes_nothing() {
    let local = stamped();
    let cloud = Cloud::with_stream_of(&local);
    let expected = local.finish();
    let (one, two) = (slow(&cloud), slow(&cloud));
    let (mut frozen, mut other) = (one.start("log", &["run"]), two.start("log", &["run"]));
    other.until("both to have a shard", || (cloud.owners().len() == 2).then_some(()));
    frozen.stop();
    let name = format!(":{}:", frozen.pid());
    other.until("its shards to be the other's", || {
        let owners = cloud.owners();
        (owners.len() == 1 && owners.iter().all(|owner| !owner.contains(&name))).then_some(())
    });
    // It may have lost one before, to a machine that was busy.
    let lost = frozen.said().matches("shard lost").count();
    frozen.go_on();
    frozen.until_it_says("shard lost", lost + 1);
    ends_well(frozen);
    ends_well(other);
    cloud.worker().drain();
    cloud.evidence().must_equal(&expected, "after a worker woke up");
}

/// Row 7.
#[test]
fn a_worker_that_sleeps_between_its_commit_and_its_publication_finds_it_done_when_it_wakes_up() {
    let local = one_shard();
    let cloud = Cloud::with_stream_of(&local);
    let expected = local.finish();
    let worker = even(&cloud).set("store.inline=0B");
    cloud.s3.faults().next("CompleteMultipartUpload", 20, Fault::Status(503, "SlowDown"));
    let mut frozen = worker.start("log", &["run"]);
    frozen.until("it to try to publish", || (cloud.s3.faults().calls("CompleteMultipartUpload") >= 3).then_some(()));
    frozen.stop();
    let (tried, uploads) = (cloud.s3.faults().calls("CompleteMultipartUpload"), cloud.s3.uploads());
    assert!(uploads > 0 && stands(&cloud).0 > 0, "a true epoch with {uploads} uploads that nobody sees");
    cloud.s3.faults().clear();
    cloud.worker().set("store.inline=0B").drain();
    assert_eq!(cloud.s3.uploads(), 0, "the successor completes what was committed, and aborts what was not");
    let completed = cloud.s3.faults().calls("CompleteMultipartUpload");
    assert!(completed >= tried + uploads as u64);
    frozen.go_on();
    frozen.until_it_says("shard lost", 1);
    ends_well(frozen);
    cloud.worker().drain();
    cloud.evidence().must_equal(&expected, "after a second publication");
}

/// Rows 8 and 9.
#[test]
fn the_answer_to_a_commit_that_is_lost_or_late_and_a_commit_that_never_arrives_are_settled_by_the_row() {
    let local = one_shard();
    let cloud = Cloud::with_stream_of(&local);
    let expected = local.finish();
    // With no life sign in between, a worker with one shard updates its row for the lease, for each commit, and to let go.
    let worker = even(&cloud).set("store.failover=120s");
    let faults = cloud.dynamo.faults();
    for trouble in [Fault::DropResponse, Fault::DropRequest, Fault::Delay(Duration::from_secs(40))] {
        faults.spare("UpdateItem", 1);
        faults.next("UpdateItem", 1, trouble);
    }
    let log = worker.drain().err;
    assert_eq!(faults.left(), 0, "{log}");
    assert_eq!(log.matches("shard taken").count(), 1, "one generation has seen it all:\n{log}");
    let (epoch, _) = stands(&cloud);
    let won = log.matches(" committed ").count() as u64;
    assert!(epoch >= 5 && won == epoch, "{epoch} epochs, {won} times won:\n{log}");
    // The lease, every commit, the one that did not arrive, and letting go: nothing else was written.
    assert_eq!(faults.calls("UpdateItem"), 1 + epoch + 1 + 1, "{log}");
    cloud.evidence().must_equal(&expected, "after commits without an answer");
}

/// Row 15.
#[cfg(debug_assertions)]
#[test]
fn an_upload_of_a_committed_epoch_that_somebody_aborted_is_written_once_more_from_the_stream() {
    let local = one_shard();
    let cloud = Cloud::with_stream_of(&local);
    let expected = local.finish();
    let worker = || even(&cloud).set("store.inline=0B");
    worker().crash("commit.after_swap:2");
    let before = stands(&cloud);
    assert!(before.0 == 2 && cloud.s3.uploads() > 0, "{before:?}");
    cloud.s3.expire_uploads();
    // Other settings would make other rows: they are refused, and nothing is changed.
    let other = worker().set("event.disorder=61s").ran(&["run", "--drain"]).expect(1, "under other settings");
    assert!(other.err.contains("output_lost") && other.err.contains("other settings"), "{}", other.err);
    assert_eq!(stands(&cloud), before, "nobody reads on behind a hole");
    // Whoever dies over it, or finds it lost again, changes nothing either.
    worker().crash("commit.after_hold");
    worker().crash("commit.after_swap");
    cloud.s3.expire_uploads();
    let log = worker().drain().err;
    let told: Vec<_> = log.lines().filter(|line| line.contains("output_rebuilt")).collect();
    assert!(!told.is_empty() && told.iter().all(|line| line.contains("epoch=2") && line.contains("path=")), "{log}");
    cloud.evidence().must_equal(&expected, "after uploads were aborted");
    let ledger = cloud.worker().answers("SELECT sum(rebuilt) AS files FROM ledger");
    assert_eq!(ledger[0]["files"].as_u64(), Some(2 * told.len() as u64), "both times: {log}");
}

#[cfg(debug_assertions)]
#[test]
fn an_upload_that_is_lost_beside_a_visible_file_of_its_folder_comes_back_with_its_own_rows() {
    let local = one_shard();
    let cloud = Cloud::with_stream_of(&local);
    let expected = local.finish();
    // Of each hour and kind there is a folder, and more of them than files may be open.
    let narrow = ["store.inline=0B", "limits.open_files=2", "silver.partition_by=[\"eventType\"]"];
    let worker = || narrow.into_iter().fold(even(&cloud), Site::set);
    worker().crash("publish.after_rename:12");
    let folder = |path: &str| path.rsplit_once('/').unwrap().0.to_owned();
    let visible: Vec<_> = cloud.s3.keys(BUCKET, "clicks/a/silver/").iter().map(|key| folder(key)).collect();
    cloud.s3.expire_uploads();
    let log = worker().drain().err;
    let paths = log.lines().filter(|line| line.contains("output_rebuilt")).filter_map(|line| line.split("path=").nth(1));
    let lost: Vec<_> = paths.map(|rest| folder(rest.split_whitespace().next().unwrap().trim_matches('"'))).collect();
    let beside = lost.iter().filter(|lost| visible.contains(&format!("clicks/a/{lost}"))).count();
    assert!(beside > 0, "lost in {lost:?}, visible in {visible:?}");
    cloud.evidence().must_equal(&expected, "after uploads were aborted");
}

/// Row 18.
#[cfg(debug_assertions)]
#[test]
fn a_newest_epoch_object_that_is_damaged_or_gone_stops_its_shard_by_name_until_it_is_restored() {
    let local = one_shard();
    let cloud = Cloud::with_stream_of(&local);
    let expected = local.finish();
    let worker = || even(&cloud);
    worker().crash("commit.after_swap:3");
    let (before, key) = (stands(&cloud), newest_epoch_object(&cloud));
    let name = key.rsplit('/').next().unwrap().to_owned();
    let whole = cloud.s3.remove(BUCKET, &key).unwrap();
    cloud.s3.restore(BUCKET, &key, whole.clone());
    cloud.s3.damage(BUCKET, &key, b"something else");
    for what in ["damaged", "gone"] {
        let refused = worker().ran(&["run", "--drain"]).expect(1, what);
        assert!(refused.err.contains(&name), "{what}: {name} is not named:\n{}", refused.err);
        assert_eq!(stands(&cloud), before, "{what}");
        cloud.s3.remove(BUCKET, &key);
    }
    cloud.s3.restore(BUCKET, &key, whole);
    worker().drain();
    cloud.evidence().must_equal(&expected, "after its newest object was restored");
}

/// Row 47.
#[test]
fn a_store_and_then_the_rows_that_are_away_for_longer_than_the_failover_time_are_waited_out_with_few_reads() {
    let doing = |cloud: &Cloud, running: &mut Running| {
        cloud.s3.faults().down(true);
        // Each of three shards shows life three times in the failover time.
        let beats = || cloud.dynamo.faults().calls("UpdateItem");
        let from = beats();
        // And twice more: until then the epoch behind the one that hangs may grow.
        running.until("the failover time to pass", || (beats() >= from + 36).then_some(()));
        let (read, from) = (cloud.reads(), beats());
        running.until("it to pass again", || (beats() >= from + 12).then_some(()));
        assert!(cloud.reads() <= read + 6, "{} reads more, although nothing can be stored", cloud.reads() - read);
        cloud.s3.faults().down(false);
        goes_on(running);
        cloud.dynamo.faults().down(true);
        // Of three shards and of Gold.
        running.until_it_says("no life sign has arrived", 4);
        let read = cloud.reads();
        let asked = |operation: &str| cloud.dynamo.faults().calls(operation);
        let from = asked("Query");
        running.until("another failover time to pass", || (asked("Query") >= from + 4).then_some(()));
        assert!(cloud.reads() <= read + 3, "{} reads without a lease", cloud.reads() - read);
        cloud.dynamo.faults().down(false);
    };
    changes_nothing(doing, "after both were away");
}

/// Row 48.
#[test]
#[expect(clippy::disallowed_methods, reason = "how often a table is asked in a second")]
fn a_table_that_throttles_every_update_is_not_met_by_a_storm_and_the_worker_gives_up_its_leases_by_itself() {
    let doing = |cloud: &Cloud, running: &mut Running| {
        let (begun, from) = (std::time::Instant::now(), cloud.dynamo.faults().calls("UpdateItem"));
        cloud.dynamo.faults().next("UpdateItem", 300, Fault::Throttle);
        running.until_it_says("no life sign has arrived", 3);
        running.until_it_says("taking a lease: trying again", 3);
        let asked = cloud.dynamo.faults().calls("UpdateItem") - from;
        let per_second = asked as f64 / begun.elapsed().as_secs_f64();
        assert!(per_second < 40.0, "{per_second} updates in a second of a table that has none to give");
        cloud.dynamo.faults().clear();
    };
    changes_nothing(doing, "after a table that throttled");
}

/// Row 3.
#[test]
#[expect(clippy::disallowed_methods, reason = "how long a stop takes is what is promised")]
fn a_worker_that_is_told_to_stop_under_load_commits_what_it_has_read_and_the_next_one_goes_on_right_there() {
    let local = one_shard();
    let cloud = Cloud::with_stream_of(&local);
    let expected = local.finish();
    let worker = slow(&cloud);
    let mut running = worker.start("log", &["run"]);
    running.until_it_says(" committed ", 2);
    let reads = cloud.reads();
    running.until("it to read on", || (cloud.reads() > reads + 2).then_some(()));
    let told = std::time::Instant::now();
    let log = ends_well(running);
    let took = told.elapsed();
    assert!(took < Duration::from_secs(15), "{took:?}");
    assert_eq!(staged(&worker), Vec::<std::path::PathBuf>::new(), "left over on its disk");
    let (_, position) = stands(&cloud);
    let position = position.as_str().unwrap();
    let last = log.lines().rfind(|line| line.contains(" committed ")).unwrap();
    assert!(last.contains(&format!("to={position}")), "{last}: the row says {position}");
    let next = cloud.worker().drain().err;
    let taken = next.lines().find(|line| line.contains("shard taken")).unwrap_or_else(|| panic!("{next}"));
    assert!(taken.contains(&format!("after={position}")), "{taken}: the row said {position}");
    cloud.evidence().must_equal(&expected, "after a stop");
}

/// Nothing has begun, and nothing is held.
#[test]
fn a_worker_that_waits_for_services_before_it_begins_ends_at_once_when_told_to() {
    let local = Site::with_events(50);
    let cloud = Cloud::with_stream_of(&local);
    cloud.s3.faults().down(true);
    let worker = cloud.worker();
    let mut waiting = worker.start("log", &["run"]);
    waiting.until_it_says("beginning fault=", 1);
    let log = ends_well(waiting);
    assert!(log.contains("asked to stop"), "{log}");
    cloud.s3.faults().down(false);
    worker.drain();
}

/// Workers that begin in one place at the same time: what the one sees half of, the other has made meanwhile.
#[test]
fn a_worker_that_looks_while_another_one_begins_does_not_take_it_for_damage() {
    for operation in ["GetItem", "HeadObject", "ListObjectsV2"] {
        let local = Site::with_events(50);
        let cloud = Cloud::with_stream_of(&local);
        let faults = if operation == "GetItem" { cloud.dynamo.faults() } else { cloud.s3.faults() };
        faults.next(operation, 1, Fault::Hold);
        let late = cloud.worker();
        let mut looking = late.start("log", &["run", "--drain"]);
        looking.until("it to look", || (faults.calls(operation) >= 1).then_some(()));
        cloud.worker().drain();
        faults.release();
        let ended = looking.end("a worker that looked too early");
        assert_eq!(ended.code, Some(0), "held at {operation}: {}", ended.err);
    }
}

/// The state is made and the marker is not, when another worker begins.
#[test]
fn a_worker_that_finds_the_state_before_the_marker_looks_again() {
    let local = Site::with_events(50);
    let cloud = Cloud::with_stream_of(&local);
    // Behind the three writes by which the store is tried.
    cloud.s3.faults().spare("PutObject", 3);
    cloud.s3.faults().next("PutObject", 1, Fault::Status(403, "AccessDenied"));
    let refused = cloud.worker().ran(&["run", "--drain"]);
    assert_ne!(refused.code, Some(0), "the marker could not be written");
    assert!(cloud.s3.keys(BUCKET, "clicks/a/").is_empty());
    cloud.s3.faults().next("ListObjectsV2", 1, Fault::Hold);
    let lists = cloud.s3.faults().calls("ListObjectsV2");
    let late = cloud.worker();
    let mut looking = late.start("log", &["run", "--drain"]);
    looking.until("it to look for tables", || (cloud.s3.faults().calls("ListObjectsV2") > lists).then_some(()));
    cloud.worker().drain();
    cloud.s3.faults().release();
    let ended = looking.end("a worker that looked too early");
    assert_eq!(ended.code, Some(0), "{}", ended.err);
}
