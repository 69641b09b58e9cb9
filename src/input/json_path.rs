//! One value out of a JSON text, without parsing the rest.
//!
//! Owns: paths like `actor.id` and what counts as a key. Does not own: validity (the contract); a text that isn't JSON has no
//! value.

use bytes::Bytes;
use sonic_rs::{JsonType, JsonValueTrait, LazyValue};

use crate::engine::structure::MAX_DEPTH;

/// Member names from the outside in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct JsonPath(Vec<String>);

impl std::str::FromStr for JsonPath {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names: Vec<_> = text.split('.').map(str::to_owned).collect();
        if names.iter().any(String::is_empty) {
            return Err(format!("`{text}` is not a path: write member names with dots between them, as actor.id"));
        }
        Ok(Self(names))
    }
}

impl JsonPath {
    /// From member names, outermost first; a name may hold dots.
    pub fn new(names: Vec<String>) -> Self {
        Self(names)
    }

    /// The value as it stands in the text.
    pub(super) fn find<'a>(&self, json: &'a [u8]) -> Option<LazyValue<'a>> {
        // The parser skips what it is not asked for by recursion, and a hostile text would take the stack with it.
        if is_deep(json) { None } else { sonic_rs::get(json, &self.0).ok() }
    }

    /// The value as a partition key: a string's characters, a number or boolean as written; none for everything else and for an
    /// empty string. Shares the record's memory where it can.
    pub fn key(&self, json: &Bytes) -> Option<Bytes> {
        let value = self.find(json)?;
        let raw = value.as_raw_str().as_bytes();
        let key = match value.get_type() {
            JsonType::Number | JsonType::Boolean => json.slice_ref(raw),
            JsonType::String => match raw.get(1..raw.len().checked_sub(1)?) {
                Some(plain) if memchr::memchr(b'\\', plain).is_none() => json.slice_ref(plain),
                Some(_) | None => Bytes::copy_from_slice(value.as_str()?.as_bytes()),
            },
            JsonType::Null | JsonType::Object | JsonType::Array => return None,
        };
        Some(key).filter(|key| !key.is_empty())
    }
}

/// Does it nest deeper than the contract lets any event? Then it becomes a letter, whatever its key.
fn is_deep(json: &[u8]) -> bool {
    if memchr::memchr2_iter(b'[', b'{', json).take(MAX_DEPTH + 1).count() <= MAX_DEPTH {
        return false;
    }
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in json {
        match (in_string, byte) {
            (true, _) if escaped => escaped = false,
            (true, b'\\') => escaped = true,
            (_, b'"') => in_string = !in_string,
            (false, b'[' | b'{') if depth == MAX_DEPTH => return true,
            (false, b'[' | b'{') => depth += 1,
            (false, b']' | b'}') => depth = depth.saturating_sub(1),
            (_, _) => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(path: &str, json: &[u8]) -> Option<Bytes> {
        path.parse::<JsonPath>().expect("a path").key(&Bytes::copy_from_slice(json))
    }

    #[test]
    fn a_key_is_text_number_or_boolean_and_shares_memory_when_nothing_is_escaped() {
        let json = br#" {"a" : {"b" : "text"}, "n": -1.50, "t":true, "z":null, "o":{}, "e":"", "q":"x\u0041\"y"}"#;
        assert_eq!(key("a.b", json), Some("text".into()));
        assert_eq!(key("n", json), Some("-1.50".into()));
        assert_eq!(key("t", json), Some("true".into()));
        assert_eq!(key("q", json), Some("xA\"y".into()));
        for nothing in ["z", "o", "e", "a", "missing", "n.x", "a.b.c"] {
            assert_eq!(key(nothing, json), None, "{nothing}");
        }
        let json = Bytes::from_static(br#"{"a":"text"}"#);
        let found = "a".parse::<JsonPath>().expect("a path").key(&json).expect("a key");
        assert_eq!(found.as_ptr(), json[6..].as_ptr());
    }

    #[test]
    fn what_is_not_json_has_no_key_and_does_no_harm() {
        let texts: [&[u8]; 8] = [b"", b"{", b"[1]", b"{\"a\"", b"{\"a\":\"x", b"\xff\xfe", b"{\"a\":\"\xff\"}", b"{\"a\":tru}"];
        for text in texts {
            assert_eq!(key("a", text), None, "{text:?}");
        }
    }

    #[test]
    fn what_nests_too_deep_has_no_key_and_leaves_the_stack_alone() {
        let deep = |depth: usize| format!("{{\"z\":{}{},\"a\":\"x\"}}", "[".repeat(depth), "]".repeat(depth));
        assert_eq!(key("a", deep(63).as_bytes()), Some("x".into()));
        assert_eq!(key("a", deep(64).as_bytes()), None);
        for text in ["[".repeat(1 << 20), "{\"a\":".repeat(1 << 18), deep(1 << 20)] {
            assert_eq!(key("a", text.as_bytes()), None);
        }
        let flat = format!(r#"{{"z":"{}\\\"[","y":[{}1],"a":"x"}}"#, "[".repeat(200), "[],{},".repeat(200));
        assert_eq!(key("a", flat.as_bytes()), Some("x".into()));
    }

    #[test]
    fn a_path_with_an_empty_name_is_refused() {
        for text in ["", ".", "a.", "a..b"] {
            assert!(text.parse::<JsonPath>().is_err(), "{text}");
        }
    }
}
