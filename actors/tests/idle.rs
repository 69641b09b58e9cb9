//! A shard is idle only while its stream says so.

use sluicebox_actors::machines::shard::{Peers, Resumed, ShardEffect, ShardEvent, ShardMachine};
use sluicebox_actors::model::position::{Position, Sequence};
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
