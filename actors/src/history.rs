//! What was committed before: taking a shard over, and reading its chain of epochs back.
//!
//! Owns: the lease CAS, the publication of pending outputs at takeover, walking epoch objects.
//! Does not own: new commits (machines/commit), what becomes of an output that is lost (pipeline/rebuild), the ledger
//! (history/ledger).

pub mod ledger;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;

use crate::machines::commit::{Committed, History};
use crate::model::epoch::{EpochObject, Hash, ObjectRef, PendingOutput};
use crate::model::fault::{Fault, Kind, Result};
use crate::model::position::ShardId;
use crate::model::row::{ShardRow, ShardState};
use crate::ports::{Blobs, Cas, Clock, CommitPermit, Outputs, Publication, Recall, Rows};
use crate::toolkit::crash;
use crate::toolkit::pause::Pause;

/// Tries of the lease CAS against commits of a generation that is just ending.
const TAKE_TRIES: u32 = 8;

/// Heartbeats begin at a random number that every store and every JSON reader holds exactly.
const HEARTBEAT_SPARE: u32 = 12;

/// A shard that is ours now: the row under the new lease, and what its newest object says.
#[derive(Debug)]
pub struct Taken {
    /// The row, lease raised.
    pub row: ShardRow,
    /// From its newest epoch object.
    pub history: History,
    /// Its newest epoch; none before the first.
    pub newest: Option<Committed>,
    /// Outputs that this takeover made visible or found visible.
    pub published: usize,
    /// Outputs of committed epochs that can't be made visible any more.
    pub lost: Vec<LostOutput>,
}

/// An output that was staged whole, and is neither held nor visible.
#[derive(Clone, Debug)]
pub struct LostOutput {
    /// The output.
    pub output: PendingOutput,
    /// How it is seen that it is lost.
    pub why: String,
}

/// Takes the lease of a shard and finishes what its last owner may have left half done.
pub async fn take_over(
    rows: &dyn Rows,
    blobs: &dyn Blobs,
    outputs: &dyn Outputs,
    clock: &Arc<dyn Clock>,
    shard: &ShardId,
    owner: &str,
) -> Result<Taken> {
    let row = raise_lease(rows, clock, shard, owner, None, || ()).await?;
    recover(rows, blobs, outputs, row).await
}

/// Finishes what the last owner of a shard, whose lease has just been raised to this row, may have left half done. Idempotent: a
/// crash in here is a new start.
pub async fn recover(rows: &dyn Rows, blobs: &dyn Blobs, outputs: &dyn Outputs, row: ShardRow) -> Result<Taken> {
    crash::pass("takeover.after_lease");
    let shard = &row.shard;
    let permit = CommitPermit::won(row.lease_epoch, row.epoch);
    let (mut history, mut newest, mut published, mut lost) = (History::default(), None, 0, Vec::new());
    if let Some(object) = &row.object {
        let epoch = match read(blobs, object).await {
            Ok(epoch) => epoch,
            Err(fault) => return Err(damage_or_fence(rows, &row, fault).await),
        };
        let pending = epoch.pending()?;
        let header = epoch.header;
        if header.epoch != row.epoch || header.shard != row.shard || header.to != row.position {
            return Err(Fault::corrupt(format!("the newest epoch object of {shard} does not belong to its row: {}", object.key)));
        }
        for held in &pending {
            match outputs.publish(permit, held).await {
                Ok(Publication::Visible) => published += 1,
                Ok(Publication::Lost(why)) => lost.push(LostOutput { output: held.output.clone(), why }),
                Err(fault) => return Err(unless_overtaken(rows, &row, fault).await),
            }
            crash::pass("takeover.after_publish");
        }
        history = History::after(&header);
        newest = Some(Committed { row: row.clone(), header });
    }
    outputs.discard_staged(permit, shard, &[]).await?;
    crash::pass("takeover.after_discard");
    // Objects of epochs that never became true: their owner's swap can't be won any more, the lease is higher. Not those of a
    // higher lease than ours: then it is us who have been overtaken since.
    for key in blobs.list(&prefix(shard)).await? {
        if epoch_and_lease(&key).is_some_and(|(epoch, lease)| epoch > row.epoch && lease < row.lease_epoch) {
            blobs.delete(&key).await?;
        }
    }
    Ok(Taken { row, history, newest, published, lost })
}

/// What was committed of how far a shard is read; none where nobody has begun to. Of a shard of which nothing was, its parents
/// tell: it had nothing until they were last seen before their end.
pub async fn recall(rows: &dyn Rows, blobs: &dyn Blobs, row: &ShardRow, fresh_us: Option<i64>) -> Result<Option<Recall>> {
    if row.position.sequence().is_some() || row.parents.is_empty() {
        return Ok(fresh_us.map(|fresh_us| Recall { fresh_us, before: Vec::new() }));
    }
    let all = rows.shards().await?;
    let parents = |row: &ShardRow| all.iter().filter(|other| row.parents.contains(&other.shard)).collect::<Vec<_>>();
    // Of a parent without a record, those that it came from, too.
    let (mut fresh_us, mut before, mut seen, mut next) = (fresh_us, Vec::new(), BTreeSet::new(), parents(row));
    while let Some(ancestor) = next.pop() {
        if !seen.insert(&ancestor.shard) {
            continue;
        }
        if let Some(object) = ancestor.object.as_ref().filter(|_| row.object.is_none()) {
            fresh_us = fresh_us.max(read(blobs, object).await?.header.fresh_us);
        }
        match ancestor.position.sequence() {
            Some(last) => before.push((ancestor.shard.clone(), last)),
            None => next.extend(parents(ancestor)),
        }
    }
    Ok(fresh_us.map(|fresh_us| Recall { fresh_us, before }))
}

/// Takes the lease of a shard. With `only` it is taken from whoever has that lease and from nobody later: where workers share
/// shards, the last owner was seen to be gone, and a newer one was not. `sending` is called before each try is sent: how long the
/// lease is ours counts from there, since whoever waits for a life sign of ours may have seen the row before we hear that we won.
///
/// Each try has a row unlike that of any other, even of an owner with the same name: an answer that did not come is settled by
/// comparing rows.
pub async fn raise_lease(
    rows: &dyn Rows,
    clock: &Arc<dyn Clock>,
    shard: &ShardId,
    owner: &str,
    only: Option<u64>,
    mut sending: impl FnMut(),
) -> Result<ShardRow> {
    let (mut tried, mut unanswered, mut pause) = (Vec::new(), None, Pause::new(clock.clone()));
    for _ in 0..TAKE_TRIES {
        if let Some(fault) = &unanswered {
            // A table that throttles is asked by every worker for every shard: at once again would be a storm.
            pause.after("taking a lease", fault).await;
        }
        let row = rows.shard(shard).await?.ok_or_else(|| Fault::corrupt(format!("no row for {shard}")))?;
        // A try of ours may have arrived after all. Since when its row could be seen is not known any more: once again.
        let is_late = || tried.iter().any(|taken| is_ours(&row, taken));
        if only.is_some_and(|lease_epoch| lease_epoch != row.lease_epoch) && !is_late() {
            return Err(Fault::fenced(format!("{shard} was taken by {} meanwhile", row.owner)));
        }
        let mut taken = row.clone();
        taken.lease_epoch += 1;
        taken.owner = owner.to_owned();
        taken.wanted_by = String::new();
        taken.heartbeat = clock.random() >> HEARTBEAT_SPARE;
        if taken.state == ShardState::Blocked {
            taken.state = ShardState::Open;
            taken.bound = opening_bound(rows, &row).await?;
        }
        sending();
        match rows.update_shard(row.fence(), &taken).await {
            Ok(Cas::Won) => return Ok(taken),
            Ok(Cas::Lost) => {}
            Err(fault) if fault.kind() != Kind::Retry => return Err(fault),
            // Unknown: the row tells whether it was us.
            Err(fault) => match rows.shard(shard).await? {
                Some(now) if is_ours(&now, &taken) => return Ok(now),
                // It did not arrive: tried again.
                Some(now) if now.fence() == row.fence() => {
                    unanswered = Some(fault);
                    tried.push(taken);
                }
                Some(_) | None => return Err(Fault::fenced(format!("{shard} was taken by somebody else"))),
            },
        }
    }
    // A store that can't write is not a rival: what it said is what a person must read.
    Err(unanswered.unwrap_or_else(|| Fault::retry(format!("{shard} changed {TAKE_TRIES} times while its lease was being taken"))))
}

/// Is this the row that we wrote? Somebody may have noted in it already that he wants the shard.
fn is_ours(now: &ShardRow, taken: &ShardRow) -> bool {
    (&now.owner, now.fence(), now.heartbeat) == (&taken.owner, taken.fence(), taken.heartbeat)
}

/// A child opens with the minimum of what its parents committed.
async fn opening_bound(rows: &dyn Rows, row: &ShardRow) -> Result<crate::model::window::Bound> {
    let mut bound = None;
    for parent in &row.parents {
        if let Some(parent) = rows.shard(parent).await? {
            bound = Some(bound.map_or(parent.bound, |least: crate::model::window::Bound| least.min(parent.bound)));
        }
    }
    Ok(bound.unwrap_or(row.bound).max(row.bound))
}

/// A fault for which a person would have to look, of whoever works under the lease of this row: if somebody newer has the shard,
/// he may have mended or removed what is missed or strange here, and being fenced is all that there is to tell.
pub async fn unless_overtaken(rows: &dyn Rows, row: &ShardRow, fault: Fault) -> Fault {
    fenced_if(rows, row, fault, |now| now.lease_epoch != row.lease_epoch).await
}

/// What it means that a shard's newest object is damaged or missing. While the row names it: damage. When the row has moved on,
/// somebody newer has committed and collected since it was read: whoever asked is fenced.
pub async fn damage_or_fence(rows: &dyn Rows, row: &ShardRow, fault: Fault) -> Fault {
    fenced_if(rows, row, fault, |now| now.object != row.object).await
}

/// Looks at the row as it is now before anything is called damage.
async fn fenced_if(rows: &dyn Rows, row: &ShardRow, fault: Fault, moved_on: impl Fn(&ShardRow) -> bool) -> Fault {
    if fault.kind() != Kind::Corrupt {
        return fault;
    }
    match rows.shard(&row.shard).await {
        Ok(Some(now)) if moved_on(&now) => {
            Fault::fenced(format!("{} has moved on to lease {}, epoch {}", row.shard, now.lease_epoch, now.epoch))
        }
        Ok(Some(_) | None) => fault,
        Err(unknown) => unknown,
    }
}

/// Reads an epoch object and holds it to its reference.
pub async fn read(blobs: &dyn Blobs, object: &ObjectRef) -> Result<EpochObject> {
    EpochObject::decode(&read_verified(blobs, object).await?)
}

/// Reads any object and holds it to its reference.
pub async fn read_verified(blobs: &dyn Blobs, object: &ObjectRef) -> Result<Bytes> {
    let data = blobs.get(&object.key).await?;
    if data.len() as u64 != object.len || Hash::of(&data) != object.sha256 {
        return Err(Fault::corrupt(format!("{} is not what its row says: length or SHA-256 differs", object.key)));
    }
    Ok(data)
}

/// One committed epoch.
#[derive(Clone, Debug)]
pub struct Link {
    /// Its object.
    pub object: ObjectRef,
    /// The object itself.
    pub epoch: EpochObject,
}

/// The committed epochs of a shard whose objects are not collected, newest first, down to (not including) `above`.
pub async fn chain(blobs: &dyn Blobs, row: &ShardRow, above: u64) -> Result<Vec<Link>> {
    let mut keys: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    for key in blobs.list(&prefix(&row.shard)).await? {
        if let Some(epoch) = epoch_of(&key) {
            keys.entry(epoch).or_default().push(key);
        }
    }
    let mut links: Vec<Link> = Vec::new();
    let Some(newest) = &row.object else { return Ok(links) };
    let mut next = Some((newest.key.clone(), read_verified(blobs, newest).await?));
    while let Some((key, data)) = next.take() {
        let sha256 = Hash::of(&data);
        let epoch = EpochObject::decode(&data)?;
        let previous = epoch.header.previous.clone().filter(|_| epoch.header.epoch > above + 1);
        let number = epoch.header.epoch;
        links.push(Link { object: ObjectRef { key, len: data.len() as u64, sha256 }, epoch });
        let Some(previous) = previous else { break };
        let candidates = keys.get(&(number - 1)).cloned().unwrap_or_default();
        // None: collected; the ledger has its line.
        next = find(blobs, &candidates, &previous).await?;
    }
    Ok(links)
}

/// The object of this hash. Others may be whole objects too, of tries that never became true; a damaged one is none of these.
async fn find(blobs: &dyn Blobs, keys: &[String], sha256: &Hash) -> Result<Option<(String, Bytes)>> {
    for key in keys {
        let data = match blobs.get(key).await {
            Ok(data) => data,
            // Gone since it was listed: a collection that its process did not live to see the end of.
            Err(fault) if fault.kind() == Kind::Corrupt && blobs.list(key).await?.is_empty() => continue,
            Err(fault) => return Err(fault),
        };
        if Hash::of(&data) == *sha256 {
            return Ok(Some((key.clone(), data)));
        }
        EpochObject::decode(&data).map_err(|fault| Fault::corrupt(format!("{key}: {fault}")))?;
    }
    Ok(None)
}

/// Prefix of a shard's epoch objects.
pub fn prefix(shard: &ShardId) -> String {
    format!("epochs/{shard}/")
}

/// The epoch number in an object's key.
pub fn epoch_of(key: &str) -> Option<u64> {
    epoch_and_lease(key).map(|(epoch, _)| epoch)
}

/// The epoch number and the lease in an object's key.
fn epoch_and_lease(key: &str) -> Option<(u64, u64)> {
    let mut numbers = key.rsplit('/').next()?.split('-').map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}
