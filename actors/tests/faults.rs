//! One thing goes wrong, in every operation of every port, in every way: the result is the same.

use std::sync::Arc;
use std::time::Duration;

use sluicebox_actors::history::{take_over, unless_overtaken};
use sluicebox_actors::machines::restart::RestartConfig;
use sluicebox_actors::model::fault::{Fault, Kind};
use sluicebox_actors::model::row::ShardRow;
use sluicebox_actors::pipeline::Outcome;
use sluicebox_actors::ports::Clock;

use crate::drain::filled;
use sluicebox_sim::files::Files;
use sluicebox_sim::plan::{ALONE, Act, OPS, Op, Plan};
use sluicebox_sim::process::Process;
use sluicebox_sim::sim::{End, Script, Sim, shard_id};
use sluicebox_sim::sinks::Which;
use sluicebox_sim::trace::Keep;
use sluicebox_sim::truth::SECOND;

/// Two shards, about ten epochs, collection on: every operation occurs, but for what a second collection reads (collect.rs).
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
            assert!(matches!(&ran.end, End::Ended(outcome) if outcome.is_good()), "{op:?} {nth}: {:?}", ran.end);
            assert!(ran.counts.contains_key(&op) || op == Op::LedgerGet, "{op:?} never occurs");
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
        assert!(matches!(&ran.end, End::Ended(outcome) if outcome.is_good()), "{op:?}: {:?}", ran.end);
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

/// A table that refuses every write is a table that all workers ask for all shards.
#[test]
fn a_lease_that_is_throttled_is_asked_for_with_growing_pauses() {
    let sim = filled(12, 1, 6);
    sim.drain();
    let asking = async {
        let process = Process::new(sim.store.clone(), Plan::times(Op::RowLease, 0, 7, Act::ErrBefore), Keep::Everything, 1 << 20);
        let (clock, files): (Arc<dyn Clock>, _) = (process.clone(), Files::on_one_disk(&process));
        let begun = process.world_now_us();
        let taken = take_over(process.as_ref(), process.as_ref(), &files, &clock, &shard_id(0), "simulated:9").await;
        (taken.map(|taken| taken.row), process.world_now_us() - begun, process.counts()[&Op::RowLease])
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let (taken, took_us, asked) = runtime.block_on(asking);
    assert_eq!(taken.unwrap(), sim.store().rows[&shard_id(0)]);
    assert!(asked == 8 && took_us > 3 * SECOND, "{asked} times in {took_us} us");
}

#[test]
fn commits_that_are_throttled_are_tried_again_with_growing_pauses() {
    let took = |plan: Plan| {
        let sim = filled(13, 1, 6);
        let ran = sim.run(plan).good();
        sim.assert_complete();
        ran.took
    };
    let quiet = took(Plan::default());
    let throttled = took(Plan::times(Op::RowUpdate, 0, 8, Act::ErrBefore));
    assert!(throttled > quiet + Duration::from_secs(4), "{quiet:?} and {throttled:?}");
    // Each commit begins with a short pause again.
    let every = Plan { nth: (0..8).map(|nth| (Op::RowUpdate, 2 * nth, 1, Act::ErrBefore)).collect(), ..Plan::default() };
    assert!(took(every) < quiet + Duration::from_secs(4));
}

/// Files that are written out hold no credit, so credits alone would let a shard read on to the end of the disk.
#[test]
fn while_a_commit_hangs_the_epoch_behind_it_grows_to_a_bound_and_reading_waits() {
    let mut sim = filled(14, 1, 400);
    (sim.config.shard.commit_size, sim.config.fetch.records) = (120, 2);
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    let noting = seen.clone();
    let script: Script = Box::new(move |hands| {
        Box::pin(async move {
            for _ in 0..3 {
                tokio::time::sleep(Duration::from_secs(30)).await;
                noting.lock().unwrap().push(hands.store.lock().unwrap().reads);
            }
        })
    });
    let hangs = Plan::nth(Op::RowUpdate, 1, Act::Stall(Duration::from_secs(120)));
    sim.run_with(hangs, script).good();
    let seen = seen.lock().unwrap().clone();
    let all = sim.store().reads;
    assert!(seen[0] > 2 && seen.iter().all(|reads| *reads == seen[0]) && all > seen[0] * 3, "{seen:?} of {all}");
    sim.assert_complete();
}

/// Whoever has the shard since may have mended or removed it.
#[test]
fn what_is_missed_or_strange_is_no_damage_once_somebody_else_has_the_shard() {
    let sim = filled(3, 1, 20);
    sim.drain();
    let row = sim.store().rows[&shard_id(0)].clone();
    let before = ShardRow { lease_epoch: row.lease_epoch - 1, ..row.clone() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let kinds = runtime.block_on(async {
        let (process, parts) = sim.starts(sim.seeded(Plan::times(Op::RowGet, 2, 1, Act::ErrBefore)));
        let mut kinds = Vec::new();
        for (row, fault) in [
            (&row, Fault::corrupt("missed")),
            (&before, Fault::corrupt("missed")),
            // The row can't be read: who has the shard is not known.
            (&before, Fault::corrupt("missed")),
            (&before, Fault::retry("away")),
        ] {
            kinds.push(unless_overtaken(parts.rows.as_ref(), row, fault).await.kind());
        }
        sim.ends(&process, End::Ended(Outcome::default()), Arc::default(), Duration::ZERO);
        kinds
    });
    assert_eq!(kinds, [Kind::Corrupt, Kind::Fenced, Kind::Retry, Kind::Retry]);
}
