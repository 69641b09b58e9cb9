//! Streams and their shards: create, delete, split, merge, retention, sizes.
//!
//! Owns: the checks Kinesis makes before such a change. Does not own: the change itself (embedded), listings (list).

use serde_json::json;
use sluicebox_actors::model::position::ShardId;
use sluicebox_actors::ports::ShardInfo;

use crate::catalog::even_ranges;
use crate::embedded::SHARDS_MAX;

use super::Shared;
use super::error::{Answer, ApiError};
use super::streams::Entry;
use super::wire::{Request, bounded, hash_key, missing, required};

const RETENTION_MAX_HOURS: i64 = 8760;

const NOTHING: &[u8] = b"{}";

/// CreateStream. Without a shard count it has 4 shards, as an on-demand stream starts with.
pub(super) fn create_stream(shared: &Shared, request: &Request) -> Answer<Vec<u8>> {
    let name = required::<str>(&request.stream_name, "streamName")?;
    let shards = bounded(request.shard_count, "shardCount", 4, SHARDS_MAX as i64)?;
    let record_kib = request.max_record_kib.map(record_kib).transpose()?;
    let entry = shared.streams.create(name, shards)?;
    if let Some(record_kib) = record_kib {
        entry.change(|notes| {
            notes.record_kib = record_kib;
            Ok(())
        })?;
    }
    Ok(NOTHING.to_vec())
}

/// DeleteStream.
pub(super) fn delete_stream(shared: &Shared, request: &Request) -> Answer<Vec<u8>> {
    let entry = shared.streams.named(request)?;
    if !entry.notes().consumers.is_empty() && request.enforce_consumer_deletion != Some(true) {
        return Err(ApiError::in_use(format!(
            "Stream {} has consumers: deregister them, or set EnforceConsumerDeletion",
            entry.name
        )));
    }
    shared.streams.delete(&entry)?;
    Ok(NOTHING.to_vec())
}

/// SplitShard.
pub(super) fn split_shard(shared: &Shared, request: &Request) -> Answer<Vec<u8>> {
    let entry = shared.streams.named(request)?;
    let shard = open_shard(&entry, required(&request.shard_to_split, "shardToSplit")?)?;
    let at = hash_key(required(&request.new_starting_hash_key, "newStartingHashKey")?, "newStartingHashKey")?;
    split(shared, &entry, &shard.shard, at)?;
    Ok(NOTHING.to_vec())
}

/// MergeShards.
pub(super) fn merge_shards(shared: &Shared, request: &Request) -> Answer<Vec<u8>> {
    let entry = shared.streams.named(request)?;
    let one = open_shard(&entry, required(&request.shard_to_merge, "shardToMerge")?)?;
    let other = open_shard(&entry, required(&request.adjacent_shard_to_merge, "adjacentShardToMerge")?)?;
    merge(shared, &entry, &one.shard, &other.shard)?;
    Ok(NOTHING.to_vec())
}

fn split(shared: &Shared, entry: &Entry, shard: &ShardId, at: u128) -> Answer<()> {
    let children = entry.stream.split(shard, at)?;
    note(shared, entry, children)
}

fn merge(shared: &Shared, entry: &Entry, one: &ShardId, other: &ShardId) -> Answer<()> {
    let child = entry.stream.merge(one, other)?;
    note(shared, entry, vec![child])
}

fn note(shared: &Shared, entry: &Entry, children: Vec<ShardId>) -> Answer<()> {
    let now_us = shared.clock.now_us();
    let noted = entry.change(|notes| {
        notes.resharded.extend(children.into_iter().map(|child| (child, now_us)));
        Ok(())
    });
    // The consumers at the end of a parent are to hear of it now.
    entry.puts.send_modify(|puts| *puts = puts.wrapping_add(1));
    noted
}

fn open_shard(entry: &Entry, shard: &str) -> Answer<ShardInfo> {
    let info = entry.shard(shard)?;
    if info.closed {
        return Err(ApiError::in_use(format!(
            "Shard {shard} in stream {} has already been merged or split, and thus is not eligible for merging or splitting.",
            entry.name
        )));
    }
    Ok(info)
}

/// UpdateShardCount: splits where a boundary is missing, then merges what lies between two boundaries.
pub(super) fn update_shard_count(shared: &Shared, request: &Request) -> Answer<Vec<u8>> {
    let entry = shared.streams.named(request)?;
    let target = request.target_shard_count.ok_or_else(|| missing("targetShardCount"))?;
    let target = bounded(Some(target), "targetShardCount", 1, SHARDS_MAX as i64)?;
    let open = open_shards(&entry)?;
    let current = open.len();
    if target > current * 2 || target * 2 < current {
        return Err(ApiError::limit(format!(
            "UpdateShardCount goes from {current} shards to {} at least and {} at most",
            current.div_ceil(2),
            current * 2
        )));
    }
    let ranges = even_ranges(target);
    for (start, _) in &ranges {
        let holder = open_shards(&entry)?.into_iter().find(|info| info.hash_start < *start && *start <= info.hash_end);
        if let Some(info) = holder {
            split(shared, &entry, &info.shard, *start)?;
        }
    }
    for (start, end) in ranges {
        // A merge leaves one shard less in the range, so this ends.
        loop {
            let mut within = open_shards(&entry)?.into_iter().filter(|info| start <= info.hash_start && info.hash_end <= end);
            let (Some(one), Some(other)) = (within.next(), within.next()) else { break };
            merge(shared, &entry, &one.shard, &other.shard)?;
        }
    }
    Ok(serde_json::to_vec(&json!({
        "StreamName": &*entry.name,
        "StreamARN": entry.arn(),
        "CurrentShardCount": current,
        "TargetShardCount": target,
    }))?)
}

fn open_shards(entry: &Entry) -> Answer<Vec<ShardInfo>> {
    let mut open: Vec<_> = entry.stream.shards_blocking()?.into_iter().filter(|info| !info.closed).collect();
    open.sort_unstable_by_key(|info| info.hash_start);
    Ok(open)
}

/// IncreaseStreamRetentionPeriod and DecreaseStreamRetentionPeriod. What is too old then goes with the next sweep.
pub(super) fn change_retention(shared: &Shared, request: &Request, up: bool) -> Answer<Vec<u8>> {
    let entry = shared.streams.named(request)?;
    let hours = request.retention_period_hours.ok_or_else(|| missing("retentionPeriodHours"))?;
    if !(24..=RETENTION_MAX_HOURS).contains(&hours) {
        return Err(ApiError::invalid(format!("RetentionPeriodHours must be 24 to {RETENTION_MAX_HOURS}")));
    }
    entry.change(|notes| {
        let now = i64::from(notes.retention_hours);
        if (up && hours < now) || (!up && hours > now) {
            let (name, other) = if up { ("Increase", "longer") } else { ("Decrease", "shorter") };
            return Err(ApiError::invalid(format!("{name}StreamRetentionPeriod wants one {other} than {now} hours")));
        }
        notes.retention_hours = hours as u32;
        Ok(())
    })?;
    Ok(NOTHING.to_vec())
}

/// UpdateMaxRecordSize.
pub(super) fn update_max_record_size(shared: &Shared, request: &Request) -> Answer<Vec<u8>> {
    let entry = shared.streams.named(request)?;
    let kib = record_kib(request.max_record_kib.ok_or_else(|| missing("maxRecordSizeInKiB"))?)?;
    entry.change(|notes| {
        notes.record_kib = kib;
        Ok(())
    })?;
    Ok(NOTHING.to_vec())
}

fn record_kib(kib: i64) -> Answer<u32> {
    if !(1024..=10_240).contains(&kib) {
        return Err(ApiError::validation("'maxRecordSizeInKiB' must be 1024 to 10240"));
    }
    Ok(kib as u32)
}

/// DescribeLimits.
pub(super) fn describe_limits(shared: &Shared) -> Answer<Vec<u8>> {
    let mut open = 0;
    for name in shared.streams.names()? {
        open += open_shards(&*shared.streams.get(&name)?)?.len();
    }
    let limits = json!({
        "ShardLimit": SHARDS_MAX,
        "OpenShardCount": open,
        "OnDemandStreamCount": 0,
        "OnDemandStreamCountLimit": 0,
    });
    Ok(serde_json::to_vec(&limits)?)
}
