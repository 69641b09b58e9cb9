//! sluicebox: turn a stream of JSON events into hourly numbers you can prove.

pub mod alerts;
pub mod cli;
pub mod clock;
pub mod demo_events;
pub mod iam;
pub mod import;
pub mod metrics;
pub mod observers;
pub mod output;
pub mod progress;
pub mod run;
pub mod settings;
pub mod signals;
pub mod source;
pub mod topology;
pub mod trial;

/// Files as records: what `put` reads.
pub mod input {
    pub mod arrival;
    pub mod batcher;
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

/// From bytes to rows: the event contract, decoding, SQL.
pub mod engine {
    /// Aggregates whose states commute to the bit.
    pub mod aggregates {
        pub(crate) mod buckets;
        pub(crate) mod cells;
        pub(crate) mod distinct;
        pub(crate) mod doubles;
        pub(crate) mod exact;
        pub(crate) mod extremes;
        pub(crate) mod firsts;
        pub(crate) mod hll;
        pub(crate) mod quantiles;
        pub(crate) mod sums;
        pub mod udaf;
    }

    pub mod condemned;
    pub mod glue;
    pub mod inflate;

    /// The Silver and Gold statements.
    pub mod sql {
        pub mod check;
        pub mod error;
        pub mod functions;
        pub mod gold;
        pub(crate) mod groups;
        pub(crate) mod keys;
        pub mod lower;
        pub mod merge;
        pub(crate) mod plan;
        pub mod silver;
        pub mod spill;
    }
    pub mod contract;
    pub mod decode;
    pub mod event_time;
    pub mod structure;
}

/// Rows, objects and tables on a local disk.
pub mod store {
    mod again;
    pub mod blobs;
    pub mod bucket;
    pub mod data_files;
    pub mod deaths;
    pub(crate) mod disk;
    #[cfg(test)]
    mod fixtures;
    pub mod gold_files;
    mod gold_windows;
    pub mod home;
    pub mod imports;
    pub mod ledger_files;
    mod letters;
    pub mod outputs;
    mod parquet;
    pub mod paths;
    pub mod row_file;
    pub mod rows;
    pub mod sink_files;
    pub mod split;
    mod sqlite;
    mod staged;
    pub mod tables;
}

/// The read side over a data directory, usable beside a running `run`.
pub mod read {
    /// `audit`: the ledger's lines and what is wrong, one question a file.
    pub mod audit {
        pub mod epochs;
        pub mod gold;
        pub mod outputs;
        pub mod pass;
        pub mod recompute;
        pub mod records;
        pub mod report;
    }
    pub mod chain;
    pub mod files;
    pub mod gold;
    pub mod ledger_rows;
    pub mod letter_rows;
    pub mod letters;
    pub mod query;
    pub mod shards;
    pub mod sinks;
    pub mod sources;
    pub mod status;
    pub mod table;
}
