//! Copies of a bucket's tables on this disk, so that the reading verbs read them as they read a data directory.
//!
//! A copy is brought up to date before each reading: what is new or other comes, what is gone goes. Owns: the copies and the list
//! of what they are. Does not own: reading them (read), the objects (sluicebox_aws::s3).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use futures_util::{StreamExt, TryStreamExt, stream};
use sluicebox_actors::model::fault::{Fault, Kind, Result};
use sluicebox_aws::s3::store::{Listed, S3Store};

use crate::store::disk::{self, blocking};

/// Objects on their way at once; each is in memory.
const AT_ONCE: usize = 8;
const LIST: &str = ".mirror.json";
/// Longest object that is copied: Silver and Bronze files close at half of this.
const OBJECT_MAX: u64 = 1 << 30;

/// How far a copy has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Brought {
    /// Objects to bring.
    pub objects: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Objects that are here now.
    pub done: u64,
}

/// Brings these folders up to date in `into`; `tell` hears of every object.
pub async fn bring(tables: &S3Store, folders: &[&str], into: &Path, mut tell: impl FnMut(Brought)) -> Result<Brought> {
    let list = into.join(LIST);
    let mut known: BTreeMap<String, String> = match disk::read(&list)? {
        Some(text) => serde_json::from_slice(&text).unwrap_or_default(),
        None => BTreeMap::new(),
    };
    let mut wanted = Vec::new();
    for folder in folders {
        let prefix = format!("{folder}/");
        let listed = tables.listed(&prefix).await?;
        let keys: std::collections::BTreeSet<&str> = listed.iter().map(|object| object.key.as_str()).collect();
        let gone: Vec<String> =
            known.keys().filter(|key| key.starts_with(&prefix) && !keys.contains(key.as_str())).cloned().collect();
        for key in gone {
            disk::remove(&place(into, &key)?)?;
            known.remove(&key);
        }
        for object in listed {
            if known.get(&object.key) != Some(&object.etag) || !disk::exists(&place(into, &object.key)?)? {
                wanted.push(object);
            }
        }
    }
    let bytes = wanted.iter().map(|object| object.len).sum();
    let mut brought = Brought { objects: wanted.len() as u64, bytes, done: 0 };
    let mut copies = stream::iter(wanted.into_iter().map(|object| copy(tables, into, object))).buffer_unordered(AT_ONCE);
    while let Some(object) = copies.try_next().await? {
        known.insert(object.key, object.etag);
        brought.done += 1;
        tell(brought);
    }
    drop(copies);
    std::fs::create_dir_all(into).map_err(|error| disk::io_fault("making the copy's folder", into, &error))?;
    let text = serde_json::to_vec(&known).map_err(|error| Fault::caused(Kind::Bug, LIST, &error))?;
    std::fs::write(&list, text).map_err(|error| disk::io_fault("writing", &list, &error))?;
    Ok(brought)
}

async fn copy(tables: &S3Store, into: &Path, object: Listed) -> Result<Listed> {
    let path = place(into, &object.key)?;
    let data = tables.get(&object.key, OBJECT_MAX).await?;
    blocking(move || {
        let folder = disk::parent(&path)?;
        std::fs::create_dir_all(folder).map_err(|error| disk::io_fault("making a folder", folder, &error))?;
        let aside = path.with_extension("part");
        std::fs::write(&aside, data).map_err(|error| disk::io_fault("copying", &aside, &error))?;
        std::fs::rename(&aside, &path).map_err(|error| disk::io_fault("copying", &path, &error))
    })
    .await?;
    Ok(object)
}

/// Only ever below the copy's folder, whatever somebody has put into the bucket.
fn place(into: &Path, key: &str) -> Result<PathBuf> {
    disk::check_key(key, Kind::Corrupt)?;
    Ok(into.join(key))
}
