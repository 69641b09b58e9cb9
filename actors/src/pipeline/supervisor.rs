//! One shard, generation after generation.
//!
//! Owns: what follows from the end of a generation: done, again after a pause, or given up. Does not own: how long the pause is
//! (machines/restart), the actors of a generation (wiring).

use std::sync::Arc;
use std::time::Duration;

use super::wiring::wire;
use super::{Parts, Places};
use crate::history::take_over;
use crate::machines::restart::{Restarts, Verdict};
use crate::model::fault::{Fault, Kind, Result};
use crate::model::position::ShardId;
use crate::model::row::ShardState;
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
}

impl Supervisor {
    /// Ok when the shard has ended as it should; Err when it was given up.
    pub(super) async fn supervise(self: Arc<Self>, stop: Flag, finish: Flag) -> Result<()> {
        let mut restarts = Restarts::new(self.parts.config.restart);
        let mut committed = 0;
        for number in 1.. {
            // In a task of its own: a panic while the shard is taken over must not end its supervisor.
            let ended = actix::spawn(self.clone().generation(number, stop.clone(), finish.clone())).await;
            let ended = ended.unwrap_or_else(|error| {
                let text = panic_of(error).unwrap_or_else(|| "aborted".to_owned());
                Ok(("takeover", Exit::Panicked(text)))
            });
            let epoch = self.parts.board.get(&self.shard).map_or(0, |live| live.epoch);
            if epoch > committed {
                committed = epoch;
                restarts.progressed();
            }
            let fault = match ended {
                Ok((_, Exit::Finished)) => {
                    self.parts.board.settle(&self.shard, Life::Finished);
                    return Ok(());
                }
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
                () = stop.wait() => return Ok(()),
                () = tokio::time::sleep(pause) => {}
            }
        }
        Ok(())
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
    async fn generation(self: Arc<Self>, number: u64, stop: Flag, finish: Flag) -> Result<(&'static str, Exit)> {
        let parts = &self.parts;
        parts.board.update(&self.shard, |live| {
            live.life = if number == 1 { Life::Starting } else { Life::Restarting };
            live.quiet = false;
            // Failing is not idle: the others may not pass this shard while nobody reads it.
            live.idle = false;
        });
        let (rows, blobs, outputs) = (parts.rows.as_ref(), parts.blobs.as_ref(), parts.outputs.as_ref());
        let taken = take_over(rows, blobs, outputs, parts.clock.as_ref(), &self.shard, &parts.config.owner).await?;
        let (lease, after) = (taken.row.lease_epoch, taken.row.position);
        tracing::info!(shard = %self.shard, generation = number, lease, %after, "shard taken");
        parts.board.update(&self.shard, |live| {
            live.life = Life::Running;
            live.epoch = taken.row.epoch;
            live.bound = Some(taken.row.bound);
            live.committed = taken.row.position;
            live.had_records = taken.history.last_arrival_us.is_some();
            live.totals = taken.history.totals.clone();
        });
        // It may have become true after Gold had read the rows: a swap of the last owner that arrived late.
        if let Some(newest) = taken.newest.clone() {
            self.door.tell(NewEpoch(Box::new(newest)));
        }
        if taken.row.state == ShardState::Drained {
            return Ok(("takeover", Exit::Finished));
        }
        let (generation, watch) = Generation::new(number);
        let shard = wire(&self, taken, &generation)?;
        // The watch waits until nobody holds the generation any more: from here on only its actors do.
        drop(generation);
        let ended = watch.ended();
        tokio::pin!(ended);
        tokio::select! {
            biased;
            exit = &mut ended => return Ok(exit),
            () = stop.wait() => shard.tell(Stop),
            () = finish.wait() => shard.tell(Stop),
        }
        Ok(ended.await)
    }
}
