//! String formats, all asserted.
//!
//! Owns: the hot formats by hand (times, uuid, addresses). Does not own: the calendar (event_time); the other formats of the
//! standard, which the `jsonschema` crate judges so that both paths agree on them.

use std::sync::Arc;

use crate::engine::event_time::{full_date, is_date_time, is_full_time};

/// A format that is checked.
#[derive(Clone, Debug)]
pub(crate) enum Format {
    DateTime,
    Date,
    Time,
    Uuid,
    Ipv4,
    Ipv6,
    /// Any other format the `jsonschema` crate knows: its name and a validator for it alone.
    Other(Arc<(String, jsonschema::Validator)>),
}

impl Format {
    /// `None` for a format nobody knows: JSON Schema makes it a comment.
    pub(crate) fn new(name: &str) -> Option<Self> {
        match name {
            "date-time" => Some(Self::DateTime),
            "date" => Some(Self::Date),
            "time" => Some(Self::Time),
            "uuid" => Some(Self::Uuid),
            "ipv4" => Some(Self::Ipv4),
            "ipv6" => Some(Self::Ipv6),
            other => {
                let options = super::validator_options();
                if !options.is_known_format(jsonschema::Draft::Draft202012, other) {
                    return None;
                }
                let schema = serde_json::json!({ "format": other });
                options.build(&schema).ok().map(|validator| Self::Other(Arc::new((other.to_owned(), validator))))
            }
        }
    }

    pub(crate) fn name(&self) -> &str {
        match self {
            Self::DateTime => "date-time",
            Self::Date => "date",
            Self::Time => "time",
            Self::Uuid => "uuid",
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
            Self::Other(other) => &other.0,
        }
    }

    pub(crate) fn holds(&self, text: &str) -> bool {
        match self {
            Self::DateTime => is_date_time(text.as_bytes()),
            Self::Date => full_date(text.as_bytes()).is_some(),
            Self::Time => is_full_time(text.as_bytes()),
            Self::Uuid => is_uuid(text.as_bytes()),
            Self::Ipv4 => text.parse::<std::net::Ipv4Addr>().is_ok(),
            Self::Ipv6 => text.parse::<std::net::Ipv6Addr>().is_ok(),
            Self::Other(other) => other.1.is_valid(&serde_json::Value::String(text.to_owned())),
        }
    }
}

/// The hyphenated form, either case; any version.
fn is_uuid(text: &[u8]) -> bool {
    const IS_HEX: [bool; 256] = {
        let mut table = [false; 256];
        let mut byte = 0;
        while byte < 256 {
            table[byte] = (byte as u8).is_ascii_hexdigit();
            byte += 1;
        }
        table
    };
    let Ok(text) = <&[u8; 36]>::try_from(text) else { return false };
    let hex = |from: usize, to: usize| text[from..to].iter().fold(true, |all, byte| all & IS_HEX[usize::from(*byte)]);
    let dashes = [8, 13, 18, 23].iter().all(|at| text[*at] == b'-');
    dashes && hex(0, 8) && hex(9, 13) && hex(14, 18) && hex(19, 23) && hex(24, 36)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Samples on both sides of every format, some borderline.
    const SAMPLES: [(&str, &[&str]); 9] = [
        (
            "date-time",
            &[
                "2026-01-31T23:59:59Z",
                "2026-01-31t23:59:59.123456789z",
                "2016-12-31T23:59:60Z",
                "2016-12-31T22:59:60Z",
                "2016-12-31T18:29:60-05:30",
                "0000-01-01T00:00:00Z",
                "2026-01-31 23:59:59Z",
                "2026-01-31T23:59:59",
                "2026-02-30T00:00:00Z",
                "2026-01-31T23:59:59+23:59",
                "2026-01-31T23:59:59+24:00",
                "",
            ],
        ),
        ("date", &["2026-01-31", "2024-02-29", "2023-02-29", "1900-02-29", "2026-1-31", "2026-01-31Z", ""]),
        ("time", &["23:59:59Z", "23:59:60Z", "23:59:60+01:00", "24:00:00Z", "23:59:59", "23:59:59.5+01:00", "1:00:00Z"]),
        (
            "uuid",
            &[
                "2eb8aa08-aa98-11ea-b4aa-73b441d16380",
                "2EB8AA08-AA98-11EA-B4AA-73B441D16380",
                "2eb8aa08aa9811eab4aa73b441d16380",
                "2eb8aa08-aa98-11ea-b4aa-73b441d1638",
                "2eb8aa08-aa98-11ea-b4aa-73b441d1638g",
                "{2eb8aa08-aa98-11ea-b4aa-73b441d16380}",
            ],
        ),
        ("ipv4", &["192.0.2.1", "192.0.2.256", "192.0.2", "192.0.2.01", "0x7f.1"]),
        ("ipv6", &["::1", "2001:db8::1", "::ffff:192.0.2.1", "1::2::3", "fe80::1%eth0", "g::1"]),
        ("email", &["a@example.com", "a@b", "a", "@b", "a b@example.com", "\"a b\"@example.com"]),
        ("uri", &["http://example.com/a?b#c", "urn:a:b", "/relative", "http://exa mple", ""]),
        ("hostname", &["example.com", "-bad.example", "a..b", "xn--nxasmq6b", "under_score.example", ""]),
    ];

    #[test]
    fn our_formats_agree_with_the_jsonschema_crate() {
        for (name, samples) in SAMPLES {
            let format = Format::new(name).expect(name);
            assert_eq!(format.name(), name);
            let options = super::super::validator_options();
            let crates = options.build(&serde_json::json!({ "format": name })).expect(name);
            let verdicts: Vec<bool> = samples.iter().map(|text| format.holds(text)).collect();
            let expected: Vec<bool> = samples.iter().map(|text| crates.is_valid(&serde_json::json!(text))).collect();
            assert_eq!(verdicts, expected, "{name}");
            assert!(verdicts.contains(&true) && verdicts.contains(&false), "{name}");
        }
    }

    #[test]
    fn a_format_nobody_knows_is_a_comment() {
        assert!(Format::new("int32").is_none());
    }
}
