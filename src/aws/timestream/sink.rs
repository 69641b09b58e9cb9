//! Gold in Amazon Timestream for LiveAnalytics.
//!
//! Timestream keeps the record with the highest version per dimensions, time and measure name, so a revision may be written twice
//! and an old one can do no harm. A call may be taken in part: what was rejected is told record by record, and the others are
//! stored.
//!
//! Writes outside the memory store's retention need `EnableMagneticStoreWrites` on the table; then they are asynchronous: their
//! rejections reach nobody but the S3 report that the table names, and a query sees them within six hours. So nothing of ours is
//! ever read back from Timestream.
//!
//! Owns: calls, what each answer means, retries within a revision. Does not own: the records (records), the endpoint (client),
//! when a revision is handed on (machines/feed).

use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_timestreamwrite::operation::write_records::WriteRecordsError;
use aws_sdk_timestreamwrite::types::{Record, RejectedRecord};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use sluicebox_actors::model::fault::{Fault, Result};
use sluicebox_actors::ports::{Fed, GoldRevision, GoldSink};

use super::client::WriteClient;
use super::records::{self, RECORDS_MAX};
use crate::client::AwsRuntime;
use crate::error::{Call, Class, classify, code};
use crate::revision::{self, Progress, Rows};

/// How often one call is made before the revision is given back. Timestream's advice is to go on at the same pace.
const TRIES: u32 = 4;

/// What a sink is made with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TimestreamOptions {
    /// Name in the settings.
    pub name: String,
    /// The database.
    pub database: String,
    /// The table; none = the Gold table's name.
    pub table: Option<String>,
    /// Name of the pipeline: the dimension `sluicebox_pipeline`.
    pub pipeline: String,
    /// Pause before a call is made again; doubles each time. [`PAUSE`] unless a test knows better.
    pub pause: Duration,
}

/// First pause before a call is made again.
pub const PAUSE: Duration = Duration::from_millis(50);

/// A sink of Gold rows.
#[derive(Debug)]
pub struct TimestreamSink {
    client: WriteClient,
    io: AwsRuntime,
    options: TimestreamOptions,
    progress: Progress,
}

/// What is left to send of one call, and what became of the rest.
type Part = Vec<Record>;

impl TimestreamSink {
    /// Calls nobody. A name that Timestream cannot have is a `Config` fault.
    pub fn new(client: WriteClient, io: AwsRuntime, options: TimestreamOptions) -> Result<Self> {
        for (what, name) in [("database", Some(&options.database)), ("table", options.table.as_ref())] {
            let good = name.is_none_or(|name| {
                (3..=256).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
            });
            if !good {
                let name = name.map_or("", String::as_str);
                return Err(Fault::config(format!(
                    "sink {}: {name:?} is no name of a Timestream {what}: 3 to 256 letters, digits, _ . and -",
                    options.name
                )));
            }
        }
        if options.pipeline.is_empty() {
            return Err(Fault::bug("a sink without the name of its pipeline"));
        }
        Ok(Self { client, io, options, progress: Progress::default() })
    }

    fn table<'r>(&'r self, revision: &'r GoldRevision) -> &'r str {
        self.options.table.as_deref().unwrap_or(&revision.table)
    }

    fn fault(&self, revision: &GoldRevision, error: &SdkError<WriteRecordsError, HttpResponse>) -> Fault {
        let resource = format!("arn:aws:timestream:*:*:database/{}/table/{}", self.options.database, self.table(revision));
        Call { service: "timestream", operation: "WriteRecords", resource: &resource }.fault(error)
    }

    /// Writes up to a hundred records until each is stored, there already, or refused for good.
    async fn settle(&self, revision: &GoldRevision, common: &Record, all: Vec<Record>) -> Result<Fed> {
        let (whole, mut fed) = (all.len(), Fed::default());
        let (mut open, mut tries) = (vec![all], 0);
        let mut invalid = None;
        while let Some(mut part) = open.pop() {
            let Err(error) = self.write(revision, common, part.clone()).await? else {
                fed.stored += part.len() as u64;
                continue;
            };
            if let Some(rejected) = rejections(&error) {
                self.count(revision, &mut fed, part.len(), rejected);
                continue;
            }
            match classify(&error) {
                // Sent again as it is: nothing can become true twice.
                Class::Throttled | Class::Unavailable | Class::NoAnswer if tries + 1 < TRIES => {
                    tries += 1;
                    tokio::time::sleep(self.options.pause * (1 << (tries - 1))).await;
                    open.push(part);
                }
                // One record makes the whole call invalid: halves find it.
                Class::Invalid if code(&error).is_some_and(|code| code.contains("Validation")) => {
                    invalid = Some(self.fault(revision, &error));
                    if part.len() > 1 {
                        let half = part.split_off(part.len() / 2);
                        open.extend([half, part]);
                    } else {
                        revision::refuse(&mut fed, "invalid", 1);
                    }
                }
                Class::Throttled
                | Class::Unavailable
                | Class::NoAnswer
                | Class::Denied
                | Class::Unconfigured
                | Class::NotFound
                | Class::Conflict
                | Class::Invalid => return Err(self.fault(revision, &error)),
            }
        }
        let refused: u64 = fed.refused.iter().filter(|(reason, _)| reason == "invalid").map(|(_, count)| count).sum();
        match invalid {
            // Then it is not the records.
            Some(fault) if whole > 1 && refused == whole as u64 => Err(fault),
            Some(_) | None => Ok(fed),
        }
    }

    async fn write(
        &self,
        revision: &GoldRevision,
        common: &Record,
        part: Part,
    ) -> Result<Result<(), SdkError<WriteRecordsError, HttpResponse>>> {
        let client = self.client.ready(&self.io).await?;
        let call = client.write_records().database_name(&self.options.database).table_name(self.table(revision));
        let call = call.common_attributes(common.clone()).set_records(Some(part));
        self.io.run(async move { Ok(call.send().await.map(|_| ())) }).await
    }

    fn count(&self, revision: &GoldRevision, fed: &mut Fed, sent: usize, rejected: &[RejectedRecord]) {
        let mut out = 0;
        for record in rejected.iter().filter(|record| usize::try_from(record.record_index()).is_ok_and(|at| at < sent)) {
            out += 1;
            match record.existing_version() {
                Some(existing) => {
                    fed.newer += 1;
                    if existing.cast_unsigned() == revision.version {
                        tracing::error!(
                            alert = "sink_conflict",
                            sink = self.options.name,
                            table = %revision.table,
                            start_us = revision.window.start_us,
                            version = revision.version,
                            "Timestream has other values under the same version"
                        );
                    }
                }
                None => revision::refuse(fed, reason(record.reason().unwrap_or_default()), 1),
            }
        }
        fed.stored += sent.saturating_sub(out) as u64;
    }
}

#[async_trait]
impl GoldSink for TimestreamSink {
    fn name(&self) -> &str {
        &self.options.name
    }

    async fn feed(&self, revision: &GoldRevision) -> Result<Fed> {
        let rows = Rows::of(revision)?;
        records::check(&rows, revision)?;
        let common = records::common(revision, &self.options.pipeline)?;
        let (mut next, mut fed) = self.progress.resume(revision);
        while next < rows.len() {
            let end = rows.len().min(next + RECORDS_MAX);
            let (mut part, mut done) = (Vec::with_capacity(end - next), Fed::default());
            for at in next..end {
                match records::record(&rows.row(at), revision)? {
                    Ok(record) => part.push(record),
                    Err(reason) => revision::refuse(&mut done, reason, 1),
                }
            }
            if !part.is_empty() {
                match self.settle(revision, &common, part).await {
                    Ok(settled) => revision::add(&mut done, settled),
                    Err(fault) => {
                        self.progress.keep(revision, next, fed);
                        return Err(fault);
                    }
                }
            }
            revision::add(&mut fed, done);
            next = end;
        }
        Ok(fed)
    }
}

fn rejections(error: &SdkError<WriteRecordsError, HttpResponse>) -> Option<&[RejectedRecord]> {
    match error.as_service_error() {
        Some(WriteRecordsError::RejectedRecordsException(rejected)) => Some(rejected.rejected_records()),
        Some(_) | None => None,
    }
}

/// A reason of the service's as a code. Its own words may repeat what the record holds, so nobody is shown them.
fn reason(words: &str) -> &'static str {
    let words = words.to_ascii_lowercase();
    let has = |sign: &str| words.contains(sign);
    if has("memory store") || has("retention") || has("time range") || has("ingestion") {
        "outside_retention"
    } else if has("type") {
        "type_conflict"
    } else if has("limit") || has("exceed") || has("size") {
        "over_a_limit"
    } else if has("dimension") {
        "dimension"
    } else {
        "rejected"
    }
}
