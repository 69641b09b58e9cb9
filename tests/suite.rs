//! The whole-system tests of the root package, in one binary: each links the SQL engine, so there is one.
#![allow(clippy::unwrap_used, reason = "a test that can't go on says so by a panic")]

mod calendar;
mod changed_pipeline;
mod cli;
mod deploy;
mod disk;
mod embedded_stream;
mod emulated;
mod engine {
    mod common;
    mod commute;
    mod decode_properties;
    mod differential;
    mod glue;
    mod json_test_suite;
    mod spill;
    mod statements;
    mod values;
}
mod iam;
mod kcl;
#[cfg(debug_assertions)]
mod kill;
mod kinesis;
mod lambda;
mod read {
    mod finished_run;
    mod ports;
    mod queries;
    mod support;
    mod teeth;
}
mod malformed;
mod merge;
mod recorded;
mod settings;
mod shared;
mod shared_faults;
mod side_by_side;
mod simulated;
mod sinks;
mod support {
    pub(crate) mod drive;
    pub(crate) mod outcome;
    pub(crate) mod process;
    pub(crate) mod site;
    pub(crate) mod value;
}
mod tidy;
