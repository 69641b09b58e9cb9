//! Letters in an SQS queue.
//!
//! A standard queue may bring a letter twice (a lost answer, a crash) and in any order; `sluicebox.letterId` tells. A FIFO queue
//! leaves the second out within five minutes (deduplication id = hash of the letter's id) and keeps the order of a shard
//! (message group = shard), except around an entry that failed while later ones of its batch were taken.
//!
//! Owns: batches within the limits, partial failures. Does not own: the message (message), when a letter is handed on
//! (machines/feed).

use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::{BatchResultErrorEntry, MessageAttributeValue, SendMessageBatchRequestEntry};
use sha2::{Digest, Sha256};
use sluicebox_actors::model::fault::{Fault, Kind, Result};
use sluicebox_actors::ports::{Fed, LetterSink, PostedLetter};

use super::message::{self, ERROR_TYPE, MESSAGE_MAX, Message, ORIGINAL_TIMESTAMP, Sender};
use crate::client::AwsRuntime;
use crate::error::{Call, Class, classify, of_answer};
use crate::revision;

/// Entries of a batch.
const ENTRIES_MAX: usize = 10;
/// How often a batch, or what is left of it, is sent before the letters are given back.
const TRIES: u32 = 4;

/// First pause before entries are sent again.
pub const PAUSE: Duration = Duration::from_millis(50);

/// What a sink is made with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SqsOptions {
    /// Name in the settings.
    pub name: String,
    /// URL of the queue; one that ends in `.fifo` is a FIFO queue.
    pub queue_url: String,
    /// What the messages say of their sender.
    pub sender: Sender,
    /// Bytes of a message: [`MESSAGE_MAX`], or less if the queue takes less.
    pub message_max: usize,
    /// Pause before entries are sent again; doubles each time. [`PAUSE`] unless a test knows better.
    pub pause: Duration,
}

/// A sink of letters.
#[derive(Debug)]
pub struct SqsLetters {
    client: Client,
    io: AwsRuntime,
    options: SqsOptions,
}

impl SqsLetters {
    /// Calls nobody.
    pub fn new(client: &Client, io: AwsRuntime, options: SqsOptions) -> Result<Self> {
        let name = options.queue_url.rsplit('/').next().unwrap_or_default();
        if !options.queue_url.starts_with("http") || name.is_empty() {
            return Err(Fault::config(format!(
                "sink {}: {:?} is no URL of a queue: write what `aws sqs get-queue-url` says",
                options.name, options.queue_url
            )));
        }
        if !(1024..=MESSAGE_MAX).contains(&options.message_max) {
            let (name, given) = (&options.name, options.message_max);
            return Err(Fault::config(format!("sink {name}: messages of {given} bytes: write 1024 to {MESSAGE_MAX}")));
        }
        Ok(Self { client: client.clone(), io, options })
    }

    fn is_fifo(&self) -> bool {
        self.options.queue_url.ends_with(".fifo")
    }

    /// `https://sqs.REGION.amazonaws.com/ACCOUNT/NAME` as an ARN, for the IAM statement of a fault.
    fn arn(&self) -> String {
        let mut parts = self.options.queue_url.rsplit('/');
        let (name, account) = (parts.next().unwrap_or("*"), parts.next().unwrap_or("*"));
        let region =
            parts.next().and_then(|host| host.split('.').nth(1)).filter(|_| self.options.queue_url.contains("amazonaws"));
        format!("arn:aws:sqs:{}:{account}:{name}", region.unwrap_or("*"))
    }

    fn entry(&self, at: usize, posted: &PostedLetter, message: Message) -> Result<SendMessageBatchRequestEntry> {
        let text = |value: String| {
            let value = MessageAttributeValue::builder().data_type("String").string_value(value).build();
            value.map_err(|error| Fault::caused(Kind::Bug, "an attribute of a message", &error))
        };
        let entry = SendMessageBatchRequestEntry::builder().id(at.to_string()).message_body(message.body);
        let entry = entry.message_attributes(ERROR_TYPE, text(message.error)?);
        let mut entry = entry.message_attributes(ORIGINAL_TIMESTAMP, text(message.arrived)?);
        if self.is_fifo() {
            let id: String = Sha256::digest(posted.letter.id().as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
            entry = entry.message_deduplication_id(id).message_group_id(posted.letter.shard.as_str());
        }
        entry.build().map_err(|error| Fault::caused(Kind::Bug, "an entry of a batch", &error))
    }

    /// Sends a batch until every entry is taken, or refused for good.
    async fn settle(&self, mut open: Vec<SendMessageBatchRequestEntry>) -> Result<Fed> {
        let (mut fed, mut last) = (Fed { stored: open.len() as u64, ..Fed::default() }, None);
        for attempt in 0..TRIES {
            if attempt > 0 {
                tokio::time::sleep(self.options.pause * (1 << (attempt - 1))).await;
            }
            let call = self.client.send_message_batch().queue_url(&self.options.queue_url).set_entries(Some(open.clone()));
            match self.io.run(async move { Ok(call.send().await) }).await? {
                Ok(answer) => {
                    let (refused, failed): (Vec<_>, Vec<_>) = answer.failed().iter().partition(|entry| entry.sender_fault());
                    for entry in refused {
                        self.is_the_letters(entry)?;
                        fed.stored -= 1;
                        revision::refuse(&mut fed, entry.code(), 1);
                    }
                    open.retain(|entry| failed.iter().any(|failed| failed.id() == entry.id()));
                    if open.is_empty() {
                        return Ok(fed);
                    }
                    last = failed.first().map(|entry| entry.code().to_owned());
                }
                Err(error) => {
                    let fault = Call { service: "sqs", operation: "SendMessageBatch", resource: &self.arn() }.fault(&error);
                    match classify(&error) {
                        Class::Throttled | Class::Unavailable | Class::NoAnswer if attempt + 1 < TRIES => {}
                        Class::Throttled
                        | Class::Unavailable
                        | Class::NoAnswer
                        | Class::Denied
                        | Class::Unconfigured
                        | Class::NotFound
                        | Class::Conflict
                        | Class::Invalid => return Err(fault),
                    }
                }
            }
        }
        let code = last.unwrap_or_default();
        Err(Fault::retry(format!("sqs SendMessageBatch of {}: {} entries failed with {code}", self.arn(), open.len())))
    }

    /// Does it lie at this one letter, and at no setting and no passing trouble, that the queue refuses an entry?
    fn is_the_letters(&self, entry: &BatchResultErrorEntry) -> Result<()> {
        let (code, words) = (entry.code(), entry.message().unwrap_or_default());
        let told = format!("sqs SendMessageBatch of {}: an entry was refused with {code}", self.arn());
        let settings = || Err(Fault::config(format!("{told}: look at the queue: its MaximumMessageSize, its policy, its key")));
        match of_answer(Some(code), 400) {
            Class::Denied | Class::Unconfigured | Class::NotFound => settings(),
            Class::Throttled | Class::Unavailable | Class::NoAnswer | Class::Conflict => Err(Fault::retry(told)),
            // The queue's own MaximumMessageSize is a setting of somebody's.
            Class::Invalid if words.contains("must be shorter than") || words.contains("MaximumMessageSize") => settings(),
            Class::Invalid => Ok(()),
        }
    }
}

#[async_trait]
impl LetterSink for SqsLetters {
    fn name(&self) -> &str {
        &self.options.name
    }

    async fn send(&self, letters: &[PostedLetter]) -> Result<Fed> {
        let mut fed = Fed::default();
        let (mut batch, mut bytes) = (Vec::with_capacity(ENTRIES_MAX), 0);
        for posted in letters {
            let message = message::message(posted, &self.options.sender, self.options.message_max)?;
            let more = message.bytes();
            if batch.len() == ENTRIES_MAX || bytes + more > MESSAGE_MAX {
                revision::add(&mut fed, self.settle(std::mem::take(&mut batch)).await?);
                bytes = 0;
            }
            bytes += more;
            batch.push(self.entry(batch.len(), posted, message)?);
        }
        if !batch.is_empty() {
            revision::add(&mut fed, self.settle(batch).await?);
        }
        Ok(fed)
    }
}
