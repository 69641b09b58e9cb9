//! `run --drain`: everything there is goes through, once, and ends.

use std::time::Duration;

use sluicebox_sim::engine::GROUP_BYTES;
use sluicebox_sim::plan::{Act, Op, Plan, Rng};
use sluicebox_sim::sim::{Sim, shard_id};
use sluicebox_sim::truth::{MINUTE, SECOND, T0};

/// A seeded world of so many shards with so many records each.
pub(crate) fn filled(seed: u64, shards: usize, records: u64) -> Sim {
    let sim = Sim::new(seed, shards);
    let mut rng = Rng(seed);
    (0..shards).for_each(|shard| sim.fill(shard, records, &mut rng));
    sim
}

#[test]
fn one_shard_with_one_partition_gives_the_references_gold() {
    let sim = filled(1, 1, 100);
    sim.drain();
    sim.assert_complete();
    sim.assert_tidy();
    assert!(sim.store().gold.len() > 5);
    assert!(sim.store().commits.values().all(|commits| commits.len() > 3), "many epochs, or the test is about nothing");
}

#[test]
fn three_partitions_change_nothing_but_speed() {
    let mut sim = filled(1, 1, 100);
    sim.config.parallelism = 3;
    sim.drain();
    sim.assert_complete();
}

#[test]
fn four_shards_give_the_references_gold() {
    let mut sim = filled(2, 4, 80);
    sim.config.parallelism = 2;
    sim.drain();
    sim.assert_complete();
    sim.assert_tidy();
}

#[test]
fn gold_is_the_same_however_the_stream_is_cut_and_spread() {
    // Nothing is too late here, so that no cut can show in Gold.
    let run = |parallelism: usize, commit_size: u64, records: usize, latency_ms: u64| {
        let mut sim = Sim::new(5, 2);
        let mut rng = Rng(5);
        for n in 0..240 {
            let event = T0 + n * 40 * SECOND + (rng.below(9) as i64 - 8) * SECOND;
            sim.event(n as usize % 2, event + SECOND, &format!("key-{}", n % 7), event, n);
        }
        (sim.config.parallelism, sim.config.shard.commit_size, sim.config.fetch.records) = (parallelism, commit_size, records);
        sim.run(Plan { latency_ms, ..Plan::default() }).good();
        sim.assert_complete();
        sim.gold()
    };
    let one = run(1, 1 << 20, 500, 4);
    assert!(one.len() > 15);
    for (parallelism, commit_size, records, latency_ms) in [(3, 1 << 20, 500, 4), (1, 50, 3, 40), (3, 200, 7, 0), (10, 60, 5, 90)]
    {
        assert_eq!(run(parallelism, commit_size, records, latency_ms), one);
    }
}

/// The cut after which an epoch is due comes when the partitions have said what they hold: what was on its way is in it, too.
#[test]
fn an_epoch_ends_when_its_aggregates_are_as_large_as_they_may_be() {
    let most = 12;
    let run = |group_memory: usize, slow: &[(Op, u64, u64, Act)]| {
        let mut sim = Sim::new(6, 1);
        // A group each, in one window of each table.
        (0..200).for_each(|n| sim.event(0, T0 + n * SECOND, &format!("key-{n}"), T0 + n * SECOND / 10, n));
        (sim.config.parallelism, sim.config.fetch.records, sim.config.shard.drain) = (3, 2, true);
        (sim.config.shard.commit_size, sim.config.shard.commit_interval_us) = (1 << 30, 60 * MINUTE);
        sim.config.shard.group_memory = (group_memory * GROUP_BYTES) as u64;
        sim.run(Plan { nth: slow.to_vec(), ..Plan::default() }).good();
        sim.assert_complete();
        let store = sim.store();
        let sizes = store.commits[&shard_id(0)].iter().map(|commit| commit.header.counts.silver);
        let sizes: Vec<u64> = sizes.collect();
        drop(store);
        (sizes, sim.gold())
    };
    let (whole, gold) = run(1 << 20, &[]);
    assert_eq!(whole.iter().filter(|rows| **rows > 0).count(), 1, "{whole:?}");
    let (cut, same) = run(most, &[]);
    // The second table leaves some rows out.
    assert!(cut.len() > 10 && cut.iter().all(|rows| *rows <= 3 * most as u64), "{cut:?}");
    assert_eq!(same, gold);
    // While an epoch can't be committed, the next one waits when it is as large as it may be.
    let away = [(Op::BlobPut, 1, 1, Act::Stall(Duration::from_secs(600)))];
    let (cut, same) = run(most, &away);
    assert!(cut.len() > 10 && cut.iter().all(|rows| *rows <= 3 * most as u64), "{cut:?}");
    assert_eq!(same, gold);
}

#[test]
fn an_empty_stream_drains_at_once() {
    let sim = Sim::new(1, 2);
    let ran = sim.run(Plan::default()).good();
    assert!(ran.took.as_secs() < 5, "{:?}", ran.took);
    sim.assert_complete();
    assert!(sim.store().commits.is_empty());
}
