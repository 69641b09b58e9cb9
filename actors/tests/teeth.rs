//! Worlds that break a promise: the oracle, or the pipeline itself, must notice each of them.

use std::time::Duration;

#[cfg(debug_assertions)]
use sluicebox_actors::model::sabotage::{self, Sabotage};
#[cfg(debug_assertions)]
use sluicebox_sim::swarm::survive;

use crate::drain::filled;
use sluicebox_sim::plan::{Act, Flaw, Op, Plan};
use sluicebox_sim::sim::{End, Sim};
#[cfg(debug_assertions)]
use sluicebox_sim::sinks::Which;
use sluicebox_sim::truth::{MINUTE, T0, Truth};

fn world() -> Sim {
    let mut sim = filled(31, 2, 60);
    sim.config.gold.collect_after = 2;
    sim
}

fn noticed_by_the_oracle(flaw: Flaw) {
    let sim = world();
    let ran = sim.run(Plan::flawed(flaw));
    assert!(matches!(ran.end, End::Ended(_)), "{flaw:?} is meant to slip through the pipeline: {:?}", ran.end);
    assert!(!sim.wrong(&[]).is_empty(), "{flaw:?} was not noticed");
}

/// The pipeline itself breaks this rule, in as many random worlds as it takes to be noticed for the right reason.
#[cfg(debug_assertions)]
fn noticed_by_the_swarm(sabotage: Sabotage, reason: &str) {
    let noticed = (0..400).any(|seed| {
        let _armed = sabotage::arm(sabotage);
        survive(seed).is_err_and(|failure| failure.broken.iter().any(|rule| rule.contains(reason)))
    });
    assert!(noticed, "{sabotage:?}: 400 seeds did not notice that {reason}");
}

#[cfg(debug_assertions)]
#[test]
fn a_protocol_that_is_broken_on_purpose_is_noticed_whichever_rule_it_is() {
    let reasons = [
        (Sabotage::SkipTheSwap, "without a commit"),
        (Sabotage::PublishBeforeCommit, "without a commit"),
        (Sabotage::DropABarrier, "Hung"),
        (Sabotage::AdvanceByTheClock, "the shard is not idle"),
        (Sabotage::CommitWhenStopped, "is committed without its object"),
        (Sabotage::ReuseTheKey, "was put twice with different bytes"),
        (Sabotage::TellGoldBeforeCommit, "but its vector says"),
        (Sabotage::FeedUnpublished, "handed over while readers see"),
    ];
    let seldom = [Sabotage::ForgetWhatIsShown, Sabotage::AcknowledgeFirst];
    let mut all: Vec<Sabotage> = reasons.iter().map(|(sabotage, _)| *sabotage).chain(seldom).collect();
    all.sort_by_key(|sabotage| sabotage::ALL.iter().position(|known| known == sabotage));
    assert_eq!(all, sabotage::ALL, "each has its test");
    reasons.into_iter().for_each(|(sabotage, reason)| noticed_by_the_swarm(sabotage, reason));
}

/// What the sinks show is wrong after this: a group is handed over, the process dies before it has noted that, and then the group
/// leaves Gold. No seed need meet it; everything of it must.
#[cfg(debug_assertions)]
fn dies_at_the_sink_with_a_group_that_leaves(armed: Option<Sabotage>) -> Vec<String> {
    let _armed = armed.map(sabotage::arm);
    let mut sim = Sim::new(37, 1);
    sim.sinks = Which::Both { holds: None };
    sim.store().having = Some(1);
    let event = |sim: &Sim, value: i64| sim.event(0, T0 + value * MINUTE, "leaves", T0 + MINUTE, value);
    event(&sim, 1);
    let ran = sim.run(Plan::nth(Op::SinkFeed, 0, Act::CrashAfter));
    assert!(matches!(ran.end, End::Crashed), "{:?}", ran.end);
    // By the time that somebody feeds the sink again, the group is gone.
    event(&sim, 2);
    sim.sinks = Which::None;
    sim.drain();
    sim.sinks = Which::Both { holds: None };
    sim.drain();
    sim.wrong(&[])
}

/// What the sinks lack after this: a letter is on its way when the process dies.
#[cfg(debug_assertions)]
fn dies_with_a_letter_on_its_way(armed: Option<Sabotage>) -> Vec<String> {
    let _armed = armed.map(sabotage::arm);
    let mut sim = Sim::new(38, 1);
    sim.sinks = Which::Both { holds: None };
    sim.put(0, T0, &[Truth::Bad]);
    let ran = sim.run(Plan::nth(Op::SinkSend, 0, Act::CrashBefore));
    assert!(matches!(ran.end, End::Crashed), "{:?}", ran.end);
    sim.drain();
    sim.wrong(&[])
}

#[cfg(debug_assertions)]
#[test]
fn a_letter_that_is_noted_as_handed_over_before_it_is_is_noticed() {
    assert_eq!(dies_with_a_letter_on_its_way(None), Vec::<String>::new());
    let wrong = dies_with_a_letter_on_its_way(Some(Sabotage::AcknowledgeFirst));
    assert!(wrong.iter().any(|rule| rule.contains("never came")), "{wrong:?}");
}

#[cfg(debug_assertions)]
#[test]
fn a_sink_that_is_told_before_it_is_noted_what_it_shows_is_noticed() {
    assert_eq!(dies_at_the_sink_with_a_group_that_leaves(None), Vec::<String>::new());
    let wrong = dies_at_the_sink_with_a_group_that_leaves(Some(Sabotage::ForgetWhatIsShown));
    assert!(wrong.iter().any(|rule| rule.contains("which is not in Gold")), "{wrong:?}");
}

#[test]
fn a_world_that_keeps_its_promises_passes() {
    let sim = world();
    sim.drain();
    sim.assert_complete();
}

#[test]
fn wrong_merges_are_noticed() {
    noticed_by_the_oracle(Flaw::MergeDropsAPart);
    noticed_by_the_oracle(Flaw::MergeDoublesAPart);
}

#[test]
fn wrong_files_are_noticed() {
    noticed_by_the_oracle(Flaw::OutputsForgetToPublish);
    noticed_by_the_oracle(Flaw::FilesLoseARow);
    noticed_by_the_oracle(Flaw::LedgerForgets);
}

#[test]
fn gold_that_readers_never_see_again_is_noticed() {
    let sim = world();
    sim.drain();
    sim.event(0, T0 + 12 * 60 * MINUTE, "late", T0 + 3 * 60 * MINUTE, 1);
    assert!(matches!(sim.run(Plan::flawed(Flaw::GoldFilesKeepTheOldest)).end, End::Ended(_)));
    assert!(!sim.wrong(&[]).is_empty());
}

#[test]
fn a_stream_that_skips_a_record_halts_the_shard_as_a_gap() {
    let sim = world();
    let ran = sim.run(Plan::flawed(Flaw::StreamSkipsARecord));
    let End::Ended(outcome) = &ran.end else { panic!("{:?}", ran.end) };
    assert!(!outcome.lost.is_empty());
    assert!(outcome.lost.iter().all(|(_, fault)| fault.message().contains("gap")), "{outcome:?}");
}

#[test]
fn a_stream_that_delivers_a_record_twice_counts_it_once() {
    let sim = world();
    sim.run(Plan::flawed(Flaw::StreamRepeatsARecord)).good();
    sim.assert_complete();
}

#[test]
fn files_that_are_visible_too_early_are_noticed() {
    let sim = world();
    let crash = Plan::nth(Op::RowUpdate, 2, Act::CrashBefore);
    sim.run(Plan { flaw: Some(Flaw::OutputsPublishAtStaging), ..crash });
    assert!(!sim.store().strangers().is_empty());
}

#[test]
fn partials_that_are_handed_out_twice_are_stopped_by_the_ledger_before_anything_is_wrong() {
    let sim = world();
    let ran = sim.run(Plan::flawed(Flaw::CutForgetsNothing)).good();
    for (shard, live) in ran.board.all() {
        assert!(live.last_fault.is_some_and(|fault| fault.contains("ledger (4)")), "{shard}");
    }
    sim.assert_complete();
}

#[test]
fn rows_that_ignore_the_fence_are_noticed() {
    let noticed = (0..120).step_by(3).any(|index| {
        let sim = world();
        let freeze = Plan { flaw: Some(Flaw::RowsIgnoreTheFence), ..Plan::at(index, Act::Freeze(Duration::from_secs(120))) };
        sim.run_beside(Plan { patience: Duration::from_secs(300), ..freeze }, Plan { seed: 5, ..Plan::default() });
        !sim.wrong(&[]).is_empty()
    });
    assert!(noticed);
}
