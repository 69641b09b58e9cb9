//! sluicebox: turn a stream of JSON events into hourly numbers you can prove.

pub mod clock;
pub mod settings;
