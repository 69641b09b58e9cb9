//! The streams under one root, with what the Kinesis API knows of a stream beyond its records.
//!
//! ```text
//! <root>/<name>/api.json      retention, largest record, consumers, times of reshards
//! ```
//!
//! Owns: finding, creating and deleting streams, their notes, names and ARNs. Does not own: records (embedded), listings (list).

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};
use sluicebox_actors::model::fault::{Fault, Kind};
use sluicebox_actors::model::position::ShardId;
use sluicebox_actors::ports::{Clock, ShardInfo, Stream};
use tokio::sync::watch;

use crate::database::{io_fault, lock};
use crate::embedded::EmbeddedStream;

use super::error::{Answer, ApiError};
use super::limits::Budget;
use super::subscribe::Subscriptions;
use super::wire::Request;

/// What every ARN of this endpoint begins with.
pub(super) const ARN_PREFIX: &str = "arn:aws:kinesis:us-east-1:000000000000:stream/";
/// How long records are kept unless told otherwise, hours.
pub(super) const RETENTION_HOURS: u32 = 24;
/// Largest record unless told otherwise, KiB.
pub(super) const RECORD_KIB: u32 = 1024;

/// What is noted about a stream.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(default)]
pub(super) struct Notes {
    pub(super) retention_hours: u32,
    pub(super) record_kib: u32,
    /// Registered consumers, name to creation (microseconds).
    pub(super) consumers: BTreeMap<String, i64>,
    /// When a shard came to be by a reshard, microseconds.
    pub(super) resharded: BTreeMap<ShardId, i64>,
}

impl Default for Notes {
    fn default() -> Self {
        Self { retention_hours: RETENTION_HOURS, record_kib: RECORD_KIB, consumers: BTreeMap::new(), resharded: BTreeMap::new() }
    }
}

/// One stream that is open.
pub(super) struct Entry {
    pub(super) stream: EmbeddedStream,
    pub(super) name: Arc<str>,
    notes_path: PathBuf,
    notes: Mutex<Notes>,
    pub(super) budgets: Mutex<HashMap<ShardId, Budget>>,
    pub(super) subscriptions: Subscriptions,
    /// Counts the puts through this endpoint, so that subscribers need not wait for their next look.
    pub(super) puts: watch::Sender<u64>,
}

impl Entry {
    fn open(root: &Path, name: &str, stream: EmbeddedStream) -> Answer<Self> {
        let notes_path = root.join(name).join("api.json");
        let notes = match fs::read(&notes_path) {
            Ok(text) => serde_json::from_slice(&text).map_err(|error| {
                let what =
                    format!("{} is not what this program writes: delete it to fall back to defaults", notes_path.display());
                Fault::caused(Kind::Corrupt, what, &error)
            })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Notes::default(),
            Err(error) => return Err(io_fault(&error, "read", &notes_path).into()),
        };
        Ok(Self {
            name: stream.name(),
            stream,
            notes_path,
            notes: Mutex::new(notes),
            budgets: Mutex::default(),
            subscriptions: Subscriptions::default(),
            puts: watch::Sender::new(0),
        })
    }

    pub(super) fn arn(&self) -> String {
        format!("{ARN_PREFIX}{}", self.name)
    }

    pub(super) fn notes(&self) -> Notes {
        lock(&self.notes).clone()
    }

    /// Changes the notes, durably before anybody sees it.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut Notes) -> Answer<T>) -> Answer<T> {
        let mut notes = lock(&self.notes);
        let mut changed = notes.clone();
        let answer = change(&mut changed)?;
        let text = serde_json::to_vec_pretty(&changed)?;
        let building = self.notes_path.with_extension("json.new");
        let written = fs::File::create(&building)
            .and_then(|mut file| file.write_all(&text).and_then(|()| file.sync_all()))
            .and_then(|()| fs::rename(&building, &self.notes_path));
        written.map_err(|error| ApiError::from(io_fault(&error, "write", &self.notes_path)))?;
        *notes = changed;
        Ok(answer)
    }

    /// The shard, if records of it are left or can come.
    pub(super) fn shard(&self, shard: &str) -> Answer<ShardInfo> {
        let found = self.stream.shards_blocking()?.into_iter().find(|info| info.shard.as_str() == shard);
        found.ok_or_else(|| self.no_shard(shard))
    }

    /// Forgets what arrived before this time; the number of records.
    pub(super) fn trim(&self, before_us: i64) -> Answer<u64> {
        let mut forgotten = 0;
        for info in self.stream.shards_blocking()? {
            forgotten += self.stream.trim_before(&info.shard, before_us)?;
        }
        Ok(forgotten)
    }

    pub(super) fn no_shard(&self, shard: &str) -> ApiError {
        ApiError::not_found(format!("Shard {shard} in stream {} under account 000000000000 does not exist", self.name))
    }
}

/// All streams under one root.
pub(super) struct Streams {
    root: PathBuf,
    clock: Arc<dyn Clock>,
    open: Mutex<HashMap<String, Arc<Entry>>>,
}

impl Streams {
    pub(super) fn new(root: PathBuf, clock: Arc<dyn Clock>) -> Self {
        Self { root, clock, open: Mutex::default() }
    }

    /// Names, in order. Other processes may have made some of them.
    pub(super) fn names(&self) -> Answer<Vec<String>> {
        let failed = |error: std::io::Error| ApiError::from(io_fault(&error, "list", &self.root));
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.root).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if !name.starts_with('.') && entry.path().join("stream.db").exists() {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// The stream of this name; it is opened when it is first asked for.
    pub(super) fn get(&self, name: &str) -> Answer<Arc<Entry>> {
        check_name(name)?;
        let mut open = lock(&self.open);
        if let Some(entry) = open.get(name) {
            return Ok(entry.clone());
        }
        if !self.root.join(name).join("stream.db").exists() {
            return Err(ApiError::not_found(format!("Stream {name} under account 000000000000 not found")));
        }
        let stream = EmbeddedStream::open(&self.root, name, self.clock.clone())?;
        let entry = Arc::new(Entry::open(&self.root, name, stream)?);
        open.insert(name.to_owned(), entry.clone());
        Ok(entry)
    }

    /// The stream a request names, by name or ARN.
    pub(super) fn named(&self, request: &Request) -> Answer<Arc<Entry>> {
        self.get(stream_name(request.stream_name.as_deref(), request.stream_arn.as_deref())?)
    }

    pub(super) fn create(&self, name: &str, shards: usize) -> Answer<Arc<Entry>> {
        check_name(name)?;
        if self.root.join(name).join("stream.db").exists() {
            return Err(ApiError::in_use(format!("Stream {name} under account 000000000000 already exists.")));
        }
        EmbeddedStream::create(&self.root, name, shards, self.clock.clone())?;
        self.get(name)
    }

    /// Removes a stream and its records.
    pub(super) fn delete(&self, entry: &Entry) -> Answer<()> {
        entry.subscriptions.end_all();
        let mut open = lock(&self.open);
        open.remove(&*entry.name);
        let place = self.root.join(&*entry.name);
        // Out of sight in one step: a half-deleted stream is never opened.
        let doomed = self.root.join(format!(".deleted-{:016x}", self.clock.random()));
        let removed = fs::rename(&place, &doomed).and_then(|()| fs::remove_dir_all(&doomed));
        removed.map_err(|error| io_fault(&error, "delete", &place).into())
    }
}

fn check_name(name: &str) -> Answer<()> {
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if name.is_empty() || name.len() > 128 || !name.bytes().all(fine) || name.starts_with('.') {
        return Err(ApiError::validation(
            "'streamName' must have 1 to 128 of the characters a-z A-Z 0-9 - _ . and, at this endpoint, not begin with a dot",
        ));
    }
    Ok(())
}

/// The name out of a name or an ARN, or out of both if they agree.
pub(super) fn stream_name<'a>(name: Option<&'a str>, arn: Option<&'a str>) -> Answer<&'a str> {
    let from_arn = match arn {
        Some(arn) => {
            let (_, rest) =
                arn.split_once(":stream/").ok_or_else(|| ApiError::validation("'streamARN' is not an ARN of a stream"))?;
            Some(rest.split('/').next().unwrap_or(rest))
        }
        None => None,
    };
    match (name, from_arn) {
        (Some(name), Some(other)) if name != other => {
            Err(ApiError::invalid("StreamARN and StreamName do not name the same stream: give one of them"))
        }
        (Some(name), _) | (None, Some(name)) => Ok(name),
        (None, None) => Err(ApiError::invalid("Either StreamARN or StreamName must be given")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_named_by_name_or_arn_and_both_must_agree() {
        let arn = format!("{ARN_PREFIX}orders");
        assert_eq!(stream_name(Some("orders"), None), Ok("orders"));
        assert_eq!(stream_name(None, Some(&arn)), Ok("orders"));
        assert_eq!(stream_name(None, Some(&format!("{arn}/consumer/c:1"))), Ok("orders"));
        assert_eq!(stream_name(Some("orders"), Some(&arn)), Ok("orders"));
        let code = |name, arn| stream_name(name, arn).expect_err("refused").code;
        assert_eq!(code(Some("other"), Some(arn.as_str())), "InvalidArgumentException");
        assert_eq!(code(None, None), "InvalidArgumentException");
        assert_eq!(code(None, Some("orders")), "ValidationException");
    }

    #[test]
    fn names_that_would_leave_the_root_are_refused() {
        for name in ["", "..", ".x", "a/b", "a\\b", &"x".repeat(129)] {
            assert_eq!(check_name(name).expect_err("refused").code, "ValidationException", "{name}");
        }
    }
}
