//! The rows that a CAS makes true: one per shard, one per (Gold table, window).
//!
//! Owns: their fields and states. Does not own: where they are stored (ports::Rows), the transitions (machines).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::epoch::ObjectRef;
use super::position::{Position, ShardId};
use super::sabotage::{self, Sabotage};
use super::window::Bound;

/// Life of a shard.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShardState {
    /// Waits for its parents to drain.
    Blocked,
    /// Being read.
    Open,
    /// Closed in the stream and read to its end; its children's rows exist.
    Drained,
    /// Drained, and every window it touched is sealed.
    Retired,
}

/// The row of one shard. `epoch` and `lease_epoch` together are the fence of every commit.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ShardRow {
    /// Name of the stream.
    pub stream: String,
    /// Shard.
    pub shard: ShardId,
    /// Who may commit; empty when it was let go. A text for people (`host:pid`) in a store that one worker uses; where several
    /// share one, no two processes ever have the same.
    pub owner: String,
    /// Another worker asks the owner to let go, after its next commit. A hint: any update may lose it, and then it asks again.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub wanted_by: String,
    /// Raised by every change of owner and every new generation.
    pub lease_epoch: u64,
    /// Life sign of the owner. A random number at every change of owner: no two tries of one write the same row.
    pub heartbeat: u64,
    /// Life of the shard.
    pub state: ShardState,
    /// Shards it was split or merged from.
    pub parents: Vec<ShardId>,
    /// Shards it was split or merged into.
    pub children: Vec<ShardId>,
    /// First hash key, inclusive, of 0..=2^128-1.
    #[serde(with = "decimal")]
    pub hash_start: u128,
    /// Last hash key, inclusive.
    #[serde(with = "decimal")]
    pub hash_end: u128,
    /// Last committed epoch; 0 before the first.
    pub epoch: u64,
    /// Committed position.
    pub position: Position,
    /// Committed bound: the shard's watermark.
    pub bound: Bound,
    /// Newest epoch object; none before the first commit.
    pub object: Option<ObjectRef>,
}

impl ShardRow {
    /// Key of the object of an epoch under this lease, `epochs/<shard>/<epoch>-<lease>-<random>`: no two tries share one.
    pub(crate) fn epoch_key(&self, epoch: u64, random: u64) -> String {
        let Self { shard, lease_epoch, .. } = self;
        if sabotage::is(Sabotage::ReuseTheKey) {
            return format!("epochs/{shard}/{epoch:010}-0-0");
        }
        format!("epochs/{shard}/{epoch:010}-{lease_epoch}-{random:016x}")
    }

    /// A shard that nobody has taken yet, over these hash keys, first and last.
    pub fn new(stream: impl Into<String>, shard: ShardId, (hash_start, hash_end): (u128, u128), state: ShardState) -> Self {
        Self {
            stream: stream.into(),
            shard,
            owner: String::new(),
            wanted_by: String::new(),
            lease_epoch: 0,
            heartbeat: 0,
            state,
            parents: Vec::new(),
            children: Vec::new(),
            hash_start,
            hash_end,
            epoch: 0,
            position: Position::START,
            bound: Bound::UNKNOWN,
            object: None,
        }
    }
}

/// What a commit is conditional on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fence {
    /// Expected lease.
    pub lease_epoch: u64,
    /// Expected number of the last committed epoch.
    pub epoch: u64,
}

impl ShardRow {
    /// The fence that guards the next update of this row.
    pub fn fence(&self) -> Fence {
        Fence { lease_epoch: self.lease_epoch, epoch: self.epoch }
    }
}

/// A lease on something that is no shard, such as Gold.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Lease {
    /// What is leased.
    pub name: String,
    /// Who has it; empty when it was let go.
    pub owner: String,
    /// Raised by every change of owner.
    pub epoch: u64,
    /// Life sign of the owner.
    pub heartbeat: u64,
}

/// Status of a window, in the order it passes through.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WindowStatus {
    /// Emitted before its end was reached (`run --drain`), or not emitted yet.
    Open,
    /// Emitted although some shards lag.
    Provisional,
    /// Every shard has passed its end.
    Closed,
    /// Emitted again because late records came.
    Revised,
    /// Closed to the stream for good.
    Sealed,
    /// Changed by the repair lane after sealing.
    Repaired,
}

impl WindowStatus {
    /// Its name in files and tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Provisional => "provisional",
            Self::Closed => "closed",
            Self::Revised => "revised",
            Self::Sealed => "sealed",
            Self::Repaired => "repaired",
        }
    }
}

/// Lane (shard) → ordinal of the last partial taken in.
pub type Vector = BTreeMap<ShardId, u64>;

/// Does `a` hold everything that `b` holds?
pub fn dominates(a: &Vector, b: &Vector) -> bool {
    b.iter().all(|(shard, ordinal)| a.get(shard).is_some_and(|mine| mine >= ordinal))
}

/// The merge of all partials up to a vector.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Base {
    /// The merged partial, an Arrow IPC stream.
    pub object: ObjectRef,
    /// What it stands for.
    pub vector: Vector,
    /// Counts up to the vector.
    pub counts: WindowTotals,
}

/// Records of one window.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct WindowTotals {
    /// Came before the window's end.
    pub on_time: u64,
    /// Came after it.
    pub late: u64,
    /// Came too late; letters.
    pub too_late: u64,
}

/// The row of one window of one Gold table.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct WindowRow {
    /// Gold table.
    pub table: String,
    /// Start of the window.
    pub start_us: i64,
    /// End of the window.
    pub end_us: i64,
    /// Counts every update of the row: the CAS compares it.
    pub version: u64,
    /// Counts changes of content or status: what sinks and readers see. 0 before the first emission.
    pub revision: u64,
    /// Status of that revision.
    pub status: WindowStatus,
    /// Exactly these partials are in it.
    pub vector: Vector,
    /// The content, stored before the CAS; none before the first emission.
    pub content: Option<ObjectRef>,
    /// Rows in the content.
    pub rows: u64,
    /// Records in it.
    pub counts: WindowTotals,
    /// An integer sum left its range: the value is NULL.
    pub overflow: bool,
    /// Shards that had not passed the window's end (provisional and open only).
    pub missing: Vec<ShardId>,
    /// End of the last window before it that had a record: proof that the hours between were empty.
    pub empty_since_us: Option<i64>,
    /// Per shard: first and last sequence number of the epochs in it.
    pub sequences: BTreeMap<ShardId, (Position, Position)>,
    /// Last revision that readers can see.
    pub published: u64,
    /// Merge of the partials so far, once there is one.
    pub base: Option<Base>,
}

/// u128 as a decimal string: JSON numbers stop at 2^53.
mod decimal {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &u128, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u128, D::Error> {
        std::borrow::Cow::<'de, str>::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}
