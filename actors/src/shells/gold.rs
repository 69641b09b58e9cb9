//! GoldActor: merges committed partials into Gold windows. A generation of its own: its end restarts Gold alone.
//!
//! Owns: reading partials, the window row's CAS, publication, collection, its own supervision. Does not own: which window is due
//! (machines/gold), merging (engine), visible files (ports::GoldFiles).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use actix::{Actor, ActorFutureExt, AsyncContext, Context, Handler, Message, WrapFuture};
use arrow_array::RecordBatch;
use tokio::sync::watch;

pub use crate::machines::gold::GoldConfig;

use crate::history;
use crate::machines::gold::{GoldMachine, GoldWork, Load};
use crate::machines::restart::{RestartConfig, Restarts, Verdict};
use crate::model::epoch::{EpochObject, Hash, LedgerLine, ObjectRef};
use crate::model::fault::{Fault, Kind, Result};
use crate::model::position::ShardId;
use crate::model::row::{Base, ShardRow, WindowRow};
use crate::model::states;
use crate::ports::{Blobs, Cas, Clock, Engine, GoldFiles, LedgerFiles, Rows, WindowPermit};
use crate::shells::message::NewEpoch;
use crate::toolkit::crash;
use crate::toolkit::outlet::{Door, Notices};
use crate::toolkit::pause::Pause;
use crate::toolkit::spawn::{Exit, Generation, Place, spawn_watched, turns_true};

/// Decoded epoch objects that Gold keeps at hand, in bytes: many windows lie in the same few objects.
const CACHE_BYTES: usize = 128 << 20;
/// Mailbox of Gold. Only notices come in: at most two per shard wait for their commit to be told.
const MAILBOX: usize = 1 << 12;
/// Tries of one window's CAS while the row stands unchanged.
const SWAPS_MAX: u32 = 10;

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
    /// Where it computes.
    pub place: Place,
    /// At the end, emit windows that are still open too. An ordinary stop leaves them to the next start.
    pub drain: bool,
}

/// Runs Gold, generation after generation, until `draining` turns true and nothing is left to emit.
pub async fn supervise(parts: GoldParts, door: Door<NewEpoch>, mut draining: watch::Receiver<bool>) -> Result<()> {
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
        drop((generation, of));
        let ended = watch.ended();
        tokio::pin!(ended);
        let (_, exit) = tokio::select! {
            biased;
            exit = &mut ended => exit,
            () = turns_true(&mut draining) => {
                Notices::new(actor).tell(Drain);
                ended.await
            }
        };
        door.close();
        let fault = match exit {
            Exit::Finished => return Ok(()),
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
            Kind::Config | Kind::Corrupt | Kind::Poison => return Err(fault),
            Kind::Retry => Verdict::Restart { after_us: restarts.waited(random) },
            Kind::Fenced | Kind::Bug => restarts.failed(parts.clock.now_us(), random),
        };
        match verdict {
            Verdict::Quarantine => {
                tracing::error!(alert = "quarantine", %fault, "gold given up after too many restarts");
                return Err(fault);
            }
            Verdict::Restart { after_us } => tokio::time::sleep(Duration::from_micros(after_us.unsigned_abs())).await,
        }
    }
    Ok(())
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
    busy: bool,
    draining: bool,
    /// Pieces of work done by all generations of this process.
    done: Arc<AtomicU64>,
}

impl Actor for GoldActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.busy = true;
        let parts = self.parts.clone();
        let load = async move { load(&parts).await };
        ctx.spawn(load.into_actor(self).map(|loaded, actor, ctx| {
            let known = loaded.and_then(|loaded| actor.know(loaded));
            actor.go_on(known, ctx);
        }));
    }
}

/// What was committed, as read from the stores.
struct Loaded {
    windows: Vec<WindowRow>,
    shards: Vec<(ShardRow, Vec<history::Link>)>,
}

async fn load(parts: &GoldParts) -> Result<Loaded> {
    let shards = chains(parts).await?;
    // After the chains: what was collected out of them meanwhile is in the bases that these rows name.
    let mut windows = Vec::new();
    for table in parts.engine.tables() {
        windows.extend(parts.rows.windows(&table.name).await?);
    }
    sweep(parts, &windows).await?;
    Ok(Loaded { windows, shards })
}

/// Every shard's row and its epochs, newest first.
async fn chains(parts: &GoldParts) -> Result<Vec<(ShardRow, Vec<history::Link>)>> {
    let mut shards = Vec::new();
    for row in parts.rows.shards().await? {
        let chain = history::chain(parts.blobs.as_ref(), &row, 0).await?;
        shards.push((row, chain));
    }
    Ok(shards)
}

/// Deletes contents and bases that no row names: left by a crash between a put and its CAS. Only those whose CAS has been
/// decided, because the row stands at their number or past it: a younger one may belong to a swap that is still under way.
async fn sweep(parts: &GoldParts, windows: &[WindowRow]) -> Result<()> {
    let named: BTreeSet<&str> = windows
        .iter()
        .flat_map(|row| [row.content.as_ref(), row.base.as_ref().map(|base| &base.object)])
        .flatten()
        .map(|object| object.key.as_str())
        .collect();
    for table in parts.engine.tables() {
        let rows = || windows.iter().filter(|row| row.table == table.name.as_ref());
        let revisions: BTreeMap<i64, u64> = rows().map(|row| (row.start_us, row.revision)).collect();
        let versions: BTreeMap<i64, u64> = rows().map(|row| (row.start_us, row.version)).collect();
        for (folder, decided) in [("content", revisions), ("bases", versions)] {
            for key in parts.blobs.list(&format!("{folder}/{}/", table.name)).await? {
                let past = number_of(&key).is_some_and(|(start_us, number)| decided.get(&start_us).is_some_and(|n| number <= *n));
                if past && !named.contains(key.as_str()) {
                    parts.blobs.delete(&key).await?;
                }
            }
        }
    }
    Ok(())
}

/// Key of a content (`number` = its revision) or a base (`number` = the version of the row that first names it).
fn key_of(folder: &str, row: &WindowRow, number: u64, random: u64) -> String {
    format!("{folder}/{}/{}/{number:010}-{random:016x}", row.table, row.start_us)
}

/// Start of the window and number in such a key.
fn number_of(key: &str) -> Option<(i64, u64)> {
    let mut parts = key.rsplit('/');
    let (number, start_us) = (parts.next()?.split('-').next()?, parts.next()?);
    Some((start_us.parse().ok()?, number.parse().ok()?))
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
        Self { parts, generation, machine, cache, waiting, busy: false, draining: false, done }
    }

    fn know(&mut self, loaded: Loaded) -> Result<()> {
        for row in loaded.windows {
            self.machine.know_window(row);
        }
        self.know_shards(loaded.shards)
    }

    fn know_shards(&mut self, shards: Vec<(ShardRow, Vec<history::Link>)>) -> Result<()> {
        for (row, chain) in shards {
            self.machine.know_shard(row);
            for link in chain.into_iter().rev() {
                self.machine.know_epoch(&link.epoch.header, link.object)?;
            }
        }
        Ok(())
    }

    fn go_on(&mut self, done: Result<()>, ctx: &mut Context<Self>) {
        self.busy = false;
        match done {
            Ok(()) => self.pump(ctx),
            Err(fault) => self.generation.end("gold", Exit::from_fault(fault)),
        }
    }

    /// One thing at a time: notices first, then the next emission.
    fn pump(&mut self, ctx: &mut Context<Self>) {
        if self.busy || self.generation.is_ending() {
            return;
        }
        while let Some(NewEpoch(committed)) = self.waiting.pop_front() {
            let (row, header) = (committed.row, committed.header);
            let known = self.machine.known_epoch(&row.shard);
            self.machine.know_shard(row.clone());
            if header.epoch > known + 1 && known > 0 || known == 0 && header.epoch > 1 {
                return self.refresh(ctx);
            }
            let Some(object) = row.object else { continue };
            if let Err(fault) = self.machine.know_epoch(&header, object) {
                return self.generation.end("gold", Exit::from_fault(fault));
            }
        }
        match self.machine.next_work() {
            Ok(Some(work)) => self.work(work, ctx),
            Ok(None) if self.draining => self.generation.end("gold", Exit::Finished),
            Ok(None) => {}
            Err(fault) => self.generation.end("gold", Exit::from_fault(fault)),
        }
    }

    /// Reads from the rows what notices did not tell.
    fn refresh(&mut self, ctx: &mut Context<Self>) {
        let parts = self.parts.clone();
        tracing::debug!("gold reads the rows");
        self.spawn(ctx, async move { Ok(Done::Refreshed(chains(&parts).await?)) });
    }

    fn work(&mut self, work: GoldWork, ctx: &mut Context<Self>) {
        let (parts, cache) = (self.parts.clone(), self.cache.clone());
        self.spawn(ctx, async move {
            match work {
                GoldWork::Emit { table, row, expected, loads } => {
                    let row = emit(&parts, &cache, table, *row, expected, loads).await?;
                    Ok(Done::Row(Box::new(row)))
                }
                GoldWork::Publish { row, .. } => {
                    let content = row.content.clone().ok_or_else(|| Fault::corrupt("a revision without content"))?;
                    let content = history::read_verified(parts.blobs.as_ref(), &content).await?;
                    Ok(Done::Row(Box::new(publish(&parts, *row, content, None).await?)))
                }
                GoldWork::Rebase { table, row, expected, loads, vector, counts } => {
                    let row =
                        rebase(&parts, &cache, table, *row, expected, loads, |object| Base { object, vector, counts }).await?;
                    Ok(Done::Row(Box::new(row)))
                }
                GoldWork::Collect { lines, shard, through } => {
                    collect(&parts, &shard, lines, through).await?;
                    Ok(Done::Collected(shard, through))
                }
            }
        });
    }

    fn spawn(&mut self, ctx: &mut Context<Self>, work: impl Future<Output = Result<Done>> + 'static) {
        self.busy = true;
        ctx.spawn(work.into_actor(self).map(|done, actor, ctx| {
            actor.done.fetch_add(u64::from(done.is_ok()), Ordering::Relaxed);
            let done = done.and_then(|done| match done {
                Done::Row(row) => {
                    actor.machine.row_stands(*row);
                    Ok(())
                }
                Done::Collected(shard, through) => {
                    actor.machine.collected(&shard, through);
                    Ok(())
                }
                Done::Refreshed(shards) => actor.know_shards(shards),
            });
            actor.go_on(done, ctx);
        }));
    }
}

/// Epoch objects by key, oldest out first.
#[derive(Default)]
struct Cache {
    objects: VecDeque<(String, Arc<EpochObject>, usize)>,
    bytes: usize,
}

async fn cached(parts: &GoldParts, cache: &tokio::sync::Mutex<Cache>, object: &ObjectRef) -> Result<Arc<EpochObject>> {
    let mut cache = cache.lock().await;
    if let Some((_, found, _)) = cache.objects.iter().find(|(key, _, _)| *key == object.key) {
        return Ok(found.clone());
    }
    let read = Arc::new(history::read(parts.blobs.as_ref(), object).await?);
    cache.bytes += object.len as usize;
    cache.objects.push_back((object.key.clone(), read.clone(), object.len as usize));
    while cache.bytes > CACHE_BYTES && cache.objects.len() > 1 {
        if let Some((_, _, len)) = cache.objects.pop_front() {
            cache.bytes -= len;
        }
    }
    Ok(read)
}

/// The merge of a window's base and these partials; none = there is nothing.
async fn merged(
    parts: &GoldParts,
    cache: &tokio::sync::Mutex<Cache>,
    table: usize,
    row: &WindowRow,
    loads: Vec<Load>,
) -> Result<RecordBatch> {
    let mut pieces = Vec::new();
    if let Some(base) = &row.base {
        pieces.push(states::decode(&history::read_verified(parts.blobs.as_ref(), &base.object).await?)?);
    }
    for load in loads {
        let object = cached(parts, cache, &load.object).await?;
        for segment in &load.segments {
            pieces.push(states::decode(&object.segment(segment)?)?);
        }
    }
    parts.engine.merge(table, &pieces)
}

async fn emit(
    parts: &GoldParts,
    cache: &tokio::sync::Mutex<Cache>,
    table: usize,
    mut row: WindowRow,
    expected: u64,
    loads: Vec<Load>,
) -> Result<WindowRow> {
    let windowing = parts.engine.tables()[table].windowing;
    let states = merged(parts, cache, table, &row, loads).await?;
    let finished = parts.engine.finish(table, windowing.starting(row.start_us), &states)?;
    let content = parts.gold_files.encode(&row.table, &finished.rows)?;
    let key = key_of("content", &row, row.revision, parts.clock.random());
    parts.blobs.put(&key, content.clone()).await?;
    crash::pass("gold.after_content");
    let old = parts.rows.window(&row.table, row.start_us).await?.and_then(|old| old.content);
    row.content = Some(ObjectRef { key, len: content.len() as u64, sha256: Hash::of(&content) });
    row.rows = finished.rows.num_rows() as u64;
    row.overflow = finished.overflow;
    swap(parts, expected, &row).await?;
    crash::pass("gold.after_swap");
    if row.overflow {
        tracing::error!(alert = "overflow", table = row.table, start_us = row.start_us, "an integer sum left its range");
    }
    publish(parts, row, content, old).await
}

/// Makes a revision visible, notes that it is, and forgets the content before it.
async fn publish(parts: &GoldParts, mut row: WindowRow, content: bytes::Bytes, old: Option<ObjectRef>) -> Result<WindowRow> {
    parts.gold_files.publish(WindowPermit::won(row.revision), &row, content).await?;
    crash::pass("gold.after_publish");
    tracing::info!(table = row.table, start_us = row.start_us, revision = row.revision, status = row.status.as_str(), "gold");
    let expected = row.version;
    row.published = row.revision;
    row.version += 1;
    swap(parts, expected, &row).await?;
    if let Some(old) = old {
        parts.blobs.delete(&old.key).await?;
    }
    Ok(row)
}

async fn rebase(
    parts: &GoldParts,
    cache: &tokio::sync::Mutex<Cache>,
    table: usize,
    mut row: WindowRow,
    expected: u64,
    loads: Vec<Load>,
    base: impl FnOnce(ObjectRef) -> Base,
) -> Result<WindowRow> {
    let states = states::encode(&merged(parts, cache, table, &row, loads).await?)?;
    let key = key_of("bases", &row, row.version, parts.clock.random());
    parts.blobs.put(&key, states.clone()).await?;
    crash::pass("base.after_put");
    let old = row.base.replace(base(ObjectRef { key, len: states.len() as u64, sha256: Hash::of(&states) }));
    swap(parts, expected, &row).await?;
    crash::pass("base.after_swap");
    if let Some(old) = old {
        parts.blobs.delete(&old.object.key).await?;
    }
    Ok(row)
}

/// The window row's compare-and-set. An answer that did not come is settled by reading the row.
async fn swap(parts: &GoldParts, expected: u64, row: &WindowRow) -> Result<()> {
    let mut pause = Pause::new(parts.clock.clone());
    for _ in 0..SWAPS_MAX {
        let answer = parts.rows.update_window(expected, row).await;
        if matches!(answer, Ok(Cas::Won)) {
            return Ok(());
        }
        let stored = parts.rows.window(&row.table, row.start_us).await?;
        if stored.as_ref() == Some(row) {
            return Ok(());
        }
        if stored.map_or(0, |stored| stored.version) != expected {
            return Err(Fault::fenced(format!("window {} of {} was changed by somebody else", row.start_us, row.table)));
        }
        if let Err(fault) = answer {
            pause.after("swapping a window row", &fault).await;
        }
    }
    Err(Fault::retry(format!("window {} of {} could not be swapped {SWAPS_MAX} times in a row", row.start_us, row.table)))
}

/// Ledger first, then the objects, oldest first: a crash in between leaves a shorter chain that still joins its ledger. Objects
/// of tries that never became true go with them.
async fn collect(parts: &GoldParts, shard: &ShardId, lines: Vec<LedgerLine>, through: u64) -> Result<()> {
    let written = parts.ledger.lines(shard).await?.last().map_or(0, |line| line.header.epoch);
    let fresh: Vec<LedgerLine> = lines.into_iter().filter(|line| line.header.epoch > written).collect();
    if !fresh.is_empty() {
        parts.ledger.append(&fresh).await?;
    }
    crash::pass("collect.after_ledger");
    // In order of keys, which is the order of epochs.
    for key in parts.blobs.list(&history::prefix(shard)).await? {
        if history::epoch_of(&key).is_some_and(|epoch| epoch <= through) {
            parts.blobs.delete(&key).await?;
            crash::pass("collect.after_delete");
        }
    }
    Ok(())
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
