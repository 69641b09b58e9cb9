//! Goal: a pipeline file may change between two runs over one directory: what can go on goes on, what would mix is refused.

use super::support::drive::Bench;
use super::support::process::Ran;
use super::support::site::Site;

#[test]
fn a_gold_table_under_another_statement_is_refused_by_name_and_a_new_layout_of_it_is_not() {
    let site = Site::with_events(200);
    site.drain();
    let run = |set: &str, code: i32| {
        let mut command = site.command(&["run", "--drain"]);
        command.args(["--set", set]);
        Ran::of(command).expect(code, set).err
    };
    let said = run("gold.hourly_total.sql=SELECT count(*) AS events FROM silver WHERE amount > 1", 78);
    assert!(said.contains("`gold.hourly_total`") && said.contains("hourly_total_2"), "{said}");
    let said = run("gold.hourly_by_type.window.tumbling=2h", 78);
    assert!(said.contains("`gold.hourly_by_type`"), "{said}");
    run("gold.hourly_total.max_wait=1h", 0);
    run("gold.hourly_total.window.allowed_lateness=7h", 0);
    run("gold.hourly_total.name=hourly_total_2", 0);
}

const PIPELINE: &str = r#"
[pipeline]
name = "changing"

[stream]
shards = 1

[event]
schema = "event.schema.json"
time = "at"

[silver]
sql = "SELECT kind, n FROM events"

[[gold]]
name = "hourly"
window = { tumbling = "1h", allowed_lateness = "2h" }
sql = "SELECT kind, count(*) AS events, sum(n) AS total FROM silver GROUP BY kind"
"#;

const SCHEMA: &str = r#"{"type": "object", "required": ["at", "kind"], "properties": {
    "at": {"type": "string", "format": "date-time"}, "kind": {"type": "string"}, "n": {"type": "integer"}}}"#;

fn rows(bench: &Bench, sql: &str) -> Vec<serde_json::Value> {
    let out = bench.good(&["query", sql, "--format", "json"]).out;
    out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_field_that_is_added_in_the_middle_of_a_window_is_null_before_and_gold_goes_on() {
    let bench = Bench::written(PIPELINE, SCHEMA);
    let put = |name: &str, lines: &str| {
        let file = bench.write(name, lines.as_bytes());
        bench.good(&["put", "--arrival", "event", file.to_str().unwrap()]);
        bench.good(&["run", "--drain"]);
    };
    put(
        "old.ndjson",
        "{\"at\":\"2026-01-05T08:01:00Z\",\"kind\":\"a\",\"n\":1}\n{\"at\":\"2026-01-05T08:02:00Z\",\"kind\":\"a\",\"n\":2}\n",
    );
    bench.write("event.schema.json", SCHEMA.replace("\"kind\": {", "\"extra\": {\"type\": \"string\"}, \"kind\": {").as_bytes());
    bench.write("pipeline.toml", PIPELINE.replace("SELECT kind, n FROM", "SELECT kind, extra, n FROM").as_bytes());
    let new = "{\"at\":\"2026-01-05T08:03:00Z\",\"kind\":\"a\",\"n\":3,\"extra\":\"x\"}\n";
    // What the contract does not allow is a letter, whatever the field was before.
    let wrong = "{\"at\":\"2026-01-05T08:04:00Z\",\"kind\":\"a\",\"n\":4,\"extra\":5}\n";
    put("new.ndjson", &format!("{new}{wrong}"));
    let silver = rows(&bench, "SELECT count(*) AS n, count(extra) AS extras FROM silver");
    assert_eq!(silver, [serde_json::json!({"n": 3, "extras": 1})]);
    let gold = rows(&bench, "SELECT kind, events, total FROM gold_hourly");
    assert_eq!(gold, [serde_json::json!({"kind": "a", "events": 3, "total": 6})]);
    let letters = rows(&bench, "SELECT stage, reason, path FROM dlq");
    assert_eq!(letters, [serde_json::json!({"stage": "contract", "reason": "wrong_type", "path": "$.extra"})]);
    bench.good(&["audit"]);
}

/// Row 55.
#[test]
fn a_field_that_changes_its_type_in_the_middle_of_a_window_is_read_as_it_is_now_and_what_gold_adds_up_may_not() {
    let schema = |extra: &str, n: &str| {
        let with = SCHEMA.replace("\"kind\": {", &format!("\"extra\": {{\"type\": \"{extra}\"}}, \"kind\": {{"));
        with.replace("\"n\": {\"type\": \"integer\"}", &format!("\"n\": {{\"type\": \"{n}\"}}"))
    };
    let bench =
        Bench::written(&PIPELINE.replace("SELECT kind, n FROM", "SELECT kind, extra, n FROM"), &schema("integer", "integer"));
    let put = |name: &str, lines: &[(u32, &str)]| {
        let line = |(n, extra): &(u32, &str)| {
            format!("{{\"at\":\"2026-01-05T08:0{n}:00Z\",\"kind\":\"a\",\"n\":{n},\"extra\":{extra}}}\n")
        };
        let file = bench.write(name, lines.iter().map(line).collect::<String>().as_bytes());
        bench.good(&["put", "--arrival", "event", file.to_str().unwrap()]);
        bench.good(&["run", "--drain"]);
    };
    put("old.ndjson", &[(1, "5")]);
    bench.write("event.schema.json", schema("string", "integer").as_bytes());
    put("new.ndjson", &[(2, "\"x\""), (3, "7")]);
    let texts = rows(&bench, "SELECT extra FROM silver ORDER BY extra");
    assert_eq!(texts, [serde_json::json!({"extra": "5"}), serde_json::json!({"extra": "x"})]);
    let letters = rows(&bench, "SELECT stage, reason, path FROM dlq");
    assert_eq!(letters, [serde_json::json!({"stage": "contract", "reason": "wrong_type", "path": "$.extra"})]);
    let gold = || rows(&bench, "SELECT kind, events, total FROM gold_hourly");
    assert_eq!(gold(), [serde_json::json!({"kind": "a", "events": 2, "total": 3})]);
    // States of whole numbers and of others do not add up.
    bench.write("event.schema.json", schema("string", "number").as_bytes());
    let refused = bench.run(&["run", "--drain"]);
    assert!(refused.code == 78 && refused.err.contains("`gold.hourly`"), "exit {}: {}", refused.code, refused.err);
    bench.write("event.schema.json", schema("string", "integer").as_bytes());
    assert_eq!(gold(), [serde_json::json!({"kind": "a", "events": 2, "total": 3})]);
    bench.good(&["audit"]);
}
