//! One partition: slices in, Silver rows, letters and partials out.
//!
//! Owns: the judge of lateness over rows, the counts of an epoch, letters of every stage. Does not own: decoding and
//! aggregating (the engine), when an epoch ends (machines/shard).

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use arrow_array::{Array, BooleanArray, RecordBatch};

use crate::machines::breaker::Failures;
use crate::machines::shard::Opening;
use crate::model::epoch::{SegmentBody, WindowCounts};
use crate::model::fault::{Fault, Result};
use crate::model::ledger::{Counts, GoldCounts};
use crate::model::letter::{Letter, Postmark, Rejection, Stage};
use crate::model::record::RawSlice;
use crate::model::window::Verdict;
use crate::ports::{GoldTable, Partial, PartitionEngine};

/// What came of one slice.
#[derive(Debug)]
pub struct Processed {
    /// Silver rows; empty is possible.
    pub silver: RecordBatch,
    /// Letters, in record order.
    pub letters: Vec<Letter>,
    /// Records in the slice.
    pub records: u64,
    /// Records that failed decode or contract: what the breaker counts.
    pub failed: Failures,
    /// Largest event time among accepted events.
    pub max_event_us: Option<i64>,
    /// So many bytes more are held in partial aggregates than before.
    pub grown: usize,
}

/// What one partition adds to an epoch.
#[derive(Clone, Debug, Default)]
pub struct Cut {
    /// Its counts; `received` and `bytes` count what the partition saw.
    pub counts: Counts,
    /// Its partials.
    pub bodies: Vec<SegmentBody>,
    /// What it did to each window.
    pub windows: Vec<WindowCounts>,
    /// Largest event time among accepted events.
    pub max_event_us: Option<i64>,
}

/// The state of one partition between two barriers.
pub struct PartitionMachine {
    engine: Box<dyn PartitionEngine>,
    tables: Vec<GoldTable>,
    postmark: Postmark,
    open: Opening,
    cut: Cut,
    windows: BTreeMap<(usize, i64), WindowCounts>,
    /// What the engine held when it was asked last; nothing after a cut.
    held: usize,
}

impl PartitionMachine {
    /// A partition whose first epoch opens like this.
    pub fn new(engine: Box<dyn PartitionEngine>, tables: Vec<GoldTable>, postmark: Postmark, open: Opening) -> Self {
        let mut machine = Self { engine, tables, postmark, open, cut: Cut::default(), windows: BTreeMap::new(), held: 0 };
        machine.cut = machine.empty_cut();
        machine
    }

    fn empty_cut(&self) -> Cut {
        let mut cut = Cut::default();
        // Every table has its line in every epoch's ledger, also when nothing came.
        cut.counts.gold = self.tables.iter().map(|table| (table.name.to_string(), GoldCounts::default())).collect();
        cut
    }

    /// Processes one slice under the open epoch's bound.
    pub fn process(&mut self, slice: &RawSlice, now_us: i64) -> Result<Processed> {
        let decoded = self.engine.decode(slice, self.open.processed_at_us)?;
        let counts = &mut self.cut.counts;
        let records = slice.records.len() as u64;
        let rejected = decoded.rejections.len() as u64;
        let mut failed = Failures::new();
        for rejection in &decoded.rejections {
            if matches!(rejection.stage, Stage::Decode | Stage::Contract) {
                *failed.entry(rejection.reason).or_default() += 1;
            }
        }
        let filtered: u64 = decoded.filtered.iter().map(|(_, n)| n).sum();
        let silver_rows = decoded.silver.num_rows() as u64;
        if silver_rows + rejected + filtered != records || decoded.origin.len() as u64 != silver_rows {
            return Err(Fault::bug(format!(
                "the engine returned {silver_rows} rows, {rejected} rejections and {filtered} filtered for {records} records"
            )));
        }
        counts.received += records;
        counts.bytes += slice.records.iter().map(|record| record.data.len() as u64).sum::<u64>();
        counts.silver += silver_rows;
        for (rule, n) in &decoded.filtered {
            *counts.filtered.entry(rule.to_string()).or_default() += n;
        }
        let mut letters = Vec::with_capacity(decoded.rejections.len());
        for rejection in decoded.rejections {
            *self.cut.counts.rejected.entry(format!("{}/{}", rejection.stage, rejection.reason)).or_default() += 1;
            letters.push(self.letter(slice, rejection, now_us)?);
        }
        for table in 0..self.tables.len() {
            self.aggregate(table, slice, &decoded.silver, &decoded.origin, now_us, &mut letters)?;
        }
        self.cut.max_event_us = self.cut.max_event_us.max(decoded.max_event_us);
        let before = std::mem::replace(&mut self.held, self.engine.held());
        let grown = self.held.saturating_sub(before);
        Ok(Processed { silver: decoded.silver, letters, records, failed, max_event_us: decoded.max_event_us, grown })
    }

    fn letter(&self, slice: &RawSlice, rejection: Rejection, now_us: i64) -> Result<Letter> {
        let record = slice.records.get(rejection.index as usize);
        let record = record.ok_or_else(|| Fault::bug("a rejection of a record that is not in the slice"))?;
        Ok(self.postmark.letter(&slice.stream, &slice.shard, record, rejection, self.open.epoch, now_us))
    }

    /// Judges every Silver row against one Gold table and hands the accepted ones to the engine.
    fn aggregate(
        &mut self,
        table: usize,
        slice: &RawSlice,
        silver: &RecordBatch,
        origin: &[u32],
        now_us: i64,
        letters: &mut Vec<Letter>,
    ) -> Result<()> {
        if silver.num_rows() == 0 {
            return Ok(());
        }
        let admitted = self.engine.admit(table, silver)?;
        let GoldTable { name, windowing } = self.tables[table].clone();
        let times = event_times(silver)?;
        let (mut rows, mut windows_us) = (Vec::with_capacity(times.len()), Vec::with_capacity(times.len()));
        let mut gold = GoldCounts::default();
        let mut last: Option<(i64, (u64, u64))> = None;
        for (row, event_us) in times.iter().copied().enumerate() {
            if !admitted.as_ref().is_none_or(|mask| passes(mask, row)) {
                gold.excluded += 1;
                continue;
            }
            let window = windowing.window_of(event_us);
            let verdict = windowing.verdict(window, self.open.bound);
            // Neighbours mostly share a window: look the counters up once per run of rows.
            if last.is_none_or(|(start, _)| start != window.start_us) {
                self.count_run(table, &name, last);
                last = Some((window.start_us, (0, 0)));
            }
            let run = last.as_mut().map(|(_, run)| run);
            match (verdict, run) {
                (Verdict::OnTime, Some(run)) => {
                    gold.on_time += 1;
                    run.0 += 1;
                }
                (Verdict::Late, Some(run)) => {
                    gold.late += 1;
                    run.1 += 1;
                }
                (Verdict::TooLate, _) => {
                    gold.too_late += 1;
                    self.window_counts(table, &name, window.start_us).too_late += 1;
                    let index = origin[row];
                    let mut letter = self.letter(slice, too_late(index, &name), now_us)?;
                    (letter.window_start_us, letter.bound_us) = (Some(window.start_us), Some(self.open.bound.0));
                    letters.push(letter);
                    continue;
                }
                (Verdict::OnTime | Verdict::Late, None) => return Err(Fault::bug("a row without a run")),
            }
            rows.push(row as u32);
            windows_us.push(window.start_us);
        }
        self.count_run(table, &name, last);
        if !rows.is_empty() {
            self.engine.accumulate(table, silver, &rows, &windows_us)?;
        }
        let total = self.cut.counts.gold.entry(name.to_string()).or_default();
        total.excluded += gold.excluded;
        total.too_late += gold.too_late;
        total.on_time += gold.on_time;
        total.late += gold.late;
        Ok(())
    }

    fn count_run(&mut self, table: usize, name: &Arc<str>, run: Option<(i64, (u64, u64))>) {
        if let Some((window_us, (on_time, late))) = run
            && on_time + late > 0
        {
            let counts = self.window_counts(table, name, window_us);
            counts.on_time += on_time;
            counts.late += late;
        }
    }

    fn window_counts(&mut self, table: usize, name: &Arc<str>, window_us: i64) -> &mut WindowCounts {
        self.windows.entry((table, window_us)).or_insert_with(|| WindowCounts {
            table: name.to_string(),
            window_us,
            on_time: 0,
            late: 0,
            too_late: 0,
        })
    }

    /// Ends the epoch: hands out what it adds up to and opens the next one.
    pub fn barrier(&mut self, next: Opening) -> Result<Cut> {
        let bodies = self.engine.cut()?.into_iter().map(|partial| self.body(partial)).collect::<Result<Vec<_>>>()?;
        let empty = self.empty_cut();
        let mut cut = std::mem::replace(&mut self.cut, empty);
        cut.windows = std::mem::take(&mut self.windows).into_values().collect();
        cut.counts.letters = 0; // counted where they are written
        for (name, gold) in &cut.counts.gold {
            let rows: u64 = bodies.iter().filter(|body| &body.table == name).map(|body| body.rows).sum();
            if rows != gold.on_time + gold.late {
                return Err(Fault::bug(format!(
                    "ledger (4): partials of {name} hold {rows} rows of {}",
                    gold.on_time + gold.late
                )));
            }
        }
        cut.bodies = bodies;
        self.open = next;
        self.held = 0;
        Ok(cut)
    }

    fn body(&self, partial: Partial) -> Result<SegmentBody> {
        let table = self.tables.get(partial.table).ok_or_else(|| Fault::bug("a partial of an unknown table"))?;
        Ok(SegmentBody {
            table: table.name.to_string(),
            window_us: partial.window_us,
            rows: partial.rows,
            body: crate::model::states::encode(&partial.states)?,
        })
    }
}

fn too_late(index: u32, table: &Arc<str>) -> Rejection {
    Rejection {
        index,
        stage: Stage::Gold(table.clone()),
        reason: "too_late",
        path: None,
        message: "the window had passed its end and the allowed lateness when the epoch opened".to_owned(),
        causes: Vec::new(),
    }
}

fn passes(mask: &BooleanArray, row: usize) -> bool {
    mask.is_valid(row) && mask.value(row)
}

fn event_times(silver: &RecordBatch) -> Result<&[i64]> {
    let column = silver.column_by_name("event_time");
    let column = column.and_then(|column| column.as_primitive_opt::<TimestampMicrosecondType>());
    let column = column.ok_or_else(|| Fault::bug("Silver rows without a column event_time in microseconds"))?;
    if column.null_count() > 0 {
        return Err(Fault::bug("a Silver row without an event time"));
    }
    Ok(column.values())
}
