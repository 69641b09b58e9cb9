//! Goal: every row becomes the point it stands for whatever its keys are spelled with, and every answer has its meaning.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use sluicebox_actors::model::fault::Kind;
use sluicebox_actors::ports::GoldSink;
use sluicebox_fakeaws::faults::Fault as Trouble;
use sluicebox_fakeaws::influx::{FakeInflux, Field};

use super::sink::{CHUNK_BYTES, InfluxApi, InfluxOptions, InfluxSink, Token};
use crate::client::AwsRuntime;
use crate::fixtures::{CALL, Line, Truth, country, feed_until_taken, history, revision};
use crate::http::{HttpClient, Secret};

fn options(url: &str) -> InfluxOptions {
    InfluxOptions {
        name: "dashboards".into(),
        url: url.to_owned(),
        api: InfluxApi::V2 { org: "my org".into(), bucket: "gold".into() },
        token: Some(Token { variable: "INFLUX_TOKEN".into(), secret: Secret::new("s3cret") }),
        measurement: None,
        chunk_bytes: CHUNK_BYTES,
        gzip: true,
    }
}

fn sink(options: InfluxOptions) -> InfluxSink {
    InfluxSink::new(HttpClient::new(AwsRuntime::current(), CALL), options).expect("a good address")
}

async fn fake() -> (FakeInflux, InfluxSink) {
    let fake = FakeInflux::start().await.expect("starts");
    fake.require("Token s3cret");
    let sink = sink(options(&fake.url()));
    (fake, sink)
}

fn lines(count: u16) -> Vec<Line> {
    (0..count).map(|n| (Some(format!("c{n}")), i64::from(n), Some(0.5))).collect()
}

fn held(fake: &FakeInflux) -> Truth {
    let integer = |fields: &BTreeMap<String, Field>, name: &str| {
        let Some(Field::Integer(value)) = fields.get(name) else { panic!("no {name} in {fields:?}") };
        *value
    };
    let mut held = Truth::new();
    for ((_, tags, _), fields) in fake.points() {
        let country = tags.get("country").map(|text| if text == "\"\"" { String::new() } else { text.clone() });
        let live = fields.get("removed") == Some(&Field::Boolean(false));
        let amount = if let Some(Field::Float(amount)) = fields.get("amount") { Some(*amount) } else { None };
        let numbers = live.then(|| (integer(&fields, "events"), amount));
        held.insert(country, (integer(&fields, "revision") as u64, numbers));
    }
    held
}

#[tokio::test]
async fn a_row_is_one_point_with_its_keys_as_tags_and_a_tombstone_says_removed() {
    let (fake, sink) = fake().await;
    let rows = [(Some("Côte d'Ivoire, =\"x\"".to_owned()), 7, Some(1e300)), (None, 8, Some(f64::INFINITY))];
    let fed = sink.feed(&revision(3, &rows, &[Some("DE".to_owned())])).await.expect("takes");
    assert_eq!((fed.stored, fed.newer, fed.refused.len()), (3, 0, 0));
    assert_eq!(fake.last_query(), "/api/v2/write?org=my%20org&bucket=gold&precision=us");
    let points = fake.points();
    let of = |country: Option<&str>| {
        let tags = country.map(|text| ("country".to_owned(), text.to_owned())).into_iter().collect();
        points[&("by_country".to_owned(), tags, 1_780_000_000_000_000)].clone()
    };
    let own = |removed| {
        BTreeMap::from([
            ("removed".to_owned(), Field::Boolean(removed)),
            ("revision".to_owned(), Field::Integer(3)),
            ("status".to_owned(), Field::Text("closed".to_owned())),
        ])
    };
    let mut ivory = own(false);
    ivory.extend([("amount".to_owned(), Field::Float(1e300)), ("events".to_owned(), Field::Integer(7))]);
    assert_eq!(of(Some("Côte d'Ivoire, =\"x\"")), ivory);
    let mut nobody = own(false);
    nobody.insert("events".to_owned(), Field::Integer(8));
    assert_eq!(of(None), nobody, "infinity is left out");
    assert_eq!(of(Some("DE")), own(true));
}

#[tokio::test]
async fn the_older_api_has_a_database_and_a_password() {
    let fake = FakeInflux::start().await.expect("starts");
    fake.require("Basic bWU6cHc=");
    let token = Token { variable: "INFLUX_TOKEN".into(), secret: Secret::new("me:pw") };
    let api = InfluxApi::V1 { database: "gold".into() };
    let sink = sink(InfluxOptions { api, token: Some(token), gzip: false, ..options(&fake.url()) });
    assert_eq!(sink.feed(&revision(1, &lines(3), &[])).await.expect("takes").stored, 3);
    assert_eq!(fake.last_query(), "/write?db=gold&precision=u");
}

#[tokio::test]
async fn bodies_are_bounded_and_what_failed_half_way_goes_on_where_it_was() {
    let (fake, _) = fake().await;
    let sink = sink(InfluxOptions { chunk_bytes: 1000, ..options(&fake.url()) });
    let big = revision(1, &lines(100), &[]);
    fake.faults().next("write", 2, Trouble::Delay(Duration::ZERO));
    fake.faults().next("write", 1, Trouble::DropResponse);
    assert_eq!(sink.feed(&big).await.expect_err("a lost answer").kind(), Kind::Retry);
    let before = fake.faults().calls("write");
    let fed = sink.feed(&big).await.expect("is back");
    assert_eq!((fed.stored, fake.points().len()), (100, 100));
    assert!(fake.largest_body() <= 1000 && fake.largest_body() > 800, "{}", fake.largest_body());
    let again = fake.faults().calls("write") - before;
    assert_eq!(sink.feed(&big).await.expect("takes").stored, 100);
    assert_eq!(fake.faults().calls("write") - before - again, again + 2, "two bodies were not sent again");
}

#[tokio::test]
async fn lines_that_are_refused_cost_themselves_whether_the_answer_names_them_or_not() {
    for partial in [true, false] {
        let (fake, sink) = fake().await;
        fake.refuse_lines_with("country=c7", partial);
        let fed = sink.feed(&revision(1, &lines(80), &[])).await.expect("is settled");
        let reason = if partial { "dropped" } else { "refused" };
        assert_eq!((fed.stored, fed.refused), (69, vec![(reason.to_owned(), 11)]), "c7 and c70 to c79");
        assert_eq!(fake.points().len(), 69);
    }
}

#[tokio::test]
async fn keys_that_line_protocol_can_not_spell_are_refused_and_not_changed() {
    let (fake, sink) = fake().await;
    let keys = ["a\nb", "a\\", "a\\,b", "a\\b", "plain"];
    let rows: Vec<Line> = keys.iter().map(|key| (Some((*key).to_owned()), 1, None)).collect();
    let fed = sink.feed(&revision(1, &rows, &[])).await.expect("is settled");
    assert_eq!((fed.stored, fed.refused), (2, vec![("key_has_no_spelling".to_owned(), 3)]));
    let held: Vec<Option<String>> = held(&fake).into_keys().collect();
    assert_eq!(held, [Some("a\\b".to_owned()), Some("plain".to_owned())]);
}

#[tokio::test]
async fn every_answer_has_the_kind_of_what_can_be_done_about_it_and_the_token_is_not_shown() {
    let (fake, sink) = fake().await;
    let feed = revision(1, &lines(1), &[]);
    let kinds = [
        (401, Kind::Config),
        (403, Kind::Config),
        (404, Kind::Config),
        (429, Kind::Retry),
        (503, Kind::Retry),
        (500, Kind::Retry),
    ];
    for (status, kind) in kinds {
        fake.faults().next("write", 1, Trouble::Status(status, "code"));
        let fault = sink.feed(&feed).await.expect_err("an error");
        assert_eq!(fault.kind(), kind, "{fault}");
        assert!(fault.to_string().contains(&status.to_string()), "{fault}");
        assert_eq!(fault.to_string().contains("INFLUX_TOKEN"), matches!(status, 401 | 403), "{fault}");
        assert!(!format!("{fault:?} {sink:?}").contains("s3cret"), "{fault:?} {sink:?}");
    }
    fake.faults().next("write", 1, Trouble::Throttle);
    assert!(sink.feed(&feed).await.expect_err("slower").to_string().contains("a pause of"), "Retry-After");
    fake.faults().down(true);
    assert_eq!(sink.feed(&feed).await.expect_err("is away").kind(), Kind::Retry);
}

fn trouble() -> impl Strategy<Value = Trouble> {
    prop_oneof![
        2 => Just(Trouble::Delay(Duration::ZERO)),
        1 => Just(Trouble::DropRequest),
        1 => Just(Trouble::DropResponse),
        1 => Just(Trouble::Throttle),
        1 => Just(Trouble::Status(503, "unavailable")),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    // Revisions in order, each perhaps twice, any faults: in the end every point is that of the newest revision.
    #[test]
    fn whatever_goes_wrong_the_last_revision_of_every_row_is_held(
        script in prop::collection::vec(prop::collection::btree_map(0u8..6, (0i64..50).prop_map(|n| n * 2), 0..6), 1..5),
        twice in any::<[bool; 5]>(),
        troubles in prop::collection::vec(trouble(), 0..12),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let (revisions, truth) = history(&script);
        let held = runtime.block_on(async {
            let (fake, sink) = fake().await;
            for trouble in troubles {
                fake.faults().next("write", 1, trouble);
            }
            for (revision, twice) in revisions.iter().zip(twice) {
                for _ in 0..=usize::from(twice) {
                    let fed = feed_until_taken(&sink, revision).await;
                    assert!(fed.refused.is_empty(), "{fed:?}");
                }
            }
            held(&fake)
        });
        prop_assert_eq!(held, truth);
    }

    // The fake reads lines by the specification and shares no code with what writes them.
    #[test]
    fn any_text_is_read_back_as_it_was_or_refused(keys in prop::collection::btree_set("[ -~ä,=\" \\\\\n]{0,8}", 1..6)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let rows: Vec<Line> = keys.iter().map(|key| (Some(key.clone()), 1, None)).collect();
        let (fed, points) = runtime.block_on(async {
            let (fake, sink) = fake().await;
            (sink.feed(&revision(1, &rows, &[])).await.expect("is settled"), fake.points())
        });
        let refused: u64 = fed.refused.iter().map(|(_, count)| count).sum();
        prop_assert_eq!(fed.stored + refused, keys.len() as u64);
        prop_assert_eq!(points.len() as u64, fed.stored);
        let spelled = |key: &String| {
            let quotes = key.bytes().all(|byte| byte == b'"');
            match key.as_str() {
                "" => "\"\"".to_owned(),
                _ if quotes && key.len() > 1 => format!("{key}\""),
                _ => key.clone(),
            }
        };
        let all: Vec<String> = keys.iter().map(spelled).collect();
        for (_, tags, _) in points.keys() {
            prop_assert!(all.contains(&tags["country"]), "{:?} of {:?}", tags, all);
        }
    }
}

#[test]
fn countries_of_the_tests_hold_what_must_be_escaped() {
    assert!(country(2).is_some_and(|text| [' ', '=', ',', '"', '\\'].iter().all(|letter| text.contains(*letter))));
}
