//! Who watches a run from outside: numbers to CloudWatch, alerts to topics and webhooks.
//!
//! Owns: from settings to observers, their common end. Does not own: what they do (metrics, alerts).

use std::sync::Arc;
use std::time::Duration;

use sluicebox_actors::model::fault::Result;
use sluicebox_actors::ports::{AlertSink, Clock};
use sluicebox_actors::toolkit::board::Board;
use sluicebox_aws::alerts::sns::SnsAlerts;
use sluicebox_aws::alerts::webhook::Webhook;
use sluicebox_aws::client::{self, AwsRuntime};
use sluicebox_aws::cloudwatch::metrics::CloudWatchMetrics;
use sluicebox_aws::http::HttpClient;

use crate::alerts::{self, Alerting, Tap};
use crate::metrics::{self, Measuring};
use crate::settings::Settings;
use crate::{run, source};

/// How long one call to a webhook may take.
const WEBHOOK: Duration = Duration::from_secs(10);

/// All observers of a run.
#[derive(Default)]
pub struct Observers {
    alerting: Option<Alerting>,
    cloudwatch: Option<CloudWatchMetrics>,
    measuring: Option<Measuring>,
    // The connections of both; last, so that it ends after them.
    io: Option<AwsRuntime>,
}

impl Observers {
    /// Starts those that the settings name: none by default, and then nothing at all is started. Alerts are told from here on.
    pub fn start(settings: &Settings, clock: Arc<dyn Clock>) -> Result<Self> {
        let (watched, told) = (&settings.metrics, &settings.alerts);
        if !watched.cloudwatch && told.sns_topic.is_empty() && told.webhook.is_empty() {
            return Ok(Self::default());
        }
        let (io, pipeline) = (AwsRuntime::start()?, settings.pipeline.name.as_str());
        let mut observers = Self { io: Some(io.clone()), ..Self::default() };
        let mut sinks: Vec<Arc<dyn AlertSink>> = Vec::new();
        if !told.webhook.is_empty() {
            sinks.push(Arc::new(Webhook::new(HttpClient::new(io.clone(), WEBHOOK), &told.webhook, pipeline)?));
        }
        if watched.cloudwatch || !told.sns_topic.is_empty() {
            let config = run::block_on(client::load(&source::client(settings)))??;
            if !told.sns_topic.is_empty() {
                let client = aws_sdk_sns::Client::new(&config);
                sinks.push(Arc::new(SnsAlerts::new(&client, io.clone(), &told.sns_topic, pipeline)?));
            }
            if watched.cloudwatch {
                let client = aws_sdk_cloudwatch::Client::new(&config);
                observers.cloudwatch = Some(CloudWatchMetrics::new(&client, io.clone(), &watched.namespace, pipeline)?);
            }
        }
        if !sinks.is_empty() {
            observers.alerting = Some(alerts::start(&Tap::of_process(), sinks, &io, clock));
        }
        Ok(observers)
    }

    /// Numbers are sent from here on.
    pub fn watch(&mut self, settings: &Settings, board: Arc<Board>, clock: Arc<dyn Clock>) {
        if let (Some(cloudwatch), Some(io)) = (self.cloudwatch.take(), &self.io) {
            let interval = Duration::from_micros(settings.metrics.interval.us().unsigned_abs());
            self.measuring = Some(metrics::start(board, cloudwatch, interval, io, clock));
        }
    }

    /// The last alerts and numbers of a run that is over.
    pub fn finish(self) -> Result<()> {
        let Self { alerting, measuring, io, cloudwatch: _ } = self;
        if io.is_none() {
            return Ok(());
        }
        run::block_on(async move {
            if let Some(measuring) = measuring {
                measuring.finish().await;
            }
            if let Some(alerting) = alerting {
                alerting.finish().await;
            }
            drop(io);
        })
    }
}
