//! Dead letters as columns: the table `dlq`.
//!
//! Owns: its schema and turning NDJSON lines into batches. Does not own: the letter's JSON (actors' model::letter), finding
//! letters for people (letters).

use std::path::Path;
use std::sync::Arc;

use arrow::array::builder::{BinaryBuilder, Int64Builder, StringBuilder, TimestampMicrosecondBuilder};
use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use sluicebox_actors::model::fault::{Fault, Kind, Result};
use sluicebox_actors::model::letter::Letter;

use super::files;

/// Bytes of letters in one batch, about.
const BATCH_BYTES: usize = 4 << 20;

/// `Timestamp(µs, UTC)`.
pub fn timestamp() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

/// The columns of the table `dlq`; `dt` is added from the folders. `data` is the record as it came, `bytes` its
/// length, `data_text` the same where it is UTF-8, `causes` one cause a line.
pub fn schema() -> SchemaRef {
    let text = |name: &str| Field::new(name, DataType::Utf8, true);
    let number = |name: &str| Field::new(name, DataType::Int64, true);
    let time = |name: &str| Field::new(name, timestamp(), true);
    Arc::new(Schema::new(vec![
        text("id"),
        text("stream"),
        text("shard"),
        text("sequence"),
        number("sub_sequence"),
        text("partition_key"),
        time("arrival_time"),
        text("stage"),
        text("reason"),
        text("error"),
        text("message"),
        text("causes"),
        text("path"),
        time("window_start"),
        time("bound"),
        number("epoch"),
        number("attempts"),
        time("first_failure"),
        time("last_failure"),
        text("fingerprint"),
        text("version"),
        text("request_id"),
        text("trace_id"),
        number("bytes"),
        Field::new("data", DataType::Binary, true),
        text("data_text"),
    ]))
}

/// Reads one line of a dead-letter file.
pub fn parse(line: &[u8], file: &Path) -> Result<Letter> {
    // The message of the JSON error may quote the line, and a letter's bytes never reach a message.
    serde_json::from_slice(line).map_err(|error| {
        let place = format!("{} column {}: not a letter", file.display(), error.column());
        Fault::new(Kind::Corrupt, place)
    })
}

/// Sends all letters of one file as batches; `send` returns false to stop.
pub fn each_batch(path: &Path, send: &mut dyn FnMut(RecordBatch) -> Result<bool>) -> Result<()> {
    let (mut held, mut weight, mut go_on) = (Vec::new(), 0, true);
    files::each_line(path, &mut |line| {
        let letter = parse(line, path)?;
        weight += letter.weight();
        held.push(letter);
        if weight >= BATCH_BYTES || held.len() >= files::BATCH_ROWS {
            go_on = send(batch(&held)?)?;
            held.clear();
            weight = 0;
        }
        Ok(go_on)
    })?;
    if go_on && !held.is_empty() {
        send(batch(&held)?)?;
    }
    Ok(())
}

/// Letters as one batch of [`schema`].
pub fn batch(letters: &[Letter]) -> Result<RecordBatch> {
    let text = |of: &dyn Fn(&Letter) -> Option<String>| -> ArrayRef {
        let mut builder = StringBuilder::new();
        letters.iter().for_each(|letter| builder.append_option(of(letter)));
        Arc::new(builder.finish())
    };
    let number = |of: &dyn Fn(&Letter) -> i64| -> ArrayRef {
        let mut builder = Int64Builder::new();
        letters.iter().for_each(|letter| builder.append_value(of(letter)));
        Arc::new(builder.finish())
    };
    let time = |of: &dyn Fn(&Letter) -> Option<i64>| -> ArrayRef {
        let mut builder = TimestampMicrosecondBuilder::new().with_timezone("UTC");
        letters.iter().for_each(|letter| builder.append_option(of(letter)));
        Arc::new(builder.finish())
    };
    let mut data = BinaryBuilder::new();
    letters.iter().for_each(|letter| data.append_value(&letter.data));
    let columns = vec![
        text(&|l| Some(l.id())),
        text(&|l| Some(l.stream.to_string())),
        text(&|l| Some(l.shard.to_string())),
        text(&|l| Some(l.sequence.to_string())),
        number(&|l| i64::from(l.sub_sequence)),
        text(&|l| Some(l.partition_key.clone())),
        time(&|l| Some(l.arrival_us)),
        text(&|l| Some(l.stage.to_string())),
        text(&|l| Some(l.reason.clone())),
        text(&|l| Some(l.error.clone())),
        text(&|l| Some(l.message.clone())),
        text(&|l| (!l.causes.is_empty()).then(|| l.causes.join("\n"))),
        text(&|l| l.path.clone()),
        time(&|l| l.window_start_us),
        time(&|l| l.bound_us),
        number(&|l| i64::try_from(l.epoch).unwrap_or(i64::MAX)),
        number(&|l| i64::from(l.attempts)),
        time(&|l| Some(l.first_failure_us)),
        time(&|l| Some(l.last_failure_us)),
        text(&|l| Some(l.fingerprint.to_string())),
        text(&|l| Some(l.version.to_string())),
        text(&|l| Some(l.request_id.to_string())),
        text(&|l| l.trace_id.clone()),
        number(&|l| i64::try_from(l.data.len()).unwrap_or(i64::MAX)),
        Arc::new(data.finish()),
        text(&|l| std::str::from_utf8(&l.data).ok().map(str::to_owned)),
    ];
    RecordBatch::try_new(schema(), columns).map_err(|error| Fault::caused(Kind::Bug, "letters as columns", &error))
}
