//! sluicebox: turn a stream of JSON events into hourly numbers you can prove.

pub mod clock;

/// Streams to read from.
pub mod stream {
    mod batch;
    mod catalog;
    mod database;
    pub mod embedded;
    mod shard;
}
