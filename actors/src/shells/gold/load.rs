//! What Gold reads at its start, and what it sweeps away then.
//!
//! Owns: rows, chains, and the keys of contents and bases. Does not own: the work between two starts (work).

use std::collections::{BTreeMap, BTreeSet};

use super::GoldParts;
use crate::history;
use crate::model::fault::{Fault, Kind, Result};
use crate::model::position::ShardId;
use crate::model::row::{ShardRow, WindowRow};

/// What was committed, as read from the stores.
pub(super) struct Loaded {
    pub(super) windows: Vec<WindowRow>,
    pub(super) shards: Vec<(ShardRow, Vec<history::Link>)>,
}

/// Chains, windows, and the sweep.
pub(super) async fn load(parts: &GoldParts) -> Result<Loaded> {
    let shards = chains(parts).await?;
    // After the chains: what was collected out of them meanwhile is in the bases that these rows name.
    let windows = windows(parts).await?;
    sweep(parts, &windows).await?;
    Ok(Loaded { windows, shards })
}

/// Every shard's row and its epochs, newest first.
pub(super) async fn chains(parts: &GoldParts) -> Result<Vec<(ShardRow, Vec<history::Link>)>> {
    let mut shards = Vec::new();
    for row in parts.rows.shards().await? {
        shards.push(with_chain(parts, row, 0).await?);
    }
    Ok(shards)
}

/// The same of shards that have committed more than is known, and only what is not known.
pub(super) async fn newer(parts: &GoldParts, known: BTreeMap<ShardId, ShardRow>) -> Result<Vec<(ShardRow, Vec<history::Link>)>> {
    let mut shards = Vec::new();
    for row in parts.rows.shards().await? {
        match known.get(&row.shard) {
            Some(known) if known.epoch == row.epoch && known.state == row.state => {}
            Some(known) => shards.push(with_chain(parts, row, known.epoch).await?),
            None => shards.push(with_chain(parts, row, 0).await?),
        }
    }
    Ok(shards)
}

async fn with_chain(parts: &GoldParts, row: ShardRow, above: u64) -> Result<(ShardRow, Vec<history::Link>)> {
    match history::chain(parts.blobs.as_ref(), &row, above).await {
        Ok(chain) => Ok((row, chain)),
        Err(fault) => Err(history::damage_or_fence(parts.rows.as_ref(), &row, fault).await),
    }
}

/// All rows that Gold depends on.
pub(super) struct Known {
    pub(super) shards: Vec<ShardRow>,
    pub(super) windows: Vec<WindowRow>,
}

/// The rows as they stand when something seems damaged; none where it is no question of damage.
pub(super) async fn rows(parts: &GoldParts, fault: &Fault) -> Result<Option<Known>> {
    if fault.kind() != Kind::Corrupt {
        return Ok(None);
    }
    let shards = parts.rows.shards().await?;
    Ok(Some(Known { shards, windows: windows(parts).await? }))
}

async fn windows(parts: &GoldParts) -> Result<Vec<WindowRow>> {
    let mut windows = Vec::new();
    for table in parts.engine.tables() {
        windows.extend(parts.rows.windows(&table.name).await?);
    }
    Ok(windows)
}

/// Deletes contents and bases that no row names: left by a crash between a put and its CAS. Only those whose CAS has been
/// decided, because the row stands at their number or past it: a younger one may belong to a swap that is still under way.
async fn sweep(parts: &GoldParts, windows: &[WindowRow]) -> Result<()> {
    let named: BTreeSet<&str> = windows
        .iter()
        .flat_map(|row| [row.content.as_ref(), row.base.as_ref().map(|base| &base.object)])
        .flatten()
        .map(|object| object.key.as_str())
        .collect();
    for table in parts.engine.tables() {
        let rows = || windows.iter().filter(|row| row.table == table.name.as_ref());
        let revisions: BTreeMap<i64, u64> = rows().map(|row| (row.start_us, row.revision)).collect();
        let versions: BTreeMap<i64, u64> = rows().map(|row| (row.start_us, row.version)).collect();
        for (folder, decided) in [("content", revisions), ("bases", versions)] {
            for key in parts.blobs.list(&format!("{folder}/{}/", table.name)).await? {
                let past = number_of(&key).is_some_and(|(start_us, number)| decided.get(&start_us).is_some_and(|n| number <= *n));
                if past && !named.contains(key.as_str()) {
                    parts.blobs.delete(&key).await?;
                }
            }
        }
    }
    Ok(())
}

/// Key of a content (`number` = its revision) or a base (`number` = the version of the row that first names it).
pub(super) fn key_of(folder: &str, row: &WindowRow, number: u64, random: u64) -> String {
    format!("{folder}/{}/{}/{number:010}-{random:016x}", row.table, row.start_us)
}

/// Start of the window and number in such a key.
fn number_of(key: &str) -> Option<(i64, u64)> {
    let mut parts = key.rsplit('/');
    let (number, start_us) = (parts.next()?.split('-').next()?, parts.next()?);
    Some((start_us.parse().ok()?, number.parse().ok()?))
}
