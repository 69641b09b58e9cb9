//! DlqActor: puts dead letters into the epoch's staged letter files; they become visible with the commit, like any output.
//!
//! Owns: the open letter files of at most two epochs. Does not own: their format (ports::LetterFile).

use std::collections::BTreeMap;
use std::sync::Arc;

use actix::{Actor, Context, Handler};

use crate::machines::barrier::Inlet;
use crate::machines::commit::Stager;
use crate::model::fault::Result;
use crate::model::position::ShardId;
use crate::ports::{LetterFile, Outputs};
use crate::shells::message::{Barrier, Letters, Staged};
use crate::toolkit::crash;
use crate::toolkit::outlet::Outlet;
use crate::toolkit::spawn::{Exit, Generation};

/// The actor.
pub struct DlqActor {
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
    /// Open epochs.
    pub open: BTreeMap<u64, Box<dyn LetterFile>>,
    /// Down: staged files.
    pub staged: Outlet<Staged>,
}

impl Actor for DlqActor {
    type Context = Context<Self>;
}

impl DlqActor {
    fn letters(&mut self, message: Letters) -> Result<()> {
        // The credit is free when this returns: the letters are in the staged file by then.
        let Letters { stamp, letters, credit: _credit } = message;
        self.inlet.data(stamp)?;
        let file = match self.open.entry(stamp.epoch) {
            std::collections::btree_map::Entry::Occupied(open) => open.into_mut(),
            std::collections::btree_map::Entry::Vacant(vacant) => {
                vacant.insert(self.outputs.letter_file(&self.shard, self.lease_epoch, stamp.epoch)?)
            }
        };
        file.append(&letters)?;
        crash::pass("dlq.append");
        Ok(())
    }

    fn barrier(&mut self, message: Barrier) -> Result<()> {
        let epoch = message.stamp.epoch;
        if !self.inlet.barrier(message.stamp)? {
            return Ok(());
        }
        let outputs = match self.open.remove(&epoch) {
            None => Vec::new(),
            Some(file) => file.finish()?,
        };
        crash::pass("dlq.after_finish");
        self.staged.send(epoch, |stamp| Staged { stamp, stager: Stager::Dlq, outputs });
        Ok(())
    }
}

impl Handler<Letters> for DlqActor {
    type Result = ();
    fn handle(&mut self, message: Letters, _: &mut Self::Context) {
        if !self.generation.is_ending()
            && let Err(fault) = self.letters(message)
        {
            self.generation.end("dlq", Exit::from_fault(fault));
        }
    }
}

impl Handler<Barrier> for DlqActor {
    type Result = ();
    fn handle(&mut self, message: Barrier, _: &mut Self::Context) {
        if !self.generation.is_ending()
            && let Err(fault) = self.barrier(message)
        {
            self.generation.end("dlq", Exit::from_fault(fault));
        }
    }
}
