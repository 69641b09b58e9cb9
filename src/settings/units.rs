//! Durations and sizes as people write them: `"10s"`, `"100000d"`, `"256MiB"`.
//!
//! Owns: parsing with an error that says what to write, and one canonical form. Does not own: which values make sense (check).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Microseconds per unit, largest first.
const LENGTHS: [(&str, i64); 6] =
    [("d", 86_400_000_000), ("h", 3_600_000_000), ("m", 60_000_000), ("s", 1_000_000), ("ms", 1_000), ("us", 1)];

/// Bytes per unit, largest binary unit first, then the decimal ones.
const SIZES: [(&str, u64); 7] =
    [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("GB", 1_000_000_000), ("MB", 1_000_000), ("KB", 1_000), ("B", 1)];

/// A length of time in whole microseconds. May be negative, so that `check` can say what is wrong with it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Interval(i64);

impl Interval {
    /// From microseconds.
    pub const fn from_us(us: i64) -> Self {
        Self(us)
    }

    /// From seconds.
    pub const fn from_secs(secs: i64) -> Self {
        Self(secs * 1_000_000)
    }

    /// In microseconds.
    pub const fn us(self) -> i64 {
        self.0
    }

    /// As the standard library's type; a negative length is zero.
    pub fn to_std(self) -> std::time::Duration {
        std::time::Duration::from_micros(u64::try_from(self.0).unwrap_or(0))
    }
}

impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, us) in LENGTHS {
            if self.0 != 0 && self.0 % us == 0 {
                return write!(f, "{}{unit}", self.0 / us);
            }
        }
        f.write_str("0s")
    }
}

impl FromStr for Interval {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, unit) = split(text);
        let digits = number.strip_prefix('-').unwrap_or(number);
        if digits.is_empty() || digits.bytes().any(|byte| !byte.is_ascii_digit()) {
            return Err(format!(
                "`{text}` is not a duration; write a whole number and a unit, such as \"10s\", \"250ms\" or \"90m\""
            ));
        }
        let Some((_, us)) = LENGTHS.iter().find(|(name, _)| *name == unit) else {
            return Err(format!("`{text}` has no unit that is known here; use us, ms, s, m, h or d, such as \"{number}s\""));
        };
        let value = number.parse::<i64>().ok().and_then(|n| n.checked_mul(*us));
        value.map(Self).ok_or_else(|| format!("`{text}` is too long; the longest duration is about 290000 years"))
    }
}

/// A number of bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Size(u64);

impl Size {
    /// From bytes.
    pub const fn from_bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// From mebibytes.
    pub const fn from_mib(mib: u64) -> Self {
        Self(mib << 20)
    }

    /// In bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// In bytes, for lengths in memory.
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, bytes) in SIZES {
            if self.0 != 0 && self.0.is_multiple_of(bytes) {
                return write!(f, "{}{unit}", self.0 / bytes);
            }
        }
        f.write_str("0B")
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, unit) = split(text);
        if number.is_empty() || number.bytes().any(|byte| !byte.is_ascii_digit()) {
            return Err(format!("`{text}` is not a size; write a whole number and a unit, such as \"64KiB\" or \"256MiB\""));
        }
        let Some((_, bytes)) = SIZES.iter().find(|(name, _)| *name == unit) else {
            return Err(format!(
                "`{text}` has no unit that is known here; use B, KiB, MiB, GiB (or KB, MB, GB), such as \"{number}MiB\""
            ));
        };
        let value = number.parse::<u64>().ok().and_then(|n| n.checked_mul(*bytes));
        value.map(Self).ok_or_else(|| format!("`{text}` is more than this machine can count"))
    }
}

fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    let unit_at = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    (number.trim_end(), unit)
}

macro_rules! as_text {
    ($type:ty, $expecting:literal) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Visitor;
                impl serde::de::Visitor<'_> for Visitor {
                    type Value = $type;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expecting)
                    }
                    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
                        text.parse().map_err(E::custom)
                    }
                }
                deserializer.deserialize_str(Visitor)
            }
        }
    };
}
pub(super) use as_text;

as_text!(Interval, "a duration in quotes with its unit, such as \"10s\"");
as_text!(Size, "a size in quotes with its unit, such as \"64MiB\"");

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_unit_is_read() {
        let cases = [
            ("250ms", 250_000),
            ("10s", 10_000_000),
            ("2h", 7_200_000_000),
            ("100000d", 8_640_000_000_000_000),
            ("-5s", -5_000_000),
        ];
        for (text, us) in cases {
            assert_eq!(text.parse(), Ok(Interval(us)), "{text}");
        }
        assert_eq!("256MiB".parse(), Ok(Size(256 << 20)));
        assert_eq!("64KB".parse(), Ok(Size(64_000)));
    }

    #[test]
    fn what_is_no_duration_is_told_what_to_write() {
        for (text, part) in [
            ("10", "no unit"),
            ("ten", "not a duration"),
            ("1.5h", "90m"),
            ("10sec", "use us, ms"),
            ("9999999999999d", "too long"),
        ] {
            let error = text.parse::<Interval>().expect_err(text);
            assert!(error.contains(part), "{text}: {error}");
        }
        for (text, part) in [("64", "no unit"), ("-1MiB", "not a size"), ("3XB", "use B, KiB")] {
            let error = text.parse::<Size>().expect_err(text);
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn the_canonical_form_reads_back(us in any::<i64>(), bytes in any::<u64>()) {
            prop_assert_eq!(Interval(us).to_string().parse(), Ok(Interval(us)));
            prop_assert_eq!(Size(bytes).to_string().parse(), Ok(Size(bytes)));
        }
    }
}
