//! Numbers to CloudWatch.
//!
//! CloudWatch adds up what it gets: a call whose answer was lost and that is made again counts twice. So it is not made again,
//! and a number may be missing; alarms should bear either. Nothing of the pipeline waits for it.
//!
//! Owns: calls within the limits, which failures are tried again. Does not own: the numbers (metering), when (the caller).

use std::time::Duration;

use aws_sdk_cloudwatch::Client;
use aws_sdk_cloudwatch::types::{Dimension, MetricDatum, StandardUnit, StatisticSet};
use aws_smithy_types::DateTime;
use sluicebox_actors::model::fault::{Fault, Result};

use super::metering::{Datum, Unit, Value};
use crate::client::AwsRuntime;
use crate::error::{Call, Class, classify};

/// Metrics of a call.
const METRICS_MAX: usize = 1000;
/// How often a call is made that was not done.
const TRIES: u32 = 3;
const PAUSE: Duration = Duration::from_millis(200);

/// The namespace of the source document.
pub const NAMESPACE: &str = "DataPipelines";

/// Metrics of one pipeline.
#[derive(Debug)]
pub struct CloudWatchMetrics {
    client: Client,
    io: AwsRuntime,
    namespace: String,
    pipeline: String,
}

/// What became of numbers.
#[derive(Debug)]
pub enum Published {
    /// They are there.
    Stored,
    /// Nobody knows: sending them again could count them twice.
    Unknown(Fault),
    /// They are not there.
    NotStored(Fault),
}

impl CloudWatchMetrics {
    /// Numbers with the dimension `Pipeline`. Calls nobody. A namespace that CloudWatch cannot have is a `Config` fault.
    pub fn new(client: &Client, io: AwsRuntime, namespace: &str, pipeline: &str) -> Result<Self> {
        let good = (1..=255).contains(&namespace.len())
            && namespace.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-/#: ".contains(&byte))
            && !namespace.starts_with("AWS/")
            && !namespace.starts_with(':');
        match good && !pipeline.is_empty() {
            true => {
                let (namespace, pipeline) = (namespace.to_owned(), pipeline.to_owned());
                Ok(Self { client: client.clone(), io, namespace, pipeline })
            }
            false => Err(Fault::config(format!(
                "{namespace:?} is no namespace of CloudWatch: up to 255 letters, digits and . _ - / #, not AWS/…"
            ))),
        }
    }

    /// Sends numbers of one moment. What is no number (NaN, infinite) is left out.
    pub async fn publish(&self, data: &[Datum], at_us: i64) -> Published {
        let data: Vec<MetricDatum> =
            data.iter().filter(|datum| datum.value.is_finite()).map(|datum| self.metric(datum, at_us)).collect();
        let mut unknown = None;
        for part in data.chunks(METRICS_MAX) {
            match self.put(part).await {
                Published::Stored => {}
                Published::Unknown(fault) => unknown = Some(fault),
                // Of several calls the earlier are done: all again would count those twice.
                Published::NotStored(fault) if data.len() > METRICS_MAX => unknown = Some(fault),
                Published::NotStored(fault) => return Published::NotStored(fault),
            }
        }
        unknown.map_or(Published::Stored, Published::Unknown)
    }

    async fn put(&self, part: &[MetricDatum]) -> Published {
        let mut attempt = 0;
        loop {
            let call = self.client.put_metric_data().namespace(&self.namespace).set_metric_data(Some(part.to_vec()));
            let error = match self.io.run(async move { Ok(call.send().await) }).await {
                Ok(Ok(_)) => return Published::Stored,
                Ok(Err(error)) => error,
                Err(fault) => return Published::Unknown(fault),
            };
            let fault = Call { service: "cloudwatch", operation: "PutMetricData", resource: "*" }.fault(&error);
            attempt += 1;
            match classify(&error) {
                Class::Throttled if attempt < TRIES => tokio::time::sleep(PAUSE * attempt).await,
                Class::Unavailable | Class::NoAnswer => return Published::Unknown(fault),
                Class::Throttled | Class::Denied | Class::Unconfigured | Class::NotFound | Class::Conflict | Class::Invalid => {
                    return Published::NotStored(fault);
                }
            }
        }
    }

    fn metric(&self, datum: &Datum, at_us: i64) -> MetricDatum {
        let unit = match datum.unit {
            Unit::Count => StandardUnit::Count,
            Unit::Bytes => StandardUnit::Bytes,
            Unit::Percent => StandardUnit::Percent,
            Unit::Milliseconds => StandardUnit::Milliseconds,
        };
        let pipeline = Dimension::builder().name("Pipeline").value(&self.pipeline).build();
        let metric = MetricDatum::builder().metric_name(datum.name).dimensions(pipeline).unit(unit);
        let metric = metric.timestamp(DateTime::from_millis(at_us.div_euclid(1000)));
        match datum.value {
            Value::One(value) => metric.value(value),
            Value::Many { count, sum, min, max } => {
                let set = StatisticSet::builder().sample_count(count).sum(sum).minimum(min).maximum(max).build();
                metric.statistic_values(set)
            }
        }
        .build()
    }
}
