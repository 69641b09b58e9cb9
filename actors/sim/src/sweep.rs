//! The scenario of the exhaustive sweep: two workers, two shards, a split, three hours, a few epochs.
//!
//! Owns: the world, what goes wrong with one operation, what must be true then. Does not own: which operations are swept (tests).

use std::time::Duration;

use crate::plan::{Act, Plan};
use crate::sim::{End, Ran, Sim, Tools};
use crate::sinks::Which;
use crate::trace::Keep;
use crate::truth::{MINUTE, SECOND, T0, Truth};

/// What goes wrong with an operation.
pub const ACTS: [Act; 5] = [
    Act::CrashBefore,
    Act::CrashAfter,
    Act::ErrBefore,
    Act::ErrAfter,
    // Longer than anybody waits: meanwhile the other worker has taken everything over.
    Act::Freeze(Duration::from_secs(120)),
];

/// The first worker freezes at this operation for ever so long; that is when the second one starts.
pub const FREEZES_AT: u64 = 90;

/// Two shards, one of which splits; three hours; a few epochs each.
pub fn world(tools: &Tools) -> Sim {
    let mut sim = Sim::with(tools.clone(), 61, 2);
    sim.keep = Keep::Last(12);
    sim.config.shard.commit_size = 30;
    sim.config.fetch.records = 2;
    sim.config.gold.collect_after = 1;
    // The only group of an hour goes again with its second record.
    sim.sinks = Which::Both { holds: None };
    sim.store().having = Some(1);
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
pub fn both(sim: &Sim, first: Option<(u64, Act)>, second: Option<(u64, Act)>) -> (Ran, Ran) {
    let mut plan = Plan { seed: 77, ..Plan::at(FREEZES_AT, Act::Freeze(Duration::from_secs(60))) };
    plan.at.extend(first);
    sim.run_beside(plan, Plan { seed: 78, at: second.into_iter().collect(), ..Plan::default() })
}

/// What is wrong with how a worker ended.
pub fn ended_well(who: &str, ran: &Ran, faulty: Option<Act>) -> Result<(), String> {
    let may_die = matches!(faulty, Some(Act::CrashBefore | Act::CrashAfter));
    let good = match &ran.end {
        End::Crashed => may_die,
        End::Ended(outcome) => outcome.is_good(),
        End::Refused(_) | End::Hung => false,
    };
    if good { Ok(()) } else { Err(format!("{who}: {:?} after {:?}\n{}", ran.end, ran.took, ran.trace.join("\n"))) }
}

/// The scenario with a fault of the first worker, or of the second, and then a worker in peace.
pub fn survives(tools: &Tools, first: Option<(u64, Act)>, second: Option<(u64, Act)>) -> Result<(), String> {
    let sim = world(tools);
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
