//! Goal: items as the library writes them are read whole, of all pages, and whatever is no lease of one stream is refused.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::{AttributeDefinition, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType};
use sluicebox_actors::model::fault::Kind;
use sluicebox_fakeaws::dynamo::FakeDynamo;

use super::*;
use crate::fixtures::{CALL, config};

const TABLE: &str = "app";
const SEQUENCE: &str = "49668899999999999999999999999999999999999999999999999042";

fn s(text: &str) -> AttributeValue {
    AttributeValue::S(text.into())
}

fn n(number: u64) -> AttributeValue {
    AttributeValue::N(number.to_string())
}

fn item(fields: &[(&str, AttributeValue)]) -> Item {
    fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
}

/// As KCL 3.1 writes one.
fn written(shard: &str, checkpoint: &str) -> Item {
    item(&[
        ("leaseKey", s(shard)),
        ("leaseOwner", s("d3b0-uuid")),
        ("leaseCounter", n(12)),
        ("checkpoint", s(checkpoint)),
        ("checkpointSubSequenceNumber", n(3)),
        ("ownerSwitchesSinceCheckpoint", n(0)),
        ("parentShardId", AttributeValue::Ss(vec!["shardId-000000000000".into()])),
        ("childShardIds", AttributeValue::Ss(vec!["shardId-000000000009".into(), "shardId-000000000008".into()])),
        ("startingHashKey", s("0")),
        ("endingHashKey", s("340282366920938463463374607431768211455")),
        ("throughputKBps", AttributeValue::N("0".into())),
    ])
}

async fn table(items: Vec<Item>) -> (FakeDynamo, Client) {
    let fake = FakeDynamo::start().await.expect("starts");
    let client = Client::new(&config(&fake.url(), CALL));
    let key = KeySchemaElement::builder().attribute_name(LEASE_KEY).key_type(KeyType::Hash).build().expect("a key");
    let attribute = AttributeDefinition::builder().attribute_name(LEASE_KEY).attribute_type(ScalarAttributeType::S);
    let create = client.create_table().table_name(TABLE).billing_mode(BillingMode::PayPerRequest).key_schema(key);
    create.attribute_definitions(attribute.build().expect("an attribute")).send().await.expect("creates");
    for item in items {
        client.put_item().table_name(TABLE).set_item(Some(item)).send().await.expect("puts");
    }
    (fake, client)
}

async fn read(items: Vec<Item>) -> Result<Vec<KclLease>> {
    let (fake, client) = table(items).await;
    fake.page_items(2);
    leases(&client, AwsRuntime::current(), TABLE).await
}

#[tokio::test]
async fn leases_of_all_pages_are_read_and_other_entities_are_not() {
    let mut items: Vec<Item> = ["TRIM_HORIZON", "LATEST", "AT_TIMESTAMP", "SHARD_END", SEQUENCE]
        .iter()
        .enumerate()
        .map(|(at, checkpoint)| written(&format!("shardId-00000000000{at}"), checkpoint))
        .collect();
    items[4].insert("entityType".into(), s("LEASE"));
    for kind in ["LEADER", "STREAM", "WORKER_METRIC_STATS", "TABLE_MIGRATION"] {
        items.push(item(&[("leaseKey", s(kind)), ("entityType", s(kind))]));
    }
    let leases = read(items).await.expect("reads");
    let checkpoints: Vec<_> = leases.iter().map(|lease| lease.checkpoint).collect();
    let sequence = Checkpoint::After(SEQUENCE.parse().expect("digits"), 3);
    assert_eq!(checkpoints, [Checkpoint::Horizon, Checkpoint::Latest, Checkpoint::Timestamp, Checkpoint::End, sequence]);
    let expected = KclLease {
        shard: ShardId::new("shardId-000000000003"),
        checkpoint: Checkpoint::End,
        parents: vec![ShardId::new("shardId-000000000000")],
        children: vec![ShardId::new("shardId-000000000008"), ShardId::new("shardId-000000000009")],
        range: Some((0, u128::MAX)),
        owner: Some("d3b0-uuid".into()),
        counter: 12,
    };
    assert_eq!(leases[3], expected);
}

#[tokio::test]
async fn a_lease_of_an_old_library_that_nobody_has_is_read_too() {
    let old = item(&[("leaseKey", s("shardId-000000000001")), ("checkpoint", s("TRIM_HORIZON")), ("leaseCounter", n(0))]);
    let leases = read(vec![old]).await.expect("reads");
    assert_eq!((leases[0].range, leases[0].owner.as_deref(), leases[0].children.len()), (None, None, 0));
}

#[tokio::test]
async fn what_is_no_lease_of_one_stream_is_refused_by_name() {
    let mut damaged = written("shardId-000000000001", SEQUENCE);
    damaged.insert("startingHashKey".into(), s("none"));
    let unnamed = HashMap::from([(LEASE_KEY.to_owned(), s("shardId-000000000001"))]);
    for (item, says) in [
        (written("123456789012:clicks:1700000000:shardId-000000000000", "TRIM_HORIZON"), "reads several streams"),
        (written("Leader", "TRIM_HORIZON"), "no readable leaseKey"),
        (written("shardId-000000000001", "soon"), "no readable checkpoint"),
        (damaged, "no readable startingHashKey"),
        (unnamed, "no readable checkpoint"),
    ] {
        let fault = read(vec![item]).await.expect_err("is refused");
        assert!(fault.kind() == Kind::Config && fault.message().contains(says), "{fault}");
    }
    let (_fake, client) = table(Vec::new()).await;
    let fault = leases(&client, AwsRuntime::current(), "another").await.expect_err("no table");
    assert!(fault.kind() == Kind::Config && fault.message().contains("does not exist"), "{fault}");
}

#[test]
fn whoever_shows_a_sign_of_life_is_alive_and_whoever_only_has_a_lease_is_not() {
    let lease = |counter, owner: Option<&str>| {
        let mut item = written("shardId-000000000001", SEQUENCE);
        item.insert("leaseCounter".into(), n(counter));
        item.remove("leaseOwner");
        item.extend(owner.map(|owner| ("leaseOwner".to_owned(), s(owner))));
        vec![super::lease(TABLE, &item).expect("a lease")]
    };
    assert!(alive(&lease(4, Some("a")), &lease(4, Some("a"))).is_empty());
    assert!(alive(&lease(4, None), &lease(4, None)).is_empty());
    assert_eq!(alive(&lease(4, Some("a")), &lease(5, Some("a"))).len(), 1);
    assert_eq!(alive(&lease(4, Some("a")), &lease(4, Some("b"))).len(), 1, "it has changed hands");
    assert_eq!(alive(&[], &lease(0, None)).len(), 1, "it was made meanwhile");
}
