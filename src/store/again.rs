//! Lost files of one committed epoch, written once more: each under its old name, with as many rows.
//!
//! A folder may have had several files of the epoch, of which some are visible: their rows are known by their coordinates and
//! left out, and what remains fills the lost ones in the order in which they were written. Which row was in which of these
//! nobody needs to know.
//!
//! Owns: which row goes to which file. Does not own: the rows (pipeline/rebuild), names and durability (staged), where the new
//! files are held (bucket/outputs).

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Field, Schema};
use sluicebox_actors::model::epoch::{OutputClass, PendingOutput};
use sluicebox_actors::model::fault::{Fault, Kind, Result};
use sluicebox_actors::model::letter::{Letter, Stage};
use sluicebox_actors::model::record::RawSlice;
use sluicebox_actors::ports::Rewriting;

use super::data_files::{bronze_pieces, folder};
use super::letters::line_of;
use super::outputs::OutputOptions;
use super::paths;
use super::row_file::{Format, RowFile};
use super::split::split;
use super::staged::{self, Door, StagedFile, Staging, Ticket, write_fault};
use crate::read::audit::records::{Coordinate, take};
use crate::read::{files, letter_rows};

/// A row of a table: the record's coordinate and, of a letter, its stage.
pub(crate) type Row = (Coordinate, Option<Stage>);

/// All rows of a visible file.
pub(crate) fn rows_of(path: &Path, class: OutputClass) -> Result<Vec<Row>> {
    let mut found = Vec::new();
    match class {
        OutputClass::Dlq => files::each_line(path, &mut |line| {
            found.push(of_letter(&letter_rows::parse(line, path)?));
            Ok(true)
        })?,
        OutputClass::Bronze | OutputClass::Silver => {
            let sequence = Field::new("_sequence", DataType::Utf8, true);
            let wanted = Schema::new(vec![sequence, Field::new("_sub_sequence", DataType::Int32, true)]);
            for rows in files::open(path, &Arc::new(wanted))? {
                found.extend(of_batch(&rows?)?);
            }
        }
    }
    Ok(found)
}

fn of_letter(letter: &Letter) -> Row {
    ((letter.sequence, letter.sub_sequence), Some(letter.stage.clone()))
}

fn of_batch(rows: &RecordBatch) -> Result<impl Iterator<Item = Row> + use<>> {
    let mut found = Vec::with_capacity(rows.num_rows());
    take(rows, &mut found)?;
    Ok(found.into_iter().map(|at| (at, None)))
}

/// Files under way, by class and folder within the table. What is known of kept rows is bounded by one epoch.
pub(crate) struct Again {
    staging: Staging,
    options: Arc<OutputOptions>,
    kept: HashSet<(OutputClass, Row)>,
    slots: BTreeMap<(OutputClass, String), Vec<Slot>>,
    order: Vec<PendingOutput>,
    door: Door,
}

/// One lost file, and what was written of it.
struct Slot {
    lost: PendingOutput,
    rows: u64,
    file: Option<Open>,
    closed: Option<PendingOutput>,
}

enum Open {
    Rows(Ticket, RowFile<StagedFile>),
    Letters(Ticket, StagedFile),
}

impl Open {
    fn buffered(&self) -> usize {
        match self {
            Self::Rows(_, file) => file.buffered() + file.destination().buffered(),
            Self::Letters(_, file) => file.buffered(),
        }
    }

    fn flush(&mut self) -> Result<()> {
        match self {
            Self::Rows(_, file) => file.flush(),
            // It holds 64 KiB at most.
            Self::Letters(..) => Ok(()),
        }
    }
}

impl Slot {
    fn room(&self) -> usize {
        usize::try_from(self.lost.rows.saturating_sub(self.rows)).unwrap_or(usize::MAX)
    }

    /// A file that has its rows is closed at once: of a folder, one is open at a time.
    fn put_back(&mut self, staging: &Staging, open: Open) -> Result<()> {
        if self.room() > 0 {
            self.file = Some(open);
            return Ok(());
        }
        let (ticket, file) = match open {
            Open::Rows(ticket, file) => (ticket, file.finish()?),
            Open::Letters(ticket, file) => (ticket, file),
        };
        self.closed = Some(staging.close(ticket, file, self.rows, &self.lost.closed_because)?);
        Ok(())
    }
}

impl Again {
    /// All `lost` are of one epoch; `kept` are the rows of its visible files in the same folders.
    pub(crate) fn new(
        staging: Staging,
        options: Arc<OutputOptions>,
        lost: &[PendingOutput],
        kept: HashSet<(OutputClass, Row)>,
    ) -> Result<Self> {
        let mut slots: BTreeMap<_, Vec<Slot>> = BTreeMap::new();
        for lost in lost {
            let within = lost.path.strip_prefix(staged::folder(lost.class)).and_then(|path| path.strip_prefix('/'));
            let within = within.and_then(|path| path.rsplit_once('/')).map(|(within, _)| within.to_owned());
            let within = within.ok_or_else(|| Fault::corrupt(format!("{} is not where files of its table lie", lost.path)))?;
            slots.entry((lost.class, within)).or_default().push(Slot { lost: lost.clone(), rows: 0, file: None, closed: None });
        }
        Ok(Self { staging, options, kept, slots, order: lost.to_vec(), door: Door::default() })
    }

    fn take_bronze(&mut self, slice: &RawSlice) -> Result<()> {
        bronze_pieces(slice, self.options.bronze, &mut |hour, rows| self.rows(OutputClass::Bronze, folder(hour, ""), rows))
    }

    fn take_silver(&mut self, rows: &RecordBatch) -> Result<()> {
        for piece in split(rows, &self.options.partition_by)? {
            self.rows(OutputClass::Silver, folder(piece.hour, &piece.values), &piece.rows)?;
        }
        Ok(())
    }

    /// Rows of one folder.
    fn rows(&mut self, class: OutputClass, within: String, rows: &RecordBatch) -> Result<()> {
        let Self { staging, options, kept, slots, .. } = self;
        let Some(slots) = slots.get_mut(&(class, within)) else { return Ok(()) };
        let is_lost: BooleanArray = of_batch(rows)?.map(|row| Some(!kept.contains(&(class, row)))).collect();
        let mut rest =
            filter_record_batch(rows, &is_lost).map_err(|error| Fault::caused(Kind::Bug, "leaving out visible rows", &error))?;
        while rest.num_rows() > 0 {
            let slot = slots.iter_mut().find(|slot| slot.room() > 0).ok_or_else(too_many)?;
            let now = rest.slice(0, rest.num_rows().min(slot.room()));
            rest = rest.slice(now.num_rows(), rest.num_rows() - now.num_rows());
            let format = if class == OutputClass::Bronze { options.bronze } else { options.silver };
            let mut open = match slot.file.take() {
                Some(open) => open,
                None => begin(staging, &slot.lost, format, &now, options.row_group_bytes)?,
            };
            if let Open::Rows(_, file) = &mut open {
                file.write(&now)?;
            }
            slot.rows += now.num_rows() as u64;
            slot.put_back(staging, open)?;
        }
        self.keep_within_memory()
    }

    fn keep_within_memory(&mut self) -> Result<()> {
        let files = || self.slots.values().flatten().filter_map(|slot| slot.file.as_ref());
        let buffered: usize = files().map(Open::buffered).sum();
        if buffered <= self.options.buffer_bytes {
            return Ok(());
        }
        let files = self.slots.values_mut().flatten().filter_map(|slot| slot.file.as_mut());
        files.into_iter().try_for_each(Open::flush)
    }

    fn letter(&mut self, letter: &Letter) -> Result<()> {
        let Self { staging, kept, slots, .. } = self;
        let within = paths::day_folder(paths::day_of(letter.arrival_us));
        let Some(slots) = slots.get_mut(&(OutputClass::Dlq, within)) else { return Ok(()) };
        if kept.contains(&(OutputClass::Dlq, of_letter(letter))) {
            return Ok(());
        }
        let slot = slots.iter_mut().find(|slot| slot.room() > 0).ok_or_else(too_many)?;
        let mut open = match slot.file.take() {
            Some(open) => open,
            None => {
                let (ticket, file) = staging.create_at(OutputClass::Dlq, slot.lost.path.clone(), "ndjson")?;
                Open::Letters(ticket, file)
            }
        };
        if let Open::Letters(_, file) = &mut open {
            std::io::Write::write_all(file, &line_of(letter)?).map_err(|error| write_fault("writing letters", &error))?;
        }
        slot.rows += 1;
        slot.put_back(staging, open)
    }

    fn close_all(&mut self) -> Result<Vec<PendingOutput>> {
        let mut closed = BTreeMap::new();
        for slot in std::mem::take(&mut self.slots).into_values().flatten() {
            let (lost, rows) = (slot.lost, slot.rows);
            let file = slot.closed;
            let missing = || Fault::corrupt(format!("{} had {} rows, and {rows} come again", lost.path, lost.rows));
            closed.insert(lost.path.clone(), file.ok_or_else(missing)?);
        }
        self.staging.sync()?;
        let again = |lost: &PendingOutput| closed.remove(&lost.path).ok_or_else(|| Fault::bug("one file was lost twice"));
        self.order.iter().map(again).collect()
    }
}

fn too_many() -> Fault {
    Fault::corrupt("more rows come again than the lost files held")
}

/// A file as the settings write it now: what it is called says how it was written then.
fn begin(staging: &mut Staging, lost: &PendingOutput, format: Format, first: &RecordBatch, group_bytes: usize) -> Result<Open> {
    let extension = format.extension();
    if !lost.path.ends_with(&format!(".{extension}")) {
        return Err(Fault::corrupt(format!("{} was written in another format than the settings say now", lost.path)));
    }
    let (ticket, file) = staging.create_at(lost.class, lost.path.clone(), extension)?;
    Ok(Open::Rows(ticket, RowFile::new(format, file, first, group_bytes)?))
}

impl Rewriting for Again {
    fn bronze(&mut self, slice: &RawSlice) -> Result<()> {
        self.door.pass()?;
        let taken = self.take_bronze(slice);
        self.door.shut_on_error(taken)
    }

    fn silver(&mut self, rows: &RecordBatch) -> Result<()> {
        self.door.pass()?;
        let taken = self.take_silver(rows);
        self.door.shut_on_error(taken)
    }

    fn letters(&mut self, letters: &[Letter]) -> Result<()> {
        self.door.pass()?;
        let taken = letters.iter().try_for_each(|letter| self.letter(letter));
        self.door.shut_on_error(taken)
    }

    fn finish(mut self: Box<Self>) -> Result<Vec<PendingOutput>> {
        self.door.pass()?;
        self.close_all()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use arrow::array::{Array, ArrayRef, StringArray};
    use proptest::prelude::*;
    use sluicebox_actors::model::window::HOUR_US;
    use sluicebox_actors::ports::{Outputs, Publication};

    use super::super::fixtures::{home, letter, parquet_rows, record, shard, silver, slice};
    use super::super::home::Home;
    use super::super::outputs::DiskOutputs;
    use super::*;
    use crate::run::block_on;

    const FORMATS: [Format; 3] = [Format::Parquet, Format::Ndjson, Format::NdjsonGzip];

    /// Silver with the coordinates that the engine adds: row `i` is of record `first + i`.
    fn numbered(first: u64, times: &[i64]) -> RecordBatch {
        let rows = silver(times);
        let (mut fields, mut columns) = (rows.schema_ref().fields().to_vec(), rows.columns().to_vec());
        let sequences: StringArray = (first..first + times.len() as u64).map(|number| Some(number.to_string())).collect();
        for (name, column) in [
            ("_sequence", Arc::new(sequences) as ArrayRef),
            ("_sub_sequence", Arc::new(arrow::array::Int32Array::from(vec![0; times.len()]))),
        ] {
            fields.push(Arc::new(Field::new(name, column.data_type().clone(), false)));
            columns.push(column);
        }
        RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).expect("a batch")
    }

    /// What an epoch takes in: slices of (arrival and event hour, day of the letter).
    fn feed(slices: &[Vec<(i64, i64)>], mut with: impl FnMut(&RawSlice, &RecordBatch, &[Letter])) {
        let mut number = 1;
        for hours in slices {
            let times: Vec<i64> = hours.iter().map(|(hour, _)| hour * HOUR_US).collect();
            let records = times.iter().zip(number..).map(|(time, number)| record(number, *time, b"x")).collect();
            let letters: Vec<_> = hours.iter().zip(number..).map(|((_, day), at)| letter(at, day * 24 * HOUR_US)).collect();
            with(&slice(records), &numbered(number, &times), &letters);
            number += hours.len() as u64;
        }
    }

    /// Every row that readers find in these files.
    fn found(home: &Home, outputs: &[PendingOutput]) -> BTreeMap<OutputClass, Vec<Row>> {
        let mut found: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for output in outputs {
            let rows = rows_of(&home.data().join(&output.path), output.class).expect("reads");
            assert_eq!(rows.len() as u64, output.rows, "{}", output.path);
            found.entry(output.class).or_default().extend(rows);
        }
        found.values_mut().for_each(|rows| rows.sort_by_key(|row| row.0));
        found
    }

    fn write(outputs: &DiskOutputs, slices: &[Vec<(i64, i64)>]) -> Vec<PendingOutput> {
        let mut data = outputs.data_files(&shard(), 1, 1).expect("begins");
        let mut dead = outputs.letter_file(&shard(), 1, 1).expect("begins");
        feed(slices, |raw, rows, letters| {
            data.bronze(raw).expect("writes");
            data.silver(rows).expect("writes");
            dead.append(letters).expect("writes");
        });
        let mut all = data.finish().expect("ends");
        all.extend(dead.finish().expect("ends"));
        all
    }

    fn again(
        outputs: &DiskOutputs,
        lost: &[PendingOutput],
        kept: &[PendingOutput],
        slices: &[Vec<(i64, i64)>],
    ) -> Result<Vec<PendingOutput>> {
        let mut files = block_on(outputs.again(&shard(), 2, lost, kept)).expect("a runtime")?;
        let mut failed = Ok(());
        feed(slices, |raw, rows, letters| {
            let taken = files.bronze(raw).and_then(|()| files.silver(rows)).and_then(|()| files.letters(letters));
            failed = std::mem::replace(&mut failed, Ok(())).and(taken);
        });
        failed?;
        files.finish()
    }

    fn publish(outputs: &DiskOutputs, files: &[PendingOutput]) -> Vec<Publication> {
        files.iter().map(|output| outputs.publish_now(1, output).expect("looks")).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn whichever_files_are_lost_readers_find_every_row_once_in_as_many_files_of_the_same_names(
            slices in proptest::collection::vec(proptest::collection::vec((0i64..3, 0i64..2), 1..6), 1..8),
            lost in proptest::collection::vec(any::<bool>(), 64),
            format in 0usize..3,
        ) {
            let (_dir, home) = home();
            // Two at once, so that files close early and a folder has several.
            let (bronze, silver) = (FORMATS[format], FORMATS[format]);
            let options = OutputOptions { open_files: 2, bronze, silver, ..OutputOptions::default() };
            let outputs = DiskOutputs::new(&home, options);
            let all = write(&outputs, &slices);
            let (gone, kept): (Vec<_>, Vec<_>) = all.iter().cloned().zip(&lost).partition(|(_, lost)| **lost);
            let only = |files: Vec<(PendingOutput, _)>| files.into_iter().map(|(output, _)| output).collect::<Vec<_>>();
            let (gone, kept) = (only(gone), only(kept));
            for output in &gone {
                std::fs::remove_file(home.data().join(&output.staged)).expect("is there");
            }
            for (output, outcome) in all.iter().zip(publish(&outputs, &all)) {
                prop_assert_eq!(matches!(outcome, Publication::Lost(_)), gone.contains(output));
            }
            if gone.is_empty() {
                return Ok(());
            }
            let folder = |output: &PendingOutput| output.path.rsplit_once('/').map(|(folder, _)| folder.to_owned());
            let is_beside = |output: &&PendingOutput| gone.iter().any(|gone| folder(gone) == folder(output));
            let beside: Vec<_> = kept.iter().filter(is_beside).cloned().collect();
            let rebuilt = again(&outputs, &gone, &beside, &slices).expect("is written once more");
            let same = |output: &PendingOutput| (output.class, output.path.clone(), output.rows, output.epoch);
            prop_assert_eq!(rebuilt.iter().map(same).collect::<Vec<_>>(), gone.iter().map(same).collect::<Vec<_>>());
            prop_assert!(publish(&outputs, &rebuilt).iter().all(|outcome| *outcome == Publication::Visible));
            let mut expected: BTreeMap<_, Vec<_>> = BTreeMap::new();
            feed(&slices, |raw, _, letters| {
                let plain: Vec<Row> = raw.records.iter().map(|record| ((record.sequence, 0), None)).collect();
                expected.entry(OutputClass::Bronze).or_default().extend(plain.clone());
                expected.entry(OutputClass::Silver).or_default().extend(plain);
                expected.entry(OutputClass::Dlq).or_default().extend(letters.iter().map(of_letter));
            });
            expected.values_mut().for_each(|rows| rows.sort_by_key(|row| row.0));
            prop_assert_eq!(found(&home, &all), expected);
        }
    }

    #[test]
    fn other_records_than_then_are_refused() {
        let (_dir, home) = home();
        let outputs = DiskOutputs::new(&home, OutputOptions::default());
        let slices = vec![vec![(0, 0), (0, 0)]];
        let all = write(&outputs, &slices);
        for (given, says) in
            [(vec![vec![(0, 0)]], "come again"), (vec![vec![(0, 0); 3]], "more rows"), (vec![vec![(1, 1)]], "come again")]
        {
            let fault = again(&outputs, &all, &[], &given).expect_err("refused");
            assert!(fault.kind() == Kind::Corrupt && fault.message().contains(says), "{given:?}: {fault}");
        }
    }

    #[test]
    fn a_format_that_was_changed_since_is_refused() {
        let (_dir, home) = home();
        let slices = vec![vec![(0, 0)]];
        let all = write(&DiskOutputs::new(&home, OutputOptions::default()), &slices);
        let now = DiskOutputs::new(&home, OutputOptions { silver: Format::Ndjson, ..OutputOptions::default() });
        let fault = again(&now, &all, &[], &slices).expect_err("refused");
        assert!(fault.message().contains("another format"), "{fault}");
        let rows = parquet_rows(&home.data().join(&all[0].staged));
        assert_eq!(rows.num_rows(), 1, "what was staged is left as it is");
    }
}
