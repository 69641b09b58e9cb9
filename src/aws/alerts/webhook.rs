//! Alerts by POST: whatever takes JSON. `text` is what chats show; the rest is for programs.
//!
//! The address of a webhook is its password: no fault and no log line shows more than its host.
//!
//! Owns: the JSON, what an answer means. Does not own: HTTP (http), how often, and trying again (the caller).

use async_trait::async_trait;
use serde_json::{Map, Value, json};
use sluicebox_actors::model::fault::{Fault, Result};
use sluicebox_actors::ports::{Alert, AlertSink};

use crate::http::{Address, HttpClient};
use crate::revision::time_text;

/// A place that takes alerts.
#[derive(Debug)]
pub struct Webhook {
    http: HttpClient,
    to: Address,
    pipeline: String,
}

impl Webhook {
    /// Alerts of a pipeline to this address. Calls nobody.
    pub fn new(http: HttpClient, url: &str, pipeline: &str) -> Result<Self> {
        Ok(Self { http, to: Address::parse(url)?, pipeline: pipeline.to_owned() })
    }
}

#[async_trait]
impl AlertSink for Webhook {
    fn name(&self) -> &str {
        "webhook"
    }

    async fn raise(&self, alert: &Alert) -> Result<()> {
        let fields = alert.fields.iter().map(|(name, value)| (name.clone(), Value::from(value.as_str())));
        let body = json!({
            "text": format!("sluicebox {}: {}: {}", self.pipeline, alert.name, alert.text()),
            "alert": alert.name,
            "pipeline": self.pipeline,
            "message": alert.message,
            "at": time_text(alert.at_us),
            "repeated": alert.repeated,
            "fields": fields.collect::<Map<String, Value>>(),
        });
        let headers = [("content-type", "application/json".to_owned())];
        let answer = self.http.post(&self.to, &headers, body.to_string().into_bytes()).await?;
        match answer.status {
            200..300 => Ok(()),
            408 | 425 | 429 | 500.. => Err(Fault::retry(format!("the webhook at {} answers HTTP {}", self.to, answer.status))),
            status => Err(Fault::config(format!("the webhook at {} answers HTTP {status}: correct alerts.webhook", self.to))),
        }
    }
}
