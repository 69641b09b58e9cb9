//! Registered consumers of a stream.
//!
//! Owns: register, describe, deregister, list, their ARNs. Does not own: what they are sent (subscribe), their storage (streams).

use serde_json::{Value, json};

use super::Shared;
use super::error::{Answer, ApiError};
use super::streams::{Entry, stream_name};
use super::token::Page;
use super::wire::{Request, bounded, required, seconds};

/// Most consumers of a stream, as on AWS.
const CONSUMERS_MAX: usize = 20;

fn arn(entry: &Entry, name: &str, created_us: i64) -> String {
    format!("{}/consumer/{name}:{}", entry.arn(), created_us.div_euclid(1_000_000))
}

fn consumer_json(entry: &Entry, name: &str, created_us: i64) -> Value {
    json!({
        "ConsumerName": name,
        "ConsumerARN": arn(entry, name, created_us),
        "ConsumerStatus": "ACTIVE",
        "ConsumerCreationTimestamp": seconds(created_us),
    })
}

/// RegisterStreamConsumer.
pub(super) fn register(shared: &Shared, request: &Request) -> Answer<Vec<u8>> {
    let entry = shared.streams.named(request)?;
    let name = required::<str>(&request.consumer_name, "consumerName")?;
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if name.is_empty() || name.len() > 128 || !name.bytes().all(fine) {
        return Err(ApiError::validation("'consumerName' must have 1 to 128 of the characters a-z A-Z 0-9 - _ ."));
    }
    let created_us = shared.clock.now_us();
    entry.change(|notes| {
        if notes.consumers.contains_key(name) {
            return Err(ApiError::in_use(format!("Consumer {name} of stream {} already exists.", entry.name)));
        }
        if notes.consumers.len() >= CONSUMERS_MAX {
            return Err(ApiError::limit(format!("Stream {} has {CONSUMERS_MAX} consumers, the most it can have", entry.name)));
        }
        notes.consumers.insert(name.to_owned(), created_us);
        Ok(())
    })?;
    Ok(serde_json::to_vec(&json!({ "Consumer": consumer_json(&entry, name, created_us) }))?)
}

/// A consumer by its ARN, or by stream and name: its stream's entry, its name, its creation.
pub(super) fn find(shared: &Shared, request: &Request) -> Answer<(std::sync::Arc<Entry>, String, i64)> {
    let stream = request.consumer_arn.as_deref().or(request.stream_arn.as_deref());
    let entry = shared.streams.get(stream_name(request.stream_name.as_deref(), stream)?)?;
    let name = match &request.consumer_arn {
        Some(arn) => {
            let (_, name) =
                arn.split_once("/consumer/").ok_or_else(|| ApiError::validation("'consumerARN' is not a consumer's"))?;
            name.split(':').next().unwrap_or(name).to_owned()
        }
        None => required::<str>(&request.consumer_name, "consumerName")?.to_owned(),
    };
    let created_us = entry.notes().consumers.get(&name).copied();
    let wanted = |created_us: &i64| request.consumer_arn.as_ref().is_none_or(|wanted| *wanted == arn(&entry, &name, *created_us));
    match created_us.filter(wanted) {
        Some(created_us) => Ok((entry, name, created_us)),
        None => Err(ApiError::not_found(format!("Consumer {name} of stream {} does not exist", entry.name))),
    }
}

/// DescribeStreamConsumer.
pub(super) fn describe(shared: &Shared, request: &Request) -> Answer<Vec<u8>> {
    let (entry, name, created_us) = find(shared, request)?;
    let mut description = consumer_json(&entry, &name, created_us);
    description["StreamARN"] = Value::String(entry.arn());
    Ok(serde_json::to_vec(&json!({ "ConsumerDescription": description }))?)
}

/// DeregisterStreamConsumer; its subscriptions end.
pub(super) fn deregister(shared: &Shared, request: &Request) -> Answer<Vec<u8>> {
    let (entry, name, _) = find(shared, request)?;
    entry.change(|notes| {
        notes.consumers.remove(&name);
        Ok(())
    })?;
    entry.subscriptions.end_consumer(&name);
    Ok(b"{}".to_vec())
}

/// ListStreamConsumers.
pub(super) fn list(shared: &Shared, request: &Request) -> Answer<Vec<u8>> {
    let entry = shared.streams.named(request)?;
    let max = bounded(request.max_results, "maxResults", 100, 100)?;
    let now_us = shared.clock.now_us();
    let after = request.next_token.as_deref().map(|token| Page::decode(token, now_us)).transpose()?.map(|page| page.last);
    let notes = entry.notes();
    let mut rest = notes.consumers.iter().filter(|(name, _)| after.as_ref().is_none_or(|after| *name > after));
    let page: Vec<_> = rest.by_ref().take(max).collect();
    let mut answer = json!({ "Consumers": page.iter().map(|(name, us)| consumer_json(&entry, name, **us)).collect::<Vec<_>>() });
    if let (Some((last, _)), Some(_)) = (page.last(), rest.next()) {
        let next = Page { stream: entry.name.to_string(), issued_us: now_us, last: (*last).clone(), filter: "null".to_owned() };
        answer["NextToken"] = Value::String(next.encode());
    }
    Ok(serde_json::to_vec(&answer)?)
}
