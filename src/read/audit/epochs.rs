//! The chain of one shard: what each epoch says of itself and of its predecessor.
//!
//! Owns: ledger lines (1) to (5) over counters, (8) over the chain, the hidden row counters of partials, the cuts and ordinals
//! that the later checks need. Does not own: files (outputs), records (records), windows (gold).

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type};
use sluicebox_actors::model::epoch::{EpochHeader, EpochObject, PendingOutput};
use sluicebox_actors::model::fault::{Fault, Kind, Result};
use sluicebox_actors::model::position::{Position, Sequence, ShardId};
use sluicebox_actors::model::row::ShardRow;
use sluicebox_actors::model::window::Bound;

use super::report::{Finding, Report};
use crate::read::chain::Link;

/// Name of the hidden row counter in partial states.
pub const ROWS: &str = "__rows";
const RESTORE: &str = "restore the state directory from a backup of the same moment as the output root";
const COUNTERS: &str = "counters of the epoch objects";

/// One epoch's slice and the bound that judged it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cut {
    /// Epoch.
    pub epoch: u64,
    /// After this …
    pub from: Position,
    /// … up to this.
    pub to: Position,
    /// The judge of lateness.
    pub bound: Bound,
    /// Fingerprint of the configuration that made it.
    pub fingerprint: Arc<str>,
}

/// One epoch's records for one window.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Touch {
    /// Epoch.
    pub epoch: u64,
    /// Which of the window's epochs in this shard it is, from 1.
    pub ordinal: u64,
    /// Counts.
    pub on_time: u64,
    /// Counts.
    pub late: u64,
}

/// What the chain of one shard says, for the checks of windows.
#[derive(Clone, Debug)]
pub struct ShardFacts {
    /// Shard.
    pub shard: ShardId,
    /// Slices, oldest first once closed.
    pub cuts: Vec<Cut>,
    /// Per (table, window): the epochs that touched it, oldest first once closed.
    pub touches: BTreeMap<(String, i64), Vec<Touch>>,
    /// Per (table, window): records that came too late.
    pub too_late: BTreeMap<(String, i64), u64>,
    /// Its last epoch.
    pub epoch: u64,
    /// Its chain is not whole.
    pub broken: bool,
    /// The first epoch with an output that is not visible yet.
    pub first_pending: Option<u64>,
}

impl ShardFacts {
    /// The epoch that a record belongs to.
    pub fn cut_of(&self, sequence: Sequence) -> Option<&Cut> {
        let place = Position::after(sequence);
        let index = self.cuts.partition_point(|cut| cut.to < place);
        self.cuts.get(index).filter(|cut| cut.from < place)
    }

    /// The last epoch that an ordinal of a window takes in; 0 for ordinal 0.
    pub fn last_epoch(&self, table: &str, window_us: i64, ordinal: u64) -> Option<u64> {
        if ordinal == 0 {
            return Some(0);
        }
        let touches = self.touches.get(&(table.to_owned(), window_us))?;
        touches.iter().find(|touch| touch.ordinal == ordinal).map(|touch| touch.epoch)
    }
}

/// Walks with a chain, newest first.
#[derive(Debug)]
pub struct EpochWalk<'a> {
    row: &'a ShardRow,
    windows: u64,
    scope: String,
    facts: ShardFacts,
    newer: Option<EpochHeader>,
    seen: u64,
    /// Counted by epochs, and by the newest running totals.
    gaps: (u64, u64),
    /// Epochs whose records were handed over.
    handed: u64,
    /// Outputs that need not be visible yet.
    pub pending: Vec<PendingOutput>,
}

impl<'a> EpochWalk<'a> {
    /// `windows` is the number of windows an event falls into.
    pub fn new(row: &'a ShardRow, windows: u64) -> Self {
        let facts = ShardFacts {
            shard: row.shard.clone(),
            cuts: Vec::new(),
            touches: BTreeMap::new(),
            too_late: BTreeMap::new(),
            epoch: row.epoch,
            broken: false,
            first_pending: None,
        };
        Self {
            row,
            windows,
            scope: format!("shard {}", row.shard),
            facts,
            newer: None,
            seen: 0,
            gaps: (0, 0),
            handed: 0,
            pending: Vec::new(),
        }
    }

    /// The predecessor is not there or not the one that was named.
    pub fn broken(&mut self, epoch: u64, what: &str, report: &mut Report) {
        self.facts.broken = true;
        let what = format!("the chain is broken at epoch {epoch}: {what}");
        report.find(Finding::error(what, RESTORE).at(&self.row.shard, epoch));
    }

    /// The next older epoch; `named` says that its successor names it by its hash.
    pub fn link(&mut self, link: &Link, named: bool, report: &mut Report) {
        let header = link.header();
        let wrong = |what: &str| Finding::error(what, RESTORE).at(&self.row.shard, header.epoch);
        self.seen += u64::from(named);
        self.gaps.0 += header.counts.gaps;
        self.handed += u64::from(header.unproven_start);
        match &self.newer {
            None => {
                self.pending = header.pending.clone();
                self.gaps.1 = header.totals.gaps;
                // Without the newest epoch, which was reported, the row has nothing to be held against.
                if !self.facts.broken || header.epoch == self.row.epoch {
                    report.find_all(self.against_row(link));
                }
            }
            Some(newer) => report.find_all(self.against_newer(newer, header)),
        }
        if header.shard != self.row.shard || header.stream != self.row.stream {
            report.find(wrong("the epoch belongs to another shard or stream"));
        }
        if header.to < header.from || header.bound_committed < header.bound_opened {
            report.find(wrong("the epoch goes backwards: its position or its bound falls"));
        }
        if header.epoch == 1 && (header.totals != header.counts || header.previous.is_some()) {
            report.find(wrong("epoch 1 is not the first: it has a predecessor or totals before its own"));
        }
        if header.epoch == 1 && header.from != Position::START {
            let what = "the proof begins where this shard was first read, which is not its start";
            report.find(Finding::info(what).at(&self.row.shard, 1));
        }
        if header.counts.gaps > 0 {
            let what = "the stream had forgotten records before they were read: they are in no table";
            let remedy = "raise the stream's retention, or process faster; `on_gap = \"halt\"` stops instead of going on";
            report.find(Finding::warning(what, remedy).at(&self.row.shard, header.epoch));
        }
        for equation in header.counts.equations(header.bronze_on, self.windows) {
            if equation.difference() != 0 {
                report.find(wrong(&format!("line ({}) does not hold in this epoch: {}", equation.number, equation.says)));
            }
            report.add(equation.number, &self.scope, &equation.says, equation.left, equation.right, COUNTERS);
        }
        self.partials(link, report);
        self.remember(header);
        self.newer = Some(slim(header));
    }

    fn against_row(&self, link: &Link) -> Vec<Finding> {
        let (header, row) = (link.header(), self.row);
        let mut out = Vec::new();
        let mut wrong = |what: &str| out.push(Finding::error(what, RESTORE).at(&row.shard, header.epoch));
        if header.epoch != row.epoch {
            wrong("the row's number is not that of its newest epoch object");
        }
        if header.to != row.position {
            wrong("the row's position is not the end of its newest epoch");
        }
        if header.bound_committed != row.bound {
            wrong("the row's bound is not the one its newest epoch committed");
        }
        if let (Link::Object { len, .. }, Some(object)) = (link, &row.object)
            && *len != object.len
        {
            wrong("the newest epoch object has another length than the row says");
        }
        out
    }

    fn against_newer(&self, newer: &EpochHeader, header: &EpochHeader) -> Vec<Finding> {
        let mut out = Vec::new();
        let mut wrong = |what: &str| out.push(Finding::error(what, RESTORE).at(&self.row.shard, newer.epoch));
        if newer.epoch != header.epoch + 1 {
            // Across a hole, which was reported, nothing follows.
            if !self.facts.broken {
                wrong("its number does not follow its predecessor's");
            }
        } else {
            if newer.from != header.to {
                wrong("it does not begin where its predecessor ended: records are missing or counted twice");
            }
            if newer.bound_opened != header.bound_committed {
                wrong("it did not open with the bound that its predecessor committed");
            }
            let mut sum = header.totals.clone();
            sum.add(&newer.counts);
            if sum != newer.totals {
                wrong("its running totals are not its predecessor's plus its own counts");
            }
        }
        if newer.pipeline != header.pipeline {
            wrong("it was written by another pipeline than its predecessor");
        }
        out
    }

    /// Line (4): from the partials themselves while they are there, from the line afterwards.
    fn partials(&mut self, link: &Link, report: &mut Report) {
        const SAYS: &str = "hidden row counters of the partials = on_time + late";
        let header = link.header();
        let mut counted = match link {
            Link::Line(line) => line.partial_rows.clone(),
            Link::Object { object, .. } => match counted(object) {
                Ok(counted) => counted,
                Err(fault) => {
                    let what = format!("partials cannot be read: {fault}");
                    report.find(Finding::error(what, RESTORE).at(&self.row.shard, header.epoch));
                    BTreeMap::new()
                }
            },
        };
        for (table, gold) in &header.counts.gold {
            let left = counted.remove(table).unwrap_or(0);
            let right = gold.on_time + gold.late;
            if left != right {
                let what = format!("line (4) does not hold in this epoch for {table}");
                report.find(Finding::error(what, RESTORE).at(&self.row.shard, header.epoch));
            }
            report.add(4, &format!("table {table} {}", self.scope), SAYS, left, right, "partials in the epoch objects");
        }
        for (table, _) in counted.iter().filter(|(_, rows)| **rows > 0) {
            let what = format!("there are partials of {table}, of which the counters know nothing");
            report.find(Finding::error(what, RESTORE).at(&self.row.shard, header.epoch));
        }
        let claimed = |pick: fn(&sluicebox_actors::model::epoch::WindowCounts) -> u64, table: &str| -> u64 {
            header.windows.iter().filter(|window| window.table == table).map(pick).sum()
        };
        for (table, gold) in &header.counts.gold {
            let same = claimed(|w| w.on_time, table) == gold.on_time
                && claimed(|w| w.late, table) == gold.late
                && claimed(|w| w.too_late, table) == gold.too_late;
            if !same {
                let what = format!("the counts per window of {table} do not add up to the epoch's");
                report.find(Finding::error(what, RESTORE).at(&self.row.shard, header.epoch));
            }
        }
    }

    fn remember(&mut self, header: &EpochHeader) {
        let (epoch, from, to) = (header.epoch, header.from, header.to);
        // Neighbours mostly share their configuration.
        let last = self.facts.cuts.last().map(|cut| cut.fingerprint.clone());
        let fingerprint = last.filter(|last| **last == header.fingerprint).unwrap_or_else(|| header.fingerprint.as_str().into());
        self.facts.cuts.push(Cut { epoch, from, to, bound: header.bound_opened, fingerprint });
        for window in &header.windows {
            let key = (window.table.clone(), window.window_us);
            if window.too_late > 0 {
                *self.facts.too_late.entry(key.clone()).or_default() += window.too_late;
            }
            if window.on_time + window.late > 0 {
                let of_window = |s: &&sluicebox_actors::model::epoch::Segment| s.table == key.0 && s.window_us == key.1;
                // 0 = not known: counted when the walk ends.
                let ordinal = header.segments.iter().find(of_window).map_or(0, |segment| segment.ordinal);
                let touch = Touch { epoch, ordinal, on_time: window.on_time, late: window.late };
                self.facts.touches.entry(key).or_default().push(touch);
            }
        }
    }

    /// Ends the walk: line (8) and the ordinals.
    pub fn close(mut self, report: &mut Report) -> ShardFacts {
        let says = "epochs that the chain names and holds = epochs that the row counts";
        report.add(8, &self.scope, says, self.seen, self.row.epoch, "epoch objects and ledger lines");
        let says = "gaps that epochs met = gaps in the running totals";
        report.add(8, &self.scope, says, self.gaps.0, self.gaps.1, COUNTERS);
        if self.handed > 0 {
            report.unproven_starts += self.handed;
            let what = "epochs begin with records that were handed over: that nothing lay before those is not proved";
            let what = format!("{} {what}", self.handed);
            report.find(Finding::info(what).of_shard(&self.row.shard));
        }
        if self.seen != self.row.epoch {
            self.facts.broken = true;
        }
        self.facts.cuts.reverse();
        for ((table, window_us), touches) in &mut self.facts.touches {
            touches.reverse();
            for (index, touch) in touches.iter_mut().enumerate() {
                let expected = index as u64 + 1;
                if touch.ordinal != 0 && touch.ordinal != expected && !self.facts.broken {
                    let what = "its partial carries another ordinal than the number of epochs that touched the window";
                    let finding = Finding::error(what, RESTORE).at(&self.row.shard, touch.epoch);
                    report.find(finding.in_window(table, *window_us));
                }
                if touch.ordinal == 0 {
                    touch.ordinal = expected;
                }
            }
        }
        self.facts
    }
}

/// The parts of a head that the next older epoch is compared with.
fn slim(header: &EpochHeader) -> EpochHeader {
    let mut out = header.clone();
    out.segments = Vec::new();
    out.windows = Vec::new();
    out.ordinals = BTreeMap::new();
    out.pending = Vec::new();
    out.outputs = Vec::new();
    out
}

/// Sums the hidden row counters of all partials per table and holds each against the index.
fn counted(object: &EpochObject) -> Result<BTreeMap<String, u64>> {
    let mut out = BTreeMap::new();
    for segment in &object.header.segments {
        let rows = hidden_rows(&object.segment(segment)?)?;
        if rows != segment.rows {
            return Err(Fault::corrupt(format!("a partial of {} has another row count than its index", segment.table)));
        }
        *out.entry(segment.table.clone()).or_default() += rows;
    }
    Ok(out)
}

fn hidden_rows(stream: &[u8]) -> Result<u64> {
    let bad = |error: &dyn std::error::Error| Fault::caused(Kind::Corrupt, "a partial is not an Arrow stream", error);
    let reader = arrow::ipc::reader::StreamReader::try_new(stream, None).map_err(|error| bad(&error))?;
    let mut sum = 0u64;
    for batch in reader {
        let batch: RecordBatch = batch.map_err(|error| bad(&error))?;
        let column = batch.column_by_name(ROWS).ok_or_else(|| Fault::corrupt("a partial without a hidden row counter"))?;
        let column = cast(column, &DataType::Int64).map_err(|error| bad(&error))?;
        let column = column.as_primitive::<Int64Type>();
        if column.null_count() > 0 || column.values().iter().any(|rows| *rows < 0) {
            return Err(Fault::corrupt("a hidden row counter that is no number of rows"));
        }
        sum = column.values().iter().fold(sum, |sum, rows| sum.saturating_add(rows.unsigned_abs()));
    }
    Ok(sum)
}
