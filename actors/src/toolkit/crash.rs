//! Crash points: named places where a test ends the whole process, or makes one actor panic.
//!
//! `SLUICEBOX_CRASH=<point>[:n]` aborts the process when it passes the point for the n-th time (without `n` the first);
//! `SLUICEBOX_PANIC` panics there instead. They are compiled in under `debug_assertions` only. A cargo feature would do too,
//! but then either `cargo test` builds the program, SQL engine and all, a second time, or the feature is on in builds that
//! people use; this way the tests kill the very binary that they build anyway, and a release build holds neither points nor
//! variables.
//!
//! Owns: the names, the trap. Does not own: where the points stand (the code around each), the environment (the process).

/// Every point, with what a crash there leaves behind.
pub const POINTS: [(&str, &str); 29] = [
    ("start.after_rows", "rows of shards that nobody took yet"),
    ("takeover.after_lease", "a raised lease, nothing else done"),
    ("takeover.after_publish", "one of the pending outputs visible again"),
    ("takeover.after_discard", "foreign staged files gone, foreign epoch objects not"),
    ("shard.dispatch", "records read and not sent on"),
    ("partition.raw", "records that no partition has seen"),
    ("writer.append", "an open staged file"),
    ("writer.after_finish", "staged files whole, commit does not know"),
    ("dlq.append", "an open staged letter file"),
    ("dlq.after_finish", "staged letter files whole, commit does not know"),
    ("commit.after_hold", "staged files where a successor finds them, commit does not know"),
    ("commit.before_put", "everything staged, no epoch object"),
    ("commit.after_put", "an epoch object that no row names"),
    ("commit.after_swap", "a true epoch whose outputs are all still staged"),
    ("publish.after_rename", "an output moved, its folder not durable"),
    ("commit.after_publish", "all outputs visible, commit does not know"),
    ("gold.after_content", "a Gold content that no row names"),
    ("gold.after_swap", "a revision that nobody sees"),
    ("gold.after_object", "a Gold object without its row in gold_windows"),
    ("gold.after_publish", "a visible revision that is not noted as published"),
    ("base.after_put", "a base that no row names"),
    ("base.after_swap", "two bases of one window, one of them named"),
    ("collect.after_ledger", "ledger lines whose epoch objects are still there"),
    ("collect.after_delete", "some of the collected epoch objects gone"),
    ("feed.after_keys", "keys of a sink's window that no row names"),
    ("feed.after_shown", "a sink's row that says what may be shown, and nothing of it is"),
    ("feed.after_feed", "a revision that a sink has, and its row does not say so"),
    ("feed.after_send", "letters that a sink has, and its row does not say so"),
    ("feed.after_swap", "a sink's row that is true, the keys before it not gone"),
];

#[cfg(debug_assertions)]
mod armed {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::POINTS;
    use crate::model::fault::{Fault, Result};

    /// What happens at the point.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub enum How {
        /// The process ends at once: no destructor runs, nothing is flushed.
        Crash,
        /// Whoever passes panics.
        Panic,
    }

    struct Trap {
        how: How,
        point: String,
        nth: u64,
        passed: AtomicU64,
    }

    static TRAP: OnceLock<Trap> = OnceLock::new();

    /// Sets the process's one trap: `<point>[:n]`.
    pub fn arm(how: How, text: &str) -> Result<()> {
        let (point, nth) = text.split_once(':').unwrap_or((text, "1"));
        if !POINTS.iter().any(|(name, _)| *name == point) {
            let names: Vec<&str> = POINTS.iter().map(|(name, _)| *name).collect();
            return Err(Fault::config(format!("there is no crash point `{point}`; there are {}", names.join(", "))));
        }
        let nth = nth.parse().map_err(|error| Fault::config(format!("crash point `{text}`: `{nth}` is no count: {error}")))?;
        let trap = Trap { how, point: point.to_owned(), nth, passed: AtomicU64::new(0) };
        TRAP.set(trap).map_err(|_| Fault::config("only one crash point can be set"))
    }

    /// Nothing, unless this is the armed point and its turn has come.
    pub fn pass(point: &str) {
        let Some(trap) = TRAP.get().filter(|trap| trap.point == point) else { return };
        if trap.passed.fetch_add(1, Ordering::Relaxed) + 1 != trap.nth {
            return;
        }
        match trap.how {
            How::Crash => std::process::abort(),
            How::Panic => panic!("told to panic at {point}"),
        }
    }
}

#[cfg(debug_assertions)]
pub use armed::{How, arm, pass};

/// Nothing: this build has no crash points.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn pass(_point: &str) {}

#[cfg(all(test, debug_assertions))]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_point_is_refused_with_the_ones_there_are() {
        let fault = arm(How::Crash, "commit.sometime").expect_err("is refused");
        assert!(fault.message().contains("`commit.sometime`") && fault.message().contains("commit.after_swap"), "{fault}");
        assert!(arm(How::Crash, "commit.after_swap:often").is_err());
    }

    #[test]
    fn no_point_is_listed_twice() {
        let names: std::collections::BTreeSet<&str> = POINTS.iter().map(|(name, _)| *name).collect();
        assert_eq!(names.len(), POINTS.len());
    }
}
