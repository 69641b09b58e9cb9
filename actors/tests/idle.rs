//! A shard is idle only while its stream says so.

use sluicebox_actors::machines::shard::{Peers, ShardEffect, ShardEvent, ShardMachine};
use sluicebox_actors::model::position::Position;
use sluicebox_actors::model::window::Bound;
use sluicebox_actors::ports::Read;
use sluicebox_sim::sim::config;
use sluicebox_sim::truth::{MINUTE, SECOND, T0};

fn nothing(now_us: i64) -> Read {
    Read { records: Vec::new(), caught_up: true, now_us, ended: None, trimmed_before: None }
}

fn machine() -> ShardMachine {
    let mut config = config().shard;
    config.drain = false;
    ShardMachine::new(config, 0, Position::START, Bound::UNKNOWN, None, None, T0)
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
