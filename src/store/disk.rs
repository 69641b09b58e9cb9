//! How bytes become durable on a local disk, and how a disk's errors become faults.
//!
//! Owns: keys inside one directory, atomic replacement, create-only files, durable directories, the meaning of I/O errors.
//! Does not own: what any file holds (its neighbours in this folder).

use std::collections::HashSet;
use std::error::Error;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest, Sha256};
use sluicebox_actors::model::epoch::Hash;
use sluicebox_actors::model::fault::{Fault, Kind, Result};
use sluicebox_actors::ports::Clock;

/// Where unfinished files of atomic writes lie, relative to the data directory. Swept when a run takes the lock.
pub(crate) const TEMPORARY: &str = "state/tmp";

/// Longest file name that every common file system takes, in bytes.
const SEGMENT_MAX: usize = 255;

/// Directories remembered as durable; beyond that they are looked at again.
const SETTLED_MAX: usize = 4096;

/// One directory tree that is written durably.
pub(crate) struct Disk {
    root: PathBuf,
    clock: Arc<dyn Clock>,
    // Directories whose entry in their parent this process has made durable.
    settled: Mutex<HashSet<PathBuf>>,
}

/// What a create-only write found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Created {
    /// The file is new.
    New,
    /// It was there already; it was not touched.
    Existing,
}

impl Disk {
    pub(crate) fn new(root: PathBuf, clock: Arc<dyn Clock>) -> Self {
        Self { root, clock, settled: Mutex::new(HashSet::new()) }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// 16 hexadecimal digits that were never used before.
    pub(crate) fn random_name(&self) -> String {
        format!("{:016x}", self.clock.random())
    }

    /// The place of a key (`a/b/c`, relative, `/` between segments). `kind` is the fault of a key that would leave the directory.
    pub(crate) fn path(&self, key: &str, kind: Kind) -> Result<PathBuf> {
        check_key(key, kind)?;
        Ok(self.root.join(key))
    }

    /// Makes a directory and its missing parents, each durable in its parent.
    pub(crate) fn ensure_dir(&self, dir: &Path) -> Result<()> {
        let known = |dir: &Path| self.settled.lock().unwrap_or_else(PoisonError::into_inner).contains(dir);
        // The stat guards against somebody's clean-up of empty folders.
        if known(dir) && dir.is_dir() {
            return Ok(());
        }
        let below = dir.strip_prefix(&self.root).map_err(|_| Fault::bug("a directory outside of the data directory"))?;
        let mut here = self.root.clone();
        for segment in below.components() {
            let parent = here.clone();
            here.push(segment);
            let made = match DirBuilder::new().create(&here) {
                Ok(()) => true,
                Err(error) if error.kind() == ErrorKind::AlreadyExists => false,
                Err(error) => return Err(io_fault("making the directory", &here, &error)),
            };
            if made || !known(&here) {
                sync_dir(&parent)?;
                let mut settled = self.settled.lock().unwrap_or_else(PoisonError::into_inner);
                if settled.len() >= SETTLED_MAX {
                    settled.clear();
                }
                settled.insert(here.clone());
            }
        }
        Ok(())
    }

    /// Puts a file in place whole and durably, replacing what was there.
    pub(crate) fn replace(&self, target: &Path, data: &[u8]) -> Result<()> {
        let parent = parent(target)?;
        self.ensure_dir(parent)?;
        let temporary = self.write_temporary(data)?;
        self.moved(&temporary, target)?;
        sync_dir(parent)
    }

    /// Puts a file in place whole and durably unless there is one.
    pub(crate) fn create(&self, target: &Path, data: &[u8]) -> Result<Created> {
        let parent = parent(target)?;
        self.ensure_dir(parent)?;
        // Cheap look first; the link below decides.
        let created = if exists(target)? {
            Created::Existing
        } else {
            let temporary = self.write_temporary(data)?;
            match std::fs::hard_link(&temporary, target) {
                Ok(()) => {
                    remove(&temporary)?;
                    Created::New
                }
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                    remove(&temporary)?;
                    Created::Existing
                }
                // Some mounts know no links: names of immutable files are unique, so a rename after the look is as good.
                Err(error) if matches!(error.kind(), ErrorKind::Unsupported | ErrorKind::PermissionDenied) => {
                    self.moved(&temporary, target)?;
                    Created::New
                }
                Err(error) => {
                    remove(&temporary)?;
                    return Err(io_fault("putting in place", target, &error));
                }
            }
        };
        // An earlier try may have died between the entry and its sync.
        sync_dir(parent)?;
        Ok(created)
    }

    fn write_temporary(&self, data: &[u8]) -> Result<PathBuf> {
        let dir = self.root.join(TEMPORARY);
        self.ensure_dir(&dir)?;
        let temporary = dir.join(self.random_name());
        let written = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&temporary)
            .and_then(|mut file| file.write_all(data).map(|()| file))
            .map_err(|error| io_fault("writing", &temporary, &error))
            .and_then(|file| file.sync_all().map_err(|error| sync_fault(&temporary, &error)));
        match written {
            Ok(()) => Ok(temporary),
            Err(fault) => {
                // The first fault is the one to report; a file left here is swept at the next start.
                remove(&temporary).unwrap_or_default();
                Err(fault)
            }
        }
    }

    /// An empty file without a name: it needs no sweep, because it is gone when it is closed, by whomever.
    pub(crate) fn nameless(&self) -> Result<File> {
        let dir = self.root.join(TEMPORARY);
        self.ensure_dir(&dir)?;
        let path = dir.join(self.random_name());
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path);
        let file = file.map_err(|error| io_fault("writing", &path, &error))?;
        remove(&path)?;
        Ok(file)
    }

    fn moved(&self, temporary: &Path, target: &Path) -> Result<()> {
        std::fs::rename(temporary, target).map_err(|error| {
            remove(temporary).unwrap_or_default();
            io_fault("putting in place", target, &error)
        })
    }

    /// Deletes unfinished files of a process that died. Only for the one that holds the run lock.
    pub(crate) fn sweep(&self) -> Result<()> {
        for (name, kind) in entries(&self.root.join(TEMPORARY))? {
            if kind.is_file() {
                remove(&self.root.join(TEMPORARY).join(name))?;
            }
        }
        Ok(())
    }
}

/// Runs work that waits for a disk where waiting harms nobody.
pub(crate) async fn blocking<T, F>(work: F) -> Result<T>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T> + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) if error.is_panic() => Err(Fault::bug("a disk operation panicked")),
        Err(_) => Err(Fault::retry("a disk operation was cancelled: the runtime is shutting down")),
    }
}

/// A key is relative, `/`-separated, and no segment is empty, `.`, `..`, over 255 bytes or holds a control character or `\`.
pub(crate) fn check_key(key: &str, kind: Kind) -> Result<()> {
    let refused = |segment: &str| {
        matches!(segment, "" | "." | "..") || segment.len() > SEGMENT_MAX || segment.chars().any(|c| c.is_control() || c == '\\')
    };
    match key.split('/').any(refused) {
        true => Err(Fault::new(kind, format!("refused the key `{}`: it would leave its directory", key.escape_debug()))),
        false => Ok(()),
    }
}

/// What an I/O error asks for. Not for a failed sync: see [`sync_fault`].
pub(crate) fn io_fault(doing: &str, path: &Path, error: &io::Error) -> Fault {
    let path = path.display();
    let kind = error.kind();
    if matches!(kind, ErrorKind::StorageFull | ErrorKind::QuotaExceeded) {
        return Fault::caused(Kind::Retry, format!("disk full while {doing} {path}: free space; nothing is lost"), error);
    }
    if matches!(kind, ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem) {
        return Fault::caused(Kind::Config, format!("not allowed while {doing} {path}: check its owner and mount"), error);
    }
    if kind == ErrorKind::CrossesDevices {
        let remedy = "the data directory must lie on one file system: files become visible by a rename";
        return Fault::caused(Kind::Config, format!("{doing} {path}: {remedy}"), error);
    }
    Fault::caused(Kind::Retry, format!("{doing} {path}"), error)
}

/// What an error of a format asks for: the disk's own remedy if the disk is behind it, else it is our fault.
pub(crate) fn fault_behind(doing: &str, folder: &str, error: &(dyn Error + 'static)) -> Fault {
    let mut next = Some(error);
    while let Some(link) = next {
        if let Some(io) = link.downcast_ref::<io::Error>() {
            return io_fault(doing, Path::new(folder), io);
        }
        next = link.source();
    }
    Fault::caused(Kind::Bug, doing, error)
}

/// A failed sync: the kernel may have dropped the pages, so a second sync that succeeds proves nothing. What was written
/// since the last commit must be written again.
pub(crate) fn sync_fault(path: &Path, error: &io::Error) -> Fault {
    let message = format!(
        "could not make {} durable; it is not tried again on the same file: the work since the last commit is redone",
        path.display()
    );
    Fault::caused(Kind::Bug, message, error)
}

/// Makes the entries of a directory durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<()> {
    let handle = File::open(dir).map_err(|error| io_fault("opening the directory", dir, &error))?;
    handle.sync_all().map_err(|error| sync_fault(dir, &error))
}

/// The directory of a file.
pub(crate) fn parent(path: &Path) -> Result<&Path> {
    path.parent().ok_or_else(|| Fault::bug("a file without a directory"))
}

/// Is there something?
pub(crate) fn exists(path: &Path) -> Result<bool> {
    path.try_exists().map_err(|error| io_fault("looking for", path, &error))
}

/// Adds to a file's end; makes it if it is not there.
pub(crate) fn append(path: &Path, data: &[u8]) -> Result<()> {
    let file = std::fs::OpenOptions::new().append(true).create(true).open(path);
    let written = file.and_then(|mut file| io::Write::write_all(&mut file, data));
    written.map_err(|error| io_fault("writing", path, &error))
}

/// Reads whole; none if there is no such file.
pub(crate) fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    match std::fs::read(path) {
        Ok(data) => Ok(Some(data)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io_fault("reading", path, &error)),
    }
}

/// Deletes; was there a file?
pub(crate) fn remove(path: &Path) -> Result<bool> {
    match std::fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(io_fault("deleting", path, &error)),
    }
}

/// Names and types in a directory, by name; nothing if there is no such directory. A name that is not UTF-8 is not ours.
pub(crate) fn entries(dir: &Path) -> Result<Vec<(String, std::fs::FileType)>> {
    let listed = match std::fs::read_dir(dir) {
        Ok(listed) => listed,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(io_fault("listing", dir, &error)),
    };
    let mut out = Vec::new();
    for entry in listed {
        let entry = entry.map_err(|error| io_fault("listing", dir, &error))?;
        let kind = match entry.file_type() {
            Ok(kind) => kind,
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(io_fault("listing", dir, &error)),
        };
        if let Ok(name) = entry.file_name().into_string() {
            out.push((name, kind));
        }
    }
    out.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(out)
}

/// Length and SHA-256 of a file; none if there is no such file.
pub(crate) fn hash_file(path: &Path) -> Result<Option<(u64, Hash)>> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_fault("opening", path, &error)),
    };
    let (mut sha, mut len, mut chunk) = (Sha256::new(), 0u64, vec![0u8; 1 << 16]);
    loop {
        match file.read(&mut chunk) {
            Ok(0) => return Ok(Some((len, Hash::from_digest(&sha.finalize())))),
            Ok(n) => {
                sha.update(chunk.get(..n).unwrap_or_default());
                len += n as u64;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(io_fault("reading", path, &error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;

    fn disk() -> (tempfile::TempDir, Disk) {
        let dir = tempfile::tempdir().expect("a directory");
        let disk = Disk::new(dir.path().to_owned(), SystemClock::shared());
        (dir, disk)
    }

    #[test]
    fn a_key_that_would_leave_its_directory_is_refused() {
        for key in ["", "/etc/passwd", "..", "a/../b", "a//b", "a/", "./a", "a/.", "a\\b", "a\0b", "a\nb", &"x".repeat(256)] {
            let fault = check_key(key, Kind::Bug).expect_err(key);
            assert_eq!(fault.kind(), Kind::Bug, "{key}");
        }
        for key in ["a", "a/b/c", "a..b/.c", "dt=2026-11-23/hour=15/x"] {
            check_key(key, Kind::Bug).expect(key);
        }
    }

    #[test]
    fn a_replaced_file_is_whole_and_leaves_nothing_behind() {
        let (dir, disk) = disk();
        let target = dir.path().join("a/b/c.txt");
        disk.replace(&target, b"one").expect("writes");
        disk.replace(&target, b"two").expect("replaces");
        assert_eq!(read(&target).expect("reads").as_deref(), Some(&b"two"[..]));
        assert!(entries(&dir.path().join(TEMPORARY)).expect("lists").is_empty());
    }

    #[test]
    fn a_created_file_is_never_replaced_and_leaves_nothing_behind() {
        let (dir, disk) = disk();
        let target = dir.path().join("a/c.txt");
        assert_eq!(disk.create(&target, b"one").expect("writes"), Created::New);
        assert_eq!(disk.create(&target, b"two").expect("looks"), Created::Existing);
        assert_eq!(read(&target).expect("reads").as_deref(), Some(&b"one"[..]));
        assert!(entries(&dir.path().join(TEMPORARY)).expect("lists").is_empty());
    }

    #[test]
    fn a_folder_that_somebody_removed_is_made_again() {
        let (dir, disk) = disk();
        let target = dir.path().join("dt=2026-11-23/x");
        disk.replace(&target, b"one").expect("writes");
        std::fs::remove_dir_all(dir.path().join("dt=2026-11-23")).expect("removes");
        disk.replace(&target, b"two").expect("writes again");
        assert_eq!(read(&target).expect("reads").as_deref(), Some(&b"two"[..]));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_worth_waiting_for() {
        let path = Path::new("/dev/full");
        let error = File::options().write(true).open(path).and_then(|mut file| file.write_all(b"x")).expect_err("full");
        let fault = io_fault("writing", path, &error);
        assert_eq!(fault.kind(), Kind::Retry);
        assert!(fault.message().contains("disk full"), "{fault}");
    }

    #[test]
    fn a_failed_sync_ends_the_generation_and_is_never_retried() {
        let fault = sync_fault(Path::new("x"), &io::Error::from(ErrorKind::StorageFull));
        assert_eq!(fault.kind(), Kind::Bug);
    }

    #[test]
    fn the_sweep_takes_unfinished_files_only() {
        let (dir, disk) = disk();
        disk.replace(&dir.path().join("kept"), b"1").expect("writes");
        std::fs::write(dir.path().join(TEMPORARY).join("left"), b"2").expect("writes");
        disk.sweep().expect("sweeps");
        assert!(entries(&dir.path().join(TEMPORARY)).expect("lists").is_empty());
        assert!(exists(&dir.path().join("kept")).expect("looks"));
    }

    #[test]
    fn the_hash_of_a_file_is_the_hash_of_its_bytes() {
        let (dir, _) = disk();
        let data = vec![7u8; 200_000];
        std::fs::write(dir.path().join("x"), &data).expect("writes");
        assert_eq!(hash_file(&dir.path().join("x")).expect("reads"), Some((200_000, Hash::of(&data))));
        assert_eq!(hash_file(&dir.path().join("y")).expect("looks"), None);
    }
}
