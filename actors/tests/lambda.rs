//! Records that are handed over by somebody who repeats himself, as an event source mapping of AWS Lambda does.

use std::sync::{Arc, Mutex};
use std::time::Duration;

#[cfg(debug_assertions)]
use sluicebox_actors::model::sabotage::{self, Sabotage};
use sluicebox_actors::pipeline::{Outcome, PipelineConfig, Places, Ticked, owner_until, tick};
use sluicebox_actors::toolkit::spawn::Place;
use sluicebox_sim::coverage::Coverage;
use sluicebox_sim::plan::Plan;
use sluicebox_sim::sim::{End, Script, Sim, quietly, shard_id};
use sluicebox_sim::swarm::Arena;
use sluicebox_sim::trace::Keep;
use sluicebox_sim::truth::{MINUTE, SECOND, T0};

use crate::threads::for_each_below;

const SEEDS: u64 = 300;

/// What the seeds are for: it must have happened.
const SITUATIONS: [&str; 17] = [
    "a batch is done in part",
    "a batch is halved",
    "a child opens",
    "a file is published by its owner's successor",
    "a late record",
    "a letter for a record that came too late",
    "a shard is let go",
    "a stale commit is refused",
    "a stale lease is refused",
    "a file of a committed epoch is written once more",
    "a tick takes the shards of a worker that is gone",
    "an idle shard's bound moves",
    "files that were staged under a lost lease are deleted",
    "one batch is handed to two at once",
    "takeover beside a process that lives",
    "what was acknowledged is handed over again",
    "window sealed",
];

#[test]
fn hundreds_of_functions_that_are_handed_everything_again_lose_and_double_nothing_and_meet_what_they_are_for() {
    let met = Mutex::new(Coverage::default());
    for_each_below(SEEDS, |seed| {
        let survived = Arena::default().survive_lambda(seed).map_err(|failure| failure.to_string())?;
        met.lock().unwrap().add(&survived.coverage);
        Ok(())
    });
    let met = met.into_inner().unwrap();
    for situation in SITUATIONS {
        assert!(met.marks.contains_key(situation), "it never happens that {situation}:\n{met}");
    }
}

/// A seed that failed once stays here by its number. In both, two processes made a sink known at once; the slower one had looked
/// at how far the shards had come after the faster one had committed, and the letters up to there never came.
#[test]
fn a_sink_that_two_processes_make_known_at_once_misses_no_letter() {
    [9_000_834, 9_003_868].into_iter().for_each(survives);
}

fn survives(seed: u64) {
    let survived = Arena::default().survive_lambda(seed);
    assert!(survived.is_ok(), "{}", survived.unwrap_err());
}

/// The second of two who were overtaken staged an epoch after the shard had ended: nobody who would clear up takes such a shard
/// again.
#[test]
fn whoever_was_overtaken_leaves_nothing_staged_behind() {
    survives(9_003_704);
}

#[test]
fn the_same_function_gives_the_same_trace_to_the_last_operation() {
    for seed in (0..SEEDS).step_by(40) {
        let run = || Arena { keep: Keep::Everything, ..Arena::default() }.survive_lambda(seed).expect("keeps the rules");
        let (first, second) = (run(), run());
        let differs = first.trace.iter().zip(&second.trace).find(|(a, b)| a != b);
        assert_eq!((differs, first.hash), (None, second.hash), "seed {seed}");
    }
}

/// An invocation breaks this rule, in as many random worlds as it takes to be noticed for the right reason.
#[cfg(debug_assertions)]
fn noticed(sabotage: Sabotage, reason: &str) {
    let noticed = (0..100).any(|seed| {
        let _armed = sabotage::arm(sabotage);
        let failed = Arena::default().survive_lambda(seed);
        failed.is_err_and(|failure| failure.broken.iter().any(|rule| rule.contains(reason)))
    });
    assert!(noticed, "{sabotage:?}: a hundred seeds did not notice that {reason}");
}

#[cfg(debug_assertions)]
#[test]
fn an_invocation_that_breaks_a_rule_on_purpose_is_noticed() {
    let reasons = [(Sabotage::CountAgain, "but it is"), (Sabotage::AnswerBeforeCommit, "acknowledged up to")];
    assert_eq!(reasons.map(|(sabotage, _)| sabotage), sabotage::HANDED);
    reasons.into_iter().for_each(|(sabotage, reason)| noticed(sabotage, reason));
}

const FAILOVER: Duration = Duration::from_secs(3);
const NIGHT: Duration = Duration::from_secs(3_600);

/// Two shards of a fleet, a record a minute each.
fn fleet() -> Sim {
    let mut sim = Sim::new(1, 2);
    (sim.failover, sim.config.shard.drain) = (Some(FAILOVER), false);
    for shard in 0..2 {
        (0..30).for_each(|number| sim.event(shard, T0 + number * MINUTE + SECOND, "k", T0 + number * MINUTE, number));
    }
    sim
}

/// A worker that lives like this, and beside it, half a minute after its begin, a tick: what it did, and how long that took.
#[expect(clippy::disallowed_methods, reason = "the simulation's clock is tokio's paused one")]
fn tick_beside(sim: &Sim, worker: Script, time: Duration) -> (Ticked, Duration) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let local = tokio::task::LocalSet::new();
    let done = local.block_on(&runtime, async {
        let (beside, plan) = (sim.clone(), sim.seeded(Plan { seed: 5, latency_ms: 3, patience: NIGHT * 2, ..Plan::default() }));
        let running = tokio::task::spawn_local(async move { beside.process(plan, worker).await });
        tokio::time::sleep(Duration::from_secs(30)).await;
        let (process, parts) = sim.starts(sim.seeded(Plan { seed: 6, latency_ms: 3, ..Plan::default() }));
        let owner = owner_until(process.world_now_us() + 60 * SECOND, "tick");
        let config = Arc::new(PipelineConfig { owner, ..(*parts.config).clone() });
        let parts = sluicebox_actors::pipeline::Parts { config, ..parts };
        let began = tokio::time::Instant::now();
        let ticked = tick(parts, Places(vec![Place::Here]), time).await.unwrap();
        let took = began.elapsed();
        sim.ends(&process, End::Ended(Outcome::default()), Arc::default(), took);
        running.abort();
        (ticked, took)
    });
    drop((local, runtime));
    done
}

fn dies_after(life: Duration) -> Script {
    Box::new(move |hands| {
        Box::pin(async move {
            tokio::time::sleep(life).await;
            hands.process.die();
        })
    })
}

fn owners(sim: &Sim) -> Vec<String> {
    sim.store().rows.values().map(|row| row.owner.clone()).collect()
}

#[test]
fn the_shards_of_a_worker_that_died_are_taken_by_a_tick_after_the_failover_time_and_gold_goes_on() {
    let sim = fleet();
    let (ticked, took) = tick_beside(&sim, dies_after(Duration::from_secs(20)), Duration::from_secs(57));
    let both = vec![shard_id(0), shard_id(1)];
    assert_eq!((&ticked.settled, &ticked.busy, ticked.faults.len(), ticked.out_of_time), (&both, &Vec::new(), 0, false));
    assert!((FAILOVER..FAILOVER * 2).contains(&took), "{took:?}");
    assert_eq!(owners(&sim), ["", ""]);
    // Long after: nothing is waited for any more, quiet shards move on, and what is closed is in Gold.
    sim.store().now_us += 600 * MINUTE;
    let (ticked, _) = tick_beside(&sim, dies_after(Duration::ZERO), Duration::from_secs(57));
    assert_eq!((ticked.settled.len(), ticked.moved, ticked.busy), (0, both, Vec::new()));
    assert_eq!(sim.wrong_but_open_windows(), Vec::<String>::new());
    assert!(!sim.store().gold.is_empty());
}

#[test]
fn the_shards_of_a_worker_that_lives_are_left_to_it_and_its_next_sign_of_life_ends_the_wait() {
    let sim = fleet();
    let (ticked, took) = tick_beside(&sim, quietly(), Duration::from_secs(57));
    assert_eq!((ticked.busy, ticked.settled.len(), ticked.out_of_time), (vec![shard_id(0), shard_id(1)], 0, false));
    assert!(took < FAILOVER, "{took:?}");
    assert!(owners(&sim).iter().all(|owner| owner.starts_with("simulated:")), "{:?}", owners(&sim));
}

#[test]
fn a_tick_that_has_no_time_to_see_a_whole_failover_time_takes_nothing() {
    let sim = fleet();
    let (ticked, took) = tick_beside(&sim, dies_after(Duration::from_secs(20)), FAILOVER);
    assert_eq!((ticked.busy.len(), ticked.settled.len()), (2, 0));
    assert!(took < FAILOVER / 3, "{took:?}");
    let (ticked, _) = tick_beside(&sim, dies_after(Duration::ZERO), FAILOVER + Duration::from_millis(1));
    assert_eq!((ticked.busy.len(), ticked.settled.len(), ticked.out_of_time), (2, 0, true));
}
