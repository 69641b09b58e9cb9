//! The pipeline as functions of AWS Lambda: a package of its own, so that a change here does not build the SQL engine again.
//!
//! Read downward: [`function`] is what an invocation does, [`event`] what it is given, [`answer`] what Lambda is told,
//! [`mapping`] under which settings of an event source mapping all that holds. How records that are handed over become epochs
//! stands in `sluicebox_actors::pipeline`.

pub mod answer;
pub mod event;
pub mod function;
pub mod mapping;
