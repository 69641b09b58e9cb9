//! Goal: invocations reach a bootstrap as they do in Lambda, by a Runtime API of our own or by an emulator's.

use std::collections::{BTreeMap, VecDeque};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use serde_json::Value;
use sluicebox::clock::SystemClock;
use sluicebox_actors::ports::Clock;
use tokio::sync::Notify;

/// What comes back.
pub(super) enum Reply {
    Answer(Value),
    Error(#[expect(dead_code, reason = "for whoever looks at a failed test")] String),
}

/// Who hands events to bootstraps.
pub(super) enum Caller {
    Own(Own),
    /// `HOST:PORT` of lambda_rie.py, or of anything that answers as it does.
    Emulator(String),
}

/// A Runtime API in this process.
pub(super) struct Own {
    address: String,
    desk: Arc<Desk>,
}

#[derive(Default)]
struct Desk {
    waiting: Mutex<VecDeque<(u64, Bytes, i64)>>,
    running: Mutex<BTreeMap<u64, Sender<Reply>>>,
    last: Mutex<u64>,
    came: Notify,
}

impl Caller {
    pub(super) fn own() -> Self {
        let (tell, address) = channel();
        let desk = Arc::<Desk>::default();
        let shared = desk.clone();
        // It ends with the test's process.
        std::thread::spawn(move || {
            let serve = async move {
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
                tell.send(listener.local_addr().unwrap().to_string()).unwrap();
                let router = Router::new()
                    .route("/2018-06-01/runtime/invocation/next", get(next))
                    .route("/2018-06-01/runtime/invocation/{id}/{what}", post(answered))
                    .layer(axum::extract::DefaultBodyLimit::disable())
                    .with_state(shared);
                axum::serve(listener, router).await.unwrap();
            };
            sluicebox::run::block_on(serve).unwrap();
        });
        Self::Own(Own { address: address.recv().unwrap(), desk })
    }

    /// What `AWS_LAMBDA_RUNTIME_API` has to be.
    pub(super) fn address(&self) -> &str {
        match self {
            Self::Own(own) => &own.address,
            Self::Emulator(address) => address,
        }
    }

    /// Hands an event over.
    pub(super) fn invoke(&self, event: &Value, timeout: Duration) -> Receiver<Reply> {
        let (tell, reply) = channel();
        match self {
            Self::Own(own) => {
                let id = {
                    let mut last = own.desk.last.lock().unwrap();
                    *last += 1;
                    *last
                };
                let deadline_ms = SystemClock.now_us() / 1_000 + timeout.as_millis() as i64;
                own.desk.running.lock().unwrap().insert(id, tell);
                own.desk.waiting.lock().unwrap().push_back((id, event.to_string().into(), deadline_ms));
                own.desk.came.notify_one();
            }
            Self::Emulator(address) => {
                let (address, event) = (address.clone(), event.to_string());
                // A caller that waits for a bootstrap which has died waits until the time is over: nobody waits for it.
                std::thread::spawn(move || drop(tell.send(posted(&address, &event, timeout))));
            }
        }
        reply
    }
}

async fn next(State(desk): State<Arc<Desk>>) -> ([(&'static str, String); 4], Bytes) {
    let (id, event, deadline_ms) = loop {
        if let Some(event) = desk.waiting.lock().unwrap().pop_front() {
            break event;
        }
        desk.came.notified().await;
    };
    let headers = [
        ("lambda-runtime-aws-request-id", id.to_string()),
        ("lambda-runtime-deadline-ms", deadline_ms.to_string()),
        ("lambda-runtime-invoked-function-arn", "arn:aws:lambda:us-east-1:000000000000:function:f".to_owned()),
        ("lambda-runtime-trace-id", "Root=1-0".to_owned()),
    ];
    (headers, event)
}

async fn answered(State(desk): State<Arc<Desk>>, Path((id, what)): Path<(u64, String)>, body: Bytes) -> StatusCode {
    let Some(tell) = desk.running.lock().unwrap().remove(&id) else { return StatusCode::BAD_REQUEST };
    let text = || String::from_utf8_lossy(&body).into_owned();
    // The test may have ended.
    drop(tell.send(if what == "response" {
        Reply::Answer(serde_json::from_slice(&body).unwrap())
    } else {
        Reply::Error(text())
    }));
    StatusCode::ACCEPTED
}

/// As Lambda's Invoke, by hand.
fn posted(address: &str, event: &str, timeout: Duration) -> Reply {
    let mut stream = TcpStream::connect(address).unwrap();
    let (length, timeout_ms) = (event.len(), timeout.as_millis());
    write!(
        stream,
        "POST /2015-03-31/functions/f/invocations HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\
         X-Timeout-Ms: {timeout_ms}\r\n\
         Content-Length: {length}\r\n\r\n{event}"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    if head.to_ascii_lowercase().contains("x-amz-function-error") {
        return Reply::Error(body.to_owned());
    }
    Reply::Answer(serde_json::from_str(body).unwrap())
}
