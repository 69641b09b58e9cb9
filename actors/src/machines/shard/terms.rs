//! What a shard's machine is made with, what it is told, and what it asks for.
//!
//! Owns: these descriptions. Does not own: any decision (machines/shard).

use crate::machines::breaker::{BreakerConfig, Failures, Trip};
use crate::model::fault::Fault;
use crate::model::position::Position;
use crate::model::record::RawRecord;
use crate::model::window::Bound;
use crate::ports::{Read, ShardInfo};

/// What the shard may do on its own when records are missing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OnGap {
    /// Stop the shard; a person decides.
    Halt,
    /// Count the gap and go on behind it.
    Continue,
}

/// How much one generation reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Extent {
    /// Whatever comes, until told to stop.
    #[default]
    Endless,
    /// What somebody else has read and hands over: it ends here, is committed at once, and then the generation has finished.
    Handed(Position),
    /// One look: what the first answer and the other shards allow without a record is committed, and then it has finished.
    Once,
}

/// Settings of a shard. Times in microseconds, sizes in bytes.
#[derive(Clone, Debug)]
pub struct ShardConfig {
    /// An epoch ends at the latest this long after it took its first record.
    pub commit_interval_us: i64,
    /// … or with this much raw input.
    pub commit_size: u64,
    /// … or when its partial aggregates hold this much. Records in flight make them somewhat larger.
    pub group_memory: u64,
    /// How far event times may lie behind the largest one seen without being late.
    pub disorder_us: i64,
    /// Pause after a read that found nothing.
    pub poll_us: i64,
    /// What to do about forgotten records.
    pub on_gap: OnGap,
    /// Read to the end, commit, and report quiet.
    pub drain: bool,
    /// How much one generation reads.
    pub extent: Extent,
    /// The storm breaker.
    pub breaker: BreakerConfig,
}

/// What an epoch opens with; goes to every partition with the barrier that closes the one before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Opening {
    /// Number of the epoch.
    pub epoch: u64,
    /// Judge of all its records.
    pub bound: Bound,
    /// Its one value of `_processed_at`.
    pub processed_at_us: i64,
}

/// All that the shard knows of an epoch when it ends it.
#[derive(Clone, Debug)]
pub struct Seal {
    /// The epoch as it opened.
    pub opened: Opening,
    /// It covers the records after this …
    pub from: Position,
    /// … up to and including this.
    pub to: Position,
    /// Records in it.
    pub records: u64,
    /// Payload bytes in it.
    pub bytes: u64,
    /// What the next epoch opens with: the bound this one commits, and more.
    pub next: Opening,
    /// Arrival of its last record.
    pub last_arrival_us: Option<i64>,
    /// All that had arrived by then lies in it or before it.
    pub fresh_us: Option<i64>,
    /// Gaps in it.
    pub gaps: u64,
    /// The stream has closed the shard and all of it is read: the shards that came out of it.
    pub ended: Option<Vec<ShardInfo>>,
}

/// Where a shard goes on: its last commit, and what the newest epoch object says of the shard's last record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Resumed {
    /// Last committed epoch.
    pub committed: u64,
    /// Committed position.
    pub position: Position,
    /// Committed bound.
    pub bound: Bound,
    /// Arrival of the last record.
    pub last_arrival_us: Option<i64>,
    /// Largest event time.
    pub max_event_us: Option<i64>,
    /// Up to the position all was read that had arrived by then.
    pub fresh_us: Option<i64>,
}

/// Bounds of the other shards, as far as this process knows them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Peers {
    /// Smallest committed bound of the shards that are not idle; none if all are.
    pub active: Option<Bound>,
    /// Smallest committed bound of the shards that know anything of event time.
    pub known: Option<Bound>,
}

/// What happens to a shard.
#[derive(Debug)]
pub enum ShardEvent {
    /// The generation is up.
    Started,
    /// The answer to [`ShardEffect::Fetch`].
    Read(Read),
    /// A partition has processed a slice.
    Progress {
        /// The epoch that it is in.
        epoch: u64,
        /// Records in the slice.
        records: u64,
        /// Which of them failed decode or contract.
        failed: Failures,
        /// Largest event time in it.
        max_event_us: Option<i64>,
        /// Bytes by which the epoch's partial aggregates grew.
        grown: u64,
    },
    /// An epoch is true.
    Committed {
        /// Its number.
        epoch: u64,
    },
    /// Every file of every committed epoch is visible.
    Settled,
    /// Time has passed; with what the other shards have committed.
    Tick {
        /// Their bounds.
        peers: Peers,
        /// More letters than may wait for a sink do: nothing is read until fewer do.
        held: bool,
    },
    /// The process is asked to end: commit what has been read, then finish.
    Stop,
}

/// What the shell has to do, in this order.
#[derive(Debug)]
pub enum ShardEffect {
    /// Claim a credit and read after this position.
    Fetch(Position),
    /// Send these records on, to Bronze and to the partitions.
    Dispatch(Vec<RawRecord>),
    /// Send the barrier through every actor.
    Barrier(Box<Seal>),
    /// Everything there is has been read and committed (only when draining; repeated when it becomes true again).
    Quiet,
    /// Like [`ShardEffect::Quiet`], but not any more.
    NotQuiet,
    /// The shard has ended in the stream, or was told to stop; its last epoch is committed and all its files are visible.
    Finished,
    /// Stop the generation for this reason.
    Halt(Fault),
    /// Tell people that records are lost: those after the first position up to the second. They are counted with the next epoch.
    Skipped {
        /// What was read last before them.
        after: Position,
        /// The next one follows this.
        resumes: Position,
    },
    /// The breaker has tripped.
    Tripped(Trip),
}
