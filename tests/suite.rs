//! The whole-system tests of the root package, in one binary: each links the SQL engine, so there is one.
#![allow(clippy::unwrap_used, reason = "a test that can't go on stops where it stands; clippy knows only functions under #[test]")]

mod cli;
mod settings;
mod tidy;
