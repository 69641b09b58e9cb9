//! One shard of the embedded stream: one database file with its batches, in order, and one row of state.
//!
//! Numbers are given inside `BEGIN IMMEDIATE`, so that any number of processes append densely; a put is one transaction per
//! shard, acknowledged after its commit is on the disk. A seal ends a shard for good: it is set in the same database that
//! gives the numbers, so no record can slip in behind it.
//!
//! Owns: append, read, trim, seal of one shard. Does not own: which shards there are (catalog), which record goes where
//! (embedded), the bytes of a batch (batch).

use std::path::PathBuf;

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};
use sluicebox_actors::model::fault::{Fault, Result};
use sluicebox_actors::model::position::ShardId;
use sluicebox_actors::model::record::RawRecord;

use super::batch::{Batch, BatchWriter, Cursor, EncodedBatch};
use super::database::{self, Lazy, Trouble, sqlite_fault};

// A read copies one row at a time, so a row bounds what a small read costs.
const ROW_BYTES: usize = 1 << 20;

const SCHEMA: &str = "
    CREATE TABLE batches (
        first_sequence INTEGER PRIMARY KEY, last_sequence INTEGER NOT NULL,
        first_arrival INTEGER NOT NULL, last_arrival INTEGER NOT NULL,
        bytes INTEGER NOT NULL, payload BLOB NOT NULL
    );
    CREATE TABLE state (
        id INTEGER PRIMARY KEY CHECK (id = 1),
        first_sequence INTEGER NOT NULL, next_sequence INTEGER NOT NULL, last_arrival INTEGER NOT NULL,
        bytes INTEGER NOT NULL, sealed INTEGER NOT NULL, forgotten INTEGER NOT NULL
    );
    INSERT INTO state VALUES (1, 1, 1, 0, 0, 0, 0);";

/// One record on its way into a shard.
pub(super) struct Incoming<'a> {
    pub(super) key: &'a [u8],
    pub(super) data: &'a [u8],
    pub(super) arrival_us: i64,
}

/// What became of an append.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Appended {
    /// Durable; the first record's number, the others follow densely.
    Stored(u64),
    /// The shard takes no more records: ask the catalog where they go now.
    Sealed,
}

/// The state row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct State {
    /// First record that is kept.
    pub(super) first: u64,
    /// Number of the next record.
    pub(super) next: u64,
    pub(super) last_arrival_us: i64,
    /// Bytes of the payloads kept.
    pub(super) bytes: u64,
    pub(super) sealed: bool,
    /// Sealed, and retention took its last record.
    pub(super) forgotten: bool,
}

/// What one read saw, all of it at one moment.
pub(super) struct ShardRead {
    pub(super) records: Vec<RawRecord>,
    pub(super) state: State,
}

struct Reader {
    connection: Connection,
    // Small reads walk through one batch without fetching and checking it again each time.
    current: Option<(Batch, Cursor)>,
}

/// One shard's database. Cheap to hold: connections open when they are first needed.
pub(super) struct ShardStore {
    shard: ShardId,
    path: PathBuf,
    writer: Lazy<Connection>,
    reader: Lazy<Reader>,
}

impl ShardStore {
    pub(super) fn new(shard: ShardId, path: PathBuf) -> Self {
        Self { shard, path, writer: Lazy::new(), reader: Lazy::new() }
    }

    /// Creates the file unless it is there.
    pub(super) fn create(&self, nonce: u64) -> Result<()> {
        database::create(&self.path, nonce, |connection| connection.execute_batch(SCHEMA)).map(|_| ())
    }

    pub(super) fn shard(&self) -> &ShardId {
        &self.shard
    }

    /// Appends all or nothing, durably.
    pub(super) fn append(&self, records: &[Incoming<'_>]) -> Result<Appended> {
        self.bound_the_log()?;
        self.write(|transaction| {
            let state = read_state(transaction)?;
            if state.sealed {
                return Ok(Appended::Sealed);
            }
            let mut next = state.next;
            let mut last_arrival_us = state.last_arrival_us;
            let mut bytes = 0;
            let mut insert = transaction.prepare_cached("INSERT INTO batches VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?;
            for batch in rows(records, next, last_arrival_us) {
                insert.execute(params![
                    batch.first_sequence as i64,
                    batch.last_sequence as i64,
                    batch.first_arrival_us,
                    batch.last_arrival_us,
                    batch.data_bytes as i64,
                    batch.payload,
                ])?;
                next = batch.last_sequence + 1;
                last_arrival_us = batch.last_arrival_us;
                bytes += batch.data_bytes;
            }
            transaction
                .prepare_cached("UPDATE state SET next_sequence = ?1, last_arrival = ?2, bytes = bytes + ?3")?
                .execute(params![next as i64, last_arrival_us, bytes as i64])?;
            Ok(Appended::Stored(state.next))
        })
    }

    /// Records from this number on (or the first kept): at least one if there is one, else within both limits.
    pub(super) fn read(&self, from: u64, max_records: usize, max_bytes: usize) -> Result<ShardRead> {
        self.reader.with(
            || Ok(Reader { connection: database::open(&self.path)?, current: None }),
            |reader| {
                let transaction = reader.connection.transaction().map_err(|error| self.fault(&error, "read"))?;
                let state = read_state(&transaction).map_err(|error| self.fault(&error, "read the state of"))?;
                let mut records: Vec<RawRecord> = Vec::new();
                let mut weight = 0;
                let mut next = from.max(state.first);
                while next < state.next {
                    let (batch, mut cursor) = match reader.current.take() {
                        Some((batch, cursor)) if cursor.next() == next => (batch, cursor),
                        Some(_) | None => self.batch_with(&transaction, next, state.next)?,
                    };
                    let full = self.take(&batch, &mut cursor, &mut records, &mut weight, max_records, max_bytes)?;
                    next = cursor.next();
                    if next < batch.end() {
                        reader.current = Some((batch, cursor));
                    }
                    if full {
                        break;
                    }
                }
                Ok(ShardRead { records, state })
            },
        )
    }

    /// Number of the first record kept that arrived at this time or later; the next to come if there is none.
    pub(super) fn first_at(&self, arrival_us: i64) -> Result<u64> {
        self.reader.with(
            || Ok(Reader { connection: database::open(&self.path)?, current: None }),
            |reader| {
                let doing = format!("search shard {}", self.shard);
                let transaction = reader.connection.transaction().map_err(|error| sqlite_fault(&error, &doing))?;
                let state = read_state(&transaction).map_err(|error| sqlite_fault(&error, &doing))?;
                self.find_cut(&transaction, state, arrival_us).map(|cut| cut.first).map_err(|trouble| trouble.into_fault(&doing))
            },
        )
    }

    /// The state row.
    pub(super) fn state(&self) -> Result<State> {
        self.reader.with(
            || Ok(Reader { connection: database::open(&self.path)?, current: None }),
            |reader| read_state(&reader.connection).map_err(|error| self.fault(&error, "read the state of")),
        )
    }

    /// Lets no more records in. Idempotent.
    pub(super) fn seal(&self) -> Result<()> {
        self.write(|transaction| Ok(transaction.execute("UPDATE state SET sealed = 1", []).map(|_| ())?))
    }

    /// Removes the records that arrived before this time; the number of records removed.
    pub(super) fn trim_before(&self, arrival_us: i64) -> Result<u64> {
        self.write(|transaction| {
            let state = read_state(transaction)?;
            let cut = self.find_cut(transaction, state, arrival_us)?;
            transaction.execute("DELETE FROM batches WHERE last_sequence < ?1", [cut.first as i64])?;
            let whole: i64 = transaction.query_row(
                "SELECT coalesce(sum(bytes), 0) FROM batches WHERE first_sequence >= ?1",
                [cut.first as i64],
                |row| row.get(0),
            )?;
            transaction.execute(
                "UPDATE state SET first_sequence = ?1, bytes = ?2, forgotten = (sealed AND ?1 = next_sequence)",
                params![cut.first as i64, whole + cut.bytes_in_cut_batch as i64],
            )?;
            Ok(cut.first - state.first)
        })
    }

    fn find_cut(&self, transaction: &Transaction<'_>, state: State, arrival_us: i64) -> Result<Cut, Trouble> {
        let row: Option<i64> = transaction
            .query_row(
                "SELECT first_sequence FROM batches WHERE last_arrival >= ?1 ORDER BY first_sequence LIMIT 1",
                [arrival_us],
                |row| row.get(0),
            )
            .optional()?;
        let Some(row) = row else { return Ok(Cut { first: state.next, bytes_in_cut_batch: 0 }) };
        let (batch, mut cursor) = self.batch_with(transaction, row as u64, state.next)?;
        let damaged = |what| self.damaged(batch.first_sequence(), batch.end() - 1, what);
        let mut cut = Cut { first: batch.end(), bytes_in_cut_batch: 0 };
        while let Some(record) = batch.next(&mut cursor).map_err(damaged)? {
            let sequence = cursor.next() - 1;
            if record.arrival_us >= arrival_us && sequence >= state.first {
                cut.first = cut.first.min(sequence);
                cut.bytes_in_cut_batch += record.data.len() as u64;
            }
        }
        if cut.first == batch.first_sequence() {
            // The batch is kept whole, so the sum over whole batches already has it.
            cut.bytes_in_cut_batch = 0;
        }
        Ok(cut)
    }

    fn write<T>(&self, work: impl FnOnce(&Transaction<'_>) -> Result<T, Trouble>) -> Result<T> {
        self.writer.with(
            || database::open(&self.path),
            |connection| {
                let transact = || -> Result<T, Trouble> {
                    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
                    let answer = work(&transaction)?;
                    transaction.commit()?;
                    Ok(answer)
                };
                transact().map_err(|trouble| trouble.into_fault(&format!("write to shard {}", self.shard)))
            },
        )
    }

    // A passive checkpoint stops at the oldest reader; when that went on for too long, wait for the readers once. Never after an
    // append: a record that is durable must not be reported as lost.
    fn bound_the_log(&self) -> Result<()> {
        let mut log = self.path.clone().into_os_string();
        log.push("-wal");
        if std::fs::metadata(log).map_or(0, |log| log.len()) <= database::WAL_MAX {
            return Ok(());
        }
        self.writer.with(
            || database::open(&self.path),
            |connection| {
                connection
                    .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
                    .map_err(|error| self.fault(&error, "checkpoint"))
            },
        )
    }

    /// The batch that holds this record, with the cursor before it.
    fn batch_with(&self, transaction: &Transaction<'_>, sequence: u64, end: u64) -> Result<(Batch, Cursor)> {
        const ROW: &str = "SELECT first_sequence, last_sequence, payload FROM batches
            WHERE first_sequence <= ?1 ORDER BY first_sequence DESC LIMIT 1";
        let row = transaction
            .prepare_cached(ROW)
            .and_then(|mut statement| {
                statement
                    .query_row([sequence as i64], |row| {
                        let payload = row.get_ref(2)?.as_blob().map(Bytes::copy_from_slice)?;
                        Ok((row.get::<_, i64>(0)? as u64, row.get::<_, i64>(1)? as u64, payload))
                    })
                    .optional()
            })
            .map_err(|error| self.fault(&error, &format!("read sequences {sequence}..={} of", end - 1)))?;
        let (first, last, payload) =
            row.filter(|(_, last, _)| *last >= sequence).ok_or_else(|| self.damaged(sequence, end - 1, "a batch is missing"))?;
        let damaged = |what| self.damaged(first, last, what);
        let batch = Batch::decode(payload).map_err(damaged)?;
        if batch.first_sequence() != first || batch.end() != last + 1 {
            return Err(damaged("the payload belongs to another batch"));
        }
        let mut cursor = batch.start();
        batch.seek(&mut cursor, sequence).map_err(damaged)?;
        Ok((batch, cursor))
    }

    // True when a limit is reached; the cursor then stands before the first record that was not taken.
    fn take(
        &self,
        batch: &Batch,
        cursor: &mut Cursor,
        records: &mut Vec<RawRecord>,
        weight: &mut usize,
        max_records: usize,
        max_bytes: usize,
    ) -> Result<bool> {
        loop {
            if !records.is_empty() && records.len() >= max_records {
                return Ok(true);
            }
            let before = *cursor;
            let damaged = |what| self.damaged(batch.first_sequence(), batch.end() - 1, what);
            let Some(record) = batch.next(cursor).map_err(damaged)? else { return Ok(false) };
            if !records.is_empty() && *weight + record.weight() > max_bytes {
                *cursor = before;
                return Ok(true);
            }
            *weight += record.weight();
            records.push(record);
        }
    }

    fn fault(&self, error: &rusqlite::Error, doing: &str) -> Fault {
        sqlite_fault(error, &format!("{doing} shard {}", self.shard))
    }

    fn damaged(&self, first: u64, last: u64, what: &str) -> Fault {
        Fault::corrupt(format!(
            "embedded stream: shard {}, sequences {first}..={last}: {what}; restore {} from a copy",
            self.shard,
            self.path.display()
        ))
    }
}

struct Cut {
    first: u64,
    bytes_in_cut_batch: u64,
}

fn read_state(connection: &Connection) -> rusqlite::Result<State> {
    connection
        .prepare_cached("SELECT first_sequence, next_sequence, last_arrival, bytes, sealed, forgotten FROM state")?
        .query_row([], |row| {
            Ok(State {
                first: row.get::<_, i64>(0)? as u64,
                next: row.get::<_, i64>(1)? as u64,
                last_arrival_us: row.get(2)?,
                bytes: row.get::<_, i64>(3)? as u64,
                sealed: row.get(4)?,
                forgotten: row.get(5)?,
            })
        })
}

/// Cuts records into rows of about [`ROW_BYTES`], one at a time.
fn rows<'a>(records: &'a [Incoming<'a>], first: u64, last_arrival_us: i64) -> impl Iterator<Item = EncodedBatch> + 'a {
    let mut rest = records;
    let (mut next, mut arrival_us) = (first, last_arrival_us);
    std::iter::from_fn(move || {
        let size = |record: &Incoming<'_>| record.key.len() + record.data.len() + 16;
        let first = rest.first()?;
        let (mut taken, mut bytes) = (1, size(first));
        while let Some(record) = rest.get(taken).filter(|record| bytes + size(record) <= ROW_BYTES) {
            bytes += size(record);
            taken += 1;
        }
        let mut writer = BatchWriter::new(next, first.arrival_us.max(arrival_us), bytes);
        for record in &rest[..taken] {
            writer.push(record.key, record.data, record.arrival_us);
        }
        rest = &rest[taken..];
        let batch = writer.finish()?;
        next = batch.last_sequence + 1;
        arrival_us = batch.last_arrival_us;
        Some(batch)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(dir: &tempfile::TempDir) -> ShardStore {
        let store = ShardStore::new(ShardId::new("shardId-000000000000"), dir.path().join("shard.db"));
        store.create(1).expect("creates");
        store
    }

    fn put(store: &ShardStore, data: &[&[u8]], arrival_us: i64) -> Appended {
        let records: Vec<_> = data.iter().map(|data| Incoming { key: b"k", data, arrival_us }).collect();
        store.append(&records).expect("appends")
    }

    fn numbers(store: &ShardStore, from: u64, max_records: usize, max_bytes: usize) -> Vec<u64> {
        let read = store.read(from, max_records, max_bytes).expect("reads");
        read.records.iter().map(|record| record.sequence.as_dense().expect("dense")).collect()
    }

    #[test]
    fn a_read_starts_inside_a_batch_and_keeps_both_limits() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = store(&dir);
        assert_eq!(put(&store, &[b"a", b"b", b"c"], 1), Appended::Stored(1));
        assert_eq!(put(&store, &[b"d", b"e"], 2), Appended::Stored(4));
        assert_eq!(numbers(&store, 2, 3, usize::MAX), [2, 3, 4]);
        assert_eq!(numbers(&store, 5, 3, usize::MAX), [5]);
        assert_eq!(numbers(&store, 1, 9, 2 * 130), [1, 2]);
        assert_eq!(numbers(&store, 1, 9, 0), [1], "at least one record");
        assert_eq!(numbers(&store, 6, 9, 0), [0; 0]);
    }

    #[test]
    fn a_large_put_becomes_rows_of_a_mebibyte() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = store(&dir);
        let data = vec![7; 300 << 10];
        put(&store, &[&data[..]; 10], 1);
        let rows: i64 = database::open(&dir.path().join("shard.db"))
            .expect("opens")
            .query_row("SELECT count(*) FROM batches", [], |row| row.get(0))
            .expect("counts");
        assert_eq!(rows, 4);
        assert_eq!(numbers(&store, 1, 99, usize::MAX), (1..=10).collect::<Vec<_>>());
    }

    #[test]
    fn a_sealed_shard_takes_no_record() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = store(&dir);
        put(&store, &[b"a"], 1);
        store.seal().expect("seals");
        assert_eq!(put(&store, &[b"b"], 1), Appended::Sealed);
        assert_eq!(store.state().expect("reads").next, 2);
    }

    #[test]
    fn retention_cuts_inside_a_batch_and_forgets_a_sealed_shard_when_nothing_is_left() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = store(&dir);
        let records: Vec<_> = (1..=4).map(|i| Incoming { key: b"k", data: b"xy", arrival_us: i * 10 }).collect();
        store.append(&records).expect("appends");
        assert_eq!(store.trim_before(25).expect("trims"), 2);
        assert_eq!(
            store.state().expect("reads"),
            State { first: 3, next: 5, last_arrival_us: 40, bytes: 4, sealed: false, forgotten: false }
        );
        assert_eq!(store.trim_before(5).expect("trims"), 0, "it never goes back");
        assert_eq!(store.state().expect("reads").bytes, 4);
        assert_eq!(numbers(&store, 1, 9, usize::MAX), [3, 4]);
        store.seal().expect("seals");
        assert_eq!(store.trim_before(41).expect("trims"), 2);
        assert!(store.state().expect("reads").forgotten);
    }

    #[test]
    fn a_missing_batch_is_damage_and_names_shard_and_range() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = store(&dir);
        put(&store, &[b"a"], 1);
        put(&store, &[b"b", b"c"], 1);
        let connection = database::open(&dir.path().join("shard.db")).expect("opens");
        connection.execute("DELETE FROM batches WHERE first_sequence = 2", []).expect("deletes");
        let fault = store.read(1, 9, usize::MAX).err().expect("damage");
        assert_eq!(fault.kind(), sluicebox_actors::model::fault::Kind::Corrupt);
        assert!(fault.message().contains("shardId-000000000000, sequences 2..=3"), "{fault}");
    }
}
