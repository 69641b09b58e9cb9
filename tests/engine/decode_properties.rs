//! Properties of decoding: values are those another parser sees, every record ends in exactly one place, neighbours don't matter.

use arrow::array::{Array, AsArray};
use arrow::datatypes::{Decimal128Type, Float64Type, Int64Type};
use bytes::Bytes;
use proptest::prelude::*;
use serde_json::{Map, Value};
use sluicebox::engine::contract::{Contract, EventOptions, TimeFormat, TimeSource};
use sluicebox::engine::decode::Events;
use sluicebox_actors::model::position::{Sequence, ShardId};
use sluicebox_actors::model::record::{RawRecord, RawSlice};

const SCHEMA: &str = r#"{"type":"object","required":["id"],"properties":{
    "id":{"type":"integer"},"text":{"type":"string"},"ratio":{"type":"number"},"price":{"type":"number","multipleOf":0.01},
    "flag":{"type":["boolean","null"]},"list":{"type":"array"},
    "inner":{"type":"object","properties":{"text":{"type":"string"},"id":{"type":"integer"}}}}}"#;

fn contract(schema: &str) -> Contract {
    let options =
        EventOptions { time: TimeSource::Arrival, time_format: TimeFormat::Rfc3339, default_offset_s: 0, max_future_us: 0 };
    Contract::compile(schema, &options).expect("contract")
}

fn slice(records: &[Vec<u8>]) -> RawSlice {
    let record = |(i, data): (u64, &Vec<u8>)| RawRecord {
        sequence: Sequence::dense(i),
        sub_sequence: 0,
        foreign: false,
        partition_key: Bytes::new(),
        arrival_us: 0,
        data: Bytes::copy_from_slice(data),
    };
    RawSlice { stream: "s".into(), shard: ShardId::new("0"), records: (0..).zip(records).map(record).collect() }
}

fn decode(records: &[Vec<u8>]) -> Events {
    contract(SCHEMA).decoder().decode(&slice(records)).expect("decode")
}

/// A value as JSON text, with its numbers and strings spelled in one of several ways.
fn spelled(value: Value, escape: bool) -> String {
    let text = value.to_string();
    match value {
        Value::String(inside) if escape => {
            let units: String = inside.encode_utf16().map(|unit| format!("\\u{unit:04X}")).collect();
            format!("\"{units}\"")
        }
        Value::Number(number) if escape && number.is_i64() => format!("{text}.0e0"),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) | Value::Object(_) => text,
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-z]{1,3}", inner, 0..4).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// Members of a valid event, each there or not, as (name, text); the price apart, in cents.
fn event() -> impl Strategy<Value = (Vec<(String, String)>, Option<i64>)> {
    let member = |name: &'static str, value: BoxedStrategy<Value>| {
        (prop::option::weighted(0.8, value), any::<bool>())
            .prop_map(move |(value, escape)| value.map(|value| (name.to_owned(), spelled(value, escape))))
    };
    let inner = (any::<Option<String>>(), any::<Option<i64>>(), prop::option::of(any_json())).prop_map(|(text, id, more)| {
        let members = [("text", text.map(Value::from)), ("id", id.map(Value::from)), ("more", more)];
        Value::Object(members.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect())
    });
    let finite = any::<f64>().prop_filter("finite", |number| number.is_finite());
    let members = (
        any::<i64>(),
        member("text", any::<String>().prop_map(Value::from).boxed()),
        member("ratio", finite.prop_map(Value::from).boxed()),
        member("flag", any::<Option<bool>>().prop_map(Value::from).boxed()),
        member("list", prop::collection::vec(any_json(), 0..3).prop_map(Value::from).boxed()),
        member("inner", inner.boxed()),
        member("x", any_json().boxed()),
        member("y \" é", any_json().boxed()),
        prop::option::of(-999_999_999_999_999_999i64..=999_999_999_999_999_999),
    );
    members
        .prop_flat_map(|(id, a, b, c, d, e, f, g, cents)| {
            let id = Some(("id".to_owned(), id.to_string()));
            let price = cents.map(|cents| {
                let sign = if cents < 0 { "-" } else { "" };
                ("price".to_owned(), format!("{sign}{}.{:02}", cents.unsigned_abs() / 100, cents.unsigned_abs() % 100))
            });
            let members: Vec<_> = [id, a, b, c, d, e, f, g, price].into_iter().flatten().collect();
            (Just(members).prop_shuffle(), Just(cents))
        })
        .boxed()
}

fn write(members: &[(String, String)]) -> String {
    let members: Vec<_> = members.iter().map(|(name, value)| format!("{} :\t{value}", Value::from(name.as_str()))).collect();
    format!("{{ {} }}", members.join(" , "))
}

fn parse(text: &str) -> Value {
    serde_json::from_str(text).expect("json text in a column")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn columns_hold_exactly_the_values_that_serde_json_sees(events in prop::collection::vec(event(), 1..6)) {
        let texts: Vec<Vec<u8>> = events.iter().map(|(members, _)| write(members).into_bytes()).collect();
        let decoded = decode(&texts);
        prop_assert_eq!(&decoded.rejections, &[]);
        let batch = &decoded.batch;
        for (i, (_, cents)) in events.iter().enumerate() {
            let seen: Map<String, Value> = serde_json::from_slice(&texts[i]).expect("json");
            let written = |name: &str| {
                let column = batch[name].as_string::<i32>();
                column.is_valid(i).then(|| column.value(i).to_owned())
            };
            let get = |name: &str| seen.get(name).filter(|value| !value.is_null()).cloned();
            prop_assert_eq!(Some(batch["id"].as_primitive::<Int64Type>().value(i)), get("id").and_then(|id| id.as_i64()));
            prop_assert_eq!(written("text").map(Value::from), get("text"));
            let ratio = batch["ratio"].as_primitive::<Float64Type>();
            let bits = get("ratio").and_then(|n| n.as_f64()).map(f64::to_bits);
            prop_assert_eq!(ratio.is_valid(i).then(|| ratio.value(i).to_bits()), bits);
            let price = batch["price"].as_primitive::<Decimal128Type>();
            prop_assert_eq!(price.is_valid(i).then(|| price.value(i)), cents.map(i128::from));
            let flag = batch["flag"].as_boolean();
            prop_assert_eq!(flag.is_valid(i).then(|| flag.value(i)), get("flag").and_then(|flag| flag.as_bool()));
            prop_assert_eq!(written("list").map(|text| parse(&text)), get("list"));
            let mut rest = seen.clone();
            rest.retain(|name, _| matches!(name.as_str(), "x" | "y \" é"));
            prop_assert_eq!(written("_rest").map(|text| parse(&text)), (!rest.is_empty()).then_some(Value::Object(rest)));
            let inner = batch["inner"].as_struct();
            prop_assert_eq!(inner.is_valid(i), get("inner").is_some());
            let text = inner["text"].as_string::<i32>();
            let expected = get("inner").and_then(|inner| inner.get("text").cloned());
            prop_assert_eq!(text.is_valid(i).then(|| Value::from(text.value(i))), expected);
            let more = inner["_rest"].as_string::<i32>();
            let expected = get("inner").and_then(|inner| inner.get("more").cloned());
            prop_assert_eq!(more.is_valid(i).then(|| parse(more.value(i))["more"].clone()), expected);
        }
    }

    #[test]
    fn changed_bytes_never_panic_and_every_record_ends_in_exactly_one_place(
        events in prop::collection::vec(event(), 1..5),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>(), 0..3), 0..8),
    ) {
        let mut records: Vec<Vec<u8>> = events.iter().map(|(members, _)| write(members).into_bytes()).collect();
        for (record, place, byte, change) in changes {
            let count = records.len();
            let data = &mut records[record.index(count)];
            let at = place.index(data.len() + 1);
            match change {
                0 => data.insert(at, byte),
                1 => data.truncate(at),
                _ => data.iter_mut().skip(at).take(1).for_each(|old| *old = byte),
            }
        }
        let decoded = decode(&records);
        let refused: Vec<u32> = decoded.rejections.iter().map(|rejection| rejection.index).collect();
        prop_assert!(decoded.rejections.iter().all(|rejection| rejection.reason != "panic"));
        prop_assert!(decoded.origin.is_sorted() && refused.is_sorted());
        let mut all = [decoded.origin.clone(), refused].concat();
        all.sort_unstable();
        prop_assert_eq!(all, (0..records.len() as u32).collect::<Vec<_>>());
        prop_assert_eq!(decoded.batch.num_rows(), decoded.origin.len());
        // Alone, each record fares as it does in company.
        let mut row = 0;
        for (i, record) in records.iter().enumerate() {
            let alone = decode(std::slice::from_ref(record));
            match alone.rejections.first() {
                Some(rejection) => {
                    let there = decoded.rejections.iter().find(|other| other.index == i as u32).expect("refused there too");
                    prop_assert_eq!(rejection.reason, there.reason);
                    prop_assert_eq!((&rejection.path, &rejection.message), (&there.path, &there.message));
                }
                None => {
                    for column in 0..8 {
                        let there = decoded.batch.column(column).slice(row, 1);
                        prop_assert_eq!(alone.batch.column(column).to_data(), there.to_data());
                    }
                    row += 1;
                }
            }
        }
    }
}
