//! A Kinesis stream as the port wants it, by polling or by subscriptions.
//!
//! Owns: listings, the order of a read, the end of a shard. Does not own: its calls and what their refusals mean (ask), whether
//! records were lost (kept), what is remembered of a shard (cursor), subscriptions (push), pace (pacer), aggregates (kpl), the
//! SDK (sdk).

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use sluicebox_actors::model::fault::{Fault, Result};
use sluicebox_actors::model::position::{Position, Sequence, ShardId};
use sluicebox_actors::model::record::RawRecord;
use sluicebox_actors::ports::{Clock, Read, Recall, ShardInfo, Stream};

use super::api::{Api, Batch, What};
use super::cursor::{Cursor, Restart};
use super::elapsed::{Elapsed, Pauses};
use super::kpl::{self, Bounds, Opened};
use super::pacer::Pacer;
use crate::client::AwsRuntime;
use push::Push;

mod ask;
mod kept;
mod push;

/// Pages of a listing: a thousand shards each, and no account has so many.
const PAGES_MAX: usize = 1000;
/// Listings begun anew because their token expired.
const LISTINGS_MAX: usize = 3;
/// Empty answers in one read: Kinesis gives them between records that lie far apart.
const EMPTY_MAX: usize = 4;
/// A retention that was changed is noticed after so long.
const SUMMARY_US: u64 = 600_000_000;

/// How a stream is read.
#[derive(Clone, Debug)]
pub struct Settings {
    /// GetRecords a second and shard, 1 to 5; all polling readers of the stream share 5.
    pub reads_a_second: u32,
    /// KPL aggregates are taken apart, within these bounds; none = left alone.
    pub aggregates: Option<Bounds>,
    /// Enhanced fan-out by the consumer of this name, which is registered if there is none; none = polling.
    pub fan_out: Option<Arc<str>>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { reads_a_second: 5, aggregates: Some(Bounds::default()), fan_out: None }
    }
}

/// Aggregates so far.
#[derive(Debug, Default)]
pub struct Counts {
    /// Taken apart.
    pub opened: AtomicU64,
    /// Left whole, because they cannot be read.
    pub malformed: AtomicU64,
    /// Left whole, because they would outgrow the bounds.
    pub too_large: AtomicU64,
}

/// What one Kinesis record holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Packed {
    /// Records: more than one in an aggregate.
    pub parts: usize,
    /// When it arrived, microseconds since 1970.
    pub arrival_us: i64,
}

/// A stream. Clones share what is remembered of each shard.
#[derive(Clone)]
pub struct KinesisStream {
    name: Arc<str>,
    runtime: AwsRuntime,
    poller: Arc<Poller>,
}

struct Poller {
    api: Arc<dyn Api>,
    settings: Settings,
    clock: Arc<dyn Clock>,
    pauses: Arc<dyn Pauses>,
    listed: Mutex<HashMap<ShardId, ShardInfo>>,
    shards: Mutex<HashMap<ShardId, Arc<Slot>>>,
    retention: Mutex<Option<(u64, i64)>>,
    /// ARN of the consumer, once it may subscribe.
    consumer: tokio::sync::Mutex<Option<String>>,
    counts: Counts,
}

struct Slot {
    reading: tokio::sync::Mutex<Reading>,
    behind_ms: Mutex<Option<i64>>,
}

struct Reading {
    cursor: Cursor,
    records: Pacer,
    iterators: Pacer,
    push: Push,
    /// Answers in a row that said that the shard does not exist, while it was listed.
    denials: u32,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics between two halves of a change of these maps.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl KinesisStream {
    /// A stream by its name. Nothing is called yet.
    pub fn new(name: &str, api: Arc<dyn Api>, runtime: AwsRuntime, clock: Arc<dyn Clock>, settings: Settings) -> Self {
        Self::with_pauses(name, api, runtime, clock, settings, Arc::new(Elapsed::start()))
    }

    /// As [`KinesisStream::new`], with another way to wait between calls.
    pub fn with_pauses(
        name: &str,
        api: Arc<dyn Api>,
        runtime: AwsRuntime,
        clock: Arc<dyn Clock>,
        settings: Settings,
        pauses: Arc<dyn Pauses>,
    ) -> Self {
        let poller = Poller {
            api,
            settings,
            clock,
            pauses,
            listed: Mutex::default(),
            shards: Mutex::default(),
            retention: Mutex::default(),
            consumer: tokio::sync::Mutex::default(),
            counts: Counts::default(),
        };
        Self { name: name.into(), runtime, poller: Arc::new(poller) }
    }

    /// Iterator age: how far the last record fetched lies behind the tip, milliseconds (`MillisBehindLatest`); none before the
    /// first answer.
    pub fn behind(&self, shard: &ShardId) -> Option<i64> {
        *lock(&self.poller.slot(shard).behind_ms)
    }

    /// Aggregates so far.
    pub fn counts(&self) -> &Counts {
        &self.poller.counts
    }

    /// What one Kinesis record holds; none if it is not kept any more.
    pub async fn packed(&self, shard: &ShardId, record: Sequence) -> Result<Option<Packed>> {
        let (poller, shard) = (self.poller.clone(), shard.clone());
        self.runtime.run(async move { poller.packed(&shard, record).await }).await
    }
}

#[async_trait]
impl Stream for KinesisStream {
    fn name(&self) -> Arc<str> {
        self.name.clone()
    }

    async fn shards(&self) -> Result<Vec<ShardInfo>> {
        let poller = self.poller.clone();
        self.runtime.run(async move { poller.list().await }).await
    }

    async fn read(&self, shard: &ShardId, after: Position, max_records: usize, max_bytes: usize) -> Result<Read> {
        let (poller, shard) = (self.poller.clone(), shard.clone());
        self.runtime.run(async move { poller.read(&shard, after, max_records, max_bytes).await }).await
    }

    async fn recall(&self, shard: &ShardId, after: Position, recall: &Recall) -> Result<()> {
        self.poller.slot(shard).reading.lock().await.cursor.recall(after, recall);
        Ok(())
    }
}

impl Poller {
    fn slot(&self, shard: &ShardId) -> Arc<Slot> {
        let new = || {
            let reads = Pacer::new(self.settings.reads_a_second.clamp(1, 5));
            let (cursor, push) = (Cursor::default(), Push::default());
            let reading = Reading { cursor, records: reads, iterators: Pacer::new(5), push, denials: 0 };
            Arc::new(Slot { reading: tokio::sync::Mutex::new(reading), behind_ms: Mutex::default() })
        };
        lock(&self.shards).entry(shard.clone()).or_insert_with(new).clone()
    }

    /// All pages, or a fault: half a listing looks like shards that have gone.
    async fn list(&self) -> Result<Vec<ShardInfo>> {
        'listing: for _ in 0..LISTINGS_MAX {
            let (mut shards, mut token) = (Vec::new(), None);
            for _ in 0..PAGES_MAX {
                match self.api.list_shards(token).await {
                    Ok(page) => {
                        shards.extend(page.shards);
                        token = page.next;
                    }
                    Err(refusal) if refusal.what == What::ExpiredToken => continue 'listing,
                    Err(refusal) => return Err(refusal.into()),
                }
                if token.is_none() {
                    if !covers(shards.iter().filter(|shard| !shard.closed), 0, u128::MAX) {
                        return Err(Fault::retry(
                            "kinesis ListShards: the open shards leave a hole in the hash range; it is asked again until the \
                             listing is whole",
                        ));
                    }
                    self.remember(&shards);
                    return Ok(shards);
                }
            }
            return Err(Fault::retry(format!("kinesis ListShards: more than {PAGES_MAX} pages")));
        }
        Err(Fault::retry("kinesis ListShards: the token for the next page expired again and again"))
    }

    /// What is not listed any more may still be read for a while; what was read to its end is not, so memory of it does not grow
    /// with every shard that there ever was.
    fn remember(&self, shards: &[ShardInfo]) {
        let listed: HashSet<_> = shards.iter().map(|info| &info.shard).collect();
        let is_over = |slot: &Slot| slot.reading.try_lock().is_ok_and(|reading| reading.cursor.is_over());
        let mut slots = lock(&self.shards);
        slots.retain(|shard, slot| listed.contains(shard) || !is_over(slot));
        let mut known = lock(&self.listed);
        known.retain(|shard, _| slots.contains_key(shard));
        known.extend(shards.iter().map(|info| (info.shard.clone(), info.clone())));
    }

    async fn info(&self, shard: &ShardId) -> Result<ShardInfo> {
        if let Some(info) = lock(&self.listed).get(shard) {
            return Ok(info.clone());
        }
        let all = self.list().await?;
        let unlisted = || Fault::retry(format!("{shard} is read and not listed: it is asked again"));
        all.into_iter().find(|info| info.shard == *shard).ok_or_else(unlisted)
    }

    async fn read(&self, shard: &ShardId, after: Position, max_records: usize, max_bytes: usize) -> Result<Read> {
        let slot = self.slot(shard);
        let mut reading = slot.reading.lock().await;
        reading.cursor.aim(after);
        let fan_out = self.settings.fan_out.clone();
        if let Some(consumer) = &fan_out {
            self.receive(shard, &mut reading, consumer).await?;
        }
        for _ in 0..EMPTY_MAX {
            if fan_out.is_some() || !reading.cursor.is_empty() || reading.cursor.end().is_some() {
                break;
            }
            self.fetch(shard, &mut reading, max_records, max_bytes).await?;
            if !reading.cursor.has_more() {
                break;
            }
        }
        *lock(&slot.behind_ms) = reading.cursor.behind_ms();
        let children = match reading.cursor.end() {
            Some(told) if reading.cursor.is_empty() => Some(self.children(shard, told).await?),
            Some(_) | None => None,
        };
        let mut read = reading.cursor.hand_out(max_records, max_bytes, children);
        // Silence is evidence only where an event said so, and not long ago.
        read.caught_up &= fan_out.is_none() || !read.records.is_empty() || reading.push.is_quiet(self.pauses.elapsed_us());
        Ok(read)
    }

    async fn fetch(&self, shard: &ShardId, reading: &mut Reading, max_records: usize, max_bytes: usize) -> Result<()> {
        let limit = reading.cursor.limit(max_records, max_bytes);
        let retention_us = self.retention().await?;
        match self.answer(shard, reading, limit).await? {
            Some(batch) => self.take(shard, reading, batch, retention_us).await,
            None => Ok(()),
        }
    }

    /// One answer into the cursor. It is taken in whole or not at all: a caller may stop waiting at any point.
    async fn take(&self, shard: &ShardId, reading: &mut Reading, batch: Batch, retention_us: i64) -> Result<()> {
        let suspicion = reading.cursor.suspicion(&batch, retention_us);
        if !self.is_unfounded(shard, reading, suspicion, retention_us).await? {
            reading.cursor.gap(batch.records.first().map(|record| record.sequence));
        }
        if reading.cursor.is_replaced(&batch) {
            return Err(Fault::corrupt(format!(
                "{shard} holds older records than its position, which the stream refuses: the stream was replaced. Start a new \
                 pipeline, or name the stream that this one began with"
            )));
        }
        let stuck = reading.cursor.is_stuck(&batch, retention_us);
        let parts = self.open(shard, &batch).await?;
        reading.cursor.take(batch, parts, retention_us);
        if stuck {
            reading.cursor.restart_at_horizon(Restart::Stuck);
        }
        Ok(())
    }

    async fn open(&self, shard: &ShardId, batch: &Batch) -> Result<Vec<RawRecord>> {
        let Some(bounds) = self.settings.aggregates else { return Ok(batch.records.clone()) };
        if !batch.records.iter().any(|record| record.data.starts_with(&kpl::MAGIC)) {
            return Ok(batch.records.clone());
        }
        let info = self.info(shard).await?;
        let range = info.hash_start..=info.hash_end;
        let counts = &self.counts;
        let count = |counter: &AtomicU64| {
            counter.fetch_add(1, Ordering::Relaxed);
        };
        Ok(kpl::open_all(batch.records.clone(), &range, bounds, |opened| match opened {
            Opened::Plain(_) => {}
            Opened::Parts(_) => count(&counts.opened),
            Opened::Malformed(_) => count(&counts.malformed),
            Opened::TooLarge(_) => count(&counts.too_large),
        }))
    }

    /// What came out of a shard that has ended: complete, or a fault. What the end itself told counts where the listing lags, or
    /// does not know the shard any more.
    async fn children(&self, shard: &ShardId, told: &[ShardInfo]) -> Result<Vec<ShardInfo>> {
        let listed = self.list().await?;
        let parent = listed.iter().find(|info| info.shard == *shard).cloned();
        let mut children: Vec<_> = listed.into_iter().filter(|info| info.parents.contains(shard)).collect();
        let known: HashSet<_> = children.iter().map(|info| info.shard.clone()).collect();
        children.extend(told.iter().filter(|info| !known.contains(&info.shard)).cloned());
        let whole = |parent: &ShardInfo| parent.closed && covers(children.iter(), parent.hash_start, parent.hash_end);
        if !parent.as_ref().is_none_or(whole) {
            return Err(Fault::retry(format!(
                "{shard} was read to its end, but the shards that came out of it are not all listed: it is asked again"
            )));
        }
        Ok(children)
    }

    async fn retention(&self) -> Result<i64> {
        let now_us = self.pauses.elapsed_us();
        if let Some((asked_us, retention_us)) = *lock(&self.retention)
            && now_us.saturating_sub(asked_us) < SUMMARY_US
        {
            return Ok(retention_us);
        }
        let summary = self.api.summary().await?;
        *lock(&self.retention) = Some((now_us, summary.retention_us));
        Ok(summary.retention_us)
    }
}

/// Do these ranges cover all hash keys from the first to the last?
fn covers<'a>(shards: impl Iterator<Item = &'a ShardInfo>, first: u128, last: u128) -> bool {
    let mut ranges: Vec<_> = shards.map(|info| (info.hash_start, info.hash_end)).collect();
    ranges.sort_unstable();
    let mut next = first;
    for (start, end) in ranges {
        if start > next {
            return false;
        }
        if end >= last {
            return true;
        }
        next = next.max(end + 1);
    }
    false
}

#[cfg(test)]
mod tests;
