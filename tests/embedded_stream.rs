//! The embedded stream against a plain model, from several handles and several processes, and with damage.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use bytes::Bytes;
use md5::{Digest, Md5};
use proptest::prelude::*;
use sluicebox_actors::model::fault::Kind;
use sluicebox_actors::model::position::{Position, Sequence, ShardId};
use sluicebox_actors::model::record::RawRecord;
use sluicebox_actors::ports::{Clock, Stream};
use sluicebox_stream::embedded::{EmbeddedStream, PutError, PutRecord, RECORD_MAX};

#[derive(Default)]
struct TestClock {
    now_us: AtomicI64,
    next: AtomicU64,
}

impl Clock for TestClock {
    fn now_us(&self) -> i64 {
        self.now_us.load(Ordering::Relaxed)
    }

    fn random(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed) ^ (u64::from(std::process::id()) << 32)
    }
}

fn clock() -> Arc<TestClock> {
    Arc::default()
}

fn record(key: &str, data: &str) -> PutRecord {
    PutRecord { partition_key: Some(key.to_owned().into()), data: data.to_owned().into(), ..PutRecord::default() }
}

fn shard(number: usize) -> ShardId {
    ShardId::new(format!("shardId-{number:012}"))
}

fn after(sequence: u64) -> Position {
    if sequence == 0 { Position::START } else { Position::after(Sequence::dense(sequence)) }
}

/// One test of this file, in a process of its own.
fn again(test: &str) -> std::process::Command {
    let name = module_path!().split_once("::").map_or(test.to_owned(), |(_, module)| format!("{module}::{test}"));
    let mut command = std::process::Command::new(std::env::current_exe().expect("this test"));
    command.args(["--exact", &name]);
    command
}

fn read_all(stream: &EmbeddedStream, shard: &ShardId) -> Vec<RawRecord> {
    let mut records: Vec<RawRecord> = Vec::new();
    loop {
        let at = records.last().map_or(Position::START, |record| Position::after(record.sequence));
        let read = stream.read_blocking(shard, at, 7, 1 << 20).expect("reads");
        records.extend(read.records);
        if read.caught_up {
            return records;
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Put { handle: usize, records: Vec<(Option<u8>, usize)>, arrival_us: Option<i64> },
    Read { shard: usize, after: usize, max_records: usize, max_bytes: usize },
    Split { shard: usize, at: u128 },
    Merge { shard: usize },
    Trim { shard: usize, arrival_us: i64 },
    Reopen { handle: usize },
    Tick(i64),
}

fn step() -> impl Strategy<Value = Step> {
    let records = proptest::collection::vec((proptest::option::of(any::<u8>()), 0usize..2000), 0..12);
    prop_oneof![
        6 => (0usize..2, records, proptest::option::of(0i64..400))
            .prop_map(|(handle, records, arrival_us)| Step::Put { handle, records, arrival_us }),
        6 => (any::<usize>(), any::<usize>(), 0usize..9, 0usize..6000)
            .prop_map(|(shard, after, max_records, max_bytes)| Step::Read { shard, after, max_records, max_bytes }),
        1 => (any::<usize>(), any::<u128>()).prop_map(|(shard, at)| Step::Split { shard, at }),
        1 => any::<usize>().prop_map(|shard| Step::Merge { shard }),
        1 => (any::<usize>(), 0i64..400).prop_map(|(shard, arrival_us)| Step::Trim { shard, arrival_us }),
        1 => (0usize..2).prop_map(|handle| Step::Reopen { handle }),
        2 => (1i64..40).prop_map(Step::Tick),
    ]
}

#[derive(Default)]
struct ModelShard {
    range: (u128, u128),
    children: Vec<usize>,
    trimmed: usize,
    // Key, data, arrival.
    records: Vec<(Vec<u8>, Bytes, i64)>,
}

struct World {
    dir: tempfile::TempDir,
    clock: Arc<TestClock>,
    handles: Vec<EmbeddedStream>,
    shards: Vec<ModelShard>,
    put: u64,
}

impl World {
    fn new(count: usize) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let clock = clock();
        let handles: Vec<_> =
            (0..2).map(|_| EmbeddedStream::open_or_create(dir.path(), "s", count, clock.clone()).expect("opens")).collect();
        let listed = handles[0].shards_blocking().expect("lists");
        let shards =
            listed.iter().map(|info| ModelShard { range: (info.hash_start, info.hash_end), ..ModelShard::default() }).collect();
        Self { dir, clock, handles, shards, put: 0 }
    }

    fn put(&mut self, handle: usize, wanted: &[(Option<u8>, usize)], arrival_us: Option<i64>) {
        let mut batch = Vec::new();
        for (key, len) in wanted {
            self.put += 1;
            let mut data = self.put.to_be_bytes().to_vec();
            data.resize(data.len() + len, *len as u8);
            let partition_key = key.map(|key| Bytes::from(format!("key-{key}")));
            batch.push(PutRecord { partition_key, data: data.into(), arrival_us, ..PutRecord::default() });
        }
        let outcome = self.handles[handle].put(&batch).expect("puts");
        for (record, outcome) in batch.into_iter().zip(outcome) {
            let digest = |data: &[u8]| Md5::digest(data).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
            let key = record.partition_key.map_or_else(|| digest(&record.data).into_bytes(), |key| key.to_vec());
            let hash = u128::from_str_radix(&digest(&key), 16).expect("hexadecimal");
            let holds = |shard: &ModelShard| shard.children.is_empty() && (shard.range.0..=shard.range.1).contains(&hash);
            let number = self.shards.iter().position(holds).expect("covered");
            let model = &mut self.shards[number];
            let last = model.records.last().map_or(0, |record| record.2);
            let arrival = record.arrival_us.unwrap_or(self.clock.now_us()).max(last);
            model.records.push((key, record.data, arrival));
            assert_eq!(outcome.expect("stored"), (shard(number), Sequence::dense(model.records.len() as u64)));
        }
    }

    fn read(&self, number: usize, place: usize, max_records: usize, max_bytes: usize) {
        let model = &self.shards[number];
        let place = place % (model.records.len() + 1);
        let handle = &self.handles[place % 2];
        let read = handle.read_blocking(&shard(number), after(place as u64), max_records, max_bytes).expect("reads");
        let start = place.max(model.trimmed);
        let mut end = start;
        let mut weight = 0;
        while let Some((key, data, arrival_us)) = model.records.get(end) {
            let got = read.records.get(end - start);
            let expected = RawRecord {
                sequence: Sequence::dense(end as u64 + 1),
                sub_sequence: 0,
                foreign: false,
                partition_key: key.clone().into(),
                arrival_us: *arrival_us,
                data: data.clone(),
            };
            let fits = end - start < max_records && weight + expected.weight() <= max_bytes;
            if end > start && !fits {
                break;
            }
            assert_eq!(got, Some(&expected));
            weight += expected.weight();
            end += 1;
        }
        assert_eq!(read.records.len(), end - start);
        assert_eq!(read.caught_up, end == model.records.len());
        let last_us = read.records.last().map_or(read.now_us, |last| last.arrival_us);
        assert_eq!(read.behind_us, Some(if read.caught_up { 0 } else { read.now_us - last_us }));
        assert_eq!(read.trimmed_before, (place < model.trimmed).then(|| after(model.trimmed as u64)));
        let ended = read.ended.map(|children| children.into_iter().map(|info| info.shard).collect::<Vec<_>>());
        let children: Vec<_> = model.children.iter().map(|child| shard(*child)).collect();
        assert_eq!(ended, (read.caught_up && !children.is_empty()).then_some(children));
    }

    fn split(&mut self, number: usize, at: u128) {
        let (start, end) = self.shards[number].range;
        let done = self.handles[number % 2].split(&shard(number), at);
        let allowed = self.shards[number].children.is_empty() && at > start && at <= end;
        assert_eq!(done.is_ok(), allowed, "{done:?}");
        if allowed {
            self.shards[number].children = vec![self.shards.len(), self.shards.len() + 1];
            self.shards.push(ModelShard { range: (start, at - 1), ..ModelShard::default() });
            self.shards.push(ModelShard { range: (at, end), ..ModelShard::default() });
        }
    }

    // With the right neighbour, if both are open.
    fn merge(&mut self, number: usize) {
        let (start, end) = self.shards[number].range;
        let next = end.checked_add(1);
        let neighbour = self.shards.iter().position(|shard| shard.children.is_empty() && Some(shard.range.0) == next);
        if let (Some(neighbour), true) = (neighbour, self.shards[number].children.is_empty()) {
            let child = self.handles[number % 2].merge(&shard(neighbour), &shard(number)).expect("merges");
            assert_eq!(child, shard(self.shards.len()));
            self.shards[number].children = vec![self.shards.len()];
            self.shards[neighbour].children = vec![self.shards.len()];
            let range = (start, self.shards[neighbour].range.1);
            self.shards.push(ModelShard { range, ..ModelShard::default() });
        }
    }

    fn trim(&mut self, number: usize, arrival_us: i64) {
        let model = &mut self.shards[number];
        let keep = model.records.partition_point(|record| record.2 < arrival_us).max(model.trimmed);
        let trimmed = self.handles[number % 2].trim_before(&shard(number), arrival_us).expect("trims");
        assert_eq!(trimmed, (keep - model.trimmed) as u64);
        model.trimmed = keep;
        let stats = self.handles[0].stats(&shard(number)).expect("reads");
        assert_eq!(stats.records, (model.records.len() - keep) as u64);
        assert_eq!(stats.bytes, model.records[keep..].iter().map(|record| record.1.len() as u64).sum::<u64>());
        assert_eq!(stats.first, (stats.records > 0).then(|| Sequence::dense(keep as u64 + 1)));
    }

    fn step(&mut self, step: Step) {
        let any_of = |shard: usize, world: &Self| shard % world.shards.len();
        match step {
            Step::Put { handle, records, arrival_us } => self.put(handle, &records, arrival_us),
            Step::Read { shard, after, max_records, max_bytes } => self.read(any_of(shard, self), after, max_records, max_bytes),
            Step::Split { shard, at } => self.split(any_of(shard, self), at),
            Step::Merge { shard } => self.merge(any_of(shard, self)),
            Step::Trim { shard, arrival_us } => self.trim(any_of(shard, self), arrival_us),
            Step::Reopen { handle } => {
                self.handles[handle] = EmbeddedStream::open(self.dir.path(), "s", self.clock.clone()).expect("opens");
            }
            Step::Tick(us) => {
                self.clock.now_us.fetch_add(us, Ordering::Relaxed);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn any_order_of_puts_reads_reshards_trims_and_reopenings_agrees_with_a_plain_list(
        count in 1usize..4,
        steps in proptest::collection::vec(step(), 1..40),
    ) {
        let mut world = World::new(count);
        for step in steps {
            world.step(step);
        }
        for number in 0..world.shards.len() {
            world.read(number, 0, usize::MAX, usize::MAX);
        }
    }
}

#[test]
fn a_flipped_byte_in_a_payload_is_refused_and_named_by_shard_and_range() {
    let dir = tempfile::tempdir().expect("a directory");
    let marker = "a-marker-that-stands-once-in-the-file";
    let long = "x".repeat(200_000) + marker;
    {
        let stream = EmbeddedStream::create(dir.path(), "s", 1, clock()).expect("creates");
        for data in ["before", &long, "behind"] {
            stream.put(&[record("k", data)]).expect("puts")[0].as_ref().expect("stored");
        }
    }
    // The last handle is gone, so the log is in the file.
    let path = dir.path().join("s/shardId-000000000000.db");
    let mut file = std::fs::read(&path).expect("reads");
    let at = memchr::memmem::find(&file, marker.as_bytes()).expect("the marker is there");
    file[at] ^= 1;
    std::fs::write(&path, file).expect("writes");

    let stream = EmbeddedStream::open(dir.path(), "s", clock()).expect("opens");
    let read = stream.read_blocking(&shard(0), Position::START, 1, 1).expect("the batch before it is whole");
    assert_eq!(read.records[0].data, "before");
    let fault = stream.read_blocking(&shard(0), after(1), 1, 1).expect_err("damaged");
    assert_eq!(fault.kind(), Kind::Corrupt);
    assert!(fault.message().contains("shardId-000000000000, sequences 2..=2: checksum differs"), "{fault}");
    assert_eq!(stream.read_blocking(&shard(0), after(2), 1, 1).expect("whole").records[0].data, "behind");
}

#[test]
fn two_processes_put_at_once_and_every_record_has_a_number_of_its_own() {
    const DIR: &str = "SLUICEBOX_TEST_PUT_INTO";
    const PUTS: usize = 40;
    let put_all = |dir: &Path, who: &str| {
        let stream = EmbeddedStream::open_or_create(dir, "s", 2, clock()).expect("opens");
        for i in 0..PUTS {
            let records: Vec<_> = (0..5).map(|j| record(&format!("{who}{i}{j}"), &format!("{who} {i} {j}"))).collect();
            stream.put(&records).expect("puts").into_iter().for_each(|outcome| drop(outcome.expect("stored")));
        }
    };
    if let Some(dir) = std::env::var_os(DIR) {
        return put_all(Path::new(&dir), "child");
    }
    let dir = tempfile::tempdir().expect("a directory");
    let mut child = again("two_processes_put_at_once_and_every_record_has_a_number_of_its_own")
        .env(DIR, dir.path())
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("starts");
    put_all(dir.path(), "parent");
    assert!(child.wait().expect("ends").success());

    let stream = EmbeddedStream::open(dir.path(), "s", clock()).expect("opens");
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for number in 0..2 {
        for (i, record) in read_all(&stream, &shard(number)).iter().enumerate() {
            assert_eq!(record.sequence, Sequence::dense(i as u64 + 1));
            *seen.entry(String::from_utf8(record.data.to_vec()).expect("text")).or_default() += 1;
        }
    }
    assert_eq!(seen.len(), 2 * PUTS * 5);
    assert!(seen.values().all(|count| *count == 1));
}

#[test]
fn a_refused_record_names_its_reason_and_costs_its_neighbours_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let stream = EmbeddedStream::create(dir.path(), "s", 1, clock()).expect("creates");
    let large = PutRecord { data: vec![0; RECORD_MAX + 1].into(), ..PutRecord::default() };
    let not_text = PutRecord { partition_key: Some(Bytes::from_static(b"\xff")), ..PutRecord::default() };
    let longest = "ü".repeat(256);
    let records = [record("k", "first"), large, record(&"k".repeat(257), ""), record("", ""), not_text, record(&longest, "last")];
    let outcome = stream.put(&records).expect("puts");
    assert!(matches!(outcome[1], Err(PutError::TooLarge(_))));
    assert!(matches!(outcome[2], Err(PutError::KeyLength(257))));
    assert!(matches!(outcome[3], Err(PutError::KeyLength(0))));
    assert!(matches!(outcome[4], Err(PutError::KeyNotText)));
    let stored = read_all(&stream, &shard(0));
    assert_eq!(stored.iter().map(|record| &record.data[..]).collect::<Vec<_>>(), [b"first" as &[u8], b"last"]);
    assert_eq!(outcome[5].as_ref().expect("stored").1, Sequence::dense(2));
}

#[test]
fn an_explicit_hash_key_decides_the_shard() {
    let dir = tempfile::tempdir().expect("a directory");
    let stream = EmbeddedStream::create(dir.path(), "s", 4, clock()).expect("creates");
    for info in stream.shards_blocking().expect("lists") {
        for hash in [info.hash_start, info.hash_end] {
            let outcome = stream.put(&[PutRecord { explicit_hash_key: Some(hash), ..record("k", "") }]).expect("puts");
            assert_eq!(outcome[0].as_ref().expect("stored").0, info.shard);
        }
    }
}

#[test]
fn a_handle_that_has_not_heard_of_a_split_puts_into_the_children() {
    let dir = tempfile::tempdir().expect("a directory");
    let old = EmbeddedStream::create(dir.path(), "s", 1, clock()).expect("creates");
    old.put(&[record("k", "parent")]).expect("puts");
    let other = EmbeddedStream::open(dir.path(), "s", clock()).expect("opens");
    assert_eq!(other.split(&shard(0), 1 << 127).expect("splits"), [shard(1), shard(2)]);
    let outcome = old.put(&[record("k", "child")]).expect("puts");
    assert_ne!(outcome[0].as_ref().expect("stored").0, shard(0));
    let read = old.read_blocking(&shard(0), Position::START, 9, 999).expect("reads");
    assert_eq!((read.records.len(), read.ended.map(|children| children.len())), (1, Some(2)));
}

#[test]
fn a_parent_disappears_from_the_list_when_retention_took_its_last_record_and_can_still_be_asked() {
    let dir = tempfile::tempdir().expect("a directory");
    let stream = EmbeddedStream::create(dir.path(), "s", 1, clock()).expect("creates");
    stream.put(&[PutRecord { arrival_us: Some(10), ..record("k", "x") }]).expect("puts");
    stream.split(&shard(0), 1 << 127).expect("splits");
    assert_eq!(stream.shards_blocking().expect("lists").len(), 3);
    assert_eq!(stream.trim_before(&shard(0), 11).expect("trims"), 1);
    assert_eq!(stream.shards_blocking().expect("lists").len(), 2);
    let read = stream.read_blocking(&shard(0), Position::START, 9, 999).expect("reads");
    assert_eq!((read.trimmed_before, read.ended.map(|children| children.len())), (Some(after(1)), Some(2)));
}

#[test]
fn a_stream_keeps_its_shards_and_settings_that_disagree_are_told_what_to_do() {
    let dir = tempfile::tempdir().expect("a directory");
    let open = |count| EmbeddedStream::open_or_create(dir.path(), "s", count, clock());
    open(2).expect("creates").split(&shard(0), 1 << 126).expect("splits");
    open(2).expect("as created");
    open(3).expect("as it is now");
    let fault = open(4).err().expect("differs");
    assert_eq!(fault.kind(), Kind::Config);
    assert!(fault.message().contains("set stream.shards = 3"), "{fault}");
    assert_eq!(EmbeddedStream::create(dir.path(), "s", 2, clock()).err().expect("is there").kind(), Kind::Config);
    assert_eq!(EmbeddedStream::open(dir.path(), "t", clock()).err().expect("is not there").kind(), Kind::Config);
    for name in ["", "a/b", "..", ".hidden", "ä"] {
        assert_eq!(EmbeddedStream::create(dir.path(), name, 1, clock()).err().expect(name).kind(), Kind::Config);
    }
}

#[test]
fn a_position_behind_the_end_means_that_the_stream_was_replaced() {
    let dir = tempfile::tempdir().expect("a directory");
    let stream = EmbeddedStream::create(dir.path(), "s", 1, clock()).expect("creates");
    stream.put(&[record("k", "x")]).expect("puts");
    stream.read_blocking(&shard(0), after(1), 1, 1).expect("the end is a place");
    assert_eq!(stream.read_blocking(&shard(0), after(2), 1, 1).expect_err("beyond").kind(), Kind::Corrupt);
    assert_eq!(stream.read_blocking(&shard(7), after(0), 1, 1).expect_err("unknown").kind(), Kind::Corrupt);
}

#[tokio::test]
async fn the_port_gives_what_the_blocking_calls_give() {
    let dir = tempfile::tempdir().expect("a directory");
    let clock = clock();
    let stream = EmbeddedStream::create(dir.path(), "s", 1, clock.clone()).expect("creates");
    stream.put(&[PutRecord { arrival_us: Some(70), ..record("k", "x") }]).expect("puts");
    let port: Arc<dyn Stream> = Arc::new(stream);
    assert_eq!((&*port.name(), port.shards().await.expect("lists").len()), ("s", 1));
    let read = port.read(&shard(0), Position::START, 9, 999).await.expect("reads");
    assert_eq!((read.records[0].arrival_us, read.now_us, read.caught_up), (70, 70, true), "its clock never lies behind a record");
    clock.now_us.store(90, Ordering::Relaxed);
    let read = port.read(&shard(0), after(1), 9, 999).await.expect("reads");
    assert_eq!((read.records.len(), read.now_us, read.caught_up), (0, 90, true));
}

#[test]
fn what_was_acknowledged_to_a_process_that_was_killed_is_there() {
    const DIR: &str = "SLUICEBOX_TEST_KILLED_IN";
    if let Some(dir) = std::env::var_os(DIR) {
        let stream = EmbeddedStream::open(Path::new(&dir), "s", clock()).expect("opens");
        for i in 0.. {
            let outcome = stream.put(&[record("k", &format!("{i}"))]).expect("puts");
            println!("acknowledged={}", outcome[0].as_ref().expect("stored").1);
        }
    }
    let dir = tempfile::tempdir().expect("a directory");
    EmbeddedStream::create(dir.path(), "s", 1, clock()).expect("creates");
    let mut child = again("what_was_acknowledged_to_a_process_that_was_killed_is_there")
        .arg("--nocapture")
        .env(DIR, dir.path())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("starts");
    let lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().expect("a pipe")));
    let acknowledged: Vec<u64> =
        lines.map_while(Result::ok).filter_map(|line| line.split_once("acknowledged=")?.1.parse().ok()).take(25).collect();
    child.kill().expect("dies");
    child.wait().expect("is dead");
    assert_eq!(acknowledged, (1..=25).collect::<Vec<_>>());

    let stream = EmbeddedStream::open(dir.path(), "s", clock()).expect("opens at once");
    let stored = read_all(&stream, &shard(0));
    assert!(stored.len() >= 25, "{}", stored.len());
    for (i, record) in stored.iter().enumerate() {
        assert_eq!((record.sequence, &record.data[..]), (Sequence::dense(i as u64 + 1), format!("{i}").as_bytes()));
    }
    assert_eq!(stream.stats(&shard(0)).expect("reads").records, stored.len() as u64);
}
