//! Files of committed epochs that are lost before anybody has seen them are written once more; or it is said that they can't be.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use sluicebox_actors::machines::shard::OnGap;
use sluicebox_actors::model::fault::{Fault, Kind};
use sluicebox_actors::model::letter::CRASHES_WORKER;
use sluicebox_actors::model::position::Position;
use sluicebox_actors::model::row::ShardState;
use sluicebox_actors::pipeline::{Handed, Places, ingest};
use sluicebox_actors::toolkit::spawn::Place;
use sluicebox_sim::engine::SmallEngine;
use sluicebox_sim::plan::{Act, Op, Plan};
use sluicebox_sim::sim::{End, Script, Sim, Tools, shard_id};
use sluicebox_sim::truth::{Dialect, MINUTE, SECOND, T0, Truth};

const AGAIN: &str = "a file of a committed epoch is written once more";

/// A shard whose epochs have rows of two hours, a letter for a bad record, and one for a record that came too late.
fn world(tools: &Tools) -> Sim {
    let mut sim = Sim::with(tools.clone(), 41, 1);
    sim.config.shard.commit_size = 60;
    sim.config.fetch.records = 3;
    let put = |arrives: i64, minute: i64| {
        sim.event(0, T0 + arrives * MINUTE + SECOND, "key", T0 + minute * MINUTE, arrives);
    };
    [(0, 0), (1, 1), (2, 59), (3, 61), (4, 58), (5, 63)].into_iter().for_each(|(arrives, minute)| put(arrives, minute));
    sim.put(0, T0 + 6 * MINUTE, &[Truth::Bad]);
    [(300, 299), (301, 1), (302, 300), (303, 301)].into_iter().for_each(|(arrives, minute)| put(arrives, minute));
    sim
}

/// The process dies at this publication, and whatever was not visible then is lost.
fn lose(sim: &Sim, publication: u64) -> bool {
    let ran = sim.run(Plan { seed: 77, ..Plan::nth(Op::Publish, publication, Act::CrashBefore) });
    assert!(matches!(ran.end, End::Crashed), "{:?}", ran.end);
    sim.store().expire(|| true)
}

fn both() -> [Tools; 2] {
    [Tools::default(), Tools::apart()]
}

/// What travels in an epoch object can't be lost alone, and in this world every letter file is that small.
const CLASSES: [usize; 2] = [3, 2];

#[test]
fn every_file_that_is_lost_between_its_commit_and_its_publication_is_written_once_more() {
    for (tools, classes) in both().into_iter().zip(CLASSES) {
        let publications = world(&tools).drain().counts[&Op::Publish];
        assert!(publications > 8, "{publications}");
        let mut rebuilt = Vec::new();
        for publication in 0..publications {
            let sim = world(&tools);
            let lost = lose(&sim, publication);
            sim.drain();
            sim.assert_complete();
            let store = sim.store();
            assert_eq!(store.marks.contains_key(AGAIN), lost, "publication {publication}");
            let headers = store.commits.values().flatten().map(|commit| &commit.header);
            rebuilt.extend(headers.flat_map(|header| header.rebuilt.clone()).map(|output| output.class));
        }
        rebuilt.sort();
        rebuilt.dedup();
        assert_eq!(rebuilt.len(), classes, "{rebuilt:?}");
    }
}

#[test]
fn a_fault_anywhere_while_files_are_written_once_more_loses_and_doubles_nothing() {
    for tools in both() {
        let recovered = || {
            let sim = world(&tools);
            assert!(lose(&sim, 2), "a file of the first epoch is lost");
            sim
        };
        let operations = recovered().drain().operations;
        for index in 0..operations.min(90) {
            for act in [Act::CrashBefore, Act::CrashAfter, Act::CrashLate, Act::ErrBefore, Act::ErrAfter] {
                let sim = recovered();
                let ran = sim.run(Plan { seed: 78, late_at: 5, ..Plan::at(index, act) });
                let at = ran.trace.get(index as usize).cloned().unwrap_or_default();
                let early = sim.store().strangers();
                assert!(early.is_empty(), "{act:?} at {at}: visible without a commit: {early:?}");
                // And once more: what was written again may be lost again.
                sim.store().expire(|| true);
                sim.run(Plan { seed: 79, late_at: 5, ..Plan::default() }).good();
                let wrong = sim.wrong(&[]);
                assert!(wrong.is_empty(), "{act:?} at {at}: {wrong:#?}");
            }
        }
    }
}

#[test]
fn a_shard_that_has_ended_gets_its_files_back_although_it_takes_in_no_more() {
    for tools in both() {
        let ending = || {
            let mut sim = world(&tools);
            // All in one epoch, which is also the last one.
            (sim.config.shard.commit_size, sim.config.fetch.records) = (1 << 20, 100);
            sim.reshard(&[0]);
            sim
        };
        let mut given_back = 0;
        for publication in 0..ending().drain().counts[&Op::Publish] {
            let sim = ending();
            if lose(&sim, publication) && sim.store().rows[&shard_id(0)].state == ShardState::Drained {
                sim.drain();
                sim.assert_complete();
                given_back += sim.store().marks[AGAIN];
            }
        }
        assert!(given_back > 0);
    }
}

/// The one shard was given up for this.
fn given_up(sim: &Sim) -> Fault {
    let ran = sim.run(Plan { seed: 78, ..Plan::default() });
    let End::Ended(outcome) = ran.end else { panic!("{:?}", ran.end) };
    let [(_, fault)] = outcome.lost.as_slice() else { panic!("{:?}", outcome.lost) };
    assert_eq!(fault.kind(), Kind::Corrupt, "{fault}");
    fault.clone()
}

#[test]
fn what_the_stream_has_forgotten_is_not_written_once_more_and_nobody_reads_on() {
    let sim = world(&Tools::default());
    assert!(lose(&sim, 1));
    let before = sim.store().rows[&shard_id(0)].clone();
    sim.store().streams.get_mut(&shard_id(0)).expect("a shard").forgotten = 1;
    let fault = given_up(&sim);
    assert!(fault.message().contains("took in 3 records, and the stream has 2"), "{fault}");
    let after = sim.store().rows[&shard_id(0)].clone();
    assert_eq!((after.epoch, after.position, after.object), (before.epoch, before.position, before.object));
    assert!(after.position > Position::START);
}

#[test]
fn what_other_settings_made_is_not_written_once_more_until_they_are_back() {
    let mut sim = world(&Tools::default());
    assert!(lose(&sim, 1));
    let then = std::mem::replace(&mut sim.config.postmark.fingerprint, "another".into());
    let fault = given_up(&sim);
    assert!(fault.message().contains("other settings"), "{fault}");
    sim.config.postmark.fingerprint = then;
    sim.drain();
    sim.assert_complete();
}

#[test]
fn a_record_that_the_process_died_of_is_not_decoded_again() {
    let tools = Tools {
        engine: Arc::new(|having| Arc::new(SmallEngine::new(having).calling(CRASHES_WORKER))),
        dialect: Dialect { bad: "decode crashes_worker", ..Dialect::default() },
        ..Tools::default()
    };
    let mut refused = 0;
    for publication in 0..world(&tools).drain().counts[&Op::Publish] {
        let sim = world(&tools);
        lose(&sim, publication);
        let last = sim.store().commits[&shard_id(0)].last().expect("a commit").header.clone();
        if last.counts.rejected.is_empty() {
            sim.drain();
            sim.assert_complete();
        } else {
            let fault = given_up(&sim);
            assert!(fault.message().contains("the process died of"), "{fault}");
            refused += 1;
        }
    }
    assert!(refused > 0);
}

#[test]
fn of_several_epochs_those_are_written_once_more_that_can_be_and_the_others_wait_for_a_person() {
    let sim = world(&Tools::default());
    // Nothing is visible when it dies with the third commit.
    let nth = vec![(Op::Publish, 0, u64::MAX, Act::ErrBefore), (Op::RowUpdate, 2, 1, Act::CrashAfter)];
    let ran = sim.run(Plan { seed: 77, nth, ..Plan::default() });
    assert!(matches!(ran.end, End::Crashed), "{:?}", ran.end);
    assert!(sim.store().expire(|| true));
    let forget = |records: usize| sim.store().streams.get_mut(&shard_id(0)).expect("a shard").forgotten = records;
    forget(1);
    let before = sim.store().rows[&shard_id(0)].clone();
    for _ in 0..2 {
        let fault = given_up(&sim);
        assert!(fault.message().contains("took in 3 records, and the stream has 2"), "{fault}");
        let store = sim.store();
        let after = &store.rows[&shard_id(0)];
        assert_eq!((after.epoch, after.position), (before.epoch + 1, before.position), "once, and nobody reads on");
        let last = &store.commits[&shard_id(0)].last().expect("a commit").header;
        let epochs = |outputs: &[sluicebox_actors::model::epoch::PendingOutput]| {
            let mut epochs: Vec<u64> = outputs.iter().map(|output| output.epoch).collect();
            epochs.sort_unstable();
            epochs.dedup();
            epochs
        };
        assert_eq!((epochs(&last.rebuilt), epochs(&last.pending)), (vec![2, 3], vec![1, 2, 3]));
    }
    // Somebody brings the records back.
    forget(0);
    sim.drain();
    sim.assert_complete();
}

#[test]
fn whoever_is_asked_to_end_does_not_wait_for_a_stream_that_is_away() {
    let sim = world(&Tools::default());
    assert!(lose(&sim, 1));
    let away = Plan { seed: 78, nth: vec![(Op::StreamRead, 0, u64::MAX, Act::ErrBefore)], ..Plan::default() };
    let stop: Script = Box::new(|hands| {
        Box::pin(async move {
            tokio::time::sleep(Duration::from_secs(30)).await;
            hands.stop.send_replace(true);
            std::future::pending::<()>().await;
        })
    });
    let ran = sim.run_with(away, stop).good();
    assert!((30..40).contains(&ran.took.as_secs()), "{:?}", ran.took);
    sim.drain();
    sim.assert_complete();
}

#[test]
fn an_epoch_that_was_handed_over_is_written_once_more_without_what_lay_before_it() {
    let mut sim = world(&Tools::default());
    // Numbers are dense here, so that what was not handed over shows; on Kinesis nobody sees it.
    sim.config.shard.on_gap = OnGap::Continue;
    let hand = |plan: Plan| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let local = tokio::task::LocalSet::new();
        local.block_on(&runtime, async {
            let (process, parts) = sim.starts(sim.seeded(plan));
            let records: Vec<_> = {
                let store = sim.store();
                store.streams[&shard_id(0)].records[4..9].iter().flatten().map(|logged| logged.raw.clone()).collect()
            };
            let handed = Handed { shard: shard_id(0), records, open: Box::new(|records, _| records) };
            let work = ingest(parts, Places(vec![Place::Here]), handed, Duration::from_secs(50));
            let done = tokio::select! {
                biased;
                () = process.died.notified() => None,
                done = work => Some(done),
            };
            sim.ends(&process, End::Crashed, Arc::default(), Duration::ZERO);
            done
        })
    };
    let first = hand(Plan::nth(Op::Publish, 0, Act::CrashBefore));
    assert!(first.is_none(), "{first:?}");
    let sorted = |lines: &[String]| {
        let mut lines = lines.to_vec();
        lines.sort();
        lines
    };
    let header = sim.store().commits[&shard_id(0)].last().expect("a commit").header.clone();
    assert!(header.unproven_start && header.counts.received == 5, "{header:?}");
    let staged: BTreeMap<_, _> = {
        let store = sim.store();
        header.pending.iter().map(|output| (output.path.clone(), sorted(&store.staged[&output.staged].lines))).collect()
    };
    assert!(staged.len() > 2 && sim.store().expire(|| true));
    let second = hand(Plan { seed: 3, ..Plan::default() });
    assert!(matches!(second, Some(Ok(_))), "{second:?}");
    let store = sim.store();
    assert!(store.marks.contains_key(AGAIN));
    let visible: BTreeMap<_, _> = store.visible.iter().map(|(path, file)| (path.clone(), sorted(&file.lines))).collect();
    assert_eq!(visible, staged);
}
