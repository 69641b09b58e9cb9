//! Feeding: hands published Gold and committed letters on to sinks. It runs beside Gold, where Gold runs.
//!
//! Each sink has a task of its own, which repeats what fails: no sink waits for another, and nothing of the pipeline waits for a
//! sink, unless its settings say so. What a sink has stands in rows under compare-and-set, written behind the sink's answer:
//! whatever dies in between is done again, and sinks are idempotent.
//!
//! Owns: the tasks, their restarts and their end. Does not own: what is due (machines/feed), one window (gold), letters
//! (letters).

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;

use crate::machines::feed::letters::letter_files;
use crate::machines::restart::{RestartConfig, Restarts, Verdict};
use crate::model::epoch::{EpochHeader, PendingOutput};
use crate::model::fault::{Fault, Kind, Result};
use crate::model::feed::FeedRow;
use crate::model::position::ShardId;
use crate::model::row::WindowRow;
use crate::ports::{Blobs, Cas, Clock, Engine, GoldFiles, GoldSink, LedgerFiles, LetterSink, Outputs, Rows};
use crate::toolkit::bell::Bell;
use crate::toolkit::board::{Board, SinkLife};
use crate::toolkit::flag::Flag;
use crate::toolkit::pause::Pause;
use crate::toolkit::spawn::panic_of;

mod gold;
mod letters;

/// Tries of one row's CAS while the row stands unchanged.
const SWAPS_MAX: u32 = 10;
/// When a draining run ends: a sink that fails so often in a row, for about two minutes, is left behind. The next run gives it
/// the rest.
const LAST_TRIES: u32 = 32;
/// How often a sink that has nothing to do looks whether it is behind.
const LOOK: Duration = Duration::from_secs(1);

/// Where Gold is handed on to.
#[derive(Clone)]
pub struct GoldOutlet {
    /// The sink.
    pub sink: Arc<dyn GoldSink>,
    /// Gold tables, by their number.
    pub tables: Vec<usize>,
    /// An alert when a window waits for longer.
    pub max_lag_us: i64,
    /// A window is handed over whole, from memory: one whose stored content has more bytes is refused.
    pub max_window: u64,
}

/// Where letters are handed on to.
#[derive(Clone)]
pub struct LetterOutlet {
    /// The sink.
    pub sink: Arc<dyn LetterSink>,
    /// An alert when more letters wait …
    pub max_backlog: u64,
    /// … and shards read nothing until half of them are gone.
    pub holds: bool,
    /// A sink that was not known before gets the letters that were there before it, too.
    pub replay: bool,
}

/// All sinks of a pipeline.
#[derive(Clone, Default)]
pub struct Sinks {
    /// Of Gold.
    pub gold: Vec<GoldOutlet>,
    /// Of letters.
    pub letters: Vec<LetterOutlet>,
}

impl Sinks {
    /// Are there none?
    pub fn is_empty(&self) -> bool {
        self.gold.is_empty() && self.letters.is_empty()
    }

    /// May any of them make shards wait?
    pub fn may_hold(&self) -> impl Iterator<Item = &str> {
        self.letters.iter().filter(|outlet| outlet.holds).map(|outlet| outlet.sink.name())
    }
}

/// The world of feeding.
#[derive(Clone)]
pub struct FeedParts {
    /// The sinks.
    pub sinks: Sinks,
    /// Rows.
    pub rows: Arc<dyn Rows>,
    /// Contents, keys of what sinks show, epoch objects.
    pub blobs: Arc<dyn Blobs>,
    /// Visible letters.
    pub outputs: Arc<dyn Outputs>,
    /// Reads contents.
    pub gold_files: Arc<dyn GoldFiles>,
    /// Epochs that are collected.
    pub ledger: Arc<dyn LedgerFiles>,
    /// Keys of Gold tables.
    pub engine: Arc<dyn Engine>,
    /// Time and chance.
    pub clock: Arc<dyn Clock>,
    /// For everybody to look at.
    pub board: Arc<Board>,
    /// Restart policy.
    pub restart: RestartConfig,
    /// When the pipeline was made: part of every version.
    pub created_us: i64,
    /// Other workers look in the rows whether they must wait.
    pub shared: bool,
    /// At the end, everything is handed on, and a sink that does not take it is a bad end.
    pub drain: bool,
}

type GoldBell = Bell<(String, i64), u64>;
type LetterBell = Bell<(ShardId, u64), Vec<PendingOutput>>;

/// What Gold rings when it has news. Whoever misses it reads the rows.
#[derive(Clone, Debug, Default)]
pub struct Bells {
    gold: Vec<GoldBell>,
    letters: Vec<LetterBell>,
}

impl Bells {
    /// A window's row stands like this.
    pub(crate) fn stands(&self, row: &WindowRow) {
        for bell in self.gold.iter().filter(|_| row.revision > 0) {
            bell.ring((row.table.clone(), row.start_us), row.revision);
        }
    }

    /// An epoch is true.
    pub(crate) fn committed(&self, header: &EpochHeader) {
        for bell in &self.letters {
            bell.ring((header.shard.clone(), header.epoch), letter_files(&header.outputs));
        }
    }
}

/// A sink has everything, or is left behind for this reason.
type Ended = Result<Option<Fault>>;

/// The tasks of all sinks; they end when it is dropped.
pub struct Feeders {
    bells: Bells,
    finish: Flag,
    tasks: Vec<Task<()>>,
    parts: FeedParts,
}

impl Drop for Feeders {
    fn drop(&mut self) {
        // Whoever feeds from now on says in the rows whether shards must wait.
        for outlet in &self.parts.sinks.letters {
            self.parts.board.update_sink(outlet.sink.name(), |live| live.holds = false);
        }
    }
}

/// A task that ends when it is dropped.
struct Task<T>(JoinHandle<T>);

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Feeders {
    /// Starts feeding.
    pub fn start(parts: &FeedParts) -> Self {
        let (mut bells, finish, mut tasks) = (Bells::default(), Flag::default(), Vec::new());
        for outlet in &parts.sinks.gold {
            let bell = GoldBell::default();
            bells.gold.push(bell.clone());
            let (parts, outlet, finish) = (parts.clone(), outlet.clone(), finish.clone());
            tasks.push(Task(actix::spawn(async move {
                let turn = || gold::feed(parts.clone(), outlet.clone(), bell.clone(), finish.clone());
                supervise(&parts, outlet.sink.name(), turn).await;
            })));
        }
        for outlet in &parts.sinks.letters {
            let bell = LetterBell::default();
            bells.letters.push(bell.clone());
            let (parts, outlet, finish) = (parts.clone(), outlet.clone(), finish.clone());
            tasks.push(Task(actix::spawn(async move {
                let turn = || letters::feed(parts.clone(), outlet.clone(), bell.clone(), finish.clone());
                supervise(&parts, outlet.sink.name(), turn).await;
            })));
        }
        Self { bells, finish, tasks, parts: parts.clone() }
    }

    /// Where Gold rings.
    pub fn bells(&self) -> Bells {
        self.bells.clone()
    }

    /// Nothing more comes: hands on what is left, as far as the sinks take it.
    pub async fn finish(mut self) {
        self.finish.raise();
        for task in &mut self.tasks {
            // How it ended stands on the board.
            drop((&mut task.0).await);
        }
    }
}

/// One sink, until it is finished or given up: never a reason for anything else to end.
async fn supervise<F>(parts: &FeedParts, sink: &str, turn: impl Fn() -> F)
where
    F: Future<Output = Ended> + 'static,
{
    let mut restarts = Restarts::new(parts.restart);
    loop {
        parts.board.update_sink(sink, |live| live.life = SinkLife::Feeding);
        // In a task of its own: a panic of a sink is the sink's.
        let mut task = Task(actix::spawn(turn()));
        let ended = (&mut task.0).await.unwrap_or_else(|error| {
            let text = panic_of(error).unwrap_or_else(|| "aborted".to_owned());
            Err(Fault::bug(format!("the sink {sink} panicked: {text}")))
        });
        let fault = match ended {
            Ok(None) => return parts.board.update_sink(sink, |live| live.life = SinkLife::Finished),
            Ok(Some(fault)) => {
                tracing::warn!(sink, %fault, "the run ends before the sink has everything: the next one goes on");
                let life = if parts.drain { SinkLife::Behind } else { SinkLife::Finished };
                return parts.board.update_sink(sink, |live| (live.life, live.last_fault) = (life, Some(fault)));
            }
            Err(fault) => fault,
        };
        let random = parts.clock.random();
        let verdict = match fault.kind() {
            Kind::Config | Kind::Corrupt | Kind::Poison => Verdict::Quarantine,
            Kind::Retry => Verdict::Restart { after_us: restarts.waited(random) },
            Kind::Fenced | Kind::Bug => restarts.failed(parts.clock.now_us(), random),
        };
        parts.board.update_sink(sink, |live| (live.life, live.last_fault) = (SinkLife::Waiting, Some(fault.clone())));
        match verdict {
            Verdict::Quarantine => {
                tracing::error!(alert = "quarantine", sink, kind = ?fault.kind(), %fault, "sink given up: its backlog waits");
                // Nobody waits for what does not come back by itself.
                parts.board.update_sink(sink, |live| (live.life, live.holds) = (SinkLife::Quarantined, false));
                if let Err(fault) = letters::say(parts, sink, false).await {
                    tracing::warn!(sink, %fault, "other workers may still wait for a sink that was given up");
                }
                return;
            }
            Verdict::Restart { after_us } => {
                tracing::error!(sink, kind = ?fault.kind(), %fault, "feeding a sink starts again");
                tokio::time::sleep(Duration::from_micros(after_us.unsigned_abs())).await;
            }
        }
    }
}

/// What follows from the last try of a sink.
struct Patience {
    pause: Pause,
    finish: Flag,
    failed: u32,
    most: u32,
}

impl Patience {
    fn new(parts: &FeedParts, finish: Flag) -> Self {
        let most = if parts.drain { LAST_TRIES } else { 1 };
        Self { pause: Pause::new(parts.clock.clone()), finish, failed: 0, most }
    }

    /// It worked.
    fn renew(&mut self, parts: &FeedParts, sink: &str) {
        self.failed = 0;
        self.pause = Pause::new(parts.clock.clone());
        parts.board.update_sink(sink, |live| live.life = SinkLife::Feeding);
    }

    /// It did not: waits, unless the run ends and it has been tried often enough. Faults that waiting does not heal come back.
    async fn spend(&mut self, parts: &FeedParts, sink: &str, fault: Fault) -> Result<Option<Fault>> {
        match fault.kind() {
            // Another feeder was here: what it wrote is read again.
            Kind::Retry | Kind::Fenced => {}
            Kind::Poison | Kind::Config | Kind::Corrupt | Kind::Bug => return Err(fault),
        }
        parts.board.update_sink(sink, |live| (live.life, live.last_fault) = (SinkLife::Waiting, Some(fault.clone())));
        if self.finish.is_raised() {
            self.failed += 1;
            if self.failed >= self.most {
                return Ok(Some(fault));
            }
        }
        self.pause.after(&format!("feeding {sink}"), &fault).await;
        Ok(None)
    }
}

/// A row's compare-and-set, from the version before its own. An answer that did not come is settled by reading the row.
async fn swap(parts: &FeedParts, row: &FeedRow) -> Result<()> {
    let (expected, key) = (row.version - 1, row.key());
    let mut pause = Pause::new(parts.clock.clone());
    for _ in 0..SWAPS_MAX {
        let answer = parts.rows.update_feed(expected, row).await;
        if matches!(answer, Ok(Cas::Won)) {
            return Ok(());
        }
        let stored = parts.rows.feed(&row.sink, &key).await?;
        if stored.as_ref() == Some(row) {
            return Ok(());
        }
        if stored.map_or(0, |stored| stored.version) != expected {
            return Err(Fault::fenced(format!("the row {key} of the sink {} was changed by somebody else", row.sink)));
        }
        if let Err(fault) = answer {
            if fault.kind() != Kind::Retry {
                return Err(fault);
            }
            pause.after("swapping a sink's row", &fault).await;
        }
    }
    Err(Fault::retry(format!("the row {key} of the sink {} could not be swapped {SWAPS_MAX} times in a row", row.sink)))
}

/// Makes every sink known that is not: what a pipeline does before its first record, so that a sink that is there from the start
/// gets every letter. One that comes later begins with the letters after it, or, if its settings say so, with all that are kept.
pub async fn begin(parts: &FeedParts) -> Result<()> {
    for outlet in &parts.sinks.letters {
        letters::begin(parts, outlet).await?;
    }
    Ok(())
}

/// Must the shards of this process wait, as far as the worker that feeds the sinks has said in the rows?
pub async fn is_held(sinks: &Sinks, rows: &dyn Rows) -> Result<bool> {
    for sink in sinks.may_hold() {
        if letters::holds(rows, sink).await? {
            return Ok(true);
        }
    }
    Ok(false)
}
