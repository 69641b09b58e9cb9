//! Objects in S3, each with its length and SHA-256: conditional writes whose answers may get lost, and reads that are checked.
//!
//! Every write is one that may be done twice: it is conditional, and what is stored says by its hash whose it is. So whatever
//! an answer leaves open (time-out, 5xx, a 412 to a repetition) is decided by looking, and only what cannot be seen is a
//! `Retry`.
//!
//! Owns: keys under the prefix, hashes in metadata, what each failure means. Does not own: what an object holds, uploads in
//! parts (multipart), whether the store can be trusted with conditions (probe).

use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::primitives::ByteStream;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use bytes::Bytes;
use sha2::{Digest, Sha256};
use sluicebox_actors::model::epoch::Hash;
use sluicebox_actors::model::fault::{Fault, Kind, Result};

use crate::client::AwsRuntime;
use crate::error::{Call, Class, classify, code};

pub(super) const SHA256: &str = "sha256";
pub(super) const REVISION: &str = "revision";

const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(50);
const PAGES_MAX: usize = 100_000;

/// Objects of one bucket under one prefix. Cheap to clone.
#[derive(Clone, Debug)]
pub struct S3Store {
    pub(super) client: Client,
    pub(super) io: AwsRuntime,
    pub(super) bucket: String,
    prefix: String,
}

/// What a HEAD says of an object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Head {
    /// Length in bytes.
    pub len: u64,
    /// SHA-256 of the bytes as its writer stated it; none if the object is not one of ours.
    pub sha256: Option<Hash>,
    /// Revision, where it was written with one.
    pub revision: Option<u64>,
    /// The ETag, for conditions.
    pub etag: String,
}

impl Head {
    /// Is it these bytes?
    pub(super) fn is(&self, len: u64, sha256: &Hash) -> bool {
        self.len == len && self.sha256.as_ref() == Some(sha256)
    }
}

/// An object as a listing shows it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Listed {
    /// Key, relative to the store.
    pub key: String,
    /// Length in bytes.
    pub len: u64,
    /// The ETag: another one means other bytes.
    pub etag: String,
}

/// What became of a conditional write.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Put {
    /// Exactly these bytes are stored: now, or by an earlier try.
    Stored,
    /// Something else is (none: nothing is); nothing was changed.
    Refused(Option<Head>),
}

/// What became of the replacement of a visible object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Replaced {
    /// It is visible now.
    Done,
    /// This revision was visible already.
    Same,
    /// A newer revision is visible and stays.
    Newer(u64),
}

/// What a write depends on.
#[derive(Clone, Debug)]
enum When {
    Absent,
    Etag(String),
}

impl S3Store {
    /// Objects of `bucket` whose keys start with `prefix` (no slash at its end, may be empty). Calls nobody. Emulators want a
    /// client with `force_path_style`.
    pub fn new(client: &Client, io: AwsRuntime, bucket: &str, prefix: &str) -> Result<Self> {
        if bucket.is_empty() || prefix.starts_with('/') || prefix.ends_with('/') {
            return Err(Fault::config(format!(
                "s3: bucket {bucket:?}, prefix {prefix:?}: a name, and a path without outer slashes"
            )));
        }
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        Ok(Self { client: client.clone(), io, bucket: bucket.to_owned(), prefix })
    }

    pub(super) fn key(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    pub(super) fn own<'k>(&self, key: &'k str) -> Option<&'k str> {
        key.strip_prefix(&self.prefix)
    }

    pub(super) fn fault<E>(&self, operation: &'static str, key: Option<&str>, error: &SdkError<E, HttpResponse>) -> Fault
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        let resource = match key {
            Some(key) => format!("arn:aws:s3:::{}/{}", self.bucket, self.key(key)),
            None => format!("arn:aws:s3:::{}", self.bucket),
        };
        Call { service: "s3", operation, resource: &resource }.fault(error)
    }

    /// Runs a call on the threads for I/O.
    pub(super) async fn ask<T, E, F>(&self, call: F) -> Result<Result<T, SdkError<E, HttpResponse>>>
    where
        F: Future<Output = Result<T, SdkError<E, HttpResponse>>> + Send + 'static,
        T: Send + 'static,
        E: Send + 'static,
    {
        self.io.run(async move { Ok(call.await) }).await
    }

    /// What is stored under a key; none only if the store said that nothing is.
    pub async fn head(&self, key: &str) -> Result<Option<Head>> {
        match self.ask(self.client.head_object().bucket(&self.bucket).key(self.key(key)).send()).await? {
            Ok(answer) => head_of(key, &answer).map(Some),
            Err(error) if classify(&error) == Class::NotFound => Ok(None),
            Err(error) => Err(self.fault("HeadObject", Some(key), &error)),
        }
    }

    /// Stores only if there is nothing under the key. The same bytes already there are fine, whoever put them.
    pub async fn put_if_absent(&self, key: &str, data: Bytes) -> Result<Put> {
        self.put(key, data, None, When::Absent).await
    }

    /// Replaces the object that has this ETag. The same bytes already there are fine.
    pub async fn put_if_match(&self, key: &str, data: Bytes, etag: &str) -> Result<Put> {
        self.put(key, data, None, When::Etag(etag.to_owned())).await
    }

    async fn put(&self, key: &str, data: Bytes, revision: Option<u64>, when: When) -> Result<Put> {
        let (len, sha256) = (data.len() as u64, Hash::of(&data));
        let mut last = None;
        for attempt in 0..TRIES {
            if attempt > 0 {
                tokio::time::sleep(PAUSE * (1 << attempt)).await;
            }
            let Err(error) = self.put_once(key, data.clone(), revision, &when).await? else { return Ok(Put::Stored) };
            match classify(&error) {
                // It was not done, or nobody knows: what is stored decides. A 404 is how If-Match says that nothing is there.
                Class::Conflict | Class::Unavailable | Class::NoAnswer => {}
                Class::NotFound if matches!(when, When::Etag(_)) => {}
                Class::Throttled | Class::Denied | Class::Unconfigured | Class::NotFound | Class::Invalid => {
                    return Err(self.fault("PutObject", Some(key), &error));
                }
            }
            let stored = self.head(key).await?;
            let untouched = match (&stored, &when) {
                (Some(stored), _) if stored.is(len, &sha256) && stored.revision == revision => return Ok(Put::Stored),
                (None, When::Absent) => true,
                (Some(stored), When::Etag(etag)) => stored.etag == *etag,
                (Some(_), When::Absent) | (None, When::Etag(_)) => false,
            };
            if !untouched {
                return Ok(Put::Refused(stored));
            }
            last = Some(self.fault("PutObject", Some(key), &error));
        }
        Err(last.unwrap_or_else(|| Fault::bug("a write that was not tried")))
    }

    async fn put_once(
        &self,
        key: &str,
        data: Bytes,
        revision: Option<u64>,
        when: &When,
    ) -> Result<Result<(), SdkError<aws_sdk_s3::operation::put_object::PutObjectError, HttpResponse>>> {
        let digest = Sha256::digest(&data);
        let put = self.client.put_object().bucket(&self.bucket).key(self.key(key));
        let put = put.checksum_sha256(aws_smithy_types::base64::encode(digest));
        let put = put.metadata(SHA256, Hash::from_digest(&digest).as_str());
        let put = match revision {
            Some(revision) => put.metadata(REVISION, revision.to_string()),
            None => put,
        };
        let put = match when {
            When::Absent => put.if_none_match("*"),
            When::Etag(etag) => put.if_match(etag),
        };
        let put = put.body(ByteStream::from(data));
        Ok(self.ask(put.send()).await?.map(|_| ()))
    }

    /// Reads whole. A missing object is `Corrupt` (we only ask for what a row names), and so is one that is not what its writer
    /// stored, or is longer than `max` bytes.
    pub async fn get(&self, key: &str, max: u64) -> Result<Bytes> {
        let (get, name) = (self.client.get_object().bucket(&self.bucket).key(self.key(key)), key.to_owned());
        let call = self.clone();
        let read = async move {
            let answer = match get.send().await {
                Ok(answer) => answer,
                Err(error) if classify(&error) == Class::NotFound && !is_bucket(&error) => {
                    return Err(Fault::corrupt(format!(
                        "the object {name} is missing from the bucket {}: restore it",
                        call.bucket
                    )));
                }
                Err(error) => return Err(call.fault("GetObject", Some(&name), &error)),
            };
            if answer.content_length().is_none_or(|len| len.cast_unsigned() > max) {
                return Err(Fault::corrupt(format!("the object {name} is longer than the {max} bytes it may have")));
            }
            let stated = answer.metadata().and_then(|metadata| metadata.get(SHA256)).cloned();
            let data = answer.body.collect().await.map_err(|error| {
                Fault::caused(Kind::Retry, format!("s3 GetObject of {name}: the answer was cut short; it is read again"), &error)
            })?;
            let data = data.into_bytes();
            match stated.is_some_and(|stated| stated == Hash::of(&data).as_str()) {
                true => Ok(data),
                false => Err(Fault::corrupt(format!("the object {name} has other bytes than were stored: restore it"))),
            }
        };
        self.io.run(read).await
    }

    /// Some bytes of an object, without a look at its hash; empty from its end on; none = it is missing.
    pub async fn read(&self, key: &str, offset: u64, max_bytes: usize) -> Result<Option<Bytes>> {
        let last = offset.saturating_add((max_bytes as u64).max(1)) - 1;
        let range = format!("bytes={offset}-{last}");
        let (get, name) = (self.client.get_object().bucket(&self.bucket).key(self.key(key)).range(range), key.to_owned());
        let call = self.clone();
        let read = async move {
            let answer = match get.send().await {
                Ok(answer) => answer,
                Err(error) if classify(&error) == Class::NotFound && !is_bucket(&error) => return Ok(None),
                // The range begins at the object's end: there is nothing to give, which is no mistake.
                Err(error) if code(&error) == Some("InvalidRange") => return Ok(Some(Bytes::new())),
                Err(error) => return Err(call.fault("GetObject", Some(&name), &error)),
            };
            let is_part = answer.content_range().is_some();
            let data = answer.body.collect().await.map_err(|error| {
                Fault::caused(Kind::Retry, format!("s3 GetObject of {name}: the answer was cut short; it is read again"), &error)
            })?;
            let data = data.into_bytes();
            // A store that knows no ranges answers with the whole.
            let from = if is_part { 0 } else { usize::try_from(offset).unwrap_or(usize::MAX).min(data.len()) };
            Ok(Some(data.slice(from..data.len().min(from.saturating_add(max_bytes)))))
        };
        self.io.run(read).await
    }

    /// All keys that start so, in order, of all pages.
    pub async fn list(&self, prefix: &str) -> Result<Vec<String>> {
        Ok(self.listed(prefix).await?.into_iter().map(|object| object.key).collect())
    }

    /// Is there any key that starts so?
    pub async fn any(&self, prefix: &str) -> Result<bool> {
        let list = self.client.list_objects_v2().bucket(&self.bucket).prefix(self.key(prefix)).max_keys(1);
        match self.ask(list.send()).await? {
            Ok(page) => Ok(!page.contents().is_empty()),
            Err(error) => Err(self.fault("ListObjectsV2", None, &error)),
        }
    }

    /// All objects whose keys start so, in order of keys, of all pages.
    pub async fn listed(&self, prefix: &str) -> Result<Vec<Listed>> {
        let (mut keys, mut token) = (Vec::new(), None);
        for _ in 0..PAGES_MAX {
            let list = self.client.list_objects_v2().bucket(&self.bucket).prefix(self.key(prefix));
            let page = match self.ask(list.set_continuation_token(token.take()).send()).await? {
                Ok(page) => page,
                Err(error) => return Err(self.fault("ListObjectsV2", None, &error)),
            };
            for object in page.contents() {
                let Some(key) = object.key().and_then(|key| self.own(key)) else { continue };
                let len = object.size().and_then(|len| u64::try_from(len).ok()).unwrap_or_default();
                keys.push(Listed { key: key.to_owned(), len, etag: object.e_tag().unwrap_or_default().to_owned() });
            }
            match page.next_continuation_token.filter(|_| page.is_truncated == Some(true)) {
                Some(next) => token = Some(next),
                None => {
                    keys.sort_unstable();
                    return Ok(keys);
                }
            }
        }
        Err(Fault::bug(format!("more than {PAGES_MAX} pages of keys under {prefix}")))
    }

    /// Deletes; a missing object is fine.
    pub async fn delete(&self, key: &str) -> Result<()> {
        match self.ask(self.client.delete_object().bucket(&self.bucket).key(self.key(key)).send()).await? {
            Ok(_) => Ok(()),
            Err(error) if classify(&error) == Class::NotFound && !is_bucket(&error) => Ok(()),
            Err(error) => Err(self.fault("DeleteObject", Some(key), &error)),
        }
    }

    /// Makes a revision of an object visible: an older one is replaced, an equal one is left, a newer one stays. Equal
    /// revisions with other bytes are `Corrupt`. Racing writers are told apart by the ETag just read.
    pub async fn replace(&self, key: &str, data: Bytes, revision: u64) -> Result<Replaced> {
        let (len, sha256) = (data.len() as u64, Hash::of(&data));
        for _ in 0..TRIES {
            let when = match self.head(key).await? {
                None => When::Absent,
                Some(stored) => match stored.revision {
                    Some(newer) if newer > revision => return Ok(Replaced::Newer(newer)),
                    Some(same) if same == revision && stored.is(len, &sha256) => return Ok(Replaced::Same),
                    Some(same) if same == revision => {
                        return Err(Fault::corrupt(format!("the object {key} shows revision {revision} with other bytes")));
                    }
                    Some(_) | None => When::Etag(stored.etag),
                },
            };
            if self.put(key, data.clone(), Some(revision), when).await? == Put::Stored {
                return Ok(Replaced::Done);
            }
        }
        Err(Fault::retry(format!("the object {key} was changed by others {TRIES} times while revision {revision} was shown")))
    }
}

fn is_bucket<E>(error: &SdkError<E, HttpResponse>) -> bool
where
    E: ProvideErrorMetadata,
{
    crate::error::code(error) == Some("NoSuchBucket")
}

fn head_of(key: &str, answer: &HeadObjectOutput) -> Result<Head> {
    let stated = |name: &str| answer.metadata().and_then(|metadata| metadata.get(name));
    let bad = |what: &str| Fault::corrupt(format!("the object {key} has no readable {what}"));
    let len = answer.content_length().and_then(|len| u64::try_from(len).ok()).ok_or_else(|| bad("length"))?;
    let sha256 = stated(SHA256).map(|digits| serde_json::from_value(serde_json::Value::String(digits.clone())));
    Ok(Head {
        len,
        sha256: sha256.transpose().map_err(|_| bad(SHA256))?,
        revision: stated(REVISION).map(|text| text.parse().map_err(|_| bad(REVISION))).transpose()?,
        etag: answer.e_tag().ok_or_else(|| bad("ETag"))?.to_owned(),
    })
}

#[cfg(test)]
mod tests;
