//! Runs pipelines over a simulated world, one process after another.
//!
//! Owns: the runtime (current thread, paused clock, no actix `System`), the settings of the tests, how a process ends, making
//! streams. Does not own: what must be true in the end (oracle).

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sluicebox_actors::machines::breaker::BreakerConfig;
use sluicebox_actors::machines::restart::RestartConfig;
use sluicebox_actors::machines::shard::{Extent, OnGap, ShardConfig};
use sluicebox_actors::model::fault::Fault;
use sluicebox_actors::model::letter::Postmark;
use sluicebox_actors::model::position::{Position, ShardId};
use sluicebox_actors::pipeline::{self, Fleet, Outcome, Parts, PipelineConfig, Places};
use sluicebox_actors::ports::{Engine, GoldFiles, Outputs, ShardInfo};
use sluicebox_actors::shells::gold::GoldConfig;
use sluicebox_actors::shells::shard::FetchLimits;
use sluicebox_actors::toolkit::board::Board;
use sluicebox_actors::toolkit::spawn::Place;
use tokio::sync::watch;

use crate::engine::SmallEngine;
use crate::faulty::Faulty;
use crate::files::Files;
use crate::ledger::ledger;
use crate::plan::{Op, Plan, Rng};
use crate::process::{BUSY, Process};
use crate::sinks::{CREATED, Which, sinks};
use crate::store::Store;
use crate::trace::Keep;
use crate::truth::{DISORDER, Dialect, MINUTE, SECOND, ShardLog, T0, Truth};

/// Makes a port for one process.
pub type Make<T> = Arc<dyn Fn(&Arc<Process>) -> Arc<T> + Send + Sync>;

/// What can be put in place of the simulation's own: the SQL engine, the assembly of real files.
#[derive(Clone)]
pub struct Tools {
    /// The engine of each process; the faults of its calls are added around it.
    /// It leaves out groups of more records than it is told.
    pub engine: Arc<dyn Fn(Option<u64>) -> Arc<dyn Engine> + Send + Sync>,
    /// Staged files. One of another make tells the store what it staged and published ([`Process::op`], [`Process::now_op`]).
    pub outputs: Make<dyn Outputs>,
    /// Visible Gold.
    pub gold_files: Make<dyn GoldFiles>,
    /// How records are written for that engine.
    pub dialect: Dialect,
}

impl Default for Tools {
    fn default() -> Self {
        Self {
            engine: Arc::new(|having| Arc::new(SmallEngine::new(having))),
            outputs: Arc::new(|process| Arc::new(Files::on_one_disk(process))),
            gold_files: Arc::new(|process| process.clone()),
            dialect: Dialect::default(),
        }
    }
}

impl Tools {
    /// Processes that share no disk: what one has staged is gone with it, unless it was held elsewhere.
    pub fn apart() -> Self {
        Self { outputs: Arc::new(|process| Arc::new(Files::apart(process))), ..Self::default() }
    }
}

/// A world and the settings of its pipeline.
#[derive(Clone)]
pub struct Sim {
    pub store: Arc<Mutex<Store>>,
    pub config: PipelineConfig,
    pub seed: u64,
    pub tools: Tools,
    pub keep: Keep,
    /// Processes share the shards, and one that is silent for so long counts as gone.
    pub failover: Option<Duration>,
    /// Where Gold and letters go on to.
    pub sinks: Which,
}

/// How a process ended.
#[derive(Debug)]
pub enum End {
    Ended(Outcome),
    Refused(Fault),
    Crashed,
    Hung,
}

/// What a process leaves to look at.
pub struct Ran {
    pub end: End,
    pub operations: u64,
    pub counts: BTreeMap<Op, u64>,
    pub met: BTreeMap<(Op, &'static str), u64>,
    pub trace: Vec<String>,
    /// Of all operations, also those whose lines are not kept.
    pub hash: u64,
    pub board: Arc<Board>,
    pub took: Duration,
}

impl Ran {
    /// Everything ended as it should.
    #[track_caller]
    pub fn good(self) -> Self {
        match &self.end {
            End::Ended(outcome) if outcome.is_good() => {}
            End::Ended(_) | End::Refused(_) | End::Crashed | End::Hung => {
                let last: Vec<_> = self.trace.iter().rev().take(40).rev().cloned().collect();
                panic!("ended as {:?} after {:?}; last operations:\n{}", self.end, self.took, last.join("\n"))
            }
        }
        self
    }
}

/// What a script can do while a pipeline runs.
pub struct Hands {
    pub store: Arc<Mutex<Store>>,
    pub stop: watch::Sender<bool>,
    pub board: Arc<Board>,
    pub process: Arc<Process>,
}

pub type Script = Box<dyn FnOnce(Hands) -> Pin<Box<dyn Future<Output = ()>>>>;

/// Nothing happens beside the pipeline.
pub fn quietly() -> Script {
    Box::new(|hands| {
        Box::pin(async move {
            std::future::pending::<()>().await;
            drop(hands)
        })
    })
}

/// After this much time the process is asked to stop.
pub fn stop_after(time: Duration) -> Script {
    Box::new(move |hands| {
        Box::pin(async move {
            tokio::time::sleep(time).await;
            hands.stop.send_replace(true);
        })
    })
}

pub fn lock(store: &Mutex<Store>) -> MutexGuard<'_, Store> {
    store.lock().unwrap_or_else(PoisonError::into_inner)
}

pub fn shard_id(index: usize) -> ShardId {
    ShardId::new(format!("shard-{index}"))
}

pub fn info(index: usize, parents: &[usize]) -> ShardInfo {
    let parents = parents.iter().map(|parent| shard_id(*parent)).collect();
    ShardInfo { shard: shard_id(index), parents, hash_start: 0, hash_end: u128::MAX, closed: false }
}

impl Sim {
    /// A draining pipeline over this many empty shards, at noon of the day of [`T0`].
    pub fn new(seed: u64, shards: usize) -> Self {
        Self::with(Tools::default(), seed, shards)
    }

    /// The same with other tools.
    pub fn with(tools: Tools, seed: u64, shards: usize) -> Self {
        let store = Store::new(tools.dialect, T0 + 12 * 60 * MINUTE);
        let (store, sinks) = (Arc::new(Mutex::new(store)), Which::None);
        let sim = Self { store, config: config(), seed, tools, keep: Keep::Everything, failover: None, sinks };
        (0..shards).for_each(|index| sim.add_shard(index, &[]));
        sim
    }

    pub fn store(&self) -> MutexGuard<'_, Store> {
        lock(&self.store)
    }

    pub fn add_shard(&self, index: usize, parents: &[usize]) {
        let info = info(index, parents);
        let log = ShardLog { info: info.clone(), records: Vec::new(), closed_at: None, children: Vec::new(), forgotten: 0 };
        let mut store = self.store();
        for parent in parents {
            let (now, parent) = (store.now_us, store.streams.get_mut(&shard_id(*parent)).expect("a parent"));
            parent.closed_at.get_or_insert(now);
            parent.info.closed = true;
            parent.children.push(info.clone());
        }
        store.streams.insert(info.shard, log);
    }

    /// Splits a shard in two, or, given two, merges them; the new ones' numbers.
    pub fn reshard(&self, parents: &[usize]) -> Vec<usize> {
        let next = self.store().streams.len();
        let children = if parents.len() == 1 { vec![next, next + 1] } else { vec![next] };
        children.iter().for_each(|child| self.add_shard(*child, parents));
        children
    }

    /// Numbers of the shards that still take records.
    pub fn open_shards(&self) -> Vec<usize> {
        let store = self.store();
        let open = store.streams.values().filter(|log| log.closed_at.is_none());
        open.map(|log| log.info.shard.as_str().trim_start_matches("shard-").parse().expect("a name of ours")).collect()
    }

    /// Puts one record.
    pub fn put(&self, shard: usize, arrival_us: i64, truths: &[Truth]) {
        let mut store = self.store();
        let dialect = store.dialect;
        store.streams.get_mut(&shard_id(shard)).expect("a shard").put(arrival_us, truths, dialect);
    }

    /// Puts one event.
    pub fn event(&self, shard: usize, arrival_us: i64, key: &str, event_us: i64, value: i64) {
        self.put(shard, arrival_us, &[Truth::Event { key: key.to_owned(), event_us, value }]);
    }

    /// Puts so many records on a shard: mostly events in rough order over some hours, some late by up to four hours, some bad,
    /// some filtered, some aggregates of three.
    pub fn fill(&self, shard: usize, records: u64, rng: &mut Rng) {
        let step = 3 * 60 * MINUTE / records.max(1) as i64;
        let mut event_us = T0;
        for _ in 0..records {
            event_us += (rng.below(2 * step as u64 + 1)) as i64;
            let many = if rng.chance(500) { 3 } else { 1 };
            let truths: Vec<_> = (0..many).map(|_| some_truth(event_us, rng)).collect();
            self.put(shard, event_us + SECOND, &truths);
        }
    }

    /// One process, from its start to its end.
    pub fn run(&self, plan: Plan) -> Ran {
        self.run_with(plan, quietly())
    }

    /// One process with something that happens beside it.
    pub fn run_with(&self, plan: Plan, script: Script) -> Ran {
        let plan = self.seeded(plan);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        let runtime = runtime.expect("a runtime without I/O can be built");
        let local = tokio::task::LocalSet::new();
        let ran = local.block_on(&runtime, self.process(plan, script));
        // Destructors run now; the process is dead and reaches nothing any more.
        drop((local, runtime));
        ran
    }

    /// Two processes over one world: the second starts when the first freezes, and the first wakes up again later.
    pub fn run_beside(&self, first: Plan, second: Plan) -> (Ran, Ran) {
        self.run_both((first, quietly()), (second, quietly()), Duration::MAX)
    }

    /// The same with something that happens beside each, and the second waits for the first to freeze so long at most.
    pub fn run_both(&self, first: (Plan, Script), second: (Plan, Script), at_most: Duration) -> (Ran, Ran) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        let runtime = runtime.expect("a runtime without I/O can be built");
        let local = tokio::task::LocalSet::new();
        let froze = Arc::new(tokio::sync::Notify::new());
        let tell = {
            let (frozen, script) = (froze.clone(), first.1);
            let tell: Script = Box::new(move |hands| {
                let process = hands.process.clone();
                let script = script(hands);
                Box::pin(async move {
                    let tell = async {
                        process.froze.notified().await;
                        frozen.notify_one();
                        std::future::pending::<()>().await;
                    };
                    tokio::join!(script, tell);
                })
            });
            tell
        };
        let both = async {
            let first = async {
                let ran = self.process(self.seeded(first.0), tell).await;
                froze.notify_one(); // at the latest
                ran
            };
            let second = async {
                // How it ended says nothing: either way it is the second's turn.
                drop(tokio::time::timeout(at_most, froze.notified()).await);
                self.process(self.seeded(second.0), second.1).await
            };
            tokio::join!(first, second)
        };
        let ran = local.block_on(&runtime, both);
        drop((local, runtime));
        ran
    }

    /// Several processes over one world: each starts after its time.
    pub fn run_many(&self, workers: Vec<(Duration, Plan, Script)>) -> Vec<Ran> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        let runtime = runtime.expect("a runtime without I/O can be built");
        let local = tokio::task::LocalSet::new();
        let all = async {
            let mut running = Vec::new();
            for (after, plan, script) in workers {
                let (sim, plan) = (self.clone(), self.seeded(plan));
                running.push(tokio::task::spawn_local(async move {
                    tokio::time::sleep(after).await;
                    sim.process(plan, script).await
                }));
            }
            let mut ran = Vec::new();
            for worker in running {
                ran.push(worker.await.expect("a process does not panic"));
            }
            ran
        };
        let ran = local.block_on(&runtime, all);
        drop((local, runtime));
        ran
    }

    /// In a fleet no two processes ever have the same name.
    fn owner(&self, number: u64) -> String {
        if self.failover.is_some() { format!("simulated:{number}") } else { self.config.owner.clone() }
    }

    pub fn seeded(&self, plan: Plan) -> Plan {
        Plan { seed: plan.seed ^ self.seed.rotate_left(32), ..plan }
    }

    /// One process that must end well, with nothing going wrong.
    #[track_caller]
    pub fn drain(&self) -> Ran {
        self.run(Plan { seed: 77, ..Plan::default() }).good()
    }

    /// One process on the current `LocalSet`.
    #[expect(clippy::disallowed_methods, reason = "the simulation's clock is tokio's paused one")]
    pub async fn process(&self, plan: Plan, script: Script) -> Ran {
        let patience = plan.patience;
        let (process, parts) = self.starts(plan);
        let (stop, stopping) = watch::channel(false);
        let (started, board) = (tokio::time::Instant::now(), parts.board.clone());
        let hands = Hands { store: self.store.clone(), stop: stop.clone(), board: board.clone(), process: process.clone() };
        let script = script(hands);
        let script = async move {
            script.await;
            std::future::pending::<()>().await;
        };
        let end = tokio::select! {
            biased;
            () = process.died.notified() => if process.operations() > BUSY { End::Hung } else { End::Crashed },
            outcome = pipeline::run(parts, Places(vec![Place::Here]), stopping) => match outcome {
                Ok(outcome) => End::Ended(outcome),
                Err(fault) => End::Refused(fault),
            },
            () = script => End::Hung,
            () = tokio::time::sleep(patience) => End::Hung,
        };
        drop(stop);
        self.ends(&process, end, board, started.elapsed())
    }

    /// A process that begins to live, and the world as it sees it.
    pub fn starts(&self, plan: Plan) -> (Arc<Process>, Parts) {
        let (tools, having) = (&self.tools, self.store().having);
        let process = Process::new(self.store.clone(), plan, self.keep, self.config.in_flight);
        let parts = Parts {
            stream: process.clone(),
            rows: process.clone(),
            blobs: process.clone(),
            outputs: (tools.outputs)(&process),
            gold_files: (tools.gold_files)(&process),
            ledger: Arc::new(ledger(&process)),
            sinks: sinks(&process, self.sinks),
            engine: Arc::new(Faulty::new(process.clone(), (tools.engine)(having))),
            clock: process.clone(),
            board: Arc::new(Board::default()),
            fleet: self.failover.map(|failover| Fleet { leases: process.clone(), failover, thread: None }),
            config: Arc::new(PipelineConfig { owner: self.owner(process.number), ..self.config.clone() }),
        };
        (process, parts)
    }

    /// From now on nothing of it has an effect.
    pub fn ends(&self, process: &Process, end: End, board: Arc<Board>, took: Duration) -> Ran {
        process.die();
        let mut store = lock(&self.store);
        store.now_us = store.now_us.max(process.world_now_us()) + SECOND;
        drop(store);
        let trace = process.trace();
        let (operations, counts, hash) = (process.operations(), process.counts(), trace.hash());
        Ran { end, operations, counts, met: process.met(), trace: trace.lines(), hash, board, took }
    }
}

fn some_truth(event_us: i64, rng: &mut Rng) -> Truth {
    let back = match rng.below(20) {
        0 => rng.below(4 * 3_600) as i64 * SECOND,
        1..6 => rng.below(20) as i64 * SECOND,
        _ => 0,
    };
    let event_us = event_us - back;
    match rng.below(40) {
        0 => Truth::Bad,
        1 => Truth::Filtered { event_us },
        _ => Truth::Event { key: format!("key-{}", rng.below(5)), event_us, value: rng.below(1_000) as i64 },
    }
}

/// Small everything, so that a few dozen records make many epochs.
pub fn config() -> PipelineConfig {
    let breaker = BreakerConfig { enabled: false, share: 0.2, window: 1_000 };
    PipelineConfig {
        owner: "simulated:1".to_owned(),
        pipeline: "p".to_owned(),
        created_us: CREATED,
        postmark: Postmark { fingerprint: "f".into(), version: "v".into(), request_id: "r".into() },
        bronze_on: true,
        parallelism: 1,
        in_flight: 1 << 20,
        fetch: FetchLimits { records: 8, bytes: 64 << 10 },
        shard: ShardConfig {
            commit_interval_us: SECOND,
            commit_size: 400,
            group_memory: 1 << 20,
            disorder_us: DISORDER,
            poll_us: 100_000,
            on_gap: OnGap::Halt,
            drain: true,
            extent: Extent::Endless,
            breaker,
        },
        restart: RestartConfig { backoff_min_us: 10_000, backoff_max_us: SECOND, intensity: 1_000_000, period_us: 60 * SECOND },
        gold: GoldConfig { collect_after: 256, max_wait_us: Vec::new() },
        start: Position::START,
    }
}
