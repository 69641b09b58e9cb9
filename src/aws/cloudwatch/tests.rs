//! Goal: numbers arrive within CloudWatch's limits, are never counted twice by us, and no failure is more than a result.

use aws_sdk_cloudwatch::Client;
use serde_json::Value as Json;
use sluicebox_actors::model::fault::Kind;
use sluicebox_fakeaws::cloudwatch::FakeCloudWatch;
use sluicebox_fakeaws::faults::Fault as Trouble;

use super::metering::{Datum, Unit, Value};
use super::metrics::{CloudWatchMetrics, NAMESPACE, Published};
use crate::client::AwsRuntime;
use crate::fixtures::{CALL, config, emulator};

const AT_US: i64 = 1_780_000_000_000_000;

fn metrics_at(url: &str) -> CloudWatchMetrics {
    let client = Client::new(&config(url, CALL));
    CloudWatchMetrics::new(&client, AwsRuntime::current(), NAMESPACE, "orders").expect("a good namespace")
}

fn data(count: usize) -> Vec<Datum> {
    (0..count).map(|n| Datum { name: "RecordsReceived", unit: Unit::Count, value: Value::One(n as f64 + 0.5) }).collect()
}

fn metrics(call: &Json) -> &Vec<Json> {
    call["MetricData"].as_array().expect("a list")
}

#[tokio::test]
async fn numbers_have_the_dimension_pipeline_and_what_is_no_number_is_left_out() {
    let fake = FakeCloudWatch::start().await.expect("starts");
    let many = Value::Many { count: 2.0, sum: 30.0, min: 10.0, max: 20.0 };
    let none = Value::Many { count: 0.0, sum: 0.0, min: 0.0, max: 0.0 };
    let mut sent = data(1);
    sent.push(Datum { name: "ProcessingDuration", unit: Unit::Milliseconds, value: many });
    for value in [Value::One(f64::NAN), Value::One(f64::INFINITY), none] {
        sent.push(Datum { name: "SuccessRate", unit: Unit::Percent, value });
    }
    assert!(matches!(metrics_at(&fake.url()).publish(&sent, AT_US).await, Published::Stored));
    let call = &fake.calls()[0];
    assert_eq!((call["Namespace"].as_str(), metrics(call).len()), (Some("DataPipelines"), 2));
    let first = &metrics(call)[0];
    assert_eq!((first["MetricName"].as_str(), first["Value"].as_f64()), (Some("RecordsReceived"), Some(0.5)));
    assert_eq!(first["Dimensions"], serde_json::json!([{"Name": "Pipeline", "Value": "orders"}]));
    assert_eq!((first["Unit"].as_str(), first["Timestamp"].as_f64()), (Some("Count"), Some(1_780_000_000.0)));
    assert_eq!(metrics(call)[1]["StatisticValues"]["Maximum"].as_f64(), Some(20.0));
}

#[tokio::test]
async fn a_call_has_a_thousand_metrics_at_most() {
    let fake = FakeCloudWatch::start().await.expect("starts");
    assert!(matches!(metrics_at(&fake.url()).publish(&data(2500), AT_US).await, Published::Stored));
    assert_eq!(fake.calls().iter().map(|call| metrics(call).len()).collect::<Vec<_>>(), [1000, 1000, 500]);
    assert!(matches!(metrics_at(&fake.url()).publish(&[], AT_US).await, Published::Stored));
    assert_eq!(fake.calls().len(), 3, "nothing is no call");
}

#[tokio::test]
async fn a_throttled_call_is_made_again_and_one_whose_answer_was_lost_is_not() {
    let fake = FakeCloudWatch::start().await.expect("starts");
    let metrics = metrics_at(&fake.url());
    fake.faults().next("PutMetricData", 2, Trouble::Throttle);
    assert!(matches!(metrics.publish(&data(1), AT_US).await, Published::Stored));
    assert_eq!(fake.calls().len(), 1);
    fake.faults().next("PutMetricData", 1, Trouble::DropResponse);
    assert!(matches!(metrics.publish(&data(1), AT_US).await, Published::Unknown(_)));
    assert_eq!(fake.calls().len(), 2, "it was counted, once");
    fake.faults().next("PutMetricData", 3, Trouble::Throttle);
    assert!(matches!(metrics.publish(&data(1), AT_US).await, Published::NotStored(fault) if fault.kind() == Kind::Retry));
    fake.faults().next("PutMetricData", 1, Trouble::Status(403, "AccessDenied"));
    let Published::NotStored(fault) = metrics.publish(&data(1), AT_US).await else { panic!("may not") };
    assert!(fault.kind() == Kind::Config && fault.to_string().contains("cloudwatch:PutMetricData"), "{fault}");
    assert_eq!(fake.calls().len(), 2);
}

#[tokio::test]
async fn a_namespace_that_can_not_be_is_refused() {
    let client = Client::new(&config("http://127.0.0.1:1", CALL));
    for bad in ["", "AWS/Kinesis", "a\nb", ":a"] {
        let made = CloudWatchMetrics::new(&client, AwsRuntime::current(), bad, "p");
        assert_eq!(made.expect_err(bad).kind(), Kind::Config);
    }
}

#[tokio::test]
async fn an_emulator_takes_numbers_too() {
    let Some(url) = emulator("SLUICEBOX_TEST_CLOUDWATCH_URL") else { return };
    let now_us = (std::fs::metadata("/proc/self").expect("is there").modified().expect("has a time"))
        .duration_since(std::time::UNIX_EPOCH)
        .expect("after 1970");
    let now_us = i64::try_from(now_us.as_micros()).expect("fits");
    let told = metrics_at(&url).publish(&data(300), now_us).await;
    assert!(matches!(told, Published::Stored), "{told:?}");
    let listed = Client::new(&config(&url, CALL)).list_metrics().namespace(NAMESPACE).send().await.expect("lists");
    assert!(listed.metrics().iter().any(|metric| metric.metric_name() == Some("RecordsReceived")));
}
