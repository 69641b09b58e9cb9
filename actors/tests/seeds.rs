//! Random worlds with random faults. A seed that failed once stays here by its number.

use std::sync::Mutex;

use sluicebox_sim::coverage::Coverage;
use sluicebox_sim::plan::{ALONE, OPS, Op};
use sluicebox_sim::sim::Tools;
use sluicebox_sim::swarm::{Arena, survive};
use sluicebox_sim::trace::Keep;

use crate::threads::for_each_below;

const SEEDS: u64 = 2_000;

/// All seeds below [`SEEDS`].
fn swarm() -> Coverage {
    let met = Mutex::new(Coverage::default());
    for_each_below(SEEDS, |seed| {
        let coverage = survive(seed).map_err(|failure| failure.to_string())?;
        met.lock().unwrap().add(&coverage);
        Ok(())
    });
    met.into_inner().unwrap()
}

#[test]
fn thousands_of_random_worlds_with_random_faults_lose_and_double_nothing_and_meet_what_they_are_for() {
    let met = swarm();
    // Rare and important: if none of the seeds meets it any more, the seeds are about less than they say.
    let both_ways = ["error before", "answer lost", "twice", "crash before", "crash after", "arrives after crash"];
    for op in [Op::RowLease, Op::RowUpdate, Op::WindowUpdate, Op::BlobPut, Op::Publish, Op::GoldPublish] {
        for fault in both_ways {
            assert!(met.times(op, fault) > 0, "no seed meets {op:?} {fault}:\n{met}");
        }
    }
    // The sweep dies at every call of a sink.
    for op in OPS[..ALONE].iter().copied().filter(|op| ![Op::SinkFeed, Op::SinkSend].contains(op)) {
        let crashes =
            ["crash before", "crash after", "arrives after crash"].map(|fault| met.times(op, fault)).iter().sum::<u64>();
        assert!(crashes > 0, "no process dies at {op:?}:\n{met}");
    }
    for situation in SITUATIONS {
        assert!(met.marks.contains_key(situation), "it never happens that {situation}:\n{met}");
    }
}

/// What a swarm is for: it must have happened, or the seeds prove less than they seem to.
const SITUATIONS: [&str; 28] = [
    "a base is deleted",
    "a child opens",
    "a content is deleted",
    "a file is published again",
    "a file is published by its owner's successor",
    "a file of a committed epoch is lost",
    "a file of a committed epoch is written once more",
    "a filtered record",
    "a late record",
    "a letter for a bad record",
    "a letter for a record that came too late",
    "a shard is taken for the first time",
    "a stale commit is refused",
    "a stale lease is refused",
    "a stale window swap is refused",
    "a swap that had already happened is delivered again",
    "an epoch object is collected",
    "an epoch object that never became true is collected",
    "an epoch object that never became true is deleted at takeover",
    "an idle shard's bound moves",
    "files of an epoch that never became true are deleted",
    "takeover before the first commit",
    "takeover beside a process that lives",
    "takeover of a drained shard with files to publish",
    "takeover, all files visible",
    "takeover, no file visible",
    "takeover, some files visible",
    "window revised",
];

#[test]
fn random_worlds_whose_processes_share_no_disk_lose_and_double_nothing() {
    for_each_below(SEEDS / 4, |seed| {
        let arena = Arena { tools: Tools::apart(), ..Arena::default() };
        arena.survive(3_000_000 + seed).map(|_| ()).map_err(|failure| failure.to_string())
    });
}

#[test]
fn the_same_seed_gives_the_same_trace_to_the_last_operation() {
    let run = |keep: Keep, seed: u64| {
        let arena = Arena { keep, ..Arena::default() };
        arena.survive(seed).unwrap_or_else(|failure| panic!("{failure}"))
    };
    for seed in (0..SEEDS).step_by(50) {
        let (first, second) = (run(Keep::Everything, seed), run(Keep::Everything, seed));
        let differs = first.trace.iter().zip(&second.trace).find(|(a, b)| a != b);
        assert_eq!((differs, first.trace.len()), (None, second.trace.len()), "seed {seed}");
        assert_eq!(run(Keep::Last(1), seed).hash, first.hash, "seed {seed}: the hash tells the whole trace");
        assert!(first.trace.len() > 50, "seed {seed}: {}", first.trace.len());
    }
}
