//! The whole-system tests of the root package, in one binary: each links the SQL engine, so there is one.

mod cli;
mod settings;
//! Whole-system tests, one binary.

mod embedded_stream;
