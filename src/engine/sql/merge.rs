//! The merge of one window's states within a bound of memory, from partials to Gold rows.
//!
//! Owns: when groups are written out, the order of keys over what was written, batches whose size tells nothing about it.
//! Does not own: groups (groups), files (spill), the steps of a statement (gold).

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use sluicebox_actors::model::fault::{Fault, Kind, Result};
use sluicebox_actors::model::window::Window;
use sluicebox_actors::ports::{Batches, Finished, Merger};

use super::gold::GoldPlan;
use super::groups::Groups;
use super::spill::{MergeMemory, RUNS_MAX, Runs, Share};

/// Rows of every batch that comes out, except the last: files are a function of the rows alone, so their batches must be.
pub const BATCH_ROWS: usize = 64 << 10;

/// Rows taken in before memory is looked at again.
const PIECE_ROWS: usize = 8 << 10;

/// A merge of one window. States of one group are in memory at once, however large; ORDER BY without LIMIT holds all final rows,
/// with LIMIT about as many as it asks for.
pub(crate) struct SqlMerger<'a> {
    plan: &'a GoldPlan,
    groups: Groups,
    /// None: everything stays in memory.
    spill: Option<(Share, Runs)>,
}

impl<'a> SqlMerger<'a> {
    pub(crate) fn new(plan: &'a GoldPlan, memory: Option<&MergeMemory>) -> Result<Self> {
        // Without keys there is one group, which nothing can be sorted by.
        let spill = match memory.filter(|_| plan.keys() > 0) {
            Some(memory) => Some((Share::new(memory.clone()), Runs::new(plan.state_schema().clone(), plan.keys(), memory)?)),
            None => None,
        };
        Ok(Self { plan, groups: plan.groups()?, spill })
    }

    /// Writes the groups out if they are too many.
    fn make_room(&mut self) -> Result<()> {
        let Some((share, runs)) = &mut self.spill else { return Ok(()) };
        if !share.is_too_much(self.groups.size()) {
            return Ok(());
        }
        let groups = std::mem::replace(&mut self.groups, self.plan.groups()?);
        tracing::debug!(table = %self.plan.table().name, groups = groups.len(), "a merge goes by way of files");
        runs.write(&self.plan.states(groups)?)?;
        share.is_too_much(0);
        if runs.len() == RUNS_MAX {
            let (plan, ranges) = (self.plan, runs.read()?);
            runs.write_sorted(ranges.map(|range| plan.merge(&range?)))?;
        }
        Ok(())
    }

    /// All groups in the order of their keys: at once, or range after range.
    fn in_order(&mut self) -> Result<Batches<'a, Groups>> {
        let (plan, groups) = (self.plan, std::mem::replace(&mut self.groups, self.plan.groups()?));
        let Some((share, runs)) = self.spill.as_mut().filter(|(_, runs)| runs.len() > 0) else {
            return Ok(Box::new(std::iter::once(Ok(groups))));
        };
        if groups.len() > 0 {
            runs.write(&plan.states(groups)?)?;
        }
        share.is_too_much(0);
        Ok(Box::new(runs.read()?.map(move |range| plan.fold(&range?))))
    }
}

impl Merger for SqlMerger<'_> {
    fn add(&mut self, states: &RecordBatch) -> Result<()> {
        let rows = states.num_rows();
        // One partial may hold more groups than there is room for.
        for at in (0..rows.max(1)).step_by(PIECE_ROWS) {
            self.plan.absorb(&mut self.groups, &states.slice(at, PIECE_ROWS.min(rows - at)))?;
            self.make_room()?;
        }
        Ok(())
    }

    fn states(&mut self) -> Result<Batches<'_>> {
        let plan = self.plan;
        let states = self.in_order()?.map(move |groups| Ok(Finished { rows: plan.sorted_states(groups?)?, overflow: false }));
        Ok(Box::new(Even::new(states).map(|batch| batch.map(|batch| batch.rows))))
    }

    fn finish(&mut self, window: Window) -> Result<Batches<'_, Finished>> {
        let plan = self.plan;
        let by_key = self.in_order()?.map(move |groups| plan.by_key(window, groups?));
        if !plan.is_ranked() {
            return Ok(Box::new(Even::new(by_key.map(|some| plan.output(some?)))));
        }
        let mut best = Best::new(plan);
        for some in by_key {
            best.add(some?)?;
        }
        Ok(Box::new(Even::new(std::iter::once(plan.output(best.ranked()?)))))
    }
}

/// What an ORDER BY or a LIMIT still needs of the rows seen so far.
struct Best<'a> {
    plan: &'a GoldPlan,
    pieces: Vec<RecordBatch>,
    rows: usize,
    /// Rows at which those that LIMIT leaves out are looked for.
    full: usize,
    overflow: bool,
}

impl<'a> Best<'a> {
    fn new(plan: &'a GoldPlan) -> Self {
        Self { plan, pieces: Vec::new(), rows: 0, full: BATCH_ROWS, overflow: false }
    }

    fn add(&mut self, some: Finished) -> Result<()> {
        self.overflow |= some.overflow;
        self.rows += some.rows.num_rows();
        self.pieces.push(some.rows);
        if self.rows > self.full {
            let best = self.plan.best(&joined(&self.pieces)?)?;
            self.rows = best.num_rows();
            self.full = self.rows + self.rows.max(BATCH_ROWS);
            self.pieces = vec![best];
        }
        Ok(())
    }

    fn ranked(self) -> Result<Finished> {
        Ok(Finished { rows: self.plan.ranked(joined(&self.pieces)?)?, overflow: self.overflow })
    }
}

/// The same rows in batches of [`BATCH_ROWS`]; the last knows of every overflow.
struct Even<I> {
    source: I,
    pieces: Vec<RecordBatch>,
    rows: usize,
    overflow: bool,
    ended: bool,
}

impl<I: Iterator<Item = Result<Finished>>> Even<I> {
    fn new(source: I) -> Self {
        Self { source, pieces: Vec::new(), rows: 0, overflow: false, ended: false }
    }

    fn batch(&mut self) -> Result<Finished> {
        // A row more than a batch shows that it is not the last.
        while self.rows <= BATCH_ROWS {
            let Some(more) = self.source.next() else {
                self.ended = true;
                return Ok(Finished { rows: joined(&std::mem::take(&mut self.pieces))?, overflow: self.overflow });
            };
            let more = more?;
            self.overflow |= more.overflow;
            self.rows += more.rows.num_rows();
            self.pieces.push(more.rows);
        }
        let whole = joined(&self.pieces)?;
        self.rows -= BATCH_ROWS;
        self.pieces = vec![whole.slice(BATCH_ROWS, self.rows)];
        Ok(Finished { rows: whole.slice(0, BATCH_ROWS), overflow: self.overflow })
    }
}

impl<I: Iterator<Item = Result<Finished>>> Iterator for Even<I> {
    type Item = Result<Finished>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let batch = self.batch();
        self.ended |= batch.is_err();
        Some(batch)
    }
}

fn joined(pieces: &[RecordBatch]) -> Result<RecordBatch> {
    match pieces {
        [] => Err(Fault::bug("a merge without a batch")),
        [one] => Ok(one.clone()),
        [first, ..] => concat_batches(first.schema_ref(), pieces)
            .map_err(|error| Fault::caused(Kind::Bug, "joining the rows of a merge", &error)),
    }
}
