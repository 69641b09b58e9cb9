//! What the service still keeps: the record by which it can be known that nothing after it was forgotten.
//!
//! Owns: asking for single records, the verdict on a suspicion. Does not own: when there is one (cursor), the calls (ask).

use sluicebox_actors::model::fault::{Fault, Result};
use sluicebox_actors::model::position::{Sequence, ShardId};
use sluicebox_actors::model::record::RawRecord;

use super::ask::{Asked, TRIES};
use super::{Packed, Poller, Reading};
use crate::kinesis::api::{Batch, Begin};
use crate::kinesis::cursor::Suspicion;

impl Poller {
    /// Is it known that nothing after the position is gone?
    pub(super) async fn is_unfounded(
        &self,
        shard: &ShardId,
        reading: &mut Reading,
        suspicion: Suspicion,
        retention_us: i64,
    ) -> Result<bool> {
        match suspicion {
            Suspicion::Unfounded => Ok(true),
            Suspicion::Own(own) => Ok(self.kept(shard, reading, own, retention_us).await?.is_some()),
            Suspicion::Before { last, horizon_us } => {
                for (ancestor, own) in last {
                    let kept = self.kept(&ancestor, reading, own, retention_us).await?;
                    // Of another shard: that it is still handed out says nothing where its time is over.
                    if kept.is_some_and(|record| record.arrival_us > horizon_us) {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
        }
    }

    /// The record, if it is still kept. An empty answer that does not end says nothing, and is asked again; unless it lies behind
    /// by all that is kept, for then it would never end.
    async fn kept(&self, shard: &ShardId, reading: &mut Reading, own: Sequence, retention_us: i64) -> Result<Option<RawRecord>> {
        let mut iterator = None;
        for _ in 0..TRIES {
            let batch = match self.ask(shard, reading, &mut iterator, Begin::At(own), 1).await? {
                Asked::Answer(batch) => batch,
                Asked::NoPlace(_) | Asked::Gone(_) => return Ok(None),
            };
            if reading.cursor.is_stuck(&batch, retention_us) {
                return Ok(None);
            }
            match (batch.records.into_iter().next(), batch.next) {
                (Some(first), _) => return Ok(Some(first).filter(|first| first.sequence <= own)),
                (None, Some(next)) if batch.behind_ms != Some(0) => iterator = Some(next),
                (None, _) => return Ok(None),
            }
        }
        Err(Fault::retry(format!("whether record {own} of {shard} is still kept could not be seen: it is asked again")))
    }

    pub(super) async fn packed(&self, shard: &ShardId, own: Sequence) -> Result<Option<Packed>> {
        let retention_us = self.retention().await?;
        let slot = self.slot(shard);
        let mut reading = slot.reading.lock().await;
        let Some(record) = self.kept(shard, &mut reading, own, retention_us).await? else { return Ok(None) };
        let arrival_us = record.arrival_us;
        let batch = Batch { records: vec![record], ..Batch::default() };
        Ok(Some(Packed { parts: self.open(shard, &batch).await?.len(), arrival_us }))
    }
}
