//! What has to happen although no record comes, done once by a process that lives for nothing else: a scheduled invocation.
//!
//! Owns: the visit to every shard (what was committed becomes visible, a shard that was read to its end ends, a quiet one moves
//! its bound), then Gold until nothing is due; last, the shards of workers that are gone. It takes in no record, and takes no
//! shard that it has no errand for. Does not own: records (ingest), the lease and the generation (turn), which window is due
//! (machines/gold), what a sign of life is (machines/fleet).

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::sync::watch;

use super::turn::{Errand, Hold, given_up, in_time, limited, turn, within};
use super::wiring::machine;
use super::{Fleet, Parts, Places, begin_sinks, gold_and_sinks, may_open, rows_of_all_listed};
use crate::history;
use crate::machines::commit::History;
use crate::machines::fleet::{LOOKS, is_unmoved};
use crate::machines::shard::{Extent, idle_bound};
use crate::model::epoch::EpochHeader;
use crate::model::fault::{Fault, Kind, Result};
use crate::model::position::ShardId;
use crate::model::row::{ShardRow, ShardState};
use crate::ports::Read;
use crate::shells::commit::retrying;
use crate::shells::gold::GoldEnd;
use crate::toolkit::board::Life;
use crate::toolkit::flag::Flag;
use crate::toolkit::outlet::Door;

/// What a tick did.
#[derive(Debug, Default)]
pub struct Ticked {
    /// Shards whose last owner had left something to be made visible.
    pub settled: Vec<ShardId>,
    /// Shards that ended.
    pub drained: Vec<ShardId>,
    /// Quiet shards whose bound moved.
    pub moved: Vec<ShardId>,
    /// Shards that somebody has just now.
    pub busy: Vec<ShardId>,
    /// Shards that could not be looked at, or not be done with.
    pub faults: Vec<(ShardId, Fault)>,
    /// Gold was given up.
    pub gold: Option<Fault>,
    /// Time was over before everything was done; the next tick goes on.
    pub out_of_time: bool,
}

/// One tick, with this much time. The board is this invocation's alone.
pub async fn tick(parts: Parts, places: Places, time: Duration) -> Result<Ticked> {
    let fleet = parts.fleet.clone().filter(|fleet| fleet.failover < time);
    let parts = Parts { fleet: None, ..parts };
    within(time, |over| async move {
        let (ticked, visited, held, quiet) = Default::default();
        let mut round = Round { parts, places, over, ticked, visited, held, quiet };
        round.visit_all().await?;
        round.move_the_quiet().await;
        round.gold().await;
        // They wait for a whole failover time: everything else is done by then.
        if let Some(fleet) = fleet.filter(|_| !round.held.is_empty())
            && let Err(fault) = round.succeed(&fleet).await
        {
            tracing::warn!(%fault, "whether the owners of shards are gone could not be seen; the next tick looks again");
        }
        round.ticked.out_of_time |= round.over.is_raised();
        Ok(round.ticked)
    })
    .await
}

/// A shard with nothing to read, and the answer that said so.
struct Quiet {
    row: ShardRow,
    history: History,
    read: Read,
}

struct Round {
    parts: Parts,
    places: Places,
    over: Flag,
    ticked: Ticked,
    visited: BTreeSet<ShardId>,
    /// Rows of workers, as they were seen first.
    held: Vec<ShardRow>,
    quiet: Vec<Quiet>,
}

impl Round {
    async fn visit_all(&mut self) -> Result<()> {
        let parts = self.parts.clone();
        in_time(&self.over, begin_sinks(&parts)).await?;
        let rows =
            in_time(&self.over, retrying(parts.clock.clone(), "creating rows of shards", || rows_of_all_listed(&parts))).await?;
        self.visit_the_others(rows, &[]).await
    }

    /// Whatever was not visited yet. Those whose owners are `gone` are taken from exactly the lease that was seen to be silent.
    async fn visit_the_others(&mut self, mut rows: Vec<ShardRow>, gone: &[ShardRow]) -> Result<()> {
        let parts = self.parts.clone();
        // The end of one shard lets another open.
        while let Some(row) = rows.iter().find(|row| !self.visited.contains(&row.shard) && may_open(&parts, row, &rows)) {
            self.visited.insert(row.shard.clone());
            let row = row.clone();
            let shard = row.shard.clone();
            parts.board.tell(&row);
            let believed_gone = gone.iter().any(|gone| is_unmoved(gone, &row));
            if let Err(fault) = self.visit(row, believed_gone).await {
                self.fault(shard, fault);
            }
            rows = self.rows().await?;
        }
        Ok(())
    }

    async fn rows(&self) -> Result<Vec<ShardRow>> {
        let parts = &self.parts;
        in_time(&self.over, retrying(parts.clock.clone(), "reading the rows of shards", || parts.rows.shards())).await
    }

    /// Takes over what workers have left who show no sign of life for the whole failover time, as other workers would: looked at
    /// as often, by this process's clock alone. Of one that lives, the next sign ends the wait.
    async fn succeed(&mut self, fleet: &Fleet) -> Result<()> {
        let mut silent = std::mem::take(&mut self.held);
        let mut rows = Vec::new();
        for _ in 1..LOOKS {
            let wait = async {
                tokio::time::sleep(fleet.beat()).await;
                Ok(())
            };
            in_time(&self.over, wait).await?;
            rows = self.rows().await?;
            silent.retain(|before| rows.iter().any(|now| is_unmoved(before, now)));
            if silent.is_empty() {
                return Ok(());
            }
        }
        for row in &silent {
            tracing::warn!(shard = %row.shard, owner = row.owner, lease = row.lease_epoch, "the owner of a shard is gone");
            self.visited.remove(&row.shard);
            self.ticked.busy.retain(|shard| *shard != row.shard);
        }
        self.visit_the_others(rows, &silent).await?;
        self.move_the_quiet().await;
        self.gold().await;
        Ok(())
    }

    fn fault(&mut self, shard: ShardId, fault: Fault) {
        if self.over.is_raised() {
            return;
        }
        match fault.kind() {
            // Whoever came in between does what we were about to do, or makes it needless.
            Kind::Fenced => self.ticked.busy.push(shard),
            Kind::Retry | Kind::Poison | Kind::Config | Kind::Corrupt | Kind::Bug => {
                tracing::error!(%shard, kind = ?fault.kind(), %fault, "visiting a shard");
                given_up(&self.parts.board, &shard, &fault);
                self.ticked.faults.push((shard, fault));
            }
        }
    }

    async fn visit(&mut self, row: ShardRow, believed_gone: bool) -> Result<()> {
        match Hold::of(&row, self.parts.clock.now_us()) {
            Hold::Free => {}
            Hold::Worker if believed_gone => {}
            Hold::Mortal => {
                self.ticked.busy.push(row.shard);
                return Ok(());
            }
            Hold::Worker => {
                self.ticked.busy.push(row.shard.clone());
                self.held.push(row);
                return Ok(());
            }
        }
        let (parts, left) = (self.parts.clone(), !row.owner.is_empty());
        let row = if left || row.state == ShardState::Blocked {
            turn(&parts, &self.places, &row.shard, Some(row.lease_epoch), Errand::Settle, &self.over).await?;
            if left {
                self.ticked.settled.push(row.shard.clone());
            }
            let Some(row) = in_time(&self.over, parts.rows.shard(&row.shard)).await? else { return Ok(()) };
            parts.board.tell(&row);
            row
        } else {
            row
        };
        match row.state {
            ShardState::Open => self.look(row).await,
            ShardState::Blocked | ShardState::Drained | ShardState::Retired => Ok(()),
        }
    }

    /// Is there anything to read? Nothing is taken for that.
    async fn look(&mut self, row: ShardRow) -> Result<()> {
        let (parts, shard) = (self.parts.clone(), row.shard.clone());
        let header = in_time(&self.over, newest(&parts, &row)).await?;
        let fresh_us = header.as_ref().and_then(|header| header.fresh_us);
        let recall = history::recall(parts.rows.as_ref(), parts.blobs.as_ref(), &row, fresh_us);
        if let Some(recall) = in_time(&self.over, recall).await? {
            parts.stream.recall(&shard, row.position, &recall).await?;
        }
        let read = in_time(&self.over, parts.stream.read(&shard, row.position, 1, 1)).await?;
        parts.board.update(&shard, |live| live.behind_us = read.behind_us);
        if !read.records.is_empty() {
            return Ok(()); // an invocation has it soon
        }
        if read.ended.is_some() {
            let errand = Errand::answer(&parts, &row, read);
            turn(&parts, &self.places, &shard, Some(row.lease_epoch), errand, &self.over).await?;
            parts.board.settle(&shard, Life::Finished);
            self.ticked.drained.push(shard);
        } else if read.caught_up {
            parts.board.update(&shard, |live| live.idle = true);
            let history = header.as_ref().map(History::after).unwrap_or_default();
            self.quiet.push(Quiet { row, history, read });
        }
        Ok(())
    }

    /// Only now is it known what all the others have committed.
    async fn move_the_quiet(&mut self) {
        let parts = self.parts.clone();
        let alike = limited(&parts, parts.stream.clone(), Extent::Once);
        for Quiet { row, history, read } in std::mem::take(&mut self.quiet) {
            let (shard, peers) = (row.shard.clone(), parts.board.peers_of(&row.shard));
            let machine = machine(&alike, &row, &history);
            if idle_bound(machine, read.clone(), peers, parts.clock.now_us()).is_none() {
                continue;
            }
            let errand = Errand::answer(&parts, &row, read);
            match turn(&parts, &self.places, &shard, Some(row.lease_epoch), errand, &self.over).await {
                Ok(()) => self.ticked.moved.push(shard),
                Err(fault) => self.fault(shard, fault),
            }
        }
    }

    async fn gold(&mut self) {
        if self.over.is_raised() {
            return;
        }
        // From the start: what is due is made, and then it has finished.
        let (finish, finishing) = watch::channel(true);
        let ended = gold_and_sinks(&self.parts, &self.places, Door::closed(), finishing, self.over.clone()).await;
        drop(finish);
        match ended {
            Ok(GoldEnd::Finished) => {}
            Ok(GoldEnd::Lost) => self.ticked.out_of_time = true,
            Err(fault) => self.ticked.gold = Some(fault),
        }
    }
}

async fn newest(parts: &Parts, row: &ShardRow) -> Result<Option<EpochHeader>> {
    let Some(object) = &row.object else { return Ok(None) };
    match history::read(parts.blobs.as_ref(), object).await {
        Ok(object) => Ok(Some(object.header)),
        Err(fault) => Err(history::damage_or_fence(parts.rows.as_ref(), row, fault).await),
    }
}
