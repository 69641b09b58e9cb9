//! Which record of a put goes to which shard, and the appends side by side.
//!
//! The hash key of a record is the MD5 of its partition key, 128 bits, big endian, as in Kinesis. Appends to several shards run
//! on threads of their own: each ends with a wait for the disk, and the waits overlap.
//!
//! Owns: keys, hash keys, the table of open shards, parallel appends. Does not own: the topology (catalog), a shard's database.

use std::sync::Arc;

use md5::{Digest, Md5};
use sluicebox_actors::model::fault::{Fault, Result};
use sluicebox_actors::ports::ShardInfo;

use super::embedded::{KEY_MAX, PutError, PutRecord, RECORD_MAX};
use super::shard::{Appended, Incoming, ShardStore};

// Enough to overlap the waits for the disk, few enough for a stream of a thousand shards.
const THREADS: usize = 8;

/// The open shards in the order of their hash ranges, which cover everything.
#[derive(Default)]
pub(super) struct Routing(Vec<Route>);

struct Route {
    hash_end: u128,
    store: Arc<ShardStore>,
}

/// A checked record: where it stands in the put, its partition key and its hash key.
pub(super) struct Prepared<'a> {
    pub(super) index: usize,
    key: Key<'a>,
    hash: u128,
}

enum Key<'a> {
    Given(&'a [u8]),
    Digest([u8; 32]),
}

/// Records of one shard, and what became of them.
pub(super) struct Group<'a> {
    pub(super) store: Arc<ShardStore>,
    pub(super) records: Vec<Prepared<'a>>,
    pub(super) appended: Result<Appended>,
}

impl Routing {
    /// From the open shards of stream `name`.
    pub(super) fn new(name: &str, mut open: Vec<ShardInfo>, store: impl Fn(&ShardInfo) -> Arc<ShardStore>) -> Result<Self> {
        open.sort_unstable_by_key(|info| info.hash_start);
        let mut next = Some(0u128);
        for info in &open {
            if next != Some(info.hash_start) {
                return Err(Fault::corrupt(format!("stream `{name}`: the hash ranges of its open shards have a hole")));
            }
            next = info.hash_end.checked_add(1);
        }
        if next.is_some() {
            return Err(Fault::corrupt(format!("stream `{name}`: its open shards don't reach the last hash key")));
        }
        Ok(Self(open.iter().map(|info| Route { hash_end: info.hash_end, store: store(info) }).collect()))
    }

    /// Number of open shards.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Appends each record to its shard, in order within a shard.
    pub(super) fn append<'a>(&self, prepared: Vec<Prepared<'a>>, records: &[PutRecord], now_us: i64) -> Result<Vec<Group<'a>>> {
        let mut groups: Vec<Vec<Prepared<'a>>> = self.0.iter().map(|_| Vec::new()).collect();
        for record in prepared {
            let route = self.0.partition_point(|route| route.hash_end < record.hash);
            groups.get_mut(route).ok_or_else(|| Fault::bug("a hash key without a shard"))?.push(record);
        }
        let append = |(route, group): (&Route, Vec<Prepared<'a>>)| {
            let incoming: Vec<_> = group.iter().map(|prepared| prepared.incoming(records, now_us)).collect();
            let appended = route.store.append(&incoming);
            drop(incoming);
            Group { store: route.store.clone(), records: group, appended }
        };
        let mut work: Vec<_> = self.0.iter().zip(groups).filter(|(_, group)| !group.is_empty()).collect();
        let own = work.split_off(work.len().saturating_sub(work.len().div_ceil(THREADS)));
        let share = work.len().div_ceil(THREADS - 1).max(1);
        std::thread::scope(|scope| {
            let mut helpers = Vec::new();
            while !work.is_empty() {
                let part = work.split_off(work.len().saturating_sub(share));
                helpers.push(scope.spawn(move || part.into_iter().map(append).collect::<Vec<_>>()));
            }
            let mut done: Vec<_> = own.into_iter().map(append).collect();
            for helper in helpers {
                done.extend(helper.join().map_err(|_panic| Fault::bug("embedded stream: an append panicked"))?);
            }
            Ok(done)
        })
    }
}

impl<'a> Prepared<'a> {
    /// Checks a record and finds its keys.
    pub(super) fn new(index: usize, record: &'a PutRecord) -> Result<Self, PutError> {
        if record.data.len() > RECORD_MAX {
            return Err(PutError::TooLarge(record.data.len()));
        }
        let key = match &record.partition_key {
            Some(key) => {
                let text = std::str::from_utf8(key).map_err(|_not_text| PutError::KeyNotText)?;
                // A character has at least one byte, so short keys need no counting.
                if text.is_empty() || (text.len() > KEY_MAX && text.chars().count() > KEY_MAX) {
                    return Err(PutError::KeyLength(text.chars().count()));
                }
                Key::Given(key)
            }
            None => Key::Digest(hex(md5_of(&record.data))),
        };
        let hash = record.explicit_hash_key.unwrap_or_else(|| md5_of(key.bytes()));
        Ok(Self { index, key, hash })
    }

    fn incoming<'b>(&'b self, records: &'b [PutRecord], now_us: i64) -> Incoming<'b> {
        let record = &records[self.index];
        Incoming { key: self.key.bytes(), data: &record.data, arrival_us: record.arrival_us.unwrap_or(now_us) }
    }
}

impl Key<'_> {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Given(key) => key,
            Self::Digest(digits) => digits,
        }
    }
}

/// The hash key of a record that has a partition key or an explicit hash key.
pub(super) fn hash_key_of(record: &PutRecord) -> u128 {
    record.explicit_hash_key.unwrap_or_else(|| md5_of(record.partition_key.as_deref().unwrap_or_default()))
}

fn md5_of(data: &[u8]) -> u128 {
    u128::from_be_bytes(Md5::digest(data).into())
}

fn hex(value: u128) -> [u8; 32] {
    std::array::from_fn(|i| b"0123456789abcdef"[(value >> (124 - 4 * i)) as usize & 15])
}

#[cfg(test)]
mod tests {
    use sluicebox_actors::model::fault::Kind;
    use sluicebox_actors::model::position::ShardId;

    use super::*;

    fn info(number: usize, hash_start: u128, hash_end: u128) -> ShardInfo {
        ShardInfo { shard: ShardId::new(format!("{number}")), parents: Vec::new(), hash_start, hash_end, closed: false }
    }

    #[test]
    fn a_record_without_a_key_is_keyed_by_the_digits_of_its_md5() {
        let record = PutRecord { data: "abc".into(), ..PutRecord::default() };
        let prepared = Prepared::new(0, &record).expect("fits");
        assert_eq!(prepared.key.bytes(), b"900150983cd24fb0d6963f7d28e17f72");
        let keyed = PutRecord { partition_key: Some("abc".into()), ..PutRecord::default() };
        let prepared = Prepared::new(0, &keyed).expect("fits");
        assert_eq!(prepared.hash, 0x9001_5098_3cd2_4fb0_d696_3f7d_28e1_7f72);
    }

    #[test]
    fn a_hole_in_the_hash_ranges_is_damage() {
        let build = |open| {
            let store = |info: &ShardInfo| Arc::new(ShardStore::new(info.shard.clone(), "unused".into()));
            Routing::new("s", open, store).map(|routing| routing.len()).map_err(|fault| fault.kind())
        };
        assert_eq!(build(vec![info(1, 10, u128::MAX), info(0, 0, 9)]), Ok(2));
        for open in [vec![], vec![info(0, 0, 9)], vec![info(0, 1, u128::MAX)], vec![info(0, 0, 8), info(1, 10, u128::MAX)]] {
            assert_eq!(build(open), Err(Kind::Corrupt));
        }
    }

    #[test]
    fn more_shards_than_threads_all_get_their_records_in_order() {
        let dir = tempfile::tempdir().expect("a directory");
        for shards in [1, 2, 7, 8, 9, 30] {
            let step = u128::MAX / shards;
            let open =
                (0..shards).map(|i| info(i as usize, i * step, if i + 1 == shards { u128::MAX } else { (i + 1) * step - 1 }));
            let store = |info: &ShardInfo| {
                let store = ShardStore::new(info.shard.clone(), dir.path().join(format!("{shards}-{}.db", info.shard)));
                store.create(1).expect("creates");
                Arc::new(store)
            };
            let routing = Routing::new("s", open.collect(), store).expect("covers");
            let put = |i: u128| PutRecord {
                explicit_hash_key: Some(i % shards * step),
                data: format!("{i}").into(),
                ..PutRecord::default()
            };
            let records: Vec<_> = (0..shards * 3).map(put).collect();
            let prepared = records.iter().enumerate().map(|(i, record)| Prepared::new(i, record).expect("fits")).collect();
            let groups = routing.append(prepared, &records, 5).expect("appends");
            assert_eq!(groups.len(), shards as usize);
            for group in groups {
                assert_eq!(group.appended.expect("stored"), Appended::Stored(1));
                let first = group.records[0].index;
                let read = group.store.read(1, 9, 9999).expect("reads");
                let data: Vec<_> = read.records.iter().map(|record| record.data.to_vec()).collect();
                let expected = [0, 1, 2].map(|round| format!("{}", first + round * shards as usize).into_bytes());
                assert_eq!(data, expected);
            }
        }
    }
}
