//! When epochs end, what B says, and what stopping leaves behind.

use std::time::Duration;

use sluicebox_actors::model::row::WindowStatus;
use sluicebox_actors::model::window::Bound;

use crate::drain::filled;
use sluicebox_sim::plan::{Act, Op, Plan, Rng};
use sluicebox_sim::sim::{Script, Sim, lock, shard_id, stop_after};
use sluicebox_sim::truth::{MINUTE, SECOND, T0};

/// A service over empty shards: it does not drain.
fn service(seed: u64, shards: usize) -> Sim {
    let mut sim = Sim::new(seed, shards);
    sim.config.shard.drain = false;
    sim
}

fn now(sim: &Sim) -> i64 {
    sim.store().now_us
}

#[test]
fn an_epoch_ends_by_the_interval_after_its_first_record() {
    let sim = service(51, 1);
    let start = now(&sim);
    sim.event(0, start + 5 * SECOND, "a", start, 1);
    let script: Script = Box::new(|hands| {
        Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(5_900)).await;
            assert!(lock(&hands.store).commits.is_empty(), "the interval is a second");
            tokio::time::sleep(Duration::from_millis(600)).await;
            assert_eq!(lock(&hands.store).commits.values().next().map(Vec::len), Some(1));
            hands.stop.send_replace(true);
        })
    });
    sim.run_with(Plan::default(), script).good();
}

#[test]
fn an_epoch_ends_by_its_size_long_before_the_interval() {
    let mut sim = filled(52, 1, 200);
    sim.config.shard.drain = false;
    sim.config.shard.commit_interval_us = 3_600 * SECOND;
    let script = stop_after(Duration::from_secs(10));
    sim.run_with(Plan::default(), script).good();
    let store = sim.store();
    let commits = &store.commits[&shard_id(0)];
    assert!(commits.len() > 8, "{}", commits.len());
    let (last, full) = commits.split_last().expect("some");
    assert!(full.iter().all(|commit| commit.header.counts.bytes >= 400), "none before its size");
    assert_eq!(last.row.position, store.streams[&shard_id(0)].end(), "the stop committed the rest");
}

#[test]
fn under_drain_no_clock_moves_b_and_what_it_has_not_passed_stays_open() {
    let sim = filled(53, 1, 60);
    sim.drain();
    sim.assert_complete();
    let store = sim.store();
    let last_event = store.commits[&shard_id(0)].iter().filter_map(|commit| commit.judged.max_event_us).max();
    assert_eq!(store.rows[&shard_id(0)].bound, Bound(last_event.expect("events") - 10 * SECOND));
    let statuses: Vec<_> = store.gold.values().map(|shown| shown.row.status).collect();
    assert!(statuses.contains(&WindowStatus::Open) && statuses.contains(&WindowStatus::Sealed), "{statuses:?}");
}

#[test]
fn a_shard_that_never_had_a_record_follows_and_holds_no_window_open() {
    let sim = filled(53, 1, 60);
    sim.add_shard(7, &[]);
    sim.drain();
    sim.assert_complete();
    let store = sim.store();
    assert_eq!(store.rows[&shard_id(7)].bound, store.rows[&shard_id(0)].bound);
    assert!(store.gold.values().any(|shown| shown.row.status == WindowStatus::Sealed));
}

#[test]
fn late_and_too_late_records_occur_and_are_what_the_opening_bounds_say() {
    let sim = filled(54, 2, 200);
    sim.drain();
    // The verdicts themselves are repeated at every commit, from nothing but the epoch's opening bound.
    sim.assert_complete();
    let store = sim.store();
    let windows = || store.commits.values().flatten().flat_map(|commit| commit.judged.windows.values());
    assert!(windows().map(|window| window.late).sum::<u64>() > 0);
    assert!(windows().map(|window| window.too_late).sum::<u64>() > 0);
}

#[test]
fn while_all_is_idle_event_time_passes_at_the_pace_of_arrival() {
    let mut sim = service(55, 2);
    sim.config.shard.poll_us = SECOND;
    let start = now(&sim);
    // An event that is five minutes old when it arrives.
    sim.event(0, start, "a", start - 5 * MINUTE, 1);
    sim.run_with(Plan::default(), stop_after(Duration::from_secs(20 * 60))).good();
    let store = sim.store();
    let shown = &store.gold[&("tens".to_owned(), start - 10 * MINUTE)];
    assert_eq!(shown.row.status, WindowStatus::Sealed, "no lateness is allowed there");
    assert!(
        store.gold.get(&("hourly".to_owned(), start - 60 * MINUTE)).is_some_and(|shown| shown.row.status == WindowStatus::Closed)
    );
    let expected = store.now_us - 5 * MINUTE - 10 * SECOND;
    for row in store.rows.values() {
        assert!((row.bound.0 - expected).abs() < 10 * SECOND, "{}: B {:?} is not {expected}", row.shard, row.bound);
    }
    // Once a second at most, and nothing in them: an epoch without records only moves B.
    assert!(store.commits.values().all(|commits| commits.len() <= 20 * 60 + 10));
    assert!(store.violations.is_empty(), "{:?}", store.violations);
}

#[test]
fn an_idle_shard_does_not_pass_one_that_still_works() {
    let mut sim = service(56, 2);
    let start = now(&sim);
    sim.event(0, start, "idle", start - MINUTE, 1);
    // The other works through a past that lies three hours back, one record at a time.
    for n in 0..6_000 {
        sim.event(1, start, "busy", start - 180 * MINUTE + n * SECOND, 1);
    }
    sim.config.fetch.records = 1;
    let script: Script = Box::new(move |hands| {
        Box::pin(async move {
            for _ in 0..60 {
                tokio::time::sleep(Duration::from_secs(1)).await;
                let store = lock(&hands.store);
                let (idle, own) = (store.rows[&shard_id(0)].bound, Bound(start - MINUTE - 10 * SECOND));
                assert!(idle <= own, "{idle:?} has passed its own {own:?} while the other is far behind");
            }
            let (read, all) =
                (hands.board.get(&shard_id(1)).expect("known").position, lock(&hands.store).streams[&shard_id(1)].end());
            assert!(read < all, "it still works, or the test is about nothing");
            hands.stop.send_replace(true);
        })
    });
    sim.run_with(Plan { latency_ms: 40, ..Plan::default() }, script).good();
}

#[test]
fn an_idle_shard_does_not_pass_one_whose_row_nobody_has_read_yet() {
    let mut sim = Sim::new(57, 2);
    let start = now(&sim);
    sim.event(0, start, "idle", start - MINUTE, 1);
    sim.event(1, start, "slow", start - 180 * MINUTE, 1);
    sim.drain();
    // An hour later: shard 1 has old records to read, but its lease takes a minute.
    sim.config.shard.drain = false;
    sim.store().now_us += 60 * MINUTE;
    let later = now(&sim);
    sim.event(1, later, "slow", start - 170 * MINUTE, 1);
    let own = sim.store().rows[&shard_id(0)].bound;
    let script: Script = Box::new(move |hands| {
        Box::pin(async move {
            for _ in 0..50 {
                tokio::time::sleep(Duration::from_secs(1)).await;
                assert_eq!(lock(&hands.store).rows[&shard_id(0)].bound, own);
            }
            hands.stop.send_replace(true);
        })
    });
    sim.run_with(Plan::nth(Op::RowLease, 1, Act::Stall(Duration::from_secs(60))), script).good();
}

#[test]
fn reading_goes_on_while_a_commit_takes_long_and_at_most_two_epochs_are_open() {
    let mut sim = filled(58, 1, 400);
    sim.config.shard.commit_size = 3_000;
    let slow = Plan::times(Op::BlobPut, 0, 1, Act::Stall(Duration::from_secs(100)));
    let script: Script = Box::new(|hands| {
        Box::pin(async move {
            tokio::time::sleep(Duration::from_secs(90)).await;
            let live = hands.board.get(&shard_id(0)).expect("on the board");
            assert_eq!(live.epoch, 0, "nothing is committed yet");
            let all = lock(&hands.store).streams[&shard_id(0)].end();
            assert_eq!(live.position, all, "credit, not commit, is what reading waits for");
            std::future::pending::<()>().await;
        })
    });
    sim.run_with(slow, script).good();
    sim.assert_complete();
}

#[test]
fn reading_stops_when_the_credits_are_used_up_and_goes_on_when_they_are_free() {
    let mut sim = filled(59, 1, 200);
    sim.config.in_flight = 64 << 10;
    sim.config.fetch.bytes = 1 << 20;
    sim.config.shard.commit_interval_us = 3_600 * SECOND;
    sim.config.shard.commit_size = 1 << 30;
    let ran = sim.drain();
    assert!(ran.took < Duration::from_secs(60), "{:?}: reading waited for the end of an epoch", ran.took);
    sim.assert_complete();
}

#[test]
fn a_stop_commits_what_was_read_and_shows_it_however_slow_the_files_are() {
    for seed in 0..8 {
        let mut sim = filled(60 + seed, 2, 40);
        sim.config.shard.drain = false;
        sim.config.shard.commit_interval_us = 3_600 * SECOND;
        sim.config.shard.commit_size = 1 << 30;
        let slow = Plan { latency_ms: 30, ..Plan::times(Op::Publish, 0, 100, Act::Stall(Duration::from_secs(7))) };
        sim.run_with(slow, stop_after(Duration::from_millis(400 + 40 * seed))).good();
        let store = sim.store();
        let committed: u64 = store.commits.values().flatten().map(|commit| commit.header.counts.received).sum();
        assert!(committed > 0, "seed {seed}");
        assert!(store.staged.is_empty(), "seed {seed}: {:?}", store.staged.keys());
        let open = store.gold.values().any(|shown| shown.row.status == WindowStatus::Open);
        assert!(!open, "an ordinary stop does not show windows that are still open");
        drop(store);
        sim.config.shard.drain = true;
        sim.drain();
        sim.assert_complete();
    }
}

#[test]
fn a_stop_does_not_wait_for_a_stream_that_is_away() {
    let mut sim = filled(70, 1, 40);
    sim.config.shard.drain = false;
    let away = Plan::times(Op::StreamRead, 3, 1_000_000, Act::ErrBefore);
    let ran = sim.run_with(away, stop_after(Duration::from_secs(30))).good();
    assert!(ran.took < Duration::from_secs(32), "{:?}", ran.took);
}

#[test]
fn a_stop_does_not_wait_for_the_pause_before_a_restart() {
    let mut sim = filled(71, 1, 40);
    sim.config.shard.drain = false;
    sim.config.restart.backoff_min_us = 600 * SECOND;
    sim.config.restart.backoff_max_us = 600 * SECOND;
    let ran = sim.run_with(Plan::nth(Op::EngineDecode, 1, Act::Panic), stop_after(Duration::from_secs(30))).good();
    assert!(ran.took < Duration::from_secs(32), "{:?}", ran.took);
}

#[test]
fn late_records_revise_a_closed_window_and_equal_revisions_have_equal_bytes() {
    let sim = service(72, 1);
    let start = now(&sim);
    let hour = start - start.rem_euclid(60 * MINUTE);
    sim.event(0, start, "a", hour - 30 * MINUTE, 1);
    sim.event(0, start + 1, "b", hour + 11 * SECOND, 1);
    sim.event(0, start + 20 * SECOND, "a", hour - 20 * MINUTE, 3);
    sim.event(0, start + 40 * SECOND, "a", hour - 10 * MINUTE, 4);
    sim.run_with(Plan::default(), stop_after(Duration::from_secs(60))).good();
    let store = sim.store();
    let shown = &store.gold[&("hourly".to_owned(), hour - 60 * MINUTE)];
    assert_eq!((shown.row.status, shown.row.revision), (WindowStatus::Revised, 3));
    assert_eq!((shown.row.counts.on_time, shown.row.counts.late), (1, 2));
    let text = String::from_utf8_lossy(&shown.content).into_owned();
    assert_eq!(text, format!("{},a,3,8,1,4\n", hour - 60 * MINUTE));
    assert!(store.violations.is_empty(), "{:?}", store.violations);
}

#[test]
fn a_second_drain_continues_where_the_first_one_ended() {
    let sim = filled(73, 2, 60);
    sim.drain();
    sim.assert_complete();
    let epochs: u64 = sim.store().rows.values().map(|row| row.epoch).sum();
    let nothing_new = sim.drain();
    assert_eq!(sim.store().rows.values().map(|row| row.epoch).sum::<u64>(), epochs, "an empty epoch needs a B that moves");
    assert!(!nothing_new.counts.contains_key(&Op::GoldPublish), "equal Gold is not emitted again");
    let mut rng = Rng(74);
    sim.fill(0, 30, &mut rng);
    sim.drain();
    sim.assert_complete();
    assert!(sim.store().gold.values().any(|shown| shown.row.start_us >= T0));
}

#[test]
fn a_clock_that_is_set_back_or_forward_by_an_hour_stops_nothing_and_changes_no_result() {
    let run = |step: i64, after_ms: u64| {
        let mut sim = service(75, 1);
        let start = now(&sim);
        for n in 0..40 {
            sim.event(0, start + n * SECOND, "a", start + n * SECOND, n);
        }
        let script: Script = Box::new(move |hands| {
            Box::pin(async move {
                tokio::time::sleep(Duration::from_millis(after_ms)).await;
                hands.process.set_clock(step);
                tokio::time::sleep(Duration::from_millis(45_000 - after_ms)).await;
                let all = lock(&hands.store).streams[&shard_id(0)].end();
                let row = lock(&hands.store).rows[&shard_id(0)].clone();
                assert_eq!(row.position, all, "set by {step} after {after_ms} ms: it stands still");
                hands.stop.send_replace(true);
            })
        });
        sim.run_with(Plan::default(), script).good();
        sim.config.shard.drain = true;
        sim.drain();
        sim.assert_complete();
        sim.gold()
    };
    let unchanged = run(0, 20_000);
    for after_ms in (20_000..21_500).step_by(130) {
        assert_eq!(run(60 * MINUTE, after_ms), unchanged, "after {after_ms} ms");
        assert_eq!(run(-60 * MINUTE, after_ms), unchanged, "after {after_ms} ms");
    }
}

#[test]
fn the_owners_clock_moves_no_bound_however_wrong_it_is() {
    for step in [60 * MINUTE, -60 * MINUTE] {
        let sim = service(76, 2);
        let start = now(&sim);
        sim.event(0, start, "a", start - 5 * MINUTE, 1);
        let script: Script = Box::new(move |hands| {
            Box::pin(async move {
                tokio::time::sleep(Duration::from_secs(10)).await;
                hands.process.set_clock(step);
                tokio::time::sleep(Duration::from_secs(60)).await;
                let expected = hands.process.world_now_us() - 5 * MINUTE - 10 * SECOND;
                for row in lock(&hands.store).rows.values() {
                    let off = (row.bound.0 - expected).abs();
                    assert!(off < 5 * SECOND, "set by {step}: B of {} is {off} us from the pace of arrival", row.shard);
                }
                hands.stop.send_replace(true);
            })
        });
        sim.run_with(Plan::default(), script).good();
    }
}

#[test]
fn a_record_larger_than_a_fetch_is_paid_for_in_full() {
    let sim = {
        let mut sim = service(77, 1);
        sim.config.shard.commit_interval_us = 3_600 * SECOND;
        sim.config.shard.commit_size = 1 << 30;
        sim
    };
    let start = now(&sim);
    // Its key makes it large, twice: more than three fetches, and less than what makes the writer write out.
    let (key, large) = ("k".repeat(110 << 10), 220 << 10);
    sim.event(0, start, &key, start, 1);
    let script: Script = Box::new(move |hands| {
        Box::pin(async move {
            tokio::time::sleep(Duration::from_secs(10)).await;
            let live = hands.board.get(&shard_id(0)).expect("on the board");
            assert_eq!(live.epoch, 0, "it waits in open files for the end of its epoch");
            assert!(live.in_flight >= large, "{} of {large} bytes are on the shard's account", live.in_flight);
            hands.stop.send_replace(true);
        })
    });
    sim.run_with(Plan::default(), script).good();
}
