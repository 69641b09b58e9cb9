//! The decoder: see `events` in the library.
//!
//! Owns: the entry point. Does not own: the properties.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sluicebox_fuzz::events::check(data));
