//! Answers of services that speak JSON 1.0.
//!
//! Owns: the operation in the header, answers and errors on the wire. Does not own: what is answered (the services).

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use serde_json::{Value, json};

use crate::server::Call;

/// The operation a call asks for.
pub(crate) fn operation(call: &Call) -> String {
    call.header("x-amz-target").and_then(|target| target.rsplit('.').next()).unwrap_or("Unknown").to_owned()
}

/// An answer.
pub(crate) fn respond(status: u16, body: &Value) -> Response {
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or_default();
    let headers = response.headers_mut();
    headers.insert("content-type", HeaderValue::from_static("application/x-amz-json-1.0"));
    headers.insert("x-amzn-requestid", HeaderValue::from_static("FAKE-REQUEST-ID"));
    response
}

/// An error.
pub(crate) fn error(status: u16, code: &str, message: &str) -> Response {
    respond(status, &json!({"__type": format!("com.amazonaws.fake#{code}"), "message": message}))
}
