//! Goal: the recorded files as records, read with a JSON and a CSV parser and nothing of the program.

#![allow(clippy::unwrap_used, reason = "a helper of a test may end the test")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use serde_json::Value as Json;
use serde_json::value::RawValue;

use super::fold::{Outcome, Table};
use crate::support::drive::root;
use crate::support::value::Value;

/// One kind of recorded data, its pipeline and what must come out.
pub(crate) struct Set {
    /// The example of config/examples.
    pub(crate) name: &'static str,
    /// Files in the order of the example, relative to the recorded data.
    pub(crate) files: Vec<PathBuf>,
    /// Flags of `put`.
    pub(crate) put: &'static [&'static str],
    /// Columns of Silver that are compared, and that the tables are computed from.
    pub(crate) columns: &'static [&'static str],
    pub(crate) judge: fn(&Fields<'_>) -> Outcome,
    pub(crate) tables: Vec<Table>,
}

/// One record: its members (of CSV all are texts), and its line where it has one.
pub(crate) struct Fields<'a> {
    json: Json,
    line: &'a str,
}

impl Fields<'_> {
    /// The member at this place (`/actor/id`).
    pub(crate) fn at(&self, pointer: &str) -> Value {
        match self.json.pointer(pointer) {
            None | Some(Json::Null) => Value::Null,
            Some(Json::Bool(flag)) => Value::Bool(*flag),
            Some(Json::String(text)) => Value::text(text),
            Some(Json::Number(number)) => Value::whole(number.as_i64().unwrap_or_else(|| panic!("{pointer} is not whole"))),
            Some(Json::Array(_) | Json::Object(_)) => panic!("{pointer} is not a plain value"),
        }
    }

    pub(crate) fn text(&self, pointer: &str) -> &str {
        self.json.pointer(pointer).and_then(Json::as_str).unwrap_or_else(|| panic!("no text at {pointer}"))
    }

    /// A double at the top, from its digits: this JSON parser rounds some of them wrongly.
    pub(crate) fn double(&self, name: &str) -> Value {
        self.digits(name).map_or(Value::Null, |digits| Value::float(digits.parse().unwrap()))
    }

    /// A number at the top as it is written.
    pub(crate) fn digits(&self, name: &str) -> Option<String> {
        if self.json[name].is_null() {
            return None;
        }
        let members: BTreeMap<String, &RawValue> = serde_json::from_str(self.line).unwrap();
        Some(members[name].get().to_owned())
    }
}

/// A record of the input: what must become of it, and how it is recognised.
pub(crate) struct Record {
    pub(crate) outcome: Outcome,
    /// The line, or of CSV the row.
    pub(crate) origin: Origin,
}

pub(crate) enum Origin {
    Line(Vec<u8>),
    Row(BTreeMap<String, String>),
}

impl Origin {
    /// Is this the record? CSV became JSON on its way.
    pub(crate) fn is(&self, data: &[u8]) -> bool {
        let row = match self {
            Self::Line(line) => return line == data,
            Self::Row(row) => row,
        };
        let members: BTreeMap<String, &RawValue> = serde_json::from_slice(data).unwrap();
        let text = |raw: &RawValue| serde_json::from_str::<String>(raw.get()).unwrap_or_else(|_| raw.get().to_owned());
        members.len() == row.len() && members.iter().all(|(name, raw)| row.get(name).is_some_and(|value| text(raw) == *value))
    }
}

/// Where the recorded data lies, if it is there.
pub(crate) fn recorded() -> Option<PathBuf> {
    let data = std::env::var_os("SLUICEBOX_DATA").map_or_else(|| root().join("../shared/data"), PathBuf::from);
    data.is_dir().then_some(data)
}

fn open(path: &Path) -> Box<dyn Read> {
    let file = std::fs::File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    if path.extension().is_some_and(|ending| ending == "gz") { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) }
}

/// The lines of a file, packed or not; empty ones are none.
pub(crate) fn lines_of(path: &Path) -> impl Iterator<Item = Vec<u8>> + use<> {
    let lines = BufReader::with_capacity(1 << 20, open(path)).split(b'\n').map(Result::unwrap);
    lines.filter(|line| !line.is_empty())
}

impl Set {
    /// The first `limit` records of these files.
    pub(crate) fn read(&self, files: &[PathBuf], limit: usize) -> Vec<Record> {
        let mut records = Vec::new();
        for path in files {
            let left = limit - records.len();
            if path.to_string_lossy().contains(".csv") {
                let mut reader = csv::Reader::from_reader(open(path));
                let names: Vec<String> = reader.headers().unwrap().iter().map(str::to_owned).collect();
                for row in reader.records().take(left) {
                    let row: BTreeMap<String, String> =
                        names.iter().cloned().zip(row.unwrap().iter().map(str::to_owned)).collect();
                    let json = serde_json::to_value(&row).unwrap();
                    let outcome = (self.judge)(&Fields { json, line: "" });
                    records.push(Record { outcome, origin: Origin::Row(row) });
                }
            } else {
                for line in lines_of(path).take(left) {
                    let outcome = match std::str::from_utf8(&line).map(|text| (text, serde_json::from_str(text))) {
                        Ok((line, Ok(json))) => (self.judge)(&Fields { json, line }),
                        Ok((_, Err(_))) => Outcome::Letter("decode/invalid_json"),
                        Err(_) => Outcome::Letter("decode/invalid_utf8"),
                    };
                    records.push(Record { outcome, origin: Origin::Line(line) });
                }
            }
        }
        records
    }
}
