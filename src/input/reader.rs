//! Records out of files: the input side of `put`.
//!
//! A line is a record, bytes unchanged without its line end; empty lines are skipped and counted; a line that isn't JSON is a
//! record like any other, because judging it is the pipeline's business. CSV rows become JSON objects (see `csv`).
//!
//! Owns: formats and their detection, the walk through the files. Does not own: where records go (put).

use std::io::Read;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;

use super::csv::{CsvColumns, Row, Rows, looks_like_csv};
use super::error::InputError;
use super::lines::{Line, Lines, bare};
use super::pipe::Pipe;
use super::source;
use sluicebox_stream::embedded::RECORD_MAX;

/// How a file holds records.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// One JSON value a line. Read as lines are: what isn't JSON is a record too.
    Ndjson,
    /// One record a line.
    Lines,
    /// A header and rows.
    Csv,
    /// The whole file is one record, not even decompressed.
    Raw,
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "ndjson" | "jsonl" | "json" => Ok(Self::Ndjson),
            "lines" => Ok(Self::Lines),
            "csv" => Ok(Self::Csv),
            "raw" => Ok(Self::Raw),
            other => Err(format!("`{other}` is not a format: take ndjson, lines, csv or raw")),
        }
    }
}

/// What to read and how.
#[derive(Clone, Default, Debug)]
pub struct InputOptions {
    /// Files and directories; `-` is standard input.
    pub files: Vec<PathBuf>,
    /// None = by name (`.csv`, `.json`, `.jsonl`, `.ndjson`, each also with `.gz`, `.zst`), else by content.
    pub format: Option<Format>,
    /// Columns of CSV files that aren't text.
    pub csv: CsvColumns,
}

/// One record and where it came from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InputRecord {
    /// The record.
    pub data: Bytes,
    /// The file, as it was named.
    pub file: Arc<str>,
    /// The line it begins on, from 1.
    pub line: u64,
}

/// How far reading has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InputProgress {
    /// Bytes read of all files, as they lie there (compressed).
    pub consumed: u64,
    /// Bytes there are; none if standard input is among the files.
    pub total: Option<u64>,
    /// Empty lines skipped.
    pub empty_lines: u64,
}

enum Body {
    Lines(Lines),
    Csv(Rows),
    Raw(Box<dyn Read + Send>),
}

struct Current {
    file: Arc<str>,
    body: Body,
    pipe: Option<Pipe>,
}

/// The records of all files, one after the other. After a fatal error it ends.
pub struct InputReader {
    files: std::vec::IntoIter<PathBuf>,
    format: Option<Format>,
    csv: CsvColumns,
    current: Option<Current>,
    consumed: Arc<AtomicU64>,
    total: Option<u64>,
    empty_lines: u64,
}

impl InputReader {
    /// Finds the files; none is opened yet. A missing one is an error here, before anything is read.
    pub fn open(options: InputOptions) -> Result<Self, InputError> {
        let files = source::expand(&options.files)?;
        let total = source::total_len(&files)?;
        Ok(Self {
            files: files.into_iter(),
            format: options.format,
            csv: options.csv,
            current: None,
            consumed: Arc::default(),
            total,
            empty_lines: 0,
        })
    }

    /// How far reading has come.
    pub fn progress(&self) -> InputProgress {
        let consumed = self.consumed.load(Ordering::Relaxed);
        InputProgress { consumed, total: self.total, empty_lines: self.empty_lines }
    }

    /// Would the next record come without waiting for a slow producer? Waits this long for it.
    pub fn ready(&self, wait: Duration) -> bool {
        let Some(Current { body, pipe: Some(pipe), .. }) = &self.current else { return true };
        let buffered = match body {
            Body::Lines(lines) => lines.is_ready(),
            Body::Csv(rows) => rows.is_ready(),
            Body::Raw(_) => false,
        };
        buffered || pipe.ready(wait)
    }

    fn open_next(&mut self, path: &Path) -> Result<Current, InputError> {
        let name = if path.as_os_str() == source::STDIN { "stdin".into() } else { path.display().to_string() };
        let file: Arc<str> = name.into();
        let by_name = self.format.or_else(|| format_of_name(path));
        let opened = source::open(path, &self.consumed, by_name != Some(Format::Raw));
        let opened = opened.map_err(|error| InputError::Open { file: file.clone(), error })?;
        let mut lines = match by_name {
            Some(Format::Raw) => return Ok(Current { file, body: Body::Raw(opened.bytes), pipe: opened.pipe }),
            Some(Format::Ndjson | Format::Lines | Format::Csv) | None => Lines::new(opened.bytes),
        };
        let read = |error| InputError::Read { file: file.clone(), line: 0, error };
        let is_csv = match by_name {
            Some(format) => format == Format::Csv,
            None => looks_like_csv(&mut lines).map_err(read)?,
        };
        let body = if is_csv {
            let rows = Rows::open(lines, &self.csv).map_err(read)?;
            Body::Csv(rows.map_err(|what| InputError::Header { file: file.clone(), what })?)
        } else {
            Body::Lines(lines)
        };
        Ok(Current { file, body, pipe: opened.pipe })
    }

    /// The next record of the open file; none at its end.
    fn next_of(&mut self, current: &mut Current) -> Result<Option<InputRecord>, InputError> {
        let file = current.file.clone();
        match &mut current.body {
            Body::Raw(bytes) => {
                let mut data = Vec::new();
                let limit = RECORD_MAX as u64 + 1;
                let read = std::mem::replace(bytes, Box::new(std::io::empty())).take(limit).read_to_end(&mut data);
                read.map_err(|error| InputError::Read { file: file.clone(), line: 0, error })?;
                if data.len() > RECORD_MAX {
                    return Err(InputError::TooLong { file, line: 1 });
                }
                Ok(Some(InputRecord { data: data.into(), file, line: 1 }))
            }
            Body::Lines(lines) => loop {
                let next = lines.next().map_err(|error| InputError::Read { file: file.clone(), line: lines.number(), error })?;
                let line = lines.number();
                match next {
                    None => return Ok(None),
                    Some(Line::TooLong) => return Err(InputError::TooLong { file, line }),
                    Some(Line::Text(text)) => match bare(&text) {
                        data if data.is_empty() => self.empty_lines += 1,
                        data => return Ok(Some(InputRecord { data, file, line })),
                    },
                }
            },
            Body::Csv(rows) => loop {
                let next = rows.next();
                let line = rows.lines().number();
                match next.map_err(|error| InputError::Read { file: file.clone(), line, error })? {
                    None => return Ok(None),
                    Some(Row::TooLong(line)) => return Err(InputError::TooLong { file, line }),
                    Some(Row::Empty) => self.empty_lines += 1,
                    Some(Row::Record(data, line)) => return Ok(Some(InputRecord { data, file, line })),
                }
            },
        }
    }
}

impl Iterator for InputReader {
    type Item = Result<InputRecord, InputError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let mut current = match self.current.take() {
                Some(current) => current,
                None => {
                    let path = self.files.next()?;
                    match self.open_next(&path) {
                        Ok(current) => current,
                        Err(error) => {
                            self.files = Vec::new().into_iter();
                            return Some(Err(error));
                        }
                    }
                }
            };
            let whole_file = matches!(current.body, Body::Raw(_));
            match self.next_of(&mut current) {
                Ok(None) => continue,
                Ok(Some(record)) => {
                    self.current = Some(current).filter(|_| !whole_file);
                    return Some(Ok(record));
                }
                Err(error) if error.is_fatal() => {
                    self.files = Vec::new().into_iter();
                    return Some(Err(error));
                }
                Err(error) => {
                    self.current = Some(current).filter(|_| !whole_file);
                    return Some(Err(error));
                }
            }
        }
    }
}

fn format_of_name(path: &Path) -> Option<Format> {
    let name = path.file_name()?.to_string_lossy().to_ascii_lowercase();
    let name = [".gz", ".zst", ".zstd"].iter().find_map(|ending| name.strip_suffix(ending)).unwrap_or(&name);
    match name.rsplit_once('.')?.1 {
        "csv" => Some(Format::Csv),
        "json" | "jsonl" | "ndjson" => Some(Format::Ndjson),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::fs;

    use super::*;

    fn read(files: &[(&str, &[u8])], format: Option<Format>) -> (Vec<String>, InputProgress) {
        let dir = tempfile::tempdir().expect("a directory");
        for (name, data) in files {
            fs::write(dir.path().join(name), data).expect("writes");
        }
        let csv = CsvColumns { numbers: HashSet::from(["n".to_owned()]), ..CsvColumns::default() };
        let options = InputOptions { files: vec![dir.path().to_owned()], format, csv };
        let mut reader = InputReader::open(options).expect("opens");
        let show = |record: Result<InputRecord, InputError>| match record {
            Ok(record) => {
                let file = record.file.rsplit('/').next().expect("a name").to_owned();
                format!("{file}:{}:{}", record.line, String::from_utf8_lossy(&record.data))
            }
            Err(error) => format!("{error}").replace(&format!("{}/", dir.path().display()), ""),
        };
        let records = reader.by_ref().map(show).collect();
        (records, reader.progress())
    }

    #[test]
    fn a_line_is_a_record_without_its_line_end_and_empty_lines_are_counted() {
        let (records, progress) = read(&[("a.json", b"{\"a\":1}\r\n\n\r\nnot json\n \nlast")], None);
        assert_eq!(records, ["a.json:1:{\"a\":1}", "a.json:4:not json", "a.json:5: ", "a.json:6:last"]);
        assert_eq!(progress, InputProgress { consumed: 27, total: Some(27), empty_lines: 2 });
    }

    #[test]
    fn the_name_decides_the_format_then_the_content() {
        let csv = b"a,n\nx,1\n" as &[u8];
        let zipped = zstd::encode_all(csv, 1).expect("compresses");
        let object = r#"{"a":"x","n":1}"#;
        let (records, _) = read(&[("1.csv.zst", &zipped), ("2.log", csv), ("3.jsonl", csv), ("4", b"a, b\nno\n")], None);
        assert_eq!(
            records,
            [
                &format!("1.csv.zst:2:{object}"),
                &format!("2.log:2:{object}"),
                "3.jsonl:1:a,n",
                "3.jsonl:2:x,1",
                "4:1:a, b",
                "4:2:no"
            ]
        );
        assert_eq!(read(&[("1.csv", csv)], Some(Format::Lines)).0, ["1.csv:1:a,n", "1.csv:2:x,1"]);
    }

    #[test]
    fn raw_takes_each_file_whole_and_unchanged() {
        let zipped = zstd::encode_all(&b"x"[..], 1).expect("compresses");
        let (records, _) = read(&[("a", b"1\n2\r\n"), ("b", &zipped), ("c", b"")], Some(Format::Raw));
        assert_eq!(records, ["a:1:1\n2\r\n", &format!("b:1:{}", String::from_utf8_lossy(&zipped)), "c:1:"]);
        let large = vec![0; RECORD_MAX + 1];
        assert_eq!(read(&[("a", &large), ("b", b"x")], Some(Format::Raw)).0[1], "b:1:x");
    }

    #[test]
    fn a_line_that_is_too_long_is_named_and_the_next_one_is_read() {
        let mut data = vec![b'x'; RECORD_MAX + 1];
        data.extend_from_slice(b"\nnext");
        let (records, _) = read(&[("a.csv", b"h\n1"), ("b", &data)], None);
        assert_eq!(records.len(), 3);
        assert!(records[1].starts_with("b:1: longer than 10 MiB"), "{}", records[1]);
        assert_eq!(records[2], "b:2:next");
    }

    #[test]
    fn a_file_that_breaks_off_ends_the_reading_and_names_the_last_whole_line() {
        let lines: Vec<u8> = (0..50_000).flat_map(|i| format!("{i}\n").into_bytes()).collect();
        let whole = zstd::encode_all(&lines[..], 1).expect("compresses");
        let (records, _) = read(&[("a.zst", &whole[..whole.len() / 2]), ("b", b"never read\n")], None);
        let last = records.last().expect("an error");
        assert_eq!(*last, format!("a.zst: reading stopped behind line {}: everything up to there was read", records.len() - 1));
    }

    #[test]
    fn a_missing_file_is_an_error_before_anything_is_read() {
        let options = InputOptions { files: vec!["/nowhere/at/all.json".into()], ..InputOptions::default() };
        assert!(InputReader::open(options).is_err());
    }

    #[test]
    fn a_csv_header_that_cannot_be_used_is_named() {
        assert_eq!(read(&[("a.csv", b"x,x\n")], None).0, ["a.csv:1: column 2 has the name of an earlier one: rename it"]);
    }
}
