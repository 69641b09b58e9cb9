//! Aggregates as the Kinesis Producer Library makes them, from the text of its format: nothing here is shared with what takes
//! them apart.
//!
//! Owns: the protobuf message, the digest after it. Does not own: putting it on a stream.

use bytes::Bytes;
use md5::{Digest, Md5};

/// What an aggregate begins with.
const MAGIC: [u8; 4] = [0xF3, 0x89, 0x9A, 0xC2];

/// One record of an aggregate.
#[derive(Clone, Debug)]
pub struct Sub {
    /// Partition key.
    pub key: String,
    /// Explicit hash key.
    pub hash: Option<u128>,
    /// Payload.
    pub data: Vec<u8>,
    /// With a tag, which nobody reads.
    pub tagged: bool,
}

impl Sub {
    /// Under one key, without more.
    pub fn plain(data: &[u8]) -> Self {
        Self { key: "k".into(), hash: None, data: data.into(), tagged: false }
    }
}

/// An aggregate of these payloads, all under one key.
pub fn aggregate<'a>(payloads: impl Iterator<Item = &'a [u8]>) -> Bytes {
    sealed(&body(&payloads.map(Sub::plain).collect::<Vec<_>>()))
}

/// The message alone.
pub fn body(subs: &[Sub]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut hashes = 0u64;
    for (number, sub) in subs.iter().enumerate() {
        field(1, sub.key.as_bytes(), &mut out);
        let mut part = vec![1 << 3];
        varint(number as u64, &mut part);
        if let Some(hash) = sub.hash {
            field(2, hash.to_string().as_bytes(), &mut out);
            part.push(2 << 3);
            varint(hashes, &mut part);
            hashes += 1;
        }
        field(3, &sub.data, &mut part);
        if sub.tagged {
            field(4, &[1 << 3 | 2, 1, b'k'], &mut part);
        }
        field(3, &part, &mut out);
    }
    out
}

/// A field of bytes.
pub fn field(tag: u8, bytes: &[u8], out: &mut Vec<u8>) {
    out.push(tag << 3 | 2);
    varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Whatever message, between the magic and a digest that fits it.
pub fn sealed(body: &[u8]) -> Bytes {
    let digest: [u8; 16] = Md5::digest(body).into();
    [&MAGIC[..], body, &digest].concat().into()
}
