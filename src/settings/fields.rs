//! The small texts of `[event]`: paths to members, time formats, time zones.
//!
//! Owns: their grammar and one canonical form. Does not own: reading a time or a member out of a record (engine).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::problem::nearest;
use super::units::as_text;

/// The path that stands for the arrival time of a record instead of a member.
pub const ARRIVAL_TIME: &str = "_arrival_time";

/// A path to a member of an event: `timestamp`, `properties.amount`; a name that holds a dot stands in double quotes
/// (`"id.orig_h"`).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct FieldPath(Vec<String>);

impl FieldPath {
    /// From member names, outermost first; none of them is checked.
    pub fn new(segments: Vec<String>) -> Self {
        Self(segments)
    }

    /// Member names, outermost first.
    pub fn segments(&self) -> &[String] {
        &self.0
    }

    /// Does it stand for the arrival time?
    pub fn is_arrival(&self) -> bool {
        matches!(self.0.as_slice(), [only] if only == ARRIVAL_TIME)
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, segment) in self.0.iter().enumerate() {
            if n > 0 {
                f.write_str(".")?;
            }
            if segment.contains('.') { write!(f, "\"{segment}\"")? } else { f.write_str(segment)? }
        }
        Ok(())
    }
}

impl FromStr for FieldPath {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad =
            |why: &str| format!("`{text}` is not a path to a member: {why}; write `name`, `outer.inner` or `\"name.with.dots\"`");
        let mut segments = Vec::new();
        let mut rest = text;
        loop {
            let (segment, after) = match rest.strip_prefix('"') {
                Some(quoted) => quoted.split_once('"').ok_or_else(|| bad("a quote is not closed"))?,
                None => rest.split_at(rest.find('.').unwrap_or(rest.len())),
            };
            if segment.is_empty() {
                return Err(bad("a name is empty"));
            }
            segments.push(segment.to_owned());
            match after.strip_prefix('.') {
                Some(next) => rest = next,
                None if after.is_empty() => return Ok(Self(segments)),
                None => return Err(bad("a dot must follow a closing quote")),
            }
        }
    }
}

/// How the event time is written.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub enum TimeFormat {
    /// RFC 3339 with an offset: `2015-01-01T00:00:00Z`.
    #[default]
    Rfc3339,
    /// Seconds since 1970, a number or digits in a string.
    EpochS,
    /// Milliseconds since 1970.
    EpochMs,
    /// Microseconds since 1970.
    EpochUs,
    /// Nanoseconds since 1970; finer digits than microseconds are cut.
    EpochNs,
    /// A strftime pattern: `%Y-%m-%d %H:%M:%S%.f`. Without an offset in it, `time_zone` says which zone is meant.
    Pattern(String),
}

impl TimeFormat {
    /// Does the written time carry its own offset, so that `time_zone` has nothing to say?
    pub fn has_own_zone(&self) -> bool {
        match self {
            Self::Pattern(pattern) => ["%z", "%:z", "%::z", "%#z", "%+", "%s", "%Z"].iter().any(|mark| pattern.contains(mark)),
            Self::Rfc3339 | Self::EpochS | Self::EpochMs | Self::EpochUs | Self::EpochNs => true,
        }
    }
}

/// Where a shard begins that no run has seen.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Start {
    /// With the oldest record that is kept.
    #[default]
    Horizon,
    /// With what comes after the data directory was made.
    Latest,
    /// With the first record that arrived at this time or later, microseconds since 1970.
    At(i64),
}

impl fmt::Display for Start {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Horizon => f.write_str("horizon"),
            Self::Latest => f.write_str("latest"),
            Self::At(at_us) => match chrono::DateTime::from_timestamp_micros(*at_us) {
                Some(time) => f.write_str(&time.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true)),
                None => write!(f, "{at_us} us"),
            },
        }
    }
}

impl FromStr for Start {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "horizon" => Ok(Self::Horizon),
            "latest" => Ok(Self::Latest),
            time => chrono::DateTime::parse_from_rfc3339(time)
                .map(|time| Self::At(time.timestamp_micros()))
                .map_err(|_| format!("`{time}` is no place to start; write \"horizon\", \"latest\" or \"2026-11-23T00:00:00Z\"")),
        }
    }
}

const FORMATS: [&str; 5] = ["rfc3339", "epoch_s", "epoch_ms", "epoch_us", "epoch_ns"];

impl fmt::Display for TimeFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rfc3339 => "rfc3339",
            Self::EpochS => "epoch_s",
            Self::EpochMs => "epoch_ms",
            Self::EpochUs => "epoch_us",
            Self::EpochNs => "epoch_ns",
            Self::Pattern(pattern) => pattern,
        })
    }
}

impl FromStr for TimeFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "rfc3339" => Ok(Self::Rfc3339),
            "epoch_s" => Ok(Self::EpochS),
            "epoch_ms" => Ok(Self::EpochMs),
            "epoch_us" => Ok(Self::EpochUs),
            "epoch_ns" => Ok(Self::EpochNs),
            pattern if pattern.contains('%') => {
                let broken = chrono::format::StrftimeItems::new(pattern).any(|item| item == chrono::format::Item::Error);
                if broken {
                    return Err(format!(
                        "`{pattern}` holds a % code that strftime does not have; write one such as \"%Y-%m-%d %H:%M:%S%.f\""
                    ));
                }
                Ok(Self::Pattern(pattern.to_owned()))
            }
            other => {
                let hint = nearest(other, FORMATS).map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
                Err(format!(
                    "`{other}` is not a time format: write one of {} or a strftime pattern with %{hint}",
                    FORMATS.join(", ")
                ))
            }
        }
    }
}

/// A fixed offset from UTC, for times that are written without one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct ZoneOffset {
    seconds: i32,
}

impl ZoneOffset {
    /// Seconds east of UTC.
    pub fn seconds(self) -> i32 {
        self.seconds
    }
}

impl fmt::Display for ZoneOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.seconds == 0 {
            return f.write_str("UTC");
        }
        let minutes = self.seconds.abs() / 60;
        write!(f, "{}{:02}:{:02}", if self.seconds < 0 { '-' } else { '+' }, minutes / 60, minutes % 60)
    }
}

impl FromStr for ZoneOffset {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || {
            format!(
                "`{text}` is not a time zone: write \"UTC\" or an offset such as \"+02:00\"; names of places are not accepted, \
                 because they change with summer time"
            )
        };
        if matches!(text, "UTC" | "Z") {
            return Ok(Self::default());
        }
        let sign = match text.as_bytes().first() {
            Some(b'+') => 1,
            Some(b'-') => -1,
            Some(_) | None => return Err(bad()),
        };
        let (hours, minutes) = text[1..].split_once(':').ok_or_else(bad)?;
        let two_digits = |part: &str, limit: i32| match part.len() {
            2 if part.bytes().all(|byte| byte.is_ascii_digit()) => {
                part.parse::<i32>().ok().filter(|n| *n <= limit).ok_or_else(bad)
            }
            _ => Err(bad()),
        };
        Ok(Self { seconds: sign * (two_digits(hours, 18)? * 3600 + two_digits(minutes, 59)? * 60) })
    }
}

as_text!(FieldPath, "a path to a member, such as \"timestamp\" or \"properties.amount\"");
as_text!(TimeFormat, "a time format, such as \"rfc3339\", \"epoch_ms\" or \"%Y-%m-%d %H:%M:%S\"");
as_text!(Start, "where to start: \"horizon\", \"latest\" or a time such as \"2026-11-23T00:00:00Z\"");
as_text!(ZoneOffset, "a time zone, such as \"UTC\" or \"+02:00\"");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_split_at_dots_unless_quoted() {
        let path: FieldPath = "a.b".parse().expect("path");
        assert_eq!(path.segments(), ["a", "b"]);
        let path: FieldPath = "\"id.orig_h\".x".parse().expect("path");
        assert_eq!(path.segments(), ["id.orig_h", "x"]);
        assert_eq!(path.to_string(), "\"id.orig_h\".x");
        assert!("_arrival_time".parse::<FieldPath>().expect("path").is_arrival());
        for bad in ["", "a..b", ".a", "a.", "\"a", "\"a\"b"] {
            assert!(bad.parse::<FieldPath>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_time_format_is_a_name_or_a_pattern_that_exists() {
        assert_eq!("epoch_ms".parse(), Ok(TimeFormat::EpochMs));
        assert!(matches!("%Y-%m-%d %H:%M:%S%.f".parse(), Ok(TimeFormat::Pattern(_))));
        assert!("epoch_m".parse::<TimeFormat>().expect_err("unknown").contains("did you mean `epoch_ms`"));
        assert!("%Y-%Q".parse::<TimeFormat>().expect_err("broken").contains("strftime"));
        assert!(TimeFormat::Pattern("%Y%z".into()).has_own_zone());
        assert!(!TimeFormat::Pattern("%Y".into()).has_own_zone());
    }

    #[test]
    fn a_zone_is_utc_or_an_offset() {
        assert_eq!("+02:00".parse(), Ok(ZoneOffset { seconds: 7_200 }));
        assert_eq!("-05:30".parse::<ZoneOffset>().expect("zone").to_string(), "-05:30");
        assert_eq!("UTC".parse::<ZoneOffset>().expect("zone").to_string(), "UTC");
        for bad in ["Europe/Berlin", "+2", "+25:00", "02:00", "+é2:00", ""] {
            assert!(bad.parse::<ZoneOffset>().is_err(), "{bad}");
        }
    }
}
