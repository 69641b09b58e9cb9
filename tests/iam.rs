//! Goal: the printed policies allow what the adapters call and nothing else, each as narrowly as the pipeline file permits; the
//! templates in config/deploy carry exactly what is printed for the pipeline that they deploy.
//!
//! Owns: that. Does not own: what a fault says of a missing permission (sluicebox-aws).

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;
use sluicebox::iam::needs::Store;
use sluicebox::iam::{Account, Needs, Policy, Role, called};
use sluicebox_aws::error::iam_action;

const ROLES: [Role; 3] = [Role::Worker, Role::Reader, Role::Lambda];

fn everything() -> Needs {
    Needs {
        stream: Some("clicks".to_owned()),
        fan_out: Some("consumer".to_owned()),
        store: Some(Store {
            table: "sluicebox".to_owned(),
            create_table: true,
            pipeline: "clickstream".to_owned(),
            bucket: "lake".to_owned(),
            prefix: "prod".to_owned(),
        }),
        queues: vec!["https://sqs.eu-west-1.amazonaws.com/123456789012/letters".to_owned()],
        series: vec![("sluicebox".to_owned(), "hourly".to_owned())],
        topics: vec!["arn:aws:sns:eu-west-1:123456789012:alerts".to_owned()],
        namespace: Some("DataPipelines".to_owned()),
        kcl_table: Some("old-fleet".to_owned()),
    }
}

fn account() -> Account {
    Account::new(Some("123456789012"), Some("eu-west-1"))
}

fn statements(needs: &Needs, role: Role, keys: &[String]) -> Vec<Value> {
    let policy = serde_json::to_value(Policy::least(needs, role, &account(), keys).unwrap()).unwrap();
    assert_eq!(policy["Version"], "2012-10-17");
    policy["Statement"].as_array().unwrap().clone()
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
}

fn actions(statements: &[Value]) -> BTreeSet<String> {
    statements.iter().flat_map(|statement| texts(&statement["Action"])).collect()
}

/// Operations that adapters of this tree call: (service, operation), from the text of src/aws.
fn operations_in_the_adapters() -> BTreeSet<(String, String)> {
    let mut found = BTreeSet::new();
    walk(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/aws"), &mut found);
    found
}

fn walk(folder: &Path, found: &mut BTreeSet<(String, String)>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && !["tests", "fake", "examples", "target"].contains(&name.as_str()) {
            walk(&path, found);
        } else if name.ends_with(".rs") && !["tests.rs", "fixtures.rs"].contains(&name.as_str()) {
            let text = std::fs::read_to_string(&path).unwrap();
            let product = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
            calls(&path.display().to_string(), product, found);
        }
    }
}

/// Every `client.some_call()` of a text, the service being that of the SDK which the text names; and every call that is named by
/// both where a fault is made, because the SDK makes it by itself.
fn calls(path: &str, text: &str, found: &mut BTreeSet<(String, String)>) {
    let compact: String =
        text.lines().filter(|line| !line.trim_start().starts_with("//")).flat_map(str::split_whitespace).collect();
    for after in compact.split("Call{service:\"").skip(1) {
        let mut quoted = after.split('"');
        let (service, between, operation) = (quoted.next(), quoted.next(), quoted.next());
        if between == Some(",operation:") {
            found.insert((service.unwrap_or_default().to_owned(), operation.unwrap_or_default().to_owned()));
        }
    }
    for after in compact.split("client.").skip(1) {
        let name: String = after.chars().take_while(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == '_').collect();
        if !after[name.len()..].starts_with("()") || ["config", "clone"].contains(&name.as_str()) {
            continue;
        }
        let pascal = |word: &str| word[..1].to_ascii_uppercase() + &word[1..];
        let operation: String = name.split('_').filter(|word| !word.is_empty()).map(pascal).collect();
        found.insert((service(path, text), operation));
    }
}

fn service(path: &str, text: &str) -> String {
    let sdks: BTreeSet<&str> = text
        .split("aws_sdk_")
        .skip(1)
        .map(|rest| rest.split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or_default())
        .collect();
    assert_eq!(sdks.len(), 1, "{path} calls a client: it must name its SDK, and no other, to be checked here: {sdks:?}");
    let sdk = sdks.first().unwrap();
    // IAM's name for the service, where it is not the SDK's.
    let known = BTreeMap::from([("timestreamwrite", "timestream")]);
    known.get(sdk).unwrap_or(sdk).to_string()
}

#[test]
fn every_call_of_an_adapter_is_allowed_and_nothing_is_allowed_that_no_adapter_calls() {
    let called_there = operations_in_the_adapters();
    assert!(called_there.len() > 20 && called_there.contains(&("s3".to_owned(), "ListObjectsV2".to_owned())), "{called_there:?}");
    let granted: BTreeSet<(String, String)> =
        called().map(|(service, operation)| (service.to_owned(), operation.to_owned())).collect();
    let missing: Vec<_> = called_there.difference(&granted).collect();
    assert!(missing.is_empty(), "called and not granted: add them to GRANTS in src/iam.rs: {missing:?}");
    let idle: Vec<_> = granted.difference(&called_there).collect();
    assert!(idle.is_empty(), "granted and never called: take them from GRANTS in src/iam.rs: {idle:?}");

    let worker = actions(&statements(&everything(), Role::Worker, &[]));
    let needed: BTreeSet<String> = called_there.iter().map(|(service, operation)| iam_action(service, operation)).collect();
    assert!(needed.is_subset(&worker), "{:?}", needed.difference(&worker).collect::<Vec<_>>());
}

#[test]
fn no_statement_reaches_beyond_its_pipeline() {
    let keys = ["arn:aws:kms:eu-west-1:123456789012:key/k".to_owned()];
    for role in ROLES {
        for statement in statements(&everything(), role, &keys) {
            let sid = statement["Sid"].as_str().unwrap();
            assert!(texts(&statement["Action"]).iter().all(|action| !action.contains('*')), "{statement}");
            for resource in texts(&statement["Resource"]) {
                match sid {
                    // Operations without a resource.
                    "MappingFindsStream" | "FindTimestream" => assert_eq!(resource, "*"),
                    "PutMetrics" => {
                        assert_eq!(
                            statement["Condition"]["StringEquals"]["cloudwatch:namespace"],
                            serde_json::json!(["DataPipelines"])
                        );
                    }
                    _ => assert!(
                        [
                            "clicks",
                            "table/sluicebox",
                            ":::lake",
                            ":letters",
                            "database/sluicebox/table/hourly",
                            ":alerts",
                            "key/k",
                            "table/old-fleet"
                        ]
                        .iter()
                        .any(|name| resource.contains(name))
                            && resource.contains("123456789012") != resource.starts_with("arn:aws:s3:::"),
                        "{statement}"
                    ),
                }
            }
            let condition = &statement["Condition"];
            match sid {
                "WriteRows" | "ReadRows" => {
                    assert_eq!(condition["ForAllValues:StringLike"]["dynamodb:LeadingKeys"], serde_json::json!(["clickstream/*"]))
                }
                "ListKeys" => assert_eq!(condition["StringLikeIfExists"]["s3:prefix"], serde_json::json!(["prod/*"])),
                _ => {}
            }
        }
    }
}

#[test]
fn nothing_may_delete_a_table_and_a_reader_may_change_nothing() {
    for role in ROLES {
        for statement in statements(&everything(), role, &[]) {
            if texts(&statement["Action"]).contains(&"s3:DeleteObject".to_owned()) {
                assert!(role != Role::Reader);
                assert_eq!(texts(&statement["Resource"]), ["arn:aws:s3:::lake/prod/state/*", "arn:aws:s3:::lake/prod/probe/*"]);
            }
        }
    }
    let verbs = ["Describe", "List", "Get", "Query"];
    for action in actions(&statements(&everything(), Role::Reader, &[])) {
        let operation = action.split(':').nth(1).unwrap();
        assert!(verbs.iter().any(|verb| operation.starts_with(verb)), "{action}");
    }
    assert!(!actions(&statements(&everything(), Role::Reader, &[])).contains("kinesis:GetRecords"));
}

#[test]
fn what_a_pipeline_does_not_use_is_not_allowed() {
    let polling = Needs { stream: Some("clicks".to_owned()), ..Needs::default() };
    let sids = |needs: &Needs, role| -> Vec<String> {
        statements(needs, role, &[]).iter().map(|statement| statement["Sid"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(sids(&polling, Role::Worker), ["ReadStream"]);
    assert_eq!(sids(&polling, Role::Lambda), ["MappingReadsStream", "MappingFindsStream"]);
    let mut needs = everything();
    needs.store.as_mut().unwrap().create_table = false;
    assert!(!sids(&needs, Role::Worker).contains(&"MakeTable".to_owned()));
    assert!(Policy::least(&Needs::default(), Role::Worker, &account(), &["arn:aws:kms:a:b:key/k".to_owned()]).is_none());
}

#[test]
fn partitions_of_aws_have_their_own_arns() {
    let policy = Policy::least(&everything(), Role::Reader, &Account::new(None, Some("cn-north-1")), &[]);
    let text = serde_json::to_string(&policy.unwrap()).unwrap();
    assert!(text.contains("arn:aws-cn:kinesis:cn-north-1:*:stream/clicks") && text.contains("arn:aws-cn:s3:::lake"), "{text}");
}
