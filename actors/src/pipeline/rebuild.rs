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
use crate::history::{LostOutput, Taken, chain, recover, unless_overtaken};
use crate::machines::commit::{CommitEffect, CommitEvent, CommitMachine, Committed, History, Stager};
use crate::machines::partition::PartitionMachine;
use crate::machines::shard::{Opening, Seal};
use crate::model::epoch::{EpochHeader, HeldOutput, PendingOutput};
use crate::model::fault::{Fault, Kind, Result};
use crate::model::ledger::Counts;
use crate::model::letter::CRASHES_WORKER;
use crate::model::position::Position;
use crate::model::record::RawSlice;
use crate::model::row::ShardRow;
use crate::ports::Rewriting;
use crate::shells::commit::retrying;

/// Folders whose files are written at the same time: each has one open.
const FOLDERS_MAX: usize = 32;

/// Finishes what the last owner of a shard, whose lease has just been raised to this row, may have left half done. Files are
/// written once more until `ending` says why that must stop.
pub(super) async fn settle(parts: &Parts, row: ShardRow, ending: impl Future<Output = Fault>) -> Result<Taken> {
    let mut taken = recover(parts.rows.as_ref(), parts.blobs.as_ref(), parts.outputs.as_ref(), row).await?;
    let lost = std::mem::take(&mut taken.lost);
    if lost.is_empty() {
        return Ok(taken);
    }
    tokio::select! {
        biased;
        fault = ending => Err(fault),
        settled = bring_back(parts, taken, lost) => settled,
    }
}

/// Writes once more what can be, and says so; then it is a fault if something cannot.
async fn bring_back(parts: &Parts, taken: Taken, lost: Vec<LostOutput>) -> Result<Taken> {
    let slices = match slices(parts, &taken.row, lost).await {
        Ok(slices) => slices,
        Err(fault) => return Err(unless_overtaken(parts.rows.as_ref(), &taken.row, fault).await),
    };
    let (mut rebuilt, mut given_up) = (Vec::new(), Vec::new());
    for slice in slices {
        match rebuild(parts, &taken.row, &slice).await {
            Ok(outputs) => {
                outputs.iter().for_each(|output| slice.tell_rebuilt(&taken.row, output));
                rebuilt.extend(outputs);
            }
            Err(fault) if fault.kind() == Kind::Corrupt => given_up.push((slice, fault)),
            Err(fault) => return Err(fault),
        }
    }
    // Whatever can't be written once more stays pending: what the stream has forgotten, a person may bring back.
    let left = given_up.iter().flat_map(|(slice, _)| slice.outputs()).map(HeldOutput::from).collect();
    let taken = match rebuilt.is_empty() {
        true => taken,
        false => commit(parts, taken, left, rebuilt).await?,
    };
    let Some((_, fault)) = given_up.first() else { return Ok(taken) };
    let fault = unless_overtaken(parts.rows.as_ref(), &taken.row, fault.clone()).await;
    if fault.kind() == Kind::Corrupt {
        given_up.iter().for_each(|(slice, fault)| slice.tell_lost(&taken.row, fault));
    }
    Err(fault)
}

/// What is lost of one epoch.
struct Slice {
    header: EpochHeader,
    lost: Vec<LostOutput>,
}

/// The folder of a file, with its table.
fn folder(output: &PendingOutput) -> &str {
    output.path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

impl Slice {
    fn outputs(&self) -> Vec<PendingOutput> {
        self.lost.iter().map(|lost| lost.output.clone()).collect()
    }

    /// Lost files with the visible ones of the epoch in the same folders, some folders at a time.
    fn groups(&self) -> Vec<(Vec<PendingOutput>, Vec<PendingOutput>)> {
        let lost = self.outputs();
        let mut folders: BTreeMap<&str, (Vec<PendingOutput>, Vec<PendingOutput>)> = BTreeMap::new();
        for output in &lost {
            folders.entry(folder(output)).or_default().0.push(output.clone());
        }
        for output in self.header.outputs.iter().filter(|output| lost.iter().all(|lost| lost.path != output.path)) {
            if let Some((_, kept)) = folders.get_mut(folder(output)) {
                kept.push(output.clone());
            }
        }
        let all: Vec<_> = folders.into_values().collect();
        let together = |some: &[(Vec<PendingOutput>, Vec<PendingOutput>)]| some.iter().cloned().unzip::<_, _, Vec<_>, Vec<_>>();
        let groups = all.chunks(FOLDERS_MAX).map(together);
        groups.map(|(lost, kept)| (lost.concat(), kept.concat())).collect()
    }

    fn tell_rebuilt(&self, row: &ShardRow, output: &PendingOutput) {
        let why = self.lost.iter().find(|lost| lost.output.path == output.path).map_or("", |lost| lost.why.as_str());
        tracing::warn!(
            alert = "output_rebuilt", shard = %row.shard, epoch = output.epoch, path = output.path, rows = output.rows, why,
            "a file of a committed epoch was lost before it was visible, and is written once more from the stream. Who ends \
             uploads or deletes staged files? (store.max_downtime says how long they may be needed)"
        );
    }

    fn tell_lost(&self, row: &ShardRow, fault: &Fault) {
        for LostOutput { output, why } in &self.lost {
            tracing::error!(
                alert = "output_lost",
                shard = %row.shard, epoch = output.epoch, path = output.path, rows = output.rows, from = %self.header.from,
                to = %self.header.to, why, %fault,
                "a file of a committed epoch is lost and cannot be written once more: its records, those after `from` up to and \
                 with `to`, are missing from that table until the pipeline is run anew under another name while the stream still \
                 has them; state and Gold are unharmed"
            );
        }
    }
}

async fn slices(parts: &Parts, row: &ShardRow, lost: Vec<LostOutput>) -> Result<Vec<Slice>> {
    let mut by_epoch: BTreeMap<u64, Vec<LostOutput>> = BTreeMap::new();
    for lost in lost {
        by_epoch.entry(lost.output.epoch).or_default().push(lost);
    }
    // The objects of all of them are there: an epoch is not collected while one before it has files that nobody sees.
    let oldest = by_epoch.keys().next().copied().unwrap_or_default();
    let mut slices = Vec::with_capacity(by_epoch.len());
    for link in chain(parts.blobs.as_ref(), row, oldest.saturating_sub(1)).await? {
        let header = link.epoch.header;
        slices.extend(by_epoch.remove(&header.epoch).map(|lost| Slice { header, lost }));
    }
    match by_epoch.keys().next() {
        None => Ok(slices),
        Some(epoch) => Err(Fault::corrupt(format!("epoch {epoch} of {} has files that nobody sees, and no object", row.shard))),
    }
}

/// The lost files of one epoch, staged once more.
async fn rebuild(parts: &Parts, row: &ShardRow, slice: &Slice) -> Result<Vec<PendingOutput>> {
    let header = &slice.header;
    if header.fingerprint != *parts.config.postmark.fingerprint {
        return Err(Fault::corrupt(format!(
            "epoch {} was made by other settings: run the pipeline file of then once, and the file is written once more",
            header.epoch
        )));
    }
    let died = |rejected: &String| rejected.rsplit('/').next() == Some(CRASHES_WORKER);
    if header.counts.rejected.keys().any(died) {
        let message = format!("epoch {} holds a record that the process died of: it is not decoded again", header.epoch);
        return Err(Fault::corrupt(message));
    }
    let surplus = surplus(parts, header).await?;
    let mut rebuilt = Vec::new();
    for (lost, kept) in slice.groups() {
        let begin = || parts.outputs.again(&row.shard, row.lease_epoch, &lost, &kept);
        let mut files = retrying(parts.clock.clone(), "reading files of an epoch again", begin).await?;
        same(&header.counts, replay(parts, header, surplus, files.as_mut()).await?)?;
        rebuilt.extend(files.finish()?);
    }
    Ok(rebuilt)
}

/// An epoch whose records were handed over may begin behind its position: so many records before them were not in it.
async fn surplus(parts: &Parts, header: &EpochHeader) -> Result<u64> {
    if !header.unproven_start {
        return Ok(0);
    }
    let mut all = 0;
    read_again(parts, header, |slice| {
        all += slice.records.len() as u64;
        Ok(())
    })
    .await?;
    Ok(all.saturating_sub(header.counts.received))
}

/// Processes the records of an epoch as it did, all but some at the front; what that adds up to.
async fn replay(parts: &Parts, header: &EpochHeader, surplus: u64, files: &mut dyn Rewriting) -> Result<Counts> {
    let Parts { engine, clock, config, .. } = parts;
    let opening = Opening { epoch: header.epoch, bound: header.bound_opened, processed_at_us: header.processed_at_us };
    let mut machine = PartitionMachine::new(engine.partition()?, engine.tables().to_vec(), config.postmark.clone(), opening);
    // Every Gold table has its line, also when nothing comes.
    let (mut counts, mut left_out) = (machine.barrier(opening)?.counts, surplus);
    read_again(parts, header, |mut slice| {
        let here = left_out.min(slice.records.len() as u64);
        left_out -= here;
        slice.records.drain(..usize::try_from(here).unwrap_or(slice.records.len()));
        files.bronze(&slice)?;
        let done = machine.process(&slice, clock.now_us())?;
        files.silver(&done.silver)?;
        files.letters(&done.letters)?;
        counts.add(&machine.barrier(opening)?.counts);
        Ok(())
    })
    .await?;
    Ok(counts)
}

/// Reads what the stream still has of an epoch's records, fetch after fetch.
async fn read_again(parts: &Parts, header: &EpochHeader, mut with: impl FnMut(RawSlice) -> Result<()>) -> Result<()> {
    let Parts { stream, clock, config, .. } = parts;
    let mut after = header.from;
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
            with(RawSlice { stream: stream.name(), shard, records })?;
        }
        if past || is_over {
            break;
        }
        if last.is_none() {
            tokio::time::sleep(Duration::from_micros(config.shard.poll_us.unsigned_abs())).await;
        }
    }
    Ok(())
}

/// Were these the records that the epoch took in, and was the same made of them?
fn same(committed: &Counts, mut again: Counts) -> Result<()> {
    if again.received != committed.received {
        return Err(Fault::corrupt(format!(
            "the epoch took in {} records, and the stream has {} of that slice now",
            committed.received, again.received
        )));
    }
    // Counted where files are written, and where a gap is met.
    (again.bronze, again.letters, again.gaps) = (committed.bronze, committed.letters, committed.gaps);
    if again != *committed {
        return Err(Fault::corrupt("its records now come to other rows and letters than then"));
    }
    Ok(())
}

/// Commits an epoch that takes in nothing and names these files, and makes them visible; others stay pending.
async fn commit(parts: &Parts, taken: Taken, left: Vec<HeldOutput>, rebuilt: Vec<PendingOutput>) -> Result<Taken> {
    let Taken { row, history, published, .. } = taken;
    let opened = Opening { epoch: row.epoch + 1, bound: row.bound, processed_at_us: parts.clock.now_us() };
    let next = Opening { epoch: opened.epoch + 1, ..opened };
    let (from, to) = (row.position, row.position);
    let seal = Seal { opened, from, to, records: 0, bytes: 0, next, last_arrival_us: None, fresh_us: None, gaps: 0, ended: None };
    let engine = &parts.engine;
    let nothing = PartitionMachine::new(engine.partition()?, engine.tables().to_vec(), parts.config.postmark.clone(), opened)
        .barrier(next)?;
    let (steps, mut machine) = (parts.steps(), CommitMachine::new(parts.commit_config(1), row, history).carrying(left));
    let (mut committed, mut unanswered): (Option<Committed>, u32) = (None, 0);
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
    let newest = committed.ok_or_else(|| Fault::bug("an epoch of files that were written once more did not come to its end"))?;
    let (row, history) = (newest.row.clone(), History::after(&newest.header));
    Ok(Taken { row, history, newest: Some(newest), published, lost: Vec::new() })
}
