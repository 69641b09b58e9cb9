//! Goal: a Kinesis whose every answer is the test's, and which notes what it was asked and when.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use bytes::Bytes;
use sluicebox_actors::model::fault::Fault;
use sluicebox_actors::model::position::{Sequence, ShardId};
use sluicebox_actors::model::record::RawRecord;
use sluicebox_actors::ports::{Clock, ShardInfo};

use super::api::{Answered, Api, Batch, Begin, Consumer, Events, Page, Refusal, Subscribed, Summary, What};
use super::elapsed::{Elapsed, Pauses};

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no test panicked with it")
}

pub(super) const HOUR_US: i64 = 3_600_000_000;
pub(super) const RETENTION_US: i64 = 24 * HOUR_US;
pub(super) const NOW_US: i64 = 1_763_900_000_000_000;

pub(super) struct Chance(pub(super) u64);

impl Clock for Chance {
    fn now_us(&self) -> i64 {
        NOW_US
    }

    fn random(&self) -> u64 {
        self.0
    }
}

#[derive(Clone, PartialEq, Debug)]
pub(super) enum Call {
    List(Option<String>),
    Iterator(Begin),
    Records(String),
    Subscribe(Begin),
    Event,
}

pub(super) type Script<A, T> = Box<dyn Fn(A) -> Answered<T> + Send + Sync>;

/// Answers as the test says, and notes what it was asked and when.
pub(super) struct Scripted {
    pub(super) calls: Mutex<Vec<(u64, Call)>>,
    time: Elapsed,
    pub(super) takes_us: Mutex<VecDeque<u64>>,
    list: Script<Option<String>, Page>,
    iterator: Script<Begin, String>,
    records: Script<(String, usize), Batch>,
    subscribe: Script<Begin, Vec<Told>>,
    registered: Mutex<Vec<bool>>,
}

/// One step of a subscription: its next event, its end, an error, or silence for ever.
#[derive(Clone, Debug)]
pub(super) enum Told {
    Event(Batch),
    End,
    Broken(What),
    Wait(u64),
    Silence,
}

struct Telling {
    api: Arc<Scripted>,
    steps: VecDeque<Told>,
}

#[async_trait]
impl Events for Telling {
    async fn next(&mut self) -> Answered<Option<Batch>> {
        // An event arrives in two halves: whoever drops the future between them loses it.
        let mut step = self.steps.pop_front();
        while let Some(Told::Wait(micros)) = step {
            self.api.time.pause(micros).await;
            step = self.steps.pop_front();
        }
        self.api.time.pause(1_000).await;
        self.api.note(Call::Event);
        match step {
            Some(Told::Event(batch)) => Ok(Some(batch)),
            Some(Told::End) => Ok(None),
            Some(Told::Broken(what)) => refuse(what),
            Some(Told::Wait(_) | Told::Silence) | None => std::future::pending().await,
        }
    }
}

impl Scripted {
    pub(super) fn new(
        list: impl Fn(Option<String>) -> Answered<Page> + Send + Sync + 'static,
        iterator: impl Fn(Begin) -> Answered<String> + Send + Sync + 'static,
        records: impl Fn(String, usize) -> Answered<Batch> + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            calls: Mutex::default(),
            time: Elapsed::start(),
            takes_us: Mutex::default(),
            list: Box::new(list),
            iterator: Box::new(iterator),
            records: Box::new(move |(iterator, limit)| records(iterator, limit)),
            subscribe: Box::new(|_| refuse(What::Other)),
            registered: Mutex::default(),
        })
    }

    /// One whose subscriptions are the test's, and which keeps these records for whoever asks by GetRecords.
    pub(super) fn pushing(
        kept: Vec<RawRecord>,
        subscribe: impl Fn(Begin) -> Answered<Vec<Told>> + Send + Sync + 'static,
    ) -> Arc<Self> {
        let (placed, list) = (kept.clone(), one_shard);
        let iterator = move |begin| Ok(place(&placed, begin));
        let api = Self::new(list, iterator, move |iterator, limit| serve(&kept, &iterator, limit));
        let mut api = Arc::into_inner(api).expect("just made");
        api.subscribe = Box::new(subscribe);
        // It is being made when it is looked at for the first time.
        api.registered = Mutex::new(vec![true, false]);
        Arc::new(api)
    }

    /// The same, listing these shards.
    pub(super) fn listing(self: Arc<Self>, shards: Vec<ShardInfo>) -> Arc<Self> {
        let mut api = Arc::into_inner(self).expect("just made");
        api.list = Box::new(move |_| page(shards.clone(), None));
        Arc::new(api)
    }

    pub(super) fn subscriptions(&self) -> Vec<(u64, Begin)> {
        let begin = |(at_us, call): &(u64, Call)| match call {
            Call::Subscribe(begin) => Some((*at_us, *begin)),
            Call::List(_) | Call::Records(_) | Call::Iterator(_) | Call::Event => None,
        };
        lock(&self.calls).iter().filter_map(begin).collect()
    }

    pub(super) fn note(&self, call: Call) {
        lock(&self.calls).push((self.time.elapsed_us(), call));
    }

    pub(super) fn count(&self, fits: impl Fn(&Call) -> bool) -> usize {
        lock(&self.calls).iter().filter(|(_, call)| fits(call)).count()
    }

    pub(super) fn begins(&self) -> Vec<Begin> {
        let begin = |call: &Call| match call {
            Call::Iterator(begin) => Some(*begin),
            Call::List(_) | Call::Records(_) | Call::Subscribe(_) | Call::Event => None,
        };
        lock(&self.calls).iter().filter_map(|(_, call)| begin(call)).collect()
    }
}

#[async_trait]
impl Api for Arc<Scripted> {
    async fn list_shards(&self, token: Option<String>) -> Answered<Page> {
        self.note(Call::List(token.clone()));
        (self.list)(token)
    }

    async fn summary(&self) -> Answered<Summary> {
        Ok(Summary { arn: "arn:aws:kinesis:us-east-1:000000000000:stream/s".into(), retention_us: RETENTION_US })
    }

    async fn iterator(&self, _shard: &ShardId, begin: Begin) -> Answered<String> {
        self.note(Call::Iterator(begin));
        (self.iterator)(begin)
    }

    async fn records(&self, iterator: &str, limit: usize) -> Answered<Batch> {
        self.note(Call::Records(iterator.to_owned()));
        let takes_us = lock(&self.takes_us).pop_front();
        if let Some(takes_us) = takes_us {
            self.time.pause(takes_us).await;
        }
        (self.records)((iterator.to_owned(), limit))
    }

    async fn consumer(&self, _stream_arn: &str, name: &str) -> Answered<Consumer> {
        match lock(&self.registered).pop() {
            Some(active) => Ok(Consumer { arn: format!("arn/consumer/{name}"), active }),
            None => refuse(What::NotFound),
        }
    }

    async fn register(&self, _stream_arn: &str, name: &str) -> Answered<Consumer> {
        Ok(Consumer { arn: format!("arn/consumer/{name}"), active: true })
    }

    async fn subscribe(&self, _consumer_arn: &str, _shard: &ShardId, begin: Begin) -> Answered<Subscribed> {
        self.note(Call::Subscribe(begin));
        let steps = (self.subscribe)(begin)?.into();
        Ok(Subscribed { events: Box::new(Telling { api: self.clone(), steps }), date_us: Some(NOW_US) })
    }
}

pub(super) fn refuse<T>(what: What) -> Answered<T> {
    Err(Refusal { what, fault: Fault::config(format!("scripted: {what:?}")) })
}

pub(super) fn shard(number: u32) -> ShardId {
    ShardId::new(format!("shardId-{number:012}"))
}

pub(super) fn info(number: u32, parents: &[u32], hash_start: u128, hash_end: u128, closed: bool) -> ShardInfo {
    ShardInfo {
        shard: shard(number),
        parents: parents.iter().map(|parent| shard(*parent)).collect(),
        hash_start,
        hash_end,
        closed,
    }
}

pub(super) fn page(shards: Vec<ShardInfo>, next: Option<&str>) -> Answered<Page> {
    Ok(Page { shards, next: next.map(str::to_owned) })
}

pub(super) fn one_shard(_token: Option<String>) -> Answered<Page> {
    page(vec![info(0, &[], 0, u128::MAX, false)], None)
}

pub(super) fn record(number: u64, data: Bytes) -> RawRecord {
    let arrival_us = NOW_US - HOUR_US;
    RawRecord { sequence: Sequence::dense(number), sub_sequence: 0, foreign: false, partition_key: "k".into(), arrival_us, data }
}

pub(super) fn plain(numbers: std::ops::Range<u64>) -> Vec<RawRecord> {
    numbers.map(|number| record(number, number.to_string().into())).collect()
}

pub(super) fn empty(next: &str, behind_ms: i64) -> Answered<Batch> {
    let next = Some(next.to_owned());
    Ok(Batch { next, behind_ms: Some(behind_ms), date_us: Some(NOW_US), ..Batch::default() })
}

/// An iterator of a shard that holds these records: the index of the next one.
pub(super) fn place(kept: &[RawRecord], begin: Begin) -> String {
    let index = match begin {
        Begin::Horizon | Begin::Time(_) => 0,
        Begin::At(at) => kept.partition_point(|record| record.sequence < at),
        Begin::After(last) => kept.partition_point(|record| record.sequence <= last),
    };
    index.to_string()
}

/// What such an iterator brings.
pub(super) fn serve(kept: &[RawRecord], iterator: &str, limit: usize) -> Answered<Batch> {
    let index: usize = iterator.parse().expect("an index");
    let end = kept.len().min(index + limit);
    let behind_ms = Some(i64::from(end < kept.len()));
    Ok(Batch {
        records: kept[index..end].to_vec(),
        next: Some(end.to_string()),
        behind_ms,
        date_us: Some(NOW_US),
        ..Batch::default()
    })
}
