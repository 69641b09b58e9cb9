//! Goal: a small input of our own, the same for the same seed, with what recorded streams have: disorder, poison, decimals,
//! NULLs.

#![allow(clippy::unwrap_used, reason = "a helper of a test may end the test")]

use std::path::{Path, PathBuf};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::fold::Agg::{About, Count, Distinct, Max, Mean, Min, Percentile, Sum};
use super::fold::Of::{Column, Computed, Every};
use super::fold::{Event, Outcome, Row, Table};
use super::input::{Fields, Set};
use super::sets::rfc3339;
use crate::support::drive::Bench;
use crate::support::value::Value;

const HOUR_US: i64 = 3_600_000_000;
/// 2026-03-01T22:00:00Z: the run goes over midnight.
const START_US: i64 = 1_772_402_400_000_000;

pub(crate) const PIPELINE: &str = r#"
[pipeline]
name = "made"

[event]
schema = "event.schema.json"
time = "at"
disorder = "10s"
partition_key = "user"

[silver]
sql = 'SELECT kind, "user", amount, pieces, share, at FROM events'

[[silver.filter]]
name = "no_tests"
where = """"user" IS NULL OR "user" NOT LIKE 'test%'"""

[[gold]]
name = "hourly_by_kind"
window = { tumbling = "1h", allowed_lateness = "2h" }
sql = """
SELECT kind, count(*) AS events, count(DISTINCT "user") AS users, approx_distinct(amount) AS prices, sum(amount) AS revenue,
       sum(pieces) AS pieces, sum(share) AS shares, avg(share) AS mean_share, min(amount) AS smallest, max(share) AS largest,
       approx_percentile_cont(amount, 0.95) AS p95_amount
FROM silver GROUP BY kind
"""

[[gold]]
name = "daily_refunds"
window = { tumbling = "1d", allowed_lateness = "2h" }
sql = """
SELECT "user", count(*) AS refunds, sum(amount) AS amount, count(*) FILTER (WHERE pieces > 3) AS large
FROM silver WHERE amount < 0 GROUP BY "user"
"""

[breaker]
enabled = false
"#;

pub(crate) const SCHEMA: &str = r#"{
  "type": "object",
  "required": ["at", "kind"],
  "properties": {
    "at": { "type": "string", "format": "date-time" },
    "kind": { "enum": ["sale", "refund", "gift", "übrig"] },
    "user": { "type": ["string", "null"] },
    "amount": { "type": "number", "multipleOf": 0.01 },
    "pieces": { "type": "integer" },
    "share": { "type": "number" }
  }
}"#;

/// The lines of a file: hours of events in fits and starts, some far behind, one in fifty poisoned.
pub(crate) fn lines(seed: u64, count: usize) -> Vec<Vec<u8>> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut now_us = START_US;
    let mut lines = Vec::with_capacity(count);
    for _ in 0..count {
        now_us += rng.random_range(0..12_000_000);
        let behind_us = match rng.random_range(0..100) {
            0..3 => rng.random_range(0..9 * HOUR_US),
            3..30 => rng.random_range(0..9_000_000),
            _ => 0,
        };
        let at = chrono::DateTime::from_timestamp_micros(now_us - behind_us).unwrap();
        let kind = ["sale", "sale", "refund", "gift", "übrig"][rng.random_range(0..5)];
        let mut line = format!(r#"{{"at":"{}","kind":"{kind}""#, at.format("%Y-%m-%dT%H:%M:%S%.9f+00:00"));
        match rng.random_range(0..10) {
            0 => line.push_str(r#","user":null"#),
            1 => {}
            2 => line.push_str(&format!(r#","user":"test{}""#, rng.random_range(0..3))),
            _ => line.push_str(&format!(r#","user":"user {}""#, rng.random_range(0..40))),
        }
        if rng.random_range(0..8) > 0 {
            let cents = rng.random_range(0..900_000) * if kind == "refund" { -1 } else { 1 };
            let sign = if cents < 0 { "-" } else { "" };
            line.push_str(&format!(r#","amount":{sign}{}.{:02}"#, i64::abs(cents) / 100, i64::abs(cents) % 100));
        }
        let share = rng.random_range(-4_000..4_000) as f64 / 7.0;
        line.push_str(&format!(r#","pieces":{},"share":{share:?},"note":"\"\\\u00e9"}}"#, rng.random_range(-5..9)));
        let mut line = line.into_bytes();
        match rng.random_range(0..200) {
            0 => line.truncate(line.len() / 2),
            1 => line[20] = 0xff,
            2 => line = b"{\"at\":\"2026-03-01T22:00:00Z\",\"kind\":7}".to_vec(),
            3 => line = b"{\"kind\":\"sale\"}".to_vec(),
            _ => {}
        }
        lines.push(line);
    }
    lines
}

/// The set over a file that `write` has written.
pub(crate) fn set() -> Set {
    let large = |row: Row<'_>| match row.get("pieces") {
        Value::Null => Value::Null,
        pieces if pieces.as_whole() > 3 => Value::Bool(true),
        _ => Value::Null,
    };
    let refunds = |row: Row<'_>| !row.get("amount").is_null() && row.get("amount").as_float() < 0.0;
    Set {
        name: "made",
        files: vec![PathBuf::from("made.ndjson")],
        put: &["--arrival", "event"],
        columns: &["kind", "user", "amount", "pieces", "share", "at"],
        judge,
        tables: vec![
            Table {
                name: "hourly_by_kind",
                window_us: HOUR_US,
                keys: &["kind"],
                takes: |_| true,
                aggregates: vec![
                    ("events", Count, Every),
                    ("users", Distinct, Column("user")),
                    ("prices", About, Column("amount")),
                    ("revenue", Sum, Column("amount")),
                    ("pieces", Sum, Column("pieces")),
                    ("shares", Sum, Column("share")),
                    ("mean_share", Mean, Column("share")),
                    ("smallest", Min, Column("amount")),
                    ("largest", Max, Column("share")),
                    ("p95_amount", Percentile(0.95), Column("amount")),
                ],
                at_least: 0,
            },
            Table {
                name: "daily_refunds",
                window_us: 24 * HOUR_US,
                keys: &["user"],
                takes: refunds,
                aggregates: vec![("refunds", Count, Every), ("amount", Sum, Column("amount")), ("large", Count, Computed(large))],
                at_least: 0,
            },
        ],
    }
}

fn judge(record: &Fields<'_>) -> Outcome {
    if record.at("/at").is_null() {
        return Outcome::Letter("contract/missing_field");
    }
    if !matches!(record.at("/kind"), Value::Text(_)) {
        return Outcome::Letter("contract/wrong_type");
    }
    let (time_us, user) = (rfc3339(record.text("/at")), record.at("/user"));
    if matches!(&user, Value::Text(name) if name.starts_with("test")) {
        return Outcome::Filtered(time_us);
    }
    let amount = record.digits("amount").map_or(Value::Null, |digits| Value::digits(&digits));
    let values = [record.at("/kind"), user, amount, record.at("/pieces"), record.double("share"), record.at("/at")];
    Outcome::Event(Event { time_us, values: values.to_vec() })
}

/// A bench with the file beside it.
pub(crate) fn bench(seed: u64, count: usize) -> (Bench, PathBuf) {
    let bench = Bench::written(PIPELINE, SCHEMA);
    let file = bench.write("made.ndjson", &lines(seed, count).join(&b'\n'));
    let folder = file.parent().map(Path::to_path_buf).unwrap();
    (bench, folder)
}
