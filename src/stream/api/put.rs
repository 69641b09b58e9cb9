//! PutRecord and PutRecords.
//!
//! A request's payloads are decoded into one allocation and put in one call, one transaction per shard.
//!
//! Owns: checks of records, decoding, answers per record. Does not own: routing and storage (embedded), which records a fault
//! plan fails (fault).

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sluicebox_actors::ports::ShardInfo;

use crate::database::lock;
use crate::embedded::{KEY_MAX, PutError, PutRecord};
use crate::routing::hash_key_of;

use super::Shared;
use super::error::{Answer, ApiError, rate_exceeded};
use super::fault::Decision;
use super::streams::{Entry, stream_name};
use super::wire::hash_key;

const RECORDS_MAX: usize = 500;
const REQUEST_MAX: usize = 10 << 20;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ManyRequest<'a> {
    #[serde(borrow)]
    records: Vec<Incoming<'a>>,
    #[serde(default)]
    stream_name: Option<String>,
    #[serde(default, rename = "StreamARN")]
    stream_arn: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct OneRequest<'a> {
    #[serde(borrow)]
    data: Cow<'a, str>,
    #[serde(borrow)]
    partition_key: Cow<'a, str>,
    #[serde(default)]
    explicit_hash_key: Option<String>,
    #[serde(default)]
    stream_name: Option<String>,
    #[serde(default, rename = "StreamARN")]
    stream_arn: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Incoming<'a> {
    #[serde(borrow)]
    data: Cow<'a, str>,
    #[serde(borrow)]
    partition_key: Cow<'a, str>,
    #[serde(default)]
    explicit_hash_key: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ManyAnswer {
    failed_record_count: usize,
    records: Vec<Outcome>,
}

/// What became of a record.
#[derive(Serialize, Debug)]
#[serde(untagged)]
enum Outcome {
    #[serde(rename_all = "PascalCase")]
    Stored { sequence_number: String, shard_id: String },
    #[serde(rename_all = "PascalCase")]
    Failed { error_code: &'static str, error_message: String },
}

/// PutRecords.
pub(super) fn put_records(shared: &Shared, body: &[u8], decision: &Decision) -> Answer<Vec<u8>> {
    let request: ManyRequest<'_> = serde_json::from_slice(body)?;
    if request.records.is_empty() || request.records.len() > RECORDS_MAX {
        return Err(ApiError::validation(format!(
            "{} records at 'records' failed to satisfy constraint: 1 to {RECORDS_MAX} records a request",
            request.records.len()
        )));
    }
    let entry = shared.streams.get(stream_name(request.stream_name.as_deref(), request.stream_arn.as_deref())?)?;
    let records = decode(&request.records, entry.notes().record_kib)?;
    drop(request);
    let records = store(shared, &entry, records, decision)?;
    let failed = |outcome: &&Outcome| matches!(outcome, Outcome::Failed { .. });
    let failed_record_count = records.iter().filter(failed).count();
    Ok(serde_json::to_vec(&ManyAnswer { failed_record_count, records })?)
}

/// PutRecord. `SequenceNumberForOrdering` is always kept: a shard numbers records in the order in which it takes them.
pub(super) fn put_record(shared: &Shared, body: &[u8]) -> Answer<Vec<u8>> {
    let OneRequest { data, partition_key, explicit_hash_key, stream_name: name, stream_arn } = serde_json::from_slice(body)?;
    let entry = shared.streams.get(stream_name(name.as_deref(), stream_arn.as_deref())?)?;
    let records = decode(&[Incoming { data, partition_key, explicit_hash_key }], entry.notes().record_kib)?;
    match store(shared, &entry, records, &Decision::default())?.into_iter().next() {
        Some(stored @ Outcome::Stored { .. }) => Ok(serde_json::to_vec(&stored)?),
        Some(Outcome::Failed { error_code: THROTTLED, error_message }) => Err(ApiError::new(THROTTLED, 400, error_message)),
        Some(Outcome::Failed { error_message, .. }) => Err(ApiError::internal(error_message)),
        None => Err(ApiError::internal("a put without an outcome")),
    }
}

const THROTTLED: &str = "ProvisionedThroughputExceededException";

fn decode(incoming: &[Incoming<'_>], record_kib: u32) -> Answer<Vec<PutRecord>> {
    let room = incoming.iter().map(|record| record.data.len() / 4 * 3 + 3 + record.partition_key.len()).sum();
    let mut all = Vec::with_capacity(room);
    let mut parts = Vec::with_capacity(incoming.len());
    for record in incoming {
        let characters = record.partition_key.chars().count();
        if characters == 0 || characters > KEY_MAX {
            return Err(ApiError::validation(format!("'partitionKey' has {characters} characters, it must have 1 to {KEY_MAX}")));
        }
        let start = all.len();
        STANDARD
            .decode_vec(record.data.as_bytes(), &mut all)
            .map_err(|_not_base64| ApiError::new("SerializationException", 400, "'data' is not base64"))?;
        let end = all.len();
        all.extend_from_slice(record.partition_key.as_bytes());
        if all.len() - start > record_kib as usize * 1024 {
            return Err(ApiError::invalid(format!(
                "a record has {} bytes with its key, at most {record_kib} KiB fit (UpdateMaxRecordSize raises it to 10,240)",
                all.len() - start
            )));
        }
        let hash = record.explicit_hash_key.as_deref().map(|text| hash_key(text, "explicitHashKey")).transpose()?;
        parts.push((start..end, end..all.len(), hash));
    }
    // Whether a key counts is not said anywhere that we know of; with keys is the stricter reading.
    if all.len() > REQUEST_MAX && incoming.len() > 1 {
        return Err(ApiError::invalid(format!("the records have {} bytes together, at most {REQUEST_MAX} fit", all.len())));
    }
    let all = Bytes::from(all);
    let record = |(data, key, explicit_hash_key)| PutRecord {
        partition_key: Some(all.slice(key)),
        explicit_hash_key,
        data: all.slice(data),
        arrival_us: None,
    };
    Ok(parts.into_iter().map(record).collect())
}

/// Puts what limits and fault plan let through.
fn store(shared: &Shared, entry: &Entry, records: Vec<PutRecord>, decision: &Decision) -> Answer<Vec<Outcome>> {
    let mut outcomes: Vec<Option<Outcome>> = Vec::with_capacity(records.len());
    outcomes.resize_with(records.len(), || None);
    for (outcome, fails) in outcomes.iter_mut().zip(shared.fails(decision, records.len())) {
        if let Some(error_code) = fails {
            *outcome = Some(Outcome::Failed { error_code, error_message: "Internal service failure: the fault plan".to_owned() });
        }
    }
    if shared.limits.any() {
        throttle(shared, entry, &records, &mut outcomes)?;
    }
    let (places, admitted): (Vec<usize>, Vec<PutRecord>) =
        records.into_iter().enumerate().filter(|(at, _)| outcomes[*at].is_none()).unzip();
    for (at, stored) in places.into_iter().zip(entry.stream.put(&admitted)?) {
        outcomes[at] = Some(match stored {
            Ok((shard, sequence)) => {
                Outcome::Stored { sequence_number: sequence.to_string(), shard_id: shard.as_str().to_owned() }
            }
            Err(refused) => failed(&refused),
        });
    }
    entry.puts.send_modify(|puts| *puts = puts.wrapping_add(1));
    outcomes.into_iter().map(|outcome| outcome.ok_or_else(|| ApiError::internal("a record without an outcome"))).collect()
}

fn failed(refused: &PutError) -> Outcome {
    tracing::warn!(error = %refused, "a record was not stored");
    Outcome::Failed { error_code: "InternalFailure", error_message: refused.to_string() }
}

fn throttle(shared: &Shared, entry: &Entry, records: &[PutRecord], outcomes: &mut [Option<Outcome>]) -> Answer<()> {
    let open: Vec<ShardInfo> = entry.stream.shards_blocking()?.into_iter().filter(|info| !info.closed).collect();
    let now_us = shared.clock.now_us();
    let mut budgets = lock(&entry.budgets);
    for (record, outcome) in records.iter().zip(outcomes).filter(|(_, outcome)| outcome.is_none()) {
        let hash = hash_key_of(record);
        let Some(info) = open.iter().find(|info| info.hash_start <= hash && hash <= info.hash_end) else { continue };
        let bytes = record.data.len() + record.partition_key.as_ref().map_or(0, Bytes::len);
        if !budgets.entry(info.shard.clone()).or_default().write(&shared.limits, bytes, now_us) {
            *outcome = Some(Outcome::Failed { error_code: THROTTLED, error_message: rate_exceeded(info.shard.as_str()) });
        }
    }
    Ok(())
}
