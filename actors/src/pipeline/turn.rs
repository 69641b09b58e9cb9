//! One turn with one shard: take it, make visible what its last owner left, do one errand, let it go.
//!
//! Owns: that order, under a lease and within a time; owners that name the moment after which they are gone. Does not own: which
//! errand is due (ingest, tick), the actors of a generation (wiring).

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;

use super::fleet::{release, withdraw};
use super::handed::OneAnswer;
use super::rebuild::settle;
use super::supervisor::Supervisor;
use super::wiring::wire;
use super::{Parts, PipelineConfig, Places};
use crate::history::{Taken, raise_lease};
use crate::machines::shard::{Extent, ShardConfig};
use crate::model::fault::{Fault, Kind, Result};
use crate::model::position::ShardId;
use crate::model::row::{ShardRow, ShardState};
use crate::ports::{Read, Stream};
use crate::toolkit::board::{Board, Life};
use crate::toolkit::flag::Flag;
use crate::toolkit::outlet::Door;
use crate::toolkit::pause::Pause;
use crate::toolkit::spawn::{Exit, Generation, panic_of};

/// When time is up, actors are told to end; whatever does not see it within this is left behind.
const GRACE: Duration = Duration::from_secs(1);
/// Clocks of machines differ: an owner whose time is up is believed gone so much later.
const SKEW_US: i64 = 30_000_000;
const MORTAL: &str = "until:";

/// The name of an owner that is gone after this moment, whatever becomes of it: an invocation does not outlive its deadline, and
/// where one does (it was frozen, and wakes up), the fence stops it.
pub fn owner_until(until_us: i64, name: &str) -> String {
    format!("{MORTAL}{until_us}:{name}")
}

/// Who has a shard, as far as its row tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Hold {
    /// Nobody, or somebody whose time is up.
    Free,
    /// Somebody whose time will be up.
    Mortal,
    /// A worker: its life signs tell.
    Worker,
}

impl Hold {
    pub(super) fn of(row: &ShardRow, now_us: i64) -> Self {
        if row.owner.is_empty() {
            return Self::Free;
        }
        let until = row.owner.strip_prefix(MORTAL).and_then(|rest| rest.split(':').next()).and_then(|until| until.parse().ok());
        match until {
            Some(until) if now_us.saturating_sub(SKEW_US) > until => Self::Free,
            Some(_) => Self::Mortal,
            None => Self::Worker,
        }
    }
}

/// The end of a turn for which a person has to look, as a supervisor would tell it: there is none here that tries again, and
/// whoever invokes does so for ever.
pub(super) fn given_up(board: &Board, shard: &ShardId, fault: &Fault) {
    let (alert, life) = match fault.kind() {
        Kind::Poison => ("breaker", Life::Tripped),
        Kind::Config | Kind::Corrupt | Kind::Bug => ("quarantine", Life::Quarantined),
        Kind::Retry | Kind::Fenced => return,
    };
    board.settle(shard, life);
    tracing::error!(alert, %shard, %fault, "shard given up by an invocation; the next one tries again");
}

/// What is done with a shard while it is ours.
#[derive(Clone)]
pub(super) enum Errand {
    /// What its last owner committed becomes visible; a blocked shard opens.
    Settle,
    /// That, and one generation over this stream, as far as that goes.
    Read(Arc<dyn Stream>, Extent),
}

impl Errand {
    /// To commit what one answer of the stream says.
    pub(super) fn answer(parts: &Parts, row: &ShardRow, read: Read) -> Self {
        Self::Read(Arc::new(OneAnswer { name: parts.stream.name(), at: row.position, read }), Extent::Once)
    }
}

/// The same pipeline, over another stream, for one generation of this extent.
pub(super) fn limited(parts: &Parts, stream: Arc<dyn Stream>, extent: Extent) -> Parts {
    let shard = ShardConfig { extent, drain: false, ..parts.config.shard.clone() };
    Parts { stream, config: Arc::new(PipelineConfig { shard, ..(*parts.config).clone() }), ..parts.clone() }
}

/// Runs in a task of its own, with this much time; the flag is raised when it is over. A panic is a fault, and nothing goes on
/// when the caller has gone.
pub(super) async fn within<T, F>(time: Duration, work: impl FnOnce(Flag) -> F) -> Result<T>
where
    T: 'static,
    F: Future<Output = Result<T>> + 'static,
{
    let over = Flag::default();
    let mut task = Task(actix::spawn(work(over.clone())));
    let ended = tokio::select! {
        biased;
        ended = &mut task.0 => Some(ended),
        () = tokio::time::sleep(time) => {
            over.raise();
            tokio::time::timeout(GRACE, &mut task.0).await.ok()
        }
    };
    match ended {
        None => Err(out_of_time()),
        Some(Ok(done)) => done,
        Some(Err(error)) => {
            let text = panic_of(error).unwrap_or_else(|| "aborted".to_owned());
            Err(Fault::bug(format!("the invocation panicked: {text}")))
        }
    }
}

struct Task<T>(JoinHandle<T>);

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn out_of_time() -> Fault {
    Fault::retry("the time of the invocation is over; what is not committed is done again")
}

/// One wait that ends when time is over. Nothing is lost by letting go at any point: that is what a crash does.
pub(super) async fn in_time<T>(over: &Flag, work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::select! {
        biased;
        () = over.wait() => Err(out_of_time()),
        done = work => done,
    }
}

/// One turn. With `only`, the shard is taken from whoever has that lease and from nobody later. The world's faults are waited
/// out; whoever loses the shard meanwhile does not fight for it.
pub(super) async fn turn(
    parts: &Parts,
    places: &Places,
    shard: &ShardId,
    mut only: Option<u64>,
    errand: Errand,
    over: &Flag,
) -> Result<()> {
    let (mut pause, given) = (Pause::new(parts.clock.clone()), only);
    loop {
        let done = once(parts, places, shard, &mut only, errand.clone(), over).await;
        match done {
            Err(fault) if fault.kind() == Kind::Retry && !over.is_raised() => {
                let wait = async {
                    pause.after("a turn with a shard", &fault).await;
                    Ok(())
                };
                in_time(over, wait).await?;
            }
            Err(fault) if fault.kind() == Kind::Fenced => {
                if let Some(lease_epoch) = only.filter(|_| only != given) {
                    withdraw(parts, shard, lease_epoch).await;
                }
                return Err(fault);
            }
            done => return done,
        }
    }
}

async fn once(
    parts: &Parts,
    places: &Places,
    shard: &ShardId,
    only: &mut Option<u64>,
    errand: Errand,
    over: &Flag,
) -> Result<()> {
    let row = in_time(over, raise_lease(parts.rows.as_ref(), &parts.clock, shard, &parts.config.owner, *only, || ())).await?;
    *only = Some(row.lease_epoch);
    let taken = in_time(over, settle(parts, row, std::future::pending())).await?;
    parts.board.take(&taken.row, &taken.history, parts.clock.now_us());
    let lease_epoch = taken.row.lease_epoch;
    tracing::debug!(%shard, lease = lease_epoch, after = %taken.row.position, "shard taken for a turn");
    if let Errand::Read(stream, extent) = errand
        && taken.row.state == ShardState::Open
    {
        generation(limited(parts, stream, extent), places, taken, over).await?;
    }
    // Everything committed is visible: a row without an owner says so.
    let release = release(parts.clone(), shard.clone(), lease_epoch);
    in_time(over, async {
        release.await;
        Ok(())
    })
    .await
}

async fn generation(parts: Parts, places: &Places, taken: Taken, over: &Flag) -> Result<()> {
    let shard = taken.row.shard.clone();
    let (places, door, leave) = (places.clone(), Door::closed(), Flag::default());
    let supervisor = Supervisor { parts, places, index: 0, shard, door, leave };
    let (generation, watch) = Generation::new(1);
    // What it reads was looked at before.
    let address = wire(&supervisor, taken, None, &generation)?;
    let ender = generation.ender();
    drop(generation);
    let mut ended = std::pin::pin!(watch.ended());
    let (actor, exit) = tokio::select! {
        biased;
        exit = &mut ended => exit,
        () = over.wait() => {
            ender.end("deadline", Exit::Failed(out_of_time()));
            ended.await
        }
    };
    drop(address);
    match exit {
        Exit::Finished => Ok(()),
        Exit::Fenced(fault) | Exit::Failed(fault) => Err(fault),
        Exit::Panicked(text) => Err(Fault::bug(format!("{actor} panicked: {text}"))),
        Exit::Dismissed => Err(Fault::bug(format!("{actor} ended without a reason"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_is_believed_gone_when_its_time_was_up_on_every_clock_there_may_be() {
        let row = ShardRow::new("stream", ShardId::new("shard"), (0, 0), ShardState::Open);
        let held = |owner: &str, now_us: i64| Hold::of(&ShardRow { owner: owner.to_owned(), ..row.clone() }, now_us);
        let until = 1_767_600_000_000_000;
        let mortal = owner_until(until, "sandbox:7");
        assert_eq!(held(&mortal, until - 1), Hold::Mortal);
        assert_eq!(held(&mortal, until + SKEW_US), Hold::Mortal);
        assert_eq!(held(&mortal, until + SKEW_US + 1), Hold::Free);
        assert_eq!(held("", until), Hold::Free);
        // No time in its name: only its life signs tell.
        for worker in ["host:1", "until:", "until:soon:host"] {
            assert_eq!(held(worker, i64::MAX), Hold::Worker, "{worker}");
        }
    }
}
