//! Gold: which window to emit next, from exactly which committed partials, and what may be collected.
//!
//! Owns: the index of committed partials per window, the status a window has reached, revisions, collection. Does not own:
//! merging (engine), the row CAS and files (shells/gold).

use std::collections::{BTreeMap, BTreeSet};

use crate::model::epoch::{EpochHeader, ObjectRef, Segment};
use crate::model::fault::{Fault, Result};
use crate::model::position::{Position, ShardId};
use crate::model::row::{ShardRow, ShardState, Vector, WindowRow, WindowStatus, WindowTotals, dominates};
use crate::model::window::{Bound, Window};
use crate::ports::GoldTable;

mod lanes;
mod work;

use lanes::{Epoch, Lane, Lanes};
use work::Collection;
pub use work::{GoldWork, Load};

/// Settings of Gold.
#[derive(Clone, Debug)]
pub struct GoldConfig {
    /// Collect a shard's epoch objects when it has more than this many.
    pub collect_after: usize,
    /// Per table: how long a window that some shard has passed waits for the others before it is emitted as provisional, by the
    /// owner's clock; none = for ever.
    pub max_wait_us: Vec<Option<i64>>,
}

/// Windows worked on at once: each waits for a few writes to become durable, one after the other.
const AT_ONCE: usize = 8;
/// Encoded partials read for them, in bytes; a window that is larger is worked on alone.
const AT_ONCE_BYTES: u64 = 64 << 20;

/// One epoch's part of a window.
#[derive(Clone, Debug)]
struct Piece {
    epoch: u64,
    counts: WindowTotals,
    segments: Vec<Segment>,
}

/// What is known of one window.
#[derive(Clone, Debug, Default)]
struct WindowState {
    row: Option<WindowRow>,
    /// Lane → ordinal → piece, for ordinals above the base's.
    pieces: BTreeMap<ShardId, BTreeMap<u64, Piece>>,
    too_late: u64,
}

type WindowKey = (usize, i64);

/// The state machine of Gold.
#[derive(Debug)]
pub struct GoldMachine {
    config: GoldConfig,
    tables: Vec<GoldTable>,
    lanes: Lanes,
    windows: BTreeMap<WindowKey, WindowState>,
    /// Windows that may need an emission: touched, or reached by a bound.
    dirty: BTreeSet<WindowKey>,
    /// Windows given out to be worked on, with the bytes that are read for it.
    working: BTreeMap<WindowKey, u64>,
    /// When a window that some shards hold back is emitted without them.
    waiting: BTreeMap<WindowKey, i64>,
    /// Windows that have waited long enough.
    ripe: BTreeSet<WindowKey>,
    /// Epochs are being collected.
    collecting: bool,
    draining: bool,
}

impl GoldMachine {
    /// Knows nothing yet.
    pub fn new(config: GoldConfig, tables: Vec<GoldTable>) -> Self {
        let (lanes, windows, dirty, working, waiting, ripe) = Default::default();
        Self { config, tables, lanes, windows, dirty, working, waiting, ripe, collecting: false, draining: false }
    }

    /// A window row as stored, at start.
    pub fn know_window(&mut self, row: WindowRow) {
        let Some(table) = self.table(&row.table) else { return };
        let key = (table, row.start_us);
        self.windows.entry(key).or_default().row = Some(row);
        self.dirty.insert(key);
    }

    /// A shard as committed, at start or whenever its row is new.
    pub fn know_shard(&mut self, row: ShardRow) {
        let lane = self.lanes.0.entry(row.shard.clone()).or_insert_with(|| Lane { row: row.clone(), epochs: BTreeMap::new() });
        if row.epoch >= lane.row.epoch {
            lane.row = row;
        }
        // A bound may have passed any window's end.
        let sealed = |state: &WindowState| state.row.as_ref().is_some_and(|row| row.status == WindowStatus::Sealed);
        self.dirty.extend(self.windows.iter().filter(|(_, state)| !sealed(state)).map(|(key, _)| *key));
    }

    /// Last epoch known of a shard; 0 if none.
    pub fn known_epoch(&self, shard: &ShardId) -> u64 {
        self.lanes.0.get(shard).and_then(|lane| lane.epochs.keys().next_back()).copied().unwrap_or(0)
    }

    /// The row of each shard as it is known here, with all its epochs.
    pub fn known_rows(&self) -> BTreeMap<ShardId, ShardRow> {
        self.lanes.0.iter().map(|(shard, lane)| (shard.clone(), lane.row.clone())).collect()
    }

    /// Is any of these rows newer than what is known here?
    pub fn is_outdated(&self, shards: &[ShardRow], windows: &[WindowRow]) -> bool {
        let newer = |row: &WindowRow| {
            let known = self.table(&row.table).and_then(|table| self.windows.get(&(table, row.start_us)));
            known.and_then(|state| state.row.as_ref()).is_none_or(|known| known.version < row.version)
        };
        let committed = |row: &ShardRow| self.lanes.0.get(&row.shard).is_none_or(|lane| lane.row.epoch < row.epoch);
        windows.iter().any(newer) || shards.iter().any(committed)
    }

    /// A committed epoch. To be given in order per shard.
    pub fn know_epoch(&mut self, header: &EpochHeader, object: ObjectRef) -> Result<()> {
        if !self.lanes.add(header, object)? {
            return Ok(()); // a notice may come later than what it tells
        }
        let mut pieces: BTreeMap<(usize, i64, u64), Vec<Segment>> = BTreeMap::new();
        for segment in &header.segments {
            let table = self.tables.iter().position(|table| table.name.as_ref() == segment.table);
            let Some(table) = table else { continue };
            pieces.entry((table, segment.window_us, segment.ordinal)).or_default().push(segment.clone());
        }
        for counts in &header.windows {
            let Some(table) = self.table(&counts.table) else { continue };
            self.windows.entry((table, counts.window_us)).or_default().too_late += counts.too_late;
        }
        for ((table, start_us, ordinal), segments) in pieces {
            let counts = header.windows.iter().find(|c| c.window_us == start_us && c.table == self.tables[table].name.as_ref());
            let counts =
                counts.map_or(WindowTotals::default(), |c| WindowTotals { on_time: c.on_time, late: c.late, too_late: 0 });
            let state = self.windows.entry((table, start_us)).or_default();
            let covered = state.row.as_ref().and_then(|row| row.base.as_ref()).and_then(|base| base.vector.get(&header.shard));
            if covered.is_none_or(|covered| *covered < ordinal) {
                let lane = state.pieces.entry(header.shard.clone()).or_default();
                lane.insert(ordinal, Piece { epoch: header.epoch, counts, segments });
            }
            self.dirty.insert((table, start_us));
        }
        Ok(())
    }

    /// A row of ours was swapped in, or was found newer than ours.
    pub fn row_stands(&mut self, row: WindowRow) {
        let Some(table) = self.table(&row.table) else { return };
        let key = (table, row.start_us);
        let state = self.windows.entry(key).or_default();
        if let Some(base) = &row.base {
            for (shard, pieces) in &mut state.pieces {
                let covered = base.vector.get(shard).copied().unwrap_or(0);
                pieces.retain(|ordinal, _| *ordinal > covered);
            }
        }
        state.row = Some(row);
        self.working.remove(&key);
        self.ripe.remove(&key);
        self.dirty.insert(key);
    }

    /// Time has passed: windows that some shard has passed and others hold back may have waited long enough. They are emitted
    /// again at the same pace, while the others stay behind.
    pub fn tick(&mut self, now_us: i64) {
        let ahead = self.lanes.live().map(|lane| lane.row.bound).max().unwrap_or(Bound::UNKNOWN);
        let watermark = self.lanes.watermark();
        for (key, state) in &self.windows {
            let Some(wait_us) = self.config.max_wait_us.get(key.0).copied().flatten() else { continue };
            let windowing = &self.tables[key.0].windowing;
            let window = windowing.starting(key.1);
            let is_held_back = windowing.is_closed(window, ahead) && !windowing.is_closed(window, watermark);
            if !is_held_back || state.pieces.is_empty() {
                self.waiting.remove(key);
                continue;
            }
            let due_us = self.waiting.entry(*key).or_insert(now_us.saturating_add(wait_us));
            if now_us >= *due_us {
                *due_us = now_us.saturating_add(wait_us);
                self.ripe.insert(*key);
                self.dirty.insert(*key);
            }
        }
    }

    /// The first hash key that no live shard covers; no window closes while there is one.
    pub fn hole(&self) -> Option<u128> {
        self.lanes.hole()
    }

    /// May any window be emitted before all shards have passed it?
    pub fn is_impatient(&self) -> bool {
        self.config.max_wait_us.iter().any(Option::is_some)
    }

    /// Epoch objects are gone; their lines are in the ledger.
    pub fn collected(&mut self, shard: &ShardId, through: u64) {
        self.collecting = false;
        if let Some(lane) = self.lanes.0.get_mut(shard) {
            lane.epochs.retain(|epoch, _| *epoch > through);
        }
    }

    /// Everything is read and committed: emit what is left as it stands.
    pub fn drain(&mut self) {
        self.draining = true;
        self.dirty.extend(self.windows.keys().copied());
    }

    fn table(&self, name: &str) -> Option<usize> {
        self.tables.iter().position(|table| table.name.as_ref() == name)
    }

    /// The next thing to do beside what was given out before; none = nothing until that is reported or something is committed.
    pub fn next_work(&mut self) -> Result<Option<GoldWork>> {
        // Collection deletes what an emission may still have to read.
        if self.collecting || self.working.len() >= AT_ONCE {
            return Ok(None);
        }
        // Windows come first, but not for ever: objects are kept in bounds however much is emitted.
        let overdue = self.lanes.0.values().any(|lane| lane.epochs.len() > 2 * self.config.collect_after);
        if overdue {
            match self.collection_work()? {
                Collection::Due(key, work) => return Ok(self.give_out(key, work)),
                Collection::AfterTheOthers => return Ok(None),
                Collection::Nothing => {}
            }
        }
        let watermark = self.lanes.watermark();
        while let Some(key) = self.dirty.iter().find(|key| !self.working.contains_key(*key)).copied() {
            if let Some(work) = self.window_work(key, watermark)? {
                return Ok(self.give_out(Some(key), work));
            }
            self.dirty.remove(&key);
            self.ripe.remove(&key);
        }
        match self.collection_work()? {
            Collection::Due(key, work) => Ok(self.give_out(key, work)),
            Collection::AfterTheOthers | Collection::Nothing => Ok(None),
        }
    }

    /// Is anything given out that was not reported yet?
    pub fn is_working(&self) -> bool {
        self.collecting || !self.working.is_empty()
    }

    fn give_out(&mut self, key: Option<WindowKey>, work: GoldWork) -> Option<GoldWork> {
        let Some(key) = key else {
            self.collecting = true;
            return Some(work);
        };
        let bytes = work.bytes();
        if !self.working.is_empty() && self.working.values().sum::<u64>() + bytes > AT_ONCE_BYTES {
            return None;
        }
        self.working.insert(key, bytes);
        Some(work)
    }

    fn window_work(&self, key: WindowKey, watermark: Bound) -> Result<Option<GoldWork>> {
        let (table, start_us) = key;
        let Some(state) = self.windows.get(&key) else { return Ok(None) };
        if let Some(row) = &state.row
            && row.published < row.revision
        {
            return Ok(Some(GoldWork::Publish { row: Box::new(row.clone()) }));
        }
        let window = self.tables[table].windowing.starting(start_us);
        let vector = self.vector(state)?;
        let old = state.row.as_ref();
        if vector.is_empty() {
            return Ok(None); // only too-late records: nothing was ever in it
        }
        if old.is_some_and(|row| !dominates(&vector, &row.vector)) {
            let name = &self.tables[table].name;
            return Err(Fault::corrupt(format!(
                "partials that revision {} of window {start_us} of {name} was made of are gone",
                old.map_or(0, |row| row.revision)
            )));
        }
        let Some(status) = self.status(table, window, state, &vector, watermark) else { return Ok(None) };
        if old.is_some_and(|row| row.revision > 0 && row.vector == vector && row.status == status) {
            return Ok(None);
        }
        if old.is_some_and(|row| row.status == WindowStatus::Sealed && row.vector != vector) {
            return Err(Fault::bug(format!("a partial came for the sealed window {start_us} of {}", self.tables[table].name)));
        }
        let row = self.emission(table, window, state, vector, status, watermark);
        Ok(Some(GoldWork::Emit { table, row: Box::new(row), loads: self.loads(state)? }))
    }

    /// Everything committed for this window: the base's vector raised by the pieces above it, which must be contiguous.
    fn vector(&self, state: &WindowState) -> Result<Vector> {
        let mut vector =
            state.row.as_ref().and_then(|row| row.base.as_ref()).map_or_else(Vector::new, |base| base.vector.clone());
        for (shard, pieces) in &state.pieces {
            let mut last = vector.get(shard).copied().unwrap_or(0);
            for ordinal in pieces.keys() {
                if *ordinal != last + 1 {
                    return Err(Fault::corrupt(format!("partials of {shard}: ordinal {ordinal} follows {last}; one is missing")));
                }
                last = *ordinal;
            }
            if last > 0 {
                vector.insert(shard.clone(), last);
            }
        }
        Ok(vector)
    }

    /// The status that the window has reached; none = it is not to be emitted yet. Never one that it has left behind: what is
    /// known here of the shards may be older than what the row says.
    fn status(
        &self,
        table: usize,
        window: Window,
        state: &WindowState,
        vector: &Vector,
        watermark: Bound,
    ) -> Option<WindowStatus> {
        let emitted = state.row.as_ref().filter(|row| row.revision > 0);
        let reached = self.reached(table, window, emitted, vector, watermark);
        let Some(row) = emitted.filter(|row| reached.is_none_or(|reached| reached < row.status)) else { return reached };
        match row.status {
            WindowStatus::Open | WindowStatus::Provisional => reached,
            WindowStatus::Closed if row.vector != *vector => Some(WindowStatus::Revised),
            WindowStatus::Closed | WindowStatus::Revised | WindowStatus::Sealed | WindowStatus::Repaired => Some(row.status),
        }
    }

    fn reached(
        &self,
        table: usize,
        window: Window,
        emitted: Option<&WindowRow>,
        vector: &Vector,
        watermark: Bound,
    ) -> Option<WindowStatus> {
        let windowing = &self.tables[table].windowing;
        if windowing.is_sealed(window, watermark) {
            return Some(WindowStatus::Sealed);
        }
        if windowing.is_closed(window, watermark) {
            let revised = emitted.is_some_and(|row| match row.status {
                WindowStatus::Closed => row.vector != *vector,
                WindowStatus::Revised => true,
                WindowStatus::Open | WindowStatus::Provisional | WindowStatus::Sealed | WindowStatus::Repaired => false,
            });
            return Some(if revised { WindowStatus::Revised } else { WindowStatus::Closed });
        }
        if self.ripe.contains(&(table, window.start_us)) {
            return Some(WindowStatus::Provisional);
        }
        self.draining.then_some(WindowStatus::Open)
    }

    fn emission(
        &self,
        table: usize,
        window: Window,
        state: &WindowState,
        vector: Vector,
        status: WindowStatus,
        watermark: Bound,
    ) -> WindowRow {
        let old = state.row.as_ref();
        let mut counts = self.counts(state);
        counts.too_late = state.too_late.max(old.map_or(0, |row| row.counts.too_late));
        let mut sequences = old.map(|row| row.sequences.clone()).unwrap_or_default();
        for (shard, pieces) in &state.pieces {
            for piece in pieces.values() {
                if let Some(header) =
                    self.lanes.0.get(shard).and_then(|lane| lane.epochs.get(&piece.epoch)).map(|e| &e.line.header)
                {
                    widen(&mut sequences, shard, header.from, header.to);
                }
            }
        }
        let waits = !self.tables[table].windowing.is_closed(window, watermark);
        let missing =
            self.lanes.0.values().filter(|lane| waits && lane.row.state == ShardState::Open && lane.row.bound.0 < window.end_us);
        let before = self.windows.range(..(table, window.start_us)).rev().take_while(|((t, _), _)| *t == table);
        let before =
            before.filter(|(_, state)| !state.pieces.is_empty() || state.row.as_ref().is_some_and(|row| !row.vector.is_empty()));
        let empty_since = before.map(|((_, start), _)| self.tables[table].windowing.starting(*start).end_us).next();
        WindowRow {
            table: self.tables[table].name.to_string(),
            start_us: window.start_us,
            end_us: window.end_us,
            version: old.map_or(0, |row| row.version) + 1,
            revision: old.map_or(0, |row| row.revision) + 1,
            status,
            vector,
            content: None,
            rows: 0,
            counts,
            overflow: false,
            missing: missing.map(|lane| lane.row.shard.clone()).collect(),
            empty_since_us: empty_since.filter(|end| *end < window.start_us),
            sequences,
            published: old.map_or(0, |row| row.published),
            base: old.and_then(|row| row.base.clone()),
        }
    }

    fn counts(&self, state: &WindowState) -> WindowTotals {
        let base = state.row.as_ref().and_then(|row| row.base.as_ref()).map_or(WindowTotals::default(), |base| base.counts);
        state.pieces.values().flat_map(BTreeMap::values).fold(base, |mut sum, piece| {
            sum.on_time += piece.counts.on_time;
            sum.late += piece.counts.late;
            sum
        })
    }

    fn loads(&self, state: &WindowState) -> Result<Vec<Load>> {
        let mut loads = Vec::new();
        for (shard, pieces) in &state.pieces {
            for piece in pieces.values() {
                let epoch = self.lanes.0.get(shard).and_then(|lane| lane.epochs.get(&piece.epoch));
                let object = epoch.map(|epoch| epoch.object.clone());
                let object =
                    object.ok_or_else(|| Fault::bug(format!("epoch {} of {shard} was collected too soon", piece.epoch)))?;
                loads.push(Load { object, segments: piece.segments.clone() });
            }
        }
        Ok(loads)
    }

    /// Bases for the windows of the oldest epochs, then their collection. Never the newest epochs, and never one with an output
    /// that may not be visible yet.
    fn collection_work(&self) -> Result<Collection> {
        let mut waits = false;
        for (shard, lane) in &self.lanes.0 {
            if lane.epochs.len() <= self.config.collect_after {
                continue;
            }
            let keep = (self.config.collect_after / 2).max(1);
            let count = lane.epochs.len() - keep;
            let old: Vec<(&u64, &Epoch)> = lane.epochs.iter().take(count).take_while(|(_, epoch)| !epoch.unpublished).collect();
            let Some((through, _)) = old.last() else { continue };
            let through = **through;
            let covers = |state: &WindowState| {
                state.pieces.get(shard).is_some_and(|pieces| pieces.values().any(|piece| piece.epoch <= through))
            };
            let mut covering = self.windows.iter().filter(|(_, state)| covers(state)).peekable();
            if covering.peek().is_some() {
                let Some((key, state)) = covering.find(|(key, _)| !self.working.contains_key(*key)) else {
                    waits = true;
                    continue;
                };
                return Ok(Collection::Due(Some(*key), self.rebase(*key, state)?));
            }
            if self.working.is_empty() {
                let lines = old.iter().map(|(_, epoch)| epoch.line.clone()).collect();
                return Ok(Collection::Due(None, GoldWork::Collect { lines, shard: shard.clone(), through }));
            }
            waits = true;
        }
        Ok(if waits { Collection::AfterTheOthers } else { Collection::Nothing })
    }

    fn rebase(&self, key: WindowKey, state: &WindowState) -> Result<GoldWork> {
        let (table, start_us) = key;
        let window = self.tables[table].windowing.starting(start_us);
        let vector = self.vector(state)?;
        let old = state.row.as_ref();
        let mut row = old.cloned().unwrap_or_else(|| WindowRow {
            revision: 0,
            status: WindowStatus::Open,
            vector: Vector::new(),
            ..self.emission(table, window, state, Vector::new(), WindowStatus::Open, self.lanes.watermark())
        });
        let fresh = self.emission(table, window, state, vector.clone(), WindowStatus::Open, self.lanes.watermark());
        (row.version, row.sequences) = (fresh.version, fresh.sequences);
        let (loads, counts) = (self.loads(state)?, self.counts(state));
        Ok(GoldWork::Rebase { table, row: Box::new(row), loads, vector, counts })
    }
}

fn widen(sequences: &mut BTreeMap<ShardId, (Position, Position)>, shard: &ShardId, from: Position, to: Position) {
    let entry = sequences.entry(shard.clone()).or_insert((from, to));
    entry.0 = entry.0.min(from);
    entry.1 = entry.1.max(to);
}
