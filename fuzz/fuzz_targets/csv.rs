//! CSV: see `input::rows` in the library.
//!
//! Owns: the entry point. Does not own: the properties.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sluicebox_fuzz::input::rows::check(data));
