//! Whole-system tests, one binary.

mod embedded_stream;
