//! PartitionActor: decodes one partition's records and sends on what came of them.
//!
//! Owns: the sending. Does not own: any decision (machines/partition), the numbering (machines/barrier).

use std::sync::Arc;

use actix::{Actor, Context, Handler};

use crate::machines::barrier::Inlet;
use crate::machines::partition::PartitionMachine;
use crate::model::fault::Result;
use crate::ports::Clock;
use crate::shells::message::{Barrier, CutMade, Letters, Progress, Raw, Silver};
use crate::shells::shard::ShardActor;
use crate::toolkit::crash;
use crate::toolkit::outlet::{Notices, Outlet};
use crate::toolkit::spawn::{Exit, Generation};

/// The actor.
pub struct PartitionActor {
    /// Decisions.
    pub machine: PartitionMachine,
    /// What comes in.
    pub inlet: Inlet,
    /// Its generation.
    pub generation: Generation,
    /// Time, for letters.
    pub clock: Arc<dyn Clock>,
    /// Down: Silver rows.
    pub silver: Outlet<Silver>,
    /// Down: letters.
    pub letters: Outlet<Letters>,
    /// Down: barriers, behind the rows and behind the letters.
    pub barriers: [Outlet<Barrier>; 2],
    /// Down: this partition's part of an epoch.
    pub cuts: Outlet<CutMade>,
    /// Up: progress.
    pub shard: Notices<ShardActor>,
}

impl Actor for PartitionActor {
    type Context = Context<Self>;
}

impl PartitionActor {
    fn raw(&mut self, message: Raw) -> Result<()> {
        let Raw { stamp, slice, credit } = message;
        self.inlet.data(stamp)?;
        crash::pass("partition.raw");
        let done = self.machine.process(&slice, self.clock.now_us())?;
        if done.silver.num_rows() > 0 {
            let (rows, credit) = (done.silver, credit.clone());
            self.silver.send(stamp.epoch, |stamp| Silver { stamp, rows, credit });
        }
        if !done.letters.is_empty() {
            self.letters.send(stamp.epoch, |stamp| Letters { stamp, letters: done.letters, credit });
        }
        self.shard.tell(Progress {
            epoch: stamp.epoch,
            records: done.records,
            failed: done.failed,
            max_event_us: done.max_event_us,
            grown: done.grown,
        });
        Ok(())
    }

    fn barrier(&mut self, message: Barrier) -> Result<()> {
        let (epoch, next) = (message.stamp.epoch, message.next);
        // One input: its barrier is the epoch's end.
        self.inlet.barrier(message.stamp)?;
        let cut = self.machine.barrier(next)?;
        for outlet in &mut self.barriers {
            outlet.send(epoch, |stamp| Barrier { stamp, next });
        }
        self.cuts.send(epoch, |stamp| CutMade { stamp, cut });
        Ok(())
    }
}

impl Handler<Raw> for PartitionActor {
    type Result = ();
    fn handle(&mut self, message: Raw, _: &mut Self::Context) {
        if !self.generation.is_ending()
            && let Err(fault) = self.raw(message)
        {
            self.generation.end("partition", Exit::from_fault(fault));
        }
    }
}

impl Handler<Barrier> for PartitionActor {
    type Result = ();
    fn handle(&mut self, message: Barrier, _: &mut Self::Context) {
        if !self.generation.is_ending()
            && let Err(fault) = self.barrier(message)
        {
            self.generation.end("partition", Exit::from_fault(fault));
        }
    }
}
