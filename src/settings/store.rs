//! `[store]`: where state and tables lie, and what it takes to share them.
//!
//! Owns: its keys, their defaults and contradictions. Does not own: the stores (topology).

use serde::{Deserialize, Serialize};

use super::check::Findings;
use super::{Interval, Settings, Size, StreamKind};

/// `[store]`
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Store {
    /// Which kind of store.
    pub kind: StoreKind,
    /// Bucket of objects and tables (AWS).
    pub bucket: String,
    /// What all keys start with; empty = the pipeline's name (AWS).
    pub prefix: String,
    /// DynamoDB table of rows and leases (AWS).
    pub table: String,
    /// Make the DynamoDB table if there is none (AWS)?
    pub create_table: bool,
    /// A worker that shows no sign of life for so long counts as gone (AWS).
    pub failover: Interval,
    /// For so long all workers may be down without a file being lost: the bucket's rules must not abort uploads sooner (AWS).
    pub max_downtime: Interval,
    /// A staged file up to this size travels in the epoch object; a larger one is an upload in parts (AWS).
    pub inline: Size,
}

/// A kind of store.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StoreKind {
    /// The data directory: one process runs all shards.
    Disk,
    /// Rows and leases in DynamoDB, objects and tables in S3: workers share the shards.
    Aws,
}

impl Default for Store {
    fn default() -> Self {
        Self {
            kind: StoreKind::Disk,
            bucket: String::new(),
            prefix: String::new(),
            table: "sluicebox".to_owned(),
            create_table: true,
            failover: Interval::from_secs(30),
            max_downtime: Interval::from_secs(3 * 86_400),
            inline: Size::from_mib(1),
        }
    }
}

impl Settings {
    /// What all keys in the bucket start with, without a slash at the end.
    pub fn store_prefix(&self) -> &str {
        let prefix = self.store.prefix.trim_matches('/');
        if prefix.is_empty() { &self.pipeline.name } else { prefix }
    }

    pub(super) fn check_store(&self, findings: &mut Findings) {
        let store = &self.store;
        match store.kind {
            StoreKind::Disk => {
                if !store.bucket.is_empty() {
                    let help = "set store.kind = \"aws\", or remove bucket";
                    findings.add("store.bucket", "tables and state lie in the data directory, and no bucket is used", help);
                }
                return;
            }
            StoreKind::Aws => {}
        }
        if store.bucket.is_empty() {
            findings.add("store.bucket", "objects and tables need a bucket", "write the name of an S3 bucket");
        }
        if self.stream.kind == StreamKind::Embedded {
            let help = "set stream.kind = \"kinesis\" (`sluicebox stream serve` is one for a laptop), or store.kind = \"disk\"";
            findings.add("store.kind", "an embedded stream lies in one data directory: workers can't share it", help);
        }
        findings.name("store.table", &store.table);
        findings.positive("store.failover", store.failover, "30s");
        findings.positive("store.max_downtime", store.max_downtime, "3d");
        if store.inline > Size::from_mib(8) {
            let message = format!("{} in an epoch object, for every file of an epoch", store.inline);
            findings.add("store.inline", message, "write 8MiB or less: larger files are uploaded in parts");
        }
    }
}
