//! Which rows go on exactly where a fleet of the Kinesis Client Library stopped.
//!
//! What has no lease is treated as that library would: it makes a child's lease before it finishes the parent, and deletes a
//! finished lease only when all children have begun; a merge gets its lease when both parents have one. So a shard without a
//! lease whose descendant has one is finished (or lies before the fleet's beginning); unless it came out of one that is not
//! finished, which that library does not do, and which is read rather than lost. Any other shard was not begun. A shard waits
//! for every parent that is not finished.
//!
//! A checkpoint may lie inside a KPL aggregate, which is one record of Kinesis. Our positions lie between such records, never
//! inside one: whoever takes over decides whether its remaining parts are left out or its first parts are counted again.
//!
//! Owns: the decision for each shard, what is refused and the way out. Does not own: reading leases (kcl), writing rows.

use std::collections::{BTreeMap, BTreeSet};

use sluicebox_actors::model::fault::{Fault, Result};
use sluicebox_actors::model::position::{Position, ShardId};
use sluicebox_actors::model::row::{ShardRow, ShardState};
use sluicebox_actors::ports::ShardInfo;

use super::{Checkpoint, KclLease};

/// What becomes of an aggregate in which a checkpoint lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kpl {
    /// It is read again, whole, with whatever arrived in the same millisecond.
    Again,
    /// What is left of it is not read.
    Skip,
}

/// What the user has decided where a table does not say enough.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Ways {
    /// Where leases begin that say `LATEST` or `AT_TIMESTAMP`, microseconds since 1970.
    pub latest_at: Option<i64>,
    /// Aggregates that were cut.
    pub kpl: Option<Kpl>,
}

/// Why a row is as it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Why {
    /// Goes on after the checkpoint.
    Checkpoint,
    /// Reads an aggregate again in which the checkpoint lies.
    Again,
    /// Leaves out the rest of an aggregate in which the checkpoint lies.
    Skipped,
    /// Its lease was not begun.
    NotBegun,
    /// Its lease was not begun, and was to begin at a time.
    AtTime,
    /// Its lease says that it was read to its end.
    Ended,
    /// It has no lease, and one of its descendants has.
    EndedBefore,
    /// Neither it nor a descendant has a lease.
    NoLease,
}

/// One shard, taken over.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Taken {
    /// The row to be made.
    pub row: ShardRow,
    /// Why.
    pub why: Why,
}

/// What is taken over.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    /// A row for every shard that the stream lists.
    pub taken: Vec<Taken>,
    /// Leases that were not at their end, of shards that the stream has forgotten: what they had not read is lost.
    pub forgotten: Vec<ShardId>,
}

/// The rows of a pipeline that goes on where these leases stop. `cut` has the checkpoints that lie inside an aggregate: by
/// shard, when that record arrived.
pub fn plan(stream: &str, leases: &[KclLease], listed: &[ShardInfo], cut: &BTreeMap<ShardId, i64>, ways: Ways) -> Result<Plan> {
    let view = View::of(leases, listed);
    view.check(stream, cut, ways)?;
    let mut taken = Vec::with_capacity(listed.len());
    for info in listed {
        taken.push(view.take(stream, info, cut, ways)?);
    }
    let known: BTreeSet<&ShardId> = listed.iter().map(|info| &info.shard).collect();
    let forgotten = leases.iter().filter(|lease| !known.contains(&lease.shard) && lease.checkpoint != Checkpoint::End);
    Ok(Plan { taken, forgotten: forgotten.map(|lease| lease.shard.clone()).collect() })
}

/// Leases and listing, side by side.
struct View<'a> {
    leases: BTreeMap<&'a ShardId, &'a KclLease>,
    listed: BTreeMap<&'a ShardId, &'a ShardInfo>,
    /// Without a lease, and a descendant has one, but no ancestor one that is not finished.
    before: BTreeSet<&'a ShardId>,
}

impl<'a> View<'a> {
    fn of(leases: &'a [KclLease], listed: &'a [ShardInfo]) -> Self {
        let leases: BTreeMap<_, _> = leases.iter().map(|lease| (&lease.shard, lease)).collect();
        let listed: BTreeMap<_, _> = listed.iter().map(|info| (&info.shard, info)).collect();
        let mut before = BTreeSet::new();
        let parents = |shard: &ShardId| {
            let told = listed.get(shard).into_iter().flat_map(|info| &info.parents);
            told.chain(leases.get(shard).into_iter().flat_map(|lease| &lease.parents)).collect::<Vec<&'a ShardId>>()
        };
        let mut above: Vec<&ShardId> = leases.keys().flat_map(|shard| parents(shard)).collect();
        let mut seen = BTreeSet::new();
        while let Some(shard) = above.pop() {
            if seen.insert(shard) {
                if !leases.contains_key(shard) {
                    before.insert(shard);
                }
                above.extend(parents(shard));
            }
        }
        let unfinished = leases.iter().filter(|(_, lease)| lease.checkpoint != Checkpoint::End).map(|(shard, _)| *shard);
        let mut ahead: Vec<&ShardId> = unfinished.collect();
        let mut seen = BTreeSet::new();
        while let Some(shard) = ahead.pop() {
            let children = listed.values().filter(|info| info.parents.contains(shard)).map(|info| &info.shard);
            for child in children.filter(|child| seen.insert(*child)) {
                before.remove(child);
                ahead.push(child);
            }
        }
        Self { leases, listed, before }
    }

    fn is_ended(&self, shard: &ShardId) -> bool {
        match self.leases.get(shard) {
            Some(lease) => lease.checkpoint == Checkpoint::End,
            None => self.before.contains(shard),
        }
    }

    /// Refuses what can't be decided, everything of one kind at once.
    fn check(&self, stream: &str, cut: &BTreeMap<ShardId, i64>, ways: Ways) -> Result<()> {
        let both: Vec<(&KclLease, &ShardInfo)> =
            self.listed.iter().filter_map(|(shard, info)| Some((*self.leases.get(*shard)?, *info))).collect();
        if both.is_empty() {
            return Err(Fault::config(format!(
                "none of the {} leases is one of the {} shards of the stream {stream}: name the table of the application that \
                 reads this stream",
                self.leases.len(),
                self.listed.len()
            )));
        }
        let which = |wrong: &dyn Fn(&KclLease, &ShardInfo) -> bool| {
            let wrong: Vec<&ShardId> = both.iter().filter(|(l, i)| wrong(l, i)).map(|(lease, _)| &lease.shard).collect();
            (!wrong.is_empty()).then(|| named(&wrong))
        };
        let moved = |lease: &KclLease, info: &ShardInfo| lease.range.is_some_and(|r| r != (info.hash_start, info.hash_end));
        if let Some(shards) = which(&moved) {
            return Err(Fault::config(format!(
                "the leases of {shards} have other hash keys than these shards of the stream {stream}: it is the table of an \
                 application that reads another stream, or the stream was replaced"
            )));
        }
        if let Some(shards) = which(&|lease, info| lease.checkpoint == Checkpoint::End && !info.closed) {
            return Err(Fault::config(format!(
                "the leases say that {shards} ended, and the stream {stream} still puts records there: the table is another \
                 stream's, or that fleet once took a missing shard for an ended one and has stopped reading it. Set the lease's \
                 checkpoint to the last sequence number that was processed, or delete the lease to read the shard from its start"
            )));
        }
        let timeless = |lease: &KclLease, _: &ShardInfo| matches!(lease.checkpoint, Checkpoint::Latest | Checkpoint::Timestamp);
        if let Some(shards) = which(&timeless).filter(|_| ways.latest_at.is_none()) {
            return Err(Fault::config(format!(
                "the leases of {shards} say LATEST or AT_TIMESTAMP: nothing was processed yet, and the table does not tell since \
                 when they were meant to be read. Say it with --latest-at 2026-11-23T00:00:00Z"
            )));
        }
        if let Some(shards) = which(&|lease, _| cut.contains_key(&lease.shard)).filter(|_| ways.kpl.is_none()) {
            return Err(Fault::config(format!(
                "the checkpoints of {shards} lie inside a KPL aggregate, of which only the first records were processed, and a \
                 position lies between records of Kinesis. `--kpl again` reads the whole aggregate once more, with whatever \
                 arrived in the same millisecond; `--kpl skip` leaves out the rest of it. Or let that fleet go on for a moment \
                 and stop it gracefully"
            )));
        }
        Ok(())
    }

    fn take(&self, stream: &str, info: &ShardInfo, cut: &BTreeMap<ShardId, i64>, ways: Ways) -> Result<Taken> {
        let range = (info.hash_start, info.hash_end);
        let row = |state, position| {
            let row = ShardRow::new(stream, info.shard.clone(), range, state);
            ShardRow { parents: info.parents.clone(), position, ..row }
        };
        if self.is_ended(&info.shard) {
            let why = if self.leases.contains_key(&info.shard) { Why::Ended } else { Why::EndedBefore };
            let children = self.children(info)?;
            return Ok(Taken { row: ShardRow { children, ..row(ShardState::Drained, Position::START) }, why });
        }
        let (position, why) = match self.leases.get(&info.shard).map(|lease| lease.checkpoint) {
            None => (Position::START, Why::NoLease),
            Some(Checkpoint::Horizon) => (Position::START, Why::NotBegun),
            Some(Checkpoint::Latest | Checkpoint::Timestamp) => match ways.latest_at {
                Some(at_us) => (Position::arrival(at_us), Why::AtTime),
                None => return Err(Fault::bug("a lease without a time was not refused")),
            },
            Some(Checkpoint::After(sequence, _)) => match (cut.get(&info.shard), ways.kpl) {
                (None, _) => (Position::after(sequence), Why::Checkpoint),
                (Some(arrived_us), Some(Kpl::Again)) => (Position::arrival(*arrived_us), Why::Again),
                (Some(_), Some(Kpl::Skip)) => (Position::after(sequence), Why::Skipped),
                (Some(_), None) => return Err(Fault::bug("a cut aggregate was not refused")),
            },
            Some(Checkpoint::End) => return Err(Fault::bug("an ended shard is not open")),
        };
        let waits = info.parents.iter().any(|parent| self.listed.contains_key(parent) && !self.is_ended(parent));
        Ok(Taken { row: row(if waits { ShardState::Blocked } else { ShardState::Open }, position), why })
    }

    /// What came out of a shard that has ended. A drained row stands for its hash keys until all of them are open, so each must
    /// be one that is listed, and together they must be all.
    fn children(&self, info: &ShardInfo) -> Result<Vec<ShardId>> {
        let told = self.leases.get(&info.shard).map(|lease| lease.children.as_slice()).unwrap_or_default();
        let is_child = |other: &&ShardInfo| other.parents.contains(&info.shard) || told.contains(&other.shard);
        let children: Vec<&ShardInfo> = self.listed.values().copied().filter(is_child).collect();
        let mut ranges: Vec<(u128, u128)> = children.iter().map(|child| (child.hash_start, child.hash_end)).collect();
        ranges.sort_unstable();
        let mut next = Some(info.hash_start);
        for (start, end) in ranges {
            next = next.and_then(|next| if start <= next { end.checked_add(1).map(|after| after.max(next)) } else { Some(next) });
        }
        if next.is_some_and(|next| next <= info.hash_end) {
            return Err(Fault::retry(format!(
                "{} has ended, and the stream does not list all shards that came out of it yet: try again in a moment",
                info.shard
            )));
        }
        Ok(children.into_iter().map(|child| child.shard.clone()).collect())
    }
}

/// A few names for a sentence.
fn named(shards: &[&ShardId]) -> String {
    const SHOWN: usize = 3;
    let names: Vec<&str> = shards.iter().take(SHOWN).map(|shard| shard.as_str()).collect();
    match shards.len().checked_sub(SHOWN).filter(|more| *more > 0) {
        Some(more) => format!("{} and {more} more", names.join(", ")),
        None => names.join(", "),
    }
}

#[cfg(test)]
mod tests;
