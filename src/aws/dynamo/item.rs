//! Shard and window rows as DynamoDB items.
//!
//! A shard's item speaks the Kinesis Client Library's language where the meaning is the same, for people and their tools:
//! `leaseKey` (the shard), `leaseOwner`, `leaseCounter` (our heartbeat), `checkpoint` (last sequence number, `TRIM_HORIZON`,
//! `AT_TIMESTAMP`, or `SHARD_END` when drained), `checkpointSubSequenceNumber` (always 0: we commit whole records),
//! `parentShardId`, `childShardIds`, `startingHashKey`, `endingHashKey`, `ownerSwitchesSinceCheckpoint`. Where those say less
//! than a row does, an attribute of ours says it exactly and is the one that is read: `position` (a checkpoint has no time in
//! it and `SHARD_END` hides the number), `parents` and `children` (a set has no order), `lease_epoch`, `epoch`, `state`,
//! `bound`, `wanted_by`, `object`, `stream`, `format`.
//!
//! A window's item holds the row as JSON in `row`, or compressed in `row_zstd` when it is long: its vectors name every shard,
//! and an item ends at 400 KB. Thousands of shards fit; a write that does not is refused with the remedy.
//!
//! Owns: attributes and their reading back, exactly. Does not own: keys of kinds (rows), conditions (table).

use std::str::FromStr;

use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::AttributeValue;
use serde::de::DeserializeOwned;
use sluicebox_actors::model::fault::{Fault, Kind, Result};
use sluicebox_actors::model::position::{Position, ShardId};
use sluicebox_actors::model::row::{ShardRow, ShardState, WindowRow};
use sluicebox_actors::model::window::Bound;

use super::expression::{Change, count};
use super::table::{Item, LEASE_KEY, keys};

/// Of every item we write.
pub(super) const FORMAT: u64 = 1;
/// Longer rows are compressed: below it a person can read them in the console.
const PLAIN_MAX: usize = 16 << 10;
/// No window row is longer.
const ROW_MAX: usize = 64 << 20;
const ZSTD_LEVEL: i32 = 3;

pub(super) const LEASE_EPOCH: &str = "lease_epoch";
pub(super) const EPOCH: &str = "epoch";
pub(super) const HEARTBEAT: &str = "leaseCounter";
pub(super) const VERSION: &str = "version";
pub(super) const WANTED_BY: &str = "wanted_by";
const SWITCHES: &str = "ownerSwitchesSinceCheckpoint";

fn text(text: impl Into<String>) -> AttributeValue {
    AttributeValue::S(text.into())
}

fn names(shards: &[ShardId]) -> impl Iterator<Item = String> {
    shards.iter().map(|shard| shard.as_str().to_owned())
}

/// Every attribute of a shard's row but its key; `ownerSwitchesSinceCheckpoint` is the caller's.
pub(super) fn shard_change(row: &ShardRow) -> Result<Change> {
    let state = serde_json::to_value(row.state).ok().and_then(|state| state.as_str().map(str::to_owned));
    let set = vec![
        ("format", count(FORMAT)),
        ("stream", text(&row.stream)),
        (LEASE_EPOCH, count(row.lease_epoch)),
        (EPOCH, count(row.epoch)),
        (HEARTBEAT, count(row.heartbeat)),
        ("state", text(state.ok_or_else(|| Fault::bug("a shard's state has no name"))?)),
        ("startingHashKey", text(row.hash_start.to_string())),
        ("endingHashKey", text(row.hash_end.to_string())),
        ("checkpoint", text(checkpoint(row))),
        ("checkpointSubSequenceNumber", count(0)),
        ("position", text(row.position.to_string())),
        ("bound", AttributeValue::N(row.bound.0.to_string())),
    ];
    let mut change = Change { set, ..Change::default() };
    // An empty set is no set, and an owner of no name is none: such attributes are absent.
    let mut put = |name, value: Option<AttributeValue>| match value {
        Some(value) => change.set.push((name, value)),
        None => change.remove.push(name),
    };
    put("leaseOwner", Some(&row.owner).filter(|owner| !owner.is_empty()).map(text));
    put(WANTED_BY, Some(&row.wanted_by).filter(|name| !name.is_empty()).map(text));
    let families = [("parents", "parentShardId", &row.parents), ("children", "childShardIds", &row.children)];
    for (ours, theirs, shards) in families {
        let list = || AttributeValue::L(names(shards).map(text).collect());
        let mut set: Vec<String> = names(shards).collect();
        set.sort_unstable();
        set.dedup();
        put(ours, (!shards.is_empty()).then(list));
        put(theirs, (!shards.is_empty()).then_some(AttributeValue::Ss(set)));
    }
    let object = row.object.as_ref().map(serde_json::to_string).transpose();
    put("object", object.map_err(|error| Fault::caused(Kind::Bug, "writing a reference", &error))?.map(text));
    Ok(change)
}

/// The item of a new row.
pub(super) fn shard_item(pk: &str, row: &ShardRow) -> Result<Item> {
    let mut item = keys(pk, row.shard.as_str());
    item.extend(shard_change(row)?.set.into_iter().map(|(name, value)| (name.to_owned(), value)));
    item.insert(SWITCHES.to_owned(), count(0));
    Ok(item)
}

/// What an update does to the number of owners since the last commit, in KCL's sense.
pub(super) fn count_owners(change: &mut Change, committed: bool, new_owner: bool) {
    if committed {
        change.set.push((SWITCHES, count(0)));
    } else if new_owner {
        change.count.push(SWITCHES);
    }
}

fn checkpoint(row: &ShardRow) -> String {
    match row.state {
        ShardState::Drained | ShardState::Retired => "SHARD_END".into(),
        ShardState::Blocked | ShardState::Open => match (row.position.sequence(), row.position.as_arrival()) {
            (Some(sequence), _) => sequence.to_string(),
            (None, Some(_)) => "AT_TIMESTAMP".into(),
            (None, None) => "TRIM_HORIZON".into(),
        },
    }
}

/// Reads attributes and says which one is damaged.
struct Fields<'a> {
    item: &'a Item,
    of: String,
}

impl<'a> Fields<'a> {
    /// Of an item of our format; a newer one is a `Config` fault.
    fn of(item: &'a Item) -> Result<Self> {
        let key = item.get(LEASE_KEY).and_then(|key| key.as_s().ok()).map_or("without a key", String::as_str);
        let fields = Self { item, of: key.to_owned() };
        match fields.number::<u64>("format")? {
            FORMAT => Ok(fields),
            newer => Err(Fault::config(format!(
                "the DynamoDB row {key} has format {newer}, this program knows {FORMAT}: use the newer program"
            ))),
        }
    }

    fn bad(&self, name: &str) -> Fault {
        Fault::corrupt(format!("the DynamoDB row {}: attribute {name} is missing or damaged: restore it", self.of))
    }

    fn text(&self, name: &str) -> Result<&'a str> {
        self.item.get(name).and_then(|value| value.as_s().ok()).map(String::as_str).ok_or_else(|| self.bad(name))
    }

    /// Nobody's name is absent.
    fn name(&self, name: &str) -> Result<String> {
        if self.item.contains_key(name) { self.text(name).map(str::to_owned) } else { Ok(String::new()) }
    }

    fn parsed<T: FromStr>(&self, name: &str) -> Result<T> {
        self.text(name)?.parse().map_err(|_| self.bad(name))
    }

    fn number<T: FromStr>(&self, name: &str) -> Result<T> {
        let number = self.item.get(name).and_then(|value| value.as_n().ok()).and_then(|number| number.parse().ok());
        number.ok_or_else(|| self.bad(name))
    }

    fn shards(&self, name: &str) -> Result<Vec<ShardId>> {
        let Some(list) = self.item.get(name) else { return Ok(Vec::new()) };
        let list = list.as_l().map_err(|_| self.bad(name))?;
        let shard = |value: &AttributeValue| value.as_s().ok().map(|shard| ShardId::new(shard.as_str()));
        list.iter().map(|value| shard(value).ok_or_else(|| self.bad(name))).collect()
    }

    fn json<T: DeserializeOwned>(&self, name: &str, json: &[u8]) -> Result<T> {
        serde_json::from_slice(json).map_err(|_| self.bad(name))
    }
}

/// A shard's row out of its item.
pub(super) fn shard_row(item: &Item) -> Result<ShardRow> {
    let fields = Fields::of(item)?;
    let state = serde_json::Value::String(fields.text("state")?.to_owned());
    let position = match fields.text("position")? {
        "start" => Position::START,
        other => serde_json::from_value(serde_json::Value::String(other.to_owned())).map_err(|_| fields.bad("position"))?,
    };
    let object = match item.contains_key("object") {
        true => Some(fields.json("object", fields.text("object")?.as_bytes())?),
        false => None,
    };
    Ok(ShardRow {
        stream: fields.text("stream")?.to_owned(),
        shard: ShardId::new(fields.text(LEASE_KEY)?),
        owner: fields.name("leaseOwner")?,
        wanted_by: fields.name(WANTED_BY)?,
        lease_epoch: fields.number(LEASE_EPOCH)?,
        heartbeat: fields.number(HEARTBEAT)?,
        state: serde_json::from_value(state).map_err(|_| fields.bad("state"))?,
        parents: fields.shards("parents")?,
        children: fields.shards("children")?,
        hash_start: fields.parsed("startingHashKey")?,
        hash_end: fields.parsed("endingHashKey")?,
        epoch: fields.number(EPOCH)?,
        position,
        bound: Bound(fields.number("bound")?),
        object,
    })
}

/// The key of a window: its start, moved so that the order of texts is the order of times before and after 1970.
pub(super) fn window_key(start_us: i64) -> String {
    format!("{:020}", start_us.cast_unsigned() ^ (1 << 63))
}

/// The item of a window's row.
pub(super) fn window_item(pk: &str, row: &WindowRow) -> Result<Item> {
    let mut item = keys(pk, &window_key(row.start_us));
    item.insert("format".into(), count(FORMAT));
    item.insert(VERSION.into(), count(row.version));
    item.insert("start_us".into(), AttributeValue::N(row.start_us.to_string()));
    let json = serde_json::to_string(row).map_err(|error| Fault::caused(Kind::Bug, "writing a window row", &error))?;
    if json.len() <= PLAIN_MAX {
        item.insert("row".into(), AttributeValue::S(json));
    } else {
        let packed = zstd::bulk::compress(json.as_bytes(), ZSTD_LEVEL);
        let packed = packed.map_err(|error| Fault::caused(Kind::Bug, "compressing a window row", &error))?;
        item.insert("row_zstd".into(), AttributeValue::B(Blob::new(packed)));
    }
    Ok(item)
}

/// A window's row out of its item.
pub(super) fn window_row(item: &Item) -> Result<WindowRow> {
    let fields = Fields::of(item)?;
    let row: WindowRow = match item.get("row_zstd").map(AttributeValue::as_b) {
        Some(Ok(packed)) => {
            let json = zstd::bulk::decompress(packed.as_ref(), ROW_MAX).map_err(|_| fields.bad("row_zstd"))?;
            fields.json("row_zstd", &json)?
        }
        Some(Err(_)) => return Err(fields.bad("row_zstd")),
        None => fields.json("row", fields.text("row")?.as_bytes())?,
    };
    if row.version != fields.number::<u64>(VERSION)? || window_key(row.start_us) != fields.of {
        return Err(Fault::corrupt(format!("a window row of {} contradicts its key or its version", row.table)));
    }
    Ok(row)
}
