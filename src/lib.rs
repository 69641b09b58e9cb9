//! sluicebox: turn a stream of JSON events into hourly numbers you can prove.

pub mod cli;
pub mod clock;

/// Rows, objects and tables on a local disk.
pub mod store {
    pub mod blobs;
    pub mod data_files;
    mod disk;
    #[cfg(test)]
    mod fixtures;
    pub mod gold_files;
    mod gold_windows;
    pub mod home;
    pub mod ledger_files;
    mod letters;
    pub mod outputs;
    mod parquet;
    pub mod paths;
    pub mod row_file;
    pub mod rows;
    pub mod split;
    mod sqlite;
    mod staged;
}
pub mod output;
pub mod progress;
pub mod settings;
/// Streams to read from.
pub mod stream {
    mod batch;
    mod catalog;
    mod database;
    pub mod embedded;
    mod shard;
/// From bytes to rows: the event contract, decoding, SQL.
pub mod engine {
    pub mod contract;
    pub mod decode;
    pub mod event_time;
    pub mod structure;
}
