//! AWS behind the ports: a package of its own, so that a change here does not build the SQL engine again.

pub mod client;
pub mod error;

/// The source: polling or enhanced fan-out, KPL records taken apart.
pub mod kinesis {
    pub mod api;
    pub mod cursor;
    pub mod elapsed;
    pub mod kpl;
    pub mod pacer;
    pub mod sdk;
    pub mod source;
}
