//! What becomes of single records.
//!
//! Owns: examples of events. Does not own: properties over many events (tests/engine).

use arrow::array::{Array, AsArray};
use arrow::datatypes::{Decimal128Type, Float64Type, Int32Type, Int64Type, TimestampMicrosecondType};
use bytes::Bytes;
use sluicebox_actors::model::position::{Sequence, ShardId};

use super::*;
use crate::engine::contract::{Contract, EventOptions, TimeFormat};

/// A record that starts so makes the decoder panic.
pub(super) const PANIC: &[u8] = b"#panic#";

const ARRIVAL: i64 = 1_769_904_000_000_000;
const CLICKSTREAM: &str = include_str!("../../../config/schemas/clickstream.schema.json");
const CLICK: &str = concat!(
    r#"{"eventType":"click","userId":"2eb8aa08-aa98-11ea-b4aa-73b441d16380","timestamp":"2026-01-31T23:59:59.123456Z","#,
    r#""sessionId":"s-1","properties":{"page":"/a","amount":19.99}}"#
);

fn slice(records: &[&[u8]]) -> RawSlice {
    let record = |(i, data): (u64, &&[u8])| RawRecord {
        sequence: Sequence::dense(i + 1),
        sub_sequence: 2,
        foreign: false,
        partition_key: Bytes::from(format!("key-{i}")),
        arrival_us: ARRIVAL,
        data: Bytes::copy_from_slice(data),
    };
    RawSlice { stream: "clicks".into(), shard: ShardId::new("shard-0"), records: (0..).zip(records).map(record).collect() }
}

fn arrival() -> EventOptions {
    EventOptions { time: TimeSource::Arrival, time_format: TimeFormat::Rfc3339, default_offset_s: 0, max_future_us: 600_000_000 }
}

fn timestamp() -> EventOptions {
    EventOptions { time: TimeSource::Path(vec!["timestamp".to_owned()]), ..arrival() }
}

fn decoder(schema: &str, options: &EventOptions) -> Decoder {
    Contract::compile(schema, options).expect("contract").decoder()
}

fn decode(schema: &str, records: &[&str]) -> Events {
    let records: Vec<&[u8]> = records.iter().map(|record| record.as_bytes()).collect();
    decoder(schema, &arrival()).decode(&slice(&records)).expect("decode")
}

/// `reason path` of the one rejection, or `row`.
fn verdict(schema: &str, options: &EventOptions, record: &str) -> String {
    let events = decoder(schema, options).decode(&slice(&[record.as_bytes()])).expect("decode");
    match events.rejections.as_slice() {
        [] => "row".to_owned(),
        [only] => {
            assert_eq!(events.batch.num_rows(), 0);
            format!("{}/{} {}", only.stage, only.reason, only.path.as_deref().unwrap_or("-"))
        }
        _ => panic!("one verdict a record"),
    }
}

fn text(events: &Events, column: &str) -> Vec<Option<String>> {
    let column = events.batch.column_by_name(column).expect(column).as_string::<i32>();
    column.iter().map(|text| text.map(str::to_owned)).collect()
}

fn some(texts: &[&str]) -> Vec<Option<String>> {
    texts.iter().map(|text| Some((*text).to_owned())).collect()
}

#[test]
fn a_click_becomes_a_row_with_its_coordinates() {
    let extra = CLICK.replacen('{', r#"{"extra":[1, 2],"more":"\u00e9","#, 1).replace("\"page\"", "\"beta\":true,\"page\"");
    let slice = slice(&[CLICK.as_bytes(), extra.as_bytes()]);
    let events = decoder(CLICKSTREAM, &timestamp()).decode(&slice).expect("decode");
    assert_eq!((events.origin.as_slice(), events.rejections.len()), ([0, 1].as_slice(), 0));
    assert_eq!(events.max_event_us, Some(1_769_903_999_123_456));
    assert_eq!(text(&events, "eventType"), some(&["click", "click"]));
    assert_eq!(text(&events, "timestamp"), some(&["2026-01-31T23:59:59.123456Z"; 2]), "as written");
    assert_eq!(text(&events, "_rest"), [None, Some(r#"{"extra":[1, 2],"more":"\u00e9"}"#.to_owned())]);
    assert_eq!(text(&events, "_stream"), some(&["clicks", "clicks"]));
    assert_eq!(text(&events, "_shard"), some(&["shard-0", "shard-0"]));
    assert_eq!(text(&events, "_sequence"), some(&["1", "2"]));
    assert_eq!(text(&events, "_partition_key"), some(&["key-0", "key-1"]));
    let batch = &events.batch;
    assert_eq!(batch["_sub_sequence"].as_primitive::<Int32Type>().values(), &[2, 2]);
    assert_eq!(batch["event_time"].as_primitive::<TimestampMicrosecondType>().values(), &[1_769_903_999_123_456; 2]);
    assert_eq!(batch["_arrival_time"].as_primitive::<TimestampMicrosecondType>().values(), &[ARRIVAL; 2]);
    let properties = batch["properties"].as_struct();
    assert_eq!(properties["amount"].as_primitive::<Decimal128Type>().values(), &[1999, 1999]);
    assert_eq!(properties["page"].as_string::<i32>().value(1), "/a");
    assert!(properties["referrer"].is_null(0));
    assert_eq!(properties["_rest"].as_string::<i32>().value(1), r#"{"beta":true}"#);
}

#[test]
fn a_bad_record_costs_itself_and_leaves_no_trace() {
    let half = CLICK.replace("19.99", "19.999");
    let records = [CLICK, "{", CLICK, &half, "", CLICK];
    let events = decoder(CLICKSTREAM, &timestamp()).decode(&slice(&records.map(str::as_bytes))).expect("decode");
    assert_eq!(events.origin, [0, 2, 5]);
    let refused: Vec<_> = events.rejections.iter().map(|rejection| (rejection.index, rejection.reason)).collect();
    assert_eq!(refused, [(1, "invalid_json"), (3, "multiple_of"), (4, "empty")]);
    assert_eq!(text(&events, "_sequence"), some(&["1", "3", "6"]));
    assert_eq!(text(&events, "sessionId"), some(&["s-1"; 3]));
    let clean = decoder(CLICKSTREAM, &timestamp()).decode(&slice(&[CLICK.as_bytes(); 3])).expect("decode");
    assert_eq!(events.batch.column(4), clean.batch.column(4), "the half-checked properties are gone");
}

#[test]
fn an_empty_slice_gives_an_empty_batch_of_the_schema() {
    let contract = Contract::compile(CLICKSTREAM, &timestamp()).expect("contract");
    let events = contract.decoder().decode(&slice(&[])).expect("decode");
    assert_eq!((events.batch.num_rows(), events.batch.schema(), events.max_event_us), (0, contract.schema(), None));
}

#[test]
fn each_rule_has_its_reason_and_path_and_never_shows_a_value() {
    let cases: [(&str, &str, &str); 33] = [
        (r#"{"type":"string"}"#, "5", "wrong_type"),
        (r#"{"type":"integer"}"#, "1.5", "wrong_type"),
        (r#"{"type":"string"}"#, "null", "wrong_type"),
        (r#"{"type":"integer"}"#, "9223372036854775808", "number_range"),
        (r#"{"type":"integer"}"#, "1e19", "number_range"),
        (r#"{"type":"number"}"#, "1e400", "number_range"),
        (r#"{"type":"number","multipleOf":0.01}"#, "10000000000000000", "number_range"),
        (r#"{"type":"number","multipleOf":0.01}"#, "0.001", "multiple_of"),
        (r#"{"type":"integer","multipleOf":7}"#, "15", "multiple_of"),
        (r#"{"type":"number","multipleOf":0.25}"#, "0.3", "multiple_of"),
        (r#"{"minimum":1}"#, "0.5", "number_range"),
        (r#"{"maximum":1}"#, "2", "number_range"),
        (r#"{"exclusiveMinimum":1}"#, "1", "number_range"),
        (r#"{"exclusiveMaximum":1}"#, "1.0", "number_range"),
        (r#"{"enum":["a","b"]}"#, "\"c\"", "enum"),
        (r#"{"enum":[1,null]}"#, "2", "enum"),
        (r#"{"type":["string","null"],"enum":["a"]}"#, "null", "enum"),
        (r#"{"type":["array","string"],"enum":["a"]}"#, "[]", "enum"),
        (r#"{"const":"a"}"#, "\"b\"", "const"),
        (r#"{"type":"boolean","const":true}"#, "false", "const"),
        (r#"{"pattern":"^a+$"}"#, "\"b\"", "pattern"),
        (r#"{"minLength":2}"#, "\"😀\"", "length"),
        (r#"{"maxLength":2}"#, "\"abc\"", "length"),
        (r#"{"format":"uuid"}"#, "\"x\"", "format"),
        (r#"{"format":"date-time"}"#, "\"2026-02-29T00:00:00Z\"", "format"),
        (r#"{"format":"email"}"#, "\"x\"", "format"),
        (r#"{"format":"uri"}"#, "\"not a uri\"", "format"),
        (r#"{"type":"array","minItems":1}"#, "[]", "items"),
        (r#"{"type":"array","maxItems":1}"#, "[1,2]", "items"),
        (r#"{"not":{}}"#, "1", "schema_violation"),
        (r#"{"type":"array","uniqueItems":true}"#, "[1,1]", "schema_violation"),
        (r#"{"oneOf":[{"type":"integer"},{"minimum":5}]}"#, "7", "schema_violation"),
        ("false", "1", "wrong_type"),
    ];
    for (rule, value, reason) in cases {
        let schema = format!(r#"{{"properties":{{"v":{rule}}}}}"#);
        let record = format!(r#"{{"v":{value}}}"#);
        assert_eq!(verdict(&schema, &arrival(), &record), format!("contract/{reason} $.v"), "{rule} {value}");
        let events = decode(&schema, &[&record]);
        assert!(value.len() < 4 || !events.rejections[0].message.contains(value), "{}", events.rejections[0].message);
    }
}

#[test]
fn paths_lead_to_the_member_or_item_to_blame() {
    let schema = r#"{"type":"object","additionalProperties":false,"required":["z","a"],"properties":{
        "a":{"type":"object","required":["b"],"properties":{"b":{"type":"integer"}},"additionalProperties":false},
        "l":{"type":"array","items":{"type":"object","required":["x"],"properties":{
            "y":{"type":"array","items":{"type":"string"}}}}},
        "z":{"type":"object","patternProperties":{"^n":{"type":"integer"}}},"w":{"type":"array","items":{"not":{"const":3}}}}}"#;
    for (record, expected) in [
        (r#"{"a":{"b":1},"z":{}}"#, "row"),
        (r#"{"a":{"b":1}}"#, "contract/missing_field $.z"),
        ("{}", "contract/missing_field $.a"),
        (r#"{"z":{},"a":{}}"#, "contract/missing_field $.a.b"),
        (r#"{"z":{},"a":{"c d":1}}"#, "contract/unknown_field $.a[\"c d\"]"),
        (r#"{"q":1}"#, "contract/unknown_field $.q"),
        (r#"{"z":{},"a":{"b":1},"l":[{"x":1},{}]}"#, "contract/missing_field $.l[1].x"),
        (r#"{"z":{},"a":{"b":1},"l":[{"x":1,"y":["",7]}]}"#, "contract/wrong_type $.l[0].y[1]"),
        (r#"{"z":{"n1":"x"},"a":{"b":1}}"#, "contract/schema_violation $.z.n1"),
        (r#"{"z":{},"a":{"b":1},"w":[1,3]}"#, "contract/schema_violation $.w[1]"),
        ("[]", "contract/wrong_type $"),
        (r#"{"a":{"b":1},"a":{}}"#, "decode/duplicate_key $.a"),
    ] {
        assert_eq!(verdict(schema, &arrival(), record), expected, "{record}");
    }
}

#[test]
fn values_take_their_columns_form() {
    let schema = r#"{"properties":{"i":{"type":"integer"},"n":{"type":["number","null"]},"d":{"type":"number","multipleOf":0.01},
        "b":{"type":"boolean"},"s":{"type":"string"},"j":{"type":["array","object","string","null"]}}}"#;
    let events = decode(
        schema,
        &[
            r#"{"i":1.0,"n":1e2,"d":1.9990e1,"b":true,"s":"\u00e9\n😀","j": [1, {"a" :2} ]}"#,
            r#"{"i":-9223372036854775808,"n":null,"d":-0,"b":false,"s":"","j":"a\u0062"}"#,
            r#"{"i":12e3,"n":-0.1,"d":0.1,"j":null}"#,
            r#"{"\u0069":5}"#,
        ],
    );
    assert_eq!(events.rejections, []);
    let batch = &events.batch;
    assert_eq!(batch["i"].as_primitive::<Int64Type>().values(), &[1, i64::MIN, 12_000, 5]);
    let numbers: Vec<_> = batch["n"].as_primitive::<Float64Type>().iter().collect();
    assert_eq!(numbers, [Some(100.0), None, Some(-0.1), None]);
    let cents: Vec<_> = batch["d"].as_primitive::<Decimal128Type>().iter().collect();
    assert_eq!(cents, [Some(1999), Some(0), Some(10), None]);
    assert_eq!(batch["b"].as_boolean().iter().collect::<Vec<_>>(), [Some(true), Some(false), None, None]);
    assert_eq!(text(&events, "s"), [Some("é\n😀".to_owned()), Some(String::new()), None, None]);
    assert_eq!(text(&events, "j"), [Some(r#"[1, {"a" :2} ]"#.to_owned()), Some(r#""a\u0062""#.to_owned()), None, None]);
    assert_eq!(text(&events, "_rest"), [None, None, None, None]);
}

#[test]
fn structs_are_null_where_the_object_is_and_keep_their_undeclared_members() {
    let schema = r#"{"properties":{"o":{"type":["object","null"],"properties":{"a":{"type":"integer"},
        "p":{"type":"object","properties":{"b":{"type":"string"}}}}}}}"#;
    let events =
        decode(schema, &[r#"{"o":{"a":1,"x":"\n","p":{"q":{},"b":"t","r":[]},"y":1}}"#, r#"{"o":null}"#, "{}", r#"{"o":{}}"#]);
    assert_eq!(events.rejections, []);
    let o = events.batch["o"].as_struct();
    assert_eq!((0..4).map(|i| o.is_valid(i)).collect::<Vec<_>>(), [true, false, false, true]);
    assert_eq!(o["a"].as_primitive::<Int64Type>().iter().collect::<Vec<_>>(), [Some(1), None, None, None]);
    assert_eq!(o["_rest"].as_string::<i32>().iter().collect::<Vec<_>>(), [Some(r#"{"x":"\n","y":1}"#), None, None, None]);
    let p = o["p"].as_struct();
    assert_eq!((p.is_valid(0), p.is_valid(3)), (true, false));
    assert_eq!(p["b"].as_string::<i32>().value(0), "t");
    assert_eq!(p["_rest"].as_string::<i32>().value(0), r#"{"q":{},"r":[]}"#);
}

#[test]
fn without_declared_members_the_event_is_kept_as_written() {
    let events = decode("{}", &[" {\"a\" : 1.50 } \n", "null", "\"x\"", "[1, 2]"]);
    assert_eq!(text(&events, "_event"), some(&["{\"a\" : 1.50 }", "null", "\"x\"", "[1, 2]"]));
}

#[test]
fn the_event_time_is_judged_after_the_contract() {
    let schema = r#"{"properties":{"timestamp":{"type":["string","null"]}}}"#;
    let at = |time: &str| verdict(schema, &timestamp(), &format!(r#"{{"timestamp":{time}}}"#));
    assert_eq!(at("\"2026-01-31T23:59:59Z\""), "row");
    assert_eq!(at("\"2026-02-01T00:10:00Z\""), "row", "max_future after the arrival, to the microsecond");
    assert_eq!(at("\"2026-02-01T00:10:00.000001Z\""), "time/future_timestamp $.timestamp");
    assert_eq!(at("\"yesterday\""), "time/bad_time $.timestamp");
    assert_eq!(at("\"1969-12-31T23:59:59Z\""), "time/bad_time $.timestamp");
    assert_eq!(at("null"), "time/missing_time $.timestamp");
    assert_eq!(at("5"), "contract/wrong_type $.timestamp");
    assert_eq!(verdict(schema, &timestamp(), "{}"), "time/missing_time $.timestamp");
    assert_eq!(verdict("{}", &timestamp(), "[]"), "time/missing_time $.timestamp");
    assert_eq!(verdict("{}", &timestamp(), r#"{"timestamp":5}"#), "time/bad_time $.timestamp");
    assert_eq!(verdict("{}", &timestamp(), r#"{"time\u0073tamp":"2026-01-31T23:59:59\u005a"}"#), "row");
}

#[test]
fn the_event_time_may_lie_deep_and_in_any_named_form() {
    let time = TimeSource::Path(vec!["meta".to_owned(), "at".to_owned()]);
    let options = EventOptions { time, time_format: TimeFormat::EpochMs, ..arrival() };
    let contract = Contract::compile("{}", &options).expect("contract");
    let record = br#"{"meta":{"at":1769903999123}}"#;
    assert_eq!(contract.event_time_of(record), Some(1_769_903_999_123_000));
    assert_eq!(contract.event_time_of(b"{"), None);
    assert_eq!(contract.event_time_of(br#"{"meta":{}}"#), None);
    let events = contract.decoder().decode(&slice(&[record])).expect("decode");
    assert_eq!(events.max_event_us, Some(1_769_903_999_123_000));
    let by_arrival = Contract::compile("{}", &arrival()).expect("contract");
    assert_eq!(by_arrival.event_time_of(b"{}"), None);
    assert_eq!(decode("{}", &["1"]).max_event_us, Some(ARRIVAL));
}

#[test]
fn a_record_that_panics_the_decoder_is_isolated() {
    let panicking = [PANIC, CLICK.as_bytes()].concat();
    let mut decoder = decoder(CLICKSTREAM, &timestamp());
    let records: [&[u8]; 5] = [CLICK.as_bytes(), &panicking, b"{", CLICK.as_bytes(), &panicking];
    for _ in 0..2 {
        let events = decoder.decode(&slice(&records)).expect("decode");
        assert_eq!(events.origin, [0, 3]);
        assert_eq!(events.batch.num_rows(), 2);
        let refused: Vec<_> = events.rejections.iter().map(|rejection| (rejection.index, rejection.reason)).collect();
        assert_eq!(refused, [(1, "panic"), (2, "invalid_json"), (4, "panic")]);
    }
}

#[test]
fn a_ten_mebibyte_event_passes() {
    let start = r#"{"sessionId":""#;
    let rest = CLICK.replace(r#""sessionId":"s-1","#, "");
    let filler = "x".repeat(crate::engine::structure::MAX_BYTES - start.len() - 1 - rest.len());
    let record = format!("{start}{filler}\",{}", &rest[1..]);
    assert_eq!(record.len(), crate::engine::structure::MAX_BYTES);
    assert_eq!(verdict(CLICKSTREAM, &timestamp(), &record), "row");
    assert_eq!(verdict(CLICKSTREAM, &timestamp(), &format!("{record} ")), "decode/too_large -");
}

#[test]
fn the_order_of_members_changes_speed_and_never_a_result() {
    let orders = [
        r#"{"a":1,"b":2,"c":3}"#,
        r#"{"c":3,"a":1,"b":2}"#,
        r#"{"b":2}"#,
        r#"{"x":0,"c":3,"y":0,"a":1,"b":2}"#,
        r#"{"c":3,"a":1,"b":2}"#,
    ];
    let schema = r#"{"properties":{"a":{"type":"integer"},"b":{"type":"integer"},"c":{"type":"integer"}}}"#;
    let together = decode(schema, &orders);
    for (i, record) in orders.iter().enumerate() {
        let alone = decode(schema, &[record]);
        for column in ["a", "b", "c", "_rest"] {
            assert_eq!(together.batch[column].slice(i, 1).as_ref(), alone.batch[column].as_ref(), "{column} of {record}");
        }
    }
}

#[test]
fn too_much_at_once_is_refused_as_our_own_mistake() {
    let record = slice(&[&vec![b' '; 4 << 20]]).records.remove(0);
    let huge = RawSlice { stream: "s".into(), shard: ShardId::new("0"), records: vec![record; 300] };
    assert!(decoder("{}", &arrival()).decode(&huge).is_err());
}
