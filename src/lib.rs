//! sluicebox: turn a stream of JSON events into hourly numbers you can prove.

pub mod clock;

/// From bytes to rows: the event contract, decoding, SQL.
pub mod engine {
    pub mod contract;
    pub mod decode;
    pub mod event_time;
    pub mod structure;
}
