//! What somebody else has read of one shard, taken in by a process that lives for nothing else: an invocation of AWS Lambda.
//!
//! Lambda hands batches of one shard over, again and again until they are acknowledged: whole, cut in two, or from any record
//! on, while an invocation that it gave up may still run. None of that shows in a table: records at or below the committed
//! position are left out, the rest becomes epochs like any other, and what is acknowledged is what the row says and nothing
//! else.
//!
//! Owns: the way to a shard whose parents have to end first, the batch's epochs, what is done. Does not own: the lease and the
//! generation (turn), events and answers (the caller).

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use super::handed::HandedRecords;
use super::turn::{Errand, given_up, in_time, turn, within};
use super::{Parts, Places, begin_sinks, rows_of_all_listed};
use crate::machines::shard::Extent;
use crate::model::fault::{Fault, Result};
use crate::model::position::{Position, ShardId};
use crate::model::record::RawRecord;
use crate::model::row::{ShardRow, ShardState};
use crate::model::sabotage::{self, Sabotage};
use crate::shells::commit::retrying;
use crate::toolkit::board::Life;
use crate::toolkit::flag::Flag;

/// For so long the row is asked, at the end, what is done.
const READ_BACK: Duration = Duration::from_secs(1);

/// Takes the aggregates among records apart, as a reader of the shard with these hash keys does.
pub type Open = Box<dyn FnOnce(Vec<RawRecord>, RangeInclusive<u128>) -> Vec<RawRecord>>;

/// Records of one shard that somebody else has read.
pub struct Handed {
    /// The shard.
    pub shard: ShardId,
    /// In order, as they were put.
    pub records: Vec<RawRecord>,
    /// For those that turn out to be new.
    pub open: Open,
}

/// What became of them.
#[derive(Debug)]
pub struct Ingested {
    /// As the row says: everything up to here is done, by whomever, and nothing after it.
    pub committed: Position,
    /// Why something is not done, or not all of its files are visible yet.
    pub fault: Option<Fault>,
}

/// Takes them in, with this much time. A fault means that nothing is known. The board is this invocation's alone.
pub async fn ingest(parts: Parts, places: Places, handed: Handed, time: Duration) -> Result<Ingested> {
    let parts = Parts { fleet: None, ..parts };
    let (shard, last) = (handed.shard.clone(), last(&handed.records));
    let work = {
        let parts = parts.clone();
        |over| async move { take_in(parts, places, handed, over).await }
    };
    let fault = within(time, work).await.err();
    if let Some(fault) = &fault {
        given_up(&parts.board, &shard, fault);
    }
    if sabotage::is(Sabotage::AnswerBeforeCommit) {
        return Ok(Ingested { committed: last.unwrap_or_default(), fault });
    }
    // Whatever became of the work, and whoever did it: only the row knows.
    let look = move |over| async move {
        let row = retrying(parts.clock.clone(), "reading back what is committed", || parts.rows.shard(&shard));
        in_time(&over, row).await
    };
    match within(READ_BACK, look).await {
        Ok(row) => Ok(Ingested { committed: row.map_or(Position::START, |row| row.position), fault }),
        Err(unread) => Err(fault.unwrap_or(unread)),
    }
}

fn last(records: &[RawRecord]) -> Option<Position> {
    records.last().map(|record| Position::after(record.sequence))
}

async fn take_in(parts: Parts, places: Places, handed: Handed, over: Flag) -> Result<()> {
    let Handed { shard, mut records, open } = handed;
    let Some(last) = last(&records) else { return Ok(()) };
    in_time(&over, begin_sinks(&parts)).await?;
    let row = way_to(&parts, &places, &shard, &over).await?;
    let count = records.len();
    if !sabotage::is(Sabotage::CountAgain) {
        records.retain(|record| Position::after(record.sequence) > row.position);
    }
    tracing::info!(%shard, records = count, skipped = count - records.len(), committed = %row.position, "batch");
    if records.is_empty() {
        // Whoever committed them may have died before all was visible.
        return if row.owner.is_empty() { Ok(()) } else { turn(&parts, &places, &shard, None, Errand::Settle, &over).await };
    }
    match row.state {
        ShardState::Blocked | ShardState::Open => {}
        ShardState::Drained | ShardState::Retired => {
            return Err(Fault::corrupt(format!(
                "{shard} was read to its end at {}, and now there are records after it: the stream was replaced. Start a new \
                 pipeline, or name the stream that this one began with",
                row.position
            )));
        }
    }
    let records = open(records, row.hash_start..=row.hash_end);
    let stream = Arc::new(HandedRecords::new(parts.stream.name(), records));
    turn(&parts, &places, &shard, None, Errand::Read(stream, Extent::Handed(last)), &over).await
}

/// The row of a shard that may be read. A stream hands a child's records over when those of its parents are done; that they are
/// is seen for oneself, and then the parents end here.
async fn way_to(parts: &Parts, places: &Places, shard: &ShardId, over: &Flag) -> Result<ShardRow> {
    let clock = || parts.clock.clone();
    let row = in_time(over, retrying(clock(), "reading a shard's row", || parts.rows.shard(shard))).await?;
    // Before a shard is taken for the first time, whatever is listed has a row: else it alone would say what all have passed.
    if let Some(row) = row.filter(|row| row.state != ShardState::Blocked && row.lease_epoch > 0) {
        return Ok(row);
    }
    let mut rows = in_time(over, retrying(clock(), "creating rows of shards", || rows_of_all_listed(parts))).await?;
    for _ in 0..=rows.len() {
        let row = rows.iter().find(|row| row.shard == *shard).ok_or_else(|| {
            Fault::config(format!("the stream lists no {shard}: the event comes from another stream than stream.name says"))
        })?;
        let Some(ancestor) = undrained_ancestor(row, &rows) else { return Ok(row.clone()) };
        end(parts, places, ancestor, over).await?;
        rows = in_time(over, retrying(clock(), "reading the rows of shards", || parts.rows.shards())).await?;
    }
    Err(Fault::bug(format!("the parents of {shard} do not come to an end")))
}

/// An ancestor that has not ended and whose own parents have, if one is left.
fn undrained_ancestor<'a>(row: &ShardRow, rows: &'a [ShardRow]) -> Option<&'a ShardRow> {
    let undrained = |row: &ShardRow| match row.state {
        ShardState::Blocked | ShardState::Open => true,
        ShardState::Drained | ShardState::Retired => false,
    };
    let parent = |row: &ShardRow| rows.iter().find(|other| row.parents.contains(&other.shard) && undrained(other));
    let mut oldest = parent(row)?;
    for _ in rows {
        oldest = parent(oldest).unwrap_or(oldest);
    }
    Some(oldest)
}

/// Ends a shard whose records are all committed, if that is so. A read that comes back empty and says that the shard has ended
/// proves it for good: nothing is put on a closed shard any more.
async fn end(parts: &Parts, places: &Places, row: &ShardRow, over: &Flag) -> Result<()> {
    let shard = &row.shard;
    let look = || parts.stream.read(shard, row.position, 1, 1);
    let read = in_time(over, retrying(parts.clock.clone(), "looking whether a parent has ended", look)).await?;
    if !read.records.is_empty() || read.ended.is_none() {
        return Err(Fault::retry(format!(
            "{shard} comes before the batch's shard and is not read to its end: committed up to {}. Its records are handed over \
             first; if they never are, they were discarded (MaximumRecordAgeInSeconds, MaximumRetryAttempts, StartingPosition)",
            row.position
        )));
    }
    turn(parts, places, shard, Some(row.lease_epoch), Errand::answer(parts, row, read), over).await?;
    parts.board.settle(shard, Life::Finished);
    Ok(())
}
