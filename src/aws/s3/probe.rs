//! Can this store be trusted? Asked once, before anything is written that counts on it.
//!
//! Owns: the probe of conditional writes, the check of the bucket's abort rules. Does not own: what is done without trust (the
//! caller refuses to start with several workers).

use std::time::Duration;

use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ExpirationStatus, LifecycleRule, LifecycleRuleFilter};
use bytes::Bytes;
use sluicebox_actors::model::fault::{Fault, Result};
use sluicebox_actors::ports::Clock;

use crate::error::{Class, classify, code};

use super::store::S3Store;

const DAY: Duration = Duration::from_secs(24 * 3600);

impl S3Store {
    /// Does the store honour `If-None-Match` and `If-Match`? One that does not lets two workers win: a `Config` fault. Writes
    /// one object of a random name and deletes it.
    pub async fn probe(&self, clock: &dyn Clock) -> Result<()> {
        let key = format!("probe/{:016x}", clock.random());
        let told = self.probe_at(&key).await;
        let deleted = self.delete(&key).await;
        told.and(deleted)
    }

    async fn probe_at(&self, key: &str) -> Result<()> {
        let put = |text: &'static str| {
            let body = ByteStream::from(Bytes::from_static(text.as_bytes()));
            self.client.put_object().bucket(&self.bucket).key(self.key(key)).body(body)
        };
        let calls = [
            ("If-None-Match", put("1").if_none_match("*"), true),
            ("If-None-Match", put("2").if_none_match("*"), false),
            ("If-Match", put("3").if_match("\"00000000000000000000000000000000\""), false),
        ];
        for (condition, call, must_pass) in calls {
            match self.ask(call.send()).await? {
                Ok(_) if must_pass => {}
                Ok(_) => {
                    return Err(Fault::config(format!(
                        "the store of bucket {} ignores {condition}: it refuses multi-worker mode, because \
                         two workers could both \
                         win. Use Amazon S3 or a store with conditional writes",
                        self.bucket
                    )));
                }
                Err(error) if !must_pass && classify(&error) == Class::Conflict => {}
                Err(error) => return Err(self.fault("PutObject", Some(key), &error)),
            }
        }
        Ok(())
    }

    /// Does a rule of the bucket abort uploads sooner than a worker may be down? That loses committed files: a `Config`
    /// fault. A rule that may not be read is a warning, returned as text.
    pub async fn check_lifecycle(&self, max_downtime: Duration) -> Result<Option<String>> {
        let call = self.client.get_bucket_lifecycle_configuration().bucket(&self.bucket);
        let rules = match self.ask(call.send()).await? {
            Ok(answer) => answer.rules.unwrap_or_default(),
            Err(error) if code(&error) == Some("NoSuchLifecycleConfiguration") => return Ok(None),
            Err(error) if classify(&error) == Class::Denied => {
                let fault = self.fault("GetBucketLifecycleConfiguration", None, &error);
                return Ok(Some(format!("whether the bucket aborts uploads too soon is unknown: {fault}")));
            }
            Err(error) => return Err(self.fault("GetBucketLifecycleConfiguration", None, &error)),
        };
        let wanted = max_downtime.as_secs().div_ceil(DAY.as_secs());
        for rule in rules.iter().filter(|rule| rule.status == ExpirationStatus::Enabled && self.concerns(rule)) {
            let days = rule.abort_incomplete_multipart_upload().and_then(|abort| abort.days_after_initiation());
            if let Some(days) = days.filter(|days| u64::try_from(*days).is_ok_and(|days| days < wanted)) {
                return Err(Fault::config(format!(
                    "rule {} of bucket {} aborts uploads after {days} days, but max_downtime is {wanted} days: files that are \
                     committed and not yet visible would be lost. Set DaysAfterInitiation to {wanted} or more, \
                     or lower max_downtime",
                    rule.id().unwrap_or("without a name"),
                    self.bucket
                )));
            }
        }
        Ok(None)
    }

    /// May a rule meet keys of ours? One of the prefixes then starts with the other.
    fn concerns(&self, rule: &LifecycleRule) -> bool {
        #[expect(deprecated, reason = "old rules still have their prefix there")]
        let prefix = rule.filter().and_then(LifecycleRuleFilter::prefix).or_else(|| rule.prefix()).unwrap_or_default();
        let own = self.key("");
        own.starts_with(prefix) || prefix.starts_with(&own)
    }
}
