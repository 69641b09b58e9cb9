//! HTTP: from a request to an operation and back.
//!
//! Owns: headers, bodies, the carrying out of faults that concern a whole call, the paths beside the API. Does not own: what an
//! operation does (api and the operations), which fault is due (fault).

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request as HttpRequest, State};
use axum::http::header::{CONTENT_TYPE, DATE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::Response;
use axum::routing::{get, post};
use bytes::Bytes;
use futures_util::stream;
use serde_json::json;

use crate::database::lock;

use super::error::{Answer, ApiError};
use super::fault::{Decision, FaultPlan};
use super::streams::stream_name;
use super::token::ShardIterator;
use super::wire::Request;
use super::{Shared, blocking, subscribe};

const JSON: &str = "application/x-amz-json-1.1";
const EVENT_STREAM: &str = "application/vnd.amazon.eventstream";
// 10 MiB of payload in base64, and 500 records' keys and names around it.
const BODY_MAX: usize = 16 << 20;
// A plan is written by hand.
const PLAN_MAX: usize = 1 << 20;

pub(super) fn router(shared: Arc<Shared>) -> Router {
    let router = Router::new().route("/", post(api));
    let router =
        if shared.faults_allowed { router.route("/__fault", post(set_faults)).route("/__state", get(state)) } else { router };
    router.with_state(shared)
}

async fn api(State(shared): State<Arc<Shared>>, request: HttpRequest) -> Response {
    let reply = match answer(&shared, request).await {
        Ok(Reply::Json(body)) => reply(StatusCode::OK, JSON, Body::from(body)),
        Ok(Reply::Events(body)) => reply(StatusCode::OK, EVENT_STREAM, body),
        Ok(Reply::Dropped) => return broken(),
        Err(error) => {
            let body = json!({ "__type": error.code, "message": error.message });
            let status = StatusCode::from_u16(error.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            let mut reply = reply(status, JSON, Body::from(body.to_string()));
            if let Ok(code) = HeaderValue::from_str(&error.code) {
                reply.headers_mut().insert("x-amzn-errortype", code);
            }
            reply
        }
    };
    stamped(&shared, reply)
}

enum Reply {
    Json(Vec<u8>),
    Events(Body),
    Dropped,
}

async fn answer(shared: &Arc<Shared>, request: HttpRequest) -> Answer<Reply> {
    let operation = operation(request.headers())?;
    let body = to_bytes(request.into_body(), BODY_MAX)
        .await
        .map_err(|_| ApiError::new("RequestEntityTooLargeException", 413, format!("a request has at most {BODY_MAX} bytes")))?;
    let decision = decide(shared, &operation, &body);
    if !decision.delay.is_zero() {
        tokio::time::sleep(decision.delay).await;
    }
    if decision.drop_request {
        return Ok(Reply::Dropped);
    }
    if let Some(refused) = decision.refuse {
        return Err(refused);
    }
    if decision.trim_now {
        trim_now(shared.clone(), &operation, body.clone()).await?;
    }
    if operation == "SubscribeToShard" {
        return subscribe::subscribe(shared.clone(), body, &decision).await.map(Reply::Events);
    }
    let (worker, drop_reply) = (shared.clone(), decision.drop_reply);
    let answer = blocking(move || worker.answer(&operation, &body, &decision)).await;
    if drop_reply { Ok(Reply::Dropped) } else { answer.map(Reply::Json) }
}

fn operation(headers: &HeaderMap) -> Answer<String> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if text("content-type").contains("cbor") {
        return Err(ApiError::new(
            "SerializationException",
            400,
            "this endpoint speaks JSON only: start a Java SDK with -Daws.cborEnabled=false (or AWS_CBOR_DISABLE=1)",
        ));
    }
    let target = text("x-amz-target").strip_prefix("Kinesis_20131202.").unwrap_or_default();
    if target.is_empty() || target.len() > 64 || !target.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Err(ApiError::new("UnknownOperationException", 400, "X-Amz-Target must be Kinesis_20131202.<Operation>"));
    }
    Ok(target.to_owned())
}

/// What the plan has for this call, which is counted.
fn decide(shared: &Shared, operation: &str, body: &[u8]) -> Decision {
    let mut faults = lock(&shared.faults);
    faults.count(operation);
    if !faults.any() {
        return Decision::default();
    }
    let (stream, shard) = subject(body);
    faults.decide(operation, stream.as_deref(), shard.as_deref())
}

/// The stream and the shard that a request is about.
fn subject(body: &[u8]) -> (Option<String>, Option<String>) {
    let request: Request = serde_json::from_slice(body).unwrap_or_default();
    if let Some(iterator) = request.shard_iterator.as_deref().and_then(|token| ShardIterator::decode(token).ok()) {
        return (Some(iterator.stream), Some(iterator.shard.as_str().to_owned()));
    }
    let arn = request.stream_arn.as_deref().or(request.consumer_arn.as_deref());
    let stream = stream_name(request.stream_name.as_deref(), arn).ok().map(str::to_owned);
    (stream, request.shard_id.or(request.shard_to_split).or(request.shard_to_merge))
}

async fn trim_now(shared: Arc<Shared>, operation: &str, body: Bytes) -> Answer<()> {
    let (Some(stream), _) = subject(&body) else {
        return Err(ApiError::invalid(format!("trim_now: {operation} names no stream")));
    };
    blocking(move || shared.streams.get(&stream)?.trim(i64::MAX).map(|_| ())).await
}

async fn set_faults(State(shared): State<Arc<Shared>>, request: HttpRequest) -> Response {
    let plan = async {
        let body = to_bytes(request.into_body(), PLAN_MAX).await.map_err(|error| error.to_string())?;
        let plan: FaultPlan = serde_json::from_slice(&body).map_err(|error| error.to_string())?;
        lock(&shared.faults).set(plan).map_err(|fault| fault.to_string())
    };
    let (status, body) = match plan.await {
        Ok(()) => (StatusCode::OK, lock(&shared.faults).state()),
        Err(message) => (StatusCode::BAD_REQUEST, json!({ "message": message })),
    };
    stamped(&shared, reply(status, "application/json", Body::from(body.to_string())))
}

async fn state(State(shared): State<Arc<Shared>>) -> Response {
    let state = lock(&shared.faults).state();
    stamped(&shared, reply(StatusCode::OK, "application/json", Body::from(state.to_string())))
}

fn reply(status: StatusCode, kind: &'static str, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// A body that fails before its first byte makes the connection break without an answer.
fn broken() -> Response {
    let failing = stream::iter([Err::<Bytes, _>(std::io::Error::other("the fault plan breaks this connection"))]);
    Response::new(Body::from_stream(failing))
}

fn stamped(shared: &Shared, mut response: Response) -> Response {
    let (high, low) = (shared.clock.random(), shared.clock.random());
    let id = format!(
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        high >> 32,
        (high >> 16) & 0xffff,
        high & 0xffff,
        low >> 48,
        low & 0xffff_ffff_ffff
    );
    let headers = response.headers_mut();
    for (name, value) in [("x-amzn-requestid", id), (DATE.as_str(), http_date(shared.clock.now_us()))] {
        if let (Ok(name), Ok(value)) = (axum::http::HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(&value)) {
            headers.insert(name, value);
        }
    }
    response
}

/// The form of a `Date` header. Readers take it for the service's clock, so it must be ours.
fn http_date(now_us: i64) -> String {
    let seconds = now_us.div_euclid(1_000_000);
    let (day, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Days since 1970 to a date: Howard Hinnant's algorithm over 400-year eras that begin in March.
    let shifted = day + 719_468;
    let (era, of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * of_year + 2) / 153;
    let date = of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let weekday = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"][day.rem_euclid(7) as usize];
    let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{weekday}, {date:02} {} {year:04} {hour:02}:{minute:02}:{second:02} GMT", months[(month - 1) as usize])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_have_the_form_of_http() {
        for (seconds, text) in [
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT"),
            (1_763_900_000, "Sun, 23 Nov 2025 12:13:20 GMT"),
            (4_102_444_799, "Thu, 31 Dec 2099 23:59:59 GMT"),
        ] {
            assert_eq!(http_date(seconds * 1_000_000), text);
        }
    }
}
