//! Goal: what is handed on to sinks is what readers of files see, whoever kills the program and whenever.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;
#[cfg(debug_assertions)]
use sluicebox_actors::toolkit::crash::POINTS;
use sluicebox_fakeaws::faults::Fault;
use sluicebox_fakeaws::influx::{FakeInflux, Field};
use sluicebox_fakeaws::sqs::FakeSqs;
use sluicebox_fakeaws::timestream::FakeTimestream;
use sluicebox_fakeaws::webhook::FakeWebhook;
use tokio::runtime::Runtime;

use super::support::drive::Bench;
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
        let rows = site.answers("SELECT window_start, \"eventType\", events FROM gold_hourly_by_type").into_iter();
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
        assert_eq!(had.len(), letters(&site), "{point} ({leaves})");
    }
}

/// Services of this process that sinks and alerts lead to.
struct Services {
    influx: FakeInflux,
    series: FakeTimestream,
    queues: FakeSqs,
    webhook: FakeWebhook,
    // They run there.
    _runtime: Runtime,
}

impl Services {
    fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (influx, series, queues, webhook) = runtime.block_on(async {
            let aws = (FakeTimestream::start().await.unwrap(), FakeSqs::start().await.unwrap());
            (FakeInflux::start().await.unwrap(), aws.0, aws.1, FakeWebhook::start().await.unwrap())
        });
        influx.require("Token s3cret");
        Self { influx, series, queues, webhook, _runtime: runtime }
    }

    /// A site whose sinks and alerts lead here; with more keys of the sink of letters.
    fn lead(&self, site: Site, mail: &str) -> Site {
        let rows = format!(
            r#"{{name="rows",kind="influx",url="{}",org="o",bucket="b",token_env="INFLUX",max_lag="1s"}}"#,
            self.influx.url()
        );
        let series = r#"{name="series",kind="timestream",database="lake",table="rows"}"#;
        let mail = format!(r#"{{name="mail",kind="sqs",queue_url="{}"{mail}}}"#, self.queues.queue_url("mail"));
        site.set(&format!("sink=[{rows},{series},{mail}]"))
            .set(&format!("alerts.webhook={}/hook", self.webhook.url()))
            .env("INFLUX", "s3cret")
            .env("AWS_ENDPOINT_URL_TIMESTREAM_WRITE", &self.series.url())
            .env("AWS_ENDPOINT_URL_SQS", &self.queues.url())
    }

    /// Alerts that were told, by name and sink.
    fn told(&self, name: &str) -> BTreeSet<String> {
        let bodies = self.webhook.bodies();
        let of = bodies.iter().filter(|body| body["alert"] == name);
        of.map(|body| body["fields"]["sink"].as_str().unwrap_or_default().to_owned()).collect()
    }
}

/// Window in microseconds, type, events: rows of the table by type.
type ByType = BTreeSet<(i64, String, i64)>;

fn gold_by_type(site: &Site) -> ByType {
    let sql = "SELECT arrow_cast(window_start, 'Int64') AS at, \"eventType\" AS kind, events FROM gold_hourly_by_type";
    let row =
        |row: Value| (row["at"].as_i64().unwrap(), row["kind"].as_str().unwrap().to_owned(), row["events"].as_i64().unwrap());
    site.answers(sql).into_iter().map(row).collect()
}

fn influx_by_type(influx: &FakeInflux) -> ByType {
    let live = influx.points().into_iter().filter(|(_, fields)| fields["removed"] == Field::Boolean(false));
    let of = live.filter(|((measurement, _, _), _)| measurement == "hourly_by_type");
    of.map(|((_, tags, at_us), fields)| {
        let Field::Integer(events) = fields["events"] else { panic!("{fields:?}") };
        (at_us, tags["eventType"].clone(), events)
    })
    .collect()
}

fn timestream_by_type(series: &FakeTimestream) -> ByType {
    let of = series.records("lake", "rows").into_iter().filter(|record| record.measure == "hourly_by_type");
    let live = of.filter(|record| record.values["sluicebox_removed"].1 == "false");
    live.map(|record| (record.time_us, record.dimensions["eventType"].clone(), record.values["events"].1.parse().unwrap()))
        .collect()
}

/// The whole program over HTTP, with an outage in the middle and every way in which a call can fail.
#[test]
fn dashboards_and_queues_have_what_readers_see_after_an_outage_and_lost_answers() {
    let (services, local) = (Services::start(), Site::with_events(2_500));
    let site = services.lead(Site::with_stream_of(&local), "");
    services.influx.faults().down(true);
    for fault in [Fault::DropResponse, Fault::Throttle, Fault::DropRequest, Fault::Status(503, "away")] {
        services.influx.faults().next("write", 1, fault.clone());
        services.series.faults().next("WriteRecords", 1, fault.clone());
        services.queues.faults().next("SendMessageBatch", 1, fault);
    }
    services.queues.fail_entries([0, 3], false, "InternalError");
    let mut run = site.start("run.log", &["run", "--drain"]);
    // One sink does not wait for another.
    run.until("the other two to have something while one is away", || {
        let (rows, letters) = (services.series.records("lake", "rows").len(), services.queues.messages("mail").len());
        (rows > 0 && letters > 0 && services.influx.faults().calls("write") > 2).then_some(())
    });
    run.until("the alert that a sink is behind", || services.told("sink_behind").contains("rows").then_some(()));
    assert!(services.influx.points().is_empty());
    services.influx.faults().down(false);
    run.end("the run").expect(0, "a run whose sinks are all back");
    let gold = gold_by_type(&site);
    assert!(gold.len() > 50, "{gold:?}");
    assert_eq!(influx_by_type(&services.influx), gold);
    assert_eq!(timestream_by_type(&services.series), gold);
    assert!(letters(&site) > 0);
    assert_eq!(mailed(&services).len(), letters(&site));
    let left = [services.influx.faults().left(), services.series.faults().left(), services.queues.faults().left()];
    assert_eq!(left, [0, 0, 0], "every fault was met");
}

fn mailed(services: &Services) -> BTreeSet<String> {
    let bodies =
        services.queues.messages("mail").into_iter().map(|message| serde_json::from_str::<Value>(&message.body).unwrap());
    bodies.map(|body| body["sluicebox"]["letterId"].as_str().unwrap().to_owned()).collect()
}

fn letters(site: &Site) -> usize {
    site.answers("SELECT count(*) AS n FROM dlq")[0]["n"].as_u64().unwrap() as usize
}

/// Row 43 with the real sink: the backlog is bounded, reading waits for the queue, and nothing is lost.
#[test]
fn a_queue_that_is_away_makes_shards_wait_at_the_limit_and_gets_every_letter_when_it_is_back() {
    const LIMIT: usize = 10;
    let services = Services::start();
    let local = Site::with_events(2_500);
    let keys = format!(r#",max_backlog={LIMIT},on_backlog="pause""#);
    let site = services.lead(Site::with_stream_of(&local), &keys);
    services.queues.faults().down(true);
    let mut run = site.start("run.log", &["run"]);
    run.until("the alert that the queue is behind", || services.told("sink_behind").contains("mail").then_some(()));
    // Every few tries of the queue is a while.
    let a_while = |run: &mut super::support::process::Running| {
        let tries = services.queues.faults().calls("SendMessageBatch") + 4;
        run.until("more tries", || (services.queues.faults().calls("SendMessageBatch") >= tries).then_some(()));
        site.progress()
    };
    let mut before = a_while(&mut run);
    let (read, all) = loop {
        let now = a_while(&mut run);
        if now == before {
            break now;
        }
        before = now;
    };
    assert!(read < all, "{read} of {all} records were read while {LIMIT} letters may wait");
    let waiting = letters(&site);
    assert!((LIMIT..LIMIT * 4).contains(&waiting), "{waiting} letters wait");
    services.queues.faults().down(false);
    run.until("the rest of the stream", || {
        let (read, all) = site.progress();
        (read == all).then_some(())
    });
    run.terminate();
    run.end("a run that was told to stop").expect(0, "a run whose queue is back");
    site.drain();
    assert!(letters(&site) > waiting);
    assert_eq!(mailed(&services).len(), letters(&site));
    site.evidence().must_equal(&local.finish(), "with a queue that was away");
}

#[test]
fn rows_that_a_sink_refuses_raise_an_alert_are_shown_and_hold_nothing_up() {
    let services = Services::start();
    let site = services.lead(Site::with_events(2_500), "");
    services.influx.refuse_lines_with("eventType=purchase", true);
    site.drain();
    let (gold, mine) = (gold_by_type(&site), influx_by_type(&services.influx));
    let refused: ByType = gold.difference(&mine).cloned().collect();
    assert!(refused.len() > 5 && refused.iter().all(|(_, kind, _)| kind == "purchase"), "{refused:?}");
    assert!(mine.is_subset(&gold) && mine.iter().all(|(_, kind, _)| kind != "purchase"));
    assert_eq!(services.told("sink_refused"), BTreeSet::from(["rows".to_owned()]));
    let said = site.ran(&["sinks", "--format", "json"]).expect(0, "sinks").out;
    let said = said.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let counts: BTreeMap<String, u64> = said
        .filter_map(|line| Some((format!("{} {}", line["sink"].as_str()?, line["of"].as_str()?), line["refused"].as_u64()?)))
        .collect();
    assert_eq!(counts["rows gold/hourly_by_type"], refused.len() as u64, "{counts:?}");
    assert_eq!(counts["series gold/hourly_by_type"], 0, "{counts:?}");
    // A window that stands is not tried again: the sink would say the same.
    let calls = services.influx.faults().calls("write");
    site.drain();
    assert_eq!(services.influx.faults().calls("write"), calls);
}
