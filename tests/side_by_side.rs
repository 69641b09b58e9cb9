//! Goal: a running `run` shares its directory with everybody who only puts or looks, with no second `run`, and ends when asked.

use std::io::Write;

use sluicebox::read::status::RunStatus;

use super::support::process::Ran;
use super::support::site::{Site, events, files};

const EVENTS: u64 = 6_000;
/// Under this no record is too late whatever time of the year the test is run, for `put` stamps arrivals from the clock.
const EVER_SO_LATE: [&str; 2] =
    ["gold.hourly_by_type.window.allowed_lateness=87600h", "gold.hourly_total.window.allowed_lateness=87600h"];

/// An empty site, and a file of lines to put.
fn to_put() -> Site {
    let site = EVER_SO_LATE.into_iter().fold(Site::empty(), |site, setting| site.set(setting));
    let mut lines = Vec::new();
    for (event, _) in events(EVENTS) {
        assert!(!event.contains(&b'\n'));
        lines.extend_from_slice(&event);
        lines.push(b'\n');
    }
    std::fs::File::create(site.folder().join("events.txt")).and_then(|mut file| file.write_all(&lines)).unwrap();
    site
}

#[test]
fn everybody_may_put_and_look_while_a_run_works_and_nothing_is_locked() {
    let site = to_put();
    let mut put = site.start("put", &["put", "events.txt", "--format-in", "lines", "--rate", "1000"]);
    put.until("a stream", || site.data().join("stream").is_dir().then_some(()));
    let mut run = site.start("run", &["run", "--set", "commit.interval=1s"]);
    run.until("the first commits", || (site.commits() > 3).then_some(()));
    let verbs: [&[&str]; 8] = [
        &["shards"],
        &["query", "SELECT eventType, count(*) FROM silver GROUP BY eventType"],
        &["query", "SELECT count(*) FROM gold_windows"],
        &["audit"],
        &["gold"],
        &["gold", "hourly_by_type"],
        &["gold", "hourly_total", "--windows"],
        &["dlq", "ls"],
    ];
    let mut rounds = 0;
    while !put.has_ended() {
        for verb in verbs {
            let Ran { err, .. } = site.ran(verb).expect(0, &format!("{verb:?} beside put and run"));
            assert!(!err.contains("lock") && !err.contains("busy"), "{verb:?}: {err}");
        }
        rounds += 1;
    }
    put.end("the end of put").expect(0, "put beside a run");
    assert!(rounds > 0, "all records were put before the first verb");
    run.until("all records to be committed", || (site.progress() == (EVENTS, EVENTS)).then_some(()));
    run.terminate();
    let Ran { err, .. } = run.end("the end of run").expect(0, "SIGTERM");
    assert!(!err.contains("ERROR") && !err.contains("trying again"), "{err}");

    let quiet = EVER_SO_LATE.into_iter().fold(Site::with_stream_of(&site), |site, setting| site.set(setting));
    site.finish().must_equal(&quiet.finish(), "a run beside put and verbs");
}

#[test]
fn a_second_run_is_refused_by_name_until_the_first_is_killed() {
    let site = Site::with_events(100);
    let mut first = site.start("first", &["run"]);
    first.until("a commit", || (site.commits() > 0).then_some(()));
    let Ran { err, .. } = site.ran(&["run", "--drain"]).expect(78, "a second run");
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    assert!(err.contains(&format!("process {} on {}", first.pid(), host.trim())), "{err}");
    assert!(err.contains("--data"), "{err}");
    first.kill();
    site.finish();
}

#[test]
fn a_second_run_is_refused_by_name_also_while_somebody_writes_to_the_rows() {
    let site = Site::with_events(100);
    let mut first = site.start("first", &["run"]);
    first.until("a commit", || (site.commits() > 0).then_some(()));
    // As a first run does that was stopped in the middle of a commit.
    let mut rows = rusqlite::Connection::open(site.data().join("state/rows.db")).unwrap();
    rows.busy_timeout(std::time::Duration::from_secs(60)).unwrap();
    let writing = rows.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).unwrap();
    let Ran { err, .. } = site.ran(&["run", "--drain"]).expect(78, "a second run");
    assert!(err.contains(&format!("process {} on ", first.pid())), "{err}");
    writing.rollback().unwrap();
    first.kill();
    site.finish();
}

#[test]
fn sigterm_commits_what_was_read_and_ends_well() {
    // Nothing commits by itself: what is committed afterwards was committed because the run was asked to end.
    let site = Site::with_events(EVENTS).set("commit.interval=1h").set("commit.size=1GiB").set("limits.in_flight=64MiB");
    let mut run = site.start("run", &["run"]);
    let before = run.until("records to be read", || {
        let status = RunStatus::read(&site.data()).unwrap()?;
        let read = |shard: &str| status.shard(shard)?.position_read.as_ref()?.parse::<u64>().ok();
        let read: Vec<u64> = site.rows().iter().filter_map(|row| read(row.shard.as_str())).collect();
        (!read.is_empty() && read.len() == site.rows().len() && read.iter().all(|read| *read > 100)).then_some(read)
    });
    assert_eq!(site.commits(), 0);
    run.terminate();
    run.end("the end of run").expect(0, "SIGTERM");
    let rows = site.rows();
    assert_eq!(rows.len(), before.len());
    for (row, read) in rows.iter().zip(before) {
        let committed = row.position.as_dense().unwrap_or(0);
        // What a read brings that was under way is one epoch more.
        assert!((1..=2).contains(&row.epoch) && committed >= read, "{}: epoch {}, {committed} of {read}", row.shard, row.epoch);
    }
    assert_eq!(site.invisible(), 0);
    site.ran(&["audit"]).expect(0, "audit after SIGTERM");
    site.finish();
}

#[test]
fn a_put_that_is_killed_leaves_a_stream_that_opens_without_reading_it() {
    const LINES: u64 = 20_000;
    let site = Site::empty().set("stream.shards=1");
    let line = [&[b'x'; 8 << 10][..], b"\n"].concat();
    std::fs::write(site.folder().join("lines.txt"), line.repeat(LINES as usize)).unwrap();
    let mut put = site.start("put", &["put", "lines.txt", "--format-in", "lines"]);
    let folder = site.data().join("stream");
    let size = || files(&folder).iter().map(|file| file.metadata().map_or(0, |file| file.len())).sum::<u64>();
    put.until("most of the lines", || (size() > 120 << 20).then_some(()));
    put.kill();

    let before = bytes_read();
    let stream = site.stream();
    let kept: u64 = stream
        .shards_blocking()
        .unwrap()
        .into_iter()
        .map(|info| stream.stats(&info.shard).unwrap().last.and_then(|last| last.as_dense()).unwrap_or(0))
        .sum();
    let read = bytes_read() - before;
    assert!((1_000..LINES).contains(&kept), "{kept} records were acknowledged");
    // What is read whole is the write-ahead log, whose length has a limit; the records behind it have none.
    assert!(read < size() / 2, "{read} bytes read to open {} bytes", size());
}

/// Bytes that this thread has asked the operating system for.
fn bytes_read() -> u64 {
    let counters = std::fs::read_to_string("/proc/thread-self/io").unwrap();
    counters.lines().find_map(|line| line.strip_prefix("rchar: ")?.parse().ok()).unwrap()
}
