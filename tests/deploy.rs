//! Goal: what stands in config/deploy is what the program needs there: its policies are the printed ones, its bucket outlives the
//! settings' patience, its containers are shut, and its pipeline compiles.
//!
//! Owns: that. Does not own: whether CloudFormation likes the templates (cfn-lint, config/deploy/README.md).

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sluicebox::iam::needs::Store;
use sluicebox::iam::{Account, Needs, Policy, Role};
use sluicebox::settings::load::Source;
use sluicebox::settings::{Loaded, Settings, load};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config/deploy")
}

fn read(name: &str) -> String {
    std::fs::read_to_string(folder().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn deployed() -> Loaded {
    load(&Source::File(folder().join("pipeline.toml")), [], &[]).unwrap()
}

/// The needs of the deployed pipeline under the templates' names.
fn needs(settings: &Settings) -> Needs {
    let plain = Needs::of(settings);
    let store = plain.store.as_ref().unwrap();
    assert_eq!(
        (plain.stream.as_deref(), store.table.as_str(), store.prefix.as_str()),
        (Some("clicks"), "sluicebox", "clickstream")
    );
    assert_eq!(store.bucket, "sluicebox-123456789012-eu-central-1");
    assert_eq!(
        (plain.queues.as_slice(), plain.topics.as_slice(), plain.namespace.as_deref()),
        (
            &["https://sqs.eu-central-1.amazonaws.com/123456789012/clickstream-letters".to_owned()][..],
            &["arn:aws:sns:eu-central-1:123456789012:clickstream-alerts".to_owned()][..],
            Some("DataPipelines")
        )
    );
    Needs {
        stream: Some("${StreamName}".to_owned()),
        store: Some(Store {
            table: "${TableName}".to_owned(),
            create_table: store.create_table,
            pipeline: "${PipelineName}".to_owned(),
            bucket: "sluicebox-${AWS::AccountId}-${AWS::Region}".to_owned(),
            prefix: "${PipelineName}".to_owned(),
        }),
        queues: vec!["${PipelineName}-letters".to_owned()],
        topics: vec!["arn:aws:sns:${AWS::Region}:${AWS::AccountId}:${PipelineName}-alerts".to_owned()],
        ..plain
    }
}

/// As a template writes it: texts that name something of the template are for `Fn::Sub`.
fn in_template(value: Value) -> Value {
    match value {
        Value::String(text) if text.contains("${") => json!({ "Fn::Sub": text.replace("arn:aws:", "arn:${AWS::Partition}:") }),
        Value::Array(items) => items.into_iter().map(in_template).collect(),
        Value::Object(members) => members.into_iter().map(|(key, value)| (key, in_template(value))).collect(),
        plain @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_)) => plain,
    }
}

/// One statement a line, to be pasted.
fn pasted(policy: &Value) -> String {
    let statements: Vec<String> = policy["Statement"].as_array().unwrap().iter().map(|one| format!("  {one}")).collect();
    format!("{{\"Version\": {}, \"Statement\": [\n{}\n]}}", policy["Version"], statements.join(",\n"))
}

/// What stands between `# >>> role` and `# <<<`.
fn block(template: &str, role: &str) -> Value {
    let after = template.split(&format!("# >>> {role}\n")).nth(1).unwrap_or_else(|| panic!("no block for {role}"));
    let text = after.split("# <<<").next().unwrap();
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{role}: {error}"))
}

#[test]
fn the_templates_carry_the_policies_that_are_printed() {
    let settings = deployed().settings;
    let needs = needs(&settings);
    let account = Account::new(Some("${AWS::AccountId}"), Some("${AWS::Region}"));
    let roles = [
        ("template.yaml", "worker", Role::Worker),
        ("template.yaml", "reader", Role::Reader),
        ("lambda.yaml", "lambda", Role::Lambda),
    ];
    for (file, name, role) in roles {
        let policy = Policy::least(&needs, role, &account, &[]).unwrap();
        let wanted = in_template(serde_json::to_value(policy).unwrap());
        assert_eq!(block(&read(file), name), wanted, "{file}: between the marks of `{name}`, write:\n{}", pasted(&wanted));
    }
}

#[test]
fn the_bucket_keeps_uploads_for_longer_than_all_workers_may_be_down() {
    let template = read("template.yaml");
    let days: i64 = template
        .split("DaysAfterInitiation: ")
        .nth(1)
        .and_then(|rest| rest.lines().next())
        .and_then(|days| days.parse().ok())
        .expect("a rule that aborts uploads");
    assert!(days * 86_400_000_000 >= deployed().settings.store.max_downtime.us(), "{days} days");
    assert_eq!(template.matches("DaysAfterInitiation").count(), 1);
}

#[test]
fn the_table_has_the_keys_that_the_rows_have() {
    let template = read("template.yaml");
    for line in ["{ AttributeName: pk, KeyType: HASH }", "{ AttributeName: leaseKey, KeyType: RANGE }"] {
        assert!(template.contains(line), "{line}");
    }
    assert!(!deployed().settings.store.create_table, "the template makes the table: no role may");
}

#[test]
fn every_preset_can_be_chosen_and_the_image_holds_it() {
    let template = read("template.yaml");
    let names: Vec<&str> = sluicebox::settings::load::PRESETS.iter().map(|(name, _)| *name).collect();
    assert!(template.contains(&format!("AllowedValues: [{}]", names.join(", "))), "{names:?}");
    assert!(template.contains("/etc/sluicebox/config/presets/${Preset}.toml"));
    assert!(read("Dockerfile").contains("COPY config /etc/sluicebox/config"));
}

#[test]
fn containers_are_not_root_and_cannot_write_but_to_their_data() {
    let task: Value = serde_json::from_str(&read("task-definition.json")).unwrap();
    let container = &task["containerDefinitions"][0];
    assert_eq!(container["readonlyRootFilesystem"], true);
    assert_eq!(container["user"], "65532:65532");
    assert_eq!(container["linuxParameters"]["capabilities"]["drop"], json!(["ALL"]));
    assert_eq!(container["mountPoints"][0]["containerPath"], "/data");
    let template = read("template.yaml");
    for part in ["ReadonlyRootFilesystem: true", "User: \"65532:65532\"", "Drop: [ALL]", "ContainerPath: /data"] {
        assert!(template.contains(part), "{part}");
    }
    let image = read("Dockerfile");
    for part in ["USER 65532:65532", "VOLUME [\"/data\"]", "ENTRYPOINT [\"/usr/local/bin/sluicebox\"]"] {
        assert!(image.contains(part), "{part}");
    }
    let last = image.lines().rfind(|line| line.starts_with("FROM ")).unwrap();
    assert!(last.contains("distroless") && last.contains(":nonroot"), "{last}");
}

/// A value that no pipeline file here has, as a template would give it.
fn plausible(variable: &str) -> &'static str {
    match variable {
        "SLUICEBOX__COLLECT__AFTER_EPOCHS" => "9",
        "SLUICEBOX__PIPELINE__NAME" => "other",
        "SLUICEBOX__STREAM__NAME" => "other-stream",
        "SLUICEBOX__STORE__TABLE" => "other-table",
        "SLUICEBOX__STORE__BUCKET" => "other-bucket",
        "SLUICEBOX__SINK__LETTERS__QUEUE_URL" => "https://sqs.eu-west-1.amazonaws.com/210987654321/other-letters",
        "SLUICEBOX__ALERTS__SNS_TOPIC" => "arn:aws:sns:eu-west-1:210987654321:other-alerts",
        other => panic!("{other}: what may it be set to?"),
    }
}

/// What the settings say where a variable's name leads to: names select inside lists.
fn said(settings: &Value, variable: &str) -> String {
    let path = variable.trim_start_matches("SLUICEBOX__").to_lowercase();
    let found = path.split("__").try_fold(settings, |at, segment| match at {
        Value::Array(items) => items.iter().find(|item| item["name"] == segment),
        other @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_)) => other.get(segment),
    });
    let found = found.unwrap_or_else(|| panic!("{variable} leads nowhere"));
    found.as_str().map_or_else(|| found.to_string(), str::to_owned)
}

/// Each variable in the environment of task and function reaches its setting; and these are all that name things of an account.
#[test]
fn what_the_environment_sets_is_read() {
    for (file, marks) in [("template.yaml", "Name: "), ("lambda.yaml", ""), ("task-definition.json", "\"name\": \"")] {
        let text = read(file);
        let names: Vec<&str> = text
            .lines()
            .filter_map(|line| line.trim_start().trim_start_matches("- { ").strip_prefix(marks))
            .filter(|line| line.starts_with("SLUICEBOX__"))
            .map(|line| line.split(|c: char| !(c.is_ascii_uppercase() || c == '_')).next().unwrap())
            .collect();
        for needed in ["STREAM__NAME", "STORE__TABLE", "STORE__BUCKET", "SINK__LETTERS__QUEUE_URL", "ALERTS__SNS_TOPIC"] {
            assert!(names.contains(&&*format!("SLUICEBOX__{needed}")), "{file} does not set {needed}");
        }
        let variables: Vec<(String, String)> = names.iter().map(|name| (name.to_string(), plausible(name).to_owned())).collect();
        let settings = load(&Source::File(folder().join("pipeline.toml")), variables, &[]).unwrap().settings;
        let settings = serde_json::to_value(settings).unwrap();
        for name in names {
            assert_eq!(said(&settings, name), plausible(name), "{file}: {name}");
        }
    }
}

/// An alarm by its name: the lines below it.
fn alarm(template: &str, name: &str) -> String {
    let (_, after) = template.split_once(&format!("\n  {name}:\n")).unwrap_or_else(|| panic!("no {name}"));
    after.lines().take_while(|line| line.is_empty() || line.starts_with("    ")).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_alarms_look_at_numbers_that_the_deployed_pipeline_sends() {
    let (template, settings) = (read("template.yaml"), deployed().settings);
    assert!(settings.metrics.cloudwatch);
    let metering = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/aws/cloudwatch/metering.rs")).unwrap();
    let mut looked_at = 0;
    for part in template.split(&format!("Namespace: {}\n", settings.metrics.namespace)).skip(1) {
        let name = part.trim_start().strip_prefix("MetricName: ").and_then(|rest| rest.lines().next()).unwrap();
        assert!(metering.contains(&format!("one(\"{name}\"")), "{name} is never sent");
        assert!(part.lines().take(4).any(|line| line.contains("{ Name: Pipeline, Value: !Ref PipelineName }")), "{name}");
        looked_at += 1;
    }
    assert_eq!(looked_at, template.matches("DataPipelines\n").count());
    assert!(looked_at >= 5, "{looked_at}");
    // Five minutes without a number are a stop only where a number comes each minute; without workers there is none.
    let waits = alarm(&template, "OldestRecordWaits");
    for line in ["Condition: HasWorkers", "MetricName: IteratorAgeMs", "Period: 60", "TreatMissingData: breaching"] {
        assert!(waits.contains(line), "{line}: {waits}");
    }
    assert_eq!(settings.metrics.interval.us(), 60_000_000);
}

#[test]
fn the_deployed_pipeline_compiles() {
    sluicebox::topology::compile(&deployed()).map(|_| ()).unwrap();
}
