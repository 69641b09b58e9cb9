//! A data directory of its own with a stream in it, and what can be seen of it from outside.
//!
//! Owns: making the stream, the settings of the test, committed rows, the tables as evidence. Does not own: processes (process).

#![allow(clippy::unwrap_used, reason = "a helper of a test may end the test")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use bytes::Bytes;
use sluicebox::clock::SystemClock;
use sluicebox::demo_events::DemoEvents;
use sluicebox::read::sources::visible;
use sluicebox::run::block_on;
use sluicebox::topology::Stores;
use sluicebox_actors::history;
use sluicebox_actors::model::fault::Kind;
use sluicebox_actors::model::row::ShardRow;
use sluicebox_actors::ports::Blobs;
use sluicebox_stream::embedded::{EmbeddedStream, PutRecord};

use super::process::{ABORTED, Ran, Running, program};

/// Arrival of the first event: 2026-01-05T08:00:00Z.
const START_US: i64 = 1_767_600_000_000_000;
const HOUR_US: i64 = 3_600_000_000;
/// Hours over which the events arrive: long enough for windows to close and seal while the stream is read.
const HOURS: i64 = 24;
/// No event arrives later.
pub(crate) const LAST_US: i64 = START_US + HOURS * HOUR_US;

/// Epochs of a few dozen records, two partitions, early collection, and a lateness under which nothing is too late: the latest
/// demo events are five hours late, and however epochs are cut, no bound is ahead of the arrivals.
const SETTINGS: [&str; 10] = [
    "stream.shards=3",
    "commit.size=8KiB",
    "limits.fetch=8KiB",
    "limits.in_flight=16KiB",
    "limits.fetch_records=25",
    "stream.parallelism=2",
    "collect.after_epochs=4",
    "gold.hourly_by_type.window.allowed_lateness=6h",
    "gold.hourly_total.window.allowed_lateness=6h",
    "restart.backoff_min=20ms",
];

/// What a table must say whoever made it, however often that was interrupted. Left out is what tells epochs and runs apart:
/// `processedAt`, revisions, vectors, and on which side of "late" a record fell.
const QUESTIONS: [(&str, &str); 4] = [
    ("bronze", "SELECT _shard, _sequence, _sub_sequence, _partition_key, _arrival_time, data FROM bronze ORDER BY 1, 2, 3"),
    (
        "silver",
        "SELECT _shard, _sequence, _sub_sequence, _arrival_time, event_time, eventType, userId, timestamp, sessionId, amount, \
         hourBucket FROM silver ORDER BY 1, 2, 3",
    ),
    (
        "dlq",
        "SELECT shard, sequence, sub_sequence, stage, reason, message, path, arrival_time, data FROM dlq ORDER BY 1, 2, 3, 4",
    ),
    (
        "gold_windows",
        "SELECT \"table\", window_start, window_end, rows, on_time + late AS taken, too_late, overflow, missing_shards, sha256 \
         FROM gold_windows ORDER BY 1, 2",
    ),
];

/// A folder with a data directory, and the settings that every verb is given.
pub(crate) struct Site {
    folder: tempfile::TempDir,
    settings: Vec<String>,
    environment: Vec<(String, String)>,
}

impl Site {
    /// Without a stream.
    pub(crate) fn empty() -> Self {
        let settings = SETTINGS.iter().map(|set| (*set).to_owned()).collect();
        Self { folder: tempfile::tempdir().unwrap(), settings, environment: Vec::new() }
    }

    /// With a stream of so many demo events, the same every time.
    pub(crate) fn with_events(count: u64) -> Self {
        let site = Self::empty();
        site.put(events(count));
        site
    }

    /// With the stream of another site, as it stands on disk. Nobody may be writing to it.
    pub(crate) fn with_stream_of(other: &Self) -> Self {
        let site = Self::empty();
        copy(&other.data().join("stream"), &site.data().join("stream"));
        site
    }

    /// One more setting; a later one goes before an earlier one.
    pub(crate) fn set(mut self, setting: &str) -> Self {
        self.settings.push(setting.to_owned());
        self
    }

    /// One more variable in the environment of every verb.
    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// What a setting says.
    pub(crate) fn setting(&self, key: &str) -> &str {
        let value = self.settings.iter().rev().find_map(|set| set.strip_prefix(key)?.strip_prefix('='));
        value.unwrap_or_else(|| panic!("{key} is not set"))
    }

    /// The settings as variables of the environment.
    pub(crate) fn variables(&self) -> BTreeMap<String, String> {
        let pairs = self.settings.iter().map(|set| set.split_once('=').unwrap());
        pairs.map(|(key, value)| (format!("SLUICEBOX__{}", key.to_uppercase().replace('.', "__")), value.to_owned())).collect()
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// The stream, opened by this process.
    pub(crate) fn stream(&self) -> EmbeddedStream {
        EmbeddedStream::open_or_create(&self.data().join("stream"), "events", self.shards(), SystemClock::shared()).unwrap()
    }

    fn shards(&self) -> usize {
        self.setting("stream.shards").parse().unwrap()
    }

    /// Puts records with their arrivals.
    pub(crate) fn put(&self, events: impl Iterator<Item = (Bytes, i64)>) {
        let stream = self.stream();
        let records: Vec<PutRecord> =
            events.map(|(data, arrival_us)| PutRecord { data, arrival_us: Some(arrival_us), ..PutRecord::default() }).collect();
        for records in records.chunks(1000) {
            assert!(stream.put(records).unwrap().iter().all(Result::is_ok));
        }
    }

    /// A verb over this directory.
    pub(crate) fn command(&self, verb: &[&str]) -> Command {
        let mut command = program(self.folder());
        command.args(verb).args(["--data", "data"]);
        for setting in &self.settings {
            command.args(["--set", setting]);
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs a verb to its end.
    pub(crate) fn ran(&self, verb: &[&str]) -> Ran {
        Ran::of(self.command(verb))
    }

    /// Starts a verb in the background; `name` names its log.
    pub(crate) fn start(&self, name: &str, verb: &[&str]) -> Running {
        Running::start(self.command(verb), self.folder().join(name))
    }

    /// The rows that a statement gives, all of them.
    pub(crate) fn answers(&self, sql: &str) -> Vec<serde_json::Value> {
        let out = self.ran(&["query", sql, "--format", "json", "--limit", "100000"]).expect(0, sql).out;
        out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Reads the stream to its end.
    pub(crate) fn drain(&self) -> Ran {
        self.ran(&["run", "--drain"]).expect(0, "run --drain")
    }

    /// Drains with this crash point set and expects the process to die of it.
    #[cfg_attr(not(debug_assertions), allow(dead_code, reason = "release builds have no crash points"))]
    pub(crate) fn crash(&self, point: &str) {
        let mut command = self.command(&["run", "--drain"]);
        command.env("SLUICEBOX_CRASH", point);
        let Ran { code, signal, err, .. } = Ran::of(command);
        assert_eq!(signal, Some(ABORTED), "{point} was not passed, exit {code:?}:\n{err}");
    }

    /// What is committed, read while others may be writing; none before the first run has made its state.
    pub(crate) fn stores(&self) -> Option<Stores> {
        match Stores::for_reading(&self.data(), SystemClock::shared()) {
            Ok(stores) => Some(stores),
            Err(fault) if fault.kind() == Kind::Config => None,
            Err(fault) => panic!("looking at a running directory: {fault}"),
        }
    }

    /// The shards' rows.
    pub(crate) fn rows(&self) -> Vec<ShardRow> {
        self.stores().map_or_else(Vec::new, |stores| block_on(stores.rows.shards()).unwrap().unwrap())
    }

    /// Number of commits since the beginning of time.
    pub(crate) fn commits(&self) -> u64 {
        self.rows().iter().map(|row| row.epoch).sum()
    }

    /// Records before the committed positions, and records in the stream.
    pub(crate) fn progress(&self) -> (u64, u64) {
        let stream = self.stream();
        let last = |shard| stream.stats(&shard).unwrap().last.and_then(|last| last.as_dense()).unwrap_or(0);
        let all = stream.shards_blocking().unwrap().into_iter().map(|info| last(info.shard)).sum();
        let read = self.rows().iter().filter_map(|row| row.position.as_dense()).sum();
        (read, all)
    }

    /// Outputs that committed epochs name and nobody sees yet.
    pub(crate) fn invisible(&self) -> usize {
        let Some(stores) = self.stores() else { return 0 };
        let mut count = 0;
        for object in self.rows().into_iter().filter_map(|row| row.object) {
            let epoch = block_on(history::read(stores.blobs.as_ref() as &dyn Blobs, &object)).unwrap().unwrap();
            count += epoch.header.pending.iter().filter(|output| !self.data().join(&output.path).exists()).count();
        }
        count
    }

    /// Drains, holds the result to the audit, sees that nothing is left over, and returns the tables.
    pub(crate) fn finish(&self) -> Evidence {
        self.drain();
        self.evidence()
    }

    /// The tables of a directory that nobody works in, held to the audit.
    pub(crate) fn evidence(&self) -> Evidence {
        let (read, all) = self.progress();
        assert_eq!(read, all, "records committed, records in the stream");
        self.ran(&["audit"]).expect(0, "audit");
        for folder in ["state/staged", "state/tmp"] {
            assert_eq!(files(&self.data().join(folder)), Vec::<PathBuf>::new(), "left over in {folder}");
        }
        self.tables(&self.data())
    }

    /// The tables as the verbs show them, and Gold as it lies below this folder.
    pub(crate) fn tables(&self, at: &Path) -> Evidence {
        let gold = visible(at, "gold").unwrap().into_iter();
        let gold = gold.map(|file| (file.relative, std::fs::read(file.path).unwrap())).collect();
        let answer = |sql| self.ran(&["query", sql, "--format", "json"]).expect(0, sql).out;
        Evidence { gold, answers: QUESTIONS.iter().map(|(table, sql)| (*table, answer(sql))).collect() }
    }
}

/// Demo events with their arrivals.
pub(crate) fn events(count: u64) -> DemoEvents {
    DemoEvents::new(1, count, START_US, HOURS * HOUR_US)
}

/// More events, of the last hour of those, that arrive when all of those have.
pub(crate) fn more(seed: u64, count: u64) -> impl Iterator<Item = (Bytes, i64)> {
    DemoEvents::new(seed, count, LAST_US - HOUR_US, HOUR_US).map(|(event, _)| (event, LAST_US))
}

/// All tables of a directory.
pub(crate) struct Evidence {
    /// Gold, byte by byte.
    gold: BTreeMap<String, Vec<u8>>,
    answers: Vec<(&'static str, String)>,
}

impl Evidence {
    /// Fails with the first line in which they differ.
    pub(crate) fn must_equal(&self, expected: &Self, after: &str) {
        for ((table, found), (_, expected)) in self.answers.iter().zip(&expected.answers) {
            assert!(expected.lines().count() > 10, "{table}: almost nothing to compare:\n{expected}");
            let different = found.lines().zip(expected.lines()).find(|(found, expected)| found != expected);
            assert_eq!(different, None, "{after}: {table}: found, expected");
            assert_eq!(found.lines().count(), expected.lines().count(), "{after}: {table}: rows found, rows expected");
        }
        assert_eq!(self.gold.keys().collect::<Vec<_>>(), expected.gold.keys().collect::<Vec<_>>(), "{after}: Gold objects");
        let different: Vec<_> = self.gold.iter().filter(|(path, bytes)| expected.gold.get(*path) != Some(*bytes)).collect();
        assert!(different.is_empty(), "{after}: {} Gold objects have other bytes, first {}", different.len(), different[0].0);
    }
}

/// All files below a folder.
pub(crate) fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let (path, name) = entry.map(|entry| (entry.path(), entry.file_name())).unwrap();
        if path.is_dir() {
            copy(&path, &to.join(name));
        } else {
            std::fs::copy(&path, to.join(name)).unwrap();
        }
    }
}
