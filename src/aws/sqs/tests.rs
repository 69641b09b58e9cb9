//! Goal: every letter arrives whole or by pointer, within the limits of SQS, and nothing that failed is taken for sent.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_sqs::Client;
use bytes::Bytes;
use proptest::prelude::*;
use serde_json::Value;
use sluicebox_actors::model::fault::Kind;
use sluicebox_actors::model::letter::{Letter, Stage};
use sluicebox_actors::model::position::{Sequence, ShardId};
use sluicebox_actors::ports::{LetterSink, PostedLetter};
use sluicebox_fakeaws::faults::Fault as Trouble;
use sluicebox_fakeaws::sqs::FakeSqs;

use super::letters::{SqsLetters, SqsOptions};
use super::message::{MESSAGE_MAX, Sender};
use crate::client::AwsRuntime;
use crate::fixtures::{CALL, config, emulator};

fn letter(sequence: u64, data: impl Into<Bytes>) -> PostedLetter {
    let arrival_us = 1_780_000_000_123_456;
    let letter = Letter {
        stream: "clicks".into(),
        shard: ShardId::new("shardId-000000000001"),
        sequence: Sequence::dense(sequence),
        sub_sequence: 2,
        partition_key: "user-7".to_owned(),
        arrival_us,
        stage: Stage::Contract,
        reason: "missing_field".to_owned(),
        error: "ContractError".to_owned(),
        message: "`amount` is missing".to_owned(),
        causes: vec!["the schema wants it".to_owned()],
        path: Some("$.amount".to_owned()),
        window_start_us: None,
        bound_us: None,
        epoch: 9,
        attempts: 3,
        first_failure_us: arrival_us,
        last_failure_us: arrival_us + 1_000_000,
        fingerprint: Arc::from("f"),
        version: Arc::from("0.1.0"),
        request_id: Arc::from("run-1"),
        trace_id: None,
        data: data.into(),
    };
    PostedLetter { letter, file: "dlq/day=2026-05-28/shard-1-9.ndjson".to_owned(), line: 4 }
}

fn sink_at(url: &str, queue_url: String) -> SqsLetters {
    let options = SqsOptions {
        name: "people".into(),
        queue_url,
        sender: Sender { pipeline: "p".into(), root: "s3://lake/p/".into() },
        message_max: MESSAGE_MAX,
        pause: Duration::from_millis(1),
    };
    SqsLetters::new(&Client::new(&config(url, CALL)), AwsRuntime::current(), options).expect("a good URL")
}

async fn fake(queue: &str) -> (FakeSqs, SqsLetters) {
    let fake = FakeSqs::start().await.expect("starts");
    let sink = sink_at(&fake.url(), fake.queue_url(queue));
    (fake, sink)
}

fn bodies(fake: &FakeSqs, queue: &str) -> Vec<Value> {
    fake.messages(queue).iter().map(|message| serde_json::from_str(&message.body).expect("JSON")).collect()
}

fn letters(count: u64) -> Vec<PostedLetter> {
    (0..count).map(|sequence| letter(sequence, format!("{{\"n\":{sequence}}}"))).collect()
}

#[tokio::test]
async fn a_letter_has_the_shape_that_its_readers_were_promised() {
    let (fake, sink) = fake("dead").await;
    sink.send(&[letter(7, "{\"amount\": 12345678901234567890.10, \"t\": 1}"), letter(8, &[0xff, 0x00][..])])
        .await
        .expect("sends");
    let messages = fake.messages("dead");
    let exact = "\"originalEvent\":{\"amount\": 12345678901234567890.10, \"t\": 1},";
    assert!(messages[0].body.contains(exact), "no digit is lost: {}", messages[0].body);
    assert_eq!(messages[0].attributes["ErrorType"], "ContractError");
    assert_eq!(messages[0].attributes["OriginalTimestamp"], "2026-05-28T20:26:40.123456Z");
    let bodies = bodies(&fake, "dead");
    assert_eq!(bodies[0]["processingAttempts"], 3);
    assert_eq!(bodies[0]["lastError"]["name"], "ContractError");
    assert_eq!(bodies[0]["lastError"]["message"], "`amount` is missing");
    assert_eq!(bodies[0]["lastError"]["stack"], "ContractError: `amount` is missing\n  caused by: the schema wants it");
    assert_eq!(bodies[0]["failedAt"], "2026-05-28T20:26:41.123456Z");
    assert_eq!(bodies[0]["sourceFunction"], "p/contract");
    assert_eq!(bodies[0]["context"], serde_json::json!({"requestId": "run-1", "traceId": null}));
    let own = &bodies[0]["sluicebox"];
    assert_eq!(own["letterId"], letter(7, "").letter.id());
    for (field, value) in [("stream", "clicks"), ("shard", "shardId-000000000001"), ("stage", "contract"), ("path", "$.amount")] {
        assert_eq!(own[field], value, "{field}");
    }
    assert_eq!((&own["epoch"], &own["line"], &own["subSequence"]), (&9.into(), &4.into(), &2.into()));
    assert_eq!(own["file"], "dlq/day=2026-05-28/shard-1-9.ndjson");
    assert_eq!((&bodies[1]["originalEventBase64"], bodies[1].get("originalEvent")), (&"/wA=".into(), None));
}

#[tokio::test]
async fn a_record_that_does_not_fit_is_pointed_at_and_batches_stay_within_the_limit() {
    let (fake, sink) = fake("dead").await;
    let long = |bytes: usize| format!("\"{}\"", "x".repeat(bytes));
    let sent = [letter(1, long(MESSAGE_MAX)), letter(2, long(600_000)), letter(3, long(600_000)), letter(4, vec![0xff; 900_000])];
    sink.send(&sent).await.expect("sends");
    let bodies = bodies(&fake, "dead");
    let pointer = "s3://lake/p/dlq/day=2026-05-28/shard-1-9.ndjson#4";
    assert_eq!((&bodies[0]["pointer"], bodies[0].get("originalEvent")), (&pointer.into(), None));
    assert!(bodies[1]["originalEvent"].is_string() && bodies[1].get("pointer").is_none());
    assert!(bodies[3]["pointer"].is_string() && bodies[3].get("originalEventBase64").is_none(), "base64 adds a third");
    assert_eq!(fake.faults().calls("SendMessageBatch"), 2);
}

#[tokio::test]
async fn characters_that_sqs_refuses_are_escaped() {
    let (fake, sink) = fake("dead").await;
    sink.send(&[letter(1, "\"\u{fffe}\u{ffff}\u{1f600}\"")]).await.expect("sends");
    assert_eq!(bodies(&fake, "dead")[0]["originalEvent"], "\u{fffe}\u{ffff}\u{1f600}");
}

#[tokio::test]
async fn only_entries_that_failed_are_sent_again() {
    let (fake, sink) = fake("dead").await;
    fake.fail_entries([1, 8], false, "InternalError");
    fake.fail_entries([1], false, "ServiceUnavailable");
    sink.send(&letters(25)).await.expect("sends");
    assert_eq!(fake.messages("dead").len(), 25, "each once");
    assert_eq!(fake.entries(), 25 + 2 + 1);
    assert_eq!(fake.faults().calls("SendMessageBatch"), 5);
    (0..10).for_each(|_| fake.fail_entries([0], false, "InternalError"));
    let fault = sink.send(&letters(1)).await.expect_err("never taken");
    assert!(fault.kind() == Kind::Retry && fault.to_string().contains("InternalError"), "{fault}");
}

#[tokio::test]
async fn an_entry_that_is_the_senders_fault_is_told_with_its_code_and_not_sent_again() {
    let (fake, sink) = fake("dead").await;
    fake.fail_entries([0], true, "KmsAccessDenied");
    let fault = sink.send(&letters(2)).await.expect_err("refused");
    assert!(fault.kind() == Kind::Config && fault.to_string().contains("KmsAccessDenied"), "{fault}");
    assert_eq!(fake.faults().calls("SendMessageBatch"), 1);
    fake.faults().next("SendMessageBatch", 1, Trouble::Status(403, "AccessDeniedException"));
    let fault = sink.send(&letters(1)).await.expect_err("may not");
    let statement = r#""Action":"sqs:SendMessage","Resource":"arn:aws:sqs:*:123456789012:dead""#;
    assert!(fault.kind() == Kind::Config && fault.to_string().contains(statement), "{fault}");
    fake.faults().next("SendMessageBatch", 1, Trouble::Status(400, "QueueDoesNotExist"));
    assert_eq!(sink.send(&letters(1)).await.expect_err("no queue").kind(), Kind::Config);
}

#[tokio::test]
async fn a_letter_that_the_queue_refuses_for_itself_costs_itself_alone() {
    let (fake, sink) = fake("dead").await;
    fake.fail_entries([1, 4], true, "InvalidMessageContents");
    let fed = sink.send(&letters(12)).await.expect("the others are taken");
    assert_eq!((fed.stored, fed.refused), (10, vec![("InvalidMessageContents".to_owned(), 2)]));
    assert_eq!((fake.messages("dead").len(), fake.faults().calls("SendMessageBatch")), (10, 2), "each once");
}

#[tokio::test]
async fn a_fifo_queue_takes_a_letter_once_and_keeps_a_shard_in_order() {
    let (fake, sink) = fake("dead.fifo").await;
    fake.faults().next("SendMessageBatch", 1, Trouble::DropResponse);
    sink.send(&letters(12)).await.expect("sends");
    sink.send(&letters(12)).await.expect("the same again");
    let messages = fake.messages("dead.fifo");
    assert_eq!(messages.len(), 12);
    assert!(messages.iter().all(|message| message.group.as_deref() == Some("shardId-000000000001")));
    let order: Vec<Value> = bodies(&fake, "dead.fifo").into_iter().map(|body| body["originalEvent"]["n"].clone()).collect();
    assert_eq!(order, (0..12).map(Value::from).collect::<Vec<_>>());
}

#[tokio::test]
async fn row_43_a_queue_that_is_down_is_a_retry_and_drains_when_it_is_back() {
    let (fake, sink) = fake("dead").await;
    fake.faults().down(true);
    for _ in 0..3 {
        assert_eq!(sink.send(&letters(11)).await.expect_err("is down").kind(), Kind::Retry);
    }
    fake.faults().down(false);
    sink.send(&letters(11)).await.expect("is back");
    assert_eq!(fake.messages("dead").len(), 11);
}

/// What any SQS must do for us: run on the fake and, if one is named, on an emulator.
async fn contract(url: &str, queue_url: String) {
    let sink = sink_at(url, queue_url);
    let mut sent = letters(21);
    sent.push(letter(21, format!("\"{}\"", "x".repeat(MESSAGE_MAX))));
    sent.push(letter(22, format!("\"{}\u{ffff}\"", "x".repeat(900_000))));
    sent.push(letter(23, &[0xff, 0x00][..]));
    sink.send(&sent).await.expect("takes");
}

#[tokio::test]
async fn the_contract_holds_on_the_fake_and_on_an_emulator_if_one_is_named() {
    let (fake, _sink) = fake("dead").await;
    contract(&fake.url(), fake.queue_url("dead")).await;
    contract(&fake.url(), fake.queue_url("dead.fifo")).await;
    let Some(url) = emulator("SLUICEBOX_TEST_SQS_URL") else { return };
    let client = Client::new(&config(&url, CALL));
    for name in [format!("dead-{}", std::process::id()), format!("dead-{}.fifo", std::process::id())] {
        let create = client.create_queue().queue_name(&name);
        let create = if name.ends_with(".fifo") {
            create.attributes(aws_sdk_sqs::types::QueueAttributeName::FifoQueue, "true")
        } else {
            create
        };
        let queue_url = create.send().await.expect("creates").queue_url().expect("has a URL").to_owned();
        contract(&url, queue_url.clone()).await;
        let count = client.get_queue_attributes().queue_url(&queue_url);
        let count = count.attribute_names(aws_sdk_sqs::types::QueueAttributeName::ApproximateNumberOfMessages);
        let count = count.send().await.expect("counts");
        let count = count.attributes().and_then(|all| all.values().next()).cloned();
        assert_eq!(count.as_deref(), Some("24"));
    }
}

fn trouble() -> impl Strategy<Value = Trouble> {
    prop_oneof![
        2 => Just(Trouble::Delay(Duration::ZERO)),
        1 => Just(Trouble::DropRequest),
        1 => Just(Trouble::DropResponse),
        1 => Just(Trouble::Throttle),
        1 => Just(Trouble::Status(503, "ServiceUnavailable")),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    // Any faults of calls and entries: after retries every letter is in the queue, in a FIFO queue once.
    #[test]
    fn whatever_goes_wrong_every_letter_arrives(
        count in 1u64..30,
        troubles in prop::collection::vec(trouble(), 0..10),
        failing in prop::collection::vec(prop::collection::btree_set(0usize..10, 0..4), 0..6),
        fifo in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let queue = if fifo { "dead.fifo" } else { "dead" };
        let bodies = runtime.block_on(async {
            let (fake, sink) = fake(queue).await;
            troubles.into_iter().for_each(|trouble| fake.faults().next("SendMessageBatch", 1, trouble));
            failing.into_iter().for_each(|places| fake.fail_entries(places, false, "InternalError"));
            let mut tries = 0;
            while let Err(fault) = sink.send(&letters(count)).await {
                assert_eq!(fault.kind(), Kind::Retry, "{fault}");
                tries += 1;
                assert!(tries < 30, "{fault}");
            }
            bodies(&fake, queue)
        });
        let ids: BTreeSet<String> = bodies.iter().map(|body| body["sluicebox"]["letterId"].to_string()).collect();
        prop_assert_eq!(ids.len() as u64, count);
        if fifo {
            prop_assert_eq!(bodies.len() as u64, count);
        }
    }
}
