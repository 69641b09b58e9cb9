//! What the read side reads: a data directory, and the ports behind which rows and objects lie.
//!
//! Owns: the list of visible files of a table and what their Hive folders say. Does not own: reading their content (files),
//! which epoch named them (audit).

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chrono::DateTime;
use sluicebox_actors::model::fault::{Fault, Kind, Result};
use sluicebox_actors::ports::{Blobs, LedgerFiles, Rows};

/// Everything the read side may look at. Nothing of it is ever written.
#[derive(Clone)]
pub struct Sources {
    /// The data directory, or up-to-date copies of tables that lie elsewhere: `bronze`, `silver`, `gold`, `gold_windows`, `dlq`.
    pub data: PathBuf,
    /// Where a run on this machine says how it is doing: the same, unless the tables are copies.
    pub worker: PathBuf,
    /// Rows of shards and windows.
    pub rows: Arc<dyn Rows>,
    /// Epoch objects and Gold contents.
    pub blobs: Arc<dyn Blobs>,
    /// Lines of collected epochs.
    pub ledger: Arc<dyn LedgerFiles>,
}

impl std::fmt::Debug for Sources {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sources").field("data", &self.data).finish_non_exhaustive()
    }
}

/// A published file.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Visible {
    /// Path relative to the data directory, with `/`.
    pub relative: String,
    /// Where it lies.
    pub path: PathBuf,
}

impl Visible {
    /// The value of one Hive folder (`dt=2026-01-31` → `2026-01-31`), percent escapes undone.
    pub fn value(&self, key: &str) -> Option<String> {
        self.relative.split('/').find_map(|part| match part.split_once('=') {
            Some((name, value)) if name == key => Some(unescaped(value)),
            Some(_) | None => None,
        })
    }
}

/// All published files under one folder of the data directory, in order of their paths. Hidden names (`.` or `_` in front) are
/// not published; a folder that is not there has no files.
pub fn visible(data: &Path, under: &str) -> Result<Vec<Visible>> {
    let mut out = Vec::new();
    collect(&data.join(under), under, &mut out).map_err(|error| cannot_read(under, &error))?;
    out.sort();
    Ok(out)
}

fn collect(folder: &Path, relative: &str, out: &mut Vec<Visible>) -> io::Result<()> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if name.starts_with(['.', '_']) {
            continue;
        }
        let relative = format!("{relative}/{name}");
        if entry.file_type()?.is_dir() {
            collect(&entry.path(), &relative, out)?;
        } else {
            out.push(Visible { relative, path: entry.path() });
        }
    }
    Ok(())
}

/// Names of the folders directly in a folder of the data directory, in order.
pub fn folders(data: &Path, under: &str) -> Result<Vec<String>> {
    let entries = match std::fs::read_dir(data.join(under)) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(cannot_read(under, &error)),
    };
    let mut out = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| cannot_read(under, &error))?;
        let is_folder = entry.file_type().map_err(|error| cannot_read(under, &error))?.is_dir();
        match entry.file_name().to_str() {
            Some(name) if is_folder && !name.starts_with(['.', '_']) => out.push(name.to_owned()),
            Some(_) | None => {}
        }
    }
    out.sort();
    Ok(out)
}

/// A table's or shard's name as one folder: all but letters, digits, `_`, `-` and inner dots is percent-encoded.
pub fn segment(name: &str) -> String {
    let plain = |(index, byte): (usize, u8)| match byte {
        b'_' | b'-' => char::from(byte).to_string(),
        b'.' if index > 0 => ".".to_owned(),
        byte if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    name.bytes().enumerate().map(plain).collect()
}

/// The Hive folders of an hour: `dt=2026-01-31/hour=07`.
pub fn hour_folder(at_us: i64) -> String {
    match DateTime::from_timestamp_micros(at_us) {
        Some(time) => time.format("dt=%Y-%m-%d/hour=%H").to_string(),
        None => "dt=out-of-range/hour=00".to_owned(),
    }
}

/// A time for people: RFC 3339 in UTC, or `unknown` outside of the calendar (the bound before the first record).
pub fn time_text(at_us: i64) -> String {
    match DateTime::from_timestamp_micros(at_us) {
        Some(time) => time.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true),
        None => "unknown".to_owned(),
    }
}

/// Runs file work on a thread that may wait.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Fault::caused(Kind::Bug, "a reader thread", &error))?
}

/// A fault of the file system on the read side: the reader may try again.
pub fn cannot_read(place: &str, error: &io::Error) -> Fault {
    Fault::caused(Kind::Retry, format!("read {place}; check that the path exists and may be read"), error)
}

/// The name that [`segment`] or a Hive folder stands for.
pub fn unescaped(value: &str) -> String {
    let mut out = Vec::with_capacity(value.len());
    let mut bytes = value.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let mut ahead = bytes.clone();
        let digits = [ahead.next(), ahead.next()].map(|digit| digit.and_then(|digit| char::from(digit).to_digit(16)));
        if let [Some(high), Some(low)] = digits {
            out.push((high * 16 + low) as u8);
            bytes = ahead;
        } else {
            out.push(byte);
        }
    }
    String::from_utf8(out).unwrap_or_else(|_| value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_names_are_not_published_and_folders_give_their_values() {
        let data = tempfile::tempdir().unwrap();
        let hour = data.path().join("silver/dt=2026-01-31/hour=07/country=a%2Fb");
        std::fs::create_dir_all(&hour).unwrap();
        for name in ["b.parquet", "a.parquet", ".c.parquet.tmp", "_SUCCESS"] {
            std::fs::write(hour.join(name), b"").unwrap();
        }
        let files = visible(data.path(), "silver").unwrap();
        let names: Vec<&str> = files.iter().filter_map(|file| file.relative.rsplit('/').next()).collect();
        assert_eq!(names, ["a.parquet", "b.parquet"]);
        assert_eq!(files[0].value("dt").as_deref(), Some("2026-01-31"));
        assert_eq!(files[0].value("country").as_deref(), Some("a/b"));
        assert_eq!(files[0].value("month"), None);
        assert_eq!(visible(data.path(), "bronze").unwrap(), Vec::new());
        assert_eq!(folders(data.path(), "").unwrap(), ["silver"]);
    }

    #[test]
    fn an_hour_lies_in_the_folder_of_its_utc_day() {
        assert_eq!(hour_folder(1_767_225_599_999_999), "dt=2025-12-31/hour=23");
        assert_eq!(hour_folder(1_767_225_600_000_000), "dt=2026-01-01/hour=00");
        assert_eq!(time_text(1_767_225_600_000_000), "2026-01-01T00:00:00Z");
        assert_eq!(time_text(i64::MIN), "unknown");
        assert_eq!(segment("by type/.x"), "by%20type%2F.x");
        assert_eq!(unescaped(&segment(".ä_%b-1")), ".ä_%b-1");
    }
}
