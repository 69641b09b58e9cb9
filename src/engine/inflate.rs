//! Payloads that are compressed: gzip and zstd, recognised by their first bytes, which no JSON begins with.
//!
//! They are decompressed where they are decoded, not where they are read: Bronze and letters hold what the stream delivered.
//!
//! Owns: decompression within bounds, a decoder that does it first, the reasons of its letters. Does not own: files (input), KPL
//! aggregates (sluicebox_aws).

use std::io::{self, BufRead, Read};

use sluicebox_actors::model::fault::{Fault, Result};
use sluicebox_actors::model::letter::{Rejection, Stage};
use sluicebox_actors::model::record::{RawRecord, RawSlice};

use super::condemned::decode_others;
use super::decode::Events;
use super::glue::EventDecoder;

/// Reason code of a payload that is damaged or cut short.
pub const BAD: &str = "bad_compression";
/// Reason code of a payload that outgrows the bounds.
pub const TOO_LARGE: &str = "too_large_decompressed";
/// Reason code of a payload in which there is another compressed one.
pub const NESTED: &str = "nested_compression";

/// Below this size a ratio says nothing: a short text may well be one letter again and again.
const RATIO_FROM: usize = 64 << 10;
/// Memory that a zstd frame may ask for, as a power of two: no more than comes out of it.
const ZSTD_WINDOW_LOG: u32 = 24;
/// What one slice may hold, decompressed: text columns address 31 bits.
const SLICE_MAX: usize = 1 << 30;

/// How much may come out of one payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bounds {
    /// Bytes.
    pub bytes: usize,
    /// Bytes per byte of input.
    pub ratio: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { bytes: 16 << 20, ratio: 100 }
    }
}

impl Bounds {
    /// How much may come out of so much.
    fn limit(self, input: usize) -> usize {
        self.bytes.min(input.saturating_mul(self.ratio).max(RATIO_FROM))
    }
}

/// A way of compressing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Codec {
    /// Any number of members.
    Gzip,
    /// Any number of frames.
    Zstd,
}

impl Codec {
    /// What these bytes begin as.
    pub fn of(data: &[u8]) -> Option<Self> {
        match data {
            [0x1f, 0x8b, ..] => Some(Self::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Self::Zstd),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }
}

/// Why a payload was not decompressed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Refused {
    /// Damaged, or cut short.
    Bad(String),
    /// More would come out than may; it was stopped here.
    TooLarge(usize),
}

/// Decompresses at most `limit` bytes, and one to see that there are more. What comes out grows as it comes: nothing that the
/// input says of its size is believed.
pub fn bounded_decompress(codec: Codec, input: impl BufRead, limit: usize) -> Result<Vec<u8>, Refused> {
    let mut out = Vec::new();
    let most = limit as u64 + 1;
    let read = match codec {
        Codec::Gzip => flate2::bufread::MultiGzDecoder::new(input).take(most).read_to_end(&mut out),
        Codec::Zstd => zstd_decoder(input).and_then(|decoder| decoder.take(most).read_to_end(&mut out)),
    };
    match read {
        Ok(_) if out.len() > limit => Err(Refused::TooLarge(out.len())),
        Ok(_) => Ok(out),
        Err(error) => Err(Refused::Bad(error.to_string())),
    }
}

fn zstd_decoder<R: BufRead>(input: R) -> io::Result<zstd::stream::read::Decoder<'static, R>> {
    let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?;
    decoder.window_log_max(ZSTD_WINDOW_LOG)?;
    Ok(decoder)
}

/// Decompresses records, then decodes them with the others.
pub struct Inflating {
    /// Decodes.
    pub decoder: Box<dyn EventDecoder>,
    /// What may come out of one.
    pub bounds: Bounds,
}

impl EventDecoder for Inflating {
    fn decode(&mut self, slice: &RawSlice) -> Result<Events> {
        if !slice.records.iter().any(|record| Codec::of(&record.data).is_some()) {
            return self.decoder.decode(slice);
        }
        // Rows hold what comes out of all records at once; one that is refused for that today may not be refused tomorrow.
        let most: usize = slice.records.iter().map(|record| self.most(record)).fold(0, usize::saturating_add);
        if most > SLICE_MAX && self.weight(slice) > SLICE_MAX {
            return Err(Fault::config(
                "the compressed records of one read hold more than 1 GiB: lower limits.fetch, so that a read brings fewer",
            ));
        }
        let bounds = self.bounds;
        decode_others(self.decoder.as_mut(), slice, |index, record| inflated(index, record, bounds))
    }
}

impl Inflating {
    fn most(&self, record: &RawRecord) -> usize {
        Codec::of(&record.data).map_or(record.data.len(), |_| self.bounds.limit(record.data.len()))
    }

    /// What the records weigh, decompressed, looked at one by one.
    fn weight(&self, slice: &RawSlice) -> usize {
        let weight = |record: &RawRecord| inflated(0, record, self.bounds).map_or(0, |record| record.weight());
        slice.records.iter().map(weight).fold(0, usize::saturating_add)
    }
}

fn inflated(index: u32, record: &RawRecord, bounds: Bounds) -> Result<RawRecord, Rejection> {
    let Some(codec) = Codec::of(&record.data) else { return Ok(record.clone()) };
    let refused = |reason, message| Rejection { index, stage: Stage::Decode, reason, path: None, message, causes: Vec::new() };
    let (name, length) = (codec.name(), record.data.len());
    let limit = bounds.limit(length);
    match bounded_decompress(codec, &record.data[..], limit) {
        Ok(data) if Codec::of(&data).is_some() => {
            Err(refused(NESTED, format!("what is in the {name} payload is compressed itself; it is opened once only")))
        }
        Ok(data) => Ok(RawRecord { data: data.into(), ..record.clone() }),
        Err(Refused::TooLarge(_)) => {
            let message = format!("{length} bytes of {name} hold more than {limit}: at most 16 MiB, or a hundred times as much");
            Err(refused(TOO_LARGE, message))
        }
        Err(Refused::Bad(error)) => {
            Err(refused(BAD, format!("the payload begins as {name} and cannot be read as that: {error}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufReader, Write};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use bytes::Bytes;
    use proptest::prelude::*;
    use sluicebox_actors::model::position::{Sequence, ShardId};

    use super::*;
    use crate::engine::contract::{Contract, EventOptions, TimeFormat, TimeSource};

    const CODECS: [Codec; 2] = [Codec::Gzip, Codec::Zstd];

    fn pack(codec: Codec, data: &[u8]) -> Vec<u8> {
        match codec {
            Codec::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
                encoder.write_all(data).expect("to memory");
                encoder.finish().expect("to memory")
            }
            Codec::Zstd => zstd::encode_all(data, 3).expect("compresses"),
        }
    }

    fn record(number: u64, data: &[u8]) -> RawRecord {
        let data = Bytes::copy_from_slice(data);
        RawRecord {
            sequence: Sequence::dense(number),
            sub_sequence: 0,
            foreign: false,
            partition_key: "k".into(),
            arrival_us: 1,
            data,
        }
    }

    fn decode(payloads: &[Vec<u8>], bounds: Bounds) -> Events {
        let options =
            EventOptions { time: TimeSource::Arrival, time_format: TimeFormat::Rfc3339, default_offset_s: 0, max_future_us: 0 };
        let schema = r#"{"type":"object","properties":{"n":{"type":"integer"}},"required":["n"]}"#;
        let decoder = Box::new(Contract::compile(schema, &options).expect("contract").decoder());
        let records = (1..).zip(payloads).map(|(number, data)| record(number, data)).collect();
        let slice = RawSlice { stream: "s".into(), shard: ShardId::new("shard-0"), records };
        Inflating { decoder, bounds }.decode(&slice).expect("decodes")
    }

    fn verdicts(events: &Events) -> Vec<(u32, &'static str)> {
        events.rejections.iter().map(|rejection| (rejection.index, rejection.reason)).collect()
    }

    /// Counts what is read.
    struct Counted<'a>(&'a [u8], Arc<AtomicUsize>);

    impl Read for Counted<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let read = self.0.read(buffer)?;
            self.1.fetch_add(read, Ordering::SeqCst);
            Ok(read)
        }
    }

    // Row 39: a bomb is stopped at the cap, and not read to its end.
    #[test]
    fn a_bomb_is_stopped_one_byte_behind_the_limit_and_the_rest_of_it_is_not_read() {
        let bomb = vec![b' '; 128 << 20];
        for codec in CODECS {
            let packed = pack(codec, &bomb);
            assert!(bomb.len() / packed.len() > 900, "{codec:?}");
            let (limit, read) = (1 << 20, Arc::new(AtomicUsize::new(0)));
            let input = BufReader::with_capacity(64, Counted(&packed, read.clone()));
            assert_eq!(bounded_decompress(codec, input, limit), Err(Refused::TooLarge(limit + 1)), "{codec:?}");
            assert!(read.load(Ordering::SeqCst) < packed.len() / 2, "{codec:?}: stopped at {read:?} of {}", packed.len());
            let events = decode(&[packed, pack(codec, br#"{"n":1}"#)], Bounds::default());
            assert_eq!((verdicts(&events), events.origin), (vec![(0, TOO_LARGE)], vec![1]), "its neighbour is untouched");
        }
    }

    #[test]
    fn the_bounds_are_the_smaller_of_size_and_ratio_and_a_short_text_may_repeat_itself() {
        let bounds = Bounds { bytes: 1 << 20, ratio: 10 };
        assert_eq!((bounds.limit(10), bounds.limit(20_000), bounds.limit(1 << 20)), (RATIO_FROM, 200_000, 1 << 20));
        let padded = format!("{{\"n\":1{}}}", " ".repeat(RATIO_FROM - 7));
        assert_eq!(padded.len(), RATIO_FROM);
        let longer = format!("{padded} ");
        let events = decode(&[pack(Codec::Gzip, padded.as_bytes()), pack(Codec::Gzip, longer.as_bytes())], bounds);
        assert_eq!((verdicts(&events), events.origin), (vec![(1, TOO_LARGE)], vec![0]));
    }

    #[test]
    fn compressed_and_plain_records_decode_side_by_side_and_what_is_nested_or_damaged_is_a_letter() {
        let event = |n: u32| format!("{{\"n\":{n}}}").into_bytes();
        let mut cut = pack(Codec::Gzip, &event(3));
        cut.truncate(cut.len() - 5);
        let mut flipped = pack(Codec::Gzip, &event(4));
        let last = flipped.len() - 6;
        flipped[last] ^= 1;
        let members = [pack(Codec::Gzip, b"{\"n\":"), pack(Codec::Gzip, b"6}")].concat();
        let payloads = [
            event(0),
            pack(Codec::Gzip, &event(1)),
            pack(Codec::Zstd, &event(2)),
            cut,
            flipped,
            pack(Codec::Zstd, &pack(Codec::Gzip, &event(5))),
            members,
            pack(Codec::Gzip, b"{\"n\":\"seven\"}"),
            b"(\xb5/\xfd".to_vec(),
            b"\x1f\x8b".to_vec(),
        ];
        let events = decode(&payloads, Bounds::default());
        assert_eq!(events.origin, [0, 1, 2, 6]);
        let [three, four, five, seven, eight, nine] = &verdicts(&events)[..] else { panic!("{:?}", verdicts(&events)) };
        assert_eq!((*three, *four, *five, *eight, *nine), ((3, BAD), (4, BAD), (5, NESTED), (8, BAD), (9, BAD)));
        assert!(seven.0 == 7 && seven.1 != BAD, "{seven:?}: a matter of the contract");
    }

    // A frame that wants more memory than may come out of it is not given it.
    #[test]
    fn a_frame_with_a_huge_window_is_refused() {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).expect("an encoder");
        encoder.window_log(27).expect("a window");
        encoder.write_all(br#"{"n":1}"#).expect("to memory");
        let events = decode(&[encoder.finish().expect("to memory")], Bounds::default());
        assert_eq!(verdicts(&events), [(0, BAD)]);
    }

    proptest! {
        #[test]
        fn what_was_packed_comes_out_again_up_to_the_limit_and_never_more(
            data in prop::collection::vec(0u8..4, 0..5_000),
            limit in 0usize..6_000,
        ) {
            for codec in CODECS {
                let packed = pack(codec, &data);
                prop_assert_eq!(Codec::of(&packed), Some(codec));
                match bounded_decompress(codec, &packed[..], limit) {
                    Ok(out) => prop_assert!(out == data && data.len() <= limit),
                    Err(refused) => prop_assert!(refused == Refused::TooLarge(limit + 1) && data.len() > limit),
                }
            }
        }

        #[test]
        fn any_bytes_are_one_row_or_one_letter(data in prop::collection::vec(any::<u8>(), 0..200), codec in 0usize..2) {
            let magic: &[u8] = [&[0x1f, 0x8b][..], &[0x28, 0xb5, 0x2f, 0xfd][..]][codec];
            let events = decode(&[[magic, &data[..]].concat()], Bounds::default());
            prop_assert_eq!(events.origin.len() + events.rejections.len(), 1);
        }
    }
}
