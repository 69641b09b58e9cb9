//! The compiled contract: what each value may be, and the column its content goes to.
//!
//! Owns: plain values that the checker and the builders walk. Does not own: how they come out of a schema (read), the walk
//! (decode).

use regex::Regex;

use super::format::Format;
use crate::engine::structure::text::{Decimal, Scaled};

/// Kinds of JSON values as a set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Kinds(pub(crate) u8);

impl Kinds {
    pub(crate) const NULL: Self = Self(1);
    pub(crate) const BOOLEAN: Self = Self(2);
    /// Numbers without a fraction, however written.
    pub(crate) const INTEGER: Self = Self(4);
    /// The other numbers.
    pub(crate) const FRACTION: Self = Self(8);
    pub(crate) const STRING: Self = Self(16);
    pub(crate) const ARRAY: Self = Self(32);
    pub(crate) const OBJECT: Self = Self(64);
    pub(crate) const NUMBER: Self = Self(4 | 8);
    pub(crate) const ALL: Self = Self(127);
    pub(crate) const NONE: Self = Self(0);

    pub(crate) fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    pub(crate) fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    pub(crate) fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(crate) fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// `string or null`: for messages.
    pub(crate) fn names(self) -> String {
        const NAMES: [(Kinds, &str); 7] = [
            (Kinds::STRING, "string"),
            (Kinds::NUMBER, "number"),
            (Kinds::INTEGER, "integer"),
            (Kinds::BOOLEAN, "boolean"),
            (Kinds::OBJECT, "object"),
            (Kinds::ARRAY, "array"),
            (Kinds::NULL, "null"),
        ];
        let numbers = self.and(Kinds::NUMBER);
        let named = NAMES.iter().filter(|(kind, _)| match *kind {
            Kinds::NUMBER => numbers == Kinds::NUMBER,
            Kinds::INTEGER => numbers == Kinds::INTEGER,
            kind => self.has(kind),
        });
        let names: Vec<&str> = named.map(|(_, name)| *name).collect();
        if names.is_empty() { "nothing".to_owned() } else { names.join(" or ") }
    }
}

/// A number to compare with: exact while it is an integer of 64 bits, else the nearest double.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limit {
    pub(crate) integer: Option<i64>,
    pub(crate) double: f64,
}

impl Limit {
    /// Reads a JSON number.
    pub(crate) fn parse(number: &str) -> Self {
        let integer = match number.parse::<i64>() {
            Ok(integer) => Some(integer),
            Err(_) => match Decimal::parse(number).scaled(0, 18) {
                Scaled::Exact(value) => i64::try_from(value).ok(),
                Scaled::TooLarge | Scaled::NotWhole => None,
            },
        };
        Self { integer, double: number.parse().unwrap_or(f64::NAN) }
    }

    /// Total among finite numbers.
    pub(crate) fn compare(self, other: Self) -> std::cmp::Ordering {
        match (self.integer, other.integer) {
            (Some(a), Some(b)) => a.cmp(&b),
            (Some(_) | None, Some(_) | None) => self.double.partial_cmp(&other.double).unwrap_or(std::cmp::Ordering::Equal),
        }
    }
}

/// A constant of `enum` or `const` in the common subset.
#[derive(Clone, Debug)]
pub(crate) enum Scalar {
    Null,
    Boolean(bool),
    Number(Limit),
    Text(String),
}

/// Rules for strings.
#[derive(Clone, Debug, Default)]
pub(crate) struct TextRules {
    pub(crate) shortest: Option<u64>,
    pub(crate) longest: Option<u64>,
    pub(crate) pattern: Option<Regex>,
    pub(crate) format: Option<Format>,
}

/// Rules for numbers.
#[derive(Clone, Debug, Default)]
pub(crate) struct NumberRules {
    pub(crate) minimum: Option<Limit>,
    pub(crate) maximum: Option<Limit>,
    pub(crate) above: Option<Limit>,
    pub(crate) below: Option<Limit>,
    /// The divisor as its digits; with the double for what exceeds exact arithmetic.
    pub(crate) multiple_of: Option<(Decimal, f64)>,
}

impl NumberRules {
    /// Is there a rule at all?
    pub(crate) fn any(&self) -> bool {
        self.minimum.or(self.maximum).or(self.above).or(self.below).is_some() || self.multiple_of.is_some()
    }
}

/// Rules for arrays.
#[derive(Clone, Debug)]
pub(crate) struct ArrayRules {
    pub(crate) items: Option<Node>,
    pub(crate) fewest: Option<u64>,
    pub(crate) most: Option<u64>,
}

/// A member an object rule knows by name.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) node: Node,
    pub(crate) required: bool,
    /// Listed under `properties`; otherwise only under `required`.
    pub(crate) declared: bool,
}

/// Rules for objects.
#[derive(Clone, Debug)]
pub(crate) struct ObjectRules {
    /// In declared order, then names that are only required.
    pub(crate) members: Vec<Member>,
    pub(crate) required: usize,
    /// `additionalProperties: false`.
    pub(crate) closed: bool,
    /// Indexes of `members`, by name.
    pub(crate) by_name: Vec<usize>,
    /// Slot of the undeclared members' text.
    pub(crate) rest: Option<usize>,
    /// Index of what the decoder remembers about this object's order of members.
    pub(crate) memory: usize,
}

/// What goes where: the kind of column and its slot in the row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Store {
    /// No column of its own: inside arrays and JSON text.
    Nothing,
    Text(usize),
    /// JSON text as written.
    Json(usize),
    Integer(usize),
    Float(usize),
    /// DECIMAL(18, scale).
    Decimal(usize, u8),
    Boolean(usize),
    Struct(usize),
}

/// What a value may be.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) kinds: Kinds,
    pub(crate) one_of: Option<Vec<Scalar>>,
    pub(crate) constant: Option<Scalar>,
    pub(crate) text: Option<Box<TextRules>>,
    pub(crate) number: Option<Box<NumberRules>>,
    pub(crate) array: Option<Box<ArrayRules>>,
    pub(crate) object: Option<Box<ObjectRules>>,
    pub(crate) store: Store,
}

impl Node {
    /// Anything of these kinds.
    pub(crate) fn of(kinds: Kinds) -> Self {
        Self { kinds, one_of: None, constant: None, text: None, number: None, array: None, object: None, store: Store::Nothing }
    }

    /// Is there any rule beyond the kinds?
    pub(crate) fn is_plain(&self) -> bool {
        self.one_of.is_none()
            && self.constant.is_none()
            && self.text.is_none()
            && self.number.is_none()
            && self.array.is_none()
            && self.object.is_none()
    }
}

/// A column as the builders see it.
#[derive(Clone, Debug)]
pub(crate) enum Layout {
    Text(usize),
    Integer(usize),
    Float(usize),
    Decimal(usize, u8),
    Boolean(usize),
    /// Slot, fields in declared order, slot of `_rest`.
    Struct(usize, Vec<(String, Layout)>, Option<usize>),
}
