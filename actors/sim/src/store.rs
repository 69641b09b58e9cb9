//! What lasts in a simulated world: stream, rows, blobs, files, Gold; and the rules that must hold at every change of it.
//!
//! Owns: the effect of every operation, the invariants checked at it. Does not own: faults (process), the check at the end
//! (oracle).

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use sluicebox_actors::model::epoch::{EpochHeader, EpochObject, Hash, LedgerLine, ObjectRef, OutputClass, PendingOutput};
use sluicebox_actors::model::fault::{Fault, Result};
use sluicebox_actors::model::position::{Position, Sequence, ShardId};
use sluicebox_actors::model::row::{Fence, Lease, ShardRow, ShardState, Vector, WindowRow, WindowStatus};
use sluicebox_actors::ports::{Cas, Read, Recall};

use crate::sinks::Kept;
use crate::truth::{DISORDER, Dialect, Judged, ShardLog, TABLES, WindowJudged, judge};

/// A written file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct File {
    pub class: OutputClass,
    pub shard: ShardId,
    pub epoch: u64,
    pub lease_epoch: u64,
    pub lines: Vec<String>,
    pub sha256: Hash,
    /// It lies on the disk of this process and is gone with it; none = wherever any process finds it.
    pub only_of: Option<u64>,
}

/// An upload in parts that is not visible.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Upload {
    pub shard: ShardId,
    pub lease_epoch: u64,
    pub epoch: u64,
    /// The file that it is of.
    pub staged: String,
}

/// A window as readers see it.
#[derive(Clone, Debug)]
pub struct Shown {
    pub row: WindowRow,
    pub content: Bytes,
}

/// One epoch that became true, and what an independent judge says of its records.
#[derive(Clone, Debug)]
pub struct Commit {
    pub row: ShardRow,
    pub header: EpochHeader,
    pub judged: Judged,
}

impl Commit {
    /// Is this one of the files that this epoch makes true?
    pub fn names(&self, output: &PendingOutput) -> bool {
        self.header.outputs.contains(output) || self.header.rebuilt.contains(output)
    }
}

type Late = Box<dyn FnOnce(&mut Store) + Send>;

/// Everything that survives a process.
#[derive(Default)]
pub struct Store {
    pub dialect: Dialect,
    pub now_us: i64,
    pub streams: BTreeMap<ShardId, ShardLog>,
    pub rows: BTreeMap<ShardId, ShardRow>,
    pub leases: BTreeMap<String, Lease>,
    pub windows: BTreeMap<(String, i64), WindowRow>,
    pub blobs: BTreeMap<String, Bytes>,
    pub staged: BTreeMap<String, File>,
    /// Uploads neither completed nor ended, by id.
    pub uploads: BTreeMap<String, Upload>,
    pub uploads_begun: u64,
    pub visible: BTreeMap<String, File>,
    pub gold: BTreeMap<(String, i64), Shown>,
    pub revisions: BTreeMap<(String, i64, u64), (Bytes, WindowStatus)>,
    /// Files of the ledger by key, and what whoever reads all of them counts.
    pub ledger_files: BTreeMap<String, Bytes>,
    pub ledger: BTreeMap<ShardId, Vec<LedgerLine>>,
    pub commits: BTreeMap<ShardId, Vec<Commit>>,
    pub violations: Vec<String>,
    pub late: Vec<Late>,
    pub kept: Kept,
    /// Larger groups are not in Gold.
    pub having: Option<u64>,
    /// Reads of the stream that brought records, and appends.
    pub reads: u64,
    pub appends: u64,
    /// Processes so far, and those that are not dead.
    pub processes: u64,
    pub alive: u64,
    /// The stream does not know what it has forgotten, and says until when it was read.
    pub forgetful: bool,
    /// What it was told of earlier owners.
    pub recalls: Vec<(ShardId, Position, Recall)>,
    /// Who may publish: (shard, lease, epoch) → the process that won it.
    permits: BTreeMap<(ShardId, u64, u64), u64>,
    /// Where a read has said that there is no more.
    read_to_end: BTreeSet<(ShardId, Position)>,
    /// The global watermark as last seen.
    watermark_us: Option<i64>,
    /// Rare and important situations that really occurred.
    pub marks: BTreeMap<&'static str, u64>,
}

impl Store {
    pub fn rule(&mut self, holds: bool, rule: impl FnOnce() -> String) {
        if !holds {
            self.violations.push(rule());
        }
    }

    /// An empty world.
    pub fn new(dialect: Dialect, now_us: i64) -> Self {
        Self { dialect, now_us, ..Self::default() }
    }

    /// Time and number of a new process.
    pub fn process_starts(&mut self) -> (i64, u64) {
        (self.processes, self.alive) = (self.processes + 1, self.alive + 1);
        (self.now_us, self.processes)
    }

    // The stream.

    pub fn read(&mut self, shard: &ShardId, after: Position, records: usize, bytes: usize, flaw: ReadFlaw) -> Result<Read> {
        let now_us = self.now_us;
        let in_order = self.rows.get(shard).is_none_or(|row| self.parents_are_drained(row));
        self.rule(in_order, || format!("{shard}: read before its parents are drained"));
        let log = self.streams.get(shard).ok_or_else(|| Fault::corrupt(format!("no shard {shard}")))?;
        let number = after.sequence().and_then(Sequence::as_dense).unwrap_or(0) as usize;
        let trimmed = number < log.forgotten;
        let trimmed_before = trimmed.then(|| Position::after(Sequence::dense(log.forgotten as u64)));
        let mut next = number.max(log.forgotten);
        let (mut taken, mut weight) = (Vec::new(), 0);
        while let Some(many) = log.records.get(next).filter(|many| many[0].raw.arrival_us <= now_us) {
            weight += many.iter().map(|logged| logged.raw.weight()).sum::<usize>();
            if !taken.is_empty() && (taken.len() + many.len() > records || weight > bytes) {
                break;
            }
            taken.extend(many.iter().map(|logged| logged.raw.clone()));
            next += 1;
        }
        let more = log.records.get(next).is_some_and(|many| many[0].raw.arrival_us <= now_us);
        if taken.is_empty() && !more {
            self.read_to_end.insert((shard.clone(), after));
        }
        let at_end = next >= log.records.len() && log.closed_at.is_some_and(|at| at <= now_us);
        let ended = at_end.then(|| log.children.clone());
        if !taken.is_empty() {
            self.reads += 1;
            match flaw {
                ReadFlaw::Skip if self.reads == 2 && taken.len() > 2 => drop(taken.remove(1)),
                ReadFlaw::Repeat if number > 0 => {
                    taken.insert(0, self.streams[shard].records[number - 1][0].raw.clone());
                }
                ReadFlaw::None | ReadFlaw::Skip | ReadFlaw::Repeat => {}
            }
        }
        let behind_us = match taken.last() {
            Some(last) if more => Some(now_us - last.arrival_us),
            Some(_) | None => Some(0),
        };
        let fresh_us = match taken.last() {
            _ if !self.forgetful => None,
            Some(last) if more || at_end => Some(last.arrival_us),
            Some(_) | None => (!at_end).then_some(now_us),
        };
        Ok(Read { records: taken, caught_up: !more, now_us, ended, trimmed_before, behind_us, fresh_us })
    }

    // Rows of shards.

    pub fn create_shard(&mut self, row: &ShardRow) -> Cas {
        if self.rows.contains_key(&row.shard) {
            return Cas::Lost;
        }
        self.rows.insert(row.shard.clone(), row.clone());
        Cas::Won
    }

    /// A parent that has no row yet is not drained either.
    fn parents_are_drained(&self, row: &ShardRow) -> bool {
        let drained = |parent| self.rows.get(parent).is_some_and(|row| row.state == ShardState::Drained);
        row.parents.iter().all(|parent| drained(parent) || !self.streams.contains_key(parent))
    }

    pub fn update_shard(&mut self, expected: Fence, row: &ShardRow, ignore_fence: bool, who: u64) -> Result<Cas> {
        let shard = &row.shard;
        let Some(old) = self.rows.get(shard).cloned() else {
            return Err(Fault::corrupt(format!("no row {shard}")));
        };
        if old.fence() != expected && !ignore_fence {
            let same = old == *row;
            let commit = row.epoch != expected.epoch;
            self.mark(match (same, commit) {
                (true, _) => "a swap that had already happened is delivered again",
                (false, true) => "a stale commit is refused",
                (false, false) => "a stale lease is refused",
            });
            return Ok(Cas::Lost);
        }
        self.rule(row.bound >= old.bound, || format!("{shard}: B fell from {:?} to {:?}", old.bound, row.bound));
        self.rule(row.position >= old.position, || format!("{shard}: position went back to {}", row.position));
        self.rule(row.lease_epoch >= old.lease_epoch, || format!("{shard}: lease went back to {}", row.lease_epoch));
        let drained = old.state == ShardState::Drained;
        self.rule(!drained || row.state == ShardState::Drained, || format!("{shard}: left the state drained"));
        if old.state == ShardState::Blocked {
            let parents: Vec<_> = row.parents.iter().filter_map(|parent| self.rows.get(parent)).collect();
            let drained = self.parents_are_drained(row);
            let least = parents.iter().map(|parent| parent.bound).min();
            self.rule(drained, || format!("{shard}: opens before its parents are drained"));
            self.rule(Some(row.bound) == least, || format!("{shard}: opens with {:?} after {least:?}", row.bound));
        }
        // A life sign may have come since the owner read the row, and a commit loses it; a wish it leaves alone.
        let hints = (row.heartbeat, row.wanted_by.clone());
        let let_go = ShardRow { owner: String::new(), heartbeat: hints.0, wanted_by: hints.1, ..old.clone() };
        if *row == let_go {
            self.mark(if old.wanted_by.is_empty() { "a shard is let go" } else { "a shard is let go for another worker" });
            self.rows.insert(shard.clone(), row.clone());
            return Ok(Cas::Won);
        }
        if row.epoch == old.epoch {
            self.rule(row.lease_epoch > old.lease_epoch, || format!("{shard}: an update that changes neither lease nor epoch"));
            self.rule(row.object == old.object && row.position == old.position, || format!("{shard}: moved without an epoch"));
            self.mark_takeover(&old);
        } else {
            self.commit(&old, row);
        }
        let known = self.permits.insert((shard.clone(), row.lease_epoch, row.epoch), who);
        self.rule(known.is_none(), || format!("{shard}: {}/{} was won twice", row.lease_epoch, row.epoch));
        let wanted_by = if row.epoch == old.epoch { row.wanted_by.clone() } else { old.wanted_by };
        self.rows.insert(shard.clone(), ShardRow { wanted_by, ..row.clone() });
        self.check_watermark();
        Ok(Cas::Won)
    }

    /// No epoch that may still come opens below what was promised once.
    fn check_watermark(&mut self) {
        let (before, now) = (self.watermark_us, self.watermark());
        self.rule(before.is_none_or(|before| now >= before), || format!("the watermark fell from {before:?} to {now}"));
        self.watermark_us = Some(now);
    }

    fn commit(&mut self, old: &ShardRow, row: &ShardRow) {
        let (shard, epoch) = (&row.shard, row.epoch);
        self.rule(epoch == old.epoch + 1, || format!("{shard}: epoch {epoch} follows {}", old.epoch));
        let object = row.object.clone().and_then(|object| Some((self.blobs.get(&object.key)?.clone(), object)));
        let Some((data, object)) = object else {
            return self.rule(false, || format!("{shard}: epoch {epoch} is committed without its object"));
        };
        self.rule(Hash::of(&data) == object.sha256, || format!("{shard}: the object of epoch {epoch} is not what the row says"));
        let (header, pending) = match EpochObject::decode(&data).and_then(|object| Ok((object.header.clone(), object.pending()?)))
        {
            Ok(decoded) => decoded,
            Err(fault) => return self.rule(false, || format!("{shard}: epoch {epoch}: {fault}")),
        };
        let own = header.shard == *shard && header.epoch == epoch && header.lease_epoch == row.lease_epoch;
        self.rule(own, || format!("{shard}: the object of epoch {epoch} says {}/{}", header.shard, header.epoch));
        self.rule(header.from == old.position && header.to == row.position, || format!("{shard}: gap at epoch {epoch}"));
        let bounds = header.bound_opened == old.bound && header.bound_committed == row.bound;
        self.rule(bounds, || format!("{shard}: the bounds of epoch {epoch} are not the row's"));
        let previous = old.object.as_ref().map(|object| &object.sha256);
        self.rule(header.previous.as_ref() == previous, || format!("{shard}: epoch {epoch} does not chain"));
        let (ends, moves) =
            (row.state == ShardState::Drained, header.to > header.from || header.bound_committed > header.bound_opened);
        self.rule(moves || ends || !header.rebuilt.is_empty(), || format!("{shard}: epoch {epoch} is empty and moves nothing"));
        // Of a shard that has ended, files may be written once more, and that is all.
        let is_over = old.state == ShardState::Drained;
        self.rule(!is_over || !moves && !header.rebuilt.is_empty(), || format!("{shard}: epoch {epoch} after it was drained"));
        self.check_rebuilt(&header);
        let judged = match self.streams.get(shard) {
            None => Judged::default(),
            Some(log) => judge(shard, log.between(header.from, header.to), header.bound_opened.0, self.dialect.bad),
        };
        self.check_counts(&header, &judged);
        self.check_bound(&header, &judged);
        self.mark_letters(&judged);
        self.check_sealed(shard, epoch, &judged);
        for output in header.outputs.iter().chain(&header.rebuilt) {
            let staged = self.staged.get(&output.staged).or_else(|| self.visible.get(&output.path));
            let inline = pending.iter().find(|held| held.output == *output).and_then(|held| held.body.as_ref());
            // One that travels in the object may be gone from its writer's disk, and the writer with it.
            let same =
                inline.map_or(staged.is_some_and(|file| file.sha256 == output.sha256), |body| Hash::of(body) == output.sha256);
            self.rule(same, || format!("{shard}: epoch {epoch} commits {} which is not staged", output.path));
        }
        let commit = Commit { row: row.clone(), header, judged };
        self.commits.entry(shard.clone()).or_default().push(commit);
    }

    /// The epoch's own ledger against an independent count.
    fn check_counts(&mut self, header: &EpochHeader, judged: &Judged) {
        let (at, counts) = (format!("{}/{}", header.shard, header.epoch), &header.counts);
        let mine =
            (counts.received, counts.bytes, counts.bronze, counts.silver, counts.rejected_total(), counts.filtered_total());
        let truth = (judged.received, judged.bytes, judged.received, judged.silver, judged.bad, judged.filtered);
        self.rule(mine == truth, || format!("{at}: counts {mine:?} but it is {truth:?}"));
        let letters = judged.letters.len() as u64;
        self.rule(counts.letters == letters, || format!("{at}: {} letters but it is {letters}", counts.letters));
        let wrong = counts.equations(header.bronze_on, 1).into_iter().find(|line| line.difference() != 0);
        self.rule(wrong.is_none(), || format!("{at}: {wrong:?}"));
        for (table, (name, _, _)) in TABLES.into_iter().enumerate() {
            let gold = counts.gold.get(name).copied().unwrap_or_default();
            let windows = || judged.windows.iter().filter(|((t, _), _)| *t == table).map(|(_, window)| window);
            let truth = [
                judged.excluded[table],
                windows().map(|w| w.too_late).sum(),
                windows().map(|w| w.on_time).sum(),
                windows().map(|w| w.late).sum(),
            ];
            let mine = [gold.excluded, gold.too_late, gold.on_time, gold.late];
            self.rule(mine == truth, || format!("{at}: {name} counts {mine:?} but it is {truth:?}"));
            let partial: u64 = header.segments.iter().filter(|segment| segment.table == name).map(|segment| segment.rows).sum();
            self.rule(partial == truth[2] + truth[3], || format!("{at}: partials of {name} hold {partial} rows"));
        }
        for counts in &header.windows {
            let table = TABLES.iter().position(|(name, _, _)| *name == counts.table).expect("a table of ours");
            let truth = judged.windows.get(&(table, counts.window_us)).cloned().unwrap_or_default();
            let same = (counts.on_time, counts.late, counts.too_late) == (truth.on_time, truth.late, truth.too_late);
            self.rule(same, || format!("{at}: window counts {counts:?} but it is {truth:?}"));
        }
    }

    /// B follows from data; by anything else it moves only while the shard is idle, and that needs a read that said so.
    fn check_bound(&mut self, header: &EpochHeader, judged: &Judged) {
        let before = self.commits.get(&header.shard).into_iter().flatten().filter_map(|commit| commit.judged.max_event_us).max();
        let known = before.max(judged.max_event_us).map_or(i64::MIN, |event| event.saturating_sub(DISORDER));
        if header.bound_committed.0 <= known.max(header.bound_opened.0) {
            return;
        }
        let idle = header.from == header.to && self.read_to_end.contains(&(header.shard.clone(), header.to));
        let at = format!("{}/{}", header.shard, header.epoch);
        self.rule(idle, || {
            format!("{at}: B moves to {:?}, its data to {known}, and the shard is not idle", header.bound_committed)
        });
        self.mark("an idle shard's bound moves");
    }

    fn check_sealed(&mut self, shard: &ShardId, epoch: u64, judged: &Judged) {
        for ((table, start), window) in &judged.windows {
            let row = self.windows.get(&(TABLES[*table].0.to_owned(), *start));
            let sealed = row.is_some_and(|row| row.status == WindowStatus::Sealed);
            let taken = window.on_time + window.late;
            self.rule(!sealed || taken == 0, || format!("{shard}/{epoch}: {taken} records for the sealed window {start}"));
        }
    }

    // Rows of windows.

    /// No later epoch of any live shard opens below this.
    pub fn watermark(&self) -> i64 {
        // Whoever may still open an epoch, and what it opens with at least: a blocked shard opens with its parents' least.
        fn least(store: &Store, row: &ShardRow) -> i64 {
            let parents = row.parents.iter().filter_map(|parent| store.rows.get(parent));
            match row.state {
                ShardState::Blocked => parents.map(|parent| least(store, parent)).min().unwrap_or(row.bound.0),
                ShardState::Open | ShardState::Drained | ShardState::Retired => row.bound.0,
            }
        }
        let unborn = |row: &ShardRow| row.children.iter().any(|child| !self.rows.contains_key(child));
        let live = self.rows.values().filter(|row| match row.state {
            ShardState::Blocked | ShardState::Open => true,
            ShardState::Drained => unborn(row),
            ShardState::Retired => false,
        });
        live.map(|row| least(self, row)).min().unwrap_or(i64::MIN)
    }

    pub fn update_window(&mut self, expected: u64, row: &WindowRow, now_sealed_at: i64) -> Cas {
        let key = (row.table.clone(), row.start_us);
        let old = self.windows.get(&key).cloned();
        if old.as_ref().map_or(0, |old| old.version) != expected {
            self.mark("a stale window swap is refused");
            return Cas::Lost;
        }
        let at = format!("window {} of {} r{}", row.start_us, row.table, row.revision);
        self.rule(row.version == expected + 1, || format!("{at}: version {} follows {expected}", row.version));
        let table = TABLES.iter().find(|(name, _, _)| *name == row.table).expect("a table of ours");
        let passed = match row.status {
            WindowStatus::Sealed => row.end_us + table.2 <= now_sealed_at,
            WindowStatus::Closed | WindowStatus::Revised => row.end_us <= now_sealed_at,
            WindowStatus::Open | WindowStatus::Provisional | WindowStatus::Repaired => true,
        };
        self.rule(passed, || format!("{at}: {:?} before its time", row.status));
        if let Some(old) = old {
            let grown = dominates(&row.vector, &old.vector);
            self.rule(grown, || format!("{at}: the vector {:?} lacks what {:?} had", row.vector, old.vector));
            self.rule(row.revision >= old.revision && row.published >= old.published, || format!("{at}: went back"));
            self.rule(row.revision <= old.revision + 1, || format!("{at}: skipped a revision"));
            let sealed = old.status == WindowStatus::Sealed;
            self.rule(!sealed || row.status == WindowStatus::Sealed, || format!("{at}: {:?} after it was sealed", row.status));
            let closed = matches!(old.status, WindowStatus::Closed | WindowStatus::Revised);
            self.rule(!closed || row.status != WindowStatus::Open, || format!("{at}: open after it was closed"));
            if row.revision == old.revision {
                let same = (&row.content, row.status, &row.vector) == (&old.content, old.status, &old.vector);
                self.rule(same, || format!("{at}: content or status changed without a revision"));
            } else {
                let change = row.status != old.status || row.vector != old.vector;
                self.rule(change, || format!("{at}: a revision that changes nothing"));
            }
        }
        if let Some(base) = &row.base {
            let there = self.blobs.contains_key(&base.object.key);
            self.rule(there, || format!("{at}: names a base that is not stored"));
        }
        let there = |object: &ObjectRef| self.blobs.get(&object.key).is_some_and(|data| Hash::of(data) == object.sha256);
        let there = row.content.as_ref().is_none_or(there);
        self.rule(there, || format!("{at}: names a content that is not stored, or not so"));
        self.mark(match row.status {
            WindowStatus::Open => "window open",
            WindowStatus::Closed => "window closed",
            WindowStatus::Revised => "window revised",
            WindowStatus::Sealed => "window sealed",
            WindowStatus::Provisional | WindowStatus::Repaired => "window in a status of later",
        });
        self.windows.insert(key, row.clone());
        Cas::Won
    }

    /// What the committed epochs up to a vector add up to.
    pub fn fold(&self, table: usize, start_us: i64, vector: Option<&Vector>) -> (WindowJudged, Vector) {
        let (mut sum, mut full) = (WindowJudged::default(), Vector::new());
        for (shard, commits) in &self.commits {
            let touched = commits.iter().filter_map(|commit| commit.judged.windows.get(&(table, start_us)));
            let mut ordinal = 0;
            for window in touched {
                if window.on_time + window.late == 0 {
                    sum.too_late += window.too_late;
                    continue;
                }
                ordinal += 1;
                if vector.is_none_or(|vector| vector.get(shard).is_some_and(|last| *last >= ordinal)) {
                    sum.add(window);
                }
            }
            if ordinal > 0 {
                full.insert(shard.clone(), ordinal);
            }
        }
        (sum, full)
    }

    pub fn publish_gold(&mut self, row: &WindowRow, content: &Bytes, keep_oldest: bool) {
        let at = format!("gold {} of {} r{}", row.start_us, row.table, row.revision);
        let table = TABLES.iter().position(|(name, _, _)| *name == row.table).expect("a table of ours");
        let stored = self.windows.get(&(row.table.clone(), row.start_us)).map_or(0, |stored| stored.revision);
        self.rule(stored >= row.revision, || format!("{at}: published, but the row is at {stored}"));
        let (expected, _) = self.fold(table, row.start_us, Some(&row.vector));
        let right = expected.content(row.start_us, self.having);
        self.rule(right == *content, || format!("{at}: {content:?} but its vector says {right:?}"));
        let counts = (row.counts.on_time, row.counts.late);
        let truth = (expected.on_time, expected.late);
        self.rule(counts == truth, || format!("{at}: counts {counts:?} but it is {truth:?}"));
        let known = self.revisions.insert((row.table.clone(), row.start_us, row.revision), (content.clone(), row.status));
        let same = known.is_none_or(|known| known == (content.clone(), row.status));
        self.rule(same, || format!("{at}: one revision, two contents"));
        let key = (row.table.clone(), row.start_us);
        let newer = self.gold.get(&key).is_none_or(|shown| shown.row.revision <= row.revision && !keep_oldest);
        if newer {
            self.gold.insert(key, Shown { row: row.clone(), content: content.clone() });
        }
    }

    /// Whoever shows a permit must have won it himself.
    pub(crate) fn check_permit(&mut self, shard: &ShardId, lease: u64, epoch: u64, who: u64) {
        let now = self.rows.get(shard).map_or(0, |row| row.lease_epoch);
        if epoch == u64::MAX {
            return self
                .rule(now > lease, || format!("{shard}: process {who} gives up lease {lease}, which nobody has overtaken"));
        }
        let holder = self.permits.get(&(shard.clone(), lease, epoch)).copied();
        self.rule(holder == Some(who), || format!("{shard}: process {who} acts on {lease}/{epoch}, won by {holder:?}"));
    }
}

/// How a read lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReadFlaw {
    None,
    Skip,
    Repeat,
}

/// Does `a` hold everything that `b` holds?
pub fn dominates(a: &Vector, b: &Vector) -> bool {
    b.iter().all(|(shard, ordinal)| a.get(shard).is_some_and(|mine| mine >= ordinal))
}
