//! Goal: what enhanced fan-out promises: pushed records, a number to go on from, an end with children, 5 minutes, one subscriber.

use aws_sdk_kinesis::operation::subscribe_to_shard::SubscribeToShardOutput;
use aws_sdk_kinesis::types::{ConsumerStatus, ShardIteratorType, StartingPosition, SubscribeToShardEvent};

use super::differences::allowed;
use super::harness::{Contract, SECOND_US, code};

const SHARD: &str = "shardId-000000000000";

/// Registers a consumer and waits until it may subscribe.
async fn consumer(contract: &Contract) -> String {
    let answer = contract.client.describe_stream_summary().stream_name(&contract.stream).send().await.expect("describes");
    let stream = answer.stream_description_summary().expect("a summary").stream_arn().to_owned();
    let register = contract.client.register_stream_consumer().stream_arn(stream).consumer_name("c");
    let arn = register.send().await.expect("registers").consumer().expect("a consumer").consumer_arn().to_owned();
    for _ in 0..1000 {
        let described = contract.client.describe_stream_consumer().consumer_arn(&arn).send().await.expect("describes");
        if *described.consumer_description().expect("a consumer").consumer_status() == ConsumerStatus::Active {
            return arn;
        }
    }
    panic!("the consumer did not become active");
}

fn from(kind: ShardIteratorType, sequence: Option<&str>) -> StartingPosition {
    StartingPosition::builder().r#type(kind).set_sequence_number(sequence.map(str::to_owned)).build().expect("complete")
}

async fn subscribe(contract: &Contract, arn: &str, position: StartingPosition) -> SubscribeToShardOutput {
    let subscribe = contract.client.subscribe_to_shard().consumer_arn(arn).shard_id(SHARD);
    subscribe.starting_position(position).send().await.expect("subscribes")
}

/// The next event; none at the end of the stream.
async fn next(subscription: &mut SubscribeToShardOutput) -> Option<SubscribeToShardEvent> {
    let event = subscription.event_stream.recv().await.expect("no error in the stream")?;
    let event = event.as_subscribe_to_shard_event().map_err(|other| format!("an event of another type: {other:?}"));
    Some(event.expect("records").clone())
}

/// Events until so many records came; their payloads and the last number to go on from.
async fn records(subscription: &mut SubscribeToShardOutput, wanted: usize) -> (Vec<u8>, String) {
    let mut data = Vec::new();
    loop {
        let event = next(subscription).await.expect("goes on");
        data.extend(event.records().iter().flat_map(|record| record.data().as_ref().to_vec()));
        if data.len() >= wanted {
            return (data, event.continuation_sequence_number().to_owned());
        }
    }
}

#[tokio::test]
async fn records_are_pushed_and_a_later_subscription_goes_on_behind_them() {
    let contract = Contract::new("pushed", 1).await;
    let arn = consumer(&contract).await;
    contract.put("k", b"a").await;
    let mut subscription = subscribe(&contract, &arn, from(ShardIteratorType::TrimHorizon, None)).await;
    assert_eq!(records(&mut subscription, 1).await.0, b"a");
    contract.put("k", b"b").await;
    let (data, reached) = records(&mut subscription, 1).await;
    assert_eq!(data, b"b", "while it runs");
    contract.put("k", b"c").await;
    let again = contract.client.subscribe_to_shard().consumer_arn(&arn).shard_id(SHARD);
    let again = again.starting_position(from(ShardIteratorType::Latest, None)).send().await;
    allowed(&contract, "within 5 seconds", again, "ResourceInUseException");
    let Some(ours) = &contract.ours else { return };
    ours.clock.advance(5 * SECOND_US);
    let mut later = subscribe(&contract, &arn, from(ShardIteratorType::AfterSequenceNumber, Some(&reached))).await;
    assert_eq!(records(&mut later, 1).await.0, b"c");
    let error = loop {
        match subscription.event_stream.recv().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the first subscription ends with an error"),
            Err(error) => break error,
        }
    };
    assert!(format!("{error:?}").contains("ResourceInUseException"), "taken over: {error:?}");
}

#[tokio::test]
async fn a_closed_shard_ends_with_its_children_named() {
    let contract = Contract::new("fan-out-end", 1).await;
    let Some(_) = &contract.ours else { return };
    let arn = consumer(&contract).await;
    contract.put("k", b"a").await;
    let mut subscription = subscribe(&contract, &arn, from(ShardIteratorType::TrimHorizon, None)).await;
    assert_eq!(records(&mut subscription, 1).await.0, b"a");
    let split = contract.client.split_shard().stream_name(&contract.stream).shard_to_split(SHARD).new_starting_hash_key("5");
    split.send().await.expect("splits");
    let last = loop {
        let event = next(&mut subscription).await.expect("the end is an event of its own");
        if !event.child_shards().is_empty() {
            break event;
        }
    };
    let children: Vec<_> = last.child_shards().iter().map(|child| child.shard_id()).collect();
    assert_eq!(children, ["shardId-000000000001", "shardId-000000000002"]);
    assert_eq!(last.continuation_sequence_number(), "", "nothing to go on from");
    assert_eq!(next(&mut subscription).await, None);
}

#[tokio::test]
async fn a_subscription_says_where_it_stands_at_once_and_ends_after_five_minutes() {
    let contract = Contract::new("five-minutes", 1).await;
    let Some(ours) = &contract.ours else { return };
    let arn = consumer(&contract).await;
    let mut subscription = subscribe(&contract, &arn, from(ShardIteratorType::TrimHorizon, None)).await;
    let event = next(&mut subscription).await.expect("an event");
    assert_eq!((event.records().len(), event.millis_behind_latest()), (0, 0));
    ours.clock.advance(299 * SECOND_US);
    contract.put("k", b"a").await;
    let (data, reached) = records(&mut subscription, 1).await;
    assert_eq!(data, b"a");
    ours.clock.advance(SECOND_US);
    assert_eq!(next(&mut subscription).await, None);
    let mut later = subscribe(&contract, &arn, from(ShardIteratorType::AtSequenceNumber, Some(&reached))).await;
    assert_eq!(records(&mut later, 1).await.0, b"a");
}

#[tokio::test]
async fn who_is_not_registered_does_not_subscribe_and_who_is_deregistered_is_cut_off() {
    let contract = Contract::new("registered", 1).await;
    let Some(_) = &contract.ours else { return };
    let arn = consumer(&contract).await;
    let mut subscription = subscribe(&contract, &arn, from(ShardIteratorType::Latest, None)).await;
    contract.client.deregister_stream_consumer().consumer_arn(&arn).send().await.expect("deregisters");
    let ended = loop {
        match subscription.event_stream.recv().await {
            Ok(Some(_)) => {}
            ended => break ended,
        }
    };
    assert!(ended.is_err(), "{ended:?}");
    let subscribe = contract.client.subscribe_to_shard().consumer_arn(&arn).shard_id(SHARD);
    let refused = subscribe.starting_position(from(ShardIteratorType::Latest, None)).send().await;
    assert_eq!(code(refused), "ResourceNotFoundException");
}

#[tokio::test]
async fn a_large_backlog_comes_in_many_events_each_record_once() {
    let contract = Contract::new("backlog", 1).await;
    let Some(_) = &contract.ours else { return };
    let arn = consumer(&contract).await;
    let payload = |i: u8| vec![i; 300 << 10];
    for i in 0..12 {
        contract.put("k", &payload(i)).await;
    }
    let mut subscription = subscribe(&contract, &arn, from(ShardIteratorType::TrimHorizon, None)).await;
    let (mut seen, mut events) = (Vec::new(), 0);
    while seen.len() < 12 {
        let event = next(&mut subscription).await.expect("goes on");
        events += 1;
        for record in event.records() {
            assert_eq!(record.data().as_ref(), payload(seen.len() as u8));
            seen.push(record.sequence_number().to_owned());
        }
    }
    assert!(events >= 4, "{events} events");
}
