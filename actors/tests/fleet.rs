//! Several workers share the shards of a stream: shares, takeovers, handing over, and one maker of Gold.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sluicebox_sim::coverage::Coverage;
use sluicebox_sim::plan::{Act, Op, Plan, Rng};
use sluicebox_sim::sim::{End, Script, Sim, Tools, quietly, stop_after};
use sluicebox_sim::store::File;
use sluicebox_sim::swarm::Arena;
use sluicebox_sim::trace::Keep;
use sluicebox_sim::truth::SECOND;

use crate::threads::for_each_below;

const SEEDS: u64 = 600;
const FAILOVER: Duration = Duration::from_secs(3);

#[test]
fn hundreds_of_random_fleets_lose_and_double_nothing_and_meet_what_they_are_for() {
    let met = Mutex::new(Coverage::default());
    for_each_below(SEEDS, |seed| {
        let survived = Arena::default().survive_fleet(seed).map_err(|failure| failure.to_string())?;
        met.lock().unwrap().add(&survived.coverage);
        Ok(())
    });
    let met = met.into_inner().unwrap();
    for op in [Op::LeaseBeat, Op::LeaseGet, Op::LeaseUpdate] {
        for fault in ["error before", "answer lost"] {
            assert!(met.times(op, fault) > 0, "no seed meets {op:?} {fault}:\n{met}");
        }
        let crashes = ["crash before", "crash after", "arrives after crash"].map(|fault| met.times(op, fault));
        assert!(crashes.iter().sum::<u64>() > 0, "no process dies at {op:?}:\n{met}");
    }
    for situation in [
        "a shard is let go",
        "a shard is let go for another worker",
        "a stale commit is refused",
        "takeover beside a process that lives",
        "a child opens",
    ] {
        assert!(met.marks.contains_key(situation), "it never happens that {situation}:\n{met}");
    }
}

/// As on AWS: whoever takes a shard over finds of its last owner what that one put into the store, and nothing else.
#[test]
fn random_fleets_that_share_no_disk_lose_and_double_nothing() {
    let met = Mutex::new(Coverage::default());
    for_each_below(SEEDS / 2, |seed| {
        let arena = Arena { tools: Tools::apart(), ..Arena::default() };
        let survived = arena.survive_fleet(1_000_000 + seed).map_err(|failure| failure.to_string())?;
        met.lock().unwrap().add(&survived.coverage);
        Ok(())
    });
    let met = met.into_inner().unwrap();
    for fault in ["error before", "answer lost", "twice"] {
        assert!(met.times(Op::Hold, fault) > 0, "no seed meets {fault}:\n{met}");
    }
    let crashes = ["crash before", "crash after", "arrives after crash"].map(|fault| met.times(Op::Hold, fault));
    assert!(crashes.iter().sum::<u64>() > 0, "no process dies at it:\n{met}");
    for situation in [
        "a file is held in its epoch object",
        "a file is held as an upload",
        "a file of a committed epoch is written once more",
        "a file is published by its owner's successor",
        "a file is published again",
        "an upload that nobody named is ended",
    ] {
        assert!(met.marks.contains_key(situation), "it never happens that {situation}:\n{met}");
    }
}

#[test]
fn the_same_fleet_gives_the_same_trace_to_the_last_operation() {
    for seed in (0..SEEDS).step_by(40) {
        let run = || Arena { keep: Keep::Everything, ..Arena::default() }.survive_fleet(seed).expect("keeps the rules");
        let (first, second) = (run(), run());
        let differs = first.trace.iter().zip(&second.trace).find(|(a, b)| a != b);
        assert_eq!((differs, first.hash), (None, second.hash), "seed {seed}");
    }
}

fn serving(seed: u64, shards: usize) -> Sim {
    serves(Sim::new(seed, shards), 20)
}

/// A world of a fleet that waits for more, with so many records in each shard.
fn serves(mut sim: Sim, records: u64) -> Sim {
    (sim.failover, sim.config.shard.drain) = (Some(FAILOVER), false);
    let (shards, mut rng) = (sim.store().streams.len(), Rng(sim.seed));
    (0..shards).for_each(|shard| sim.fill(shard, records, &mut rng));
    sim
}

fn calm(seed: u64) -> Plan {
    Plan { seed, latency_ms: 3, ..Plan::default() }
}

fn shares(sim: &Sim) -> BTreeMap<String, usize> {
    let mut shares = BTreeMap::new();
    for row in sim.store().rows.values() {
        *shares.entry(row.owner.clone()).or_default() += 1;
    }
    shares
}

/// Ends a process after this time, and tells who had what at that moment.
fn look_and_stop(sim: &Sim, after: Duration, seen: &Arc<Mutex<BTreeMap<String, usize>>>) -> Script {
    let (sim, seen) = (sim.clone(), seen.clone());
    Box::new(move |hands| {
        Box::pin(async move {
            tokio::time::sleep(after).await;
            *seen.lock().unwrap() = shares(&sim);
            hands.stop.send_replace(true);
        })
    })
}

#[test]
fn three_workers_share_eight_shards_evenly_and_hand_them_over_without_losing_a_commit() {
    let sim = serving(1, 8);
    let seen = Arc::default();
    let ran = sim.run_many(vec![
        (Duration::ZERO, calm(1), stop_after(Duration::from_secs(60))),
        (Duration::from_secs(7), calm(2), stop_after(Duration::from_secs(53))),
        (Duration::from_secs(20), calm(3), look_and_stop(&sim, Duration::from_secs(39), &seen)),
    ]);
    ran.into_iter().for_each(|ran| drop(ran.good()));
    let mut loads: Vec<_> = seen.lock().unwrap().values().copied().collect();
    loads.sort_unstable();
    assert_eq!(loads, [2, 3, 3]);
    // Whoever is told to stop lets everything go: nobody has to wait for the failover time.
    assert_eq!(shares(&sim), BTreeMap::from([(String::new(), 8)]));
    let marks = sim.store().marks.clone();
    assert!(!marks.contains_key("a stale commit is refused"), "a shard changed hands before it was let go: {marks:?}");
    peace(sim);
}

#[test]
fn the_shards_of_a_worker_that_dies_are_taken_over_and_gold_is_made_by_another() {
    let sim = serving(2, 4);
    let seen = Arc::default();
    // The first has everything, and Gold, before the second comes; it dies at its 400th operation.
    let dies = Plan { at: BTreeMap::from([(400, Act::CrashBefore)]), ..calm(4) };
    let ran = sim.run_many(vec![
        (Duration::ZERO, dies, quietly()),
        (Duration::from_secs(5), calm(5), look_and_stop(&sim, Duration::from_secs(60), &seen)),
    ]);
    assert!(matches!(ran[0].end, End::Crashed), "{:?}", ran[0].end);
    assert_eq!(*seen.lock().unwrap(), BTreeMap::from([("simulated:2".to_owned(), 4)]));
    assert_eq!(sim.store().leases["gold"].epoch, 2);
    peace(sim);
}

#[test]
fn gold_is_made_of_what_every_worker_commits() {
    let sim = serving(3, 4);
    let ran = sim.run_many(vec![
        (Duration::ZERO, calm(6), stop_after(Duration::from_secs(90))),
        (Duration::from_secs(1), calm(7), stop_after(Duration::from_secs(89))),
    ]);
    ran.into_iter().for_each(|ran| drop(ran.good()));
    // No peace yet: what two workers committed is in Gold while both were serving.
    let store = sim.store();
    assert!(!store.gold.is_empty());
    let (mut newest, mut shards) = (i64::MIN, std::collections::BTreeSet::new());
    for shown in store.gold.values() {
        newest = newest.max(shown.row.end_us);
        shards.extend(shown.row.vector.keys().cloned());
    }
    assert_eq!(shards.len(), 4, "up to {}", newest / SECOND);
    drop(store);
    peace(sim);
}

/// Nobody takes a shard over that has ended well: what its owner began and did not hear of is ended by himself.
#[test]
fn uploads_whose_answers_were_lost_are_ended_before_their_shards_are_let_go() {
    let sim = serves(Sim::with(Tools::apart(), 4, 2), 60);
    // Each begins twice, and the first is not heard of.
    let plan = Plan { nth: vec![(Op::Hold, 0, 1_000, Act::Twice)], ..calm(8) };
    let ran = sim.run_many(vec![(Duration::ZERO, plan, stop_after(Duration::from_secs(60)))]);
    ran.into_iter().for_each(|ran| drop(ran.good()));
    let store = sim.store();
    assert!(store.uploads_begun > 8, "{} uploads", store.uploads_begun);
    assert_eq!(store.uploads, BTreeMap::new());
    drop(store);
    peace(sim);
}

#[test]
fn whoever_stops_leaves_gold_to_another_worker_within_the_failover_time() {
    let mut sim = serving(5, 2);
    // Every file of Gold takes so long that all of them would take an hour.
    let slow = |seed| Plan { nth: vec![(Op::GoldPublish, 0, 400, Act::Stall(Duration::from_secs(20)))], ..calm(seed) };
    let ran = sim.run_many(vec![(Duration::ZERO, slow(9), stop_after(Duration::from_secs(30)))]);
    let took = ran[0].took;
    ran.into_iter().for_each(|ran| drop(ran.good()));
    assert!(took < Duration::from_secs(30) + 2 * FAILOVER, "{took:?}");
    assert_eq!(sim.store().leases["gold"].owner, "", "others need not wait");
    let due = sim.store().windows.values().filter(|row| row.published < row.revision).count();
    assert!(due > 0, "there was nothing left to do: the test says nothing");
    sim.failover = None;
    peace(sim);
}

#[test]
fn whoever_waits_for_services_that_are_away_ends_when_asked_to() {
    let sim = serving(6, 1);
    let away = Plan { nth: vec![(Op::StreamShards, 0, 1_000_000, Act::ErrBefore)], ..calm(10) };
    let ran = sim.run_many(vec![(Duration::ZERO, away, stop_after(Duration::from_secs(40)))]);
    let ran = ran.into_iter().next().expect("one").good();
    assert_eq!(ran.took, Duration::from_secs(40));
    peace(sim);
}

/// Its successor can't reach its disk, and it may never have the shard again.
#[test]
fn a_worker_that_lost_a_shard_in_the_middle_of_an_epoch_removes_what_it_had_staged() {
    let sim = serves(Sim::with(Tools::apart(), 9, 2), 60);
    let freezes = Plan { nth: vec![(Op::BlobPut, 3, 1, Act::Freeze(Duration::from_secs(10)))], ..calm(10) };
    let stale = Arc::new(Mutex::new(Vec::new()));
    let (world, at_the_end) = (sim.clone(), stale.clone());
    let looks: Script = Box::new(move |hands| {
        Box::pin(async move {
            for after in [15, 30] {
                tokio::time::sleep(Duration::from_secs(after)).await;
                let store = world.store();
                let is_stale = |file: &&File| file.lease_epoch < store.rows[&file.shard].lease_epoch;
                at_the_end.lock().unwrap().push(store.staged.values().filter(is_stale).count());
            }
            hands.stop.send_replace(true);
        })
    });
    let ran = sim.run_many(vec![
        (Duration::ZERO, freezes, looks),
        (Duration::from_secs(1), calm(11), stop_after(Duration::from_secs(60))),
    ]);
    ran.into_iter().for_each(|ran| drop(ran.good()));
    let marks = sim.store().marks.clone();
    assert!(marks.contains_key("takeover beside a process that lives"), "{marks:?}");
    assert!(marks.contains_key("files that were staged under a lost lease are deleted"), "{marks:?}");
    assert_eq!(*stale.lock().unwrap(), [0, 0]);
    peace(sim);
}

/// Its last epoch is true, and its successor is about to show the files.
#[test]
fn a_worker_that_lost_a_shard_leaves_what_its_last_epoch_names_to_its_successor() {
    let sim = serves(Sim::new(12, 2), 60);
    let freezes = Plan { nth: vec![(Op::Publish, 0, 1, Act::Freeze(Duration::from_secs(10)))], ..calm(12) };
    let slow = Plan { nth: vec![(Op::Publish, 0, 2, Act::Stall(Duration::from_secs(30)))], ..calm(13) };
    let ran = sim.run_many(vec![
        (Duration::ZERO, freezes, stop_after(Duration::from_secs(90))),
        (Duration::from_secs(1), slow, stop_after(Duration::from_secs(89))),
    ]);
    ran.into_iter().for_each(|ran| drop(ran.good()));
    let marks = sim.store().marks.clone();
    assert!(marks.contains_key("takeover beside a process that lives"), "{marks:?}");
    assert!(!marks.contains_key("a file of a committed epoch is written once more"), "{marks:?}");
    peace(sim);
}

fn peace(mut sim: Sim) {
    sim.config.shard.drain = true;
    sim.store().now_us += 600 * SECOND;
    sim.drain();
    sim.assert_complete();
}
