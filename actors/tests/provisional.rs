//! Windows that some shards hold back, and a shard that nobody has listed yet.

use std::time::Duration;

use sluicebox_actors::model::row::{ShardState, WindowStatus};
use sluicebox_sim::plan::{Act, Op, Plan};
use sluicebox_sim::sim::{Script, Sim, lock, shard_id, stop_after};
use sluicebox_sim::store::Store;
use sluicebox_sim::truth::{MINUTE, SECOND, T0};

/// Shard 0 has passed the hour of [`T0`]; shard 1 works through it, one record at a time, for minutes.
fn one_lags(max_wait_us: Option<i64>) -> Sim {
    let mut sim = Sim::new(71, 2);
    sim.config.shard.drain = false;
    sim.config.gold.max_wait_us = vec![max_wait_us, None];
    sim.config.fetch.records = 1;
    let now = sim.store().now_us;
    sim.event(0, now, "ahead", T0 + MINUTE, 1);
    sim.event(0, now, "ahead", T0 + 60 * MINUTE + 10 * MINUTE, 2);
    (0..3_000).for_each(|n| sim.event(1, now, "behind", T0 + n * SECOND, 1));
    sim
}

fn slow() -> Plan {
    Plan { latency_ms: 40, ..Plan::default() }
}

#[test]
fn a_window_that_one_shard_holds_back_is_shown_as_provisional_with_its_name_and_exactly_in_the_end() {
    let mut sim = one_lags(Some(20 * SECOND));
    let script: Script = Box::new(|hands| {
        Box::pin(async move {
            tokio::time::sleep(Duration::from_secs(45)).await;
            let store = lock(&hands.store);
            let shown = store.gold.get(&("hourly".to_owned(), T0)).expect("shown before the other shard has passed it");
            assert_eq!((shown.row.status, &shown.row.missing), (WindowStatus::Provisional, &vec![shard_id(1)]));
            assert!(shown.row.revision <= 3, "once in twenty seconds, not with every commit: {}", shown.row.revision);
            drop(store);
            hands.stop.send_replace(true);
        })
    });
    sim.run_with(slow(), script).good();
    sim.config.shard.drain = true;
    sim.config.fetch.records = 100;
    sim.drain();
    sim.assert_complete();
    let store = sim.store();
    let shown = &store.gold[&("hourly".to_owned(), T0)];
    assert!(shown.row.missing.is_empty() || shown.row.status == WindowStatus::Open, "{:?}", shown.row);
}

#[test]
fn without_a_longest_wait_a_window_waits_for_every_shard() {
    let sim = one_lags(None);
    sim.run_with(slow(), stop_after(Duration::from_secs(45))).good();
    assert!(!sim.store().gold.contains_key(&("hourly".to_owned(), T0)));
}

#[test]
fn a_shard_that_is_not_listed_yet_holds_every_window_back_until_it_is() {
    let mut sim = Sim::new(72, 2);
    sim.config.shard.drain = false;
    let half = u128::MAX / 2;
    let ranges = [(0, half), (half + 1, u128::MAX)];
    for (index, range) in ranges.into_iter().enumerate() {
        let mut store = sim.store();
        let log = store.streams.get_mut(&shard_id(index)).expect("a shard");
        (log.info.hash_start, log.info.hash_end) = range;
    }
    let now = sim.store().now_us;
    sim.event(0, now, "a", T0 + MINUTE, 1);
    sim.event(0, now, "a", T0 + 5 * 60 * MINUTE, 2);
    let hidden = sim.store().streams.remove(&shard_id(1)).expect("a shard");
    sim.run_with(Plan::default(), stop_after(Duration::from_secs(60))).good();
    assert!(sim.store().gold.is_empty(), "half of the hash keys belong to nobody");
    sim.store().streams.insert(shard_id(1), hidden);
    let now = sim.store().now_us;
    sim.event(1, now, "b", T0 + 2 * MINUTE, 3);
    sim.event(1, now, "b", T0 + 5 * 60 * MINUTE, 4);
    sim.run_with(Plan::default(), stop_after(Duration::from_secs(60))).good();
    let shown = sim.store().gold.get(&("hourly".to_owned(), T0)).map(|shown| shown.row.status);
    assert_eq!(shown, Some(WindowStatus::Sealed));
    let store = sim.store();
    let content = &store.gold[&("hourly".to_owned(), T0)].content;
    assert_eq!(content, &store.fold(0, T0, None).0.content(T0, None), "the records of both");
}

#[test]
fn a_merge_waits_for_a_parent_that_lags_two_hours_and_gold_is_exact_when_it_has_come() {
    let mut sim = Sim::new(73, 2);
    // Looks are far apart in a fleet, also in one of a single worker: two hours in few operations.
    (sim.config.shard.drain, sim.config.shard.poll_us, sim.failover) = (false, 5 * SECOND, Some(Duration::from_secs(60)));
    sim.config.gold.max_wait_us = vec![Some(30 * MINUTE), None];
    let now = sim.store().now_us;
    for shard in 0..2 {
        sim.event(shard, now, "parents", T0 + MINUTE, 1);
        sim.event(shard, now, "parents", T0 + 70 * MINUTE, 2);
    }
    let child = sim.reshard(&[0, 1])[0];
    sim.event(child, now, "child", T0 + 2 * MINUTE, 4);
    sim.event(child, now, "child", T0 + 5 * 60 * MINUTE, 5);
    let key = |table: &str| (table.to_owned(), T0);
    let look = move |store: &Store| {
        let lags: Vec<_> = store.rows.values().filter(|row| row.state == ShardState::Open).collect();
        assert_eq!(lags.len(), 1, "one parent has ended, the other has not been read: {lags:?}");
        let waits = &store.rows[&shard_id(child)];
        assert_eq!((waits.state, waits.epoch), (ShardState::Blocked, 0));
        let shown = store.gold.get(&key("hourly")).expect("after half an hour");
        assert_eq!((shown.row.status, &shown.row.missing), (WindowStatus::Provisional, &vec![lags[0].shard.clone()]));
        assert!(!store.gold.contains_key(&key("tens")), "where no longest wait is set, Gold waits");
    };
    let script: Script = Box::new(move |hands| {
        Box::pin(async move {
            tokio::time::sleep(Duration::from_secs(119 * 60)).await;
            look(&lock(&hands.store));
            tokio::time::sleep(Duration::from_secs(11 * 60)).await;
            hands.stop.send_replace(true);
        })
    });
    let lags = Plan::nth(Op::StreamRead, 1, Act::Stall(Duration::from_secs(120 * 60)));
    sim.run_with(Plan { patience: Duration::from_secs(3 * 3_600), ..lags }, script).good();
    let store = sim.store();
    for (table, name) in ["hourly", "tens"].into_iter().enumerate() {
        let shown = &store.gold[&key(name)];
        assert_eq!((shown.row.status, &shown.content), (WindowStatus::Sealed, &store.fold(table, T0, None).0.content(T0, None)));
        assert!(shown.row.missing.is_empty());
    }
    drop(store);
    (sim.config.shard.drain, sim.failover) = (true, None);
    sim.drain();
    sim.assert_complete();
}
