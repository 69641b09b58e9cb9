//! Two workers, two shards, a split, three hours, a few epochs: every operation of both goes wrong in every way, once.

use std::time::Duration;

use sluicebox_sim::plan::{Act, Op, Plan};
use sluicebox_sim::sim::{End, Ran, Sim};
use sluicebox_sim::trace::Keep;
use sluicebox_sim::truth::{MINUTE, SECOND, T0, Truth};

use crate::threads::for_each_below;

const ACTS: [Act; 5] = [
    Act::CrashBefore,
    Act::CrashAfter,
    Act::ErrBefore,
    Act::ErrAfter,
    // Longer than anybody waits: meanwhile the other worker has taken everything over.
    Act::Freeze(Duration::from_secs(120)),
];

/// The first worker freezes at this operation for ever so long; that is when the second one starts.
const FREEZES_AT: u64 = 90;

fn world() -> Sim {
    let mut sim = Sim::new(61, 2);
    sim.keep = Keep::Last(12);
    sim.config.shard.commit_size = 30;
    sim.config.fetch.records = 2;
    sim.config.gold.collect_after = 1;
    let put = |shard: usize, minutes: &[i64]| {
        for (value, minute) in minutes.iter().enumerate() {
            sim.event(shard, T0 + minute * MINUTE + SECOND, "key", T0 + minute * MINUTE, value as i64);
        }
    };
    put(0, &[0, 5, 65, 70]);
    put(1, &[2, 62, 122, 3]);
    sim.put(1, T0 + 130 * MINUTE, &[Truth::Bad]);
    sim.reshard(&[0]);
    put(2, &[75, 130]);
    put(3, &[80]);
    sim
}

/// The first worker, which freezes somewhere in any case, and the second; each with a fault of its own.
fn both(sim: &Sim, first: Option<(u64, Act)>, second: Option<(u64, Act)>) -> (Ran, Ran) {
    let mut plan = Plan { seed: 77, ..Plan::at(FREEZES_AT, Act::Freeze(Duration::from_secs(60))) };
    plan.at.extend(first);
    sim.run_beside(plan, Plan { seed: 78, at: second.into_iter().collect(), ..Plan::default() })
}

fn ended_well(who: &str, ran: &Ran, faulty: Option<Act>) -> Result<(), String> {
    let may_die = matches!(faulty, Some(Act::CrashBefore | Act::CrashAfter));
    let good = match &ran.end {
        End::Crashed => may_die,
        End::Ended(outcome) => outcome.is_good(),
        End::Refused(_) | End::Hung => false,
    };
    if good { Ok(()) } else { Err(format!("{who}: {:?} after {:?}\n{}", ran.end, ran.took, ran.trace.join("\n"))) }
}

fn survives(first: Option<(u64, Act)>, second: Option<(u64, Act)>) -> Result<(), String> {
    let sim = world();
    let (one, two) = both(&sim, first, second);
    let at = |text: String| format!("first {first:?}, second {second:?}: {text}");
    ended_well("first", &one, first.map(|(_, act)| act)).map_err(at)?;
    ended_well("second", &two, second.map(|(_, act)| act)).map_err(at)?;
    let early = sim.store().strangers();
    let peace = sim.run(Plan { seed: 79, ..Plan::default() });
    ended_well("in peace", &peace, None).map_err(at)?;
    let wrong: Vec<_> = sim.wrong(&[]).into_iter().chain(early).collect();
    if wrong.is_empty() { Ok(()) } else { Err(at(wrong.join("\n"))) }
}

#[test]
fn every_operation_of_two_workers_goes_wrong_in_every_way_and_nothing_is_lost_or_doubled() {
    let sim = world();
    let (one, two) = both(&sim, None, None);
    ended_well("first", &one, None).unwrap();
    ended_well("second", &two, None).unwrap();
    let wrong = sim.wrong(&[]);
    assert!(wrong.is_empty(), "{wrong:#?}");
    let store = sim.store();
    let epochs: Vec<usize> = store.commits.values().map(Vec::len).collect();
    assert!(epochs.len() == 4 && epochs.iter().sum::<usize>() >= 8, "two shards and their two children: {epochs:?}");
    assert!(store.gold.keys().filter(|(table, _)| table == "hourly").count() == 3, "three hours");
    assert!(store.marks.contains_key("takeover beside a process that lives"), "{:?}", store.marks);
    assert!(one.operations > FREEZES_AT + 20 && two.operations > 150, "{} and {}", one.operations, two.operations);
    assert!(one.counts[&Op::RowUpdate] >= 2 && two.counts[&Op::RowUpdate] >= 4, "both commit");
    drop(store);
    let acts = ACTS.len() as u64;
    for_each_below(one.operations * acts, |n| survives(Some((n / acts, ACTS[(n % acts) as usize])), None));
    for_each_below(two.operations * acts, |n| survives(None, Some((n / acts, ACTS[(n % acts) as usize]))));
}
