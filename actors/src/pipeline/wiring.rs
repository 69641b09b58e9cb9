//! The wiring of one generation: the only file that knows every actor.
//!
//! Owns: who sends to whom, with which numbering, on which thread. Does not own: what they send (shells), when a generation is
//! built (supervisor).

use std::collections::BTreeMap;

use actix::{Addr, Message, Recipient};

use super::Parts;
use super::supervisor::Supervisor;
use crate::history::Taken;
use crate::machines::barrier::Inlet;
use crate::machines::commit::{CommitConfig, CommitMachine, History};
use crate::machines::partition::PartitionMachine;
use crate::machines::shard::{Extent, Opening, Resumed, ShardMachine};
use crate::model::fault::Result;
use crate::model::row::ShardRow;
use crate::ports::Recall;
use crate::shells::commit::CommitActor;
use crate::shells::dlq::DlqActor;
use crate::shells::partition::PartitionActor;
use crate::shells::shard::ShardActor;
use crate::shells::writer::WriterActor;
use crate::toolkit::credit::Budget;
use crate::toolkit::outlet::{Notices, Numbering, Outlet};
use crate::toolkit::spawn::{Generation, Place, spawn_watched, spawn_watched_with};

/// Builds the actors of one generation, downstream first: each needs the address of the next. The stream is told what is
/// recalled.
pub(super) fn wire(
    supervisor: &Supervisor,
    taken: Taken,
    recall: Option<Recall>,
    generation: &Generation,
) -> Result<Notices<ShardActor>> {
    let config = &supervisor.parts.config;
    let Taken { row, history, .. } = taken;
    let budget = Budget::new(config.in_flight);
    let machine = machine(&supervisor.parts, &row, &history);
    let capacity = budget.messages_max() * (config.parallelism + 1);
    // The shard's address is needed by those below it: its mailbox exists before it does.
    let (sender, receiver) = actix::dev::channel::channel::<ShardActor>(capacity);
    let shard = Notices::new(actix::Addr::new(sender));
    let wiring = Wiring {
        supervisor,
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
    let actor = wiring.shard(machine, recall, &partitions, &writer, &dlq, &commit);
    spawn_watched_with(&Place::Here, generation, "shard", receiver, move || actor);
    Ok(shard)
}

/// The shard as it goes on from here.
pub(super) fn machine(parts: &Parts, row: &ShardRow, history: &History) -> ShardMachine {
    let resumed = Resumed {
        committed: row.epoch,
        position: row.position,
        bound: row.bound,
        last_arrival_us: history.last_arrival_us,
        max_event_us: history.max_event_us,
        fresh_us: history.fresh_us,
    };
    ShardMachine::new(parts.config.shard.clone(), resumed, parts.clock.now_us())
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
        let Parts { config, board, .. } = &self.supervisor.parts;
        let handed_after = match config.shard.extent {
            Extent::Handed(_) => Some(row.position),
            Extent::Endless | Extent::Once => None,
        };
        let commit_config = CommitConfig { handed_after, ..self.supervisor.parts.commit_config(config.parallelism) };
        let actor = CommitActor {
            machine: CommitMachine::new(commit_config, row, history),
            unanswered: 0,
            generation: self.generation.clone(),
            steps: self.supervisor.parts.steps(),
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
        recall: Option<Recall>,
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
            recall,
        }
    }
}
