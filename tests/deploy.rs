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

/// The needs of the deployed pipeline under the templates' names, with what the templates make for it besides.
fn needs(settings: &Settings) -> Needs {
    let plain = Needs::of(settings);
    let store = plain.store.as_ref().unwrap();
    assert_eq!(
        (plain.stream.as_deref(), store.table.as_str(), store.prefix.as_str()),
        (Some("clicks"), "sluicebox", "clickstream")
    );
    assert_eq!(store.bucket, "sluicebox-123456789012-eu-central-1");
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
        namespace: Some("DataPipelines".to_owned()),
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

/// Names of settings in the environment of task and function are names of settings.
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
        assert!(names.len() >= 3, "{file}: {names:?}");
        let value = |name: &str| if name.ends_with("_EPOCHS") { "8" } else { "other" }.to_owned();
        let variables: Vec<(String, String)> = names.iter().map(|name| (name.to_string(), value(name))).collect();
        let settings = load(&Source::File(folder().join("pipeline.toml")), variables, &[]).unwrap().settings;
        assert_eq!(
            (settings.stream.name.as_str(), settings.store.bucket.as_str(), settings.store.table.as_str()),
            ("other", "other", "other")
        );
    }
}

#[test]
fn the_deployed_pipeline_compiles() {
    sluicebox::topology::compile(&deployed()).map(|_| ()).unwrap();
}
