//! Goal: an aggregate comes apart into exactly what went in, and whatever was damaged stays one record, bytes unchanged.

use std::ops::RangeInclusive;

use bytes::Bytes;
use md5::{Digest, Md5};
use proptest::prelude::*;
use sluicebox_actors::model::position::Sequence;
use sluicebox_actors::model::record::RawRecord;
use sluicebox_fakeaws::kpl::{Sub, body, field, sealed};

use super::{Bounds, Opened, open};

const ALL: RangeInclusive<u128> = 0..=u128::MAX;

fn record(data: Bytes) -> RawRecord {
    RawRecord { sequence: Sequence::dense(9), sub_sequence: 0, foreign: false, partition_key: "a".into(), arrival_us: 5, data }
}

fn subs() -> impl Strategy<Value = Vec<Sub>> {
    let sub = (".{1,9}", any::<Option<u128>>(), prop::collection::vec(any::<u8>(), 0..40), any::<bool>());
    let sub = sub.prop_map(|(key, hash, data, tagged)| Sub { key, hash, data, tagged });
    prop::collection::vec(sub, 1..12)
}

fn expected(subs: &[Sub], range: &RangeInclusive<u128>) -> Vec<RawRecord> {
    let number = |key: &str| u128::from_be_bytes(Md5::digest(key.as_bytes()).into());
    let part = |(at, sub): (usize, &Sub)| RawRecord {
        sub_sequence: at as u32,
        foreign: !range.contains(&sub.hash.unwrap_or_else(|| number(&sub.key))),
        partition_key: sub.key.clone().into(),
        ..record(sub.data.clone().into())
    };
    subs.iter().enumerate().map(part).collect()
}

proptest! {
    // Rows 36 and 37: each sub-record once and in order, told whether its hash key belongs to this shard.
    #[test]
    fn what_was_packed_comes_out(subs in subs(), one in any::<u128>(), other in any::<u128>()) {
        let range = one.min(other)..=one.max(other);
        let opened = open(record(sealed(&body(&subs))), &range, Bounds::default());
        prop_assert_eq!(opened, Opened::Parts(expected(&subs, &range)));
    }

    // Row 37: the digest refuses every damage; the record stays as it came.
    #[test]
    fn a_truncation_or_a_flipped_bit_leaves_a_plain_record(subs in subs(), at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let whole = sealed(&body(&subs));
        let cut = whole.slice(..at.index(whole.len()));
        prop_assert_eq!(open(record(cut.clone()), &ALL, Bounds::default()), Opened::Plain(record(cut)));
        let mut flipped = whole.to_vec();
        let index = at.index(flipped.len());
        flipped[index] ^= 1 << bit;
        let flipped = Bytes::from(flipped);
        prop_assert_eq!(open(record(flipped.clone()), &ALL, Bounds::default()), Opened::Plain(record(flipped)));
    }

    // The same damage under a digest that fits it, as a hostile producer makes it: never a panic, never other bytes.
    #[test]
    fn damage_with_a_fitting_digest_is_read_as_something_or_stays_whole(
        subs in subs(), at in any::<prop::sample::Index>(), bit in 0u8..8, cut in any::<bool>(),
    ) {
        let mut body = body(&subs);
        let index = at.index(body.len());
        if cut { body.truncate(index) } else { body[index] ^= 1 << bit }
        let data = sealed(&body);
        match open(record(data.clone()), &ALL, Bounds::default()) {
            Opened::Parts(parts) => {
                prop_assert!(parts.iter().zip(0u32..).all(|(part, number)| part.sub_sequence == number));
                prop_assert!(!parts.is_empty() && parts.len() <= subs.len());
            }
            Opened::Malformed(kept) => prop_assert_eq!(kept, record(data)),
            Opened::Plain(_) | Opened::TooLarge(_) => prop_assert!(false, "the digest fits and the bounds are wide"),
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let data = sealed(&bytes);
        match open(record(data.clone()), &ALL, Bounds::default()) {
            Opened::Parts(parts) => prop_assert!(!parts.is_empty()),
            Opened::Plain(kept) | Opened::Malformed(kept) | Opened::TooLarge(kept) => prop_assert_eq!(kept, record(data)),
        }
    }
}

#[test]
fn more_parts_or_bytes_than_the_bounds_allow_stay_one_record() {
    let few = Bounds { parts: 3, bytes: 4 * 130 };
    let four = sealed(&body(&[Sub::plain(b""), Sub::plain(b""), Sub::plain(b""), Sub::plain(b"")]));
    assert_eq!(open(record(four.clone()), &ALL, few), Opened::TooLarge(record(four)));
    let heavy = sealed(&body(&[Sub::plain(&[7; 600])]));
    assert_eq!(open(record(heavy.clone()), &ALL, few), Opened::TooLarge(record(heavy)));
    let three = sealed(&body(&[Sub::plain(b""), Sub::plain(b""), Sub::plain(b"")]));
    assert!(matches!(open(record(three), &ALL, few), Opened::Parts(parts) if parts.len() == 3));
}

// Row 37: a million empty sub-records in 10 MiB are counted before they are built.
#[test]
fn a_million_parts_are_refused() {
    let mut body = Vec::new();
    field(1, b"k", &mut body);
    for _ in 0..1_000_000 {
        field(3, &[1 << 3, 0, 3 << 3 | 2, 0], &mut body);
    }
    let data = sealed(&body);
    assert!(data.len() < 10 << 20);
    assert!(matches!(open(record(data), &ALL, Bounds::default()), Opened::TooLarge(_)));
}

#[test]
fn an_aggregate_that_names_no_key_or_no_record_stays_whole() {
    let mut without_table = Vec::new();
    field(3, &[1 << 3, 0, 3 << 3 | 2, 0], &mut without_table);
    let mut without_data = Vec::new();
    field(1, b"k", &mut without_data);
    field(3, &[1 << 3, 0], &mut without_data);
    let mut long_key = Vec::new();
    field(1, &[b'k'; 257], &mut long_key);
    field(3, &[1 << 3, 0, 3 << 3 | 2, 0], &mut long_key);
    for body in [&b""[..], &without_table, &without_data, &long_key] {
        let data = sealed(body);
        assert_eq!(open(record(data.clone()), &ALL, Bounds::default()), Opened::Malformed(record(data)));
    }
}
