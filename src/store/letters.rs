//! Letter files of one epoch of one shard: one letter as JSON a line, staged, one file per day of arrival.
//!
//! Owns: the layout of `dlq/`. Does not own: a letter's fields (model/letter), publication (outputs).

use std::collections::BTreeMap;
use std::io::Write;

use sluicebox_actors::model::epoch::{OutputClass, PendingOutput};
use sluicebox_actors::model::fault::{Fault, Result};
use sluicebox_actors::model::letter::Letter;
use sluicebox_actors::ports::LetterFile;

use super::paths;
use super::staged::{Door, StagedFile, Staging, Ticket, write_fault};

/// One try at one epoch's letters.
pub(crate) struct DiskLetterFile {
    staging: Staging,
    open_files: usize,
    open: BTreeMap<i64, OpenDay>,
    closed: Vec<PendingOutput>,
    used: u64,
    door: Door,
}

struct OpenDay {
    ticket: Ticket,
    file: StagedFile,
    rows: u64,
    last_used: u64,
}

impl DiskLetterFile {
    pub(crate) fn new(staging: Staging, open_files: usize) -> Self {
        Self { staging, open_files, open: BTreeMap::new(), closed: Vec::new(), used: 0, door: Door::default() }
    }

    fn take(&mut self, letter: &Letter) -> Result<()> {
        // The text is made first: a letter is in the file whole or not at all.
        let line = line_of(letter)?;
        let day = paths::day_of(letter.arrival_us);
        if !self.open.contains_key(&day) {
            self.make_room()?;
            let (ticket, file) = self.staging.create(OutputClass::Dlq, &paths::day_folder(day), "ndjson")?;
            self.open.insert(day, OpenDay { ticket, file, rows: 0, last_used: 0 });
        }
        self.used += 1;
        let used = self.used;
        let Some(open) = self.open.get_mut(&day) else { return Err(Fault::bug("a file that was just opened is not there")) };
        open.file.write_all(&line).map_err(|error| write_fault("writing letters", &error))?;
        open.rows += 1;
        open.last_used = used;
        Ok(())
    }

    fn make_room(&mut self) -> Result<()> {
        while self.open.len() >= self.open_files.max(1) {
            let oldest = self.open.iter().min_by_key(|(_, open)| open.last_used).map(|(day, _)| *day);
            let Some(open) = oldest.and_then(|day| self.open.remove(&day)) else { return Ok(()) };
            self.closed.push(self.staging.close(open.ticket, open.file, open.rows, "open_files")?);
        }
        Ok(())
    }
}

/// A letter as it stands in its file.
pub(crate) fn line_of(letter: &Letter) -> Result<Vec<u8>> {
    let mut line = serde_json::to_vec(letter).map_err(|error| Fault::bug(format!("writing a letter: {error}")))?;
    line.push(b'\n');
    Ok(line)
}

impl LetterFile for DiskLetterFile {
    fn append(&mut self, letters: &[Letter]) -> Result<()> {
        self.door.pass()?;
        let taken = letters.iter().try_for_each(|letter| self.take(letter));
        self.door.shut_on_error(taken)
    }

    fn finish(mut self: Box<Self>) -> Result<Vec<PendingOutput>> {
        self.door.pass()?;
        for (_, open) in std::mem::take(&mut self.open) {
            self.closed.push(self.staging.close(open.ticket, open.file, open.rows, "epoch")?);
        }
        if !self.closed.is_empty() {
            self.staging.sync()?;
        }
        Ok(self.closed)
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{THREE_O_CLOCK, home, letter, shard};
    use super::super::outputs::{DiskOutputs, OutputOptions};
    use super::*;
    use sluicebox_actors::ports::Outputs;

    const DAY: i64 = 86_400_000_000;

    #[test]
    fn letters_come_back_whole_from_the_day_they_arrived() {
        let (_dir, home) = home();
        let outputs = DiskOutputs::new(&home, OutputOptions { open_files: 1, ..OutputOptions::default() });
        let mut file = outputs.letter_file(&shard(), 1, 1).expect("begins");
        let letters: Vec<_> = [0, 0, 1, 0].iter().zip(1..).map(|(day, i)| letter(i, THREE_O_CLOCK + day * DAY)).collect();
        file.append(&letters[..2]).expect("writes");
        file.append(&letters[2..]).expect("writes");
        let closed = file.finish().expect("ends");
        let why: Vec<_> = closed.iter().map(|output| (output.rows, output.closed_because.as_str())).collect();
        assert_eq!(why, [(2, "open_files"), (1, "open_files"), (1, "epoch")]);
        let mut read = Vec::new();
        for output in &closed {
            let text = std::fs::read_to_string(home.data().join(&output.staged)).expect("reads");
            for line in text.lines() {
                let letter: Letter = serde_json::from_str(line).expect("a letter");
                let day = if letter.arrival_us >= THREE_O_CLOCK + DAY { "dlq/dt=2026-11-24/" } else { "dlq/dt=2026-11-23/" };
                assert!(output.path.starts_with(day), "{}", output.path);
                read.push(letter);
            }
        }
        read.sort_by_key(|letter| letter.sequence);
        assert_eq!(read, letters);
    }
}
