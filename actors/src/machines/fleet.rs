//! Which of a stream's shards a worker should have, where several workers share them.
//!
//! No clock of one machine is compared with that of another, and none is read at all: a worker *looks* at the rows again and
//! again, at least a third of the failover time apart, and an owner whose row did not change over four looks, which is the whole
//! of that time, is gone. Who takes is decided by the compare-and-set of the row alone, so two workers that see the same are
//! harmless. Nobody is told who the others are: they show in the rows, or ask.
//!
//! A worker gives a shard away in one way only: it commits, then lets go. There is no state between the two owners in which the
//! shard could be stuck: a row without an owner may be taken by anybody, by whoever asked for it first.
//!
//! Owns: who is alive, shares, what to take, to ask for and to let go. Does not own: life signs and compare-and-sets (pipeline).

use std::collections::BTreeMap;

use crate::model::position::ShardId;
use crate::model::row::{ShardRow, ShardState};

/// Looks that show the same row until its owner counts as gone: three times a third of the failover time lie between them.
pub const LOOKS: u32 = 4;

/// What a worker does next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FleetAct {
    /// Take this shard from whoever has this lease.
    Take(ShardId, u64),
    /// Ask the owner, who has this lease, to let go.
    Want(ShardId, u64),
    /// Commit, and let go.
    Leave(ShardId),
    /// Forget who wants this shard of ours, which has this lease: we have no more than our share. He asks again if he lives.
    Keep(ShardId, u64),
}

/// What was seen of a row: as long as it stays the same, nobody shows a sign of life.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Sign {
    lease_epoch: u64,
    epoch: u64,
    heartbeat: u64,
}

impl Sign {
    fn of(row: &ShardRow) -> Self {
        Self { lease_epoch: row.lease_epoch, epoch: row.epoch, heartbeat: row.heartbeat }
    }
}

/// Has nobody shown a sign of life for it between two looks? Who looks [`LOOKS`] times, a third of the failover time apart, and
/// sees the same each time, sees an owner that is gone.
pub fn is_unmoved(before: &ShardRow, now: &ShardRow) -> bool {
    before.shard == now.shard && Sign::of(before) == Sign::of(now)
}

#[derive(Debug)]
struct Seen {
    sign: Sign,
    looks: u32,
    /// So often it has changed since it was first seen.
    changes: u32,
}

/// One worker's view of the fleet.
#[derive(Debug)]
pub struct FleetMachine {
    me: String,
    seen: BTreeMap<ShardId, Seen>,
}

impl FleetMachine {
    /// A worker of this name, which no other process ever has.
    pub fn new(me: impl Into<String>) -> Self {
        Self { me: me.into(), seen: BTreeMap::new() }
    }

    /// A look at all rows. To be called at least a third of the failover time after the last look ended.
    pub fn look(&mut self, rows: &[ShardRow]) {
        self.seen.retain(|shard, _| rows.iter().any(|row| row.shard == *shard));
        for row in rows {
            let sign = Sign::of(row);
            match self.seen.get_mut(&row.shard) {
                Some(seen) if seen.sign == sign => seen.looks = seen.looks.saturating_add(1),
                Some(seen) => *seen = Seen { sign, looks: 1, changes: seen.changes.saturating_add(1) },
                None => {
                    self.seen.insert(row.shard.clone(), Seen { sign, looks: 1, changes: 0 });
                }
            }
        }
    }

    /// Has its row stayed the same for the whole failover time?
    fn is_silent(&self, row: &ShardRow) -> bool {
        self.seen.get(&row.shard).is_some_and(|seen| {
            seen.sign.lease_epoch == row.lease_epoch && seen.sign.heartbeat == row.heartbeat && seen.looks >= LOOKS
        })
    }

    /// Does another worker live on it?
    pub fn is_held_by_another(&self, row: &ShardRow) -> bool {
        !row.owner.is_empty() && row.owner != self.me && !self.is_silent(row)
    }

    /// Is it in good hands? Another worker has shown signs of life for it, look after look: what a dead one had sent before it
    /// died may arrive late, but not for so long.
    pub fn is_cared_for(&self, row: &ShardRow) -> bool {
        self.is_held_by_another(row) && self.seen.get(&row.shard).is_some_and(|seen| seen.changes >= LOOKS)
    }

    /// What to do about these rows, of which `openable` could be run by somebody, while we run some: `mine` says of each whether
    /// it is about to be let go. `random` spreads workers that look at the same time.
    pub fn decide(
        &self,
        rows: &[ShardRow],
        mine: &BTreeMap<ShardId, bool>,
        openable: impl Fn(&ShardRow) -> bool,
        random: u64,
    ) -> Vec<FleetAct> {
        let is_mine = |row: &ShardRow| mine.get(&row.shard) == Some(&false);
        let (drained, live): (Vec<_>, Vec<_>) =
            rows.iter().filter(|row| openable(row)).partition(|row| row.state == ShardState::Drained);
        let mut acts = Vec::new();
        // Its last owner may have died between its final commit and the publication of what it committed; it is done in a moment,
        // so it is nobody's share.
        let left_behind =
            |row: &&&ShardRow| !row.owner.is_empty() && !mine.contains_key(&row.shard) && !self.is_held_by_another(row);
        acts.extend(drained.iter().filter(left_behind).map(|row| FleetAct::Take(row.shard.clone(), row.lease_epoch)));

        let loads = self.loads(&live, &is_mine);
        let (least, most) = (live.len() / loads.len().max(1), live.len().div_ceil(loads.len().max(1)));
        let mut have = live.iter().filter(|row| is_mine(row)).count();
        let mut free: Vec<_> = live.iter().filter(|row| !mine.contains_key(&row.shard) && self.is_free_for_me(row)).collect();
        rotate(&mut free, random);
        for row in free.iter().take(most.saturating_sub(have)) {
            acts.push(FleetAct::Take(row.shard.clone(), row.lease_epoch));
            have += 1;
        }
        for row in live.iter().filter(|row| is_mine(row) && self.is_wanted(row)) {
            if have > least {
                acts.push(FleetAct::Leave(row.shard.clone()));
                have -= 1;
            } else {
                acts.push(FleetAct::Keep(row.shard.clone(), row.lease_epoch));
            }
        }
        acts.extend(self.wants(&live, &loads, have, (least, most), random));
        acts
    }

    /// Shards per living worker, among them those that only ask.
    fn loads<'a>(&'a self, live: &[&'a ShardRow], is_mine: &impl Fn(&ShardRow) -> bool) -> BTreeMap<&'a str, usize> {
        let mut loads = BTreeMap::from([(self.me.as_str(), 0)]);
        for row in live {
            if is_mine(row) {
                *loads.entry(self.me.as_str()).or_default() += 1;
            } else if self.is_held_by_another(row) {
                *loads.entry(row.owner.as_str()).or_default() += 1;
            }
            if !row.wanted_by.is_empty() && !self.is_silent(row) {
                loads.entry(row.wanted_by.as_str()).or_default();
            }
        }
        loads
    }

    /// Nobody has it, and nobody else has asked for it and still may come.
    fn is_free_for_me(&self, row: &ShardRow) -> bool {
        let promised = !row.wanted_by.is_empty() && row.wanted_by != self.me && !self.is_silent(row);
        let free = row.owner.is_empty() || row.owner == self.me || self.is_silent(row);
        free && !promised
    }

    fn is_wanted(&self, row: &ShardRow) -> bool {
        !row.wanted_by.is_empty() && row.wanted_by != self.me
    }

    /// Who has less than others could spare asks those who have most, one shard of each at a time.
    fn wants(
        &self,
        live: &[&ShardRow],
        loads: &BTreeMap<&str, usize>,
        have: usize,
        (least, most): (usize, usize),
        random: u64,
    ) -> Vec<FleetAct> {
        let others = || loads.iter().filter(|(name, _)| **name != self.me);
        let too_many = others().any(|(_, load)| *load > most);
        let share = if too_many { most } else { least };
        // Whom we asked while he had more keeps what he has left: somebody else must be asked.
        let can_spare = |name: &str| loads.get(name).is_some_and(|load| *load > have + 1);
        let asked = live.iter().filter(|row| row.wanted_by == self.me && can_spare(&row.owner)).count();
        let mut missing = share.saturating_sub(have + asked);
        let mut rich: Vec<_> = others().filter(|(name, _)| can_spare(name)).collect();
        rich.sort_by_key(|(name, load)| (std::cmp::Reverse(**load), **name));
        let mut acts = Vec::new();
        for (name, _) in rich {
            let mut theirs: Vec<_> = live.iter().filter(|row| row.owner == **name && row.wanted_by.is_empty()).collect();
            rotate(&mut theirs, random);
            if let Some(row) = theirs.first().filter(|_| missing > 0) {
                acts.push(FleetAct::Want(row.shard.clone(), row.lease_epoch));
                missing -= 1;
            }
        }
        acts
    }
}

fn rotate<T>(list: &mut [T], random: u64) {
    if !list.is_empty() {
        list.rotate_left((random % list.len() as u64) as usize);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rows(count: usize) -> Vec<ShardRow> {
        let row = |number| ShardRow::new("s", ShardId::new(format!("{number:03}")), (0, 1), ShardState::Open);
        (0..count).map(row).collect()
    }

    fn has(rows: &[ShardRow], name: &str) -> usize {
        rows.iter().filter(|row| row.owner == name).count()
    }

    /// A fleet whose workers do at once what they decide: life without the world in between.
    struct Fleet {
        rows: Vec<ShardRow>,
        workers: Vec<(String, FleetMachine, BTreeMap<ShardId, bool>)>,
        random: u64,
    }

    impl Fleet {
        fn new(shards: usize) -> Self {
            Self { rows: rows(shards), workers: Vec::new(), random: 7 }
        }

        fn join(&mut self, name: &str) {
            self.workers.push((name.to_owned(), FleetMachine::new(name), BTreeMap::new()));
        }

        fn die(&mut self, at: usize) {
            self.workers.remove(at);
        }

        /// Each worker beats, looks and acts once; the number of shards that changed hands.
        fn round(&mut self) -> usize {
            let mut moved = 0;
            for (name, machine, mine) in &mut self.workers {
                for row in self.rows.iter_mut().filter(|row| mine.contains_key(&row.shard)) {
                    assert_eq!(row.owner, *name, "it is beating for a shard of another");
                    row.heartbeat += 1;
                }
                machine.look(&self.rows);
                self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                for act in machine.decide(&self.rows, mine, |_| true, self.random >> 33) {
                    let about = match &act {
                        FleetAct::Take(shard, _) | FleetAct::Want(shard, _) | FleetAct::Keep(shard, _) => shard,
                        FleetAct::Leave(shard) => shard,
                    };
                    let row = self.rows.iter_mut().find(|row| row.shard == *about).unwrap();
                    match act {
                        FleetAct::Take(shard, lease) => {
                            assert_eq!(row.lease_epoch, lease);
                            (row.owner, row.lease_epoch, row.wanted_by) = (name.clone(), lease + 1, String::new());
                            moved += usize::from(mine.insert(shard, false).is_none());
                        }
                        FleetAct::Want(..) => row.wanted_by.clone_from(name),
                        FleetAct::Keep(..) => row.wanted_by.clear(),
                        FleetAct::Leave(shard) => {
                            row.owner.clear();
                            assert!(mine.remove(&shard).is_some());
                        }
                    }
                }
            }
            moved
        }

        fn settle(&mut self) {
            let rounds = (0..200).take_while(|_| self.round() > 0 || !self.is_even()).count();
            assert!(
                rounds < 200,
                "never settled: {:?} {:?}",
                self.loads(),
                self.rows.iter().map(|row| (row.owner.clone(), row.wanted_by.clone())).collect::<Vec<_>>()
            );
            // Some more: what is even stays as it is.
            let moved: usize = (0..10).map(|_| self.round()).sum();
            assert_eq!(moved, 0, "shards go to and fro");
        }

        fn loads(&self) -> Vec<usize> {
            self.workers.iter().map(|(name, ..)| has(&self.rows, name)).collect()
        }

        fn is_even(&self) -> bool {
            let loads = self.loads();
            let (least, most) = (loads.iter().min().copied().unwrap_or(0), loads.iter().max().copied().unwrap_or(0));
            loads.iter().sum::<usize>() == self.rows.len() && most - least <= 1
        }
    }

    #[test]
    fn one_worker_takes_everything_and_a_second_gets_half_without_a_moment_of_two_owners() {
        let mut fleet = Fleet::new(8);
        fleet.join("a");
        fleet.settle();
        assert_eq!(fleet.loads(), [8]);
        fleet.join("b");
        fleet.settle();
        assert_eq!(fleet.loads(), [4, 4]);
    }

    #[test]
    fn the_shards_of_a_dead_worker_are_taken_after_four_looks_and_not_before() {
        let mut fleet = Fleet::new(4);
        fleet.join("a");
        fleet.join("b");
        fleet.settle();
        fleet.die(1);
        // The look of the last round was the first to show the last life sign.
        for round in 1..LOOKS - 1 {
            assert_eq!(fleet.round(), 0, "taken after {round} more looks");
        }
        assert_eq!(fleet.round() + fleet.round(), 2);
        assert_eq!(fleet.loads(), [4]);
    }

    #[test]
    fn a_drained_shard_that_was_let_go_is_left_alone_and_one_that_was_left_behind_is_taken() {
        let mut rows = rows(3);
        rows.iter_mut().for_each(|row| row.state = ShardState::Drained);
        rows[0].owner = "dead".to_owned();
        let mut machine = FleetMachine::new("a");
        let none = BTreeMap::new();
        for _ in 0..LOOKS - 1 {
            machine.look(&rows);
            assert_eq!(machine.decide(&rows, &none, |_| true, 0), []);
        }
        machine.look(&rows);
        assert_eq!(machine.decide(&rows, &none, |_| true, 0), [FleetAct::Take(rows[0].shard.clone(), 0)]);
    }

    #[test]
    fn what_was_let_go_for_somebody_waits_for_him_but_not_for_ever() {
        let mut rows = rows(1);
        rows[0].wanted_by = "b".to_owned();
        let (mut a, mut b) = (FleetMachine::new("a"), FleetMachine::new("b"));
        let none = BTreeMap::new();
        let take = [FleetAct::Take(rows[0].shard.clone(), 0)];
        b.look(&rows);
        assert_eq!(b.decide(&rows, &none, |_| true, 0), take);
        for _ in 0..LOOKS - 1 {
            a.look(&rows);
            assert_eq!(a.decide(&rows, &none, |_| true, 0), []);
        }
        a.look(&rows);
        assert_eq!(a.decide(&rows, &none, |_| true, 0), take);
    }

    proptest! {
        #[test]
        fn whoever_comes_and_goes_the_shares_become_even_and_stay_so(
            shards in 1usize..40, random in any::<u64>(), changes in prop::collection::vec((0usize..6, any::<bool>()), 1..8),
        ) {
            let mut fleet = Fleet { random, ..Fleet::new(shards) };
            fleet.join("first");
            for (number, (who, waits)) in changes.into_iter().enumerate() {
                if who > 0 && who < fleet.workers.len() {
                    fleet.die(who);
                } else {
                    fleet.join(&format!("{number}"));
                }
                if waits {
                    fleet.settle();
                }
            }
            fleet.settle();
        }
    }
}
