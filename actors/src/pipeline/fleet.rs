//! Holding leases where several workers share the shards of a stream.
//!
//! Owns: life signs and the fuse beside them, letting go, the lease of Gold. Does not own: who should have what
//! (machines/fleet), taking a shard over (history), the generations of a shard (supervisor).

use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::{Fleet, Parts, Places, gold_and_sinks};
use crate::machines::fleet::LOOKS;
use crate::model::fault::{Fault, Kind, Result};
use crate::model::position::ShardId;
use crate::model::row::{Lease, ShardRow};
use crate::ports::{Cas, Clock, Leases};
use crate::shells::gold::GoldEnd;
use crate::shells::message::NewEpoch;
use crate::toolkit::flag::Flag;
use crate::toolkit::outlet::Door;
use crate::toolkit::pause::Pause;
use crate::toolkit::spawn::turns_true;

/// The lease of the one worker that makes Gold.
const GOLD: &str = "gold";

impl Fleet {
    /// Between two life signs, and between two looks at those of the others.
    pub(super) fn beat(&self) -> Duration {
        self.failover / (LOOKS - 1)
    }
}

/// Shows that the owner of a lease lives, as long as it is not dropped.
pub(super) struct Heart {
    /// Raised when the lease may be somebody else's: it is, or no life sign has been heard for the whole failover time.
    pub(super) lost: Flag,
    task: JoinHandle<()>,
}

impl Drop for Heart {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Heart {
    /// Of the shard whose lease has just been taken.
    pub(super) fn of_shard(fleet: &Fleet, row: &ShardRow) -> Self {
        let (leases, shard, lease_epoch) = (fleet.leases.clone(), row.shard.clone(), row.lease_epoch);
        let first = row.heartbeat;
        Self::start(fleet, format!("the lease of {shard}"), move |beats| {
            let (leases, shard) = (leases.clone(), shard.clone());
            async move { Ok(leases.beat(&shard, lease_epoch, first + beats).await?.is_some()) }
        })
    }

    fn of_lease(fleet: &Fleet, lease: &Lease) -> Self {
        let (leases, lease) = (fleet.leases.clone(), lease.clone());
        Self::start(fleet, format!("the lease of {}", lease.name), move |beats| {
            let (leases, lease) = (leases.clone(), lease.clone());
            async move {
                // What is stored is the last life sign that arrived, and which one that was is not known after an error.
                let stored = leases.lease(&lease.name).await?.filter(|stored| stored.epoch == lease.epoch);
                let Some(stored) = stored else { return Ok(false) };
                let next = Lease { heartbeat: lease.heartbeat + beats, ..stored.clone() };
                Ok(leases.update_lease(Some(&stored), &next).await? == Cas::Won)
            }
        })
    }

    fn start<F>(fleet: &Fleet, what: String, sign: impl Fn(u64) -> F + Send + 'static) -> Self
    where
        F: Future<Output = Result<bool>> + Send + 'static,
    {
        let (lost, pause, failover) = (Flag::default(), fleet.beat(), fleet.failover);
        let beating = beat(what, sign, lost.clone(), pause, failover);
        let task = match &fleet.thread {
            Some(thread) => thread.spawn(beating),
            None => actix::spawn(beating),
        };
        Self { lost, task }
    }
}

/// The fuse is lit before a life sign is sent, and put out only when that sign is known to have arrived: whoever waits for the
/// next one begins to wait later than we do.
async fn beat<F>(what: String, sign: impl Fn(u64) -> F, lost: Flag, pause: Duration, failover: Duration)
where
    F: Future<Output = Result<bool>>,
{
    let lost = RaisedAtTheEnd(lost);
    let mut fuse = Box::pin(tokio::time::sleep(failover));
    for beats in 1.. {
        let next = tokio::select! {
            biased;
            () = &mut fuse => None,
            () = tokio::time::sleep(pause) => Some(Box::pin(tokio::time::sleep(failover))),
        };
        let Some(next) = next else { break };
        let answer = tokio::select! {
            biased;
            () = &mut fuse => break,
            answer = sign(beats) => answer,
        };
        match answer {
            Ok(true) => fuse = next,
            Ok(false) => {
                tracing::warn!("{what} was taken by another worker");
                return;
            }
            Err(fault) => tracing::warn!(%fault, "{what}: a life sign may not have arrived"),
        }
    }
    tracing::error!("{what}: no life sign has arrived for {failover:?}, others may take it");
    drop(lost);
}

/// A heart that stops for any reason, a panic too, is a lost lease.
struct RaisedAtTheEnd(Flag);

impl Drop for RaisedAtTheEnd {
    fn drop(&mut self) {
        self.0.raise();
    }
}

/// Lets a shard go, so that nobody has to wait until its owner counts as gone. Whatever prevents it costs that time and nothing
/// else, so it is not tried again.
pub(super) async fn release(parts: Parts, shard: ShardId, lease_epoch: u64) {
    let released = async {
        let Some(row) = parts.rows.shard(&shard).await?.filter(|row| row.lease_epoch == lease_epoch) else {
            return Ok(Cas::Lost);
        };
        let free = ShardRow { owner: String::new(), ..row.clone() };
        parts.rows.update_shard(row.fence(), &free).await
    };
    match released.await {
        Ok(Cas::Won) => tracing::info!(%shard, "shard let go"),
        Ok(Cas::Lost) => tracing::info!(%shard, "shard was taken before it was let go"),
        Err(fault) => tracing::warn!(%shard, %fault, "shard not let go: others take it after the failover time"),
    }
}

/// Makes Gold whenever this worker has the lease for it, until told to finish.
pub(super) async fn gold(
    parts: Parts,
    fleet: Fleet,
    places: Places,
    door: Door<NewEpoch>,
    finish: watch::Receiver<bool>,
) -> Result<()> {
    let mut pause = Pause::new(parts.clock.clone());
    loop {
        // In a task of its own: a panic in a store must not end Gold for good.
        let turn = turn(parts.clone(), fleet.clone(), places.clone(), door.clone(), finish.clone());
        let ended = actix::spawn(turn).await;
        match ended.unwrap_or_else(|error| Err(Fault::bug(format!("making gold: {error}")))) {
            Ok(GoldEnd::Finished) => return Ok(()),
            Ok(GoldEnd::Lost) => {}
            Err(fault) if *finish.borrow() && fault.kind() != Kind::Bug => return Err(fault),
            // Given up here, and let go: another worker may have better luck. The alert has been raised.
            Err(fault) => pause.after("making gold", &fault).await,
        }
    }
}

/// Waits for the lease, and makes Gold for as long as it lasts.
async fn turn(
    parts: Parts,
    fleet: Fleet,
    places: Places,
    door: Door<NewEpoch>,
    mut finish: watch::Receiver<bool>,
) -> Result<GoldEnd> {
    let Some(lease) = wait_for_gold(&parts, &fleet, &mut finish).await else { return Ok(GoldEnd::Finished) };
    tracing::info!(lease = lease.epoch, "making gold");
    let heart = Heart::of_lease(&fleet, &lease);
    let ended = gold_and_sinks(&parts, &places, door, finish, heart.lost.clone()).await;
    drop(heart);
    if !matches!(ended, Ok(GoldEnd::Lost)) {
        let_go(fleet.leases.as_ref(), &lease).await;
    }
    ended
}

/// None when told to finish before it could be had: then it is another worker's business, unless everything is being drained.
async fn wait_for_gold(parts: &Parts, fleet: &Fleet, finish: &mut watch::Receiver<bool>) -> Option<Lease> {
    let (mut seen, mut looks, mut waited) = (None, 0, true);
    let drain = parts.config.shard.drain;
    loop {
        match fleet.leases.lease(GOLD).await {
            Ok(stored) => {
                looks = if seen == stored { looks + u32::from(waited) } else { 1 };
                seen.clone_from(&stored);
                let free = stored.as_ref().is_none_or(|lease| lease.owner.is_empty() || looks >= LOOKS);
                if free && let Some(lease) = take_gold(parts.clock.as_ref(), fleet, &parts.config.owner, stored).await {
                    return Some(lease);
                }
            }
            Err(fault) if fault.kind() == Kind::Retry => tracing::warn!(%fault, "looking at the lease of gold"),
            Err(fault) => tracing::error!(%fault, "looking at the lease of gold"),
        }
        let told = *finish.borrow();
        if told && !drain {
            return None;
        }
        waited = tokio::select! {
            biased;
            () = tokio::time::sleep(fleet.beat()) => true,
            () = turns_true(finish), if !told => false,
        };
    }
}

async fn take_gold(clock: &dyn Clock, fleet: &Fleet, owner: &str, stored: Option<Lease>) -> Option<Lease> {
    let epoch = stored.as_ref().map_or(0, |lease| lease.epoch) + 1;
    let lease = Lease { name: GOLD.to_owned(), owner: owner.to_owned(), epoch, heartbeat: clock.random() >> 12 };
    match fleet.leases.update_lease(stored.as_ref(), &lease).await {
        Ok(Cas::Won) => Some(lease),
        Ok(Cas::Lost) => None,
        Err(fault) => {
            tracing::warn!(%fault, "taking the lease of gold");
            // Unknown: what is stored tells at the next look, and if it is ours nobody shows life for it.
            None
        }
    }
}

async fn let_go(leases: &dyn Leases, lease: &Lease) {
    let released = async {
        let Some(stored) = leases.lease(&lease.name).await?.filter(|stored| stored.epoch == lease.epoch) else {
            return Ok(Cas::Lost);
        };
        let free = Lease { owner: String::new(), ..stored.clone() };
        leases.update_lease(Some(&stored), &free).await
    };
    if let Err(fault) = released.await {
        tracing::warn!(%fault, "the lease of gold is not let go: others take it after the failover time");
    }
}
