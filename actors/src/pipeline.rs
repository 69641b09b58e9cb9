//! The pipeline: one supervised generation of actors per shard, and Gold beside them.
//!
//! Owns: wiring, who restarts after what, blocked and ended shards, draining and stopping. It is the only file that knows every
//! actor. Does not own: decisions inside a generation (machines), the process (src/run).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use actix::{Addr, Message, Recipient};
use tokio::sync::{mpsc, watch};

use crate::history::{Taken, take_over};
use crate::machines::barrier::Inlet;
use crate::machines::commit::{CommitConfig, CommitMachine, History};
use crate::machines::partition::PartitionMachine;
use crate::machines::restart::{RestartConfig, Restarts, Verdict};
use crate::machines::shard::{Opening, ShardConfig, ShardMachine};
use crate::model::fault::{Fault, Kind, Result};
use crate::model::letter::Postmark;
use crate::model::position::{Position, ShardId};
use crate::model::row::{ShardRow, ShardState};
use crate::model::window::Bound;
use crate::ports::{Blobs, Clock, Engine, GoldFiles, LedgerFiles, Outputs, Rows, ShardInfo, Stream};
use crate::shells::commit::{CommitActor, retrying};
use crate::shells::dlq::DlqActor;
use crate::shells::gold::{self, GoldConfig};
use crate::shells::message::{NewEpoch, Stop};
use crate::shells::partition::PartitionActor;
use crate::shells::shard::{FetchLimits, ShardActor};
use crate::shells::writer::WriterActor;
use crate::toolkit::board::{Board, Life};
use crate::toolkit::crash;
use crate::toolkit::credit::Budget;
use crate::toolkit::outlet::{Door, Notices, Numbering, Outlet};
use crate::toolkit::spawn::{Exit, Generation, Place, panic_of, spawn_watched, spawn_watched_with, turns_true};

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
    /// Decode, Silver, Gold.
    pub engine: Arc<dyn Engine>,
    /// Time and chance.
    pub clock: Arc<dyn Clock>,
    /// For everybody to look at.
    pub board: Arc<Board>,
    /// Settings.
    pub config: Arc<PipelineConfig>,
}

/// Settings of a pipeline.
#[derive(Clone, Debug)]
pub struct PipelineConfig {
    /// `host:pid`, for people.
    pub owner: String,
    /// Pipeline id.
    pub pipeline: String,
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
}

impl Outcome {
    /// Did every shard and Gold end as they should?
    pub fn is_good(&self) -> bool {
        self.lost.is_empty() && self.gold.is_none()
    }
}

/// How often the supervisor looks at the board.
const LOOK: Duration = Duration::from_millis(50);

/// Runs until `stop` turns true, or, when draining, until everything is read, committed and emitted.
pub async fn run(parts: Parts, places: Places, stop: watch::Receiver<bool>) -> Result<Outcome> {
    let clock = || parts.clock.clone();
    let infos = retrying(clock(), "listing the stream's shards", || parts.stream.shards()).await?;
    retrying(clock(), "creating rows of shards", || create_rows(&parts, &infos)).await?;
    crash::pass("start.after_rows");
    let door = Door::closed();
    let (gold_drain, gold_draining) = watch::channel(false);
    let gold = actix::spawn(gold::supervise(parts.gold_parts(&places), door.clone(), gold_draining));
    let mut outcome = shards(&parts, &places, stop, &door).await?;
    gold_drain.send_replace(true);
    match gold.await {
        Ok(Ok(())) => {}
        Ok(Err(fault)) => outcome.gold = Some(fault),
        Err(error) => outcome.gold = Some(Fault::bug(format!("the supervisor of Gold ended: {error}"))),
    }
    Ok(outcome)
}

/// Supervises every shard until each has ended for good.
async fn shards(parts: &Parts, places: &Places, stop: watch::Receiver<bool>, door: &Door<NewEpoch>) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let (ended, mut endings) = mpsc::unbounded_channel();
    let (finish, finishing) = watch::channel(false);
    let mut supervised = BTreeSet::new();
    let mut running = 0usize;
    loop {
        let rows = retrying(parts.clock.clone(), "reading the rows of shards", || parts.rows.shards()).await?;
        for (index, row) in rows.iter().enumerate() {
            if may_open(parts, row, &rows) && supervised.insert(row.shard.clone()) {
                running += 1;
                let shard = row.shard.clone();
                let (parts, places, door) = (parts.clone(), places.clone(), door.clone());
                let supervisor = Arc::new(Supervisor { parts, places, index, shard: shard.clone(), door });
                let (ended, stop, finishing) = (ended.clone(), stop.clone(), finishing.clone());
                actix::spawn(async move {
                    let end = supervisor.supervise(stop, finishing).await;
                    // The receiver lives as long as this function; when it is gone nobody waits for the answer.
                    drop(ended.send((shard, end)));
                });
            }
        }
        if running == 0 {
            return Ok(outcome);
        }
        tokio::select! {
            // First: a shard that has just ended may have children that are not on the board yet.
            biased;
            Some((shard, end)) = endings.recv() => {
                running -= 1;
                if let Err(fault) = end {
                    outcome.lost.push((shard, fault));
                }
            }
            () = tokio::time::sleep(LOOK) => {
                if parts.config.shard.drain && parts.board.all_quiet() {
                    finish.send_replace(true);
                }
            }
        }
    }
}

impl Parts {
    fn gold_parts(&self, places: &Places) -> gold::GoldParts {
        gold::GoldParts {
            rows: self.rows.clone(),
            blobs: self.blobs.clone(),
            gold_files: self.gold_files.clone(),
            ledger: self.ledger.clone(),
            engine: self.engine.clone(),
            clock: self.clock.clone(),
            restart: self.config.restart,
            config: self.config.gold.clone(),
            place: places.get(0),
            drain: self.config.shard.drain,
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
        let waits = info.parents.iter().any(|parent| infos.iter().any(|other| &other.shard == parent));
        parts.rows.create_shard(&new_row(parts, info, waits)).await?;
    }
    Ok(())
}

fn new_row(parts: &Parts, info: &ShardInfo, waits: bool) -> ShardRow {
    ShardRow {
        stream: parts.stream.name().to_string(),
        shard: info.shard.clone(),
        owner: String::new(),
        lease_epoch: 0,
        heartbeat: 0,
        state: if waits { ShardState::Blocked } else { ShardState::Open },
        parents: info.parents.clone(),
        children: Vec::new(),
        hash_start: info.hash_start,
        hash_end: info.hash_end,
        epoch: 0,
        position: Position::START,
        bound: Bound::UNKNOWN,
        object: None,
    }
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

/// One shard, generation after generation.
struct Supervisor {
    parts: Parts,
    places: Places,
    index: usize,
    shard: ShardId,
    door: Door<NewEpoch>,
}

impl Supervisor {
    /// Ok when the shard has ended as it should; Err when it was given up.
    async fn supervise(self: Arc<Self>, mut stop: watch::Receiver<bool>, finish: watch::Receiver<bool>) -> Result<()> {
        let mut restarts = Restarts::new(self.parts.config.restart);
        let mut committed = 0;
        for number in 1.. {
            // In a task of its own: a panic while the shard is taken over must not end its supervisor.
            let ended = actix::spawn(self.clone().generation(number, stop.clone(), finish.clone())).await;
            let ended = ended.unwrap_or_else(|error| {
                let text = panic_of(error).unwrap_or_else(|| "aborted".to_owned());
                Ok(("takeover", Exit::Panicked(text)))
            });
            let epoch = self.parts.board.get(&self.shard).map_or(0, |live| live.epoch);
            if epoch > committed {
                committed = epoch;
                restarts.progressed();
            }
            let fault = match ended {
                Ok((_, Exit::Finished)) => {
                    self.parts.board.update(&self.shard, |live| live.life = Life::Finished);
                    return Ok(());
                }
                Ok((actor, Exit::Fenced(fault) | Exit::Failed(fault))) => {
                    tracing::error!(shard = %self.shard, actor, generation = number, kind = ?fault.kind(), %fault, "generation ended");
                    fault
                }
                Ok((actor, Exit::Panicked(text))) => {
                    tracing::error!(shard = %self.shard, actor, generation = number, "generation ended by a panic: {text}");
                    Fault::bug(format!("{actor} panicked: {text}"))
                }
                Ok((actor, Exit::Dismissed)) => Fault::bug(format!("{actor} ended without a reason")),
                Err(fault) => {
                    tracing::error!(shard = %self.shard, generation = number, kind = ?fault.kind(), %fault, "generation did not start");
                    fault
                }
            };
            self.parts.board.update(&self.shard, |live| live.last_fault = Some(fault.to_string()));
            let pause = self.give_up(fault, &mut restarts)?;
            tokio::select! {
                biased;
                () = turns_true(&mut stop) => return Ok(()),
                () = tokio::time::sleep(pause) => {}
            }
        }
        Ok(())
    }

    /// What a fault obliges: some are final, the others are waited out within the restart policy.
    fn give_up(&self, fault: Fault, restarts: &mut Restarts) -> Result<Duration> {
        let random = self.parts.clock.random();
        let verdict = match fault.kind() {
            // A record's fault that stops the shard is the breaker; a person's settings and damaged state do not heal by waiting.
            Kind::Poison | Kind::Config | Kind::Corrupt => {
                let life = if fault.kind() == Kind::Poison { Life::Tripped } else { Life::Quarantined };
                self.parts.board.update(&self.shard, |live| live.life = life);
                let alert = if life == Life::Tripped { "breaker" } else { "quarantine" };
                tracing::error!(alert, shard = %self.shard, %fault, "shard given up");
                return Err(fault);
            }
            Kind::Retry => Verdict::Restart { after_us: restarts.waited(random) },
            Kind::Fenced | Kind::Bug => restarts.failed(self.parts.clock.now_us(), random),
        };
        match verdict {
            Verdict::Quarantine => {
                self.parts.board.update(&self.shard, |live| live.life = Life::Quarantined);
                tracing::error!(alert = "quarantine", shard = %self.shard, %fault, "shard given up after too many restarts");
                Err(fault)
            }
            Verdict::Restart { after_us } => {
                self.parts.board.update(&self.shard, |live| {
                    live.life = Life::Restarting;
                    live.restarts = restarts.total();
                });
                Ok(Duration::from_micros(after_us.unsigned_abs()))
            }
        }
    }

    /// Takes the shard over and runs one generation to its end.
    async fn generation(
        self: Arc<Self>,
        number: u64,
        mut stop: watch::Receiver<bool>,
        mut finish: watch::Receiver<bool>,
    ) -> Result<(&'static str, Exit)> {
        let parts = &self.parts;
        parts.board.update(&self.shard, |live| {
            live.life = if number == 1 { Life::Starting } else { Life::Restarting };
            live.quiet = false;
            // Failing is not idle: the others may not pass this shard while nobody reads it.
            live.idle = false;
        });
        let owner = &parts.config.owner;
        let taken = take_over(parts.rows.as_ref(), parts.blobs.as_ref(), parts.outputs.as_ref(), &self.shard, owner).await?;
        tracing::info!(shard = %self.shard, generation = number, lease = taken.row.lease_epoch, after = %taken.row.position, "shard taken");
        parts.board.update(&self.shard, |live| {
            live.life = Life::Running;
            live.epoch = taken.row.epoch;
            live.bound = Some(taken.row.bound);
            live.committed = taken.row.position;
            live.had_records = taken.history.last_arrival_us.is_some();
            live.totals = taken.history.totals.clone();
        });
        if taken.row.state == ShardState::Drained {
            return Ok(("takeover", Exit::Finished));
        }
        let (generation, watch) = Generation::new(number);
        let shard = self.wire(taken, &generation)?;
        // The watch waits until nobody holds the generation any more: from here on only its actors do.
        drop(generation);
        let ended = watch.ended();
        tokio::pin!(ended);
        tokio::select! {
            biased;
            exit = &mut ended => return Ok(exit),
            () = turns_true(&mut stop) => shard.tell(Stop),
            () = turns_true(&mut finish) => shard.tell(Stop),
        }
        Ok(ended.await)
    }

    /// Builds the actors of one generation, downstream first: each needs the address of the next.
    fn wire(&self, taken: Taken, generation: &Generation) -> Result<Notices<ShardActor>> {
        let config = &self.parts.config;
        let Taken { row, history, .. } = taken;
        let budget = Budget::new(config.in_flight);
        let machine = ShardMachine::new(
            config.shard.clone(),
            row.epoch,
            row.position,
            row.bound,
            history.last_arrival_us,
            history.max_event_us,
            self.parts.clock.now_us(),
        );
        let capacity = budget.messages_max() * (config.parallelism + 1);
        // The shard's address is needed by those below it: its mailbox exists before it does.
        let (sender, receiver) = actix::dev::channel::channel::<ShardActor>(capacity);
        let shard = Notices::new(actix::Addr::new(sender));
        let wiring = Wiring {
            supervisor: self,
            generation,
            opening: machine.opening(),
            lease_epoch: row.lease_epoch,
            budget,
            capacity,
            shard: shard.clone(),
        };
        let commit = wiring.commit(row, history);
        let writer = wiring.writer(&commit);
        let dlq = wiring.dlq(&commit);
        let partitions = (0..config.parallelism)
            .map(|partition| wiring.partition(partition, &writer, &dlq, &commit))
            .collect::<Result<Vec<_>>>()?;
        let actor = wiring.shard(machine, &partitions, &writer, &dlq, &commit);
        spawn_watched_with(&Place::Here, generation, "shard", receiver, move || actor);
        Ok(shard)
    }
}

/// What all actors of one generation are built from.
struct Wiring<'a> {
    supervisor: &'a Supervisor,
    generation: &'a Generation,
    opening: Opening,
    lease_epoch: u64,
    budget: Budget,
    capacity: usize,
    shard: Notices<ShardActor>,
}

impl Wiring<'_> {
    fn outlet<M>(&self, to: Recipient<M>, from: &'static str, input: usize, numbering: &Numbering) -> Outlet<M>
    where
        M: Message + Send + 'static,
        M::Result: Send,
    {
        Outlet::new(to, self.generation.clone(), from, input, numbering.clone())
    }

    fn inlet(&self, inputs: usize) -> Inlet {
        Inlet::new(self.generation.number(), inputs, self.opening.epoch)
    }

    /// Actors that compute share the threads; a shard's writer sits beside, not behind, its first partition.
    fn place(&self, offset: usize) -> Place {
        self.supervisor.places.get(self.supervisor.index + offset)
    }

    fn commit(&self, row: ShardRow, history: History) -> Addr<CommitActor> {
        let Parts { config, engine, rows, blobs, outputs, clock, board, .. } = &self.supervisor.parts;
        let commit_config = CommitConfig {
            pipeline: config.pipeline.clone(),
            fingerprint: config.postmark.fingerprint.to_string(),
            bronze_on: config.bronze_on,
            partitions: config.parallelism,
            tables: engine.tables().to_vec(),
        };
        let actor = CommitActor {
            shard_id: row.shard.clone(),
            machine: CommitMachine::new(commit_config, row, history),
            generation: self.generation.clone(),
            rows: rows.clone(),
            blobs: blobs.clone(),
            outputs: outputs.clone(),
            clock: clock.clone(),
            board: board.clone(),
            shard: self.shard.clone(),
            gold: self.supervisor.door.clone(),
        };
        spawn_watched(&Place::Here, self.generation, "commit", self.capacity, move || actor)
    }

    fn writer(&self, commit: &Addr<CommitActor>) -> Addr<WriterActor> {
        let parts = &self.supervisor.parts;
        let actor = WriterActor {
            shard: self.supervisor.shard.clone(),
            lease_epoch: self.lease_epoch,
            inlet: self.inlet(parts.config.parallelism + 1),
            generation: self.generation.clone(),
            outputs: parts.outputs.clone(),
            budget: self.budget.total(),
            open: BTreeMap::new(),
            staged: self.outlet(commit.clone().recipient(), "writer", 0, &Numbering::default()),
        };
        spawn_watched(&self.place(1), self.generation, "writer", self.capacity, move || actor)
    }

    fn dlq(&self, commit: &Addr<CommitActor>) -> Addr<DlqActor> {
        let parts = &self.supervisor.parts;
        let actor = DlqActor {
            shard: self.supervisor.shard.clone(),
            lease_epoch: self.lease_epoch,
            inlet: self.inlet(parts.config.parallelism + 1),
            generation: self.generation.clone(),
            outputs: parts.outputs.clone(),
            open: BTreeMap::new(),
            staged: self.outlet(commit.clone().recipient(), "dlq", 0, &Numbering::default()),
        };
        spawn_watched(&self.place(1), self.generation, "dlq", self.capacity, move || actor)
    }

    fn partition(
        &self,
        partition: usize,
        writer: &Addr<WriterActor>,
        dlq: &Addr<DlqActor>,
        commit: &Addr<CommitActor>,
    ) -> Result<Addr<PartitionActor>> {
        let Parts { config, engine, clock, .. } = &self.supervisor.parts;
        // One numbering per (sender, receiver): rows and barriers to the writer share it, so do letters and barriers to the dlq.
        let (to_writer, to_dlq) = (Numbering::default(), Numbering::default());
        let (from, input) = ("partition", partition + 1);
        let actor = PartitionActor {
            machine: PartitionMachine::new(engine.partition()?, engine.tables().to_vec(), config.postmark.clone(), self.opening),
            inlet: self.inlet(1),
            generation: self.generation.clone(),
            clock: clock.clone(),
            silver: self.outlet(writer.clone().recipient(), from, input, &to_writer),
            letters: self.outlet(dlq.clone().recipient(), from, input, &to_dlq),
            barriers: [
                self.outlet(writer.clone().recipient(), from, input, &to_writer),
                self.outlet(dlq.clone().recipient(), from, input, &to_dlq),
            ],
            cuts: self.outlet(commit.clone().recipient(), from, input, &Numbering::default()),
            shard: self.shard.clone(),
        };
        Ok(spawn_watched(&self.place(partition), self.generation, from, self.capacity, move || actor))
    }

    fn shard(
        &self,
        machine: ShardMachine,
        partitions: &[Addr<PartitionActor>],
        writer: &Addr<WriterActor>,
        dlq: &Addr<DlqActor>,
        commit: &Addr<CommitActor>,
    ) -> ShardActor {
        let Parts { config, stream, clock, board, .. } = &self.supervisor.parts;
        let (from, to_writer) = ("shard", Numbering::default());
        let numberings: Vec<Numbering> = partitions.iter().map(|_| Numbering::default()).collect();
        let below = || partitions.iter().cloned().zip(&numberings);
        ShardActor {
            shard: self.supervisor.shard.clone(),
            machine,
            stream: stream.clone(),
            clock: clock.clone(),
            generation: self.generation.clone(),
            budget: self.budget.clone(),
            limits: config.fetch,
            board: board.clone(),
            bronze: config.bronze_on.then(|| self.outlet(writer.clone().recipient(), from, 0, &to_writer)),
            partitions: below().map(|(to, numbering)| self.outlet(to.recipient(), from, 0, numbering)).collect(),
            partition_barriers: below().map(|(to, numbering)| self.outlet(to.recipient(), from, 0, numbering)).collect(),
            side_barriers: vec![
                self.outlet(writer.clone().recipient(), from, 0, &to_writer),
                self.outlet(dlq.clone().recipient(), from, 0, &Numbering::default()),
            ],
            sealed: self.outlet(commit.clone().recipient(), from, 0, &Numbering::default()),
            credit: None,
        }
    }
}
