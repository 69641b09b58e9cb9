//! Epoch objects: what was written is read, and nothing else is.

use std::collections::BTreeMap;

use bytes::Bytes;
use sluicebox_actors::model::epoch::{
    EpochHeader, EpochObject, Hash, Held, HeldOutput, OutputClass, PendingOutput, Segment, SegmentBody, encode,
};
use sluicebox_actors::model::position::ShardId;
use sluicebox_sim::headers;

fn header() -> EpochHeader {
    let ordinals = BTreeMap::from([("t".to_owned(), BTreeMap::from([(0, 3)]))]);
    EpochHeader { ordinals, ..headers::header(&ShardId::new("shardId-0"), 1) }
}

#[test]
fn what_was_written_is_read_and_any_flipped_bit_is_refused() {
    let bodies = [SegmentBody { table: "t".into(), window_us: 0, rows: 7, body: Bytes::from_static(b"partial") }];
    let mut header = header();
    let data = encode(&mut header, &bodies, &[]).expect("encodes");
    let object = EpochObject::decode(&data).expect("decodes");
    assert_eq!(object.header, header);
    assert_eq!(object.header.segments[0].ordinal, 3);
    assert_eq!(object.segment(&object.header.segments[0]).expect("inside"), "partial");
    for byte in 0..data.len() {
        let mut damaged = data.to_vec();
        damaged[byte] ^= 1;
        assert!(EpochObject::decode(&damaged.into()).is_err(), "byte {byte}");
    }
    for len in 0..data.len() {
        assert!(EpochObject::decode(&data.slice(..len)).is_err(), "cut at {len}");
    }
}

#[test]
fn a_segment_that_lies_outside_of_the_object_is_refused_however_far() {
    let bodies = [SegmentBody { table: "t".into(), window_us: 0, rows: 7, body: Bytes::from_static(b"partial") }];
    let data = encode(&mut header(), &bodies, &[]).expect("encodes");
    let object = EpochObject::decode(&data).expect("decodes");
    let segment = |offset, len| object.segment(&Segment { offset, len, ..object.header.segments[0].clone() });
    assert_eq!(segment(3, 4).expect("inside"), "tial");
    for (offset, len) in [(0, 8), (8, 0), (1, 7), (u64::MAX, 1), (1, u64::MAX), (u64::MAX, u64::MAX), (1 << 32, 1)] {
        assert!(segment(offset, len).is_err(), "{len} bytes at {offset}");
    }
}

#[test]
fn inline_outputs_come_back_behind_the_partials_and_one_without_its_bytes_is_refused() {
    let output = |name: &str, held: Held| PendingOutput {
        class: OutputClass::Silver,
        staged: name.into(),
        path: format!("silver/{name}"),
        len: 4,
        sha256: Hash::of(name.as_bytes()),
        rows: 1,
        epoch: 1,
        closed_because: "epoch".into(),
        held,
    };
    let inline = |name: &str| HeldOutput {
        output: output(name, Held::Inline),
        body: Some(Bytes::copy_from_slice(format!("<{name}>").as_bytes())),
    };
    let held = [inline("one"), output("file", Held::File).into(), inline("two")];
    let bodies = [SegmentBody { table: "t".into(), window_us: 0, rows: 7, body: Bytes::from_static(b"partial") }];
    let mut header = header();
    header.pending = held.iter().map(|held| held.output.clone()).collect();
    let object = EpochObject::decode(&encode(&mut header, &bodies, &held).expect("encodes")).expect("decodes");
    assert_eq!(object.pending().expect("all there"), held);
    assert_eq!(object.segment(&object.header.segments[0]).expect("inside"), "partial");
    let object = EpochObject::decode(&encode(&mut header, &bodies, &held[..2]).expect("encodes")).expect("decodes");
    assert!(object.pending().is_err());
}
