//! Gold computed again from Silver, window by window, to the byte.
//!
//! Owns: which Silver rows a revision takes in (epochs up to its vector, not too late, in the window), and the comparison of the
//! encoded result. Does not own: the arithmetic (ports::Engine), whether Silver is whole (outputs, records).

use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{SchemaRef, TimestampMicrosecondType};
use sluicebox_actors::model::epoch::Hash;
use sluicebox_actors::model::fault::{Fault, Result};
use sluicebox_actors::model::position::{Sequence, ShardId};
use sluicebox_actors::model::row::{WindowRow, WindowStatus};
use sluicebox_actors::model::window::{HOUR_US, Verdict, Window, Windowing};
use sluicebox_actors::ports::{Engine, Finished, GoldFiles, Merger, PartitionEngine};

use super::epochs::Cut;
use super::gold::Facts;
use super::report::Finding;
use crate::read::files::{self, Format};
use crate::read::sources::{hour_folder, visible};

/// Rows accumulated before states are cut and merged.
const CUT_ROWS: usize = 1 << 20;
const REMEDY: &str = "if Silver is as committed (no other finding), report a bug with the window's row; else restore Silver";

/// The engine and encoder that made Gold.
#[derive(Clone)]
pub struct Recompute {
    /// All that the pipeline file says about data.
    pub engine: Arc<dyn Engine>,
    /// How Gold is written.
    pub gold: Arc<dyn GoldFiles>,
    /// Silver's columns as the engine makes them; none takes them as the files have them.
    pub silver: Option<SchemaRef>,
    /// Fingerprint of the configuration that the engine stands for: windows with epochs of another one are left out. None takes
    /// all.
    pub fingerprint: Option<String>,
}

impl std::fmt::Debug for Recompute {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Recompute")
    }
}

/// What came of one window.
#[derive(Debug)]
pub enum Outcome {
    /// Computed; none = equal to the byte.
    Done(Option<Finding>),
    /// Cannot be computed; why.
    Skipped(&'static str),
}

/// Computes one window again.
pub fn window(with: &Recompute, data: &Path, row: &WindowRow, facts: &Facts, silver_from: Option<&String>) -> Result<Outcome> {
    let Some(content) = &row.content else { return Ok(Outcome::Skipped("it has no content")) };
    let Some(table) = with.engine.tables().iter().position(|table| *table.name == *row.table) else {
        return Ok(Outcome::Skipped("the pipeline file has no such table any more"));
    };
    if row.status == WindowStatus::Repaired {
        return Ok(Outcome::Skipped("it was repaired: the repair lane's rows are not in Silver"));
    }
    let window = Window { start_us: row.start_us, end_us: row.end_us };
    let expired = silver_from.is_some_and(|first| hour_folder(row.start_us).get(3..13).is_some_and(|day| day < first.as_str()));
    if expired {
        return Ok(Outcome::Skipped("its Silver has expired"));
    }
    let mut taken = Vec::new();
    for (shard, ordinal) in &row.vector {
        let Some(facts) = facts.get(shard).filter(|facts| !facts.broken) else {
            return Ok(Outcome::Skipped("the chain of a shard in it is broken"));
        };
        let Some(last) = facts.last_epoch(&row.table, row.start_us, *ordinal) else {
            return Ok(Outcome::Skipped("its vector names epochs that are not there"));
        };
        if facts.first_pending.is_some_and(|first| first <= last) {
            return Ok(Outcome::Skipped("some of its Silver is committed and not visible yet"));
        }
        let foreign = |fingerprint: &String| {
            let mine = |cut: &Cut| cut.epoch > last || *cut.fingerprint == **fingerprint;
            let touches = facts.touches.get(&(row.table.clone(), row.start_us)).map_or(&[][..], Vec::as_slice);
            let touched = |cut: &&Cut| touches.iter().any(|touch| touch.epoch == cut.epoch);
            !facts.cuts.iter().filter(touched).all(mine)
        };
        if with.fingerprint.as_ref().is_some_and(foreign) {
            return Ok(Outcome::Skipped("another configuration made some of it"));
        }
        taken.push((shard, last));
    }
    let windowing = with.engine.tables()[table].windowing;
    let merger = with.engine.merger(table)?;
    let mut run = Run { with, table, window, windowing, facts, taken, merger, held: 0, rows: 0 };
    run.read(data)?;
    let hash = run.finish()?;
    let what = if run.rows != row.counts.on_time + row.counts.late {
        format!("Silver has {} rows for this revision, its row counts {}", run.rows, row.counts.on_time + row.counts.late)
    } else if hash != content.sha256 {
        "Gold computed again from Silver has other bytes".to_owned()
    } else {
        return Ok(Outcome::Done(None));
    };
    Ok(Outcome::Done(Some(Finding::error(what, REMEDY).in_window(&row.table, row.start_us))))
}

struct Run<'a> {
    with: &'a Recompute,
    table: usize,
    window: Window,
    windowing: Windowing,
    facts: &'a Facts,
    taken: Vec<(&'a ShardId, u64)>,
    merger: Box<dyn Merger + 'a>,
    held: usize,
    rows: u64,
}

impl Run<'_> {
    fn read(&mut self, data: &Path) -> Result<()> {
        let mut partition = self.with.engine.partition()?;
        let mut hour = self.window.start_us.div_euclid(HOUR_US).saturating_mul(HOUR_US);
        while hour < self.window.end_us {
            for file in visible(data, &format!("silver/{}", hour_folder(hour)))? {
                if self.with.silver.is_none() && Format::of(&file.relative) != Some(Format::Parquet) {
                    return Err(Fault::config("Silver is not Parquet: its columns must be known to compute Gold again"));
                }
                let batches = match &self.with.silver {
                    Some(silver) => files::open(&file.path, silver)?,
                    None => files::open_parquet(&file.path)?,
                };
                for batch in batches {
                    self.batch(partition.as_mut(), &batch?)?;
                }
            }
            hour = hour.saturating_add(HOUR_US);
        }
        self.cut(partition.as_mut())
    }

    fn batch(&mut self, partition: &mut dyn PartitionEngine, batch: &RecordBatch) -> Result<()> {
        let mut rows = self.candidates(batch)?;
        if rows.is_empty() {
            return Ok(());
        }
        if let Some(admitted) = partition.admit(self.table, batch)? {
            rows.retain(|row| admitted.is_valid(*row as usize) && admitted.value(*row as usize));
        }
        let starts = vec![self.window.start_us; rows.len()];
        partition.accumulate(self.table, batch, &rows, &starts)?;
        self.rows += rows.len() as u64;
        self.held += rows.len();
        if self.held >= CUT_ROWS { self.cut(partition) } else { Ok(()) }
    }

    /// Rows of the window, of epochs that the revision takes in, judged again by their epoch's bound.
    fn candidates(&self, batch: &RecordBatch) -> Result<Vec<u32>> {
        let lost = |name: &str| Fault::corrupt(format!("Silver without {name}"));
        let text = |name: &str| batch.column_by_name(name).and_then(|c| c.as_string_opt::<i32>()).ok_or_else(|| lost(name));
        let times = batch.column_by_name("event_time").and_then(|c| c.as_primitive_opt::<TimestampMicrosecondType>());
        let times = times.ok_or_else(|| lost("event_time"))?;
        let (shards, sequences) = (text("_shard")?, text("_sequence")?);
        let mut out = Vec::new();
        for row in 0..batch.num_rows() {
            let at = times.value(row);
            if at < self.window.start_us || at >= self.window.end_us {
                continue;
            }
            let Some((shard, last)) = self.taken.iter().find(|(shard, _)| shard.as_str() == shards.value(row)) else { continue };
            let sequence: Sequence = sequences.value(row).parse()?;
            let Some(cut) = self.facts.get(*shard).and_then(|facts| facts.cut_of(sequence)) else { continue };
            if cut.epoch <= *last && self.windowing.verdict(self.window, cut.bound) != Verdict::TooLate {
                out.push(row as u32);
            }
        }
        Ok(out)
    }

    fn cut(&mut self, partition: &mut dyn PartitionEngine) -> Result<()> {
        self.held = 0;
        for partial in partition.cut()? {
            if partial.table == self.table && partial.window_us == self.window.start_us {
                self.merger.add(&partial.states)?;
            }
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<Hash> {
        let rows = self.merger.finish(self.window)?.map(|finished| finished.map(|Finished { rows, .. }| rows));
        let name = &self.with.engine.tables()[self.table].name;
        Ok(Hash::of(&self.with.gold.encode(name, Box::new(rows))?))
    }
}
