//! Records of the Kinesis Producer Library, which packs many into one.
//!
//! ```text
//! F3 89 9A C2 | protobuf AggregatedRecord | MD5 of the protobuf
//! ```
//! (awslabs/amazon-kinesis-producer, aggregation-format.md.) What is not exactly that stays a plain record, bytes unchanged: it
//! then meets the contract like any other and at worst becomes a letter with its bytes. So does an aggregate without a record,
//! which would otherwise leave no trace.
//!
//! Owns: taking aggregates apart, within bounds; sub-sequence numbers; which sub-records are foreign. Does not own: what becomes
//! of foreign records (settings), positions (cursor: a Kinesis record is never cut in two).

use std::ops::RangeInclusive;

use bytes::{Buf, Bytes};
use md5::{Digest, Md5};
use prost::Message;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use sluicebox_actors::model::record::RawRecord;

/// The four bytes an aggregate begins with.
pub const MAGIC: [u8; 4] = [0xF3, 0x89, 0x9A, 0xC2];
const DIGEST: usize = 16;
/// As for a key of a plain record.
const KEY_MAX: usize = 256;

/// Bounds of what one record may become.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Sub-records, and keys in each table.
    pub parts: usize,
    /// Their weight together, bytes.
    pub bytes: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { parts: 65_536, bytes: 64 << 20 }
    }
}

/// What a record turned out to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Opened {
    /// Not an aggregate.
    Plain(RawRecord),
    /// Its parts, at least one, with sub-sequence numbers from 0.
    Parts(Vec<RawRecord>),
    /// Has the magic and the digest, yet cannot be read; unchanged.
    Malformed(RawRecord),
    /// Would become more than the bounds allow; unchanged.
    TooLarge(RawRecord),
}

#[derive(Clone, PartialEq, Message)]
struct Part {
    // All three as options: protobuf 2 requires the first and the last, prost would fill in a default.
    #[prost(uint64, optional, tag = "1")]
    partition_key_index: Option<u64>,
    #[prost(uint64, optional, tag = "2")]
    explicit_hash_key_index: Option<u64>,
    #[prost(bytes = "bytes", optional, tag = "3")]
    data: Option<Bytes>,
}

enum Bad {
    Malformed,
    TooLarge,
}

/// Takes a record apart if it is an aggregate; `range` is the hash range of the shard it was read from. Payloads and keys share
/// the record's allocation.
pub fn open(record: RawRecord, range: &RangeInclusive<u128>, bounds: Bounds) -> Opened {
    let Some(body) = body(&record.data) else { return Opened::Plain(record) };
    match parts(&record, body, range, bounds) {
        Ok(parts) => Opened::Parts(parts),
        Err(Bad::Malformed) => Opened::Malformed(record),
        Err(Bad::TooLarge) => Opened::TooLarge(record),
    }
}

/// Takes apart what is an aggregate among these records; `told` hears of each what it turned out to be.
pub fn open_all(
    records: Vec<RawRecord>,
    range: &RangeInclusive<u128>,
    bounds: Bounds,
    mut told: impl FnMut(&Opened),
) -> Vec<RawRecord> {
    let mut parts = Vec::with_capacity(records.len());
    for record in records {
        let opened = open(record, range, bounds);
        told(&opened);
        match opened {
            Opened::Plain(record) | Opened::Malformed(record) | Opened::TooLarge(record) => parts.push(record),
            Opened::Parts(opened) => parts.extend(opened),
        }
    }
    parts
}

/// The hash key of a partition key: its MD5 as a number.
pub fn hash_key(partition_key: &[u8]) -> u128 {
    u128::from_be_bytes(Md5::digest(partition_key).into())
}

fn body(data: &Bytes) -> Option<Bytes> {
    let end = data.len().checked_sub(DIGEST).filter(|end| *end >= MAGIC.len())?;
    let body = data.starts_with(&MAGIC).then(|| data.slice(MAGIC.len()..end))?;
    (Md5::digest(&body)[..] == data[end..]).then_some(body)
}

fn parts(record: &RawRecord, mut body: Bytes, range: &RangeInclusive<u128>, bounds: Bounds) -> Result<Vec<RawRecord>, Bad> {
    let (mut keys, mut hash_keys, mut raw) = (Vec::new(), Vec::new(), Vec::new());
    // The outer message is walked by hand: prost would build all parts before anybody could count them.
    while body.has_remaining() {
        let (tag, wire) = decode_key(&mut body).map_err(|_| Bad::Malformed)?;
        match (tag, wire) {
            (1, WireType::LengthDelimited) => push(&mut keys, &mut body, bounds)?,
            (2, WireType::LengthDelimited) => push(&mut hash_keys, &mut body, bounds)?,
            (3, WireType::LengthDelimited) => push(&mut raw, &mut body, bounds)?,
            (1..=3, _) => return Err(Bad::Malformed),
            (tag, wire) => {
                skip_field(wire, tag, &mut body, DecodeContext::default()).map_err(|_| Bad::Malformed)?;
            }
        }
    }
    let keys = keys.into_iter().map(partition_key).collect::<Result<Vec<_>, _>>()?;
    let hash_keys = hash_keys.iter().map(explicit_hash_key).collect::<Result<Vec<_>, _>>()?;
    let mut parts = Vec::with_capacity(raw.len());
    let mut weight = 0usize;
    for (number, part) in raw.into_iter().enumerate() {
        let part = Part::decode(part).map_err(|_| Bad::Malformed)?;
        let (key, hash) = at(&keys, part.partition_key_index.ok_or(Bad::Malformed)?)?;
        let hash = part.explicit_hash_key_index.map_or(Ok(hash), |index| at(&hash_keys, index))?;
        let part = RawRecord {
            sequence: record.sequence,
            sub_sequence: u32::try_from(number).map_err(|_| Bad::TooLarge)?,
            foreign: !range.contains(hash),
            partition_key: key.clone(),
            arrival_us: record.arrival_us,
            data: part.data.ok_or(Bad::Malformed)?,
        };
        weight = weight.saturating_add(part.weight());
        if weight > bounds.bytes {
            return Err(Bad::TooLarge);
        }
        parts.push(part);
    }
    if parts.is_empty() { Err(Bad::Malformed) } else { Ok(parts) }
}

fn push(list: &mut Vec<Bytes>, body: &mut Bytes, bounds: Bounds) -> Result<(), Bad> {
    let length = decode_varint(body).map_err(|_| Bad::Malformed)?;
    let length = usize::try_from(length).ok().filter(|length| *length <= body.remaining()).ok_or(Bad::Malformed)?;
    if list.len() == bounds.parts {
        return Err(Bad::TooLarge);
    }
    list.push(body.split_to(length));
    Ok(())
}

/// The key with its hash, computed once for all parts that share it.
fn partition_key(key: Bytes) -> Result<(Bytes, u128), Bad> {
    let characters = std::str::from_utf8(&key).map_err(|_| Bad::Malformed)?.chars().count();
    if (1..=KEY_MAX).contains(&characters) {
        let hash = hash_key(&key);
        Ok((key, hash))
    } else {
        Err(Bad::Malformed)
    }
}

fn explicit_hash_key(key: &Bytes) -> Result<u128, Bad> {
    let digits = std::str::from_utf8(key).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    digits.and_then(|text| text.parse().ok()).ok_or(Bad::Malformed)
}

fn at<T>(table: &[T], index: u64) -> Result<&T, Bad> {
    usize::try_from(index).ok().and_then(|index| table.get(index)).ok_or(Bad::Malformed)
}

#[cfg(test)]
pub(super) mod tests;
