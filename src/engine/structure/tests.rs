//! What is one JSON value within the limits, and what is not.
//!
//! Owns: examples of texts. Does not own: the JSONTestSuite (tests/engine).

use super::*;
use proptest::prelude::*;

fn reason(data: &[u8]) -> Option<&'static str> {
    Structure::default().scan(data).err().map(|broken| broken.reason)
}

fn path(data: &str) -> Option<String> {
    Structure::default().scan(data.as_bytes()).err().and_then(|broken| broken.path)
}

/// Does another parser take it? Numbers are left out of account: their size is not a matter of structure.
fn serde_takes(data: &[u8]) -> bool {
    serde_json::from_slice::<serde::de::IgnoredAny>(data).is_ok() && std::str::from_utf8(data).is_ok()
}

#[test]
fn every_kind_of_value_may_be_the_root() {
    for data in
        ["null", "true", "false", "0", "-0", "-1.5e+3", "\"\"", "\"a\\u0041\"", "[]", "{}", " \t\r\n[ ] \n", "[1,[2],{\"a\":{}}]"]
    {
        assert_eq!(reason(data.as_bytes()), None, "{data}");
    }
}

#[test]
fn what_rfc_8259_does_not_allow_is_invalid_json() {
    for data in [
        "[",
        "{",
        "]",
        "}",
        "[1",
        "[1,",
        "[1,]",
        "[,1]",
        "[1 2]",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\":1,}",
        "{,}",
        "{a:1}",
        "{'a':1}",
        "{\"a\":1 \"b\":2}",
        "[}",
        "{]",
        "[1}",
        "{\"a\":1]",
        "{\"a\",1}",
        "{1:2}",
        "nul",
        "tru",
        "True",
        "NaN",
        "Infinity",
        "-",
        "+1",
        ".5",
        "1.",
        "1e",
        "1e+",
        "[01]",
        "[-01]",
        "[0x1]",
        "[1_0]",
        "\"",
        "\"\\\"",
        "\"\\x41\"",
        "\"\\u12\"",
        "\"\\u12g4\"",
        "\"\n\"",
        "\"\t\"",
        "\"\u{1f}\"",
        "\u{feff}1",
        "\"\\ud800\"",
        "\"\\udc00\"",
        "\"\\ud800\\u0041\"",
        "\"\\ud800x\"",
        "//c\n1",
        "[1,,2]",
        "\u{a0}1",
        "\u{c}1",
    ] {
        assert_eq!(reason(data.as_bytes()), Some("invalid_json"), "{data:?}");
    }
}

#[test]
fn every_other_defect_has_a_reason_of_its_own() {
    assert_eq!(reason(b""), Some("empty"));
    assert_eq!(reason(b" \n\t "), Some("empty"));
    assert_eq!(reason(b"\"a\0b\""), Some("raw_nul"));
    assert_eq!(reason(b"1\0"), Some("raw_nul"));
    assert_eq!(reason(b"\"\\u0000\""), None, "an escaped NUL is text");
    assert_eq!(reason(b"\"\xff\""), Some("invalid_utf8"));
    assert_eq!(reason(b"\"\xed\xa0\x80\""), Some("invalid_utf8"));
    assert_eq!(reason(b"1 2"), Some("trailing_data"));
    assert_eq!(reason(b"{}{}"), Some("trailing_data"));
    assert_eq!(reason(b"[]]"), Some("trailing_data"));
    assert_eq!(reason(b"1,"), Some("trailing_data"));
}

#[test]
fn nesting_is_followed_to_64_and_refused_beyond_without_recursion() {
    let nested = |depth: usize| [vec![b'['; depth], vec![b']'; depth]].concat();
    assert_eq!(reason(&nested(MAX_DEPTH)), None);
    assert_eq!(reason(&nested(MAX_DEPTH + 1)), Some("too_deep"));
    assert_eq!(reason(&nested(100_000)), Some("too_deep"));
    assert_eq!(reason(&b"{\"a\":".repeat(100_000)), Some("too_deep"));
    assert_eq!(reason(&[b"[".repeat(64), b"{\"a\":1}".to_vec(), b"]".repeat(64)].concat()), Some("too_deep"));
    // Wide is not deep.
    assert_eq!(reason(format!("[{}[]]", "[],".repeat(1000)).as_bytes()), None);
}

#[test]
fn ten_mebibytes_pass_and_one_byte_more_is_too_large() {
    let text = format!("\"{}\"", "é".repeat(MAX_BYTES / 2 - 1));
    assert_eq!(text.len(), MAX_BYTES);
    assert_eq!(reason(text.as_bytes()), None);
    assert_eq!(reason(format!("{text} ").as_bytes()), Some("too_large"));
    let digits = format!("[{}1]", "1,".repeat(MAX_BYTES / 2 - 2));
    assert_eq!(reason(digits.as_bytes()), None, "millions of tokens");
}

#[test]
fn a_name_that_comes_twice_is_found_at_any_level_and_named_by_path() {
    assert_eq!(path(r#"{"a":1,"a":2}"#).as_deref(), Some("$.a"));
    assert_eq!(path(r#"{"x":[0,{"b":[1,{"a":1,"c":{},"a":2}]}]}"#).as_deref(), Some("$.x[1].b[1].a"));
    assert_eq!(path(r#"{"a":1,"\u0061":2}"#).as_deref(), Some("$.a"), "escapes are not a difference");
    assert_eq!(path(r#"{"\ud83d\ude00":1,"😀":2}"#).as_deref(), Some("$[\"😀\"]"));
    assert_eq!(path(r#"{"":1,"":2}"#).as_deref(), Some("$[\"\"]"));
    assert_eq!(reason(r#"{"a":{"a":[{"a":1},{"a":1}]},"A":1,"a ":1,"\\u0061":1}"#.as_bytes()), None);
}

#[test]
fn names_are_told_apart_in_large_objects_too_and_the_first_repetition_is_named() {
    let member = |i: usize| format!("\"name{i}\":{i}");
    let unique = |n: usize| (0..n).map(member).collect::<Vec<_>>();
    assert_eq!(reason(format!("{{{}}}", unique(5000).join(",")).as_bytes()), None);
    let mut twice = unique(5000);
    twice.extend([member(4000), member(3)]);
    assert_eq!(path(&format!("{{{}}}", twice.join(","))).as_deref(), Some("$.name4000"));
    // At the border between the two ways of comparing.
    for n in 1..20 {
        let mut members = unique(n);
        members.push(member(n / 2));
        assert_eq!(path(&format!("{{{}}}", members.join(","))), Some(format!("$.name{}", n / 2)), "{n}");
    }
}

#[test]
fn the_tape_tells_where_each_value_lies_and_what_follows_it() {
    let text = r#" {"a":[1,"x\n"],"b":-2.5} "#;
    let mut structure = Structure::default();
    assert_eq!(structure.scan(text.as_bytes()), Ok(text));
    let seen: Vec<_> = structure.tokens().iter().map(|token| (token.kind(), token.raw(text), token.next)).collect();
    assert_eq!(
        seen,
        [
            (Kind::Object, r#"{"a":[1,"x\n"],"b":-2.5}"#, 7),
            (Kind::Plain, "\"a\"", 2),
            (Kind::Array, r#"[1,"x\n"]"#, 5),
            (Kind::Integer, "1", 4),
            (Kind::Escaped, r#""x\n""#, 5),
            (Kind::Plain, "\"b\"", 6),
            (Kind::Number, "-2.5", 7),
        ]
    );
}

#[test]
fn a_scanner_forgets_what_it_read_before() {
    let mut structure = Structure::default();
    for _ in 0..3 {
        assert!(structure.scan(br#"{"a":{"b":[1,"#).is_err());
        assert!(structure.scan(br#"{"a":1,"b":2}"#).is_ok());
        assert!(structure.scan(br#"{"a":1,"a":2}"#).is_err());
    }
}

/// JSON text of small trees, with escapes, odd numbers and blanks.
fn json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        Just("true".to_owned()),
        any::<i64>().prop_map(|n| n.to_string()),
        any::<f64>().prop_filter("finite", |n| n.is_finite()).prop_map(|n| format!("{n:e}")),
        any::<String>().prop_map(|text| serde_json::json!(text).to_string()),
        "[a-z]{0,20}".prop_map(|text| format!("\"\\u00e9{text}\\n\\ud83d\\ude00\"")),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(|items| format!("[{}]", items.join(" ,\n"))),
            prop::collection::vec(inner, 0..6).prop_map(|items| {
                let members: Vec<_> = items.iter().enumerate().map(|(i, item)| format!("\"k{i}\" :\t{item}")).collect();
                format!("{{{}}}", members.join(", "))
            }),
        ]
    })
}

/// Characters that matter to a JSON scanner, and some that don't.
const BYTES: &[u8] = b"{}[]\":,\\/ \n\tu0123456789-+.eEtrufalsn\x00\x01\x1f\x7f\x80\xc3\xed\xff";

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn valid_json_passes(text in json()) {
        // An escaped NUL aside, generated text holds no raw control character.
        prop_assert_eq!(reason(text.as_bytes()), None);
    }

    #[test]
    fn after_any_change_the_verdict_is_that_of_another_parser(
        text in json(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), prop::sample::select(BYTES), 0..3), 1..4),
    ) {
        let mut data = text.into_bytes();
        for (place, byte, change) in changes {
            let at = place.index(data.len() + 1);
            match change {
                0 => data.insert(at, byte),
                1 if at < data.len() => { data.remove(at); }
                _ if at < data.len() => data[at] = byte,
                _ => data.push(byte),
            }
        }
        match reason(&data) {
            None => prop_assert!(serde_takes(&data)),
            Some("duplicate_key") => {}
            // `IgnoredAny` does not look at surrogates; a real string does.
            Some("invalid_json") => prop_assert!(serde_json::from_slice::<serde_json::Value>(&data).is_err()),
            Some(_) => prop_assert!(!serde_takes(&data)),
        }
    }

    #[test]
    fn repeated_names_are_found_exactly_when_there_are_any(names in prop::collection::vec("[ab]{0,2}", 0..24)) {
        let members: Vec<_> = names.iter().map(|name| format!("\"{name}\":0")).collect();
        let distinct: std::collections::BTreeSet<_> = names.iter().collect();
        let expected = (distinct.len() < names.len()).then_some("duplicate_key");
        prop_assert_eq!(reason(format!("{{{}}}", members.join(",")).as_bytes()), expected);
    }
}
