//! Opaque tokens: shard iterators and the pages of a listing.
//!
//! Owns: what a token holds, its text and its age. Does not own: what is read with it (get, list).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sluicebox_actors::model::position::{Position, Sequence, ShardId};

use super::error::{Answer, ApiError};

/// Iterators and page tokens are good for so long, microseconds.
pub(super) const LIFETIME_US: i64 = 300 * 1_000_000;

/// Where a consumer stands in a shard.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct ShardIterator {
    pub(super) stream: String,
    /// Tells a stream from a later one of the same name.
    pub(super) created_us: i64,
    pub(super) issued_us: i64,
    pub(super) shard: ShardId,
    /// So many records of the shard lie before it.
    pub(super) after: u64,
}

impl ShardIterator {
    /// As a text that says nothing.
    pub(super) fn encode(&self) -> String {
        let Self { stream, created_us, issued_us, shard, after } = self;
        seal(&format!("i {created_us} {issued_us} {after} {shard} {stream}"))
    }

    /// Back from its text, however old.
    pub(super) fn decode(token: &str) -> Answer<Self> {
        let parse = || {
            let text = unseal(token)?;
            let mut parts = text.strip_prefix("i ")?.splitn(5, ' ');
            Some(Self {
                created_us: parts.next()?.parse().ok()?,
                issued_us: parts.next()?.parse().ok()?,
                after: parts.next()?.parse().ok()?,
                shard: ShardId::new(parts.next()?),
                stream: parts.next()?.to_owned(),
            })
        };
        parse().ok_or_else(|| ApiError::invalid("Invalid ShardIterator: it is not one that this endpoint gave"))
    }

    pub(super) fn expired(&self, now_us: i64) -> bool {
        now_us.saturating_sub(self.issued_us) > LIFETIME_US
    }

    pub(super) fn position(&self) -> Position {
        Position::after(Sequence::dense(self.after))
    }
}

/// Where a listing goes on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Page {
    pub(super) stream: String,
    pub(super) issued_us: i64,
    /// The last thing that was listed.
    pub(super) last: String,
    /// The filter the listing started with, as JSON.
    pub(super) filter: String,
}

impl Page {
    pub(super) fn encode(&self) -> String {
        let Self { stream, issued_us, last, filter } = self;
        seal(&format!("p {issued_us} {last} {stream} {filter}"))
    }

    /// Back from its text, unless it is too old.
    pub(super) fn decode(token: &str, now_us: i64) -> Answer<Self> {
        let parse = || {
            let text = unseal(token)?;
            let mut parts = text.strip_prefix("p ")?.splitn(4, ' ');
            Some(Self {
                issued_us: parts.next()?.parse().ok()?,
                last: parts.next()?.to_owned(),
                stream: parts.next()?.to_owned(),
                filter: parts.next()?.to_owned(),
            })
        };
        let page = parse().ok_or_else(|| ApiError::invalid("Invalid NextToken: it is not one that this endpoint gave"))?;
        if now_us.saturating_sub(page.issued_us) > LIFETIME_US {
            let message = "The NextToken has expired: a token lives for 5 minutes; start the listing again";
            return Err(ApiError::new("ExpiredNextTokenException", 400, message));
        }
        Ok(page)
    }
}

// The checksum tells a damaged token from an old one; nobody is kept from forging one, as nobody is kept from reading.
fn seal(text: &str) -> String {
    let mut bytes = crc32fast::hash(text.as_bytes()).to_le_bytes().to_vec();
    bytes.extend_from_slice(text.as_bytes());
    URL_SAFE_NO_PAD.encode(bytes)
}

fn unseal(token: &str) -> Option<String> {
    let mut bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
    let stored = u32::from_le_bytes(bytes.get(..4)?.try_into().ok()?);
    let text = bytes.split_off(4);
    if crc32fast::hash(&text) == stored { String::from_utf8(text).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_iterator_comes_back_from_its_text_and_no_other_text_is_one(
            stream in "[a-zA-Z0-9_.-]{1,128}", created_us: i64, issued_us: i64, after: u64, flip in 0usize..400, bit in 0u8..6
        ) {
            let iterator = ShardIterator { stream, created_us, issued_us, shard: ShardId::new("shardId-000000000012"), after };
            let text = iterator.encode();
            prop_assert_eq!(ShardIterator::decode(&text).expect("ours"), iterator);
            let mut damaged = text.clone().into_bytes();
            let at = flip % damaged.len();
            damaged[at] ^= 1 << bit;
            let damaged = String::from_utf8_lossy(&damaged).into_owned();
            let code = ShardIterator::decode(&damaged).map_err(|error| error.code).err();
            prop_assert_eq!(code.as_deref(), Some("InvalidArgumentException"));
        }
    }

    #[test]
    fn a_page_is_not_an_iterator_and_grows_old() {
        let page = Page { stream: "s".into(), issued_us: 7, last: "shardId-000000000001".into(), filter: "null".into() };
        let text = page.encode();
        assert!(ShardIterator::decode(&text).is_err());
        assert_eq!(Page::decode(&text, 7 + LIFETIME_US), Ok(page));
        assert_eq!(Page::decode(&text, 8 + LIFETIME_US).expect_err("old").code, "ExpiredNextTokenException");
    }
}
