//! What is put, and what must become of it: for each kind of input a judge of records and its Gold tables.
//!
//! The judges share nothing with the product: serde_json, chrono, and the contract read by a person.
//!
//! Owns: verdicts on single records, tables. Does not own: adding up (fold), reading the stream (oracle).

use std::collections::BTreeMap;

use chrono::DateTime;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value as Json;
use serde_json::value::RawValue;

use super::fold::Measure::{About, Count, CountOf, Distinct, Max, Min, Sum};
use super::fold::Table;

const HOUR_US: i64 = 3_600_000_000;
const MINUTE_US: i64 = 60_000_000;
/// Late beyond any time.
const NEVER_TOO_LATE: &str = "100000d";
/// `event.max_future`.
const MAX_FUTURE_US: i64 = 10 * MINUTE_US;

/// What must become of a record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Fate {
    /// A row of Silver: event time and the input's columns as text.
    Silver(i64, Vec<Option<String>>),
    /// A letter of this stage.
    Letter(&'static str),
}

/// Which input.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(crate) enum Kind {
    /// The demo's clickstream, through the built-in pipeline
    Generated,
    /// Windows event logs, config/examples/windows-events.toml
    WindowsEvents,
    /// The GitHub timeline, config/examples/gharchive.toml
    Gharchive,
    /// Wikipedia edits, config/examples/wikiticker.toml
    Wikiticker,
}

/// One kind of input.
pub(super) struct Input {
    pub(super) name: &'static str,
    /// Settings besides those of every input.
    pub(super) sets: Vec<String>,
    /// Flags of `put`.
    pub(super) put: &'static [&'static str],
    /// Columns of Silver that are compared.
    pub(super) columns: &'static [&'static str],
    pub(super) tables: Vec<Table>,
    pub(super) judge: fn(&[u8], i64) -> Fate,
}

impl Kind {
    pub(super) fn input(self) -> Input {
        let mut input = match self {
            Self::Generated => generated(),
            Self::WindowsEvents => windows_events(),
            Self::Gharchive => gharchive(),
            Self::Wikiticker => wikiticker(),
        };
        let lateness = |table: &Table| format!("gold.{}.window.allowed_lateness={}", table.name, table.lateness);
        input.sets.extend(input.tables.iter().map(lateness));
        input
    }
}

fn sets(sets: &[&str]) -> Vec<String> {
    sets.iter().map(|set| (*set).to_owned()).collect()
}

/// Epochs of some hundred records.
const SMALL: [&str; 3] = ["commit.size=64KiB", "limits.fetch=16KiB", "limits.in_flight=128KiB"];
/// The same for records of several KiB.
const LARGE: [&str; 3] = ["commit.size=512KiB", "limits.fetch=256KiB", "limits.in_flight=1MiB"];

fn generated() -> Input {
    Input {
        name: "generated",
        sets: sets(&SMALL),
        put: &[],
        columns: &["eventType", "userId", "sessionId", "amount"],
        tables: vec![
            Table {
                name: "hourly_by_type",
                lateness: NEVER_TOO_LATE,
                window_us: HOUR_US,
                keys: &[("eventType", 0)],
                measures: &[("events", Count), ("unique_users", About(1)), ("revenue", Sum(3))],
            },
            // Some records come too late for this one: then they are letters of it, and not in it.
            Table {
                name: "hourly_total",
                lateness: "2h",
                window_us: HOUR_US,
                keys: &[],
                measures: &[
                    ("events", Count),
                    ("sessions", Distinct(2)),
                    ("payments", CountOf(3)),
                    ("revenue", Sum(3)),
                    ("smallest_amount", Min(3)),
                    ("largest_amount", Max(3)),
                ],
            },
        ],
        judge: clickstream,
    }
}

#[derive(Deserialize)]
struct Click<'a> {
    #[serde(rename = "eventType")]
    kind: String,
    #[serde(rename = "userId")]
    user: String,
    timestamp: String,
    #[serde(rename = "sessionId")]
    session: Option<String>,
    #[serde(borrow)]
    properties: BTreeMap<String, &'a RawValue>,
}

fn clickstream(data: &[u8], arrival_us: i64) -> Fate {
    let Ok(text) = std::str::from_utf8(data) else { return Fate::Letter("decode") };
    if serde_json::from_str::<IgnoredAny>(text).is_err() {
        return Fate::Letter("decode");
    }
    let click = match serde_json::from_str::<Click<'_>>(text) {
        Ok(click) => click,
        Err(error) if error.to_string().starts_with("duplicate field") => return Fate::Letter("decode"),
        Err(_) => return Fate::Letter("contract"),
    };
    let amount = click.properties.get("amount").map(|digits| digits.get());
    let whole_digits = amount.map_or(0, |digits| digits.split('.').next().unwrap_or_default().len());
    let known = ["page_view", "click", "purchase", "signup"].contains(&click.kind.as_str());
    let Ok(time) = DateTime::parse_from_rfc3339(&click.timestamp) else { return Fate::Letter("contract") };
    if !known || !is_uuid(&click.user) || whole_digits > 16 {
        return Fate::Letter("contract");
    }
    let time_us = time.timestamp_micros();
    if time_us > arrival_us + MAX_FUTURE_US {
        return Fate::Letter("time");
    }
    Fate::Silver(time_us, vec![Some(click.kind), Some(click.user), click.session, amount.map(str::to_owned)])
}

fn is_uuid(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let lengths: Vec<usize> = parts.iter().map(|part| part.len()).collect();
    lengths == [8, 4, 4, 4, 12] && parts.iter().all(|part| part.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

fn windows_events() -> Input {
    Input {
        name: "windows-events",
        sets: sets(&LARGE),
        put: &[],
        columns: &["channel", "eventId", "host", "source"],
        tables: vec![
            Table {
                name: "hourly_by_channel",
                lateness: NEVER_TOO_LATE,
                window_us: HOUR_US,
                keys: &[("channel", 0)],
                measures: &[
                    ("events", Count),
                    ("kinds", Distinct(1)),
                    ("hosts", Distinct(2)),
                    ("lowest_id", Min(1)),
                    ("highest_id", Max(1)),
                ],
            },
            Table {
                name: "minutely_by_host",
                lateness: NEVER_TOO_LATE,
                window_us: MINUTE_US,
                keys: &[("host", 2)],
                measures: &[("events", Count)],
            },
        ],
        judge: |data, arrival_us| {
            recorded(data, arrival_us, "/@timestamp", &["/Channel", "/EventID", "/Hostname", "/SourceName"], |json| {
                json["EventID"].is_i64()
            })
        },
    }
}

fn gharchive() -> Input {
    Input {
        name: "gharchive",
        sets: sets(&[&LARGE[..], &["gold.pushes_by_repo.window.allowed_lateness=100000d"]].concat()),
        put: &["--arrival", "event"],
        columns: &["id", "type", "actorId", "repoName", "commits"],
        tables: vec![Table {
            name: "hourly_by_type",
            lateness: NEVER_TOO_LATE,
            window_us: HOUR_US,
            keys: &[("type", 1)],
            measures: &[("events", Count), ("actors", Distinct(2)), ("commits", Sum(4)), ("largest_push", Max(4))],
        }],
        judge: |data, arrival_us| {
            let places = ["/id", "/type", "/actor/id", "/repo/name", "/payload/size"];
            recorded(data, arrival_us, "/created_at", &places, |json| json["actor"].is_object() && json["id"].is_string())
        },
    }
}

fn wikiticker() -> Input {
    Input {
        name: "wikiticker",
        sets: sets(&[&SMALL[..], &["gold.anonymous_by_country.window.allowed_lateness=100000d"]].concat()),
        put: &["--arrival", "event"],
        columns: &["channel", "page", "user", "added"],
        tables: vec![Table {
            name: "hourly_by_channel",
            lateness: NEVER_TOO_LATE,
            window_us: HOUR_US,
            keys: &[("channel", 0)],
            measures: &[("edits", Count), ("users", Distinct(2)), ("pages", About(1)), ("added", Sum(3))],
        }],
        judge: |data, arrival_us| recorded(data, arrival_us, "/time", &["/channel", "/page", "/user", "/added"], |_| true),
    }
}

fn recorded(data: &[u8], arrival_us: i64, time: &str, places: &[&str], holds: fn(&Json) -> bool) -> Fate {
    let Ok(json) = serde_json::from_slice::<Json>(data) else { return Fate::Letter("decode") };
    let time = json.pointer(time).and_then(Json::as_str).and_then(|text| DateTime::parse_from_rfc3339(text).ok());
    let Some(time) = time.filter(|_| holds(&json)) else { return Fate::Letter("contract") };
    if time.timestamp_micros() > arrival_us + MAX_FUTURE_US {
        return Fate::Letter("time");
    }
    let text = |place: &&str| {
        let value = json.pointer(place).filter(|value| !value.is_null())?;
        Some(value.as_str().map_or_else(|| value.to_string(), str::to_owned))
    };
    Fate::Silver(time.timestamp_micros(), places.iter().map(text).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_US: i64 = 1_767_600_000_000_000;

    fn stage(event: &str) -> &'static str {
        match clickstream(event.as_bytes(), NOW_US) {
            Fate::Silver(..) => "silver",
            Fate::Letter(stage) => stage,
        }
    }

    #[test]
    fn a_record_is_judged_by_the_first_rule_that_it_breaks() {
        let good = r#"{"eventType":"purchase","userId":"00000000-0000-4000-8000-000000000000",
            "timestamp":"2026-01-05T08:00:00Z","properties":{"amount":1.25}}"#;
        assert_eq!(stage(good), "silver");
        assert_eq!(stage(&good[1..]), "decode");
        assert_eq!(stage(&good.replace("\"userId\"", "\"eventType\":\"click\",\"userId\"")), "decode");
        assert_eq!(stage(&good.replace("purchase", "hover")), "contract");
        assert_eq!(stage(&good.replace("-8000-", "-80000-")), "contract");
        assert_eq!(stage(&good.replace("timestamp", "time")), "contract");
        assert_eq!(stage(&good.replace("1.25", "12345678901234567.25")), "contract");
        assert_eq!(stage(&good.replace("05T08:00:00", "05T08:10:00")), "silver");
        assert_eq!(stage(&good.replace("05T08:00:00", "05T08:10:01")), "time");
    }
}
