//! A shard is idle only while its stream says so.

use bytes::Bytes;

use sluicebox_actors::machines::breaker::Failures;
use sluicebox_actors::machines::shard::{Peers, Resumed, ShardEffect, ShardEvent, ShardMachine};
use sluicebox_actors::model::position::{Position, Sequence};
use sluicebox_actors::model::record::RawRecord;
use sluicebox_actors::model::window::Bound;
use sluicebox_actors::ports::Read;
use sluicebox_sim::sim::config;
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

#[test]
fn a_shard_whose_records_are_still_being_decoded_does_not_move_its_bound_by_the_clock() {
    let record = RawRecord {
        sequence: Sequence::dense(1),
        sub_sequence: 0,
        foreign: false,
        partition_key: Bytes::from_static(b"key"),
        arrival_us: T0,
        data: Bytes::from_static(b"old"),
    };
    let mut config = config().shard;
    config.drain = false;
    let had_some = Resumed { last_arrival_us: Some(T0), max_event_us: Some(T0 - 10 * MINUTE), ..AT_FIRST };
    let mut machine = ShardMachine::new(config, had_some, T0);
    machine.apply(ShardEvent::Started, T0);
    machine.apply(ShardEvent::Read(Read { records: vec![record], ..nothing(T0) }), T0);
    // The epoch is over, and a partition has not come to its record, which may be of any age.
    others(&mut machine, T0, T0 + 2 * SECOND);
    machine.apply(ShardEvent::Read(nothing(T0 + 2 * SECOND)), T0 + 2 * SECOND);
    machine.apply(ShardEvent::Committed { epoch: 1 }, T0 + 2 * SECOND);
    let effects = others(&mut machine, T0, T0 + 5 * SECOND);
    assert!(!commits_a_bound(&effects), "{effects:?}");
    let old = Some(T0 - 60 * MINUTE);
    let done = ShardEvent::Progress { records: 1, failed: Failures::new(), max_event_us: old };
    let effects = machine.apply(done, T0 + 5 * SECOND);
    assert!(commits_a_bound(&effects), "now it is known how old it was: {effects:?}");
}
