//! Which shards this process runs: all of them, or its share where other workers run the rest.
//!
//! Owns: starting and ending the supervisors of shards, draining and stopping. Does not own: one shard's generations
//! (supervisor), who should have what (machines/fleet), life signs (fleet).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::fleet::withdraw;
use super::supervisor::{End, Supervisor};
use super::{Outcome, Parts, Places, lacks_a_parent, may_open, rows_of_all_listed};
use crate::machines::fleet::{FleetAct, FleetMachine};
use crate::model::fault::{Fault, Result};
use crate::model::position::ShardId;
use crate::model::row::{ShardRow, ShardState};
use crate::shells::commit::retrying;
use crate::shells::feed;
use crate::shells::message::NewEpoch;
use crate::toolkit::board::Life;
use crate::toolkit::flag::Flag;
use crate::toolkit::outlet::Door;

/// How often the crew looks at the board.
const LOOK: Duration = Duration::from_millis(50);

/// The supervisors of a process.
pub(super) struct Crew {
    parts: Parts,
    places: Places,
    door: Door<NewEpoch>,
    ended: mpsc::UnboundedSender<(ShardId, Result<End>)>,
    endings: mpsc::UnboundedReceiver<(ShardId, Result<End>)>,
    /// Under a supervisor now: raised to have it commit and let go.
    running: BTreeMap<ShardId, Flag>,
    /// Ended for good as far as this process is concerned.
    done: BTreeSet<ShardId>,
    /// Leases that were lost, and what was staged under them is ours to remove once somebody has overtaken us.
    lost: BTreeMap<ShardId, u64>,
    /// Read to their end by everybody.
    finish: Flag,
    fleet: Option<FleetMachine>,
    /// Some shards may still fall to us: nobody is known to care for them.
    orphans: bool,
    outcome: Outcome,
}

impl Crew {
    pub(super) fn new(parts: Parts, places: Places, door: Door<NewEpoch>) -> Self {
        let (ended, endings) = mpsc::unbounded_channel();
        let fleet = parts.fleet.as_ref().map(|_| FleetMachine::new(&parts.config.owner));
        let (running, done, lost, finish, orphans, outcome) = Default::default();
        Self { parts, places, door, ended, endings, running, done, lost, finish, fleet, orphans, outcome }
    }

    /// Supervises shards until each has ended for good, or until told to stop.
    pub(super) async fn run(mut self, stop: Flag) -> Result<Outcome> {
        // Looks at life signs are so far apart, and nothing that happens in between brings the next one forward. A worker that
        // shares nothing looks at its own rows as often as it likes.
        let pause = self.parts.fleet.as_ref().map_or(LOOK, super::Fleet::beat);
        let mut next_look = Box::pin(tokio::time::sleep(Duration::ZERO));
        loop {
            let rows = self.rows().await?;
            if next_look.is_elapsed() {
                self.fleet.iter_mut().for_each(|fleet| fleet.look(&rows));
                self.look_at_sinks().await;
                next_look = Box::pin(tokio::time::sleep(pause));
            }
            let quiet = if self.fleet.is_some() { self.share(&rows, &stop).await } else { self.open_all(&rows, &stop) };
            if quiet && self.running.is_empty() {
                return Ok(self.outcome);
            }
            // Until the rows may say something new.
            loop {
                tokio::select! {
                    // First: a shard that has just ended may have children that are not on the board yet.
                    biased;
                    Some((shard, end)) = self.endings.recv() => {
                        self.ended(shard, end);
                        break;
                    }
                    () = stop.wait(), if self.running.is_empty() => return Ok(self.outcome),
                    () = &mut next_look => {
                        self.finish_if_quiet();
                        break;
                    }
                    () = tokio::time::sleep(LOOK) => self.finish_if_quiet(),
                }
            }
        }
    }

    /// Whoever makes Gold feeds the sinks, and says in the rows when shards must wait for one.
    async fn look_at_sinks(&self) {
        let parts = &self.parts;
        if parts.fleet.is_none() || parts.sinks.may_hold().next().is_none() {
            return;
        }
        let (sinks, rows) = (parts.sinks.clone(), parts.rows.clone());
        // In a task of its own, and until the next look as it was: this is no reason for shards to end.
        match actix::spawn(async move { feed::is_held(&sinks, rows.as_ref()).await }).await {
            Ok(Ok(held)) => parts.board.hold_elsewhere(held),
            Ok(Err(fault)) => tracing::warn!(%fault, "looking whether shards must wait for a sink"),
            Err(error) => tracing::warn!(%error, "looking whether shards must wait for a sink"),
        }
    }

    fn finish_if_quiet(&self) {
        if self.parts.config.shard.drain && !self.orphans && self.parts.board.all_quiet() {
            self.finish.raise();
        }
    }

    async fn rows(&self) -> Result<Vec<ShardRow>> {
        let parts = &self.parts;
        let clock = || parts.clock.clone();
        let rows = retrying(clock(), "reading the rows of shards", || parts.rows.shards()).await?;
        let orphan = |row: &ShardRow| !self.knows(&row.shard) && may_open(parts, row, &rows) && lacks_a_parent(row, &rows);
        if rows.iter().any(orphan) {
            return retrying(clock(), "looking for a parent", || rows_of_all_listed(parts)).await;
        }
        Ok(rows)
    }

    fn knows(&self, shard: &ShardId) -> bool {
        self.running.contains_key(shard) || self.done.contains(shard)
    }

    /// Every shard is ours. Is nothing left to wait for?
    fn open_all(&mut self, rows: &[ShardRow], stop: &Flag) -> bool {
        for (index, row) in rows.iter().enumerate() {
            if may_open(&self.parts, row, rows) && !self.knows(&row.shard) {
                self.start(index, row.shard.clone(), None, stop);
            }
        }
        true
    }

    /// Some shards are ours. Is nothing left to wait for?
    async fn share(&mut self, rows: &[ShardRow], stop: &Flag) -> bool {
        self.leave_to_others(rows);
        let (Some(machine), Some(fleet)) = (&self.fleet, self.parts.fleet.clone()) else { return true };
        let leaving = stop.is_raised() || self.finish.is_raised();
        self.tell_board(rows);
        let open = |row: &ShardRow| !self.done.contains(&row.shard) && may_open(&self.parts, row, rows);
        let mine = self.running.iter().map(|(shard, leave)| (shard.clone(), leave.is_raised())).collect();
        let acts = machine.decide(rows, &mine, open, self.parts.clock.random());
        // Whoever is drained and was let go has nothing left to do.
        let over = |row: &ShardRow| row.state == ShardState::Drained && row.owner.is_empty();
        let ours = |row: &ShardRow| self.running.contains_key(&row.shard);
        self.orphans = rows.iter().any(|row| open(row) && !ours(row) && !over(row) && !machine.is_cared_for(row));
        for act in acts.into_iter().filter(|_| !leaving) {
            match act {
                FleetAct::Take(shard, lease_epoch) => {
                    let index = rows.iter().position(|row| row.shard == shard).unwrap_or_default();
                    self.start(index, shard, Some(lease_epoch), stop);
                }
                FleetAct::Leave(shard) => {
                    tracing::info!(%shard, "another worker asks for the shard");
                    if let Some(leave) = self.running.get(&shard) {
                        leave.raise();
                    }
                }
                FleetAct::Want(shard, lease_epoch) => self.want(&fleet, &shard, lease_epoch, &self.parts.config.owner).await,
                FleetAct::Keep(shard, lease_epoch) => self.want(&fleet, &shard, lease_epoch, "").await,
            }
        }
        // A worker that serves stays for whatever may come; one that drains ends when what is left is other workers'.
        leaving || self.parts.config.shard.drain && !self.orphans
    }

    async fn want(&self, fleet: &super::Fleet, shard: &ShardId, lease_epoch: u64, wanted_by: &str) {
        // A hint: whatever prevents it, the next look comes to the same again.
        if let Err(fault) = fleet.leases.want(shard, lease_epoch, wanted_by).await {
            tracing::warn!(%shard, %fault, "asking for a shard");
        }
    }

    /// What others have committed holds back our idle shards as our own would.
    fn tell_board(&self, rows: &[ShardRow]) {
        for row in rows.iter().filter(|row| !self.running.contains_key(&row.shard) && !self.done.contains(&row.shard)) {
            self.parts.board.tell(row);
        }
    }

    fn leave_to_others(&mut self, rows: &[ShardRow]) {
        let parts = &self.parts;
        self.lost.retain(|shard, lease_epoch| {
            let overtaken = rows.iter().any(|row| row.shard == *shard && row.lease_epoch > *lease_epoch);
            if overtaken {
                let (parts, shard, lease_epoch) = (parts.clone(), shard.clone(), *lease_epoch);
                actix::spawn(async move { withdraw(&parts, &shard, lease_epoch).await });
            }
            !overtaken
        });
    }

    fn start(&mut self, index: usize, shard: ShardId, only: Option<u64>, stop: &Flag) {
        let (parts, places, door, leave) = (self.parts.clone(), self.places.clone(), self.door.clone(), Flag::default());
        self.running.insert(shard.clone(), leave.clone());
        // From now on it is ours to quieten, whatever stood there before.
        self.parts.board.update(&shard, |live| live.life = Life::Starting);
        let supervisor = Arc::new(Supervisor { parts, places, index, shard: shard.clone(), door, leave });
        let (ended, stop, finish) = (self.ended.clone(), stop.clone(), self.finish.clone());
        actix::spawn(async move {
            let end = actix::spawn(supervisor.supervise(stop, finish, only)).await;
            let end = end.unwrap_or_else(|error| Err(Fault::bug(format!("the supervisor of {shard} ended: {error}"))));
            // The receiver lives as long as the crew; when it is gone nobody waits for the answer.
            drop(ended.send((shard, end)));
        });
    }

    fn ended(&mut self, shard: ShardId, end: Result<End>) {
        self.running.remove(&shard);
        match end {
            Ok(End::Lost(lease_epoch)) => {
                self.parts.board.settle(&shard, Life::Elsewhere);
                self.lost.extend(lease_epoch.map(|lease_epoch| (shard, lease_epoch)));
            }
            Ok(End::LetGo) => self.parts.board.settle(&shard, Life::Elsewhere),
            Ok(End::Finished) => {
                self.done.insert(shard);
            }
            Err(fault) => {
                self.done.insert(shard.clone());
                self.lose(shard, fault);
            }
        }
    }

    fn lose(&mut self, shard: ShardId, fault: Fault) {
        self.outcome.lost.push((shard, fault));
    }
}
