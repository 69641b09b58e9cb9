//! Every message between the actors of a shard: who sends it, to whom, and what it obliges.
//!
//! Owns: the messages. Does not own: their order and numbering (toolkit/outlet, machines/barrier).

use actix::Message;
use arrow_array::RecordBatch;

use crate::machines::breaker::Failures;
use crate::machines::commit::{Committed, Stager};
use crate::machines::partition::Cut;
use crate::machines::shard::{Opening, Seal};
use crate::model::epoch::PendingOutput;
use crate::model::letter::Letter;
use crate::model::record::RawSlice;
use crate::model::stamp::Stamp;
use crate::toolkit::credit::Credit;

/// Shard → partition: decode these. Shard → writer: keep these in Bronze.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Raw {
    /// Which message it is.
    pub stamp: Stamp,
    /// The records.
    pub slice: RawSlice,
    /// Pays for them.
    pub credit: Credit,
}

/// Partition → writer: keep these in Silver.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Silver {
    /// Which message it is.
    pub stamp: Stamp,
    /// The rows.
    pub rows: RecordBatch,
    /// Pays for them.
    pub credit: Credit,
}

/// Partition → dlq: keep these.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Letters {
    /// Which message it is.
    pub stamp: Stamp,
    /// The letters.
    pub letters: Vec<Letter>,
    /// Pays for them.
    pub credit: Credit,
}

/// Shard → partition → writer and dlq, behind the data: the epoch in the stamp ends here, the next opens like this.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Barrier {
    /// Which message it is; its epoch is the one that ends.
    pub stamp: Stamp,
    /// What comes next.
    pub next: Opening,
}

/// Shard → commit: an epoch has ended at the source.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Sealed {
    /// Which message it is.
    pub stamp: Stamp,
    /// The epoch.
    pub seal: Box<Seal>,
}

/// Partition → commit: my part of an epoch.
#[derive(Message)]
#[rtype(result = "()")]
pub struct CutMade {
    /// Which message it is.
    pub stamp: Stamp,
    /// The part.
    pub cut: Cut,
}

/// Writer, dlq → commit: the files of an epoch are staged.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Staged {
    /// Which message it is.
    pub stamp: Stamp,
    /// Who.
    pub stager: Stager,
    /// The files.
    pub outputs: Vec<PendingOutput>,
}

/// Partition → shard, upward: a slice has been processed.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Progress {
    /// The epoch that it is in.
    pub epoch: u64,
    /// Records in it.
    pub records: u64,
    /// Which of them failed decode or contract.
    pub failed: Failures,
    /// Largest event time in it.
    pub max_event_us: Option<i64>,
    /// Bytes by which the epoch's partial aggregates grew.
    pub grown: usize,
}

/// Commit → shard, upward: an epoch is true.
#[derive(Message)]
#[rtype(result = "()")]
pub struct EpochCommitted(
    /// Its number.
    pub u64,
);

/// Commit → shard, upward: every file of every committed epoch is visible.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Settled;

/// Commit → gold, to another generation: an epoch is true.
#[derive(Message)]
#[rtype(result = "()")]
pub struct NewEpoch(
    /// Row and head.
    pub Box<Committed>,
);

/// Run → shard: commit what has been read, then finish.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Stop;
