//! What a pipeline file asks of AWS, by name; and the account in which these names stand.
//!
//! Owns: which settings name which thing of AWS, the folders below a prefix, ARNs. Does not own: what is done to these things
//! (iam).

use serde_json::Value;

use crate::settings::{Settings, StoreKind, StreamKind};

/// Folders of tables below the prefix. Their objects are written once (a Gold object is replaced), never deleted.
pub const TABLES: [&str; 6] = ["bronze", "silver", "gold", "gold_windows", "ledger", "dlq"];

/// Folders of state below the prefix: epoch objects, contents and bases are deleted when they are collected, and so is the
/// object that tries whether the bucket keeps conditions.
pub const STATE: [&str; 2] = ["state", "probe"];

/// The things of AWS that one pipeline works with.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Needs {
    /// Name of the stream.
    pub stream: Option<String>,
    /// Is it read by fan-out?
    pub fan_out: bool,
    /// Table and bucket.
    pub store: Option<Store>,
    /// Queues of dead letters: URL or ARN.
    pub queues: Vec<String>,
    /// Timestream (database, table).
    pub series: Vec<(String, String)>,
    /// Topics of alerts, as ARNs.
    pub topics: Vec<String>,
    /// Namespace of metrics.
    pub namespace: Option<String>,
}

/// Where state and tables lie.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Store {
    /// DynamoDB table.
    pub table: String,
    /// May it be made?
    pub create_table: bool,
    /// What the partition keys of the pipeline's rows start with.
    pub pipeline: String,
    /// S3 bucket.
    pub bucket: String,
    /// What all keys start with, without a slash at the end.
    pub prefix: String,
}

impl Store {
    /// Bucket and prefix as one path.
    pub(super) fn root(&self) -> String {
        format!("{}/{}", self.bucket, self.prefix)
    }
}

impl Needs {
    /// Everything that the settings name.
    pub fn of(settings: &Settings) -> Self {
        let stream = match settings.stream.kind {
            StreamKind::Kinesis => Some(settings.stream.name.clone()),
            StreamKind::Embedded => None,
        };
        let store = match settings.store.kind {
            StoreKind::Disk => None,
            StoreKind::Aws => Some(Store {
                table: settings.store.table.clone(),
                create_table: settings.store.create_table,
                pipeline: settings.pipeline.name.clone(),
                bucket: settings.store.bucket.clone(),
                prefix: settings.store_prefix().to_owned(),
            }),
        };
        Self { stream, store, ..Self::around(&serde_json::to_value(settings).unwrap_or_default()) }
    }

    /// The optional parts, by their keys and not by their types: what a build lacks is not asked for.
    fn around(settings: &Value) -> Self {
        let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        let at = |pointer: &str| settings.pointer(pointer).and_then(text);
        let sinks = || settings.get("sink").and_then(Value::as_array).into_iter().flatten();
        let of_kind = |kind: &'static str| sinks().filter(move |sink| sink.get("kind").and_then(Value::as_str) == Some(kind));
        let member = |sink: &Value, key: &str| sink.get(key).and_then(text);
        Self {
            fan_out: settings.pointer("/stream/fan_out").is_some_and(|value| *value == true || text(value).is_some()),
            queues: of_kind("sqs").filter_map(|sink| member(sink, "queue")).collect(),
            series: of_kind("timestream").filter_map(|sink| member(sink, "database").zip(member(sink, "table"))).collect(),
            topics: at("/alerts/sns_topic").into_iter().collect(),
            namespace: at("/metrics/cloudwatch"),
            ..Self::default()
        }
    }
}

/// Whose things they are; what is not known is `*`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Account {
    number: String,
    region: String,
}

impl Account {
    /// An account by its number, in a region.
    pub fn new(number: Option<&str>, region: Option<&str>) -> Self {
        let known = |text: Option<&str>| text.unwrap_or("*").to_owned();
        Self { number: known(number), region: known(region) }
    }

    pub(super) fn region(&self) -> &str {
        &self.region
    }

    fn partition(&self) -> &'static str {
        match self.region.as_str() {
            region if region.starts_with("cn-") => "aws-cn",
            region if region.starts_with("us-gov-") => "aws-us-gov",
            _ => "aws",
        }
    }

    pub(super) fn arn(&self, service: &str, resource: &str) -> String {
        format!("arn:{}:{service}:{}:{}:{resource}", self.partition(), self.region, self.number)
    }

    pub(super) fn bucket(&self, path: &str) -> String {
        format!("arn:{}:s3:::{path}", self.partition())
    }

    /// A queue's ARN from its URL, `https://sqs.<region>.amazonaws.com/<account>/<name>`, or as it is.
    pub(super) fn queue(&self, queue: &str) -> String {
        let mut parts = queue.rsplit('/');
        match (queue.starts_with("http"), parts.next(), parts.next(), parts.next()) {
            (true, Some(name), Some(number), Some(host)) => {
                let region = host.strip_prefix("sqs.").and_then(|rest| rest.split('.').next()).unwrap_or(&self.region);
                let account = Self { number: number.to_owned(), region: region.to_owned() };
                account.arn("sqs", name)
            }
            _ if queue.starts_with("arn:") => queue.to_owned(),
            _ => self.arn("sqs", queue),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_optional_parts_are_found_by_their_keys() {
        let needs = Needs::around(&json!({
            "stream": { "fan_out": true },
            "sink": [
                { "kind": "sqs", "queue": "https://sqs.eu-west-1.amazonaws.com/123456789012/letters" },
                { "kind": "timestream", "database": "sluicebox", "table": "hourly" },
                { "kind": "influx", "url": "http://127.0.0.1" },
            ],
            "alerts": { "sns_topic": "arn:aws:sns:eu-west-1:123456789012:alerts", "webhook": "" },
            "metrics": { "cloudwatch": "Sluicebox" },
        }));
        assert!(needs.fan_out);
        assert_eq!(needs.queues.len(), 1);
        assert_eq!(needs.series, [("sluicebox".to_owned(), "hourly".to_owned())]);
        assert_eq!(needs.topics, ["arn:aws:sns:eu-west-1:123456789012:alerts"]);
        assert_eq!(needs.namespace.as_deref(), Some("Sluicebox"));
        assert_eq!(Needs::around(&json!({ "stream": { "fan_out": false }, "metrics": { "cloudwatch": "" } })), Needs::default());
    }

    #[test]
    fn a_queue_is_named_by_url_arn_or_name() {
        let account = Account::new(None, Some("cn-north-1"));
        let url = "https://sqs.eu-west-1.amazonaws.com/123456789012/letters";
        assert_eq!(account.queue(url), "arn:aws:sqs:eu-west-1:123456789012:letters");
        assert_eq!(account.queue("http://localhost:4566/000000000000/q"), "arn:aws-cn:sqs:cn-north-1:000000000000:q");
        assert_eq!(account.queue("arn:aws:sqs:a:b:c"), "arn:aws:sqs:a:b:c");
        assert_eq!(account.queue("letters"), "arn:aws-cn:sqs:cn-north-1:*:letters");
    }
}
