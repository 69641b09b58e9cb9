//! What Gold knows of the shards: their rows, their epochs, and how far all of them have come.
//!
//! Owns: which shards count, the watermark, holes in the hash ring. Does not own: windows (machines/gold).

use std::collections::BTreeMap;

use crate::model::epoch::{EpochHeader, LedgerLine, ObjectRef};
use crate::model::fault::{Fault, Result};
use crate::model::position::ShardId;
use crate::model::row::{ShardRow, ShardState};
use crate::model::window::Bound;

/// What is known of one shard.
#[derive(Clone, Debug)]
pub(super) struct Lane {
    pub(super) row: ShardRow,
    /// Epochs whose objects exist, by number.
    pub(super) epochs: BTreeMap<u64, Epoch>,
}

#[derive(Clone, Debug)]
pub(super) struct Epoch {
    pub(super) object: ObjectRef,
    pub(super) line: LedgerLine,
    pub(super) unpublished: bool,
}

/// All shards.
#[derive(Clone, Debug, Default)]
pub(super) struct Lanes(pub(super) BTreeMap<ShardId, Lane>);

impl Lanes {
    /// A committed epoch; false if it is known, or known and collected already.
    pub(super) fn add(&mut self, header: &EpochHeader, object: ObjectRef) -> Result<bool> {
        let Some(lane) = self.0.get_mut(&header.shard) else {
            return Err(Fault::bug("an epoch of a shard that Gold does not know"));
        };
        if lane.epochs.last_key_value().is_some_and(|(last, _)| header.epoch <= *last) {
            return Ok(false);
        }
        for older in lane.epochs.values_mut() {
            older.unpublished &= header.pending.iter().any(|output| output.epoch == older.line.header.epoch);
        }
        let line = LedgerLine::of(header, object.sha256.clone());
        lane.epochs.insert(header.epoch, Epoch { object, line, unpublished: !header.outputs.is_empty() });
        Ok(true)
    }

    /// The smallest committed bound of all live shards: no later epoch of any of them opens below it.
    pub(super) fn watermark(&self) -> Bound {
        // Somebody's records are missing: nobody knows what that shard will still bring.
        if self.hole().is_some() {
            return Bound::UNKNOWN;
        }
        self.live().map(|lane| lane.row.bound).min().unwrap_or(Bound::UNKNOWN)
    }

    /// The first hash key that no live shard covers: a shard that was not listed yet, or is lost.
    pub(super) fn hole(&self) -> Option<u128> {
        let mut ranges: Vec<(u128, u128)> = self.live().map(|lane| (lane.row.hash_start, lane.row.hash_end)).collect();
        ranges.sort_unstable();
        let mut next = Some(0);
        for (start, end) in ranges {
            let Some(covered) = next else { break };
            if start > covered {
                break;
            }
            next = if end < covered { next } else { end.checked_add(1) };
        }
        next
    }

    /// Shards that may still bring records, or stand for some that may.
    pub(super) fn live(&self) -> impl Iterator<Item = &Lane> {
        // A child opens with no less than what its parents committed: until it is known here to be open, they stand for it.
        let is_open = |child: &ShardId| self.0.get(child).is_some_and(|lane| lane.row.state != ShardState::Blocked);
        self.0.values().filter(move |lane| match lane.row.state {
            ShardState::Open => true,
            ShardState::Blocked => !lane.row.parents.iter().any(|parent| self.0.contains_key(parent)),
            ShardState::Drained => !lane.row.children.iter().all(is_open),
            ShardState::Retired => false,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lane(state: ShardState, range: (u128, u128), bound: i64, parents: &[&str], children: &[&str]) -> Lane {
        let ids = |names: &[&str]| names.iter().map(|name| ShardId::new(*name)).collect();
        let row = ShardRow::new("events", ShardId::new("named by lanes"), range, state);
        let row = ShardRow { parents: ids(parents), children: ids(children), bound: Bound(bound), ..row };
        Lane { row, epochs: BTreeMap::new() }
    }

    fn lanes(all: &[(&str, Lane)]) -> Lanes {
        let named = |(name, lane): &(&str, Lane)| {
            let mut lane = lane.clone();
            lane.row.shard = ShardId::new(*name);
            (lane.row.shard.clone(), lane)
        };
        Lanes(all.iter().map(named).collect())
    }

    const HALF: u128 = u128::MAX / 2;
    const LOWER: (u128, u128) = (0, HALF);
    const UPPER: (u128, u128) = (HALF + 1, u128::MAX);

    #[test]
    fn the_slowest_live_shard_is_the_watermark() {
        let both = [("a", lane(ShardState::Open, LOWER, 7, &[], &[])), ("b", lane(ShardState::Open, UPPER, 5, &[], &[]))];
        assert_eq!((lanes(&both).watermark(), lanes(&both).hole()), (Bound(5), None));
        assert_eq!(Lanes::default().watermark(), Bound::UNKNOWN, "nobody is known");
    }

    #[test]
    fn a_shard_that_was_not_listed_holds_all_windows_back() {
        let upper = lanes(&[("b", lane(ShardState::Open, UPPER, 5, &[], &[]))]);
        assert_eq!((upper.hole(), upper.watermark()), (Some(0), Bound::UNKNOWN));
        let lower = lanes(&[("a", lane(ShardState::Open, LOWER, 5, &[], &[]))]);
        assert_eq!((lower.hole(), lower.watermark()), (Some(HALF + 1), Bound::UNKNOWN));
        let gap =
            [("a", lane(ShardState::Open, (0, 9), 5, &[], &[])), ("b", lane(ShardState::Open, (11, u128::MAX), 5, &[], &[]))];
        assert_eq!(lanes(&gap).hole(), Some(10));
    }

    #[test]
    fn a_drained_parent_covers_its_range_until_all_of_its_children_are_open() {
        let parent = lane(ShardState::Drained, (0, u128::MAX), 3, &[], &["a", "b"]);
        let open = lane(ShardState::Open, LOWER, 8, &["p"], &[]);
        let blocked = lane(ShardState::Blocked, UPPER, 3, &["p"], &[]);
        let split = [("p", parent.clone()), ("a", open.clone()), ("b", blocked)];
        assert_eq!((lanes(&split).hole(), lanes(&split).watermark()), (None, Bound(3)));
        let opened = [("p", parent.clone()), ("a", open.clone()), ("b", lane(ShardState::Open, UPPER, 6, &["p"], &[]))];
        assert_eq!((lanes(&opened).hole(), lanes(&opened).watermark()), (None, Bound(6)));
        // One child's row is not there yet: the parent still stands for it.
        assert_eq!(lanes(&[("p", parent), ("a", open)]).watermark(), Bound(3));
    }
}
