//! What a pipeline file asks of AWS, by name; and the account in which these names stand.
//!
//! Owns: which settings name which thing of AWS, the folders below a prefix, ARNs. Does not own: what is done to these things
//! (iam).

use serde_json::Value;

use crate::settings::{Settings, StoreKind, StreamKind};

/// Objects of the tables below the prefix, and the one that says whose they are. They are written once (a Gold object is
/// replaced), never deleted.
pub const TABLES: [&str; 7] = ["bronze/*", "silver/*", "gold/*", "gold_windows/*", "ledger/*", "dlq/*", ".sluicebox.json"];

/// Objects of the state below the prefix: epoch objects, contents and bases are deleted when they are collected, and so is the
/// object that tries whether the bucket keeps conditions.
pub const STATE: [&str; 2] = ["state/*", "probe/*"];

/// The things of AWS that one pipeline works with.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Needs {
    /// Name of the stream.
    pub stream: Option<String>,
    /// Name of the consumer that reads it by fan-out; none = polling.
    pub fan_out: Option<String>,
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
    /// Lease table of a KCL fleet that is taken over from; no setting names it.
    pub kcl_table: Option<String>,
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
        let list = |key: &str| settings.get(key).and_then(Value::as_array).into_iter().flatten();
        let sinks = |kind: &'static str| list("sink").filter(move |sink| sink.get("kind").and_then(Value::as_str) == Some(kind));
        let member = |table: &Value, key: &str| table.get(key).and_then(text);
        // Without a table of its own, every Gold table goes to one of its name.
        let tables = |sink: &Value| match member(sink, "table") {
            Some(table) => vec![table],
            None => list("gold").filter_map(|gold| member(gold, "name")).collect(),
        };
        let series = |sink: &Value| {
            let base = member(sink, "database").unwrap_or_default();
            tables(sink).into_iter().map(move |table| (base.clone(), table)).collect::<Vec<_>>()
        };
        let metrics_on = settings.pointer("/metrics/cloudwatch") == Some(&Value::Bool(true));
        Self {
            fan_out: at("/stream/fan_out"),
            queues: sinks("sqs").filter_map(|sink| member(sink, "queue_url").or_else(|| member(sink, "queue"))).collect(),
            series: sinks("timestream").flat_map(series).collect(),
            topics: at("/alerts/sns_topic").into_iter().collect(),
            namespace: at("/metrics/namespace").filter(|_| metrics_on),
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
            "stream": { "fan_out": "sluicebox" },
            "gold": [{ "name": "hourly" }, { "name": "daily" }],
            "sink": [
                { "kind": "sqs", "queue_url": "https://sqs.eu-west-1.amazonaws.com/123456789012/letters" },
                { "kind": "timestream", "database": "lake" },
                { "kind": "timestream", "database": "lake", "table": "both" },
                { "kind": "influx", "url": "http://127.0.0.1" },
            ],
            "alerts": { "sns_topic": "arn:aws:sns:eu-west-1:123456789012:alerts", "webhook": "" },
            "metrics": { "cloudwatch": true, "namespace": "DataPipelines" },
        }));
        assert_eq!((needs.fan_out.as_deref(), needs.queues.len()), (Some("sluicebox"), 1));
        assert_eq!(needs.series, ["hourly", "daily", "both"].map(|table| ("lake".to_owned(), table.to_owned())));
        assert_eq!(needs.topics, ["arn:aws:sns:eu-west-1:123456789012:alerts"]);
        assert_eq!(needs.namespace.as_deref(), Some("DataPipelines"));
        let off = json!({ "stream": { "fan_out": "" }, "metrics": { "cloudwatch": false, "namespace": "DataPipelines" } });
        assert_eq!(Needs::around(&off), Needs::default());
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
