//! Shard, window and sink rows, and small documents, in one DynamoDB table under compare-and-set.
//!
//! Owns: the kinds of rows of one pipeline (`<pipeline>/shard`, `<pipeline>/window/<table>`, `<pipeline>/doc/<kind>`), the
//! fence of each write. Does not own: attributes (item), the table (table), what a row says (model/row), when it changes
//! (machines).
//!
//! A fault of a conditional write with kind `Retry` means: unknown, read the row. Nothing is repeated here.

use async_trait::async_trait;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::AttributeValue;
use sluicebox_actors::model::fault::{Fault, Kind, Result};
use sluicebox_actors::model::feed::FeedRow;
use sluicebox_actors::model::position::ShardId;
use sluicebox_actors::model::row::{Fence, Lease, ShardRow, WindowRow};
use sluicebox_actors::ports::{Cas, Leases, Rows};

use crate::client::AwsRuntime;

use super::expression::{Change, Condition, count};
use super::item::{self, EPOCH, FORMAT, HEARTBEAT, LEASE_EPOCH, VERSION, WANTED_BY};
use super::table::{Item, LEASE_KEY, Table, Wrote, keys};

/// Documents that are leases.
const LEASE: &str = "lease";

/// The rows of one pipeline. Cheap to clone.
#[derive(Clone, Debug)]
pub struct DynamoRows {
    table: Table,
    pipeline: String,
}

/// A small JSON document under a version.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Document {
    /// Its key among its kind.
    pub key: String,
    /// 1 when it was made, one more with every update.
    pub version: u64,
    /// The text.
    pub json: String,
}

/// What became of a document's conditional write.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Written {
    /// Written now.
    Won,
    /// Exactly this is stored already: an earlier try of ours was applied, and its answer was lost.
    Already,
    /// Something else is stored (none: nothing is); nothing was changed.
    Lost(Option<Document>),
}

impl DynamoRows {
    /// Rows of `pipeline` in `table`. Calls nobody.
    pub fn new(client: &Client, io: AwsRuntime, table: &str, pipeline: &str) -> Result<Self> {
        if pipeline.is_empty() || pipeline.contains('/') {
            return Err(Fault::config(format!("the pipeline's name {pipeline:?} is empty or has a slash: rename it")));
        }
        Ok(Self { table: Table::new(client, io, table), pipeline: pipeline.to_owned() })
    }

    /// Makes the table if it is missing (billed per request, with point-in-time recovery if wanted) and waits for it. A table
    /// with other keys is a `Config` fault.
    pub async fn create_if_missing(&self, point_in_time_recovery: bool) -> Result<()> {
        self.table.create_if_missing(point_in_time_recovery).await
    }

    /// The table is there and has our keys; else a `Config` fault.
    pub async fn check(&self) -> Result<()> {
        self.table.check().await
    }

    /// One document of a kind.
    pub async fn document(&self, kind: &str, key: &str) -> Result<Option<Document>> {
        self.table.get(&self.document_pk(kind), key).await?.as_ref().map(document).transpose()
    }

    /// All documents of a kind, by key.
    pub async fn documents(&self, kind: &str) -> Result<Vec<Document>> {
        self.table.query(&self.document_pk(kind)).await?.iter().map(document).collect()
    }

    /// Stores a document only if there is none under this key; its version is 1.
    pub async fn put_if_absent(&self, kind: &str, key: &str, json: &str) -> Result<Written> {
        self.put_document(kind, key, 1, json, Condition::Absent).await
    }

    /// Replaces a document only if its version is this one; it becomes one more.
    pub async fn update_if(&self, kind: &str, key: &str, version: u64, json: &str) -> Result<Written> {
        self.put_document(kind, key, version + 1, json, Condition::Numbers(&[(VERSION, version)])).await
    }

    /// Deletes a document only if its version is this one. `Already`: there is none.
    pub async fn delete_if(&self, kind: &str, key: &str, version: u64) -> Result<Written> {
        let condition = Condition::Numbers(&[(VERSION, version)]);
        match self.table.delete(&self.document_pk(kind), key, condition).await? {
            Wrote::Done(_) => Ok(Written::Won),
            Wrote::Refused(None) => Ok(Written::Already),
            Wrote::Refused(Some(item)) => Ok(Written::Lost(Some(document(&item)?))),
        }
    }

    async fn put_document(&self, kind: &str, key: &str, version: u64, json: &str, when: Condition<'_>) -> Result<Written> {
        let mut item = keys(&self.document_pk(kind), key);
        item.insert("format".into(), count(FORMAT));
        item.insert(VERSION.into(), count(version));
        item.insert("json".into(), AttributeValue::S(json.to_owned()));
        let stored = match self.table.put(item, when).await? {
            Wrote::Done(_) => return Ok(Written::Won),
            Wrote::Refused(stored) => stored.as_ref().map(document).transpose()?,
        };
        let already = stored.as_ref().is_some_and(|stored| stored.version == version && stored.json == json);
        Ok(if already { Written::Already } else { Written::Lost(stored) })
    }

    fn shard_pk(&self) -> String {
        format!("{}/shard", self.pipeline)
    }

    fn window_pk(&self, table: &str) -> String {
        format!("{}/window/{table}", self.pipeline)
    }

    fn document_pk(&self, kind: &str) -> String {
        format!("{}/doc/{kind}", self.pipeline)
    }
}

fn document(item: &Item) -> Result<Document> {
    let text = |name: &str| item.get(name).and_then(|value| value.as_s().ok()).cloned();
    let version = item.get(VERSION).and_then(|value| value.as_n().ok()).and_then(|version| version.parse().ok());
    match (text(LEASE_KEY), version, text("json")) {
        (Some(key), Some(version), Some(json)) => Ok(Document { key, version, json }),
        (key, _, _) => Err(Fault::corrupt(format!("the DynamoDB document {} is damaged", key.unwrap_or_default()))),
    }
}

fn cas(wrote: &Wrote) -> Cas {
    match wrote {
        Wrote::Done(_) => Cas::Won,
        Wrote::Refused(_) => Cas::Lost,
    }
}

#[async_trait]
impl Rows for DynamoRows {
    async fn shards(&self) -> Result<Vec<ShardRow>> {
        self.table.query(&self.shard_pk()).await?.iter().map(item::shard_row).collect()
    }

    async fn shard(&self, shard: &ShardId) -> Result<Option<ShardRow>> {
        self.table.get(&self.shard_pk(), shard.as_str()).await?.as_ref().map(item::shard_row).transpose()
    }

    async fn create_shard(&self, row: &ShardRow) -> Result<Cas> {
        let item = item::shard_item(&self.shard_pk(), row)?;
        Ok(cas(&self.table.put(item, Condition::Absent).await?))
    }

    async fn update_shard(&self, expected: Fence, row: &ShardRow) -> Result<Cas> {
        if row.lease_epoch < expected.lease_epoch || row.epoch < expected.epoch {
            return Err(Fault::bug("the fence of a shard row never falls"));
        }
        let mut change = item::shard_change(row)?;
        if row.epoch > expected.epoch {
            // Somebody may have asked for the shard since the owner read its row: a commit does not answer that.
            change.leave(WANTED_BY);
        }
        item::count_owners(&mut change, row.epoch > expected.epoch, row.lease_epoch > expected.lease_epoch);
        let fence = [(LEASE_EPOCH, expected.lease_epoch), (EPOCH, expected.epoch)];
        Ok(cas(&self.table.update(&self.shard_pk(), row.shard.as_str(), change, Condition::Numbers(&fence)).await?))
    }

    async fn windows(&self, table: &str) -> Result<Vec<WindowRow>> {
        self.table.query(&self.window_pk(table)).await?.iter().map(item::window_row).collect()
    }

    async fn window(&self, table: &str, start_us: i64) -> Result<Option<WindowRow>> {
        let key = item::window_key(start_us);
        self.table.get(&self.window_pk(table), &key).await?.as_ref().map(item::window_row).transpose()
    }

    async fn update_window(&self, expected_version: u64, row: &WindowRow) -> Result<Cas> {
        if row.version <= expected_version {
            return Err(Fault::bug("every update of a window row raises its version"));
        }
        let version = [(VERSION, expected_version)];
        let condition = if expected_version == 0 { Condition::Absent } else { Condition::Numbers(&version) };
        let item = item::window_item(&self.window_pk(&row.table), row)?;
        Ok(cas(&self.table.put(item, condition).await?))
    }

    async fn feeds(&self, sink: &str) -> Result<Vec<FeedRow>> {
        self.documents(&feed_kind(sink)).await?.iter().map(feed).collect()
    }

    async fn feed(&self, sink: &str, key: &str) -> Result<Option<FeedRow>> {
        self.document(&feed_kind(sink), key).await?.as_ref().map(feed).transpose()
    }

    async fn update_feed(&self, expected_version: u64, row: &FeedRow) -> Result<Cas> {
        if row.version != expected_version + 1 {
            return Err(Fault::bug("every update of a sink's row raises its version by one"));
        }
        let (kind, key) = (feed_kind(&row.sink), row.key());
        let json = serde_json::to_string(row).map_err(|error| Fault::caused(Kind::Bug, "writing a sink's row", &error))?;
        let written = match expected_version {
            0 => self.put_if_absent(&kind, &key, &json).await?,
            version => self.update_if(&kind, &key, version, &json).await?,
        };
        Ok(match written {
            Written::Won | Written::Already => Cas::Won,
            Written::Lost(_) => Cas::Lost,
        })
    }
}

fn feed_kind(sink: &str) -> String {
    format!("feed/{sink}")
}

fn feed(document: &Document) -> Result<FeedRow> {
    let damaged = |error| Fault::caused(Kind::Corrupt, format!("the DynamoDB document {} is damaged", document.key), &error);
    let row: FeedRow = serde_json::from_str(&document.json).map_err(damaged)?;
    match row.version == document.version && row.key() == document.key {
        true => Ok(row),
        false => Err(Fault::corrupt(format!("the row {} of a sink contradicts its key or its version", document.key))),
    }
}

#[async_trait]
impl Leases for DynamoRows {
    // Done twice is done once.
    async fn beat(&self, shard: &ShardId, lease_epoch: u64, heartbeat: u64) -> Result<Option<ShardRow>> {
        let change = Change { set: vec![(HEARTBEAT, count(heartbeat))], ..Change::default() };
        let condition = Condition::Numbers(&[(LEASE_EPOCH, lease_epoch)]);
        match self.table.update(&self.shard_pk(), shard.as_str(), change, condition).await? {
            Wrote::Done(item) => item.as_ref().map(item::shard_row).transpose(),
            Wrote::Refused(_) => Ok(None),
        }
    }

    async fn want(&self, shard: &ShardId, lease_epoch: u64, wanted_by: &str) -> Result<Cas> {
        let mut change = Change::default();
        match wanted_by {
            "" => change.remove.push(WANTED_BY),
            name => change.set.push((WANTED_BY, AttributeValue::S(name.to_owned()))),
        }
        let condition = Condition::Numbers(&[(LEASE_EPOCH, lease_epoch)]);
        Ok(cas(&self.table.update(&self.shard_pk(), shard.as_str(), change, condition).await?))
    }

    async fn lease(&self, name: &str) -> Result<Option<Lease>> {
        self.document(LEASE, name).await?.as_ref().map(lease).transpose()
    }

    async fn update_lease(&self, expected: Option<&Lease>, new: &Lease) -> Result<Cas> {
        let json = serde_json::to_string(new).map_err(|error| Fault::caused(Kind::Bug, "writing a lease", &error))?;
        let written = match expected {
            None => self.put_if_absent(LEASE, &new.name, &json).await?,
            Some(expected) => match self.document(LEASE, &new.name).await? {
                Some(stored) if lease(&stored)? == *expected => self.update_if(LEASE, &new.name, stored.version, &json).await?,
                Some(_) | None => return Ok(Cas::Lost),
            },
        };
        Ok(match written {
            Written::Won | Written::Already => Cas::Won,
            Written::Lost(_) => Cas::Lost,
        })
    }
}

fn lease(document: &Document) -> Result<Lease> {
    let damaged =
        |error| Fault::caused(Kind::Corrupt, format!("the DynamoDB document {LEASE}/{} is damaged", document.key), &error);
    serde_json::from_str(&document.json).map_err(damaged)
}

#[cfg(test)]
mod tests;
