//! Shard, window and sink rows in SQLite: every compare-and-set is one conditional statement, durable before it is answered.
//!
//! Owns: the database file, two of its tables. Does not own: rows of sinks (feeds), what a row says (model/row), SQLite's errors.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use rusqlite::{Connection, OpenFlags, params};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sluicebox_actors::model::fault::{Fault, Kind, Result};
use sluicebox_actors::model::feed::FeedRow;
use sluicebox_actors::model::position::ShardId;
use sluicebox_actors::model::row::{Fence, ShardRow, WindowRow};
use sluicebox_actors::ports::{Cas, Rows};

use super::disk::blocking;
use super::home::Home;
use super::sqlite::fault;

mod feeds;

const SCHEMA_VERSION: i64 = 1;
const BUSY: Duration = Duration::from_secs(5);

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS shard_rows (
        key TEXT PRIMARY KEY, lease_epoch INTEGER NOT NULL, epoch INTEGER NOT NULL, json TEXT NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS window_rows (
        gold_table TEXT NOT NULL, start_us INTEGER NOT NULL, version INTEGER NOT NULL, json TEXT NOT NULL,
        PRIMARY KEY (gold_table, start_us)
    ) WITHOUT ROWID;
";

/// The rows of one data directory. Cheap to clone; one connection, one statement at a time.
#[derive(Clone)]
pub struct SqliteRows {
    connection: Arc<Mutex<Connection>>,
}

impl SqliteRows {
    /// Opens for the run that holds the lock; makes the database if there is none.
    pub fn open(home: &Home) -> Result<Self> {
        Self::open_at(&home.rows_path())
    }

    fn open_at(path: &Path) -> Result<Self> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection = Connection::open_with_flags(path, flags).map_err(|error| fault("opening the rows", &error))?;
        let opened = connection
            .busy_timeout(BUSY)
            .and_then(|()| connection.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get::<_, String>(0)))
            .and_then(|mode| connection.pragma_update(None, "synchronous", "full").map(|()| mode))
            .map_err(|error| fault("opening the rows", &error))?;
        if opened != "wal" {
            return Err(Fault::config(format!("{} lies where SQLite cannot keep a write-ahead log", path.display())));
        }
        check_version(&connection, path)?;
        let transaction = connection.transaction().map_err(|error| fault("making the tables", &error))?;
        transaction
            .execute_batch(SCHEMA)
            .and_then(|()| transaction.execute_batch(feeds::SCHEMA))
            .and_then(|()| transaction.pragma_update(None, "user_version", SCHEMA_VERSION))
            .and_then(|()| transaction.commit())
            .map_err(|error| fault("making the tables", &error))?;
        Ok(Self { connection: Arc::new(Mutex::new(connection)) })
    }

    /// Opens beside a run, for reading; makes no database (SQLite's own `-wal` and `-shm` files beside it may appear).
    /// Updates are refused.
    pub fn open_read_only(home: &Home) -> Result<Self> {
        Self::read_only_at(&home.rows_path())
    }

    fn read_only_at(path: &Path) -> Result<Self> {
        if !path.is_file() {
            return Err(Fault::config(format!("{} does not exist: nothing has been run here yet", path.display())));
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags).map_err(|error| fault("opening the rows", &error))?;
        connection.busy_timeout(BUSY).map_err(|error| fault("opening the rows", &error))?;
        if check_version(&connection, path)? == 0 {
            return Err(Fault::config(format!("{} is still empty: nothing has been run here yet", path.display())));
        }
        Ok(Self { connection: Arc::new(Mutex::new(connection)) })
    }

    async fn with<T, F>(&self, doing: &'static str, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, Broken> + Send + 'static,
    {
        let connection = self.connection.clone();
        blocking(move || {
            // A panic in a statement's caller leaves no transaction open, so the connection is as good as before.
            let connection = connection.lock().unwrap_or_else(PoisonError::into_inner);
            work(&connection).map_err(|broken| match broken {
                Broken::Sql(error) => fault(doing, &error),
                Broken::Fault(fault) => fault,
            })
        })
        .await
    }
}

/// What may go wrong inside a statement.
enum Broken {
    Sql(rusqlite::Error),
    Fault(Fault),
}

impl From<rusqlite::Error> for Broken {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<Fault> for Broken {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

#[async_trait]
impl Rows for SqliteRows {
    async fn shards(&self) -> Result<Vec<ShardRow>> {
        self.with("reading the shard rows", |connection| {
            let mut statement = connection.prepare_cached("SELECT json, lease_epoch, epoch FROM shard_rows ORDER BY key")?;
            let mut rows = statement.query([])?;
            let mut out = Vec::new();
            while let Some(row) = rows.next()? {
                out.push(shard_of(row)?);
            }
            Ok(out)
        })
        .await
    }

    async fn shard(&self, shard: &ShardId) -> Result<Option<ShardRow>> {
        let key = shard.as_str().to_owned();
        self.with("reading a shard row", move |connection| {
            let mut statement = connection.prepare_cached("SELECT json, lease_epoch, epoch FROM shard_rows WHERE key = ?1")?;
            let mut rows = statement.query(params![key])?;
            rows.next()?.map(shard_of).transpose()
        })
        .await
    }

    async fn create_shard(&self, row: &ShardRow) -> Result<Cas> {
        let (key, json) = (row.shard.as_str().to_owned(), json(row)?);
        let (lease_epoch, epoch) = (number(row.lease_epoch)?, number(row.epoch)?);
        self.with("creating a shard row", move |connection| {
            let mut statement = connection.prepare_cached(
                "INSERT INTO shard_rows (key, lease_epoch, epoch, json) VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING",
            )?;
            cas(statement.execute(params![key, lease_epoch, epoch, json])?)
        })
        .await
    }

    async fn update_shard(&self, expected: Fence, row: &ShardRow) -> Result<Cas> {
        let (key, json) = (row.shard.as_str().to_owned(), json(row)?);
        let (lease_epoch, epoch) = (number(row.lease_epoch)?, number(row.epoch)?);
        let (old_lease, old_epoch) = (number(expected.lease_epoch)?, number(expected.epoch)?);
        if lease_epoch < old_lease || epoch < old_epoch {
            return Err(Fault::bug("the fence of a shard row never falls"));
        }
        self.with("updating a shard row", move |connection| {
            let mut statement = connection.prepare_cached(
                "UPDATE shard_rows SET lease_epoch = ?2, epoch = ?3, json = ?4
                 WHERE key = ?1 AND lease_epoch = ?5 AND epoch = ?6",
            )?;
            cas(statement.execute(params![key, lease_epoch, epoch, json, old_lease, old_epoch])?)
        })
        .await
    }

    async fn windows(&self, table: &str) -> Result<Vec<WindowRow>> {
        let table = table.to_owned();
        self.with("reading the window rows", move |connection| {
            let mut statement =
                connection.prepare_cached("SELECT json, version FROM window_rows WHERE gold_table = ?1 ORDER BY start_us")?;
            let mut rows = statement.query(params![table])?;
            let mut out = Vec::new();
            while let Some(row) = rows.next()? {
                out.push(window_of(row)?);
            }
            Ok(out)
        })
        .await
    }

    async fn window(&self, table: &str, start_us: i64) -> Result<Option<WindowRow>> {
        let table = table.to_owned();
        self.with("reading a window row", move |connection| {
            let mut statement =
                connection.prepare_cached("SELECT json, version FROM window_rows WHERE gold_table = ?1 AND start_us = ?2")?;
            let mut rows = statement.query(params![table, start_us])?;
            rows.next()?.map(window_of).transpose()
        })
        .await
    }

    async fn update_window(&self, expected_version: u64, row: &WindowRow) -> Result<Cas> {
        if row.version <= expected_version {
            return Err(Fault::bug("every update of a window row raises its version"));
        }
        let (table, start_us, json) = (row.table.clone(), row.start_us, json(row)?);
        let (version, expected) = (number(row.version)?, number(expected_version)?);
        self.with("updating a window row", move |connection| {
            if expected == 0 {
                let mut statement = connection.prepare_cached(
                    "INSERT INTO window_rows (gold_table, start_us, version, json) VALUES (?1, ?2, ?3, ?4)
                     ON CONFLICT DO NOTHING",
                )?;
                return cas(statement.execute(params![table, start_us, version, json])?);
            }
            let mut statement = connection.prepare_cached(
                "UPDATE window_rows SET version = ?3, json = ?4 WHERE gold_table = ?1 AND start_us = ?2 AND version = ?5",
            )?;
            cas(statement.execute(params![table, start_us, version, json, expected])?)
        })
        .await
    }

    async fn feeds(&self, sink: &str) -> Result<Vec<FeedRow>> {
        let sink = sink.to_owned();
        self.with("reading the rows of a sink", move |connection| feeds::all(connection, &sink)).await
    }

    async fn feed(&self, sink: &str, key: &str) -> Result<Option<FeedRow>> {
        let (sink, key) = (sink.to_owned(), key.to_owned());
        self.with("reading a row of a sink", move |connection| feeds::one(connection, &sink, &key)).await
    }

    async fn update_feed(&self, expected: u64, row: &FeedRow) -> Result<Cas> {
        let row = row.clone();
        self.with("updating a row of a sink", move |connection| feeds::update(connection, expected, &row)).await
    }
}

fn cas(changed: usize) -> Result<Cas, Broken> {
    match changed {
        0 => Ok(Cas::Lost),
        1 => Ok(Cas::Won),
        _ => Err(Fault::bug("one key, several rows").into()),
    }
}

fn json<T: Serialize>(row: &T) -> Result<String> {
    serde_json::to_string(row).map_err(|error| Fault::bug(format!("writing a row as JSON: {error}")))
}

fn number(value: u64) -> Result<i64> {
    i64::try_from(value).map_err(|_| Fault::bug("a row's number is beyond 2^63"))
}

fn parsed<T: DeserializeOwned>(json: &str) -> Result<T> {
    serde_json::from_str(json).map_err(|error| Fault::caused(Kind::Corrupt, "a stored row cannot be read", &error))
}

fn shard_of(row: &rusqlite::Row<'_>) -> Result<ShardRow, Broken> {
    let parsed: ShardRow = parsed(&row.get::<_, String>(0)?)?;
    match (number(parsed.lease_epoch)?, number(parsed.epoch)?) == (row.get(1)?, row.get(2)?) {
        true => Ok(parsed),
        false => Err(Fault::corrupt(format!("the row of {} contradicts its fence", parsed.shard)).into()),
    }
}

fn window_of(row: &rusqlite::Row<'_>) -> Result<WindowRow, Broken> {
    let parsed: WindowRow = parsed(&row.get::<_, String>(0)?)?;
    match number(parsed.version)? == row.get::<_, i64>(1)? {
        true => Ok(parsed),
        false => Err(Fault::corrupt(format!("a window row of {} contradicts its version", parsed.table)).into()),
    }
}

fn check_version(connection: &Connection, path: &Path) -> Result<i64> {
    let version = connection
        .query_row("PRAGMA user_version", [], |row| row.get::<_, i64>(0))
        .map_err(|error| fault("opening the rows", &error))?;
    match version <= SCHEMA_VERSION {
        true => Ok(version),
        false => Err(Fault::config(format!(
            "{} has format {version}, this program knows up to {SCHEMA_VERSION}: use the newer program",
            path.display()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use sluicebox_actors::model::row::{ShardState, WindowStatus, WindowTotals};

    fn shard_row(name: &str, lease_epoch: u64, epoch: u64) -> ShardRow {
        let row = ShardRow::new("clicks", ShardId::new(name), (0, u128::MAX), ShardState::Open);
        ShardRow { owner: "host:1".into(), lease_epoch, epoch, ..row }
    }

    fn window_row(table: &str, start_us: i64, version: u64) -> WindowRow {
        WindowRow {
            table: table.into(),
            start_us,
            end_us: start_us + 1,
            version,
            revision: 0,
            status: WindowStatus::Open,
            vector: BTreeMap::new(),
            content: None,
            rows: 0,
            counts: WindowTotals::default(),
            overflow: false,
            missing: Vec::new(),
            empty_since_us: None,
            sequences: BTreeMap::new(),
            published: 0,
            base: None,
        }
    }

    fn rows() -> (tempfile::TempDir, SqliteRows) {
        let dir = tempfile::tempdir().expect("a directory");
        let rows = SqliteRows::open_at(&dir.path().join("rows.db")).expect("opens");
        (dir, rows)
    }

    const fn fence(lease_epoch: u64, epoch: u64) -> Fence {
        Fence { lease_epoch, epoch }
    }

    #[tokio::test]
    async fn a_row_is_created_once_and_the_second_creation_changes_nothing() {
        let (_dir, rows) = rows();
        let first = shard_row("a", 1, 0);
        assert_eq!(rows.create_shard(&first).await.expect("asks"), Cas::Won);
        assert_eq!(rows.create_shard(&shard_row("a", 9, 9)).await.expect("asks"), Cas::Lost);
        assert_eq!(rows.shard(&first.shard).await.expect("reads"), Some(first));
        assert_eq!(rows.shard(&ShardId::new("b")).await.expect("reads"), None);
    }

    #[tokio::test]
    async fn an_update_wins_only_if_lease_and_epoch_are_both_still_its_own() {
        let (_dir, rows) = rows();
        rows.create_shard(&shard_row("a", 3, 7)).await.expect("creates");
        let next = shard_row("a", 5, 8);
        for stale in [fence(2, 7), fence(4, 7), fence(3, 6), fence(3, 8)] {
            assert_eq!(rows.update_shard(stale, &next).await.expect("asks"), Cas::Lost, "{stale:?}");
        }
        assert_eq!(rows.shard(&next.shard).await.expect("reads"), Some(shard_row("a", 3, 7)));
        assert_eq!(rows.update_shard(fence(3, 7), &next).await.expect("asks"), Cas::Won);
        assert_eq!(rows.update_shard(fence(3, 7), &next).await.expect("asks"), Cas::Lost);
        assert_eq!(rows.shard(&next.shard).await.expect("reads"), Some(next));
        let missing = rows.update_shard(fence(0, 0), &shard_row("b", 1, 0)).await;
        assert_eq!(missing.expect("asks"), Cas::Lost, "a row that is not there");
    }

    #[tokio::test]
    async fn a_fence_never_falls() {
        let (_dir, rows) = rows();
        rows.create_shard(&shard_row("a", 3, 7)).await.expect("creates");
        for back in [shard_row("a", 2, 7), shard_row("a", 3, 6)] {
            assert_eq!(rows.update_shard(fence(3, 7), &back).await.expect_err("refused").kind(), Kind::Bug);
        }
    }

    #[tokio::test]
    async fn shards_come_by_name_and_windows_by_start_of_their_table() {
        let (_dir, rows) = rows();
        for name in ["c", "a", "b"] {
            rows.create_shard(&shard_row(name, 1, 0)).await.expect("creates");
        }
        let names: Vec<_> = rows.shards().await.expect("reads").into_iter().map(|row| row.shard.to_string()).collect();
        assert_eq!(names, ["a", "b", "c"]);
        for (table, start) in [("t", 20), ("t", -10), ("u", 5), ("t", 0)] {
            rows.update_window(0, &window_row(table, start, 1)).await.expect("creates");
        }
        let starts: Vec<_> = rows.windows("t").await.expect("reads").into_iter().map(|row| row.start_us).collect();
        assert_eq!(starts, [-10, 0, 20]);
    }

    #[tokio::test]
    async fn a_window_row_is_replaced_only_in_the_version_that_was_read() {
        let (_dir, rows) = rows();
        let (first, second) = (window_row("t", 0, 1), window_row("t", 0, 2));
        assert_eq!(rows.update_window(1, &second).await.expect("asks"), Cas::Lost, "no row yet");
        assert_eq!(rows.update_window(0, &first).await.expect("asks"), Cas::Won);
        assert_eq!(rows.update_window(0, &first).await.expect("asks"), Cas::Lost, "a row by now");
        assert_eq!(rows.update_window(1, &second).await.expect("asks"), Cas::Won);
        assert_eq!(rows.update_window(1, &second).await.expect("asks"), Cas::Lost, "a version behind");
        assert_eq!(rows.window("t", 0).await.expect("reads"), Some(second.clone()));
        assert_eq!(rows.window("t", 1).await.expect("reads"), None);
        assert_eq!(rows.update_window(2, &second).await.expect_err("refused").kind(), Kind::Bug, "a version that stays");
    }

    #[tokio::test]
    async fn of_many_that_try_at_once_exactly_one_wins() {
        let (_dir, rows) = rows();
        rows.create_shard(&shard_row("a", 1, 0)).await.expect("creates");
        let row = shard_row("a", 1, 1);
        let tries = futures_util::future::join_all((0..20).map(|_| rows.update_shard(fence(1, 0), &row))).await;
        let won = tries.into_iter().filter(|cas| matches!(cas, Ok(Cas::Won))).count();
        assert_eq!(won, 1);
    }

    #[tokio::test]
    async fn rows_survive_reopening_and_other_processes_read_beside() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("rows.db");
        assert_eq!(SqliteRows::read_only_at(&path).err().expect("refused").kind(), Kind::Config);
        assert!(!path.exists(), "a reader makes nothing");
        let row = shard_row("a", 1, 0);
        let rows = SqliteRows::open_at(&path).expect("opens");
        rows.create_shard(&row).await.expect("creates");
        let reader = SqliteRows::read_only_at(&path).expect("opens");
        assert_eq!(reader.shard(&row.shard).await.expect("reads"), Some(row.clone()));
        rows.update_shard(fence(1, 0), &shard_row("a", 2, 0)).await.expect("writes beside a reader");
        assert_eq!(reader.shards().await.expect("reads"), [shard_row("a", 2, 0)]);
        let refused = reader.update_shard(fence(2, 0), &shard_row("a", 3, 0)).await.expect_err("refused");
        assert_eq!(refused.kind(), Kind::Config);
        drop((rows, reader));
        assert_eq!(SqliteRows::open_at(&path).expect("opens").shards().await.expect("reads"), [shard_row("a", 2, 0)]);
        let reader = SqliteRows::read_only_at(&path).expect("opens with nobody beside");
        assert_eq!(reader.shards().await.expect("reads").len(), 1);
    }

    #[tokio::test]
    async fn a_writer_that_is_in_the_way_is_waited_for_by_the_caller() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("rows.db");
        let rows = SqliteRows::open_at(&path).expect("opens");
        rows.connection.lock().expect("free").busy_timeout(Duration::ZERO).expect("sets");
        let other = Connection::open(&path).expect("opens");
        other.execute_batch("BEGIN IMMEDIATE").expect("blocks");
        let fault = rows.create_shard(&shard_row("a", 1, 0)).await.expect_err("busy");
        assert_eq!(fault.kind(), Kind::Retry);
        other.execute_batch("ROLLBACK").expect("lets go");
        assert_eq!(rows.create_shard(&shard_row("a", 1, 0)).await.expect("asks"), Cas::Won);
    }

    #[test]
    fn every_answer_waits_for_the_disk() {
        let (_dir, rows) = rows();
        let connection = rows.connection.lock().expect("free");
        let pragma = |name| {
            connection
                .pragma_query_value(None, name, |row| row.get::<_, String>(0).or(row.get::<_, i64>(0).map(|n| n.to_string())))
        };
        assert_eq!(pragma("synchronous").expect("reads"), "2", "FULL");
        assert_eq!(pragma("journal_mode").expect("reads"), "wal");
    }

    #[tokio::test]
    async fn damage_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("rows.db");
        let rows = SqliteRows::open_at(&path).expect("opens");
        rows.create_shard(&shard_row("a", 1, 0)).await.expect("creates");
        rows.connection.lock().expect("free").execute("UPDATE shard_rows SET epoch = 5", []).expect("damages");
        assert_eq!(rows.shards().await.expect_err("refused").kind(), Kind::Corrupt);
        rows.connection.lock().expect("free").execute("UPDATE shard_rows SET json = '{'", []).expect("damages");
        assert_eq!(rows.shards().await.expect_err("refused").kind(), Kind::Corrupt);
        rows.connection.lock().expect("free").pragma_update(None, "user_version", 99).expect("future");
        drop(rows);
        assert_eq!(SqliteRows::open_at(&path).err().expect("refused").kind(), Kind::Config);
        std::fs::write(dir.path().join("other.db"), vec![b'x'; 4096]).expect("writes");
        assert_eq!(SqliteRows::open_at(&dir.path().join("other.db")).err().expect("refused").kind(), Kind::Corrupt);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn any_history_of_updates_leaves_what_a_plain_variable_would_hold(
            tries in proptest::collection::vec((0u64..4, 0u64..4, 0u64..3, 0u64..3), 1..25),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            runtime.block_on(async {
                let (_dir, rows) = rows();
                let mut model = shard_row("a", 0, 0);
                rows.create_shard(&model).await.expect("creates");
                for (lease, epoch, more_lease, more_epoch) in tries {
                    let next = shard_row("a", lease + more_lease, epoch + more_epoch);
                    let expected = if model.fence() == fence(lease, epoch) { Cas::Won } else { Cas::Lost };
                    let said = rows.update_shard(fence(lease, epoch), &next).await.expect("asks");
                    assert_eq!(said, expected);
                    if said == Cas::Won {
                        model = next;
                    }
                    assert_eq!(rows.shard(&model.shard).await.expect("reads").as_ref(), Some(&model));
                }
            });
        }
    }
}
