//! Who watches from outside: numbers to CloudWatch, alerts to topics and webhooks; beside a run, or after each invocation.
//!
//! Owns: from settings to observers, their common end, how long an invocation waits for them. Does not own: what they do
//! (metrics, alerts).

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sluicebox_actors::model::fault::Result;
use sluicebox_actors::ports::{AlertSink, Clock};
use sluicebox_actors::toolkit::board::Board;
use sluicebox_aws::alerts::sns::SnsAlerts;
use sluicebox_aws::alerts::webhook::Webhook;
use sluicebox_aws::client::{self, AwsRuntime};
use sluicebox_aws::cloudwatch::metrics::CloudWatchMetrics;
use sluicebox_aws::http::HttpClient;
use sluicebox_lambda::function::Observer;

use crate::alerts::{self, Alerting, Tap};
use crate::metrics::{self, Counting, Measuring};
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

    /// Beside a process that is frozen between its pieces of work, none of which may count on the next one.
    pub fn between_invocations(self, clock: Arc<dyn Clock>) -> Settling {
        let Self { alerting, cloudwatch, measuring: _, io } = self;
        let counting = cloudwatch.zip(io.as_ref()).map(|(cloudwatch, io)| metrics::count(cloudwatch, io, clock));
        Settling { alerting, counting, _io: io }
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

/// Observers of invocations: each tells what it raised and what it did before it answers.
pub struct Settling {
    alerting: Option<Alerting>,
    counting: Option<Counting>,
    // The connections of both; last, so that it ends after them.
    _io: Option<AwsRuntime>,
}

#[async_trait]
impl Observer for Settling {
    async fn settle(&self, board: &Board, time: Duration) {
        let alerts = async {
            if let Some(alerting) = &self.alerting {
                alerting.flush().await;
            }
        };
        let numbers = async {
            if let Some(counting) = &self.counting {
                counting.send(board).await;
            }
        };
        // Side by side: a service that is away takes from the other no more time than both have.
        let told = tokio::time::timeout(time, async { tokio::join!(alerts, numbers) }).await;
        if told.is_err() {
            // What is under way or waits is frozen with the process and goes on with the next invocation, if there is one.
            tracing::warn!(?time, "not all alerts and numbers of this invocation were told in time; alerts stand in the log");
        }
    }
}

#[cfg(test)]
mod tests {
    use sluicebox_fakeaws::faults::Fault as Trouble;
    use sluicebox_fakeaws::webhook::FakeWebhook;
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;
    use crate::clock::SystemClock;

    #[tokio::test]
    async fn an_invocation_waits_for_its_alerts_within_its_time_and_the_next_one_tells_what_is_left() {
        let fake = FakeWebhook::start().await.expect("starts");
        let (io, tap) = (AwsRuntime::current(), Tap::default());
        let hook = Webhook::new(HttpClient::new(io.clone(), WEBHOOK), &fake.url(), "p").expect("an address");
        let alerting = alerts::start(&tap, vec![Arc::new(hook)], &io, Arc::new(SystemClock));
        let settling = Settling { alerting: Some(alerting), counting: None, _io: Some(io) };
        let logs = tracing_subscriber::registry().with(tap.layer());
        tracing::subscriber::with_default(logs, || tracing::error!(alert = "breaker", shard = "shard-0", "a storm"));
        fake.faults().next("post", 1, Trouble::Delay(Duration::from_millis(300)));
        settling.settle(&Board::default(), Duration::ZERO).await;
        settling.settle(&Board::default(), Duration::from_secs(60)).await;
        let told: Vec<_> = fake.bodies().iter().map(|body| body["alert"].clone()).collect();
        assert_eq!((told, fake.faults().left()), (vec!["breaker".into()], 0));
    }

    #[tokio::test]
    async fn where_nobody_watches_an_invocation_waits_for_nobody() {
        let settling = Observers::default().between_invocations(SystemClock::shared());
        settling.settle(&Board::default(), Duration::ZERO).await;
    }
}
