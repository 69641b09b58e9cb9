//! Files of committed epochs that were lost before anybody saw them: written once more, from the stream.
//!
//! An upload is ended by a rule of the bucket or by hand, a staged file is deleted. The epoch stays true: Gold has its records.
//! It also says what it took in and by what it judged, so that its rows can be made again: the same rows, perhaps in another
//! order. An epoch without records names the new files; whoever reads the chain takes their hashes from there.
//!
//! Owns: reading the slice again, holding it to the epoch's counts, the epoch that names the files, the alert when that cannot
//! be. Does not own: what is lost (history), which row belongs to which file (ports::Rewriting), the order of a commit
//! (machines/commit).

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::Parts;
use crate::history::{LostOutput, Taken, header_of, recover, unless_overtaken};
use crate::machines::commit::{CommitEffect, CommitEvent, CommitMachine, Committed, History, Stager};
use crate::machines::partition::PartitionMachine;
use crate::machines::shard::{Opening, Seal};
use crate::model::epoch::{EpochHeader, PendingOutput};
use crate::model::fault::{Fault, Kind, Result};
use crate::model::ledger::Counts;
use crate::model::position::Position;
use crate::model::record::RawSlice;
use crate::model::row::ShardRow;
use crate::ports::Rewriting;
use crate::shells::commit::retrying;

/// Finishes what the last owner of a shard, whose lease has just been raised to this row, may have left half done.
pub(super) async fn settle(parts: &Parts, row: ShardRow) -> Result<Taken> {
    let mut taken = recover(parts.rows.as_ref(), parts.blobs.as_ref(), parts.outputs.as_ref(), row).await?;
    let lost = std::mem::take(&mut taken.lost);
    if lost.is_empty() {
        return Ok(taken);
    }
    let row = taken.row.clone();
    let slices = match slices(parts, &row, lost).await {
        Ok(slices) => slices,
        Err(fault) => return Err(unless_overtaken(parts.rows.as_ref(), &row, fault).await),
    };
    let rebuilt = match rebuild(parts, &row, &slices).await {
        Ok(rebuilt) => rebuilt,
        Err(fault) => {
            // Somebody newer may have done it meanwhile, and all may be well.
            let fault = unless_overtaken(parts.rows.as_ref(), &row, fault).await;
            if fault.kind() == Kind::Corrupt {
                slices.iter().for_each(|slice| slice.tell(&row, &fault));
            }
            return Err(fault);
        }
    };
    let committed = commit(parts, taken.row, taken.history, rebuilt).await?;
    for output in &committed.header.rebuilt {
        tracing::warn!(
            alert = "output_rebuilt", shard = %row.shard, epoch = output.epoch, path = output.path, rows = output.rows,
            "a file of a committed epoch was lost before it was visible, and is written once more from the stream. Who ends \
             uploads or deletes staged files? (store.max_downtime says how long they may be needed)"
        );
    }
    let (row, history) = (committed.row.clone(), History::after(&committed.header));
    Ok(Taken { row, history, newest: Some(committed), published: taken.published, lost: Vec::new() })
}

/// What is lost of one epoch.
struct Slice {
    header: EpochHeader,
    lost: Vec<LostOutput>,
}

impl Slice {
    fn outputs(&self) -> Vec<PendingOutput> {
        self.lost.iter().map(|lost| lost.output.clone()).collect()
    }

    /// Visible files of the epoch in a folder where one is lost.
    fn kept(&self) -> Vec<PendingOutput> {
        let folder = |output: &PendingOutput| output.path.rsplit_once('/').map(|(folder, _)| folder.to_owned());
        let is_lost = |output: &&PendingOutput| self.lost.iter().any(|lost| lost.output.path == output.path);
        let others = self.header.outputs.iter().filter(|output| !is_lost(output));
        others.filter(|output| self.lost.iter().any(|lost| folder(&lost.output) == folder(output))).cloned().collect()
    }

    fn tell(&self, row: &ShardRow, fault: &Fault) {
        for LostOutput { output, why } in &self.lost {
            tracing::error!(
                alert = "output_lost",
                shard = %row.shard, epoch = output.epoch, path = output.path, rows = output.rows, from = %self.header.from,
                to = %self.header.to, why, %fault,
                "a file of a committed epoch is lost and cannot be written once more: its records, those after `from` up to and \
                 with `to`, are missing from that table until the pipeline is run anew under another name while the stream still \
                 has them; state, Gold and all other files are unharmed"
            );
        }
    }
}

async fn slices(parts: &Parts, row: &ShardRow, lost: Vec<LostOutput>) -> Result<Vec<Slice>> {
    let mut by_epoch: BTreeMap<u64, Vec<LostOutput>> = BTreeMap::new();
    for lost in lost {
        by_epoch.entry(lost.output.epoch).or_default().push(lost);
    }
    let mut slices = Vec::with_capacity(by_epoch.len());
    for (epoch, lost) in by_epoch {
        slices.push(Slice { header: header_of(parts.blobs.as_ref(), parts.ledger.as_ref(), row, epoch).await?, lost });
    }
    Ok(slices)
}

async fn rebuild(parts: &Parts, row: &ShardRow, slices: &[Slice]) -> Result<Vec<PendingOutput>> {
    let mut rebuilt = Vec::new();
    for slice in slices {
        let fingerprint = &parts.config.postmark.fingerprint;
        if slice.header.fingerprint != **fingerprint {
            return Err(Fault::corrupt(format!(
                "epoch {} was made by other settings: run the pipeline file of then once, and the file is written once more",
                slice.header.epoch
            )));
        }
        let (lost, kept) = (slice.outputs(), slice.kept());
        let begin = || parts.outputs.again(&row.shard, row.lease_epoch, &lost, &kept);
        let mut files = retrying(parts.clock.clone(), "reading files of an epoch again", begin).await?;
        let counts = replay(parts, &slice.header, files.as_mut()).await?;
        same(&slice.header.counts, counts)?;
        rebuilt.extend(files.finish()?);
    }
    Ok(rebuilt)
}

/// Reads the records of an epoch again and processes them as it did; what that adds up to.
async fn replay(parts: &Parts, header: &EpochHeader, files: &mut dyn Rewriting) -> Result<Counts> {
    let Parts { stream, engine, clock, config, .. } = parts;
    let opening = Opening { epoch: header.epoch, bound: header.bound_opened, processed_at_us: header.processed_at_us };
    let mut machine = PartitionMachine::new(engine.partition()?, engine.tables().to_vec(), config.postmark.clone(), opening);
    // Every Gold table has its line, also when nothing comes.
    let (mut counts, mut after) = (machine.barrier(opening)?.counts, header.from);
    while after < header.to {
        let read = || stream.read(&header.shard, after, config.fetch.records, config.fetch.bytes);
        let read = retrying(clock.clone(), "reading records again", read).await?;
        let is_over = read.caught_up || read.ended.is_some();
        let (shard, mut records) = (header.shard.clone(), read.records);
        let past = records.iter().any(|record| Position::after(record.sequence) > header.to);
        records.retain(|record| Position::after(record.sequence) <= header.to);
        let last = records.last().map(|record| Position::after(record.sequence));
        if let Some(last) = last {
            after = last;
            let slice = RawSlice { stream: stream.name(), shard, records };
            files.bronze(&slice)?;
            let done = machine.process(&slice, clock.now_us())?;
            files.silver(&done.silver)?;
            files.letters(&done.letters)?;
            counts.add(&machine.barrier(opening)?.counts);
        }
        if past || is_over {
            break;
        }
        if last.is_none() {
            tokio::time::sleep(Duration::from_micros(config.shard.poll_us.unsigned_abs())).await;
        }
    }
    Ok(counts)
}

/// Were these the records that the epoch took in, and was the same made of them?
fn same(committed: &Counts, mut again: Counts) -> Result<()> {
    if again.received != committed.received {
        return Err(Fault::corrupt(format!("the stream has {} of its {} records any more", again.received, committed.received)));
    }
    // Counted where files are written, and where a gap is met.
    (again.bronze, again.letters, again.gaps) = (committed.bronze, committed.letters, committed.gaps);
    if again != *committed {
        return Err(Fault::corrupt("its records now come to other rows and letters than then"));
    }
    Ok(())
}

/// Commits an epoch that takes in nothing and names these files, and makes them visible.
async fn commit(parts: &Parts, row: ShardRow, history: History, rebuilt: Vec<PendingOutput>) -> Result<Committed> {
    let opened = Opening { epoch: row.epoch + 1, bound: row.bound, processed_at_us: parts.clock.now_us() };
    let next = Opening { epoch: opened.epoch + 1, ..opened };
    let (from, to) = (row.position, row.position);
    let seal = Seal { opened, from, to, records: 0, bytes: 0, next, last_arrival_us: None, fresh_us: None, gaps: 0, ended: None };
    let engine = &parts.engine;
    let nothing = PartitionMachine::new(engine.partition()?, engine.tables().to_vec(), parts.config.postmark.clone(), opened)
        .barrier(next)?;
    let (steps, mut machine) = (parts.steps(), CommitMachine::new(parts.commit_config(1), row, history));
    let (mut committed, mut unanswered) = (None, 0);
    let mut effects = VecDeque::new();
    for event in [
        CommitEvent::Sealed(Box::new(seal)),
        CommitEvent::Cut(opened.epoch, nothing),
        CommitEvent::Staged(opened.epoch, Stager::Writer, rebuilt),
        CommitEvent::Staged(opened.epoch, Stager::Dlq, Vec::new()),
    ] {
        effects.extend(machine.apply(event, parts.clock.random()));
    }
    while let Some(effect) = effects.pop_front() {
        match effect {
            CommitEffect::Fail(fault) => return Err(fault),
            CommitEffect::Committed(now) => committed = Some(*now),
            CommitEffect::Settled => {}
            CommitEffect::Hold(_)
            | CommitEffect::Put(..)
            | CommitEffect::CreateRows(_)
            | CommitEffect::Swap(..)
            | CommitEffect::Reread
            | CommitEffect::Publish(..) => {
                let event = steps.take(effect, machine.row(), unanswered).await?;
                if let CommitEvent::Swapped(answer) = &event {
                    unanswered = if answer.is_some() { 0 } else { unanswered.saturating_add(1) };
                }
                effects.extend(machine.apply(event, parts.clock.random()));
            }
        }
    }
    committed.ok_or_else(|| Fault::bug("an epoch of files that were written once more did not come to its end"))
}
