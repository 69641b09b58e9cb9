//! sluicebox: turn a stream of JSON events into hourly numbers you can prove.

pub mod clock;

/// The read side over a data directory, usable beside a running `run`.
pub mod read {
    pub mod chain;
    pub mod files;
    pub mod ledger_rows;
    pub mod letter_rows;
    pub mod query;
    pub mod sources;
    pub mod table;
}
