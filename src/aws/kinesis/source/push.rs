//! Enhanced fan-out: one subscription per shard, whose events are asked for one by one, when a read wants them.
//!
//! Nothing runs between two reads: while nobody asks, the connection's windows fill and the service stops sending, so that a
//! reader under back-pressure holds one event and those windows.
//!
//! # What an event proves
//! An event has no date, and may have lain in the connection while nobody asked for it. What is certain of the service's clock
//! is that it was past the date with which the subscription began, and past the arrival of the records in the event; so that is
//! what a read tells, and a silent shard subscribes anew for the sake of a later date. That a shard is caught up is told
//! only by an event without records that lies 0 ms behind, after all others were taken, and believed until the next one is due.
//!
//! Owns: the consumer, the beginning, renewal and loss of subscriptions, what silence means. Does not own: what an event says of
//! records (cursor), the calls (sdk).

use std::pin::Pin;

use sluicebox_actors::model::fault::{Fault, Result};
use sluicebox_actors::model::position::{Sequence, ShardId};

use super::ask::{TRIES, refused};
use super::{Poller, Reading};
use crate::kinesis::api::{Answered, Batch, Begin, Events, Refusal, Subscribed, What};
use crate::kinesis::pacer::Pacer;

/// A subscription is not taken over in its first 5 seconds, not even by whoever lost its connection.
const PROTECTED_US: u64 = 5_100_000;
/// How long one read waits for an event: less than evidence of an answer is believed.
pub(super) const WAIT_US: u64 = 500_000;
/// A silent shard says so about every 5 seconds. Who hears nothing for so long has lost the connection …
pub(super) const STALLED_US: u64 = 20_000_000;
/// … and for so long is still believed to be caught up.
pub(super) const QUIET_US: u64 = 10_000_000;
/// A subscription to a silent shard is renewed after so long, for its date.
const RENEWAL_US: u64 = 15_000_000;
/// Events taken in one read: five minutes of silence, and more.
const EVENTS_MAX: usize = 100;
/// A consumer that is being made is looked at so often, a second apart.
const LOOKS: usize = 60;
const LOOK_US: u64 = 1_000_000;

type Next = Pin<Box<dyn Future<Output = (Box<dyn Events>, Answered<Option<Batch>>)> + Send>>;

/// What is remembered of the subscription to one shard.
pub(super) struct Push {
    pacer: Pacer,
    live: Option<Live>,
    /// Waited for an event so long, in vain.
    silent_us: u64,
    /// When an event last said that there is nothing more.
    quiet_us: Option<u64>,
}

struct Live {
    /// The event that is awaited. It outlives the reads that wait for it: half an event is never lost.
    next: Next,
    date_us: Option<i64>,
    begun_us: u64,
}

impl Default for Push {
    fn default() -> Self {
        Self { pacer: Pacer::every(PROTECTED_US), live: None, silent_us: 0, quiet_us: None }
    }
}

fn next(mut events: Box<dyn Events>) -> Next {
    Box::pin(async move {
        let answer = events.next().await;
        (events, answer)
    })
}

impl Push {
    /// Is there evidence that nothing more is there?
    pub(super) fn is_quiet(&self, now_us: u64) -> bool {
        self.quiet_us.is_some_and(|quiet_us| now_us.saturating_sub(quiet_us) < QUIET_US)
    }

    fn begin(&mut self, subscribed: Subscribed, now_us: u64) {
        let Subscribed { events, date_us } = subscribed;
        self.live = Some(Live { next: next(events), date_us, begun_us: now_us });
        self.silent_us = 0;
    }

    /// What follows is another position: nothing of the old one is true of it.
    fn forget(&mut self) {
        (self.live, self.quiet_us) = (None, None);
    }

    fn wants_renewal(&self, now_us: u64) -> bool {
        let old = |live: &Live| now_us.saturating_sub(live.begun_us) >= RENEWAL_US;
        self.is_quiet(now_us) && self.live.as_ref().is_some_and(old)
    }
}

/// The clock of the service at an event: at least, and at most.
fn dated(mut batch: Batch, date_us: Option<i64>, since_us: u64) -> Batch {
    let newest = batch.records.iter().map(|record| record.arrival_us).max();
    batch.date_us = date_us.max(newest);
    let since_us = i64::try_from(since_us).unwrap_or(i64::MAX);
    batch.latest_us = date_us.map(|date_us| date_us.saturating_add(since_us).saturating_add(1_000_000)).max(newest);
    batch
}

impl Poller {
    /// Events into the cursor: waits for the first, then takes those that lie here already, until one brings records.
    pub(super) async fn receive(&self, shard: &ShardId, reading: &mut Reading, consumer: &str) -> Result<()> {
        let mut wait_us = WAIT_US;
        for _ in 0..EVENTS_MAX {
            if !reading.cursor.is_empty() || reading.cursor.end().is_some() {
                return Ok(());
            }
            let retention_us = self.retention().await?;
            let Some((batch, live)) = self.event(shard, reading, consumer, wait_us).await? else { return Ok(()) };
            let silent = batch.records.is_empty() && batch.behind_ms == Some(0);
            // Whoever stops waiting here loses the event, and with it the subscription: it comes again with the next one.
            self.take(shard, reading, batch, retention_us).await?;
            reading.push.live = Some(live);
            reading.denials = 0;
            reading.push.quiet_us = silent.then(|| self.pauses.elapsed_us());
            wait_us = 0;
        }
        Ok(())
    }

    /// The next event, if one comes in this time. A subscription that is not there, or that is to be renewed, is begun.
    async fn event(&self, shard: &ShardId, reading: &mut Reading, consumer: &str, wait_us: u64) -> Result<Option<(Batch, Live)>> {
        if reading.cursor.iterator().is_none() {
            reading.push.forget();
        }
        if reading.push.wants_renewal(self.pauses.elapsed_us()) {
            reading.push.live = None;
        }
        if reading.push.live.is_none() && !self.subscribe(shard, reading, consumer).await? {
            return Ok(None);
        }
        let push = &mut reading.push;
        let Some(live) = &mut push.live else { return Ok(None) };
        let asked_us = self.pauses.elapsed_us();
        let came = tokio::select! {
            biased;
            came = &mut live.next => Some(came),
            () = self.pauses.pause(wait_us) => None,
        };
        let now_us = self.pauses.elapsed_us();
        let Some((events, answer)) = came else {
            push.silent_us += now_us.saturating_sub(asked_us);
            if push.silent_us >= STALLED_US {
                tracing::debug!(%shard, "the subscription has gone silent: it is begun anew");
                push.forget();
            }
            return Ok(None);
        };
        let Some(mut live) = push.live.take() else { return Ok(None) };
        match answer {
            Ok(Some(batch)) => {
                let batch = dated(batch, live.date_us, now_us.saturating_sub(live.begun_us));
                live.next = next(events);
                push.silent_us = 0;
                push.pacer.answered(now_us, 0);
                Ok(Some((batch, live)))
            }
            Ok(None) => Ok(None),
            Err(refusal) => self.lost(shard, reading, consumer, refusal).await.map(|()| None),
        }
    }

    /// A subscription broke off: a fault, or the shard has ended with it.
    async fn lost(&self, shard: &ShardId, reading: &mut Reading, consumer: &str, refusal: Refusal) -> Result<()> {
        reading.push.forget();
        reading.push.pacer.throttled(self.pauses.elapsed_us(), self.clock.random());
        match refusal.what {
            What::InUse => Err(taken(shard, consumer, &refusal.fault)),
            What::NotFound => self.unfound(shard, reading).await,
            What::Throttled | What::ExpiredIterator | What::ExpiredToken | What::InvalidArgument | What::Other => {
                Err(refusal.fault)
            }
        }
    }

    /// Shard or consumer is not there: a fault, or the shard has ended.
    async fn unfound(&self, shard: &ShardId, reading: &mut Reading) -> Result<()> {
        *self.consumer.lock().await = None;
        let children = self.denied(shard, reading).await?;
        reading.cursor.vanish(children);
        Ok(())
    }

    /// Begins a subscription behind the last event, else behind the position; false where the shard turned out to have ended.
    async fn subscribe(&self, shard: &ShardId, reading: &mut Reading, consumer: &str) -> Result<bool> {
        let mut last = Fault::retry(format!("reading {shard}: no subscription after {TRIES} tries"));
        for _ in 0..TRIES {
            let arn = self.consumer(consumer).await?;
            self.wait(&reading.push.pacer).await;
            let behind = reading.cursor.iterator().filter(|number| !number.is_empty()).map(str::parse::<Sequence>).transpose()?;
            let begin = behind.map_or_else(|| reading.cursor.begin(), Begin::After);
            reading.push.pacer.called(self.pauses.elapsed_us());
            let refusal = match self.api.subscribe(&arn, shard, begin).await {
                Ok(subscribed) => {
                    reading.push.pacer.called(self.pauses.elapsed_us());
                    reading.push.begin(subscribed, self.pauses.elapsed_us());
                    if reading.cursor.iterator().is_none() {
                        // It has begun, and no event has said yet how to go on.
                        reading.cursor.set_iterator(Some(String::new()));
                    }
                    return Ok(true);
                }
                Err(refusal) => refusal,
            };
            reading.push.pacer.refused(self.pauses.elapsed_us(), self.clock.random());
            match refusal.what {
                What::InUse => last = taken(shard, consumer, &refusal.fault),
                What::Throttled => last = refusal.fault,
                // The number in an event is no record's: the position may well be known.
                What::InvalidArgument if behind.is_some() => reading.cursor.set_iterator(None),
                What::NotFound => return self.unfound(shard, reading).await.map(|()| false),
                What::InvalidArgument | What::ExpiredIterator | What::ExpiredToken | What::Other => {
                    refused(shard, &mut reading.cursor, begin, refusal)?;
                }
            }
        }
        Err(last)
    }

    /// The consumer's ARN, once it may subscribe.
    async fn consumer(&self, name: &str) -> Result<String> {
        let mut known = self.consumer.lock().await;
        if let Some(arn) = &*known {
            return Ok(arn.clone());
        }
        let stream_arn = self.api.summary().await?.arn;
        for _ in 0..LOOKS {
            let consumer = match self.api.consumer(&stream_arn, name).await {
                Err(Refusal { what: What::NotFound, .. }) => match self.api.register(&stream_arn, name).await {
                    // Another worker was faster.
                    Err(Refusal { what: What::InUse, .. }) => None,
                    registered => Some(registered?),
                },
                described => Some(described?),
            };
            if let Some(consumer) = consumer.filter(|consumer| consumer.active) {
                *known = Some(consumer.arn.clone());
                return Ok(consumer.arn);
            }
            self.pauses.pause(LOOK_US).await;
        }
        Err(Fault::retry(format!("the consumer `{name}` is not active yet: it is waited for")))
    }
}

fn taken(shard: &ShardId, consumer: &str, fault: &Fault) -> Fault {
    Fault::retry(format!(
        "{shard} is read by another subscription of the consumer `{consumer}`. It is tried again; if it goes on, two readers \
         share the name: give each pipeline a stream.fan_out of its own ({fault})"
    ))
}

#[cfg(test)]
mod tests;
