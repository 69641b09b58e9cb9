//! Timestream's write side in memory: versions, rejected records, the endpoint that has to be asked for.
//!
//! Every table exists. It refuses what AWS documents as refused: more than 100 records, dimensions twice or without value, values
//! that are not of their type, lower versions, equal versions with other values, times outside the memory store.
//!
//! Owns: records and what a write does to them. Does not own: the socket (server).

use std::collections::{BTreeMap, BTreeSet};

use axum::response::Response;
use serde_json::{Value, json};

use crate::json;
use crate::server::{Call, Fake, Locked, Service};

const RECORDS_MAX: usize = 100;
const DIMENSIONS_MAX: usize = 128;
const DIMENSION_NAME_MAX: usize = 60;
const RECORD_MAX: usize = 2048;

/// A Timestream on a loopback port. It ends when dropped.
pub type FakeTimestream = Fake<State>;

/// One record that is stored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stored {
    /// Its dimensions.
    pub dimensions: BTreeMap<String, String>,
    /// Its time, microseconds since 1970.
    pub time_us: i64,
    /// Name of the measure.
    pub measure: String,
    /// The version it has.
    pub version: i64,
    /// Type and value of each measure.
    pub values: BTreeMap<String, (String, String)>,
}

/// Dimensions, time and measure name.
type Key = (BTreeMap<String, String>, i64, String);
type Values = BTreeMap<String, (String, String)>;

/// What it holds.
#[derive(Default)]
pub struct State {
    tables: BTreeMap<(String, String), BTreeMap<Key, (i64, Values)>>,
    memory_from_us: Option<i64>,
    reject: BTreeSet<usize>,
    largest_call: usize,
}

impl FakeTimestream {
    /// The memory store begins here; earlier records are rejected.
    pub fn memory_from_us(&self, us: i64) {
        self.lock().memory_from_us = Some(us);
    }

    /// The records at these places of the next call are rejected, whatever they are; the others are stored.
    pub fn reject_indexes(&self, places: impl IntoIterator<Item = usize>) {
        self.lock().reject = places.into_iter().collect();
    }

    /// All records of a table.
    pub fn records(&self, database: &str, table: &str) -> Vec<Stored> {
        let state = self.lock();
        let records = state.tables.get(&(database.to_owned(), table.to_owned())).into_iter().flatten();
        let stored = |(key, (version, values)): (&Key, &(i64, Values))| Stored {
            dimensions: key.0.clone(),
            time_us: key.1,
            measure: key.2.clone(),
            version: *version,
            values: values.clone(),
        };
        records.map(stored).collect()
    }

    /// Most records of one call so far.
    pub fn largest_call(&self) -> usize {
        self.lock().largest_call
    }
}

impl Service for Locked<State> {
    fn operation(&self, call: &Call) -> String {
        json::operation(call)
    }

    fn answer(&self, operation: &str, call: &Call) -> Response {
        let Ok(request) = serde_json::from_slice::<Value>(&call.body) else {
            return json::error(400, "ValidationException", "the body is not JSON");
        };
        match operation {
            "DescribeEndpoints" => {
                json::respond(200, &json!({"Endpoints": [{"Address": "ingest.invalid", "CachePeriodInMinutes": 1440}]}))
            }
            "WriteRecords" => match self.lock().write(&request) {
                Ok(rejected) if rejected.is_empty() => json::respond(200, &json!({"RecordsIngested": {}})),
                Ok(rejected) => json::respond(
                    419,
                    &json!({
                        "__type": "com.amazonaws.timestream.v20181101#RejectedRecordsException",
                        "Message": "One or more records have been rejected. See RejectedRecords for details.",
                        "RejectedRecords": rejected,
                    }),
                ),
                Err(message) => json::error(400, "ValidationException", &message),
            },
            other => json::error(400, "ValidationException", &format!("this fake does not know {other}")),
        }
    }

    fn refusal(&self, status: u16, code: &str) -> Response {
        json::error(status, code, "ordered by the test")
    }

    fn throttled(&self) -> Response {
        json::error(400, "ThrottlingException", "Rate exceeded")
    }
}

fn text<'v>(value: &'v Value, field: &str) -> Result<&'v str, String> {
    value[field].as_str().ok_or_else(|| format!("{field} is missing"))
}

/// A record with the common attributes merged in.
fn merged(common: &Value, own: &Value) -> Result<(Key, i64, Values), String> {
    let either = |field: &str| if own[field].is_null() { &common[field] } else { &own[field] };
    let mut dimensions = BTreeMap::new();
    for dimension in [common, own].iter().flat_map(|part| part["Dimensions"].as_array().into_iter().flatten()) {
        let (name, value) = (text(dimension, "Name")?, text(dimension, "Value")?);
        if name.is_empty() || name.len() > DIMENSION_NAME_MAX || value.is_empty() {
            return Err(format!("the dimension {name:?} has no good name, or no value"));
        }
        if dimensions.insert(name.to_owned(), value.to_owned()).is_some() {
            return Err(format!("the dimension {name} stands there twice"));
        }
    }
    if dimensions.is_empty() || dimensions.len() > DIMENSIONS_MAX {
        return Err(format!("{} dimensions", dimensions.len()));
    }
    if either("MeasureValueType") != "MULTI" || either("TimeUnit") != "MICROSECONDS" {
        return Err("this fake has multi-measure records in microseconds".to_owned());
    }
    let mut values = Values::new();
    for measure in own["MeasureValues"].as_array().into_iter().flatten() {
        let (name, of, value) = (text(measure, "Name")?, text(measure, "Type")?, text(measure, "Value")?);
        let good = match of {
            "BIGINT" | "TIMESTAMP" => value.parse::<i64>().is_ok(),
            "DOUBLE" => value.parse::<f64>().is_ok_and(f64::is_finite),
            "BOOLEAN" => matches!(value, "true" | "false"),
            "VARCHAR" => !value.is_empty(),
            _ => false,
        };
        if !good || values.insert(name.to_owned(), (of.to_owned(), value.to_owned())).is_some() {
            return Err(format!("the measure {name} is no {of}, or stands there twice"));
        }
    }
    if values.is_empty() {
        return Err("a multi-measure record without measures".to_owned());
    }
    let time_us = either("Time").as_str().and_then(|time| time.parse().ok()).ok_or("Time is no number")?;
    let measure = either("MeasureName").as_str().ok_or("MeasureName is missing")?.to_owned();
    let version = either("Version").as_i64().unwrap_or(1);
    Ok(((dimensions, time_us, measure), version, values))
}

impl State {
    /// Rejected records; all others are stored. An error refuses the whole call.
    fn write(&mut self, request: &Value) -> Result<Vec<Value>, String> {
        let name = (text(request, "DatabaseName")?.to_owned(), text(request, "TableName")?.to_owned());
        let records = request["Records"].as_array().ok_or("Records is missing")?;
        if records.is_empty() || records.len() > RECORDS_MAX {
            return Err(format!("{} records in a call: 1 to {RECORDS_MAX}", records.len()));
        }
        self.largest_call = self.largest_call.max(records.len());
        let common = &request["CommonAttributes"];
        let records = records.iter().map(|own| merged(common, own)).collect::<Result<Vec<_>, _>>()?;
        let (memory_from_us, reject) = (self.memory_from_us, std::mem::take(&mut self.reject));
        let table = self.tables.entry(name).or_default();
        let mut rejected = Vec::new();
        let mut seen = BTreeSet::new();
        for (at, (key, version, values)) in records.into_iter().enumerate() {
            let mut refuse = |reason: &str, existing: Option<i64>| {
                let mut record = json!({"RecordIndex": at, "Reason": reason});
                if let Some(existing) = existing {
                    record["ExistingVersion"] = existing.into();
                }
                rejected.push(record);
            };
            if !seen.insert(key.clone()) {
                refuse("Multiple records with the same dimensions, time and measure name in the request.", None);
                continue;
            }
            if reject.contains(&at) {
                refuse("The record exceeds a limit on the number of dimensions.", None);
                continue;
            }
            let bytes: usize = key.0.iter().map(|(name, value)| name.len() + value.len()).sum();
            if bytes > RECORD_MAX || values.values().map(|(_, value)| value.len()).sum::<usize>() > RECORD_MAX {
                refuse("The record exceeds the maximum record size.", None);
                continue;
            }
            if memory_from_us.is_some_and(|from| key.1 < from) {
                refuse("The record timestamp is outside the time range [2026-01-01, 2026-12-31) of the memory store.", None);
                continue;
            }
            match table.get(&key) {
                Some((existing, _)) if version < *existing => {
                    refuse("A higher record version already exists.", Some(*existing));
                }
                Some((existing, stored)) if version == *existing && *stored != values => {
                    refuse(
                        "A record already exists with the same time, dimensions, measure name, and record version.",
                        Some(*existing),
                    );
                }
                Some(_) | None => {
                    table.insert(key, (version, values));
                }
            }
        }
        Ok(rejected)
    }
}
