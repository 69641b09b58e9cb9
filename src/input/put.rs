//! The put loop: records from files, paced and batched, into a stream.
//!
//! A record is counted only when the stream has acknowledged it. What failed for a while is put again, record by record, before
//! anything later goes out, so that order within a shard stays that of the input.
//!
//! Owns: the loop, what ends it. Does not own: reading (reader), batches and retries (batcher), the pace (pace), the terminal
//! (progress is a callback).

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sluicebox_actors::model::fault::{Fault, Result};
use sluicebox_actors::ports::Clock;

use super::arrival::{Arrival, Arrivals};
use super::batcher::Batcher;
pub use super::batcher::{PutTarget, PutTotals};
use super::json_path::JsonPath;
use super::pace::Pace;
use super::reader::{InputOptions, InputProgress, InputReader};

const BATCH_RECORDS: usize = 5000;
// The longest the callback waits for its next turn, and the longest a slow producer's record waits to be put.
const BEAT: Duration = Duration::from_millis(100);

/// What to put and how.
pub struct PutOptions<'a> {
    /// What to read.
    pub input: InputOptions,
    /// Records a second; none = as fast as it goes.
    pub rate: Option<f64>,
    /// Stop after so many records.
    pub limit: Option<u64>,
    /// Where arrival times come from.
    pub arrival: Arrival<'a>,
    /// The member that is the partition key; a record without it is keyed by its bytes.
    pub partition_key: Option<JsonPath>,
}

/// What the put loop asks of the world.
pub struct PutWorld<'a> {
    /// Paces, and bounds arrivals.
    pub clock: &'a dyn Clock,
    /// Waits; called with at most 5 s, while pacing with at most 100 ms.
    pub sleep: &'a dyn Fn(Duration),
    /// Called after every batch and while waiting; `Break` ends the run.
    pub progress: &'a mut dyn FnMut(&PutTotals, InputProgress) -> ControlFlow<()>,
}

/// A put that could not go on. What the totals count is stored.
#[derive(Debug, thiserror::Error)]
#[error("{fault} ({} records were put before)", totals.records)]
pub struct PutStopped {
    /// What was done before.
    pub totals: Box<PutTotals>,
    /// Why it stopped.
    pub fault: Fault,
}

/// Puts files. Blocks; call it on a thread that may.
pub fn put(target: &dyn PutTarget, options: PutOptions<'_>, world: &mut PutWorld<'_>) -> Result<PutTotals, PutStopped> {
    let batch_records =
        options.rate.map_or(BATCH_RECORDS, |rate| (rate * BEAT.as_secs_f64()).clamp(1.0, BATCH_RECORDS as f64) as usize);
    let mut batcher = Batcher::new(target, batch_records);
    let done = put_all(&mut batcher, options, world);
    finish(batcher, done)
}

/// Puts events that are made, not read: (record, arrival). Blocks.
pub fn put_events(
    target: &dyn PutTarget,
    events: impl Iterator<Item = (Bytes, i64)>,
    partition_key: Option<&JsonPath>,
    world: &mut PutWorld<'_>,
) -> Result<PutTotals, PutStopped> {
    let mut batcher = Batcher::new(target, BATCH_RECORDS);
    let origin: Arc<str> = "generated".into();
    let mut number = 0;
    let nothing_read = InputProgress { consumed: 0, total: None, empty_lines: 0 };
    let all = || {
        for (data, arrival_us) in events {
            number += 1;
            let key = partition_key.and_then(|path| path.key(&data));
            batcher.push(data, key, Some(arrival_us), (origin.clone(), number));
            if batcher.is_full() {
                batcher.flush(world.sleep)?;
                if (world.progress)(&batcher.totals, nothing_read).is_break() {
                    batcher.totals.interrupted = true;
                    return Ok(());
                }
            }
        }
        batcher.flush(world.sleep)
    };
    let done = all();
    finish(batcher, done)
}

fn finish(batcher: Batcher<'_>, done: Result<()>) -> Result<PutTotals, PutStopped> {
    let totals = batcher.totals;
    match done {
        Ok(()) => Ok(totals),
        Err(fault) => Err(PutStopped { totals: Box::new(totals), fault }),
    }
}

fn put_all(batcher: &mut Batcher<'_>, options: PutOptions<'_>, world: &mut PutWorld<'_>) -> Result<()> {
    let mut reader = InputReader::open(options.input)?;
    let mut arrivals = Arrivals::new(&options.arrival);
    let mut pace = options.rate.map(|rate| Pace::new(rate, world.clock.now_us()));
    let mut left = options.limit.unwrap_or(u64::MAX);
    loop {
        let filled = fill(batcher, &mut reader, &arrivals, options.partition_key.as_ref(), &mut left, world.clock.now_us());
        arrivals.fill(batcher.records.iter_mut().map(|record| &mut record.arrival_us));
        if let Some(pace) = &mut pace {
            while let Some(wait) = pace.wait(batcher.records.len(), world.clock.now_us()) {
                (world.sleep)(wait.min(BEAT));
                if (world.progress)(&batcher.totals, reader.progress()).is_break() {
                    batcher.totals.interrupted = true;
                    return Ok(());
                }
            }
        }
        let flushed = batcher.flush(world.sleep);
        batcher.totals.empty_lines = reader.progress().empty_lines;
        batcher.totals.arrival_unknown = arrivals.unknown();
        flushed?;
        let go_on = (world.progress)(&batcher.totals, reader.progress());
        match filled {
            Filled::Failed(fault) => return Err(fault),
            Filled::Ended => return Ok(()),
            Filled::More if go_on.is_break() => {
                batcher.totals.interrupted = true;
                return Ok(());
            }
            Filled::More => {}
        }
    }
}

/// Why a batch is as full as it is.
enum Filled {
    /// It is full, or a slow producer has nothing at the moment.
    More,
    /// The input or the limit came to its end.
    Ended,
    /// The input can't be read on; what the batch holds was read before.
    Failed(Fault),
}

fn fill(
    batcher: &mut Batcher<'_>,
    reader: &mut InputReader,
    arrivals: &Arrivals<'_>,
    partition_key: Option<&JsonPath>,
    left: &mut u64,
    now_us: i64,
) -> Filled {
    while !batcher.is_full() {
        if *left == 0 {
            return Filled::Ended;
        }
        if !reader.ready(BEAT) {
            return Filled::More;
        }
        match reader.next() {
            None => return Filled::Ended,
            Some(Ok(record)) => {
                *left -= 1;
                let key = partition_key.and_then(|path| path.key(&record.data));
                let arrival_us = arrivals.read(&record.data, now_us);
                batcher.push(record.data, key, arrival_us, (record.file, record.line));
            }
            Some(Err(error)) if error.is_fatal() => return Filled::Failed(error.into()),
            Some(Err(error)) => batcher.refuse(error.to_string()),
        }
    }
    Filled::More
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::collections::BTreeMap;
    use std::sync::atomic::{AtomicI64, Ordering};

    use sluicebox_actors::model::fault::Kind;
    use sluicebox_actors::model::position::{Sequence, ShardId};

    use super::*;
    use crate::input::batcher::ATTEMPTS;
    use crate::input::reader::Format;
    use sluicebox_stream::embedded::{PutError, PutOutcome, PutRecord};

    #[derive(Default)]
    struct FakeClock(AtomicI64);

    impl Clock for FakeClock {
        fn now_us(&self) -> i64 {
            self.0.load(Ordering::Relaxed)
        }

        fn random(&self) -> u64 {
            0
        }
    }

    /// Stores what `refuse` lets through: it is asked with (number of the call, data).
    struct FakeTarget<'a> {
        refuse: &'a dyn Fn(u32, &[u8]) -> Option<PutError>,
        calls: Cell<u32>,
        stored: RefCell<Vec<PutRecord>>,
    }

    impl PutTarget for FakeTarget<'_> {
        fn put(&self, records: &[PutRecord]) -> Result<PutOutcome> {
            self.calls.set(self.calls.get() + 1);
            let store = |record: &PutRecord| match (self.refuse)(self.calls.get(), &record.data) {
                Some(error) => Err(error),
                None => {
                    self.stored.borrow_mut().push(record.clone());
                    Ok((ShardId::new("s"), Sequence::dense(self.stored.borrow().len() as u64)))
                }
            };
            Ok(records.iter().map(store).collect())
        }
    }

    fn target(refuse: &dyn Fn(u32, &[u8]) -> Option<PutError>) -> FakeTarget<'_> {
        FakeTarget { refuse, calls: Cell::new(0), stored: RefCell::default() }
    }

    fn options(data: &str) -> (tempfile::TempDir, PutOptions<'static>) {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("in"), data).expect("writes");
        let input = InputOptions { files: vec![dir.path().join("in")], format: Some(Format::Lines), ..InputOptions::default() };
        (dir, PutOptions { input, rate: None, limit: None, arrival: Arrival::Now, partition_key: None })
    }

    fn run(target: &FakeTarget<'_>, options: PutOptions<'_>) -> (Result<PutTotals, PutStopped>, i64, u32) {
        run_until(target, options, u32::MAX)
    }

    // The clock stands at the microseconds slept.
    fn run_until(target: &FakeTarget<'_>, options: PutOptions<'_>, calls: u32) -> (Result<PutTotals, PutStopped>, i64, u32) {
        let clock = FakeClock::default();
        let sleep = |pause: Duration| {
            clock.0.fetch_add(pause.as_micros() as i64, Ordering::Relaxed);
        };
        let mut seen = 0;
        let mut progress = |_: &PutTotals, _: InputProgress| {
            seen += 1;
            if seen < calls { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        };
        let mut world = PutWorld { clock: &clock, sleep: &sleep, progress: &mut progress };
        let done = put(target, options, &mut world);
        (done, clock.now_us(), seen)
    }

    fn texts(target: &FakeTarget<'_>) -> Vec<String> {
        target.stored.borrow().iter().map(|record| String::from_utf8_lossy(&record.data).into_owned()).collect()
    }

    fn busy() -> PutError {
        PutError::NotStored(Fault::retry("busy"))
    }

    #[test]
    fn every_line_is_put_with_its_key_and_the_totals_say_so() {
        let target = target(&|_, _| None);
        let (_dir, mut options) = options("{\"u\":\"a\"}\n\nnot json\n{\"u\":7}\n");
        options.partition_key = Some("u".parse().expect("a path"));
        let totals = run(&target, options).0.expect("puts");
        assert_eq!((totals.records, totals.bytes, totals.empty_lines, totals.refused), (3, 24, 1, 0));
        assert_eq!(totals.per_shard, BTreeMap::from([(ShardId::new("s"), 3)]));
        let keys: Vec<_> = target.stored.borrow().iter().map(|record| record.partition_key.clone()).collect();
        assert_eq!(keys, [Some("a".into()), None, Some("7".into())]);
    }

    #[test]
    fn a_key_that_no_stream_takes_leaves_the_record_keyed_by_its_bytes() {
        let target = target(&|_, _| None);
        let (longest, too_long) = ("ü".repeat(256), "x".repeat(257));
        let (_dir, mut options) = options(&format!("{{\"u\":\"{longest}\"}}\n{{\"u\":\"{too_long}\"}}\n"));
        options.partition_key = Some("u".parse().expect("a path"));
        run(&target, options).0.expect("puts");
        let keys: Vec<_> = target.stored.borrow().iter().map(|record| record.partition_key.clone()).collect();
        assert_eq!(keys, [Some(longest.into()), None]);
    }

    #[test]
    fn only_what_failed_is_put_again_and_in_order() {
        let target = target(&|call, data| (call < 3 && data != b"b").then(busy));
        let (_dir, options) = options("a\nb\nc\n");
        let (done, slept_us, _) = run(&target, options);
        let totals = done.expect("puts");
        assert_eq!(texts(&target), ["b", "a", "c"]);
        assert_eq!((totals.records, totals.retried, slept_us), (3, 4, 300_000));
    }

    #[test]
    fn a_stream_that_stays_away_ends_the_run_with_what_was_put() {
        let target = target(&|_, data| (data == b"b").then(busy));
        let (_dir, options) = options("a\nb\nc\n");
        let stopped = run(&target, options).0.expect_err("stops");
        assert_eq!((stopped.totals.records, stopped.fault.kind(), target.calls.get()), (2, Kind::Retry, ATTEMPTS));
        assert!(stopped.fault.message().contains("in:2 was not put"), "{stopped}");
    }

    #[test]
    fn damage_ends_the_run_at_once_even_when_another_record_could_be_tried_again() {
        let error = |data: &[u8]| if data == b"a" { PutError::NotStored(Fault::corrupt("bad")) } else { busy() };
        let refuse = move |_: u32, data: &[u8]| Some(error(data));
        let target = target(&refuse);
        let (_dir, options) = options("a\nb\n");
        let stopped = run(&target, options).0.expect_err("stops");
        assert_eq!((stopped.fault.kind(), target.calls.get()), (Kind::Corrupt, 1));
    }

    #[test]
    fn a_refused_record_is_reported_with_its_line_and_the_others_go_on() {
        let target = target(&|_, data| (data == b"b").then_some(PutError::TooLarge(9)));
        let (_dir, options) = options("a\nb\nc\n");
        let totals = run(&target, options).0.expect("puts");
        assert_eq!((totals.records, totals.refused), (2, 1));
        assert!(totals.problems[0].contains("in:2: the record has 9 bytes"), "{:?}", totals.problems);
    }

    #[test]
    fn a_rate_is_kept_and_progress_is_told_while_waiting() {
        let target = target(&|_, _| None);
        let (_dir, mut options) = options(&"x\n".repeat(501));
        options.rate = Some(100.0);
        let (done, slept_us, seen) = run(&target, options);
        assert_eq!(done.expect("puts").records, 501);
        assert_eq!(slept_us, 5_000_000, "record 501 is due 5 s after the first");
        assert!(seen >= 100, "{seen}");
        let (_dir, mut slow) = super::tests::options("x\nx\n");
        slow.rate = Some(0.1);
        let (_, slept_us, seen) = run(&target, slow);
        assert!(slept_us >= 10_000_000 && seen >= 100, "{slept_us} {seen}");
    }

    #[test]
    fn a_limit_stops_and_so_does_the_callback() {
        let target = target(&|_, _| None);
        let (_dir, mut limited) = options("a\nb\nc\n");
        limited.limit = Some(2);
        assert_eq!(run(&target, limited).0.expect("puts").records, 2);
        let (_dir, many) = options(&"x\n".repeat(BATCH_RECORDS * 3));
        let totals = run_until(&target, many, 1).0.expect("puts");
        assert_eq!((totals.records, totals.interrupted), (BATCH_RECORDS as u64, true));
    }

    #[test]
    fn what_was_read_before_a_damaged_place_is_put() {
        let target = target(&|_, _| None);
        let (dir, mut options) = options("");
        let lines: Vec<u8> = (0..50_000).flat_map(|i| format!("{i}\n").into_bytes()).collect();
        let whole = zstd::encode_all(&lines[..], 1).expect("compresses");
        std::fs::write(dir.path().join("in"), &whole[..whole.len() / 2]).expect("writes");
        options.input.format = None;
        let stopped = run(&target, options).0.expect_err("stops");
        assert!(stopped.totals.records > 0 && stopped.fault.kind() == Kind::Corrupt);
        let line = format!("behind line {}:", stopped.totals.records);
        assert!(stopped.fault.message().contains(&line), "{stopped}");
    }

    #[test]
    fn events_that_are_made_keep_their_arrivals() {
        let target = target(&|_, _| None);
        let mut progress = |_: &PutTotals, _: InputProgress| ControlFlow::Continue(());
        let mut world = PutWorld { clock: &FakeClock::default(), sleep: &|_| (), progress: &mut progress };
        let events = [("{\"u\":\"a\"}", 5), ("x", 6)].into_iter().map(|(data, at)| (Bytes::from(data), at));
        let key = "u".parse().expect("a path");
        assert_eq!(put_events(&target, events, Some(&key), &mut world).expect("puts").records, 2);
        let stored = target.stored.borrow();
        assert_eq!((stored[0].arrival_us, stored[0].partition_key.clone()), (Some(5), Some("a".into())));
        assert_eq!((stored[1].arrival_us, stored[1].partition_key.clone()), (Some(6), None));
    }
}
