//! The configuration: see `configuration` in the library.
//!
//! Owns: the entry point. Does not own: the properties.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sluicebox_fuzz::configuration::check(data));
