//! Where a record stands in its shard.
//!
//! Owns: shard names, sequence numbers of up to 56 decimal digits (Kinesis) and their order, positions between records.
//! Does not own: reading (ports), the slice of an epoch (epoch).

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::fault::Fault;

/// The name of a shard, as the stream gives it (`shardId-000000000000`).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ShardId(Arc<str>);

impl ShardId {
    /// Wraps a name.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self(name.into())
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A sequence number: a natural number below 10^56, ordered as a number. Written in decimal everywhere outside memory.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Sequence {
    // 10^56 < 2^187, so 192 bits hold every Kinesis sequence number; derive(Ord) compares high first.
    high: u64,
    low: u128,
}

impl Sequence {
    /// The dense numbers of the embedded stream, which start at 1.
    pub const fn dense(number: u64) -> Self {
        Self { high: 0, low: number as u128 }
    }

    /// Back to a dense number, if it is one.
    pub fn as_dense(self) -> Option<u64> {
        if self.high == 0 { u64::try_from(self.low).ok() } else { None }
    }
}

impl FromStr for Sequence {
    type Err = Fault;

    fn from_str(text: &str) -> Result<Self, Fault> {
        let bad = || Fault::corrupt("a sequence number is 1 to 56 decimal digits");
        if text.is_empty() || text.len() > 56 || !text.bytes().all(|b| b.is_ascii_digit()) {
            return Err(bad());
        }
        // 192-bit value as six 32-bit limbs, least significant first: value = value * 10 + digit.
        let mut limbs = [0u32; 6];
        for digit in text.bytes() {
            let mut carry = u64::from(digit - b'0');
            for limb in &mut limbs {
                let product = u64::from(*limb) * 10 + carry;
                *limb = (product & 0xffff_ffff) as u32;
                carry = product >> 32;
            }
        }
        let low = (0..4).rev().fold(0u128, |low, i| (low << 32) | u128::from(limbs[i]));
        Ok(Self { high: (u64::from(limbs[5]) << 32) | u64::from(limbs[4]), low })
    }
}

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.high == 0 {
            return write!(f, "{}", self.low);
        }
        let mut limbs = [0u32; 6];
        for (i, limb) in limbs.iter_mut().enumerate().take(4) {
            *limb = ((self.low >> (32 * i)) & 0xffff_ffff) as u32;
        }
        limbs[4] = (self.high & 0xffff_ffff) as u32;
        limbs[5] = (self.high >> 32) as u32;
        let mut digits = Vec::with_capacity(58);
        while limbs.iter().any(|limb| *limb != 0) {
            let mut rest = 0u64;
            for limb in limbs.iter_mut().rev() {
                let value = (rest << 32) | u64::from(*limb);
                *limb = (value / 10) as u32;
                rest = value % 10;
            }
            digits.push(b'0' + rest as u8);
        }
        digits.iter().rev().try_for_each(|digit| write!(f, "{}", char::from(*digit)))
    }
}

impl fmt::Debug for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Sequence {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Sequence {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A place between two records of a shard. Reading resumes AFTER it; it only ever moves forward.
///
/// Written as nothing (the start), `@<microseconds>` (a time of arrival) or a sequence number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position(Place);

// In the order in which a shard passes through them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
enum Place {
    #[default]
    Start,
    Arrival(i64),
    After(Sequence),
}

impl Position {
    /// Before the first record.
    pub const START: Self = Self(Place::Start);

    /// Before the first record that arrived at this time (microseconds since 1970) or later: where somebody begins who does not
    /// want the past. It is fixed once, when a shard's row is made, and not looked up again.
    pub const fn arrival(at_us: i64) -> Self {
        Self(Place::Arrival(at_us))
    }

    /// Right after this record.
    pub const fn after(sequence: Sequence) -> Self {
        Self(Place::After(sequence))
    }

    /// The last record before this place, if one was read.
    pub const fn sequence(self) -> Option<Sequence> {
        match self.0 {
            Place::Start | Place::Arrival(_) => None,
            Place::After(sequence) => Some(sequence),
        }
    }

    /// The time of arrival it stands at, if nothing was read since.
    pub const fn as_arrival(self) -> Option<i64> {
        match self.0 {
            Place::Arrival(at_us) => Some(at_us),
            Place::Start | Place::After(_) => None,
        }
    }

    /// So many records lie before this place where numbers are dense; none where they are not.
    pub fn as_dense(self) -> Option<u64> {
        match self.0 {
            Place::Start => Some(0),
            Place::Arrival(_) => None,
            Place::After(sequence) => sequence.as_dense(),
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Place::Start => f.write_str("start"),
            Place::Arrival(at_us) => write!(f, "@{at_us}"),
            Place::After(sequence) => write!(f, "{sequence}"),
        }
    }
}

impl fmt::Debug for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Position {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Place::Start => serializer.serialize_none(),
            Place::Arrival(_) | Place::After(_) => serializer.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for Position {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        let Some(text) = Option::<std::borrow::Cow<'de, str>>::deserialize(deserializer)? else { return Ok(Self::START) };
        match text.strip_prefix('@') {
            Some(at_us) => at_us.parse().map(Self::arrival).map_err(D::Error::custom),
            None => text.parse().map(Self::after).map_err(D::Error::custom),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn sequence_numbers_keep_their_digits_and_their_numeric_order(a in "[1-9][0-9]{0,55}", b in "[1-9][0-9]{0,55}") {
            let (x, y): (Sequence, Sequence) = (a.parse().expect("digits"), b.parse().expect("digits"));
            prop_assert_eq!(x.to_string(), a.clone());
            prop_assert_eq!(x.cmp(&y), (a.len(), &a).cmp(&(b.len(), &b)));
        }
    }

    #[test]
    fn what_is_not_a_sequence_number_is_refused() {
        for text in ["", "-1", "1a", &"9".repeat(57)] {
            assert!(text.parse::<Sequence>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_start_lies_before_every_record() {
        assert!(
            Position::START < Position::arrival(i64::MIN) && Position::arrival(i64::MAX) < Position::after(Sequence::dense(0))
        );
    }

    #[test]
    fn every_kind_of_position_comes_back_from_its_text() {
        for (position, text) in
            [(Position::START, "null"), (Position::arrival(-7), "\"@-7\""), (Position::after(Sequence::dense(3)), "\"3\"")]
        {
            assert_eq!(serde_json::to_string(&position).expect("writes"), text);
            assert_eq!(serde_json::from_str::<Position>(text).expect("reads"), position);
        }
        for text in ["\"@\"", "\"x\"", "\"start\"", "3"] {
            assert!(serde_json::from_str::<Position>(text).is_err(), "{text}");
        }
    }
}
