//! Epochs by hand, for tests of what reads them: a shard whose epochs are single records.
//!
//! Owns: test data. Does not own: any expectation.

use std::collections::BTreeMap;

use sluicebox_actors::model::epoch::{EpochHeader, Hash, LedgerLine};
use sluicebox_actors::model::ledger::{Counts, GoldCounts};
use sluicebox_actors::model::position::{Position, Sequence, ShardId};
use sluicebox_actors::model::window::Bound;

/// What every epoch has: it came after the one before it.
pub fn header(shard: &ShardId, epoch: u64) -> EpochHeader {
    let at = |number: u64| if number == 0 { Position::START } else { Position::after(Sequence::dense(number)) };
    EpochHeader {
        pipeline: "p".to_owned(),
        fingerprint: "f".to_owned(),
        stream: "events".to_owned(),
        shard: shard.clone(),
        epoch,
        lease_epoch: 1,
        from: at(epoch - 1),
        to: at(epoch),
        bound_opened: Bound::UNKNOWN,
        bound_committed: Bound(7),
        max_event_us: None,
        last_arrival_us: None,
        fresh_us: None,
        processed_at_us: 0,
        bronze_on: true,
        unproven_start: false,
        counts: Counts::default(),
        totals: Counts::default(),
        previous: None,
        segments: Vec::new(),
        windows: Vec::new(),
        ordinals: BTreeMap::new(),
        pending: Vec::new(),
        outputs: Vec::new(),
        rebuilt: Vec::new(),
        inline: Vec::new(),
    }
}

/// The line of such an epoch in the ledger.
pub fn ledger_line(shard: &ShardId, epoch: u64) -> LedgerLine {
    let header = EpochHeader {
        max_event_us: Some(-1),
        unproven_start: true,
        counts: Counts { received: 1, gold: [("t".to_owned(), GoldCounts::default())].into(), ..Counts::default() },
        previous: Some(Hash::of(b"previous")),
        ordinals: [("t".to_owned(), [(0, 1)].into())].into(),
        ..header(shard, epoch)
    };
    LedgerLine::of(&header, Hash::of(&epoch.to_le_bytes()))
}
