//! What the seeds really met.
//!
//! Owns: the counts and their table. Does not own: what must be met (the tests).

use std::collections::BTreeMap;
use std::fmt;

use crate::plan::{OPS, Op};
use crate::sim::Ran;

/// Columns of the table.
const FAULTS: [&str; 9] =
    ["error before", "answer lost", "twice", "crash before", "crash after", "arrives after crash", "stall", "freeze", "panic"];

/// Faults by kind of operation, and situations.
#[derive(Clone, Default, Debug)]
pub struct Coverage {
    pub seeds: u64,
    pub processes: u64,
    pub operations: u64,
    pub met: BTreeMap<(Op, &'static str), u64>,
    pub marks: BTreeMap<&'static str, u64>,
}

impl Coverage {
    /// Adds what one process met.
    pub fn add_process(&mut self, ran: &Ran) {
        self.processes += 1;
        self.operations += ran.operations;
        for (met, times) in &ran.met {
            *self.met.entry(*met).or_default() += times;
        }
    }

    /// Adds what other seeds met.
    pub fn add(&mut self, other: &Coverage) {
        self.seeds += other.seeds;
        self.processes += other.processes;
        self.operations += other.operations;
        for (met, times) in &other.met {
            *self.met.entry(*met).or_default() += times;
        }
        for (mark, times) in &other.marks {
            *self.marks.entry(mark).or_default() += times;
        }
    }

    /// How often this fault met this kind of operation.
    pub fn times(&self, op: Op, fault: &'static str) -> u64 {
        self.met.get(&(op, fault)).copied().unwrap_or(0)
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} seeds, {} processes, {} operations", self.seeds, self.processes, self.operations)?;
        write!(f, "{:<18}", "operation")?;
        FAULTS.iter().try_for_each(|fault| write!(f, "{fault:>20}"))?;
        writeln!(f)?;
        for op in OPS {
            write!(f, "{:<18}", format!("{op:?}"))?;
            FAULTS.iter().try_for_each(|fault| write!(f, "{:>20}", self.times(op, fault)))?;
            writeln!(f)?;
        }
        self.marks.iter().try_for_each(|(mark, times)| writeln!(f, "{times:>12}  {mark}"))
    }
}
