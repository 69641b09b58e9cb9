//! Goal: a user who writes a wrong setting is told the file, the line, and what to write; and every shipped file is good.
//!
//! Owns: tests of the settings through their public face. Does not own: what the SQL in the files says (engine tests).

use std::path::{Path, PathBuf};

use sluicebox::settings::load::{PRESETS, Source, load_over};
use sluicebox::settings::{Interval, Loaded, Settings, Size, load};

const BASE: &str = r#"
[event]
schema = "s.json"
time = "ts"

[silver]
sql = "SELECT * FROM events"

[[gold]]
name = "hourly"
sql = "SELECT count(*) AS events FROM silver"
window = { tumbling = "1h" }
"#;

struct Case {
    folder: tempfile::TempDir,
}

impl Case {
    fn new(text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("p.toml"), text).unwrap();
        std::fs::write(folder.path().join("s.json"), "{\"type\": \"object\"}").unwrap();
        Self { folder }
    }

    fn load(&self, variables: &[(&str, &str)], sets: &[&str]) -> Result<Loaded, Vec<String>> {
        let variables = variables.iter().map(|(name, value)| (name.to_string(), value.to_string()));
        let sets: Vec<String> = sets.iter().map(|set| set.to_string()).collect();
        let source = Source::File(self.folder.path().join("p.toml"));
        let root = format!("{}/", self.folder.path().display());
        let tell = |problem: &sluicebox::settings::Problem| problem.to_string().replace(&root, "");
        load(&source, variables, &sets).map_err(|error| error.problems.iter().map(tell).collect())
    }

    fn errors(&self, sets: &[&str]) -> Vec<String> {
        self.load(&[], sets).map(|_| ()).expect_err("should be refused")
    }
}

fn one_error(text: &str) -> String {
    let errors = Case::new(text).errors(&[]);
    assert_eq!(errors.len(), 1, "{errors:?}");
    errors[0].clone()
}

#[test]
fn what_is_left_out_has_the_documented_default() {
    let settings = Case::new(BASE).load(&[], &[]).unwrap().settings;
    assert_eq!(settings.stream.shards, 4);
    assert_eq!(settings.commit.interval, Interval::from_secs(10));
    assert_eq!(settings.limits.in_flight, Size::from_mib(64));
    assert_eq!(settings.gold[0].window.allowed_lateness, Interval::from_secs(3600));
}

#[test]
fn an_unknown_key_is_refused_in_every_section_at_its_line_with_a_suggestion() {
    let sections = [
        ("[pipeline]\nnme = \"x\"", "name"),
        ("[stream]\nshrads = 4", "shards"),
        ("[bronze]\nenable = true", "enabled"),
        ("[commit]\nintervall = \"1s\"", "interval"),
        ("[limits]\nfetches = \"1MiB\"", "fetch"),
        ("[restart]\nbackof_min = \"1s\"", "backoff_min"),
        ("[breaker]\nshares = 0.1", "share"),
        ("[collect]\nafter_epoch = 3", "after_epochs"),
        ("[metrics]\ncloudwatsh = true", "cloudwatch"),
        ("[alerts]\nwebhok = \"\"", "webhook"),
        ("[[silver.filter]]\nname = \"a\"\nwhere = \"x\"\nwher = \"y\"", "where"),
        ("[[sink]]\nname = \"a\"\nkind = \"sqs\"\nqueue_ur = \"x\"", "queue_url"),
        ("[[gold]]\nname = \"b\"\nsql = \"x\"\nwindow = { tumbling = \"1h\" }\nmax_wat = 3", "max_wait"),
    ];
    for (section, meant) in sections {
        let text = format!("{BASE}\n{section}\n");
        let line = text.lines().count();
        let error = one_error(&text);
        assert!(error.starts_with(&format!("p.toml:{line}:1: ")), "{error}");
        assert!(error.contains("unknown key") && error.contains(&format!("did you mean `{meant}`?")), "{error}");
    }
    let error = one_error(&format!("{BASE}\n[strem]\nshards = 4\n"));
    assert!(error.contains("did you mean `stream`?"), "{error}");
    let error = one_error(&BASE.replace("time = \"ts\"", "time = \"ts\"\ndisordr = \"1s\""));
    assert!(error.starts_with("p.toml:5:1: `event`: unknown key `disordr`") && error.contains("`disorder`"), "{error}");
    let error = one_error(&BASE.replace("sql = \"SELECT *", "fromat = \"ndjson\"\nsql = \"SELECT *"));
    assert!(error.contains("`format`"), "{error}");
    let error = one_error(&BASE.replace("{ tumbling = \"1h\" }", "{ tumbling = \"1h\", lateness = \"1h\" }"));
    assert!(
        error.starts_with("p.toml:12:29: `gold.0.window`: unknown key `lateness`") && error.contains("`allowed_lateness`"),
        "{error}"
    );
}

#[test]
fn a_value_of_the_wrong_kind_is_told_what_to_write() {
    let cases = [
        (
            "[stream]\nshards = \"four\"",
            "p.toml:15:10: `stream.shards`: expected a whole number, 0 or more, found the text \"four\"",
        ),
        ("[stream]\nkind = \"kinesys\"", "`kinesys` is not one of embedded, kinesis (help: did you mean \"kinesis\"?)"),
        ("[commit]\ninterval = 10", "expected a duration in quotes with its unit, such as \"10s\", found the number 10"),
        ("[commit]\ninterval = \"10\"", "such as \"10s\""),
        ("[commit]\nsize = \"big\"", "`commit.size`: `big` is not a size"),
        ("[breaker]\nenabled = \"yes\"", "expected true or false"),
        ("[stream]\nshards = -1", "found the number -1"),
        ("[stream]\nshards = 4\nshards = 5", "p.toml:16:1: not TOML: duplicate key"),
    ];
    for (section, part) in cases {
        let error = one_error(&format!("{BASE}\n{section}\n"));
        assert!(error.contains(part), "{error}");
    }
    let error = one_error("[event]\ntime = \"ts\"\n[silver]\nsql = \"x\"\n");
    assert!(error.contains("`schema` is missing") && error.contains("p.toml:1:1"), "{error}");
}

#[test]
fn contradictions_are_refused_together_each_at_its_place() {
    let text = BASE.replace("\"1h\" }", "\"0s\", allowed_lateness = \"-1h\" }");
    let errors = Case::new(&text).errors(&["event.disorder=-1s"]);
    assert_eq!(errors.len(), 3, "{errors:?}");
    assert!(errors[0].starts_with("--set event.disorder=-1s: `event.disorder`: -1s is negative"), "{}", errors[0]);
    assert!(errors[1].starts_with("p.toml:12:23: `gold.0.window.tumbling`: 0s is not a length"), "{}", errors[1]);
    assert!(errors[2].contains("`gold.0.window.allowed_lateness`: -1h is negative"), "{}", errors[2]);
}

#[test]
fn every_contradiction_has_its_sentence() {
    let gold = "\n[[gold]]\nname = \"hourly\"\nsql = \"x\"\nwindow = { tumbling = \"1h\" }\n";
    let doubled = Case::new(&format!("{BASE}{gold}")).errors(&[]);
    assert!(doubled[0].contains("`gold.1.name`: a Gold table named `hourly` stands above already"), "{doubled:?}");
    let cases = [
        ("gold.0.name=Hourly", "`gold.0.name`: `Hourly` cannot be a name here"),
        ("gold.0.sql= ", "there is nothing in it"),
        ("gold.0.max_wait=0s", "0s is not a length"),
        ("metrics.interval=10ms", "numbers every 10ms cost more than they say"),
        ("alerts.sns_topic=alerts", "`alerts` is no ARN of an SNS topic"),
        ("alerts.webhook=hooks.example.com/s3cret", "`alerts.webhook`: this is no address of HTTP"),
        ("stream.start=latest", "only a Kinesis stream"),
        ("stream.start=tomorrow", "`tomorrow` is no place to start"),
        ("stream.reads_per_second=6", "1 to 5"),
        ("stream.fan_out=c", "only a Kinesis stream has consumers"),
        ("stream.fan_out=a/b", "`a/b` is no name of a consumer"),
        ("stream.shards=1001", "1 to 1000"),
        ("stream.parallelism=11", "1 to 10"),
        ("stream.name=a/b", "cannot be a name here"),
        ("event.max_future=-1s", "negative"),
        ("event.time_zone=+02:00", "carries its own offset"),
        ("commit.interval=0s", "more than zero"),
        ("commit.size=1MiB", "could not hold one fetch"),
        ("limits.fetch=40MiB", "more than half"),
        ("limits.fetch=0B", "reads nothing"),
        ("limits.fetch_records=0", "out of range"),
        ("limits.open_files=1", "out of range"),
        ("limits.group_memory=1000KiB", "nothing but commits"),
        ("limits.merge_memory=1000KiB", "small files"),
        ("restart.backoff_max=1ms", "shorter than the first"),
        ("breaker.share=1.5", "not a share"),
        ("breaker.share=NaN", "not a share"),
        ("collect.after_epochs=257", "1 to 256"),
    ];
    for (set, part) in cases {
        let errors = Case::new(BASE).errors(&[set]);
        assert!(errors.iter().any(|error| error.contains(part) && error.starts_with("--set ")), "{set}: {errors:?}");
    }
    let case = Case::new(&format!("{BASE}\n[[silver.filter]]\nname = \"where\"\nwhere = \"x\"\n"));
    assert!(case.errors(&[])[0].contains("the statement's own WHERE"));
    let arrival = BASE.replace("\"ts\"", "\"_arrival_time\"\ntime_format = \"epoch_ms\"");
    assert!(one_error(&arrival).contains("the arrival time is a time already"));
}

#[test]
fn a_sink_has_the_keys_of_its_kind_and_no_others() {
    let sink = |keys: &str| format!("{BASE}\n[[sink]]\nname = \"a\"\n{keys}\n");
    for good in [
        "kind = \"sqs\"\nqueue_url = \"https://q\"\nmax_backlog = 5\non_backlog = \"pause\"\nreplay_letters = true",
        "kind = \"influx\"\nurl = \"http://h\"\nbucket = \"b\"\ntables = [\"hourly\"]\nmax_lag = \"5m\"\nmax_window = \"1MiB\"",
        "kind = \"timestream\"\ndatabase = \"d\"\ntable = \"t\"",
        "kind = \"file\"\npath = \"x\"\ntakes = \"letters\"\nmax_backlog = 5",
    ] {
        assert_eq!(Case::new(&sink(good)).load(&[], &[]).unwrap().settings.sink.len(), 1);
    }
    let cases = [
        ("kind = \"kafka\"", "`kafka` is not one of timestream, influx, sqs, file"),
        ("kind = \"sqs\"", "`sink.0.queue_url`: there is nothing in it"),
        ("kind = \"influx\"\nurl = \"host:8086\"\nbucket = \"b\"", "`host:8086` is no address"),
        ("kind = \"sqs\"\nqueue_url = \"q\"\nurl = \"u\"", "`sink.0.url`: a sink of this kind has no such key"),
        ("kind = \"sqs\"\nqueue_url = \"q\"\ntables = [\"hourly\"]", "`sink.0.tables`: it is given letters and no Gold"),
        ("kind = \"sqs\"\nqueue_url = \"q\"\nmax_lag = \"5m\"", "max_backlog is its limit"),
        ("kind = \"sqs\"\nqueue_url = \"q\"\nmax_window = \"5MiB\"", "it is given letters and no Gold"),
        ("kind = \"file\"\npath = \"x\"\nmax_window = \"1KiB\"", "next to nothing"),
        ("kind = \"sqs\"\nqueue_url = \"q\"\ntakes = \"gold\"", "takes one thing anyway"),
        ("kind = \"file\"\npath = \"x\"\nmax_backlog = 5", "max_lag is its limit"),
        ("kind = \"file\"\npath = \"x\"\non_backlog = \"pause\"", "only letters can be too many"),
        ("kind = \"file\"\npath = \"x\"\nreplay_letters = true", "it is given Gold and no letters"),
        ("kind = \"file\"\npath = \"x\"\nmax_lag = \"0s\"", "0s is not a length"),
        ("kind = \"file\"\npath = \"x\"\ntables = [\"hurly\"]", "there is no Gold table `hurly`"),
    ];
    for (keys, part) in cases {
        let error = one_error(&sink(keys));
        assert!(error.contains(part), "{keys}: {error}");
    }
    let file = "kind = \"file\"\npath = \"x\"\n";
    let twice = one_error(&format!("{}[[sink]]\nname = \"a\"\n{file}", sink(file)));
    assert!(twice.contains("a sink named `a` stands above already"), "{twice}");
}

#[test]
fn a_table_that_hides_a_group_key_is_refused_where_a_sink_takes_it() {
    let hidden = BASE.replace("SELECT count(*) AS events FROM silver", "SELECT count(*) AS events FROM silver GROUP BY _shard");
    let compile = |text: &str| {
        let loaded = Case::new(text).load(&[], &[]).unwrap();
        sluicebox::topology::compile(&loaded).map(|_| ()).map_err(|error| error.to_string())
    };
    compile(&hidden).unwrap();
    let sink = "\n[[sink]]\nname = \"a\"\nkind = \"file\"\npath = \"x\"\n";
    compile(&format!("{BASE}{sink}")).unwrap();
    compile(&format!("{}{sink}", hidden.replace("SELECT count(*)", "SELECT _shard AS from_shard, count(*)"))).unwrap();
    let said = compile(&format!("{hidden}{sink}")).unwrap_err();
    assert!(said.contains("`hourly` can't be told apart") && said.contains("gold.hourly.sql"), "{said}");
    let changed = hidden.replace("SELECT count(*)", "SELECT upper(_shard) AS from_shard, count(*)");
    assert!(compile(&format!("{changed}{sink}")).is_err(), "a function of a key is not the key");
}

#[test]
fn the_environment_beats_the_file_and_set_beats_the_environment() {
    let case = Case::new(&format!("{BASE}\n[stream]\nshards = 2\nname = \"file\"\nparallelism = 2\n"));
    let variables = [("SLUICEBOX__STREAM__NAME", "env"), ("SLUICEBOX__STREAM__PARALLELISM", "3"), ("SLUICEBOX_LOG", "debug")];
    let sets = ["stream.parallelism=4", "silver.partition_by=country,device", "gold.hourly.window={ tumbling = \"2h\" }"];
    let settings = case.load(&variables, &sets).unwrap().settings;
    assert_eq!((settings.stream.shards, settings.stream.name.as_str(), settings.stream.parallelism), (2, "env", 4));
    assert_eq!(settings.silver.partition_by, ["country", "device"]);
    assert_eq!(settings.gold[0].window.tumbling, Interval::from_secs(7200));
    let errors = case.load(&[("SLUICEBOX__STREAM__SHRADS", "3")], &[]).map(|_| ()).unwrap_err();
    assert!(
        errors[0].starts_with("environment variable SLUICEBOX__STREAM__SHRADS: `stream`: unknown key `shrads`"),
        "{errors:?}"
    );
}

#[test]
fn the_fingerprint_follows_the_meaning_and_nothing_else() {
    let case = Case::new(BASE);
    let print = |sets: &[&str]| case.load(&[], sets).unwrap().fingerprint();
    let base = print(&[]);
    assert_eq!(base.len(), 64);
    assert_eq!(base, print(&["limits.fetch=1MiB", "stream.parallelism=8", "commit.interval=1s", "gold.0.window.tumbling=60m"]));
    for set in ["event.disorder=11s", "silver.sql=SELECT 1", "gold.0.window.tumbling=2h", "gold.0.sql=x", "event.time=other"] {
        assert_ne!(base, print(&[set]), "{set}");
    }
    std::fs::write(case.folder.path().join("s.json"), "{ \"type\" : \"object\" }\n").unwrap();
    assert_eq!(base, print(&[]), "spaces in the schema mean nothing");
    std::fs::write(case.folder.path().join("s.json"), "{\"type\": \"object\", \"required\": [\"ts\"]}").unwrap();
    assert_ne!(base, print(&[]), "a rule in the schema does");
}

#[test]
fn an_error_inside_a_statement_is_found_in_the_file() {
    let text = BASE.replace("\"SELECT * FROM events\"", "\"\"\"\nSELECT a,\n  b FROM events\n\"\"\"");
    let loaded = Case::new(&text).load(&[], &[]).unwrap();
    let at = |key: &str, line, column| loaded.place_in(key, line, column).to_string().rsplit('/').next().unwrap().to_owned();
    assert_eq!(at("silver.sql", 1, 8), "p.toml:8:8");
    assert_eq!(at("silver.sql", 2, 3), "p.toml:9:3");
    assert_eq!(at("gold.0.sql", 1, 1), "p.toml:14:8");
}

#[test]
fn a_missing_schema_or_file_is_named() {
    let case = Case::new(BASE);
    std::fs::remove_file(case.folder.path().join("s.json")).unwrap();
    let errors = case.errors(&[]);
    assert!(errors[0].starts_with("p.toml:3:10: the event schema s.json cannot be read"), "{errors:?}");
    std::fs::remove_file(case.folder.path().join("p.toml")).unwrap();
    assert!(case.errors(&[])[0].contains("sluicebox init"));
}

/// Lambda's name, a value, the key it is here and the value there.
const SAME_THING: [(&str, &str, &str, &str); 4] = [
    ("batch_size", "100", "limits.fetch_records", "200"),
    ("maximum_batching_window", "\"60s\"", "commit.interval", "\"2m\""),
    ("parallelization_factor", "3", "stream.parallelism", "4"),
    ("maximum_attempts", "7", "restart.intensity", "8"),
];

fn with_mapping(lines: &str) -> String {
    format!("{BASE}\n[stream.mapping]\n{lines}\n")
}

#[test]
fn lambdas_names_set_the_keys_that_are_the_same_thing() {
    let lines: String = SAME_THING.iter().map(|(name, value, ..)| format!("{name} = {value}\n")).collect();
    let always = "maximum_record_age = -1\nbisect_on_error = true\n";
    let settings = Case::new(&with_mapping(&(lines + always))).load(&[], &[]).unwrap().settings;
    let found = (settings.limits.fetch_records, settings.stream.parallelism, settings.restart.intensity);
    assert_eq!((found, settings.commit.interval), ((100, 3, 7), Interval::from_secs(60)));
    let variables = [("SLUICEBOX__STREAM__MAPPING__PARALLELIZATION_FACTOR", "5")];
    let settings = Case::new(BASE).load(&variables, &["stream.mapping.batch_size=9"]).unwrap().settings;
    assert_eq!((settings.stream.parallelism, settings.limits.fetch_records), (5, 9));
}

#[test]
fn a_key_and_lambdas_name_for_it_must_agree() {
    for (name, value, key, other) in SAME_THING {
        let (table, key) = key.split_once('.').unwrap();
        let both = |there: &str| format!("{BASE}\n[{table}]\n{key} = {there}\n[stream.mapping]\n{name} = {value}\n");
        let error = one_error(&both(other));
        let wanted = format!("`stream.mapping.{name}` and `{table}.{key}` are one setting under two names");
        assert!(error.starts_with("p.toml:17:") && error.contains(&wanted) && error.contains("p.toml:15:"), "{error}");
        Case::new(&both(value)).load(&[], &[]).unwrap();
    }
    let minute = format!("{BASE}\n[commit]\ninterval = \"1m\"\n[stream.mapping]\nmaximum_batching_window = \"60s\"\n");
    Case::new(&minute).load(&[], &[]).unwrap();
    let case = Case::new(&with_mapping("batch_size = 100"));
    let settings = case.load(&[], &["limits.fetch_records=200"]).unwrap().settings;
    assert_eq!(settings.limits.fetch_records, 200, "--set beats the file under either name");
    let errors = case.errors(&["limits.fetch_records=200", "stream.mapping.batch_size=300"]);
    assert!(errors[0].starts_with("--set stream.mapping.batch_size=300: ") && errors[0].contains("differ"), "{errors:?}");
}

#[test]
fn what_lambda_does_otherwise_is_refused_with_the_reason() {
    let cases = [
        ("maximum_record_age = \"1h\"", "no record is skipped here because it is old"),
        ("bisect_on_error = false", "never takes its batch along"),
        ("on_failure_destination = \"arn:aws:sqs:eu-west-1:123456789012:q\"", "add [[sink]] with kind = \"sqs\""),
        ("batch_sise = 3", "did you mean `batch_size`?"),
        ("tumbling_window = 60", "window = { tumbling = \"1h\" }"),
        ("starting_position = \"LATEST\"", "stream.start"),
        ("batch_size = \"many\"", "`stream.mapping.batch_size` (here `limits.fetch_records`): expected a whole number"),
        ("batch_size = 0", "`stream.mapping.batch_size` (here `limits.fetch_records`): 0 is out of range"),
        ("parallelization_factor = 11", "write a number from 1 to 10"),
        ("maximum_attempts = -1", "found the number -1"),
    ];
    for (line, part) in cases {
        let error = one_error(&with_mapping(line));
        assert!(error.starts_with("p.toml:15:") && error.contains(part), "{error}");
    }
    let error = one_error(&BASE.replace("[silver]", "[stream]\nmapping = 3\n[silver]"));
    assert!(error.starts_with("p.toml:7:11: `stream.mapping`: expected a table"), "{error}");
}

#[test]
fn a_file_that_is_laid_over_wins_and_an_error_in_it_names_it() {
    let case = Case::new(&format!("{BASE}\n[commit]\ninterval = \"20s\"\nsize = \"64MiB\"\n"));
    let over = case.folder.path().join("over.toml");
    let load_both = |text: &str, sets: &[String]| {
        std::fs::write(&over, text).unwrap();
        load_over(&Source::File(case.folder.path().join("p.toml")), std::slice::from_ref(&over), [], sets)
    };
    let loaded = load_both("[stream.mapping]\nmaximum_batching_window = \"40s\"\n", &[]).unwrap();
    assert_eq!(loaded.settings.commit.interval, Interval::from_secs(40));
    assert_eq!(loaded.settings.commit.size, Size::from_mib(64));
    let beaten = load_both("[commit]\ninterval = \"40s\"\n", &["commit.interval=50s".to_owned()]).unwrap();
    assert_eq!(beaten.settings.commit.interval, Interval::from_secs(50));
    for (text, part) in [
        ("\n[commit]\nintervall = \"1s\"\n", "over.toml:3:1: `commit`: unknown key `intervall`"),
        ("[commit]\ninterval = \"0s\"\n", "over.toml:2:12: `commit.interval`: 0s is not a length"),
        ("[commit\n", "over.toml:1:"),
    ] {
        let error = load_both(text, &[]).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
    let loaded = load_both("[silver]\nsql = \"\"\"\nSELECT 1\"\"\"\n", &[]).unwrap();
    assert!(loaded.place_in("silver.sql", 1, 8).to_string().ends_with("over.toml:3:8"));
    std::fs::remove_file(&over).unwrap();
    let error = load_over(&Source::Builtin, &[over], [], &[]).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("over.toml: the pipeline file cannot be read"), "{error}");
}

fn shipped() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let mut files = vec![root.join("local.toml"), root.join("reference.toml")];
    for entry in std::fs::read_dir(root.join("examples")).unwrap() {
        files.push(entry.unwrap().path());
    }
    files.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    files.sort();
    files
}

#[test]
fn every_shipped_pipeline_loads() {
    let files = shipped();
    assert!(files.len() >= 10, "{files:?}");
    for path in files {
        let loaded = load(&Source::File(path.clone()), [], &[]).map_err(|error| error.to_string());
        let loaded = loaded.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let _: serde_json::Value =
            serde_json::from_str(&loaded.schema).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert!(!loaded.settings.gold.is_empty(), "{} has no Gold table", path.display());
    }
    load(&Source::Builtin, [], &[]).expect("the built-in pipeline");
}

#[test]
fn every_shipped_contract_and_statement_compiles() {
    for path in shipped() {
        let loaded = load(&Source::File(path.clone()), [], &[]).unwrap();
        sluicebox::topology::compile(&loaded).map(|_| ()).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}

#[test]
fn every_preset_lies_over_every_shipped_pipeline_and_explains_each_of_its_numbers() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/presets");
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), PRESETS.len());
    for (name, text) in PRESETS {
        let path = folder.join(format!("{name}.toml"));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        for line in text.lines().filter(|line| line.contains(" = ") && !line.starts_with('#')) {
            assert!(line.contains("  # ") && line.contains("default"), "{name}: {line}");
        }
        for pipeline in shipped() {
            let plain = load(&Source::File(pipeline.clone()), [], &[]).unwrap();
            let laid = load_over(&Source::File(pipeline.clone()), std::slice::from_ref(&path), [], &[]);
            let laid = laid.unwrap_or_else(|error| panic!("{name} over {}: {error}", pipeline.display()));
            assert_ne!(laid.settings, plain.settings, "{name} changes nothing");
            assert_eq!(laid.fingerprint(), plain.fingerprint(), "{name} changes the meaning of data");
        }
    }
}

#[test]
fn the_pipeline_in_the_readme_loads() {
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let example = readme.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let case = Case::new(example);
    std::fs::create_dir(case.folder.path().join("schemas")).unwrap();
    std::fs::write(case.folder.path().join("schemas/clickstream.schema.json"), "{}").unwrap();
    assert_eq!(case.load(&[], &[]).unwrap().settings.gold[0].name, "hourly_by_type");
}

/// All keys there are, from the settings themselves: `gold[].window.tumbling` becomes `tumbling` of `gold.window`.
fn keys(value: &serde_json::Value, table: &str, found: &mut Vec<(String, String)>) {
    match value {
        serde_json::Value::Object(members) => {
            for (key, value) in members {
                let inner = if table.is_empty() { key.clone() } else { format!("{table}.{key}") };
                let is_table =
                    value.is_object() || value.as_array().is_some_and(|items| items.iter().any(|item| item.is_object()));
                if is_table { keys(value, &inner, found) } else { found.push((table.to_owned(), key.clone())) }
            }
        }
        serde_json::Value::Array(items) => items.iter().for_each(|item| keys(item, table, found)),
        serde_json::Value::Null | serde_json::Value::Bool(_) | serde_json::Value::Number(_) | serde_json::Value::String(_) => {}
    }
}

#[test]
fn the_reference_names_every_key_and_writes_the_defaults() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/reference.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let reference = load(&Source::File(path), [], &[]).unwrap().settings;
    // Only what is required, so that everything else is a default.
    let required = "[event]\nschema = \"schemas/clickstream.schema.json\"\ntime = \"timestamp\"\n\
        [silver]\nsql = \"SELECT * FROM events\"\n[[gold]]\nname = \"hourly\"\n\
        sql = \"SELECT count(*) AS events FROM silver\"\nwindow = { tumbling = \"1h\" }\n";
    let case = Case::new(required);
    std::fs::create_dir(case.folder.path().join("schemas")).unwrap();
    std::fs::write(case.folder.path().join("schemas/clickstream.schema.json"), "{}").unwrap();
    let defaults: Settings = case.load(&[], &[]).unwrap().settings;
    assert_eq!(reference, defaults);

    let sets = ["silver.filter=[{ name = \"a\", where = \"b\" }]", "sink=[{ name = \"a\", kind = \"file\", path = \"b\" }]"];
    let filtered = case.load(&[], &sets).unwrap().settings;
    let mut all = Vec::new();
    keys(&serde_json::to_value(&filtered).unwrap(), "", &mut all);
    assert!(all.len() > 35, "{all:?}");
    for (table, key) in all {
        let heading = [format!("[{table}]"), format!("[[{table}]]"), format!("# [[{table}]]")];
        let mut inside = false;
        let mut explained = false;
        for line in text.lines() {
            if line.starts_with('[') || line.starts_with("# [[") {
                inside = heading.iter().any(|heading| line.starts_with(heading.as_str()));
            }
            let bare = line.strip_prefix("# ").unwrap_or(line);
            explained |= inside && bare.starts_with(&format!("{key} =")) && bare.contains("  # ");
        }
        assert!(explained, "config/reference.toml does not explain `{key}` of [{table}]");
    }
}
