//! The calls that the source makes, as narrow as it needs them.
//!
//! Owns: the calls, their answers in our own values, what a refusal means to a reader. Does not own: the SDK (sdk), pace, retries
//! and positions (source).

use std::fmt;

use async_trait::async_trait;
use sluicebox_actors::model::fault::Fault;
use sluicebox_actors::model::position::{Sequence, ShardId};
use sluicebox_actors::model::record::RawRecord;
use sluicebox_actors::ports::ShardInfo;

/// Where reading a shard begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Begin {
    /// The oldest record that is left.
    Horizon,
    /// This record.
    At(Sequence),
    /// The record after this one.
    After(Sequence),
    /// The first record that arrived then or later: milliseconds since 1970.
    Time(i64),
}

/// What a refusal means to a reader.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum What {
    /// Too often, or too much: nothing was done.
    Throttled,
    /// The iterator is older than 5 minutes.
    ExpiredIterator,
    /// The page token of a listing is older than 5 minutes.
    ExpiredToken,
    /// The stream, shard or consumer is not there.
    NotFound,
    /// An argument is not valid: a position that was forgotten, an iterator of another stream.
    InvalidArgument,
    /// Somebody is at it: another subscription, a consumer that is there already.
    InUse,
    /// Anything else; the fault says it all.
    Other,
}

/// A call that failed.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// Its meaning.
    pub what: What,
    /// For the user.
    pub fault: Fault,
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        refusal.fault
    }
}

/// Answer of a call.
pub type Answered<T> = Result<T, Refusal>;

/// One page of a listing of shards.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// The shards on it.
    pub shards: Vec<ShardInfo>,
    /// There are more pages.
    pub next: Option<String>,
}

/// The stream as a whole.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Summary {
    /// Its ARN.
    pub arn: String,
    /// How long records are kept, microseconds.
    pub retention_us: i64,
}

/// What one GetRecords, or one event of a subscription, brings.
#[derive(Clone, Default)]
pub struct Batch {
    /// Records as they were put: nothing is taken apart yet.
    pub records: Vec<RawRecord>,
    /// The iterator, or the continuation number of a subscription, that goes on; none = the shard is closed and read to its end.
    pub next: Option<String>,
    /// How far the end of this batch lies behind the tip, milliseconds.
    pub behind_ms: Option<i64>,
    /// At the shard's end: what came out of it.
    pub children: Vec<ShardInfo>,
    /// The service's clock when it answered, at least, microseconds; none where an answer has no `Date`.
    pub date_us: Option<i64>,
    /// … and at most, where that is another: an event has no date, and may have waited to be taken.
    pub latest_us: Option<i64>,
}

// Payloads never reach a log.
impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} records, {:?} ms behind", self.records.len(), self.behind_ms)
    }
}

/// A registered consumer of a stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Consumer {
    /// Its ARN.
    pub arn: String,
    /// It may subscribe.
    pub active: bool,
}

/// A subscription that has begun.
pub struct Subscribed {
    /// What it brings.
    pub events: Box<dyn Events>,
    /// The service's clock when it began, microseconds.
    pub date_us: Option<i64>,
}

/// The events of one subscription, as they are asked for: nothing is read ahead of that.
#[async_trait]
pub trait Events: Send {
    /// The next; none = the subscription has ended, as each does after five minutes.
    async fn next(&mut self) -> Answered<Option<Batch>>;
}

/// The Kinesis API as the source uses it.
#[async_trait]
pub trait Api: Send + Sync + 'static {
    /// One page of ListShards; the first without a token.
    async fn list_shards(&self, token: Option<String>) -> Answered<Page>;
    /// DescribeStreamSummary.
    async fn summary(&self) -> Answered<Summary>;
    /// GetShardIterator.
    async fn iterator(&self, shard: &ShardId, begin: Begin) -> Answered<String>;
    /// GetRecords; at most `limit` records, 1 to 10,000.
    async fn records(&self, iterator: &str, limit: usize) -> Answered<Batch>;
    /// DescribeStreamConsumer.
    async fn consumer(&self, stream_arn: &str, name: &str) -> Answered<Consumer>;
    /// RegisterStreamConsumer.
    async fn register(&self, stream_arn: &str, name: &str) -> Answered<Consumer>;
    /// SubscribeToShard.
    async fn subscribe(&self, consumer_arn: &str, shard: &ShardId, begin: Begin) -> Answered<Subscribed>;
}
