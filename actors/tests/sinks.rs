//! Sinks that are away, refuse, panic, or come later: nobody else notices, and in the end they have everything.

use std::time::Duration;

use sluicebox_actors::model::fault::Kind;
use sluicebox_actors::model::feed::Feed;
use sluicebox_sim::plan::{Act, Op, Plan, Rng};
use sluicebox_sim::sim::{End, Ran, Script, Sim, stop_after};
use sluicebox_sim::sinks::Which;
use sluicebox_sim::truth::{MINUTE, SECOND, Truth};

use crate::drain::filled;

fn world(seed: u64) -> Sim {
    let mut sim = filled(seed, 2, 60);
    sim.sinks = Which::Both { holds: None };
    sim.store().having = Some(8);
    sim
}

fn sinks(ran: &Ran) -> Vec<(&str, Kind)> {
    let End::Ended(outcome) = &ran.end else { panic!("{:?}", ran.end) };
    assert!(outcome.lost.is_empty() && outcome.gold.is_none(), "{outcome:?}");
    outcome.sinks.iter().map(|(sink, fault)| (sink.as_str(), fault.kind())).collect()
}

#[test]
fn sinks_show_what_readers_see_bury_what_is_gone_and_get_every_letter() {
    let sim = world(5);
    sim.drain();
    sim.assert_complete();
    let mut rng = Rng(6);
    (0..2).for_each(|shard| sim.fill(shard, 60, &mut rng));
    sim.drain();
    sim.assert_complete();
    sim.assert_tidy();
    let store = sim.store();
    assert!(store.marks.contains_key("a sink buries a row"), "{:?}", store.marks);
    assert!(store.kept.rows.len() > 20 && store.kept.letters.len() > 3);
    assert!(store.kept.letters.values().all(|times| *times == 1));
}

#[test]
fn a_sink_that_is_away_delays_nobody_and_then_gets_the_newest_revisions_alone() {
    let sim = world(7);
    let ran = sim.run(Plan::times(Op::SinkFeed, 0, 1_000_000, Act::ErrBefore));
    assert_eq!(sinks(&ran), [("rows", Kind::Retry)]);
    assert!(sim.store().kept.rows.is_empty() && !sim.store().kept.letters.is_empty(), "one sink does not wait for the other");
    let mut rng = Rng(8);
    (0..2).for_each(|shard| sim.fill(shard, 60, &mut rng));
    let ran = sim.run(Plan::times(Op::SinkFeed, 0, 1_000_000, Act::ErrAfter));
    assert_eq!(sinks(&ran), [("rows", Kind::Retry)]);
    sim.drain();
    sim.assert_complete();
    let store = sim.store();
    let revisions = store.windows.values().map(|row| row.revision).sum::<u64>();
    assert!(revisions > store.windows.len() as u64, "some windows were revised meanwhile");
    let fed = store.kept.feeds.values().filter(|row| matches!(row.fed, Feed::Window(_)));
    assert!(fed.into_iter().all(|row| row.version <= 4), "shown, fed, perhaps each once more");
}

#[test]
fn a_sink_that_was_away_while_epochs_were_collected_gets_their_letters_from_the_ledger() {
    let mut sim = world(9);
    sim.config.gold.collect_after = 1;
    sim.config.shard.commit_size = 60;
    let ran = sim.run(Plan::times(Op::SinkSend, 0, 1_000_000, Act::ErrBefore));
    assert_eq!(sinks(&ran), [("letters", Kind::Retry)]);
    assert!(sim.store().marks.contains_key("an epoch object is collected") && sim.store().kept.letters.is_empty());
    sim.drain();
    sim.assert_complete();
}

#[test]
fn a_sink_whose_settings_are_wrong_is_given_up_and_the_run_says_so() {
    let sim = world(11);
    let ran = sim.run(Plan::times(Op::SinkFeed, 2, 1_000_000, Act::Fail(Kind::Config)));
    assert_eq!(sinks(&ran), [("rows", Kind::Config)]);
    let wrong = sim.wrong(&[]);
    assert!(wrong.iter().all(|rule| rule.contains("sink: shows")), "all but the one sink is well: {wrong:?}");
    sim.drain();
    sim.assert_complete();
}

fn refused(sim: &Sim) -> Vec<(u64, Vec<(String, u64)>)> {
    let store = sim.store();
    let fed = store.kept.feeds.values().filter_map(|row| match &row.fed {
        Feed::Window(fed) => Some((fed.revision, fed.refused.clone())),
        Feed::Sink { .. } | Feed::Letters(_) => None,
    });
    fed.filter(|(_, refused)| !refused.is_empty()).collect()
}

#[test]
fn rows_that_a_sink_refuses_are_noted_and_everything_else_goes_on() {
    let sim = world(23);
    let key = "key-3";
    sim.store().kept.refuses = Some(key);
    sim.drain();
    let of_the_key = sim.store().gold.values().filter(|shown| String::from_utf8_lossy(&shown.content).contains(key)).count();
    let (refused, wrong) = (refused(&sim), sim.wrong(&[]));
    assert!(of_the_key > 3 && refused.len() >= of_the_key, "{refused:?}");
    assert!(refused.iter().all(|(_, why)| *why == [("unloved".to_owned(), 1)]), "{refused:?}");
    assert_eq!(wrong.len(), of_the_key, "nothing else is missing: {wrong:?}");
    assert!(wrong.iter().all(|rule| rule.contains("sink: shows None") && rule.contains(key)), "{wrong:?}");
}

#[test]
fn letters_that_a_sink_refuses_are_counted_and_do_not_come_again() {
    let sim = world(27);
    sim.store().kept.refuses = Some("shard-1/");
    sim.drain();
    let of = |sim: &Sim| -> (u64, u64) {
        let store = sim.store();
        let fed = store.kept.feeds.values().filter_map(|row| match &row.fed {
            Feed::Letters(fed) => Some((fed.sent, fed.refused)),
            Feed::Window(_) | Feed::Sink { .. } => None,
        });
        fed.fold((0, 0), |sum, of| (sum.0 + of.0, sum.1 + of.1))
    };
    let wrong = sim.wrong(&[]);
    let (sent, refused) = of(&sim);
    assert!(refused > 0 && sent > refused, "{sent} sent, {refused} refused");
    assert_eq!(wrong.len() as u64, refused, "nothing else is missing: {wrong:?}");
    assert!(wrong.iter().all(|rule| rule.contains("shard-1/") && rule.contains("never came")), "{wrong:?}");
    sim.store().kept.refuses = None;
    sim.drain();
    assert_eq!(of(&sim), (sent, refused), "what was refused is done with");
}

#[test]
fn a_window_that_is_too_large_for_a_sink_is_passed_over_until_a_revision_fits() {
    let sim = world(25);
    let sizes = |sim: &Sim| -> Vec<u64> {
        sim.store().windows.values().filter_map(|row| row.content.as_ref().map(|content| content.len)).collect()
    };
    let whole = world(25);
    whole.drain();
    let mut lens = sizes(&whole);
    lens.sort_unstable();
    let most = lens[lens.len() / 2];
    let larger = lens.iter().filter(|len| **len > most).count();
    assert!(larger > 2, "{lens:?}");
    sim.store().kept.max_window = Some(most);
    sim.drain();
    let passed_over = refused(&sim);
    assert_eq!(passed_over.len(), larger, "{passed_over:?} of {lens:?}");
    assert!(passed_over.iter().all(|(revision, why)| *revision > 0 && why[0].0 == "window_too_large" && why[0].1 > 0));
    let wrong = sim.wrong(&[]);
    assert!(!wrong.is_empty() && wrong.iter().all(|rule| rule.contains("sink: shows")), "{wrong:?}");
    // With the limit gone, the next revision of each goes out whole; one that stands is not handed over again.
    sim.store().kept.max_window = None;
    let mut rng = Rng(26);
    (0..2).for_each(|shard| sim.fill(shard, 60, &mut rng));
    sim.drain();
    let still = refused(&sim);
    assert!(still.len() < passed_over.len(), "{still:?}");
}

#[test]
fn a_panic_of_a_sink_is_the_sinks() {
    for op in [Op::SinkFeed, Op::SinkSend, Op::GoldDecode, Op::LettersRead, Op::FeedUpdate] {
        let sim = world(13);
        let ran = sim.run(Plan::times(op, 1, 3, Act::Panic)).good();
        assert!(ran.board.all().iter().all(|(_, live)| live.restarts == 0), "{op:?}");
        sim.assert_complete();
    }
}

#[test]
fn a_sink_that_comes_later_begins_with_what_is_shown_now_and_the_letters_after_it() {
    let mut sim = world(15);
    sim.sinks = Which::None;
    let before = sim.store().now_us;
    sim.put(0, before, &[Truth::Bad]);
    sim.drain();
    sim.sinks = Which::Both { holds: None };
    let now = sim.store().now_us;
    sim.put(0, now, &[Truth::Bad]);
    sim.drain();
    let letters: Vec<String> = sim.store().kept.letters.keys().cloned().collect();
    assert_eq!(letters.len(), 1, "{letters:?}");
    let written: Vec<String> = sim.store().visible.values().flat_map(|file| file.lines.clone()).collect();
    let bad = written.iter().filter(|line| line.contains("decode bad_record")).count();
    assert!(bad > 1, "letters from before the sink are there: {written:?}");
    let wrong = sim.wrong(&[]);
    assert!(
        !wrong.is_empty() && wrong.iter().all(|rule| rule.contains("never came")),
        "Gold is all there: {wrong:?}, {letters:?} of {written:?}"
    );
}

/// One bad record every so often for half an hour, from now on, on each shard.
fn bad_records(sim: &Sim, shards: usize, every: i64) -> usize {
    let start = sim.store().now_us;
    let count = 30 * MINUTE / every;
    for number in 0..count {
        (0..shards).for_each(|shard| sim.put(shard, start + number * every, &[Truth::Bad]));
    }
    count as usize * shards
}

fn letters_committed(sim: &Sim) -> usize {
    sim.store().commits.values().flatten().map(|commit| commit.judged.letters.len()).sum()
}

/// About twenty minutes: a try every five seconds at most.
fn away_for_long() -> Plan {
    Plan { patience: Duration::from_secs(3_600), ..Plan::times(Op::SinkSend, 0, 320, Act::ErrBefore) }
}

/// A world that serves, and looks for records and rows seldom: every look is an operation.
fn serving(seed: u64, shards: usize, holds: Option<u64>) -> Sim {
    let mut sim = Sim::new(seed, shards);
    sim.config.shard.drain = false;
    sim.config.shard.poll_us = 5 * SECOND;
    sim.sinks = Which::Both { holds };
    sim
}

/// Looks after a quarter of an hour, and stops after three.
fn looking(sim: &Sim, look: impl FnOnce(&Sim) + 'static) -> Script {
    let sim = sim.clone();
    Box::new(move |hands| {
        Box::pin(async move {
            tokio::time::sleep(Duration::from_secs(900)).await;
            look(&sim);
            stop_after(Duration::from_secs(1_800))(hands).await;
        })
    })
}

#[test]
fn letters_beyond_the_limit_make_shards_wait_and_none_is_lost_when_the_sink_is_back_after_long() {
    let sim = serving(17, 1, Some(20));
    let count = bad_records(&sim, 1, 10 * SECOND);
    let look = looking(&sim, |sim| {
        let letters = letters_committed(sim);
        assert!((20..=40).contains(&letters), "the backlog is bounded: {letters}");
        assert!(sim.store().kept.letters.is_empty());
    });
    let ran = sim.run_with(away_for_long(), look).good();
    assert_eq!(ran.board.sinks().len(), 2);
    assert!(!ran.board.is_held());
    assert_eq!((letters_committed(&sim), sim.store().kept.letters.len()), (count, count));
    sim.assert_complete();
}

#[test]
fn without_a_limit_that_holds_shards_go_on_while_the_sink_is_away() {
    let sim = serving(19, 1, None);
    let count = bad_records(&sim, 1, 10 * SECOND);
    let look = looking(&sim, |sim| {
        let letters = letters_committed(sim);
        assert!(letters > 80, "the shard goes on: {letters}");
        assert!(sim.store().kept.letters.is_empty());
    });
    sim.run_with(away_for_long(), look).good();
    assert_eq!(sim.store().kept.letters.len(), count);
    sim.assert_complete();
}

#[test]
fn shards_of_another_worker_wait_too() {
    let mut sim = serving(21, 2, Some(20));
    sim.failover = Some(Duration::from_secs(9));
    let count = bad_records(&sim, 2, 10 * SECOND);
    let look = looking(&sim, |sim| {
        let letters = letters_committed(sim);
        assert!((20..=60).contains(&letters), "the backlog is bounded: {letters}");
        let owners: std::collections::BTreeSet<_> = sim.store().rows.values().map(|row| row.owner.clone()).collect();
        assert_eq!(owners.len(), 2, "each has a shard");
    });
    let stop = stop_after(Duration::from_secs(2_700));
    let workers = vec![(Duration::ZERO, away_for_long(), look), (Duration::ZERO, away_for_long(), stop)];
    sim.run_many(workers).into_iter().for_each(|ran| drop(ran.good()));
    assert_eq!(sim.store().kept.letters.len(), count);
}

#[test]
fn letters_of_an_hour_without_their_sink_are_bounded_durable_and_all_handed_over_afterwards() {
    let mut sim = serving(23, 1, Some(20));
    // Looks are far apart in a fleet, also in one of a single worker: hours in few operations.
    sim.failover = Some(Duration::from_secs(60));
    let start = sim.store().now_us;
    let count = bad_records(&sim, 1, 10 * SECOND);
    let copy = sim.clone();
    let script: Script = Box::new(move |hands| {
        Box::pin(async move {
            tokio::time::sleep(Duration::from_secs(3_600)).await;
            let letters = letters_committed(&copy);
            assert!((20..=40).contains(&letters), "the backlog is bounded: {letters}");
            let visible =
                copy.store().visible.values().flat_map(|file| &file.lines).filter(|line| line.contains("bad_record")).count();
            assert!(copy.store().kept.letters.is_empty() && visible == letters, "{visible} of {letters} are files");
            stop_after(Duration::from_secs(1_800))(hands).await;
        })
    });
    // A try every five seconds at most, and more than that long on average: over an hour.
    let away = Plan { patience: Duration::from_secs(3 * 3_600), ..Plan::times(Op::SinkSend, 0, 1_100, Act::ErrBefore) };
    let ran = sim.run_with(away, script).good();
    assert!(!ran.board.is_held());
    assert_eq!((letters_committed(&sim), sim.store().kept.letters.len()), (count, count));
    assert!(sim.store().now_us > start + 90 * MINUTE);
    (sim.config.shard.drain, sim.failover) = (true, None);
    sim.drain();
    sim.assert_complete();
}
