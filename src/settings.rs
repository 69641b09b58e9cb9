//! What a user may set: the pipeline file as plain data.
//!
//! Owns: every key, its type, its default and its meaning, and the fingerprint of a configuration. Does not own: reading files
//! and overrides (load), contradictions between keys (check), building components (topology).
//!
//! `config/reference.toml` is the same list for users; a test holds the two together.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub mod check;
mod decode;
pub mod fields;
pub mod load;
mod mapping;
pub mod observe;
pub mod problem;
pub mod sinks;
pub mod store;
mod tree;
pub mod units;

pub use fields::{FieldPath, Start, TimeFormat, ZoneOffset};
pub use load::{Loaded, load};
pub use observe::{Alerts, Metrics};
pub use problem::{Place, Problem, SettingsError};
pub use sinks::{OnBacklog, Sink, SinkKind, Takes};
pub use store::{Store, StoreKind};
pub use units::{Interval, Size};

/// One pipeline.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Its name.
    #[serde(default)]
    pub pipeline: Pipeline,
    /// Where records come from.
    #[serde(default)]
    pub stream: Stream,
    /// How AWS is reached.
    #[serde(default)]
    pub aws: Aws,
    /// Where state and tables lie.
    #[serde(default)]
    pub store: Store,
    /// What a record must look like to be an event.
    pub event: Event,
    /// Raw records as files.
    #[serde(default)]
    pub bronze: Bronze,
    /// Events as rows.
    pub silver: Silver,
    /// Aggregates per window.
    #[serde(default)]
    pub gold: Vec<Gold>,
    /// When an epoch ends.
    #[serde(default)]
    pub commit: Commit,
    /// What may be in memory or open at once.
    #[serde(default)]
    pub limits: Limits,
    /// How a failed shard comes back.
    #[serde(default)]
    pub restart: Restart,
    /// When a storm of bad records stops a shard.
    #[serde(default)]
    pub breaker: Breaker,
    /// When committed states are merged and their epochs forgotten.
    #[serde(default)]
    pub collect: Collect,
    /// Numbers of a run.
    #[serde(default)]
    pub metrics: Metrics,
    /// Who is told of alerts.
    #[serde(default)]
    pub alerts: Alerts,
    /// Where Gold and letters are handed on to, beside their files.
    #[serde(default)]
    pub sink: Vec<Sink>,
}

/// `[pipeline]`
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Pipeline {
    /// Stands in rows, letters and metrics.
    pub name: String,
}

/// `[stream]`
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Stream {
    /// Which kind of stream.
    pub kind: StreamKind,
    /// Its name.
    pub name: String,
    /// Shards of a stream that is created here; an existing stream keeps its own.
    pub shards: u32,
    /// Partitions per shard that decode and aggregate at once.
    pub parallelism: u32,
    /// What to do when the stream has forgotten records that were not read yet.
    pub on_gap: OnGap,
    /// Where shards begin that no run has seen (Kinesis).
    pub start: Start,
    /// GetRecords a second and shard (Kinesis).
    pub reads_per_second: u32,
    /// Enhanced fan-out by the registered consumer of this name (Kinesis); empty = polling.
    pub fan_out: String,
    /// Whether payloads that are compressed are read as what is in them.
    pub decompress: Decompress,
}

/// `[aws]`: what may differ from what the SDK finds in environment, profile and role.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Aws {
    /// Region; none = as the SDK finds it.
    pub region: Option<String>,
    /// Endpoint of every service; none = as the SDK finds it.
    pub endpoint: Option<String>,
}

/// A kind of stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StreamKind {
    /// The durable stream in the data directory.
    Embedded,
    /// Amazon Kinesis Data Streams.
    Kinesis,
}

/// What is done with a payload that begins as gzip or zstd. Neither can be JSON, so nothing else is taken for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decompress {
    /// It is decompressed, within bounds, before it is decoded; Bronze and letters hold it as it came.
    Auto,
    /// It is decoded as it came, and so becomes a letter.
    Off,
}

/// The answer to a gap.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnGap {
    /// Stop the shard and raise an alert; a person decides.
    Halt,
    /// Account for the gap in the ledger and go on behind it.
    Continue,
}

/// `[event]`
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    /// The JSON Schema, relative to the pipeline file.
    pub schema: PathBuf,
    /// The member that holds the event time, or `_arrival_time`.
    pub time: FieldPath,
    /// How the time is written.
    #[serde(default)]
    pub time_format: TimeFormat,
    /// Zone of a time that is written without one.
    #[serde(default)]
    pub time_zone: ZoneOffset,
    /// How far behind the newest event of its shard a record may come and still be on time.
    #[serde(default = "default_disorder")]
    pub disorder: Interval,
    /// How far ahead of its arrival an event time may lie.
    #[serde(default = "default_max_future")]
    pub max_future: Interval,
    /// The member that `put` takes the partition key from; without it, the key is the MD5 of the record.
    #[serde(default)]
    pub partition_key: Option<FieldPath>,
}

fn default_disorder() -> Interval {
    Interval::from_secs(10)
}

fn default_max_future() -> Interval {
    Interval::from_secs(600)
}

/// `[bronze]`
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Bronze {
    /// Keep the raw records?
    pub enabled: bool,
    /// In which format.
    pub format: FileFormat,
}

/// A file format of Bronze and Silver.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum FileFormat {
    /// Parquet with zstd.
    #[serde(rename = "parquet")]
    Parquet,
    /// One JSON object a line.
    #[serde(rename = "ndjson")]
    Ndjson,
    /// The same, gzip.
    #[serde(rename = "ndjson.gz")]
    NdjsonGzip,
}

/// `[silver]`
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Silver {
    /// One SELECT over `events`.
    pub sql: String,
    /// In which format.
    #[serde(default = "default_format")]
    pub format: FileFormat,
    /// Silver columns that become path segments after the hour.
    #[serde(default)]
    pub partition_by: Vec<String>,
    /// Named rules that leave events out; each has a line in the ledger.
    #[serde(default)]
    pub filter: Vec<Filter>,
}

fn default_format() -> FileFormat {
    FileFormat::Parquet
}

/// `[[silver.filter]]`
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    /// Its name in the ledger.
    pub name: String,
    /// Which events STAY, as an SQL condition over `events`.
    #[serde(rename = "where")]
    pub condition: String,
}

/// `[[gold]]`
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gold {
    /// Name of the table: a folder, a row key, a name in SQL.
    pub name: String,
    /// Its windows.
    pub window: GoldWindow,
    /// One aggregating SELECT over `silver`.
    pub sql: String,
    /// When a window has ended for some shard and others still hold it back for so long, it is emitted as `provisional`, with
    /// their names. Without it, it waits.
    #[serde(default)]
    pub max_wait: Option<Interval>,
}

/// `window = { … }` of a Gold table
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GoldWindow {
    /// Length of a tumbling window, aligned to 1970-01-01T00:00:00Z.
    pub tumbling: Interval,
    /// How long after its end a window still takes records.
    #[serde(default = "default_lateness")]
    pub allowed_lateness: Interval,
}

fn default_lateness() -> Interval {
    Interval::from_secs(3600)
}

/// `[commit]`
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Commit {
    /// An epoch ends after this time …
    pub interval: Interval,
    /// … or after this much raw input, whichever comes first.
    pub size: Size,
}

/// `[limits]`
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Bytes of records in flight per shard; fetching stops above.
    pub in_flight: Size,
    /// Bytes of one fetch.
    pub fetch: Size,
    /// Records of one fetch.
    pub fetch_records: u32,
    /// Open files per shard.
    pub open_files: u32,
    /// Memory of the aggregates of one epoch of a shard; the epoch ends when they reach it.
    pub group_memory: Size,
    /// Memory of all merges of windows together; what does not fit goes by way of files.
    pub merge_memory: Size,
}

/// `[restart]`
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Restart {
    /// First pause before a new generation.
    pub backoff_min: Interval,
    /// Longest pause.
    pub backoff_max: Interval,
    /// Restarts within `period` before the shard is quarantined.
    pub intensity: u32,
    /// The time in which restarts are counted.
    pub period: Interval,
}

/// `[breaker]`
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Breaker {
    /// Watch for storms of bad records?
    pub enabled: bool,
    /// Share of bad records above which the shard pauses, from 0 to 1.
    pub share: f64,
    /// Newest records that are looked at.
    pub window: u32,
}

/// `[collect]`
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Collect {
    /// Committed epochs of a shard before they are merged into bases.
    pub after_epochs: u32,
    /// How long the base of a sealed window is kept for repairs.
    pub repair_for: Interval,
}

impl Default for Pipeline {
    fn default() -> Self {
        Self { name: "sluicebox".to_owned() }
    }
}

impl Default for Stream {
    fn default() -> Self {
        Self {
            kind: StreamKind::Embedded,
            name: "events".to_owned(),
            shards: 4,
            parallelism: 1,
            on_gap: OnGap::Halt,
            start: Start::Horizon,
            reads_per_second: 5,
            fan_out: String::new(),
            decompress: Decompress::Auto,
        }
    }
}

impl Default for Bronze {
    fn default() -> Self {
        Self { enabled: true, format: FileFormat::Parquet }
    }
}

impl Default for Commit {
    fn default() -> Self {
        Self { interval: Interval::from_secs(10), size: Size::from_mib(256) }
    }
}

impl Default for Limits {
    fn default() -> Self {
        let (in_flight, fetch) = (Size::from_mib(64), Size::from_mib(4));
        let (group_memory, merge_memory) = (Size::from_mib(128), Size::from_mib(256));
        Self { in_flight, fetch, fetch_records: 10_000, open_files: 32, group_memory, merge_memory }
    }
}

impl Default for Restart {
    fn default() -> Self {
        let (backoff_min, backoff_max) = (Interval::from_us(200_000), Interval::from_secs(30));
        Self { backoff_min, backoff_max, intensity: 5, period: Interval::from_secs(60) }
    }
}

impl Default for Breaker {
    fn default() -> Self {
        Self { enabled: true, share: 0.2, window: 1_000 }
    }
}

impl Default for Collect {
    fn default() -> Self {
        Self { after_epochs: 32, repair_for: Interval::from_secs(30 * 86_400) }
    }
}

impl Settings {
    /// SHA-256 in hex over what changes the meaning of data: event, Silver, Gold and the schema itself. Tuning (limits, commit,
    /// parallelism), comments, key order and how a duration is written don't show in it; neither does the schema's path.
    pub fn fingerprint(&self, schema: &str) -> String {
        let schema = serde_json::from_str(schema).unwrap_or_else(|_| serde_json::Value::String(schema.to_owned()));
        let event = Event { schema: PathBuf::new(), ..self.event.clone() };
        let gold: Vec<Gold> = self.gold.iter().map(|gold| Gold { max_wait: None, ..gold.clone() }).collect();
        let mut meaning = serde_json::json!({ "event": event, "silver": self.silver, "gold": gold, "schema": schema });
        if self.stream.decompress == Decompress::Off {
            meaning["decompress"] = serde_json::json!(self.stream.decompress);
        }
        let mut text = String::new();
        canonical(&meaning, &mut text);
        Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

// Sorted keys, no spaces: the same bytes whatever map type serde_json was built with.
fn canonical(value: &serde_json::Value, out: &mut String) {
    match value {
        serde_json::Value::Object(members) => {
            let mut keys: Vec<&String> = members.keys().collect();
            keys.sort();
            out.push('{');
            for key in keys {
                out.push_str(&serde_json::Value::from(key.as_str()).to_string());
                out.push(':');
                canonical(&members[key], out);
                out.push(',');
            }
            out.push('}');
        }
        serde_json::Value::Array(items) => {
            out.push('[');
            for item in items {
                canonical(item, out);
                out.push(',');
            }
            out.push(']');
        }
        serde_json::Value::Null | serde_json::Value::Bool(_) | serde_json::Value::Number(_) | serde_json::Value::String(_) => {
            out.push_str(&value.to_string());
        }
    }
}
