//! A function: an event source mapping hands batches of records over, of one shard each, and repeats itself: whole batches,
//! halves, the rest from any record on, older ones, one batch to two invocations at once, while invocations die, freeze, wake up
//! after they were given up, and shards split and merge. Beside it ticks come when they come. Then peace: every batch is handed
//! over until it is acknowledged, some more ticks, and everything but the windows that are still open must be right; then one
//! ordinary worker, who must find nothing left to do but those. Some functions take over from a worker of a fleet that died.
//!
//! Owns: the mapping, its chaos. Does not own: worlds and single faults (swarm, plan), the rules (store, oracle).

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use sluicebox_actors::model::position::{Position, Sequence, ShardId};
use sluicebox_actors::model::record::RawRecord;
use sluicebox_actors::pipeline::{Handed, Outcome, Parts, PipelineConfig, Places, ingest, owner_until, tick};
use sluicebox_actors::toolkit::spawn::Place;
use tokio::task::JoinHandle;

use crate::plan::{Plan, Rng, Swarm};
use crate::process::{BUSY, Process};
use crate::sim::{End, Ran, Script, Sim};
use crate::store::Store;
use crate::swarm::{Arena, Failure, Life, Survived, reshard};
use crate::truth::MINUTE;

/// About so many operations has an invocation.
const OPERATIONS: u64 = 40;
/// Without a fault nothing takes so long.
const PATIENCE: Duration = Duration::from_secs(600);
/// Ticks of peace, until one changes nothing.
const TICKS_MAX: usize = 20;

impl Arena {
    /// The function of a seed, in chaos and then in peace.
    pub fn survive_lambda(&self, seed: u64) -> Result<Survived, Box<Failure>> {
        // Other worlds than those of workers of the same number.
        let mut rng = Rng(seed ^ 0x1A_3B_DA_00_00_00_00_00);
        let mut life = Life::draw(self, seed, &mut rng);
        life.sim.config.shard.drain = false;
        let batch = 1 + rng.below(12) as usize;
        let rounds = 1 + rng.below(2);
        let most = life.size.of(20, 40, 60);
        life.drawn.push(format!("a function, batches of {batch}, {rounds} rounds of {most} invocations"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        let runtime = runtime.expect("a runtime without I/O can be built");
        let local = tokio::task::LocalSet::new();
        life.worker_before(seed)?;
        let function = Rc::new(Function::new(life.sim.clone(), batch, life.size.of(4, 8, 12)));
        for _ in 0..rounds {
            function.left.set(most);
            local.block_on(&runtime, function.round(&mut rng));
            life.took_part_all(function.ran.take(), function.wrong.take())?;
            life.more();
        }
        function.calm.set(true);
        local.block_on(&runtime, function.round(&mut rng));
        local.block_on(&runtime, function.ticks(&mut rng));
        drop((local, runtime));
        let mut wrong = function.wrong.take();
        wrong.extend(life.sim.wrong_but_open_windows());
        life.took_part_all(function.ran.take(), wrong)?;
        life.peace()?;
        Ok(life.survived)
    }
}

impl Life {
    /// In some worlds a worker of a fleet was there first, and died. By a chance of its own: the others stay what they were.
    fn worker_before(&mut self, seed: u64) -> Result<(), Box<Failure>> {
        let mut rng = Rng(seed ^ 0x00F1_EE1A_3BDA);
        if rng.below(4) > 0 {
            return Ok(());
        }
        let (failover, dies) = (500 + rng.below(3_000), Duration::from_millis(100 + rng.below(20_000)));
        self.sim.failover = Some(Duration::from_millis(failover));
        self.drawn.push(format!("failover {failover} ms, a worker that dies after {dies:?}"));
        let mut plan = self.chaos(false);
        plan.swarm = plan.swarm.filter(|_| rng.below(2) == 0);
        let script: Script = Box::new(move |hands| {
            Box::pin(async move {
                tokio::time::sleep(dies).await;
                hands.process.die();
                std::future::pending::<()>().await;
            })
        });
        let ran = self.sim.run_with(plan, script);
        self.took_part("a worker before", ran)?;
        self.more();
        Ok(())
    }
}

/// What Lambda makes of an answer.
#[derive(PartialEq, Eq, Debug)]
enum Answer {
    Done,
    /// Everything from this record on is not done.
    From(Sequence),
    /// An error, a crash, or no answer in time.
    Failed,
}

/// The mapping and what it knows.
struct Function {
    sim: Sim,
    batch: usize,
    reshard_most: u64,
    /// Nothing goes wrong any more.
    calm: Cell<bool>,
    /// Invocations of this round.
    left: Cell<u64>,
    /// Records of a shard that are acknowledged.
    done: RefCell<BTreeMap<ShardId, usize>>,
    alive: RefCell<Vec<JoinHandle<()>>>,
    ran: RefCell<Vec<(String, Ran)>>,
    wrong: RefCell<Vec<String>>,
}

impl Function {
    fn new(sim: Sim, batch: usize, reshard_most: u64) -> Self {
        let (calm, left, done, alive, ran, wrong) = Default::default();
        Self { sim, batch, reshard_most, calm, left, done, alive, ran, wrong }
    }

    /// Every shard has a poller, and there are ticks, until all is acknowledged or the round's invocations are used up.
    async fn round(self: &Rc<Self>, rng: &mut Rng) {
        let mut pollers: BTreeMap<ShardId, JoinHandle<()>> = BTreeMap::new();
        let ticking = (!self.calm.get()).then(|| tokio::task::spawn_local(self.clone().tick_at_times(Rng(rng.draw()))));
        let mut split_in = (!self.calm.get() && rng.below(3) == 0).then(|| rng.below(20));
        loop {
            let shards: Vec<ShardId> = self.sim.store().streams.keys().cloned().collect();
            for shard in shards {
                let (function, rng) = (self.clone(), Rng(rng.draw()));
                pollers.entry(shard.clone()).or_insert_with(|| tokio::task::spawn_local(function.poll(shard, rng)));
            }
            if split_in == Some(0) {
                reshard(&self.sim, self.reshard_most, rng);
            }
            split_in = split_in.and_then(|looks| looks.checked_sub(1));
            if split_in.is_none() && pollers.values().all(JoinHandle::is_finished) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        if let Some(ticking) = ticking {
            ticking.abort();
        }
        // Whoever was given up may still be at work.
        let alive = std::mem::take(&mut *self.alive.borrow_mut());
        for invocation in alive {
            if let Err(error) = invocation.await {
                self.wrong.borrow_mut().push(format!("an invocation was lost: {error}"));
            }
        }
    }

    /// Parents first, and then batch after batch, in order.
    async fn poll(self: Rc<Self>, shard: ShardId, mut rng: Rng) {
        let mut size = self.batch;
        while self.calm.get() || self.left.get() > 0 {
            tokio::time::sleep(Duration::from_millis(20 + rng.below(80))).await;
            if !self.parents_are_done(&shard) {
                continue;
            }
            let next = self.done.borrow().get(&shard).copied().unwrap_or(0);
            let (all, closed) = self.known(&shard);
            if next >= all {
                if closed || self.calm.get() {
                    return;
                }
                self.left.set(self.left.get().saturating_sub(1));
                continue;
            }
            let range = next..all.min(next + size);
            if !self.calm.get() && rng.below(8) == 0 {
                self.sim.store().mark("one batch is handed to two at once");
                // Nobody waits for the second.
                drop(self.invoke(&shard, range.clone(), &mut rng));
            }
            let answer = self.ask(&shard, range.clone(), &mut rng).await;
            let (next, cut) = self.after(&shard, range, answer);
            size = cut.unwrap_or(self.batch);
            let back = if self.calm.get() || rng.below(6) > 0 { 0 } else { rng.below(6) as usize };
            self.done.borrow_mut().insert(shard.clone(), next.saturating_sub(back));
            if back > 0 && next > 0 {
                self.sim.store().mark("what was acknowledged is handed over again");
            }
        }
    }

    fn known(&self, shard: &ShardId) -> (usize, bool) {
        let store = self.sim.store();
        let log = &store.streams[shard];
        (log.records.len(), log.closed_at.is_some())
    }

    fn parents_are_done(&self, shard: &ShardId) -> bool {
        let store = self.sim.store();
        let done = self.done.borrow();
        let is_done = |parent: &ShardId| {
            let Some(log) = store.streams.get(parent) else { return true };
            log.closed_at.is_some() && done.get(parent).copied().unwrap_or(0) >= log.records.len()
        };
        // Not only its own: a parent without a record is done before its parents are.
        let (mut open, mut seen) = (vec![shard.clone()], BTreeSet::new());
        while let Some(next) = open.pop() {
            for parent in store.streams.get(&next).map(|log| log.info.parents.clone()).unwrap_or_default() {
                if !is_done(&parent) {
                    return false;
                }
                if seen.insert(parent.clone()) {
                    open.push(parent);
                }
            }
        }
        true
    }

    /// Where it goes on, and with how many records if not with as many as ever.
    fn after(&self, shard: &ShardId, range: Range<usize>, answer: Answer) -> (usize, Option<usize>) {
        let mut store = self.sim.store();
        let committed = store.rows.get(shard).map_or(Position::START, |row| row.position);
        let at = |count: usize| Position::after(Sequence::dense(count as u64));
        match answer {
            Answer::Done => {
                store.rule(committed >= at(range.end), || {
                    format!("{shard}: acknowledged up to {}, committed up to {committed}", at(range.end))
                });
                (range.end, None)
            }
            Answer::From(sequence) => {
                let first = sequence.as_dense().unwrap_or(0) as usize - 1;
                store.rule(range.contains(&first), || format!("{shard}: failed from {sequence} on, which was not in {range:?}"));
                store.rule(first == 0 || committed >= at(first), || {
                    format!("{shard}: failed from {sequence} on, committed up to {committed}")
                });
                if first > range.start {
                    store.mark("a batch is done in part");
                }
                (first, None)
            }
            Answer::Failed if range.len() > 1 => {
                store.mark("a batch is halved");
                (range.start, Some(range.len() / 2))
            }
            Answer::Failed => (range.start, None),
        }
    }

    async fn ask(self: &Rc<Self>, shard: &ShardId, range: Range<usize>, rng: &mut Rng) -> Answer {
        let (process, timeout, answer) = self.invoke(shard, range, rng);
        tokio::select! {
            biased;
            answer = answer => answer.unwrap_or(Answer::Failed),
            () = tokio::time::sleep(timeout) => {
                // The sandbox goes with the invocation, or it was only cut off.
                if rng.below(2) == 0 {
                    process.die();
                }
                Answer::Failed
            }
        }
    }

    /// Begins an invocation.
    fn invoke(
        self: &Rc<Self>,
        shard: &ShardId,
        range: Range<usize>,
        rng: &mut Rng,
    ) -> (Arc<Process>, Duration, tokio::sync::oneshot::Receiver<Answer>) {
        self.left.set(self.left.get().saturating_sub(1));
        let timeout = if self.calm.get() { PATIENCE } else { Duration::from_millis(1_500 + rng.below(15_000)) };
        // Some believe that they have more time than they have.
        let time = if rng.below(3) == 0 { timeout * 10 } else { timeout - Duration::from_millis(1_000) };
        let (process, parts) = self.starts(timeout, rng);
        let records = self.records(shard, range.clone());
        let handed = Handed { shard: shard.clone(), records: records.clone(), open: Box::new(|records, _| records) };
        let (tell, answer) = tokio::sync::oneshot::channel();
        let (function, name, running) = (self.clone(), format!("{shard} {range:?}"), process.clone());
        let invocation = async move {
            let ended = function.lives(&name, &running, ingest(parts, here(), handed, time)).await;
            let answer = match ended {
                Some(Ok(done)) => {
                    let failed = records.iter().find(|record| Position::after(record.sequence) > done.committed);
                    failed.map_or(Answer::Done, |record| Answer::From(record.sequence))
                }
                Some(Err(_)) | None => Answer::Failed,
            };
            // It may have been given up.
            drop(tell.send(answer));
        };
        self.alive.borrow_mut().push(tokio::task::spawn_local(invocation));
        (process, timeout, answer)
    }

    fn records(&self, shard: &ShardId, range: Range<usize>) -> Vec<RawRecord> {
        let store = self.sim.store();
        store.streams[shard].records[range].iter().flatten().map(|logged| logged.raw.clone()).collect()
    }

    fn starts(&self, timeout: Duration, rng: &mut Rng) -> (Arc<Process>, Parts) {
        let plan = if self.calm.get() { Plan { seed: rng.draw(), ..Plan::default() } } else { chaos(rng) };
        let (process, parts) = self.sim.starts(self.sim.seeded(plan));
        let until_us = process.world_now_us() + timeout.as_micros() as i64;
        let owner = owner_until(until_us, &format!("simulated:{}", process.number));
        let config = Arc::new(PipelineConfig { owner, ..(*parts.config).clone() });
        (process, Parts { config, ..parts })
    }

    /// A process that lives as long as its work takes, or until it dies.
    #[expect(clippy::disallowed_methods, reason = "the simulation's clock is tokio's paused one")]
    async fn lives<T>(&self, name: &str, process: &Arc<Process>, work: impl Future<Output = T>) -> Option<T> {
        let started = tokio::time::Instant::now();
        let done = tokio::select! {
            biased;
            () = process.died.notified() => None,
            done = work => Some(done),
        };
        let end = match &done {
            None if process.operations() > BUSY => End::Hung,
            None => End::Crashed,
            Some(_) => End::Ended(Outcome::default()),
        };
        let ran = self.sim.ends(process, end, Arc::default(), started.elapsed());
        self.ran.borrow_mut().push((name.to_owned(), ran));
        done
    }

    async fn tick_at_times(self: Rc<Self>, mut rng: Rng) {
        loop {
            tokio::time::sleep(Duration::from_millis(200 + rng.below(5_000))).await;
            let function = self.clone();
            let rng = Rng(rng.draw());
            // In a task of its own: a round may be over before it is.
            let tick = tokio::task::spawn_local(async move {
                function.tick(&mut { rng }).await;
            });
            self.alive.borrow_mut().push(tick);
        }
    }

    async fn tick(&self, rng: &mut Rng) {
        let time = if self.calm.get() { PATIENCE } else { Duration::from_millis(500 + rng.below(10_000)) };
        let (process, parts) = self.starts(time, rng);
        let held = self.held();
        let ticked = self.lives("tick", &process, tick(parts, here(), time)).await;
        if let Some(Ok(ticked)) = &ticked
            && ticked.settled.iter().any(|shard| held.get(shard).is_some_and(|owner| !owner.starts_with("until:")))
        {
            self.sim.store().mark("a tick takes the shards of a worker that is gone");
        }
        if !self.calm.get() {
            return;
        }
        let good = |ticked: &sluicebox_actors::pipeline::Ticked| {
            ticked.faults.is_empty() && ticked.gold.is_none() && !ticked.out_of_time
        };
        if !matches!(&ticked, Some(Ok(ticked)) if good(ticked)) {
            self.wrong.borrow_mut().push(format!("a tick in peace ended as {ticked:?}"));
        }
    }

    /// Who has what.
    fn held(&self) -> BTreeMap<ShardId, String> {
        let store = self.sim.store();
        let held = store.rows.values().filter(|row| !row.owner.is_empty());
        held.map(|row| (row.shard.clone(), row.owner.clone())).collect()
    }

    /// Until they change nothing any more.
    async fn ticks(&self, rng: &mut Rng) {
        // Whoever was given up counts as gone by then.
        self.sim.store().now_us += 10 * MINUTE;
        let picture = |store: &Store| {
            // Not the bounds: those of quiet shards move with time.
            let rows: Vec<_> = store.rows.values().map(|row| (row.position, row.state, row.owner.clone())).collect();
            let windows: Vec<_> = store.windows.values().map(|row| (row.revision, row.status, row.published)).collect();
            (rows, windows, store.staged.len())
        };
        for _ in 0..TICKS_MAX {
            let before = picture(&self.sim.store());
            self.tick(rng).await;
            if picture(&self.sim.store()) == before {
                let held = self.held();
                let mut wrong = self.wrong.borrow_mut();
                wrong.extend((!held.is_empty()).then(|| format!("after all ticks shards are held still: {held:?}")));
                return;
            }
        }
        self.wrong.borrow_mut().push(format!("{TICKS_MAX} ticks in peace still find something to do"));
    }
}

fn here() -> Places {
    Places(vec![Place::Here])
}

/// Random faults for something that lives so short.
fn chaos(rng: &mut Rng) -> Plan {
    let mut swarm = Swarm::draw(rng, OPERATIONS);
    if rng.below(4) == 0 {
        swarm.freeze = 100 + rng.below(400);
    }
    swarm.longest_ms = 6_000;
    // One in three goes undisturbed, or nothing would ever be handed on.
    let swarm = (rng.below(3) > 0).then_some(swarm);
    let hours = [-1, 1][rng.below(2) as usize];
    let clock_step = (rng.below(8) == 0).then(|| (rng.below(OPERATIONS), hours * 60 * MINUTE));
    Plan { seed: rng.draw(), swarm, latency_ms: 1 + rng.below(40), late_at: rng.below(30), clock_step, ..Plan::default() }
}
