//! The pipeline in a simulated world: everything outside it is in memory, time is virtual, and whatever can go wrong does.
#![allow(clippy::unwrap_used, reason = "a test that can't go on says so by a panic")]

mod collect;
mod commit;
mod crash;
mod drain;
mod epoch;
mod faults;
mod fleet;
mod gold;
mod idle;
mod lambda;
mod ledger;
mod outlet;
mod partition;
mod provisional;
mod rebuild;
mod seeds;
mod sinks;
mod supervise;
mod sweep;
mod teeth;
mod threads;
mod time;
