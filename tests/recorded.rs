//! Goal: over recorded streams of eight kinds, Gold is to the digit what a fold of the files says, and no record is lost.
//!
//! The files lie outside of the repository (`../shared/data`, or where `SLUICEBOX_DATA` says); without them only the input that
//! the tests make themselves is gone through.

mod fold;
mod input;
mod made;
mod proof;
mod sets;

use std::io::Write;
use std::path::PathBuf;

use crate::support::drive::Bench;
use input::{Set, recorded};
use proof::{NEVER_TOO_LATE, Plan, duration, letters_follow_from_the_epochs, nothing_is_lost};

const SECOND_US: i64 = 1_000_000;
const ALL: usize = usize::MAX;
/// Of the 540 MB of Windows logs; all of them are for the load harness.
const WINDOWS_LIMIT: usize = 60_000;

/// The recorded data; where it is not, one line says so, past the harness that swallows what passing tests print.
fn data(set: &Set) -> Option<PathBuf> {
    let data = recorded();
    if data.is_none() {
        let line = format!("recorded data is not at ../shared/data: {} is left out (set SLUICEBOX_DATA)\n", set.name);
        drop(std::io::stderr().write_all(line.as_bytes()));
    }
    data
}

/// (a) On four shards, late beyond any time: all of it is in Gold.
fn is_whole(set: &Set, limit: usize) {
    let Some(data) = data(set) else { return };
    let plan = Plan { set, data: &data, files: ALL, limit, rounds: 1, lateness: NEVER_TOO_LATE, disorder_us: 0 };
    nothing_is_lost(&plan, Bench::example(set.name, &[]));
}

/// (b) On one shard, in many epochs: what is too late follows from their heads, and the rest is in Gold.
fn is_judged(set: &Set, files: usize, limit: usize, cut: Cut, lateness: &str, disorder: &str) -> usize {
    let Some(data) = data(set) else { return ALL };
    let rounds = if let Cut::Rounds(rounds) = cut { rounds } else { 1 };
    let plan = Plan { set, data: &data, files, limit, rounds, lateness, disorder_us: duration(disorder) };
    let bench = Bench::example(set.name, &[]).with(&format!("event.disorder={disorder}"));
    let bench = if let Cut::Kib(kib) = cut { cut_into(bench, kib) } else { bench };
    letters_follow_from_the_epochs(&plan, bench)
}

/// How a run comes by many epochs.
enum Cut {
    /// By their size, where a commit is quick.
    Kib(u64),
    /// By a run for each part of the input, where a commit makes hundreds of files and one epoch would follow it with all the
    /// rest.
    Rounds(usize),
}

/// With epochs of this many KiB: an epoch that is full goes on to take what is in flight until the one before it is committed.
fn cut_into(bench: Bench, kib: u64) -> Bench {
    let sets = [("commit.size", kib), ("limits.in_flight", kib), ("limits.fetch", kib / 4)];
    sets.into_iter().fold(bench, |bench, (key, kib)| bench.with(&format!("{key}={kib}KiB")))
}

#[test]
fn the_timeline_of_github_is_whole() {
    is_whole(&sets::gharchive(), ALL);
}

#[test]
fn the_timeline_of_github_is_judged_by_its_epochs() {
    is_judged(&sets::gharchive(), ALL, ALL, Cut::Kib(3_000), "2h", "10s");
}

#[test]
fn edits_of_wikipedia_are_whole() {
    is_whole(&sets::wikiticker(), ALL);
}

#[test]
fn edits_of_wikipedia_are_judged_by_their_epochs() {
    is_judged(&sets::wikiticker(), ALL, ALL, Cut::Kib(700), "2h", "10s");
}

#[test]
fn invoices_of_a_shop_are_whole() {
    is_whole(&sets::online_retail(), ALL);
}

#[test]
fn invoices_of_a_shop_are_judged_by_their_epochs() {
    is_judged(&sets::online_retail(), 2, ALL, Cut::Rounds(6), "2h", "1m");
}

#[test]
fn windows_logs_are_whole() {
    is_whole(&sets::windows_events(), WINDOWS_LIMIT);
}

#[test]
fn windows_logs_are_judged_by_their_epochs() {
    is_judged(&sets::windows_events(), ALL, WINDOWS_LIMIT / 2, Cut::Kib(4_000), "2h", "15m");
}

#[test]
fn network_logs_of_zeek_are_whole() {
    is_whole(&sets::zeek(), ALL);
}

#[test]
fn network_logs_of_zeek_are_judged_by_their_epochs() {
    is_judged(&sets::zeek(), ALL, ALL, Cut::Kib(3_000), "2h", "30m");
}

#[test]
fn a_honeypot_is_whole() {
    is_whole(&sets::cowrie(), ALL);
}

#[test]
fn a_honeypot_is_judged_by_its_epochs() {
    is_judged(&sets::cowrie(), 14, ALL, Cut::Rounds(6), "2h", "10s");
}

#[test]
fn requests_to_a_language_model_are_whole() {
    is_whole(&sets::azure_llm(), ALL);
}

#[test]
fn requests_to_a_language_model_are_judged_by_their_epochs() {
    is_judged(&sets::azure_llm(), ALL, ALL, Cut::Kib(100), "2h", "10s");
}

#[test]
fn taxi_trips_are_whole() {
    is_whole(&sets::green_taxi(), ALL);
}

#[test]
fn taxi_trips_are_judged_by_their_epochs() {
    let letters = is_judged(&sets::green_taxi(), ALL, ALL, Cut::Rounds(6), "2h", "1d");
    assert!(letters > 0, "the trip of 2009 comes too late in any order");
}

// With no patience at all the disorder of a stream shows.

#[test]
fn of_files_put_one_after_the_other_the_later_ones_are_too_late_without_patience() {
    let letters = is_judged(&sets::zeek(), ALL, ALL, Cut::Kib(3_000), "0s", "0s");
    assert!(letters > 10_000, "{letters}");
}

#[test]
fn without_patience_many_taxi_trips_are_too_late() {
    let letters = is_judged(&sets::green_taxi(), ALL, ALL, Cut::Rounds(8), "0s", "0s");
    assert!(letters > 100, "{letters}");
}

// The input of our own, wherever the tests run.

#[test]
fn what_we_made_is_whole() {
    for seed in [1, 2] {
        let (bench, folder) = made::bench(seed, 6_000);
        let set = made::set();
        let plan = Plan { set: &set, data: &folder, files: ALL, limit: ALL, rounds: 1, lateness: NEVER_TOO_LATE, disorder_us: 0 };
        nothing_is_lost(&plan, bench);
    }
}

#[test]
fn what_we_made_is_judged_by_its_epochs() {
    let set = made::set();
    for (seed, lateness, disorder) in [(3, "2h", "10s"), (4, "0s", "0s")] {
        let (bench, folder) = made::bench(seed, 6_000);
        let bench = cut_into(bench, 64).with(&format!("event.disorder={disorder}"));
        let disorder_us = duration(disorder);
        let plan = Plan { set: &set, data: &folder, files: ALL, limit: ALL, rounds: 1, lateness, disorder_us };
        let letters = letters_follow_from_the_epochs(&plan, bench);
        assert!(letters > 50 && disorder_us <= 10 * SECOND_US, "{letters}");
    }
}
