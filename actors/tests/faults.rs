//! One thing goes wrong, in every operation of every port, in every way: the result is the same.

use std::time::Duration;

use sluicebox_actors::machines::restart::RestartConfig;

use crate::drain::filled;
use sluicebox_sim::plan::{ALONE, Act, OPS, Op, Plan};
use sluicebox_sim::sim::{Sim, shard_id};
use sluicebox_sim::sinks::Which;

/// Two shards, about ten epochs, collection on: every operation occurs.
fn world() -> Sim {
    let mut sim = filled(11, 2, 30);
    sim.config.gold.collect_after = 2;
    sim.config.shard.commit_size = 120;
    sim.config.in_flight = 128 << 10;
    sim.sinks = Which::Both { holds: None };
    sim.store().having = Some(1);
    sim
}

fn all_the_same(act: Act, skip: &[Op]) {
    for op in OPS[..ALONE].iter().copied() {
        if skip.contains(&op) {
            continue;
        }
        for nth in [0, 1, 5] {
            let sim = world();
            let ran = sim.run(Plan::nth(op, nth, act));
            assert!(
                matches!(&ran.end, sluicebox_sim::sim::End::Ended(outcome) if outcome.is_good()),
                "{op:?} {nth}: {:?}",
                ran.end
            );
            assert!(ran.counts.contains_key(&op), "{op:?} never occurs");
            let wrong = sim.wrong(&[]);
            assert!(wrong.is_empty(), "{act:?} at {op:?} {nth}: {wrong:?}");
        }
    }
}

#[test]
fn an_operation_that_fails_without_effect_is_done_again() {
    all_the_same(Act::ErrBefore, &[]);
}

#[test]
fn an_operation_whose_answer_is_lost_counts_once() {
    all_the_same(Act::ErrAfter, &[]);
}

#[test]
fn an_operation_that_is_delivered_twice_counts_once() {
    all_the_same(Act::Twice, &[]);
}

#[test]
fn an_operation_that_takes_long_holds_nothing_but_itself() {
    all_the_same(Act::Stall(Duration::from_secs(40)), &[]);
}

#[test]
fn a_panic_anywhere_is_survived() {
    // These three are asked by `run` itself: a panic there is the process's.
    all_the_same(Act::Panic, &[Op::StreamShards, Op::RowsShards, Op::RowCreate]);
}

#[test]
fn an_outage_is_waited_out_however_few_restarts_are_allowed() {
    for op in OPS[..ALONE].iter().copied() {
        let mut sim = world();
        sim.config.restart =
            RestartConfig { backoff_min_us: 10_000, backoff_max_us: 1_000_000, intensity: 3, period_us: 600_000_000 };
        let ran = sim.run(Plan::times(op, 3, 25, Act::ErrBefore));
        assert!(matches!(&ran.end, sluicebox_sim::sim::End::Ended(outcome) if outcome.is_good()), "{op:?}: {:?}", ran.end);
        let wrong = sim.wrong(&[]);
        assert!(wrong.is_empty(), "{op:?}: {wrong:?}");
    }
}

#[test]
fn a_panic_restarts_its_own_shard_only() {
    for op in [Op::EngineDecode, Op::FilesWrite, Op::FilesFinish, Op::BlobPut, Op::StreamRead, Op::LettersAppend, Op::Publish] {
        let sim = filled(11, 3, 60);
        let ran = sim.run(Plan::nth(op, 2, Act::Panic)).good();
        let restarts: Vec<_> = ran.board.all().into_iter().map(|(_, live)| live.restarts).collect();
        assert_eq!(restarts.iter().sum::<u64>(), 1, "{op:?}: {restarts:?}");
        let fault = ran.board.all().into_iter().find_map(|(_, live)| live.last_fault).expect("a fault is told");
        assert!(fault.contains(&format!("planned: panic at {op:?}")), "{op:?}: the panic's own text, not a consequence: {fault}");
        sim.assert_complete();
    }
}

#[test]
fn a_panic_of_gold_restarts_gold_alone() {
    for op in [Op::EngineMerge, Op::EngineFinish, Op::GoldEncode, Op::GoldPublish, Op::WindowUpdate] {
        let sim = filled(11, 2, 60);
        let ran = sim.run(Plan::nth(op, 1, Act::Panic)).good();
        assert!(ran.board.all().iter().all(|(_, live)| live.restarts == 0), "{op:?}");
        sim.assert_complete();
    }
}

#[test]
fn an_ambiguous_commit_is_settled_by_the_row_both_ways() {
    for act in [Act::ErrAfter, Act::ErrBefore] {
        let sim = filled(11, 1, 60);
        let ran = sim.run(Plan::times(Op::RowUpdate, 0, 3, act)).good();
        assert_eq!(ran.board.get(&shard_id(0)).expect("known").restarts, 0, "no generation ended for it");
        sim.assert_complete();
    }
}

#[test]
fn an_ambiguous_window_swap_is_settled_by_the_row_and_gold_goes_on() {
    for nth in 0..6 {
        let sim = filled(11, 1, 60);
        let ran = sim.run(Plan::nth(Op::WindowUpdate, nth, Act::ErrAfter)).good();
        assert_eq!(ran.counts[&Op::Windows], 2, "a generation of Gold reads each of the two tables' rows once, at its start");
        sim.assert_complete();
    }
}
