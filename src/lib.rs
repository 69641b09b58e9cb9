//! sluicebox: turn a stream of JSON events into hourly numbers you can prove.

pub mod clock;
pub mod output;
pub mod progress;
pub mod settings;
