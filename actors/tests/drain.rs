//! `run --drain`: everything there is goes through, once, and ends.

use crate::world::plan::{Plan, Rng};
use crate::world::sim::Sim;

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
fn an_empty_stream_drains_at_once() {
    let sim = Sim::new(1, 2);
    let ran = sim.run(Plan::default()).good();
    assert!(ran.took.as_secs() < 5, "{:?}", ran.took);
    sim.assert_complete();
    assert!(sim.store().commits.is_empty());
}
