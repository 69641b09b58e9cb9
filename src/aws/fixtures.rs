//! Goal: clients of fakes and emulators for the tests of this package, and revisions to hand over.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Once};
use std::time::Duration;

use arrow_array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_dynamodb::config::{Credentials, SharedCredentialsProvider};
use aws_smithy_types::retry::RetryConfig;
use aws_smithy_types::timeout::TimeoutConfig;
use sluicebox_actors::model::fault::Kind;
use sluicebox_actors::model::row::WindowStatus;
use sluicebox_actors::model::window::Window;
use sluicebox_actors::ports::{Fed, GoldRevision, GoldSink};

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

/// One row of [`revision`]: country, events, amount.
pub(crate) type Line = (Option<String>, i64, Option<f64>);

/// A revision of the Gold table `by_country` with rows of (country, events, amount), and countries that are gone.
pub(crate) fn revision(version: u64, rows: &[Line], removed: &[Option<String>]) -> GoldRevision {
    let window = Window { start_us: 1_780_000_000_000_000, end_us: 1_780_003_600_000_000 };
    let times = |us| -> ArrayRef { Arc::new(TimestampMicrosecondArray::from(vec![us; rows.len()]).with_timezone("UTC")) };
    let countries: ArrayRef = Arc::new(rows.iter().map(|row| row.0.clone()).collect::<StringArray>());
    let events: ArrayRef = Arc::new(rows.iter().map(|row| row.1).collect::<Int64Array>());
    let amounts: ArrayRef = Arc::new(rows.iter().map(|row| row.2).collect::<Float64Array>());
    let columns = [
        ("window_start", times(window.start_us)),
        ("window_end", times(window.end_us)),
        ("country", countries),
        ("events", events),
        ("amount", amounts),
    ];
    let gone: ArrayRef = Arc::new(removed.iter().cloned().collect::<StringArray>());
    GoldRevision {
        table: "by_country".into(),
        window,
        version,
        revision: version,
        status: WindowStatus::Closed,
        rows: RecordBatch::try_from_iter_with_nullable(columns.map(|(name, array)| (name, array, true))).expect("columns fit"),
        keys: ["country".to_owned()].into(),
        removed: RecordBatch::try_from_iter_with_nullable([("country", gone, true)]).expect("columns fit"),
    }
}

/// A country of [`revision`] by number; 0 is NULL and 1 is the empty text.
pub(crate) fn country(number: u8) -> Option<String> {
    match number {
        0 => None,
        1 => Some(String::new()),
        _ => Some(format!("C{number} =,\"\\ü")),
    }
}

/// What of all revisions is true in the end: newest version, events and amount by country; none where the newest is a tombstone.
pub(crate) type Truth = BTreeMap<Option<String>, (u64, Option<(i64, Option<f64>)>)>;

/// Rows of each revision in turn as (country, events): versions count from 1, and what a revision no longer has is removed by it.
pub(crate) fn history(script: &[BTreeMap<u8, i64>]) -> (Vec<GoldRevision>, Truth) {
    let (mut revisions, mut truth, mut shown) = (Vec::new(), Truth::new(), BTreeSet::new());
    for (version, rows) in (1..).zip(script) {
        let lines: Vec<Line> =
            rows.iter().map(|(number, events)| (country(*number), *events, (events % 2 == 0).then_some(0.5))).collect();
        let live: BTreeSet<Option<String>> = lines.iter().map(|line| line.0.clone()).collect();
        let removed: Vec<Option<String>> = shown.difference(&live).cloned().collect();
        truth.extend(lines.iter().map(|(country, events, amount)| (country.clone(), (version, Some((*events, *amount))))));
        truth.extend(removed.iter().map(|country| (country.clone(), (version, None))));
        shown.extend(live);
        revisions.push(revision(version, &lines, &removed));
    }
    (revisions, truth)
}

/// Hands a revision over until it is taken.
pub(crate) async fn feed_until_taken(sink: &dyn GoldSink, revision: &GoldRevision) -> Fed {
    for _ in 0..50 {
        match sink.feed(revision).await {
            Ok(fed) => return fed,
            Err(fault) => assert_eq!(fault.kind(), Kind::Retry, "{fault}"),
        }
    }
    panic!("fifty tries and still not taken")
}
