//! The structure pass against serde_json: the same verdict, the same strings, wherever both follow RFC 8259 to the letter.
//!
//! Owns: the comparison and its documented exceptions. Does not own: contracts (events).

use std::cell::RefCell;
use std::collections::HashSet;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::engine::structure::{Broken, Kind, MAX_BYTES, MAX_DEPTH, Structure, text};

thread_local! {
    static REUSED: RefCell<Structure> = RefCell::default();
}

/// A JSON value's depth; refuses an object that names a member twice.
struct Strict(usize);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Strict;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Strict, E> {
        Ok(Strict(0))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Strict, E> {
        Ok(Strict(0))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Strict, E> {
        Ok(Strict(0))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Strict, E> {
        Ok(Strict(0))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Strict, E> {
        Ok(Strict(0))
    }

    fn visit_str<E>(self, _: &str) -> Result<Strict, E> {
        Ok(Strict(0))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Strict, A::Error> {
        let mut depth = 0;
        while let Some(Strict(item)) = items.next_element()? {
            depth = depth.max(item);
        }
        Ok(Strict(depth + 1))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Strict, A::Error> {
        let (mut depth, mut names) = (0, HashSet::new());
        while let Some((name, Strict(member))) = members.next_entry::<String, Strict>()? {
            depth = depth.max(member);
            if !names.insert(name) {
                return Err(A::Error::custom("twice"));
            }
        }
        Ok(Strict(depth + 1))
    }
}

/// One input.
pub fn check(data: &[u8]) {
    let mut fresh = Structure::default();
    let verdict = fresh.scan(data).map(str::to_owned);
    REUSED.with_borrow_mut(|reused| {
        let again = reused.scan(data).map(str::to_owned);
        assert_eq!(again, verdict, "the verdict depends on what was read before");
        assert_eq!(reused.tokens().len(), fresh.tokens().len());
    });
    match verdict {
        Ok(text) => accepted(&text, &fresh),
        Err(broken) => refused(data, &broken),
    }
}

fn accepted(text: &str, structure: &Structure) {
    // It reads numbers of any size and nests without recursion, as the structure pass does.
    if let Err(error) = serde_json::from_str::<IgnoredAny>(text) {
        panic!("accepted, but serde_json says: {error}");
    }
    match serde_json::from_str::<Strict>(text) {
        Ok(Strict(depth)) => assert!(depth <= MAX_DEPTH, "depth {depth} was accepted"),
        Err(error) => assert!(error.to_string().contains("number out of range"), "accepted, but serde_json says: {error}"),
    }
    let tokens = structure.tokens();
    assert_eq!(tokens[0].next as usize, tokens.len(), "the root holds every token");
    for (index, token) in tokens.iter().enumerate() {
        let raw = token.raw(text);
        assert!(token.next as usize > index && token.start() < token.end as usize, "token {index} is empty");
        match token.kind() {
            Kind::Null => assert_eq!(raw, "null"),
            Kind::True => assert_eq!(raw, "true"),
            Kind::False => assert_eq!(raw, "false"),
            Kind::Integer => number(raw, true),
            Kind::Number => number(raw, false),
            Kind::Plain | Kind::Escaped => {
                let expected: String = serde_json::from_str(raw).expect("a string for both");
                assert_eq!(text::unescaped(*token, text), expected);
                assert_eq!(token.kind() == Kind::Escaped, raw.contains('\\'));
                assert!(text::is_named(*token, text, &expected));
            }
            Kind::Object => assert!(raw.starts_with('{') && raw.ends_with('}'), "token {index}"),
            Kind::Array => assert!(raw.starts_with('[') && raw.ends_with(']'), "token {index}"),
        }
    }
}

/// A number's digits, taken apart, are the number.
fn number(raw: &str, integer: bool) {
    assert_eq!(!raw.contains(['.', 'e', 'E']), integer, "{raw}");
    let decimal = text::Decimal::parse(raw);
    if let Ok(value) = raw.parse::<i64>() {
        assert_eq!(decimal.cut_at(0), Some(i128::from(value)), "{raw}");
        assert!(decimal.is_integer(), "{raw}");
        assert_eq!(decimal.scaled(0, 30), text::Scaled::Exact(i128::from(value)), "{raw}");
    }
    let Ok(double) = raw.parse::<f64>() else { panic!("{raw} is no number to the standard library") };
    if !decimal.cut && (-400..400).contains(&decimal.exponent) {
        let sign = if decimal.negative { "-" } else { "" };
        let back: f64 = format!("{sign}{}e{}", decimal.mantissa, decimal.exponent).parse().expect("a number");
        assert_eq!(back, double, "{raw} was read as {decimal:?}");
    }
}

fn refused(data: &[u8], broken: &Broken) {
    assert!(!broken.message.is_empty());
    let strict = std::str::from_utf8(data).ok().map(serde_json::from_str::<Strict>);
    match broken.reason {
        "too_large" => assert!(data.len() > MAX_BYTES),
        "raw_nul" => assert!(data.contains(&0)),
        "invalid_utf8" => assert!(std::str::from_utf8(data).is_err()),
        "empty" => assert!(data.iter().all(|byte| b" \t\r\n".contains(byte))),
        "too_deep" => {
            assert!(data.iter().filter(|byte| b"[{".contains(byte)).count() > MAX_DEPTH);
            assert!(!matches!(strict, Some(Ok(Strict(0..=MAX_DEPTH)))), "too deep, but it is not");
        }
        "duplicate_key" => {
            let Some(Err(error)) = strict else { panic!("no member stands twice") };
            let error = error.to_string();
            assert!(["twice", "out of range", "recursion limit"].iter().any(|word| error.contains(word)), "{error}");
            assert!(broken.path.as_deref().is_some_and(|path| path.starts_with('$')));
        }
        "invalid_json" | "trailing_data" => assert!(!matches!(strict, Some(Ok(_))), "refused: {}", broken.message),
        other => panic!("the reason `{other}` is not documented"),
    }
}
