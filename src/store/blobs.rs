//! Immutable objects as files: epoch objects and their like under `state/blobs/`, tables of immutable files under the root.
//!
//! Owns: create-only writes, reads, lists and deletes by key. Does not own: what an object holds, when it may go (machines).

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use sluicebox_actors::model::fault::{Fault, Kind, Result};
use sluicebox_actors::ports::Blobs;

use super::disk::{self, Created, Disk, blocking};
use super::home::Home;

const ROOT: &str = "state/blobs";

/// The objects of one data directory. Cheap to clone.
#[derive(Clone)]
pub struct DiskBlobs {
    disk: Arc<Disk>,
    root: &'static str,
}

impl DiskBlobs {
    /// The objects of this directory's state.
    pub fn new(home: &Home) -> Self {
        Self { disk: home.disk().clone(), root: ROOT }
    }

    /// Files that readers see, and that are never changed.
    pub fn of_tables(home: &Home) -> Self {
        Self { disk: home.disk().clone(), root: "" }
    }

    fn path(&self, key: &str) -> Result<std::path::PathBuf> {
        disk::check_key(key, Kind::Bug)?;
        Ok(self.disk.root().join(self.root).join(key))
    }
}

#[async_trait]
impl Blobs for DiskBlobs {
    async fn put(&self, key: &str, data: Bytes) -> Result<()> {
        let (path, key, disk) = (self.path(key)?, key.to_owned(), self.disk.clone());
        blocking(move || {
            if disk.create(&path, &data)? == Created::New {
                return Ok(());
            }
            match disk::read(&path)? {
                Some(stored) if stored == data => Ok(()),
                Some(_) => Err(Fault::corrupt(format!("the object {key} exists with other bytes"))),
                None => Err(Fault::retry(format!("the object {key} vanished while it was written"))),
            }
        })
        .await
    }

    async fn get(&self, key: &str) -> Result<Bytes> {
        let (path, key, root) = (self.path(key)?, key.to_owned(), self.root);
        blocking(move || match disk::read(&path)? {
            Some(data) => Ok(data.into()),
            None => Err(Fault::corrupt(format!("the object {key} is missing from {root}: restore it"))),
        })
        .await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<String>> {
        // The last segment of a prefix may be cut anywhere; those before it are folders.
        let (folder, _) = prefix.rsplit_once('/').unwrap_or_default();
        if !folder.is_empty() {
            disk::check_key(folder, Kind::Bug)?;
        }
        let (root, folder, prefix) = (self.disk.root().join(self.root), folder.to_owned(), prefix.to_owned());
        blocking(move || {
            let mut keys = Vec::new();
            let mut folders = vec![folder];
            while let Some(folder) = folders.pop() {
                walk(&root, &folder, &prefix, &mut keys, &mut folders)?;
            }
            keys.sort_unstable();
            Ok(keys)
        })
        .await
    }

    async fn delete(&self, key: &str) -> Result<()> {
        let path = self.path(key)?;
        blocking(move || disk::remove(&path).map(|_| ())).await
    }
}

/// Adds the keys of one folder that start with the prefix; folders that may hold more are put back.
fn walk(root: &Path, folder: &str, prefix: &str, keys: &mut Vec<String>, folders: &mut Vec<String>) -> Result<()> {
    for (name, kind) in disk::entries(&root.join(folder))? {
        let key = if folder.is_empty() { name } else { format!("{folder}/{name}") };
        if kind.is_dir() && (key.starts_with(prefix) || prefix.starts_with(&key)) {
            folders.push(key);
        } else if kind.is_file() && key.starts_with(prefix) {
            keys.push(key);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;

    fn blobs() -> (tempfile::TempDir, DiskBlobs) {
        let dir = tempfile::tempdir().expect("a directory");
        let home = Home::open_or_create(dir.path(), "p", SystemClock::shared()).expect("makes");
        (dir, DiskBlobs::new(&home))
    }

    #[tokio::test]
    async fn what_was_put_is_got_and_the_same_bytes_may_be_put_again() {
        let (_dir, blobs) = blobs();
        for _ in 0..2 {
            blobs.put("epochs/a/1-1-ff", Bytes::from_static(b"one")).await.expect("puts");
        }
        assert_eq!(blobs.get("epochs/a/1-1-ff").await.expect("gets"), "one");
    }

    #[tokio::test]
    async fn other_bytes_under_a_used_key_are_refused_and_the_first_stay() {
        let (_dir, blobs) = blobs();
        blobs.put("k", Bytes::from_static(b"one")).await.expect("puts");
        let fault = blobs.put("k", Bytes::from_static(b"two")).await.expect_err("refused");
        assert_eq!(fault.kind(), Kind::Corrupt);
        assert_eq!(blobs.get("k").await.expect("gets"), "one");
    }

    #[tokio::test]
    async fn a_missing_object_is_corruption_when_read_and_nothing_when_deleted() {
        let (_dir, blobs) = blobs();
        assert_eq!(blobs.get("a/b").await.expect_err("missing").kind(), Kind::Corrupt);
        blobs.delete("a/b").await.expect("fine");
        blobs.put("a/b", Bytes::from_static(b"x")).await.expect("puts");
        blobs.delete("a/b").await.expect("deletes");
        assert_eq!(blobs.get("a/b").await.expect_err("gone").kind(), Kind::Corrupt);
    }

    #[tokio::test]
    async fn keys_come_in_order_by_any_prefix_even_inside_a_name() {
        let (_dir, blobs) = blobs();
        let keys = ["bases/t/0", "epochs/a/1", "epochs/a/10", "epochs/a/2", "epochs/ab/1", "epochs/b/1", "top"];
        for key in keys.iter().rev() {
            blobs.put(key, Bytes::from_static(b"x")).await.expect("puts");
        }
        assert_eq!(blobs.list("").await.expect("lists"), keys);
        for prefix in ["epochs/", "epochs/a/", "epochs/a", "epochs/a/1", "e", "epochs", "none/at/all", "t"] {
            let expected: Vec<_> = keys.iter().filter(|key| key.starts_with(prefix)).copied().collect();
            assert_eq!(blobs.list(prefix).await.expect("lists"), expected, "{prefix}");
        }
    }

    #[tokio::test]
    async fn a_key_that_would_leave_the_directory_is_refused_by_every_call() {
        let (_dir, blobs) = blobs();
        for key in ["../rows.db", "a/../../b", "/etc/passwd", "a//b", ""] {
            assert_eq!(blobs.put(key, Bytes::new()).await.expect_err(key).kind(), Kind::Bug);
            assert_eq!(blobs.get(key).await.expect_err(key).kind(), Kind::Bug);
            assert_eq!(blobs.delete(key).await.expect_err(key).kind(), Kind::Bug);
        }
        assert_eq!(blobs.list("../").await.expect_err("refused").kind(), Kind::Bug);
    }

    #[tokio::test]
    async fn objects_survive_reopening() {
        let (dir, blobs) = blobs();
        blobs.put("k", Bytes::from_static(b"one")).await.expect("puts");
        drop(blobs);
        let home = Home::open(dir.path(), SystemClock::shared()).expect("opens");
        assert_eq!(DiskBlobs::new(&home).get("k").await.expect("gets"), "one");
    }
}
