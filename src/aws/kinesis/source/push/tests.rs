//! Goal: what no endpoint can be made to do with a subscription: it goes silent, sends events late and in halves, and takes
//! over. The events are scripted and time is paused, so nothing here waits.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use proptest::prelude::*;
use sluicebox_actors::model::fault::Kind;
use sluicebox_actors::model::position::{Position, Sequence};
use sluicebox_actors::ports::{Read, Stream};

use super::{PROTECTED_US, QUIET_US, STALLED_US, WAIT_US};
use crate::client::AwsRuntime;
use crate::kinesis::api::{Batch, Begin, What};
use crate::kinesis::fixtures::{Call, Chance, NOW_US, Scripted, Told, info, lock, plain, refuse, shard};
use crate::kinesis::source::{KinesisStream, Settings};

fn stream(api: &Arc<Scripted>) -> KinesisStream {
    let settings = Settings { fan_out: Some("c".into()), ..Settings::default() };
    KinesisStream::new("s", Arc::new(api.clone()), AwsRuntime::current(), Arc::new(Chance(7)), settings)
}

fn after(number: u64) -> Position {
    Position::after(Sequence::dense(number))
}

async fn read(stream: &KinesisStream, from: Position) -> super::Result<Read> {
    stream.read(&shard(0), from, 100, 1 << 20).await
}

/// An event with these records; the number that it goes on from is that of the last, or the one given.
fn event(numbers: std::ops::Range<u64>, goes_on: u64, behind_ms: i64) -> Told {
    let next = Some(Sequence::dense(goes_on).to_string());
    Told::Event(Batch { records: plain(numbers), next, behind_ms: Some(behind_ms), ..Batch::default() })
}

fn nothing(goes_on: u64) -> Told {
    event(0..0, goes_on, 0)
}

fn sequences(read: &Read) -> Vec<u64> {
    read.records.iter().map(|record| record.sequence.as_dense().expect("dense")).collect()
}

/// Subscriptions one after the other; the last is given for ever.
fn told(script: Vec<Vec<Told>>) -> Arc<Scripted> {
    let script = Mutex::new(std::collections::VecDeque::from(script));
    Scripted::pushing(plain(1..100), move |_| {
        let mut left = lock(&script);
        let steps = if left.len() > 1 { left.pop_front() } else { left.front().cloned() };
        Ok(steps.expect("a subscription"))
    })
}

// A shard is caught up only where an event without records says so, and for no longer than until the next one is due.
#[tokio::test(start_paused = true)]
async fn silence_is_evidence_only_behind_an_event_that_says_it() {
    let api = told(vec![vec![event(1..4, 3, 0), Told::Silence], vec![nothing(3), Told::Silence]]);
    let stream = stream(&api);
    let first = read(&stream, Position::START).await.expect("reads");
    assert_eq!(sequences(&first), [1, 2, 3]);
    let silent = read(&stream, after(3)).await.expect("reads");
    assert!(silent.records.is_empty() && !silent.caught_up, "the last event lay 0 ms behind, but had records");
    let mut reads = 1;
    let quiet = loop {
        let read = read(&stream, after(3)).await.expect("reads");
        reads += 1;
        if read.caught_up {
            break read;
        }
        assert!(reads as u64 <= STALLED_US / WAIT_US + 1, "the silence has no end");
    };
    assert_eq!((quiet.now_us, quiet.behind_us, quiet.fresh_us), (NOW_US, Some(0), Some(NOW_US)));
    let begins: Vec<_> = api.subscriptions().into_iter().map(|(_, begin)| begin).collect();
    assert_eq!(begins, [Begin::Horizon, Begin::After(Sequence::dense(3))]);
    // Nobody looks for a while: what was evidence then is none now.
    tokio::time::advance(Duration::from_micros(QUIET_US)).await;
    assert!(!read(&stream, after(3)).await.expect("reads").caught_up);
}

// The number of an event moves although no record comes, and is where the next subscription begins.
#[tokio::test(start_paused = true)]
async fn a_subscription_that_ends_goes_on_from_the_number_of_its_last_event() {
    let api = told(vec![vec![event(1..4, 3, 0), nothing(50), Told::End], vec![event(51..53, 52, 0), Told::Silence]]);
    let stream = stream(&api);
    assert_eq!(sequences(&read(&stream, Position::START).await.expect("reads")), [1, 2, 3]);
    let mut seen = Vec::new();
    while seen.is_empty() {
        seen = sequences(&read(&stream, after(3)).await.expect("reads"));
    }
    assert_eq!(seen, [51, 52]);
    let [(first_us, _), (second_us, second)] = api.subscriptions()[..] else { panic!("two subscriptions") };
    assert_eq!(second, Begin::After(Sequence::dense(50)));
    assert!(second_us - first_us >= PROTECTED_US, "a subscription is not taken over in its first five seconds");
}

// A number that the service does not know any more: the position is asked for, and if that is refused too it is a gap.
#[tokio::test(start_paused = true)]
async fn a_number_that_is_refused_leads_to_the_position_and_then_to_the_horizon() {
    let asked = Mutex::new(0);
    let api = Scripted::pushing(plain(3..70), move |begin| match begin {
        Begin::After(number) if number == Sequence::dense(3) => {
            *lock(&asked) += 1;
            if *lock(&asked) == 1 { Ok(vec![nothing(50), Told::End]) } else { refuse(What::InvalidArgument) }
        }
        Begin::Horizon => Ok(vec![event(60..70, 69, 0)]),
        Begin::After(_) | Begin::At(_) | Begin::Time(_) => refuse(What::InvalidArgument),
    });
    let stream = stream(&api);
    let read = loop {
        let read = read(&stream, after(3)).await.expect("reads");
        if !read.records.is_empty() {
            break read;
        }
        assert_eq!(read.trimmed_before, None, "no verdict before the horizon has answered");
    };
    assert_eq!((read.trimmed_before, sequences(&read).first()), (Some(after(60)), Some(&60)));
    let begins: Vec<_> = api.subscriptions().into_iter().map(|(_, begin)| begin).collect();
    let (position, number) = (Begin::After(Sequence::dense(3)), Begin::After(Sequence::dense(50)));
    assert_eq!(begins, [position, number, position, Begin::Horizon]);
}

#[tokio::test(start_paused = true)]
async fn a_subscription_that_is_taken_over_is_a_fault_that_names_the_consumer_and_the_next_one_goes_on() {
    let api = told(vec![vec![event(1..4, 3, 9), Told::Broken(What::InUse)], vec![event(3..6, 5, 0)]]);
    let stream = stream(&api);
    assert_eq!(sequences(&read(&stream, Position::START).await.expect("reads")), [1, 2, 3]);
    let fault = read(&stream, after(3)).await.expect_err("taken over");
    assert!(fault.kind() == Kind::Retry && fault.message().contains("`c`") && fault.message().contains("fan_out"), "{fault}");
    assert_eq!(sequences(&read(&stream, after(3)).await.expect("reads")), [4, 5], "what is told twice counts once");
}

// A subscription that is refused is asked for no more often than it is protected, and the reader is told in bounded time.
#[tokio::test(start_paused = true)]
async fn refusals_are_waited_out_within_a_bound() {
    for what in [What::InUse, What::Throttled] {
        let api = Scripted::pushing(plain(1..2), move |_| refuse(what));
        let fault = read(&stream(&api), Position::START).await.expect_err("refused");
        assert!(matches!(fault.kind(), Kind::Retry | Kind::Config), "{fault}");
        let times: Vec<_> = api.subscriptions().into_iter().map(|(at_us, _)| at_us).collect();
        assert_eq!(times.len(), super::TRIES);
        assert!(times.windows(2).all(|pair| pair[1] - pair[0] >= PROTECTED_US), "{times:?}");
    }
}

// The date of a subscription is the only clock that a silent shard shows; so it is renewed, and nobody takes an old date for now.
#[tokio::test(start_paused = true)]
async fn a_silent_shard_subscribes_anew_for_the_sake_of_the_date_and_is_caught_up_meanwhile() {
    let said = [nothing(0), Told::Wait(5_000_000)];
    let api = Scripted::pushing(plain(1..2), move |_| Ok(said.iter().cycle().take(20).cloned().collect()));
    let stream = stream(&api);
    for round in 0..200 {
        let read = read(&stream, Position::START).await.expect("reads");
        assert!(read.caught_up, "round {round}");
    }
    let times: Vec<_> = api.subscriptions().into_iter().map(|(at_us, _)| at_us).collect();
    assert!(times.len() >= 3, "{times:?}");
    assert!(times.windows(2).all(|pair| pair[1] - pair[0] >= super::RENEWAL_US), "{times:?}");
}

// Rows 26 and 27: nothing is fetched while the reader holds records that were not handed out.
#[tokio::test(start_paused = true)]
async fn no_event_is_asked_for_while_records_wait_here() {
    let api = told(vec![vec![event(1..50, 49, 9), event(50..60, 59, 9), event(60..70, 69, 9)]]);
    let stream = stream(&api);
    let mut from = Position::START;
    for _ in 0..7 {
        let read = stream.read(&shard(0), from, 7, 1 << 20).await.expect("reads");
        assert_eq!(read.records.len(), 7);
        from = Position::after(read.records[6].sequence);
        assert_eq!(api.count(|call| *call == Call::Event), 1);
    }
    assert_eq!(sequences(&read(&stream, from).await.expect("reads")).first(), Some(&50));
    assert_eq!(api.count(|call| *call == Call::Event), 2);
}

// The end of a shard under fan-out is one with its children, complete by the listing.
#[tokio::test(start_paused = true)]
async fn the_end_of_a_shard_is_the_event_that_names_its_children() {
    let half = 1u128 << 127;
    let children = vec![info(1, &[0], 0, half - 1, false), info(2, &[0], half, u128::MAX, false)];
    let listed = [vec![info(0, &[], 0, u128::MAX, true)], children.clone()].concat();
    let last = Batch { behind_ms: Some(0), children: children.clone(), ..Batch::default() };
    let api = told(vec![vec![event(1..4, 3, 0), Told::Event(last)]]);
    let api = api.listing(listed);
    let stream = stream(&api);
    assert_eq!(sequences(&read(&stream, Position::START).await.expect("reads")), [1, 2, 3]);
    let end = read(&stream, after(3)).await.expect("reads");
    assert_eq!(end.ended, Some(children));
}

fn paused<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    runtime.expect("a runtime").block_on(test)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    // Whatever breaks when, and however often a reader stops waiting in the middle: each record once, in order.
    #[test]
    fn each_record_comes_once_whatever_breaks_and_whoever_stops_waiting(
        steps in prop::collection::vec((0usize..6, 1u64..20), 1..12),
        stops_us in prop::collection::vec(0u64..3_000, 0..30),
    ) {
        let seen = paused(async {
            let script = Mutex::new(steps.into_iter().cycle());
            let api = Scripted::pushing(plain(1..61), move |begin| {
                let mut number = match begin {
                    Begin::After(last) => last.as_dense().expect("dense"),
                    Begin::Horizon | Begin::At(_) | Begin::Time(_) => 0,
                };
                let mut told = Vec::new();
                for (kind, count) in lock(&script).by_ref().take(4) {
                    let last = (number + count).min(60);
                    match kind {
                        0 => told.push(Told::End),
                        1 => told.push(Told::Broken(What::Other)),
                        2 => told.push(Told::Silence),
                        3 => told.push(nothing(number)),
                        _ => {
                            told.push(event(number + 1..last + 1, last, i64::from(last < 60)));
                            number = last;
                        }
                    }
                }
                Ok(told)
            });
            let (stream, mut from, mut seen) = (stream(&api), Position::START, Vec::new());
            let mut stops = stops_us.into_iter();
            for _ in 0..1_000 {
                let reading = read(&stream, from);
                let read = match stops.next() {
                    Some(stop_us) => tokio::time::timeout(Duration::from_micros(stop_us), reading).await,
                    None => Ok(reading.await),
                };
                let Ok(Ok(read)) = read else { continue };
                seen.extend(sequences(&read));
                from = read.records.last().map_or(from, |last| Position::after(last.sequence));
                if seen.len() >= 60 {
                    break;
                }
            }
            seen
        });
        // Where the script never brings an event there is nothing to be seen.
        prop_assert!(seen.iter().copied().eq(1..=seen.len() as u64), "{seen:?}");
    }
}

// A new reader of a position asks whether its record is kept, under fan-out too; the answer is a gap where it is not.
#[tokio::test(start_paused = true)]
async fn a_position_without_memory_is_asked_for() {
    for (position, lost) in [(1, false), (0, true)] {
        let api = told(vec![vec![event(2..4, 3, 9), Told::Silence]]);
        let read = read(&stream(&api), after(position)).await.expect("reads");
        assert_eq!((sequences(&read), read.trimmed_before.is_some()), (vec![2, 3], lost));
        assert_eq!(api.begins(), [Begin::At(Sequence::dense(position))]);
    }
}
