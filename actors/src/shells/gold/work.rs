//! Gold's effects, each from its first read to its last write: emit, publish, rebase, collect.
//!
//! Owns: the order of writes around the window row's CAS, the settling of an answer that did not come. Does not own: what is due
//! (machines/gold), the actor (shells/gold), what a start reads and sweeps (load).

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use super::GoldParts;
use super::load::key_of;
use crate::history;
use crate::machines::gold::Load;
use crate::model::epoch::{EpochObject, Hash, LedgerLine, ObjectRef};
use crate::model::fault::{Fault, Kind, Result};
use crate::model::position::ShardId;
use crate::model::row::{Base, WindowRow};
use crate::model::states;
use crate::model::window::Window;
use crate::ports::{Cas, Finished, Merger, WindowPermit};
use crate::toolkit::crash;
use crate::toolkit::pause::Pause;

/// Decoded epoch objects that Gold keeps at hand, in bytes: many windows lie in the same few objects.
const CACHE_BYTES: usize = 128 << 20;
/// Tries of one window's CAS while the row stands unchanged.
const SWAPS_MAX: u32 = 10;

/// Epoch objects by key, oldest out first.
#[derive(Default)]
pub(super) struct Cache {
    objects: VecDeque<(String, Arc<EpochObject>, usize)>,
    bytes: usize,
}

async fn cached(parts: &GoldParts, cache: &tokio::sync::Mutex<Cache>, object: &ObjectRef) -> Result<Arc<EpochObject>> {
    let mut cache = cache.lock().await;
    if let Some((_, found, _)) = cache.objects.iter().find(|(key, _, _)| *key == object.key) {
        return Ok(found.clone());
    }
    let read = Arc::new(history::read(parts.blobs.as_ref(), object).await?);
    cache.bytes += object.len as usize;
    cache.objects.push_back((object.key.clone(), read.clone(), object.len as usize));
    while cache.bytes > CACHE_BYTES && cache.objects.len() > 1 {
        if let Some((_, _, len)) = cache.objects.pop_front() {
            cache.bytes -= len;
        }
    }
    Ok(read)
}

/// What it means that an object is damaged or missing which a window's row asked for. While the row stands at this version:
/// damage. When it has moved on, another Gold has put something newer in its place: whoever asked is fenced.
async fn damage_or_fence(parts: &GoldParts, row: &WindowRow, version: u64, fault: Fault) -> Fault {
    if fault.kind() != Kind::Corrupt {
        return fault;
    }
    match parts.rows.window(&row.table, row.start_us).await {
        Ok(now) if now.as_ref().map_or(0, |now| now.version) != version => {
            Fault::fenced(format!("window {} of {} has moved on: {fault}", row.start_us, row.table))
        }
        Ok(_) => fault,
        Err(unknown) => unknown,
    }
}

/// The content of a revision that is to be made visible.
pub(super) async fn read_content(parts: &GoldParts, row: &WindowRow, content: &ObjectRef) -> Result<Bytes> {
    match history::read_verified(parts.blobs.as_ref(), content).await {
        Ok(content) => Ok(content),
        Err(fault) => Err(damage_or_fence(parts, row, row.version, fault).await),
    }
}

/// The merge of a window's base and these partials, read for the swap to this row.
async fn merged<'a>(
    parts: &'a GoldParts,
    cache: &tokio::sync::Mutex<Cache>,
    table: usize,
    row: &WindowRow,
    loads: Vec<Load>,
) -> Result<Box<dyn Merger + 'a>> {
    let mut merger = parts.engine.merger(table)?;
    match add_all(merger.as_mut(), parts, cache, row, loads).await {
        Ok(()) => Ok(merger),
        Err(fault) => Err(damage_or_fence(parts, row, row.version - 1, fault).await),
    }
}

/// Each piece is let go once it is taken in.
async fn add_all(
    merger: &mut dyn Merger,
    parts: &GoldParts,
    cache: &tokio::sync::Mutex<Cache>,
    row: &WindowRow,
    loads: Vec<Load>,
) -> Result<()> {
    if let Some(base) = &row.base {
        let base = history::read_verified(parts.blobs.as_ref(), &base.object).await?;
        for states in states::decode_all(&base)? {
            merger.add(&states?)?;
        }
    }
    for load in loads {
        let object = cached(parts, cache, &load.object).await?;
        for segment in &load.segments {
            merger.add(&states::decode(&object.segment(segment)?)?)?;
        }
    }
    Ok(())
}

/// A window's content; rows and overflow are noted in its row.
fn content(parts: &GoldParts, mut merger: Box<dyn Merger + '_>, window: Window, row: &mut WindowRow) -> Result<Bytes> {
    let table = row.table.clone();
    (row.rows, row.overflow) = (0, false);
    let rows = merger.finish(window)?.map(|finished| {
        let Finished { rows, overflow } = finished?;
        row.rows += rows.num_rows() as u64;
        row.overflow |= overflow;
        Ok(rows)
    });
    parts.gold_files.encode(&table, Box::new(rows))
}

/// Merges, finishes, stores the content, swaps the row, makes it visible.
pub(super) async fn emit(
    parts: &GoldParts,
    cache: &tokio::sync::Mutex<Cache>,
    table: usize,
    mut row: WindowRow,
    loads: Vec<Load>,
) -> Result<WindowRow> {
    let windowing = parts.engine.tables()[table].windowing;
    let merger = merged(parts, cache, table, &row, loads).await?;
    let content = content(parts, merger, windowing.starting(row.start_us), &mut row)?;
    let key = key_of("content", &row, row.revision, parts.clock.random());
    parts.blobs.put(&key, content.clone()).await?;
    crash::pass("gold.after_content");
    let old = parts.rows.window(&row.table, row.start_us).await?.and_then(|old| old.content);
    row.content = Some(ObjectRef { key, len: content.len() as u64, sha256: Hash::of(&content) });
    swap(parts, &row).await?;
    crash::pass("gold.after_swap");
    if row.overflow {
        tracing::error!(alert = "overflow", table = row.table, start_us = row.start_us, "an integer sum left its range");
    }
    publish(parts, row, content, old).await
}

/// Makes a revision visible, notes that it is, and forgets the content before it.
pub(super) async fn publish(parts: &GoldParts, mut row: WindowRow, content: Bytes, old: Option<ObjectRef>) -> Result<WindowRow> {
    parts.gold_files.publish(WindowPermit::won(row.revision), &row, content).await?;
    crash::pass("gold.after_publish");
    tracing::info!(table = row.table, start_us = row.start_us, revision = row.revision, status = row.status.as_str(), "gold");
    row.published = row.revision;
    row.version += 1;
    swap(parts, &row).await?;
    if let Some(old) = old {
        parts.blobs.delete(&old.key).await?;
    }
    Ok(row)
}

/// Merges into a new base and swaps the row.
pub(super) async fn rebase(
    parts: &GoldParts,
    cache: &tokio::sync::Mutex<Cache>,
    table: usize,
    mut row: WindowRow,
    loads: Vec<Load>,
    base: impl FnOnce(ObjectRef) -> Base,
) -> Result<WindowRow> {
    let mut merger = merged(parts, cache, table, &row, loads).await?;
    let states = states::encode_all(merger.states()?)?;
    drop(merger);
    let key = key_of("bases", &row, row.version, parts.clock.random());
    parts.blobs.put(&key, states.clone()).await?;
    crash::pass("base.after_put");
    let old = row.base.replace(base(ObjectRef { key, len: states.len() as u64, sha256: Hash::of(&states) }));
    swap(parts, &row).await?;
    crash::pass("base.after_swap");
    if let Some(old) = old {
        parts.blobs.delete(&old.object.key).await?;
    }
    Ok(row)
}

/// The window row's compare-and-set, from the version before the row's own. An answer that did not come is settled by reading
/// the row.
async fn swap(parts: &GoldParts, row: &WindowRow) -> Result<()> {
    let expected = row.version - 1;
    let mut pause = Pause::new(parts.clock.clone());
    for _ in 0..SWAPS_MAX {
        let answer = parts.rows.update_window(expected, row).await;
        if matches!(answer, Ok(Cas::Won)) {
            return Ok(());
        }
        let stored = parts.rows.window(&row.table, row.start_us).await?;
        if stored.as_ref() == Some(row) {
            return Ok(());
        }
        if stored.map_or(0, |stored| stored.version) != expected {
            return Err(Fault::fenced(format!("window {} of {} was changed by somebody else", row.start_us, row.table)));
        }
        if let Err(fault) = answer {
            pause.after("swapping a window row", &fault).await;
        }
    }
    Err(Fault::retry(format!("window {} of {} could not be swapped {SWAPS_MAX} times in a row", row.start_us, row.table)))
}

/// Ledger first, then the objects, oldest first: a crash in between leaves a shorter chain that still joins its ledger. Objects
/// of tries that never became true go with them.
pub(super) async fn collect(parts: &GoldParts, shard: &ShardId, lines: &[LedgerLine], through: u64) -> Result<()> {
    parts.ledger.append(lines).await?;
    crash::pass("collect.after_ledger");
    // In order of keys, which is the order of epochs.
    for key in parts.blobs.list(&history::prefix(shard)).await? {
        if history::epoch_of(&key).is_some_and(|epoch| epoch <= through) {
            parts.blobs.delete(&key).await?;
            crash::pass("collect.after_delete");
        }
    }
    Ok(())
}
