//! Two judges of one contract: random schemas and documents, our verdict against that of the `jsonschema` crate.
//!
//! Numbers stay within what every column type holds: there our contract is stricter on purpose (`number_range`).

use bytes::Bytes;
use serde_json::{Map, Value, json};
use sluicebox::engine::contract::{Contract, EventOptions, TimeFormat, TimeSource};
use sluicebox_actors::model::position::{Sequence, ShardId};
use sluicebox_actors::model::record::{RawRecord, RawSlice};

const NAMES: [&str; 6] = ["a", "b", "c", "d", "e/f", "z"];
const TEXTS: [&str; 26] = [
    "",
    "a",
    "b",
    "ab",
    "abc",
    "aaaa",
    "é",
    "😀x",
    "12",
    "x y",
    "2026-01-31T23:59:59Z",
    "2026-01-31T23:59:59.5+02:00",
    "2026-02-30T00:00:00Z",
    "2016-12-31T23:59:60Z",
    "2026-01-31",
    "23:59:59Z",
    "2eb8aa08-aa98-11ea-b4aa-73b441d16380",
    "2EB8AA08-AA98-11EA-B4AA-73B441D1638",
    "a@b.co",
    "a@",
    "192.0.2.1",
    "::1",
    "http://x.org/y",
    "x.org",
    "-x.org",
    "\"\\\n",
];
const NUMBERS: [&str; 22] = [
    "0",
    "1",
    "-1",
    "2",
    "3",
    "5",
    "7",
    "10",
    "100",
    "1.0",
    "2.50",
    "0.01",
    "0.1",
    "0.25",
    "0.5",
    "1e1",
    "12e-1",
    "-0.75",
    "3.14159",
    "0.001",
    "-0",
    "999999.99",
];
const FORMATS: [&str; 10] = ["date-time", "date", "time", "uuid", "email", "uri", "hostname", "ipv4", "ipv6", "made-up"];
const PATTERNS: [&str; 6] = ["^a", r"^\d+$", r"^\S*$", "b$", "^[a-c]{1,3}$", r"\w@\w"];
const DIVISORS: [&str; 8] = ["0.01", "0.1", "0.5", "0.25", "1", "3", "0.001", "2"];

/// A seeded source of choices.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) % sides as u64) as usize
    }

    fn one_in(&mut self, sides: usize) -> bool {
        self.roll(sides) == 0
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.roll(from.len())]
    }

    fn number(&mut self) -> Value {
        let written = self.pick(&NUMBERS);
        serde_json::from_str(written).expect("number")
    }

    fn scalar(&mut self) -> Value {
        match self.roll(5) {
            0 => Value::Null,
            1 => json!(self.one_in(2)),
            2 | 3 => json!(self.pick(&TEXTS)),
            _ => self.number(),
        }
    }
}

/// Makes schemas; `general` also uses keywords beyond the common subset.
struct Schemas {
    dice: Dice,
    general: bool,
}

impl Schemas {
    fn root(&mut self) -> Value {
        let mut root = self.object(2);
        root["type"] = json!("object");
        if self.general {
            root["$defs"] = json!({ "x": self.any(1), "y": { "$ref": "#/$defs/x" } });
        }
        root
    }

    fn any(&mut self, depth: usize) -> Value {
        if self.general && depth > 0 && self.dice.one_in(3) {
            return self.beyond(depth);
        }
        match self.dice.roll(if depth == 0 { 9 } else { 13 }) {
            0 => json!({}),
            1 => json!(self.dice.one_in(2)),
            2 => self.with_type("string"),
            3 => self.with_type("integer"),
            4 => self.with_type("number"),
            5 => json!({ "type": "boolean" }),
            6 => json!({ "enum": (0..3).map(|_| self.dice.scalar()).collect::<std::collections::HashSet<_>>() }),
            7 => json!({ "const": self.dice.scalar() }),
            8 => {
                let mut schema = self.rules();
                schema["type"] = json!(["string", "number", "boolean", "null"][..1 + self.dice.roll(4)]);
                schema
            }
            9 | 10 => self.object(depth - 1),
            11 => {
                let (fewest, most) = (self.dice.roll(2), 1 + self.dice.roll(3));
                json!({ "type": "array", "items": self.any(depth - 1), "minItems": fewest, "maxItems": most })
            }
            _ => json!({ "anyOf": [self.any(depth - 1), { "type": "null" }] }),
        }
    }

    fn with_type(&mut self, name: &str) -> Value {
        let mut schema = self.rules();
        schema["type"] = if self.dice.one_in(4) { json!([name, "null"]) } else { json!(name) };
        if self.dice.one_in(8) {
            schema["enum"] = json!([self.dice.scalar(), "a", 1, null, 2.5]);
            if let Some(values) = schema["enum"].as_array_mut() {
                let mut seen = std::collections::HashSet::new();
                values.retain(|value| seen.insert(value.to_string()));
            }
        }
        schema
    }

    /// Some rules of every kind; each only concerns its own kind of value.
    fn rules(&mut self) -> Value {
        let mut rules = Map::new();
        let dice = &mut self.dice;
        for _ in 0..dice.roll(3) {
            let (rule, value) = match dice.roll(10) {
                0 => ("minLength", json!(dice.roll(4))),
                1 => ("maxLength", json!(dice.roll(5))),
                2 => ("pattern", json!(dice.pick(&PATTERNS))),
                3 | 4 => ("format", json!(dice.pick(&FORMATS))),
                5 => ("minimum", dice.number()),
                6 => ("maximum", dice.number()),
                7 => ("exclusiveMinimum", dice.number()),
                8 => ("exclusiveMaximum", dice.number()),
                _ => ("multipleOf", serde_json::from_str(dice.pick(&DIVISORS)).expect("number")),
            };
            rules.insert(rule.to_owned(), value);
        }
        Value::Object(rules)
    }

    fn object(&mut self, depth: usize) -> Value {
        let mut properties = Map::new();
        for name in &NAMES[..5] {
            if !self.dice.one_in(3) {
                properties.insert((*name).to_owned(), self.any(depth));
            }
        }
        properties.insert("a".to_owned(), self.any(depth));
        let required: Vec<&str> = NAMES.into_iter().filter(|_| self.dice.one_in(5)).collect();
        let mut schema = json!({ "type": "object", "properties": properties, "required": required });
        match self.dice.roll(4) {
            0 => schema["additionalProperties"] = json!(false),
            1 => schema["additionalProperties"] = json!(true),
            2 if self.dice.one_in(3) => schema["type"] = json!(["object", "null"]),
            _ => {}
        }
        schema
    }

    fn beyond(&mut self, depth: usize) -> Value {
        let depth = depth.saturating_sub(1);
        let mut one = || self.any(depth);
        let (a, b, c) = (one(), one(), one());
        match self.dice.roll(12) {
            0 => json!({ "oneOf": [a, b] }),
            1 => json!({ "allOf": [a, b] }),
            2 => json!({ "anyOf": [a, b, c] }),
            3 => json!({ "not": a }),
            4 => json!({ "if": a, "then": b, "else": c }),
            5 => json!({ "$ref": "#/$defs/y" }),
            6 => {
                let rules = json!({ "^[bc]$": b });
                json!({ "type": "object", "properties": { "a": a }, "patternProperties": rules, "additionalProperties": false })
            }
            7 => json!({ "type": "object", "properties": { "a": a }, "additionalProperties": b }),
            8 => json!({ "type": "array", "uniqueItems": true, "prefixItems": [a], "items": b }),
            9 => json!({ "type": "array", "contains": a, "items": b }),
            10 => json!({ "enum": [[1], { "a": 1 }, "a", 1] }),
            _ => json!({ "type": "object", "dependentRequired": { "a": ["b"] }, "minProperties": 1, "properties": { "b": c } }),
        }
    }
}

/// A document that mostly tries to satisfy the schema.
fn document(dice: &mut Dice, schema: &Value) -> String {
    if dice.one_in(25) {
        return arbitrary(dice, 2);
    }
    if let Some(values) = schema.get("enum").and_then(Value::as_array).filter(|values| !values.is_empty()) {
        return values[dice.roll(values.len())].to_string();
    }
    if let Some(value) = schema.get("const") {
        return value.to_string();
    }
    for combined in ["anyOf", "oneOf", "allOf"] {
        if let Some(options) = schema.get(combined).and_then(Value::as_array) {
            let chosen = dice.roll(options.len());
            return document(dice, &options[chosen]);
        }
    }
    let kinds: Vec<&str> = match schema.get("type") {
        Some(Value::String(kind)) => vec![kind],
        Some(Value::Array(kinds)) => kinds.iter().filter_map(Value::as_str).collect(),
        Some(_) | None => return arbitrary(dice, 1),
    };
    match dice.pick(&kinds) {
        "object" => {
            let mut members = Vec::new();
            let required = schema.get("required").and_then(Value::as_array).cloned().unwrap_or_default();
            for name in NAMES {
                let declared = schema.get("properties").and_then(|properties| properties.get(name));
                if declared.is_none() && !required.contains(&json!(name)) && !dice.one_in(6) {
                    continue;
                }
                if !dice.one_in(6) || required.contains(&json!(name)) {
                    let value = document(dice, declared.unwrap_or(&Value::Bool(true)));
                    members.insert(dice.roll(members.len() + 1), format!("{} : {value}", json!(name)));
                }
            }
            format!("{{{}}}", members.join(", "))
        }
        "array" => {
            let items = schema.get("items").unwrap_or(&Value::Bool(true));
            let items: Vec<_> = (0..dice.roll(4)).map(|_| document(dice, items)).collect();
            format!("[{}]", items.join(","))
        }
        "integer" => NUMBERS[dice.roll(9)].to_owned(),
        "number" => dice.pick(&NUMBERS).to_owned(),
        "boolean" => json!(dice.one_in(2)).to_string(),
        "null" => "null".to_owned(),
        _ => match schema.get("format").and_then(Value::as_str) {
            Some(_) => json!(TEXTS[10 + dice.roll(15)]).to_string(),
            None => json!(dice.pick(&TEXTS)).to_string(),
        },
    }
}

fn arbitrary(dice: &mut Dice, depth: usize) -> String {
    match dice.roll(if depth == 0 { 4 } else { 6 }) {
        0 => dice.pick(&NUMBERS).to_owned(),
        1..=3 => dice.scalar().to_string(),
        4 => format!("[{}]", (0..dice.roll(3)).map(|_| arbitrary(dice, depth - 1)).collect::<Vec<_>>().join(",")),
        _ => {
            let count = dice.roll(4);
            let members: Vec<_> =
                NAMES[..count].iter().map(|name| format!("{}:{}", json!(name), arbitrary(dice, depth - 1))).collect();
            format!("{{{}}}", members.join(","))
        }
    }
}

/// Compares verdicts on `schemas × documents`; how many documents each side of the line had.
fn compare(seeds: std::ops::Range<u64>, general: bool) -> (usize, usize) {
    let options =
        EventOptions { time: TimeSource::Arrival, time_format: TimeFormat::Rfc3339, default_offset_s: 0, max_future_us: 0 };
    let (mut rows, mut refused) = (0, 0);
    for seed in seeds {
        let mut schemas = Schemas { dice: Dice(seed), general };
        let schema = schemas.root();
        let mut dice = schemas.dice;
        let contract = Contract::compile(&schema.to_string(), &options).unwrap_or_else(|error| panic!("{error} in {schema}"));
        let judge = jsonschema::options().should_validate_formats(true).build(&schema).expect("schema");
        assert!(general || !contract.is_general(), "{schema}");
        let documents: Vec<String> = (0..40).map(|_| document(&mut dice, &schema)).collect();
        let expected: Vec<bool> =
            documents.iter().map(|document| judge.is_valid(&serde_json::from_str(document).expect(document))).collect();
        let record = |document: &String| RawRecord {
            sequence: Sequence::dense(1),
            sub_sequence: 0,
            foreign: false,
            partition_key: Bytes::new(),
            arrival_us: 0,
            data: Bytes::from(document.clone()),
        };
        let slice = RawSlice { stream: "s".into(), shard: ShardId::new("0"), records: documents.iter().map(record).collect() };
        let events = contract.decoder().decode(&slice).expect("decode");
        for rejection in &events.rejections {
            let document = &documents[rejection.index as usize];
            assert!(
                !expected[rejection.index as usize],
                "seed {seed}: refused ({} {:?}) but valid: {document} under {schema}",
                rejection.reason, rejection.path
            );
            assert_eq!(rejection.stage.to_string(), "contract", "{document}");
        }
        for index in &events.origin {
            assert!(
                expected[*index as usize],
                "seed {seed}: accepted but invalid: {} under {schema}",
                documents[*index as usize]
            );
        }
        rows += events.origin.len();
        refused += events.rejections.len();
    }
    (rows, refused)
}

#[test]
fn inside_the_common_subset_our_verdict_is_the_jsonschema_crates() {
    let (rows, refused) = compare(0..1500, false);
    assert!(rows > 3000 && refused > 3000, "both sides are tried: {rows} rows, {refused} refused");
}

#[test]
fn beyond_the_common_subset_our_verdict_is_the_jsonschema_crates() {
    let (rows, refused) = compare(10_000..11_000, true);
    assert!(rows > 2000 && refused > 2000, "both sides are tried: {rows} rows, {refused} refused");
}
