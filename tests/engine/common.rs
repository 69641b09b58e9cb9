//! A table of events with every type, and an engine over it, for the tests of the SQL engine.
//!
//! Owns: rows, batches, the ways to cut and merge them. Does not own: what is expected.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray,
    StructArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use sluicebox::engine::decode::Events;
use sluicebox::engine::glue::{EventDecoder, SqlEngine};
use sluicebox::engine::sql::gold::GoldPlan;
use sluicebox::engine::sql::silver::{SilverPlan, timestamp_type};
use sluicebox_actors::model::fault::Result;
use sluicebox_actors::model::record::RawSlice;
use sluicebox_actors::model::window::{HOUR_US, Windowing};
use sluicebox_actors::ports::{Engine, Finished, Partial};

/// 2026-11-23T15:00:00Z.
pub(crate) const START_US: i64 = 1_795_446_000_000_000;
pub(crate) const HOURLY: Windowing = Windowing { size_us: HOUR_US, lateness_us: 0 };

/// One event.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) kind: Option<&'static str>,
    pub(crate) user: String,
    pub(crate) n: Option<i64>,
    pub(crate) x: Option<f64>,
    pub(crate) price: Option<i128>,
    pub(crate) wide: Option<i128>,
    pub(crate) ok: Option<bool>,
    pub(crate) day: Option<i32>,
    pub(crate) event_us: i64,
    pub(crate) arrival_us: i64,
    /// Decides shard and sequence number; unique.
    pub(crate) number: usize,
}

impl Row {
    pub(crate) fn plain(number: usize) -> Self {
        Row {
            kind: Some("view"),
            user: format!("u{number}"),
            n: Some(number as i64),
            x: Some(number as f64),
            price: Some(number as i128 * 100),
            wide: None,
            ok: Some(true),
            day: None,
            event_us: START_US + number as i64,
            arrival_us: START_US + number as i64 + 5,
            number,
        }
    }

    pub(crate) fn shard(&self) -> String {
        format!("shardId-{}", self.number % 3)
    }

    pub(crate) fn sequence(&self) -> String {
        (self.number + 1).to_string()
    }
}

fn properties() -> Fields {
    vec![Field::new("amount", DataType::Float64, true), Field::new("label", DataType::Utf8, true)].into()
}

pub(crate) fn events_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("kind", DataType::Utf8, true),
        Field::new("userId", DataType::Utf8, false),
        Field::new("n", DataType::Int64, true),
        Field::new("x", DataType::Float64, true),
        Field::new("price", DataType::Decimal128(18, 2), true),
        Field::new("wide", DataType::Decimal128(38, 4), true),
        Field::new("ok", DataType::Boolean, true),
        Field::new("day", DataType::Date32, true),
        Field::new("properties", DataType::Struct(properties()), true),
        Field::new("_rest", DataType::Utf8, true),
        Field::new("event_time", timestamp_type(), false),
        Field::new("_stream", DataType::Utf8, false),
        Field::new("_shard", DataType::Utf8, false),
        Field::new("_sequence", DataType::Utf8, false),
        Field::new("_sub_sequence", DataType::Int32, false),
        Field::new("_partition_key", DataType::Utf8, false),
        Field::new("_arrival_time", timestamp_type(), false),
    ]))
}

pub(crate) fn events(rows: &[Row]) -> RecordBatch {
    let decimals = |values: Vec<Option<i128>>, precision, scale| -> ArrayRef {
        Arc::new(Decimal128Array::from(values).with_precision_and_scale(precision, scale).expect("fits"))
    };
    let times = |values: Vec<i64>| -> ArrayRef { Arc::new(TimestampMicrosecondArray::from(values).with_timezone("UTC")) };
    let texts = |values: Vec<Option<String>>| -> ArrayRef { Arc::new(StringArray::from(values)) };
    let amounts: ArrayRef = Arc::new(rows.iter().map(|row| row.x).collect::<Float64Array>());
    let labels = texts(rows.iter().map(|row| row.kind.map(str::to_owned)).collect());
    let columns: Vec<ArrayRef> = vec![
        Arc::new(rows.iter().map(|row| row.kind).collect::<StringArray>()),
        texts(rows.iter().map(|row| Some(row.user.clone())).collect()),
        Arc::new(rows.iter().map(|row| row.n).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|row| row.x).collect::<Float64Array>()),
        decimals(rows.iter().map(|row| row.price).collect(), 18, 2),
        decimals(rows.iter().map(|row| row.wide).collect(), 38, 4),
        Arc::new(rows.iter().map(|row| row.ok).collect::<BooleanArray>()),
        Arc::new(rows.iter().map(|row| row.day).collect::<Date32Array>()),
        Arc::new(StructArray::new(properties(), vec![amounts, labels], None)),
        texts(rows.iter().map(|row| Some(format!(r#"{{"n":{},"s":"é"}}"#, row.number))).collect()),
        times(rows.iter().map(|row| row.event_us).collect()),
        texts(rows.iter().map(|_| Some("s".to_owned())).collect()),
        texts(rows.iter().map(|row| Some(row.shard())).collect()),
        texts(rows.iter().map(|row| Some(row.sequence())).collect()),
        Arc::new(rows.iter().map(|_| Some(0)).collect::<Int32Array>()),
        texts(rows.iter().map(|row| Some(row.user.clone())).collect()),
        times(rows.iter().map(|row| row.arrival_us).collect()),
    ];
    RecordBatch::try_new(events_schema(), columns).expect("columns fit the schema")
}

struct NoDecoder;

impl EventDecoder for NoDecoder {
    fn decode(&mut self, _slice: &RawSlice) -> Result<Events> {
        Ok(Events { batch: events(&[]), origin: Vec::new(), rejections: Vec::new(), max_event_us: None })
    }
}

/// An engine whose Silver is `SELECT * FROM events`, with one Gold table.
pub(crate) fn engine(sql: &str) -> SqlEngine {
    let silver = SilverPlan::compile("SELECT * FROM events", &[], &events_schema()).expect("compiles");
    let gold = GoldPlan::compile("t", sql, silver.schema(), HOURLY).unwrap_or_else(|error| panic!("{error}"));
    SqlEngine::new(Arc::new(|| Box::new(NoDecoder)), silver, vec![gold])
}

/// Feeds rows to one partition in batches of these sizes (the last repeats) and cuts after the batches in `cuts`.
pub(crate) fn partials(engine: &SqlEngine, rows: &[Row], batch: usize, cut_every: usize) -> Vec<Partial> {
    let mut partition = engine.partition().expect("a partition");
    let mut out = Vec::new();
    for (at, chunk) in rows.chunks(batch.max(1)).enumerate() {
        let silver = engine.silver_plan().apply(&events(chunk), 0).expect("applies").batch;
        let admitted = partition.admit(0, &silver).expect("admits");
        let chosen: Vec<u32> =
            (0..chunk.len() as u32).filter(|row| admitted.as_ref().is_none_or(|mask| mask.value(*row as usize))).collect();
        let windows: Vec<i64> = chosen.iter().map(|row| HOURLY.window_of(chunk[*row as usize].event_us).start_us).collect();
        partition.accumulate(0, &silver, &chosen, &windows).expect("accumulates");
        if (at + 1) % cut_every.max(1) == 0 {
            out.extend(partition.cut().expect("cuts"));
        }
    }
    out.extend(partition.cut().expect("cuts"));
    assert!(partition.cut().expect("cuts").is_empty(), "a cut forgets everything");
    out
}

pub(crate) fn by_window(partials: Vec<Partial>) -> BTreeMap<i64, Vec<RecordBatch>> {
    let mut windows: BTreeMap<i64, Vec<RecordBatch>> = BTreeMap::new();
    for partial in partials {
        windows.entry(partial.window_us).or_default().push(partial.states);
    }
    windows
}

pub(crate) fn finish(engine: &SqlEngine, window_us: i64, parts: &[RecordBatch]) -> Finished {
    let merged = engine.merge(0, parts).expect("merges");
    engine.finish(0, HOURLY.starting(window_us), &merged).expect("finishes")
}

/// All windows of these rows, taken in one piece.
pub(crate) fn gold(sql: &str, rows: &[Row]) -> Vec<Finished> {
    let engine = engine(sql);
    let windows = by_window(partials(&engine, rows, usize::MAX, 1));
    windows.iter().map(|(window, parts)| finish(&engine, *window, parts)).collect()
}

/// One window as text, a line a row, columns by `|`.
pub(crate) fn lines(rows: &RecordBatch) -> Vec<String> {
    use arrow::util::display::{ArrayFormatter, FormatOptions};
    let options = FormatOptions::default().with_null("NULL");
    let columns: Vec<_> =
        rows.columns().iter().map(|column| ArrayFormatter::try_new(column, &options).expect("formats")).collect();
    (0..rows.num_rows())
        .map(|row| columns.iter().map(|column| column.value(row).to_string()).collect::<Vec<_>>().join("|"))
        .collect()
}

/// The one window of these rows as text without the window columns.
pub(crate) fn table(sql: &str, rows: &[Row]) -> Vec<String> {
    let windows = gold(sql, rows);
    assert_eq!(windows.len(), 1, "one window");
    let rows = &windows[0].rows;
    lines(&rows.project(&(2..rows.num_columns()).collect::<Vec<_>>()).expect("window columns lead"))
}
