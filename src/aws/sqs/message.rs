//! A letter as a message: what people and programs behind a queue are told of a record that was refused.
//!
//! `originalEvent` (the record as it came, if it is JSON; else `originalEventBase64`), `processingAttempts`,
//! `lastError{name,message,stack}`, `failedAt`, `sourceFunction`, `context{requestId,traceId}`, and ours under `sluicebox`. The
//! record is repeated byte by byte, not parsed and written anew: a number stays as long as it was. A message that would be too
//! long has no record but `pointer`, the file and line where the letter lies for good.
//!
//! Owns: that form, its bounds. Does not own: batches and calls (letters).

use serde::Serialize;
use serde_json::value::RawValue;
use sluicebox_actors::model::fault::{Fault, Kind, Result};
use sluicebox_actors::ports::PostedLetter;

use crate::revision::time_text;

/// Bytes of a message, attributes included, and of all messages of a batch: 1 MiB since 2025 (boto sqs,
/// `SendMessageBatch`: "both 1 MiB 1,048,576 bytes"). A queue may have a lower `MaximumMessageSize`.
pub const MESSAGE_MAX: usize = 1 << 20;

/// Characters of a text in a message that a record or its schema could make long.
const TEXT_MAX: usize = 8 << 10;

/// Texts that any letter of one pipeline has in common.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sender {
    /// Name of the pipeline.
    pub pipeline: String,
    /// Where the tables lie: `s3://bucket/prefix` or a directory.
    pub root: String,
}

/// A message to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Message {
    pub(super) body: String,
    pub(super) error: String,
    pub(super) arrived: String,
}

pub(super) const ERROR_TYPE: &str = "ErrorType";
pub(super) const ORIGINAL_TIMESTAMP: &str = "OriginalTimestamp";
const STRING: &str = "String";

impl Message {
    /// Bytes that count against the limit: body, and names, types and values of attributes.
    pub(super) fn bytes(&self) -> usize {
        let attributes = [(ERROR_TYPE, &self.error), (ORIGINAL_TIMESTAMP, &self.arrived)];
        self.body.len() + attributes.iter().map(|(name, value)| name.len() + STRING.len() + value.len()).sum::<usize>()
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    original_event: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    original_event_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pointer: Option<String>,
    processing_attempts: u32,
    last_error: LastError<'a>,
    failed_at: String,
    source_function: String,
    context: Context<'a>,
    sluicebox: Own<'a>,
}

#[derive(Serialize)]
struct LastError<'a> {
    name: &'a str,
    message: &'a str,
    stack: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Context<'a> {
    request_id: &'a str,
    trace_id: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Own<'a> {
    letter_id: String,
    stream: &'a str,
    shard: &'a str,
    sequence: String,
    sub_sequence: u32,
    stage: String,
    reason: &'a str,
    path: Option<&'a str>,
    partition_key: &'a str,
    arrival_time: String,
    first_failed_at: String,
    window_start: Option<String>,
    epoch: u64,
    file: &'a str,
    line: u64,
    version: &'a str,
}

/// A letter as a message of at most `max` bytes.
pub(super) fn message(posted: &PostedLetter, sender: &Sender, max: usize) -> Result<Message> {
    let data = &posted.letter.data;
    // Base64 and everything else only add to it.
    if data.len() < max {
        let json = std::str::from_utf8(data).ok().and_then(|text| serde_json::from_str::<&RawValue>(text).ok());
        let base64 = json.is_none().then(|| aws_smithy_types::base64::encode(data));
        let whole = build(posted, sender, json, base64, None)?;
        if whole.bytes() <= max {
            return Ok(whole);
        }
    }
    let pointer = format!("{}/{}#{}", sender.root.trim_end_matches('/'), posted.file, posted.line);
    let short = build(posted, sender, None, None, Some(pointer))?;
    match short.bytes() <= max {
        true => Ok(short),
        false => Err(Fault::bug(format!("a letter without its record is longer than the {max} bytes of a message"))),
    }
}

fn build(
    posted: &PostedLetter,
    sender: &Sender,
    original_event: Option<&RawValue>,
    original_event_base64: Option<String>,
    pointer: Option<String>,
) -> Result<Message> {
    let letter = &posted.letter;
    let arrived = time_text(letter.arrival_us);
    let stack: Vec<&str> = std::iter::once(letter.message.as_str()).chain(letter.causes.iter().map(String::as_str)).collect();
    let stack = format!("{}: {}", letter.error, stack.join("\n  caused by: "));
    let body = Body {
        original_event,
        original_event_base64,
        pointer,
        processing_attempts: letter.attempts,
        last_error: LastError { name: &letter.error, message: cut(&letter.message), stack: cut(&stack).to_owned() },
        failed_at: time_text(letter.last_failure_us),
        source_function: format!("{}/{}", sender.pipeline, letter.stage),
        context: Context { request_id: &letter.request_id, trace_id: letter.trace_id.as_deref().map(cut) },
        sluicebox: Own {
            letter_id: letter.id(),
            stream: &letter.stream,
            shard: letter.shard.as_str(),
            sequence: letter.sequence.to_string(),
            sub_sequence: letter.sub_sequence,
            stage: letter.stage.to_string(),
            reason: &letter.reason,
            path: letter.path.as_deref().map(cut),
            partition_key: cut(&letter.partition_key),
            arrival_time: arrived.clone(),
            first_failed_at: time_text(letter.first_failure_us),
            window_start: letter.window_start_us.map(time_text),
            epoch: letter.epoch,
            file: &posted.file,
            line: posted.line,
            version: &letter.version,
        },
    };
    let body = serde_json::to_string(&body).map_err(|error| Fault::caused(Kind::Bug, "a letter as JSON", &error))?;
    Ok(Message { body: for_sqs(body), error: letter.error.clone(), arrived })
}

/// SQS takes the characters of XML 1.0 alone. JSON text has the others (U+FFFE, U+FFFF) inside of strings only, where they may be
/// escaped.
fn for_sqs(body: String) -> String {
    match body.contains(['\u{fffe}', '\u{ffff}']) {
        true => body.replace('\u{fffe}', "\\ufffe").replace('\u{ffff}', "\\uffff"),
        false => body,
    }
}

fn cut(text: &str) -> &str {
    text.char_indices().nth(TEXT_MAX).map_or(text, |(end, _)| &text[..end])
}
