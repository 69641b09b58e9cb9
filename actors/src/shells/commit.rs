//! CommitActor: carries out the commit protocol of one shard.
//!
//! Owns: the calls and their retries. Does not own: their order (machines/commit).

use std::future::Future;
use std::sync::Arc;

use actix::{Actor, ActorFutureExt, AsyncContext, Context, Handler, WrapFuture};

use crate::history;
use crate::machines::commit::{CommitEffect, CommitEvent, CommitMachine, Committed};
use crate::model::epoch::HeldOutput;
use crate::model::fault::{Fault, Kind, Result};
use crate::model::position::ShardId;
use crate::model::row::{Fence, ShardRow};
use crate::model::sabotage::{self, Sabotage};
use crate::ports::{Blobs, Cas, Clock, CommitPermit, Outputs, Rows};
use crate::shells::message::{CutMade, EpochCommitted, NewEpoch, Sealed, Settled, Staged};
use crate::shells::shard::ShardActor;
use crate::toolkit::board::Board;
use crate::toolkit::crash;
use crate::toolkit::outlet::{Door, Notices};
use crate::toolkit::pause::Pause;
use crate::toolkit::spawn::{Exit, Generation};

/// The actor.
pub struct CommitActor {
    /// Its shard.
    pub shard_id: ShardId,
    /// Decisions.
    pub machine: CommitMachine,
    /// Swaps in a row whose answer did not come.
    pub unanswered: u32,
    /// Its generation.
    pub generation: Generation,
    /// Rows.
    pub rows: Arc<dyn Rows>,
    /// Epoch objects.
    pub blobs: Arc<dyn Blobs>,
    /// Staged files.
    pub outputs: Arc<dyn Outputs>,
    /// Time and chance.
    pub clock: Arc<dyn Clock>,
    /// For the others to look at.
    pub board: Arc<Board>,
    /// Up: what is true now.
    pub shard: Notices<ShardActor>,
    /// Gold, whichever generation of it runs.
    pub gold: Door<NewEpoch>,
}

impl Actor for CommitActor {
    type Context = Context<Self>;

    // Nothing is ever committed here: a crash, too, runs destructors. Tests see to it that doing so is noticed.
    #[cfg(debug_assertions)]
    fn stopped(&mut self, _: &mut Self::Context) {
        if sabotage::is(Sabotage::CommitWhenStopped)
            && let Some(begun) = self.machine.begun()
        {
            let (rows, fence) = (self.rows.clone(), self.machine.row().fence());
            actix::spawn(async move { rows.update_shard(fence, &begun.row).await.is_ok() });
        }
    }
}

impl CommitActor {
    fn apply(&mut self, event: CommitEvent, ctx: &mut Context<Self>) {
        if self.generation.is_ending() {
            return;
        }
        if let CommitEvent::Swapped(answer) = &event {
            self.unanswered = if answer.is_some() { 0 } else { self.unanswered.saturating_add(1) };
        }
        for effect in self.machine.apply(event, self.clock.random()) {
            self.carry_out(effect, ctx);
        }
    }

    fn carry_out(&mut self, effect: CommitEffect, ctx: &mut Context<Self>) {
        if sabotage::is(Sabotage::TellGoldBeforeCommit)
            && matches!(effect, CommitEffect::Swap(..))
            && let Some(begun) = self.machine.begun()
        {
            self.gold.tell(NewEpoch(Box::new(begun)));
        }
        let (rows, blobs, clock) = (self.rows.clone(), self.blobs.clone(), self.clock.clone());
        let shard = self.shard_id.clone();
        match effect {
            CommitEffect::Put(key, object) if sabotage::is(Sabotage::PublishBeforeCommit) => {
                let (outputs, begun) = (self.outputs.clone(), self.machine.begun());
                self.begin(ctx, async move {
                    retrying(clock.clone(), "storing an epoch object", || blobs.put(&key, object.clone())).await?;
                    if let Some(Committed { row, header }) = begun {
                        let permit = CommitPermit::won(row.lease_epoch, row.epoch);
                        let pending = header.outputs.into_iter().map(HeldOutput::from).collect();
                        publish(outputs, blobs, clock, permit, &row, pending).await?;
                    }
                    Ok(CommitEvent::Put)
                });
            }
            CommitEffect::Hold(staged) => {
                let outputs = self.outputs.clone();
                self.begin(ctx, async move {
                    let held = retrying(clock, "storing staged files", || outputs.hold(staged.clone())).await?;
                    crash::pass("commit.after_hold");
                    Ok(CommitEvent::Held(held))
                });
            }
            CommitEffect::Put(key, object) => self.begin(ctx, async move {
                crash::pass("commit.before_put");
                retrying(clock, "storing an epoch object", || blobs.put(&key, object.clone())).await?;
                crash::pass("commit.after_put");
                Ok(CommitEvent::Put)
            }),
            CommitEffect::CreateRows(children) => self.begin(ctx, async move {
                retrying(clock, "creating rows of child shards", || create(rows.as_ref(), &children)).await?;
                Ok(CommitEvent::RowsCreated)
            }),
            CommitEffect::Swap(..) if sabotage::is(Sabotage::SkipTheSwap) => {
                self.begin(ctx, async { Ok(CommitEvent::Swapped(Some(Cas::Won))) });
            }
            // Never repeated here: after an answer that did not come, only the row knows.
            CommitEffect::Swap(fence, row) => {
                let pause = Pause::after_tries(clock, self.unanswered);
                self.begin(ctx, async move { swap(rows.as_ref(), fence, &row, pause).await });
            }
            CommitEffect::Reread => self.begin(ctx, async move {
                let row = retrying(clock, "reading a shard's row", || rows.shard(&shard)).await?;
                Ok(CommitEvent::Reread(row.map(Box::new)))
            }),
            CommitEffect::Publish(permit, pending) => {
                let (outputs, row) = (self.outputs.clone(), self.machine.row().clone());
                self.begin(ctx, async move { publish(outputs, blobs, clock, permit, &row, pending).await });
            }
            CommitEffect::Committed(committed) => self.committed(committed),
            CommitEffect::Settled => self.shard.tell(Settled),
            CommitEffect::Fail(fault) => self.generation.end("commit", Exit::from_fault(fault)),
        }
    }

    fn committed(&self, committed: Box<Committed>) {
        let Committed { row, header } = committed.as_ref();
        tracing::info!(shard = %row.shard, epoch = row.epoch, to = %row.position, records = header.counts.received, "committed");
        self.board.update(&row.shard, |live| {
            live.epoch = row.epoch;
            live.bound = Some(row.bound);
            live.committed = row.position;
            live.totals = header.totals.clone();
        });
        self.shard.tell(EpochCommitted(row.epoch));
        self.gold.tell(NewEpoch(committed));
    }

    fn begin(&self, ctx: &mut Context<Self>, step: impl Future<Output = Result<CommitEvent>> + 'static) {
        ctx.spawn(step.into_actor(self).map(|event, actor, ctx| match event {
            Ok(event) => actor.apply(event, ctx),
            Err(fault) => actor.generation.end("commit", Exit::from_fault(fault)),
        }));
    }
}

async fn swap(rows: &dyn Rows, fence: Fence, row: &ShardRow, mut pause: Pause) -> Result<CommitEvent> {
    match rows.update_shard(fence, row).await {
        Ok(answer) => {
            crash::pass("commit.after_swap");
            Ok(CommitEvent::Swapped(Some(answer)))
        }
        Err(fault) if fault.kind() == Kind::Retry => {
            pause.after("swapping a shard's row", &fault).await;
            Ok(CommitEvent::Swapped(None))
        }
        Err(fault) => Err(fault),
    }
}

async fn create(rows: &dyn Rows, children: &[ShardRow]) -> Result<()> {
    for child in children {
        // Lost = it exists: a merge's other parent was here before, or we were, before a crash.
        rows.create_shard(child).await?;
    }
    Ok(())
}

async fn publish(
    outputs: Arc<dyn Outputs>,
    blobs: Arc<dyn Blobs>,
    clock: Arc<dyn Clock>,
    permit: CommitPermit,
    row: &ShardRow,
    pending: Vec<HeldOutput>,
) -> Result<CommitEvent> {
    let mut done = Vec::with_capacity(pending.len());
    for held in &pending {
        if let Err(fault) = retrying(clock.clone(), "publishing a file", || outputs.publish(permit, held)).await {
            history::tell_if_lost(blobs.as_ref(), row, &held.output, &fault).await;
            return Err(fault);
        }
        done.push(held.output.staged.clone());
    }
    crash::pass("commit.after_publish");
    Ok(CommitEvent::Published(done))
}

/// Repeats an idempotent operation while the world is at fault.
pub(crate) async fn retrying<T, F>(clock: Arc<dyn Clock>, doing: &str, mut operation: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<T, Fault>>,
{
    let mut pause = Pause::new(clock);
    loop {
        match operation().await {
            Err(fault) if fault.kind() == Kind::Retry => pause.after(doing, &fault).await,
            done => return done,
        }
    }
}

impl Handler<Sealed> for CommitActor {
    type Result = ();
    fn handle(&mut self, message: Sealed, ctx: &mut Self::Context) {
        self.apply(CommitEvent::Sealed(message.seal), ctx);
    }
}

impl Handler<CutMade> for CommitActor {
    type Result = ();
    fn handle(&mut self, message: CutMade, ctx: &mut Self::Context) {
        self.apply(CommitEvent::Cut(message.stamp.epoch, message.cut), ctx);
    }
}

impl Handler<Staged> for CommitActor {
    type Result = ();
    fn handle(&mut self, message: Staged, ctx: &mut Self::Context) {
        self.apply(CommitEvent::Staged(message.stamp.epoch, message.stager, message.outputs), ctx);
    }
}
