//! The pipeline: every shard under its supervisor, and Gold beside them.
//!
//! Owns: rows of new shards, the order of beginning and end. Does not own: which shards run here (crew), one shard's generations
//! (supervisor), the actors of a generation (wiring), the process (src/run).

mod crew;
mod fleet;
mod handed;
mod ingest;
mod rebuild;
mod supervisor;
mod tick;
mod turn;
mod wiring;

pub use ingest::{Handed, Ingested, Open, ingest};
pub use tick::{Ticked, tick};
pub use turn::owner_until;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use self::crew::Crew;
use crate::machines::commit::CommitConfig;
use crate::machines::restart::RestartConfig;
use crate::machines::shard::ShardConfig;
use crate::model::fault::{Fault, Result};
use crate::model::letter::Postmark;
use crate::model::position::{Position, ShardId};
use crate::model::row::{ShardRow, ShardState};
use crate::ports::{Blobs, Clock, Engine, GoldFiles, Leases, LedgerFiles, Outputs, Rows, ShardInfo, Stream};
use crate::shells::commit::{Steps, retrying};
use crate::shells::feed::{self, FeedParts, Feeders, Sinks};
use crate::shells::gold::{self, GoldConfig, GoldEnd};
use crate::shells::message::NewEpoch;
use crate::shells::shard::FetchLimits;
use crate::toolkit::board::{Board, Life, SinkLife};
use crate::toolkit::crash;
use crate::toolkit::flag::Flag;
use crate::toolkit::outlet::Door;
use crate::toolkit::spawn::{Place, turns_true};

/// The world and the settings of a pipeline.
#[derive(Clone)]
pub struct Parts {
    /// The stream.
    pub stream: Arc<dyn Stream>,
    /// Rows.
    pub rows: Arc<dyn Rows>,
    /// Epoch objects, Gold contents, bases.
    pub blobs: Arc<dyn Blobs>,
    /// Staged files.
    pub outputs: Arc<dyn Outputs>,
    /// Visible Gold.
    pub gold_files: Arc<dyn GoldFiles>,
    /// The table `ledger`.
    pub ledger: Arc<dyn LedgerFiles>,
    /// Where Gold and letters are handed on to.
    pub sinks: Sinks,
    /// Decode, Silver, Gold.
    pub engine: Arc<dyn Engine>,
    /// Time and chance.
    pub clock: Arc<dyn Clock>,
    /// For everybody to look at.
    pub board: Arc<Board>,
    /// Other workers share the shards; none where one worker has them all.
    pub fleet: Option<Fleet>,
    /// Settings.
    pub config: Arc<PipelineConfig>,
}

/// What it takes to share shards with other workers. Each has an `owner` of its own in its settings, which no process ever had
/// before.
#[derive(Clone)]
pub struct Fleet {
    /// Life signs, on a connection of their own.
    pub leases: Arc<dyn Leases>,
    /// A worker that shows no sign of life for so long counts as gone.
    pub failover: Duration,
    /// Where life signs are sent from; none = the caller's thread.
    pub thread: Option<tokio::runtime::Handle>,
}

/// Settings of a pipeline.
#[derive(Clone, Debug)]
pub struct PipelineConfig {
    /// `host:pid`, for people; in a fleet with something that makes it unique.
    pub owner: String,
    /// Pipeline id.
    pub pipeline: String,
    /// When the pipeline was made, microseconds since 1970: sinks see a rebuilt one as newer.
    pub created_us: i64,
    /// What letters have in common.
    pub postmark: Postmark,
    /// Is Bronze written?
    pub bronze_on: bool,
    /// Partitions per shard, 1 to 10.
    pub parallelism: usize,
    /// Bytes that one shard may hold.
    pub in_flight: usize,
    /// One fetch.
    pub fetch: FetchLimits,
    /// The shard's decisions.
    pub shard: ShardConfig,
    /// Restart policy.
    pub restart: RestartConfig,
    /// Gold.
    pub gold: GoldConfig,
    /// Where a shard begins that the stream lists and no row knows: its start, or one time of arrival, the same at every run. A
    /// shard that comes out of one of ours always begins at its own start.
    pub start: Position,
}

/// Threads for the actors that compute; the others stay on the caller's thread.
#[derive(Clone, Debug)]
pub struct Places(pub Vec<Place>);

impl Places {
    fn get(&self, index: usize) -> Place {
        self.0.get(index % self.0.len().max(1)).cloned().unwrap_or(Place::Here)
    }
}

/// How a run ended.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Shards that were given up, with the reason: quarantined, tripped, halted.
    pub lost: Vec<(ShardId, Fault)>,
    /// Gold was given up.
    pub gold: Option<Fault>,
    /// Sinks that were given up, or, after a drain, do not have everything. What waits for them is kept.
    pub sinks: Vec<(String, Fault)>,
}

impl Outcome {
    /// Did every shard, Gold and every sink end as they should?
    pub fn is_good(&self) -> bool {
        self.lost.is_empty() && self.gold.is_none() && self.sinks.is_empty()
    }
}

/// Runs until `stop` turns true, or, when draining, until everything is read, committed and emitted.
pub async fn run(parts: Parts, places: Places, mut stop: watch::Receiver<bool>) -> Result<Outcome> {
    tokio::select! {
        biased;
        begun = begin(&parts) => begun?,
        // Services that are away are waited for, but not by somebody who is asked to end.
        () = turns_true(&mut stop) => return Ok(Outcome::default()),
    }
    let door = Door::closed();
    let (gold_drain, gold_draining) = watch::channel(false);
    let gold = actix::spawn(make_gold(parts.clone(), places.clone(), door.clone(), gold_draining));
    let stopping = Flag::default();
    let forward = actix::spawn(raise(stopping.clone(), stop));
    let board = parts.board.clone();
    let outcome = Crew::new(parts, places, door).run(stopping).await;
    forward.abort();
    let mut outcome = outcome?;
    gold_drain.send_replace(true);
    match gold.await {
        Ok(Ok(())) => {}
        Ok(Err(fault)) => outcome.gold = Some(fault),
        Err(error) => outcome.gold = Some(Fault::bug(format!("the supervisor of Gold ended: {error}"))),
    }
    let left = |life| match life {
        SinkLife::Quarantined | SinkLife::Behind => true,
        SinkLife::Feeding | SinkLife::Waiting | SinkLife::Finished => false,
    };
    let left = board.sinks().into_iter().filter(|(_, live)| left(live.life));
    outcome.sinks = left.filter_map(|(sink, live)| Some((sink, live.last_fault?))).collect();
    Ok(outcome)
}

/// Rows of the shards, and of the sinks.
async fn begin(parts: &Parts) -> Result<()> {
    let clock = || parts.clock.clone();
    let infos = retrying(clock(), "listing the stream's shards", || parts.stream.shards()).await?;
    retrying(clock(), "creating rows of shards", || create_rows(parts, &infos)).await?;
    crash::pass("start.after_rows");
    begin_sinks(parts).await
}

/// Before the first record: a sink that is there from the start gets every letter.
async fn begin_sinks(parts: &Parts) -> Result<()> {
    let feed_parts = parts.feed_parts();
    retrying(parts.clock.clone(), "making sinks known", || {
        let parts = feed_parts.clone();
        // In a task of its own: a panic in a store is one more try.
        let begun = actix::spawn(async move { feed::begin(&parts).await });
        async { begun.await.unwrap_or_else(|error| Err(Fault::retry(format!("making sinks known: {error}")))) }
    })
    .await
}

async fn make_gold(parts: Parts, places: Places, door: Door<NewEpoch>, finish: watch::Receiver<bool>) -> Result<()> {
    match parts.fleet.clone() {
        Some(fleet) => fleet::gold(parts, fleet, places, door, finish).await,
        None => gold_and_sinks(&parts, &places, door, finish, Flag::default()).await.map(|_finished| ()),
    }
}

/// Gold, and beside it, where it goes on to. `lost` ends both.
async fn gold_and_sinks(
    parts: &Parts,
    places: &Places,
    door: Door<NewEpoch>,
    finish: watch::Receiver<bool>,
    lost: Flag,
) -> Result<GoldEnd> {
    let feeders = Feeders::start(&parts.feed_parts());
    let ended = gold::supervise(parts.gold_parts(places, feeders.bells()), door, finish, lost.clone()).await;
    if matches!(ended, Ok(GoldEnd::Lost)) {
        return ended;
    }
    tokio::select! {
        biased;
        () = lost.wait() => Ok(GoldEnd::Lost),
        () = feeders.finish() => ended,
    }
}

/// One receiver for all shards: see [`Flag`].
async fn raise(flag: Flag, mut stop: watch::Receiver<bool>) {
    turns_true(&mut stop).await;
    flag.raise();
}

impl Parts {
    fn feed_parts(&self) -> FeedParts {
        FeedParts {
            sinks: self.sinks.clone(),
            rows: self.rows.clone(),
            blobs: self.blobs.clone(),
            outputs: self.outputs.clone(),
            gold_files: self.gold_files.clone(),
            ledger: self.ledger.clone(),
            engine: self.engine.clone(),
            clock: self.clock.clone(),
            board: self.board.clone(),
            restart: self.config.restart,
            created_us: self.config.created_us,
            shared: self.fleet.is_some(),
            drain: self.config.shard.drain,
        }
    }

    fn steps(&self) -> Steps {
        let Self { rows, blobs, outputs, clock, .. } = self.clone();
        Steps { rows, blobs, outputs, clock }
    }

    fn commit_config(&self, partitions: usize) -> CommitConfig {
        CommitConfig {
            pipeline: self.config.pipeline.clone(),
            fingerprint: self.config.postmark.fingerprint.to_string(),
            bronze_on: self.config.bronze_on,
            handed_after: None,
            partitions,
            tables: self.engine.tables().to_vec(),
        }
    }

    fn gold_parts(&self, places: &Places, bells: feed::Bells) -> gold::GoldParts {
        gold::GoldParts {
            rows: self.rows.clone(),
            blobs: self.blobs.clone(),
            gold_files: self.gold_files.clone(),
            ledger: self.ledger.clone(),
            engine: self.engine.clone(),
            clock: self.clock.clone(),
            restart: self.config.restart,
            config: self.config.gold.clone(),
            bells,
            place: places.get(0),
            drain: self.config.shard.drain,
            others: self.fleet.as_ref().map(Fleet::beat),
        }
    }
}

/// A row for every shard that the stream lists and we don't know: open if nothing stands before it, else blocked.
async fn create_rows(parts: &Parts, infos: &[ShardInfo]) -> Result<()> {
    let known: BTreeMap<ShardId, ShardRow> = parts.rows.shards().await?.into_iter().map(|row| (row.shard.clone(), row)).collect();
    for info in infos {
        if known.contains_key(&info.shard) {
            continue;
        }
        // A parent that is ours comes first although the stream may have forgotten it unread.
        let is_there = |parent: &ShardId| known.contains_key(parent) || infos.iter().any(|other| other.shard == *parent);
        let waits = info.parents.iter().any(is_there);
        parts.rows.create_shard(&new_row(parts, info, waits)).await?;
    }
    Ok(())
}

/// A shard may be merged with one whose own parent is still being read: it has no row yet, and is not forgotten either.
fn lacks_a_parent(row: &ShardRow, rows: &[ShardRow]) -> bool {
    row.state == ShardState::Blocked && row.parents.iter().any(|parent| rows.iter().all(|other| other.shard != *parent))
}

/// Whatever the stream still lists has a row after this: a parent without one is forgotten.
async fn rows_of_all_listed(parts: &Parts) -> Result<Vec<ShardRow>> {
    create_rows(parts, &parts.stream.shards().await?).await?;
    parts.rows.shards().await
}

fn new_row(parts: &Parts, info: &ShardInfo, waits: bool) -> ShardRow {
    let state = if waits { ShardState::Blocked } else { ShardState::Open };
    let row = ShardRow::new(&*parts.stream.name(), info.shard.clone(), (info.hash_start, info.hash_end), state);
    ShardRow { parents: info.parents.clone(), position: parts.config.start, ..row }
}

/// Open shards run; a blocked one runs once every parent that has a row is drained. A drained one is taken over once per process:
/// its last owner may have died between the final commit and the publication of what it committed.
fn may_open(parts: &Parts, row: &ShardRow, rows: &[ShardRow]) -> bool {
    match row.state {
        ShardState::Open | ShardState::Drained => true,
        ShardState::Retired => false,
        ShardState::Blocked => {
            if parts.board.get(&row.shard).is_none() {
                parts.board.update(&row.shard, |live| live.life = Life::Blocked);
            }
            let parents = rows.iter().filter(|other| row.parents.contains(&other.shard));
            parents.map(|parent| parent.state).all(|state| match state {
                ShardState::Drained | ShardState::Retired => true,
                ShardState::Blocked | ShardState::Open => false,
            })
        }
    }
}
