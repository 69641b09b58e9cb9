//! Bases, the ledger and the end of epoch objects: Gold stays exact, the proof stays whole.

use sluicebox_actors::history;

use sluicebox_sim::plan::{Plan, Rng};
use sluicebox_sim::sim::{Sim, shard_id};
use sluicebox_sim::truth::{MINUTE, SECOND, T0};

fn collecting(seed: u64, after: usize) -> Sim {
    let mut sim = Sim::new(seed, 2);
    sim.config.gold.collect_after = after;
    sim.config.shard.commit_size = 60;
    sim.config.fetch.records = 3;
    sim
}

fn objects(sim: &Sim, shard: usize) -> usize {
    let store = sim.store();
    store.blobs.keys().filter(|key| key.starts_with(&history::prefix(&shard_id(shard)))).count()
}

/// Newest epochs from the oldest one on whose files nobody has acknowledged in a commit yet.
fn unacknowledged(sim: &Sim, shard: usize) -> usize {
    let store = sim.store();
    let last = &store.commits[&shard_id(shard)].last().expect("a commit").header;
    let oldest = last.pending.iter().map(|output| output.epoch).min().unwrap_or(last.epoch);
    (last.epoch - oldest) as usize + 1
}

#[test]
fn many_epochs_leave_few_objects_and_the_ledger_and_gold_stay_whole() {
    for after in [1, 2, 3, 8] {
        let sim = collecting(81, after);
        let mut rng = Rng(81);
        (0..2).for_each(|shard| sim.fill(shard, 150, &mut rng));
        sim.drain();
        let store = sim.store();
        assert!(store.rows.values().all(|row| row.epoch > 20), "many epochs");
        assert!(store.ledger.values().all(|lines| lines.len() > 10), "most of them are lines now");
        drop(store);
        for shard in 0..2 {
            let left = objects(&sim, shard);
            let needed = unacknowledged(&sim, shard).max(after.max(2) + 1);
            assert!(left <= needed, "collect after {after}: {left} objects are left, {needed} are needed");
        }
        sim.assert_tidy();
        sim.assert_complete();
    }
}

#[test]
fn records_that_come_for_windows_whose_epochs_are_gone_are_added_to_their_base() {
    let sim = collecting(82, 2);
    let mut rng = Rng(82);
    for round in 0..6 {
        (0..2).for_each(|shard| sim.fill(shard, 25, &mut rng));
        let now = sim.store().now_us;
        sim.event(0, now, "late", T0 + (60 + 20 * round) * MINUTE, 1_000);
        sim.run(Plan { seed: round as u64, ..Plan::default() }).good();
        sim.assert_complete();
        sim.assert_tidy();
    }
    let lines: Vec<_> = sim.store().ledger.values().map(Vec::len).collect();
    assert!(lines.iter().all(|lines| *lines > 20), "{lines:?}");
}

#[test]
fn an_epoch_whose_files_may_not_be_visible_yet_is_not_collected() {
    use sluicebox_sim::plan::{Act, Op};
    let sim = collecting(83, 1);
    (0..2).for_each(|shard| sim.fill(shard, 40, &mut Rng(83)));
    // Every publication takes ten seconds: many epochs are committed before the first is visible.
    let slow = Plan::times(Op::Publish, 0, 10_000, Act::Stall(std::time::Duration::from_secs(10)));
    sim.run(slow).good();
    sim.assert_complete();
}

#[test]
fn a_crash_at_any_point_of_many_collections_is_survived() {
    let quiet = {
        let sim = collecting(84, 1);
        sim.fill(0, 24, &mut Rng(84));
        sim.drain().operations
    };
    use sluicebox_sim::plan::Act;
    for index in 0..quiet {
        for act in [Act::CrashBefore, Act::CrashAfter] {
            let sim = collecting(84, 1);
            sim.fill(0, 24, &mut Rng(84));
            sim.run(Plan { seed: 77, ..Plan::at(index, act) });
            let now = sim.store().now_us;
            sim.event(0, now, "more", T0 + 170 * MINUTE + SECOND, 9);
            sim.drain();
            // What a crash left half done is swept when the row that decides it has moved on: at the latest by the start after
            // that.
            sim.drain();
            let wrong = sim.wrong(&[]);
            assert!(wrong.is_empty(), "{act:?} at {index}: {wrong:#?}");
            sim.assert_tidy();
        }
    }
}
