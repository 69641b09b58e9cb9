//! Files on their way into a bucket: staged on this worker's disk, held where any worker finds them, shown after the commit.
//!
//! A small file travels in the epoch object, a large one is an upload in parts that is completed after the commit. Uploads are
//! completed or aborted, and never gone on with: part numbers of two owners would overwrite each other.
//!
//! Owns: which file is held how, publication, abandoned uploads. Does not own: how files are written (data_files, letters), the
//! requests (sluicebox_aws::s3).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use sluicebox_actors::model::epoch::{Hash, Held, HeldOutput, OutputClass, PendingOutput};
use sluicebox_actors::model::fault::{Fault, Kind, Result};
use sluicebox_actors::model::position::ShardId;
use sluicebox_actors::ports::{CommitPermit, DataFiles, LetterFile, Outputs, Publication, Rewriting};
use sluicebox_actors::toolkit::crash;
use sluicebox_aws::s3::multipart::{Completed, StagedUpload};
use sluicebox_aws::s3::store::{Put, S3Store};

use crate::store::disk::{self, Disk, blocking};
use crate::store::home::Home;
use crate::store::outputs::{DiskOutputs, OutputOptions};
use crate::store::{paths, staged};

/// Files on their way at once.
const AT_ONCE: usize = 4;
/// Bytes of a visible file that are read at once.
const COPIED_AT_ONCE: usize = 8 << 20;
/// All that one epoch object holds of files; what goes beyond is uploaded, however small.
const INLINE_MAX: u64 = 64 << 20;

/// The files of one worker. Cheap to clone.
#[derive(Clone)]
pub struct BucketOutputs {
    local: DiskOutputs,
    disk: Arc<Disk>,
    store: S3Store,
    /// A file up to this size travels in the epoch object.
    inline: u64,
    // What is uploaded already: holding is repeated whole when one of its files fails.
    uploads: Arc<Mutex<BTreeMap<String, Held>>>,
}

impl BucketOutputs {
    /// Files of this store, staged in this directory.
    pub fn new(home: &Home, options: OutputOptions, store: S3Store, inline: u64) -> Self {
        let (local, disk) = (DiskOutputs::new(home, options), home.disk().clone());
        Self { local, disk, store, inline, uploads: Arc::default() }
    }

    async fn hold_inline(&self, mut output: PendingOutput) -> Result<HeldOutput> {
        let path = self.disk.path(&output.staged, Kind::Bug)?;
        let body = blocking(move || disk::read(&path)).await?.map(Bytes::from);
        let body = body.filter(|body| body.len() as u64 == output.len && Hash::of(body) == output.sha256);
        output.held = Held::Inline;
        match body {
            Some(body) => Ok(HeldOutput { output, body: Some(body) }),
            None => Err(lost(&output)),
        }
    }

    async fn hold_upload(&self, mut output: PendingOutput) -> Result<HeldOutput> {
        let known = self.uploads().get(&output.staged).cloned();
        output.held = match known {
            Some(held) => held,
            None => {
                let path = self.disk.path(&output.staged, Kind::Bug)?;
                if !disk::exists(&path)? {
                    return Err(lost(&output));
                }
                let upload = self.store.stage_large(&output.path, &path).await?;
                if (upload.len, &upload.sha256) != (output.len, &output.sha256) {
                    self.store.abort(&upload.key, &upload.upload_id).await?;
                    return Err(lost(&output));
                }
                let held = Held::Upload { id: upload.upload_id, parts: upload.parts };
                self.uploads().insert(output.staged.clone(), held.clone());
                held
            }
        };
        Ok(output.into())
    }

    /// A visible file on this worker's disk, among its staged files: whoever dies over it leaves it to be discarded.
    async fn copy(&self, output: &PendingOutput) -> Result<PathBuf> {
        let extension = output.path.split_once('.').map_or("", |(_, extension)| extension);
        let (folder, _) = output.staged.rsplit_once('/').ok_or_else(|| Fault::corrupt("a staged file without a folder"))?;
        let path = self.disk.path(&format!("{folder}/0-0-{}.{extension}", self.disk.random_name()), Kind::Corrupt)?;
        self.disk.ensure_dir(disk::parent(&path)?)?;
        let mut at = 0;
        loop {
            let piece = self.store.read(&output.path, at, COPIED_AT_ONCE).await?;
            let piece = piece.ok_or_else(|| Fault::corrupt(format!("{} is not visible any more", output.path)))?;
            if piece.is_empty() {
                return Ok(path);
            }
            at += piece.len() as u64;
            let file = path.clone();
            blocking(move || disk::append(&file, &piece)).await?;
        }
    }

    fn uploads(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Held>> {
        self.uploads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn show(&self, held: &HeldOutput) -> Result<Publication> {
        let output = &held.output;
        match (&output.held, &held.body) {
            (Held::Inline, Some(body)) => match self.store.put_if_absent(&output.path, body.clone()).await? {
                Put::Stored => Ok(Publication::Visible),
                Put::Refused(_) => {
                    Err(Fault::corrupt(format!("{} is visible with other bytes than were committed", output.path)))
                }
            },
            (Held::Inline, None) => Err(Fault::bug("an inline output came without its bytes")),
            (Held::Upload { id, parts }, _) => {
                let (key, upload_id, parts) = (output.path.clone(), id.clone(), parts.clone());
                let upload = StagedUpload { key, upload_id, parts, len: output.len, sha256: output.sha256.clone() };
                Ok(match self.store.complete(&upload).await? {
                    Completed::Visible => Publication::Visible,
                    Completed::Lost(why) => Publication::Lost(why),
                })
            }
            (Held::File, _) => Err(Fault::config(format!(
                "{} was staged in a data directory: drain that with store.kind = \"disk\" first",
                output.path
            ))),
        }
    }

    /// Ends uploads of this shard that nobody will complete: of earlier leases, and of this lease's epochs up to the committed
    /// one. Those of a later lease are somebody's who has taken the shard from us; if one is of a file that he writes once more,
    /// its name is that of then: he loses it to us, finds it lost, and begins another.
    async fn abort_abandoned(&self, now: (u64, u64), shard: &ShardId, keep: &[PendingOutput]) -> Result<u64> {
        let (shard, mut aborted) = (paths::name(shard.as_str())?, 0);
        for class in [OutputClass::Bronze, OutputClass::Silver, OutputClass::Dlq] {
            for upload in self.store.list_uploads(&format!("{}/", staged::folder(class))).await? {
                let name = upload.key.rsplit('/').next().unwrap_or_default();
                let is_abandoned = staged::visible_lease_and_epoch(name, &shard).is_some_and(|of| of <= now);
                if is_abandoned && !keep.iter().any(|output| is_kept_by(output, &upload.upload_id)) {
                    self.store.abort(&upload.key, &upload.upload_id).await?;
                    aborted += 1;
                }
            }
        }
        Ok(aborted)
    }
}

fn is_kept_by(output: &PendingOutput, upload_id: &str) -> bool {
    match &output.held {
        Held::Upload { id, .. } => id == upload_id,
        Held::File | Held::Inline => false,
    }
}

/// Nothing of the epoch is committed: its records are read once more.
fn lost(output: &PendingOutput) -> Fault {
    Fault::bug(format!(
        "{} vanished or changed on this worker's disk before its commit: is somebody cleaning up there?",
        output.staged
    ))
}

#[async_trait]
impl Outputs for BucketOutputs {
    fn data_files(&self, shard: &ShardId, lease_epoch: u64, epoch: u64) -> Result<Box<dyn DataFiles>> {
        self.local.data_files(shard, lease_epoch, epoch)
    }

    fn letter_file(&self, shard: &ShardId, lease_epoch: u64, epoch: u64) -> Result<Box<dyn LetterFile>> {
        self.local.letter_file(shard, lease_epoch, epoch)
    }

    async fn hold(&self, staged: Vec<PendingOutput>) -> Result<Vec<HeldOutput>> {
        let mut room = INLINE_MAX;
        let holds = staged.into_iter().map(|output| {
            let travels_along = output.len <= self.inline.min(room);
            room -= if travels_along { output.len } else { 0 };
            async move { if travels_along { self.hold_inline(output).await } else { self.hold_upload(output).await } }
        });
        stream::iter(holds.collect::<Vec<_>>()).buffered(AT_ONCE).try_collect().await
    }

    async fn again(
        &self,
        shard: &ShardId,
        lease_epoch: u64,
        lost: &[PendingOutput],
        kept: &[PendingOutput],
    ) -> Result<Box<dyn Rewriting>> {
        let mut copies = Vec::with_capacity(kept.len());
        for output in kept {
            copies.push((output.class, self.copy(output).await?));
        }
        let (local, shard, lost) = (self.local.clone(), shard.clone(), lost.to_vec());
        blocking(move || {
            let begun = local.begin_again(&shard, lease_epoch, &lost, &copies);
            copies.iter().try_for_each(|(_, copy)| disk::remove(copy).map(|_| ()))?;
            begun
        })
        .await
    }

    async fn publish(&self, permit: CommitPermit, held: &HeldOutput) -> Result<Publication> {
        let (output, (_, committed)) = (&held.output, permit.stands_for());
        if output.epoch > committed {
            return Err(Fault::bug(format!("a file of epoch {} before its commit", output.epoch)));
        }
        if output.path.strip_prefix(staged::folder(output.class)).is_none_or(|rest| !rest.starts_with('/')) {
            return Err(Fault::corrupt(format!("a pending output leads to {}: not where files of its table lie", output.path)));
        }
        let shown = self.show(held).await?;
        crash::pass("publish.after_rename");
        self.uploads().remove(&output.staged);
        let staged = self.disk.path(&output.staged, Kind::Corrupt)?;
        blocking(move || disk::remove(&staged).map(|_| ())).await?;
        Ok(shown)
    }

    async fn discard_staged(&self, permit: CommitPermit, shard: &ShardId, keep: &[PendingOutput]) -> Result<u64> {
        let local = self.local.discard_staged(permit, shard, keep).await?;
        Ok(local + self.abort_abandoned(permit.stands_for(), shard, keep).await?)
    }

    async fn read_visible(&self, output: &PendingOutput, offset: u64, max_bytes: usize) -> Result<Option<Bytes>> {
        self.store.read(&output.path, offset, max_bytes).await
    }
}
