//! Text and numbers inside a record: escapes taken out, digits taken apart, JSON paths written.
//!
//! Owns: exact decimals from the digits as written, member paths in messages. Does not own: whether the text is JSON (structure).

use std::borrow::Cow;

use super::{Kind, Token};

/// Names in a path are cut here, so that a hostile name can't swell a letter.
const LONGEST_NAME: usize = 64;

/// Four hexadecimal digits.
pub(crate) fn hex4(data: &[u8], at: usize) -> Option<u32> {
    let digits = data.get(at..at + 4)?;
    digits.iter().try_fold(0, |unit, digit| Some((unit << 4) | char::from(*digit).to_digit(16)?))
}

/// Appends a string's text without its escapes. The text has passed the structure pass.
pub(crate) fn unescape_into(raw: &str, out: &mut String) {
    let mut rest = raw;
    while let Some(at) = memchr::memchr(b'\\', rest.as_bytes()) {
        let (plain, escape) = rest.split_at(at);
        out.push_str(plain);
        let (letter, length) = one_escape(escape.as_bytes());
        out.push(letter);
        rest = escape.get(length..).unwrap_or_default();
    }
    out.push_str(rest);
}

/// The character an escape stands for, and the escape's length.
fn one_escape(escape: &[u8]) -> (char, usize) {
    match escape.get(1) {
        Some(b'b') => ('\u{8}', 2),
        Some(b'f') => ('\u{c}', 2),
        Some(b'n') => ('\n', 2),
        Some(b'r') => ('\r', 2),
        Some(b't') => ('\t', 2),
        Some(b'u') => match (hex4(escape, 2), hex4(escape, 8)) {
            (Some(high @ 0xd800..=0xdbff), Some(low @ 0xdc00..=0xdfff)) => {
                let code = 0x1_0000 + ((high - 0xd800) << 10) + (low - 0xdc00);
                (char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER), 12)
            }
            (Some(code), _) => (char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER), 6),
            (None, _) => (char::REPLACEMENT_CHARACTER, escape.len()),
        },
        Some(byte) => (char::from(*byte), 2),
        None => (char::REPLACEMENT_CHARACTER, 1),
    }
}

/// A string token's text without escapes.
pub(crate) fn unescaped(token: Token, text: &str) -> Cow<'_, str> {
    let inside = token.inside(text);
    if token.kind() == Kind::Escaped {
        let mut out = String::with_capacity(inside.len());
        unescape_into(inside, &mut out);
        Cow::Owned(out)
    } else {
        Cow::Borrowed(inside)
    }
}

/// Is this what a string token says, escapes taken out?
#[inline]
pub(crate) fn is_named(token: Token, text: &str, name: &str) -> bool {
    let plain = token.kind() != Kind::Escaped;
    if plain { token.inside(text) == name } else { unescaped(token, text) == name }
}

/// Appends `.name`, or `["name"]` where the name is not an identifier.
pub(crate) fn push_member(path: &mut String, name: &str) {
    let identifier = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    let short: String = name.chars().take(LONGEST_NAME).collect();
    let cut = if short.len() < name.len() { "…" } else { "" };
    if identifier {
        path.extend([".", &short, cut]);
    } else {
        path.push_str(&format!("[{:?}]", format!("{short}{cut}")));
    }
}

/// Appends `[n]`.
pub(crate) fn push_item(path: &mut String, number: usize) {
    path.push_str(&format!("[{number}]"));
}

/// A number as written: `±mantissa × 10^exponent`, mantissa without trailing zeros.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Decimal {
    pub(crate) negative: bool,
    pub(crate) mantissa: u128,
    pub(crate) exponent: i64,
    /// There were more significant digits than fit; the mantissa holds the first ones.
    pub(crate) cut: bool,
}

/// Powers of ten that fit a `u128`.
pub(crate) fn ten_to(power: u32) -> Option<u128> {
    10u128.checked_pow(power)
}

impl Decimal {
    /// Takes a JSON number apart. The text has passed the structure pass.
    pub(crate) fn parse(number: &str) -> Self {
        let digits = number.strip_prefix('-');
        let negative = digits.is_some();
        let digits = digits.unwrap_or(number);
        let (digits, written) = digits.split_once(['e', 'E']).unwrap_or((digits, "0"));
        let mut decimal = Self { negative, mantissa: 0, exponent: exponent(written), cut: false };
        let mut fraction = false;
        let mut zeros = 0u32;
        for digit in digits.bytes() {
            if digit == b'.' {
                fraction = true;
                continue;
            }
            decimal.exponent = decimal.exponent.saturating_sub(i64::from(fraction));
            if digit == b'0' {
                // Held back: trailing zeros move the exponent and cost no precision. Leading ones say nothing.
                let counts = decimal.mantissa != 0;
                zeros = zeros.saturating_add(u32::from(counts));
                decimal.exponent = decimal.exponent.saturating_add(i64::from(counts));
                continue;
            }
            let shifted = ten_to(zeros.saturating_add(1)).filter(|_| !decimal.cut);
            let shifted = shifted.and_then(|power| decimal.mantissa.checked_mul(power));
            match shifted.and_then(|shifted| shifted.checked_add(u128::from(digit - b'0'))) {
                Some(mantissa) => {
                    decimal.mantissa = mantissa;
                    decimal.exponent = decimal.exponent.saturating_sub(i64::from(zeros));
                    zeros = 0;
                }
                None => {
                    decimal.cut = true;
                    decimal.exponent = decimal.exponent.saturating_add(1);
                }
            }
        }
        if decimal.mantissa == 0 {
            decimal.exponent = 0;
        }
        decimal
    }

    /// The number of digits of the mantissa; 0 for zero.
    pub(crate) fn digits(&self) -> i64 {
        self.mantissa.checked_ilog10().map_or(0, |log| i64::from(log) + 1)
    }

    /// Is there anything after the decimal point?
    pub(crate) fn is_integer(&self) -> bool {
        // What was cut off is not zero: it lies behind the point unless the exponent is positive.
        self.mantissa == 0 || self.exponent > 0 || (self.exponent == 0 && !self.cut)
    }

    /// `value × 10^scale` if that is an integer of at most `digits` digits.
    pub(crate) fn scaled(&self, scale: u32, digits: i64) -> Scaled {
        if self.mantissa == 0 {
            return Scaled::Exact(0);
        }
        let power = self.exponent.saturating_add(i64::from(scale));
        if self.digits().saturating_add(power) > digits {
            return Scaled::TooLarge;
        }
        let whole = u32::try_from(power).ok().filter(|_| !self.cut).and_then(ten_to);
        match whole.and_then(|power| self.mantissa.checked_mul(power)).and_then(|value| i128::try_from(value).ok()) {
            Some(value) => Scaled::Exact(if self.negative { -value } else { value }),
            None => Scaled::NotWhole,
        }
    }

    /// `value × 10^power` with everything after the point cut; `None` beyond an `i128`.
    pub(crate) fn cut_at(&self, power: i64) -> Option<i128> {
        let power = self.exponent.saturating_add(power);
        let magnitude = if self.mantissa == 0 {
            0
        } else if power >= 0 {
            self.mantissa.checked_mul(ten_to(u32::try_from(power).ok()?)?)?
        } else {
            ten_to(u32::try_from(-power).unwrap_or(u32::MAX)).map_or(0, |divisor| self.mantissa / divisor)
        };
        let value = i128::try_from(magnitude).ok()?;
        Some(if self.negative { -value } else { value })
    }
}

/// What [`Decimal::scaled`] found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Scaled {
    /// It is this many units.
    Exact(i128),
    /// It needs more digits than there are.
    TooLarge,
    /// Something is left after the last digit.
    NotWhole,
}

/// An exponent as written; beyond nine digits it no longer matters how large it is.
fn exponent(written: &str) -> i64 {
    let digits = written.trim_start_matches(['+', '-']);
    let size = digits.bytes().fold(0i64, |size, digit| (size * 10 + i64::from(digit.wrapping_sub(b'0'))).min(1 << 40));
    if written.starts_with('-') { -size } else { size }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn scaled(number: &str) -> Scaled {
        Decimal::parse(number).scaled(2, 18)
    }

    #[test]
    fn money_comes_from_the_digits_whatever_way_they_are_written() {
        for (number, cents) in [
            ("0", 0),
            ("-0", 0),
            ("0.00", 0),
            ("0e999999999999999999999", 0),
            ("0.1", 10),
            ("0.05", 5),
            ("10.05", 1005),
            ("19.99", 1999),
            ("-19.99", -1999),
            ("1.9990e1", 1999),
            ("199900e-4", 1999),
            ("1e2", 10_000),
            ("1E+2", 10_000),
            ("9999999999999999.99", 999_999_999_999_999_999),
            ("1.00000000000000000000000000000000000000000000000000", 100),
            ("100000000000000000000000000000000000000000e-40", 1000),
        ] {
            assert_eq!(scaled(number), Scaled::Exact(cents), "{number}");
        }
    }

    #[test]
    fn a_fraction_of_a_cent_is_not_whole_and_too_many_digits_are_too_large() {
        for number in ["0.001", "1e-3", "19.999", "1.0000000000000000000000000000000000000000000001", "1e-999999999999"] {
            assert_eq!(scaled(number), Scaled::NotWhole, "{number}");
        }
        for number in ["10000000000000000", "1e16", "1e400", "1e999999999999", "123456789012345678901234567890123456789012"] {
            assert_eq!(scaled(number), Scaled::TooLarge, "{number}");
        }
    }

    #[test]
    fn whole_numbers_are_told_by_value_not_by_spelling() {
        for number in ["1", "1.0", "10e-1", "1e5", "-0.0", "1e400", "123456789012345678901234567890123456789012"] {
            assert!(Decimal::parse(number).is_integer(), "{number}");
        }
        for number in
            ["1.5", "1e-1", "0.00000000000000000000000000000000000000000000000001", "1.00000000000000000000000000000000000000001"]
        {
            assert!(!Decimal::parse(number).is_integer(), "{number}");
        }
    }

    #[test]
    fn escapes_become_the_characters_they_stand_for() {
        let mut out = String::new();
        unescape_into(r#"a\"\\\/\b\f\n\r\t\u00e9\ud83d\ude00z"#, &mut out);
        assert_eq!(out, "a\"\\/\u{8}\u{c}\n\r\té😀z");
    }

    #[test]
    fn odd_names_are_quoted_and_long_ones_cut_in_paths() {
        let mut path = String::from("$");
        push_member(&mut path, "amount");
        push_member(&mut path, "a b");
        push_item(&mut path, 3);
        push_member(&mut path, &"x".repeat(100));
        assert_eq!(path, format!("$.amount[\"a b\"][3].{}…", "x".repeat(64)));
    }

    proptest! {
        #[test]
        fn any_number_is_worth_its_digits(whole in 0u64..1_000_000_000_000, fraction in 0u32..1_000_000, shift in -6i64..6) {
            let written = format!("{whole}.{fraction:06}e{shift}");
            let expected = (u128::from(whole) * 1_000_000 + u128::from(fraction)) as i128;
            prop_assert_eq!(Decimal::parse(&written).cut_at(6 - shift), Some(expected));
        }
    }
}
