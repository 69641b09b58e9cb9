//! `[metrics]` and `[alerts]`: who is told how a run is doing.
//!
//! Owns: their keys, defaults and contradictions. Does not own: the telling (metrics, alerts).

use serde::{Deserialize, Serialize};

use super::check::Findings;
use super::{Interval, Settings};

/// `[metrics]`
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Metrics {
    /// Send numbers to CloudWatch?
    pub cloudwatch: bool,
    /// CloudWatch's namespace of them.
    pub namespace: String,
    /// How often.
    pub interval: Interval,
}

/// `[alerts]`
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Alerts {
    /// ARN of an SNS topic; empty = none.
    pub sns_topic: String,
    /// An address that takes JSON by POST; empty = none.
    pub webhook: String,
}

impl Default for Metrics {
    fn default() -> Self {
        Self { cloudwatch: false, namespace: "DataPipelines".to_owned(), interval: Interval::from_secs(60) }
    }
}

impl Settings {
    pub(super) fn check_observers(&self, findings: &mut Findings) {
        let (metrics, alerts) = (&self.metrics, &self.alerts);
        if metrics.interval < Interval::from_secs(1) {
            let message = format!("numbers every {} cost more than they say", metrics.interval);
            findings.add("metrics.interval", message, "write 1s or more; CloudWatch keeps minutes, \"60s\"");
        }
        if metrics.cloudwatch && (metrics.namespace.trim().is_empty() || metrics.namespace.starts_with("AWS/")) {
            let message = format!("`{}` can't be a namespace of yours in CloudWatch", metrics.namespace);
            findings.add("metrics.namespace", message, "write a name such as \"DataPipelines\"; AWS/… is Amazon's");
        }
        if !alerts.sns_topic.is_empty() && (!alerts.sns_topic.starts_with("arn:") || alerts.sns_topic.split(':').count() != 6) {
            let message = format!("`{}` is no ARN of an SNS topic", alerts.sns_topic);
            findings.add("alerts.sns_topic", message, "write arn:aws:sns:REGION:ACCOUNT:NAME");
        }
        if !alerts.webhook.is_empty() && !is_http(&alerts.webhook) {
            // The address may be a secret.
            let help = "write http://HOST/PATH or https://HOST/PATH, best as SLUICEBOX__ALERTS__WEBHOOK in the environment";
            findings.add("alerts.webhook", "this is no address of HTTP", help);
        }
    }
}

fn is_http(address: &str) -> bool {
    let host = ["http://", "https://"].iter().find_map(|scheme| address.strip_prefix(scheme));
    host.is_some_and(|host| !host.is_empty() && !host.starts_with('/')) && address.bytes().all(|byte| byte.is_ascii_graphic())
}
