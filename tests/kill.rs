//! Goal: whoever kills the program, wherever and however often, finds the tables of a run that nobody killed.

use std::sync::OnceLock;

use sluicebox_actors::toolkit::crash::POINTS;

use super::support::process::{ABORTED, Ran};
use super::support::site::{Evidence, Site};

/// Events of a run that is killed once.
const FEW: u64 = 1_200;
/// Events of a run that is killed again and again, and must have something left to read every time.
const MANY: u64 = 14_000;

/// The tables of an uninterrupted run over [`FEW`] events.
fn few() -> &'static Evidence {
    static EVIDENCE: OnceLock<Evidence> = OnceLock::new();
    EVIDENCE.get_or_init(|| Site::with_events(FEW).finish())
}

#[test]
fn ten_times_killed_after_a_commit_and_before_the_end_the_tables_are_those_of_a_quiet_run() {
    let expected = Site::with_events(MANY).finish();
    let site = Site::with_events(MANY);
    for round in 1..=10 {
        let before = site.commits();
        if round % 3 == 0 {
            // Between the compare-and-set and the first rename: an epoch is true that nobody can see.
            site.crash(&format!("commit.after_swap:{}", round + 1));
            assert!(site.invisible() > 0, "round {round}: everything was visible");
        } else {
            let mut running = site.start("killed", &["run"]);
            running.until("a new commit", || (site.commits() > before + round).then_some(()));
            running.kill();
        }
        assert!(site.commits() > before, "round {round}: no new commit");
        let (read, all) = site.progress();
        assert!(read < all, "round {round}: the run had come to its end");
    }
    site.finish().must_equal(&expected, "after ten kills");
}

/// Kills a run at each of these points, lets another one finish it, and compares.
fn crash_at(layers: &[&str]) {
    let points = POINTS.iter().filter(|(point, _)| layers.contains(&layer(point)));
    for (point, leaves) in points {
        let site = Site::with_events(FEW);
        if layer(point) == "takeover" {
            // Something must be there to take over: epochs, outputs that are not visible, staged files of an epoch that never
            // was.
            site.crash("commit.after_swap:8");
        }
        // The second time, where there is one: the first has left its traces by then.
        site.crash(&format!("{point}:{}", if *point == "start.after_rows" { 1 } else { 2 }));
        site.finish().must_equal(few(), &format!("a crash at {point} ({leaves})"));
    }
}

pub(crate) fn layer(point: &str) -> &str {
    point.split_once('.').map_or(point, |(layer, _)| layer)
}

pub(crate) const STARTING: [&str; 2] = ["start", "takeover"];
const WORKING: [&str; 4] = ["shard", "partition", "writer", "dlq"];
pub(crate) const COMMITTING: [&str; 2] = ["commit", "publish"];
pub(crate) const EMITTING: [&str; 3] = ["gold", "base", "collect"];

#[test]
fn a_crash_while_a_shard_is_taken_over_leaves_no_trace() {
    crash_at(&STARTING);
}

#[test]
fn a_crash_in_any_working_actor_leaves_no_trace() {
    crash_at(&WORKING);
}

#[test]
fn a_crash_anywhere_in_the_commit_protocol_leaves_no_trace() {
    crash_at(&COMMITTING);
}

#[test]
fn a_crash_anywhere_in_gold_leaves_no_trace() {
    crash_at(&EMITTING);
}

#[test]
fn every_crash_point_belongs_to_one_of_the_tests_above() {
    // Sinks have tests of their own.
    let all = [&STARTING[..], &WORKING, &COMMITTING, &EMITTING, &["feed"]].concat();
    for (point, _) in POINTS {
        assert!(all.contains(&layer(point)), "{point}");
    }
}

#[test]
fn an_unknown_crash_point_is_refused() {
    let site = Site::with_events(10);
    let mut command = site.command(&["run", "--drain"]);
    command.env("SLUICEBOX_CRASH", "commit.sometime");
    let Ran { err, .. } = Ran::of(command).expect(78, "an unknown crash point");
    assert!(err.contains("commit.sometime") && err.contains("commit.after_swap"), "{err}");
}

#[test]
fn a_panic_in_an_actor_restarts_its_own_generation_alone_and_changes_no_table() {
    let points = ["shard.dispatch", "partition.raw", "writer.append", "dlq.append", "commit.after_swap", "publish.after_rename"];
    for point in points {
        let site = Site::with_events(FEW);
        let said = panicked(&site, &format!("{point}:9"));
        let taken: Vec<&str> = said.lines().filter(|line| line.contains("shard taken")).collect();
        let again: Vec<&&str> = taken.iter().filter(|line| line.contains("generation=2")).collect();
        assert_eq!((taken.len(), again.len()), (4, 1), "{point}: one of three shards starts again, once:\n{said}");
        assert!(!said.contains("gold generation ended"), "{point}:\n{said}");
        site.evidence().must_equal(few(), &format!("a panic at {point}"));
    }
}

#[test]
fn a_panic_in_gold_restarts_gold_alone_and_changes_no_table() {
    for point in ["gold.after_content", "gold.after_object", "collect.after_ledger"] {
        let site = Site::with_events(FEW);
        let said = panicked(&site, &format!("{point}:3"));
        assert_eq!(said.matches("gold generation ended").count(), 1, "{point}:\n{said}");
        assert!(!said.contains("generation=2 lease"), "{point}: a shard started again:\n{said}");
        site.evidence().must_equal(few(), &format!("a panic at {point}"));
    }
}

/// Drains with a panic at this point and returns what the run said; it must end well.
fn panicked(site: &Site, point: &str) -> String {
    let mut command = site.command(&["run", "--drain"]);
    command.env("SLUICEBOX_PANIC", point);
    let said = Ran::of(command).expect(0, point).err;
    assert!(said.contains("told to panic at"), "{point} was not passed:\n{said}");
    said
}

/// Deaths that a deadly record may cost: what bisecting twenty-five records a read across restarts would.
const DEATHS: u32 = 6;
/// An arrival after all events of a site.
const AFTERWARDS_US: i64 = 1_767_700_000_000_000;
/// A record that no parser survives, once told so.
const DEADLY: &str = r#"{"eventType":"click","sessionId":"deadly"}"#;

/// Drains until a run survives, and counts the ones that didn't.
fn deaths_until_drained(site: &Site, most: u32) -> u32 {
    for deaths in 0..=most {
        let mut command = site.command(&["run", "--drain"]);
        command.env("SLUICEBOX_ABORT_ON", "deadly");
        let Ran { code, signal, err, .. } = Ran::of(command);
        match (code, signal) {
            (Some(0), None) => return deaths,
            (None, Some(ABORTED)) => {}
            _ => panic!("ended with {code:?}, {signal:?}:\n{err}"),
        }
    }
    panic!("still deadly after {most} deaths");
}

#[test]
fn a_record_that_kills_the_process_is_isolated_after_a_few_deaths_and_costs_nobody_else() {
    let site = Site::with_events(FEW);
    site.put([(DEADLY.into(), AFTERWARDS_US)].into_iter());
    site.put(super::support::site::events(200).map(|(data, _)| (data, AFTERWARDS_US)));
    // Two that count; before them any that still got on, by one of the two epochs that may be open or by the one before.
    assert!(deaths_until_drained(&site, DEATHS) >= 2);
    let letters = "SELECT stage, reason, data_text, count(*) AS n FROM dlq WHERE reason = 'crashes_worker' GROUP BY 1, 2, 3";
    let expected = serde_json::json!({"stage": "decode", "reason": "crashes_worker", "data_text": DEADLY, "n": 1});
    assert_eq!(site.answers(letters), [expected]);
    // Everything else is where it is without the deadly record.
    let (read, all) = site.progress();
    assert_eq!((read, all), (FEW + 201, FEW + 201));
    site.ran(&["audit"]).expect(0, "audit");
    assert_eq!(deaths_until_drained(&site, 0), 0, "it is over");
}

#[test]
fn several_deadly_records_in_several_shards_are_all_isolated() {
    let site = Site::with_events(100);
    let deadly = (0..6).map(|n| (DEADLY.replace("click", &format!("click{n}")).into(), AFTERWARDS_US));
    site.put(deadly);
    site.put(super::support::site::events(100));
    deaths_until_drained(&site, 3 * DEATHS);
    let count = "SELECT count(*) AS n FROM dlq WHERE reason = 'crashes_worker'";
    let count = site.ran(&["query", count, "--format", "json"]).expect(0, "query").out;
    assert_eq!(count.trim(), r#"{"n":6}"#);
    site.ran(&["audit"]).expect(0, "audit");
}

#[test]
fn runs_that_are_killed_for_no_record_s_sake_condemn_nobody() {
    let site = Site::with_events(FEW);
    for _ in 0..4 {
        site.crash("commit.before_put:1");
    }
    site.finish().must_equal(few(), "four deaths without a commit");
}
