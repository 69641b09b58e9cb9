//! sluicebox: turn a stream of JSON events into hourly numbers you can prove.

pub mod clock;
pub mod demo_events;

/// Files as records: what `put` reads.
pub mod input {
    pub mod arrival;
    mod batcher;
    pub mod csv;
    pub mod error;
    pub mod json_path;
    mod lines;
    mod pace;
    mod pipe;
    pub mod put;
    pub mod reader;
    mod source;
}

/// Streams to read from.
pub mod stream {
    mod batch;
    mod catalog;
    mod database;
    pub mod embedded;
    mod routing;
    mod shard;
}
