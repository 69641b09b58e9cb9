//! The protocol broken on purpose, one rule at a time: a simulation that does not notice has no teeth.
//!
//! Compiled in under `debug_assertions` only, like the crash points (toolkit/crash), and armed by tests alone, for the thread
//! that runs the simulated world. A release build holds none of it.
//!
//! Owns: the list, the switch. Does not own: where each rule is broken (the code that keeps it).

/// A rule of the protocol that is not kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sabotage {
    /// An epoch counts as committed without its compare-and-set.
    SkipTheSwap,
    /// Files are published when the epoch object is stored, before the compare-and-set.
    PublishBeforeCommit,
    /// The first partition gets no barrier.
    DropABarrier,
    /// The bound of a shard that is not idle advances by the clock.
    AdvanceByTheClock,
    /// A commit actor that stops commits what it has begun.
    CommitWhenStopped,
    /// Two tries of one epoch store their objects under one key.
    ReuseTheKey,
    /// Gold is told of an epoch before its compare-and-set.
    TellGoldBeforeCommit,
    /// Sinks are handed revisions that readers can't see yet.
    FeedUnpublished,
    /// What a sink may show is not noted before it is handed a revision.
    ForgetWhatIsShown,
    /// Letters are noted as handed over before they are.
    AcknowledgeFirst,
    /// Records that are handed over once more count once more.
    CountAgain,
    /// A batch is acknowledged whatever became of it.
    AnswerBeforeCommit,
}

/// Those that an invocation of a function can break, and no worker that reads for itself.
pub const HANDED: [Sabotage; 2] = [Sabotage::CountAgain, Sabotage::AnswerBeforeCommit];

/// All the others.
pub const ALL: [Sabotage; 10] = [
    Sabotage::SkipTheSwap,
    Sabotage::PublishBeforeCommit,
    Sabotage::DropABarrier,
    Sabotage::AdvanceByTheClock,
    Sabotage::CommitWhenStopped,
    Sabotage::ReuseTheKey,
    Sabotage::TellGoldBeforeCommit,
    Sabotage::FeedUnpublished,
    Sabotage::ForgetWhatIsShown,
    Sabotage::AcknowledgeFirst,
];

#[cfg(debug_assertions)]
mod armed {
    use std::cell::Cell;

    use super::Sabotage;

    thread_local! {
        static ARMED: Cell<Option<Sabotage>> = const { Cell::new(None) };
    }

    /// While it lives, the rule is broken on this thread.
    #[derive(Debug)]
    pub struct Armed(());

    impl Drop for Armed {
        fn drop(&mut self) {
            ARMED.set(None);
        }
    }

    /// Breaks a rule on this thread.
    pub fn arm(sabotage: Sabotage) -> Armed {
        ARMED.set(Some(sabotage));
        Armed(())
    }

    /// Is this rule broken here?
    pub fn is(sabotage: Sabotage) -> bool {
        ARMED.get() == Some(sabotage)
    }
}

#[cfg(debug_assertions)]
pub use armed::{Armed, arm, is};

/// No: this build keeps every rule.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn is(_sabotage: Sabotage) -> bool {
    false
}
