//! Sorted runs of aggregate states on disk, for merges that don't fit into memory.
//!
//! Owns: the memory that all merges of a process share, writing a run, reading runs side by side in the order of their keys.
//! Does not own: groups (groups), when a merge ends (merge), where files lie (store/disk).

use std::error::Error;
use std::fs::File;
use std::io::{BufReader, BufWriter, Seek};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use arrow::row::{OwnedRow, RowConverter, Rows, SortField};
use sluicebox_actors::model::fault::{Fault, Result};

use crate::store::disk;

/// Runs of one merge; one more, and they are merged into one. It bounds open files, and memory while runs are read.
pub(crate) const RUNS_MAX: usize = 64;

/// Rows of a run that are read at once, where memory allows.
const READ_ROWS: usize = 8 << 10;

/// Makes an empty file that is gone when it is closed.
pub type Scratch = Arc<dyn Fn() -> Result<File> + Send + Sync>;

/// Memory that all merges of a process share, and the place for what doesn't fit into it.
///
/// Half of it is for groups; taking the groups of one merge out, or reading its runs, needs up to the other half. The merge that
/// grows when that half is full is the one that is written out, unless it holds less than a sixteenth of it: many small merges
/// beside a large one must not end as many small files. So all together may hold half as much again at the worst.
#[derive(Clone)]
pub struct MergeMemory {
    bytes: usize,
    held: Arc<AtomicUsize>,
    scratch: Scratch,
}

impl MergeMemory {
    /// So many bytes for everybody who has a clone of this.
    pub fn new(bytes: usize, scratch: Scratch) -> Self {
        Self { bytes, held: Arc::default(), scratch }
    }
}

/// What one merge holds of the shared memory; let go when dropped.
pub(crate) struct Share {
    memory: MergeMemory,
    mine: usize,
}

impl Share {
    pub(crate) fn new(memory: MergeMemory) -> Self {
        Self { memory, mine: 0 }
    }

    /// This merge holds so much now. True: it is the one to be written out.
    pub(crate) fn is_too_much(&mut self, mine: usize) -> bool {
        let others = self.memory.held.fetch_sub(self.mine, Ordering::Relaxed) - self.mine;
        self.memory.held.fetch_add(mine, Ordering::Relaxed);
        self.mine = mine;
        let half = self.memory.bytes / 2;
        others + mine > half && mine > half / 16
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.memory.held.fetch_sub(self.mine, Ordering::Relaxed);
    }
}

/// Runs of one merge, each sorted by its keys, the leading columns.
pub(crate) struct Runs {
    schema: SchemaRef,
    keys: Keys,
    scratch: Scratch,
    /// Bytes of a run that are read at once.
    read_bytes: usize,
    files: Vec<File>,
}

impl Runs {
    /// Of states with this schema; there is at least one key.
    pub(crate) fn new(schema: SchemaRef, keys: usize, memory: &MergeMemory) -> Result<Self> {
        let (scratch, read_bytes) = (memory.scratch.clone(), memory.bytes / 4 / RUNS_MAX);
        Ok(Self { keys: Keys::new(&schema, keys)?, schema, scratch, read_bytes, files: Vec::new() })
    }

    pub(crate) fn len(&self) -> usize {
        self.files.len()
    }

    /// Writes states, one row a key, as a run.
    pub(crate) fn write(&mut self, states: &RecordBatch) -> Result<()> {
        let rows = self.keys.of(states)?;
        let mut order: Vec<u32> = (0..states.num_rows() as u32).collect();
        order.sort_unstable_by(|a, b| rows.row(*a as usize).cmp(&rows.row(*b as usize)));
        drop(rows);
        let row_bytes = states.get_array_memory_size() / states.num_rows().max(1);
        let size = (self.read_bytes / row_bytes.max(1)).clamp(1, READ_ROWS);
        let sorted = order.chunks(size).map(|some| {
            let some = UInt32Array::from(some.to_vec());
            take_record_batch(states, &some).map_err(|error| unmerged(&error))
        });
        self.write_sorted(sorted)
    }

    /// Writes batches that are in the order of their keys as a run.
    pub(crate) fn write_sorted(&mut self, batches: impl Iterator<Item = Result<RecordBatch>>) -> Result<()> {
        let arrow = |error: ArrowError| unmerged(&error);
        let mut writer = StreamWriter::try_new(BufWriter::new((self.scratch)()?), &self.schema).map_err(arrow)?;
        for batch in batches {
            writer.write(&batch?).map_err(arrow)?;
        }
        let buffered = writer.into_inner().map_err(arrow)?;
        let mut file = buffered.into_inner().map_err(|error| unmerged(error.error()))?;
        file.rewind().map_err(|error| unmerged(&error))?;
        self.files.push(file);
        Ok(())
    }

    /// Takes all runs out, to be read side by side.
    pub(crate) fn read(&mut self) -> Result<Ranges> {
        let mut heads = Vec::new();
        for file in std::mem::take(&mut self.files) {
            let reader = StreamReader::try_new(BufReader::new(file), None).map_err(|error| unmerged(&error))?;
            heads.push(Head { reader, batch: None });
        }
        Ok(Ranges { keys: Keys::new(&self.schema, self.keys.count)?, heads })
    }
}

/// One run, read up to here.
struct Head {
    reader: StreamReader<BufReader<File>>,
    batch: Option<(RecordBatch, Rows, usize)>,
}

impl Head {
    /// Reads on if nothing is left at hand; false at the end.
    fn fill(&mut self, keys: &Keys) -> Result<bool> {
        while self.batch.as_ref().is_none_or(|(batch, _, at)| *at == batch.num_rows()) {
            let Some(batch) = self.reader.next() else { return Ok(false) };
            let batch = batch.map_err(|error| unmerged(&error))?;
            let rows = keys.of(&batch)?;
            self.batch = Some((batch, rows, 0));
        }
        Ok(true)
    }

    fn last(&self) -> Option<OwnedRow> {
        self.batch.as_ref().map(|(batch, rows, _)| rows.row(batch.num_rows() - 1).owned())
    }

    /// Takes the rows at hand out whose keys are up to this one.
    fn take(&mut self, last: &OwnedRow) -> Option<RecordBatch> {
        let (batch, rows, at) = self.batch.as_mut()?;
        let (from, mut low, mut high) = (*at, *at, batch.num_rows());
        while low < high {
            let middle = low.midpoint(high);
            if rows.row(middle) <= last.row() {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        *at = low;
        (low > from).then(|| batch.slice(from, low - from))
    }
}

/// One range of keys after the other, each with all its rows of all runs.
pub(crate) struct Ranges {
    keys: Keys,
    heads: Vec<Head>,
}

impl Ranges {
    fn range(&mut self) -> Result<Option<Vec<RecordBatch>>> {
        let mut open = Vec::new();
        for mut head in self.heads.drain(..) {
            if head.fill(&self.keys)? {
                open.push(head);
            }
        }
        self.heads = open;
        // What is at hand of every run reaches up to here.
        let Some(last) = self.heads.iter().filter_map(Head::last).min() else { return Ok(None) };
        Ok(Some(self.heads.iter_mut().filter_map(|head| head.take(&last)).collect()))
    }
}

impl Iterator for Ranges {
    type Item = Result<Vec<RecordBatch>>;

    fn next(&mut self) -> Option<Self::Item> {
        self.range().transpose()
    }
}

/// Keys as bytes that compare as Gold sorts: rising, NULL first.
struct Keys {
    count: usize,
    converter: RowConverter,
}

impl Keys {
    fn new(schema: &SchemaRef, count: usize) -> Result<Self> {
        let fields = schema.fields().iter().take(count).map(|field| SortField::new(field.data_type().clone()));
        let converter = RowConverter::new(fields.collect()).map_err(|error| unmerged(&error))?;
        Ok(Self { count, converter })
    }

    fn of(&self, states: &RecordBatch) -> Result<Rows> {
        let columns = states.columns().get(..self.count).unwrap_or_default();
        self.converter.convert_columns(columns).map_err(|error| unmerged(&error))
    }
}

fn unmerged(error: &(dyn Error + 'static)) -> Fault {
    disk::fault_behind("merging aggregate states by way of files", disk::TEMPORARY, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    use arrow::array::{AsArray, Int64Array};
    use arrow::datatypes::Int64Type;
    use sluicebox_actors::model::fault::Kind;

    fn states(keys: impl IntoIterator<Item = i64>) -> RecordBatch {
        RecordBatch::try_from_iter([("key", Arc::new(Int64Array::from_iter_values(keys)) as _)]).expect("a batch")
    }

    fn memory(bytes: usize) -> MergeMemory {
        MergeMemory::new(bytes, Arc::new(|| Ok(tempfile::tempfile().expect("a file"))))
    }

    #[test]
    fn ranges_rise_and_hold_every_row_of_every_run_once() {
        // A few rows at a time.
        let mut runs = Runs::new(states([]).schema(), 1, &memory(64 * RUNS_MAX)).expect("keys");
        runs.write(&states((0..1000).rev().map(|key| key * 3))).expect("writes");
        runs.write(&states((0..1000).map(|key| key * 2))).expect("writes");
        runs.write(&states([-7])).expect("writes");
        let ranges: Vec<_> = runs.read().expect("opens").map(|range| range.expect("reads")).collect();
        assert!(ranges.len() > 100, "{} ranges", ranges.len());
        let keys = |range: &Vec<RecordBatch>| -> Vec<i64> {
            range.iter().flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().values().to_vec()).collect()
        };
        for pair in ranges.windows(2) {
            assert!(keys(&pair[0]).iter().max() < keys(&pair[1]).iter().min(), "a key lies in two ranges");
        }
        let mut all: Vec<i64> = ranges.iter().flat_map(keys).collect();
        all.sort_unstable();
        let mut expected: Vec<i64> = (0..1000).flat_map(|key| [key * 3, key * 2]).chain([-7]).collect();
        expected.sort_unstable();
        assert_eq!(all, expected);
    }

    #[test]
    fn merges_share_one_memory_and_a_small_one_beside_a_large_one_is_left_alone() {
        let memory = memory(3200);
        let mut large = Share::new(memory.clone());
        assert!(!large.is_too_much(1600));
        let mut small = Share::new(memory.clone());
        assert!(!small.is_too_much(100));
        assert!(small.is_too_much(101));
        assert!(large.is_too_much(1500), "both together");
        drop(small);
        assert!(!large.is_too_much(1500));
        drop(large);
        assert_eq!(memory.held.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_full_disk_asks_for_another_try() {
        let full = || Ok(File::options().read(true).write(true).open("/dev/full").expect("opens"));
        let memory = MergeMemory::new(0, Arc::new(full));
        let mut runs = Runs::new(states([]).schema(), 1, &memory).expect("keys");
        let fault = runs.write(&states(0..100_000)).expect_err("full");
        assert_eq!(fault.kind(), Kind::Retry);
        assert!(fault.message().contains("disk full"), "{fault}");
    }
}
