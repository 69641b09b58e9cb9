//! Goal: an alert reaches its topic or webhook within the limits, and what can't be reached is told by what to do about it.

use aws_sdk_sns::Client;
use sluicebox_actors::model::fault::Kind;
use sluicebox_actors::ports::{Alert, AlertSink};
use sluicebox_fakeaws::faults::Fault as Trouble;
use sluicebox_fakeaws::sns::FakeSns;
use sluicebox_fakeaws::webhook::FakeWebhook;

use super::sns::SnsAlerts;
use super::webhook::Webhook;
use crate::client::AwsRuntime;
use crate::fixtures::{CALL, config, emulator};
use crate::http::HttpClient;

const TOPIC: &str = "arn:aws:sns:us-east-1:123456789012:alerts";

fn alert(shard: &str) -> Alert {
    Alert {
        name: "quarantine".into(),
        message: "shard given up".into(),
        fields: vec![("fault".into(), "disk full".into()), ("shard".into(), shard.into())],
        at_us: 1_780_000_000_000_000,
        repeated: 3,
    }
}

fn sns_at(url: &str, topic: &str) -> SnsAlerts {
    SnsAlerts::new(&Client::new(&config(url, CALL)), AwsRuntime::current(), topic, "orders").expect("an ARN")
}

#[tokio::test]
async fn a_topic_gets_subject_and_text_within_the_limits_of_sns() {
    let fake = FakeSns::start().await.expect("starts");
    let sns = sns_at(&fake.url(), TOPIC);
    sns.raise(&alert("shard-1")).await.expect("tells");
    sns.raise(&alert(&"ü\n".repeat(100_000))).await.expect("cuts");
    let told = fake.notifications();
    assert_eq!((told[0].topic.as_str(), told[0].subject.as_str()), (TOPIC, "sluicebox orders: quarantine shard-1"));
    let lines: Vec<&str> = told[0].message.lines().collect();
    let expected = [
        "shard given up",
        "fault: disk full",
        "shard: shard-1",
        "(3 more like it since the last message)",
        "pipeline: orders",
        "at: 2026-05-28T20:26:40Z",
    ];
    assert_eq!(lines, expected);
    assert_eq!((told.len(), told[1].subject.len()), (2, 100));
    fake.faults().next("Publish", 1, Trouble::Status(403, "AuthorizationError"));
    let fault = sns.raise(&alert("s")).await.expect_err("may not");
    assert!(fault.kind() == Kind::Config && fault.to_string().contains("sns:Publish"), "{fault}");
    fake.faults().next("Publish", 1, Trouble::Throttle);
    assert_eq!(sns.raise(&alert("s")).await.expect_err("slower").kind(), Kind::Retry);
    assert!(SnsAlerts::new(&Client::new(&config(&fake.url(), CALL)), AwsRuntime::current(), "alerts", "p").is_err());
}

#[tokio::test]
async fn a_webhook_gets_json_and_its_address_stays_secret() {
    let fake = FakeWebhook::start().await.expect("starts");
    let http = HttpClient::new(AwsRuntime::current(), CALL);
    let hook = Webhook::new(http, &format!("{}/services/s3cret", fake.url()), "orders").expect("an address");
    hook.raise(&alert("shard-1")).await.expect("tells");
    let body = &fake.bodies()[0];
    assert_eq!((&body["alert"], &body["pipeline"], &body["repeated"]), (&"quarantine".into(), &"orders".into(), &3.into()));
    assert_eq!((&body["fields"]["shard"], &body["at"]), (&"shard-1".into(), &"2026-05-28T20:26:40Z".into()));
    assert!(body["text"].as_str().is_some_and(|text| text.starts_with("sluicebox orders: quarantine: shard given up\n")));
    for (trouble, kind) in [
        (Trouble::Status(404, "gone"), Kind::Config),
        (Trouble::Throttle, Kind::Retry),
        (Trouble::Status(500, "x"), Kind::Retry),
        (Trouble::DropRequest, Kind::Retry),
    ] {
        fake.faults().next("post", 1, trouble);
        let fault = hook.raise(&alert("s")).await.expect_err("not told");
        assert!(fault.kind() == kind && !fault.to_string().contains("s3cret"), "{fault}");
    }
    assert!(!format!("{hook:?}").contains("s3cret"));
}

#[tokio::test]
async fn an_emulator_takes_alerts_too() {
    let Some(url) = emulator("SLUICEBOX_TEST_SNS_URL") else { return };
    let topic = Client::new(&config(&url, CALL)).create_topic().name("alerts").send().await.expect("creates");
    let topic = topic.topic_arn().expect("has an ARN").to_owned();
    sns_at(&url, &topic).raise(&alert("shard-1")).await.expect("tells");
    let nowhere = sns_at(&url, "arn:aws:sns:us-east-1:123456789012:nowhere");
    assert_eq!(nowhere.raise(&alert("s")).await.expect_err("no topic").kind(), Kind::Config);
}
