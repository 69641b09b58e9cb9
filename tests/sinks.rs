//! Goal: what is handed on to sinks is what readers of files see, whoever kills the program and whenever.

use std::collections::BTreeMap;
#[cfg(debug_assertions)]
use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;
#[cfg(debug_assertions)]
use sluicebox_actors::toolkit::crash::POINTS;

use super::support::drive::Bench;
#[cfg(debug_assertions)]
use super::support::site::Site;

const PIPELINE: &str = r#"
[pipeline]
name = "feeding"

[stream]
shards = 1

[event]
schema = "event.schema.json"
time = "at"

[silver]
sql = "SELECT kind, n FROM events"

[[gold]]
name = "few"
window = { tumbling = "1h", allowed_lateness = "2h" }
sql = "SELECT upper(kind) AS loud, kind AS what, count(*) AS events FROM silver GROUP BY kind HAVING count(*) < 3"

[[gold]]
name = "total"
window = { tumbling = "1h", allowed_lateness = "2h" }
sql = "SELECT sum(n) AS total FROM silver HAVING sum(n) < 100"

[[sink]]
name = "rows"
kind = "file"
path = "rows.ndjson"

[[sink]]
name = "mail"
kind = "file"
path = "mail.ndjson"
takes = "letters"
"#;

const SCHEMA: &str = r#"{"type": "object", "required": ["at", "kind"], "properties": {
    "at": {"type": "string", "format": "date-time"}, "kind": {"type": "string"}, "n": {"type": "integer"}}}"#;

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// (table, start, key) → version and row.
type Shown = BTreeMap<(String, i64, String), (u64, Value)>;

/// What a sink shows that lets newer versions win: rows that are not gone.
fn shown(path: &Path, keys: &[&str]) -> Shown {
    let mut all: BTreeMap<(String, i64, String), (u64, Option<Value>)> = BTreeMap::new();
    for line in lines(path) {
        let key = keys.iter().map(|key| line["row"].get(key).map(Value::to_string).unwrap_or_default()).collect::<String>();
        let at = (line["table"].as_str().unwrap().to_owned(), line["window_start_us"].as_i64().unwrap(), key);
        let (version, row) = (line["version"].as_u64().unwrap(), line["row"].clone());
        let row = (line["gone"] == Value::Bool(false)).then_some(row);
        if let Some((known, before)) = all.get(&at) {
            assert!(*known != version || *before == row, "{at:?}: one version, {before:?} and {row:?}");
        }
        if all.get(&at).is_none_or(|(known, _)| *known <= version) {
            all.insert(at, (version, row));
        }
    }
    all.into_iter().filter_map(|(at, (version, row))| Some((at, (version, row?)))).collect()
}

fn put_and_drain(bench: &Bench, name: &str, events: &[&str]) {
    let file = bench.write(name, (events.join("\n") + "\n").as_bytes());
    bench.good(&["put", "--arrival", "event", file.to_str().unwrap()]);
    bench.good(&["run", "--drain"]);
}

#[test]
fn revisions_tombstones_and_letters_reach_their_sinks() {
    let bench = Bench::written(PIPELINE, SCHEMA);
    let rows = || shown(&bench.data().join("rows.ndjson"), &["what"]);
    let of = |table: &str| -> Vec<Value> {
        rows().into_iter().filter(|((of, _, _), _)| of == table).map(|(_, (_, row))| row).collect()
    };
    let a = r#"{"at":"2026-01-05T08:01:00Z","kind":"a","n":1}"#;
    put_and_drain(&bench, "1.ndjson", &[a, a, r#"{"at":"2026-01-05T08:02:00Z","kind":"b","n":2}"#, "no event"]);
    assert_eq!(of("few").iter().map(|row| &row["what"]).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(of("total")[0]["total"], 4);
    let before = rows().values().map(|(version, _)| *version).max().unwrap();
    // The third of its kind: HAVING takes the group away.
    put_and_drain(&bench, "2.ndjson", &[r#"{"at":"2026-01-05T08:03:00Z","kind":"a","n":3}"#]);
    assert_eq!(of("few").iter().map(|row| &row["what"]).collect::<Vec<_>>(), ["b"]);
    assert_eq!(of("total")[0]["total"], 7);
    assert!(rows().values().all(|(version, _)| *version > before && *version < 1 << 63));
    // The only row of a table without keys.
    put_and_drain(&bench, "3.ndjson", &[r#"{"at":"2026-01-05T08:04:00Z","kind":"c","n":300}"#, "{}"]);
    assert!(of("total").is_empty());
    let mail = lines(&bench.data().join("mail.ndjson"));
    assert_eq!(mail.len(), 2, "{mail:?}");
    for posted in mail {
        let file = std::fs::read_to_string(bench.data().join(posted["file"].as_str().unwrap())).unwrap();
        let line = file.lines().nth(posted["line"].as_u64().unwrap() as usize).unwrap();
        assert_eq!(serde_json::from_str::<Value>(line).unwrap(), posted["letter"]);
    }
    let said = bench.good(&["sinks", "--format", "json"]).out;
    let said: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told = |of: &str| said.iter().find(|line| line["of"].as_str().unwrap().starts_with(of)).unwrap();
    assert_eq!((&told("gold/few")["has"], &told("gold/few")["of_newest"]), (&Value::from(1), &Value::from(1)));
    assert_eq!(told("letters/")["letters"], 2);
    bench.audit();
}

#[cfg(debug_assertions)]
fn with_sinks(events: u64) -> Site {
    let sinks =
        r#"sink=[{name="rows",kind="file",path="rows.ndjson"},{name="mail",kind="file",path="mail.ndjson",takes="letters"}]"#;
    Site::with_events(events).set(sinks)
}

#[cfg(debug_assertions)]
#[test]
fn a_crash_anywhere_in_feeding_leaves_nothing_out() {
    let gold = |site: &Site| -> BTreeSet<String> {
        let out =
            site.ran(&["query", "SELECT window_start, \"eventType\", events FROM gold_hourly_by_type", "--format", "json"]).out;
        let rows = out.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        rows.map(|row| format!("{} {}", row["eventType"], row["events"])).collect()
    };
    for (point, leaves) in POINTS.iter().filter(|(point, _)| point.starts_with("feed.")) {
        let site = with_sinks(2_500);
        site.crash(&format!("{point}:2"));
        site.drain();
        let rows = shown(&site.data().join("rows.ndjson"), &["eventType"]);
        let rows = rows.iter().filter(|((table, _, _), _)| table == "hourly_by_type");
        let mine: BTreeSet<String> = rows.map(|(_, (_, row))| format!("{} {}", row["eventType"], row["events"])).collect();
        assert!(mine.len() > 20, "{point}: {}", mine.len());
        assert_eq!(mine, gold(&site), "{point} ({leaves})");
        let had: BTreeSet<String> =
            lines(&site.data().join("mail.ndjson")).iter().map(|posted| posted["id"].as_str().unwrap().to_owned()).collect();
        let letters = site.ran(&["query", "SELECT count(*) AS n FROM dlq", "--format", "json"]).out;
        let letters: Value = serde_json::from_str(letters.trim()).unwrap();
        assert_eq!(Value::from(had.len()), letters["n"], "{point} ({leaves})");
    }
}
