//! What goes wrong in a simulated world, and when.
//!
//! Owns: the kinds of operations, the faults, the schedule of both, seeded chance. Does not own: what an operation does (store).

use std::collections::BTreeMap;
use std::time::Duration;

use sluicebox_actors::model::fault::Kind;

/// Every way in which the pipeline touches the world.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Op {
    StreamShards,
    StreamRead,
    RowsShards,
    RowGet,
    RowCreate,
    RowUpdate,
    Windows,
    WindowGet,
    WindowUpdate,
    BlobPut,
    BlobGet,
    BlobList,
    BlobDelete,
    FilesOpen,
    FilesWrite,
    FilesFlush,
    FilesFinish,
    LettersOpen,
    LettersAppend,
    LettersFinish,
    Publish,
    Discard,
    GoldEncode,
    GoldPublish,
    LedgerAppend,
    LedgerLines,
    EnginePartition,
    EngineDecode,
    EngineAdmit,
    EngineAccumulate,
    EngineCut,
    EngineMerge,
    EngineFinish,
}

/// All of them.
pub(crate) const OPS: [Op; 33] = [
    Op::StreamShards,
    Op::StreamRead,
    Op::RowsShards,
    Op::RowGet,
    Op::RowCreate,
    Op::RowUpdate,
    Op::Windows,
    Op::WindowGet,
    Op::WindowUpdate,
    Op::BlobPut,
    Op::BlobGet,
    Op::BlobList,
    Op::BlobDelete,
    Op::FilesOpen,
    Op::FilesWrite,
    Op::FilesFlush,
    Op::FilesFinish,
    Op::LettersOpen,
    Op::LettersAppend,
    Op::LettersFinish,
    Op::Publish,
    Op::Discard,
    Op::GoldEncode,
    Op::GoldPublish,
    Op::LedgerAppend,
    Op::LedgerLines,
    Op::EnginePartition,
    Op::EngineDecode,
    Op::EngineAdmit,
    Op::EngineAccumulate,
    Op::EngineCut,
    Op::EngineMerge,
    Op::EngineFinish,
];

/// What happens to one operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Act {
    /// It works.
    Go,
    /// It fails and has no effect.
    ErrBefore,
    /// It has its effect, and its answer is lost.
    ErrAfter,
    /// It is delivered twice; the second answer comes back.
    Twice,
    /// The process dies; the operation has no effect.
    CrashBefore,
    /// The process dies; the operation has had its effect.
    CrashAfter,
    /// The process dies; the operation arrives later, when the next process runs.
    CrashLate,
    /// It takes this long.
    Stall(Duration),
    /// The whole process stands still for this long, then goes on as if nothing had happened.
    Freeze(Duration),
    /// The caller panics.
    Panic,
    /// It fails for good, with this remedy.
    Fail(Kind),
}

/// Seeded chance (SplitMix64).
#[derive(Clone, Debug)]
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `n`, which is positive.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// True so many times in ten thousand.
    pub(crate) fn chance(&mut self, per_ten_thousand: u64) -> bool {
        self.below(10_000) < per_ten_thousand
    }
}

/// Random faults, each with its rate in ten thousand operations.
#[derive(Clone, Debug, Default)]
pub(crate) struct Swarm {
    pub(crate) before: u64,
    pub(crate) after: u64,
    pub(crate) twice: u64,
    pub(crate) stall: u64,
    pub(crate) panic: u64,
    pub(crate) crash: u64,
    /// Faults end with this operation: from then on everything must come right.
    pub(crate) until: u64,
}

impl Swarm {
    /// Each seed draws which kinds of faults are on, and how strong.
    pub(crate) fn draw(rng: &mut Rng) -> Self {
        let mut rate = |most: u64| if rng.below(2) == 0 { 0 } else { 1 + rng.below(most) };
        let (before, after, twice) = (rate(400), rate(400), rate(200));
        Self { before, after, twice, stall: rate(200), panic: rate(60), crash: rate(60), until: 0 }
    }
}

/// The schedule of one process.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Faults by the operation's number, from 0.
    pub(crate) at: BTreeMap<u64, Act>,
    /// Faults by kind: from its n-th operation of that kind (from 0), so many times.
    pub(crate) nth: Vec<(Op, u64, u64, Act)>,
    /// Random ones.
    pub(crate) swarm: Option<Swarm>,
    /// Longest ordinary latency, milliseconds.
    pub(crate) latency_ms: u64,
    /// Effects left in flight by the last process arrive with this operation.
    pub(crate) late_at: u64,
    /// Distinguishes latencies and names from other processes'.
    pub(crate) seed: u64,
    /// Longest time that the process may take.
    pub(crate) patience: Duration,
    /// The part of the world that breaks its promise.
    pub(crate) flaw: Option<Flaw>,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            at: BTreeMap::new(),
            nth: Vec::new(),
            swarm: None,
            latency_ms: 4,
            late_at: 5,
            seed: 1,
            patience: Duration::from_secs(1_800),
            flaw: None,
        }
    }
}

impl Plan {
    pub(crate) fn at(index: u64, act: Act) -> Self {
        Self { at: BTreeMap::from([(index, act)]), ..Self::default() }
    }

    /// The n-th operation of this kind, from 0.
    pub(crate) fn nth(op: Op, nth: u64, act: Act) -> Self {
        Self { nth: vec![(op, nth, 1, act)], ..Self::default() }
    }

    /// The n-th operation of this kind and those after it, so many in all.
    pub(crate) fn times(op: Op, nth: u64, times: u64, act: Act) -> Self {
        Self { nth: vec![(op, nth, times, act)], ..Self::default() }
    }

    pub(crate) fn and(mut self, op: Op, nth: u64, act: Act) -> Self {
        self.nth.push((op, nth, 1, act));
        self
    }

    pub(crate) fn flawed(flaw: Flaw) -> Self {
        Self { flaw: Some(flaw), ..Self::default() }
    }
}

/// A promise of the world that is broken on purpose, to see that the oracle notices.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Flaw {
    /// The rows take any update of a shard.
    RowsIgnoreTheFence,
    /// Files are visible as soon as they are staged.
    OutputsPublishAtStaging,
    /// Publication is acknowledged and not done.
    OutputsForgetToPublish,
    /// A merge leaves out its last part.
    MergeDropsAPart,
    /// A merge counts its first part twice.
    MergeDoublesAPart,
    /// A cut keeps its states and hands them out again.
    CutForgetsNothing,
    /// A read leaves out a record in the middle.
    StreamSkipsARecord,
    /// A read begins with a record that was read before.
    StreamRepeatsARecord,
    /// A Silver file loses a row but keeps its count.
    FilesLoseARow,
    /// Readers of Gold see the first revision for ever.
    GoldFilesKeepTheOldest,
    /// The ledger forgets every other file.
    LedgerForgets,
}

/// Decides what happens to each operation, and writes it down.
#[derive(Debug)]
pub(crate) struct Planner {
    plan: Plan,
    rng: Rng,
    index: u64,
    counts: BTreeMap<Op, u64>,
    pub(crate) trace: Vec<String>,
}

impl Planner {
    pub(crate) fn new(plan: Plan) -> Self {
        let rng = Rng(plan.seed ^ 0x51_0e_b0_c5);
        Self { plan, rng, index: 0, counts: BTreeMap::new(), trace: Vec::new() }
    }

    /// Number, latency and fate of the next operation.
    pub(crate) fn next(&mut self, op: Op) -> (u64, Duration, Act) {
        let index = self.index;
        self.index += 1;
        let count = self.counts.entry(op).or_default();
        let nth = *count;
        *count += 1;
        let latency = Duration::from_millis(if self.plan.latency_ms == 0 { 0 } else { self.rng.below(self.plan.latency_ms) });
        let planned = self.plan.at.get(&index).copied().or_else(|| {
            let hit = self.plan.nth.iter().find(|(kind, from, times, _)| *kind == op && (*from..*from + *times).contains(&nth));
            hit.map(|(_, _, _, act)| *act)
        });
        let act = planned.unwrap_or_else(|| self.chance(index, op));
        (index, latency, act)
    }

    fn chance(&mut self, index: u64, op: Op) -> Act {
        let Some(swarm) = self.plan.swarm.clone().filter(|swarm| index < swarm.until) else { return Act::Go };
        if self.rng.chance(swarm.before) {
            Act::ErrBefore
        } else if self.rng.chance(swarm.after) {
            Act::ErrAfter
        } else if self.rng.chance(swarm.twice) {
            Act::Twice
        } else if self.rng.chance(swarm.stall) {
            Act::Stall(Duration::from_millis(1 + self.rng.below(20_000)))
        } else if self.rng.chance(swarm.panic) {
            // A panic where `run` itself asks is the end of the process.
            let of_run = matches!(op, Op::StreamShards | Op::RowsShards | Op::RowCreate);
            if of_run { Act::CrashBefore } else { Act::Panic }
        } else if self.rng.chance(swarm.crash) {
            [Act::CrashBefore, Act::CrashAfter, Act::CrashLate][self.rng.below(3) as usize]
        } else {
            Act::Go
        }
    }

    pub(crate) fn operations(&self) -> u64 {
        self.index
    }

    pub(crate) fn counts(&self) -> &BTreeMap<Op, u64> {
        &self.counts
    }

    pub(crate) fn late_at(&self) -> u64 {
        self.plan.late_at
    }
}
