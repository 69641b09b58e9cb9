//! Files that are written but not visible yet: names, hash while writing, durability when closed.
//!
//! Owns: `state/staged/`, the names of staged and final files, the hashing writer. Does not own: what is in a file (data_files,
//! letters), when it becomes visible (outputs).

use std::collections::HashSet;
use std::error::Error;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest, Sha256};
use sluicebox_actors::model::epoch::{Hash, Held, OutputClass, PendingOutput};
use sluicebox_actors::model::fault::{Fault, Kind, Result};
use sluicebox_actors::model::position::ShardId;

use super::disk::{self, Disk};
use super::paths;

/// Where staged files lie, one folder a shard, relative to the data directory.
pub(crate) const STAGED: &str = "state/staged";

const BUFFER: usize = 64 << 10;

/// Staged files that this process wrote whole and hashed itself: their bytes need no second reading at publication.
#[derive(Clone, Default)]
pub(crate) struct Written(Arc<Mutex<HashSet<String>>>);

impl Written {
    pub(crate) fn insert(&self, staged: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(staged.to_owned());
    }

    pub(crate) fn contains(&self, staged: &str) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(staged)
    }

    pub(crate) fn remove(&self, staged: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(staged);
    }
}

/// Folder of a table's visible files.
pub(crate) fn folder(class: OutputClass) -> &'static str {
    match class {
        OutputClass::Bronze => "bronze",
        OutputClass::Silver => "silver",
        OutputClass::Dlq => "dlq",
    }
}

/// One try at one epoch of one shard: gives names that no other try uses, and makes the files.
pub(crate) struct Staging {
    disk: Arc<Disk>,
    written: Written,
    shard: String,
    lease_epoch: u64,
    epoch: u64,
    random: String,
    next: u32,
}

/// A file under way.
pub(crate) struct Ticket {
    class: OutputClass,
    staged: String,
    path: String,
}

impl Staging {
    pub(crate) fn new(disk: &Arc<Disk>, written: &Written, shard: &ShardId, lease_epoch: u64, epoch: u64) -> Result<Self> {
        let (shard, random) = (paths::name(shard.as_str())?, disk.random_name());
        Ok(Self { disk: disk.clone(), written: written.clone(), shard, lease_epoch, epoch, random, next: 0 })
    }

    /// Begins a file that will be seen in this folder of its table.
    pub(crate) fn create(&mut self, class: OutputClass, within: &str, extension: &str) -> Result<(Ticket, StagedFile)> {
        let Self { shard, lease_epoch, epoch, random, next, .. } = self;
        let path = format!("{}/{within}/{shard}-{epoch:010}-{lease_epoch}-{random}-{next}.{extension}", folder(class));
        self.create_at(class, path, extension)
    }

    /// Begins a file that will be seen under this name.
    pub(crate) fn create_at(&mut self, class: OutputClass, path: String, extension: &str) -> Result<(Ticket, StagedFile)> {
        let Self { shard, lease_epoch, epoch, random, next, .. } = self;
        let staged = format!("{STAGED}/{shard}/{epoch}-{lease_epoch}-{random}-{next}.{extension}");
        *next += 1;
        let place = self.disk.path(&staged, Kind::Bug)?;
        self.disk.ensure_dir(disk::parent(&place)?)?;
        Ok((Ticket { class, staged, path }, StagedFile::create(&place)?))
    }

    /// Makes a file durable and says where it lies.
    pub(crate) fn close(&self, ticket: Ticket, file: StagedFile, rows: u64, because: &str) -> Result<PendingOutput> {
        let (len, sha256) = file.close()?;
        self.written.insert(&ticket.staged);
        Ok(PendingOutput {
            class: ticket.class,
            staged: ticket.staged,
            path: ticket.path,
            len,
            sha256,
            rows,
            epoch: self.epoch,
            closed_because: because.to_owned(),
            held: Held::File,
        })
    }

    /// Makes the names of all closed files durable.
    pub(crate) fn sync(&self) -> Result<()> {
        disk::sync_dir(&self.disk.root().join(STAGED).join(&self.shard))
    }
}

/// Lease and epoch out of a staged file's name; none if it is no such name.
pub(crate) fn lease_and_epoch(name: &str) -> Option<(u64, u64)> {
    let mut parts = name.split('-');
    let (epoch, lease) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    Some((lease, epoch))
}

/// Lease and epoch out of the name under which a file of this shard is or will be seen; none if it is no file of this shard.
pub(crate) fn visible_lease_and_epoch(name: &str, shard: &str) -> Option<(u64, u64)> {
    let parts: Vec<&str> = name.strip_prefix(shard)?.strip_prefix('-')?.split('-').collect();
    let [epoch, lease, _, _] = parts.as_slice() else { return None };
    Some((lease.parse().ok()?, epoch.parse().ok()?))
}

/// A new file that hashes what goes through it. Unlike a `BufWriter` it writes nothing when it is dropped.
#[derive(Debug)]
pub(crate) struct StagedFile {
    file: File,
    path: PathBuf,
    buffer: Vec<u8>,
    sha: Sha256,
    len: u64,
}

impl StagedFile {
    fn create(path: &Path) -> Result<Self> {
        let file = OpenOptions::new().write(true).create_new(true).open(path);
        let file = file.map_err(|error| disk::io_fault("creating", path, &error))?;
        Ok(Self { file, path: path.to_owned(), buffer: Vec::with_capacity(BUFFER), sha: Sha256::new(), len: 0 })
    }

    fn pass(&mut self, data: &[u8]) -> io::Result<()> {
        self.file.write_all(data)?;
        self.sha.update(data);
        self.len += data.len() as u64;
        Ok(())
    }

    fn drain(&mut self) -> io::Result<()> {
        let mut buffer = std::mem::take(&mut self.buffer);
        self.pass(&buffer)?;
        buffer.clear();
        self.buffer = buffer;
        Ok(())
    }

    /// Bytes taken in so far.
    pub(crate) fn taken(&self) -> u64 {
        self.len + self.buffer.len() as u64
    }

    /// Bytes that are in memory only.
    pub(crate) fn buffered(&self) -> usize {
        self.buffer.len()
    }

    fn close(mut self) -> Result<(u64, Hash)> {
        self.drain().map_err(|error| disk::io_fault("writing", &self.path, &error))?;
        self.file.sync_all().map_err(|error| disk::sync_fault(&self.path, &error))?;
        Ok((self.len, Hash::from_digest(&self.sha.finalize())))
    }
}

impl Write for StagedFile {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        if self.buffer.len() + data.len() > BUFFER {
            self.drain()?;
        }
        if data.len() >= BUFFER {
            self.pass(data)?;
        } else {
            self.buffer.extend_from_slice(data);
        }
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.drain()
    }
}

/// What a failed write of a table's file asks for: the disk's own remedy if the disk is behind it, else it is our fault.
pub(crate) fn write_fault(doing: &str, error: &(dyn Error + 'static)) -> Fault {
    disk::fault_behind(doing, STAGED, error)
}

/// Turns a call that failed into a closed door: a file that lost a write is not the file the caller thinks it is, so nothing more
/// goes into it and it is never finished. The caller ends the generation and the next one does the epoch again.
#[derive(Default)]
pub(crate) struct Door {
    shut: bool,
}

impl Door {
    pub(crate) fn pass(&self) -> Result<()> {
        match self.shut {
            true => Err(Fault::bug("these files lost a write before: the epoch must be done again in new ones")),
            false => Ok(()),
        }
    }

    pub(crate) fn shut_on_error<T>(&mut self, result: Result<T>) -> Result<T> {
        self.shut |= result.is_err();
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_that_of_the_bytes_however_they_came() {
        let dir = tempfile::tempdir().expect("a directory");
        let data: Vec<u8> = (0..300_000u32).map(|i| (i % 251) as u8).collect();
        for step in [1usize, 7, 1000, BUFFER - 1, BUFFER, BUFFER + 1, 300_000] {
            let path = dir.path().join(step.to_string());
            let mut file = StagedFile::create(&path).expect("creates");
            for chunk in data.chunks(step) {
                file.write_all(chunk).expect("writes");
            }
            assert_eq!(file.taken(), 300_000);
            let (len, hash) = file.close().expect("closes");
            assert_eq!((len, hash), (300_000, Hash::of(&data)));
            assert_eq!(std::fs::read(&path).expect("reads"), data);
        }
    }

    #[test]
    fn a_dropped_file_writes_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("x");
        let mut file = StagedFile::create(&path).expect("creates");
        file.write_all(b"some").expect("writes");
        drop(file);
        assert_eq!(std::fs::read(&path).expect("reads"), b"");
    }

    #[test]
    fn a_full_disk_is_seen_through_the_errors_of_a_format() {
        let full = io::Error::from(io::ErrorKind::StorageFull);
        let fault = write_fault("writing", &parquet::errors::ParquetError::External(Box::new(full)));
        assert_eq!(fault.kind(), Kind::Retry);
        let own = write_fault("writing", &parquet::errors::ParquetError::General("schema".into()));
        assert_eq!(own.kind(), Kind::Bug);
    }

    #[test]
    fn the_name_of_a_staged_file_tells_lease_and_epoch() {
        assert_eq!(lease_and_epoch("12-3-00ff-0.parquet"), Some((3, 12)));
        for other in ["", "x", "12", "12-x-0", "-1-2"] {
            assert_eq!(lease_and_epoch(other), None, "{other}");
        }
    }

    #[test]
    fn after_a_lost_write_nothing_passes() {
        let mut door = Door::default();
        door.shut_on_error(Ok(())).expect("fine");
        door.pass().expect("open");
        door.shut_on_error::<()>(Err(Fault::retry("disk full"))).expect_err("told");
        assert_eq!(door.pass().expect_err("shut").kind(), Kind::Bug);
    }
}
