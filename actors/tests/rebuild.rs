//! Files of committed epochs that are lost before anybody has seen them are written once more; or it is said that they can't be.

use sluicebox_actors::model::fault::Kind;
use sluicebox_actors::model::position::Position;
use sluicebox_actors::model::row::ShardState;
use sluicebox_sim::plan::{Act, Op, Plan};
use sluicebox_sim::sim::{End, Sim, Tools, shard_id};
use sluicebox_sim::truth::{MINUTE, SECOND, T0, Truth};

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

#[test]
fn what_the_stream_has_forgotten_is_not_written_once_more_and_nobody_reads_on() {
    let sim = world(&Tools::default());
    assert!(lose(&sim, 1));
    let before = sim.store().rows[&shard_id(0)].clone();
    sim.store().streams.get_mut(&shard_id(0)).expect("a shard").forgotten = 1;
    let ran = sim.run(Plan { seed: 78, ..Plan::default() });
    let End::Ended(outcome) = ran.end else { panic!("{:?}", ran.end) };
    let [(_, fault)] = outcome.lost.as_slice() else { panic!("{:?}", outcome.lost) };
    assert_eq!(fault.kind(), Kind::Corrupt, "{fault}");
    assert!(fault.message().contains("the stream has 2 of its 3 records any more"), "{fault}");
    let after = sim.store().rows[&shard_id(0)].clone();
    assert_eq!((after.epoch, after.position, after.object), (before.epoch, before.position, before.object));
    assert!(after.position > Position::START);
}

#[test]
fn what_other_settings_made_is_not_written_once_more_until_they_are_back() {
    let mut sim = world(&Tools::default());
    assert!(lose(&sim, 1));
    let then = std::mem::replace(&mut sim.config.postmark.fingerprint, "another".into());
    let ran = sim.run(Plan { seed: 78, ..Plan::default() });
    let End::Ended(outcome) = ran.end else { panic!("{:?}", ran.end) };
    let [(_, fault)] = outcome.lost.as_slice() else { panic!("{:?}", outcome.lost) };
    assert!(fault.kind() == Kind::Corrupt && fault.message().contains("other settings"), "{fault}");
    sim.config.postmark.fingerprint = then;
    sim.drain();
    sim.assert_complete();
}
