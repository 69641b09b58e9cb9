//! The commit machine by itself: what it does not believe, and whom it asks when no answer comes.

use std::collections::BTreeMap;

use sluicebox_actors::machines::commit::{CommitConfig, CommitEffect, CommitEvent, CommitMachine, History, Stager};
use sluicebox_actors::machines::partition::Cut;
use sluicebox_actors::machines::shard::{Opening, Seal};
use sluicebox_actors::model::epoch::{Hash, Held, HeldOutput, OutputClass, PendingOutput};
use sluicebox_actors::model::fault::Kind;
use sluicebox_actors::model::ledger::Counts;
use sluicebox_actors::model::position::{Position, Sequence, ShardId};
use sluicebox_actors::model::row::{ShardRow, ShardState};
use sluicebox_actors::model::window::Bound;
use sluicebox_actors::ports::Cas;
use sluicebox_sim::truth::T0;

/// One epoch as four actors tell of it: three records of ten bytes, two of them rows of Silver, one a letter.
#[derive(Clone)]
struct Parts {
    seal: Seal,
    cut: Cut,
    data: Vec<PendingOutput>,
    letters: Vec<PendingOutput>,
}

fn output(class: OutputClass, rows: u64) -> PendingOutput {
    let name = format!("{class:?}");
    PendingOutput {
        class,
        staged: format!("staging/{name}"),
        path: name,
        len: 1,
        sha256: Hash::of(b"-"),
        rows,
        epoch: 1,
        closed_because: "epoch".to_owned(),
        held: Held::File,
    }
}

fn parts() -> Parts {
    let opening = |epoch, bound| Opening { epoch, bound, processed_at_us: T0 };
    let seal = Seal {
        opened: opening(1, Bound::UNKNOWN),
        from: Position::START,
        to: Position::after(Sequence::dense(3)),
        records: 3,
        bytes: 30,
        next: opening(2, Bound(T0)),
        last_arrival_us: Some(T0),
        fresh_us: None,
        gaps: 0,
        ended: None,
    };
    let rejected = BTreeMap::from([("decode/bad_record".to_owned(), 1)]);
    let counts = Counts { received: 3, bytes: 30, silver: 2, rejected, ..Counts::default() };
    Parts {
        seal,
        cut: Cut { counts, ..Cut::default() },
        data: vec![output(OutputClass::Bronze, 3), output(OutputClass::Silver, 2)],
        letters: vec![output(OutputClass::Dlq, 1)],
    }
}

fn row() -> ShardRow {
    ShardRow { lease_epoch: 1, ..ShardRow::new("events", ShardId::new("s"), (0, u128::MAX), ShardState::Open) }
}

fn machine() -> CommitMachine {
    let config = CommitConfig {
        pipeline: "p".to_owned(),
        fingerprint: "f".to_owned(),
        bronze_on: true,
        handed_after: None,
        partitions: 1,
        tables: Vec::new(),
    };
    CommitMachine::new(config, row(), History::default())
}

/// What follows when all parts of the epoch have come and its files are held.
fn told(machine: &mut CommitMachine, parts: Parts) -> CommitEffect {
    let Parts { seal, cut, data, letters } = parts;
    let held: Vec<HeldOutput> = data.iter().chain(&letters).cloned().map(HeldOutput::from).collect();
    machine.apply(CommitEvent::Cut(1, cut), 7);
    machine.apply(CommitEvent::Staged(1, Stager::Dlq, letters), 7);
    assert!(machine.apply(CommitEvent::Staged(1, Stager::Writer, data), 7).is_empty(), "the shard has not ended the epoch yet");
    let hold = machine.apply(CommitEvent::Sealed(Box::new(seal)), 7);
    assert!(matches!(hold.as_slice(), [CommitEffect::Hold(staged)] if staged.len() == held.len()), "{hold:?}");
    let mut effects = machine.apply(CommitEvent::Held(held), 7);
    assert_eq!(effects.len(), 1, "{effects:?}");
    effects.remove(0)
}

#[test]
fn an_epoch_that_its_actors_count_differently_never_becomes_true() {
    assert!(matches!(told(&mut machine(), parts()), CommitEffect::Put(..)), "as it is, it is whole");
    type Lie = fn(&mut Parts);
    let lies: [(&str, Lie); 8] = [
        ("a record that no partition saw", |parts| parts.seal.records += 1),
        ("a byte that no partition saw", |parts| parts.seal.bytes += 1),
        ("a record that came to nothing", |parts| {
            parts.seal.records += 1;
            parts.cut.counts.received += 1;
            parts.data[0].rows += 1;
        }),
        ("a row that is not in Silver", |parts| parts.data[1].rows -= 1),
        ("a record that is not in Bronze", |parts| parts.data[0].rows -= 1),
        ("a letter that was not written", |parts| parts.letters[0].rows -= 1),
        ("a place that the last epoch did not end at", |parts| parts.seal.from = Position::after(Sequence::dense(1))),
        ("another bound than the row's", |parts| parts.seal.opened.bound = Bound(T0 - 1)),
    ];
    for (what, lie) in lies {
        let (mut machine, mut parts) = (machine(), parts());
        lie(&mut parts);
        let effect = told(&mut machine, parts);
        assert!(matches!(&effect, CommitEffect::Fail(fault) if fault.kind() == Kind::Bug), "{what}: {effect:?}");
        assert!(machine.apply(CommitEvent::Put, 7).is_empty(), "{what}: nothing follows");
    }
}

#[test]
fn an_epoch_whose_files_are_staged_twice_by_one_actor_never_becomes_true() {
    let (mut machine, parts) = (machine(), parts());
    machine.apply(CommitEvent::Staged(1, Stager::Dlq, parts.letters.clone()), 7);
    let effects = machine.apply(CommitEvent::Staged(1, Stager::Dlq, parts.letters), 7);
    assert!(matches!(effects.as_slice(), [CommitEffect::Fail(fault)] if fault.kind() == Kind::Bug), "{effects:?}");
}

/// Up to the first compare-and-set; the row that it would make true.
fn at_the_swap(machine: &mut CommitMachine) -> ShardRow {
    assert!(matches!(told(machine, parts()), CommitEffect::Put(..)));
    let effects = machine.apply(CommitEvent::Put, 7);
    let [CommitEffect::Swap(fence, new)] = effects.as_slice() else { panic!("{effects:?}") };
    assert_eq!(*fence, row().fence());
    (**new).clone()
}

#[test]
fn whether_a_swap_without_an_answer_was_ours_is_for_the_row_to_say() {
    for answer in [None, Some(Cas::Lost)] {
        let ask = |now: fn(&ShardRow) -> ShardRow| {
            let mut machine = machine();
            let new = at_the_swap(&mut machine);
            let asks = machine.apply(CommitEvent::Swapped(answer), 7);
            assert!(matches!(asks.as_slice(), [CommitEffect::Reread]), "{asks:?}");
            machine.apply(CommitEvent::Reread(Some(Box::new(now(&new)))), 7)
        };
        let ours = ask(ShardRow::clone);
        assert!(matches!(ours.as_slice(), [CommitEffect::Publish(..), CommitEffect::Committed(_)]), "{ours:?}");
        let nobodys = ask(|_| row());
        assert!(matches!(nobodys.as_slice(), [CommitEffect::Swap(..)]), "{nobodys:?}");
        let taken = ask(|_| ShardRow { lease_epoch: 2, ..row() });
        assert!(matches!(taken.as_slice(), [CommitEffect::Fail(fault)] if fault.kind() == Kind::Fenced), "{taken:?}");
        // The same lease and epoch number, and not what this machine put: nothing of ours may be shown for it.
        let other = ask(|new| {
            let object = new.object.clone().map(|object| sluicebox_actors::model::epoch::ObjectRef { key: "x".into(), ..object });
            ShardRow { object, ..new.clone() }
        });
        assert!(matches!(other.as_slice(), [CommitEffect::Fail(fault)] if fault.kind() == Kind::Fenced), "{other:?}");
    }
}

#[test]
fn a_row_that_cannot_be_swapped_ends_the_generation_and_not_only_its_patience() {
    let mut machine = machine();
    at_the_swap(&mut machine);
    for swaps in 1..100 {
        machine.apply(CommitEvent::Swapped(None), 7);
        let effects = machine.apply(CommitEvent::Reread(Some(Box::new(row()))), 7);
        match effects.as_slice() {
            [CommitEffect::Swap(..)] => {}
            [CommitEffect::Fail(fault)] => {
                assert_eq!((fault.kind(), swaps), (Kind::Retry, 11));
                return;
            }
            _ => panic!("{effects:?}"),
        }
    }
    panic!("it tries for ever");
}
