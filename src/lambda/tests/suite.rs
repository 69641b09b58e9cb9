//! The functions over a simulated world, and the loop against a Runtime API of the test's own.
#![allow(clippy::unwrap_used, reason = "a test that can't go on says so by a panic")]

mod invocations;
