//! sluicebox: turn a stream of JSON events into hourly numbers you can prove.

pub mod cli;
pub mod clock;
pub mod output;
pub mod progress;
pub mod settings;
