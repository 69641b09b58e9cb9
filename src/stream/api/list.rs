//! ListShards, DescribeStream, DescribeStreamSummary, ListStreams.
//!
//! The topology does not say when a shard came to be. The notes have it for reshards of this endpoint; for others the last
//! arrival in the parents stands for it. A parent closes when its children open, so the shards of any one moment cover all
//! hash keys.
//!
//! Owns: listings, their pages and filters. Does not own: the topology (catalog), page tokens' text (token).

use std::collections::HashMap;

use serde_json::{Value, json};
use sluicebox_actors::model::position::ShardId;
use sluicebox_actors::ports::ShardInfo;

use super::Shared;
use super::error::{Answer, ApiError};
use super::fault::Decision;
use super::streams::Entry;
use super::token::Page;
use super::wire::{Request, ShardFilter, bounded, micros, seconds};

const PAGE: i64 = 1000;
const PAGE_MAX: i64 = 10_000;

/// A shard with the time it was open, microseconds.
struct Listed {
    info: ShardInfo,
    opened_us: i64,
    closed_us: Option<i64>,
}

/// ListShards.
pub(super) fn list_shards(shared: &Shared, request: &Request, decision: &Decision) -> Answer<Vec<u8>> {
    let now_us = shared.clock.now_us();
    let (entry, filter, last) = match &request.next_token {
        Some(token) => {
            if request.stream_name.is_some() || request.exclusive_start_shard_id.is_some() {
                return Err(ApiError::invalid("NextToken and StreamName cannot be provided together."));
            }
            let page = Page::decode(token, now_us)?;
            (shared.streams.get(&page.stream)?, serde_json::from_str(&page.filter)?, Some(page.last))
        }
        None => (shared.streams.named(request)?, request.shard_filter.clone(), request.exclusive_start_shard_id.clone()),
    };
    let max = bounded(request.max_results, "maxResults", PAGE, PAGE_MAX)?;
    let shards = filtered(&entry, filter.as_ref(), now_us, decision)?;
    let mut rest = shards.iter().filter(|listed| last.as_deref().is_none_or(|last| listed.info.shard.as_str() > last));
    let page: Vec<_> = rest.by_ref().take(max).collect();
    let next = match (page.last(), rest.next()) {
        (Some(last), Some(_)) => Some(Page {
            stream: entry.name.to_string(),
            issued_us: now_us,
            last: last.info.shard.as_str().to_owned(),
            filter: serde_json::to_string(&filter)?,
        }),
        (_, _) => None,
    };
    let shards = page.into_iter().map(|listed| shard_json(&entry, &listed.info)).collect::<Answer<Vec<_>>>()?;
    let mut answer = json!({ "Shards": shards });
    if let Some(next) = next {
        answer["NextToken"] = Value::String(next.encode());
    }
    Ok(serde_json::to_vec(&answer)?)
}

fn filtered(entry: &Entry, filter: Option<&ShardFilter>, now_us: i64, decision: &Decision) -> Answer<Vec<Listed>> {
    let mut shards = with_times(entry)?;
    shards.retain(|listed| decision.hidden.iter().all(|hidden| hidden != listed.info.shard.as_str()));
    let Some(filter) = filter else { return Ok(shards) };
    let horizon_us = (now_us - i64::from(entry.notes().retention_hours) * 3_600_000_000).max(entry.stream.created_us());
    let time = || -> Answer<i64> {
        let at = filter.timestamp.ok_or_else(|| ApiError::invalid(format!("ShardFilter {} needs a Timestamp", filter.kind)))?;
        Ok(micros(at)?.max(horizon_us))
    };
    let open_at = |at_us: i64| move |listed: &Listed| listed.opened_us <= at_us && listed.closed_us.is_none_or(|us| us > at_us);
    match filter.kind.as_str() {
        "AFTER_SHARD_ID" => {
            let after =
                filter.shard_id.as_deref().ok_or_else(|| ApiError::invalid("ShardFilter AFTER_SHARD_ID needs a ShardId"))?;
            shards.retain(|listed| listed.info.shard.as_str() > after);
        }
        "AT_TRIM_HORIZON" => shards.retain(open_at(horizon_us)),
        "FROM_TRIM_HORIZON" => {}
        "AT_LATEST" => shards.retain(|listed| !listed.info.closed),
        "AT_TIMESTAMP" => shards.retain(open_at(time()?)),
        "FROM_TIMESTAMP" => {
            let at_us = time()?;
            shards.retain(|listed| listed.closed_us.is_none_or(|us| us >= at_us));
        }
        _ => return Err(ApiError::validation("'shardFilter.type' is not one of Kinesis' filters")),
    }
    Ok(shards)
}

/// All shards by name, parents before children.
fn with_times(entry: &Entry) -> Answer<Vec<Listed>> {
    let notes = entry.notes();
    let shards = entry.stream.shards_blocking()?;
    let mut opened: HashMap<ShardId, i64> = HashMap::new();
    let mut closed: HashMap<ShardId, i64> = HashMap::new();
    for info in &shards {
        let mut opened_us = notes.resharded.get(&info.shard).copied();
        if opened_us.is_none() {
            let mut latest = entry.stream.created_us();
            for parent in &info.parents {
                let arrived = entry.stream.stats(parent)?.last_arrival_us;
                latest = latest.max(arrived.or(opened.get(parent).copied()).unwrap_or(latest));
            }
            opened_us = Some(latest);
        }
        let opened_us = opened_us.unwrap_or_default();
        opened.insert(info.shard.clone(), opened_us);
        closed.extend(info.parents.iter().map(|parent| (parent.clone(), opened_us)));
    }
    let listed = |info: ShardInfo| Listed {
        opened_us: opened.get(&info.shard).copied().unwrap_or_default(),
        closed_us: if info.closed { closed.get(&info.shard).copied() } else { None },
        info,
    };
    Ok(shards.into_iter().map(listed).collect())
}

/// A shard as Kinesis writes it.
fn shard_json(entry: &Entry, info: &ShardInfo) -> Answer<Value> {
    // Number 0 is never given: AT and AFTER it are both the start.
    let mut numbers = json!({ "StartingSequenceNumber": "0" });
    if info.closed {
        let last = entry.stream.end_blocking(&info.shard)?.as_dense().unwrap_or(0);
        numbers["EndingSequenceNumber"] = Value::String(last.to_string());
    }
    let mut shard = json!({
        "ShardId": info.shard.as_str(),
        "HashKeyRange": { "StartingHashKey": info.hash_start.to_string(), "EndingHashKey": info.hash_end.to_string() },
        "SequenceNumberRange": numbers,
    });
    for (name, parent) in ["ParentShardId", "AdjacentParentShardId"].into_iter().zip(&info.parents) {
        shard[name] = Value::String(parent.as_str().to_owned());
    }
    Ok(shard)
}

/// DescribeStream.
pub(super) fn describe_stream(shared: &Shared, request: &Request, decision: &Decision) -> Answer<Vec<u8>> {
    let entry = shared.streams.named(request)?;
    let limit = bounded(request.limit, "limit", 100, PAGE_MAX)?;
    let shards = filtered(&entry, None, shared.clock.now_us(), decision)?;
    let after = request.exclusive_start_shard_id.as_deref();
    let mut rest = shards.iter().filter(|listed| after.is_none_or(|after| listed.info.shard.as_str() > after));
    let page = rest.by_ref().take(limit).map(|listed| shard_json(&entry, &listed.info)).collect::<Answer<Vec<_>>>()?;
    let mut description = common(&entry);
    description["Shards"] = Value::Array(page);
    description["HasMoreShards"] = Value::Bool(rest.next().is_some());
    Ok(serde_json::to_vec(&json!({ "StreamDescription": description }))?)
}

/// DescribeStreamSummary.
pub(super) fn describe_stream_summary(shared: &Shared, request: &Request) -> Answer<Vec<u8>> {
    let entry = shared.streams.named(request)?;
    let notes = entry.notes();
    let mut description = common(&entry);
    description["OpenShardCount"] = json!(entry.stream.shards_blocking()?.iter().filter(|info| !info.closed).count());
    description["ConsumerCount"] = json!(notes.consumers.len());
    description["MaxRecordSizeInKiB"] = json!(notes.record_kib);
    Ok(serde_json::to_vec(&json!({ "StreamDescriptionSummary": description }))?)
}

fn common(entry: &Entry) -> Value {
    json!({
        "StreamName": &*entry.name,
        "StreamARN": entry.arn(),
        "StreamStatus": "ACTIVE",
        "StreamModeDetails": { "StreamMode": "PROVISIONED" },
        "RetentionPeriodHours": entry.notes().retention_hours,
        "StreamCreationTimestamp": seconds(entry.stream.created_us()),
        "EnhancedMonitoring": [{ "ShardLevelMetrics": [] }],
        "EncryptionType": "NONE",
    })
}

/// ListStreams.
pub(super) fn list_streams(shared: &Shared, request: &Request) -> Answer<Vec<u8>> {
    let limit = bounded(request.limit, "limit", 100, PAGE_MAX)?;
    let now_us = shared.clock.now_us();
    let after = match &request.next_token {
        Some(token) => Some(Page::decode(token, now_us)?.last),
        None => request.exclusive_start_stream_name.clone(),
    };
    let names = shared.streams.names()?;
    let mut rest = names.iter().filter(|name| after.as_ref().is_none_or(|after| *name > after));
    let page: Vec<_> = rest.by_ref().take(limit).collect();
    let mut answer = json!({ "StreamNames": page, "HasMoreStreams": false });
    if let (Some(last), Some(_)) = (page.last(), rest.next()) {
        let next = Page { stream: String::new(), issued_us: now_us, last: (*last).clone(), filter: "null".to_owned() };
        answer["HasMoreStreams"] = Value::Bool(true);
        answer["NextToken"] = Value::String(next.encode());
    }
    let summaries = page.iter().map(|name| shared.streams.get(name).map(|entry| summary(&entry)));
    answer["StreamSummaries"] = Value::Array(summaries.collect::<Answer<Vec<_>>>()?);
    Ok(serde_json::to_vec(&answer)?)
}

fn summary(entry: &Entry) -> Value {
    json!({
        "StreamName": &*entry.name,
        "StreamARN": entry.arn(),
        "StreamStatus": "ACTIVE",
        "StreamModeDetails": { "StreamMode": "PROVISIONED" },
        "StreamCreationTimestamp": seconds(entry.stream.created_us()),
    })
}
