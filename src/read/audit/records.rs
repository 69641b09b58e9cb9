//! The records of one epoch: every one in Bronze is in Silver, in a letter or left out by a rule; none is there twice.
//!
//! Epochs do not overlap, so a coordinate that is unique in its epoch and lies within its slice is unique in the table, and
//! memory is bounded by one epoch. Owns: this comparison, letters against counters and bounds. Does not own: whether the files
//! are those that were committed (outputs).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Field, Int32Type, Schema, SchemaRef};
use sluicebox_actors::model::epoch::{EpochHeader, Hash, OutputClass};
use sluicebox_actors::model::fault::{Fault, Result};
use sluicebox_actors::model::letter::{Letter, Stage};
use sluicebox_actors::model::position::{Position, Sequence};
use sluicebox_actors::model::window::Verdict;
use sluicebox_actors::ports::GoldTable;

use super::report::Finding;
use crate::read::files::{self, Format};
use crate::read::letter_rows;

const REMEDY: &str = "restore the files of this epoch from a backup; if they are as they were written, report a bug";

/// Sequence and sub-sequence.
pub type Coordinate = (Sequence, u32);

/// What the records of an epoch add up to.
#[derive(Default, Debug)]
pub struct EpochRecords {
    /// Letters in the files.
    pub letters: u64,
    /// Records accounted for by rows, letters and rules.
    pub accounted: u64,
    /// Records in Bronze, or received where Bronze is off.
    pub records: u64,
    /// What is wrong.
    pub findings: Vec<Finding>,
}

/// Compares the files of one epoch with each other and with its counters.
pub fn check(data: &Path, header: &EpochHeader, tables: &[GoldTable]) -> Result<EpochRecords> {
    let mut epoch = Epoch { data, header, tables, findings: Vec::new() };
    let letters = epoch.letters()?;
    let silver = epoch.coordinates(OutputClass::Silver, &mut |_| Ok(()))?;
    let bronze = if header.bronze_on { Some(epoch.bronze(&letters)?) } else { None };
    epoch.unique(&silver, "Silver");
    let mut rejected: Vec<Coordinate> = letters.iter().filter(|l| !matches!(l.stage, Stage::Gold(_))).map(|l| l.at).collect();
    rejected.sort_unstable();
    epoch.unique(&rejected, "the letters of rejected records");
    if shared(&silver, &rejected) > 0 {
        epoch.wrong("records are in Silver and rejected at the same time");
    }
    let mut late: Vec<Coordinate> = letters.iter().filter(|l| matches!(l.stage, Stage::Gold(_))).map(|l| l.at).collect();
    late.sort_unstable();
    late.dedup();
    if shared(&late, &silver) != late.len() {
        epoch.wrong("records that came too late for a Gold table are not in Silver");
    }
    if let Some(bronze) = &bronze {
        epoch.unique(bronze, "Bronze");
        if shared(&silver, bronze) != silver.len() || shared(&rejected, bronze) != rejected.len() {
            epoch.wrong("records are in Silver or in letters that are not in Bronze");
        }
    }
    let left_out = header.counts.filtered_total() + header.counts.duplicate;
    Ok(EpochRecords {
        letters: letters.len() as u64,
        accounted: (silver.len() + rejected.len()) as u64 + left_out,
        records: bronze.map_or(header.counts.received, |bronze| bronze.len() as u64),
        findings: epoch.findings,
    })
}

struct Seen {
    at: Coordinate,
    stage: Stage,
    data: Hash,
}

struct Epoch<'a> {
    data: &'a Path,
    header: &'a EpochHeader,
    tables: &'a [GoldTable],
    findings: Vec<Finding>,
}

impl Epoch<'_> {
    fn wrong(&mut self, what: &str) {
        self.findings.push(Finding::error(what, REMEDY).at(&self.header.shard, self.header.epoch));
    }

    fn files(&self, class: OutputClass) -> Vec<PathBuf> {
        let outputs = self.header.outputs.iter().filter(|output| output.class == class);
        outputs.map(|output| self.data.join(&output.path)).collect()
    }

    fn letters(&mut self) -> Result<Vec<Seen>> {
        let mut seen = Vec::new();
        let mut ids = BTreeSet::new();
        let mut reasons: BTreeMap<String, u64> = BTreeMap::new();
        let mut too_late: BTreeMap<Arc<str>, u64> = BTreeMap::new();
        for path in self.files(OutputClass::Dlq) {
            files::each_line(&path, &mut |line| {
                let letter = letter_rows::parse(line, &path)?;
                self.letter(&letter);
                if !ids.insert((letter.sequence, letter.sub_sequence, letter.stage.clone())) {
                    self.wrong("two letters have the same identity");
                }
                match &letter.stage {
                    Stage::Gold(table) => *too_late.entry(table.clone()).or_default() += 1,
                    stage @ (Stage::Decode | Stage::Contract | Stage::Time | Stage::Silver) => {
                        *reasons.entry(format!("{stage}/{}", letter.reason)).or_default() += 1;
                    }
                }
                let at = (letter.sequence, letter.sub_sequence);
                seen.push(Seen { at, stage: letter.stage, data: Hash::of(&letter.data) });
                Ok(true)
            })?;
        }
        let counted: BTreeMap<String, u64> =
            self.header.counts.rejected.iter().filter(|(_, n)| **n > 0).map(|(reason, n)| (reason.clone(), *n)).collect();
        if reasons != counted {
            self.wrong("the letters by stage and reason are not those that the epoch counts");
        }
        let header = self.header;
        for (table, counts) in &header.counts.gold {
            if too_late.remove(table.as_str()).unwrap_or(0) != counts.too_late {
                self.wrong(&format!("the letters of records too late for {table} are not those that the epoch counts"));
            }
        }
        if !too_late.is_empty() {
            self.wrong("there are letters of a Gold table that the epoch does not know");
        }
        Ok(seen)
    }

    /// One letter: it belongs to this epoch, and its verdict repeats.
    fn letter(&mut self, letter: &Letter) {
        let header = self.header;
        if letter.shard != header.shard || *letter.stream != *header.stream || letter.epoch != header.epoch {
            self.wrong("a letter names another stream, shard or epoch than the one that wrote it");
        }
        self.inside((letter.sequence, letter.sub_sequence), "a letter");
        let Stage::Gold(name) = &letter.stage else { return };
        let (Some(start), Some(bound)) = (letter.window_start_us, letter.bound_us) else {
            return self.wrong("a letter that came too late does not name its window and bound");
        };
        if bound != header.bound_opened.0 {
            self.wrong("a letter was judged by another bound than the one its epoch opened with");
        }
        if let Some(table) = self.tables.iter().find(|table| table.name == *name) {
            let window = table.windowing.starting(start);
            if table.windowing.verdict(window, header.bound_opened) != Verdict::TooLate {
                self.wrong("a letter says too late, but its window still took records");
            }
        }
    }

    fn inside(&mut self, at: Coordinate, what: &str) {
        let place = Position::after(at.0);
        if place <= self.header.from || place > self.header.to {
            self.wrong(&format!("{what} holds a record from outside of the epoch's slice"));
        }
    }

    /// All coordinates of a class, in order; `with` sees every batch.
    fn coordinates(&mut self, class: OutputClass, with: &mut dyn FnMut(&RecordBatch) -> Result<()>) -> Result<Vec<Coordinate>> {
        let mut out = Vec::new();
        let mut strange = false;
        for path in self.files(class) {
            let with_data = class == OutputClass::Bronze && Format::of(&path.to_string_lossy()) == Some(Format::Parquet);
            for batch in files::open(&path, &wanted(with_data))? {
                let batch = batch?;
                take(&batch, &mut out)?;
                let shards = batch.column(0).as_string::<i32>();
                strange |= shards.iter().any(|shard| shard != Some(self.header.shard.as_str()));
                with(&batch)?;
            }
        }
        if strange {
            self.wrong("rows name another shard than the one that wrote them");
        }
        out.sort_unstable();
        let ends = (out.first().copied(), out.last().copied());
        if let (Some(first), Some(last)) = ends {
            let what = if class == OutputClass::Bronze { "Bronze" } else { "Silver" };
            self.inside(first, what);
            self.inside(last, what);
        }
        Ok(out)
    }

    /// Bronze, with the bytes of every record that is a letter held against the letter's.
    fn bronze(&mut self, letters: &[Seen]) -> Result<Vec<Coordinate>> {
        let mut wanted: HashMap<Coordinate, Vec<&Hash>> = HashMap::new();
        for letter in letters {
            wanted.entry(letter.at).or_default().push(&letter.data);
        }
        let mut differ = 0u64;
        let out = self.coordinates(OutputClass::Bronze, &mut |batch| {
            let Some(data) = batch.column_by_name("data") else { return Ok(()) };
            if wanted.is_empty() {
                return Ok(());
            }
            let data = data.as_binary::<i32>();
            let mut at = Vec::new();
            take(batch, &mut at)?;
            for (row, at) in at.iter().enumerate() {
                if let Some(hashes) = wanted.get(at) {
                    let own = Hash::of(data.value(row));
                    differ += hashes.iter().filter(|hash| ***hash != own).count() as u64;
                }
            }
            Ok(())
        })?;
        if differ > 0 {
            self.wrong(&format!("{differ} letters hold other bytes than Bronze"));
        }
        Ok(out)
    }

    fn unique(&mut self, sorted: &[Coordinate], place: &str) {
        let twice = sorted.windows(2).filter(|pair| pair.first() == pair.last()).count();
        if twice > 0 {
            self.wrong(&format!("{twice} records are more than once in {place}"));
        }
    }
}

fn wanted(with_data: bool) -> SchemaRef {
    let mut fields = vec![
        Field::new("_shard", DataType::Utf8, true),
        Field::new("_sequence", DataType::Utf8, true),
        Field::new("_sub_sequence", DataType::Int32, true),
    ];
    if with_data {
        fields.push(Field::new("data", DataType::Binary, true));
    }
    Arc::new(Schema::new(fields))
}

/// Adds the coordinates of a batch that has `_sequence` and `_sub_sequence`.
pub fn take(batch: &RecordBatch, out: &mut Vec<Coordinate>) -> Result<()> {
    let lost = || Fault::corrupt("a row without coordinates");
    let sequences = batch.column_by_name("_sequence").and_then(|c| c.as_string_opt::<i32>()).ok_or_else(lost)?;
    let subs = batch.column_by_name("_sub_sequence").and_then(|c| c.as_primitive_opt::<Int32Type>()).ok_or_else(lost)?;
    if sequences.null_count() + subs.null_count() > 0 {
        return Err(lost());
    }
    for row in 0..batch.num_rows() {
        out.push((sequences.value(row).parse()?, u32::try_from(subs.value(row)).map_err(|_| lost())?));
    }
    Ok(())
}

/// How many of `few` are in `many`; both sorted.
fn shared(few: &[Coordinate], many: &[Coordinate]) -> usize {
    let mut many = many.iter().peekable();
    few.iter()
        .filter(|at| {
            while many.next_if(|other| other < at).is_some() {}
            many.peek() == Some(at)
        })
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_two_sorted_lists_share_is_counted_once_per_entry_of_the_first() {
        let at = |n: u64| (Sequence::dense(n), 0);
        let (few, many) = ([at(1), at(3), at(5)], [at(1), at(2), at(3), at(4)]);
        assert_eq!(shared(&few, &many), 2);
        assert_eq!(shared(&many, &few), 2);
        assert_eq!(shared(&few, &[]), 0);
    }
}
