//! The process dies at every single operation, and another one takes over.

use std::sync::Arc;
use std::time::Duration;

use crate::drain::filled;
use sluicebox_actors::history::take_over;
use sluicebox_actors::model::fault::Kind;
use sluicebox_actors::ports::Clock;
use sluicebox_sim::files::Files;
use sluicebox_sim::plan::{Act, Op, Plan, Rng};
use sluicebox_sim::process::Process;
use sluicebox_sim::sim::{End, Script, Sim, shard_id};
use sluicebox_sim::trace::Keep;

const SECONDS: Duration = Duration::from_secs(10);

/// Two shards, three hours, a few epochs each.
fn small() -> Sim {
    let mut sim = filled(21, 2, 18);
    sim.config.shard.commit_size = 60;
    sim.config.fetch.records = 4;
    sim.config.gold.collect_after = 2;
    sim
}

/// A shard that splits, and a merge of one of its children with another shard.
fn lineage() -> Sim {
    let sim = Sim::new(22, 2);
    let mut rng = Rng(22);
    sim.fill(0, 8, &mut rng);
    sim.fill(1, 10, &mut rng);
    sim.add_shard(2, &[0]);
    sim.add_shard(3, &[0]);
    sim.fill(2, 6, &mut rng);
    sim.add_shard(4, &[1, 2]);
    sim.fill(3, 6, &mut rng);
    sim.fill(4, 6, &mut rng);
    sim
}

fn operations(world: fn() -> Sim) -> u64 {
    let sim = world();
    let ran = sim.drain();
    sim.assert_complete();
    ran.operations
}

/// Every operation of a quiet run, with a fault; then a new process.
fn sweep(world: fn() -> Sim, acts: &[Act], late_at: u64) {
    let quiet = operations(world);
    assert!(quiet > 150, "{quiet}");
    for index in 0..quiet {
        for act in acts {
            let sim = world();
            let ran = sim.run(Plan { seed: 77, ..Plan::at(index, *act) });
            let crash = matches!(act, Act::CrashBefore | Act::CrashAfter | Act::CrashLate);
            let ended = matches!(&ran.end, End::Ended(outcome) if outcome.is_good());
            let expected = if crash { matches!(ran.end, End::Crashed) } else { ended };
            let at = ran.trace.get(index as usize).cloned().unwrap_or_default();
            assert!(expected, "{act:?} at {at}: {:?} after {:?}", ran.end, ran.took);
            let early = sim.store().strangers();
            assert!(early.is_empty(), "{act:?} at {at}: visible without a commit: {early:?}");
            let again = sim.run(Plan { seed: 78, late_at, ..Plan::default() });
            assert!(matches!(&again.end, End::Ended(outcome) if outcome.is_good()), "after {act:?} at {at}: {:?}", again.end);
            if *act == Act::CrashLate {
                // What arrived late lies there for good: the next start must make sense of it.
                sim.drain();
            }
            let wrong = sim.wrong(&[]);
            assert!(wrong.is_empty(), "{act:?} at {at}: {wrong:#?}");
        }
    }
}

#[test]
fn a_crash_before_or_after_any_operation_loses_and_doubles_nothing() {
    sweep(small, &[Act::CrashBefore, Act::CrashAfter], 5);
}

#[test]
fn an_operation_that_arrives_after_its_process_has_died_changes_nothing() {
    sweep(small, &[Act::CrashLate], 60);
}

#[test]
fn a_deletion_that_arrives_while_the_next_process_reads_its_chains_is_no_damage() {
    let deletions = small().drain().counts[&Op::BlobDelete];
    assert!(deletions > 2, "{deletions}");
    for nth in 0..deletions {
        for late_at in 5..50 {
            let sim = small();
            sim.run(Plan { seed: 77, ..Plan::nth(Op::BlobDelete, nth, Act::CrashLate) });
            sim.run(Plan { seed: 78, late_at, ..Plan::default() }).good();
            let wrong = sim.wrong(&[]);
            assert!(wrong.is_empty(), "{nth}, arrives at {late_at}: {wrong:#?}");
        }
    }
}

#[test]
fn a_commit_that_arrives_between_the_start_of_gold_and_the_takeover_is_in_gold() {
    for late_at in 0..40 {
        let sim = filled(26, 2, 4);
        let ran = sim.run(Plan { seed: 77, ..Plan::nth(Op::RowUpdate, 0, Act::CrashLate) });
        assert!(matches!(ran.end, End::Crashed));
        sim.run(Plan { seed: 78, late_at, ..Plan::default() }).good();
        let wrong = sim.wrong(&[]);
        assert!(wrong.is_empty(), "arrives at {late_at}: {wrong:#?}");
    }
}

#[test]
fn a_crash_anywhere_around_a_split_and_a_merge_loses_and_doubles_nothing() {
    sweep(lineage, &[Act::CrashBefore, Act::CrashAfter], 5);
}

#[test]
fn a_lost_answer_anywhere_changes_nothing() {
    sweep(small, &[Act::ErrBefore, Act::ErrAfter], 5);
    sweep(lineage, &[Act::ErrAfter], 5);
}

#[test]
fn a_crash_during_recovery_loses_and_doubles_nothing() {
    let quiet = operations(small);
    for index in (0..quiet).step_by(13) {
        for then in (0..60).step_by(3) {
            let sim = small();
            sim.run(Plan { seed: 77, ..Plan::at(index, Act::CrashAfter) });
            sim.run(Plan { seed: 78, ..Plan::at(then, Act::CrashAfter) });
            sim.drain();
            let wrong = sim.wrong(&[]);
            assert!(wrong.is_empty(), "{index}, then {then}: {wrong:#?}");
        }
    }
}

#[test]
fn a_process_that_wakes_up_after_another_took_over_is_fenced_and_changes_nothing() {
    let quiet = operations(small);
    for index in (0..quiet).step_by(2) {
        let sim = small();
        let freeze = Plan { seed: 77, ..Plan::at(index, Act::Freeze(Duration::from_secs(120))) };
        let (first, second) = sim.run_beside(freeze, Plan { seed: 78, ..Plan::default() });
        let at = first.trace.get(index as usize).cloned().unwrap_or_default();
        assert!(matches!(&second.end, End::Ended(outcome) if outcome.is_good()), "second, frozen at {at}: {:?}", second.end);
        assert!(matches!(&first.end, End::Ended(outcome) if outcome.is_good()), "first, frozen at {at}: {:?}", first.end);
        let wrong = sim.wrong(&[]);
        assert!(wrong.is_empty(), "frozen at {at}: {wrong:#?}");
    }
}

#[test]
fn of_two_workers_with_one_name_that_take_a_shard_at_once_only_one_has_it() {
    let sim = filled(24, 1, 6);
    sim.drain();
    let take = |plan: Plan, after: Duration| {
        let process = Process::new(sim.store.clone(), plan, Keep::Everything, 1 << 20);
        async move {
            tokio::time::sleep(after).await;
            let files = Files::on_one_disk(&process);
            let clock: Arc<dyn Clock> = process.clone();
            let taken = take_over(process.as_ref(), process.as_ref(), &files, &clock, &shard_id(0), "same:1").await;
            taken.map(|taken| taken.row)
        }
    };
    // The first one's swap does not happen; before it can read the row, the second one has taken the lease.
    let unlucky =
        Plan { nth: vec![(Op::RowLease, 0, 1, Act::ErrBefore), (Op::RowGet, 1, 1, Act::Stall(SECONDS))], ..Plan::default() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let both =
        async { tokio::join!(take(unlucky, Duration::ZERO), take(Plan { seed: 2, ..Plan::default() }, Duration::from_secs(1))) };
    let (first, second) = runtime.block_on(both);
    assert_eq!(first.unwrap_err().kind(), Kind::Fenced);
    assert_eq!(second.unwrap().lease_epoch, sim.store().rows[&shard_id(0)].lease_epoch);
}

#[test]
fn a_child_opens_with_what_its_parents_committed_and_not_with_what_a_lost_try_promised() {
    let mut sim = Sim::new(25, 2);
    let start = sim.store().now_us;
    sim.event(0, start, "idle", start, 1);
    sim.config.shard.drain = false;
    let copy = sim.clone();
    let split: Script = Box::new(move |hands| {
        Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(20_500)).await;
            copy.reshard(&[0]);
            std::future::pending::<()>().await;
            drop(hands);
        })
    });
    // Two rows at the start, two for the children, written under a bound that the clock has raised; then the process dies.
    let ran = sim.run_with(Plan::nth(Op::RowCreate, 3, Act::CrashAfter), split);
    assert!(matches!(ran.end, End::Crashed), "{:?}", ran.end);
    assert_eq!(sim.store().rows.len(), 4);
    sim.config.shard.drain = true;
    sim.drain();
    sim.assert_complete();
}

/// Somebody else takes the first shard's lease.
fn take_away(store: &std::sync::Mutex<sluicebox_sim::store::Store>) {
    let mut store = sluicebox_sim::sim::lock(store);
    let row = store.rows.values_mut().next().expect("a row");
    row.lease_epoch += 1;
    row.owner = "somebody else".to_owned();
}

#[test]
fn a_fenced_generation_ends_and_its_shard_is_taken_again() {
    let sim = filled(23, 1, 60);
    let ran = sim.run_with(
        Plan { latency_ms: 40, ..Plan::default() },
        Box::new(|hands| {
            Box::pin(async move {
                tokio::time::sleep(Duration::from_millis(200)).await;
                take_away(&hands.store);
                std::future::pending::<()>().await;
            })
        }),
    );
    let live = ran.good().board.all().remove(0).1;
    assert_eq!(live.restarts, 1);
    assert!(live.last_fault.expect("a fault").contains("lease"), "told as what it was");
    sim.assert_complete();
    assert!(sim.store().rows.values().all(|row| row.lease_epoch == 3));
}

#[test]
fn the_small_world_is_what_the_sweeps_say_it_is() {
    let sim = small();
    let ran = sim.drain();
    let store = sim.store();
    assert!(store.commits.values().all(|commits| commits.len() >= 4), "epochs");
    assert!(store.gold.keys().filter(|(table, _)| table == "hourly").count() >= 3, "windows");
    // It has no sinks: the world of the sweep has.
    let sinks = [Op::FeedRows, Op::FeedGet, Op::FeedUpdate, Op::GoldDecode, Op::LettersRead, Op::SinkFeed, Op::SinkSend];
    // Nor a second collection of one shard, which reads what the first has written: collect.rs has many.
    let seldom = [Op::FilesFlush, Op::LedgerGet];
    for op in &sluicebox_sim::plan::OPS[..sluicebox_sim::plan::ALONE] {
        assert!(ran.counts.contains_key(op) || seldom.contains(op) || sinks.contains(op), "{op:?} never occurs");
    }
    assert!(!store.ledger.is_empty(), "something was collected");
}
