//! Row 1 of the matrix, over a bucket: a worker dies at every point that is named, and the next one makes the tables of a quiet
//! run.

use std::collections::BTreeSet;
use std::sync::Mutex;

use sluicebox_actors::toolkit::crash::POINTS;

use super::super::support::process::{ABORTED, Ran};
use super::super::support::site::Evidence;
use super::*;

/// What takes time is waiting until the dead count as gone.
const AT_ONCE: usize = 4;

/// Passed here once in a run, or not at all: rows are made once, sinks have tests of their own.
const SELDOM: [&str; 1] = ["start.after_rows"];

/// False: this run did not come there so often, and ended well.
fn dies_at(local: &Site, expected: &Evidence, point: &str, passing: u32) -> bool {
    let cloud = Cloud::with_stream_of(local);
    let worker = || even(&cloud).set("store.failover=1s");
    if point.starts_with("takeover") {
        // Something must be there to take over: an epoch, and outputs that are not visible.
        worker().crash("commit.after_swap:3");
    }
    let dying = worker();
    let mut command = dying.command(&["run", "--drain"]);
    command.env("SLUICEBOX_CRASH", format!("{point}:{passing}"));
    let Ran { code, signal, err, .. } = Ran::of(command);
    let died = signal == Some(ABORTED);
    assert!(died || code == Some(0), "{point}:{passing}: exit {code:?}, signal {signal:?}\n{err}");
    if died {
        worker().drain();
    }
    cloud.evidence().must_equal(expected, &format!("a crash at {point}:{passing}"));
    died
}

#[test]
fn a_crash_at_every_point_over_a_bucket_leaves_no_trace() {
    let local = stamped();
    let again = Site::with_stream_of(&local);
    let expected = local.finish();
    let here = |point: &&str| !point.starts_with("feed.");
    let cases = [1, 2].into_iter().flat_map(|passing| POINTS.iter().map(move |(point, _)| (*point, passing)));
    let todo: Mutex<Vec<_>> = Mutex::new(cases.filter(|(point, _)| here(point)).rev().collect());
    let missed = Mutex::new(BTreeSet::new());
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let Some((point, passing)) = todo.lock().unwrap().pop() else { return };
                    if !dies_at(&again, &expected, point, passing) {
                        missed.lock().unwrap().insert((point, passing));
                    }
                }
            });
        }
    });
    assert_eq!(missed.into_inner().unwrap(), SELDOM.map(|point| (point, 2)).into(), "points that were not passed");
}
