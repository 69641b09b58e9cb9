//! Goal: aggregates of the Kinesis Producer Library through the whole program: each of their records once, whatever dies, and
//! whatever is wrong with one becomes a letter, whole.

use std::collections::BTreeMap;

use sluicebox_fakeaws::kpl::{self, Sub};
use sluicebox_stream::embedded::PutRecord;

use super::*;

const SUBS: usize = 500;
/// More than one aggregate may hold.
const TOO_MANY: usize = 70_000;

fn subs(from: usize, hash: u128) -> Vec<Sub> {
    let events = more(7, (from + SUBS) as u64).skip(from);
    events.map(|(event, _)| Sub { hash: Some(hash), ..Sub::plain(&event) }).collect()
}

/// Two shards, and the first hash key of each.
fn halves() -> (Site, [u128; 2]) {
    let site = Site::empty().set("stream.shards=2").set("breaker.enabled=false");
    let infos = site.stream().shards_blocking().unwrap();
    let starts = [infos[0].hash_start, infos[1].hash_start];
    (site, starts)
}

/// Puts records where a hash key belongs; what Bronze shall have of each: so many parts.
fn put(site: &Site, records: Vec<(u128, Vec<u8>, usize)>) -> BTreeMap<(String, u64), Vec<u64>> {
    let stream = site.stream();
    let stored = records.into_iter().map(|(hash, data, parts)| {
        let record =
            PutRecord { data: data.into(), explicit_hash_key: Some(hash), arrival_us: Some(LAST_US), ..PutRecord::default() };
        let (shard, sequence) = stream.put(&[record]).unwrap()[0].clone().unwrap();
        ((shard.to_string(), sequence.as_dense().unwrap()), (0..parts as u64).collect())
    });
    stored.collect()
}

/// Which sub-sequence numbers Bronze has of each record of a shard.
fn bronze(site: &Site) -> BTreeMap<(String, u64), Vec<u64>> {
    let sql = "SELECT _shard, CAST(_sequence AS VARCHAR) AS number, _sub_sequence FROM bronze";
    let mut found: BTreeMap<_, Vec<u64>> = BTreeMap::new();
    for line in site.answers(sql) {
        let place = (line["_shard"].as_str().unwrap().to_owned(), line["number"].as_str().unwrap().parse().unwrap());
        found.entry(place).or_default().push(line["_sub_sequence"].as_u64().unwrap());
    }
    found.values_mut().for_each(|subs| subs.sort_unstable());
    found
}

fn letters(site: &Site) -> BTreeMap<String, u64> {
    let sql = "SELECT reason, count(*) AS letters FROM dlq GROUP BY reason";
    let lines = site.answers(sql).into_iter();
    lines.map(|line| (line["reason"].as_str().unwrap().to_owned(), line["letters"].as_u64().unwrap())).collect()
}

// Row 36.
#[test]
fn each_record_of_an_aggregate_counts_once_although_the_program_dies_between_them() {
    let (site, starts) = halves();
    let hash = |round: usize| starts[round % 2];
    let aggregates = (0..6).map(|round| (hash(round), kpl::sealed(&kpl::body(&subs(round * SUBS, hash(round)))).to_vec(), SUBS));
    let expected = put(&site, aggregates.collect());
    // Each aggregate is an epoch, and larger than one fetch asks for: whoever cuts one in two would show it.
    let (site, _server) = served(site);
    let site = site.set("limits.fetch=1KiB").set("commit.size=1KiB");
    #[cfg(debug_assertions)]
    for point in ["shard.dispatch:2", "commit.after_swap:2"] {
        site.crash(point);
    }
    site.drain();
    site.ran(&["audit"]).expect(0, "audit");
    assert_eq!(bronze(&site), expected);
}

// Row 37.
#[test]
fn aggregates_that_cannot_be_taken_apart_and_records_of_other_shards_are_letters() {
    let (site, [here, elsewhere]) = halves();
    let plain = subs(0, here);
    let whole = kpl::sealed(&kpl::body(&plain)).to_vec();
    let mut damaged = whole.clone();
    *damaged.last_mut().unwrap() ^= 1;
    let mut many = Vec::new();
    kpl::field(1, b"k", &mut many);
    (0..TOO_MANY).for_each(|_| kpl::field(3, &[1 << 3, 0, 3 << 3 | 2, 0], &mut many));
    let mut mixed = subs(SUBS, here);
    mixed.truncate(10);
    (mixed[3].hash, mixed[7].hash) = (Some(elsewhere), Some(elsewhere));
    let records = vec![
        (here, damaged, 1),
        (here, kpl::sealed(b"\xff\xff no message").to_vec(), 1),
        (here, kpl::sealed(&many).to_vec(), 1),
        (here, kpl::sealed(&kpl::body(&mixed)).to_vec(), 10),
        (here, whole, SUBS),
    ];
    let expected = put(&site, records);
    let (site, _server) = served(site);
    site.drain();
    site.ran(&["audit"]).expect(0, "audit");
    assert_eq!(bronze(&site), expected, "what cannot be taken apart is one record");
    // Some of the demo's events are poison, and may lie on either side of a foreign one.
    let mixed = mixed.iter().filter(|sub| sub.hash == Some(here));
    let others: Vec<_> = plain.iter().chain(mixed).collect();
    let count = |bad: fn(&[u8]) -> bool| others.iter().filter(|sub| bad(&sub.data)).count() as u64;
    let (nul, no_text) = (count(|data| data.contains(&0)), count(|data| std::str::from_utf8(data).is_err()));
    let found = letters(&site);
    let of = |reason: &str| found.get(reason).copied();
    // The damaged one and the one of too many hold a zero byte, the one without a message is no text.
    let expected = (Some(2), Some(2 + nul), Some(1 + no_text));
    assert_eq!((of("kpl_foreign"), of("raw_nul"), of("invalid_utf8")), expected, "{found:?}");
}
