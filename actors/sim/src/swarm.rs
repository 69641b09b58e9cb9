//! Random worlds with random faults: one seed is one world and everything that happens to it.
//!
//! First chaos: some processes, one after the other or two at a time, each with the fault classes and rates that the seed draws,
//! while records come and shards split and merge. Then peace: one process without a fault, which must end, and then every rule
//! must hold for every record that ever came in.
//!
//! Owns: drawing worlds and faults, the order of processes, what a failure tells. Does not own: the rules (store, oracle).

use std::fmt;
use std::time::Duration;

use sluicebox_actors::model::fault::{Fault, Kind};
use sluicebox_actors::pipeline::Outcome;

use crate::coverage::Coverage;
use crate::engine::GROUP_BYTES;
use crate::plan::{Plan, Rng, Swarm};
use crate::sim::{End, Ran, Script, Sim, Tools, quietly};
use crate::sinks::Which;
use crate::trace::Keep;
use crate::truth::{MINUTE, SECOND};

/// Lines of operations that a failure tells.
const TOLD: usize = 40;

/// A seed whose world broke a rule.
#[derive(Clone, Debug)]
pub struct Failure {
    pub seed: u64,
    /// What the seed drew, process by process.
    pub drawn: Vec<String>,
    /// Operations before the end.
    pub last: Vec<String>,
    /// What is wrong.
    pub broken: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}: {} rules broken", self.seed, self.broken.len())?;
        self.drawn.iter().try_for_each(|line| writeln!(f, "  drawn: {line}"))?;
        self.last.iter().try_for_each(|line| writeln!(f, "  {line}"))?;
        self.broken.iter().take(12).try_for_each(|line| writeln!(f, "  broken: {line}"))
    }
}

/// A seed that kept every rule.
#[derive(Clone, Debug, Default)]
pub struct Survived {
    pub coverage: Coverage,
    /// Of every operation of every process.
    pub hash: u64,
    /// The operations, as far as they were kept.
    pub trace: Vec<String>,
}

/// How seeds are run.
#[derive(Clone)]
pub struct Arena {
    pub tools: Tools,
    pub keep: Keep,
}

impl Default for Arena {
    fn default() -> Self {
        Self { tools: Tools::default(), keep: Keep::Last(TOLD) }
    }
}

impl Arena {
    /// Failures tell so many of the last operations.
    pub fn telling(lines: usize) -> Self {
        Self { keep: Keep::Last(lines), ..Self::default() }
    }
}

/// The world of a seed, in chaos and then in peace.
pub fn survive(seed: u64) -> Result<Coverage, Box<Failure>> {
    Arena::default().survive(seed).map(|survived| survived.coverage)
}

impl Arena {
    /// The world of a seed, in chaos and then in peace.
    pub fn survive(&self, seed: u64) -> Result<Survived, Box<Failure>> {
        let mut life = Life::draw(self, seed, &mut Rng(seed));
        for _ in 0..1 + life.rng.below(life.size.processes()) {
            if life.rng.below(3) == 0 {
                life.two_workers()?
            } else {
                life.one_worker()?
            }
            life.more();
        }
        life.peace()?;
        Ok(life.survived)
    }
}

/// Most worlds are tiny: what goes wrong there goes wrong soon, and is easy to read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Size {
    Tiny,
    Middle,
    Large,
}

impl Size {
    fn draw(rng: &mut Rng) -> Self {
        match rng.below(100) {
            0..90 => Self::Tiny,
            90..98 => Self::Middle,
            _ => Self::Large,
        }
    }

    pub(crate) fn of<T>(self, tiny: T, middle: T, large: T) -> T {
        match self {
            Self::Tiny => tiny,
            Self::Middle => middle,
            Self::Large => large,
        }
    }

    fn processes(self) -> u64 {
        self.of(3, 4, 6)
    }

    /// Longest time that anything takes, milliseconds: every virtual second costs real time.
    fn longest_ms(self) -> u64 {
        self.of(6_000, 15_000, 30_000)
    }

    /// About so many operations has a process.
    fn operations(self) -> u64 {
        self.of(120, 400, 800)
    }
}

fn world(tools: Tools, seed: u64, size: Size, rng: &mut Rng) -> Sim {
    let shards = 1 + rng.below(size.of(2, 3, 4)) as usize;
    let most = size.of(8, 30, 60);
    let mut sim = Sim::with(tools, seed, shards);
    for shard in 0..shards {
        let records = rng.below(most + 1);
        sim.fill(shard, records, rng);
    }
    if rng.below(3) == 0 {
        reshard(&sim, most / 2, rng);
        if rng.below(2) == 0 {
            reshard(&sim, most / 2, rng);
        }
    }
    sim.config.parallelism = if rng.below(3) == 0 { 1 + rng.below(3) as usize } else { 1 };
    sim.config.shard.commit_size = size.of(20, 100, 100) + rng.below(size.of(150, 1_000, 2_000));
    sim.config.fetch.records = 1 + rng.below(12) as usize;
    sim.config.in_flight = (64 << 10) << rng.below(5);
    sim.config.fetch.bytes = (64 << 10) << rng.below(3);
    // By a chance of its own: worlds of earlier seeds stay what they were.
    let groups = Rng(seed ^ 0x0062_00B5).below(24) as usize;
    if groups < 8 {
        sim.config.shard.group_memory = ((1 + groups) * GROUP_BYTES) as u64;
    }
    sim.config.gold.collect_after = 1 + rng.below(size.of(2, 6, 8)) as usize;
    sim
}

fn settings(sim: &Sim) -> String {
    let (shards, config) = (sim.store().streams.len(), &sim.config);
    format!(
        "{shards} shards, parallelism {}, commit.size {}, group_memory {}, fetch {:?}, in_flight {}, collect_after {}, {:?}, \
         having {:?}",
        config.parallelism,
        config.shard.commit_size,
        config.shard.group_memory,
        config.fetch,
        config.in_flight,
        config.gold.collect_after,
        sim.sinks,
        sim.store().having
    )
}

/// One of the open shards is split, or two are merged; records for whatever came out of it.
pub(crate) fn reshard(sim: &Sim, most: u64, rng: &mut Rng) {
    let open = sim.open_shards();
    let first = open[rng.below(open.len() as u64) as usize];
    let second = open.iter().copied().find(|other| *other != first).filter(|_| rng.below(3) == 0);
    let parents: Vec<usize> = [first].into_iter().chain(second).collect();
    for child in sim.reshard(&parents) {
        let records = rng.below(most + 1);
        sim.fill(child, records, rng);
    }
}

impl Sim {
    /// Half of the worlds have sinks, and in most of these groups vanish. By a chance of their own: the other worlds of a seed
    /// stay what they were.
    fn draw_sinks(&mut self) {
        let mut rng = Rng(self.seed ^ 0x51_4b_5e_ed);
        if rng.below(2) == 0 {
            return;
        }
        let holds = (rng.below(3) == 0).then(|| rng.below(6));
        self.sinks = Which::Both { holds };
        self.store().having = (rng.below(4) > 0).then(|| 1 + rng.below(3));
    }
}

trait ButForSinks {
    fn is_good_but_for_sinks(&self) -> bool;
}

impl ButForSinks for Outcome {
    /// A sink that failed too often when a run ended gets the rest from the next one.
    fn is_good_but_for_sinks(&self) -> bool {
        let waits = |(_, fault): &(String, Fault)| fault.kind() == Kind::Retry;
        self.lost.is_empty() && self.gold.is_none() && self.sinks.iter().all(waits)
    }
}

/// A world on its way from chaos to peace.
pub(crate) struct Life {
    pub(crate) sim: Sim,
    rng: Rng,
    pub(crate) size: Size,
    serves: bool,
    /// Files that were committed and are not visible may be lost.
    losses: Option<Rng>,
    pub(crate) drawn: Vec<String>,
    pub(crate) survived: Survived,
    last: Vec<String>,
}

impl Life {
    pub(crate) fn draw(arena: &Arena, seed: u64, rng: &mut Rng) -> Self {
        let size = Size::draw(rng);
        let mut sim = world(arena.tools.clone(), seed, size, rng);
        sim.keep = arena.keep;
        let serves = rng.below(4) == 0;
        sim.draw_sinks();
        // By a chance of their own, as sinks.
        let mut chance = Rng(seed ^ 0x10_57_f1_1e);
        let losses = (chance.below(4) == 0).then_some(chance);
        let drawn = vec![format!("{size:?}, serves {serves}, loses files {}, {}", losses.is_some(), settings(&sim))];
        Life { sim, rng: rng.clone(), size, serves, losses, drawn, survived: Survived::default(), last: Vec::new() }
    }

    /// A plan of random faults.
    pub(crate) fn chaos(&mut self, freezes: bool) -> Plan {
        let rng = &mut self.rng;
        let mut swarm = Swarm::draw(rng, self.size.operations());
        if freezes {
            swarm.freeze = 20 + rng.below(200);
        }
        swarm.longest_ms = self.size.longest_ms();
        let (latency_ms, late_at) = (1 + rng.below(60), rng.below(60));
        let hours = [-1, 1][rng.below(2) as usize];
        let clock_step = (rng.below(8) == 0).then(|| (rng.below(self.size.operations()), hours * 60 * MINUTE));
        let plan = Plan { seed: rng.draw(), swarm: Some(swarm), latency_ms, late_at, clock_step, ..Plan::default() };
        let times = format!("latency {latency_ms} ms, late effects arrive at {late_at}, clock step {clock_step:?}");
        self.drawn.push(format!("{:?}, {times}", plan.swarm));
        plan
    }

    /// What happens beside a process: it is stopped at some time, shards split while it runs, or nothing.
    pub(crate) fn beside(&mut self, must_stop: bool) -> Script {
        self.sim.config.shard.drain = !self.serves;
        let stop = (self.serves || must_stop).then(|| Duration::from_millis(100 + self.rng.below(self.size.longest_ms())));
        let split = (self.rng.below(4) == 0).then(|| Duration::from_millis(self.rng.below(3_000)));
        let longest_ms = self.size.longest_ms();
        let losing = self.losses.as_mut().map(|rng| (Duration::from_millis(rng.below(longest_ms)), Rng(rng.draw())));
        if stop.is_none() && split.is_none() && losing.is_none() {
            return quietly();
        }
        let after = losing.as_ref().map(|(after, _)| *after);
        self.drawn.push(format!("stopped after {stop:?}, resharded after {split:?}, a file is lost after {after:?}"));
        let (sim, mut rng, most) = (self.sim.clone(), Rng(self.rng.draw()), self.size.of(4, 10, 20));
        Box::new(move |hands| {
            Box::pin(async move {
                let world = sim.clone();
                let lose = async move {
                    if let Some((after, mut rng)) = losing {
                        tokio::time::sleep(after).await;
                        // The next file that is committed and not visible, if one is for long enough to be met.
                        while !world.store().expire(|| rng.below(2) == 0) {
                            tokio::time::sleep(Duration::from_millis(7)).await;
                        }
                    }
                };
                let lose = tokio::task::spawn_local(lose);
                if let Some(after) = split {
                    tokio::time::sleep(after).await;
                    reshard(&sim, most, &mut rng);
                }
                if let Some(after) = stop {
                    tokio::time::sleep(after).await;
                    hands.stop.send_replace(true);
                }
                std::future::pending::<()>().await;
                drop((hands, lose));
            })
        })
    }

    fn one_worker(&mut self) -> Result<(), Box<Failure>> {
        let freezes = self.rng.below(4) == 0;
        let (plan, script) = (self.chaos(freezes), self.beside(false));
        let ran = self.sim.run_with(plan, script);
        self.took_part("one worker", ran)
    }

    /// The second starts while the first is frozen, or just slow; the first comes back and is stopped some time after that.
    fn two_workers(&mut self) -> Result<(), Box<Failure>> {
        let first = (self.chaos(true), self.beside(true));
        let freezes = self.rng.below(3) == 0;
        let second = (self.chaos(freezes), self.beside(self.serves));
        let at_most = Duration::from_millis(self.rng.below(5_000));
        let (first, second) = self.sim.run_both(first, second, at_most);
        self.took_part("first of two", first)?;
        self.took_part("second of two", second)
    }

    /// A process of the chaos may die, and it may be stopped; whatever else it does it does well.
    pub(crate) fn took_part(&mut self, who: &str, ran: Ran) -> Result<(), Box<Failure>> {
        let good = match &ran.end {
            End::Crashed => true,
            End::Ended(outcome) => outcome.is_good_but_for_sinks(),
            End::Refused(_) | End::Hung => false,
        };
        let end = (!good).then(|| format!("{who} ended as {:?} after {:?}", ran.end, ran.took));
        self.note(ran);
        let mut broken = std::mem::take(&mut self.sim.store().violations);
        broken.extend(end);
        if let Some(rng) = &mut self.losses {
            self.sim.store().expire(|| rng.below(2) == 0);
        }
        self.judge(broken)
    }

    /// Many processes of the chaos, and what was seen to be wrong while they lived.
    pub(crate) fn took_part_all(&mut self, ran: Vec<(String, Ran)>, wrong: Vec<String>) -> Result<(), Box<Failure>> {
        for (who, ran) in ran {
            self.took_part(&who, ran)?;
        }
        self.judge(wrong)
    }

    fn note(&mut self, ran: Ran) {
        let survived = &mut self.survived;
        survived.coverage.add_process(&ran);
        survived.hash = survived.hash.rotate_left(5) ^ ran.hash;
        if self.sim.keep == Keep::Everything {
            survived.trace.extend(ran.trace);
        } else {
            self.last = ran.trace;
        }
    }

    fn judge(&mut self, broken: Vec<String>) -> Result<(), Box<Failure>> {
        if broken.is_empty() {
            return Ok(());
        }
        let mut last = std::mem::take(if self.last.is_empty() { &mut self.survived.trace } else { &mut self.last });
        let told = if let Keep::Last(most) = self.sim.keep { most } else { TOLD };
        last.drain(..last.len().saturating_sub(told));
        Err(Box::new(Failure { seed: self.sim.seed, drawn: std::mem::take(&mut self.drawn), last, broken }))
    }

    /// More records for whoever still takes some: the next process has work, too.
    pub(crate) fn more(&mut self) {
        let most = self.size.of(4, 8, 12);
        for shard in self.sim.open_shards() {
            let records = self.rng.below(most);
            if !self.serves {
                self.sim.fill(shard, records, &mut self.rng);
                continue;
            }
            let mut arrival = self.sim.store().now_us;
            for _ in 0..records {
                arrival += self.rng.below(1_000_000) as i64;
                let late = if self.rng.chance(1_500) { self.rng.below(30 * 60) as i64 * SECOND } else { 0 };
                let value = self.rng.below(100) as i64;
                self.sim.event(shard, arrival, "live", arrival - late, value);
            }
        }
    }

    /// Nothing goes wrong any more: everything must come right.
    pub(crate) fn peace(&mut self) -> Result<(), Box<Failure>> {
        // Whatever is still to arrive has arrived by then.
        self.sim.store().now_us += 10 * 60 * SECOND;
        self.sim.config.shard.drain = true;
        let ran = self.sim.run(Plan { seed: 78, ..Plan::default() });
        let good = matches!(&ran.end, End::Ended(outcome) if outcome.is_good());
        let end = (!good).then(|| format!("in peace it ended as {:?} after {:?}", ran.end, ran.took));
        self.note(ran);
        let mut broken = self.sim.wrong(&[]);
        broken.extend(end);
        self.survived.coverage.seeds = 1;
        self.survived.coverage.marks = std::mem::take(&mut self.sim.store().marks);
        self.judge(broken)
    }
}
