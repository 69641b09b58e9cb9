//! Goal: clients of fakes and emulators for the tests of this package.

use std::sync::Once;
use std::time::Duration;

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_dynamodb::config::{Credentials, SharedCredentialsProvider};
use aws_smithy_types::retry::RetryConfig;
use aws_smithy_types::timeout::TimeoutConfig;

/// How long a call may take in tests; a fake answers in a millisecond, an emulator on a busy machine in a second.
pub(crate) const CALL: Duration = Duration::from_secs(10);

/// For clients of whatever listens there; no retries of the SDK's own.
pub(crate) fn config(url: &str, call: Duration) -> SdkConfig {
    SdkConfig::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .region(Region::new("us-east-1"))
        .endpoint_url(url)
        .credentials_provider(SharedCredentialsProvider::new(Credentials::new("test", "test", None, None, "tests")))
        .retry_config(RetryConfig::disabled())
        .timeout_config(TimeoutConfig::builder().operation_attempt_timeout(call).build())
        .build()
}

/// Address of an emulator, if the tests were told of one.
pub(crate) fn emulator(variable: &'static str) -> Option<String> {
    static SAID: Once = Once::new();
    let url = std::env::var(variable).ok();
    if url.is_none() {
        SAID.call_once(|| eprintln!("{variable} is not set: the contract ran against the fake alone"));
    }
    url
}
