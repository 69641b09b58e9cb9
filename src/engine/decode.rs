//! Decoding: records to rows of the `events` table, record by record, a bad one costing itself only.
//!
//! Owns: the order of the passes (structure, contract, time), rows in record order, panics turned into rejections. Does not own:
//! the contract (contract), what follows in SQL.
//!
//! A record is checked into a row of slots first and appended to the columns only when nothing can fail any more. A panic
//! rebuilds everything half done and finds its record by trying each alone.

mod check;
mod columns;
mod row;

use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow::array::builder::StringBuilder;
use arrow::array::{Array, ArrayRef, Int32Array, StringArray, TimestampMicrosecondArray};
use arrow::record_batch::RecordBatch;
use jsonschema::paths::LocationSegment;
use sluicebox_actors::model::fault::Fault;
use sluicebox_actors::model::letter::{Rejection, Stage};
use sluicebox_actors::model::record::{RawRecord, RawSlice};
use sluicebox_actors::model::window::is_future;

use super::contract::Compiled;
use super::event_time::{RANGE_US, TimeSource};
use super::structure::{Kind, Structure, Token, text};
use check::{Checker, Step};
use columns::Builder;
use row::{Row, Slot};

/// Columns of text address 31 bits.
const MOST_BYTES: usize = 1 << 30;

/// Rows of one slice, and what became of the other records.
#[derive(Debug)]
pub struct Events {
    /// Rows of the `events` table, in record order.
    pub batch: RecordBatch,
    /// For each row the index of its record in the slice; rising.
    pub origin: Vec<u32>,
    /// The records that are not rows, by rising index.
    pub rejections: Vec<Rejection>,
    /// Largest event time among the rows, microseconds.
    pub max_event_us: Option<i64>,
}

/// Turns slices into [`Events`]. Owns its buffers, learns the order of members; results do not depend on what it read before.
pub struct Decoder {
    contract: Arc<Compiled>,
    work: Work,
}

/// What is reused from record to record and thrown away after a panic.
struct Work {
    structure: Structure,
    row: Row,
}

impl Work {
    fn new(contract: &Compiled) -> Self {
        Self { structure: Structure::default(), row: Row::new(contract.slots, contract.memories) }
    }
}

impl Decoder {
    pub(crate) fn new(contract: Arc<Compiled>) -> Self {
        let work = Work::new(&contract);
        Self { contract, work }
    }

    /// Decodes a slice. Every record becomes one row or one rejection. A `Fault` is ours or the caller's: more than 1 GiB at
    /// once, a sub-sequence number beyond 31 bits, or a panic that no single record explains.
    pub fn decode(&mut self, slice: &RawSlice) -> Result<Events, Fault> {
        if slice.weight() > MOST_BYTES {
            return Err(Fault::bug("a slice to decode holds more than 1 GiB: cut it smaller"));
        }
        match self.guarded(slice, &[]) {
            Some(events) => events,
            None => self.isolate(slice),
        }
    }

    /// `None` is a panic.
    fn guarded(&mut self, slice: &RawSlice, panicking: &[u32]) -> Option<Result<Events, Fault>> {
        let Self { contract, work } = self;
        let result = catch_unwind(AssertUnwindSafe(|| decode_slice(contract, work, slice, panicking)));
        if result.is_err() {
            self.work = Work::new(&self.contract);
        }
        result.ok()
    }

    /// Finds the records that panic by decoding each alone, then decodes the slice without them.
    fn isolate(&mut self, slice: &RawSlice) -> Result<Events, Fault> {
        let mut panicking = Vec::new();
        for (index, record) in (0u32..).zip(&slice.records) {
            let alone = RawSlice { stream: slice.stream.clone(), shard: slice.shard.clone(), records: vec![record.clone()] };
            if self.guarded(&alone, &[]).is_none() {
                panicking.push(index);
            }
        }
        self.guarded(slice, &panicking)
            .unwrap_or_else(|| Err(Fault::bug("the decoder panics on a slice of which no single record makes it panic")))
    }
}

fn decode_slice(contract: &Compiled, work: &mut Work, slice: &RawSlice, panicking: &[u32]) -> Result<Events, Fault> {
    let rows = slice.records.len();
    let mut builders: Vec<Builder> = contract.columns.iter().map(|column| Builder::new(&column.layout, rows)).collect();
    let (mut origin, mut times, mut rejections) = (Vec::with_capacity(rows), Vec::with_capacity(rows), Vec::new());
    for (index, record) in (0u32..).zip(&slice.records) {
        if panicking.binary_search(&index).is_ok() {
            let message = "the decoder failed on this record, which is a bug of sluicebox";
            rejections.push(rejection(Stage::Decode, "panic", message, None).at(index));
            continue;
        }
        match decode_record(contract, work, record) {
            Ok((text, time)) => {
                for builder in &mut builders {
                    builder.append(&work.row, text);
                }
                origin.push(index);
                times.push(time);
            }
            Err(refused) => rejections.push(refused.at(index)),
        }
    }
    let max_event_us = times.iter().copied().max();
    let batch = finish(contract, builders, slice, &origin, times)?;
    Ok(Events { batch, origin, rejections, max_event_us })
}

/// A rejection that does not know its record yet.
struct Refused {
    stage: Stage,
    reason: &'static str,
    message: String,
    path: Option<String>,
}

impl Refused {
    fn at(self, index: u32) -> Rejection {
        let Self { stage, reason, message, path } = self;
        Rejection { index, stage, reason, path, message, causes: Vec::new() }
    }
}

fn rejection(stage: Stage, reason: &'static str, message: impl Into<String>, path: Option<String>) -> Refused {
    Refused { stage, reason, message: message.into(), path }
}

/// Checks one record into the row; its text and event time.
fn decode_record<'a>(contract: &Compiled, work: &mut Work, record: &'a RawRecord) -> Result<(&'a str, i64), Refused> {
    #[cfg(test)]
    assert!(!record.data.starts_with(tests::PANIC), "provoked");
    let Work { structure, row } = work;
    let text = structure.scan(&record.data).map_err(|broken| Refused {
        stage: Stage::Decode,
        reason: broken.reason,
        message: broken.message,
        path: broken.path,
    })?;
    let tokens = structure.tokens();
    row.reset();
    Checker { text, tokens, row }.value(&contract.root, 0).map_err(|violation| {
        let path = Some(violation.path());
        rejection(Stage::Contract, violation.reason, violation.message, path)
    })?;
    if let Some(slot) = contract.whole {
        row.set(slot, Slot::Record(tokens[0].start() as u32, tokens[0].end));
    }
    general_verdict(contract, text)?;
    let time = event_time(contract, tokens, text, record.arrival_us)?;
    if is_future(time, record.arrival_us, contract.max_future_us) {
        let message = "the event time lies further ahead of the arrival than allowed";
        return Err(rejection(Stage::Time, "future_timestamp", message, time_path(&contract.time)));
    }
    Ok((text, time))
}

/// What the general validator says, where the contract needs it.
fn general_verdict(contract: &Compiled, text: &str) -> Result<(), Refused> {
    let Some(validator) = &contract.general else { return Ok(()) };
    let Ok(value) = serde_json::from_str::<serde_json::Value>(text) else {
        // The structure pass holds, so only a number beyond a double is left.
        let message = "a number must fit a 64-bit float where the contract needs the general validator";
        return Err(rejection(Stage::Contract, "number_range", message, None));
    };
    let Err(error) = validator.validate(&value) else { return Ok(()) };
    let steps: Vec<Step> = error
        .instance_path()
        .iter()
        .map(|segment| match segment {
            LocationSegment::Property(name) => Step::Member(name.to_string()),
            LocationSegment::Index(number) => Step::Item(number),
        })
        .collect();
    let message = format!("the rule `{}` of the contract does not hold", error.kind().keyword());
    Err(rejection(Stage::Contract, "schema_violation", message, Some(check::path(steps.iter()))))
}

fn time_path(source: &TimeSource) -> Option<String> {
    match source {
        TimeSource::Arrival => None,
        TimeSource::Path(names) => {
            let steps: Vec<Step> = names.iter().cloned().map(Step::Member).collect();
            Some(check::path(steps.iter()))
        }
    }
}

fn event_time(contract: &Compiled, tokens: &[Token], text: &str, arrival_us: i64) -> Result<i64, Refused> {
    let bad = |message: &str| rejection(Stage::Time, "bad_time", message, time_path(&contract.time));
    let TimeSource::Path(names) = &contract.time else {
        return if RANGE_US.contains(&arrival_us) {
            Ok(arrival_us)
        } else {
            Err(bad("the arrival time lies outside 1970-01-01 to 9999-12-31"))
        };
    };
    let place = names.iter().try_fold(0, |object, name| check::find(tokens, text, object, name));
    let Some(token) = place.map(|place| tokens[place]).filter(|token| token.kind() != Kind::Null) else {
        return Err(rejection(Stage::Time, "missing_time", "the event has no event time", time_path(&contract.time)));
    };
    let time = match token.kind() {
        Kind::Plain | Kind::Escaped => contract.reader.text(&text::unescaped(token, text)),
        Kind::Integer | Kind::Number => contract.reader.number(token.raw(text)),
        Kind::Null | Kind::True | Kind::False | Kind::Object | Kind::Array => None,
    };
    time.ok_or_else(|| bad("the event time can't be read in the named format, or lies outside 1970-01-01 to 9999-12-31"))
}

/// [`super::contract::Contract::event_time_of`].
pub(crate) fn event_time_of(contract: &Compiled, data: &[u8]) -> Option<i64> {
    let TimeSource::Path(_) = contract.time else { return None };
    let mut structure = Structure::default();
    let text = structure.scan(data).ok()?;
    event_time(contract, structure.tokens(), text, 0).ok()
}

fn finish(
    contract: &Compiled,
    builders: Vec<Builder>,
    slice: &RawSlice,
    origin: &[u32],
    times: Vec<i64>,
) -> Result<RecordBatch, Fault> {
    let arrow = |error| Fault::caused(sluicebox_actors::model::fault::Kind::Bug, "cannot build the columns of a slice", &error);
    let mut arrays = builders.into_iter().map(Builder::finish).collect::<Result<Vec<ArrayRef>, _>>().map_err(arrow)?;
    let records = || origin.iter().map(|index| &slice.records[*index as usize]);
    let rows = origin.len();
    let mut sequences = StringBuilder::with_capacity(rows, rows * 20);
    let mut subs = Vec::with_capacity(rows);
    for record in records() {
        write!(sequences, "{}", record.sequence).map_err(|_| Fault::bug("cannot write a sequence number"))?;
        sequences.append_value("");
        let sub = i32::try_from(record.sub_sequence);
        subs.push(sub.map_err(|_| Fault::corrupt("a sub-sequence number exceeds 31 bits: the stream is not to be trusted"))?);
    }
    let times = TimestampMicrosecondArray::from(times).with_timezone("UTC");
    let arrivals: TimestampMicrosecondArray = records().map(|record| Some(record.arrival_us)).collect();
    arrays.extend([
        Arc::new(times) as ArrayRef,
        Arc::new(StringArray::from_iter_values(std::iter::repeat_n(slice.stream.as_ref(), rows))),
        Arc::new(StringArray::from_iter_values(std::iter::repeat_n(slice.shard.as_str(), rows))),
        Arc::new(sequences.finish()),
        Arc::new(Int32Array::from(subs)),
        Arc::new(StringArray::from_iter_values(records().map(RawRecord::partition_key_str))),
        Arc::new(arrivals.with_timezone("UTC")),
    ]);
    debug_assert!(arrays.iter().all(|array| array.len() == rows));
    RecordBatch::try_new(contract.schema.clone(), arrays).map_err(arrow)
}

#[cfg(test)]
mod tests;
