//! CSV: rows do not depend on how the reads fall, and each is a JSON object of its cells or the line it was.
//!
//! Owns: the comparison with a reading of its own, for lines without quotes. Does not own: quoting (the product's tests compare
//! it with another library).

use std::collections::HashSet;
use std::io::{self, Read};

use serde::de::IgnoredAny;
use serde_json::{Map, Value};

use super::csv::{CsvColumns, Row, Rows, looks_like_csv};
use super::lines::Lines;

/// Gives bytes in pieces, so that line ends fall anywhere in a read.
struct Pieces {
    data: Vec<u8>,
    at: usize,
    piece: usize,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = (self.data.len() - self.at).min(self.piece).min(buffer.len());
        buffer[..len].copy_from_slice(&self.data[self.at..self.at + len]);
        self.at += len;
        Ok(len)
    }
}

fn lines(data: &[u8], piece: usize) -> Lines {
    Lines::new(Box::new(Pieces { data: data.to_vec(), at: 0, piece }))
}

fn typed() -> CsvColumns {
    CsvColumns { numbers: HashSet::from(["n".to_owned()]), booleans: HashSet::from(["b".to_owned()]) }
}

fn read(data: &[u8], piece: usize) -> Result<Vec<Row>, String> {
    let mut rows = Rows::open(lines(data, piece), &typed()).expect("memory reads")?;
    Ok(std::iter::from_fn(|| rows.next().expect("memory reads")).collect())
}

/// One input: the size of a read, then the file.
pub fn check(data: &[u8]) {
    let Some((piece, file)) = data.split_first() else { return };
    let piece = usize::from(*piece) + 1;
    let looks = |piece| looks_like_csv(&mut lines(file, piece)).expect("memory reads");
    assert_eq!(looks(piece), looks(usize::MAX), "what it looks like depends on the reads");
    let whole = read(file, usize::MAX);
    assert_eq!(read(file, piece), whole, "the rows depend on the reads");
    let Ok(rows) = whole else { return };
    let file = file.strip_prefix(b"\xef\xbb\xbf").unwrap_or(file);
    let mut text: Vec<&[u8]> = file.split(|byte| *byte == b'\n').collect();
    if text.last().is_some_and(|line| line.is_empty()) {
        text.pop();
    }
    let bare: Vec<&[u8]> = text.into_iter().map(|line| line.strip_suffix(b"\r").unwrap_or(line)).collect();
    let mut last = 1;
    for row in &rows {
        match row {
            Row::Record(record, number) => {
                assert!(*number > last, "line {number} follows line {last}");
                last = *number;
                let line = bare[*number as usize - 1];
                assert!(!line.is_empty());
                cells_are_kept(bare[0], line, record);
            }
            Row::Empty => {}
            Row::TooLong(number) => panic!("line {number} is not too long"),
        }
    }
    let first = bare.iter().position(|line| line.contains(&b'"')).unwrap_or(bare.len());
    let plain = bare[..first].iter().skip(1).filter(|line| !line.is_empty()).count();
    assert!(rows.iter().filter(|row| matches!(row, Row::Record(..))).count() >= plain, "a line without quotes is a record");
}

fn cells_are_kept(header: &[u8], line: &[u8], record: &[u8]) {
    let plain = |line: &[u8]| !line.contains(&b'"');
    if record != line {
        let object = object(record);
        let columns = header.iter().filter(|byte| **byte == b',').count() + 1;
        assert!(!plain(header) || object.is_empty() || object.len() == columns, "{} members for {columns} columns", object.len());
    }
    let (Ok(header), Ok(text)) = (std::str::from_utf8(header), std::str::from_utf8(line)) else { return };
    if !plain(header.as_bytes()) || !plain(line) {
        return;
    }
    let (names, cells): (Vec<&str>, Vec<&str>) = (header.split(',').collect(), text.split(',').collect());
    if names.len() != cells.len() {
        return assert_eq!(record, line, "a row with another number of cells stays the line it was");
    }
    let object = object(record);
    for (name, cell) in names.iter().zip(&cells) {
        let Some(value) = object.get(name.trim()) else {
            assert!(object.is_empty(), "no member {name}");
            continue;
        };
        match value {
            Value::String(text) => assert_eq!(text, cell),
            Value::Null => assert!(cell.is_empty()),
            Value::Bool(flag) => assert!(cell.eq_ignore_ascii_case(&flag.to_string())),
            Value::Number(_) => assert_eq!((name.trim(), cell.parse::<f64>().is_ok()), ("n", true)),
            Value::Array(_) | Value::Object(_) => panic!("a cell became {value}"),
        }
    }
}

/// A record's members; none where it holds a number that no double does: one for JSON and for us, but not for serde_json.
fn object(record: &[u8]) -> Map<String, Value> {
    if let Err(error) = serde_json::from_slice::<IgnoredAny>(record) {
        panic!("a record is an object or its line: {error}");
    }
    serde_json::from_slice(record).unwrap_or_else(|error| {
        assert!(error.to_string().contains("number out of range"), "{error}");
        Map::new()
    })
}
