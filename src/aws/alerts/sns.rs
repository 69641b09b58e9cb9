//! Alerts to an SNS topic: mails, pagers, chat.
//!
//! Owns: subject, text and attributes of a notification. Does not own: how often, and trying again (the caller).

use async_trait::async_trait;
use aws_sdk_sns::Client;
use aws_sdk_sns::types::MessageAttributeValue;
use sha2::{Digest, Sha256};
use sluicebox_actors::model::fault::{Fault, Kind, Result};
use sluicebox_actors::ports::{Alert, AlertSink};

use crate::client::AwsRuntime;
use crate::error::Call;
use crate::revision::time_text;

/// Characters of a subject: SNS takes up to 100, in ASCII, without line breaks.
const SUBJECT_MAX: usize = 100;
/// Characters of a text: SNS takes 256 KiB, in UTF-8.
const TEXT_MAX: usize = 60_000;

/// An SNS topic.
#[derive(Debug)]
pub struct SnsAlerts {
    client: Client,
    io: AwsRuntime,
    topic: String,
    pipeline: String,
}

impl SnsAlerts {
    /// Alerts of a pipeline to the topic with this ARN. Calls nobody.
    pub fn new(client: &Client, io: AwsRuntime, topic: &str, pipeline: &str) -> Result<Self> {
        if !topic.starts_with("arn:") || topic.split(':').count() != 6 {
            let help = "write arn:aws:sns:REGION:ACCOUNT:NAME";
            return Err(Fault::config(format!("{topic:?} is no ARN of an SNS topic: {help}")));
        }
        Ok(Self { client: client.clone(), io, topic: topic.to_owned(), pipeline: pipeline.to_owned() })
    }
}

#[async_trait]
impl AlertSink for SnsAlerts {
    fn name(&self) -> &str {
        "sns"
    }

    async fn raise(&self, alert: &Alert) -> Result<()> {
        let subject: String = format!("sluicebox {}: {} {}", self.pipeline, alert.name, alert.subject()).trim().to_owned();
        let subject = subject.chars().map(|letter| if matches!(letter, ' '..='~') { letter } else { '?' });
        let text = format!("{}\npipeline: {}\nat: {}", alert.text(), self.pipeline, time_text(alert.at_us));
        let name = MessageAttributeValue::builder().data_type("String").string_value(&alert.name).build();
        let name = name.map_err(|error| Fault::caused(Kind::Bug, "an attribute of a notification", &error))?;
        let call = self.client.publish().topic_arn(&self.topic).message_attributes("alert", name);
        let call = call.subject(subject.take(SUBJECT_MAX).collect::<String>());
        let call = call.message(text.chars().take(TEXT_MAX).collect::<String>());
        let call = match self.topic.ends_with(".fifo") {
            true => {
                let id = Sha256::digest(format!("{text}{}", alert.at_us).as_bytes());
                let id: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
                call.message_group_id("alerts").message_deduplication_id(id)
            }
            false => call,
        };
        let told = self.io.run(async move { Ok(call.send().await) }).await?;
        told.map(|_| ()).map_err(|error| Call { service: "sns", operation: "Publish", resource: &self.topic }.fault(&error))
    }
}
