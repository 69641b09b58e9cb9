//! Holding leases where several workers share the shards of a stream.
//!
//! Owns: life signs and the fuse beside them, letting go, the lease of Gold. Does not own: who should have what
//! (machines/fleet), taking a shard over (history), the generations of a shard (supervisor).

use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::{Fleet, Parts, Places, gold_and_sinks};
use crate::history;
use crate::machines::fleet::LOOKS;
use crate::model::fault::{Fault, Kind, Result};
use crate::model::position::ShardId;
use crate::model::row::{Lease, ShardRow};
use crate::ports::{Cas, Clock, CommitPermit, Leases};
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

/// Now. How long a lease is ours is measured on one machine, from the moment at which a life sign is sent.
#[expect(clippy::disallowed_methods, reason = "of no result: whoever counts wrong is fenced by the row")]
pub(super) fn moment() -> Instant {
    Instant::now()
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
    /// Of the shard whose lease has just been taken, by a request that was sent then.
    pub(super) fn of_shard(fleet: &Fleet, row: &ShardRow, sent: Instant) -> Self {
        let (leases, shard, lease_epoch) = (fleet.leases.clone(), row.shard.clone(), row.lease_epoch);
        let first = row.heartbeat;
        Self::start(fleet, format!("the lease of {shard}"), sent, move |beats| {
            let (leases, shard) = (leases.clone(), shard.clone());
            async move { Ok(leases.beat(&shard, lease_epoch, first + beats).await?.is_some()) }
        })
    }

    fn of_lease(fleet: &Fleet, lease: &Lease, sent: Instant) -> Self {
        let (leases, lease) = (fleet.leases.clone(), lease.clone());
        Self::start(fleet, format!("the lease of {}", lease.name), sent, move |beats| {
            let (leases, lease) = (leases.clone(), lease.clone());
            async move {
                // What is stored is the last life sign that arrived, and which one that was is not known after an error.
                let Some(stored) = ours(leases.as_ref(), &lease).await? else { return Ok(false) };
                let next = Lease { heartbeat: lease.heartbeat + beats, ..stored.clone() };
                if leases.update_lease(Some(&stored), &next).await? == Cas::Won {
                    return Ok(true);
                }
                match ours(leases.as_ref(), &lease).await? {
                    None => Ok(false),
                    // Nobody waited for it any more.
                    Some(_) => Err(Fault::retry("an earlier life sign arrived in between")),
                }
            }
        })
    }

    fn start<F>(fleet: &Fleet, what: String, sent: Instant, sign: impl Fn(u64) -> F + Send + 'static) -> Self
    where
        F: Future<Output = Result<bool>> + Send + 'static,
    {
        let (lost, pause, failover) = (Flag::default(), fleet.beat(), fleet.failover);
        let beating = beat(what, sign, lost.clone(), sent, pause, failover);
        let task = match &fleet.thread {
            Some(thread) => thread.spawn(beating),
            None => actix::spawn(beating),
        };
        Self { lost, task }
    }
}

/// What is stored of a lease of ours; none if it is another worker's.
async fn ours(leases: &dyn Leases, lease: &Lease) -> Result<Option<Lease>> {
    Ok(leases.lease(&lease.name).await?.filter(|stored| stored.epoch == lease.epoch))
}

/// The fuse burns from when a life sign is sent, and is lit anew only when a later sign is known to have arrived: whoever waits
/// for the next one begins to wait later than we do. A sign that has no answer after half a beat is not waited for: a connection
/// that swallows everything would cost the lease, although there is time for more tries.
async fn beat<F>(what: String, sign: impl Fn(u64) -> F, lost: Flag, sent: Instant, pause: Duration, failover: Duration)
where
    F: Future<Output = Result<bool>>,
{
    let lost = RaisedAtTheEnd(lost);
    let (half, mut next) = (pause / 2, sent + pause);
    let mut fuse = std::pin::pin!(tokio::time::sleep_until(sent + failover));
    for beats in 1.. {
        tokio::select! {
            biased;
            () = &mut fuse => break,
            () = tokio::time::sleep_until(next) => {}
        }
        let sent = moment();
        let answer = tokio::select! {
            biased;
            () = &mut fuse => break,
            answer = tokio::time::timeout(half, sign(beats)) => answer,
        };
        match answer {
            Ok(Ok(true)) => {
                fuse.as_mut().reset(sent + failover);
                next = sent + pause;
                continue;
            }
            Ok(Ok(false)) => {
                tracing::warn!("{what} was taken by another worker");
                return;
            }
            Ok(Err(fault)) => tracing::warn!(%fault, "{what}: a life sign may not have arrived"),
            Err(_) => tracing::warn!("{what}: a life sign has no answer after {half:?}"),
        }
        next = sent + half;
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

/// Ends what owners of a shard of ours began to store and nobody named: they died, or did not hear that it had begun. Everything
/// committed is visible. A shard that was read to its end is taken over by nobody who would do it later; where it can't be done
/// now, the store's own rule for uploads that were abandoned does it.
pub(super) async fn sweep(parts: &Parts, shard: &ShardId, lease_epoch: u64) {
    let Some(live) = parts.board.get(shard) else { return };
    if let Err(fault) = parts.outputs.discard_staged(CommitPermit::won(lease_epoch, live.epoch), shard, &[]).await {
        tracing::warn!(%shard, %fault, "what was begun and never committed stays stored");
    }
}

/// Removes what an owner who has been overtaken had staged and nobody named: it may lie on his disk only, or have been stored
/// after his successor had looked, and a shard that has ended since is taken by nobody who would look again. Where it can't be
/// done now, it is when he takes the shard again, or as with [`sweep`].
pub(super) async fn withdraw(parts: &Parts, shard: &ShardId, lease_epoch: u64) {
    let withdrawn = async {
        // Also where only the time for a life sign has passed: a swap of ours may still arrive.
        let Some(row) = parts.rows.shard(shard).await?.filter(|row| row.lease_epoch > lease_epoch) else { return Ok(0) };
        let named = match &row.object {
            Some(object) => history::read(parts.blobs.as_ref(), object).await?.pending()?,
            None => Vec::new(),
        };
        let named: Vec<_> = named.into_iter().map(|held| held.output).collect();
        parts.outputs.discard_staged(CommitPermit::overtaken(lease_epoch), shard, &named).await
    };
    match withdrawn.await {
        Ok(0) => {}
        Ok(files) => tracing::info!(%shard, lease = lease_epoch, files, "what was staged under a lost lease is deleted"),
        Err(fault) => tracing::warn!(%shard, lease = lease_epoch, %fault, "what was staged under a lost lease stays stored"),
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
    let Some((lease, sent)) = wait_for_gold(&parts, &fleet, &mut finish).await else { return Ok(GoldEnd::Finished) };
    tracing::info!(lease = lease.epoch, "making gold");
    let heart = Heart::of_lease(&fleet, &lease, sent);
    let (lost, handed_over) = (heart.lost.clone(), Flag::default());
    // Whoever stops leaves the rest to others, as it does with shards: a window may have more epochs than there is time.
    let patience = async {
        turns_true(&mut finish.clone()).await;
        tokio::time::sleep(fleet.failover).await;
        tracing::info!("gold is not finished: another worker goes on with it");
        handed_over.raise();
        lost.raise();
        std::future::pending::<()>().await;
    };
    let ended = tokio::select! {
        biased;
        ended = gold_and_sinks(&parts, &places, door, finish.clone(), lost.clone()) => ended,
        () = patience, if !parts.config.shard.drain => Err(Fault::bug("gold was left without an end")),
    };
    drop(heart);
    if matches!(ended, Ok(GoldEnd::Lost)) && !handed_over.is_raised() {
        return ended;
    }
    let_go(fleet.leases.as_ref(), &lease).await;
    ended.map(|_finished_or_handed_over| GoldEnd::Finished)
}

/// None when told to finish before it could be had: then it is another worker's business, unless everything is being drained.
async fn wait_for_gold(parts: &Parts, fleet: &Fleet, finish: &mut watch::Receiver<bool>) -> Option<(Lease, Instant)> {
    let (mut seen, mut looks, mut waited) = (None, 0, true);
    let drain = parts.config.shard.drain;
    loop {
        let told = *finish.borrow();
        if told && !drain {
            return None;
        }
        match fleet.leases.lease(GOLD).await {
            Ok(stored) => {
                looks = if seen == stored { looks + u32::from(waited) } else { 1 };
                seen.clone_from(&stored);
                let free = stored.as_ref().is_none_or(|lease| lease.owner.is_empty() || looks >= LOOKS);
                let sent = moment();
                if free && let Some(lease) = take_gold(parts.clock.as_ref(), fleet, &parts.config.owner, stored).await {
                    return Some((lease, sent));
                }
            }
            Err(fault) if fault.kind() == Kind::Retry => tracing::warn!(%fault, "looking at the lease of gold"),
            Err(fault) => tracing::error!(%fault, "looking at the lease of gold"),
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
        let Some(stored) = ours(leases, lease).await? else { return Ok(Cas::Lost) };
        let free = Lease { owner: String::new(), ..stored.clone() };
        leases.update_lease(Some(&stored), &free).await
    };
    if let Err(fault) = released.await {
        tracing::warn!(%fault, "the lease of gold is not let go: others take it after the failover time");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    const FAILOVER: Duration = Duration::from_secs(30);
    const PAUSE: Duration = Duration::from_secs(10);

    /// How a life sign ends.
    #[derive(Clone, Copy)]
    enum Sign {
        Arrives,
        Fails,
        Hangs,
        Foreign,
    }

    /// Beats with these signs, then with ones that hang, from this long after the lease was asked for; tells when the lease is
    /// lost and when each sign was sent, in seconds since it was asked for.
    fn beats(answered_after: u64, signs: &'static [Sign]) -> (f64, Vec<f64>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async move {
            let (asked, sent) = (moment(), Arc::new(Mutex::new(Vec::new())));
            let since = move || (moment() - asked).as_secs_f64().round();
            tokio::time::sleep(Duration::from_secs(answered_after)).await;
            let (lost, noted) = (Flag::default(), sent.clone());
            let sign = move |beats: u64| {
                noted.lock().unwrap().push(since());
                let sign = signs.get(beats as usize - 1).copied().unwrap_or(Sign::Hangs);
                async move {
                    match sign {
                        Sign::Arrives => Ok(true),
                        Sign::Fails => Err(Fault::retry("throttled")),
                        Sign::Hangs => std::future::pending().await,
                        Sign::Foreign => Ok(false),
                    }
                }
            };
            beat("a lease".to_owned(), sign, lost.clone(), asked, PAUSE, FAILOVER).await;
            assert!(lost.is_raised());
            (since(), Arc::try_unwrap(sent).unwrap().into_inner().unwrap())
        })
    }

    #[test]
    fn a_life_sign_that_hangs_is_given_up_after_half_a_beat_and_sent_again() {
        use Sign::{Arrives, Hangs};
        let (lost, sent) = beats(0, &[Arrives, Hangs, Arrives, Hangs, Hangs, Hangs, Arrives]);
        // Two connections in a row may swallow everything, three, too; the lease is lost with the fourth.
        assert_eq!(sent, [10.0, 20.0, 25.0, 35.0, 40.0, 45.0, 50.0, 60.0, 65.0, 70.0, 75.0]);
        assert_eq!(lost, 80.0, "half a minute after the last sign that arrived");
    }

    #[test]
    fn life_signs_that_fail_at_once_are_not_sent_in_a_storm() {
        let (lost, sent) = beats(0, &[Sign::Fails; 4]);
        assert_eq!((lost, sent.len()), (30.0, 4), "{sent:?}");
    }

    #[test]
    fn the_time_of_a_lease_counts_from_when_it_was_asked_for_and_not_from_the_answer() {
        let (lost, sent) = beats(25, &[]);
        assert_eq!((lost, sent), (30.0, vec![25.0]));
    }

    #[test]
    fn a_lease_that_is_somebody_elses_is_lost_at_once() {
        assert_eq!(beats(0, &[Sign::Arrives, Sign::Foreign]).0, 20.0);
    }
}
