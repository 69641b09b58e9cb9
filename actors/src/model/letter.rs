//! A dead letter: a record that could not be accounted as an event, kept whole with the reason.
//!
//! Owns: stages, the letter's fields and its JSON form. Does not own: why a record is rejected (engine, machines), where
//! letters lie (src/store).

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::position::{Sequence, ShardId};
use super::record::RawRecord;

/// Which step refused the record.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Stage {
    /// Not one JSON value in UTF-8 within the structural limits.
    Decode,
    /// JSON, but not what the schema asks for.
    Contract,
    /// The event time is missing, unreadable, out of range or in the future.
    Time,
    /// The Silver statement failed on it.
    Silver,
    /// It came too late for this Gold table (it IS in Silver).
    Gold(Arc<str>),
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Decode => f.write_str("decode"),
            Self::Contract => f.write_str("contract"),
            Self::Time => f.write_str("time"),
            Self::Silver => f.write_str("silver"),
            Self::Gold(table) => write!(f, "gold:{table}"),
        }
    }
}

impl std::str::FromStr for Stage {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "decode" => Ok(Self::Decode),
            "contract" => Ok(Self::Contract),
            "time" => Ok(Self::Time),
            "silver" => Ok(Self::Silver),
            other => match other.strip_prefix("gold:") {
                Some(table) => Ok(Self::Gold(table.into())),
                None => Err(format!("unknown stage `{other}`")),
            },
        }
    }
}

impl Serialize for Stage {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Stage {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        std::borrow::Cow::<'de, str>::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Reason code of records that the process died of: whoever decodes one again may die again.
pub const CRASHES_WORKER: &str = "crashes_worker";

/// What an engine says of one record it refuses. Never holds a value of the record: `path` and `message` name places and rules.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rejection {
    /// Index of the record in the slice.
    pub index: u32,
    /// Which step refused it.
    pub stage: Stage,
    /// A code from the documented list (`invalid_json`, `missing_field`, `number_range`, …).
    pub reason: &'static str,
    /// JSON path of the offending member (`$.properties.amount`), where one is to blame.
    pub path: Option<String>,
    /// One sentence: the rule that was broken.
    pub message: String,
    /// Further causes, outermost first.
    pub causes: Vec<String>,
}

/// A dead letter. Identity: (stream, shard, sequence, sub_sequence, stage).
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Letter {
    /// Name of the stream.
    pub stream: Arc<str>,
    /// Shard of the record.
    pub shard: ShardId,
    /// Sequence number of the record.
    pub sequence: Sequence,
    /// Place inside a KPL aggregate.
    pub sub_sequence: u32,
    /// Partition key as text.
    pub partition_key: String,
    /// Arrival, microseconds since 1970.
    pub arrival_us: i64,
    /// Which step refused it.
    pub stage: Stage,
    /// Reason code.
    pub reason: String,
    /// Name of the error type, as the source document's `lastError.name`.
    pub error: String,
    /// The rule that was broken, without values.
    pub message: String,
    /// Cause chain, outermost first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<String>,
    /// JSON path of the offending member.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// For `too_late`: start of the window, microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window_start_us: Option<i64>,
    /// For `too_late`: the bound that judged it, microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bound_us: Option<i64>,
    /// Epoch of the shard that accounts for it.
    pub epoch: u64,
    /// How often processing was tried.
    pub attempts: u32,
    /// First failure, microseconds, by the owner's clock.
    pub first_failure_us: i64,
    /// Last failure, microseconds, by the owner's clock.
    pub last_failure_us: i64,
    /// Fingerprint of the pipeline's configuration.
    pub fingerprint: Arc<str>,
    /// Version of the program.
    pub version: Arc<str>,
    /// Id of the run that wrote it.
    pub request_id: Arc<str>,
    /// Trace id carried by the record, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    /// The record's bytes, unchanged (base64 in JSON).
    #[serde(with = "base64_bytes")]
    pub data: bytes::Bytes,
}

impl Letter {
    /// Bytes it is charged for while in flight.
    pub fn weight(&self) -> usize {
        self.data.len() + self.partition_key.len() + 512
    }

    /// `stream/shard/sequence/sub/stage`: what `dlq show` takes.
    pub fn id(&self) -> String {
        format!("{}/{}/{}/{}/{}", self.stream, self.shard, self.sequence, self.sub_sequence, self.stage)
    }
}

impl fmt::Debug for Letter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ({} bytes)", self.id(), self.reason, self.data.len())
    }
}

/// What every letter of one run has in common.
#[derive(Clone, Debug)]
pub struct Postmark {
    /// Fingerprint of the pipeline's configuration.
    pub fingerprint: Arc<str>,
    /// Version of the program.
    pub version: Arc<str>,
    /// Id of the run.
    pub request_id: Arc<str>,
}

impl Postmark {
    /// Puts a rejected record into a letter.
    pub fn letter(
        &self,
        stream: &Arc<str>,
        shard: &ShardId,
        record: &RawRecord,
        rejection: Rejection,
        epoch: u64,
        now_us: i64,
    ) -> Letter {
        Letter {
            stream: stream.clone(),
            shard: shard.clone(),
            sequence: record.sequence,
            sub_sequence: record.sub_sequence,
            partition_key: record.partition_key_str().into_owned(),
            arrival_us: record.arrival_us,
            error: error_name(&rejection.stage).to_owned(),
            stage: rejection.stage,
            reason: rejection.reason.to_owned(),
            message: rejection.message,
            causes: rejection.causes,
            path: rejection.path,
            window_start_us: None,
            bound_us: None,
            epoch,
            attempts: 1,
            first_failure_us: now_us,
            last_failure_us: now_us,
            fingerprint: self.fingerprint.clone(),
            version: self.version.clone(),
            request_id: self.request_id.clone(),
            trace_id: None,
            data: record.data.clone(),
        }
    }
}

fn error_name(stage: &Stage) -> &'static str {
    match stage {
        Stage::Decode => "DecodeError",
        Stage::Contract => "ContractError",
        Stage::Time => "EventTimeError",
        Stage::Silver => "SilverError",
        Stage::Gold(_) => "LatenessError",
    }
}

/// Base64 (RFC 4648, padded), so that a letter holds any bytes and stays one line of JSON.
mod base64_bytes {
    use serde::{Deserialize, Deserializer, Serializer};

    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

    pub(super) fn serialize<S: Serializer>(data: &bytes::Bytes, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&encode(data))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bytes::Bytes, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        decode(&text).map(Into::into).ok_or_else(|| serde::de::Error::custom("data is not base64"))
    }

    pub(super) fn encode(data: &[u8]) -> String {
        let mut out = String::with_capacity(data.len().div_ceil(3) * 4);
        for chunk in data.chunks(3) {
            let word = chunk.iter().fold(0u32, |word, byte| (word << 8) | u32::from(*byte)) << (8 * (3 - chunk.len()));
            for i in 0..4 {
                if i <= chunk.len() {
                    out.push(char::from(ALPHABET[((word >> (18 - 6 * i)) & 63) as usize]));
                } else {
                    out.push('=');
                }
            }
        }
        out
    }

    pub(super) fn decode(text: &str) -> Option<Vec<u8>> {
        if !text.len().is_multiple_of(4) {
            return None;
        }
        let body = text.trim_end_matches('=');
        if text.len() - body.len() > 2 {
            return None;
        }
        let mut out = Vec::with_capacity(text.len() / 4 * 3);
        let (mut word, mut bits) = (0u32, 0);
        for byte in body.bytes() {
            let value = ALPHABET.iter().position(|letter| *letter == byte)? as u32;
            word = (word << 6) | value;
            bits += 6;
            if bits >= 8 {
                bits -= 8;
                out.push((word >> bits) as u8);
                word &= (1 << bits) - 1;
            }
        }
        Some(out)
    }

    #[cfg(test)]
    mod tests {
        use proptest::prelude::*;

        #[test]
        fn the_examples_of_rfc_4648_come_out_as_printed_there() {
            for (plain, coded) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
                assert_eq!(super::encode(plain.as_bytes()), coded);
            }
        }

        proptest! {
            #[test]
            fn any_bytes_come_back(data: Vec<u8>) {
                prop_assert_eq!(super::decode(&super::encode(&data)), Some(data));
            }
        }
    }
}
