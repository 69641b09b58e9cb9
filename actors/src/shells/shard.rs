//! ShardActor: reads its shard under credit and sends the records on.
//!
//! Owns: the fetch and its retries, the timer. Does not own: any decision (machines/shard).

use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, ActorFutureExt, AsyncContext, Context, Handler, WrapFuture};

use crate::machines::breaker::Trip;
use crate::machines::shard::{Peers, ShardEffect, ShardEvent, ShardMachine};
use crate::model::fault::{Fault, Kind, Result};
use crate::model::position::{Position, ShardId};
use crate::model::record::{RawRecord, RawSlice};
use crate::model::sabotage::{self, Sabotage};
use crate::ports::{Clock, Read, Recall, Stream};
use crate::shells::message::{Barrier, EpochCommitted, Progress, Raw, Sealed, Settled, Stop};
use crate::toolkit::board::{Board, Life};
use crate::toolkit::crash;
use crate::toolkit::credit::{Budget, Credit};
use crate::toolkit::outlet::Outlet;
use crate::toolkit::pause::Pause;
use crate::toolkit::spawn::{Exit, Generation};

/// How often timers are looked at; also the grain of `commit.interval`.
const TICK: Duration = Duration::from_millis(50);

/// What one fetch may bring.
#[derive(Clone, Copy, Debug)]
pub struct FetchLimits {
    /// Records.
    pub records: usize,
    /// Bytes of weight.
    pub bytes: usize,
}

/// The actor.
pub struct ShardActor {
    /// Its shard.
    pub shard: ShardId,
    /// Decisions.
    pub machine: ShardMachine,
    /// Where it reads.
    pub stream: Arc<dyn Stream>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Its generation.
    pub generation: Generation,
    /// Its bytes.
    pub budget: Budget,
    /// Its fetches.
    pub limits: FetchLimits,
    /// For the others to look at.
    pub board: Arc<Board>,
    /// Bronze; none where it is off.
    pub bronze: Option<Outlet<Raw>>,
    /// One per partition.
    pub partitions: Vec<Outlet<Raw>>,
    /// Barriers for the partitions, in the same order.
    pub partition_barriers: Vec<Outlet<Barrier>>,
    /// Barriers for writer and dlq.
    pub side_barriers: Vec<Outlet<Barrier>>,
    /// The epoch's end, for commit.
    pub sealed: Outlet<Sealed>,
    /// Pays for what is being dispatched.
    pub credit: Option<Credit>,
    /// What the stream has still to be told of earlier owners.
    pub recall: Option<Recall>,
}

impl Actor for ShardActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.apply(ShardEvent::Started, ctx);
        ctx.run_later(TICK, Self::tick);
    }
}

impl ShardActor {
    fn tick(&mut self, ctx: &mut Context<Self>) {
        let peers: Peers = self.board.peers_of(&self.shard);
        self.apply(ShardEvent::Tick { peers, held: self.board.is_held() }, ctx);
        ctx.run_later(TICK, Self::tick);
    }

    fn apply(&mut self, event: ShardEvent, ctx: &mut Context<Self>) {
        if self.generation.is_ending() {
            return;
        }
        let epoch = self.machine.opening().epoch;
        let effects = self.machine.apply(event, self.clock.now_us());
        for effect in effects {
            self.carry_out(epoch, effect, ctx);
        }
        let (machine, budget) = (&self.machine, &self.budget);
        self.board.update(&self.shard, |live| {
            live.position = machine.position();
            live.idle = machine.is_idle();
            live.had_records = machine.had_records();
            live.behind_us = machine.behind_us();
            live.in_flight = budget.in_use();
            live.groups = machine.groups();
        });
    }

    fn carry_out(&mut self, epoch: u64, effect: ShardEffect, ctx: &mut Context<Self>) {
        match effect {
            ShardEffect::Fetch(after) => self.fetch(after, ctx),
            ShardEffect::Dispatch(records) => self.dispatch(epoch, records),
            ShardEffect::Barrier(seal) => {
                let (epoch, next) = (seal.opened.epoch, seal.next);
                let dropped = usize::from(sabotage::is(Sabotage::DropABarrier));
                for outlet in self.side_barriers.iter_mut().chain(self.partition_barriers.iter_mut().skip(dropped)) {
                    outlet.send(epoch, |stamp| Barrier { stamp, next });
                }
                self.sealed.send(epoch, |stamp| Sealed { stamp, seal });
            }
            ShardEffect::Quiet => self.board.update(&self.shard, |live| live.quiet = true),
            ShardEffect::NotQuiet => self.board.update(&self.shard, |live| live.quiet = false),
            ShardEffect::Finished => self.generation.end("shard", Exit::Finished),
            ShardEffect::Halt(fault) => self.generation.end("shard", Exit::from_fault(fault)),
            ShardEffect::Skipped { after, resumes } => tracing::error!(
                alert = "gap", shard = %self.shard, %after, %resumes,
                "the stream has forgotten records of this shard before they were read: they are lost, and counted as a gap in \
                 the ledger as stream.on_gap = \"continue\" says"
            ),
            ShardEffect::Tripped(Trip { failed, records, reason, of_reason }) => {
                self.board.update(&self.shard, |live| live.life = Life::Tripped);
                let fault = Fault::new(
                    Kind::Poison,
                    format!(
                        "breaker: {failed} of the last {records} records of {} failed decode or contract, {of_reason} of them as \
                         `{reason}`. Correct the contract or the producer, or let them become letters with \
                         breaker.enabled = false; a new start goes on after the last commit",
                        self.shard
                    ),
                );
                self.generation.end("shard", Exit::Failed(fault));
            }
        }
    }

    fn dispatch(&mut self, epoch: u64, records: Vec<RawRecord>) {
        crash::pass("shard.dispatch");
        let Some(credit) = self.credit.take() else {
            return self.generation.end("shard", Exit::Failed(Fault::bug("records without a credit")));
        };
        let slice = RawSlice { stream: self.stream.name(), shard: self.shard.clone(), records };
        if let Some(bronze) = &mut self.bronze {
            bronze.send(epoch, |stamp| Raw { stamp, slice: slice.clone(), credit: credit.clone() });
        }
        for (slice, partition) in slice.split(self.partitions.len()).into_iter().zip(&mut self.partitions) {
            if !slice.records.is_empty() {
                partition.send(epoch, |stamp| Raw { stamp, slice, credit: credit.clone() });
            }
        }
    }

    fn fetch(&mut self, after: Position, ctx: &mut Context<Self>) {
        let (stream, shard) = (self.stream.clone(), self.shard.clone());
        let (budget, limits, clock) = (self.budget.clone(), self.limits, self.clock.clone());
        let recall = self.recall.take();
        let fetch = async move {
            if let Some(recall) = recall {
                stream.recall(&shard, after, &recall).await?;
            }
            fetch(stream, shard, after, budget, limits, clock).await
        };
        ctx.spawn(fetch.into_actor(self).map(|answer, actor, ctx| match answer {
            Ok((read, credit)) => {
                actor.credit = Some(credit);
                actor.apply(ShardEvent::Read(read), ctx);
                actor.credit = None;
            }
            Err(fault) => actor.generation.end("shard", Exit::from_fault(fault)),
        }));
    }
}

/// Claims a credit and reads. The world's faults are waited out here: an outage is not the shard's end.
async fn fetch(
    stream: Arc<dyn Stream>,
    shard: ShardId,
    after: Position,
    budget: Budget,
    limits: FetchLimits,
    clock: Arc<dyn Clock>,
) -> Result<(Read, Credit)> {
    // Never more than half: the writer may hold the other half until an epoch ends, and an epoch may wait for a read.
    let credit = budget.claim(limits.bytes.min(budget.total() / 2)).await?;
    let mut pause = Pause::new(clock);
    let read = loop {
        match stream.read(&shard, after, limits.records, limits.bytes).await {
            Ok(read) => break read,
            Err(fault) if fault.kind() == Kind::Retry => pause.after(&format!("reading {shard}"), &fault).await,
            Err(fault) => return Err(fault),
        }
    };
    let weight: usize = read.records.iter().map(RawRecord::weight).sum();
    let more = weight.min(budget.total() / 2).saturating_sub(credit.bytes());
    let credit = if more > 0 { credit.join(budget.claim(more).await?) } else { credit.shrink_to(weight) };
    Ok((read, credit))
}

impl Handler<Progress> for ShardActor {
    type Result = ();
    fn handle(&mut self, message: Progress, ctx: &mut Self::Context) {
        let Progress { epoch, records, failed, max_event_us, grown } = message;
        self.board.update(&self.shard, |live| live.processed += records);
        self.apply(ShardEvent::Progress { epoch, records, failed, max_event_us, grown: grown as u64 }, ctx);
    }
}

impl Handler<EpochCommitted> for ShardActor {
    type Result = ();
    fn handle(&mut self, EpochCommitted(epoch): EpochCommitted, ctx: &mut Self::Context) {
        self.apply(ShardEvent::Committed { epoch }, ctx);
    }
}

impl Handler<Settled> for ShardActor {
    type Result = ();
    fn handle(&mut self, Settled: Settled, ctx: &mut Self::Context) {
        self.apply(ShardEvent::Settled, ctx);
    }
}

impl Handler<Stop> for ShardActor {
    type Result = ();
    fn handle(&mut self, Stop: Stop, ctx: &mut Self::Context) {
        self.apply(ShardEvent::Stop, ctx);
    }
}
