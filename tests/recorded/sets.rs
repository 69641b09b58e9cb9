//! Goal: the recorded sets: their files, and every table of their examples once more, as functions.

#![allow(clippy::unwrap_used, reason = "a helper of a test may end the test")]

use std::path::PathBuf;

use chrono::{DateTime, NaiveDateTime};

use super::fold::Agg::{About, Count, Distinct, Max, Mean, Min, Percentile, Sum};
use super::fold::Of::{Column, Computed, Every};
use super::fold::{Event, Outcome, Row, Table};
use super::input::{Fields, Set};
use crate::support::value::Value;

const MINUTE_US: i64 = 60_000_000;
const HOUR_US: i64 = 60 * MINUTE_US;
const DAY_US: i64 = 24 * HOUR_US;

pub(crate) fn rfc3339(text: &str) -> i64 {
    DateTime::parse_from_rfc3339(text).unwrap().timestamp_micros()
}

fn local(text: &str) -> i64 {
    NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f").unwrap().and_utc().timestamp_micros()
}

fn event(time_us: i64, values: impl IntoIterator<Item = Value>) -> Outcome {
    Outcome::Event(Event { time_us, values: values.into_iter().collect() })
}

fn all(_: Row<'_>) -> bool {
    true
}

/// Files of one folder.
fn folder(name: &str, files: &[&str]) -> Vec<PathBuf> {
    files.iter().map(|file| PathBuf::from(name).join(file)).collect()
}

pub(crate) fn gharchive() -> Set {
    let pushes = |row: Row<'_>| row.is("type", "PushEvent");
    Set {
        name: "gharchive",
        files: folder("gharchive", &["2015-01-01-0.json.gz", "2015-01-01-1.json.gz", "longline-2015-01-01-2.json.gz"]),
        put: &["--arrival", "event"],
        columns: &["id", "type", "actorId", "actorLogin", "repoId", "repoName", "action", "commits", "created_at"],
        judge: |record| {
            let places =
                ["/id", "/type", "/actor/id", "/actor/login", "/repo/id", "/repo/name", "/payload/action", "/payload/size"];
            let values = places.into_iter().chain(["/created_at"]).map(|place| record.at(place));
            event(rfc3339(record.text("/created_at")), values)
        },
        tables: vec![
            Table {
                name: "hourly_by_type",
                window_us: HOUR_US,
                keys: &["type"],
                takes: all,
                aggregates: vec![
                    ("events", Count, Every),
                    ("actors", Distinct, Column("actorId")),
                    ("repos", About, Column("repoId")),
                    ("commits", Sum, Column("commits")),
                    ("largest_push", Max, Column("commits")),
                    ("p95_commits", Percentile(0.95), Column("commits")),
                ],
                at_least: 0,
            },
            Table {
                name: "pushes_by_repo",
                window_us: HOUR_US,
                keys: &["repoName"],
                takes: pushes,
                aggregates: vec![
                    ("pushes", Count, Every),
                    ("commits", Sum, Column("commits")),
                    ("actors", Distinct, Column("actorId")),
                    ("first_push", Min, Column("created_at")),
                    ("last_push", Max, Column("created_at")),
                ],
                at_least: 5,
            },
        ],
    }
}

pub(crate) fn wikiticker() -> Set {
    let robot = |row: Row<'_>| if *row.get("isRobot") == Value::Bool(true) { Value::Bool(true) } else { Value::Null };
    let from_somewhere = |row: Row<'_>| *row.get("isAnonymous") == Value::Bool(true) && !row.get("countryName").is_null();
    Set {
        name: "wikiticker",
        files: folder("wikiticker", &["wikiticker-2015-09-12-h00-h11.json.gz"]),
        put: &["--arrival", "event"],
        columns: &[
            "time",
            "channel",
            "page",
            "user",
            "namespace",
            "isRobot",
            "isNew",
            "isAnonymous",
            "countryName",
            "delta",
            "added",
            "deleted",
        ],
        judge: |record| {
            let places = ["/time", "/channel", "/page", "/user", "/namespace", "/isRobot", "/isNew", "/isAnonymous"];
            let places = places.into_iter().chain(["/countryName", "/delta", "/added", "/deleted"]);
            event(rfc3339(record.text("/time")), places.map(|place| record.at(place)))
        },
        tables: vec![
            Table {
                name: "hourly_by_channel",
                window_us: HOUR_US,
                keys: &["channel"],
                takes: all,
                aggregates: vec![
                    ("edits", Count, Every),
                    ("robot_edits", Count, Computed(robot)),
                    ("users", Distinct, Column("user")),
                    ("pages", About, Column("page")),
                    ("added", Sum, Column("added")),
                    ("deleted", Sum, Column("deleted")),
                    ("largest_removal", Min, Column("delta")),
                    ("largest_addition", Max, Column("delta")),
                    ("p95_added", Percentile(0.95), Column("added")),
                ],
                at_least: 0,
            },
            Table {
                name: "anonymous_by_country",
                window_us: HOUR_US,
                keys: &["countryName"],
                takes: from_somewhere,
                aggregates: vec![
                    ("edits", Count, Every),
                    ("growth", Sum, Column("delta")),
                    ("namespaces", Distinct, Column("namespace")),
                ],
                at_least: 0,
            },
        ],
    }
}

fn invoice_line(record: &Fields<'_>) -> Outcome {
    let (quantity, price) = (Value::digits(record.text("/Quantity")), Value::digits(record.text("/UnitPrice")));
    let amount = Value::exact(quantity.as_whole() * price.units(3), 3);
    let invoice = record.text("/InvoiceNo");
    let kind = match invoice.as_bytes()[0] {
        b'C' => "cancel",
        b'A' => "adjust",
        _ if quantity.as_whole() <= 0 => "stock_writeoff",
        _ => "purchase",
    };
    let customer = match record.text("/CustomerID") {
        "" => Value::Null,
        customer => Value::text(customer),
    };
    let (stock, country) = (record.at("/StockCode"), record.at("/Country"));
    let values = [Value::text(invoice), stock, quantity, price, amount, customer, country, Value::text(kind)];
    event(local(record.text("/InvoiceDate")), values)
}

pub(crate) fn online_retail() -> Set {
    let months = ["2010-12", "2011-01", "2011-02", "2011-03", "2011-04", "2011-05", "2011-06"];
    let files = months.map(|month| PathBuf::from(format!("online-retail/online-retail-{month}.csv.gz")));
    Set {
        name: "online-retail",
        files: files.to_vec(),
        put: &["--arrival", "event"],
        columns: &["invoice", "stock", "quantity", "price", "amount", "customer", "country", "kind"],
        judge: invoice_line,
        tables: vec![
            Table {
                name: "hourly_by_kind",
                window_us: HOUR_US,
                keys: &["kind"],
                takes: all,
                aggregates: vec![
                    ("lines", Count, Every),
                    ("invoices", Distinct, Column("invoice")),
                    ("customers", Distinct, Column("customer")),
                    ("products", About, Column("stock")),
                    ("pieces", Sum, Column("quantity")),
                    ("revenue", Sum, Column("amount")),
                    ("smallest", Min, Column("amount")),
                    ("largest", Max, Column("amount")),
                    ("median_amount", Percentile(0.5), Column("amount")),
                    ("p95_amount", Percentile(0.95), Column("amount")),
                ],
                at_least: 0,
            },
            Table {
                name: "daily_by_country",
                window_us: DAY_US,
                keys: &["country"],
                takes: all,
                aggregates: vec![
                    ("lines", Count, Every),
                    ("revenue", Sum, Column("amount")),
                    ("customers", Distinct, Column("customer")),
                ],
                at_least: 0,
            },
        ],
    }
}

pub(crate) fn windows_events() -> Set {
    let security = |row: Row<'_>| if row.is("channel", "Security") { Value::Bool(true) } else { Value::Null };
    let access = |row: Row<'_>| Value::whole(i64::from(*row.get("eventId") == Value::whole(10)));
    Set {
        name: "windows-events",
        files: folder(
            "windows-events",
            &[
                "atomic_empire_persistence_registry_modification_run_keys_standard_user_2020-09-04030609.json.gz",
                "LSASS_campaign_01_metasploit_logonpasswords_lsass_memory_dump.json.gz",
                "LSASS_campaign_05_metasploit_sharpdump_lsass_memory_dump.json.gz",
                "LSASS_campaign_06_metasploit_outflank-dumpert_lsass_memory_dump.json.gz",
                "LSASS_campaign_07_metasploit_nanodump_lsass_memory_dump.json.gz",
            ],
        ),
        put: &["--arrival", "now"],
        columns: &["loggedAt", "channel", "eventId", "host", "source", "account", "image"],
        judge: |record| {
            if matches!(record.at("/EventID"), Value::Text(_)) {
                return Outcome::Letter("contract/wrong_type");
            }
            let account = match record.at("/SubjectUserName") {
                Value::Null => record.at("/User"),
                account => account,
            };
            let values = ["/@timestamp", "/Channel", "/EventID", "/Hostname", "/SourceName"].map(|place| record.at(place));
            event(rfc3339(record.text("/@timestamp")), values.into_iter().chain([account, record.at("/Image")]))
        },
        tables: vec![
            Table {
                name: "hourly_by_channel",
                window_us: HOUR_US,
                keys: &["channel"],
                takes: all,
                aggregates: vec![
                    ("events", Count, Every),
                    ("kinds", Distinct, Column("eventId")),
                    ("hosts", Distinct, Column("host")),
                    ("images", About, Column("image")),
                    ("accounts", About, Column("account")),
                    ("lowest_id", Min, Column("eventId")),
                    ("highest_id", Max, Column("eventId")),
                ],
                at_least: 0,
            },
            Table {
                name: "minutely_by_host",
                window_us: MINUTE_US,
                keys: &["host"],
                takes: all,
                aggregates: vec![
                    ("events", Count, Every),
                    ("security_events", Count, Computed(security)),
                    ("process_accesses", Sum, Computed(access)),
                ],
                at_least: 0,
            },
        ],
    }
}

pub(crate) fn zeek() -> Set {
    let unknown = |row: Row<'_>| if row.is("rcode", "NXDOMAIN") { Value::Bool(true) } else { Value::Null };
    let questions = |row: Row<'_>| row.is("kind", "dns") && !row.get("qtype").is_null();
    let names = [
        "dns",
        "weird",
        "known_services",
        "smtp",
        "ntp",
        "ntlm",
        "software",
        "modbus",
        "notice",
        "ftp",
        "dce_rpc",
        "snmp",
        "ssh",
        "kerberos",
    ];
    Set {
        name: "zeek",
        files: names.map(|name| PathBuf::from(format!("zeek/json/{name}.json.gz"))).to_vec(),
        put: &["--arrival", "_write_ts"],
        columns: &["kind", "ts", "uid", "source", "target", "port", "proto", "query", "qtype", "rcode", "rtt"],
        judge: |record| {
            let places = ["/_path", "/ts", "/uid", "/id.orig_h", "/id.resp_h", "/id.resp_p", "/proto", "/query"];
            let values = places.into_iter().chain(["/qtype_name", "/rcode_name"]).map(|place| record.at(place));
            event(rfc3339(record.text("/ts")), values.chain([record.double("rtt")]))
        },
        tables: vec![
            Table {
                name: "by_kind",
                window_us: 5 * MINUTE_US,
                keys: &["kind"],
                takes: all,
                aggregates: vec![
                    ("records", Count, Every),
                    ("sources", Distinct, Column("source")),
                    ("targets", About, Column("target")),
                    ("lowest_port", Min, Column("port")),
                    ("highest_port", Max, Column("port")),
                    ("first", Min, Column("ts")),
                    ("last", Max, Column("ts")),
                ],
                at_least: 0,
            },
            Table {
                name: "dns_by_type",
                window_us: 5 * MINUTE_US,
                keys: &["qtype"],
                takes: questions,
                aggregates: vec![
                    ("queries", Count, Every),
                    ("unknown_names", Count, Computed(unknown)),
                    ("names", About, Column("query")),
                    ("waited", Sum, Column("rtt")),
                    ("mean_rtt", Mean, Column("rtt")),
                    ("p95_rtt", Percentile(0.95), Column("rtt")),
                    ("fastest", Min, Column("rtt")),
                    ("slowest", Max, Column("rtt")),
                ],
                at_least: 0,
            },
        ],
    }
}

pub(crate) fn cowrie() -> Set {
    let logins = |row: Row<'_>| if row.is("eventid", "cowrie.login.success") { Value::Bool(true) } else { Value::Null };
    let days = (6..=31).map(|day| format!("05-{day:02}")).chain((1..=16).map(|day| format!("06-{day:02}")));
    Set {
        name: "cowrie",
        files: days.map(|day| PathBuf::from(format!("cowrie/cowrie.json.2018-{day}.gz"))).collect(),
        put: &["--arrival", "event"],
        columns: &["eventid", "src_ip", "session", "timestamp", "username", "password", "input", "duration", "size"],
        judge: |record| {
            if record.text("/eventid").starts_with("cowrie.log.") {
                return Outcome::Filtered(rfc3339(record.text("/timestamp")));
            }
            let places = ["/eventid", "/src_ip", "/session", "/timestamp", "/username", "/password", "/input"];
            let values = places.into_iter().map(|place| record.at(place));
            event(rfc3339(record.text("/timestamp")), values.chain([record.double("duration"), record.at("/size")]))
        },
        tables: vec![
            Table {
                name: "hourly_by_event",
                window_us: HOUR_US,
                keys: &["eventid"],
                takes: all,
                aggregates: vec![
                    ("events", Count, Every),
                    ("addresses", Distinct, Column("src_ip")),
                    ("sessions", About, Column("session")),
                    ("first", Min, Column("timestamp")),
                    ("last", Max, Column("timestamp")),
                ],
                at_least: 0,
            },
            Table {
                name: "daily_by_address",
                window_us: DAY_US,
                keys: &["src_ip"],
                takes: all,
                aggregates: vec![
                    ("events", Count, Every),
                    ("sessions", Distinct, Column("session")),
                    ("logins", Count, Computed(logins)),
                    ("passwords", About, Column("password")),
                    ("connected", Sum, Column("duration")),
                    ("shortest_session", Min, Column("duration")),
                    ("longest_session", Max, Column("duration")),
                    ("median_session", Percentile(0.5), Column("duration")),
                ],
                at_least: 0,
            },
        ],
    }
}

pub(crate) fn azure_llm() -> Set {
    let tokens = |row: Row<'_>| Value::whole(row.get("contextTokens").as_whole() + row.get("generatedTokens").as_whole());
    Set {
        name: "azure-llm",
        files: folder("azure-llm", &["AzureLLMInferenceTrace_code.csv.gz"]),
        put: &["--arrival", "event"],
        columns: &["contextTokens", "generatedTokens", "prompt"],
        judge: |record| {
            let (context, generated) = (Value::digits(record.text("/ContextTokens")), record.text("/GeneratedTokens"));
            let prompt = match context.as_whole() {
                4_096.. => "long",
                1_024.. => "medium",
                _ => "short",
            };
            event(local(record.text("/TIMESTAMP")), [context, Value::digits(generated), Value::text(prompt)])
        },
        tables: vec![
            Table {
                name: "hourly",
                window_us: HOUR_US,
                keys: &[],
                takes: all,
                aggregates: vec![
                    ("requests", Count, Every),
                    ("context_tokens", Sum, Column("contextTokens")),
                    ("generated_tokens", Sum, Column("generatedTokens")),
                    ("mean_generated", Mean, Column("generatedTokens")),
                    ("shortest_prompt", Min, Column("contextTokens")),
                    ("longest_prompt", Max, Column("contextTokens")),
                    ("p95_generated", Percentile(0.95), Column("generatedTokens")),
                ],
                at_least: 0,
            },
            Table {
                name: "minutely_by_prompt",
                window_us: MINUTE_US,
                keys: &["prompt"],
                takes: all,
                aggregates: vec![
                    ("requests", Count, Every),
                    ("lengths", Distinct, Column("contextTokens")),
                    ("answers", About, Column("generatedTokens")),
                    ("tokens", Sum, Computed(tokens)),
                ],
                at_least: 0,
            },
        ],
    }
}

pub(crate) fn green_taxi() -> Set {
    let nowhere = |row: Row<'_>| if row.get("miles").units(2) == 0 { Value::Bool(true) } else { Value::Null };
    Set {
        name: "green-taxi",
        files: folder("green-taxi", &["green_tripdata_2022-01_first.csv.gz"]),
        put: &[],
        columns: &["pickup", "dropoff", "miles", "pickupZone", "dropoffZone"],
        judge: |record| {
            let miles = Value::digits(record.text("/trip_distance"));
            let (pickup, dropoff) = (record.text("/lpep_pickup_datetime"), record.at("/lpep_dropoff_datetime"));
            if miles.as_float() >= 1_000.0 {
                return Outcome::Filtered(local(pickup));
            }
            let zones = ["/PULocationID", "/DOLocationID"].map(|place| Value::digits(record.text(place)));
            event(local(pickup), [Value::text(pickup), dropoff, miles].into_iter().chain(zones))
        },
        tables: vec![
            Table {
                name: "hourly",
                window_us: HOUR_US,
                keys: &[],
                takes: all,
                aggregates: vec![
                    ("trips", Count, Every),
                    ("pickup_zones", Distinct, Column("pickupZone")),
                    ("dropoff_zones", About, Column("dropoffZone")),
                    ("miles", Sum, Column("miles")),
                    ("shortest", Min, Column("miles")),
                    ("longest", Max, Column("miles")),
                    ("p95_miles", Percentile(0.95), Column("miles")),
                ],
                at_least: 0,
            },
            Table {
                name: "daily_by_zone",
                window_us: DAY_US,
                keys: &["pickupZone"],
                takes: all,
                aggregates: vec![
                    ("trips", Count, Every),
                    ("miles", Sum, Column("miles")),
                    ("trips_without_distance", Count, Computed(nowhere)),
                ],
                at_least: 0,
            },
        ],
    }
}
