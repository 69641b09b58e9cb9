//! What one shard's trouble does to the others, and how a drain ends all the same.

use std::time::Duration;

use sluicebox_actors::machines::breaker::BreakerConfig;
use sluicebox_actors::machines::restart::{RestartConfig, Restarts, Verdict};
use sluicebox_actors::machines::shard::OnGap;
use sluicebox_actors::model::fault::{Fault, Kind};
use sluicebox_actors::model::position::ShardId;
use sluicebox_actors::model::row::ShardState;
use sluicebox_actors::toolkit::board::Life;

use crate::drain::filled;
use sluicebox_sim::plan::{Act, Op, Plan, Rng};
use sluicebox_sim::sim::{End, Ran, Sim, shard_id, stop_after};
use sluicebox_sim::truth::{SECOND, T0, Truth};

/// Few restarts, as in production.
const STRICT: RestartConfig =
    RestartConfig { backoff_min_us: 200_000, backoff_max_us: SECOND, intensity: 5, period_us: 60 * SECOND };

#[track_caller]
fn lost(ran: &Ran) -> Vec<(ShardId, Fault)> {
    let End::Ended(outcome) = &ran.end else { panic!("{:?}", ran.end) };
    assert!(outcome.gold.is_none(), "{:?}", outcome.gold);
    outcome.lost.clone()
}

#[test]
fn a_shard_that_always_fails_is_quarantined_and_the_others_go_on_and_the_drain_ends() {
    let mut sim = filled(41, 3, 40);
    sim.config.restart = STRICT;
    sim.put(1, T0, &[Truth::Boom]);
    let ran = sim.run(Plan::default());
    let lost = lost(&ran);
    assert_eq!(lost.len(), 1);
    assert_eq!(lost[0].0, shard_id(1));
    assert!(lost[0].1.message().contains("partition panicked"), "{:?}", lost[0].1);
    assert_eq!(ran.board.get(&shard_id(1)).expect("known").life, Life::Quarantined);
    assert!(ran.took < Duration::from_secs(60), "{:?}", ran.took);
    sim.assert_complete_but(&[shard_id(1)]);
}

#[test]
fn a_storm_of_bad_records_trips_the_breaker_and_the_drain_ends_with_the_shards_name() {
    let mut sim = filled(42, 2, 40);
    sim.config.shard.breaker = BreakerConfig { enabled: true, share: 0.5, window: 20 };
    for _ in 0..60 {
        sim.put(0, T0, &[Truth::Bad]);
    }
    let ran = sim.run(Plan::default());
    let lost = lost(&ran);
    assert_eq!(lost.len(), 1);
    assert_eq!((&lost[0].0, lost[0].1.kind()), (&shard_id(0), Kind::Poison));
    assert_eq!(ran.board.get(&shard_id(0)).expect("known").life, Life::Tripped);
    sim.assert_complete_but(&[shard_id(0)]);
    let letters = sim.store().commits[&shard_id(0)].iter().map(|commit| commit.judged.bad).sum::<u64>();
    assert!(letters < 40, "the stream was not drained into the letters: {letters}");
}

#[test]
fn records_that_the_stream_has_forgotten_halt_the_shard() {
    let sim = filled(43, 2, 40);
    sim.store().streams.get_mut(&shard_id(0)).expect("a shard").forgotten = 7;
    let ran = sim.run(Plan::default());
    let lost = lost(&ran);
    assert_eq!((lost.len(), lost[0].1.kind()), (1, Kind::Corrupt));
    assert!(lost[0].1.message().starts_with("gap: "), "{}", lost[0].1);
    assert!(!sim.store().commits.contains_key(&shard_id(0)), "nothing is committed behind a gap");
    sim.assert_complete_but(&[shard_id(0)]);
}

#[test]
fn where_gaps_are_accepted_each_is_counted_once_and_the_rest_is_complete() {
    let mut sim = Sim::new(44, 1);
    sim.fill(0, 20, &mut Rng(44));
    sim.config.shard.on_gap = OnGap::Continue;
    // All there is is forgotten, and the next record comes only after many reads have said so.
    let now = sim.store().now_us;
    sim.store().streams.get_mut(&shard_id(0)).expect("a shard").forgotten = 20;
    sim.event(0, now + 30 * SECOND, "after", T0, 5);
    sim.config.shard.drain = false;
    sim.run_with(Plan::default(), stop_after(Duration::from_secs(40))).good();
    let wrong = sim.wrong(&[shard_id(0)]);
    assert!(wrong.iter().all(|rule| rule.contains("shown") || rule.contains("shows None")), "Gold is not due yet: {wrong:?}");
    let store = sim.store();
    let gaps: u64 = store.commits[&shard_id(0)].iter().map(|commit| commit.header.counts.gaps).sum();
    assert_eq!(gaps, 1);
    assert_eq!(store.rows[&shard_id(0)].position, store.streams[&shard_id(0)].end());
}

#[test]
fn the_child_of_a_shard_that_was_given_up_never_opens_and_the_drain_ends() {
    let mut sim = filled(45, 2, 20);
    sim.config.restart = STRICT;
    sim.put(0, T0, &[Truth::Boom]);
    sim.add_shard(2, &[0]);
    sim.event(2, T0, "child", T0, 1);
    let ran = sim.run(Plan::default());
    assert_eq!(lost(&ran).len(), 1);
    assert!(!sim.store().commits.contains_key(&shard_id(2)));
    sim.assert_complete_but(&[shard_id(0), shard_id(2)]);
}

#[test]
fn a_drain_ends_beside_shards_that_ended_and_shards_that_never_had_a_record() {
    let sim = Sim::new(46, 2);
    sim.fill(0, 20, &mut Rng(46));
    sim.add_shard(2, &[0]);
    sim.add_shard(3, &[0]);
    // The one that never had a record comes up only when the others are done.
    let slow = Plan::nth(Op::RowLease, 1, Act::Stall(Duration::from_secs(20)));
    sim.run(slow).good();
    sim.assert_complete();
    let store = sim.store();
    assert!(store.rows.values().all(|row| row.bound == store.rows[&shard_id(0)].bound), "all follow the one that had records");
    assert!(store.gold.values().any(|shown| shown.row.status == sluicebox_actors::model::row::WindowStatus::Sealed));
}

#[test]
fn a_split_and_a_merge_keep_everything_in_order() {
    let sim = Sim::new(47, 2);
    let mut rng = Rng(47);
    sim.fill(0, 30, &mut rng);
    sim.fill(1, 10, &mut rng);
    sim.add_shard(2, &[0]);
    sim.add_shard(3, &[0]);
    sim.fill(3, 20, &mut rng);
    sim.add_shard(4, &[1, 2]);
    sim.fill(4, 20, &mut rng);
    sim.drain();
    sim.assert_complete();
    let store = sim.store();
    assert_eq!(store.rows.len(), 5);
    assert_eq!(store.rows.values().filter(|row| row.state == ShardState::Drained).count(), 3);
}

#[test]
fn a_shard_that_splits_while_it_is_read_hands_over_to_its_children() {
    let mut sim = Sim::new(48, 1);
    sim.config.shard.drain = false;
    sim.fill(0, 20, &mut Rng(48));
    let (copy, mut rng) = (sim.clone(), Rng(49));
    let script: sluicebox_sim::sim::Script = Box::new(move |hands| {
        Box::pin(async move {
            tokio::time::sleep(Duration::from_secs(3)).await;
            copy.add_shard(1, &[0]);
            copy.add_shard(2, &[0]);
            copy.fill(1, 10, &mut rng);
            copy.fill(2, 10, &mut rng);
            tokio::time::sleep(Duration::from_secs(5)).await;
            hands.stop.send_replace(true);
        })
    });
    sim.run_with(Plan::default(), script).good();
    sim.config.shard.drain = true;
    sim.drain();
    sim.assert_complete();
}

#[test]
fn a_merge_waits_for_a_parent_that_has_no_row_yet() {
    let mut sim = Sim::new(49, 2);
    sim.config.shard.drain = false;
    sim.config.fetch.records = 1;
    sim.fill(0, 300, &mut Rng(49));
    let copy = sim.clone();
    let script: sluicebox_sim::sim::Script = Box::new(move |hands| {
        Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(500)).await;
            // Shard 1 ends at once; shard 2, which it is merged with, is born only when shard 0 is read to its end.
            let children = copy.reshard(&[0]);
            let merged = copy.reshard(&[1, children[0]]);
            copy.fill(children[0], 5, &mut Rng(50));
            copy.fill(merged[0], 5, &mut Rng(51));
            tokio::time::sleep(Duration::from_secs(3)).await;
            let state = |index: usize| copy.store().rows.get(&shard_id(index)).map(|row| row.state);
            assert_eq!((state(1), state(4)), (Some(ShardState::Drained), Some(ShardState::Blocked)));
            tokio::time::sleep(Duration::from_secs(30)).await;
            hands.stop.send_replace(true);
        })
    });
    sim.run_with(Plan { latency_ms: 60, ..Plan::default() }, script).good();
    sim.config.shard.drain = true;
    sim.drain();
    sim.assert_complete();
}

#[test]
fn a_fault_that_does_not_heal_gives_its_shard_up_at_once() {
    for kind in [Kind::Corrupt, Kind::Config] {
        let sim = filled(51, 2, 40);
        // The first object of all is that of an epoch: later ones may be Gold's.
        let ran = sim.run(Plan::nth(Op::BlobPut, 0, Act::Fail(kind)));
        let lost = lost(&ran);
        assert_eq!((lost.len(), lost[0].1.kind()), (1, kind));
        assert_eq!(ran.board.get(&lost[0].0).expect("known").restarts, 0);
        sim.assert_complete_but(&[lost[0].0.clone()]);
    }
}

#[test]
fn a_stream_that_refuses_for_good_refuses_the_run() {
    let sim = filled(52, 1, 10);
    let ran = sim.run(Plan::nth(Op::StreamShards, 0, Act::Fail(Kind::Config)));
    assert!(matches!(&ran.end, End::Refused(fault) if fault.kind() == Kind::Config), "{:?}", ran.end);
    assert!(sim.store().rows.is_empty());
}

#[test]
fn gold_that_meets_damage_is_given_up_and_told_and_the_shards_go_on() {
    let sim = filled(53, 2, 40);
    let ran = sim.run(Plan::nth(Op::GoldPublish, 0, Act::Fail(Kind::Corrupt)));
    let End::Ended(outcome) = &ran.end else { panic!("{:?}", ran.end) };
    assert!(outcome.lost.is_empty() && outcome.gold.as_ref().is_some_and(|fault| fault.kind() == Kind::Corrupt), "{outcome:?}");
    // Looked at by a person, started again: nothing is missing.
    sim.drain();
    sim.assert_complete();
}

#[test]
fn a_quarantined_shard_does_not_end_a_service() {
    let mut sim = filled(50, 2, 30);
    sim.config.restart = STRICT;
    sim.config.shard.drain = false;
    sim.put(0, T0, &[Truth::Boom]);
    let now = sim.store().now_us;
    sim.event(1, now + 60 * SECOND, "much later", T0, 1);
    let ran = sim.run_with(Plan::default(), stop_after(Duration::from_secs(70)));
    assert_eq!(lost(&ran).len(), 1);
    let store = sim.store();
    assert_eq!(store.rows[&shard_id(1)].position, store.streams[&shard_id(1)].end());
}

#[test]
fn an_idle_shard_does_not_pass_one_that_pauses_after_a_fault() {
    let mut sim = Sim::new(54, 2);
    sim.config.shard.drain = false;
    (sim.config.restart.backoff_min_us, sim.config.restart.backoff_max_us) = (600 * SECOND, 600 * SECOND);
    let start = sim.store().now_us;
    (0..2).for_each(|shard| sim.event(shard, start, "idle", start, 1));
    let script: sluicebox_sim::sim::Script = Box::new(|hands| {
        Box::pin(async move {
            tokio::time::sleep(Duration::from_secs(200)).await;
            let (down, up): (Vec<_>, Vec<_>) = hands.board.all().into_iter().partition(|(_, live)| live.life == Life::Restarting);
            assert_eq!((down.len(), up.len()), (1, 1), "{down:?}, {up:?}");
            let bound = |all: &[(ShardId, sluicebox_actors::toolkit::board::Live)]| all[0].1.bound.expect("committed").0;
            // Nobody reads there: what has arrived meanwhile is of any age.
            let ahead = bound(&up) - bound(&down);
            assert!(ahead < 5 * SECOND, "{} has passed {} by {ahead} us", up[0].0, down[0].0);
            hands.stop.send_replace(true);
        })
    });
    // Both are idle and commit a bound a second when a partition of one of them panics.
    sim.run_with(Plan::nth(Op::EngineCut, 20, Act::Panic), script);
}

#[test]
fn gold_that_always_panics_is_given_up_and_told_and_the_shards_go_on() {
    let mut sim = filled(55, 2, 40);
    sim.config.restart = STRICT;
    let ran = sim.run(Plan::times(Op::EngineMerge, 0, 1_000_000, Act::Panic));
    let End::Ended(outcome) = &ran.end else { panic!("{:?}", ran.end) };
    assert!(outcome.lost.is_empty(), "{outcome:?}");
    assert!(outcome.gold.as_ref().is_some_and(|fault| fault.message().contains("gold panicked")), "{outcome:?}");
    assert!(ran.counts[&Op::EngineMerge] < 100, "{} tries", ran.counts[&Op::EngineMerge]);
    // Looked at by a person, started again: nothing is missing.
    sim.drain();
    sim.assert_complete();
}

#[test]
fn progress_between_failures_does_not_make_them_fewer() {
    let mut restarts = Restarts::new(STRICT);
    for _ in 0..STRICT.intensity {
        assert!(matches!(restarts.failed(0, 0), Verdict::Restart { .. }));
        restarts.progressed();
    }
    assert_eq!(restarts.failed(0, 0), Verdict::Quarantine);
}

#[test]
fn shards_that_split_twice_and_merge_while_nobody_runs_for_an_hour_are_read_in_order_from_their_start() {
    let sim = Sim::new(56, 2);
    let mut rng = Rng(56);
    (0..2).for_each(|shard| sim.fill(shard, 20, &mut rng));
    sim.drain();
    // One of the children is split before anybody has read it, the other is merged with a shard that has no part in that.
    let children = sim.reshard(&[0]);
    sim.fill(children[0], 10, &mut rng);
    let grandchildren = sim.reshard(&[children[0]]);
    sim.fill(children[1], 10, &mut rng);
    let merged = sim.reshard(&[1, children[1]]);
    for shard in grandchildren.iter().chain(&merged) {
        sim.fill(*shard, 10, &mut rng);
    }
    sim.store().now_us += 3_600 * SECOND;
    sim.drain();
    sim.assert_complete();
    let store = sim.store();
    let drained = store.rows.values().filter(|row| row.state == ShardState::Drained).count();
    assert_eq!((store.rows.len(), drained), (7, 4), "four ended, three go on");
}
