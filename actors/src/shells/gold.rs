//! GoldActor: merges committed partials into Gold windows. A generation of its own: its end restarts Gold alone.
//!
//! Owns: the actor, its own supervision. Does not own: which window is due (machines/gold), what is read at a start (load), reads
//! and writes around a window row's CAS (work), merging (engine), visible files (ports::GoldFiles).

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use actix::{Actor, ActorFutureExt, AsyncContext, Context, Handler, Message, WrapFuture};
use tokio::sync::watch;

pub use crate::machines::gold::GoldConfig;

use crate::history;
use crate::machines::gold::{GoldMachine, GoldWork};
use crate::machines::restart::{RestartConfig, Restarts, Verdict};
use crate::model::fault::{Fault, Kind, Result};
use crate::model::position::ShardId;
use crate::model::row::{Base, ShardRow, WindowRow};
use crate::ports::{Blobs, Clock, Engine, GoldFiles, LedgerFiles, Rows};
use crate::shells::feed::Bells;
use crate::shells::message::NewEpoch;
use crate::toolkit::flag::Flag;
use crate::toolkit::outlet::{Door, Notices};
use crate::toolkit::spawn::{Exit, Generation, Place, spawn_watched, turns_true};

mod load;
mod work;

use load::{Known, Loaded, chains, load, newer, rows};
use work::{Cache, collect, emit, publish, read_content, rebase};

/// Mailbox of Gold. Only notices come in: at most two per shard wait for their commit to be told.
const MAILBOX: usize = 1 << 12;
/// How often windows that are held back are looked at.
const PATIENCE_LOOK: Duration = Duration::from_secs(1);

/// The world of Gold.
#[derive(Clone)]
pub struct GoldParts {
    /// Rows.
    pub rows: Arc<dyn Rows>,
    /// Epoch objects, contents, bases.
    pub blobs: Arc<dyn Blobs>,
    /// Visible Gold.
    pub gold_files: Arc<dyn GoldFiles>,
    /// The table `ledger`.
    pub ledger: Arc<dyn LedgerFiles>,
    /// Merge and finish.
    pub engine: Arc<dyn Engine>,
    /// Time and chance.
    pub clock: Arc<dyn Clock>,
    /// Restart policy.
    pub restart: RestartConfig,
    /// Decisions.
    pub config: GoldConfig,
    /// Rung when there is news for sinks.
    pub bells: Bells,
    /// Where it computes.
    pub place: Place,
    /// How often to look in the rows for what other workers committed; none where there are no others.
    pub others: Option<Duration>,
    /// At the end, emit windows that are still open too. An ordinary stop leaves them to the next start.
    pub drain: bool,
}

/// How Gold ended, if nothing was wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GoldEnd {
    /// Nothing is left to emit.
    Finished,
    /// Another worker may be making it.
    Lost,
}

/// Runs Gold, generation after generation, until `draining` turns true and nothing is left to emit, or `lost` is raised.
pub async fn supervise(
    parts: GoldParts,
    door: Door<NewEpoch>,
    mut draining: watch::Receiver<bool>,
    lost: Flag,
) -> Result<GoldEnd> {
    let mut restarts = Restarts::new(parts.restart);
    let done = Arc::new(AtomicU64::new(0));
    let mut before = 0;
    for number in 1.. {
        let (generation, watch) = Generation::new(number);
        let (place, of) = (parts.place.clone(), generation.clone());
        let actor = {
            let (parts, generation, done) = (parts.clone(), generation.clone(), done.clone());
            let make = move || GoldActor::new(parts, generation, done);
            spawn_watched(&place, &of, "gold", MAILBOX, make)
        };
        door.open(actor.clone().recipient());
        let ender = generation.ender();
        drop((generation, of));
        let leave = async {
            lost.wait().await;
            ender.end("gold", Exit::Fenced(Fault::fenced("the lease of gold may be another worker's")));
            std::future::pending::<()>().await;
        };
        let drain = async {
            turns_true(&mut draining).await;
            Notices::new(actor).tell(Drain);
            std::future::pending::<()>().await;
        };
        let (_, exit) = tokio::select! {
            biased;
            exit = watch.ended() => exit,
            () = leave => return Err(Fault::bug("gold was left without an end")),
            () = drain => return Err(Fault::bug("gold was drained without an end")),
        };
        door.close();
        if lost.is_raised() {
            return Ok(GoldEnd::Lost);
        }
        let fault = match exit {
            Exit::Finished => return Ok(GoldEnd::Finished),
            Exit::Fenced(fault) | Exit::Failed(fault) => fault,
            Exit::Panicked(text) => Fault::bug(format!("gold panicked: {text}")),
            Exit::Dismissed => Fault::bug("gold ended without a reason"),
        };
        tracing::error!(generation = number, kind = ?fault.kind(), %fault, "gold generation ended");
        let now = done.load(Ordering::Relaxed);
        if now > before {
            before = now;
            restarts.progressed();
        }
        let random = parts.clock.random();
        let verdict = match fault.kind() {
            Kind::Config | Kind::Corrupt | Kind::Poison => return Err(given_up(fault, "waiting does not heal it")),
            Kind::Retry => Verdict::Restart { after_us: restarts.waited(random) },
            Kind::Fenced | Kind::Bug => restarts.failed(parts.clock.now_us(), random),
        };
        match verdict {
            Verdict::Quarantine => return Err(given_up(fault, "too many restarts")),
            Verdict::Restart { after_us } => tokio::select! {
                biased;
                () = lost.wait() => return Ok(GoldEnd::Lost),
                () = tokio::time::sleep(Duration::from_micros(after_us.unsigned_abs())) => {}
            },
        }
    }
    Ok(GoldEnd::Finished)
}

/// People must hear of it.
fn given_up(fault: Fault, why: &str) -> Fault {
    tracing::error!(alert = "quarantine", %fault, "gold given up: {why}");
    fault
}

/// Supervisor → gold: everything is committed, finish.
#[derive(Message)]
#[rtype(result = "()")]
struct Drain;

struct GoldActor {
    parts: GoldParts,
    generation: Generation,
    machine: GoldMachine,
    cache: Arc<tokio::sync::Mutex<Cache>>,
    waiting: VecDeque<NewEpoch>,
    /// The rows and chains are being read: what they say decides what to do next.
    reading: bool,
    draining: bool,
    /// Pieces of work done by all generations of this process.
    done: Arc<AtomicU64>,
}

impl Actor for GoldActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.reading = true;
        if self.machine.is_impatient() {
            ctx.run_interval(PATIENCE_LOOK, |actor, ctx| {
                actor.machine.tick(actor.parts.clock.now_us());
                actor.pump(ctx);
            });
        }
        if let Some(pause) = self.parts.others {
            ctx.run_interval(pause, Self::look_for_others);
        }
        let parts = self.parts.clone();
        let load = async move { load(&parts).await };
        ctx.spawn(load.into_actor(self).map(|loaded, actor, ctx| {
            actor.reading = false;
            let known = loaded.and_then(|loaded| actor.know(loaded));
            actor.go_on(known, ctx);
        }));
    }
}

/// What a piece of work came to.
enum Done {
    Row(Box<WindowRow>),
    Collected(ShardId, u64),
    Refreshed(Vec<(ShardRow, Vec<history::Link>)>),
}

impl GoldActor {
    fn new(parts: GoldParts, generation: Generation, done: Arc<AtomicU64>) -> Self {
        let machine = GoldMachine::new(parts.config.clone(), parts.engine.tables().to_vec());
        let (cache, waiting) = Default::default();
        Self { parts, generation, machine, cache, waiting, reading: false, draining: false, done }
    }

    fn know(&mut self, loaded: Loaded) -> Result<()> {
        for row in loaded.windows {
            self.parts.bells.stands(&row);
            self.machine.know_window(row);
        }
        self.know_shards(loaded.shards)
    }

    fn know_shards(&mut self, shards: Vec<(ShardRow, Vec<history::Link>)>) -> Result<()> {
        for (row, chain) in shards {
            self.machine.know_shard(row);
            for link in chain.into_iter().rev() {
                self.machine.know_epoch(&link.epoch.header, link.object)?;
                self.parts.bells.committed(&link.epoch.header);
            }
        }
        if let Some(key) = self.machine.hole() {
            tracing::error!(alert = "gap", hash_key = key, "no shard covers this hash key: no window closes until one does");
        }
        Ok(())
    }

    fn go_on(&mut self, done: Result<()>, ctx: &mut Context<Self>) {
        match done {
            Ok(()) => self.pump(ctx),
            Err(fault) => self.generation.end("gold", Exit::from_fault(fault)),
        }
    }

    /// The machine can't go on. Nothing else is begun until the rows have said whether it is damage.
    fn at_a_loss(&mut self, fault: Fault, ctx: &mut Context<Self>) {
        self.reading = true;
        let parts = self.parts.clone();
        let known = async move {
            let fault = fault;
            (rows(&parts, &fault).await, fault)
        };
        ctx.spawn(known.into_actor(self).map(|(rows, fault), actor, _| {
            let fault = match rows {
                Ok(Some(Known { shards, windows })) if actor.machine.is_outdated(&shards, &windows) => {
                    Fault::fenced(format!("the rows have moved on: {fault}"))
                }
                Ok(_) => fault,
                Err(unknown) => unknown,
            };
            actor.generation.end("gold", Exit::from_fault(fault));
        }));
    }

    /// Notices first, then whatever the machine gives out.
    fn pump(&mut self, ctx: &mut Context<Self>) {
        if self.reading || self.generation.is_ending() {
            return;
        }
        while let Some(NewEpoch(committed)) = self.waiting.pop_front() {
            let (row, header) = (committed.row, committed.header);
            let known = self.machine.known_epoch(&row.shard);
            self.machine.know_shard(row.clone());
            if header.epoch > known + 1 && known > 0 || known == 0 && header.epoch > 1 {
                return self.refresh(ctx);
            }
            self.parts.bells.committed(&header);
            let Some(object) = row.object else { continue };
            if let Err(fault) = self.machine.know_epoch(&header, object) {
                return self.at_a_loss(fault, ctx);
            }
        }
        loop {
            match self.machine.next_work() {
                Ok(Some(work)) => self.work(work, ctx),
                Ok(None) if self.draining && !self.machine.is_working() => {
                    return self.generation.end("gold", Exit::Finished);
                }
                Ok(None) => return,
                Err(fault) => return self.at_a_loss(fault, ctx),
            }
        }
    }

    /// Reads from the rows what notices did not tell.
    fn refresh(&mut self, ctx: &mut Context<Self>) {
        let parts = self.parts.clone();
        self.reading = true;
        tracing::debug!("gold reads the rows");
        self.spawn(ctx, async move { Ok(Done::Refreshed(chains(&parts).await?)) });
    }

    /// Commits of other workers are told by nobody: they stand in the rows.
    fn look_for_others(&mut self, ctx: &mut Context<Self>) {
        if self.reading || self.generation.is_ending() {
            return;
        }
        let known = self.machine.known_rows();
        let parts = self.parts.clone();
        self.reading = true;
        self.spawn(ctx, async move { Ok(Done::Refreshed(newer(&parts, known).await?)) });
    }

    fn work(&mut self, work: GoldWork, ctx: &mut Context<Self>) {
        let (parts, cache) = (self.parts.clone(), self.cache.clone());
        self.spawn(ctx, async move {
            match work {
                GoldWork::Emit { table, row, loads } => Ok(Done::Row(Box::new(emit(&parts, &cache, table, *row, loads).await?))),
                GoldWork::Publish { row } => {
                    let content = row.content.clone().ok_or_else(|| Fault::corrupt("a revision without content"))?;
                    let content = read_content(&parts, &row, &content).await?;
                    Ok(Done::Row(Box::new(publish(&parts, *row, content, None).await?)))
                }
                GoldWork::Rebase { table, row, loads, vector, counts } => {
                    let base = |object| Base { object, vector, counts };
                    Ok(Done::Row(Box::new(rebase(&parts, &cache, table, *row, loads, base).await?)))
                }
                GoldWork::Collect { lines, shard, through } => {
                    collect(&parts, &shard, &lines, through).await?;
                    Ok(Done::Collected(shard, through))
                }
            }
        });
    }

    fn spawn(&mut self, ctx: &mut Context<Self>, work: impl Future<Output = Result<Done>> + 'static) {
        ctx.spawn(work.into_actor(self).map(|done, actor, ctx| {
            actor.done.fetch_add(u64::from(done.is_ok()), Ordering::Relaxed);
            let done = done.and_then(|done| match done {
                Done::Row(row) => {
                    actor.parts.bells.stands(&row);
                    actor.machine.row_stands(*row);
                    Ok(())
                }
                Done::Collected(shard, through) => {
                    actor.machine.collected(&shard, through);
                    Ok(())
                }
                Done::Refreshed(shards) => {
                    actor.reading = false;
                    actor.know_shards(shards)
                }
            });
            actor.go_on(done, ctx);
        }));
    }
}

impl Handler<NewEpoch> for GoldActor {
    type Result = ();
    fn handle(&mut self, message: NewEpoch, ctx: &mut Self::Context) {
        self.waiting.push_back(message);
        self.pump(ctx);
    }
}

impl Handler<Drain> for GoldActor {
    type Result = ();
    fn handle(&mut self, Drain: Drain, ctx: &mut Self::Context) {
        self.draining = true;
        if self.parts.drain {
            self.machine.drain();
        }
        self.pump(ctx);
    }
}
