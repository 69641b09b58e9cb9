//! sluicebox: turn a stream of JSON events into hourly numbers you can prove.

pub mod clock;

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
    pub mod sources;
    pub mod status;
    pub mod table;
}
