//! Goal: streams, shards and consumers are listed whole, page by page, and described.

use std::collections::BTreeSet;

use aws_sdk_kinesis::types::{ConsumerStatus, ShardFilter, ShardFilterType, StreamStatus};

use super::harness::{Contract, code};

async fn filtered(contract: &Contract, filter: ShardFilterType, shard: Option<&str>) -> Vec<String> {
    let filter = ShardFilter::builder().r#type(filter).set_shard_id(shard.map(str::to_owned)).build().expect("complete");
    let answer = contract.client.list_shards().stream_name(&contract.stream).shard_filter(filter).send().await.expect("lists");
    answer.shards().iter().map(|shard| shard.shard_id().to_owned()).collect()
}

fn shard(number: usize) -> String {
    format!("shardId-{number:012}")
}

#[tokio::test]
async fn pages_of_shards_make_the_whole_list() {
    let contract = Contract::new("pages", 7).await;
    let mut listed = Vec::new();
    let mut pages = Vec::new();
    let mut request = contract.client.list_shards().stream_name(&contract.stream).max_results(3);
    loop {
        let answer = request.send().await.expect("lists");
        pages.push(answer.shards().len());
        listed.extend(answer.shards().iter().map(|shard| shard.shard_id().to_owned()));
        let Some(token) = answer.next_token() else { break };
        request = contract.client.list_shards().next_token(token).max_results(3);
    }
    assert_eq!(pages, [3, 3, 1]);
    assert_eq!(listed, (0..7).map(shard).collect::<Vec<_>>());
    let after = contract.client.list_shards().stream_name(&contract.stream).exclusive_start_shard_id(shard(4));
    assert_eq!(after.send().await.expect("lists").shards().len(), 2);
}

#[tokio::test]
async fn filters_choose_by_what_is_open_when() {
    let contract = Contract::new("filters", 2).await;
    contract.put("k", b"x").await;
    if let Some(ours) = &contract.ours {
        ours.clock.advance(1_000_000);
    }
    let split = contract.client.split_shard().stream_name(&contract.stream).shard_to_split(shard(0)).new_starting_hash_key("9");
    split.send().await.expect("splits");
    contract.active().await;
    let named = |numbers: &[usize]| numbers.iter().map(|number| shard(*number)).collect::<Vec<_>>();
    assert_eq!(filtered(&contract, ShardFilterType::FromTrimHorizon, None).await, named(&[0, 1, 2, 3]));
    if contract.ours.is_some() {
        assert_eq!(filtered(&contract, ShardFilterType::AtTrimHorizon, None).await, named(&[0, 1]));
    }
    assert_eq!(filtered(&contract, ShardFilterType::AtLatest, None).await, named(&[1, 2, 3]));
    assert_eq!(filtered(&contract, ShardFilterType::AfterShardId, Some(&shard(1))).await, named(&[2, 3]));
}

#[tokio::test]
async fn a_stream_is_described_by_name_and_by_arn() {
    let contract = Contract::new("described", 2).await;
    let client = &contract.client;
    let answer = client.describe_stream().stream_name(&contract.stream).limit(1).send().await.expect("describes");
    let description = answer.stream_description().expect("a description");
    assert_eq!((description.shards().len(), description.has_more_shards()), (1, true));
    assert_eq!(*description.stream_status(), StreamStatus::Active);
    assert_eq!(description.retention_period_hours(), 24);
    let arn = description.stream_arn();
    let answer = client.describe_stream_summary().stream_arn(arn).send().await.expect("describes");
    let summary = answer.stream_description_summary().expect("a summary");
    assert_eq!((summary.stream_name(), summary.open_shard_count()), (contract.stream.as_str(), 2));
    let both = client.list_shards().stream_arn(arn).send().await.expect("lists");
    assert_eq!(both.shards().len(), 2);
}

#[tokio::test]
async fn streams_are_listed_and_gone_once_deleted() {
    let contract = Contract::new("listed", 1).await;
    let client = &contract.client;
    let names = || async {
        let mut names = BTreeSet::new();
        let mut after: Option<String> = None;
        loop {
            let answer = client.list_streams().limit(1).set_exclusive_start_stream_name(after).send().await.expect("lists");
            names.extend(answer.stream_names().iter().cloned());
            if !answer.has_more_streams() {
                return names;
            }
            after = answer.stream_names().last().cloned();
        }
    };
    let second = format!("{}-second", contract.stream);
    client.create_stream().stream_name(&second).shard_count(1).send().await.expect("creates");
    let listed = names().await;
    assert!(listed.contains(&second) && listed.contains(&contract.stream));
    assert_eq!(code(client.create_stream().stream_name(&contract.stream).shard_count(1).send().await), "ResourceInUseException");
    client.delete_stream().stream_name(&contract.stream).send().await.expect("deletes");
    for _ in 0..1000 {
        if !names().await.contains(&contract.stream) {
            let gone = client.describe_stream_summary().stream_name(&contract.stream).send().await;
            assert_eq!(code(gone), "ResourceNotFoundException");
            return;
        }
    }
    panic!("the stream is still there");
}

#[tokio::test]
async fn retention_goes_up_and_down() {
    let contract = Contract::new("retention", 1).await;
    let client = &contract.client;
    let hours = || async {
        contract.active().await;
        let answer = client.describe_stream_summary().stream_name(&contract.stream).send().await.expect("describes");
        answer.stream_description_summary().expect("a summary").retention_period_hours()
    };
    let up = |hours| client.increase_stream_retention_period().stream_name(&contract.stream).retention_period_hours(hours).send();
    let down =
        |hours| client.decrease_stream_retention_period().stream_name(&contract.stream).retention_period_hours(hours).send();
    up(48).await.expect("raises");
    assert_eq!(hours().await, 48);
    assert_eq!(code(up(36).await), "InvalidArgumentException");
    down(24).await.expect("lowers");
    assert_eq!(hours().await, 24);
    assert_eq!(code(down(25).await), "InvalidArgumentException");
    assert_eq!(code(down(23).await), "InvalidArgumentException");
}

#[tokio::test]
async fn consumers_are_registered_described_listed_and_deregistered() {
    let contract = Contract::new("consumers", 1).await;
    let client = &contract.client;
    let answer = client.describe_stream_summary().stream_name(&contract.stream).send().await.expect("describes");
    let arn = answer.stream_description_summary().expect("a summary").stream_arn().to_owned();
    let register = |name: &str| client.register_stream_consumer().stream_arn(&arn).consumer_name(name).send();
    let registered = register("one").await.expect("registers").consumer().expect("a consumer").clone();
    register("two").await.expect("registers");
    assert_eq!(code(register("one").await), "ResourceInUseException");
    let describe = client.describe_stream_consumer().stream_arn(&arn).consumer_name("one");
    let described = describe.send().await.expect("describes").consumer_description().expect("a consumer").clone();
    assert_eq!(described.consumer_arn(), registered.consumer_arn());
    assert_eq!(described.stream_arn(), arn);
    assert!([ConsumerStatus::Active, ConsumerStatus::Creating].contains(described.consumer_status()));
    let list = client.list_stream_consumers().stream_arn(&arn);
    let names: BTreeSet<_> =
        list.send().await.expect("lists").consumers().iter().map(|consumer| consumer.consumer_name().to_owned()).collect();
    assert_eq!(names, BTreeSet::from(["one".to_owned(), "two".to_owned()]));
}
