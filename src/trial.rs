//! Which record does the process die of? Found in processes of their own, by halves, so that nobody else dies of it.
//!
//! A panic is caught where it happens; what ends the whole process (an abort, a stack that overflows) is not. When a shard got
//! nowhere in several runs that died, its next records go through a child process; if that one dies too, halves of them do,
//! until single records are left. They become letters, and the shard goes on.
//!
//! Owns: the search, the child's work. Does not own: when a shard is suspected (store/deaths), what becomes of a record that is
//! found (engine/condemned).

use std::ops::Range;

use sluicebox_actors::machines::partition::PartitionMachine;
use sluicebox_actors::machines::shard::Opening;
use sluicebox_actors::model::fault::{Fault, Kind, Result};
use sluicebox_actors::model::letter::Postmark;
use sluicebox_actors::model::position::Position;
use sluicebox_actors::model::record::{RawRecord, RawSlice};
use sluicebox_actors::model::row::ShardRow;
use sluicebox_actors::ports::{Engine, Stream};

/// Deadly records looked for in one go; there may be more, and then the next runs die and find them.
const MOST: usize = 64;
/// Records a read.
const READ_RECORDS: usize = 10_000;
/// Bytes a read.
const READ_BYTES: usize = 4 << 20;

/// Finds the members of `0..records` that are deadly on their own; `dies` tries a range. Nothing if all is well, or if only
/// several records together are deadly.
pub fn search(records: usize, mut dies: impl FnMut(Range<usize>) -> Result<bool>) -> Result<Vec<usize>> {
    let (mut found, mut ranges) = (Vec::new(), Vec::new());
    ranges.push(0..records);
    while let Some(range) = ranges.pop() {
        if range.is_empty() || found.len() == MOST || !dies(range.clone())? {
            continue;
        }
        if range.len() == 1 {
            found.push(range.start);
            continue;
        }
        let middle = range.start + range.len() / 2;
        ranges.push(middle..range.end);
        ranges.push(range.start..middle);
    }
    Ok(found)
}

/// The records after a shard's committed position: as many as a run may hold in flight, `bytes` of weight, at most.
pub async fn next_records(stream: &dyn Stream, row: &ShardRow, bytes: usize) -> Result<Vec<RawRecord>> {
    let (mut records, mut weight, mut at) = (Vec::<RawRecord>::new(), 0, row.position);
    while weight < bytes {
        let read = match stream.read(&row.shard, at, READ_RECORDS, READ_BYTES).await {
            Ok(read) => read,
            // The run will say what is wrong with the stream.
            Err(fault) if fault.kind() == Kind::Corrupt => break,
            Err(fault) => return Err(fault),
        };
        let Some(last) = read.records.last() else { break };
        at = Position::after(last.sequence);
        weight += read.records.iter().map(RawRecord::weight).sum::<usize>();
        records.extend(read.records);
        if read.caught_up {
            break;
        }
    }
    Ok(records)
}

/// What the child does: the whole way of these records through a partition, with no effect. On a thread like an actor's, whose
/// stack is smaller than the main thread's.
pub fn process(engine: &dyn Engine, stream: &dyn Stream, row: &ShardRow, records: Vec<RawRecord>, now_us: i64) -> Result<()> {
    let postmark = Postmark { fingerprint: "".into(), version: "".into(), request_id: "".into() };
    let open = Opening { epoch: row.epoch + 1, bound: row.bound, processed_at_us: now_us };
    let slice = RawSlice { stream: stream.name(), shard: row.shard.clone(), records };
    std::thread::scope(|scope| {
        let work = scope.spawn(move || {
            let mut partition = PartitionMachine::new(engine.partition()?, engine.tables().to_vec(), postmark, open);
            partition.process(&slice, now_us)?;
            partition.barrier(Opening { epoch: row.epoch + 2, ..open }).map(drop)
        });
        // A panic is no death: the run catches it, and says so better.
        work.join().unwrap_or_else(|_| Err(Fault::bug("the trial panicked")))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_deadly_record_is_found_and_no_other_with_few_trials(
            records in 1usize..5_000, deadly in proptest::collection::btree_set(0usize..5_000, 0..5)
        ) {
            let deadly: Vec<usize> = deadly.into_iter().filter(|index| *index < records).collect();
            let mut trials = 0;
            let found = search(records, |range| {
                trials += 1;
                Ok(deadly.iter().any(|index| range.contains(index)))
            });
            prop_assert_eq!(found.expect("searches"), deadly.clone());
            let depth = usize::BITS as usize - records.leading_zeros() as usize;
            prop_assert!(trials <= 1 + 2 * depth * deadly.len().max(1), "{trials} trials of {records} for {}", deadly.len());
        }
    }

    #[test]
    fn records_that_are_deadly_only_together_condemn_nobody() {
        let together = |range: Range<usize>| Ok(range.contains(&3) && range.contains(&4));
        assert_eq!(search(8, together).expect("searches"), Vec::<usize>::new());
    }
}
