//! One answer of the service: at its pace, from an iterator that is made anew where it is refused, and what refusals mean.
//!
//! Owns: GetShardIterator and GetRecords with their retries, a shard that is said not to exist. Does not own: what an answer says
//! of records (cursor), what is asked for (source, kept).

use sluicebox_actors::model::fault::{Fault, Result};
use sluicebox_actors::model::position::ShardId;
use sluicebox_actors::ports::ShardInfo;

use super::{Poller, Reading};
use crate::kinesis::api::{Batch, Begin, Refusal, What};
use crate::kinesis::cursor::{Cursor, Restart};
use crate::kinesis::pacer::Pacer;

/// Calls for one answer, before the caller is told that it is throttled.
pub(super) const TRIES: usize = 4;
/// A shard that is listed is said not to exist so often in a row before people are told: with the pauses between reads that is
/// some twenty seconds, longer than a listing is ahead of the rest.
pub(super) const DENIALS: u32 = 12;

/// What came of a question.
pub(super) enum Asked {
    /// An answer.
    Answer(Batch),
    /// The place to begin is refused.
    NoPlace(Refusal),
    /// The stream has forgotten the shard; these came out of it.
    Gone(Vec<ShardInfo>),
}

impl Poller {
    /// What follows the cursor; none where the shard turned out to have ended.
    pub(super) async fn answer(&self, shard: &ShardId, reading: &mut Reading, limit: usize) -> Result<Option<Batch>> {
        loop {
            let begin = reading.cursor.begin();
            let mut iterator = reading.cursor.iterator().map(str::to_owned);
            let asked = self.ask(shard, reading, &mut iterator, begin, limit).await;
            reading.cursor.set_iterator(iterator);
            match asked? {
                Asked::Answer(batch) => return Ok(Some(batch)),
                Asked::Gone(children) => {
                    reading.cursor.vanish(children);
                    return Ok(None);
                }
                // Once: the horizon, where the cursor goes then, is no place that may be refused.
                Asked::NoPlace(refusal) => refused(shard, &mut reading.cursor, begin, refusal)?,
            }
        }
    }

    /// One answer from an iterator; where there is none, or it is not taken any more, from one that begins there.
    pub(super) async fn ask(
        &self,
        shard: &ShardId,
        reading: &mut Reading,
        iterator: &mut Option<String>,
        begin: Begin,
        limit: usize,
    ) -> Result<Asked> {
        let mut last = Fault::retry(format!("reading {shard}: no answer after {TRIES} tries"));
        for _ in 0..TRIES {
            let at = match iterator.take() {
                Some(at) => at,
                None => match self.begin(shard, reading, begin).await {
                    Ok(at) => at,
                    Err(Refusal { what: What::NotFound, .. }) => return self.denied(shard, reading).await.map(Asked::Gone),
                    Err(refusal) if refusal.what == What::InvalidArgument => return Ok(Asked::NoPlace(refusal)),
                    Err(refusal) => return Err(refusal.into()),
                },
            };
            match self.call(reading, &at, limit).await {
                Ok(batch) => {
                    *iterator = Some(at);
                    reading.denials = 0;
                    return Ok(Asked::Answer(batch));
                }
                Err(Refusal { what: What::NotFound, .. }) => return self.denied(shard, reading).await.map(Asked::Gone),
                Err(Refusal { what: What::ExpiredIterator | What::InvalidArgument, fault }) => {
                    last = Fault::retry(fault.to_string());
                }
                Err(Refusal { what: What::Throttled, fault }) => {
                    *iterator = Some(at);
                    last = fault;
                }
                Err(Refusal { what: What::ExpiredToken | What::InUse | What::Other, fault }) => {
                    *iterator = Some(at);
                    return Err(fault);
                }
            }
        }
        Err(last)
    }

    /// GetRecords at its pace.
    async fn call(&self, reading: &mut Reading, iterator: &str, limit: usize) -> Result<Batch, Refusal> {
        self.wait(&reading.records).await;
        reading.records.called(self.pauses.elapsed_us());
        let answer = self.api.records(iterator, limit).await;
        match &answer {
            Ok(batch) => {
                let bytes = batch.records.iter().map(|record| record.data.len() + record.partition_key.len()).sum::<usize>();
                reading.records.answered(self.pauses.elapsed_us(), bytes as u64);
            }
            Err(refusal) if refusal.what == What::Throttled => {
                reading.records.throttled(self.pauses.elapsed_us(), self.clock.random());
            }
            Err(_) => {}
        }
        answer
    }

    async fn begin(&self, shard: &ShardId, reading: &mut Reading, begin: Begin) -> Result<String, Refusal> {
        self.wait(&reading.iterators).await;
        reading.iterators.called(self.pauses.elapsed_us());
        let answer = self.api.iterator(shard, begin).await;
        if answer.as_ref().is_err_and(|refusal| refusal.what == What::Throttled) {
            reading.iterators.throttled(self.pauses.elapsed_us(), self.clock.random());
        }
        answer
    }

    /// The service says that a shard does not exist: is it so? While it is listed it is asked again for as long as that lasts, for
    /// it is not known to have ended, and whoever gave it up would have to be told when it is back. Else it has ended, with
    /// whatever was not read of it: what came out of it.
    pub(super) async fn denied(&self, shard: &ShardId, reading: &mut Reading) -> Result<Vec<ShardInfo>> {
        let listed = self.list().await?;
        if listed.iter().all(|info| info.shard != *shard) {
            return Ok(listed.into_iter().filter(|info| info.parents.contains(shard)).collect());
        }
        reading.denials = reading.denials.saturating_add(1);
        let denials = reading.denials;
        if denials == DENIALS {
            tracing::error!(
                alert = "shard_denied",
                %shard,
                denials,
                "kinesis says that the shard does not exist, and lists it: it waits and is asked again, the others go on. If that                  does not end, see that stream.name, aws.region and aws.endpoint lead to one stream, and ask AWS"
            );
        }
        Err(Fault::retry(format!("kinesis says that {shard} does not exist, and lists it: it is asked again")))
    }

    pub(super) async fn wait(&self, pacer: &Pacer) {
        let wait_us = pacer.wait_us(self.pauses.elapsed_us());
        if wait_us > 0 {
            self.pauses.pause(wait_us).await;
        }
    }
}

/// The place to begin was refused: a fault, or the cursor knows another.
pub(super) fn refused(shard: &ShardId, cursor: &mut Cursor, begin: Begin, refusal: Refusal) -> Result<()> {
    match (begin, refusal) {
        // Forgotten, or of another stream of that name: either way it cannot be gone on from here.
        (Begin::After(_), Refusal { what: What::InvalidArgument, .. }) => {
            cursor.gap(None);
            cursor.restart_at_horizon(Restart::Refused);
            Ok(())
        }
        (Begin::Time(_), Refusal { what: What::InvalidArgument, fault }) => Err(Fault::retry(format!(
            "{shard} is to be read from a time that lies ahead of the service's clock; it is waited for: {fault}"
        ))),
        (Begin::After(_) | Begin::Time(_) | Begin::At(_) | Begin::Horizon, refusal) => Err(refusal.into()),
    }
}
