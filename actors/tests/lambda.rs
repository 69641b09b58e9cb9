//! Records that are handed over by somebody who repeats himself, as an event source mapping of AWS Lambda does.

use std::sync::Mutex;

#[cfg(debug_assertions)]
use sluicebox_actors::model::sabotage::{self, Sabotage};
use sluicebox_sim::coverage::Coverage;
use sluicebox_sim::swarm::Arena;
use sluicebox_sim::trace::Keep;

use crate::threads::for_each_below;

const SEEDS: u64 = 300;

/// What the seeds are for: it must have happened.
const SITUATIONS: [&str; 14] = [
    "a batch is done in part",
    "a batch is halved",
    "a child opens",
    "a file is published by its owner's successor",
    "a late record",
    "a letter for a record that came too late",
    "a shard is let go",
    "a stale commit is refused",
    "a stale lease is refused",
    "an idle shard's bound moves",
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
