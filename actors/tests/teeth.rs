//! Worlds that break a promise: the oracle, or the pipeline itself, must notice each of them.

use std::time::Duration;

use crate::drain::filled;
use sluicebox_sim::plan::{Act, Flaw, Op, Plan};
use sluicebox_sim::sim::{End, Sim};
use sluicebox_sim::truth::{MINUTE, T0};

fn world() -> Sim {
    let mut sim = filled(31, 2, 60);
    sim.config.gold.collect_after = 2;
    sim
}

fn noticed_by_the_oracle(flaw: Flaw) {
    let sim = world();
    let ran = sim.run(Plan::flawed(flaw));
    assert!(matches!(ran.end, End::Ended(_)), "{flaw:?} is meant to slip through the pipeline: {:?}", ran.end);
    assert!(!sim.wrong(&[]).is_empty(), "{flaw:?} was not noticed");
}

#[test]
fn a_world_that_keeps_its_promises_passes() {
    let sim = world();
    sim.drain();
    sim.assert_complete();
}

#[test]
fn wrong_merges_are_noticed() {
    noticed_by_the_oracle(Flaw::MergeDropsAPart);
    noticed_by_the_oracle(Flaw::MergeDoublesAPart);
}

#[test]
fn wrong_files_are_noticed() {
    noticed_by_the_oracle(Flaw::OutputsForgetToPublish);
    noticed_by_the_oracle(Flaw::FilesLoseARow);
    noticed_by_the_oracle(Flaw::LedgerForgets);
}

#[test]
fn gold_that_readers_never_see_again_is_noticed() {
    let sim = world();
    sim.drain();
    sim.event(0, T0 + 12 * 60 * MINUTE, "late", T0 + 3 * 60 * MINUTE, 1);
    assert!(matches!(sim.run(Plan::flawed(Flaw::GoldFilesKeepTheOldest)).end, End::Ended(_)));
    assert!(!sim.wrong(&[]).is_empty());
}

#[test]
fn a_stream_that_lies_is_noticed() {
    noticed_by_the_oracle(Flaw::StreamSkipsARecord);
    noticed_by_the_oracle(Flaw::StreamRepeatsARecord);
}

#[test]
fn files_that_are_visible_too_early_are_noticed() {
    let sim = world();
    let crash = Plan::nth(Op::RowUpdate, 2, Act::CrashBefore);
    sim.run(Plan { flaw: Some(Flaw::OutputsPublishAtStaging), ..crash });
    assert!(!sim.store().strangers().is_empty());
}

#[test]
fn partials_that_are_handed_out_twice_are_stopped_by_the_ledger_before_anything_is_wrong() {
    let sim = world();
    let ran = sim.run(Plan::flawed(Flaw::CutForgetsNothing)).good();
    for (shard, live) in ran.board.all() {
        assert!(live.last_fault.is_some_and(|fault| fault.contains("ledger (4)")), "{shard}");
    }
    sim.assert_complete();
}

#[test]
fn rows_that_ignore_the_fence_are_noticed() {
    let noticed = (0..120).step_by(3).any(|index| {
        let sim = world();
        let freeze = Plan { flaw: Some(Flaw::RowsIgnoreTheFence), ..Plan::at(index, Act::Freeze(Duration::from_secs(120))) };
        sim.run_beside(Plan { patience: Duration::from_secs(300), ..freeze }, Plan { seed: 5, ..Plan::default() });
        !sim.wrong(&[]).is_empty()
    });
    assert!(noticed);
}
