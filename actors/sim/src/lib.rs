//! A simulated world for the processing model: the real pipeline over streams, rows, blobs and files in memory, in virtual time,
//! on one thread, with every operation at the mercy of a plan.
//!
//! Read downward: [`sim`] runs processes over a world; [`swarm`] draws random worlds and random faults from a seed, [`fleet`]
//! lets several workers share them, [`lambda`] has the records handed over by somebody who repeats himself; [`oracle`] says what
//! must be true in the end; [`process`] is the one wrapper through which every operation goes; [`plan`] decides what goes wrong;
//! [`store`] is what lasts, with the rules that hold at every change; [`files`], [`faulty`],
//! [`sinks`] and [`engine`] are the ports that need more than a line; [`truth`] is what really came in.
#![allow(missing_docs, reason = "types and functions say what they are for; the fields of a test's world are their own words")]

pub mod command;
pub mod coverage;
pub mod engine;
pub mod faulty;
pub mod files;
pub mod fleet;
pub mod headers;
mod held;
pub mod lambda;
mod ledger;
pub mod marks;
pub mod oracle;
pub mod plan;
pub mod process;
pub mod sim;
pub mod sinks;
pub mod store;
pub mod swarm;
pub mod sweep;
pub mod trace;
pub mod truth;
