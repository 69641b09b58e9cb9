//! Errors in AWS's shape: a code, an HTTP status, a message.
//!
//! Owns: the codes this endpoint answers with and which fault becomes which. Does not own: when one is due (the operations).

use std::borrow::Cow;

use sluicebox_actors::model::fault::{Fault, Kind};

/// A refused request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct ApiError {
    /// AWS's name of the exception.
    pub(super) code: Cow<'static, str>,
    pub(super) status: u16,
    pub(super) message: String,
}

pub(super) type Answer<T> = Result<T, ApiError>;

impl ApiError {
    pub(super) fn new(code: impl Into<Cow<'static, str>>, status: u16, message: impl Into<String>) -> Self {
        Self { code: code.into(), status, message: message.into() }
    }

    /// A value that no stream would take: out of bounds, missing.
    pub(super) fn validation(message: impl Into<String>) -> Self {
        Self::new("ValidationException", 400, message)
    }

    /// A value that does not fit this stream.
    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new("InvalidArgumentException", 400, message)
    }

    pub(super) fn not_found(message: impl Into<String>) -> Self {
        Self::new("ResourceNotFoundException", 400, message)
    }

    pub(super) fn in_use(message: impl Into<String>) -> Self {
        Self::new("ResourceInUseException", 400, message)
    }

    pub(super) fn limit(message: impl Into<String>) -> Self {
        Self::new("LimitExceededException", 400, message)
    }

    pub(super) fn throttled(shard: &str) -> Self {
        Self::new("ProvisionedThroughputExceededException", 400, rate_exceeded(shard))
    }

    pub(super) fn internal(message: impl Into<String>) -> Self {
        Self::new("InternalFailure", 500, message)
    }

    pub(super) fn expired_iterator() -> Self {
        let message = "Iterator expired: an iterator lives for 5 minutes; get a new one after the last sequence number you read";
        Self::new("ExpiredIteratorException", 400, message)
    }
}

/// What Kinesis says about a shard that was asked for too much.
pub(super) fn rate_exceeded(shard: &str) -> String {
    format!("Rate exceeded for shard {shard}")
}

impl From<Fault> for ApiError {
    fn from(fault: Fault) -> Self {
        match fault.kind() {
            Kind::Config => Self::invalid(fault.to_string()),
            Kind::Retry | Kind::Poison | Kind::Fenced | Kind::Corrupt | Kind::Bug => {
                tracing::warn!(fault = %fault, "a request to the Kinesis endpoint failed");
                Self::internal(fault.to_string())
            }
        }
    }
}

impl From<serde_json::Error> for ApiError {
    fn from(error: serde_json::Error) -> Self {
        // Never the error's own text for a value: it may quote a piece of a record.
        let place = format!("line {}, column {}", error.line(), error.column());
        match error.classify() {
            serde_json::error::Category::Data => {
                Self::validation(format!("the request lacks a member, or one has the wrong type, at {place}"))
            }
            serde_json::error::Category::Io | serde_json::error::Category::Syntax | serde_json::error::Category::Eof => {
                Self::new("SerializationException", 400, format!("the request is not JSON, at {place}"))
            }
        }
    }
}
