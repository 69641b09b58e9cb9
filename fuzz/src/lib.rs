//! What the fuzz targets check, one module a target.
//!
//! The modules under test are compiled here from the product's own files, alone: a build takes minutes, not the SQL engine's
//! twenty. The module tree mirrors `../src/lib.rs`, so that `crate::` paths mean the same.

// Only a part of each module is reached from here.
#![allow(dead_code, unreachable_pub)]

/// From bytes to rows: the event contract and decoding, without SQL.
#[path = "../../src/engine"]
pub mod engine {
    pub mod contract;
    pub mod decode;
    pub mod event_time;
    pub mod structure;
}

/// The pipeline file.
#[path = "../../src"]
pub mod product {
    pub mod settings;
}

/// Files as records. The target's module stands inside, because rows are visible in here only.
#[path = "../../src/input"]
pub mod input {
    pub mod csv;
    mod lines;
    #[path = "../../fuzz/src/rows.rs"]
    pub mod rows;
}

// What `input` needs of the package of streams is one constant: this package answers to its name.
extern crate self as sluicebox_stream;

/// The one constant of it.
pub mod embedded {
    /// As in `../src/stream/embedded.rs`.
    pub const RECORD_MAX: usize = 10 << 20;
}

pub mod configuration;
pub mod epochs;
pub mod events;
pub mod tape;
