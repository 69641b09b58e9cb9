//! Goal: what a service does that no endpoint can be made to do: it goes silent, refuses, forgets and lags behind. The answers
//! are scripted and time is paused, so nothing here waits.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use proptest::prelude::*;
use sluicebox_actors::model::fault::Kind;
use sluicebox_actors::model::position::{Position, Sequence};
use sluicebox_actors::model::record::RawRecord;
use sluicebox_actors::ports::{Read, ShardInfo, Stream};

use super::ask::{DENIALS, TRIES};
use super::{EMPTY_MAX, KinesisStream, Settings};
use crate::client::AwsRuntime;
use crate::kinesis::api::{Batch, Begin, What};
use crate::kinesis::fixtures::{
    Call, Chance, NOW_US, RETENTION_US, Scripted, empty, info, lock, one_shard, page, place, plain, record, refuse, serve, shard,
};
use sluicebox_fakeaws::kpl::aggregate;

mod lost;

fn stream(api: &Arc<Scripted>) -> KinesisStream {
    KinesisStream::new("s", Arc::new(api.clone()), AwsRuntime::current(), Arc::new(Chance(7)), Settings::default())
}

fn after(number: u64) -> Position {
    Position::after(Sequence::dense(number))
}

/// Sequence numbers of everything until the source says that it is caught up, with the first gap told.
async fn drain(stream: &KinesisStream, mut from: Position) -> (Vec<String>, Option<Position>) {
    let (mut numbers, mut gap) = (Vec::new(), None);
    for _ in 0..100 {
        let read = read(stream, from).await.expect("reads");
        gap = gap.or(read.trimmed_before);
        from = read.records.last().map_or(from, |last| Position::after(last.sequence));
        numbers.extend(read.records.iter().map(|record| record.sequence.to_string()));
        if read.caught_up {
            return (numbers, gap);
        }
    }
    panic!("it does not come to its end: {numbers:?}");
}

async fn read(stream: &KinesisStream, from: Position) -> super::Result<Read> {
    stream.read(&shard(0), from, 100, 1 << 20).await
}

fn numbers(range: std::ops::Range<u64>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

const STUCK_MS: i64 = RETENTION_US / 1000;

/// A shard that answers nothing for ever behind the position; the horizon is fine.
fn silent_behind_position(kept: Vec<RawRecord>, own_is_there: bool) -> Arc<Scripted> {
    let served = kept.clone();
    let iterator = move |begin| match begin {
        Begin::After(_) => Ok("dead".to_owned()),
        Begin::At(_) if !own_is_there => Ok("dead".to_owned()),
        Begin::At(_) | Begin::Horizon | Begin::Time(_) => Ok(place(&kept, begin)),
    };
    let records = move |iterator: String, limit| match iterator.as_str() {
        "dead" => empty("dead", STUCK_MS),
        index => serve(&served, index, limit),
    };
    Scripted::new(one_shard, iterator, records)
}

// Row 52: the position was forgotten, and the service says so by silence only.
#[tokio::test(start_paused = true)]
async fn endless_silence_at_the_retention_ends_at_the_horizon_and_with_a_gap() {
    let api = silent_behind_position(plain(50..60), false);
    let (read, gap) = drain(&stream(&api), after(5)).await;
    assert_eq!((read, gap), (numbers(50..60), Some(after(50))));
    assert!(api.begins().contains(&Begin::Horizon), "{:?}", api.begins());
}

// Row 52: the iterator alone was broken: nothing is lost, nothing comes twice, and no gap stops the pipeline for nothing.
#[tokio::test(start_paused = true)]
async fn an_iterator_that_never_moves_is_no_gap_where_the_horizon_lies_before_the_position() {
    for own_is_there in [true, false] {
        let api = silent_behind_position(plain(1..20), own_is_there);
        let (read, gap) = drain(&stream(&api), after(9)).await;
        assert_eq!((read, gap), (numbers(10..20), None), "own record seen: {own_is_there}");
        assert!(api.begins().contains(&Begin::Horizon));
    }
}

// A reader that is to leave the past alone does not get it because an iterator broke.
#[tokio::test(start_paused = true)]
async fn silence_behind_a_time_of_arrival_does_not_lead_to_the_horizon() {
    let api = Scripted::new(one_shard, |_| Ok("dead".to_owned()), |_, _| empty("dead", STUCK_MS));
    let (stream, from) = (stream(&api), Position::arrival(NOW_US));
    for _ in 0..3 {
        let answer = read(&stream, from).await.expect("reads");
        assert!(answer.records.is_empty() && !answer.caught_up && answer.trimmed_before.is_none());
    }
    assert_eq!(api.begins(), [Begin::Time(NOW_US / 1000); 3]);
}

// Row 52 without an end: bounded work for each read, never idle, no verdict before the horizon has answered.
#[tokio::test(start_paused = true)]
async fn silence_everywhere_is_neither_the_tip_nor_a_gap_nor_endless() {
    let api = Scripted::new(one_shard, |_| Ok("dead".to_owned()), |_, _| empty("dead", STUCK_MS));
    let stream = stream(&api);
    for round in 1..=5 {
        let answer = read(&stream, after(5)).await.expect("reads");
        assert!(answer.records.is_empty() && !answer.caught_up && answer.trimmed_before.is_none() && answer.ended.is_none());
        // One more call asks once whether the position's own record is kept.
        assert!(api.count(|call| matches!(call, Call::Records(_))) <= round * EMPTY_MAX + 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_position_that_is_refused_is_a_gap_up_to_the_first_record_left() {
    let kept = plain(50..60);
    let served = kept.clone();
    let iterator = move |begin| match begin {
        Begin::After(last) if last < Sequence::dense(50) => refuse(What::InvalidArgument),
        Begin::After(_) | Begin::At(_) | Begin::Horizon | Begin::Time(_) => Ok(place(&kept, begin)),
    };
    let api = Scripted::new(one_shard, iterator, move |iterator, limit| serve(&served, &iterator, limit));
    assert_eq!(drain(&stream(&api), after(5)).await, (numbers(50..60), Some(after(50))));
    assert_eq!(api.begins(), [Begin::After(Sequence::dense(5)), Begin::Horizon]);
}

#[tokio::test(start_paused = true)]
async fn a_position_that_is_refused_by_a_shard_with_older_records_belongs_to_another_stream() {
    let kept = plain(1..10);
    let iterator = |begin| match begin {
        Begin::After(_) => refuse(What::InvalidArgument),
        Begin::At(_) | Begin::Horizon | Begin::Time(_) => Ok("0".to_owned()),
    };
    let api = Scripted::new(one_shard, iterator, move |iterator, limit| serve(&kept, &iterator, limit));
    let stream = stream(&api);
    for _ in 0..2 {
        let fault = read(&stream, after(500)).await.expect_err("replaced");
        assert!(fault.kind() == Kind::Corrupt && fault.message().contains("replaced"), "{fault}");
    }
}

// Every iterator is refused: the reader is told in a bounded number of calls, with the service's words.
#[tokio::test(start_paused = true)]
async fn a_horizon_that_is_refused_too_is_a_fault() {
    let api = Scripted::new(one_shard, |_| refuse(What::InvalidArgument), |_, _| empty("none", 0));
    let fault = read(&stream(&api), after(5)).await.expect_err("refused");
    assert!(fault.to_string().contains("InvalidArgument"), "{fault}");
    assert!(api.begins().len() <= TRIES);
}

#[tokio::test(start_paused = true)]
async fn a_time_ahead_of_the_services_clock_is_waited_for_and_not_given_up() {
    let kept = plain(1..4);
    let refusals = Mutex::new(2);
    let iterator = move |begin| {
        let mut left = lock(&refusals);
        if *left > 0 && matches!(begin, Begin::Time(_)) {
            *left -= 1;
            return refuse(What::InvalidArgument);
        }
        Ok("0".to_owned())
    };
    let api = Scripted::new(one_shard, iterator, move |iterator, limit| serve(&kept, &iterator, limit));
    let (stream, from) = (stream(&api), Position::arrival(NOW_US + 1));
    for _ in 0..2 {
        let fault = read(&stream, from).await.expect_err("too early");
        assert!(fault.kind() == Kind::Retry && fault.message().contains("ahead of the service's clock"), "{fault}");
    }
    assert_eq!(drain(&stream, from).await.0, numbers(1..4));
    // Never earlier than asked: arrivals have milliseconds, so half of one is rounded up.
    assert_eq!(api.begins(), [Begin::Time(NOW_US / 1000 + 1); 3]);
}

#[tokio::test(start_paused = true)]
async fn an_empty_answer_while_the_tip_is_ahead_is_not_caught_up() {
    let empties = Mutex::new(EMPTY_MAX + 1);
    let kept = plain(1..4);
    let records = move |iterator: String, limit| {
        let mut left = lock(&empties);
        if *left > 0 {
            *left -= 1;
            return empty(&iterator, 1);
        }
        serve(&kept, &iterator, limit)
    };
    let api = Scripted::new(one_shard, |_| Ok("0".to_owned()), records);
    let stream = stream(&api);
    let first = read(&stream, Position::START).await.expect("reads");
    assert!(first.records.is_empty() && !first.caught_up && first.ended.is_none());
    assert_eq!(stream.behind(&shard(0)), Some(1));
    let second = read(&stream, Position::START).await.expect("reads");
    assert!(second.records.len() == 3 && second.caught_up);
}

#[tokio::test(start_paused = true)]
async fn a_listing_of_many_pages_is_whole_or_begun_anew() {
    let quarter = 1u128 << 126;
    let end = |number: u128| if number == 3 { u128::MAX } else { (number + 1) * quarter - 1 };
    let all: Vec<_> = (0..4u32).map(|n| info(n, &[], u128::from(n) * quarter, end(u128::from(n)), false)).collect();
    let (pages, expiries) = (all.clone(), Mutex::new(2));
    let list = move |token: Option<String>| {
        let at: usize = token.map_or(0, |token| token.parse().expect("a token"));
        let mut left = lock(&expiries);
        if at == 2 && *left > 0 {
            *left -= 1;
            return refuse(What::ExpiredToken);
        }
        let next = (at < 3).then(|| (at + 1).to_string());
        page(vec![pages[at].clone()], next.as_deref())
    };
    let api = Scripted::new(list, |_| refuse(What::Other), |_, _| refuse(What::Other));
    let stream = stream(&api);
    assert_eq!(stream.shards().await.expect("lists"), all);
    assert_eq!(api.count(|call| *call == Call::List(None)), 3);
    let never = Scripted::new(
        |token| if token.is_none() { page(vec![info(0, &[], 0, 9, false)], Some("1")) } else { refuse(What::ExpiredToken) },
        |_| refuse(What::Other),
        |_, _| refuse(What::Other),
    );
    let fault = self::stream(&never).shards().await.expect_err("never whole");
    assert_eq!(fault.kind(), Kind::Retry, "{fault}");
}

/// A shard with three records that was split; `listings` are what the service lists, one after the other, the last for ever.
fn split(listings: Vec<Vec<ShardInfo>>, told: Vec<ShardInfo>) -> Arc<Scripted> {
    let listings = Mutex::new(VecDeque::from(listings));
    let list = move |_| {
        let mut left = lock(&listings);
        let listing = if left.len() > 1 { left.pop_front() } else { left.front().cloned() };
        page(listing.expect("a listing"), None)
    };
    let records =
        move |_, _| Ok(Batch { records: plain(1..4), date_us: Some(NOW_US), children: told.clone(), ..Batch::default() });
    Scripted::new(list, |_| Ok("0".to_owned()), records)
}

// Row 22: the end is told only with all that came out of the shard, whichever of the two says it.
#[tokio::test(start_paused = true)]
async fn the_end_of_a_shard_waits_for_its_children() {
    let half = 1u128 << 127;
    let children = vec![info(1, &[0], 0, half - 1, false), info(2, &[0], half, u128::MAX, false)];
    let whole = [vec![info(0, &[], 0, u128::MAX, true)], children.clone()].concat();
    let before = vec![info(0, &[], 0, u128::MAX, false)];
    // The listing still shows the shard as open, then whole; nothing is told at the end.
    let api = split(vec![before, whole.clone()], Vec::new());
    let lagging = stream(&api);
    assert_eq!(read(&lagging, Position::START).await.expect("reads").records.len(), 3);
    let fault = read(&lagging, after(3)).await.expect_err("not whole");
    assert!(fault.kind() == Kind::Retry && fault.message().contains("not all listed"), "{fault}");
    let end = read(&lagging, after(3)).await.expect("reads");
    assert_eq!(end.ended, Some(children.clone()));
    assert_eq!(api.count(|call| matches!(call, Call::Records(_))), 1, "the records are not fetched again");
    // The listing lacks the second child, whose hash keys were split again meanwhile; the end itself names it.
    let partly = vec![whole[0].clone(), whole[1].clone(), info(3, &[2], half, u128::MAX, false)];
    let told = stream(&split(vec![partly], children.clone()));
    let first = read(&told, Position::START).await.expect("reads");
    assert!(first.ended.is_none() && first.records.len() == 3);
    assert_eq!(read(&told, after(3)).await.expect("reads").ended, Some(children));
}

#[tokio::test(start_paused = true)]
async fn a_shard_that_was_read_to_its_end_is_forgotten_when_it_is_not_listed_any_more() {
    let children = vec![info(1, &[0], 0, u128::MAX, false)];
    let whole = [vec![info(0, &[], 0, u128::MAX, true)], children.clone()].concat();
    let stream = stream(&split(vec![whole.clone(), whole, children.clone()], children.clone()));
    let remembered = || {
        let poller = &stream.poller;
        (lock(&poller.shards).contains_key(&shard(0)), lock(&poller.listed).contains_key(&shard(0)))
    };
    assert_eq!(read(&stream, Position::START).await.expect("reads").records.len(), 3);
    stream.shards().await.expect("lists");
    assert_eq!(remembered(), (true, true));
    assert_eq!(read(&stream, after(3)).await.expect("reads").ended, Some(children.clone()));
    assert_eq!(stream.shards().await.expect("lists"), children);
    assert_eq!(remembered(), (false, false));
    // Whoever asks again gets the same again.
    assert_eq!(read(&stream, Position::START).await.expect("reads").records.len(), 3);
    stream.shards().await.expect("lists");
    assert!(remembered().0, "it is being read");
}

/// Kinesis records with so many sub-records each; one is a plain record.
fn packed(counts: &[usize]) -> Vec<RawRecord> {
    let payload = |count: usize| match count {
        1 => Bytes::from_static(b"plain"),
        _ => aggregate((0..count).map(|_| &b"part"[..])),
    };
    counts.iter().zip(1u64..).map(|(count, number)| record(number, payload(*count))).collect()
}

fn paused<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    runtime.expect("a runtime").block_on(test)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    // Row 36: whatever a reader asks for and whenever it crashes, each sub-record comes once, and no read ends inside a record.
    #[test]
    fn aggregates_come_whole_and_once_over_crashes(
        counts in prop::collection::vec(prop_oneof![Just(1usize), 2usize..30, Just(500)], 1..12),
        asks in prop::collection::vec((1usize..40, 1usize..20_000, any::<bool>()), 1..8),
    ) {
        let kept = packed(&counts);
        let parts = |(count, number): (&usize, u64)| (0..*count as u32).map(move |sub| (number, sub));
        let expected: Vec<_> = counts.iter().zip(1u64..).flat_map(parts).collect();
        let seen = paused(async {
            let served = kept.clone();
            let place = move |begin| Ok(place(&kept, begin));
            let api = Scripted::new(one_shard, place, move |iterator, limit| serve(&served, &iterator, limit));
            let (mut reader, mut from, mut seen) = (stream(&api), Position::START, Vec::new());
            for (max_records, max_bytes, crashes) in asks.iter().cycle().take(200) {
                let read = reader.read(&shard(0), from, *max_records, *max_bytes).await.expect("reads");
                let Some(last) = read.records.last() else { break };
                let number = last.sequence.as_dense().expect("dense");
                assert_eq!(last.sub_sequence as usize + 1, counts[number as usize - 1], "ends with its record");
                seen.extend(read.records.iter().map(|part| (part.sequence.as_dense().expect("dense"), part.sub_sequence)));
                from = Position::after(last.sequence);
                if *crashes {
                    reader = stream(&api);
                }
            }
            seen
        });
        prop_assert_eq!(seen, expected);
    }

    // Calls per second and shard, over answers that are slow, large, refused or expired, and iterators that are refused.
    #[test]
    fn no_second_sees_a_sixth_call(script in prop::collection::vec((0usize..5, 0u64..400_000, any::<bool>()), 1..60)) {
        let calls = paused(async {
            let outcomes = Mutex::new(script.iter().map(|(outcome, ..)| *outcome).collect::<VecDeque<_>>());
            let number = Mutex::new(0);
            let records = move |iterator: String, _| match lock(&outcomes).pop_front() {
                Some(0) => refuse(What::Throttled),
                Some(1) => refuse(What::ExpiredIterator),
                Some(2) => empty(&iterator, 1),
                Some(3) => {
                    *lock(&number) += 1;
                    let records = vec![record(*lock(&number), vec![0; 1 << 20].into())];
                    Ok(Batch { records, ..empty(&iterator, 1)? })
                }
                Some(_) | None => empty(&iterator, 0),
            };
            let denials = Mutex::new(script.iter().map(|(.., denied)| *denied).collect::<VecDeque<_>>());
            let iterator = move |_| match lock(&denials).pop_front() {
                Some(true) => refuse(What::Other),
                Some(false) | None => Ok("0".to_owned()),
            };
            let api = Scripted::new(one_shard, iterator, records);
            lock(&api.takes_us).extend(script.iter().map(|(_, takes_us, _)| *takes_us));
            let (stream, mut from) = (stream(&api), Position::START);
            for _ in 0..script.len() {
                if let Ok(read) = read(&stream, from).await {
                    from = read.records.last().map_or(from, |last| Position::after(last.sequence));
                }
            }
            lock(&api.calls).clone()
        });
        for iterators in [true, false] {
            let of_kind = calls.iter().filter(|(_, call)| matches!(call, Call::Iterator(_)) == iterators);
            let times: Vec<_> = of_kind.map(|(at_us, _)| *at_us).collect();
            for six in times.windows(6) {
                prop_assert!(six[5] - six[0] >= 1_000_000, "{:?}", six);
            }
        }
    }
}

// Where another reader stopped: the aggregate itself tells how many parts it has.
#[tokio::test(start_paused = true)]
async fn what_one_record_holds_is_told_while_it_is_kept() {
    let mut kept = plain(5..9);
    kept[2].data = aggregate([&b"a"[..], b"b", b"c"].into_iter());
    let served = kept.clone();
    let iterator = move |begin| match begin {
        Begin::At(at) if at < Sequence::dense(3) => refuse(What::InvalidArgument),
        Begin::At(_) | Begin::After(_) | Begin::Horizon | Begin::Time(_) => Ok(place(&kept, begin)),
    };
    let api = Scripted::new(one_shard, iterator, move |iterator, limit| serve(&served, &iterator, limit));
    let stream = stream(&api);
    let mut found = Vec::new();
    for number in [1, 4, 6, 7, 9] {
        let packed = stream.packed(&shard(0), Sequence::dense(number)).await.expect("looks");
        found.push(packed.map(|packed| (packed.parts, packed.arrival_us)));
    }
    let arrival_us = record(0, Bytes::new()).arrival_us;
    assert_eq!(found, [None, None, Some((1, arrival_us)), Some((3, arrival_us)), None]);
    // It has moved nobody: the reader goes on from where it is told.
    assert_eq!(drain(&stream, after(5)).await.1, None);
}
