//! Staged files and the one step that makes them visible: a rename.
//!
//! Owns: publication, its idempotence and its refusal of damage; the deletion of staged files that nobody names. Does not own: how
//! the files are written (data_files, letters), who may publish (the commit machine, through its permit).

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use sluicebox_actors::model::epoch::PendingOutput;
use sluicebox_actors::model::fault::{Fault, Kind, Result};
use sluicebox_actors::model::position::ShardId;
use sluicebox_actors::ports::{CommitPermit, DataFiles, LetterFile, Outputs};

use super::data_files::DiskDataFiles;
use super::disk::{self, Disk, blocking};
use super::home::Home;
use super::letters::DiskLetterFile;
use super::paths;
use super::row_file::Format;
use super::staged::{self, STAGED, Staging, Written};

/// How a pipeline's files are written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OutputOptions {
    /// Format of Bronze.
    pub bronze: Format,
    /// Format of Silver.
    pub silver: Format,
    /// Columns of Silver whose values become folders below the hour.
    pub partition_by: Vec<String>,
    /// Files that one shard's epoch may have open at once; the one unused for longest closes early.
    pub open_files: usize,
    /// A file that has reached this size closes early.
    pub file_bytes: u64,
    /// Most that one row group holds, encoded.
    pub row_group_bytes: usize,
    /// Most that the open files of one shard's epoch hold in memory before row groups are written out.
    pub buffer_bytes: usize,
}

impl Default for OutputOptions {
    fn default() -> Self {
        Self {
            bronze: Format::Parquet,
            silver: Format::Parquet,
            partition_by: Vec::new(),
            open_files: 32,
            file_bytes: 512 << 20,
            row_group_bytes: 64 << 20,
            buffer_bytes: 128 << 20,
        }
    }
}

/// The staged and visible files of one data directory. Cheap to clone.
#[derive(Clone)]
pub struct DiskOutputs {
    disk: Arc<Disk>,
    options: Arc<OutputOptions>,
    written: Written,
}

impl DiskOutputs {
    /// The files of this directory, written so.
    pub fn new(home: &Home, options: OutputOptions) -> Self {
        Self { disk: home.disk().clone(), options: Arc::new(options), written: Written::default() }
    }

    fn staging(&self, shard: &ShardId, lease_epoch: u64, epoch: u64) -> Result<Staging> {
        Staging::new(&self.disk, &self.written, shard, lease_epoch, epoch)
    }

    fn publish_now(&self, committed: u64, output: &PendingOutput) -> Result<()> {
        if output.epoch > committed {
            return Err(Fault::bug(format!("a file of epoch {} before its commit", output.epoch)));
        }
        let (staged, path) = self.places(output)?;
        if disk::exists(&path)? {
            self.check_visible(&path, output)?;
            disk::remove(&staged)?;
        } else {
            self.check_staged(&staged, output)?;
            disk::parent(&path).and_then(|parent| self.disk.ensure_dir(parent))?;
            std::fs::rename(&staged, &path).map_err(|error| disk::io_fault("publishing", &path, &error))?;
        }
        // Also where it was visible already: the try that moved it may have died before its sync.
        disk::sync_dir(disk::parent(&path)?)?;
        self.written.remove(&output.staged);
        Ok(())
    }

    /// Both places, only where staged files and this table's files may lie.
    fn places(&self, output: &PendingOutput) -> Result<(std::path::PathBuf, std::path::PathBuf)> {
        let within = |key: &str, folder: &str| key.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'));
        if !within(&output.staged, STAGED) || !within(&output.path, staged::folder(output.class)) {
            let message = format!("a pending output leads from {} to {}: not where files of its table lie", output.staged, output.path);
            return Err(Fault::corrupt(message));
        }
        Ok((self.disk.path(&output.staged, Kind::Corrupt)?, self.disk.path(&output.path, Kind::Corrupt)?))
    }

    fn check_visible(&self, path: &Path, output: &PendingOutput) -> Result<()> {
        match disk::hash_file(path)? {
            Some((len, sha256)) if len == output.len && sha256 == output.sha256 => Ok(()),
            Some(_) => Err(Fault::corrupt(format!(
                "{} is visible with other bytes than were committed: restore it (or move it away, if the staged file is left)",
                output.path
            ))),
            None => Err(Fault::retry(format!("{} vanished while it was checked", output.path))),
        }
    }

    fn check_staged(&self, staged: &Path, output: &PendingOutput) -> Result<()> {
        let found = match std::fs::metadata(staged) {
            Ok(found) => found,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(Fault::corrupt(format!(
                    "output_lost: {} was committed but is neither staged nor visible: restore it from a backup",
                    output.path
                )));
            }
            Err(error) => return Err(disk::io_fault("looking for", staged, &error)),
        };
        // What this process wrote and hashed itself is not read again; after a restart everything is.
        let intact = found.len() == output.len
            && (self.written.contains(&output.staged) || disk::hash_file(staged)? == Some((output.len, output.sha256.clone())));
        match intact {
            true => Ok(()),
            false => Err(Fault::corrupt(format!(
                "output_lost: the staged file of {} has other bytes than were committed: restore it from a backup",
                output.path
            ))),
        }
    }

    /// Deletes what earlier leases, or this lease's epochs up to the committed one, left and nobody names. Files that this lease is
    /// writing now are out of reach, even for a call that comes late.
    fn discard_now(&self, (lease, epoch): (u64, u64), shard: &ShardId, keep: &[PendingOutput]) -> Result<u64> {
        let folder = format!("{STAGED}/{}", paths::name(shard.as_str())?);
        let mut deleted = 0;
        for (name, kind) in disk::entries(&self.disk.path(&folder, Kind::Bug)?)? {
            let staged = format!("{folder}/{name}");
            let is_live = staged::lease_and_epoch(&name).is_some_and(|of| of > (lease, epoch));
            if !kind.is_file() || is_live || keep.iter().any(|output| output.staged == staged) {
                continue;
            }
            deleted += u64::from(disk::remove(&self.disk.path(&staged, Kind::Bug)?)?);
            self.written.remove(&staged);
        }
        Ok(deleted)
    }
}

#[async_trait]
impl Outputs for DiskOutputs {
    fn data_files(&self, shard: &ShardId, lease_epoch: u64, epoch: u64) -> Result<Box<dyn DataFiles>> {
        Ok(Box::new(DiskDataFiles::new(self.staging(shard, lease_epoch, epoch)?, self.options.clone())))
    }

    fn letter_file(&self, shard: &ShardId, lease_epoch: u64, epoch: u64) -> Result<Box<dyn LetterFile>> {
        Ok(Box::new(DiskLetterFile::new(self.staging(shard, lease_epoch, epoch)?, self.options.open_files)))
    }

    async fn publish(&self, permit: CommitPermit, output: &PendingOutput) -> Result<()> {
        let (this, output, (_, committed)) = (self.clone(), output.clone(), permit.stands_for());
        blocking(move || this.publish_now(committed, &output)).await
    }

    async fn discard_staged(&self, permit: CommitPermit, shard: &ShardId, keep: &[PendingOutput]) -> Result<u64> {
        let (this, shard, keep) = (self.clone(), shard.clone(), keep.to_vec());
        blocking(move || this.discard_now(permit.stands_for(), &shard, &keep)).await
    }
}
