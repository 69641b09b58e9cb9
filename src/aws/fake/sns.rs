//! SNS in memory: Publish, with its limits.
//!
//! Owns: notifications, forms and XML as far as Publish needs them. Does not own: the socket (server).

use std::collections::BTreeMap;

use axum::body::Body;
use axum::http::StatusCode;
use axum::response::Response;

use crate::server::{Call, Fake, Locked, Service};

const SUBJECT_MAX: usize = 100;
const MESSAGE_MAX: usize = 256 << 10;

/// An SNS on a loopback port. It ends when dropped.
pub type FakeSns = Fake<Notifications>;

/// What it holds.
#[derive(Default)]
pub struct Notifications(Vec<Notification>);

/// One notification.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Notification {
    /// ARN of the topic.
    pub topic: String,
    /// Its subject.
    pub subject: String,
    /// Its text.
    pub message: String,
}

impl FakeSns {
    /// All notifications, in order.
    pub fn notifications(&self) -> Vec<Notification> {
        self.lock().0.clone()
    }
}

fn form(body: &[u8]) -> BTreeMap<String, String> {
    let text = String::from_utf8_lossy(body);
    text.split('&').filter_map(|pair| pair.split_once('=')).map(|(name, value)| (decoded(name), decoded(value))).collect()
}

fn decoded(text: &str) -> String {
    let (bytes, mut out, mut at) = (text.as_bytes(), Vec::new(), 0);
    while let Some(byte) = bytes.get(at) {
        let coded = text.get(at + 1..at + 3).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (byte, coded) {
            (b'%', Some(code)) => {
                out.push(code);
                at += 3;
            }
            (b'+', _) => {
                out.push(b' ');
                at += 1;
            }
            (byte, _) => {
                out.push(*byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn xml(status: u16, body: String) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or_default();
    response.headers_mut().insert("content-type", axum::http::HeaderValue::from_static("text/xml"));
    response
}

impl Service for Locked<Notifications> {
    fn operation(&self, call: &Call) -> String {
        form(&call.body).remove("Action").unwrap_or_default()
    }

    fn answer(&self, _operation: &str, call: &Call) -> Response {
        let mut form = form(&call.body);
        let mut take = |name: &str| form.remove(name).unwrap_or_default();
        let sent = Notification { topic: take("TopicArn"), subject: take("Subject"), message: take("Message") };
        let subject =
            (1..=SUBJECT_MAX).contains(&sent.subject.len()) && sent.subject.bytes().all(|byte| matches!(byte, b' '..=b'~'));
        if !subject || sent.message.is_empty() || sent.message.len() > MESSAGE_MAX {
            return self.refusal(400, "InvalidParameter");
        }
        self.lock().0.push(sent);
        let result = "<PublishResult><MessageId>m</MessageId></PublishResult>";
        xml(200, format!("<PublishResponse xmlns=\"http://sns.amazonaws.com/doc/2010-03-31/\">{result}</PublishResponse>"))
    }

    fn refusal(&self, status: u16, code: &str) -> Response {
        let error = format!("<Error><Type>Sender</Type><Code>{code}</Code><Message>ordered by the test</Message></Error>");
        xml(status, format!("<ErrorResponse xmlns=\"http://sns.amazonaws.com/doc/2010-03-31/\">{error}</ErrorResponse>"))
    }

    fn throttled(&self) -> Response {
        self.refusal(400, "Throttling")
    }
}
