//! Row 1 of the matrix, over a bucket: a worker dies at every point that is named, and the next one makes the tables of a quiet
//! run.

use std::sync::Mutex;

use sluicebox_actors::toolkit::crash::POINTS;

use super::super::kill::{COMMITTING, EMITTING, STARTING, layer};
use super::super::support::site::Evidence;
use super::*;

/// What takes time is waiting until the dead count as gone.
const AT_ONCE: usize = 4;
/// Each case is a stream that is read twice, and looked at whole.
const SOME: u64 = 1_300;

/// The first time a worker begins with nothing; what comes again and again has left its traces the second time.
fn passing(point: &str) -> u32 {
    if ["commit", "publish", "gold"].contains(&layer(point)) { 2 } else { 1 }
}

fn dies_at(local: &Site, expected: &Evidence, point: &str) {
    let cloud = Cloud::with_stream_of(local);
    // Of many small epochs some are collected for certain.
    let collects = ["base", "collect"].contains(&layer(point));
    let worker = || if collects { slow(&cloud).set("collect.after_epochs=2") } else { even(&cloud) }.set("store.failover=1s");
    if layer(point) == "takeover" {
        // Something must be there to take over: an epoch, and outputs that are not visible.
        worker().crash("commit.after_swap:3");
    }
    worker().crash(&format!("{point}:{}", passing(point)));
    worker().drain();
    cloud.evidence().must_equal(expected, &format!("a crash at {point}"));
}

#[test]
fn a_crash_at_every_point_over_a_bucket_leaves_no_trace() {
    let local = one_shard_of(SOME);
    let again = Site::with_stream_of(&local);
    let expected = local.finish();
    // Whoever works between a read and the commit does as over a directory; sinks have tests of their own.
    let layers = [&STARTING[..], &COMMITTING, &EMITTING].concat();
    let here = POINTS.iter().map(|(point, _)| *point).filter(|point| layers.contains(&layer(point)));
    let todo: Mutex<Vec<_>> = Mutex::new(here.collect());
    assert!(todo.lock().unwrap().len() > 10);
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let Some(point) = todo.lock().unwrap().pop() else { return };
                    dies_at(&again, &expected, point);
                }
            });
        }
    });
}
