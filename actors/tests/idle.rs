//! A shard is idle only while its stream says so.

use bytes::Bytes;

use sluicebox_actors::machines::breaker::Failures;
use sluicebox_actors::machines::shard::{OnGap, Peers, Resumed, Seal, ShardEffect, ShardEvent, ShardMachine};
use sluicebox_actors::model::position::{Position, Sequence};
use sluicebox_actors::model::record::RawRecord;
use sluicebox_actors::model::window::Bound;
use sluicebox_actors::ports::{Read, Recall};
use sluicebox_sim::plan::{Plan, Rng};
use sluicebox_sim::sim::{Sim, config, shard_id};
use sluicebox_sim::truth::{MINUTE, SECOND, T0};

const AT_FIRST: Resumed = Resumed {
    committed: 0,
    position: Position::START,
    bound: Bound::UNKNOWN,
    last_arrival_us: None,
    max_event_us: None,
    fresh_us: None,
};

fn nothing(now_us: i64) -> Read {
    Read { records: Vec::new(), caught_up: true, now_us, ended: None, trimmed_before: None, behind_us: Some(0), fresh_us: None }
}

fn machine() -> ShardMachine {
    let mut config = config().shard;
    config.drain = false;
    ShardMachine::new(config, AT_FIRST, T0)
}

/// The others have come so far.
fn others(machine: &mut ShardMachine, bound_us: i64, now_us: i64) -> Vec<ShardEffect> {
    let bound = Some(Bound(bound_us));
    machine.apply(ShardEvent::Tick { peers: Peers { active: bound, known: bound }, held: false }, now_us)
}

fn commits_a_bound(effects: &[ShardEffect]) -> bool {
    effects.iter().any(|effect| matches!(effect, ShardEffect::Barrier(_)))
}

#[test]
fn a_shard_whose_stream_says_that_there_is_nothing_follows_the_others() {
    let mut machine = machine();
    machine.apply(ShardEvent::Started, T0);
    machine.apply(ShardEvent::Read(nothing(T0)), T0 + SECOND / 10);
    assert!(machine.is_idle());
    let effects = others(&mut machine, T0 - MINUTE, T0 + 2 * SECOND);
    assert!(commits_a_bound(&effects), "{effects:?}");
}

#[test]
fn a_shard_whose_read_does_not_come_back_is_not_idle_and_follows_nobody() {
    let mut machine = machine();
    machine.apply(ShardEvent::Started, T0);
    machine.apply(ShardEvent::Read(nothing(T0)), T0 + SECOND / 10);
    let asks = others(&mut machine, T0 - 60 * MINUTE, T0 + SECOND);
    assert!(asks.iter().any(|effect| matches!(effect, ShardEffect::Fetch(_))), "{asks:?}");
    machine.apply(ShardEvent::Committed { epoch: 1 }, T0 + SECOND);
    // Throttled for an hour: records may be there, of which nobody knows how old they are.
    let effects = others(&mut machine, T0, T0 + 60 * MINUTE);
    assert!(!machine.is_idle());
    assert!(!commits_a_bound(&effects), "{effects:?}");
    let effects = machine.apply(ShardEvent::Read(nothing(T0 + 61 * MINUTE)), T0 + 61 * MINUTE);
    assert!(machine.is_idle() && commits_a_bound(&effects), "{effects:?}");
}

#[test]
fn a_shard_with_records_that_nobody_has_read_yet_is_not_idle() {
    let mut machine = machine();
    machine.apply(ShardEvent::Started, T0);
    assert!(!machine.is_idle(), "nothing was read yet");
    machine.apply(ShardEvent::Read(Read { caught_up: false, ..nothing(T0) }), T0);
    assert!(!machine.is_idle(), "an empty read that does not say that it has seen all");
}

// A stream that does not say what it has forgotten: whoever starts again has only what was committed to tell silence from loss.
#[test]
fn a_silent_shard_commits_hourly_until_when_it_was_read() {
    let hour = 60 * MINUTE;
    let mut config = config().shard;
    config.drain = false;
    let from = Resumed { committed: 7, position: Position::after(Sequence::dense(9)), fresh_us: Some(T0), ..AT_FIRST };
    let mut machine = ShardMachine::new(config, from, T0);
    machine.apply(ShardEvent::Started, T0);
    let mut quiet = |now_us: i64| machine.apply(ShardEvent::Read(Read { fresh_us: Some(now_us), ..nothing(now_us) }), now_us);
    assert!(!commits_a_bound(&quiet(T0 + hour - 1)), "known well enough");
    let effects = quiet(T0 + hour);
    let seal = effects.iter().find_map(|effect| match effect {
        ShardEffect::Barrier(seal) => Some(seal),
        ShardEffect::Fetch(_)
        | ShardEffect::Dispatch(_)
        | ShardEffect::Quiet
        | ShardEffect::NotQuiet
        | ShardEffect::Finished
        | ShardEffect::Halt(_)
        | ShardEffect::Skipped { .. }
        | ShardEffect::Tripped(_) => None,
    });
    let seal = seal.expect("an epoch");
    assert_eq!((seal.records, seal.from, seal.to, seal.fresh_us), (0, from.position, from.position, Some(T0 + hour)));
    machine.apply(ShardEvent::Committed { epoch: 8 }, T0 + hour);
    let busy = Read { caught_up: false, fresh_us: Some(T0 + 3 * hour), ..nothing(T0 + 3 * hour) };
    let effects = machine.apply(ShardEvent::Read(busy), T0 + 3 * hour);
    assert!(!commits_a_bound(&effects), "not silent: there is more, and its commit will say it");
    let effects = machine.apply(ShardEvent::Stop, T0 + 3 * hour);
    assert!(commits_a_bound(&effects), "whoever stops leaves what it knows");
}

fn barrier(effects: Vec<ShardEffect>) -> Option<Seal> {
    effects.into_iter().find_map(|effect| match effect {
        ShardEffect::Barrier(seal) => Some(*seal),
        ShardEffect::Fetch(_) | ShardEffect::Dispatch(_) | ShardEffect::Quiet | ShardEffect::NotQuiet => None,
        ShardEffect::Finished | ShardEffect::Halt(_) | ShardEffect::Skipped { .. } | ShardEffect::Tripped(_) => None,
    })
}

// There is no last record that could be looked for: only what was committed can tell silence from loss.
#[test]
fn a_shard_that_never_had_a_record_commits_until_when_it_was_read_as_soon_as_it_is_known() {
    let mut machine = machine();
    machine.apply(ShardEvent::Started, T0);
    let quiet = Read { fresh_us: Some(T0), ..nothing(T0) };
    let seal = barrier(machine.apply(ShardEvent::Read(quiet), T0)).expect("an epoch");
    assert_eq!((seal.from, seal.to, seal.fresh_us, seal.gaps), (Position::START, Position::START, Some(T0), 0));
}

#[test]
fn a_gap_before_a_silent_shard_is_counted_once_with_the_evidence_after_which_no_restart_is_told_of_it() {
    let mut config = config().shard;
    (config.drain, config.on_gap) = (false, OnGap::Continue);
    let mut machine = ShardMachine::new(config, AT_FIRST, T0);
    machine.apply(ShardEvent::Started, T0);
    let trimmed_before = Some(Position::START);
    let unclear = Read { trimmed_before, caught_up: false, fresh_us: Some(T0), ..nothing(T0) };
    assert!(!commits_a_bound(&machine.apply(ShardEvent::Read(unclear), T0)), "there may be records");
    let (mut seals, mut told) = (Vec::new(), 0);
    for (second, epoch) in (1..).zip(1..4) {
        let now_us = T0 + second * SECOND;
        let quiet = Read { trimmed_before, fresh_us: Some(now_us), ..nothing(now_us) };
        let effects = machine.apply(ShardEvent::Read(quiet), now_us);
        told += effects.iter().filter(|effect| matches!(effect, ShardEffect::Skipped { .. })).count();
        seals.extend(barrier(effects));
        machine.apply(ShardEvent::Committed { epoch }, now_us);
    }
    assert_eq!(seals.iter().map(|seal| (seal.gaps, seal.fresh_us)).collect::<Vec<_>>(), [(1, Some(T0 + SECOND))]);
    assert_eq!(told, 1, "people hear of it once");
}

#[test]
fn a_shard_that_ended_unread_halts_or_ends_with_one_gap_as_the_settings_say() {
    let lost = || Read { trimmed_before: Some(Position::START), ended: Some(Vec::new()), ..nothing(T0) };
    for on_gap in [OnGap::Halt, OnGap::Continue] {
        let mut config = config().shard;
        config.on_gap = on_gap;
        let mut machine = ShardMachine::new(config, AT_FIRST, T0);
        machine.apply(ShardEvent::Started, T0);
        let effects = machine.apply(ShardEvent::Read(lost()), T0);
        match on_gap {
            OnGap::Halt => {
                let [ShardEffect::Halt(fault)] = effects.as_slice() else { panic!("{effects:?}") };
                assert!(fault.message().starts_with("gap: ") && fault.message().contains("on_gap = \"continue\""), "{fault}");
            }
            OnGap::Continue => {
                let seal = barrier(effects).expect("its last epoch");
                assert_eq!((seal.gaps, seal.ended.is_some()), (1, true));
            }
        }
    }
}

// A child of a shard that was read to its end: nothing of it is committed yet, and its parent's end says from when on it may
// hold records, and before which record none of them arrived.
#[test]
fn a_stream_that_forgets_in_silence_is_told_what_the_parents_of_an_unread_shard_commit() {
    let sim = Sim::new(7, 2);
    sim.store().forgetful = true;
    sim.fill(0, 20, &mut Rng(7));
    for (child, parent) in [(2, 0), (3, 2)] {
        sim.add_shard(child, &[parent]);
    }
    sim.run(Plan::default()).good();
    let (last_us, end) = {
        let store = sim.store();
        let log = &store.streams[&shard_id(0)];
        (log.records.last().expect("a record")[0].raw.arrival_us, log.end())
    };
    let last = end.sequence().expect("a record");
    let told = |index: usize| {
        let store = sim.store();
        let of = store.recalls.iter().filter(|(shard, ..)| *shard == shard_id(index));
        of.map(|(_, after, recall)| (*after, recall.clone())).collect::<Vec<_>>()
    };
    let before = vec![(shard_id(0), last)];
    // Shard 2 has ended without a record: what is known of its parent is known of its child.
    for (shard, begins) in [(2, true), (3, true), (0, false), (1, false)] {
        let expected: Vec<_> =
            begins.then(|| (Position::START, Recall { fresh_us: last_us, before: before.clone() })).into_iter().collect();
        assert_eq!(told(shard), expected, "shard {shard} in the first run: a new pipeline's own shards have nothing to tell");
    }
    sim.store().recalls.clear();
    sim.run(Plan::default()).good();
    let [(Position::START, never)] = &told(1)[..] else { panic!("{:?}", told(1)) };
    assert!(never.fresh_us > T0 && never.before.is_empty(), "the shard that never had a record: {never:?}");
    let [(Position::START, child)] = &told(3)[..] else { panic!("{:?}", told(3)) };
    assert!(child.fresh_us > last_us && child.before == before, "{child:?}");
}

#[test]
fn what_is_shown_as_behind_grows_while_nobody_answers() {
    let mut machine = machine();
    assert_eq!(machine.behind_us(), None);
    machine.apply(ShardEvent::Started, T0);
    machine.apply(ShardEvent::Read(Read { behind_us: Some(5 * SECOND), caught_up: false, ..nothing(T0) }), T0);
    assert_eq!(machine.behind_us(), Some(5 * SECOND), "although it brought no record");
    others(&mut machine, T0, T0 + SECOND);
    others(&mut machine, T0, T0 + 61 * SECOND);
    assert_eq!(machine.behind_us(), Some(65 * SECOND));
}

#[test]
fn a_shard_that_must_wait_for_a_sink_reads_nothing_and_is_not_idle_until_it_has_read_again() {
    let mut machine = machine();
    machine.apply(ShardEvent::Started, T0);
    machine.apply(ShardEvent::Read(nothing(T0)), T0 + SECOND / 10);
    let peers = Peers { active: Some(Bound(T0)), known: Some(Bound(T0)) };
    for minute in 1..60 {
        let effects = machine.apply(ShardEvent::Tick { peers, held: true }, T0 + minute * MINUTE);
        assert!(effects.is_empty() && !machine.is_idle(), "{effects:?}");
    }
    let effects = machine.apply(ShardEvent::Tick { peers, held: false }, T0 + 60 * MINUTE);
    assert!(matches!(effects.as_slice(), [ShardEffect::Fetch(_)]), "{effects:?}");
    assert!(!machine.is_idle(), "what it had read before says nothing");
    let effects = machine.apply(ShardEvent::Read(nothing(T0 + 60 * MINUTE)), T0 + 60 * MINUTE);
    assert!(machine.is_idle() && commits_a_bound(&effects), "{effects:?}");
}

#[test]
fn a_clock_that_is_set_back_makes_no_read_look_answered_that_is_not() {
    let mut machine = machine();
    machine.apply(ShardEvent::Started, T0);
    machine.apply(ShardEvent::Read(nothing(T0)), T0 + SECOND / 10);
    others(&mut machine, T0 - 60 * MINUTE, T0 + SECOND);
    machine.apply(ShardEvent::Committed { epoch: 1 }, T0 + SECOND);
    assert!(machine.is_idle(), "the read is young");
    // An hour back, and then a minute that nobody answers in.
    let back = T0 - 60 * MINUTE;
    others(&mut machine, T0 - 60 * MINUTE, back);
    let effects = others(&mut machine, T0, back + MINUTE);
    assert!(!machine.is_idle() && !commits_a_bound(&effects), "{effects:?}");
}

fn record(data: &'static [u8]) -> RawRecord {
    RawRecord {
        sequence: Sequence::dense(1),
        sub_sequence: 0,
        foreign: false,
        partition_key: Bytes::from_static(b"key"),
        arrival_us: T0,
        data: Bytes::from_static(data),
    }
}

#[test]
fn what_is_said_late_of_an_epoch_that_has_ended_is_not_held_against_the_next() {
    let mut config = config().shard;
    (config.group_memory, config.drain) = (1_000, false);
    let mut machine = ShardMachine::new(config, AT_FIRST, T0);
    machine.apply(ShardEvent::Started, T0);
    machine.apply(ShardEvent::Read(Read { records: vec![record(b"one")], ..nothing(T0) }), T0);
    let mut said = |epoch, grown| {
        let progress = ShardEvent::Progress { epoch, records: 1, failed: Failures::new(), max_event_us: None, grown };
        machine.apply(progress, T0);
        (machine.opening().epoch, machine.groups())
    };
    assert_eq!(said(1, 999), (1, 999));
    assert_eq!(said(1, 1), (2, 0), "the epoch is as large as it may be");
    assert_eq!(said(1, 5_000), (2, 0));
    assert_eq!(said(2, 700), (2, 700));
}

#[test]
fn a_shard_whose_records_are_still_being_decoded_does_not_move_its_bound_by_the_clock() {
    let mut config = config().shard;
    config.drain = false;
    let had_some = Resumed { last_arrival_us: Some(T0), max_event_us: Some(T0 - 10 * MINUTE), ..AT_FIRST };
    let mut machine = ShardMachine::new(config, had_some, T0);
    machine.apply(ShardEvent::Started, T0);
    machine.apply(ShardEvent::Read(Read { records: vec![record(b"old")], ..nothing(T0) }), T0);
    // The epoch is over, and a partition has not come to its record, which may be of any age.
    others(&mut machine, T0, T0 + 2 * SECOND);
    machine.apply(ShardEvent::Read(nothing(T0 + 2 * SECOND)), T0 + 2 * SECOND);
    machine.apply(ShardEvent::Committed { epoch: 1 }, T0 + 2 * SECOND);
    let effects = others(&mut machine, T0, T0 + 5 * SECOND);
    assert!(!commits_a_bound(&effects), "{effects:?}");
    let old = Some(T0 - 60 * MINUTE);
    let done = ShardEvent::Progress { epoch: 1, records: 1, failed: Failures::new(), max_event_us: old, grown: 0 };
    let effects = machine.apply(done, T0 + 5 * SECOND);
    assert!(commits_a_bound(&effects), "now it is known how old it was: {effects:?}");
}
