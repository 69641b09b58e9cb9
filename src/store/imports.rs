//! That rows are being imported into a directory: `state/import`.
//!
//! A run makes a row, at the start of the stream, for every shard without one. Between the first imported row and the last it
//! would read again what was not imported yet.
//!
//! Owns: this file. Does not own: the rows (import), that no run begins meanwhile (topology/stores).

use sluicebox_actors::model::fault::{Kind, Result};

use super::disk;
use super::home::Home;

const PLACE: &str = "state/import";

/// From where rows are being imported, if they are.
pub fn begun(home: &Home) -> Result<Option<String>> {
    let from = disk::read(&home.disk().path(PLACE, Kind::Bug)?)?;
    Ok(from.map(|from| String::from_utf8_lossy(&from).into_owned()))
}

/// Before the first row.
pub fn begin(home: &Home, from: &str) -> Result<()> {
    home.disk().create(&home.disk().path(PLACE, Kind::Bug)?, from.as_bytes()).map(drop)
}

/// After the last row.
pub fn end(home: &Home) -> Result<()> {
    disk::remove(&home.disk().path(PLACE, Kind::Bug)?).map(drop)
}
