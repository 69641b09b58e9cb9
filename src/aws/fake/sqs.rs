//! SQS in memory: batches with entries that fail, deduplication and order of FIFO queues, the limits.
//!
//! Every queue exists. What it has not: receiving; tests look at the messages.
//!
//! Owns: queues and what a batch does to them. Does not own: the socket (server).

use std::collections::{BTreeMap, BTreeSet};

use axum::response::Response;
use serde_json::{Value, json};

use crate::json;
use crate::server::{Call, Fake, Locked, Service};

const ENTRIES_MAX: usize = 10;
const BATCH_MAX: usize = 1 << 20;

/// An SQS on a loopback port. It ends when dropped.
pub type FakeSqs = Fake<State>;

/// A message in a queue.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message {
    /// Its body.
    pub body: String,
    /// Its attributes.
    pub attributes: BTreeMap<String, String>,
    /// Its group, in a FIFO queue.
    pub group: Option<String>,
}

/// What it holds.
#[derive(Default)]
pub struct State {
    queues: BTreeMap<String, Vec<Message>>,
    seen: BTreeSet<(String, String)>,
    fail: Vec<BTreeMap<usize, (bool, &'static str)>>,
    entries: u64,
}

impl FakeSqs {
    /// URL of a queue.
    pub fn queue_url(&self, name: &str) -> String {
        format!("{}/123456789012/{name}", self.url())
    }

    /// In the next batch, after those that were ordered before, the entries at these places fail with this code; the others are
    /// taken. `sender` says that it is the sender's fault.
    pub fn fail_entries(&self, places: impl IntoIterator<Item = usize>, sender: bool, code: &'static str) {
        self.lock().fail.push(places.into_iter().map(|place| (place, (sender, code))).collect());
    }

    /// All messages of a queue, in order of arrival.
    pub fn messages(&self, queue: &str) -> Vec<Message> {
        self.lock().queues.get(queue).cloned().unwrap_or_default()
    }

    /// Entries of all batches that were looked at so far.
    pub fn entries(&self) -> u64 {
        self.lock().entries
    }
}

impl Service for Locked<State> {
    fn operation(&self, call: &Call) -> String {
        json::operation(call)
    }

    fn answer(&self, operation: &str, call: &Call) -> Response {
        match (operation, serde_json::from_slice::<Value>(&call.body)) {
            ("SendMessageBatch", Ok(request)) => match self.lock().send(&request) {
                Ok(answer) => json::respond(200, &answer),
                Err((code, message)) => json::error(400, code, &message),
            },
            ("CreateQueue", Ok(_)) => json::respond(200, &json!({"QueueUrl": "unused"})),
            _ => json::error(400, "InvalidAction", "this fake sends batches of messages"),
        }
    }

    fn refusal(&self, status: u16, code: &str) -> Response {
        json::error(status, code, "ordered by the test")
    }

    fn throttled(&self) -> Response {
        json::error(400, "RequestThrottled", "slower")
    }
}

/// A whole batch is refused: code and words.
type Refused = (&'static str, String);

impl State {
    fn send(&mut self, request: &Value) -> Result<Value, Refused> {
        let queue = request["QueueUrl"].as_str().and_then(|url| url.rsplit('/').next()).unwrap_or_default().to_owned();
        let entries = request["Entries"].as_array().cloned().unwrap_or_default();
        if entries.is_empty() {
            return Err(("EmptyBatchRequest", "no entry".to_owned()));
        }
        if entries.len() > ENTRIES_MAX {
            return Err(("TooManyEntriesInBatchRequest", format!("{} entries", entries.len())));
        }
        let ids: BTreeSet<&str> = entries.iter().filter_map(|entry| entry["Id"].as_str()).collect();
        if ids.len() != entries.len() {
            return Err(("BatchEntryIdsNotDistinct", "an id stands there twice, or is missing".to_owned()));
        }
        let bytes: usize = entries.iter().map(size).sum();
        if bytes > BATCH_MAX {
            return Err(("BatchRequestTooLong", format!("{bytes} bytes")));
        }
        self.entries += entries.len() as u64;
        let fail = if self.fail.is_empty() { BTreeMap::new() } else { self.fail.remove(0) };
        let (mut failed, mut successful) = (Vec::new(), Vec::new());
        for (at, entry) in entries.iter().enumerate() {
            let body = entry["MessageBody"].as_str().unwrap_or_default();
            let wrong = match fail.get(&at) {
                Some(ordered) => Some(*ordered),
                None if body.is_empty() || !body.chars().all(is_allowed) => Some((true, "InvalidMessageContents")),
                None => None,
            };
            if let Some((sender, code)) = wrong {
                failed.push(json!({"Id": entry["Id"], "SenderFault": sender, "Code": code, "Message": "refused"}));
                continue;
            }
            self.keep(&queue, entry)?;
            successful.push(json!({"Id": entry["Id"], "MessageId": "m", "MD5OfMessageBody": md5_of(body)}));
        }
        Ok(json!({"Successful": successful, "Failed": failed}))
    }

    fn keep(&mut self, queue: &str, entry: &Value) -> Result<(), Refused> {
        let text = |field: &str| entry[field].as_str().map(str::to_owned);
        let (group, id) = (text("MessageGroupId"), text("MessageDeduplicationId"));
        if queue.ends_with(".fifo") {
            let (Some(_), Some(id)) = (&group, id) else {
                return Err(("MissingParameter", "a FIFO queue needs a group and a deduplication id".to_owned()));
            };
            if !self.seen.insert((queue.to_owned(), id)) {
                return Ok(());
            }
        }
        let attributes = entry["MessageAttributes"].as_object().into_iter().flatten();
        let attributes =
            attributes.map(|(name, value)| (name.clone(), value["StringValue"].as_str().unwrap_or_default().to_owned()));
        let body = text("MessageBody").unwrap_or_default();
        let message = Message { body, attributes: attributes.collect(), group };
        self.queues.entry(queue.to_owned()).or_default().push(message);
        Ok(())
    }
}

fn size(entry: &Value) -> usize {
    let of = |value: &Value| value.as_str().map_or(0, str::len);
    let attributes = entry["MessageAttributes"].as_object().into_iter().flatten();
    let attributes = attributes.map(|(name, value)| name.len() + of(&value["DataType"]) + of(&value["StringValue"]));
    of(&entry["MessageBody"]) + attributes.sum::<usize>()
}

/// The characters of XML 1.0.
fn is_allowed(letter: char) -> bool {
    matches!(letter, '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..)
}

/// The SDK looks at it.
fn md5_of(body: &str) -> String {
    use md5::{Digest, Md5};
    Md5::digest(body.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}
