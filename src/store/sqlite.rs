//! What an SQLite error asks the caller to do.
//!
//! Owns: the table from error codes to kinds of fault. Does not own: any statement (rows).

use rusqlite::ErrorCode;
use sluicebox_actors::model::fault::{Fault, Kind};

/// What SQLite says when a file of its could not be written, or its index of the write-ahead log not be made longer: a full disk
/// as often as a broken one.
const IOERR_WRITE: i32 = 10 | (3 << 8);
const IOERR_SHMSIZE: i32 = 10 | (19 << 8);
/// What SQLite says when a sync of its file failed.
const IOERR_FSYNC: i32 = 10 | (4 << 8);
const IOERR_DIR_FSYNC: i32 = 10 | (5 << 8);

/// What an SQLite error asks for.
pub(crate) fn fault(doing: &str, error: &rusqlite::Error) -> Fault {
    let Some(inner) = error.sqlite_error() else { return Fault::caused(Kind::Bug, doing, error) };
    if matches!(inner.extended_code, IOERR_FSYNC | IOERR_DIR_FSYNC) {
        let message = format!("{doing}: the disk could not make it durable; the work since the last commit is redone");
        return Fault::caused(Kind::Bug, message, error);
    }
    if inner.code == ErrorCode::DiskFull || matches!(inner.extended_code, IOERR_WRITE | IOERR_SHMSIZE) {
        return Fault::caused(
            Kind::Retry,
            format!("no room on disk while {doing} in state/rows.db: free space; nothing is lost"),
            error,
        );
    }
    if matches!(inner.code, ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) {
        return Fault::caused(Kind::Corrupt, format!("{doing}: state/rows.db is damaged, restore it"), error);
    }
    if matches!(inner.code, ErrorCode::ReadOnly | ErrorCode::PermissionDenied) {
        return Fault::caused(Kind::Config, format!("{doing}: state/rows.db may not be written"), error);
    }
    let passing = matches!(
        inner.code,
        ErrorCode::DatabaseBusy
            | ErrorCode::DatabaseLocked
            | ErrorCode::OutOfMemory
            | ErrorCode::OperationInterrupted
            | ErrorCode::SystemIoFailure
            | ErrorCode::CannotOpen
            | ErrorCode::FileLockingProtocolFailed
            | ErrorCode::SchemaChanged
    );
    Fault::caused(if passing { Kind::Retry } else { Kind::Bug }, doing, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_family_of_errors_has_its_remedy() {
        let cases = [
            (rusqlite::ffi::SQLITE_BUSY, Kind::Retry),
            (rusqlite::ffi::SQLITE_FULL, Kind::Retry),
            (rusqlite::ffi::SQLITE_IOERR_READ, Kind::Retry),
            (rusqlite::ffi::SQLITE_IOERR_WRITE, Kind::Retry),
            (rusqlite::ffi::SQLITE_IOERR_FSYNC, Kind::Bug),
            (rusqlite::ffi::SQLITE_IOERR_DIR_FSYNC, Kind::Bug),
            (rusqlite::ffi::SQLITE_CORRUPT, Kind::Corrupt),
            (rusqlite::ffi::SQLITE_NOTADB, Kind::Corrupt),
            (rusqlite::ffi::SQLITE_READONLY, Kind::Config),
            (rusqlite::ffi::SQLITE_MISUSE, Kind::Bug),
        ];
        for (code, kind) in cases {
            let error = rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), None);
            assert_eq!(fault("testing", &error).kind(), kind, "{code}");
        }
    }

    #[test]
    fn a_file_that_may_not_grow_is_reported_as_a_disk_without_room() {
        for code in [rusqlite::ffi::SQLITE_FULL, rusqlite::ffi::SQLITE_IOERR_WRITE, rusqlite::ffi::SQLITE_IOERR_SHMSIZE] {
            let error = rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), None);
            assert!(fault("testing", &error).message().contains("free space"), "{code}");
        }
    }
}
