//! Goal: one value of a table, comparable to the digit: whole numbers and decimals are exact, doubles are bits.

#![allow(clippy::unwrap_used, reason = "a helper of a test may end the test")]

use std::cmp::Ordering;

/// A value. Whole numbers, decimals and times (microseconds) are one kind: units of 10^-scale without trailing zeros.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Exact(i128, u32),
    /// Bits that sort as the numbers do.
    Float(u64),
    Text(String),
}

impl PartialOrd for Value {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Numbers of one kind by what they say, not by how many digits it takes.
impl Ord for Value {
    fn cmp(&self, other: &Self) -> Ordering {
        let kind = |value: &Self| match value {
            Self::Null => 0,
            Self::Bool(_) => 1,
            Self::Exact(_, _) => 2,
            Self::Float(_) => 3,
            Self::Text(_) => 4,
        };
        match (self, other) {
            (Self::Bool(a), Self::Bool(b)) => a.cmp(b),
            (Self::Exact(_, a), Self::Exact(_, b)) => self.units(*a.max(b)).cmp(&other.units(*a.max(b))),
            (Self::Float(a), Self::Float(b)) => a.cmp(b),
            (Self::Text(a), Self::Text(b)) => a.cmp(b),
            (a, b) => kind(a).cmp(&kind(b)),
        }
    }
}

impl Value {
    pub(crate) fn exact(mut units: i128, mut scale: u32) -> Self {
        while scale > 0 && units % 10 == 0 {
            units /= 10;
            scale -= 1;
        }
        Self::Exact(units, scale)
    }

    pub(crate) fn whole(number: impl Into<i128>) -> Self {
        Self::Exact(number.into(), 0)
    }

    pub(crate) fn text(text: &str) -> Self {
        Self::Text(text.to_owned())
    }

    pub(crate) fn float(number: f64) -> Self {
        let bits = number.to_bits();
        Self::Float(if number.is_sign_negative() { !bits } else { bits | 1 << 63 })
    }

    /// From digits as they are written: `-12.340`.
    pub(crate) fn digits(text: &str) -> Self {
        let (whole, part) = text.split_once('.').unwrap_or((text, ""));
        Self::exact(format!("{whole}{part}").parse().unwrap(), u32::try_from(part.len()).unwrap())
    }

    pub(crate) fn is_null(&self) -> bool {
        *self == Self::Null
    }

    pub(crate) fn as_text(&self) -> &str {
        if let Self::Text(text) = self { text } else { panic!("{self:?} is not a text") }
    }

    pub(crate) fn as_whole(&self) -> i128 {
        if let Self::Exact(units, 0) = self { *units } else { panic!("{self:?} is not whole") }
    }

    /// As a double, of any number.
    pub(crate) fn as_float(&self) -> f64 {
        match self {
            Self::Exact(units, scale) => *units as f64 / 10f64.powi(i32::try_from(*scale).unwrap()),
            Self::Float(bits) => f64::from_bits(if bits >> 63 == 1 { bits & !(1 << 63) } else { !bits }),
            Self::Null | Self::Bool(_) | Self::Text(_) => panic!("{self:?} is not a number"),
        }
    }

    /// Units at a scale that is at least its own.
    pub(crate) fn units(&self, at: u32) -> i128 {
        match self {
            Self::Exact(units, scale) => units * 10i128.pow(at - scale),
            Self::Null | Self::Bool(_) | Self::Float(_) | Self::Text(_) => panic!("{self:?} is not exact"),
        }
    }
}
