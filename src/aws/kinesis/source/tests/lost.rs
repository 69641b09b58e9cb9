//! Goal: records that were forgotten before the first one of a shard was read, shards that vanish, and a check for lost records
//! that is itself refused. Numbers here lie far apart, as Kinesis' do: no jump tells anything.

use super::*;
use crate::kinesis::fixtures::HOUR_US;
use sluicebox_actors::ports::Recall;

/// The number of a record of the parent.
const PARENTS: u64 = 7;

fn recall(hours_ago: i64, before: &[u64]) -> Recall {
    let before = before.iter().map(|number| (shard(9), Sequence::dense(*number))).collect();
    Recall { fresh_us: NOW_US - hours_ago * HOUR_US, before }
}

/// A shard that holds records from 5000 on, and its parent, whose last record is there, or not, or was there for too long.
fn child(parents_last: Option<i64>) -> Arc<Scripted> {
    let kept: Vec<_> = (5..9).map(|number| record(number * 1000, "x".into())).collect();
    let served = kept.clone();
    let iterator = move |begin| match begin {
        Begin::At(own) if own == Sequence::dense(PARENTS) => Ok("parent".to_owned()),
        Begin::At(_) | Begin::After(_) | Begin::Horizon | Begin::Time(_) => Ok(place(&kept, begin)),
    };
    let records = move |iterator: String, limit| match (iterator.as_str(), parents_last) {
        ("parent", Some(hours_ago)) => {
            let arrival_us = NOW_US - hours_ago * HOUR_US;
            Ok(Batch { records: vec![RawRecord { arrival_us, ..record(PARENTS, Bytes::new()) }], ..Batch::default() })
        }
        ("parent", None) => Ok(Batch { behind_ms: Some(0), ..Batch::default() }),
        (index, _) => serve(&served, index, limit),
    };
    Scripted::new(one_shard, iterator, records)
}

async fn gap(api: &Arc<Scripted>, from: Position, recalled: Option<Recall>) -> Option<Position> {
    let stream = stream(api);
    if let Some(recalled) = recalled {
        stream.recall(&shard(0), from, &recalled).await.expect("recalls");
    }
    drain(&stream, from).await.1
}

#[tokio::test(start_paused = true)]
async fn a_shard_at_its_start_has_a_gap_where_nobody_has_looked_for_a_day_and_none_in_a_new_pipeline() {
    for (hours_ago, lost) in [(1, false), (23, false), (24, true), (80, true)] {
        let found = gap(&child(None), Position::START, Some(recall(hours_ago, &[]))).await;
        assert_eq!(found, lost.then(|| after(5000)), "nobody has looked for {hours_ago} hours");
    }
    assert_eq!(gap(&child(None), Position::START, None).await, None, "a new pipeline begins with what is left");
}

#[tokio::test(start_paused = true)]
async fn a_shard_at_its_start_has_lost_nothing_while_the_last_record_of_a_parent_is_kept() {
    for (parents_last, lost) in [(Some(23), false), (None, true), (Some(25), true)] {
        let found = gap(&child(parents_last), Position::START, Some(recall(80, &[PARENTS]))).await;
        assert_eq!(found.is_some(), lost, "the parent's last record: {parents_last:?} hours old");
    }
}

#[tokio::test(start_paused = true)]
async fn a_time_at_which_a_reader_began_says_until_when_nothing_was_wanted() {
    for (hours_ago, lost) in [(0, false), (23, false), (25, true)] {
        let found = gap(&child(None), Position::arrival(NOW_US - hours_ago * HOUR_US), None).await;
        assert_eq!(found, lost.then(|| after(5000)), "from {hours_ago} hours ago on");
    }
    let began = Position::arrival(NOW_US - 80 * HOUR_US);
    assert_eq!(gap(&child(None), began, Some(recall(2, &[]))).await, None, "it was read since");
}

// A process that stood still, or was throttled, for longer than the retention, with a shard that never had a record before.
#[tokio::test(start_paused = true)]
async fn a_reader_that_stood_still_before_the_first_record_for_longer_than_the_retention_tells_a_gap() {
    for (hours, lost) in [(23, false), (25, true)] {
        for begins in [Position::START, Position::arrival(NOW_US)] {
            let answers = Mutex::new(VecDeque::from([
                empty("a", 0).expect("an answer"),
                Batch { date_us: Some(NOW_US + hours * HOUR_US), ..serve(&plain(50..60), "0", 100).expect("an answer") },
            ]));
            let records = move |_, _| Ok(lock(&answers).pop_front().expect("two reads"));
            let stream = stream(&Scripted::new(one_shard, |_| Ok("a".to_owned()), records));
            let first = read(&stream, begins).await.expect("reads");
            assert_eq!((first.caught_up, first.fresh_us), (true, Some(NOW_US)));
            let second = read(&stream, begins).await.expect("reads");
            assert_eq!((second.records.len(), second.trimmed_before), (10, lost.then(|| after(50))), "{hours} hours");
        }
    }
}

// Told once more, a gap that was committed would be counted once more.
#[tokio::test(start_paused = true)]
async fn a_gap_is_told_until_evidence_behind_it_is_recalled() {
    let stream = stream(&Scripted::new(one_shard, |_| Ok("a".to_owned()), |_, _| empty("a", 0)));
    let told = async |recalled: Recall| {
        stream.recall(&shard(0), Position::START, &recalled).await.expect("recalls");
        read(&stream, Position::START).await.expect("reads").trimmed_before
    };
    assert_eq!(told(recall(30, &[])).await, Some(Position::START));
    assert_eq!(told(recall(30, &[])).await, Some(Position::START), "the next generation, after a commit that failed");
    assert_eq!(told(recall(0, &[])).await, None, "the next generation, after the commit");
}

// The children of a shard may hold records from its last one on: that it is read to its end says nothing of those.
#[tokio::test(start_paused = true)]
async fn the_end_of_a_shard_is_evidence_for_its_children_until_its_own_last_record_only() {
    let half = 1u128 << 127;
    let children = vec![info(1, &[0], 0, half - 1, false), info(2, &[0], half, u128::MAX, false)];
    let whole = [vec![info(0, &[], 0, u128::MAX, true)], children.clone()].concat();
    let ending = stream(&split(vec![whole.clone()], Vec::new()));
    let last_us = record(3, Bytes::new()).arrival_us;
    assert_eq!(read(&ending, Position::START).await.expect("reads").fresh_us, Some(last_us));
    let end = read(&ending, after(3)).await.expect("reads");
    assert_eq!((end.ended.is_some(), end.fresh_us), (true, Some(last_us)));
    // Too near to the horizon to be told from a start there: its children begin there, too.
    let near = move |_, _| {
        let records = vec![RawRecord { arrival_us: NOW_US - RETENTION_US + 1_000_000, ..record(1, Bytes::new()) }];
        Ok(Batch { records, date_us: Some(NOW_US), ..Batch::default() })
    };
    let api = Scripted::new(move |_| page(whole.clone(), None), |_| Ok("0".to_owned()), near);
    assert_eq!(read(&stream(&api), Position::START).await.expect("reads").fresh_us, None);
}

/// A check whether record 5 is kept, with these refusals of its iterator and of its GetRecords, while the shard is listed or not.
fn checked(iterators: Vec<What>, answers: Vec<What>, listed: bool) -> Arc<Scripted> {
    let (iterators, answers) = (Mutex::new(VecDeque::from(iterators)), Mutex::new(VecDeque::from(answers)));
    let kept = plain(5..9);
    let served = kept.clone();
    let iterator = move |begin| match begin {
        Begin::At(_) => match lock(&iterators).pop_front() {
            Some(what) => refuse(what),
            None => Ok("check".to_owned()),
        },
        Begin::After(_) | Begin::Horizon | Begin::Time(_) => Ok(place(&kept, begin)),
    };
    let records = move |iterator: String, limit| {
        if iterator != "check" {
            return serve(&served, &iterator, limit);
        }
        let left = lock(&answers).pop_front();
        left.map_or_else(|| serve(&served, "0", limit), refuse)
    };
    let list = move |_| page(vec![info(if listed { 0 } else { 4 }, &[], 0, u128::MAX, false)], None);
    Scripted::new(list, iterator, records)
}

#[tokio::test(start_paused = true)]
async fn a_check_for_lost_records_makes_its_iterator_anew_as_reading_does() {
    for what in [What::ExpiredIterator, What::InvalidArgument, What::Throttled] {
        let api = checked(Vec::new(), vec![what], true);
        assert_eq!(drain(&stream(&api), after(5)).await, (numbers(6..9), None), "{what:?}");
        let made = api.begins().iter().filter(|begin| matches!(begin, Begin::At(_))).count();
        assert_eq!(made, if what == What::Throttled { 1 } else { 2 }, "{what:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_check_that_is_told_that_the_shard_does_not_exist_looks_into_the_listing_as_reading_does() {
    for (iterators, answers) in [(vec![What::NotFound], vec![]), (vec![], vec![What::NotFound])] {
        let stream = stream(&checked(iterators.clone(), answers.clone(), true));
        let fault = read(&stream, after(5)).await.expect_err("denied");
        assert!(fault.kind() == Kind::Retry && fault.message().contains("lists it"), "{fault}");
        assert_eq!(drain(&stream, after(5)).await, (numbers(6..9), None));
        // Its time is over, and so is that of the record.
        let gone = self::stream(&checked(iterators, answers, false));
        assert_eq!(drain(&gone, after(5)).await, (numbers(6..9), Some(after(6))));
    }
}

/// A shard that the service neither has nor lists; its child it lists.
fn vanished() -> Arc<Scripted> {
    let list = |_| page(vec![info(1, &[0], 0, u128::MAX, false)], None);
    Scripted::new(list, |_| refuse(What::NotFound), |_, _| refuse(What::NotFound))
}

#[tokio::test(start_paused = true)]
async fn a_shard_that_vanished_has_ended_with_a_gap_and_names_its_children() {
    for from in [after(5), Position::arrival(NOW_US)] {
        let end = read(&stream(&vanished()), from).await.expect("reads");
        assert_eq!(end.ended, Some(vec![info(1, &[0], 0, u128::MAX, false)]));
        assert!(end.records.is_empty() && end.trimmed_before == Some(from), "{end:?}");
    }
    let stream = stream(&vanished());
    stream.recall(&shard(0), Position::START, &recall(30, &[])).await.expect("recalls");
    let end = read(&stream, Position::START).await.expect("reads");
    assert_eq!((end.ended.is_some(), end.trimmed_before), (true, Some(Position::START)));
    assert_eq!(end.fresh_us, Some(recall(30, &[]).fresh_us), "its children may have lost as much");
    // A new pipeline had not begun to read it.
    let end = read(&self::stream(&vanished()), Position::START).await.expect("reads");
    assert_eq!((end.ended.is_some(), end.trimmed_before), (true, None));
}

// Row 24: denied for ever, it is never an end; and whoever asks is not answered more slowly for that.
#[tokio::test(start_paused = true)]
async fn a_shard_that_is_listed_and_denied_for_ever_is_asked_for_ever() {
    let api = Scripted::new(one_shard, |_| refuse(What::NotFound), |_, _| refuse(What::NotFound));
    let stream = stream(&api);
    for _ in 0..3 * DENIALS {
        let fault = read(&stream, after(5)).await.expect_err("denied");
        assert!(fault.kind() == Kind::Retry && fault.message().contains("lists it"), "{fault}");
    }
}
