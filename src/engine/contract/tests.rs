//! What a contract accepts, refuses and names.
//!
//! Owns: examples of schemas. Does not own: properties over many documents (tests/engine).

use super::*;

pub(crate) const CLICKSTREAM: &str = include_str!("../../../config/schemas/clickstream.schema.json");

fn options() -> EventOptions {
    let time = TimeSource::Path(vec!["timestamp".to_owned()]);
    EventOptions { time, time_format: TimeFormat::Rfc3339, default_offset_s: 0, max_future_us: 600_000_000 }
}

fn arrival() -> EventOptions {
    EventOptions { time: TimeSource::Arrival, ..options() }
}

/// `name: type` of the contract's own columns; `?` marks nullable.
fn columns(schema: &str) -> Vec<String> {
    let contract = Contract::compile(schema, &arrival()).expect("contract");
    let fields = contract.schema();
    let own = fields.fields().iter().take_while(|field| field.name() != "event_time");
    own.map(|field| format!("{}: {}{}", field.name(), field.data_type(), if field.is_nullable() { "?" } else { "" })).collect()
}

fn refused(schema: &str) -> String {
    Contract::compile(schema, &arrival()).expect_err("refused").pointer
}

#[test]
fn the_default_contract_gives_the_columns_in_the_order_written() {
    let contract = Contract::compile(CLICKSTREAM, &options()).expect("contract");
    let names: Vec<_> = contract.schema().fields().iter().map(|field| field.name().clone()).collect();
    assert_eq!(
        names,
        [
            "eventType",
            "userId",
            "timestamp",
            "sessionId",
            "properties",
            "_rest",
            "event_time",
            "_stream",
            "_shard",
            "_sequence",
            "_sub_sequence",
            "_partition_key",
            "_arrival_time",
        ]
    );
    let properties = contract.schema().field_with_name("properties").expect("properties").data_type().to_string();
    assert!(properties.contains("Decimal128(18, 2)") && properties.contains("_rest"), "{properties}");
    assert!(!contract.is_general());
    assert_eq!(contract.number_columns(), [""; 0]);
}

#[test]
fn each_type_has_its_column() {
    let schema = r#"{"type":"object","additionalProperties":false,"required":["s","i","j"],"properties":{
        "s":{"type":"string"},"i":{"type":"integer"},"n":{"type":"number"},"d":{"type":"number","multipleOf":1e-9},
        "e":{"type":"number","multipleOf":1},"f":{"type":"number","multipleOf":0.5},"b":{"type":"boolean"},
        "j":{"type":["integer","null"]},"k":{"anyOf":[{"type":"null"},{"type":"string","const":"x"}]},"l":{"enum":["a","b"]},
        "m":{"enum":[1,2]},"o":{"type":"object"},"p":{"type":"array"},"q":{"type":["string","number"]},"r":{},"t":true,
        "u":{"type":"object","properties":{"x":{"type":"string"}}}}}"#;
    assert_eq!(
        columns(schema),
        [
            "s: Utf8",
            "i: Int64",
            "n: Float64?",
            "d: Decimal128(18, 9)?",
            "e: Decimal128(18, 0)?",
            "f: Float64?",
            "b: Boolean?",
            "j: Int64?",
            "k: Utf8?",
            "l: Utf8?",
            "m: Int64?",
            "o: Utf8?",
            "p: Utf8?",
            "q: Utf8?",
            "r: Utf8?",
            "t: Utf8?",
            "u: Struct(\"x\": Utf8, \"_rest\": Utf8)?",
        ]
    );
    let contract = Contract::compile(schema, &arrival()).expect("contract");
    assert_eq!(contract.number_columns(), ["i", "n", "d", "e", "f", "j", "m"]);
}

#[test]
fn a_schema_without_members_gives_the_whole_event() {
    for schema in [
        "{}",
        "true",
        r#"{"type":"object"}"#,
        r#"{"type":"string","minLength":1}"#,
        r#"{"oneOf":[{"type":"string"},{"type":"null"}]}"#,
    ] {
        assert_eq!(columns(schema), ["_event: Utf8"], "{schema}");
    }
}

#[test]
fn references_inside_the_schema_are_read_in_place() {
    let schema = r##"{"type":"object","properties":{"a":{"$ref":"#/$defs/money"},"b":{"$ref":"#/$defs/list"}},
        "$defs":{"money":{"$ref":"#/$defs/cents"},"cents":{"type":"number","multipleOf":0.01},
        "list":{"type":"object","properties":{"next":{"$ref":"#/$defs/list"}}}}}"##;
    assert_eq!(
        columns(schema),
        ["a: Decimal128(18, 2)?", "b: Struct(\"next\": Utf8, \"_rest\": Utf8)?", "_rest: Utf8?"],
        "a recursive reference ends in JSON text"
    );
    let contract = Contract::compile(schema, &arrival()).expect("contract");
    assert!(contract.is_general(), "because of the recursive one");
}

#[test]
fn what_is_beyond_the_common_subset_asks_the_general_validator() {
    for rule in [
        r#""allOf":[{}]"#,
        r#""not":{"required":["b"]}"#,
        r#""anyOf":[{"required":["a"]},{"required":["b"]}]"#,
        r#""patternProperties":{"^x":{}}"#,
        r#""additionalProperties":{"type":"string"}"#,
        r#""minProperties":1"#,
        r#""dependentRequired":{"a":["b"]}"#,
        r#""$schema":"http://json-schema.org/draft-04/schema#""#,
    ] {
        let schema = format!(r#"{{"type":"object","properties":{{"a":{{"type":"string"}}}},{rule}}}"#);
        let contract = Contract::compile(&schema, &arrival()).expect(rule);
        assert!(contract.is_general(), "{rule}");
    }
    for member in [r#"{"enum":[[1]]}"#, r#"{"type":"array","uniqueItems":true}"#, r#"{"oneOf":[{},{"type":"null"}]}"#] {
        let schema = format!(r#"{{"properties":{{"a":{member}}}}}"#);
        assert!(Contract::compile(&schema, &arrival()).expect(member).is_general(), "{member}");
    }
}

#[test]
fn a_refusal_names_the_place_in_the_schema() {
    assert_eq!(refused(r#"{"properties":{"_id":{}}}"#), "/properties/_id");
    assert_eq!(refused(r#"{"properties":{"event_time":{}}}"#), "/properties/event_time");
    assert_eq!(refused(r#"{"properties":{"window_start":{}}}"#), "/properties/window_start");
    assert_eq!(refused(r#"{"properties":{"a/b":{"pattern":"(?=x)"}}}"#), "/properties/a~1b/pattern");
    assert_eq!(refused(r#"{"properties":{"o":{"type":"object","properties":{"_rest":{}}}}}"#), "/properties/o/properties/_rest");
    assert_eq!(refused(r#"{"type":"string","properties":{"a":{}}}"#), "/type");
    assert_eq!(refused(r#"{"properties":{"a":{"type":"strin"}}}"#), "/properties/a/type");
    assert_eq!(refused(r#"{"a":1,"a":2}"#), "");
    assert_eq!(refused("{"), "");
    let remote = Contract::compile(r#"{"properties":{"a":{"$ref":"https://example.com/x.json"}}}"#, &arrival());
    assert!(remote.is_err(), "nothing is fetched");
    let unfolding = (0..40).map(|i| {
        let next = if i < 39 { format!("{{\"$ref\":\"#/$defs/d{}\"}}", i + 1) } else { "{}".to_owned() };
        format!("\"d{i}\":{{\"type\":\"object\",\"properties\":{{\"a\":{next},\"b\":{next}}}}}")
    });
    let bomb = format!(
        "{{\"properties\":{{\"x\":{{\"$ref\":\"#/$defs/d0\"}}}},\"$defs\":{{{}}}}}",
        unfolding.collect::<Vec<_>>().join(",")
    );
    assert!(Contract::compile(&bomb, &arrival()).is_err(), "a schema that unfolds to 2^40 places");
}

#[test]
fn an_event_time_that_can_never_be_read_is_refused() {
    let compile = |path: &str, time_format: TimeFormat| {
        let schema = r#"{"additionalProperties":false,"properties":{"t":{"type":"string"},"n":{"type":"integer"},
            "o":{"type":"object","properties":{"t":{"type":"string"}}},"b":{"type":"boolean"}}}"#;
        let time = TimeSource::Path(path.split('.').map(str::to_owned).collect());
        Contract::compile(schema, &EventOptions { time, time_format, ..options() }).is_ok()
    };
    assert!(compile("t", TimeFormat::Rfc3339));
    assert!(compile("o.t", TimeFormat::Rfc3339));
    assert!(compile("o.undeclared", TimeFormat::Rfc3339), "it may come in `_rest`");
    assert!(compile("n", TimeFormat::EpochMs));
    assert!(compile("t", TimeFormat::EpochMs));
    assert!(!compile("undeclared", TimeFormat::Rfc3339));
    assert!(!compile("n", TimeFormat::Rfc3339));
    assert!(!compile("b", TimeFormat::EpochMs));
    assert!(!compile("t", TimeFormat::Custom("%Q".to_owned())));
}

#[test]
fn a_refusal_becomes_a_fault_of_the_settings() {
    let fault = Fault::from(Contract::compile(r#"{"properties":{"_id":{}}}"#, &arrival()).expect_err("refused"));
    assert_eq!(fault.kind(), sluicebox_actors::model::fault::Kind::Config);
    assert!(fault.message().contains("/properties/_id") && fault.message().contains("rename"), "{fault}");
}
