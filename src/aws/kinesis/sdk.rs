//! The calls by `aws-sdk-kinesis`.
//!
//! Owns: requests, answers in our values, the meaning of error codes, the `Date` of an answer. Does not own: pace and retries
//! (source), words of faults (error).

use std::error::Error;
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::config::interceptors::BeforeDeserializationInterceptorContextRef;
use aws_sdk_kinesis::config::{Config, ConfigBag, Intercept, RuntimeComponents, StalledStreamProtectionConfig};
use aws_sdk_kinesis::error::BoxError;
use aws_sdk_kinesis::primitives::event_stream::EventReceiver;
use aws_sdk_kinesis::types::error::SubscribeToShardEventStreamError;
use aws_sdk_kinesis::types::{
    ChildShard, ConsumerStatus, HashKeyRange, Record, Shard, ShardIteratorType, StartingPosition, SubscribeToShardEvent,
    SubscribeToShardEventStream,
};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::DateTime;
use aws_smithy_types::date_time::Format;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use aws_smithy_types::event_stream::RawMessage;
use bytes::Bytes;
use sluicebox_actors::model::fault::{Fault, Kind, Result};
use sluicebox_actors::model::position::ShardId;
use sluicebox_actors::model::record::RawRecord;
use sluicebox_actors::ports::ShardInfo;

use super::api::{Answered, Api, Batch, Begin, Consumer, Events, Page, Refusal, Subscribed, Summary, What};
use crate::error::{Call, Class, classify, code};

/// The API of one stream.
#[derive(Clone, Debug)]
pub struct SdkApi {
    client: Client,
    stream: Arc<str>,
}

impl SdkApi {
    /// A stream by its name; the client must not retry on its own.
    pub fn new(client: Client, stream: impl Into<Arc<str>>) -> Self {
        Self { client, stream: stream.into() }
    }

    fn refused<E>(&self, operation: &'static str, error: &SdkError<E, HttpResponse>) -> Refusal
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        let what = match (code(error), classify(error)) {
            (Some("ExpiredIteratorException"), _) => What::ExpiredIterator,
            (Some("ExpiredNextTokenException"), _) => What::ExpiredToken,
            (Some("InvalidArgumentException"), _) => What::InvalidArgument,
            (Some("ResourceInUseException"), _) => What::InUse,
            (_, Class::Throttled) => What::Throttled,
            (_, Class::NotFound) => What::NotFound,
            (_, Class::Unavailable | Class::NoAnswer | Class::Denied | Class::Unconfigured) => What::Other,
            (_, Class::Conflict | Class::Invalid) => What::Other,
        };
        let resource = format!("arn:aws:kinesis:*:*:stream/{}", self.stream);
        Refusal { what, fault: Call { service: "kinesis", operation, resource: &resource }.fault(error) }
    }
}

/// Keeps the `Date` of the answer to one call: the only clock of the service that an answer shows.
#[derive(Debug, Clone, Default)]
struct Dated(Arc<OnceLock<i64>>);

impl Intercept for Dated {
    fn name(&self) -> &'static str {
        "Dated"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> std::result::Result<(), BoxError> {
        let date = context.response().headers().get("date");
        if let Some(date) = date.and_then(|text| DateTime::from_str(text, Format::HttpDate).ok()) {
            self.0.get_or_init(|| date.secs().saturating_mul(1_000_000));
        }
        Ok(())
    }
}

#[async_trait]
impl Api for SdkApi {
    async fn list_shards(&self, token: Option<String>) -> Answered<Page> {
        // A token stands for the stream; both together are refused.
        let stream = token.is_none().then(|| self.stream.to_string());
        let answer = self.client.list_shards().set_stream_name(stream).set_next_token(token).send().await;
        let answer = answer.map_err(|error| self.refused("ListShards", &error))?;
        let shards = answer.shards().iter().map(shard_info).collect::<Result<_>>().map_err(other)?;
        Ok(Page { shards, next: answer.next_token })
    }

    async fn summary(&self) -> Answered<Summary> {
        let answer = self.client.describe_stream_summary().stream_name(&*self.stream).send().await;
        let answer = answer.map_err(|error| self.refused("DescribeStreamSummary", &error))?;
        let Some(summary) = answer.stream_description_summary else {
            return Err(other(Fault::retry("kinesis DescribeStreamSummary: an answer without a description")));
        };
        let hours = i64::from(summary.retention_period_hours.max(1));
        Ok(Summary { arn: summary.stream_arn, retention_us: hours * 3_600_000_000 })
    }

    async fn iterator(&self, shard: &ShardId, begin: Begin) -> Answered<String> {
        let call = self.client.get_shard_iterator().stream_name(&*self.stream).shard_id(shard.as_str());
        let call = match begin {
            Begin::Horizon => call.shard_iterator_type(ShardIteratorType::TrimHorizon),
            Begin::At(at) => {
                call.shard_iterator_type(ShardIteratorType::AtSequenceNumber).starting_sequence_number(at.to_string())
            }
            Begin::After(last) => {
                call.shard_iterator_type(ShardIteratorType::AfterSequenceNumber).starting_sequence_number(last.to_string())
            }
            Begin::Time(at_ms) => {
                call.shard_iterator_type(ShardIteratorType::AtTimestamp).timestamp(DateTime::from_millis(at_ms))
            }
        };
        let answer = call.send().await.map_err(|error| self.refused("GetShardIterator", &error))?;
        answer.shard_iterator.ok_or_else(|| other(Fault::retry("kinesis GetShardIterator: an answer without an iterator")))
    }

    async fn records(&self, iterator: &str, limit: usize) -> Answered<Batch> {
        let dated = Dated::default();
        let limit = i32::try_from(limit.clamp(1, 10_000)).unwrap_or(10_000);
        let call = self.client.get_records().shard_iterator(iterator).limit(limit).customize().interceptor(dated.clone());
        let answer = call.send().await.map_err(|error| self.refused("GetRecords", &error))?;
        let children = answer.child_shards().iter().map(child_info).collect::<Result<_>>().map_err(other)?;
        let records = answer.records.into_iter().map(raw).collect::<Result<_>>().map_err(other)?;
        let date_us = dated.0.get().copied();
        let (next, behind_ms) = (answer.next_shard_iterator, answer.millis_behind_latest);
        Ok(Batch { records, next, behind_ms, children, date_us, latest_us: None })
    }

    async fn consumer(&self, stream_arn: &str, name: &str) -> Answered<Consumer> {
        let answer = self.client.describe_stream_consumer().stream_arn(stream_arn).consumer_name(name).send().await;
        let answer = answer.map_err(|error| self.refused("DescribeStreamConsumer", &error))?;
        let consumer = answer.consumer_description.map(|consumer| (consumer.consumer_arn, consumer.consumer_status));
        known("DescribeStreamConsumer", consumer)
    }

    async fn register(&self, stream_arn: &str, name: &str) -> Answered<Consumer> {
        let answer = self.client.register_stream_consumer().stream_arn(stream_arn).consumer_name(name).send().await;
        let answer = answer.map_err(|error| self.refused("RegisterStreamConsumer", &error))?;
        let consumer = answer.consumer.map(|consumer| (consumer.consumer_arn, consumer.consumer_status));
        known("RegisterStreamConsumer", consumer)
    }

    async fn subscribe(&self, consumer_arn: &str, shard: &ShardId, begin: Begin) -> Answered<Subscribed> {
        let dated = Dated::default();
        let position = StartingPosition::builder();
        let position = match begin {
            Begin::Horizon => position.r#type(ShardIteratorType::TrimHorizon),
            Begin::At(at) => position.r#type(ShardIteratorType::AtSequenceNumber).sequence_number(at.to_string()),
            Begin::After(last) => position.r#type(ShardIteratorType::AfterSequenceNumber).sequence_number(last.to_string()),
            Begin::Time(at_ms) => position.r#type(ShardIteratorType::AtTimestamp).timestamp(DateTime::from_millis(at_ms)),
        };
        let position = position.build().map_err(|error| other(Fault::caused(Kind::Bug, "a starting position", &error)))?;
        let call = self.client.subscribe_to_shard().consumer_arn(consumer_arn).shard_id(shard.as_str());
        // A reader under back-pressure leaves events lying, and a silent shard sends nothing for seconds: neither is a stall.
        let patient = Config::builder().stalled_stream_protection(StalledStreamProtectionConfig::disabled());
        let call = call.starting_position(position).customize().config_override(patient).interceptor(dated.clone());
        let answer = call.send().await.map_err(|error| self.refused("SubscribeToShard", &error))?;
        let events = Box::new(SdkEvents { events: answer.event_stream, shard: shard.clone() });
        Ok(Subscribed { events, date_us: dated.0.get().copied() })
    }
}

fn known(operation: &str, consumer: Option<(String, ConsumerStatus)>) -> Answered<Consumer> {
    match consumer {
        Some((arn, status)) => Ok(Consumer { arn, active: status == ConsumerStatus::Active }),
        None => Err(other(Fault::retry(format!("kinesis {operation}: an answer without a consumer")))),
    }
}

struct SdkEvents {
    events: EventReceiver<SubscribeToShardEventStream, SubscribeToShardEventStreamError>,
    shard: ShardId,
}

#[async_trait]
impl Events for SdkEvents {
    async fn next(&mut self) -> Answered<Option<Batch>> {
        loop {
            match self.events.recv().await {
                Ok(Some(SubscribeToShardEventStream::SubscribeToShardEvent(event))) => {
                    return event_batch(event, &self.shard).map(Some).map_err(other);
                }
                // The SDK may learn of kinds of event that bring nothing that we know.
                Ok(Some(_)) => {}
                Ok(None) => return Ok(None),
                Err(error) => return Err(broken(&self.shard, &error)),
            }
        }
    }
}

fn event_batch(event: SubscribeToShardEvent, shard: &ShardId) -> Result<Batch> {
    let children: Vec<_> = event.child_shards().iter().map(child_info).collect::<Result<_>>()?;
    let next = Some(event.continuation_sequence_number).filter(|number| !number.is_empty());
    if next.is_none() && children.is_empty() {
        return Err(Fault::retry(format!("kinesis SubscribeToShard: an event of {shard} neither goes on nor ends the shard")));
    }
    let records = event.records.into_iter().map(raw).collect::<Result<_>>()?;
    let behind_ms = Some(event.millis_behind_latest);
    // The end is where children are, whatever number stands there.
    let next = next.filter(|_| children.is_empty());
    Ok(Batch { records, next, behind_ms, children, ..Batch::default() })
}

/// Something is wrong with the key that the stream is encrypted under.
fn is_of_a_key(error: &SubscribeToShardEventStreamError) -> bool {
    error.is_kms_access_denied_exception()
        || error.is_kms_disabled_exception()
        || error.is_kms_invalid_state_exception()
        || error.is_kms_not_found_exception()
        || error.is_kms_opt_in_required()
}

/// What an error in mid-stream means.
fn broken(shard: &ShardId, error: &SdkError<SubscribeToShardEventStreamError, RawMessage>) -> Refusal {
    // Of an exception that comes as an event the SDK knows the type and not the code.
    let told = error.as_service_error();
    let is = |kind: fn(&SubscribeToShardEventStreamError) -> bool| told.is_some_and(kind);
    let code = told.and_then(ProvideErrorMetadata::code).unwrap_or_default();
    let (what, kind) = if is(SubscribeToShardEventStreamError::is_resource_in_use_exception) {
        (What::InUse, Kind::Retry)
    } else if is(SubscribeToShardEventStreamError::is_resource_not_found_exception) {
        (What::NotFound, Kind::Config)
    } else if is(SubscribeToShardEventStreamError::is_kms_throttling_exception) {
        (What::Throttled, Kind::Retry)
    } else if code.starts_with("KMS") || is(is_of_a_key) {
        (What::Other, Kind::Config)
    } else {
        (What::Other, Kind::Retry)
    };
    Refusal { what, fault: Fault::caused(kind, format!("the subscription to {shard} broke off"), error) }
}

fn other(fault: Fault) -> Refusal {
    Refusal { what: What::Other, fault }
}

fn raw(record: Record) -> Result<RawRecord> {
    // It travels as a fraction of seconds in milliseconds, which binary floating point misses by a hair: 0.12 comes as 0.119999.
    let arrival =
        record.approximate_arrival_timestamp.and_then(|at| i64::try_from((at.as_nanos() + 500_000) / 1_000_000 * 1_000).ok());
    let arrival_us = arrival.ok_or_else(|| {
        Fault::corrupt(format!("record {} has no time of arrival: the endpoint is not Kinesis", record.sequence_number))
    })?;
    Ok(RawRecord {
        sequence: record.sequence_number.parse()?,
        sub_sequence: 0,
        foreign: false,
        // A stream that distributes by itself returns no key.
        partition_key: record.partition_key.map(Bytes::from).unwrap_or_default(),
        arrival_us,
        data: record.data.into_inner().into(),
    })
}

fn hash_range(shard: &str, range: Option<&HashKeyRange>) -> Result<(u128, u128)> {
    let numbers = range.and_then(|range| Some((range.starting_hash_key.parse().ok()?, range.ending_hash_key.parse().ok()?)));
    numbers.ok_or_else(|| Fault::corrupt(format!("shard {shard} is listed without a hash range that can be read")))
}

fn shard_info(shard: &Shard) -> Result<ShardInfo> {
    let (hash_start, hash_end) = hash_range(&shard.shard_id, shard.hash_key_range.as_ref())?;
    let parents = [&shard.parent_shard_id, &shard.adjacent_parent_shard_id];
    Ok(ShardInfo {
        shard: ShardId::new(shard.shard_id.as_str()),
        parents: parents.into_iter().flatten().map(|parent| ShardId::new(parent.as_str())).collect(),
        hash_start,
        hash_end,
        closed: shard.sequence_number_range.as_ref().is_some_and(|range| range.ending_sequence_number.is_some()),
    })
}

fn child_info(child: &ChildShard) -> Result<ShardInfo> {
    let (hash_start, hash_end) = hash_range(&child.shard_id, child.hash_key_range.as_ref())?;
    let parents = child.parent_shards.iter().map(|parent| ShardId::new(parent.as_str())).collect();
    Ok(ShardInfo { shard: ShardId::new(child.shard_id.as_str()), parents, hash_start, hash_end, closed: false })
}
