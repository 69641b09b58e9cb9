//! One shard, generation after generation.
//!
//! Owns: what follows from the end of a generation: done, again after a pause, or given up. Does not own: how long the pause is
//! (machines/restart), the actors of a generation (wiring).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::fleet::{Heart, moment, release, sweep};
use super::rebuild::settle;
use super::wiring::wire;
use super::{Parts, Places};
use crate::history::{self, raise_lease};
use crate::machines::restart::{Restarts, Verdict};
use crate::model::fault::{Fault, Kind, Result};
use crate::model::position::ShardId;
use crate::model::row::{ShardRow, ShardState};
use crate::shells::message::{NewEpoch, Stop};
use crate::toolkit::board::Life;
use crate::toolkit::flag::Flag;
use crate::toolkit::outlet::Door;
use crate::toolkit::spawn::{Exit, Generation, panic_of};

/// One shard, generation after generation.
pub(super) struct Supervisor {
    pub(super) parts: Parts,
    pub(super) places: Places,
    pub(super) index: usize,
    pub(super) shard: ShardId,
    pub(super) door: Door<NewEpoch>,
    /// Raised when another worker shall have it.
    pub(super) leave: Flag,
}

/// How a shard ended here, if nothing was wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    /// Read to its end, or told to stop.
    Finished,
    /// Let go for another worker.
    LetGo,
    /// Another worker has taken it, or may have, after this lease of ours, if we had one.
    Lost(Option<u64>),
}

/// What is held of a shard between two generations.
#[derive(Default)]
struct Held {
    /// The lease that we have; before the first, the one that may be taken.
    lease_epoch: Option<u64>,
    heart: Option<Heart>,
}

impl Held {
    /// The lease that is ours: without a heart, it is that of whoever we meant to succeed.
    fn ours(&self) -> Option<u64> {
        self.heart.as_ref().and(self.lease_epoch)
    }
}

impl Supervisor {
    /// Ok when the shard has ended as it should; Err when it was given up. With `only`, it is taken from whoever has that lease
    /// and from nobody else, now and after each fault.
    pub(super) async fn supervise(self: Arc<Self>, stop: Flag, finish: Flag, only: Option<u64>) -> Result<End> {
        let mut restarts = Restarts::new(self.parts.config.restart);
        let mut committed = 0;
        let held = Arc::new(Mutex::new(Held { lease_epoch: only, heart: None }));
        for number in 1.. {
            // In a task of its own: a panic while the shard is taken over must not end its supervisor.
            let ended = actix::spawn(self.clone().generation(number, stop.clone(), finish.clone(), held.clone())).await;
            let ended = ended.unwrap_or_else(|error| {
                let text = panic_of(error).unwrap_or_else(|| "aborted".to_owned());
                Ok(("takeover", Exit::Panicked(text)))
            });
            let epoch = self.parts.board.get(&self.shard).map_or(0, |live| live.epoch);
            if epoch > committed {
                committed = epoch;
                restarts.progressed();
            }
            let fenced = match &ended {
                Ok((_, Exit::Fenced(fault))) => Some(fault),
                Err(fault) if fault.kind() == Kind::Fenced => Some(fault),
                Ok(_) | Err(_) => None,
            };
            if let Some(fault) = fenced.filter(|_| self.parts.fleet.is_some()) {
                // Whose it is now is for the next look to say: to take it back at once would be to fight for it.
                tracing::warn!(shard = %self.shard, generation = number, %fault, "shard lost");
                return Ok(End::Lost(held.lock().unwrap_or_else(PoisonError::into_inner).ours()));
            }
            let fault = match ended {
                Ok((_, Exit::Finished)) => return Ok(self.finished(&held).await),
                Ok((actor, Exit::Fenced(fault) | Exit::Failed(fault))) => {
                    let kind = fault.kind();
                    tracing::error!(shard = %self.shard, actor, generation = number, ?kind, %fault, "generation ended");
                    fault
                }
                Ok((actor, Exit::Panicked(text))) => {
                    tracing::error!(shard = %self.shard, actor, generation = number, "generation ended by a panic: {text}");
                    Fault::bug(format!("{actor} panicked: {text}"))
                }
                Ok((actor, Exit::Dismissed)) => Fault::bug(format!("{actor} ended without a reason")),
                Err(fault) => {
                    let kind = fault.kind();
                    tracing::error!(shard = %self.shard, generation = number, ?kind, %fault, "generation did not start");
                    fault
                }
            };
            self.parts.board.update(&self.shard, |live| live.last_fault = Some(fault.to_string()));
            let pause = self.give_up(fault, &mut restarts)?;
            tokio::select! {
                biased;
                // Not let go: what it committed last may not be visible yet, and whoever finds the lease silent sees to that.
                () = stop.wait() => {
                    self.parts.board.settle(&self.shard, Life::Finished);
                    return Ok(End::Finished);
                }
                () = tokio::time::sleep(pause) => {}
            }
        }
        Ok(End::Finished)
    }

    async fn finished(&self, held: &Mutex<Held>) -> End {
        let held = std::mem::take(&mut *held.lock().unwrap_or_else(PoisonError::into_inner));
        if let Some(lease_epoch) = held.ours() {
            // In a task of its own, as generations are: the shard has ended well, whatever happens now.
            let (parts, shard) = (self.parts.clone(), self.shard.clone());
            let leaving = async move {
                sweep(&parts, &shard, lease_epoch).await;
                release(parts, shard, lease_epoch).await;
            };
            let released = actix::spawn(leaving).await;
            if let Err(error) = released {
                tracing::error!(shard = %self.shard, "letting a shard go: {error}");
            }
        }
        // Until then: a shard must not look abandoned while it is being let go.
        drop(held);
        if self.leave.is_raised() {
            return End::LetGo;
        }
        self.parts.board.settle(&self.shard, Life::Finished);
        End::Finished
    }

    /// What a fault obliges: some are final, the others are waited out within the restart policy.
    fn give_up(&self, fault: Fault, restarts: &mut Restarts) -> Result<Duration> {
        let random = self.parts.clock.random();
        let verdict = match fault.kind() {
            // A record's fault that stops the shard is the breaker; a person's settings and damaged state do not heal by waiting.
            Kind::Poison | Kind::Config | Kind::Corrupt => {
                let life = if fault.kind() == Kind::Poison { Life::Tripped } else { Life::Quarantined };
                self.parts.board.settle(&self.shard, life);
                let alert = if life == Life::Tripped { "breaker" } else { "quarantine" };
                tracing::error!(alert, shard = %self.shard, %fault, "shard given up");
                return Err(fault);
            }
            Kind::Retry => Verdict::Restart { after_us: restarts.waited(random) },
            Kind::Fenced | Kind::Bug => restarts.failed(self.parts.clock.now_us(), random),
        };
        match verdict {
            Verdict::Quarantine => {
                self.parts.board.settle(&self.shard, Life::Quarantined);
                tracing::error!(alert = "quarantine", shard = %self.shard, %fault, "shard given up after too many restarts");
                Err(fault)
            }
            Verdict::Restart { after_us } => {
                self.parts.board.settle(&self.shard, Life::Restarting);
                self.parts.board.update(&self.shard, |live| live.restarts = restarts.total());
                Ok(Duration::from_micros(after_us.unsigned_abs()))
            }
        }
    }

    /// Takes the shard over and runs one generation to its end.
    async fn generation(
        self: Arc<Self>,
        number: u64,
        stop: Flag,
        finish: Flag,
        held: Arc<Mutex<Held>>,
    ) -> Result<(&'static str, Exit)> {
        let parts = &self.parts;
        parts.board.update(&self.shard, |live| {
            live.life = if number == 1 { Life::Starting } else { Life::Restarting };
            live.quiet = false;
            // Failing is not idle: the others may not pass this shard while nobody reads it.
            live.idle = false;
        });
        let (lost, row) = self.take(&held).await?;
        let ending = async {
            tokio::select! {
                biased;
                () = lost.wait() => Fault::fenced("its lease may be another worker's"),
                () = stop.wait() => Fault::retry("asked to end while lost files are written once more; the next owner goes on"),
            }
        };
        let taken = settle(parts, row, ending).await?;
        let (lease, after) = (taken.row.lease_epoch, taken.row.position);
        tracing::info!(shard = %self.shard, generation = number, lease, %after, "shard taken");
        parts.board.take(&taken.row, &taken.history, parts.clock.now_us());
        // It may have become true after Gold had read the rows: a swap of the last owner that arrived late.
        if let Some(newest) = taken.newest.clone() {
            self.door.tell(NewEpoch(Box::new(newest)));
        }
        if taken.row.state == ShardState::Drained {
            return Ok(("takeover", Exit::Finished));
        }
        let recall = history::recall(parts.rows.as_ref(), parts.blobs.as_ref(), &taken.row, taken.history.fresh_us).await?;
        let (generation, watch) = Generation::new(number);
        let shard = wire(&self, taken, recall, &generation)?;
        let ender = generation.ender();
        // The watch waits until nobody holds the generation any more: from here on only its actors do.
        drop(generation);
        let told = async {
            tokio::select! {
                biased;
                () = stop.wait() => {}
                () = finish.wait() => {}
                () = self.leave.wait() => {}
            }
            shard.tell(Stop);
            drop(shard);
            std::future::pending::<()>().await;
        };
        let robbed = async {
            lost.wait().await;
            ender.end("lease", Exit::Fenced(Fault::fenced("its lease may be another worker's")));
            std::future::pending::<()>().await;
        };
        tokio::select! {
            biased;
            exit = watch.ended() => Ok(exit),
            () = told => Err(Fault::bug("a shard was left without an end")),
            () = robbed => Err(Fault::bug("a shard was left without an end")),
        }
    }

    /// Takes the lease, and shows from then on that its owner lives. The flag is raised when it may be lost.
    async fn take(&self, held: &Mutex<Held>) -> Result<(Flag, ShardRow)> {
        let lock = || held.lock().unwrap_or_else(PoisonError::into_inner);
        let (only, parts) = (lock().lease_epoch, &self.parts);
        let mut sent = moment();
        let sending = || sent = moment();
        let row = raise_lease(parts.rows.as_ref(), &parts.clock, &self.shard, &parts.config.owner, only, sending).await?;
        let Some(fleet) = &parts.fleet else { return Ok((Flag::default(), row)) };
        let heart = Heart::of_shard(fleet, &row, sent);
        let lost = heart.lost.clone();
        *lock() = Held { lease_epoch: Some(row.lease_epoch), heart: Some(heart) };
        Ok((lost, row))
    }
}
