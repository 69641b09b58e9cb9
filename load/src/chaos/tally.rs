//! What was done and found, and the table of it.
//!
//! Owns: counters, differences, printing. Does not own: finding anything.

use std::collections::{BTreeMap, BTreeSet};

use super::aftermath::Aftermath;
use super::attacks::Attack;
use super::producer::Puts;

/// Differences that are printed whole.
const SHOWN: usize = 20;

/// How often an attack met what.
#[derive(Clone, Copy, Default, Debug)]
struct Met {
    times: u64,
    uncommitted: u64,
    unpublished: u64,
}

/// What the directory holds in the end.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Sizes {
    pub(super) records: u64,
    pub(super) silver: u64,
    pub(super) letters: u64,
    pub(super) too_late: u64,
    pub(super) epochs: u64,
    pub(super) windows: u64,
}

/// All of it.
#[derive(Default)]
pub(super) struct Tally {
    met: BTreeMap<&'static str, Met>,
    /// Points that ended a run, with the passing.
    pub(super) points: BTreeSet<(&'static str, u64)>,
    /// Points that a run did not come by in time.
    pub(super) not_passed: BTreeSet<(&'static str, u64)>,
    pub(super) panics: BTreeSet<&'static str>,
    pub(super) not_panicked: BTreeSet<&'static str>,
    /// Second runs that were refused as they must be.
    pub(super) refused: u64,
    /// Verbs that looked on beside a run.
    pub(super) looks: u64,
    /// Runs that ended for want of room, and those that went on trying.
    pub(super) out_of_room: u64,
    pub(super) in_trouble: u64,
    /// Runs started.
    pub(super) runs: u64,
    pub(super) sizes: Sizes,
    differences: Vec<String>,
    different: u64,
}

impl Tally {
    /// Notes a difference: something that must not be.
    pub(super) fn differ(&mut self, what: String) {
        self.different += 1;
        if self.differences.len() < SHOWN {
            self.differences.push(what);
        }
    }

    pub(super) fn is_good(&self) -> bool {
        self.different == 0
    }

    pub(super) fn attacked(&mut self, attack: Attack, left: Aftermath) {
        let met = self.met.entry(attack.name()).or_default();
        met.times += 1;
        met.uncommitted += u64::from(left.uncommitted);
        met.unpublished += u64::from(left.unpublished);
    }

    pub(super) fn print(&self, puts: Puts, seconds: f64) {
        println!("{:<28} {:>6} {:>18} {:>20}", "attack", "times", "epoch uncommitted", "output unpublished");
        let mut all = Met::default();
        for (name, met) in &self.met {
            println!("{name:<28} {:>6} {:>18} {:>20}", met.times, met.uncommitted, met.unpublished);
            all.times += met.times;
            all.uncommitted += met.uncommitted;
            all.unpublished += met.unpublished;
        }
        println!("{:<28} {:>6} {:>18} {:>20}", "all", all.times, all.uncommitted, all.unpublished);
        println!();
        let row = |what: &str, count: String| println!("{what:<44} {count:>12}");
        row("crash points that ended a run", self.points.len().to_string());
        row("points at which an actor panicked", self.panics.len().to_string());
        row("second runs refused", self.refused.to_string());
        row("looks at the tables beside a run", self.looks.to_string());
        row("runs that ended for want of room", self.out_of_room.to_string());
        row("runs that met want of room and went on", self.in_trouble.to_string());
        row("runs started", self.runs.to_string());
        row("puts started", puts.started.to_string());
        row("puts killed", puts.killed.to_string());
        row("puts in little room", puts.cramped.to_string());
        row("puts repeated whole", puts.repeated.to_string());
        self.print_sizes(seconds);
        let passings =
            |points: &BTreeSet<(&str, u64)>| points.iter().map(|(name, nth)| format!(" {name}:{nth}")).collect::<String>();
        if !self.not_passed.is_empty() {
            println!("killed while waiting for a point:{}", passings(&self.not_passed));
        }
        if !self.not_panicked.is_empty() {
            println!("waited in vain for a panic at: {:?}", self.not_panicked);
        }
    }

    /// What there is in the end, and what is wrong with it.
    pub(super) fn print_sizes(&self, seconds: f64) {
        let row = |what: &str, count: String| println!("{what:<44} {count:>12}");
        row("records in the stream", self.sizes.records.to_string());
        row("rows of Silver", self.sizes.silver.to_string());
        row("letters of decode, contract and time", self.sizes.letters.to_string());
        row("letters of Gold (too late)", self.sizes.too_late.to_string());
        row("epochs", self.sizes.epochs.to_string());
        row("windows", self.sizes.windows.to_string());
        row("differences", self.different.to_string());
        row("seconds", format!("{seconds:.0}"));
        for difference in &self.differences {
            println!("DIFFERENCE: {difference}");
        }
        if self.different > self.differences.len() as u64 {
            println!("… and {} more", self.different - self.differences.len() as u64);
        }
    }
}
