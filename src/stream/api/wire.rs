//! Requests as they come over the wire.
//!
//! Owns: the members of every request but those that carry records. Does not own: records (put), what a request does (the
//! operations).

use serde::{Deserialize, Serialize};

use super::error::{Answer, ApiError};

/// Members of every operation's request: each operation takes those it knows and, as AWS does, passes over the others.
#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Request {
    pub(super) stream_name: Option<String>,
    #[serde(rename = "StreamARN")]
    pub(super) stream_arn: Option<String>,
    pub(super) shard_id: Option<String>,
    pub(super) shard_iterator: Option<String>,
    pub(super) shard_iterator_type: Option<String>,
    pub(super) starting_sequence_number: Option<String>,
    /// Seconds since 1970.
    pub(super) timestamp: Option<f64>,
    pub(super) limit: Option<i64>,
    pub(super) max_results: Option<i64>,
    pub(super) next_token: Option<String>,
    pub(super) exclusive_start_shard_id: Option<String>,
    pub(super) exclusive_start_stream_name: Option<String>,
    pub(super) shard_filter: Option<ShardFilter>,
    pub(super) shard_count: Option<i64>,
    pub(super) target_shard_count: Option<i64>,
    pub(super) shard_to_split: Option<String>,
    pub(super) new_starting_hash_key: Option<String>,
    pub(super) shard_to_merge: Option<String>,
    pub(super) adjacent_shard_to_merge: Option<String>,
    pub(super) retention_period_hours: Option<i64>,
    #[serde(rename = "MaxRecordSizeInKiB")]
    pub(super) max_record_kib: Option<i64>,
    pub(super) consumer_name: Option<String>,
    #[serde(rename = "ConsumerARN")]
    pub(super) consumer_arn: Option<String>,
    pub(super) enforce_consumer_deletion: Option<bool>,
    pub(super) starting_position: Option<StartingPosition>,
}

/// Which shards of a stream a listing is about.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ShardFilter {
    #[serde(rename = "Type")]
    pub(super) kind: String,
    pub(super) shard_id: Option<String>,
    /// Seconds since 1970.
    pub(super) timestamp: Option<f64>,
}

/// Where a subscription begins.
#[derive(Deserialize, Clone, PartialEq, Debug)]
#[serde(rename_all = "PascalCase")]
pub(super) struct StartingPosition {
    #[serde(rename = "Type")]
    pub(super) kind: String,
    pub(super) sequence_number: Option<String>,
    /// Seconds since 1970.
    pub(super) timestamp: Option<f64>,
}

/// A member that must be there.
pub(super) fn required<'a, T: ?Sized + 'a>(value: &'a Option<impl std::borrow::Borrow<T>>, name: &str) -> Answer<&'a T> {
    value.as_ref().map(std::borrow::Borrow::borrow).ok_or_else(|| missing(name))
}

/// What is said when a member is not there.
pub(super) fn missing(name: &str) -> ApiError {
    ApiError::validation(format!("Value null at '{name}' failed to satisfy constraint: Member must not be null"))
}

/// A number within bounds, or the one that stands for it.
pub(super) fn bounded(value: Option<i64>, name: &str, default: i64, max: i64) -> Answer<usize> {
    let value = value.unwrap_or(default);
    if value < 1 || value > max {
        return Err(ApiError::validation(format!(
            "Value '{value}' at '{name}' failed to satisfy constraint: it must be 1 to {max}"
        )));
    }
    Ok(value as usize)
}

/// Seconds since 1970 as microseconds.
pub(super) fn micros(seconds: f64) -> Answer<i64> {
    if !seconds.is_finite() || seconds.abs() > 1e11 {
        return Err(ApiError::invalid("Timestamp is not seconds since 1970"));
    }
    Ok((seconds * 1e6).round() as i64)
}

/// Microseconds as seconds since 1970, in milliseconds as Kinesis has them.
pub(super) fn seconds(micros: i64) -> f64 {
    micros.div_euclid(1000) as f64 / 1e3
}

/// A hash key: decimal, below 2^128.
pub(super) fn hash_key(text: &str, name: &str) -> Answer<u128> {
    let fine = !text.is_empty() && text.len() <= 39 && text.bytes().all(|b| b.is_ascii_digit());
    if !fine || (text.len() > 1 && text.starts_with('0')) {
        return Err(ApiError::validation(format!("'{name}' must be a decimal number without leading zeros")));
    }
    text.parse().map_err(|_too_large| ApiError::invalid(format!("'{name}' must be below 2^128")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hash_keys_are_decimal_numbers_below_2_to_the_128() {
        assert_eq!(hash_key("0", "k"), Ok(0));
        assert_eq!(hash_key("340282366920938463463374607431768211455", "k"), Ok(u128::MAX));
        let code = |text: &str| hash_key(text, "k").expect_err("refused").code;
        assert_eq!(code("340282366920938463463374607431768211456"), "InvalidArgumentException");
        for text in ["", "01", "-1", "+1", "1e3", "3402823669209384634633746074317682114550"] {
            assert_eq!(code(text), "ValidationException", "{text}");
        }
    }

    #[test]
    fn times_keep_their_milliseconds_both_ways() {
        for millis in [0, 1, 1_763_900_000_123, 4_102_444_799_999] {
            assert_eq!(micros(seconds(millis * 1000)), Ok(millis * 1000));
        }
        assert!(micros(f64::NAN).is_err() && micros(1e300).is_err());
    }
}
