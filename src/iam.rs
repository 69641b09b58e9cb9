//! The least that a role must be allowed for one pipeline file, as an IAM policy.
//!
//! Owns: which operation is called on what and by whom (`GRANTS`), conditions that bind it to one pipeline, the policy's text.
//! Does not own: what a file asks of AWS (iam/needs), what IAM calls an operation (`sluicebox_aws::error::iam_action`).
//!
//! A test reads the adapters and holds the table to the calls that are in them: a new call without a grant fails it.

use std::collections::BTreeMap;

use serde::Serialize;
use sluicebox_aws::error::iam_action;

pub mod needs;

use needs::Store;
pub use needs::{Account, Needs};

/// Who is to be allowed something.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Role {
    /// `run`: reads the stream, writes everything.
    Worker,
    /// `query`, `gold`, `audit`, `dlq`, `shards`: looks and changes nothing.
    Reader,
    /// `lambda`: a worker whose records are handed to it by an event source mapping, which reads under the same role.
    Lambda,
}

/// What an operation is called on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Scope {
    /// The stream.
    Stream,
    /// The stream, where reading is by fan-out.
    FannedStream,
    /// The stream's consumers, where reading is by fan-out.
    Consumers,
    /// The table as a whole.
    Table,
    /// The table as a whole, if it may be made.
    NewTable,
    /// This pipeline's rows in it.
    Rows,
    /// The bucket as a whole.
    Bucket,
    /// Names of this pipeline's keys.
    Names,
    /// Objects of the tables, and whose they are: nothing deletes one.
    Tables,
    /// Objects of the state.
    State,
    /// Queues of dead letters.
    Queues,
    /// Timestream tables.
    Series,
    /// Where Timestream's tables lie: an operation without a resource.
    SeriesEndpoints,
    /// Topics of alerts.
    Topics,
    /// The namespace of metrics: an operation without a resource.
    Metrics,
    /// The names of all streams: an operation without a resource.
    StreamNames,
    /// The lease table of a KCL fleet.
    KclTable,
}

/// One statement: operations of one service on one kind of thing.
struct Grant {
    sid: &'static str,
    service: &'static str,
    operations: &'static [&'static str],
    on: Scope,
    to: &'static [Role],
}

const WORKS: &[Role] = &[Role::Worker, Role::Lambda];
const ALL: &[Role] = &[Role::Worker, Role::Reader, Role::Lambda];

/// Everything that is called, as the APIs write it.
#[rustfmt::skip]
const GRANTS: &[Grant] = &[
    Grant { sid: "ReadStream", service: "kinesis", on: Scope::Stream, to: &[Role::Worker],
        operations: &["DescribeStreamSummary", "ListShards", "GetShardIterator", "GetRecords"] },
    Grant { sid: "RegisterAsConsumer", service: "kinesis", on: Scope::FannedStream, to: &[Role::Worker],
        operations: &["RegisterStreamConsumer"] },
    Grant { sid: "SubscribeToShards", service: "kinesis", on: Scope::Consumers, to: &[Role::Worker],
        operations: &["DescribeStreamConsumer", "SubscribeToShard"] },
    Grant { sid: "LookAtStream", service: "kinesis", on: Scope::Stream, to: &[Role::Reader],
        operations: &["DescribeStreamSummary", "ListShards"] },
    // Called by the event source mapping; it is refused when the role lacks one of them.
    Grant { sid: "MappingReadsStream", service: "kinesis", on: Scope::Stream, to: &[Role::Lambda],
        operations: &["DescribeStream", "DescribeStreamSummary", "ListShards", "GetShardIterator", "GetRecords"] },
    Grant { sid: "MappingFindsStream", service: "kinesis", on: Scope::StreamNames, to: &[Role::Lambda],
        operations: &["ListStreams"] },
    Grant { sid: "CheckTable", service: "dynamodb", on: Scope::Table, to: ALL,
        operations: &["DescribeTable"] },
    Grant { sid: "MakeTable", service: "dynamodb", on: Scope::NewTable, to: WORKS,
        operations: &["CreateTable", "UpdateContinuousBackups", "DescribeContinuousBackups"] },
    Grant { sid: "WriteRows", service: "dynamodb", on: Scope::Rows, to: WORKS,
        operations: &["GetItem", "Query", "PutItem", "UpdateItem", "DeleteItem"] },
    Grant { sid: "ReadRows", service: "dynamodb", on: Scope::Rows, to: &[Role::Reader],
        operations: &["GetItem", "Query"] },
    Grant { sid: "CheckBucket", service: "s3", on: Scope::Bucket, to: WORKS,
        operations: &["GetBucketLifecycleConfiguration", "ListMultipartUploads"] },
    Grant { sid: "ListKeys", service: "s3", on: Scope::Names, to: ALL,
        operations: &["ListObjectsV2"] },
    Grant { sid: "WriteTables", service: "s3", on: Scope::Tables, to: WORKS,
        operations: &["GetObject", "HeadObject", "PutObject", "CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload",
                      "AbortMultipartUpload"] },
    Grant { sid: "ReadTables", service: "s3", on: Scope::Tables, to: &[Role::Reader],
        operations: &["GetObject", "HeadObject"] },
    Grant { sid: "WriteState", service: "s3", on: Scope::State, to: WORKS,
        operations: &["GetObject", "HeadObject", "PutObject", "CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload",
                      "AbortMultipartUpload", "DeleteObject"] },
    Grant { sid: "ReadState", service: "s3", on: Scope::State, to: &[Role::Reader],
        operations: &["GetObject", "HeadObject"] },
    Grant { sid: "TakeOverLeases", service: "dynamodb", on: Scope::KclTable, to: &[Role::Worker],
        operations: &["Scan"] },
    Grant { sid: "SendDeadLetters", service: "sqs", on: Scope::Queues, to: WORKS,
        operations: &["SendMessageBatch"] },
    Grant { sid: "WriteSeries", service: "timestream", on: Scope::Series, to: WORKS,
        operations: &["WriteRecords"] },
    Grant { sid: "FindTimestream", service: "timestream", on: Scope::SeriesEndpoints, to: WORKS,
        operations: &["DescribeEndpoints"] },
    Grant { sid: "SendAlerts", service: "sns", on: Scope::Topics, to: WORKS,
        operations: &["Publish"] },
    Grant { sid: "PutMetrics", service: "cloudwatch", on: Scope::Metrics, to: WORKS,
        operations: &["PutMetricData"] },
];

/// Every (service, operation) that some role is allowed because this program calls it; what only an event source mapping calls
/// is not among them.
pub fn called() -> impl Iterator<Item = (&'static str, &'static str)> {
    let ours = GRANTS.iter().filter(|grant| grant.to != [Role::Lambda]);
    ours.flat_map(|grant| grant.operations.iter().map(|operation| (grant.service, *operation)))
}

/// A policy as IAM reads it.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Policy {
    version: &'static str,
    statement: Vec<Statement>,
}

/// One statement of it.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Statement {
    sid: &'static str,
    effect: &'static str,
    action: Vec<String>,
    resource: Vec<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    condition: Conditions,
}

/// Operator → key → values.
type Conditions = BTreeMap<&'static str, BTreeMap<&'static str, Vec<String>>>;

impl Policy {
    /// The least that `role` needs for `needs`. `keys` are KMS keys that stream, table, bucket or queues are encrypted with.
    /// None if it needs nothing: IAM knows no policy without statements.
    pub fn least(needs: &Needs, role: Role, account: &Account, keys: &[String]) -> Option<Self> {
        let granted = GRANTS.iter().filter(|grant| grant.to.contains(&role));
        let mut statement: Vec<Statement> = granted.filter_map(|grant| allow(grant, needs, account)).collect();
        if !statement.is_empty() && !keys.is_empty() {
            statement.push(use_keys(role, account, keys));
        }
        (!statement.is_empty()).then_some(Self { version: "2012-10-17", statement })
    }
}

fn allow(grant: &Grant, needs: &Needs, account: &Account) -> Option<Statement> {
    let resource = resources(grant.on, needs, account);
    if resource.is_empty() {
        return None;
    }
    let mut action: Vec<String> = Vec::new();
    for action_of in grant.operations.iter().map(|operation| iam_action(grant.service, operation)) {
        if !action.contains(&action_of) {
            action.push(action_of);
        }
    }
    Some(Statement { sid: grant.sid, effect: "Allow", action, resource, condition: conditions(grant.on, needs) })
}

/// The ARNs of a scope; none if the pipeline has no such thing.
fn resources(on: Scope, needs: &Needs, account: &Account) -> Vec<String> {
    let store = |arns: &dyn Fn(&Store) -> Vec<String>| needs.store.as_ref().map(arns).unwrap_or_default();
    let table = |store: &Store| vec![account.arn("dynamodb", &format!("table/{}", store.table))];
    let objects = |objects: &[&str]| {
        store(&|store| objects.iter().map(|object| account.bucket(&format!("{}/{object}", store.root()))).collect())
    };
    let stream = needs.stream.iter().map(|name| account.arn("kinesis", &format!("stream/{name}")));
    let everything = |wanted: bool| if wanted { vec!["*".to_owned()] } else { Vec::new() };
    match on {
        Scope::Stream => stream.collect(),
        Scope::FannedStream => stream.filter(|_| needs.fan_out.is_some()).collect(),
        // The number at the end is the moment of its registration.
        Scope::Consumers => stream.zip(&needs.fan_out).map(|(arn, name)| format!("{arn}/consumer/{name}:*")).collect(),
        Scope::StreamNames => everything(needs.stream.is_some()),
        Scope::Table | Scope::Rows => store(&table),
        Scope::NewTable => store(&|store| if store.create_table { table(store) } else { Vec::new() }),
        Scope::Bucket | Scope::Names => store(&|store| vec![account.bucket(&store.bucket)]),
        Scope::Tables => objects(&needs::TABLES),
        Scope::State => objects(&needs::STATE),
        Scope::Queues => needs.queues.iter().map(|queue| account.queue(queue)).collect(),
        Scope::Series => needs
            .series
            .iter()
            .map(|(base, table)| account.arn("timestream", &format!("database/{base}/table/{table}")))
            .collect(),
        Scope::SeriesEndpoints => everything(!needs.series.is_empty()),
        Scope::Topics => needs.topics.clone(),
        Scope::Metrics => everything(needs.namespace.is_some()),
        Scope::KclTable => needs.kcl_table.iter().map(|name| account.arn("dynamodb", &format!("table/{name}"))).collect(),
    }
}

/// What binds a statement closer than its resource can.
fn conditions(on: Scope, needs: &Needs) -> Conditions {
    let one = |operator, key, values| BTreeMap::from([(operator, BTreeMap::from([(key, values)]))]);
    match (on, &needs.store, &needs.namespace) {
        // Rows of one pipeline share the beginning of their partition keys; Query, too, names one.
        (Scope::Rows, Some(store), _) => {
            one("ForAllValues:StringLike", "dynamodb:LeadingKeys", vec![format!("{}/*", store.pipeline)])
        }
        // IfExists: HEAD of a key that is not there asks for ListBucket without naming a prefix, and must be answered 404.
        (Scope::Names, Some(store), _) => one("StringLikeIfExists", "s3:prefix", vec![format!("{}/*", store.prefix)]),
        (Scope::Metrics, _, Some(namespace)) => one("StringEquals", "cloudwatch:namespace", vec![namespace.clone()]),
        (
            Scope::Rows
            | Scope::Names
            | Scope::Metrics
            | Scope::Stream
            | Scope::FannedStream
            | Scope::Consumers
            | Scope::StreamNames
            | Scope::Table
            | Scope::NewTable
            | Scope::Bucket
            | Scope::Tables
            | Scope::State
            | Scope::Queues
            | Scope::Series
            | Scope::SeriesEndpoints
            | Scope::Topics
            | Scope::KclTable,
            _,
            _,
        ) => Conditions::new(),
    }
}

/// Keys are used by way of the services, never by a call of ours.
fn use_keys(role: Role, account: &Account, keys: &[String]) -> Statement {
    let via = ["kinesis", "dynamodb", "s3", "sqs", "sns", "timestream"];
    let via = via.iter().map(|service| format!("{service}.{}.amazonaws.com", account.region())).collect();
    let action = match role {
        Role::Worker | Role::Lambda => vec!["kms:Decrypt".to_owned(), "kms:GenerateDataKey".to_owned()],
        Role::Reader => vec!["kms:Decrypt".to_owned()],
    };
    let condition = BTreeMap::from([("StringLike", BTreeMap::from([("kms:ViaService", via)]))]);
    Statement { sid: "UseKeys", effect: "Allow", action, resource: keys.to_vec(), condition }
}
