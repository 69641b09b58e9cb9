//! A small engine whose states commute: count, integer sum, smallest and largest value per key.
//!
//! Owns: decoding the tests' events, two Gold tables as Arrow. Does not own: what the right answer is (truth).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{Array, BooleanArray, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow_schema::{DataType, Field, Schema, TimeUnit};

use sluicebox_actors::model::fault::{Fault, Result};
use sluicebox_actors::model::letter::{Rejection, Stage};
use sluicebox_actors::model::record::RawSlice;
use sluicebox_actors::model::window::{Window, Windowing};
use sluicebox_actors::ports::{Decoded, Engine, Finished, GoldTable, Partial, PartitionEngine};

use crate::truth::{Group, TABLES};

/// The Gold tables of every simulated world.
pub fn tables() -> Vec<GoldTable> {
    let table = |(name, size_us, lateness_us): (&str, i64, i64)| {
        let windowing = Windowing { size_us, lateness_us };
        GoldTable { name: name.into(), windowing }
    };
    TABLES.map(table).into()
}

/// The engine of worlds that are about the protocol and not about SQL.
pub struct SmallEngine {
    tables: Vec<GoldTable>,
    /// HAVING count(*) <= so much.
    having: Option<u64>,
    /// Why bad records are letters.
    bad: &'static str,
}

impl SmallEngine {
    /// Groups of more records than this are left out.
    pub fn new(having: Option<u64>) -> Self {
        Self { tables: tables(), having, bad: "bad_record" }
    }

    /// The same, with another reason for bad records.
    pub fn calling(self, bad: &'static str) -> Self {
        Self { bad, ..self }
    }
}

type States = BTreeMap<String, Group>;

fn add(states: &mut States, key: &str, (n, sum, least, most): Group) {
    let mine = states.entry(key.to_owned()).or_insert((0, 0, i64::MAX, i64::MIN));
    *mine = (mine.0 + n, mine.1 + sum, mine.2.min(least), mine.3.max(most));
}

fn int(name: &str) -> Field {
    Field::new(name, DataType::Int64, false)
}

fn bug(error: &arrow_schema::ArrowError) -> Fault {
    Fault::bug(error.to_string())
}

fn to_batch(states: &States) -> Result<RecordBatch> {
    let keys = Field::new("key", DataType::Utf8, false);
    let schema = Schema::new(vec![keys, int("n"), int("sum"), int("least"), int("most")]);
    let ints = |value: fn(&Group) -> i64| Arc::new(states.values().map(value).collect::<Int64Array>());
    let keys: StringArray = states.keys().map(Some).collect();
    let columns: Vec<Arc<dyn Array>> = vec![Arc::new(keys), ints(|g| g.0 as i64), ints(|g| g.1), ints(|g| g.2), ints(|g| g.3)];
    RecordBatch::try_new(Arc::new(schema), columns).map_err(|error| bug(&error))
}

fn ints<'a>(batch: &'a RecordBatch, name: &str) -> &'a [i64] {
    batch.column_by_name(name).expect("a column of ours").as_primitive::<Int64Type>().values()
}

impl Engine for SmallEngine {
    fn tables(&self) -> &[GoldTable] {
        &self.tables
    }

    fn partition(&self) -> Result<Box<dyn PartitionEngine>> {
        Ok(Box::new(SmallPartition { states: BTreeMap::new(), bad: self.bad }))
    }

    fn merge(&self, _: usize, parts: &[RecordBatch]) -> Result<RecordBatch> {
        let mut states = States::new();
        for part in parts {
            let keys = part.column_by_name("key").expect("a column of ours").as_string::<i32>();
            for row in 0..part.num_rows() {
                let at = |name| ints(part, name)[row];
                add(&mut states, keys.value(row), (at("n") as u64, at("sum"), at("least"), at("most")));
            }
        }
        to_batch(&states)
    }

    fn finish(&self, _: usize, window: Window, merged: &RecordBatch) -> Result<Finished> {
        let few = |n: &i64| self.having.is_none_or(|most| n.unsigned_abs() <= most);
        let kept: Vec<usize> = (0..merged.num_rows()).filter(|row| few(&ints(merged, "n")[*row])).collect();
        let merged = &rows_of(merged, &kept)?;
        let start = Int64Array::from(vec![window.start_us; merged.num_rows()]);
        let fields: Vec<_> =
            [Arc::new(int("window_start"))].into_iter().chain(merged.schema().fields().iter().cloned()).collect();
        let columns = [Arc::new(start) as Arc<dyn Array>].into_iter().chain(merged.columns().iter().cloned()).collect();
        let rows = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).map_err(|error| bug(&error))?;
        Ok(Finished { rows, overflow: false })
    }

    fn keys(&self, _: usize) -> Option<Arc<[String]>> {
        Some(Arc::from(["key".to_owned()]))
    }

    fn without(&self, rows: &[RecordBatch], others: &[RecordBatch]) -> Result<RecordBatch> {
        let keys = |batches: &[RecordBatch]| -> BTreeSet<String> {
            let column = |batch: &RecordBatch| batch.column_by_name("key").expect("a column of ours").as_string::<i32>().clone();
            batches.iter().map(column).flat_map(|keys| keys.iter().flatten().map(str::to_owned).collect::<Vec<_>>()).collect()
        };
        let left: StringArray = keys(rows).difference(&keys(others)).map(Some).collect();
        let schema = Arc::new(Schema::new(vec![Field::new("key", DataType::Utf8, false)]));
        RecordBatch::try_new(schema, vec![Arc::new(left)]).map_err(|error| bug(&error))
    }
}

/// Some rows of merged states.
fn rows_of(states: &RecordBatch, kept: &[usize]) -> Result<RecordBatch> {
    let keys = states.column_by_name("key").expect("a column of ours").as_string::<i32>();
    let keys: StringArray = kept.iter().map(|row| Some(keys.value(*row))).collect();
    let of = |name| Arc::new(kept.iter().map(|row| ints(states, name)[*row]).collect::<Int64Array>()) as Arc<dyn Array>;
    let columns: Vec<Arc<dyn Array>> = vec![Arc::new(keys), of("n"), of("sum"), of("least"), of("most")];
    RecordBatch::try_new(states.schema(), columns).map_err(|error| bug(&error))
}

/// What a group is said to hold.
pub const GROUP_BYTES: usize = 100;

struct SmallPartition {
    states: BTreeMap<(usize, i64), States>,
    bad: &'static str,
}

fn parse(data: &[u8]) -> Option<(String, i64, i64)> {
    let text = std::str::from_utf8(data).ok()?;
    let mut fields = text.split(',');
    let parsed = (fields.next()?.to_owned(), fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    fields.next().is_none().then_some(parsed)
}

impl PartitionEngine for SmallPartition {
    fn decode(&mut self, slice: &RawSlice, _: i64) -> Result<Decoded> {
        let (mut origin, mut rejections, mut left_out, mut max_event_us) = (Vec::new(), Vec::new(), 0, None);
        let (mut keys, mut values, mut times, mut names) = (Vec::new(), Vec::new(), Vec::new(), (Vec::new(), Vec::new()));
        for (index, record) in (0u32..).zip(&slice.records) {
            let Some((key, event_us, value)) = parse(&record.data) else {
                let (path, message, causes) = (None, "not key,time,value".to_owned(), Vec::new());
                rejections.push(Rejection { index, stage: Stage::Decode, reason: self.bad, path, message, causes });
                continue;
            };
            max_event_us = max_event_us.max(Some(event_us));
            if value < 0 {
                left_out += 1;
                continue;
            }
            origin.push(index);
            keys.push(key);
            values.push(value);
            times.push(event_us);
            names.0.push(record.sequence.to_string());
            names.1.push(i64::from(record.sub_sequence));
        }
        let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        let text = |name| Field::new(name, DataType::Utf8, false);
        let names_of = [text("_shard"), text("_sequence"), int("_sub_sequence")];
        let fields = [text("key"), int("value"), Field::new("event_time", time, false)].into_iter().chain(names_of);
        let schema = Schema::new(fields.collect::<Vec<_>>());
        let shards = StringArray::from_iter_values(names.0.iter().map(|_| slice.shard.as_str()));
        let columns: Vec<Arc<dyn Array>> = vec![
            Arc::new(StringArray::from(keys)),
            Arc::new(Int64Array::from(values)),
            Arc::new(TimestampMicrosecondArray::from(times).with_timezone("UTC")),
            Arc::new(shards),
            Arc::new(StringArray::from(names.0)),
            Arc::new(Int64Array::from(names.1)),
        ];
        let silver = RecordBatch::try_new(Arc::new(schema), columns).map_err(|error| bug(&error))?;
        let filtered = if left_out > 0 { vec![("negative".into(), left_out)] } else { Vec::new() };
        Ok(Decoded { silver, origin, rejections, filtered, max_event_us })
    }

    fn admit(&mut self, table: usize, silver: &RecordBatch) -> Result<Option<BooleanArray>> {
        // A NULL of the WHERE is no.
        Ok((table == 1).then(|| ints(silver, "value").iter().map(|v| if v % 3 == 0 { None } else { Some(true) }).collect()))
    }

    fn accumulate(&mut self, table: usize, silver: &RecordBatch, rows: &[u32], windows_us: &[i64]) -> Result<()> {
        let keys = silver.column_by_name("key").expect("a column of ours").as_string::<i32>();
        let values = ints(silver, "value");
        for (row, window_us) in rows.iter().map(|row| *row as usize).zip(windows_us) {
            let (key, value) = (keys.value(row), values[row]);
            add(self.states.entry((table, *window_us)).or_default(), key, (1, value, value, value));
        }
        Ok(())
    }

    fn held(&mut self) -> usize {
        self.states.values().map(|groups| groups.len() * GROUP_BYTES).sum()
    }

    fn cut(&mut self) -> Result<Vec<Partial>> {
        let states = std::mem::take(&mut self.states);
        let partial = |((table, window_us), states): (&(usize, i64), &States)| {
            let rows = states.values().map(|group| group.0).sum();
            Ok(Partial { table: *table, window_us: *window_us, rows, states: to_batch(states)? })
        };
        states.iter().map(partial).collect()
    }
}
