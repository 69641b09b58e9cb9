//! Goal: an event becomes tables exactly once, whatever Lambda hands over again, and only what is committed is acknowledged.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sluicebox_actors::model::fault::{Fault, Kind};
use sluicebox_actors::model::position::Sequence;
use sluicebox_actors::pipeline::Places;
use sluicebox_actors::toolkit::board::{Board, Life};
use sluicebox_actors::toolkit::spawn::Place;
use sluicebox_lambda::event::Role;
use sluicebox_lambda::function::{Function, Invocation, Observer};
use sluicebox_sim::plan::{Act, Op, Plan};
use sluicebox_sim::sim::{End, Sim, shard_id};
use sluicebox_sim::truth::{MINUTE, SECOND, T0};

/// What each invocation's board shows at its end, shard by shard: records that it has committed, and what became of the shard.
#[derive(Default)]
struct Watcher(Mutex<Vec<Vec<(u64, Life)>>>);

#[async_trait]
impl Observer for Watcher {
    async fn settle(&self, board: &Board, _: Duration) {
        let seen = board.all().into_iter().map(|(_, live)| (live.totals.received - live.since.totals.received, live.life));
        self.0.lock().unwrap().push(seen.collect());
    }
}

/// A world that invocations work in, one process each.
struct World {
    sim: Sim,
    watcher: Arc<Watcher>,
    runtime: tokio::runtime::Runtime,
    local: tokio::task::LocalSet,
}

impl World {
    fn new(shards: usize, records: i64) -> Self {
        let mut sim = Sim::new(1, shards);
        sim.config.shard.drain = false;
        for shard in 0..shards {
            for number in 0..records {
                let event_us = T0 + number * MINUTE;
                sim.event(shard, event_us + SECOND, &format!("key-{}", number % 3), event_us, number);
            }
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        Self { sim, watcher: Arc::default(), runtime, local: tokio::task::LocalSet::new() }
    }

    /// These records, by number from 1, as Lambda hands them over.
    fn event(&self, shard: usize, numbers: std::ops::RangeInclusive<u64>) -> Value {
        let (store, shard) = (self.sim.store(), shard_id(shard));
        let item = |number: u64| {
            let raw = &store.streams[&shard].records[number as usize - 1][0].raw;
            json!({
                "kinesis": {
                    "partitionKey": raw.partition_key_str(), "sequenceNumber": raw.sequence.to_string(),
                    "data": STANDARD.encode(&raw.data), "approximateArrivalTimestamp": raw.arrival_us as f64 / 1e6
                },
                "eventSource": "aws:kinesis", "eventID": format!("{shard}:{}", raw.sequence),
                "eventSourceARN": "arn:aws:kinesis:us-east-1:000000000000:stream/events"
            })
        };
        json!({ "Records": numbers.map(item).collect::<Vec<_>>() })
    }

    /// One invocation in a process of its own.
    fn invoke(&self, plan: Plan, role: Option<Role>, event: Value, seconds: i64) -> Result<Value, Fault> {
        let (process, parts) = self.sim.starts(plan);
        let function = Function::new(parts, Places(vec![Place::Here]), role, self.watcher.clone());
        let deadline_us = process.world_now_us() + seconds * SECOND;
        let invocation = Invocation { id: format!("r-{}", process.number), deadline_us };
        let event = serde_json::from_value(event).unwrap();
        let done = self.local.block_on(&self.runtime, function.invoke(event, &invocation));
        self.sim.ends(&process, End::Ended(Default::default()), Default::default(), Duration::ZERO);
        done
    }

    fn good(&self, event: Value) -> Value {
        self.invoke(Plan::default(), None, event, 60).unwrap()
    }

    fn tick(&self) -> Value {
        self.sim.store().now_us += 10 * MINUTE;
        self.good(json!({ "detail-type": "Scheduled Event" }))
    }

    fn at(&self, shard: usize) -> Option<Sequence> {
        self.sim.store().rows[&shard_id(shard)].position.sequence()
    }
}

fn all_done() -> Value {
    json!({ "batchItemFailures": [] })
}

fn failed_from(number: u64) -> Value {
    json!({ "batchItemFailures": [{ "itemIdentifier": number.to_string() }] })
}

#[test]
fn what_is_handed_over_again_whole_or_in_part_counts_once_and_is_acknowledged() {
    let world = World::new(1, 30);
    for numbers in [1..=10, 1..=10, 5..=20, 20..=20, 1..=30] {
        assert_eq!(world.good(world.event(0, numbers)), all_done());
    }
    assert_eq!(world.at(0), Some(Sequence::dense(30)));
    let epochs: Vec<_> = world.sim.store().commits[&shard_id(0)].iter().map(|commit| commit.header.clone()).collect();
    // The epochs that a batch begins with say that nobody knows what lay before it.
    let unproven: Vec<_> = epochs.iter().filter(|header| header.unproven_start).map(|header| header.from.as_dense()).collect();
    assert_eq!(unproven, [Some(0), Some(10), Some(20)]);
    world.tick();
    assert_eq!(world.sim.wrong_but_open_windows(), Vec::<String>::new());
}

#[test]
fn a_tick_moves_a_quiet_shard_on_and_makes_gold_and_the_next_one_finds_the_same() {
    let world = World::new(2, 30);
    for shard in 0..2 {
        assert_eq!(world.good(world.event(shard, 1..=30)), all_done());
    }
    assert!(world.sim.store().gold.is_empty());
    let ticked = world.tick();
    assert_eq!((ticked["moved"].clone(), ticked["gold"].clone()), (json!(["shard-0", "shard-1"]), Value::Null));
    assert_eq!(world.sim.store().gold.len(), 1 + 3, "one hour, three times ten minutes");
    world.tick();
    assert_eq!(world.sim.wrong_but_open_windows(), Vec::<String>::new());
    world.sim.assert_tidy();
}

#[test]
fn a_shard_that_holds_records_is_left_to_its_invocation() {
    let world = World::new(2, 30);
    assert_eq!(world.good(world.event(0, 1..=30)), all_done());
    assert_eq!(world.good(world.event(1, 1..=10)), all_done());
    let before = world.sim.store().rows[&shard_id(1)].clone();
    world.tick();
    assert_eq!(world.sim.store().rows[&shard_id(1)], before);
}

#[test]
fn time_that_runs_out_acknowledges_what_is_committed_and_nothing_more() {
    let world = World::new(1, 30);
    // The second epoch's object takes longer than there is time.
    let plan = Plan::nth(Op::BlobPut, 1, Act::Stall(Duration::from_secs(600)));
    let answer = world.invoke(plan, None, world.event(0, 1..=30), 20).unwrap();
    let first = world.at(0).unwrap().as_dense().unwrap() + 1;
    assert!((2..=30).contains(&first), "{first}");
    assert_eq!(answer, failed_from(first));
    assert_eq!(world.good(world.event(0, first..=30)), all_done());
    world.tick();
    assert_eq!(world.sim.wrong_but_open_windows(), Vec::<String>::new());
}

#[test]
fn a_fault_of_ours_is_an_error_so_that_lambda_halves_the_batch() {
    let world = World::new(1, 4);
    let plan = || Plan::nth(Op::EngineDecode, 0, Act::Panic);
    assert_eq!(world.invoke(plan(), None, world.event(0, 1..=4), 60).unwrap_err().kind(), Kind::Bug);
    assert_eq!(world.invoke(plan(), None, world.event(0, 1..=1), 60).unwrap(), failed_from(1));
    assert_eq!(world.good(world.event(0, 1..=4)), all_done());
}

#[test]
fn a_child_waits_until_its_parent_is_done_and_then_the_parent_ends() {
    let world = World::new(1, 4);
    for child in world.sim.reshard(&[0]) {
        world.sim.event(child, T0 + MINUTE, "k", T0, 1);
    }
    let first = world.invoke(Plan::default(), None, world.event(1, 1..=1), 20).unwrap();
    assert_eq!(first, failed_from(1));
    assert_eq!(world.good(world.event(0, 1..=4)), all_done());
    assert_eq!(world.good(world.event(1, 1..=1)), all_done());
    assert_eq!(world.good(world.event(2, 1..=1)), all_done());
    world.tick();
    assert_eq!(world.sim.wrong_but_open_windows(), Vec::<String>::new());
}

#[test]
fn whoever_watches_sees_what_each_invocation_alone_has_committed_and_which_shard_it_could_not_go_on_with() {
    let world = World::new(1, 30);
    for numbers in [1..=10, 1..=10, 5..=20] {
        assert_eq!(world.good(world.event(0, numbers)), all_done());
    }
    let broken = Plan::nth(Op::EngineDecode, 0, Act::Panic);
    assert_eq!(world.invoke(broken, None, world.event(0, 21..=30), 60).unwrap_err().kind(), Kind::Bug);
    let seen = world.watcher.0.lock().unwrap().clone();
    // Of what was committed before, nothing is taken.
    let expected = [vec![(10, Life::Running)], vec![], vec![(10, Life::Running)], vec![(0, Life::Quarantined)]];
    assert_eq!(seen, expected);
}

#[test]
fn an_event_of_another_stream_or_of_nothing_is_refused_with_what_to_do() {
    let world = World::new(1, 1);
    let mut event = world.event(0, 1..=1);
    event["Records"][0]["eventSourceARN"] = json!("arn:aws:kinesis:us-east-1:000000000000:stream/other");
    let refused = |event, role| world.invoke(Plan::default(), role, event, 60).unwrap_err();
    assert!(refused(event, None).message().contains("stream.name"));
    assert!(refused(json!({}), None).message().contains("--role tick"));
    assert!(world.invoke(Plan::default(), Some(Role::Tick), json!({}), 60).is_ok());
}
