//! Goal: a pipeline file that can't be meant so exits with 78 from every verb that needs it, and says file, line and remedy.

use crate::support::drive::Bench;

const SCHEMA: &str = r#"{
  "type": "object",
  "required": ["type", "at"],
  "properties": {
    "type": { "type": "string" },
    "at": { "type": "string", "format": "date-time" },
    "details": { "type": "object", "properties": { "amount": { "type": "number", "multipleOf": 0.01 } } }
  }
}"#;

const PIPELINE: &str = r#"[pipeline]
name = "mine"

[event]
schema = "event.schema.json"
time = "at"

[silver]
sql = """
SELECT type, details.amount AS amount
FROM events
"""

[[gold]]
name = "hourly"
window = { tumbling = "1h", allowed_lateness = "2h" }
sql = """
SELECT type, count(*) AS events, sum(amount) AS revenue
FROM silver
GROUP BY type
"""
"#;

struct Case {
    /// What is replaced by what.
    from: &'static str,
    to: &'static str,
    /// Line and column.
    at: &'static str,
    says: &'static str,
    help: &'static str,
}

const fn case(from: &'static str, to: &'static str, at: &'static str, says: &'static str, help: &'static str) -> Case {
    Case { from, to, at, says, help }
}

const CASES: [Case; 31] = [
    // Keys and values.
    case("tumbling =", "tumblin =", "16:12", "unknown key `tumblin`", "did you mean `tumbling`?"),
    case("[event]", "[evnet]", "4:2", "unknown key `evnet`", "did you mean `event`?"),
    case(
        "sql = \"\"\"\nSELECT type, count",
        "sq = \"\"\"\nSELECT type, count",
        "17:1",
        "unknown key `sq`",
        "did you mean `sql`?",
    ),
    case("name = \"mine\"", "name = mine", "2:8", "not TOML", "text stands in quotes"),
    case("[silver]", "[stream]\nshards = 0\n\n[silver]", "9:10", "0 is out of range", "from 1 to 1000"),
    case("[silver]", "[stream]\nshards = \"four\"\n\n[silver]", "9:10", "expected a whole number", "\"four\""),
    case("[silver]", "[stream]\nkind = \"kafka\"\n\n[silver]", "9:8", "`kafka` is not one of", "embedded, kinesis"),
    case("time = \"at\"", "time = \"at\"\ndisorder = 10", "7:12", "a duration in quotes with its unit", "such as \"10s\""),
    case("[silver]", "[commit]\nsize = \"1KiB\"\n\n[silver]", "9:8", "could not hold one fetch", "or a smaller limits.fetch"),
    case("name = \"hourly\"", "name = \"Per Hour\"", "15:8", "cannot be a name here", "small letters, digits and _"),
    case("event.schema.json", "nothing.json", "5:10", "nothing.json cannot be read", "relative to the pipeline file"),
    case("time = \"at\"", "time = \"att\"", "6:8", "declares no `att`", "did you mean `at`?"),
    case(
        "time = \"at\"",
        "time = \"at\"\npartition_key = \"details.user\"",
        "7:17",
        "declares no `user`",
        "declare `user` in the schema",
    ),
    // Windows.
    case("\"1h\"", "\"0s\"", "16:23", "not a length of time", "more than zero"),
    case("\"1h\"", "\"-1h\"", "16:23", "not a length of time", "more than zero"),
    case("\"1h\"", "\"one hour\"", "16:23", "is not a duration", "such as \"10s\""),
    case("\"2h\"", "\"200000000d\"", "16:48", "is too long", "the longest duration"),
    case("allowed_lateness = \"2h\"", "tumbling = \"2h\"", "16:29", "duplicate key", "help:"),
    case("tumbling = \"1h\"", "hopping = \"1h\"", "16:12", "unknown key `hopping`", "known here: tumbling"),
    case(
        "name = \"hourly\"",
        "name = \"a\"\nwindow = { tumbling = \"1d\" }\nsql = \"SELECT count(*) AS n FROM silver\"\n\n[[gold]]\nname = \"a\"",
        "20:8",
        "stands above already",
        "a name of its own",
    ),
    // SQL: the place is that of the word inside of the statement.
    case("SELECT type, details", "SELEC type, details", "10:1", "not SQL", "write one SELECT"),
    case("SELECT type, details", "SELECT kind, details", "10:8", "unknown column `kind`", "help:"),
    case("details.amount", "details.amuont", "10:22", "unknown member `amuont`", "did you mean `amount`?"),
    case("FROM events", "FROM event", "11:6", "unknown table `event`", "read from `events`"),
    case("FROM events", "FROM events WHERE at > now()", "11:24", "another value at every call", "use _processed_at"),
    case("sum(amount)", "sum(amonut)", "18:38", "unknown column `amonut`", "did you mean `amount`?"),
    case("sum(amount)", "median(amount)", "18:34", "`median` cannot be split into states that merge", "use approx_median(x)"),
    case("FROM silver\n", "FROM silver JOIN gold ON true\n", "19:18", "cannot have a JOIN", "join downstream"),
    case("GROUP BY type\n", "\n", "18:8", "`type` is neither in GROUP BY", "add it to GROUP BY"),
    case("sum(amount) AS revenue", "sum(amount) AS events", "18:34", "two columns are called `events`", "another name with AS"),
    case("count(*)", "count(*) OVER ()", "18:14", "a window function", "group instead"),
];

#[test]
fn a_pipeline_file_that_cannot_be_meant_so_is_refused_with_its_place_and_a_remedy() {
    let bench = Bench::written(PIPELINE, SCHEMA);
    bench.good(&["validate"]);
    let mut wrong = Vec::new();
    for case in &CASES {
        assert!(PIPELINE.contains(case.from), "{}", case.from);
        bench.write("pipeline.toml", PIPELINE.replacen(case.from, case.to, 1).as_bytes());
        let ran = bench.run(&["validate"]);
        let place = format!("pipeline.toml:{}\n", case.at);
        let said = ran.err.starts_with("error: ") && [&place, case.says, case.help].iter().all(|part| ran.err.contains(part));
        if ran.code != 78 || !ran.out.is_empty() || !said || ran.err.contains("help:\n") || ran.err.contains("help: \n") {
            wrong.push(format!("{} → {}: exit {}\n{}{}", case.from, case.to, ran.code, ran.out, ran.err));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_verb_touches_anything_under_a_pipeline_file_that_is_refused() {
    let bench = Bench::written(&PIPELINE.replace("time = \"at\"", "time = \"att\""), SCHEMA);
    let file = bench.write("one.ndjson", b"{}\n");
    let file = file.to_string_lossy();
    for arguments in [&["put", &*file][..], &["run", "--drain"], &["audit"], &["validate"]] {
        let ran = bench.run(arguments);
        assert_eq!(ran.code, 78, "{arguments:?}\n{}{}", ran.out, ran.err);
        assert!(ran.err.contains("pipeline.toml:6:8"), "{}", ran.err);
    }
    assert!(!bench.data().exists(), "a refused pipeline file made a data directory");
}
