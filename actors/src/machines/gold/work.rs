//! What Gold can be asked to do to one window, or to the oldest epochs of one shard.
//!
//! Owns: these descriptions. Does not own: when they are due (machines/gold), how they are done (shells/gold/work).

use super::WindowKey;
use crate::model::epoch::{LedgerLine, ObjectRef, Segment};
use crate::model::position::ShardId;
use crate::model::row::{Vector, WindowRow, WindowTotals};

/// Partials to be read: an object and segments inside it.
#[derive(Clone, Debug)]
pub struct Load {
    /// The epoch object.
    pub object: ObjectRef,
    /// Its segments.
    pub segments: Vec<Segment>,
}

/// One thing to do; the shell reports the row that came of it. Several windows are worked on at once, each by one work alone.
#[derive(Clone, Debug)]
pub enum GoldWork {
    /// Merge exactly these, finish, store the content, swap the row, publish.
    Emit {
        /// Index of the table.
        table: usize,
        /// What the row becomes, if the stored one is of the version before; content, rows and overflow are
        /// filled in by the shell.
        row: Box<WindowRow>,
        /// Partials beside the base.
        loads: Vec<Load>,
    },
    /// Content and row exist: make them visible.
    Publish {
        /// The row.
        row: Box<WindowRow>,
    },
    /// Merge these into a new base and swap the row.
    Rebase {
        /// Index of the table.
        table: usize,
        /// What the row becomes, if the stored one is of the version before; the base's object is filled in by the shell.
        row: Box<WindowRow>,
        /// Partials beside the old base.
        loads: Vec<Load>,
        /// The vector the new base stands for, and its counts.
        vector: Vector,
        /// Counts up to that vector.
        counts: WindowTotals,
    },
    /// Move these lines to the ledger, then delete the objects.
    Collect {
        /// Lines, consecutive epochs of one shard.
        lines: Vec<LedgerLine>,
        /// The shard.
        shard: ShardId,
        /// Last epoch of them.
        through: u64,
    },
}

/// What collection asks for next.
pub(super) enum Collection {
    /// A base for this window, or else the end of some epochs.
    Due(Option<WindowKey>, GoldWork),
    /// Something, once what was given out is done.
    AfterTheOthers,
    /// All objects are needed, or there are few.
    Nothing,
}

impl GoldWork {
    /// Encoded states that are read and merged for it, in bytes.
    pub(super) fn bytes(&self) -> u64 {
        let (base, loads) = match self {
            Self::Emit { row, loads, .. } | Self::Rebase { row, loads, .. } => (row.base.as_ref(), loads.as_slice()),
            Self::Publish { .. } | Self::Collect { .. } => (None, [].as_slice()),
        };
        let partials = loads.iter().flat_map(|load| &load.segments).map(|segment| segment.len);
        base.map_or(0, |base| base.object.len) + partials.sum::<u64>()
    }
}
