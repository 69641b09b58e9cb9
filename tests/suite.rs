//! The whole-system tests of the root package, in one binary: each links the SQL engine, so there is one.
#![allow(clippy::unwrap_used, reason = "a test that can't go on stops where it stands; clippy knows only #[test] functions")]

mod cli;
mod embedded_stream;
mod engine {
    mod decode_properties;
    mod differential;
    mod json_test_suite;
}
mod settings;
mod tidy;
