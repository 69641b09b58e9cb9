//! Epoch objects: see `epochs` in the library.
//!
//! Owns: the limit on memory while an object is read. Does not own: the properties.

#![no_main]

use std::alloc::System;

use cap::Cap;
use libfuzzer_sys::fuzz_target;
use sluicebox_actors::model::epoch::EpochObject;
use sluicebox_fuzz::epochs;

#[global_allocator]
static MEMORY: Cap<System> = Cap::new(System, usize::MAX);

fuzz_target!(|data: &[u8]| {
    let object = epochs::object(data);
    // What is read may be larger than its text (a map's node, a string's header), never by what the text claims.
    let most = MEMORY.allocated() + 256 * object.len() + (64 << 10);
    MEMORY.set_limit(most).expect("the limit lies above what is in use");
    let read = EpochObject::decode(&object);
    MEMORY.set_limit(usize::MAX).expect("no limit");
    if let Ok(object) = read {
        epochs::check(&object);
    }
});
