//! What has to happen although no record comes, done once by a process that lives for nothing else: a scheduled invocation.
//!
//! Owns: the visit to every shard (what was committed becomes visible, a shard that was read to its end ends, a quiet one moves
//! its bound), then Gold until nothing is due. It takes in no record, and takes no shard that it has no errand for. Does not own:
//! records (ingest), the lease and the generation (turn), which window is due (machines/gold).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::turn::{Errand, in_time, is_free, limited, turn, within};
use super::wiring::machine;
use super::{Parts, Places, begin_sinks, gold_and_sinks, may_open, rows_of_all_listed};
use crate::history;
use crate::machines::commit::History;
use crate::machines::shard::{Extent, idle_bound};
use crate::model::epoch::EpochHeader;
use crate::model::fault::{Fault, Kind, Result};
use crate::model::position::ShardId;
use crate::model::row::{ShardRow, ShardState};
use crate::ports::Read;
use crate::shells::commit::retrying;
use crate::shells::gold::GoldEnd;
use crate::toolkit::board::{Board, Life};
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

/// One tick, with this much time.
pub async fn tick(parts: Parts, places: Places, time: Duration) -> Result<Ticked> {
    let parts = Parts { board: Arc::new(Board::default()), fleet: None, ..parts };
    within(time, |over| async move {
        let mut round = Round { parts, places, over, ticked: Ticked::default(), quiet: Vec::new() };
        round.visit_all().await?;
        round.move_the_quiet().await;
        round.gold().await;
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
    quiet: Vec<Quiet>,
}

impl Round {
    async fn visit_all(&mut self) -> Result<()> {
        let parts = self.parts.clone();
        in_time(&self.over, begin_sinks(&parts)).await?;
        let mut rows =
            in_time(&self.over, retrying(parts.clock.clone(), "creating rows of shards", || rows_of_all_listed(&parts))).await?;
        let mut visited = BTreeSet::new();
        // The end of one shard lets another open.
        while let Some(row) = rows.iter().find(|row| !visited.contains(&row.shard) && may_open(&parts, row, &rows)) {
            visited.insert(row.shard.clone());
            let row = row.clone();
            let shard = row.shard.clone();
            parts.board.tell(&row);
            if let Err(fault) = self.visit(row).await {
                self.fault(shard, fault);
            }
            rows =
                in_time(&self.over, retrying(parts.clock.clone(), "reading the rows of shards", || parts.rows.shards())).await?;
        }
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
                self.ticked.faults.push((shard, fault));
            }
        }
    }

    async fn visit(&mut self, row: ShardRow) -> Result<()> {
        if !is_free(&row, self.parts.clock.now_us()) {
            self.ticked.busy.push(row.shard);
            return Ok(());
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
        if !read.records.is_empty() {
            return Ok(()); // an invocation has it soon
        }
        if read.ended.is_some() {
            let errand = Errand::answer(&parts, &row, read);
            turn(&parts, &self.places, &shard, Some(row.lease_epoch), errand, &self.over).await?;
            parts.board.update(&shard, |live| live.life = Life::Finished);
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
