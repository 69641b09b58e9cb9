//! The on-disk format of a batch: a run of records of one shard, stored as one value.
//!
//! ```text
//! crc32           u32, little endian, over everything behind it
//! version         u8, 1
//! first_sequence  u64, little endian
//! first_arrival   i64, little endian, microseconds since 1970
//! count           u32, little endian
//! records, count times:
//!   arrival       LEB128, microseconds after the record before it (the first: after first_arrival)
//!   key length    LEB128
//!   data length   LEB128
//!   key, data     bytes
//! ```
//!
//! Sequence numbers are dense, so the n-th record has `first_sequence + n`. A batch names its own first number and arrival
//! under the checksum: a payload that ends up in another row is damage like a flipped bit.
//!
//! Owns: the format, its reading and its refusal of damage. Does not own: where a batch lies (shard), who gives numbers (shard).

use bytes::Bytes;
use sluicebox_actors::model::position::Sequence;
use sluicebox_actors::model::record::RawRecord;

const VERSION: u8 = 1;
const HEADER: usize = 25;

/// Lays records out behind one another.
pub(super) struct BatchWriter {
    buffer: Vec<u8>,
    first_sequence: u64,
    first_arrival_us: i64,
    last_arrival_us: i64,
    count: u32,
    data_bytes: u64,
}

/// A batch as it is stored, with what its row says about it.
pub(super) struct EncodedBatch {
    pub(super) first_sequence: u64,
    pub(super) last_sequence: u64,
    pub(super) first_arrival_us: i64,
    pub(super) last_arrival_us: i64,
    pub(super) data_bytes: u64,
    pub(super) payload: Vec<u8>,
}

impl BatchWriter {
    /// An empty batch that starts with this number and takes no arrival before this one.
    pub(super) fn new(first_sequence: u64, first_arrival_us: i64, capacity: usize) -> Self {
        let mut buffer = Vec::with_capacity(HEADER + capacity);
        buffer.resize(HEADER, 0);
        Self { buffer, first_sequence, first_arrival_us, last_arrival_us: first_arrival_us, count: 0, data_bytes: 0 }
    }

    /// Appends a record. `arrival_us` must not fall; an earlier one is stored as the arrival of the record before.
    pub(super) fn push(&mut self, key: &[u8], data: &[u8], arrival_us: i64) {
        let arrival_us = arrival_us.max(self.last_arrival_us);
        leb128(&mut self.buffer, arrival_us.abs_diff(self.last_arrival_us));
        leb128(&mut self.buffer, key.len() as u64);
        leb128(&mut self.buffer, data.len() as u64);
        self.buffer.extend_from_slice(key);
        self.buffer.extend_from_slice(data);
        self.last_arrival_us = arrival_us;
        self.count += 1;
        self.data_bytes += data.len() as u64;
    }

    /// The finished batch; none without a record.
    pub(super) fn finish(self) -> Option<EncodedBatch> {
        let mut payload = self.buffer;
        let last_sequence = self.first_sequence + u64::from(self.count.checked_sub(1)?);
        payload[4] = VERSION;
        payload[5..13].copy_from_slice(&self.first_sequence.to_le_bytes());
        payload[13..21].copy_from_slice(&self.first_arrival_us.to_le_bytes());
        payload[21..25].copy_from_slice(&self.count.to_le_bytes());
        let crc = crc32fast::hash(&payload[4..]);
        payload[..4].copy_from_slice(&crc.to_le_bytes());
        Some(EncodedBatch {
            first_sequence: self.first_sequence,
            last_sequence,
            first_arrival_us: self.first_arrival_us,
            last_arrival_us: self.last_arrival_us,
            data_bytes: self.data_bytes,
            payload,
        })
    }
}

/// A batch that passed its checksum. Its records are slices of one allocation.
#[derive(Clone)]
pub(super) struct Batch {
    payload: Bytes,
    first_sequence: u64,
    first_arrival_us: i64,
    count: u32,
}

/// A place between two records of a batch.
#[derive(Clone, Copy)]
pub(super) struct Cursor {
    next: u64,
    offset: usize,
    arrival_us: i64,
}

impl Cursor {
    /// Number of the record that comes next.
    pub(super) fn next(&self) -> u64 {
        self.next
    }
}

impl Batch {
    /// Checks a stored payload; the error says what is wrong with it.
    pub(super) fn decode(payload: Bytes) -> Result<Self, &'static str> {
        let stored = fixed::<4>(&payload, 0).map(u32::from_le_bytes).ok_or("shorter than its header")?;
        if stored != crc32fast::hash(&payload[4..]) {
            return Err("checksum differs");
        }
        if payload.get(4) != Some(&VERSION) {
            return Err("not a batch of format 1: it was written by a newer version of this program");
        }
        let short = "shorter than its header";
        let first_sequence = fixed::<8>(&payload, 5).map(u64::from_le_bytes).ok_or(short)?;
        let first_arrival_us = fixed::<8>(&payload, 13).map(i64::from_le_bytes).ok_or(short)?;
        let count = fixed::<4>(&payload, 21).map(u32::from_le_bytes).ok_or(short)?;
        Ok(Self { payload, first_sequence, first_arrival_us, count })
    }

    /// Number of its first record.
    pub(super) fn first_sequence(&self) -> u64 {
        self.first_sequence
    }

    /// Number of the record that would follow its last.
    pub(super) fn end(&self) -> u64 {
        self.first_sequence + u64::from(self.count)
    }

    /// Before its first record.
    pub(super) fn start(&self) -> Cursor {
        Cursor { next: self.first_sequence, offset: HEADER, arrival_us: self.first_arrival_us }
    }

    /// Takes the next record; none at the end.
    pub(super) fn next(&self, cursor: &mut Cursor) -> Result<Option<RawRecord>, &'static str> {
        if cursor.next >= self.end() {
            return Ok(None);
        }
        let head = self.head(cursor).ok_or("a record reaches past the end of its batch")?;
        let record = RawRecord {
            sequence: Sequence::dense(cursor.next),
            sub_sequence: 0,
            foreign: false,
            partition_key: self.payload.slice(head.key..head.data),
            arrival_us: head.arrival_us,
            data: self.payload.slice(head.data..head.end),
        };
        *cursor = Cursor { next: cursor.next + 1, offset: head.end, arrival_us: head.arrival_us };
        Ok(Some(record))
    }

    /// Passes over records until the one with this number comes next.
    pub(super) fn seek(&self, cursor: &mut Cursor, sequence: u64) -> Result<(), &'static str> {
        while cursor.next < sequence {
            let head = self.head(cursor).ok_or("a record reaches past the end of its batch")?;
            *cursor = Cursor { next: cursor.next + 1, offset: head.end, arrival_us: head.arrival_us };
        }
        Ok(())
    }

    fn head(&self, cursor: &Cursor) -> Option<Head> {
        let mut at = cursor.offset;
        let later_us = take_leb128(&self.payload, &mut at)?;
        let key_len = usize::try_from(take_leb128(&self.payload, &mut at)?).ok()?;
        let data_len = usize::try_from(take_leb128(&self.payload, &mut at)?).ok()?;
        let data = at.checked_add(key_len)?;
        let end = data.checked_add(data_len).filter(|end| *end <= self.payload.len())?;
        Some(Head { arrival_us: cursor.arrival_us.checked_add_unsigned(later_us)?, key: at, data, end })
    }
}

struct Head {
    arrival_us: i64,
    key: usize,
    data: usize,
    end: usize,
}

fn fixed<const N: usize>(data: &[u8], at: usize) -> Option<[u8; N]> {
    data.get(at..at + N)?.try_into().ok()
}

fn leb128(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn take_leb128(data: &[u8], at: &mut usize) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = *data.get(*at)?;
        *at += 1;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encode(first: u64, records: &[(Vec<u8>, Vec<u8>, i64)]) -> Option<EncodedBatch> {
        let mut writer = BatchWriter::new(first, records.first().map_or(0, |record| record.2), 0);
        for (key, data, arrival_us) in records {
            writer.push(key, data, *arrival_us);
        }
        writer.finish()
    }

    fn read_all(batch: &Batch) -> Vec<RawRecord> {
        let mut cursor = batch.start();
        std::iter::from_fn(|| batch.next(&mut cursor).expect("inside")).collect()
    }

    proptest! {
        #[test]
        fn records_come_back_with_dense_numbers_and_their_arrivals(
            first in 1u64..1 << 40,
            mut records in proptest::collection::vec((any::<Vec<u8>>(), any::<Vec<u8>>(), 0i64..1 << 50), 1..20),
        ) {
            records.sort_by_key(|record| record.2);
            let encoded = encode(first, &records).expect("has records");
            let batch = Batch::decode(encoded.payload.into()).expect("undamaged");
            prop_assert_eq!(batch.end(), encoded.last_sequence + 1);
            let back = read_all(&batch);
            prop_assert_eq!(back.len(), records.len());
            for (i, (record, (key, data, arrival_us))) in back.iter().zip(&records).enumerate() {
                prop_assert_eq!(record.sequence, Sequence::dense(first + i as u64));
                prop_assert_eq!((&record.partition_key[..], &record.data[..]), (&key[..], &data[..]));
                prop_assert_eq!(record.arrival_us, *arrival_us);
            }
            let mut cursor = batch.start();
            batch.seek(&mut cursor, encoded.last_sequence).expect("inside");
            prop_assert_eq!(batch.next(&mut cursor).expect("inside"), back.last().cloned());
        }
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_refused() {
        let records = [(b"k".to_vec(), b"payload".to_vec(), 5), (b"k".to_vec(), b"".to_vec(), 9)];
        let payload = encode(7, &records).expect("has records").payload;
        for byte in 0..payload.len() {
            let mut damaged = payload.clone();
            damaged[byte] ^= 0x10;
            assert!(Batch::decode(damaged.into()).is_err(), "byte {byte}");
            assert!(Batch::decode(payload[..byte].to_vec().into()).is_err(), "cut at {byte}");
        }
    }

    #[test]
    fn an_arrival_that_falls_is_stored_as_the_one_before_it() {
        let encoded = encode(1, &[(vec![], vec![], 9), (vec![], vec![], 5)]).expect("has records");
        assert_eq!(encoded.last_arrival_us, 9);
        let batch = Batch::decode(encoded.payload.into()).expect("undamaged");
        assert_eq!(read_all(&batch).iter().map(|record| record.arrival_us).collect::<Vec<_>>(), [9, 9]);
    }

    #[test]
    fn a_batch_without_a_record_is_not_stored() {
        assert!(encode(1, &[]).is_none());
    }
}
