//! Which letters a sink is given next.
//!
//! Owns: the places in the letters of every shard, whose turn it is, how many wait, cutting a file into slices. Does not own:
//! reading files and epochs (shells/feed).

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};

use super::{Limit, Turn};
use crate::model::epoch::{OutputClass, PendingOutput};
use crate::model::fault::{Fault, Kind, Result};
use crate::model::feed::{Feed, FeedRow, LetterFeed, LetterPlace};
use crate::model::letter::Letter;
use crate::model::position::ShardId;
use crate::ports::PostedLetter;

/// Letters of one slice at most.
pub const SLICE_LETTERS: usize = 100;
/// Epochs with letters that are kept in mind per shard; what is beyond is read again when its turn comes.
const EPOCHS_MAX: usize = 1 << 12;
/// Epochs without letters after which the row follows: whoever starts reads all epochs since.
const NOTED_EVERY: u64 = 64;

/// The letters of all shards for one sink.
#[derive(Debug)]
pub struct Post {
    sink: String,
    lanes: BTreeMap<ShardId, Lane>,
    /// Whose turn it was.
    last: Option<ShardId>,
    backlog: Limit,
}

#[derive(Debug)]
struct Lane {
    row: FeedRow,
    has: LetterFeed,
    /// Letter files of the epochs after `has.epoch`, up to `through`.
    epochs: BTreeMap<u64, Vec<PendingOutput>>,
    through: u64,
    /// Newest committed epoch that was heard of, and letters beyond `through`.
    newest: u64,
    beyond: u64,
}

/// What is to be done next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Next {
    /// Read which letter files the epochs after this one have.
    Learn {
        /// Shard.
        shard: ShardId,
        /// Known so far.
        above: u64,
    },
    /// Hand on letters of this file, from this place.
    Send {
        /// Shard.
        shard: ShardId,
        /// The file.
        output: Box<PendingOutput>,
        /// The place.
        place: LetterPlace,
    },
    /// No letters for a long time: let the row say so.
    Note(Box<FeedRow>),
}

/// Letters of a file, whole lines of it.
#[derive(Clone, Debug)]
pub struct Slice {
    /// The letters.
    pub letters: Vec<PostedLetter>,
    /// Bytes they take.
    pub bytes: u64,
}

/// The letter files of an epoch.
pub fn letter_files(outputs: &[PendingOutput]) -> Vec<PendingOutput> {
    outputs.iter().filter(|output| output.class == OutputClass::Dlq).cloned().collect()
}

/// Whole letters from the front of these bytes of a file; none if not even the first is whole.
pub fn slice(file: &str, place: LetterPlace, bytes: &[u8]) -> Result<Slice> {
    let mut slice = Slice { letters: Vec::new(), bytes: 0 };
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        if slice.letters.len() >= SLICE_LETTERS || line.last() != Some(&b'\n') {
            break;
        }
        let number = place.line + slice.letters.len() as u64;
        let letter: Letter = serde_json::from_slice(line)
            .map_err(|error| Fault::caused(Kind::Corrupt, format!("line {} of {file} is no letter", number + 1), &error))?;
        slice.letters.push(PostedLetter { letter, file: file.to_owned(), line: number });
        slice.bytes += line.len() as u64;
    }
    Ok(slice)
}

impl Lane {
    /// Letters in mind that the sink does not have.
    fn waiting(&self) -> u64 {
        let rows = |(epoch, files): (&u64, &Vec<PendingOutput>)| {
            let place = if *epoch == self.has.epoch + 1 { self.has.place } else { LetterPlace::default() };
            let files = files.iter().skip(usize::try_from(place.file).unwrap_or(usize::MAX));
            files.map(|file| file.rows).sum::<u64>().saturating_sub(place.line)
        };
        self.epochs.iter().map(rows).sum::<u64>() + self.beyond
    }

    fn committed(&mut self, epoch: u64, files: Vec<PendingOutput>) {
        let is_next = epoch == self.through + 1 && self.epochs.len() < EPOCHS_MAX;
        if epoch > self.newest {
            self.newest = epoch;
            self.beyond += if is_next { 0 } else { files.iter().map(|file| file.rows).sum() };
        }
        if is_next {
            self.through = epoch;
            if !files.is_empty() {
                self.epochs.insert(epoch, files);
            }
        }
        if self.through == self.newest {
            self.beyond = 0;
        }
    }

    fn next(&self, shard: &ShardId) -> Option<Next> {
        for (epoch, files) in &self.epochs {
            let place = if *epoch == self.has.epoch + 1 { self.has.place } else { LetterPlace::default() };
            if let Some(output) = files.get(usize::try_from(place.file).unwrap_or(usize::MAX)) {
                return Some(Next::Send { shard: shard.clone(), output: Box::new(output.clone()), place });
            }
        }
        if self.through < self.newest {
            return Some(Next::Learn { shard: shard.clone(), above: self.through });
        }
        let silent = self.through >= self.has.epoch + NOTED_EVERY;
        silent.then(|| Next::Note(Box::new(self.at(self.through, LetterPlace::default(), 0))))
    }

    fn at(&self, epoch: u64, place: LetterPlace, more: u64) -> FeedRow {
        self.row.next(Feed::Letters(LetterFeed { epoch, place, sent: self.has.sent + more, ..self.has.clone() }))
    }
}

impl Post {
    /// A sink that is behind when more letters than this wait.
    pub fn new(sink: &str, max_backlog: u64) -> Self {
        Self { sink: sink.to_owned(), lanes: BTreeMap::new(), last: None, backlog: Limit::new(max_backlog) }
    }

    /// A row as stored, at start or when it is new.
    pub fn row_stands(&mut self, row: FeedRow) {
        let Feed::Letters(has) = &row.fed else { return };
        let has = has.clone();
        let Some(lane) = self.lanes.get_mut(&has.shard) else {
            let (through, newest) = (has.epoch, has.epoch);
            let lane = Lane { row, through, newest, beyond: 0, epochs: BTreeMap::new(), has: has.clone() };
            self.lanes.insert(has.shard, lane);
            return;
        };
        lane.epochs.retain(|epoch, _| *epoch > has.epoch);
        lane.through = lane.through.max(has.epoch);
        lane.newest = lane.newest.max(has.epoch);
        (lane.row, lane.has) = (row, has);
    }

    /// A shard without a row began after the sink.
    fn lane(&mut self, shard: &ShardId) -> &mut Lane {
        let sink = &self.sink;
        self.lanes.entry(shard.clone()).or_insert_with(|| {
            let row = FeedRow::of_letters(sink, shard, 0);
            let has = LetterFeed { shard: shard.clone(), epoch: 0, place: LetterPlace::default(), sent: 0, refused: 0 };
            Lane { row, has, epochs: BTreeMap::new(), through: 0, newest: 0, beyond: 0 }
        })
    }

    /// This epoch of a shard is true.
    pub fn committed(&mut self, shard: &ShardId, epoch: u64, files: Vec<PendingOutput>) {
        self.lane(shard).committed(epoch, files);
    }

    /// A shard has come so far, whatever its epochs hold.
    pub fn committed_to(&mut self, shard: &ShardId, epoch: u64) {
        let lane = self.lane(shard);
        lane.newest = lane.newest.max(epoch);
    }

    /// What is to be done next.
    pub fn next(&self) -> Option<Next> {
        let next = |(shard, lane): (&ShardId, &Lane)| lane.next(shard);
        let after = self.last.as_ref().and_then(|last| self.lanes.range((Excluded(last.clone()), Unbounded)).find_map(next));
        after.or_else(|| self.lanes.iter().find_map(next))
    }

    /// The others' turn.
    pub fn had_its_turn(&mut self, shard: &ShardId) {
        self.last = Some(shard.clone());
    }

    /// What the row says once this slice of a file is handed over; none = the shard is not known.
    pub fn after(&self, shard: &ShardId, output: &PendingOutput, place: LetterPlace, slice: &Slice) -> Option<FeedRow> {
        let lane = self.lanes.get(shard)?;
        let files = lane.epochs.get(&output.epoch)?.len() as u64;
        let (offset, sent) = (place.offset + slice.bytes, slice.letters.len() as u64);
        // By rows: a file that was written once more has as many, and perhaps another length.
        if place.line + sent < output.rows {
            let place = LetterPlace { offset, line: place.line + sent, ..place };
            return Some(lane.at(output.epoch - 1, place, sent));
        }
        let file = place.file + 1;
        Some(match file < files {
            true => lane.at(output.epoch - 1, LetterPlace { file, line: 0, offset: 0 }, sent),
            false => lane.at(output.epoch, LetterPlace::default(), sent),
        })
    }

    /// Letters that wait.
    pub fn waiting(&self) -> u64 {
        self.lanes.values().map(Lane::waiting).sum()
    }

    /// Does the sink fall behind, or is it back?
    pub fn turn(&mut self) -> Option<Turn> {
        let waiting = self.waiting();
        self.backlog.turn(waiting)
    }

    /// Is it behind?
    pub fn is_behind(&self) -> bool {
        self.backlog.is_passed()
    }
}

#[cfg(test)]
mod tests;
