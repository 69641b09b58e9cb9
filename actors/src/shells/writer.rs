//! WriterActor: puts raw records and Silver rows into the epoch's staged files.
//!
//! Owns: the open files of at most two epochs. Does not own: the files' format (ports::DataFiles), when buffers go out
//! (machines/writer).

use std::collections::BTreeMap;
use std::sync::Arc;

use actix::{Actor, Context, Handler};

use crate::machines::barrier::Inlet;
use crate::machines::commit::Stager;
use crate::machines::writer::HeldCredits;
use crate::model::fault::Result;
use crate::model::position::ShardId;
use crate::ports::{DataFiles, Outputs};
use crate::shells::message::{Barrier, Raw, Silver, Staged};
use crate::toolkit::crash;
use crate::toolkit::credit::Credit;
use crate::toolkit::outlet::Outlet;
use crate::toolkit::spawn::{Exit, Generation};

/// The actor.
pub struct WriterActor {
    /// Its shard.
    pub shard: ShardId,
    /// The lease that the files belong to.
    pub lease_epoch: u64,
    /// What comes in: the shard and every partition.
    pub inlet: Inlet,
    /// Its generation.
    pub generation: Generation,
    /// Makes files.
    pub outputs: Arc<dyn Outputs>,
    /// The shard's byte budget.
    pub budget: usize,
    /// Open epochs.
    pub open: BTreeMap<u64, OpenEpoch>,
    /// Down: staged files.
    pub staged: Outlet<Staged>,
}

/// Files of one epoch, and the credits of what they still buffer.
pub struct OpenEpoch {
    files: Box<dyn DataFiles>,
    held: HeldCredits<Credit>,
}

impl Actor for WriterActor {
    type Context = Context<Self>;
}

impl WriterActor {
    fn append(&mut self, epoch: u64, credit: Credit, append: impl FnOnce(&mut dyn DataFiles) -> Result<()>) -> Result<()> {
        if !self.open.contains_key(&epoch) {
            let files = self.outputs.data_files(&self.shard, self.lease_epoch, epoch)?;
            self.open.insert(epoch, OpenEpoch { files, held: HeldCredits::new(self.budget) });
        }
        let Some(open) = self.open.get_mut(&epoch) else { return Ok(()) };
        append(open.files.as_mut())?;
        crash::pass("writer.append");
        let bytes = credit.bytes();
        if open.held.hold(credit, bytes) {
            open.files.flush()?;
            open.held.release();
        }
        Ok(())
    }

    fn barrier(&mut self, message: Barrier) -> Result<()> {
        let epoch = message.stamp.epoch;
        if !self.inlet.barrier(message.stamp)? {
            return Ok(());
        }
        let outputs = match self.open.remove(&epoch) {
            None => Vec::new(),
            Some(open) => open.files.finish()?,
        };
        crash::pass("writer.after_finish");
        self.staged.send(epoch, |stamp| Staged { stamp, stager: Stager::Writer, outputs });
        Ok(())
    }

    fn end_on_fault(&self, result: Result<()>) {
        if let Err(fault) = result {
            self.generation.end("writer", Exit::from_fault(fault));
        }
    }
}

impl Handler<Raw> for WriterActor {
    type Result = ();
    fn handle(&mut self, message: Raw, _: &mut Self::Context) {
        if self.generation.is_ending() {
            return;
        }
        let Raw { stamp, slice, credit } = message;
        let done = self.inlet.data(stamp);
        let done = done.and_then(|()| self.append(stamp.epoch, credit, |files| files.bronze(&slice)));
        self.end_on_fault(done);
    }
}

impl Handler<Silver> for WriterActor {
    type Result = ();
    fn handle(&mut self, message: Silver, _: &mut Self::Context) {
        if self.generation.is_ending() {
            return;
        }
        let Silver { stamp, rows, credit } = message;
        let done = self.inlet.data(stamp);
        let done = done.and_then(|()| self.append(stamp.epoch, credit, |files| files.silver(&rows)));
        self.end_on_fault(done);
    }
}

impl Handler<Barrier> for WriterActor {
    type Result = ();
    fn handle(&mut self, message: Barrier, _: &mut Self::Context) {
        if !self.generation.is_ending() {
            let done = self.barrier(message);
            self.end_on_fault(done);
        }
    }
}
