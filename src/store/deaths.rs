//! How often runs of this directory died without getting on: `state/deaths.json`.
//!
//! A run that ends in order says so; one that finds no such word knows that the one before it died, and which shards had
//! committed nothing since that one's start.
//!
//! Owns: this file, the count per shard, the records condemned for it. Does not own: finding such records (trial).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sluicebox_actors::model::fault::{Fault, Kind, Result};
use sluicebox_actors::model::position::{Position, Sequence, ShardId};
use sluicebox_actors::model::row::ShardRow;

use super::disk;
use super::home::Home;
use crate::engine::condemned::Condemned;

const PLACE: &str = "state/deaths.json";
/// A shard that got nowhere in so many runs that died, one after the other, is looked at record by record.
const SUSPICIOUS: u32 = 2;

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
struct Book {
    /// Somebody runs, or died.
    running: bool,
    shards: BTreeMap<ShardId, Page>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
struct Page {
    /// Committed when the run started.
    epoch: u64,
    /// Runs that died since the last commit.
    deaths: u32,
    /// Records that the process died of and that are not committed as letters yet.
    condemned: Vec<(String, u32)>,
}

/// The book of one directory, open from the start of a run to its end.
pub struct Deaths {
    home: Home,
    book: Book,
}

impl Deaths {
    /// Opens the book at the start of a run that holds the lock: counts the run before it, if that one died.
    pub fn begin(home: &Home, rows: &[ShardRow]) -> Result<Self> {
        let mut deaths = Self { home: home.clone(), book: read(home)? };
        let before = std::mem::take(&mut deaths.book);
        for row in rows {
            let page = before.shards.get(&row.shard).cloned().unwrap_or_default();
            let got_on = row.epoch > page.epoch;
            let count = if before.running && !got_on { page.deaths + 1 } else { 0 };
            let mut condemned = page.condemned;
            condemned.retain(|(sequence, _)| sequence.parse().is_ok_and(|sequence| Position::after(sequence) > row.position));
            deaths.book.shards.insert(row.shard.clone(), Page { epoch: row.epoch, deaths: count, condemned });
        }
        deaths.book.running = true;
        deaths.write()?;
        Ok(deaths)
    }

    /// Shards of which a record may be deadly.
    pub fn suspects(&self) -> Vec<ShardId> {
        let suspects = self.book.shards.iter().filter(|(_, page)| page.deaths >= SUSPICIOUS);
        suspects.map(|(shard, _)| shard.clone()).collect()
    }

    /// A suspect has been looked at: these of its records are never decoded again.
    pub fn condemn(&mut self, shard: &ShardId, records: &[(Sequence, u32)]) -> Result<()> {
        let page = self.book.shards.entry(shard.clone()).or_default();
        page.condemned.extend(records.iter().map(|(sequence, sub_sequence)| (sequence.to_string(), *sub_sequence)));
        page.deaths = 0;
        self.write()
    }

    /// All condemned records.
    pub fn condemned(&self) -> Result<Condemned> {
        condemned(&self.book)
    }

    /// The run ends in order, well or not.
    pub fn end(mut self) -> Result<()> {
        self.book.running = false;
        self.write()
    }

    fn write(&self) -> Result<()> {
        let text = serde_json::to_vec(&self.book).map_err(|error| Fault::caused(Kind::Bug, PLACE, &error))?;
        let disk = self.home.disk();
        disk.replace(&disk.path(PLACE, Kind::Bug)?, &text)
    }
}

/// The condemned records, for a process that only looks.
pub fn condemned_in(home: &Home) -> Result<Condemned> {
    condemned(&read(home)?)
}

fn condemned(book: &Book) -> Result<Condemned> {
    let mut out = Condemned::default();
    for (shard, page) in &book.shards {
        for (sequence, sub_sequence) in &page.condemned {
            out.add(shard.clone(), sequence.parse()?, *sub_sequence);
        }
    }
    Ok(out)
}

fn read(home: &Home) -> Result<Book> {
    match disk::read(&home.disk().path(PLACE, Kind::Bug)?)? {
        None => Ok(Book::default()),
        Some(text) => serde_json::from_slice(&text).map_err(|error| {
            Fault::caused(Kind::Corrupt, format!("{PLACE}; remove it: deadly records are then found anew"), &error)
        }),
    }
}

#[cfg(test)]
mod tests {
    use sluicebox_actors::model::row::ShardState;

    use super::*;
    use crate::clock::SystemClock;

    fn row(shard: &str, epoch: u64) -> ShardRow {
        let row = ShardRow::new("events", ShardId::new(shard), (0, u128::MAX), ShardState::Open);
        ShardRow { epoch, position: Position::after(Sequence::dense(epoch * 10)), ..row }
    }

    #[test]
    fn two_deaths_without_a_commit_make_a_suspect_of_that_shard_alone() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::open_or_create(folder.path(), "p", SystemClock::shared()).unwrap();
        let begin = |a, b| Deaths::begin(&home, &[row("a", a), row("b", b)]).unwrap();
        assert_eq!(begin(3, 3).suspects(), [], "the first run");
        assert_eq!(begin(3, 4).suspects(), [], "one death");
        assert_eq!(begin(3, 5).suspects(), [ShardId::new("a")], "two deaths; b got on");
        begin(3, 5).end().unwrap();
        assert_eq!(begin(3, 5).suspects(), [], "the run before ended in order");
    }

    #[test]
    fn a_condemned_record_is_remembered_until_it_is_committed() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::open_or_create(folder.path(), "p", SystemClock::shared()).unwrap();
        let mut deaths = Deaths::begin(&home, &[row("a", 1)]).unwrap();
        deaths.condemn(&ShardId::new("a"), &[(Sequence::dense(17), 2)]).unwrap();
        assert_eq!(condemned_in(&home).unwrap(), deaths.condemned().unwrap());
        assert!(!Deaths::begin(&home, &[row("a", 1)]).unwrap().condemned().unwrap().is_empty(), "before position 10");
        assert!(Deaths::begin(&home, &[row("a", 2)]).unwrap().condemned().unwrap().is_empty(), "past it, at position 20");
    }
}
