//! What goes wrong in a simulated world, and when.
//!
//! Owns: the kinds of operations, the faults, the schedule of both, seeded chance. Does not own: what an operation does (store).

use std::collections::BTreeMap;
use std::time::Duration;

use sluicebox_actors::model::fault::Kind;

/// Every way in which the pipeline touches the world.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Op {
    StreamShards,
    StreamRead,
    RowsShards,
    RowGet,
    RowCreate,
    /// The compare-and-set that takes a lease.
    RowLease,
    /// The compare-and-set that commits.
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
    /// The ledger is files that are listed, read and put one by one: two who append meet in between.
    LedgerList,
    LedgerGet,
    LedgerPut,
    EnginePartition,
    EngineDecode,
    EngineAdmit,
    EngineAccumulate,
    EngineCut,
    EngineMerge,
    EngineFinish,
    FeedRows,
    FeedGet,
    FeedUpdate,
    GoldDecode,
    LettersRead,
    SinkFeed,
    SinkSend,
    /// A life sign for a shard.
    LeaseBeat,
    LeaseWant,
    LeaseGet,
    LeaseUpdate,
    /// Staged files go to where a successor finds them: only where workers share no disk.
    Hold,
}

/// All of them.
pub const OPS: [Op; 47] = [
    Op::StreamShards,
    Op::StreamRead,
    Op::RowsShards,
    Op::RowGet,
    Op::RowCreate,
    Op::RowLease,
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
    Op::LedgerList,
    Op::LedgerGet,
    Op::LedgerPut,
    Op::EnginePartition,
    Op::EngineDecode,
    Op::EngineAdmit,
    Op::EngineAccumulate,
    Op::EngineCut,
    Op::EngineMerge,
    Op::EngineFinish,
    Op::FeedRows,
    Op::FeedGet,
    Op::FeedUpdate,
    Op::GoldDecode,
    Op::LettersRead,
    Op::SinkFeed,
    Op::SinkSend,
    Op::LeaseBeat,
    Op::LeaseWant,
    Op::LeaseGet,
    Op::LeaseUpdate,
    Op::Hold,
];

/// Of a process that shares nothing.
pub const ALONE: usize = 42;

/// Of one that shares shards, and no disk with whom it shares them.
pub const FLEET: usize = 46;

/// Those that decide or undo something, and occur seldom: half of the swarm looks at these.
const DECISIVE: [Op; 8] =
    [Op::RowLease, Op::RowUpdate, Op::WindowUpdate, Op::BlobPut, Op::BlobDelete, Op::Publish, Op::GoldPublish, Op::LedgerPut];

fn one_of(ops: &[Op], rng: &mut Rng) -> Op {
    ops[rng.below(ops.len() as u64) as usize]
}

/// What happens to one operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Act {
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

impl Act {
    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Go => "go",
            Self::ErrBefore => "error before",
            Self::ErrAfter => "answer lost",
            Self::Twice => "twice",
            Self::CrashBefore => "crash before",
            Self::CrashAfter => "crash after",
            Self::CrashLate => "arrives after crash",
            Self::Stall(_) => "stall",
            Self::Freeze(_) => "freeze",
            Self::Panic => "panic",
            Self::Fail(_) => "fails for good",
        }
    }
}

/// Seeded chance (SplitMix64).
#[derive(Clone, Debug)]
pub struct Rng(pub u64);

impl Rng {
    /// The next 64 bits.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `n`, which is positive.
    pub fn below(&mut self, n: u64) -> u64 {
        self.draw() % n
    }

    /// True so many times in ten thousand.
    pub fn chance(&mut self, per_ten_thousand: u64) -> bool {
        self.below(10_000) < per_ten_thousand
    }
}

/// Random faults, each with its rate in ten thousand operations.
#[derive(Clone, Debug, Default)]
pub struct Swarm {
    pub before: u64,
    pub after: u64,
    pub twice: u64,
    pub stall: u64,
    pub panic: u64,
    pub crash: u64,
    /// The whole process stands still, for longer than anybody waits for it.
    pub freeze: u64,
    /// Stalls and freezes take so long at most.
    pub longest_ms: u64,
    /// No crash before this operation: or few processes would come far.
    pub crash_from: u64,
    /// This kind of operation fails ten times as often as the others.
    pub focus: Option<Op>,
    /// Faults end with this operation: from then on everything must come right.
    pub until: u64,
}

impl Swarm {
    /// Each seed draws which kinds of faults are on, and how strong. `size` is about the number of operations of a process.
    pub fn draw(rng: &mut Rng, size: u64) -> Self {
        let mut rate = |most: u64| if rng.below(2) == 0 { 0 } else { 1 + rng.below(most) };
        let (before, after, twice) = (rate(400), rate(400), rate(200));
        let (stall, panic) = (rate(100), rate(80));
        // Most processes die, and somewhere else each time.
        let crash = if rng.below(4) == 0 { 0 } else { 1 + rng.below(30_000 / size.max(1)) };
        let focus = Some(if rng.below(2) == 0 { one_of(&OPS[..ALONE], rng) } else { one_of(&DECISIVE, rng) });
        let (crash_from, until) = (rng.below(size / 2 + 1), size / 4 + rng.below(size));
        Self { before, after, twice, stall, panic, crash, freeze: 0, longest_ms: 20_000, crash_from, focus, until }
    }
}

/// The schedule of one process.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Faults by the operation's number, from 0.
    pub at: BTreeMap<u64, Act>,
    /// Faults by kind: from its n-th operation of that kind (from 0), so many times.
    pub nth: Vec<(Op, u64, u64, Act)>,
    /// Random ones.
    pub swarm: Option<Swarm>,
    /// Longest ordinary latency, milliseconds.
    pub latency_ms: u64,
    /// Effects left in flight by the last process arrive with this operation.
    pub late_at: u64,
    /// With this operation the clock of the process is set this far from that of the world, microseconds.
    pub clock_step: Option<(u64, i64)>,
    /// Distinguishes latencies and names from other processes'.
    pub seed: u64,
    /// Longest time that the process may take.
    pub patience: Duration,
    /// The part of the world that breaks its promise.
    pub flaw: Option<Flaw>,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            at: BTreeMap::new(),
            nth: Vec::new(),
            swarm: None,
            latency_ms: 4,
            late_at: 5,
            clock_step: None,
            seed: 1,
            patience: Duration::from_secs(1_800),
            flaw: None,
        }
    }
}

impl Plan {
    pub fn at(index: u64, act: Act) -> Self {
        Self { at: BTreeMap::from([(index, act)]), ..Self::default() }
    }

    /// The n-th operation of this kind, from 0.
    pub fn nth(op: Op, nth: u64, act: Act) -> Self {
        Self { nth: vec![(op, nth, 1, act)], ..Self::default() }
    }

    /// The n-th operation of this kind and those after it, so many in all.
    pub fn times(op: Op, nth: u64, times: u64, act: Act) -> Self {
        Self { nth: vec![(op, nth, times, act)], ..Self::default() }
    }

    pub fn flawed(flaw: Flaw) -> Self {
        Self { flaw: Some(flaw), ..Self::default() }
    }
}

/// A promise of the world that is broken on purpose, to see that the oracle notices.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flaw {
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
pub struct Planner {
    plan: Plan,
    rng: Rng,
    index: u64,
    counts: [u64; OPS.len()],
    met: BTreeMap<(Op, &'static str), u64>,
}

impl Planner {
    pub fn new(plan: Plan) -> Self {
        let rng = Rng(plan.seed ^ 0x51_0e_b0_c5);
        Self { plan, rng, index: 0, counts: [0; OPS.len()], met: BTreeMap::new() }
    }

    /// Number, latency and fate of the next operation.
    pub fn next(&mut self, op: Op) -> (u64, Duration, Act) {
        let index = self.index;
        self.index += 1;
        let count = &mut self.counts[op as usize];
        let nth = *count;
        *count += 1;
        let latency = Duration::from_millis(if self.plan.latency_ms == 0 { 0 } else { self.rng.below(self.plan.latency_ms) });
        let planned = self.plan.at.get(&index).copied().or_else(|| {
            let hit = self.plan.nth.iter().find(|(kind, from, times, _)| *kind == op && (*from..*from + *times).contains(&nth));
            hit.map(|(_, _, _, act)| *act)
        });
        let act = planned.unwrap_or_else(|| self.chance(index, op));
        if act != Act::Go {
            *self.met.entry((op, act.name())).or_default() += 1;
        }
        (index, latency, act)
    }

    fn chance(&mut self, index: u64, op: Op) -> Act {
        let Some(swarm) = self.plan.swarm.as_ref().filter(|swarm| index < swarm.until) else { return Act::Go };
        let often = if swarm.focus == Some(op) { 10 } else { 1 };
        if self.rng.chance(often * swarm.before) {
            Act::ErrBefore
        } else if self.rng.chance(often * swarm.after) {
            Act::ErrAfter
        } else if self.rng.chance(often * swarm.twice) {
            Act::Twice
        } else if self.rng.chance(swarm.stall) {
            Act::Stall(Duration::from_millis(1 + self.rng.below(swarm.longest_ms)))
        } else if self.rng.chance(swarm.freeze) {
            Act::Freeze(Duration::from_millis(1 + self.rng.below(2 * swarm.longest_ms)))
        } else if self.rng.chance(often * swarm.panic) {
            // A panic where `run` itself asks is the end of the process.
            let of_run = matches!(op, Op::StreamShards | Op::RowsShards | Op::RowCreate | Op::LeaseWant);
            if of_run { Act::CrashBefore } else { Act::Panic }
        } else if index >= swarm.crash_from && self.rng.chance(often * swarm.crash) {
            [Act::CrashBefore, Act::CrashAfter, Act::CrashLate][self.rng.below(3) as usize]
        } else {
            Act::Go
        }
    }

    pub fn operations(&self) -> u64 {
        self.index
    }

    /// How often each kind of operation occurred.
    pub fn counts(&self) -> BTreeMap<Op, u64> {
        OPS.into_iter().zip(self.counts).filter(|(_, count)| *count > 0).collect()
    }

    /// How often each fault met each kind of operation.
    pub fn met(&self) -> &BTreeMap<(Op, &'static str), u64> {
        &self.met
    }

    pub fn clock_step(&self, index: u64) -> Option<i64> {
        self.plan.clock_step.filter(|(at, _)| *at == index).map(|(_, step)| step)
    }

    pub fn late_at(&self) -> u64 {
        self.plan.late_at
    }
}
