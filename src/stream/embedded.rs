//! The embedded stream: Kinesis in one process, durable, under one directory.
//!
//! ```text
//! <root>/<name>/stream.db                 shards, parents, hash ranges
//! <root>/<name>/shardId-000000000000.db   one database per shard: batches of records, dense sequence numbers
//! ```
//!
//! It lies in SQLite, in write-ahead mode with `synchronous = FULL`, because `put`, `shards` and `audit` must work from other
//! processes beside a running `run`: write-ahead mode gives many readers beside one writer across processes, where stores that
//! lock their file give one process alone. Opening reads a few rows and at most one write-ahead log, never the records.
//!
//! Owns: streams, puts, reads as the port wants them, retention, split and merge. Does not own: which shard a record goes to
//! (routing), one shard's database (shard), the topology (catalog), bytes on disk (batch).

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use sluicebox_actors::model::fault::{Fault, Kind, Result};
use sluicebox_actors::model::position::{Position, Sequence, ShardId};
use sluicebox_actors::ports::{Clock, Read, ShardInfo, Stream};

use super::catalog::{Catalog, Reshard, shard_name};
use super::database::{io_fault, lock};
use super::routing::{Prepared, Routing};
use super::shard::{Appended, ShardStore};

/// Largest payload of one record, bytes.
pub const RECORD_MAX: usize = 10 << 20;
/// Longest partition key, characters.
pub const KEY_MAX: usize = 256;
/// Most shards a stream can be created with.
pub const SHARDS_MAX: usize = 1000;

// Each round follows one more reshard that happened while the put was on its way.
const ROUTE_ROUNDS: usize = 16;

/// A record to put.
#[derive(Clone, Default)]
pub struct PutRecord {
    /// UTF-8, 1 to 256 characters; none = the hexadecimal MD5 of the data.
    pub partition_key: Option<Bytes>,
    /// Goes to the shard that holds this hash key, whatever the partition key says.
    pub explicit_hash_key: Option<u128>,
    /// The payload, at most 10 MiB.
    pub data: Bytes,
    /// Microseconds since 1970; none = the stream's clock. Never falls within a shard: an earlier one becomes the latest so far.
    pub arrival_us: Option<i64>,
}

/// Why one record of a put was not stored.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PutError {
    /// The payload is too large.
    #[error("the record has {0} bytes, at most {RECORD_MAX} fit: put it somewhere else and send a reference")]
    TooLarge(usize),
    /// The partition key has no character or too many.
    #[error("the partition key has {0} characters, it must have 1 to {KEY_MAX}")]
    KeyLength(usize),
    /// The partition key is not text.
    #[error("the partition key is not UTF-8")]
    KeyNotText,
    /// The store failed; `Retry` = put this record again.
    #[error(transparent)]
    NotStored(Fault),
}

/// What became of each record of a put, in the order given.
pub type PutOutcome = Vec<Result<(ShardId, Sequence), PutError>>;

/// What a shard holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ShardStats {
    /// First record kept; none if there is no record.
    pub first: Option<Sequence>,
    /// Last record kept.
    pub last: Option<Sequence>,
    /// Number of records kept.
    pub records: u64,
    /// Bytes of the payloads kept.
    pub bytes: u64,
    /// Arrival of the newest record ever, microseconds; none if there never was one.
    pub last_arrival_us: Option<i64>,
}

/// A stream under a directory. Clones share connections; any number of processes may open the same stream.
#[derive(Clone)]
pub struct EmbeddedStream(Arc<Inner>);

struct Inner {
    name: Arc<str>,
    dir: PathBuf,
    clock: Arc<dyn Clock>,
    catalog: Catalog,
    created_us: i64,
    stores: Mutex<HashMap<ShardId, Arc<ShardStore>>>,
    routing: Mutex<Arc<Routing>>,
}

impl EmbeddedStream {
    /// Creates a stream under `<root>/<name>`; one that is there already is a `Config` fault.
    pub fn create(root: &Path, name: &str, shards: usize, clock: Arc<dyn Clock>) -> Result<Self> {
        if Self::create_files(root, name, shards, &clock)? {
            return Self::open(root, name, clock);
        }
        Err(Fault::config(format!("there is a stream `{name}` in {} already: open it, or take another name", root.display())))
    }

    /// Opens a stream that must be there.
    pub fn open(root: &Path, name: &str, clock: Arc<dyn Clock>) -> Result<Self> {
        let dir = stream_dir(root, name)?;
        let catalog = Catalog::new(&dir);
        if !catalog.exists() {
            return Err(Fault::config(format!(
                "there is no stream `{name}` in {}: `put` and `run` create it, or give the right --data directory",
                root.display()
            )));
        }
        let created_us = catalog.meta()?.created_us;
        let inner =
            Inner { name: name.into(), dir, clock, catalog, created_us, stores: Mutex::default(), routing: Mutex::default() };
        inner.load_routing()?;
        Ok(Self(Arc::new(inner)))
    }

    /// Opens, or creates with this many shards. A stream that is there keeps its shards; a number that is neither the one it was
    /// created with nor the number of shards open now is a `Config` fault.
    pub fn open_or_create(root: &Path, name: &str, shards: usize, clock: Arc<dyn Clock>) -> Result<Self> {
        Self::create_files(root, name, shards, &clock)?;
        let stream = Self::open(root, name, clock)?;
        let created = stream.0.catalog.meta()?.created_shards;
        let open = lock(&stream.0.routing).len();
        if shards == created || shards == open {
            return Ok(stream);
        }
        Err(Fault::config(format!(
            "stream `{name}` has {open} open shards (created with {created}), the settings say {shards}: set stream.shards = \
             {open}, or change the stream itself with `shards split` and `shards merge`"
        )))
    }

    fn create_files(root: &Path, name: &str, shards: usize, clock: &Arc<dyn Clock>) -> Result<bool> {
        if shards == 0 || shards > SHARDS_MAX {
            return Err(Fault::config(format!("stream.shards = {shards}: a stream starts with 1 to {SHARDS_MAX} shards")));
        }
        let dir = stream_dir(root, name)?;
        let catalog = Catalog::new(&dir);
        if catalog.exists() {
            return Ok(false);
        }
        fs::create_dir_all(&dir).map_err(|error| io_fault(&error, "create", &dir))?;
        for shard in (0..shards as i64).map(shard_name) {
            ShardStore::new(shard.clone(), shard_path(&dir, &shard)).create(clock.random())?;
        }
        catalog.create(clock.random(), name, shards, clock.now_us())
    }

    /// When it was created, microseconds since 1970, by the creator's clock.
    pub fn created_us(&self) -> i64 {
        self.0.created_us
    }

    /// Stores records durably, one transaction per shard: an `Ok` is given only when the record is on the disk. Blocks.
    pub fn put(&self, records: &[PutRecord]) -> Result<PutOutcome> {
        self.0.put(records)
    }

    /// As the port's `read`. Blocks.
    pub fn read_blocking(&self, shard: &ShardId, after: Position, max_records: usize, max_bytes: usize) -> Result<Read> {
        self.0.read(shard, after, max_records, max_bytes)
    }

    /// As the port's `shards`. Blocks.
    pub fn shards_blocking(&self) -> Result<Vec<ShardInfo>> {
        self.0.shards()
    }

    /// What a shard holds. Blocks.
    pub fn stats(&self, shard: &ShardId) -> Result<ShardStats> {
        let state = self.0.store(shard)?.state()?;
        let records = state.next - state.first;
        let any = |sequence: u64| (records > 0).then(|| Sequence::dense(sequence));
        Ok(ShardStats {
            first: any(state.first),
            last: any(state.next - 1),
            records,
            bytes: state.bytes,
            last_arrival_us: (state.next > 1).then_some(state.last_arrival_us),
        })
    }

    /// The place after the newest record there ever was. Blocks.
    pub fn end_blocking(&self, shard: &ShardId) -> Result<Position> {
        Ok(Position::after(Sequence::dense(self.0.store(shard)?.state()?.next - 1)))
    }

    /// The place before the first record kept that arrived at this time (microseconds since 1970) or later. Blocks.
    pub fn before_arrival(&self, shard: &ShardId, arrival_us: i64) -> Result<Position> {
        Ok(Position::after(Sequence::dense(self.0.store(shard)?.first_at(arrival_us)? - 1)))
    }

    /// Retention: forgets the records of a shard that arrived before this time; the number forgotten. Blocks.
    pub fn trim_before(&self, shard: &ShardId, arrival_us: i64) -> Result<u64> {
        self.0.store(shard)?.trim_before(arrival_us)
    }

    /// Closes a shard; its range goes to two children, the second starts at this hash key. Blocks.
    pub fn split(&self, shard: &ShardId, new_starting_hash: u128) -> Result<Vec<ShardId>> {
        self.0.reshard(Reshard::Split(shard, new_starting_hash))
    }

    /// Closes two neighbours; their range goes to one child. Blocks.
    pub fn merge(&self, one: &ShardId, other: &ShardId) -> Result<ShardId> {
        let children = self.0.reshard(Reshard::Merge(one, other))?;
        children.into_iter().next().ok_or_else(|| Fault::bug("a merge without a child"))
    }

    async fn off_the_loop<T: Send + 'static>(&self, work: impl FnOnce(&Inner) -> Result<T> + Send + 'static) -> Result<T> {
        let inner = self.0.clone();
        match tokio::runtime::Handle::try_current() {
            Ok(handle) => match handle.spawn_blocking(move || work(&inner)).await {
                Ok(answer) => answer,
                Err(error) => Err(Fault::caused(Kind::Bug, "embedded stream: a blocking call ended abnormally", &error)),
            },
            Err(_no_runtime) => work(&inner),
        }
    }
}

#[async_trait]
impl Stream for EmbeddedStream {
    fn name(&self) -> Arc<str> {
        self.0.name.clone()
    }

    async fn shards(&self) -> Result<Vec<ShardInfo>> {
        self.off_the_loop(Inner::shards).await
    }

    async fn read(&self, shard: &ShardId, after: Position, max_records: usize, max_bytes: usize) -> Result<Read> {
        let shard = shard.clone();
        self.off_the_loop(move |inner| inner.read(&shard, after, max_records, max_bytes)).await
    }

    async fn newest(&self, shard: &ShardId) -> Result<Option<Sequence>> {
        let shard = shard.clone();
        let state = self.off_the_loop(move |inner| inner.store(&shard)?.state()).await?;
        Ok((state.next > 1).then(|| Sequence::dense(state.next - 1)))
    }
}

impl Inner {
    fn put(&self, records: &[PutRecord]) -> Result<PutOutcome> {
        let now_us = self.clock.now_us();
        let mut outcome: Vec<Option<Result<(ShardId, Sequence), PutError>>> = vec![None; records.len()];
        let mut prepared = Vec::with_capacity(records.len());
        for (index, record) in records.iter().enumerate() {
            match Prepared::new(index, record) {
                Ok(record) => prepared.push(record),
                Err(refused) => outcome[index] = Some(Err(refused)),
            }
        }
        for _ in 0..ROUTE_ROUNDS {
            if prepared.is_empty() {
                break;
            }
            let routing = lock(&self.routing).clone();
            for group in routing.append(std::mem::take(&mut prepared), records, now_us)? {
                match group.appended {
                    Ok(Appended::Stored(first)) => {
                        for (sequence, record) in (first..).zip(&group.records) {
                            outcome[record.index] = Some(Ok((group.store.shard().clone(), Sequence::dense(sequence))));
                        }
                    }
                    Ok(Appended::Sealed) => prepared.extend(group.records),
                    Err(fault) => {
                        let not_stored =
                            |record: Prepared<'_>| outcome[record.index] = Some(Err(PutError::NotStored(fault.clone())));
                        group.records.into_iter().for_each(not_stored);
                    }
                }
            }
            if !prepared.is_empty() {
                // Order within a key was kept by shard; it stays so when two parents' records meet in one child.
                prepared.sort_unstable_by_key(|record| record.index);
                self.load_routing()?;
            }
        }
        let moving = || Err(PutError::NotStored(Fault::retry("the stream was resharded all through this put: put again")));
        Ok(outcome.into_iter().map(|result| result.unwrap_or_else(moving)).collect())
    }

    fn read(&self, shard: &ShardId, after: Position, max_records: usize, max_bytes: usize) -> Result<Read> {
        let after = after.as_dense().ok_or_else(|| {
            Fault::corrupt(format!("position {after} of shard {shard} is not one of the embedded stream: it is foreign"))
        })?;
        let store = self.store(shard)?;
        let read = store.read(after + 1, max_records, max_bytes)?;
        let state = read.state;
        if after >= state.next {
            return Err(Fault::corrupt(format!(
                "shard {shard} ends with record {}, but was read up to {after} before: the stream was replaced by an older one; \
                 restore it, or start a new pipeline",
                state.next - 1
            )));
        }
        let reached = after.max(state.first - 1) + read.records.len() as u64;
        let caught_up = reached + 1 == state.next;
        if caught_up && read.records.is_empty() && !state.sealed && self.catalog.is_closed(shard)? {
            // Whoever resharded died before sealing; the next read says that the shard has ended.
            store.seal()?;
        }
        let ended = if caught_up && state.sealed { Some(self.children_of(shard)?) } else { None };
        let now_us = self.clock.now_us().max(state.last_arrival_us);
        let last_us = read.records.last().map(|last| last.arrival_us).filter(|_| !caught_up);
        Ok(Read {
            records: read.records,
            caught_up,
            now_us,
            ended,
            trimmed_before: (after + 1 < state.first).then(|| Position::after(Sequence::dense(state.first - 1))),
            behind_us: Some(last_us.map_or(0, |last_us| now_us - last_us)),
            fresh_us: None,
        })
    }

    fn shards(&self) -> Result<Vec<ShardInfo>> {
        let mut shards = Vec::new();
        for info in self.catalog.shards()? {
            if !info.closed || !self.store(&info.shard)?.state()?.forgotten {
                shards.push(info);
            }
        }
        Ok(shards)
    }

    fn children_of(&self, shard: &ShardId) -> Result<Vec<ShardInfo>> {
        Ok(self.catalog.shards()?.into_iter().filter(|info| info.parents.contains(shard)).collect())
    }

    fn reshard(&self, change: Reshard<'_>) -> Result<Vec<ShardId>> {
        let create = |child: &ShardId| ShardStore::new(child.clone(), shard_path(&self.dir, child)).create(self.clock.random());
        let children = self.catalog.reshard(change, create)?;
        self.load_routing()?;
        Ok(children)
    }

    /// The database of a shard that the catalog knows. Shard names come from outside, paths are made from known ones only.
    fn store(&self, shard: &ShardId) -> Result<Arc<ShardStore>> {
        if let Some(store) = lock(&self.stores).get(shard) {
            return Ok(store.clone());
        }
        let known = self.catalog.shards()?.into_iter().any(|info| info.shard == *shard);
        if !known {
            return Err(Fault::corrupt(format!(
                "stream `{}` has no shard {shard}: it was replaced, or the name is foreign",
                self.name
            )));
        }
        Ok(self.known_store(shard))
    }

    fn known_store(&self, shard: &ShardId) -> Arc<ShardStore> {
        let new = || Arc::new(ShardStore::new(shard.clone(), shard_path(&self.dir, shard)));
        lock(&self.stores).entry(shard.clone()).or_insert_with(new).clone()
    }

    /// Reads the topology anew and seals what it says is closed.
    fn load_routing(&self) -> Result<()> {
        let (closed, open): (Vec<_>, Vec<_>) = self.catalog.shards()?.into_iter().partition(|info| info.closed);
        for info in closed {
            let store = self.known_store(&info.shard);
            if !store.state()?.sealed {
                store.seal()?;
            }
        }
        let routing = Routing::new(&self.name, open, |info| self.known_store(&info.shard))?;
        *lock(&self.routing) = Arc::new(routing);
        Ok(())
    }
}

fn stream_dir(root: &Path, name: &str) -> Result<PathBuf> {
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if name.is_empty() || name.len() > 128 || !name.bytes().all(fine) || name.starts_with('.') {
        return Err(Fault::config(
            "a stream's name has 1 to 128 of the characters a-z A-Z 0-9 - _ . and does not begin with a dot",
        ));
    }
    Ok(root.join(name))
}

fn shard_path(dir: &Path, shard: &ShardId) -> PathBuf {
    dir.join(format!("{shard}.db"))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed;

    impl Clock for Fixed {
        fn now_us(&self) -> i64 {
            1_763_900_000_000_000
        }

        fn random(&self) -> u64 {
            7
        }
    }

    #[test]
    fn a_reshard_that_died_before_sealing_is_finished_by_the_reader_and_loses_no_record() {
        let dir = tempfile::tempdir().expect("a directory");
        let stream = EmbeddedStream::create(dir.path(), "s", 1, Arc::new(Fixed)).expect("creates");
        let inner = &stream.0;
        let parent = shard_name(0);
        let create = |child: &ShardId| ShardStore::new(child.clone(), shard_path(&inner.dir, child)).create(7);
        inner.catalog.reshard(Reshard::Split(&parent, 1 << 127), create).expect("commits");

        let put = |data: &'static str| {
            let outcome = stream.put(&[PutRecord { data: data.into(), ..PutRecord::default() }]).expect("puts");
            outcome[0].clone().expect("stored").0
        };
        assert_eq!(put("not sealed yet"), parent);
        let read = |after| stream.read_blocking(&parent, after, 9, 999).expect("reads");
        let first = read(Position::START);
        assert_eq!((first.records.len(), first.ended), (1, None));
        let behind = Position::after(first.records[0].sequence);
        assert_eq!(read(behind).ended, None);
        assert_eq!(read(behind).ended.expect("sealed by the read before").len(), 2);
        assert_ne!(put("sealed"), parent);
    }
}
