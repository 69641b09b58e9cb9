//! Goal: what lies in a data directory, read with nothing of the program: Parquet, NDJSON, the heads of epoch objects.

#![allow(clippy::unwrap_used, reason = "a helper of a test may end the test")]

use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Decimal128Type, Float64Type, Int32Type, Int64Type, TimeUnit, TimestampMicrosecondType};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value as Json;

use super::value::Value;

/// All files under a folder that end so, in order.
pub(crate) fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = std::fs::read_dir(folder) else { return found };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, ending));
        } else if path.to_string_lossy().ends_with(ending) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The rows of all Parquet files under a folder, reduced to these columns.
pub(crate) fn rows(folder: &Path, columns: &[&str]) -> Vec<Vec<Value>> {
    let mut rows = Vec::new();
    for path in files(folder, ".parquet") {
        let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(&path).unwrap()).unwrap().build().unwrap();
        for batch in reader {
            take(&batch.unwrap(), columns, &mut rows);
        }
    }
    rows
}

fn take(batch: &RecordBatch, columns: &[&str], rows: &mut Vec<Vec<Value>>) {
    let first = rows.len();
    rows.resize(first + batch.num_rows(), Vec::with_capacity(columns.len()));
    for name in columns {
        let column = batch.column_by_name(name).unwrap_or_else(|| panic!("no column `{name}`: {}", batch.schema()));
        for (at, row) in rows[first..].iter_mut().enumerate() {
            row.push(value(column.as_ref(), at));
        }
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the types of another crate; what is not expected ends the test")]
fn value(column: &dyn Array, at: usize) -> Value {
    if column.is_null(at) {
        return Value::Null;
    }
    match column.data_type() {
        DataType::Boolean => Value::Bool(column.as_boolean().value(at)),
        DataType::Int32 => Value::whole(column.as_primitive::<Int32Type>().value(at)),
        DataType::Int64 => Value::whole(column.as_primitive::<Int64Type>().value(at)),
        DataType::Decimal128(_, scale) => {
            Value::exact(column.as_primitive::<Decimal128Type>().value(at), u32::try_from(*scale).unwrap())
        }
        DataType::Float64 => Value::float(column.as_primitive::<Float64Type>().value(at)),
        DataType::Utf8 => Value::text(column.as_string::<i32>().value(at)),
        DataType::Timestamp(TimeUnit::Microsecond, Some(zone)) if &**zone == "UTC" => {
            Value::whole(column.as_primitive::<TimestampMicrosecondType>().value(at))
        }
        other => panic!("no column should be of type {other}"),
    }
}

/// A dead letter.
pub(crate) struct Letter {
    pub(crate) shard: String,
    pub(crate) sequence: u64,
    pub(crate) stage: String,
    pub(crate) reason: String,
    pub(crate) path: Option<String>,
    pub(crate) message: String,
    pub(crate) window_start_us: Option<i64>,
    pub(crate) bound_us: Option<i64>,
    pub(crate) epoch: u64,
    pub(crate) data: Vec<u8>,
}

impl fmt::Debug for Letter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { shard, sequence, stage, reason, path, message, window_start_us, bound_us, epoch, data } = self;
        write!(
            f,
            "letter {shard}/{sequence} of epoch {epoch}, {stage}/{reason} {path:?} ({message}), window {window_start_us:?}, "
        )?;
        write!(f, "bound {bound_us:?}, {} bytes", data.len())
    }
}

/// All dead letters of a directory.
pub(crate) fn letters(data: &Path) -> Vec<Letter> {
    let mut letters = Vec::new();
    for path in files(&data.join("dlq"), ".ndjson") {
        for line in std::fs::read_to_string(path).unwrap().lines() {
            let json: Json = serde_json::from_str(line).unwrap();
            let text = |name: &str| json[name].as_str().unwrap_or_else(|| panic!("{name}: {line}")).to_owned();
            letters.push(Letter {
                shard: text("shard"),
                sequence: text("sequence").parse().unwrap(),
                stage: text("stage"),
                reason: text("reason"),
                path: json["path"].as_str().map(str::to_owned),
                message: text("message"),
                window_start_us: json["window_start_us"].as_i64(),
                bound_us: json["bound_us"].as_i64(),
                epoch: json["epoch"].as_u64().unwrap(),
                data: from_base64(&text("data")),
            });
        }
    }
    letters
}

fn from_base64(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut word, mut bits) = (0u32, 0);
    for digit in text.trim_end_matches('=').bytes() {
        let digit = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            other => panic!("{other} is not base64"),
        };
        word = word << 6 | u32::from(digit);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push((word >> bits & 0xff) as u8);
        }
    }
    bytes
}

/// What the head of an epoch object says of its cut and its bounds.
#[derive(Clone, Debug)]
pub(crate) struct Epoch {
    pub(crate) shard: String,
    pub(crate) number: u64,
    /// It covers the records after this …
    pub(crate) from: u64,
    /// … up to and including this.
    pub(crate) to: u64,
    pub(crate) bound_opened: i64,
    pub(crate) bound_committed: i64,
}

/// The committed epochs of all shards, by shard and number: epoch objects, and ledger lines of those that were collected.
pub(crate) fn epochs(data: &Path) -> Vec<Epoch> {
    let mut heads = Vec::new();
    for path in files(&data.join("state/blobs/epochs"), "") {
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(&bytes[..8], b"SBEPOCH1", "{}", path.display());
        let length = u32::from_le_bytes(bytes[8..12].try_into().unwrap()) as usize;
        heads.push(serde_json::from_slice::<Json>(&bytes[12..12 + length]).unwrap());
    }
    for path in files(&data.join("ledger"), ".ndjson") {
        let text = std::fs::read_to_string(path).unwrap();
        heads.extend(text.lines().map(|line| serde_json::from_str::<Json>(line).unwrap()));
    }
    let sequence = |json: &Json| json.as_str().map_or(0, |text| text.parse().unwrap());
    let mut epochs: Vec<Epoch> = heads
        .iter()
        .map(|head| Epoch {
            shard: head["shard"].as_str().unwrap().to_owned(),
            number: head["epoch"].as_u64().unwrap(),
            from: sequence(&head["from"]),
            to: sequence(&head["to"]),
            bound_opened: head["bound_opened"].as_i64().unwrap(),
            bound_committed: head["bound_committed"].as_i64().unwrap(),
        })
        .collect();
    epochs.sort_by(|a, b| (&a.shard, a.number).cmp(&(&b.shard, b.number)));
    // A crash between ledger and deletion may leave both.
    epochs.dedup_by(|a, b| a.shard == b.shard && a.number == b.number);
    epochs
}
