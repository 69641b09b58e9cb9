//! SubscribeToShard: one shard's records pushed over one connection.
//!
//! The body is pulled by the connection, so a consumer that does not read holds at most one event here.
//!
//! Owns: who may subscribe, the events of a subscription and its end. Does not own: their framing (frame), consumers (consumers).

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use std::{io, io::Write as _};

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use serde_json::json;
use sluicebox_actors::model::position::{Position, Sequence, ShardId};
use sluicebox_actors::ports::Read;
use tokio::sync::watch;

use crate::database::lock;

use super::error::{Answer, ApiError};
use super::fault::Decision;
use super::get::{self, RECORDS_MAX, unwritable, write_children, write_records};
use super::streams::Entry;
use super::wire::{Request, missing, required};
use super::{Shared, blocking, consumers, frame};

// A subscription lives for 5 minutes, and is not taken over in its first 5 seconds.
const LIFETIME_US: i64 = 300 * 1_000_000;
const PROTECTED_US: i64 = 5 * 1_000_000;
// About what AWS puts into one event.
const EVENT_BYTES: usize = 1 << 20;
// Puts of other processes are found by looking; after so many looks without news an empty event moves the consumer on.
const LOOK: Duration = Duration::from_millis(200);
const QUIET_LOOKS: u32 = 25;

/// Who is subscribed to a stream's shards.
#[derive(Default)]
pub(super) struct Subscriptions(Mutex<HashMap<(String, ShardId), Held>>);

#[derive(Clone, Copy, PartialEq, Eq)]
struct Held {
    generation: u64,
    started_us: i64,
}

impl Subscriptions {
    /// Starts one, which ends the one before it; its generation.
    fn begin(&self, consumer: &str, shard: &ShardId, now_us: i64) -> Answer<u64> {
        let mut held = lock(&self.0);
        let key = (consumer.to_owned(), shard.clone());
        let before = held.get(&key).copied();
        if before.is_some_and(|before| now_us.saturating_sub(before.started_us) < PROTECTED_US) {
            return Err(ApiError::in_use(format!(
                "Consumer {consumer} subscribed to shard {shard} less than 5 seconds ago: wait before subscribing again"
            )));
        }
        let generation = before.map_or(0, |before| before.generation + 1);
        held.insert(key, Held { generation, started_us: now_us });
        Ok(generation)
    }

    fn holds(&self, consumer: &str, shard: &ShardId, generation: u64) -> bool {
        let key = (consumer.to_owned(), shard.clone());
        lock(&self.0).get(&key).is_some_and(|held| held.generation == generation)
    }

    /// Ends all of one consumer.
    pub(super) fn end_consumer(&self, consumer: &str) {
        lock(&self.0).retain(|(name, _), _| name != consumer);
    }

    /// Ends all.
    pub(super) fn end_all(&self) {
        lock(&self.0).clear();
    }
}

/// One subscription under way.
struct Subscription {
    shared: Arc<Shared>,
    entry: Arc<Entry>,
    puts: watch::Receiver<u64>,
    closing: watch::Receiver<bool>,
    consumer: String,
    shard: ShardId,
    generation: u64,
    started_us: i64,
    /// So many records lie before what comes next.
    after: u64,
    /// What the last event costs of the shard's throughput.
    pause: Duration,
    next: Next,
    breaks: bool,
}

enum Next {
    Opening,
    /// The first event comes at once, so that a consumer knows where it stands.
    FirstEvent,
    Event,
    End,
    Break,
}

/// Starts a subscription: the body of the answer.
pub(super) async fn subscribe(shared: Arc<Shared>, body: Bytes, decision: &Decision) -> Answer<Body> {
    let begun = shared.clone();
    let mut subscription = blocking(move || begin(begun, &body)).await?;
    subscription.breaks = decision.drop_reply;
    Ok(Body::from_stream(stream::unfold(subscription, |subscription| subscription.step())))
}

fn begin(shared: Arc<Shared>, body: &[u8]) -> Answer<Subscription> {
    let request: Request = serde_json::from_slice(body)?;
    required::<str>(&request.consumer_arn, "consumerARN")?;
    let (entry, consumer, _) = consumers::find(&shared, &request)?;
    let info = entry.shard(required(&request.shard_id, "shardId")?)?;
    let position = request.starting_position.as_ref().ok_or_else(|| missing("startingPosition"))?;
    let now_us = shared.clock.now_us();
    let after = get::start(&entry, &info, &position.kind, position.sequence_number.as_deref(), position.timestamp, now_us)?;
    let generation = entry.subscriptions.begin(&consumer, &info.shard, now_us)?;
    Ok(Subscription {
        puts: entry.puts.subscribe(),
        closing: shared.closing.subscribe(),
        shared,
        entry,
        consumer,
        shard: info.shard,
        generation,
        started_us: now_us,
        after,
        pause: Duration::ZERO,
        next: Next::Opening,
        breaks: false,
    })
}

impl Subscription {
    /// The next message, or the end.
    async fn step(mut self) -> Option<(io::Result<Bytes>, Self)> {
        match self.next {
            Next::Opening => {
                self.next = Next::FirstEvent;
                Some((Ok(frame::event("initial-response", b"{}")), self))
            }
            Next::FirstEvent | Next::Event => {
                let message = match self.event().await {
                    Ok(message) => message?,
                    Err(error) => {
                        self.next = Next::End;
                        let payload = json!({ "message": error.message }).to_string();
                        frame::exception(&error.code, payload.as_bytes())
                    }
                };
                Some((Ok(message), self))
            }
            Next::Break => {
                self.next = Next::End;
                Some((Err(io::Error::other("the fault plan breaks this subscription")), self))
            }
            Next::End => None,
        }
    }

    /// Waits for something to say; none = nothing any more.
    async fn event(&mut self) -> Answer<Option<Bytes>> {
        tokio::time::sleep(self.pause).await;
        let mut looks = if matches!(self.next, Next::FirstEvent) { QUIET_LOOKS } else { 0 };
        loop {
            self.puts.mark_unchanged();
            let now_us = self.shared.clock.now_us();
            if *self.closing.borrow() || now_us.saturating_sub(self.started_us) >= LIFETIME_US {
                return Ok(None);
            }
            if !self.entry.subscriptions.holds(&self.consumer, &self.shard, self.generation) {
                let message = format!("another subscription of consumer {} to shard {} took over", self.consumer, self.shard);
                return Err(ApiError::in_use(message));
            }
            let (entry, shard, after) = (self.entry.clone(), self.shard.clone(), self.after);
            let read = move || {
                let after = Position::after(Sequence::dense(after));
                Ok(entry.stream.read_blocking(&shard, after, RECORDS_MAX as usize, EVENT_BYTES)?)
            };
            let read = blocking(read).await?;
            if !read.records.is_empty() || read.ended.is_some() || looks >= QUIET_LOOKS {
                return self.tell(&read).map(Some);
            }
            looks += 1;
            tokio::select! {
                _ = self.puts.changed() => {}
                _ = self.closing.changed() => {}
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    fn tell(&mut self, read: &Read) -> Answer<Bytes> {
        let last = read.records.last().and_then(|record| record.sequence.as_dense());
        self.after = last.or(read.trimmed_before.and_then(Position::as_dense)).unwrap_or(self.after);
        let bytes: usize = read.records.iter().map(|record| record.data.len()).sum();
        if let Some(rate) = self.shared.limits.subscribed_bytes() {
            self.pause = Duration::from_secs_f64(bytes as f64 / rate);
        }
        let mut payload = Vec::with_capacity(bytes / 3 * 4 + read.records.len() * 160 + 512);
        payload.extend_from_slice(b"{\"Records\":");
        write_records(&mut payload, &read.records)?;
        write!(payload, ",\"MillisBehindLatest\":{}", get::millis_behind(read)).map_err(unwritable)?;
        self.next = Next::Event;
        match &read.ended {
            // An ended shard has nothing to go on from.
            Some(children) => {
                write_children(&mut payload, children)?;
                self.next = Next::End;
            }
            None => write!(payload, ",\"ContinuationSequenceNumber\":\"{}\"", self.after).map_err(unwritable)?,
        }
        if self.breaks {
            self.next = Next::Break;
        }
        payload.push(b'}');
        Ok(frame::event("SubscribeToShardEvent", &payload))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subscription_is_protected_for_five_seconds_and_then_taken_over() {
        let subscriptions = Subscriptions::default();
        let shard = ShardId::new("shardId-000000000000");
        let first = subscriptions.begin("c", &shard, 0).expect("begins");
        let code = subscriptions.begin("c", &shard, PROTECTED_US - 1).expect_err("too soon").code;
        assert_eq!(code, "ResourceInUseException");
        assert!(subscriptions.begin("d", &shard, 1).is_ok(), "another consumer");
        assert!(subscriptions.holds("c", &shard, first));
        let second = subscriptions.begin("c", &shard, PROTECTED_US).expect("takes over");
        assert!(!subscriptions.holds("c", &shard, first) && subscriptions.holds("c", &shard, second));
        subscriptions.end_consumer("c");
        assert!(!subscriptions.holds("c", &shard, second));
    }
}
