//! CommitActor: carries out the commit protocol of one shard.
//!
//! Owns: the calls and their retries. Does not own: their order (machines/commit).

use std::future::Future;
use std::sync::Arc;

use actix::{Actor, ActorFutureExt, AsyncContext, Context, Handler, WrapFuture};

use crate::history::unless_overtaken;
use crate::machines::commit::{CommitEffect, CommitEvent, CommitMachine, Committed};
use crate::model::epoch::HeldOutput;
use crate::model::fault::{Fault, Kind, Result};
use crate::model::row::{Fence, ShardRow};
use crate::model::sabotage::{self, Sabotage};
use crate::ports::{Blobs, Cas, Clock, CommitPermit, Outputs, Publication, Rows};
use crate::shells::message::{CutMade, EpochCommitted, NewEpoch, Sealed, Settled, Staged};
use crate::shells::shard::ShardActor;
use crate::toolkit::board::Board;
use crate::toolkit::crash;
use crate::toolkit::outlet::{Door, Notices};
use crate::toolkit::pause::Pause;
use crate::toolkit::spawn::{Exit, Generation};

/// The actor.
pub struct CommitActor {
    /// Decisions.
    pub machine: CommitMachine,
    /// Swaps in a row whose answer did not come.
    pub unanswered: u32,
    /// Its generation.
    pub generation: Generation,
    /// What it does to the world.
    pub steps: Steps,
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
            let (rows, fence) = (self.steps.rows.clone(), self.machine.row().fence());
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
        for effect in self.machine.apply(event, self.steps.clock.random()) {
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
        let (steps, row) = (self.steps.clone(), self.machine.row().clone());
        match effect {
            CommitEffect::Put(..) if sabotage::is(Sabotage::PublishBeforeCommit) => {
                let begun = self.machine.begun();
                self.begin(ctx, async move {
                    let stored = steps.take(effect, &row, 0).await?;
                    if let Some(Committed { row, header }) = begun {
                        let permit = CommitPermit::won(row.lease_epoch, row.epoch);
                        let pending = header.outputs.into_iter().map(HeldOutput::from).collect();
                        steps.publish(permit, &row, pending).await?;
                    }
                    Ok(stored)
                });
            }
            CommitEffect::Swap(..) if sabotage::is(Sabotage::SkipTheSwap) => {
                self.begin(ctx, async { Ok(CommitEvent::Swapped(Some(Cas::Won))) });
            }
            CommitEffect::Hold(_)
            | CommitEffect::Put(..)
            | CommitEffect::CreateRows(_)
            | CommitEffect::Swap(..)
            | CommitEffect::Reread
            | CommitEffect::Publish(..) => {
                let unanswered = self.unanswered;
                self.begin(ctx, async move { steps.take(effect, &row, unanswered).await });
            }
            CommitEffect::Committed(committed) => self.committed(committed),
            CommitEffect::Settled => self.shard.tell(Settled),
            CommitEffect::Fail(fault) => self.generation.end("commit", Exit::from_fault(fault)),
        }
    }

    fn committed(&self, committed: Box<Committed>) {
        let Committed { row, header } = committed.as_ref();
        tracing::info!(shard = %row.shard, epoch = row.epoch, to = %row.position, records = header.counts.received, "committed");
        self.board.committed(row, &header.totals);
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

/// The steps of the protocol, carried out on the world. Cheap to clone.
#[derive(Clone)]
pub struct Steps {
    /// Rows.
    pub rows: Arc<dyn Rows>,
    /// Epoch objects.
    pub blobs: Arc<dyn Blobs>,
    /// Staged files.
    pub outputs: Arc<dyn Outputs>,
    /// Time and chance.
    pub clock: Arc<dyn Clock>,
}

impl Steps {
    /// One step for a shard whose row was committed last like this; its last swaps had no answer so many times in a row.
    pub(crate) async fn take(&self, effect: CommitEffect, row: &ShardRow, unanswered: u32) -> Result<CommitEvent> {
        let clock = self.clock.clone();
        match effect {
            CommitEffect::Hold(staged) => {
                let held = retrying(clock, "storing staged files", || self.outputs.hold(staged.clone())).await?;
                crash::pass("commit.after_hold");
                Ok(CommitEvent::Held(held))
            }
            CommitEffect::Put(key, object) => {
                crash::pass("commit.before_put");
                retrying(clock, "storing an epoch object", || self.blobs.put(&key, object.clone())).await?;
                crash::pass("commit.after_put");
                Ok(CommitEvent::Put)
            }
            CommitEffect::CreateRows(children) => {
                retrying(clock, "creating rows of child shards", || self.create(&children)).await?;
                Ok(CommitEvent::RowsCreated)
            }
            // Never repeated here: after an answer that did not come, only the row knows.
            CommitEffect::Swap(fence, row) => self.swap(fence, &row, Pause::after_tries(clock, unanswered)).await,
            CommitEffect::Reread => {
                let row = retrying(clock, "reading a shard's row", || self.rows.shard(&row.shard)).await?;
                Ok(CommitEvent::Reread(row.map(Box::new)))
            }
            CommitEffect::Publish(permit, pending) => self.publish(permit, row, pending).await,
            CommitEffect::Committed(_) | CommitEffect::Settled | CommitEffect::Fail(_) => {
                Err(Fault::bug("what a commit tells is not a step of it"))
            }
        }
    }

    async fn swap(&self, fence: Fence, row: &ShardRow, mut pause: Pause) -> Result<CommitEvent> {
        match self.rows.update_shard(fence, row).await {
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

    async fn create(&self, children: &[ShardRow]) -> Result<()> {
        for child in children {
            // Lost = it exists: a merge's other parent was here before, or we were, before a crash.
            self.rows.create_shard(child).await?;
        }
        Ok(())
    }

    async fn publish(&self, permit: CommitPermit, row: &ShardRow, pending: Vec<HeldOutput>) -> Result<CommitEvent> {
        let mut done = Vec::with_capacity(pending.len());
        for held in &pending {
            match retrying(self.clock.clone(), "publishing a file", || self.outputs.publish(permit, held)).await {
                Ok(Publication::Visible) => done.push(held.output.staged.clone()),
                // A takeover makes it once more: the next generation is one.
                Ok(Publication::Lost(why)) => return Err(Fault::retry(format!("{why}; it is written once more"))),
                // A successor may have written it once more, in other bytes.
                Err(fault) => return Err(unless_overtaken(self.rows.as_ref(), row, fault).await),
            }
        }
        crash::pass("commit.after_publish");
        Ok(CommitEvent::Published(done))
    }
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
