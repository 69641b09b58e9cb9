//! What a dead run left: looked up in rows, epoch objects and folders before the next one starts.
//!
//! Owns: telling in which part of the commit protocol a run died. Does not own: whether the results are right (oracle).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use sluicebox::clock::SystemClock;
use sluicebox::run::block_on;
use sluicebox::topology::Stores;
use sluicebox_actors::history;
use sluicebox_actors::model::fault::Kind;
use sluicebox_actors::ports::Blobs;

/// In the middle of what a run died.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(super) struct Aftermath {
    /// Staged files or an epoch object that no row knows: of an epoch that never became true.
    pub(super) uncommitted: bool,
    /// An output that a committed epoch names and nobody sees: between compare-and-set and publication.
    pub(super) unpublished: bool,
}

/// Looks at a directory that nobody works in.
pub(super) fn look(data: &Path) -> anyhow::Result<Aftermath> {
    let stores = match Stores::for_reading(data, SystemClock::shared()) {
        Ok(stores) => stores,
        // Killed before there was anything.
        Err(fault) if fault.kind() == Kind::Config => return Ok(Aftermath::default()),
        Err(fault) => return Err(fault.into()),
    };
    let mut found = Aftermath::default();
    let mut staged: BTreeSet<PathBuf> = files(&data.join("state/staged"))?.into_iter().collect();
    for row in block_on(stores.rows.shards())?? {
        let prefix = format!("epochs/{}/", row.shard);
        for key in block_on(stores.blobs.list(&prefix))?? {
            let epoch = key.trim_start_matches(&prefix).split('-').next().and_then(|number| number.parse::<u64>().ok());
            found.uncommitted |= epoch.is_some_and(|epoch| epoch > row.epoch);
        }
        let Some(object) = &row.object else { continue };
        for output in block_on(history::read(stores.blobs.as_ref() as &dyn Blobs, object))??.header.pending {
            staged.remove(&data.join(&output.staged));
            found.unpublished |= !data.join(&output.path).exists();
        }
    }
    found.uncommitted |= !staged.is_empty();
    Ok(found)
}

/// All files below a folder that need not be there.
pub(super) fn files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    if !folder.is_dir() {
        return Ok(found);
    }
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files(&path)?);
        } else {
            found.push(path);
        }
    }
    Ok(found)
}
