//! Epoch objects: arbitrary bytes are refused and not followed, what is read is written back the same.
//!
//! Owns: framing an input so that damage behind the checksum is reached, the round trip. Does not own: memory limits (the
//! target's allocator).

use bytes::Bytes;
use sluicebox_actors::model::epoch::{EpochObject, Hash, LedgerLine, Segment, SegmentBody, encode};

/// The bytes to read. The first byte chooses: as they are, with a right checksum, or header and body (divided by a NUL) in a
/// whole frame.
pub fn object(data: &[u8]) -> Bytes {
    let Some((how, rest)) = data.split_first() else { return Bytes::new() };
    let mut out = Vec::with_capacity(data.len() + 16);
    match how % 3 {
        0 => return Bytes::copy_from_slice(rest),
        1 => out.extend_from_slice(rest),
        _ => {
            let end = rest.iter().position(|byte| *byte == 0).unwrap_or(rest.len());
            out.extend_from_slice(b"SBEPOCH1");
            out.extend_from_slice(&(end as u32).to_le_bytes());
            out.extend_from_slice(&rest[..end]);
            out.extend_from_slice(rest.get(end + 1..).unwrap_or_default());
        }
    }
    out.extend_from_slice(&crc32fast::hash(&out).to_le_bytes());
    out.into()
}

/// What an object that was read must hold. The input of the round trip is the object's own header and segments.
pub fn check(object: &EpochObject) {
    let json = serde_json::to_vec(&object.header).expect("a header is JSON");
    assert_eq!(serde_json::from_slice::<sluicebox_actors::model::epoch::EpochHeader>(&json).expect("reads"), object.header);
    let line = LedgerLine::of(&object.header, Hash::of(&json));
    let text = serde_json::to_vec(&line).expect("a line is JSON");
    assert_eq!(serde_json::from_slice::<LedgerLine>(&text).expect("a ledger line reads back"), line);

    let body = |segment: &Segment| {
        let body = object.segment(segment).ok()?;
        assert_eq!(body.len() as u64, segment.len);
        let Segment { table, window_us, rows, .. } = segment.clone();
        Some(SegmentBody { table, window_us, rows, body })
    };
    let bodies: Vec<SegmentBody> = object.header.segments.iter().filter_map(body).collect();
    let mut header = object.header.clone();
    // Refused where a segment has no ordinal.
    let held = object.pending().unwrap_or_default();
    let Ok(data) = encode(&mut header, &bodies, &held) else { return };
    let back = EpochObject::decode(&data).expect("what was written is read");
    assert_eq!(back.header, header);
    assert_eq!(back.header.segments.len(), bodies.len());
    for (segment, written) in back.header.segments.iter().zip(&bodies) {
        assert_eq!(back.segment(segment).expect("it was written"), written.body);
    }
    let again = encode(&mut back.header.clone(), &bodies, &held).expect("it was written once");
    assert_eq!(again, data, "written twice, two objects");
}
