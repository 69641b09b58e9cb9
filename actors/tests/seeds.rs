//! Random worlds with random faults. A seed that failed once stays here by its number.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use sluicebox_sim::coverage::Coverage;
use sluicebox_sim::plan::Op;
use sluicebox_sim::swarm::{Arena, survive};
use sluicebox_sim::trace::Keep;

const SEEDS: u64 = 2_000;

/// All seeds below [`SEEDS`], on two threads.
fn swarm() -> Coverage {
    let (next, met, failed) = (AtomicU64::new(0), Mutex::new(Coverage::default()), Mutex::new(Vec::new()));
    let work = || {
        while let seed @ 0..SEEDS = next.fetch_add(1, Ordering::Relaxed) {
            match survive(seed) {
                Ok(coverage) => met.lock().unwrap().add(&coverage),
                Err(failure) => failed.lock().unwrap().push(failure.to_string()),
            }
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(work);
        scope.spawn(work);
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "{} seeds:\n{}", failed.len(), failed[..failed.len().min(3)].join("\n"));
    met.into_inner().unwrap()
}

#[test]
fn thousands_of_random_worlds_with_random_faults_lose_and_double_nothing_and_meet_what_they_are_for() {
    let met = swarm();
    // Rare and important: if none of the seeds meets it any more, the seeds are about less than they say.
    let both_ways = ["error before", "answer lost", "twice", "crash before", "crash after", "arrives after crash"];
    for op in [Op::RowLease, Op::RowUpdate, Op::WindowUpdate, Op::BlobPut, Op::BlobDelete, Op::Publish, Op::GoldPublish] {
        for fault in both_ways {
            assert!(met.times(op, fault) > 0, "no seed meets {op:?} {fault}:\n{met}");
        }
    }
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
