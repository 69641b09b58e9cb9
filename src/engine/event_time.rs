//! Event time: from a member of the event to microseconds since 1970.
//!
//! Owns: the time forms (RFC 3339, epoch numbers, custom formats with a default zone) and their calendar. Does not own: lateness
//! and the future rule (`model::window`), where the member lies (decode).
//!
//! Digits finer than a microsecond are cut, never rounded, so an event can't move into the next window. A leap second
//! (`23:59:60`) counts as the last microsecond of its minute, so it stays in the hour and day that its text names.

use std::str::FromStr;

use chrono::format::{Item, Parsed, StrftimeItems};

use super::structure::{number_end, text::Decimal};

/// First and last microsecond of 1970-01-01 .. 9999-12-31, UTC.
pub const RANGE_US: std::ops::RangeInclusive<i64> = 0..=253_402_300_799_999_999;

/// Where an event's time comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TimeSource {
    /// The member at this path, outermost name first.
    Path(Vec<String>),
    /// The stream's arrival time.
    Arrival,
}

/// How the member is written. Named by the settings, never guessed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TimeFormat {
    /// `2026-01-31T23:59:59.123Z`, an offset is required; `T`, `t` or a space in the middle.
    Rfc3339,
    /// Seconds since 1970, a JSON number or a string of one; a fraction is allowed, as in all four.
    EpochS,
    /// Milliseconds since 1970.
    EpochMs,
    /// Microseconds since 1970.
    EpochUs,
    /// Nanoseconds since 1970.
    EpochNs,
    /// A strftime format (`%m/%d/%Y %H:%M`); without `%z` the default offset applies, without a time midnight does.
    Custom(String),
}

impl FromStr for TimeFormat {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "rfc3339" => Ok(Self::Rfc3339),
            "epoch_s" => Ok(Self::EpochS),
            "epoch_ms" => Ok(Self::EpochMs),
            "epoch_us" => Ok(Self::EpochUs),
            "epoch_ns" => Ok(Self::EpochNs),
            custom if custom.contains('%') => {
                Reader::new(&Self::Custom(custom.to_owned()), 0).map(|_| Self::Custom(custom.to_owned()))
            }
            _ => Err(format!(
                "unknown time format `{name}`: use rfc3339, epoch_s, epoch_ms, epoch_us, epoch_ns or a strftime format with `%`"
            )),
        }
    }
}

/// A time format made ready.
#[derive(Clone, Debug)]
pub(crate) enum Reader {
    Rfc3339,
    /// Multiply by ten to this power to get microseconds.
    Epoch(i64),
    Custom {
        items: Vec<Item<'static>>,
        default_offset_s: i32,
    },
}

impl Reader {
    /// Refuses a custom format that can't be read, with the remedy.
    pub(crate) fn new(format: &TimeFormat, default_offset_s: i32) -> Result<Self, String> {
        match format {
            TimeFormat::Rfc3339 => Ok(Self::Rfc3339),
            TimeFormat::EpochS => Ok(Self::Epoch(6)),
            TimeFormat::EpochMs => Ok(Self::Epoch(3)),
            TimeFormat::EpochUs => Ok(Self::Epoch(0)),
            TimeFormat::EpochNs => Ok(Self::Epoch(-3)),
            TimeFormat::Custom(format) => {
                if format.contains("%Z") {
                    return Err("zone names (`%Z`) are ambiguous: use a numeric offset (`%z`) or a default offset".to_owned());
                }
                let items = StrftimeItems::new(format)
                    .parse_to_owned()
                    .map_err(|_| format!("`{format}` is not a strftime format that can be read"))?;
                if !round_trips(&items, default_offset_s) {
                    return Err(format!("`{format}` does not say which day it is; name year, month and day, or `%s`"));
                }
                Ok(Self::Custom { items, default_offset_s })
            }
        }
    }

    /// A string member's time in microseconds, if it is one and in [`RANGE_US`].
    pub(crate) fn text(&self, text: &str) -> Option<i64> {
        let time = match self {
            Self::Rfc3339 => rfc3339(text.as_bytes())?,
            Self::Epoch(_) => match number_end(text.as_bytes(), 0) {
                Ok((end, _)) if end == text.len() => return self.number(text),
                Ok(_) | Err(_) => return None,
            },
            Self::Custom { items, default_offset_s } => custom(text, items, *default_offset_s)?,
        };
        RANGE_US.contains(&time).then_some(time)
    }

    /// A number member's time in microseconds, if the format takes numbers and it is in [`RANGE_US`].
    pub(crate) fn number(&self, number: &str) -> Option<i64> {
        match self {
            Self::Rfc3339 | Self::Custom { .. } => None,
            Self::Epoch(power) => {
                let decimal = Decimal::parse(number);
                if decimal.negative && decimal.mantissa != 0 {
                    return None;
                }
                let time = i64::try_from(decimal.cut_at(*power)?).ok()?;
                RANGE_US.contains(&time).then_some(time)
            }
        }
    }
}

/// Is what the format writes of a moment enough to read a moment from? The day is a 29th of February: no default passes for it.
fn round_trips(items: &[Item<'static>], default_offset_s: i32) -> bool {
    let offset = chrono::FixedOffset::east_opt(default_offset_s).unwrap_or(chrono::Offset::fix(&chrono::Utc));
    let moment = chrono::DateTime::from_timestamp(1_078_058_096, 0).map(|moment| moment.with_timezone(&offset));
    moment.is_some_and(|moment| custom(&moment.format_with_items(items.iter()).to_string(), items, default_offset_s).is_some())
}

fn custom(text: &str, items: &[Item<'static>], default_offset_s: i32) -> Option<i64> {
    let mut parsed = Parsed::new();
    chrono::format::parse(&mut parsed, text, items.iter()).ok()?;
    let offset = parsed.offset().unwrap_or(default_offset_s);
    let local = match parsed.to_naive_datetime_with_offset(offset) {
        Ok(local) => local,
        // Only a format without any time of day means midnight; half a time stays an error.
        Err(_) if parsed.hour_div_12().is_none() && parsed.hour_mod_12().is_none() && parsed.minute().is_none() => {
            parsed.to_naive_date().ok()?.and_hms_opt(0, 0, 0)?
        }
        Err(_) => return None,
    };
    let local = local.and_utc();
    let micros = i64::from(local.timestamp_subsec_micros().min(999_999));
    (local.timestamp() - i64::from(offset)).checked_mul(1_000_000)?.checked_add(micros)
}

/// A clock time as RFC 3339 writes it, with its offset.
struct Clock {
    /// Seconds since midnight, local; second 60 counts as 59.
    seconds: i64,
    leap: bool,
    micros: i64,
    offset_s: i64,
}

fn two(data: &[u8], at: usize) -> Option<i64> {
    let (tens, ones) = (data.get(at)?.wrapping_sub(b'0'), data.get(at + 1)?.wrapping_sub(b'0'));
    (tens < 10 && ones < 10).then(|| i64::from(tens) * 10 + i64::from(ones))
}

/// `full-date` of RFC 3339 as days since 1970-01-01.
pub(crate) fn full_date(data: &[u8]) -> Option<i64> {
    if data.len() != 10 || data[4] != b'-' || data[7] != b'-' {
        return None;
    }
    let (year, month, day) = (two(data, 0)? * 100 + two(data, 2)?, two(data, 5)?, two(data, 8)?);
    let leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    let longest = match month {
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        1..=12 => 31,
        _ => return None,
    };
    (1..=longest).contains(&day).then(|| days_since_1970(year, month, day))
}

/// Days from the proleptic Gregorian calendar; years start in March so that the leap day comes last.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

fn clock(data: &[u8]) -> Option<Clock> {
    if data.get(2) != Some(&b':') || data.get(5) != Some(&b':') {
        return None;
    }
    let (hour, minute, second) = (two(data, 0)?, two(data, 3)?, two(data, 6)?);
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let mut at = 8;
    let mut micros = 0;
    if data.get(at) == Some(&b'.') {
        let digits = data[at + 1..].iter().take_while(|byte| byte.is_ascii_digit());
        let mut count = 0;
        for digit in digits {
            if count < 6 {
                micros = micros * 10 + i64::from(digit - b'0');
            }
            count += 1;
        }
        if count == 0 {
            return None;
        }
        micros *= 10i64.pow(6 - count.min(6) as u32);
        at += 1 + count;
    }
    let offset_s = offset(data.get(at..)?)?;
    let leap = second == 60;
    let seconds = hour * 3600 + minute * 60 + second.min(59);
    if leap {
        // Leap seconds end a UTC day; anywhere else second 60 does not exist.
        let utc = (seconds - offset_s).rem_euclid(86_400);
        return (utc == 86_399).then_some(Clock { seconds, leap, micros, offset_s });
    }
    Some(Clock { seconds, leap, micros, offset_s })
}

fn offset(data: &[u8]) -> Option<i64> {
    match data {
        [b'Z' | b'z'] => Some(0),
        [sign @ (b'+' | b'-'), _, _, b':', _, _] => {
            let (hours, minutes) = (two(data, 1)?, two(data, 4)?);
            let size = (hours <= 23 && minutes <= 59).then_some(hours * 3600 + minutes * 60)?;
            Some(if *sign == b'-' { -size } else { size })
        }
        _ => None,
    }
}

/// Is this a `full-time` of RFC 3339?
pub(crate) fn is_full_time(data: &[u8]) -> bool {
    clock(data).is_some()
}

/// Is this a `date-time` of RFC 3339, with `T` or `t` in the middle?
pub(crate) fn is_date_time(data: &[u8]) -> bool {
    matches!(data.get(10), Some(b'T' | b't')) && rfc3339(data).is_some()
}

/// Microseconds since 1970 of an RFC 3339 date-time; before 1970 is negative.
fn rfc3339(data: &[u8]) -> Option<i64> {
    let (date, rest) = data.split_at_checked(10)?;
    let (middle, time) = rest.split_first()?;
    if !matches!(middle, b'T' | b't' | b' ') {
        return None;
    }
    let days = full_date(date)?;
    let clock = clock(time)?;
    let micros = if clock.leap { 999_999 } else { clock.micros };
    Some((days * 86_400 + clock.seconds - clock.offset_s) * 1_000_000 + micros)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(format: TimeFormat, text: &str) -> Option<i64> {
        Reader::new(&format, 0).expect("format").text(text)
    }

    fn number(format: TimeFormat, text: &str) -> Option<i64> {
        Reader::new(&format, 0).expect("format").number(text)
    }

    #[test]
    fn rfc_3339_is_read_with_every_offset_and_cut_after_the_microsecond() {
        for (text, expected) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2026-01-31T23:59:59.123456Z", 1_769_903_999_123_456),
            ("2026-01-31T23:59:59.1234569Z", 1_769_903_999_123_456),
            ("2026-01-31 23:59:59.5z", 1_769_903_999_500_000),
            ("2026-02-01t01:59:59.5+02:00", 1_769_903_999_500_000),
            ("2026-01-31T18:29:59-05:30", 1_769_903_999_000_000),
            ("2024-02-29T00:00:00-00:00", 1_709_164_800_000_000),
            ("1970-01-01T00:59:59.999999+00:59", 59_999_999),
            ("9999-12-31T23:59:59.999999Z", 253_402_300_799_999_999),
            ("2016-12-31T23:59:60.7Z", 1_483_228_799_999_999),
            ("2017-01-01T00:59:60+01:00", 1_483_228_799_999_999),
        ] {
            assert_eq!(at(TimeFormat::Rfc3339, text), Some(expected), "{text}");
        }
    }

    #[test]
    fn what_rfc_3339_does_not_allow_is_bad_time() {
        for text in [
            "",
            "2026-01-31",
            "2026-01-31T23:59:59",
            "2026-01-31T23:59Z",
            "2026-02-29T00:00:00Z",
            "2100-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-00-01T00:00:00Z",
            "2026-04-31T00:00:00Z",
            "2026-01-31T24:00:00Z",
            "2026-01-31T23:60:00Z",
            "2026-01-31T23:59:61Z",
            "2026-01-31T22:59:60Z",
            "2026-01-31T23:59:59.Z",
            "2026-01-31T23:59:59+2:00",
            "2026-01-31T23:59:59+24:00",
            "2026-01-31T23:59:59Z ",
            " 2026-01-31T23:59:59Z",
            "2026-01-31_23:59:59Z",
            "1969-12-31T23:59:59.999999Z",
            "9999-12-31T23:59:59-01:00",
            "+2026-01-31T23:59:59Z",
            "２０２６-01-31T23:59:59Z",
        ] {
            assert_eq!(at(TimeFormat::Rfc3339, text), None, "{text}");
        }
    }

    #[test]
    fn epoch_numbers_keep_their_digits_in_every_unit_and_as_strings() {
        assert_eq!(number(TimeFormat::EpochS, "1769903999.1234567"), Some(1_769_903_999_123_456));
        assert_eq!(number(TimeFormat::EpochS, "1.769903999e9"), Some(1_769_903_999_000_000));
        assert_eq!(number(TimeFormat::EpochMs, "1769903999123"), Some(1_769_903_999_123_000));
        assert_eq!(number(TimeFormat::EpochUs, "1769903999123456"), Some(1_769_903_999_123_456));
        assert_eq!(number(TimeFormat::EpochNs, "1769903999123456999"), Some(1_769_903_999_123_456));
        assert_eq!(at(TimeFormat::EpochS, "1769903999"), Some(1_769_903_999_000_000));
        assert_eq!(at(TimeFormat::EpochS, "0"), Some(0));
        for bad in ["-1", "1e30", "253402300800", ""] {
            assert_eq!(at(TimeFormat::EpochS, bad), None, "{bad}");
        }
        for bad in [" 1", "1 ", "01", "0x1", "1s", "NaN"] {
            assert_eq!(at(TimeFormat::EpochMs, bad), None, "{bad}");
        }
        assert_eq!(number(TimeFormat::Rfc3339, "1769903999"), None);
    }

    #[test]
    fn custom_formats_take_a_default_zone_any_fraction_and_short_fields() {
        let custom = |format: &str| TimeFormat::Custom(format.to_owned());
        assert_eq!(at(custom("%Y-%m-%d %H:%M:%S%.f"), "2023-11-16 18:17:03.9799600"), Some(1_700_158_623_979_960));
        assert_eq!(at(custom("%Y-%m-%d %H:%M:%S%.f"), "2023-11-16 18:17:03.97996009999999"), Some(1_700_158_623_979_960));
        assert_eq!(at(custom("%Y-%m-%d %H:%M:%S%.f"), "2023-11-16 18:17:03"), Some(1_700_158_623_000_000));
        assert_eq!(at(custom("%m/%d/%Y %H:%M"), "12/1/2010 8:26"), Some(1_291_191_960_000_000));
        assert_eq!(at(custom("%Y-%m-%d"), "2023-11-16"), Some(1_700_092_800_000_000));
        assert_eq!(at(custom("%d/%b/%Y:%H:%M:%S %z"), "16/Nov/2023:18:17:03 +0200"), Some(1_700_151_423_000_000));
        let east = Reader::new(&custom("%Y-%m-%d %H:%M:%S"), 3600).expect("format");
        assert_eq!(east.text("2023-11-16 18:17:03"), Some(1_700_155_023_000_000));
        assert_eq!(at(custom("%Y-%m-%d %H:%M:%S"), "2023-11-16"), None);
        assert_eq!(at(custom("%Y-%m-%d"), "2023-11-31"), None);
        assert_eq!(at(custom("%Y-%m-%d"), "1969-12-31"), None);
    }

    #[test]
    fn formats_are_named_and_unreadable_ones_are_refused() {
        assert_eq!("epoch_ms".parse(), Ok(TimeFormat::EpochMs));
        for good in ["%Y-%j", "%s", "%d.%m.%y", "%Y-%m-%d %I:%M %p", "%G-W%V-%u", "%d/%b/%Y:%H:%M:%S %z", "%+"] {
            assert_eq!(good.parse(), Ok(TimeFormat::Custom(good.to_owned())));
        }
        for bad in ["epoch", "%Q", "%Y %Z", "", "%Y", "%H", "%m/%d", "%H:%M:%S %z", "%Y-%m-%d %H:%S"] {
            assert!(bad.parse::<TimeFormat>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn our_calendar_is_chronos(us in RANGE_US) {
            let time = chrono::DateTime::from_timestamp_micros(us).expect("in range");
            let text = time.to_rfc3339_opts(chrono::SecondsFormat::Micros, true);
            prop_assert_eq!(at(TimeFormat::Rfc3339, &text), Some(us));
        }
    }
}
