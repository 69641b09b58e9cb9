//! Goal: splits and merges: the parent ends with its children named, the children cover its range, no record is lost on the way.

use aws_sdk_kinesis::types::{ChildShard, ScalingType, ShardIteratorType};

use super::harness::{Contract, code};

const MIDDLE: u128 = 1 << 127;

async fn split(contract: &Contract, shard: &str, at: u128) {
    let split = contract.client.split_shard().stream_name(&contract.stream).shard_to_split(shard);
    split.new_starting_hash_key(at.to_string()).send().await.expect("splits");
    contract.active().await;
}

async fn merge(contract: &Contract, one: &str, other: &str) {
    let merge = contract.client.merge_shards().stream_name(&contract.stream).shard_to_merge(one);
    merge.adjacent_shard_to_merge(other).send().await.expect("merges");
    contract.active().await;
}

/// Reads a shard to its end; its records' payloads and the children its last answer names.
async fn to_the_end(contract: &Contract, shard: &str) -> (Vec<u8>, Vec<ChildShard>) {
    let mut iterator = Some(contract.iterator(shard, ShardIteratorType::TrimHorizon, None).await);
    let mut data = Vec::new();
    let mut children = Vec::new();
    for _ in 0..100 {
        let Some(at) = iterator else { return (data, children) };
        assert!(children.is_empty(), "children are named at the end only");
        let answer = contract.client.get_records().shard_iterator(at).limit(2).send().await.expect("reads");
        data.extend(answer.records().iter().flat_map(|record| record.data().as_ref().to_vec()));
        children = answer.child_shards().to_vec();
        iterator = answer.next_shard_iterator().map(str::to_owned);
    }
    panic!("shard {shard} does not end");
}

#[tokio::test]
async fn a_split_ends_the_parent_and_names_both_children() {
    let contract = Contract::new("split", 1).await;
    let parent = contract.shards().await[0].shard_id().to_owned();
    for i in 0..5 {
        contract.put("k", &[i]).await;
    }
    let before = contract.iterator(&parent, ShardIteratorType::Latest, None).await;
    split(&contract, &parent, MIDDLE).await;
    let (child, _) = contract.put("k", &[5]).await;
    assert_ne!(child, parent, "a closed shard takes nothing");

    let (data, children) = to_the_end(&contract, &parent).await;
    assert_eq!(data, [0, 1, 2, 3, 4]);
    let ranges: Vec<_> = children.iter().map(|child| child.hash_key_range().expect("a range").clone()).collect();
    assert_eq!(ranges[0].starting_hash_key(), "0");
    assert_eq!(ranges[0].ending_hash_key(), (MIDDLE - 1).to_string());
    assert_eq!(ranges[1].starting_hash_key(), MIDDLE.to_string());
    assert_eq!(ranges[1].ending_hash_key(), u128::MAX.to_string());
    assert!(children.iter().all(|child| child.parent_shards() == [parent.clone()]));
    assert!(children.iter().any(|named| named.shard_id() == child));
    assert_eq!(contract.read_all(&child).await.len(), 1);

    let (rest, next) = contract.read(before).await;
    assert_eq!((rest.len(), next), (0, None), "an iterator from before the split ends too");
    let at_the_end = contract.iterator(&parent, ShardIteratorType::Latest, None).await;
    assert_eq!(contract.read(at_the_end).await.1, None, "LATEST of a closed shard");

    let shards = contract.shards().await;
    let listed = |shard: &str| shards.iter().find(|listed| listed.shard_id() == shard).expect("listed");
    assert_eq!(listed(&child).parent_shard_id(), Some(parent.as_str()));
    assert!(listed(&parent).sequence_number_range().expect("a range").ending_sequence_number().is_some());
    assert!(listed(&child).sequence_number_range().expect("a range").ending_sequence_number().is_none());
}

#[tokio::test]
async fn a_merge_ends_both_parents_in_one_child() {
    let contract = Contract::new("merge", 2).await;
    let parents: Vec<String> = contract.shards().await.iter().map(|shard| shard.shard_id().to_owned()).collect();
    merge(&contract, &parents[0], &parents[1]).await;
    let (child, _) = contract.put("k", b"x").await;
    for parent in &parents {
        let (data, children) = to_the_end(&contract, parent).await;
        assert!(data.is_empty());
        assert_eq!(children.len(), 1);
        assert_eq!(children[0].shard_id(), child);
        let mut named = children[0].parent_shards().to_vec();
        named.sort_unstable();
        assert_eq!(named, parents);
    }
    let shards = contract.shards().await;
    let listed = shards.iter().find(|listed| listed.shard_id() == child).expect("listed");
    assert_eq!(listed.parent_shard_id(), Some(parents[0].as_str()));
    assert_eq!(listed.adjacent_parent_shard_id(), Some(parents[1].as_str()));
}

#[tokio::test]
async fn what_cannot_be_resharded_is_refused() {
    let contract = Contract::new("not-resharded", 3).await;
    let shards: Vec<String> = contract.shards().await.iter().map(|shard| shard.shard_id().to_owned()).collect();
    let client = &contract.client;
    let split = |shard: &str, at: &str| {
        client.split_shard().stream_name(&contract.stream).shard_to_split(shard).new_starting_hash_key(at).send()
    };
    let merge = |one: &str, other: &str| {
        client.merge_shards().stream_name(&contract.stream).shard_to_merge(one).adjacent_shard_to_merge(other).send()
    };
    let first = split(&shards[0], "0");
    if contract.ours.is_some() {
        assert_eq!(code(first.await), "InvalidArgumentException", "the first hash key");
    }
    assert_eq!(code(split(&shards[0], &u128::MAX.to_string()).await), "InvalidArgumentException", "another's hash key");
    assert_eq!(code(merge(&shards[0], &shards[2]).await), "InvalidArgumentException", "not adjacent");
    assert_eq!(code(split("shardId-000000000099", "7").await), "ResourceNotFoundException");
    split(&shards[0], "7").await.expect("splits");
    contract.active().await;
    assert_eq!(code(split(&shards[0], "8").await), "ResourceInUseException", "closed");
}

#[tokio::test]
async fn the_shard_count_goes_up_and_down_and_the_open_shards_are_even() {
    let contract = Contract::new("count", 2).await;
    for (target, total) in [(4, 6), (2, 8)] {
        let update = contract.client.update_shard_count().stream_name(&contract.stream).target_shard_count(target);
        let answer = update.scaling_type(ScalingType::UniformScaling).send().await.expect("changes");
        assert_eq!(answer.target_shard_count(), Some(target));
        contract.active().await;
        let shards = contract.shards().await;
        let open: Vec<_> = shards
            .iter()
            .filter(|shard| shard.sequence_number_range().is_some_and(|r| r.ending_sequence_number().is_none()))
            .collect();
        assert_eq!((open.len(), shards.len()), (target as usize, total));
        let mut starts: Vec<u128> = open
            .iter()
            .map(|shard| shard.hash_key_range().expect("a range").starting_hash_key().parse().expect("a number"))
            .collect();
        starts.sort_unstable();
        let step = u128::MAX / target as u128 + 1;
        let slack = u128::from(contract.ours.is_none());
        let even = starts.iter().zip(0u128..).all(|(start, i)| start.abs_diff(i * step) <= slack);
        assert!(even, "{starts:?}");
    }
    let update = contract.client.update_shard_count().stream_name(&contract.stream).target_shard_count(5);
    let answer = update.scaling_type(ScalingType::UniformScaling).send().await;
    assert!(["LimitExceededException", "InvalidArgumentException"].contains(&code(answer).as_str()), "more than double");
}
