//! How the embedded stream uses SQLite: one way to create a file, one way to open it, one meaning per error.
//!
//! A file is built under a name of its own and then linked to its place, so that it is either whole or not there, however
//! many processes create it at once.
//!
//! Owns: pragmas, creation, the translation of SQLite's errors. Does not own: any table (catalog, shard).

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};
use sluicebox_actors::model::fault::{Fault, Kind, Result};

// Payloads are around 1 MiB a row: large pages mean short overflow chains and few B-tree levels.
const PAGE_SIZE: u32 = 32 << 10;
// The log is what must be read again after kill -9; 1,024 pages are 32 MiB.
const CHECKPOINT_PAGES: u32 = 1024;
/// A write-ahead log beyond this is emptied by force, so that a crowd of readers cannot let it grow without end.
pub(super) const WAL_MAX: u64 = 256 << 20;
// Longer than a checkpoint takes; who still waits then is told to come again.
const BUSY: Duration = Duration::from_secs(10);

/// Creates a database with this content unless there is one; `false` = there was one, and it was not touched.
pub(super) fn create(path: &Path, nonce: u64, fill: impl FnOnce(&Connection) -> rusqlite::Result<()>) -> Result<bool> {
    if path.exists() {
        return Ok(false);
    }
    let building = path.with_extension(format!("{nonce:016x}.new"));
    build(&building, fill).map_err(|error| sqlite_fault(&error, &format!("create {}", path.display())))?;
    let linked = File::open(&building).and_then(|file| file.sync_all()).and_then(|()| match fs::hard_link(&building, path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    });
    let removed = fs::remove_file(&building);
    let created = linked.and_then(|created| removed.map(|()| created)).map_err(|error| io_fault(&error, "create", path))?;
    if let Some(parent) = path.parent() {
        File::open(parent).and_then(|dir| dir.sync_all()).map_err(|error| io_fault(&error, "sync", parent))?;
    }
    Ok(created)
}

fn build(path: &Path, fill: impl FnOnce(&Connection) -> rusqlite::Result<()>) -> rusqlite::Result<()> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.pragma_update(None, "page_size", PAGE_SIZE)?;
    connection.pragma_update_and_check(None, "journal_mode", "wal", |_| Ok(()))?;
    fill(&connection)?;
    connection.close().map_err(|(_, error)| error)
}

/// Opens a database that must be there.
pub(super) fn open(path: &Path) -> Result<Connection> {
    if !path.exists() {
        return Err(Fault::corrupt(format!(
            "{} is missing: restore the stream's directory as a whole, or start a new stream under another name",
            path.display()
        )));
    }
    open_existing(path).map_err(|error| sqlite_fault(&error, &format!("open {}", path.display())))
}

fn open_existing(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY)?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "cache_size", -4096)?;
    connection.pragma_update_and_check(None, "wal_autocheckpoint", CHECKPOINT_PAGES, |_| Ok(()))?;
    connection.pragma_update_and_check(None, "journal_size_limit", WAL_MAX as i64 / 4, |_| Ok(()))?;
    Ok(connection)
}

/// A connection that is opened when it is first needed and thrown away after any error, so that no half-done transaction or
/// broken handle outlives the call that met it.
pub(super) struct Lazy<T = Connection>(Mutex<Option<T>>);

impl<T> Lazy<T> {
    /// Not open yet.
    pub(super) fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// Runs `work` on the connection.
    pub(super) fn with<R>(&self, open: impl FnOnce() -> Result<T>, work: impl FnOnce(&mut T) -> Result<R>) -> Result<R> {
        let mut slot = lock(&self.0);
        let mut connection = match slot.take() {
            Some(connection) => connection,
            None => open()?,
        };
        let answer = work(&mut connection)?;
        *slot = Some(connection);
        Ok(answer)
    }
}

/// Locks; what a panicking holder left behind is usable, because everything behind these locks is replaced whole.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What ends a transaction early: SQLite's error, or a fault that is already known as one.
pub(super) enum Trouble {
    Sql(rusqlite::Error),
    Known(Fault),
}

impl Trouble {
    /// The fault, with what was being done if only SQLite spoke.
    pub(super) fn into_fault(self, doing: &str) -> Fault {
        match self {
            Self::Sql(error) => sqlite_fault(&error, doing),
            Self::Known(fault) => fault,
        }
    }
}

impl From<rusqlite::Error> for Trouble {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<Fault> for Trouble {
    fn from(fault: Fault) -> Self {
        Self::Known(fault)
    }
}

/// What SQLite's error asks for.
pub(super) fn sqlite_fault(error: &rusqlite::Error, doing: &str) -> Fault {
    let kind = match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Kind::Corrupt,
        Some(ErrorCode::PermissionDenied | ErrorCode::ReadOnly) => Kind::Config,
        Some(
            ErrorCode::DatabaseBusy
            | ErrorCode::DatabaseLocked
            | ErrorCode::SystemIoFailure
            | ErrorCode::DiskFull
            | ErrorCode::CannotOpen
            | ErrorCode::OutOfMemory
            | ErrorCode::OperationInterrupted
            | ErrorCode::FileLockingProtocolFailed,
        ) => Kind::Retry,
        Some(_) | None => Kind::Bug,
    };
    // Readers of a write-ahead log make files beside it; SQLite does not say so when it can't.
    let hint = match error.sqlite_error_code() {
        Some(ErrorCode::CannotOpen) => " (may its folder be written? readers need that too)",
        Some(_) | None => "",
    };
    Fault::caused(kind, format!("embedded stream: {doing}{hint}"), error)
}

/// What a file error asks for.
pub(super) fn io_fault(error: &io::Error, doing: &str, path: &Path) -> Fault {
    let kind = if error.kind() == io::ErrorKind::PermissionDenied { Kind::Config } else { Kind::Retry };
    Fault::caused(kind, format!("embedded stream: {doing} {}", path.display()), error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_is_created_once_and_the_second_creator_changes_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("x.db");
        let fill =
            |value: i64| move |c: &Connection| c.execute_batch(&format!("CREATE TABLE t (v); INSERT INTO t VALUES ({value})"));
        assert!(create(&path, 1, fill(1)).expect("creates"));
        assert!(!create(&path, 2, fill(2)).expect("leaves it"));
        let value: i64 = open(&path).expect("opens").query_row("SELECT v FROM t", [], |row| row.get(0)).expect("a row");
        assert_eq!(value, 1);
        let names: Vec<_> = fs::read_dir(dir.path()).expect("lists").map(|entry| entry.expect("an entry").file_name()).collect();
        assert!(names.iter().all(|name| !name.to_string_lossy().ends_with(".new")), "{names:?}");
    }

    #[test]
    fn commits_are_synced_to_the_disk_in_write_ahead_mode() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("x.db");
        create(&path, 1, |c| c.execute_batch("CREATE TABLE t (v)")).expect("creates");
        let connection = open(&path).expect("opens");
        let pragma = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, rusqlite::types::Value>(0));
        assert_eq!(pragma("journal_mode").expect("a mode"), rusqlite::types::Value::Text("wal".into()));
        assert_eq!(pragma("synchronous").expect("a level"), rusqlite::types::Value::Integer(2));
        assert_eq!(pragma("page_size").expect("a size"), rusqlite::types::Value::Integer(i64::from(PAGE_SIZE)));
    }

    #[test]
    fn a_missing_file_is_damage_and_a_foreign_file_too() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("x.db");
        assert_eq!(open(&path).expect_err("missing").kind(), Kind::Corrupt);
        fs::write(&path, [7; 5000]).expect("writes");
        let met = open(&path).and_then(|connection| {
            connection.execute_batch("SELECT * FROM sqlite_schema").map_err(|error| sqlite_fault(&error, "read"))
        });
        assert_eq!(met.expect_err("not a database").kind(), Kind::Corrupt);
    }

    #[test]
    fn a_writer_that_waits_too_long_is_told_to_come_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("x.db");
        create(&path, 1, |c| c.execute_batch("CREATE TABLE t (v)")).expect("creates");
        let (holder, waiter) = (open(&path).expect("opens"), open(&path).expect("opens"));
        waiter.busy_timeout(Duration::ZERO).expect("sets");
        holder.execute_batch("BEGIN IMMEDIATE").expect("begins");
        let error = waiter.execute_batch("BEGIN IMMEDIATE").expect_err("busy");
        assert_eq!(sqlite_fault(&error, "put").kind(), Kind::Retry);
    }
}
