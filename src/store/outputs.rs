//! Staged files and the one step that makes them visible: a rename.
//!
//! Owns: publication, its idempotence and its refusal of damage; the deletion of staged files that nobody names. Does not own:
//! how the files are written (data_files, letters), who may publish (the commit machine, through its permit).

use std::collections::HashSet;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use sluicebox_actors::model::epoch::{Held, HeldOutput, OutputClass, PendingOutput};
use sluicebox_actors::model::fault::{Fault, Kind, Result};
use sluicebox_actors::model::position::ShardId;
use sluicebox_actors::ports::{CommitPermit, DataFiles, LetterFile, Outputs, Publication, Rewriting};
use sluicebox_actors::toolkit::crash;

use super::again::{self, Again};
use super::data_files::DiskDataFiles;
use super::disk::{self, Disk, blocking};
use super::home::Home;
use super::letters::DiskLetterFile;
use super::paths;
use super::row_file::Format;
use super::staged::{self, STAGED, Staging, Written};
use crate::read::files;

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

    pub(super) fn publish_now(&self, committed: u64, output: &PendingOutput) -> Result<Publication> {
        if output.epoch > committed {
            return Err(Fault::bug(format!("a file of epoch {} before its commit", output.epoch)));
        }
        let (staged, path) = self.places(output)?;
        let is_staged = if disk::exists(&path)? { None } else { Some(self.check_staged(&staged, output)?) };
        match is_staged {
            Some(Ok(())) => {
                disk::parent(&path).and_then(|parent| self.disk.ensure_dir(parent))?;
                std::fs::rename(&staged, &path).map_err(|error| disk::io_fault("publishing", &path, &error))?;
                crash::pass("publish.after_rename");
            }
            // Looked for again: a late call of the generation before may have moved it between the two looks above.
            Some(Err(_)) | None if disk::exists(&path)? => {
                self.check_visible(&path, output)?;
                disk::remove(&staged)?;
            }
            Some(Err(why)) => return Ok(Publication::Lost(why)),
            None => return Err(Fault::retry(format!("{} vanished while it was published", output.path))),
        }
        // Also where it was visible already: the try that moved it may have died before its sync.
        disk::sync_dir(disk::parent(&path)?)?;
        self.written.remove(&output.staged);
        Ok(Publication::Visible)
    }

    /// Both places, only where staged files and this table's files may lie.
    fn places(&self, output: &PendingOutput) -> Result<(PathBuf, PathBuf)> {
        let within = |key: &str, folder: &str| key.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'));
        if !within(&output.staged, STAGED) || !within(&output.path, staged::folder(output.class)) {
            let message =
                format!("a pending output leads from {} to {}: not where files of its table lie", output.staged, output.path);
            return Err(Fault::corrupt(message));
        }
        Ok((self.disk.path(&output.staged, Kind::Corrupt)?, self.disk.path(&output.path, Kind::Corrupt)?))
    }

    fn read_now(&self, output: &PendingOutput, offset: u64, max_bytes: usize) -> Result<Option<Bytes>> {
        let (_, path) = self.places(output)?;
        let fault = |error: &std::io::Error| disk::io_fault("reading", &path, error);
        let mut file = match std::fs::File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(fault(&error)),
        };
        file.seek(SeekFrom::Start(offset)).map_err(|error| fault(&error))?;
        let mut bytes = Vec::new();
        file.take(max_bytes as u64).read_to_end(&mut bytes).map_err(|error| fault(&error))?;
        Ok(Some(bytes.into()))
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

    /// Is it there, whole? If not, what is wrong with it.
    fn check_staged(&self, staged: &Path, output: &PendingOutput) -> Result<Result<(), String>> {
        let gone = || Err(format!("{} was committed but is neither staged nor visible", output.path));
        let len = match std::fs::metadata(staged) {
            Ok(found) => found.len(),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(gone()),
            Err(error) => return Err(disk::io_fault("looking for", staged, &error)),
        };
        // What this process wrote and hashed itself is not read again; after a restart everything is.
        if len == output.len && self.written.contains(&output.staged) {
            return Ok(Ok(()));
        }
        Ok(match disk::hash_file(staged)? {
            None => gone(),
            Some((len, sha256)) if len == output.len && sha256 == output.sha256 => Ok(()),
            Some(_) => Err(format!("the staged file of {} has other bytes than were committed", output.path)),
        })
    }

    /// Begins to write lost files once more; the rows of the visible ones are read from `kept`.
    pub(crate) fn begin_again(
        &self,
        shard: &ShardId,
        lease_epoch: u64,
        lost: &[PendingOutput],
        kept: &[(OutputClass, PathBuf)],
    ) -> Result<Box<dyn Rewriting>> {
        let epoch = lost.first().map_or(0, |output| output.epoch);
        let mut rows = HashSet::new();
        for (class, path) in kept {
            let found = again::rows_of(path, *class).map_err(|fault| match files::is_vanished(&fault) {
                true => Fault::corrupt(format!("{} is not visible any more: which rows are lost cannot be told", path.display())),
                false => fault,
            })?;
            rows.extend(found.into_iter().map(|row| (*class, row)));
        }
        Ok(Box::new(Again::new(self.staging(shard, lease_epoch, epoch)?, self.options.clone(), lost, rows)?))
    }

    /// Deletes what earlier leases, or this lease's epochs up to the committed one, left and nobody names. Files that this
    /// lease is writing now are out of reach, even for a call that comes late.
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

    async fn again(
        &self,
        shard: &ShardId,
        lease_epoch: u64,
        lost: &[PendingOutput],
        kept: &[PendingOutput],
    ) -> Result<Box<dyn Rewriting>> {
        let (this, shard, lost) = (self.clone(), shard.clone(), lost.to_vec());
        let kept = kept.iter().map(|output| Ok((output.class, self.places(output)?.1))).collect::<Result<Vec<_>>>()?;
        blocking(move || this.begin_again(&shard, lease_epoch, &lost, &kept)).await
    }

    async fn publish(&self, permit: CommitPermit, held: &HeldOutput) -> Result<Publication> {
        let (this, output, (_, committed)) = (self.clone(), held.output.clone(), permit.stands_for());
        match output.held {
            Held::File => blocking(move || this.publish_now(committed, &output)).await,
            Held::Inline | Held::Upload { .. } => Err(Fault::config(format!(
                "{} was staged for a bucket: run it with store.kind = \"aws\" once more, or name a new directory with --data",
                output.path
            ))),
        }
    }

    async fn discard_staged(&self, permit: CommitPermit, shard: &ShardId, keep: &[PendingOutput]) -> Result<u64> {
        let (this, shard, keep) = (self.clone(), shard.clone(), keep.to_vec());
        blocking(move || this.discard_now(permit.stands_for(), &shard, &keep)).await
    }

    async fn read_visible(&self, output: &PendingOutput, offset: u64, max_bytes: usize) -> Result<Option<Bytes>> {
        let (this, output) = (self.clone(), output.clone());
        blocking(move || this.read_now(&output, offset, max_bytes)).await
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{THREE_O_CLOCK, files, home, letter, record, shard, silver, slice, visible};
    use super::*;

    fn outputs(home: &Home) -> DiskOutputs {
        DiskOutputs::new(home, OutputOptions::default())
    }

    /// One epoch with a file of each table.
    fn staged(outputs: &DiskOutputs, lease: u64, epoch: u64) -> Vec<PendingOutput> {
        let mut data = outputs.data_files(&shard(), lease, epoch).expect("begins");
        data.bronze(&slice(vec![record(1, THREE_O_CLOCK, b"{}")])).expect("writes");
        data.silver(&silver(&[THREE_O_CLOCK])).expect("writes");
        let mut letters = outputs.letter_file(&shard(), lease, epoch).expect("begins");
        letters.append(&[letter(1, THREE_O_CLOCK)]).expect("writes");
        let mut all = data.finish().expect("ends");
        all.extend(letters.finish().expect("ends"));
        all
    }

    fn corrupt(result: Result<Publication>, says: &str) {
        let fault = result.expect_err("is refused");
        assert_eq!(fault.kind(), Kind::Corrupt);
        assert!(fault.message().contains(says), "{fault}");
    }

    #[test]
    fn staged_files_are_invisible_and_published_ones_lie_where_readers_look() {
        let (_dir, home) = home();
        let outputs = outputs(&home);
        let pending = staged(&outputs, 1, 1);
        assert_eq!(pending.len(), 3);
        assert_eq!(visible(&home), Vec::<String>::new());
        for output in &pending {
            outputs.publish_now(1, output).expect("publishes");
        }
        let seen = visible(&home);
        assert!(seen[0].starts_with("bronze/dt=2026-11-23/hour=15/shardId-0-0000000001-"), "{seen:?}");
        assert!(seen[1].starts_with("dlq/dt=2026-11-23/shardId-0-0000000001-") && seen[1].ends_with(".ndjson"), "{seen:?}");
        assert!(seen[2].starts_with("silver/dt=2026-11-23/hour=15/shardId-0-") && seen[2].ends_with(".parquet"), "{seen:?}");
        assert_eq!(seen.len(), 3);
        assert_eq!(files(&home.data().join(STAGED)), Vec::<String>::new());
        for output in &pending {
            let found = disk::hash_file(&home.data().join(&output.path)).expect("reads");
            assert_eq!(found, Some((output.len, output.sha256.clone())));
        }
    }

    #[test]
    fn a_visible_file_is_read_from_any_place_and_a_staged_one_is_not_there() {
        let (_dir, home) = home();
        let outputs = outputs(&home);
        let letters = staged(&outputs, 1, 1).remove(2);
        assert_eq!(outputs.read_now(&letters, 0, 10).expect("looks"), None);
        outputs.publish_now(1, &letters).expect("publishes");
        let whole = outputs.read_now(&letters, 0, usize::MAX).expect("reads").expect("visible");
        assert_eq!(whole.len() as u64, letters.len);
        let part = outputs.read_now(&letters, 5, 10).expect("reads").expect("visible");
        assert_eq!(part, whole.slice(5..15));
        assert_eq!(outputs.read_now(&letters, letters.len, 10).expect("reads").expect("visible"), Bytes::new());
        let elsewhere = PendingOutput { path: "state/rows.db".into(), ..letters };
        assert_eq!(outputs.read_now(&elsewhere, 0, 10).expect_err("refused").kind(), Kind::Corrupt);
    }

    #[test]
    fn publishing_again_changes_nothing_in_the_same_process_or_a_later_one() {
        let (_dir, home) = home();
        let first = outputs(&home);
        let pending = staged(&first, 1, 1);
        for by in [&first, &first, &outputs(&home)] {
            for output in &pending {
                by.publish_now(1, output).expect("publishes");
            }
            assert_eq!(visible(&home).len(), 3);
        }
    }

    #[test]
    fn many_that_publish_the_same_file_at_once_never_call_it_lost() {
        let (_dir, home) = home();
        let outputs = outputs(&home);
        for epoch in 1..20 {
            let output = &staged(&outputs, 1, epoch)[0];
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        let fault = outputs.publish_now(epoch, output).err();
                        assert!(fault.as_ref().is_none_or(|fault| fault.kind() == Kind::Retry), "{fault:?}");
                    });
                }
            });
            outputs.publish_now(epoch, output).expect("is there");
        }
    }

    #[test]
    fn a_later_process_publishes_what_an_earlier_one_staged() {
        let (_dir, home) = home();
        let pending = staged(&outputs(&home), 1, 1);
        let later = outputs(&home);
        for output in &pending {
            later.publish_now(5, output).expect("publishes");
        }
        assert_eq!(visible(&home).len(), 3);
    }

    #[test]
    fn a_staged_file_left_beside_its_visible_twin_is_cleared_away() {
        let (_dir, home) = home();
        let outputs = outputs(&home);
        let pending = staged(&outputs, 1, 1);
        let copy = std::fs::read(home.data().join(&pending[0].staged)).expect("reads");
        outputs.publish_now(1, &pending[0]).expect("publishes");
        std::fs::write(home.data().join(&pending[0].staged), copy).expect("as after a crash");
        outputs.publish_now(1, &pending[0]).expect("publishes");
        assert!(!home.data().join(&pending[0].staged).exists());
    }

    #[test]
    fn a_file_that_is_damaged_or_gone_is_lost_and_nothing_of_it_becomes_visible() {
        for damage in ["lost", "longer", "flipped"] {
            let (_dir, home) = home();
            let pending = staged(&outputs(&home), 1, 1);
            let place = home.data().join(&pending[0].staged);
            let mut bytes = std::fs::read(&place).expect("reads");
            match damage {
                "lost" => std::fs::remove_file(&place).expect("removes"),
                "longer" => {
                    bytes.push(0);
                    std::fs::write(&place, bytes).expect("writes");
                }
                _ => {
                    bytes[10] ^= 1;
                    std::fs::write(&place, bytes).expect("writes");
                }
            }
            let outcome = outputs(&home).publish_now(1, &pending[0]).expect("looks");
            assert!(matches!(&outcome, Publication::Lost(why) if why.contains(&pending[0].path)), "{damage}: {outcome:?}");
            assert_eq!(visible(&home), Vec::<String>::new(), "{damage}");
        }
    }

    #[test]
    fn a_visible_file_with_other_bytes_is_refused_and_left_as_it_is() {
        let (_dir, home) = home();
        let outputs = outputs(&home);
        let pending = staged(&outputs, 1, 1);
        let path = home.data().join(&pending[0].path);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("makes");
        std::fs::write(&path, b"other").expect("writes");
        corrupt(outputs.publish_now(1, &pending[0]), "other bytes");
        assert_eq!(std::fs::read(&path).expect("reads"), b"other");
        assert!(home.data().join(&pending[0].staged).exists());
    }

    #[test]
    fn an_output_that_leads_elsewhere_is_refused() {
        let (_dir, home) = home();
        let outputs = outputs(&home);
        let good = staged(&outputs, 1, 1).remove(0);
        for path in ["bronze/../state/rows.db", "/etc/passwd", "silver/x", "bronze", "bronzes/x", "bronze//x"] {
            corrupt(outputs.publish_now(1, &PendingOutput { path: path.into(), ..good.clone() }), "");
        }
        for from in ["state/rows.db", "state/staged/../rows.db", "state/stagedx/y"] {
            corrupt(outputs.publish_now(1, &PendingOutput { staged: from.into(), ..good.clone() }), "");
        }
    }

    #[test]
    fn a_file_of_an_epoch_that_is_not_committed_yet_is_refused() {
        let (_dir, home) = home();
        let outputs = outputs(&home);
        let pending = staged(&outputs, 1, 2);
        assert_eq!(outputs.publish_now(1, &pending[0]).expect_err("refused").kind(), Kind::Bug);
        assert_eq!(visible(&home), Vec::<String>::new());
    }

    #[test]
    fn a_takeover_deletes_what_nobody_names_and_never_what_is_being_written() {
        let (_dir, home) = home();
        let outputs = outputs(&home);
        let committed = staged(&outputs, 1, 1);
        let abandoned = staged(&outputs, 1, 2);
        let own = staged(&outputs, 2, 2);
        std::fs::write(home.data().join(STAGED).join("shardId-0/stray"), b"?").expect("writes");
        let other = outputs.data_files(&ShardId::new("shardId-1"), 1, 1).and_then(|mut data| {
            data.silver(&silver(&[0]))?;
            data.finish()
        });
        let deleted = outputs.discard_now((2, 1), &shard(), &committed).expect("deletes");
        assert_eq!(deleted, abandoned.len() as u64 + 1);
        for (kept, expected) in [(committed, true), (own, true), (other.expect("ends"), true), (abandoned, false)] {
            assert!(kept.iter().all(|output| home.data().join(&output.staged).exists() == expected));
        }
    }

    #[test]
    fn two_tries_at_one_epoch_never_share_a_name() {
        let (_dir, home) = home();
        let outputs = outputs(&home);
        let (a, b) = (staged(&outputs, 1, 1), staged(&outputs, 1, 1));
        assert!(a.iter().all(|a| b.iter().all(|b| a.staged != b.staged && a.path != b.path)));
    }

    #[test]
    fn an_epoch_without_rows_leaves_no_file() {
        let (_dir, home) = home();
        let outputs = outputs(&home);
        let mut data = outputs.data_files(&shard(), 1, 1).expect("begins");
        data.bronze(&slice(Vec::new())).expect("nothing");
        data.silver(&silver(&[])).expect("nothing");
        assert_eq!(data.finish().expect("ends"), Vec::new());
        let mut letters = outputs.letter_file(&shard(), 1, 1).expect("begins");
        letters.append(&[]).expect("nothing");
        assert_eq!(letters.finish().expect("ends"), Vec::new());
        assert_eq!(files(&home.data().join(STAGED)), Vec::<String>::new());
    }
}
