//! Large files: uploaded in parts and invisible, then completed by whoever holds the commit.
//!
//! An upload is completed or aborted, never resumed: part numbers of somebody else's would overwrite each other.
//!
//! Owns: parts, their checksums, completion that may be done twice, abandoned uploads. Does not own: who may complete (the
//! caller holds the permit), small files (store).

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use sluicebox_actors::model::epoch::{Hash, UploadedPart};
use sluicebox_actors::model::fault::{Fault, Kind, Result};

use crate::error::{Class, classify, code};

use super::store::{S3Store, SHA256};

/// S3 takes no smaller part, except as the last.
const PART_MIN: u64 = 8 << 20;
const PARTS_MAX: u64 = 10_000;
/// Parts on their way at once; each is in memory.
const AT_ONCE: usize = 3;
const PAGES_MAX: usize = 10_000;

/// An upload that is whole and not visible: all that its completion needs. It belongs into the commit's record.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StagedUpload {
    /// Key, relative to the store.
    pub key: String,
    /// Id of the upload.
    pub upload_id: String,
    /// Its parts, in order.
    pub parts: Vec<UploadedPart>,
    /// Length of the whole in bytes.
    pub len: u64,
    /// SHA-256 of the whole.
    pub sha256: Hash,
}

/// An upload that was begun and neither completed nor aborted.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct OpenUpload {
    /// Key, relative to the store.
    pub key: String,
    /// Id of the upload.
    pub upload_id: String,
}

/// What came of completing an upload.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Completed {
    /// The object is there, with the bytes that were staged.
    Visible,
    /// Somebody has ended the upload, and the object is not there.
    Lost(String),
}

impl S3Store {
    /// Uploads a local file in parts under a key; nothing is visible afterwards. If it fails, the upload is aborted as far as
    /// that is possible; what is left shows in [`S3Store::list_uploads`].
    pub async fn stage_large(&self, key: &str, path: &Path) -> Result<StagedUpload> {
        let file = path.to_owned();
        let (len, sha256) = self.io.run(blocking(move || digest(&file))).await?;
        let create = self.client.create_multipart_upload().bucket(&self.bucket).key(self.key(key));
        let create = create.checksum_algorithm(ChecksumAlgorithm::Sha256).metadata(SHA256, sha256.as_str());
        let upload_id = match self.ask(create.send()).await? {
            Ok(answer) => answer.upload_id.ok_or_else(|| Fault::retry("s3 began an upload without an id"))?,
            Err(error) => return Err(self.fault("CreateMultipartUpload", Some(key), &error)),
        };
        match self.upload_parts(key, &upload_id, path, len).await {
            Ok(parts) => Ok(StagedUpload { key: key.to_owned(), upload_id, parts, len, sha256 }),
            Err(fault) => {
                // The first fault is the one to tell; an upload that stays is found by its list.
                if let Err(also) = self.abort(key, &upload_id).await {
                    tracing::warn!(key, upload_id, fault = %also, "an upload that failed could not be aborted");
                }
                Err(fault)
            }
        }
    }

    async fn upload_parts(&self, key: &str, upload_id: &str, path: &Path, len: u64) -> Result<Vec<UploadedPart>> {
        let size = PART_MIN.max(len.div_ceil(PARTS_MAX));
        let count = len.div_ceil(size).max(1);
        let parts = (0..count).map(|at| self.upload_part(key, upload_id, path, (at, at * size, size.min(len - at * size))));
        stream::iter(parts).buffered(AT_ONCE).try_collect().await
    }

    async fn upload_part(&self, key: &str, upload_id: &str, path: &Path, part: (u64, u64, u64)) -> Result<UploadedPart> {
        let ((at, offset, len), path) = (part, path.to_owned());
        let data = self.io.run(blocking(move || slice(&path, offset, len))).await?;
        let number = i32::try_from(at + 1).map_err(|_| Fault::bug("a part's number is at most 10,000"))?;
        let sha256 = aws_smithy_types::base64::encode(Sha256::digest(&data));
        let upload = self.client.upload_part().bucket(&self.bucket).key(self.key(key)).upload_id(upload_id);
        let upload = upload.part_number(number).checksum_sha256(&sha256).body(ByteStream::from(data));
        match self.ask(upload.send()).await? {
            Ok(answer) => {
                let etag = answer.e_tag.ok_or_else(|| Fault::retry("s3 took a part and named no ETag"))?;
                Ok(UploadedPart { number, etag, sha256 })
            }
            // Somebody has ended it under way: whoever wants these bytes there begins another.
            Err(error) if code(&error) == Some("NoSuchUpload") => {
                Err(Fault::retry(format!("the upload {upload_id} of {key} was ended by somebody else; another is begun")))
            }
            Err(error) => Err(self.fault("UploadPart", Some(key), &error)),
        }
    }

    /// Makes a staged upload visible. Done twice is done once. Whatever cannot be seen now is a `Retry`.
    pub async fn complete(&self, staged: &StagedUpload) -> Result<Completed> {
        let parts = staged.parts.iter().map(|part| {
            let completed = CompletedPart::builder().part_number(part.number).e_tag(&part.etag);
            completed.checksum_sha256(&part.sha256).build()
        });
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts.collect())).build();
        let complete = self.client.complete_multipart_upload().bucket(&self.bucket).key(self.key(&staged.key));
        let complete = complete.upload_id(&staged.upload_id).multipart_upload(parts).if_none_match("*");
        let Err(error) = self.ask(complete.send()).await? else { return Ok(Completed::Visible) };
        // Applied before, applied now with its answer lost, or not applied: what is stored decides.
        match self.head(&staged.key).await? {
            Some(stored) if stored.is(staged.len, &staged.sha256) => Ok(Completed::Visible),
            Some(_) => Err(Fault::corrupt(format!("the object {} exists with other bytes than were committed", staged.key))),
            None if code(&error) == Some("NoSuchUpload") => Ok(Completed::Lost(format!(
                "the upload {} of {} was committed and is gone, and the file is not visible: somebody has ended it",
                staged.upload_id, staged.key
            ))),
            None if classify(&error) == Class::Conflict => {
                Err(Fault::retry(format!("completing {}: somebody else was at it; it is done again", staged.key)))
            }
            None => Err(self.fault("CompleteMultipartUpload", Some(&staged.key), &error)),
        }
    }

    /// Ends an upload without a trace; one that is gone is fine.
    pub async fn abort(&self, key: &str, upload_id: &str) -> Result<()> {
        let abort = self.client.abort_multipart_upload().bucket(&self.bucket).key(self.key(key)).upload_id(upload_id);
        match self.ask(abort.send()).await? {
            Ok(_) => Ok(()),
            Err(error) if code(&error) == Some("NoSuchUpload") => Ok(()),
            Err(error) => Err(self.fault("AbortMultipartUpload", Some(key), &error)),
        }
    }

    /// Uploads under keys that start so, neither completed nor aborted, by key, of all pages.
    pub async fn list_uploads(&self, prefix: &str) -> Result<Vec<OpenUpload>> {
        let (mut found, mut marker) = (Vec::new(), (None, None));
        for _ in 0..PAGES_MAX {
            let list = self.client.list_multipart_uploads().bucket(&self.bucket).prefix(self.key(prefix));
            let list = list.set_key_marker(marker.0.take()).set_upload_id_marker(marker.1.take());
            let page = match self.ask(list.send()).await? {
                Ok(page) => page,
                Err(error) => return Err(self.fault("ListMultipartUploads", None, &error)),
            };
            for upload in page.uploads() {
                if let Some((key, upload_id)) = upload.key().and_then(|key| self.own(key)).zip(upload.upload_id()) {
                    found.push(OpenUpload { key: key.to_owned(), upload_id: upload_id.to_owned() });
                }
            }
            if page.is_truncated != Some(true) {
                found.sort_unstable();
                return Ok(found);
            }
            marker = (page.next_key_marker, page.next_upload_id_marker);
        }
        Err(Fault::bug(format!("more than {PAGES_MAX} pages of uploads under {prefix}")))
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Fault::caused(Kind::Bug, "reading a staged file ended abnormally", &error))?
}

fn unreadable(path: &Path, error: &std::io::Error) -> Fault {
    Fault::caused(Kind::Retry, format!("reading the staged file {} for its upload", path.display()), error)
}

fn digest(path: &PathBuf) -> Result<(u64, Hash)> {
    let mut file = File::open(path).map_err(|error| unreadable(path, &error))?;
    let (mut hash, mut len, mut piece) = (Sha256::new(), 0, vec![0; 1 << 20]);
    loop {
        let read = file.read(&mut piece).map_err(|error| unreadable(path, &error))?;
        if read == 0 {
            return Ok((len, Hash::from_digest(&hash.finalize())));
        }
        hash.update(&piece[..read]);
        len += read as u64;
    }
}

fn slice(path: &Path, offset: u64, len: u64) -> Result<Bytes> {
    let mut file = File::open(path).map_err(|error| unreadable(path, &error))?;
    let mut data = vec![0; len as usize];
    let read = file.seek(SeekFrom::Start(offset)).and_then(|_| file.read_exact(&mut data));
    read.map_err(|error| unreadable(path, &error))?;
    Ok(data.into())
}
