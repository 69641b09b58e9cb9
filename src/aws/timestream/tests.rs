//! Goal: whatever goes wrong on the way, Timestream holds the newest version of every row, and what it refuses is told by reason.

use std::collections::BTreeMap;
use std::time::Duration;

use aws_sdk_timestreamwrite::Client;
use proptest::prelude::*;
use sluicebox_actors::model::fault::Kind;
use sluicebox_actors::ports::GoldSink;
use sluicebox_fakeaws::faults::Fault as Trouble;
use sluicebox_fakeaws::timestream::{FakeTimestream, Stored};

use super::client::WriteClient;
use super::sink::{TimestreamOptions, TimestreamSink};
use crate::client::AwsRuntime;
use crate::fixtures::{CALL, Line, Truth, config, country, emulator, feed_until_taken, history, revision};

fn options() -> TimestreamOptions {
    TimestreamOptions {
        name: "dashboards".into(),
        database: "lake".into(),
        table: None,
        pipeline: "p".into(),
        pause: Duration::from_millis(1),
    }
}

fn sink_at(url: &str) -> TimestreamSink {
    let client = WriteClient::fixed(Client::new(&config(url, CALL)));
    TimestreamSink::new(client, AwsRuntime::current(), options()).expect("good names")
}

async fn fake() -> (FakeTimestream, TimestreamSink) {
    let fake = FakeTimestream::start().await.expect("starts");
    let sink = sink_at(&fake.url());
    (fake, sink)
}

fn lines(count: u16) -> Vec<Line> {
    (0..count).map(|n| (Some(format!("c{n}")), i64::from(n), Some(0.5))).collect()
}

fn held(fake: &FakeTimestream) -> Truth {
    let row = |stored: Stored| {
        let country = stored.dimensions.get("country").map(|text| if text == "\"\"" { String::new() } else { text.clone() });
        let value = |name: &str| stored.values.get(name).map(|(_, value)| value.as_str());
        let live = value("sluicebox_removed") == Some("false");
        let numbers = live.then(|| {
            let events = value("events").expect("is there").parse().expect("a number");
            (events, value("amount").map(|amount| amount.parse().expect("a number")))
        });
        assert!(live || value("events").is_none(), "a tombstone has no measures of its own");
        (country, (stored.version as u64, numbers))
    };
    fake.records("lake", "by_country").into_iter().map(row).collect()
}

#[tokio::test]
async fn a_row_is_one_record_with_its_keys_as_dimensions_and_its_measures_by_type() {
    let (fake, sink) = fake().await;
    let rows = [(Some("AT".to_owned()), 7, Some(f64::NAN)), (None, 8, Some(1e300))];
    let fed = sink.feed(&revision(3, &rows, &[Some("DE".to_owned())])).await.expect("takes");
    assert_eq!((fed.stored, fed.newer, fed.refused), (3, 0, Vec::new()));
    let records = fake.records("lake", "by_country");
    let find = |country: Option<&str>| {
        let found = records.iter().find(|record| record.dimensions.get("country").map(String::as_str) == country);
        found.unwrap_or_else(|| panic!("{country:?} is missing"))
    };
    let (austria, nobody, germany) = (find(Some("AT")), find(None), find(Some("DE")));
    assert_eq!(austria.dimensions.get("sluicebox_pipeline").map(String::as_str), Some("p"));
    assert_eq!((austria.time_us, austria.measure.as_str(), austria.version), (1_780_000_000_000_000, "by_country", 3));
    let value = |of: &str, value: &str| (of.to_owned(), value.to_owned());
    let expected = BTreeMap::from([
        ("events".to_owned(), value("BIGINT", "7")),
        ("sluicebox_removed".to_owned(), value("BOOLEAN", "false")),
        ("sluicebox_revision".to_owned(), value("BIGINT", "3")),
        ("sluicebox_status".to_owned(), value("VARCHAR", "closed")),
    ]);
    assert_eq!(austria.values, expected, "NaN is left out");
    assert_eq!(nobody.values["amount"], value("DOUBLE", "1e300"));
    assert_eq!(germany.values["sluicebox_removed"], value("BOOLEAN", "true"));
    assert_eq!(germany.values.len(), 3, "a tombstone has no other measure");
}

#[tokio::test]
async fn row_45_of_a_hundred_records_three_are_refused_and_only_those_are_handled() {
    let (fake, sink) = fake().await;
    fake.reject_indexes([3, 50, 99]);
    let fed = sink.feed(&revision(1, &lines(100), &[])).await.expect("is settled");
    assert_eq!((fed.stored, fed.newer), (97, 0));
    assert_eq!(fed.refused, [("over_a_limit".to_owned(), 3)]);
    assert_eq!(fake.records("lake", "by_country").len(), 97);
    assert_eq!(fake.faults().calls("WriteRecords"), 1, "the others are sent once");
}

#[tokio::test]
async fn row_46_a_newer_version_in_the_sink_is_done_and_stays() {
    let (fake, sink) = fake().await;
    sink.feed(&revision(5, &lines(3), &[])).await.expect("takes");
    let older = [(Some("c1".to_owned()), 777, None), (Some("new".to_owned()), 1, None)];
    let fed = sink.feed(&revision(4, &older, &[])).await.expect("is settled");
    assert_eq!((fed.stored, fed.newer, fed.refused), (1, 1, Vec::new()));
    let held = held(&fake);
    assert_eq!(held[&Some("c1".to_owned())], (5, Some((1, Some(0.5)))));
    let again = sink.feed(&revision(5, &lines(3), &[])).await.expect("the same again");
    assert_eq!(again.stored, 3, "the same version with the same values is taken");
}

#[tokio::test]
async fn row_47_a_service_that_is_away_is_asked_again_and_catches_up_with_what_is_left() {
    let (fake, sink) = fake().await;
    let big = revision(1, &lines(250), &[]);
    fake.faults().down(true);
    assert_eq!(sink.feed(&big).await.expect_err("is away").kind(), Kind::Retry);
    fake.faults().down(false);
    // The first hundred are stored, then it is away for longer than one hand-over lasts.
    let gone = [Trouble::DropResponse, Trouble::DropRequest, Trouble::Throttle, Trouble::Status(503, "ServiceUnavailable")];
    fake.faults().next("WriteRecords", 1, Trouble::Delay(Duration::ZERO));
    gone.into_iter().for_each(|trouble| fake.faults().next("WriteRecords", 1, trouble));
    assert_eq!(sink.feed(&big).await.expect_err("is away again").kind(), Kind::Retry);
    let before = fake.faults().calls("WriteRecords");
    let fed = sink.feed(&big).await.expect("is back");
    assert_eq!((fed.stored, fed.newer), (250, 0));
    assert_eq!(fake.faults().calls("WriteRecords") - before, 2, "the first hundred are not sent again");
    assert_eq!((fake.faults().left(), held(&fake).len(), fake.largest_call()), (0, 250, 100));
}

#[tokio::test]
async fn what_is_too_old_is_refused_by_reason_and_no_access_names_the_statement() {
    let (fake, sink) = fake().await;
    fake.memory_from_us(i64::MAX);
    let fed = sink.feed(&revision(1, &lines(2), &[])).await.expect("is settled");
    assert_eq!((fed.stored, fed.refused), (0, vec![("outside_retention".to_owned(), 2)]));
    fake.faults().next("WriteRecords", 1, Trouble::Status(400, "AccessDeniedException"));
    let fault = sink.feed(&revision(1, &lines(2), &[])).await.expect_err("may not");
    assert!(fault.kind() == Kind::Config && fault.to_string().contains("timestream:WriteRecords"), "{fault}");
    fake.faults().next("WriteRecords", 1, Trouble::Status(400, "ResourceNotFoundException"));
    assert_eq!(sink.feed(&revision(1, &lines(2), &[])).await.expect_err("no table").kind(), Kind::Config);
}

#[tokio::test]
async fn one_record_that_makes_a_call_invalid_costs_itself_and_a_call_of_nothing_else_is_a_bug() {
    let (fake, sink) = fake().await;
    fake.faults().next("WriteRecords", 1, Trouble::Status(400, "ValidationException"));
    let fed = sink.feed(&revision(1, &lines(8), &[])).await.expect("halves are fine");
    assert_eq!((fed.stored, fed.refused.len()), (8, 0));
    fake.faults().next("WriteRecords", 15, Trouble::Status(400, "ValidationException"));
    assert_eq!(sink.feed(&revision(2, &lines(8), &[])).await.expect_err("all of them").kind(), Kind::Bug);
    let long = [(Some("x".repeat(3000)), 1, None), (Some("short".to_owned()), 2, None)];
    let fed = sink.feed(&revision(3, &long, &[])).await.expect("is settled");
    assert_eq!((fed.stored, fed.refused), (1, vec![("keys_over_2_kb".to_owned(), 1)]));
}

#[tokio::test]
async fn names_that_timestream_keeps_for_itself_are_refused_with_the_way_out() {
    let (fake, _) = fake().await;
    let (_fake, sink) = (&fake, sink_at(&fake.url()));
    let mut taken = revision(1, &lines(1), &[]);
    let renamed = taken.rows.schema().fields().iter().map(|field| field.name().replace("events", "time")).collect::<Vec<_>>();
    let columns = renamed.iter().map(String::as_str).zip(taken.rows.columns().iter().cloned());
    taken.rows = arrow_array::RecordBatch::try_from_iter(columns).expect("columns fit");
    let fault = sink.feed(&taken).await.expect_err("is taken");
    assert!(fault.kind() == Kind::Config && fault.to_string().contains("rename the column by AS"), "{fault}");
    let wrong = TimestreamOptions { database: "a b".into(), ..options() };
    let client = WriteClient::fixed(Client::new(&config(&fake.url(), CALL)));
    assert_eq!(TimestreamSink::new(client, AwsRuntime::current(), wrong).expect_err("no name").kind(), Kind::Config);
}

/// What any Timestream must do for us: run on the fake and, if one is named, on an emulator.
async fn contract(url: &str) {
    let client = Client::new(&config(url, CALL));
    drop(client.create_database().database_name("lake").send().await);
    drop(client.create_table().database_name("lake").table_name("by_country").send().await);
    let sink = sink_at(url);
    let fed = sink.feed(&revision(2, &lines(150), &[country(1), country(2)])).await.expect("takes");
    assert_eq!((fed.stored, fed.newer, fed.refused.len()), (152, 0, 0));
    let missing = TimestreamOptions { table: Some("nowhere".into()), ..options() };
    let missing = TimestreamSink::new(WriteClient::fixed(client), AwsRuntime::current(), missing).expect("good names");
    if emulator("SLUICEBOX_TEST_TIMESTREAM_URL").is_some_and(|named| named == url) {
        assert_eq!(missing.feed(&revision(1, &lines(1), &[])).await.expect_err("no table").kind(), Kind::Config);
    }
}

#[tokio::test]
async fn the_contract_holds_on_the_fake_and_on_an_emulator_if_one_is_named() {
    let (fake, _sink) = fake().await;
    contract(&fake.url()).await;
    if let Some(url) = emulator("SLUICEBOX_TEST_TIMESTREAM_URL") {
        contract(&url).await;
    }
}

fn trouble() -> impl Strategy<Value = Option<Trouble>> {
    prop_oneof![
        2 => Just(None),
        1 => Just(Some(Trouble::DropRequest)),
        1 => Just(Some(Trouble::DropResponse)),
        1 => Just(Some(Trouble::Throttle)),
        1 => Just(Some(Trouble::Status(500, "InternalServerException"))),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    // Revisions in any order, each perhaps twice, any faults: in the end every row has its newest version.
    #[test]
    fn whatever_goes_wrong_the_newest_version_of_every_row_is_held(
        script in prop::collection::vec(prop::collection::btree_map(0u8..6, 0i64..100, 0..6), 1..5),
        order in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        troubles in prop::collection::vec(trouble(), 0..12),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let (revisions, truth) = history(&script);
        let held = runtime.block_on(async {
            let (fake, sink) = fake().await;
            for trouble in troubles {
                fake.faults().next("WriteRecords", 1, trouble.unwrap_or(Trouble::Delay(Duration::ZERO)));
            }
            for at in order {
                feed_until_taken(&sink, at.get(&revisions)).await;
            }
            for revision in &revisions {
                let fed = feed_until_taken(&sink, revision).await;
                assert!(fed.refused.is_empty(), "{fed:?}");
            }
            held(&fake)
        });
        prop_assert_eq!(held, truth);
    }
}
