//! What an invocation is given: a batch of one shard's records, or the word of a schedule.
//!
//! Owns: the events' format, which of them is meant, records in our own values. Does not own: KPL aggregates
//! (sluicebox_aws::kinesis::kpl), what becomes of records (function).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde::de::IgnoredAny;
use sluicebox_actors::model::fault::{Fault, Result};
use sluicebox_actors::model::position::{Sequence, ShardId};
use sluicebox_actors::model::record::RawRecord;

/// Any event, as far as it matters here.
#[derive(Deserialize, Default)]
pub struct Event {
    #[serde(rename = "Records")]
    records: Option<Vec<Item>>,
    #[serde(rename = "detail-type")]
    detail_type: Option<IgnoredAny>,
    /// Of a mapping with a tumbling window.
    window: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Item {
    #[serde(rename = "eventID")]
    event_id: Option<String>,
    #[serde(rename = "eventSourceARN")]
    source_arn: Option<String>,
    kinesis: Option<Record>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    #[serde(default)]
    partition_key: String,
    sequence_number: String,
    data: String,
    approximate_arrival_timestamp: f64,
}

/// What is to be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Take in the records of a Kinesis event.
    Ingest,
    /// What has to happen although no record comes.
    Tick,
}

/// The records of one shard.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Batch {
    /// Name of the stream.
    pub stream: String,
    /// The shard.
    pub shard: ShardId,
    /// In order, as they were put.
    pub records: Vec<RawRecord>,
}

impl Event {
    /// What this event asks for; none = neither.
    pub fn role(&self) -> Option<Role> {
        match (&self.records, &self.detail_type) {
            (Some(_), _) => Some(Role::Ingest),
            (None, Some(_)) => Some(Role::Tick),
            (None, None) => None,
        }
    }

    /// The batch; none if it holds no record.
    pub fn batch(self) -> Result<Option<Batch>> {
        if self.window.is_some() {
            return Err(Fault::config(
                "the event source mapping has a tumbling window, and Gold is made of windows of event time: set \
                 TumblingWindowInSeconds to 0",
            ));
        }
        let mut batch: Option<Batch> = None;
        for item in self.records.unwrap_or_default() {
            let (stream, shard) = item.origin()?;
            let batch = batch.get_or_insert_with(|| Batch { stream: stream.clone(), shard: shard.clone(), records: Vec::new() });
            if (&batch.stream, &batch.shard) != (&stream, &shard) {
                return Err(Fault::config(format!(
                    "one event holds records of {} and of {shard}: events come from an event source mapping of a Kinesis stream",
                    batch.shard
                )));
            }
            let record = item.record()?;
            if batch.records.last().is_some_and(|last| last.sequence >= record.sequence) {
                return Err(Fault::corrupt(format!("the records of an event of {shard} are not in order of sequence numbers")));
            }
            batch.records.push(record);
        }
        Ok(batch)
    }
}

impl Item {
    /// Stream and shard: `arn:aws:kinesis:REGION:ACCOUNT:stream/NAME`, `SHARD:NUMBER`.
    fn origin(&self) -> Result<(String, ShardId)> {
        let stream = self.source_arn.as_deref().and_then(|arn| arn.split_once(":stream/")).map(|(_, rest)| rest);
        // A consumer of the stream is named behind it.
        let stream = stream.and_then(|rest| rest.split('/').next());
        let shard = self.event_id.as_deref().and_then(|id| id.split_once(':')).map(|(shard, _)| shard);
        match (stream, shard) {
            (Some(stream), Some(shard)) if !shard.is_empty() && self.is_kinesis() => Ok((stream.to_owned(), ShardId::new(shard))),
            (_, _) => Err(not_kinesis()),
        }
    }

    fn is_kinesis(&self) -> bool {
        self.source_arn.as_deref().is_some_and(|arn| arn.contains(":kinesis:"))
    }

    fn record(self) -> Result<RawRecord> {
        let record = self.kinesis.ok_or_else(not_kinesis)?;
        let sequence: Sequence = record.sequence_number.parse()?;
        let data = STANDARD.decode(record.data.as_bytes());
        let data = data.map_err(|_| Fault::corrupt(format!("record {sequence} of an event is not base64")))?;
        // Seconds as a binary fraction miss the millisecond by a hair.
        let arrival_ms = (record.approximate_arrival_timestamp * 1_000.0).round();
        if arrival_ms.is_nan() || arrival_ms.abs() >= 1e15 {
            return Err(Fault::corrupt(format!("record {sequence} of an event has no time of arrival")));
        }
        Ok(RawRecord {
            sequence,
            sub_sequence: 0,
            foreign: false,
            partition_key: record.partition_key.into_bytes().into(),
            arrival_us: arrival_ms as i64 * 1_000,
            data: data.into(),
        })
    }
}

fn not_kinesis() -> Fault {
    Fault::config("an event with records that come from no Kinesis stream: map the function to a Kinesis data stream")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn item(shard: &str, sequence: &str, data: &[u8]) -> serde_json::Value {
        json!({
            "kinesis": {
                "kinesisSchemaVersion": "1.0", "partitionKey": "k", "sequenceNumber": sequence, "data": STANDARD.encode(data),
                "approximateArrivalTimestamp": 1_545_084_650.987
            },
            "eventSource": "aws:kinesis", "eventVersion": "1.0", "eventID": format!("{shard}:{sequence}"),
            "eventName": "aws:kinesis:record", "awsRegion": "us-east-2",
            "eventSourceARN": "arn:aws:kinesis:us-east-2:123456789012:stream/clicks"
        })
    }

    fn event(value: serde_json::Value) -> Event {
        serde_json::from_value(value).expect("an event")
    }

    fn batch(items: Vec<serde_json::Value>) -> Result<Option<Batch>> {
        event(json!({ "Records": items })).batch()
    }

    const LONG: &str = "49590338271490256608559692538361571095921575989136588898";

    #[test]
    fn a_batch_is_read_with_its_shard_its_stream_and_arrivals_to_the_millisecond() {
        let batch = batch(vec![item("shardId-000000000006", LONG, b"{}")]).expect("reads").expect("a record");
        assert_eq!((batch.stream.as_str(), batch.shard.as_str()), ("clicks", "shardId-000000000006"));
        let record = &batch.records[0];
        assert_eq!(record.sequence.to_string(), LONG);
        assert_eq!((&record.data[..], &record.partition_key[..]), (&b"{}"[..], &b"k"[..]));
        assert_eq!(record.arrival_us, 1_545_084_650_987_000);
    }

    #[test]
    fn the_role_follows_from_the_event() {
        assert_eq!(event(json!({ "Records": [] })).role(), Some(Role::Ingest));
        assert_eq!(event(json!({ "detail-type": "Scheduled Event", "source": "aws.events" })).role(), Some(Role::Tick));
        assert_eq!(event(json!({})).role(), None);
        assert_eq!(batch(Vec::new()).expect("reads"), None);
    }

    #[test]
    fn what_is_no_batch_of_one_shard_in_order_is_refused() {
        let (a, b) = (item("s-0", "1", b"x"), item("s-1", "2", b"x"));
        for items in [vec![a.clone(), b], vec![item("s-0", "2", b"x"), a.clone()], vec![a.clone(), a.clone()]] {
            assert!(batch(items).is_err());
        }
        let other = |field: &str, value: serde_json::Value| {
            let mut changed = a.clone();
            changed[field] = value;
            batch(vec![changed])
        };
        assert!(other("eventSourceARN", json!("arn:aws:dynamodb:us-east-2:1:table/t/stream/2015")).is_err());
        assert!(other("eventID", json!("7")).is_err());
        assert!(other("kinesis", serde_json::Value::Null).is_err());
        let mut changed = a["kinesis"].clone();
        changed["data"] = json!("%%%");
        assert!(other("kinesis", changed).is_err());
        let window = event(json!({ "Records": [a], "window": { "start": "x", "end": "y" }, "state": {} })).batch();
        assert!(window.expect_err("refused").message().contains("TumblingWindowInSeconds"));
    }

    proptest! {
        #[test]
        fn payloads_come_out_as_they_were_put(
            data in proptest::collection::vec(any::<u8>(), 0..200),
            ms in 0..4_000_000_000_000i64,
        ) {
            let mut item = item("s-0", "7", &data);
            item["kinesis"]["approximateArrivalTimestamp"] = json!(ms as f64 / 1_000.0);
            let batch = batch(vec![item]).expect("reads").expect("a record");
            prop_assert_eq!(&batch.records[0].data[..], &data[..]);
            prop_assert_eq!(batch.records[0].arrival_us, ms * 1_000);
        }
    }
}
