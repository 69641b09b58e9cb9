//! Goal: whatever comes in, the program goes on: an event is in Silver, anything else a letter with its exact bytes, neighbours
//! notice nothing; and a pipeline file that can't be meant so is refused with file, line, what is wrong and what to write.

#![allow(clippy::unwrap_used, reason = "a helper of a test may end the test")]

mod archive;
mod refusals;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::PathBuf;

use crate::support::drive::Bench;
use crate::support::outcome::{Letter, letters, rows};
use crate::support::value::Value;

/// What the suite's authors accept and we refuse on purpose.
const DUPLICATES: [&str; 2] = ["y_object_duplicated_key.json", "y_object_duplicated_key_and_value.json"];

/// An event of the default contract; `MEMBERS` are those of `properties`.
const EVENT: &str = concat!(
    r#"{"eventType":"click","userId":"123e4567-e89b-12d3-a456-426614174000","#,
    r#""timestamp":"2026-01-05T10:00:00Z","properties":{MEMBERS}}"#
);

fn event(members: &str) -> Vec<u8> {
    EVENT.replace("MEMBERS", members).into_bytes()
}

/// The default pipeline, on one shard so that sequence numbers count the files.
fn by_default() -> Bench {
    Bench::shipped("config/local.toml").with("stream.shards=1").with("breaker.enabled=false")
}

/// Takes every JSON value, at the time of its arrival.
fn takes_all() -> Bench {
    let pipeline = r#"
[pipeline]
name = "anything"

[stream]
shards = 1

[event]
schema = "event.schema.json"
time = "_arrival_time"

[silver]
sql = "SELECT * FROM events"

[[gold]]
name = "hourly"
window = { tumbling = "1h" }
sql = "SELECT count(*) AS events FROM silver"

[breaker]
enabled = false
"#;
    Bench::written(pipeline, "{}")
}

/// What became of records that were put as files, one each.
struct Fate {
    /// Indexes of those that are in Silver.
    silver: BTreeSet<usize>,
    /// Letters by index.
    letters: BTreeMap<usize, Letter>,
    bench: Bench,
}

/// Puts every record raw, drains, audits; every record is in Silver or a letter with its bytes.
fn fate_of(bench: Bench, records: &[Vec<u8>]) -> Fate {
    let paths: Vec<PathBuf> = records.iter().enumerate().map(|(at, data)| bench.write(&format!("raw/{at:05}"), data)).collect();
    let arguments: Vec<OsString> =
        ["put", "--raw"].map(OsString::from).into_iter().chain(paths.into_iter().map(OsString::from)).collect();
    bench.good(&arguments);
    bench.good(&["run", "--drain"]);
    bench.audit();
    let silver: Vec<Vec<Value>> = rows(&bench.data().join("silver"), &["_sequence"]);
    let at = |sequence: u64| usize::try_from(sequence).unwrap() - 1;
    let rows = silver.len();
    let silver: BTreeSet<usize> = silver.iter().map(|row| at(row[0].as_text().parse().unwrap())).collect();
    assert_eq!(silver.len(), rows, "a record is twice in Silver");
    let mut found = BTreeMap::new();
    for letter in letters(&bench.data()) {
        let at = at(letter.sequence);
        assert!(letter.data == records[at], "{letter:?}: other bytes");
        assert!(!silver.contains(&at), "{letter:?} is in Silver, too");
        let twice = found.insert(at, letter);
        assert!(twice.is_none(), "two letters: {twice:?}");
    }
    assert_eq!(found.len() + silver.len(), records.len(), "a record is nowhere");
    Fate { silver, letters: found, bench }
}

impl Fate {
    /// The sum of a Gold column.
    fn gold(&self, table: &str, column: &str) -> i128 {
        rows(&self.bench.data().join("gold").join(table), &[column]).iter().map(|row| row[0].as_whole()).sum()
    }
}

#[test]
fn among_hostile_texts_every_event_of_the_default_contract_stays_an_event() {
    let hostile = archive::hostile();
    let neighbour = event(r#""amount":1.25"#);
    let records: Vec<Vec<u8>> = hostile.iter().flat_map(|(_, data)| [neighbour.clone(), data.clone()]).collect();
    let fate = fate_of(by_default(), &records);
    let neighbours: BTreeSet<usize> = (0..records.len()).step_by(2).collect();
    assert!(fate.silver == neighbours, "{:?}", fate.silver.symmetric_difference(&neighbours).take(5).collect::<Vec<_>>());
    assert_eq!(fate.gold("hourly_total", "events"), neighbours.len() as i128);
    assert!(fate.letters.values().all(|letter| letter.reason != "panic"));
}

#[test]
fn without_a_contract_json_is_an_event_and_nothing_else_is() {
    let hostile = archive::hostile();
    let records: Vec<Vec<u8>> = hostile.iter().map(|(_, data)| data.clone()).collect();
    let fate = fate_of(takes_all(), &records);
    let mut seen = BTreeMap::new();
    for (at, (name, _)) in hostile.iter().enumerate() {
        let accepted = fate.silver.contains(&at);
        *seen.entry((name.as_bytes()[0], accepted)).or_insert(0) += 1;
        if DUPLICATES.contains(&name.as_str()) {
            assert_eq!(fate.letters[&at].reason, "duplicate_key", "{name}");
            continue;
        }
        match name.as_bytes()[0] {
            b'y' => assert!(accepted, "{name}: {:?}", fate.letters[&at]),
            b'n' => assert!(!accepted, "{name} is in Silver"),
            _ => {}
        }
    }
    assert!(seen[&(b'y', true)] > 20 && seen[&(b'n', false)] > 20, "{seen:?}");
    assert!(fate.letters.values().all(|letter| letter.stage == "decode" && letter.reason != "panic"));
    assert_eq!(fate.gold("hourly", "events"), fate.silver.len() as i128);
}

#[test]
fn strings_that_break_programs_come_out_of_silver_as_they_went_in() {
    let strings = archive::naughty();
    let inside = |text: &str| event(&format!(r#""page":{}"#, serde_json::to_string(text).unwrap()));
    let records: Vec<Vec<u8>> = strings.iter().map(|text| inside(text)).collect();
    let bench = by_default()
        .with("silver.sql=SELECT properties.page AS page, eventType, userId, sessionId, properties.amount AS amount FROM events");
    let fate = fate_of(bench, &records);
    assert!(fate.letters.is_empty(), "{:?}", fate.letters.values().next());
    for row in rows(&fate.bench.data().join("silver"), &["_sequence", "page"]) {
        let at = row[0].as_text().parse::<usize>().unwrap() - 1;
        assert_eq!(row[1].as_text(), strings[at]);
    }
}

#[test]
fn each_way_to_be_no_event_has_its_own_reason_and_costs_only_itself() {
    let good = event("");
    let with = |from: &str, to: &str| String::from_utf8(good.clone()).unwrap().replacen(from, to, 1).into_bytes();
    let mut latin = good.clone();
    latin[20] = 0xe9;
    let ten_mib = 10 << 20;
    let page = ten_mib - event(r#""page":"""#).len();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("", good.clone()),
        ("decode/invalid_utf8", latin),
        ("", event(&format!(r#""page":"{}""#, "x".repeat(page)))),
        ("decode/too_deep", event(&format!(r#""page":{}{}"#, "[".repeat(10_000), "]".repeat(10_000)))),
        ("decode/raw_nul", event("\"page\":\"a\0b\"")),
        ("contract/number_range $.properties.amount", event(r#""amount":1e400"#)),
        ("contract/number_range $.properties.amount", event(r#""amount":12345678901234567890.12"#)),
        ("contract/multiple_of $.properties.amount", event(r#""amount":12.345"#)),
        ("contract/wrong_type $.properties.amount", event(r#""amount":"12.34""#)),
        ("contract/wrong_type $.properties", with(r#""properties":{}"#, r#""properties":[]"#)),
        ("contract/missing_field $.eventType", with(r#""eventType":"click","#, "")),
        ("contract/missing_field $.properties", with(r#","properties":{}"#, "")),
        ("contract/format $.userId", with("123e4567-", "nobody-")),
        ("contract/format $.timestamp", with("2026-01-05T", "2026-13-05T")),
        ("contract/format $.timestamp", with(":00Z", ":00")),
        ("time/future_timestamp $.timestamp", with("2026-", "2926-")),
        ("time/bad_time $.timestamp", with("2026-", "1926-")),
        ("decode/duplicate_key $.properties.page", event(r#""page":"a","page":"b""#)),
        ("decode/trailing_data", [good.clone(), good.clone()].concat()),
        ("decode/invalid_json", good[..good.len() - 1].to_vec()),
        ("decode/empty", Vec::new()),
        ("contract/wrong_type $", b"null".to_vec()),
        ("contract/wrong_type $", b"[1,2]".to_vec()),
        ("", event(r#""page":"\u0000\ud83d\ude00 ' \" ; DROP TABLE silver""#)),
        ("", good.clone()),
    ];
    let records: Vec<Vec<u8>> = cases.iter().map(|(_, data)| data.clone()).collect();
    assert_eq!(records[2].len(), ten_mib);
    let fate = fate_of(by_default(), &records);
    let mut wrong = Vec::new();
    for (at, (expected, data)) in cases.iter().enumerate() {
        let found = fate.letters.get(&at).map_or_else(String::new, |letter| {
            let path = letter.path.as_deref().map(|path| format!(" {path}")).unwrap_or_default();
            // The rule, never the value: what a letter says may be logged.
            let values = ["12345678", "1e400", "nobody", "12.34", "2926", "1926"];
            assert!(!values.iter().any(|value| letter.message.contains(value)), "{}", letter.message);
            format!("{}/{}{path}", letter.stage, letter.reason)
        });
        if found != *expected {
            wrong.push(format!("{found}, not {expected}: {}", String::from_utf8_lossy(&data[..data.len().min(150)])));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(fate.gold("hourly_total", "events"), 4);
}

#[test]
fn a_storm_of_bad_records_pauses_the_shard_instead_of_draining_it_into_letters() {
    // What is no event at all, and what somebody deployed the wrong schema for.
    let wrong = br#"{"eventType":"click","userId":"u1","timestamp":"2026-01-05T08:00:00Z"}"#;
    for (record, reason) in [(&b"not an event"[..], "invalid_json"), (&wrong[..], "contract")] {
        let bench = Bench::shipped("config/local.toml").with("stream.shards=1");
        let file = bench.write("storm.ndjson", &vec![record.to_vec(); 2_000].join(&b'\n'));
        bench.good(&["put".into(), file.into_os_string()]);
        let ran = bench.run(&["run", "--drain"]);
        assert_eq!(ran.code, 1, "{}\n{}", ran.out, ran.err);
        let said = ran.out + &ran.err;
        assert!(said.contains("shardId-000000000000") && said.contains(reason), "{reason}: {said}");
        assert!(letters(&bench.data()).is_empty(), "what the breaker held back is still in the stream");
        // Told that they are meant to be letters, it goes on where it stood.
        let bench = bench.with("breaker.enabled=false");
        bench.good(&["run", "--drain"]);
        assert_eq!(letters(&bench.data()).len(), 2_000);
    }
}
