//! Whatever takes a POST with JSON.
//!
//! Owns: the bodies. Does not own: the socket (server).

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Body;
use axum::http::{Method, StatusCode};
use axum::response::Response;
use serde_json::Value;

use crate::faults::FaultPlan;
use crate::server::{Call, Server, Service};

/// A webhook on a loopback port. It ends when dropped.
pub struct FakeWebhook {
    server: Server,
    store: Arc<Store>,
    faults: Arc<FaultPlan>,
}

#[derive(Default)]
struct Store(Mutex<Vec<Value>>);

impl FakeWebhook {
    /// Starts one.
    pub async fn start() -> io::Result<Self> {
        let (store, faults) = (Arc::new(Store::default()), Arc::new(FaultPlan::default()));
        let server = Server::start(store.clone(), faults.clone()).await?;
        Ok(Self { server, store, faults })
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        self.server.url()
    }

    /// What shall go wrong; its operation is `post`.
    pub fn faults(&self) -> &FaultPlan {
        &self.faults
    }

    /// All bodies, in order.
    pub fn bodies(&self) -> Vec<Value> {
        self.store.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Service for Store {
    fn operation(&self, _call: &Call) -> String {
        "post".to_owned()
    }

    fn answer(&self, _operation: &str, call: &Call) -> Response {
        let json = call.header("content-type") == Some("application/json");
        match serde_json::from_slice(&call.body) {
            Ok(body) if json && call.method == Method::POST => {
                self.0.lock().unwrap_or_else(PoisonError::into_inner).push(body);
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
