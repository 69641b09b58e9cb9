//! Goal: whatever a fleet has done to a stream that splits and merges, the rows read every record that it did not process, and
//! none that it did.

use proptest::prelude::*;
use sluicebox_actors::model::fault::Kind;
use sluicebox_actors::model::position::Sequence;

use super::*;

const NO_WAYS: Ways = Ways { latest_at: None, kpl: None };

fn name(number: usize) -> ShardId {
    ShardId::new(format!("shardId-{number:012}"))
}

fn info(number: usize, parents: &[usize], (hash_start, hash_end): (u128, u128), closed: bool) -> ShardInfo {
    let parents = parents.iter().map(|parent| name(*parent)).collect();
    ShardInfo { shard: name(number), parents, hash_start, hash_end, closed }
}

fn lease_of(info: &ShardInfo, checkpoint: Checkpoint, children: &[usize]) -> KclLease {
    KclLease {
        shard: info.shard.clone(),
        checkpoint,
        parents: info.parents.clone(),
        children: children.iter().map(|child| name(*child)).collect(),
        range: Some((info.hash_start, info.hash_end)),
        owner: Some("host:1".into()),
        counter: 7,
    }
}

fn after(number: u64) -> Checkpoint {
    Checkpoint::After(Sequence::dense(number), 0)
}

fn planned(leases: &[KclLease], listed: &[ShardInfo]) -> Result<Vec<Taken>> {
    plan("s", leases, listed, &BTreeMap::new(), NO_WAYS).map(|plan| plan.taken)
}

fn told(taken: &[Taken]) -> Vec<(ShardState, String, Why)> {
    taken.iter().map(|taken| (taken.row.state, taken.row.position.to_string(), taken.why)).collect()
}

const ALL: (u128, u128) = (0, u128::MAX);
const LOWER: (u128, u128) = (0, u128::MAX / 2);
const UPPER: (u128, u128) = (u128::MAX / 2 + 1, u128::MAX);

/// A shard that was split.
fn split() -> Vec<ShardInfo> {
    vec![info(0, &[], ALL, true), info(1, &[0], LOWER, false), info(2, &[0], UPPER, false)]
}

#[test]
fn children_wait_for_a_parent_that_is_not_finished_whether_they_have_leases_or_not() {
    let listed = split();
    let parent = lease_of(&listed[0], after(9), &[]);
    let alone = planned(std::slice::from_ref(&parent), &listed).expect("plans");
    let waiting = (ShardState::Blocked, "start".to_owned(), Why::NoLease);
    assert_eq!(told(&alone), [(ShardState::Open, "9".into(), Why::Checkpoint), waiting.clone(), waiting]);
    let with = [parent, lease_of(&listed[1], Checkpoint::Horizon, &[])];
    let with = planned(&with, &listed).expect("plans");
    assert_eq!(told(&with)[1], (ShardState::Blocked, "start".into(), Why::NotBegun));
    assert_eq!(with[1].row.parents, [name(0)]);
}

#[test]
fn a_finished_parent_is_drained_with_its_children_and_they_go_on_or_begin() {
    let listed = split();
    let ended = [lease_of(&listed[0], Checkpoint::End, &[1, 2]), lease_of(&listed[1], after(20), &[])];
    let taken = planned(&ended, &listed).expect("plans");
    let expected = [
        (ShardState::Drained, "start".into(), Why::Ended),
        (ShardState::Open, "20".into(), Why::Checkpoint),
        (ShardState::Open, "start".into(), Why::NoLease),
    ];
    assert_eq!(told(&taken), expected);
    assert_eq!(taken[0].row.children, [name(1), name(2)]);
    // The library deletes the lease of a finished shard once its children have begun.
    let deleted = planned(&[lease_of(&listed[1], after(20), &[]), lease_of(&listed[2], after(21), &[])], &listed);
    let deleted = deleted.expect("plans");
    assert_eq!((deleted[0].why, deleted[0].row.state), (Why::EndedBefore, ShardState::Drained));
    assert_eq!(deleted[0].row.children, [name(1), name(2)]);
}

#[test]
fn a_merged_shard_waits_for_the_slower_parent_for_whom_the_faster_stands() {
    let listed = [info(0, &[], LOWER, true), info(1, &[], UPPER, true), info(2, &[0, 1], ALL, false)];
    let leases = [lease_of(&listed[0], Checkpoint::End, &[2]), lease_of(&listed[1], after(5), &[])];
    let taken = planned(&leases, &listed).expect("plans");
    let states: Vec<_> = taken.iter().map(|taken| taken.row.state).collect();
    assert_eq!(states, [ShardState::Drained, ShardState::Open, ShardState::Blocked]);
    assert_eq!(taken[0].row.children, [name(2)]);
}

// A library that does not wait for the other parent before it makes a merge's lease: nothing follows for what lies between.
#[test]
fn the_way_from_the_slower_parent_to_a_merge_is_not_taken_for_finished() {
    let quarter = u128::MAX / 4;
    let first = [info(0, &[], LOWER, true), info(1, &[], UPPER, true)];
    let halves = [info(2, &[0], (0, quarter), true), info(3, &[0], (quarter + 1, LOWER.1), true)];
    let merges = [info(4, &[2, 3], LOWER, true), info(5, &[4, 1], ALL, false)];
    let listed: Vec<ShardInfo> = first.into_iter().chain(halves).chain(merges).collect();
    let leases = [
        lease_of(&listed[0], after(5), &[]),
        lease_of(&listed[1], Checkpoint::End, &[5]),
        lease_of(&listed[5], Checkpoint::Horizon, &[]),
    ];
    let states: Vec<_> = planned(&leases, &listed).expect("plans").iter().map(|taken| taken.row.state).collect();
    let blocked = ShardState::Blocked;
    assert_eq!(states, [ShardState::Open, ShardState::Drained, blocked, blocked, blocked, blocked]);
}

#[test]
fn what_the_table_does_not_tell_is_refused_with_the_way_out_and_done_when_it_is_said() {
    let listed = [info(0, &[], LOWER, false), info(1, &[], UPPER, false)];
    let at = |first, second| [lease_of(&listed[0], first, &[]), lease_of(&listed[1], second, &[])];
    let (none, cut) = (BTreeMap::new(), BTreeMap::from([(name(1), 44_000)]));
    let refused = |leases: &[KclLease], cut: &BTreeMap<ShardId, i64>, says: &str, shard: usize| {
        let fault = plan("s", leases, &listed, cut, NO_WAYS).expect_err("is refused");
        assert_eq!(fault.kind(), Kind::Config);
        assert!(fault.message().contains(says) && fault.message().contains(name(shard).as_str()), "{fault}");
    };
    let allowed = |leases: &[KclLease], cut: &BTreeMap<ShardId, i64>, ways| {
        told(&plan("s", leases, &listed, cut, ways).expect("plans").taken)[1].clone()
    };
    for checkpoint in [Checkpoint::Latest, Checkpoint::Timestamp] {
        let leases = at(after(1), checkpoint);
        refused(&leases, &none, "--latest-at", 1);
        let ways = Ways { latest_at: Some(77), ..NO_WAYS };
        assert_eq!(allowed(&leases, &none, ways), (ShardState::Open, "@77".into(), Why::AtTime));
    }
    let leases = at(after(1), Checkpoint::After(Sequence::dense(6), 2));
    refused(&leases, &cut, "--kpl skip", 1);
    let kpl = |kpl| allowed(&leases, &cut, Ways { kpl: Some(kpl), ..NO_WAYS });
    assert_eq!(kpl(Kpl::Again), (ShardState::Open, "@44000".into(), Why::Again));
    assert_eq!(kpl(Kpl::Skip), (ShardState::Open, "6".into(), Why::Skipped));
    // A whole aggregate was processed: nothing has to be decided.
    assert_eq!(allowed(&leases, &none, NO_WAYS), (ShardState::Open, "6".into(), Why::Checkpoint));
    refused(&at(Checkpoint::End, after(1)), &none, "still puts records there", 0);
}

#[test]
fn the_table_of_another_stream_is_refused() {
    let listed = [info(0, &[], ALL, false)];
    let strange = info(0, &[], LOWER, false);
    let fault = planned(&[lease_of(&strange, after(1), &[])], &listed).expect_err("other hash keys");
    assert!(fault.kind() == Kind::Config && fault.message().contains("other hash keys"), "{fault}");
    for leases in [Vec::new(), vec![lease_of(&info(5, &[], ALL, false), after(1), &[])]] {
        let fault = planned(&leases, &listed).expect_err("other shards");
        assert!(fault.kind() == Kind::Config && fault.message().contains("none of the"), "{fault}");
    }
}

#[test]
fn unfinished_leases_of_shards_that_the_stream_forgot_are_told_and_finished_ones_are_not() {
    let listed = [info(2, &[0], LOWER, false), info(3, &[0], UPPER, false)];
    let (gone, done) = (info(0, &[], ALL, true), info(1, &[], ALL, true));
    let leases = [
        lease_of(&gone, after(3), &[]),
        lease_of(&done, Checkpoint::End, &[0]),
        lease_of(&listed[0], Checkpoint::Horizon, &[]),
        lease_of(&listed[1], Checkpoint::Horizon, &[]),
    ];
    let plan = plan("s", &leases, &listed, &BTreeMap::new(), NO_WAYS).expect("plans");
    assert_eq!(plan.forgotten, [name(0)]);
    assert!(plan.taken.iter().all(|taken| taken.row.state == ShardState::Open), "{:?}", plan.taken);
}

#[test]
fn a_shard_that_ended_is_not_taken_before_all_of_its_children_are_listed() {
    let listed = split();
    let leases = [lease_of(&listed[0], Checkpoint::End, &[1, 2]), lease_of(&listed[1], Checkpoint::Horizon, &[])];
    let fault = planned(&leases, &listed[..2]).expect_err("half a listing");
    assert_eq!(fault.kind(), Kind::Retry);
}

/// A stream with its past, and a fleet that follows it.
#[derive(Default)]
struct World {
    shards: Vec<ShardInfo>,
    children: Vec<Vec<usize>>,
    /// Sequence numbers by shard.
    records: Vec<Vec<u64>>,
    leases: BTreeMap<usize, Checkpoint>,
    processed: BTreeSet<u64>,
    last: u64,
}

impl World {
    fn add(&mut self, parents: &[usize], range: (u128, u128)) -> usize {
        let number = self.shards.len();
        self.shards.push(info(number, parents, range, false));
        self.children.push(Vec::new());
        self.records.push(Vec::new());
        for parent in parents {
            self.shards[*parent].closed = true;
            self.children[*parent].push(number);
        }
        number
    }

    fn open(&self) -> Vec<usize> {
        let mut open: Vec<usize> = (0..self.shards.len()).filter(|shard| !self.shards[*shard].closed).collect();
        open.sort_by_key(|shard| self.shards[*shard].hash_start);
        open
    }

    fn step(&mut self, (what, which): (u8, usize)) {
        let open = self.open();
        let shard = open[which % open.len()];
        let range = (self.shards[shard].hash_start, self.shards[shard].hash_end);
        match what % 8 {
            0 if range.1 - range.0 > 2 => {
                let middle = range.0 + (range.1 - range.0) / 2;
                self.add(&[shard], (range.0, middle));
                self.add(&[shard], (middle + 1, range.1));
            }
            1 => {
                let next = open.iter().copied().find(|other| range.1.checked_add(1) == Some(self.shards[*other].hash_start));
                if let Some(next) = next {
                    let end = self.shards[next].hash_end;
                    self.add(&[shard, next], (range.0, end));
                }
            }
            2 | 3 => {
                self.last += 1;
                self.records[shard].push(self.last);
            }
            _ => self.follow(which),
        }
    }

    /// One step of the fleet: a record, the end of a shard, or the deletion of a finished lease.
    fn follow(&mut self, which: usize) {
        let has_ended = |shard: &usize| self.leases.get(shard).is_none_or(|checkpoint| *checkpoint == Checkpoint::End);
        let parents = |shard: &usize| self.shards[*shard].parents.iter().filter_map(number).collect::<Vec<_>>();
        let ready = |shard: &usize| parents(shard).iter().all(has_ended);
        let leases: Vec<usize> = self.leases.keys().copied().filter(ready).collect();
        let shard = leases[which % leases.len()];
        let begun = |child: &usize| self.leases.get(child).is_some_and(|checkpoint| *checkpoint != Checkpoint::Horizon);
        if self.leases[&shard] == Checkpoint::End {
            let parents_gone = parents(&shard).iter().all(|parent| !self.leases.contains_key(parent));
            if parents_gone && self.children[shard].iter().all(begun) {
                self.leases.remove(&shard);
            }
            return;
        }
        match self.records[shard].iter().find(|record| !self.processed.contains(*record)).copied() {
            Some(record) => {
                self.processed.insert(record);
                self.leases.insert(shard, after(record));
            }
            // The library defers a merge's lease, and with it the parent's end, until the other parent has a lease, too.
            None if self.children[shard]
                .iter()
                .any(|child| !parents(child).iter().all(|other| self.leases.contains_key(other))) => {}
            None if self.shards[shard].closed => {
                for child in &self.children[shard] {
                    self.leases.entry(*child).or_insert(Checkpoint::Horizon);
                }
                self.leases.insert(shard, Checkpoint::End);
            }
            None => {}
        }
    }

    fn leases(&self) -> Vec<KclLease> {
        let lease = |(shard, checkpoint): (&usize, &Checkpoint)| {
            let children = if *checkpoint == Checkpoint::End { self.children[*shard].as_slice() } else { &[] };
            lease_of(&self.shards[*shard], *checkpoint, children)
        };
        self.leases.iter().map(lease).collect()
    }

    /// All shards but the oldest that are finished and deleted: these the stream may have forgotten.
    fn listed(&self, forgotten: usize) -> Vec<ShardInfo> {
        let gone = |shard: &usize| self.shards[*shard].closed && !self.leases.contains_key(shard);
        let begun: Vec<usize> = (0..self.shards.len()).take_while(gone).collect();
        // A shard above every lease was finished; one below was not begun.
        let finished = begun.iter().filter(|shard| self.children[**shard].iter().all(|child| self.has_begun(*child)));
        self.shards[finished.count().min(forgotten)..].to_vec()
    }

    fn has_begun(&self, shard: usize) -> bool {
        self.leases.contains_key(&shard) || self.children[shard].iter().any(|child| self.has_begun(*child))
    }
}

fn number(shard: &ShardId) -> Option<usize> {
    shard.as_str().strip_prefix("shardId-")?.parse().ok()
}

proptest! {
    #[test]
    fn every_record_is_processed_by_the_fleet_or_read_by_us_and_none_by_both(
        first in 1..4u128,
        steps in proptest::collection::vec((any::<u8>(), any::<usize>()), 0..120),
        forgotten in 0..4usize,
    ) {
        let mut world = World::default();
        for part in 0..first {
            let end = if part + 1 == first { u128::MAX } else { u128::MAX / first * (part + 1) - 1 };
            let shard = world.add(&[], (u128::MAX / first * part, end));
            world.leases.insert(shard, Checkpoint::Horizon);
        }
        for step in steps {
            world.step(step);
        }
        let (leases, listed) = (world.leases(), world.listed(forgotten));
        let taken = planned(&leases, &listed).expect("plans");
        let rows: BTreeMap<&ShardId, &ShardRow> = taken.iter().map(|taken| (&taken.row.shard, &taken.row)).collect();
        prop_assert_eq!(rows.len(), listed.len());

        let mut read = BTreeSet::new();
        for row in rows.values().filter(|row| row.state != ShardState::Drained) {
            let records = &world.records[number(&row.shard).expect("a shard")];
            read.extend(records.iter().filter(|record| Position::after(Sequence::dense(**record)) > row.position));
        }
        let unprocessed: BTreeSet<u64> = (1..=world.last).filter(|record| !world.processed.contains(record)).collect();
        prop_assert_eq!(read, unprocessed, "read by us, not processed by the fleet: {:?}", taken);

        let is_drained = |shard: &ShardId| rows.get(shard).is_none_or(|row| row.state == ShardState::Drained);
        for row in rows.values() {
            let free = row.parents.iter().all(is_drained);
            prop_assert_eq!(row.state == ShardState::Blocked, !free && !is_drained(&row.shard), "{:?}", row);
            let known = row.children.iter().all(|child| rows.contains_key(child));
            prop_assert!(known, "a child without a row holds the windows back for ever: {:?}", row);
        }
        // Each hash key has one reader now, or waits for the other parent of a merge, and a drained shard stands for it.
        for key in listed.iter().flat_map(|info| [info.hash_start, info.hash_end]) {
            let covers = |row: &&&ShardRow| (row.hash_start..=row.hash_end).contains(&key);
            let open = rows.values().filter(|row| row.state == ShardState::Open).filter(covers).count();
            let is_blocked = |child: &ShardId| rows[child].state == ShardState::Blocked;
            let standing = rows.values().filter(|row| is_drained(&row.shard) && row.children.iter().any(is_blocked));
            prop_assert!(open == 1 || open == 0 && standing.filter(covers).count() > 0, "{} at {}: {:?}", open, key, rows);
        }
    }
}
