//! The lease table of a fleet of the Kinesis Client Library, 1 to 3: read, never written.
//!
//! An item is a lease: `leaseKey` (the shard; with the stream before it where one application reads several), `checkpoint` (a
//! sequence number, `TRIM_HORIZON`, `LATEST`, `AT_TIMESTAMP`, `SHARD_END`), `checkpointSubSequenceNumber` (the place in a KPL
//! aggregate), `leaseOwner`, `leaseCounter` (rises as long as the owner lives), `parentShardId`, `childShardIds`,
//! `startingHashKey`, `endingHashKey`. From 3.5 on other things lie beside them, with an `entityType` that is not `LEASE`.
//! `pendingCheckpoint` is what an application was about to do; it was not done, and is not read.
//!
//! Owns: items into leases, refusals of what is no lease of one stream. Does not own: what they mean for us (plan), the calls
//! (table).

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::AttributeValue;
use sluicebox_actors::model::fault::{Fault, Result};
use sluicebox_actors::model::position::{Sequence, ShardId};

use crate::client::AwsRuntime;

use super::table::{Item, LEASE_KEY, Table};

pub mod plan;

/// Up to where a shard was processed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Checkpoint {
    /// Not begun: with the oldest record.
    Horizon,
    /// Not begun: with what came after a moment that the table does not tell.
    Latest,
    /// Not begun: at a time that the table does not tell.
    Timestamp,
    /// Up to and including this record; of an aggregate, up to and including this part.
    After(Sequence, u64),
    /// To its end.
    End,
}

/// A lease.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KclLease {
    /// Shard.
    pub shard: ShardId,
    /// How far it is.
    pub checkpoint: Checkpoint,
    /// Shards it came from.
    pub parents: Vec<ShardId>,
    /// Shards that came out of it, once its end was seen.
    pub children: Vec<ShardId>,
    /// First and last hash key; older libraries don't write them.
    pub range: Option<(u128, u128)>,
    /// Who has it; none if it was let go.
    pub owner: Option<String>,
    /// Life sign.
    pub counter: u64,
}

/// All leases of a table, by shard.
pub(crate) async fn leases(client: &Client, io: AwsRuntime, table: &str) -> Result<Vec<KclLease>> {
    let items = Table::new(client, io, table).scan().await?;
    let mut leases = Vec::new();
    for item in items.iter().filter(|item| is_lease(item)) {
        leases.push(lease(table, item)?);
    }
    leases.sort_by(|a, b| a.shard.cmp(&b.shard));
    Ok(leases)
}

/// Does somebody work with these leases? `before` was read a while earlier, long enough for every living owner to have shown a
/// sign of life.
pub fn alive<'a>(before: &[KclLease], now: &'a [KclLease]) -> Vec<&'a KclLease> {
    let moved = |lease: &&KclLease| before.iter().all(|old| old != *lease);
    now.iter().filter(moved).collect()
}

fn is_lease(item: &Item) -> bool {
    item.get("entityType").is_none_or(|kind| kind.as_s().is_ok_and(|kind| kind == "LEASE"))
}

fn lease(table: &str, item: &Item) -> Result<KclLease> {
    let key = text(item, LEASE_KEY).unwrap_or_default();
    if key.contains(':') {
        return Err(Fault::config(format!(
            "{table} is the lease table of an application that reads several streams ({key}): only the table of an application \
             with one stream can be taken over; copy the leases of the one stream into a table of their own, with the shards' \
             names as leaseKey"
        )));
    }
    let bad = |name: &str| {
        Fault::config(format!(
            "{table}: the item {key:?} has no readable {name}: it is no lease of the Kinesis Client Library. Name the table of \
             leases (its name is the application's name)"
        ))
    };
    if !key.starts_with("shardId-") {
        return Err(bad(LEASE_KEY));
    }
    let sub = number(item, "checkpointSubSequenceNumber").unwrap_or(0);
    let checkpoint = match text(item, "checkpoint").ok_or_else(|| bad("checkpoint"))? {
        "TRIM_HORIZON" => Checkpoint::Horizon,
        "LATEST" => Checkpoint::Latest,
        "AT_TIMESTAMP" => Checkpoint::Timestamp,
        "SHARD_END" => Checkpoint::End,
        sequence => Checkpoint::After(sequence.parse().map_err(|_| bad("checkpoint"))?, sub),
    };
    let hash_key = |name: &str| match text(item, name) {
        Some(digits) => digits.parse::<u128>().map(Some).map_err(|_| bad(name)),
        None => Ok(None),
    };
    Ok(KclLease {
        shard: ShardId::new(key),
        checkpoint,
        parents: shards(item, "parentShardId"),
        children: shards(item, "childShardIds"),
        range: hash_key("startingHashKey")?.zip(hash_key("endingHashKey")?),
        owner: text(item, "leaseOwner").map(str::to_owned),
        counter: number(item, "leaseCounter").unwrap_or(0),
    })
}

fn text<'a>(item: &'a Item, name: &str) -> Option<&'a str> {
    item.get(name).and_then(|value| value.as_s().ok()).map(String::as_str)
}

fn number(item: &Item, name: &str) -> Option<u64> {
    item.get(name).and_then(|value| value.as_n().ok()).and_then(|number| number.parse().ok())
}

fn shards(item: &Item, name: &str) -> Vec<ShardId> {
    let names = item.get(name).and_then(|value: &AttributeValue| value.as_ss().ok());
    let mut shards: Vec<ShardId> = names.into_iter().flatten().map(|name| ShardId::new(name.as_str())).collect();
    shards.sort();
    shards
}

#[cfg(test)]
mod tests;
