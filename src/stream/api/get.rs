//! GetShardIterator and GetRecords.
//!
//! Owns: where an iterator begins, the answer's bytes. Does not own: the iterator's text (token), the records (embedded).

use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use sluicebox_actors::model::position::{Position, Sequence};
use sluicebox_actors::model::record::RawRecord;
use sluicebox_actors::ports::{Read, ShardInfo};

use crate::database::lock;

use super::Shared;
use super::error::{Answer, ApiError};
use super::fault::Decision;
use super::streams::Entry;
use super::token::ShardIterator;
use super::wire::{Request, bounded, micros, required};

/// Most records of one answer.
pub(super) const RECORDS_MAX: i64 = 10_000;
/// Most bytes of one answer, unless a single record is larger.
pub(super) const BYTES_MAX: usize = 10 << 20;

/// GetShardIterator.
pub(super) fn get_shard_iterator(shared: &Shared, request: &Request) -> Answer<Vec<u8>> {
    let entry = shared.streams.named(request)?;
    let shard = required::<str>(&request.shard_id, "shardId")?;
    let kind = required::<str>(&request.shard_iterator_type, "shardIteratorType")?;
    let info = entry.shard(shard)?;
    let sequence = request.starting_sequence_number.as_deref();
    let after = start(&entry, &info, kind, sequence, request.timestamp, shared.clock.now_us())?;
    let iterator = ShardIterator {
        stream: entry.name.to_string(),
        created_us: entry.stream.created_us(),
        issued_us: shared.clock.now_us(),
        shard: info.shard,
        after,
    };
    Ok(serde_json::to_vec(&json!({ "ShardIterator": iterator.encode() }))?)
}

/// How many records lie before the place that is meant.
pub(super) fn start(
    entry: &Entry,
    info: &ShardInfo,
    kind: &str,
    sequence: Option<&str>,
    timestamp: Option<f64>,
    now_us: i64,
) -> Answer<u64> {
    match kind {
        "TRIM_HORIZON" => Ok(0),
        "LATEST" => newest(entry, info),
        "AT_SEQUENCE_NUMBER" | "AFTER_SEQUENCE_NUMBER" => {
            let text = sequence.ok_or_else(|| ApiError::invalid(format!("{kind} needs a StartingSequenceNumber")))?;
            let number = text
                .parse::<Sequence>()
                .ok()
                .and_then(Sequence::as_dense)
                .filter(|_| text == "0" || !text.starts_with('0'))
                .ok_or_else(|| no_such_number(info))?;
            if number > newest(entry, info)? {
                return Err(no_such_number(info));
            }
            Ok(if kind == "AT_SEQUENCE_NUMBER" { number.saturating_sub(1) } else { number })
        }
        "AT_TIMESTAMP" => {
            let at_us = micros(timestamp.ok_or_else(|| ApiError::invalid("AT_TIMESTAMP needs a Timestamp"))?)?;
            // A clock with milliseconds may name the end of the current one.
            if at_us >= now_us.saturating_add(1000) {
                return Err(ApiError::invalid("Timestamp lies in the future of this endpoint's clock"));
            }
            Ok(entry.stream.before_arrival(&info.shard, at_us)?.as_dense().unwrap_or(0))
        }
        _ => Err(ApiError::validation(
            "'shardIteratorType' must be TRIM_HORIZON, LATEST, AT_SEQUENCE_NUMBER, AFTER_SEQUENCE_NUMBER or AT_TIMESTAMP",
        )),
    }
}

fn newest(entry: &Entry, info: &ShardInfo) -> Answer<u64> {
    Ok(entry.stream.end_blocking(&info.shard)?.as_dense().unwrap_or(0))
}

fn no_such_number(info: &ShardInfo) -> ApiError {
    ApiError::invalid(format!("StartingSequenceNumber is not one of shard {}", info.shard))
}

/// GetRecords.
pub(super) fn get_records(shared: &Shared, request: &Request, decision: &Decision) -> Answer<Vec<u8>> {
    let limit = bounded(request.limit, "limit", RECORDS_MAX, RECORDS_MAX)?;
    let iterator = ShardIterator::decode(required(&request.shard_iterator, "shardIterator")?)?;
    let now_us = shared.clock.now_us();
    if iterator.expired(now_us) || decision.expire_iterator {
        return Err(ApiError::expired_iterator());
    }
    let entry = shared.streams.get(&iterator.stream)?;
    if entry.stream.created_us() != iterator.created_us {
        return Err(ApiError::not_found(format!("Stream {} was deleted and created again since", iterator.stream)));
    }
    if !lock(&entry.budgets).entry(iterator.shard.clone()).or_default().read(&shared.limits, now_us) {
        return Err(ApiError::throttled(iterator.shard.as_str()));
    }
    let read = entry.stream.read_blocking(&iterator.shard, iterator.position(), limit, BYTES_MAX)?;
    let bytes = read.records.iter().map(|record| record.data.len()).sum();
    lock(&entry.budgets).entry(iterator.shard.clone()).or_default().was_read(bytes);
    let reached = reached(&iterator, &read);
    // A repeated batch is what a consumer sees whose answer was lost: the next iterator stands where this one stood.
    let after = if decision.repeat { iterator.after } else { reached };
    let next = ShardIterator { issued_us: now_us, after, ..iterator };
    let goes_on = read.ended.is_none() || decision.repeat;
    let mut answer = Vec::with_capacity(bytes / 3 * 4 + read.records.len() * 160 + 1024);
    answer.extend_from_slice(b"{\"Records\":");
    write_records(&mut answer, &read.records)?;
    write!(answer, ",\"MillisBehindLatest\":{}", millis_behind(&read)).map_err(unwritable)?;
    if goes_on {
        write!(answer, ",\"NextShardIterator\":\"{}\"", next.encode()).map_err(unwritable)?;
    } else {
        write_children(&mut answer, read.ended.as_deref().unwrap_or_default())?;
    }
    answer.push(b'}');
    Ok(answer)
}

/// How many records lie before the place after a read.
fn reached(iterator: &ShardIterator, read: &Read) -> u64 {
    let last = read.records.last().and_then(|record| record.sequence.as_dense());
    let horizon = read.trimmed_before.and_then(Position::as_dense);
    last.or(horizon).unwrap_or(iterator.after)
}

/// How far the end of a read lies behind the newest record, milliseconds.
pub(super) fn millis_behind(read: &Read) -> i64 {
    match read.records.last() {
        Some(last) if !read.caught_up => (read.now_us - last.arrival_us).max(1000) / 1000,
        Some(_) | None => 0,
    }
}

/// Records as a JSON list, straight into the answer: the payloads are most of what this endpoint moves.
pub(super) fn write_records(answer: &mut Vec<u8>, records: &[RawRecord]) -> Answer<()> {
    answer.push(b'[');
    for (at, record) in records.iter().enumerate() {
        if at > 0 {
            answer.push(b',');
        }
        let millis = record.arrival_us.div_euclid(1000);
        let (whole, part) = (millis.div_euclid(1000), millis.rem_euclid(1000));
        write!(
            answer,
            "{{\"SequenceNumber\":\"{}\",\"ApproximateArrivalTimestamp\":{whole}.{part:03},\"Data\":\"",
            record.sequence
        )
        .map_err(unwritable)?;
        let (from, length) = (answer.len(), record.data.len().div_ceil(3) * 4);
        answer.resize(from + length, 0);
        STANDARD.encode_slice(&record.data, &mut answer[from..]).map_err(|_| ApiError::internal("base64 without room"))?;
        answer.extend_from_slice(b"\",\"PartitionKey\":");
        serde_json::to_writer(&mut *answer, &record.partition_key_str())?;
        answer.push(b'}');
    }
    answer.push(b']');
    Ok(())
}

/// The shards that came out of an ended one.
pub(super) fn write_children(answer: &mut Vec<u8>, children: &[ShardInfo]) -> Answer<()> {
    let child = |info: &ShardInfo| {
        json!({
            "ShardId": info.shard.as_str(),
            "ParentShards": info.parents.iter().map(|parent| parent.as_str()).collect::<Vec<_>>(),
            "HashKeyRange": {
                "StartingHashKey": info.hash_start.to_string(),
                "EndingHashKey": info.hash_end.to_string(),
            },
        })
    };
    answer.extend_from_slice(b",\"ChildShards\":");
    serde_json::to_writer(&mut *answer, &children.iter().map(child).collect::<Vec<_>>())?;
    Ok(())
}

/// Writing to memory does not fail.
pub(super) fn unwritable(error: std::io::Error) -> ApiError {
    ApiError::internal(error.to_string())
}
