//! Whatever takes a POST with JSON.
//!
//! Owns: the bodies. Does not own: the socket (server).

use axum::body::Body;
use axum::http::{Method, StatusCode};
use axum::response::Response;
use serde_json::Value;

use crate::server::{Call, Fake, Locked, Service};

/// A webhook on a loopback port. It ends when dropped.
pub type FakeWebhook = Fake<Bodies>;

/// What it holds.
#[derive(Default)]
pub struct Bodies(Vec<Value>);

impl FakeWebhook {
    /// All bodies, in order.
    pub fn bodies(&self) -> Vec<Value> {
        self.lock().0.clone()
    }
}

impl Service for Locked<Bodies> {
    fn operation(&self, _call: &Call) -> String {
        "post".to_owned()
    }

    fn answer(&self, _operation: &str, call: &Call) -> Response {
        let json = call.header("content-type") == Some("application/json");
        match serde_json::from_slice(&call.body) {
            Ok(body) if json && call.method == Method::POST => {
                self.lock().0.push(body);
                Response::new(Body::from("ok"))
            }
            Ok(_) | Err(_) => self.refusal(400, "a POST of JSON"),
        }
    }

    fn refusal(&self, status: u16, code: &str) -> Response {
        let mut response = Response::new(Body::from(code.to_owned()));
        *response.status_mut() = StatusCode::from_u16(status).unwrap_or_default();
        response
    }

    fn throttled(&self) -> Response {
        self.refusal(429, "slower")
    }
}
