//! From the tree to values, through serde.
//!
//! Owns: a serde deserializer over [`Node`] whose errors carry key, place and remedy. Does not own: which keys there are
//! (settings).

use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{self, DeserializeSeed, Deserializer, Expected, IntoDeserializer, MapAccess, SeqAccess, Unexpected, Visitor};

use super::problem::{Place, Problem, nearest};
use super::tree::{Entry, Node, Value, parse_loose};

/// Reads a whole tree.
pub(super) fn decode<T: de::DeserializeOwned>(tree: &Node) -> Result<T, Problem> {
    T::deserialize(tree).map_err(|trouble| {
        let key = trouble.keys.iter().rev().cloned().collect::<Vec<_>>().join(".");
        let message = if key.is_empty() { trouble.message } else { format!("`{key}`: {}", trouble.message) };
        Problem { message, place: trouble.place, help: trouble.help }
    })
}

/// An error on its way up; the innermost place wins, the keys are collected inside out.
#[derive(Debug)]
pub(super) struct Trouble {
    message: String,
    help: Option<String>,
    place: Option<Place>,
    keys: Vec<String>,
}

impl Trouble {
    fn new(message: String) -> Self {
        Self { message, help: None, place: None, keys: Vec::new() }
    }

    fn at(mut self, place: &Place) -> Self {
        self.place.get_or_insert_with(|| place.clone());
        self
    }

    fn under(mut self, key: &str) -> Self {
        self.keys.push(key.to_owned());
        self
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Trouble {}

impl de::Error for Trouble {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(message.to_string())
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(format!("expected {}, found {}", friendly(expected), named(found)))
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::invalid_type(found, expected)
    }

    fn unknown_field(key: &str, known: &'static [&'static str]) -> Self {
        let mut trouble = Self::new(format!("unknown key `{key}`"));
        let list = format!("known here: {}", known.join(", "));
        trouble.help = Some(match nearest(key, known.iter().copied()) {
            Some(near) => format!("did you mean `{near}`? ({list})"),
            None => list,
        });
        trouble
    }

    fn unknown_variant(text: &str, known: &'static [&'static str]) -> Self {
        let mut trouble = Self::new(format!("`{text}` is not one of {}", known.join(", ")));
        trouble.help = nearest(text, known.iter().copied()).map(|near| format!("did you mean \"{near}\"?"));
        trouble
    }

    fn missing_field(key: &'static str) -> Self {
        let mut trouble = Self::new(format!("`{key}` is missing"));
        trouble.help = Some(format!("add `{key}`; config/reference.toml shows every key"));
        trouble
    }

    fn duplicate_field(key: &'static str) -> Self {
        Self::new(format!("`{key}` stands here twice"))
    }
}

fn friendly(expected: &dyn Expected) -> String {
    match expected.to_string().as_str() {
        "u16" | "u32" | "u64" | "usize" => "a whole number, 0 or more".to_owned(),
        "f64" => "a number".to_owned(),
        "a boolean" => "true or false".to_owned(),
        "a string" => "text in quotes".to_owned(),
        "a sequence" => "a list in [ ]".to_owned(),
        other if other.starts_with("struct ") => "a table".to_owned(),
        other => other.to_owned(),
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "serde's enum: what TOML can't hold needs no words of ours")]
fn named(found: Unexpected<'_>) -> String {
    match found {
        Unexpected::Str(text) => format!("the text \"{text}\""),
        Unexpected::Signed(number) => format!("the number {number}"),
        Unexpected::Float(number) => format!("the number {number}"),
        Unexpected::Bool(flag) => format!("{flag}"),
        Unexpected::Map => "a table".to_owned(),
        Unexpected::Seq => "a list".to_owned(),
        other => other.to_string(),
    }
}

impl Node {
    fn unexpected(&self) -> Unexpected<'_> {
        match &self.value {
            Value::Text(text) | Value::Loose(text) => Unexpected::Str(text),
            Value::Whole(number) => Unexpected::Signed(*number),
            Value::Real(number) => Unexpected::Float(*number),
            Value::Flag(flag) => Unexpected::Bool(*flag),
            Value::List(_) => Unexpected::Seq,
            Value::Table(_) => Unexpected::Map,
        }
    }

    fn wrong<'de, V: Visitor<'de>>(&self, visitor: &V) -> Trouble {
        de::Error::invalid_type(self.unexpected(), visitor)
    }

    fn visit<'de, V: Visitor<'de>>(&self, visitor: V) -> Result<V::Value, Trouble> {
        match &self.value {
            Value::Text(text) | Value::Loose(text) => visitor.visit_str(text),
            Value::Whole(number) => visitor.visit_i64(*number),
            Value::Real(number) => visitor.visit_f64(*number),
            Value::Flag(flag) => visitor.visit_bool(*flag),
            Value::List(items) => visitor.visit_seq(Items { items: items.iter(), at: 0 }),
            Value::Table(entries) => visitor.visit_map(Entries { entries: entries.iter(), value: None }),
        }
    }

    // An override is text until the key says what it wants; `parse` is that wish.
    fn wish<'de, V: Visitor<'de>>(&self, visitor: V, parse: fn(&str) -> Option<Value>) -> Result<V::Value, Trouble> {
        let result = match &self.value {
            Value::Loose(text) => match parse(text) {
                Some(value) => Node { place: self.place.clone(), value }.visit(visitor),
                None => Err(self.wrong(&visitor)),
            },
            Value::Text(_) | Value::Whole(_) | Value::Real(_) | Value::Flag(_) | Value::List(_) | Value::Table(_) => {
                self.visit(visitor)
            }
        };
        result.map_err(|trouble| trouble.at(&self.place))
    }

    fn structured<'de, V: Visitor<'de>>(&self, visitor: V) -> Result<V::Value, Trouble> {
        let result = match &self.value {
            Value::Loose(text) => match parse_loose(text, &self.place) {
                Some(node) => node.visit(visitor),
                None => Err(self.wrong(&visitor)),
            },
            Value::Text(_) | Value::Whole(_) | Value::Real(_) | Value::Flag(_) | Value::List(_) | Value::Table(_) => {
                self.visit(visitor)
            }
        };
        result.map_err(|trouble| trouble.at(&self.place))
    }

    fn list<'de, V: Visitor<'de>>(&self, visitor: V) -> Result<V::Value, Trouble> {
        let Value::Loose(text) = &self.value else { return self.structured(visitor) };
        if text.starts_with('[') {
            return self.structured(visitor);
        }
        // `--set silver.partition_by=country,device` needs no brackets.
        let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
        let items = words.map(|word| Node { place: self.place.clone(), value: Value::Loose(word.to_owned()) }).collect();
        Node { place: self.place.clone(), value: Value::List(items) }.visit(visitor).map_err(|trouble| trouble.at(&self.place))
    }
}

macro_rules! wishes {
    ($parse:expr, $($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Trouble> {
            self.wish(visitor, $parse)
        }
    )*};
}

impl<'de> Deserializer<'de> for &Node {
    type Error = Trouble;

    wishes!(|text| text.parse().ok().map(Value::Whole), deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64);
    wishes!(|text| text.parse().ok().map(Value::Real), deserialize_f32 deserialize_f64);
    wishes!(|text| text.parse().ok().map(Value::Flag), deserialize_bool);
    wishes!(|text| Some(Value::Text(text.to_owned())), deserialize_any deserialize_str deserialize_string deserialize_char
        deserialize_identifier deserialize_bytes deserialize_byte_buf);

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Trouble> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Trouble> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Trouble> {
        self.list(visitor)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Trouble> {
        self.list(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(self, _: &'static str, _: usize, visitor: V) -> Result<V::Value, Trouble> {
        self.list(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Trouble> {
        self.structured(visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Trouble> {
        self.structured(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Trouble> {
        let (Value::Text(text) | Value::Loose(text)) = &self.value else {
            return Err(self.wrong(&visitor).at(&self.place));
        };
        let text: StrDeserializer<'_, Trouble> = text.as_str().into_deserializer();
        visitor.visit_enum(text).map_err(|trouble| trouble.at(&self.place))
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Trouble> {
        Err(self.wrong(&visitor).at(&self.place))
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Trouble> {
        Err(self.wrong(&visitor).at(&self.place))
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Trouble> {
        visitor.visit_unit()
    }
}

struct Entries<'a> {
    entries: std::slice::Iter<'a, Entry>,
    value: Option<&'a Entry>,
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = Trouble;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Trouble> {
        let Some(entry) = self.entries.next() else { return Ok(None) };
        self.value = Some(entry);
        let key: StrDeserializer<'_, Trouble> = entry.key.as_str().into_deserializer();
        seed.deserialize(key).map(Some).map_err(|trouble| trouble.at(&entry.place))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Trouble> {
        let entry = self.value.take().ok_or_else(|| Trouble::new("a value was asked for before its key".to_owned()))?;
        seed.deserialize(&entry.node).map_err(|trouble| trouble.at(&entry.node.place).under(&entry.key))
    }
}

struct Items<'a> {
    items: std::slice::Iter<'a, Node>,
    at: usize,
}

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = Trouble;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Trouble> {
        let Some(item) = self.items.next() else { return Ok(None) };
        let index = self.at;
        self.at += 1;
        seed.deserialize(item).map(Some).map_err(|trouble| trouble.at(&item.place).under(&index.to_string()))
    }
}
