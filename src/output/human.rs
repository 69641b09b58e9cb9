//! Numbers as people read them.
//!
//! Owns: thousands, binary units, lengths and points of time, names of types, text that is safe on a terminal. Does not own:
//! layout (output).

use arrow::datatypes::DataType;

/// `1,234,567`
pub fn count(count: u64) -> String {
    let digits = count.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `-1,234`
pub fn delta(delta: i64) -> String {
    let sign = if delta < 0 { "-" } else { "" };
    format!("{sign}{}", count(delta.unsigned_abs()))
}

/// At most three digits behind the point, none that are zero.
pub fn real(number: f64) -> String {
    if !number.is_finite() {
        return number.to_string();
    }
    let text = format!("{number:.3}");
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    let whole = whole.parse::<i64>().map_or_else(|_| whole.to_owned(), delta);
    let sign = if number < 0.0 && !whole.starts_with('-') { "-" } else { "" };
    match fraction.trim_end_matches('0') {
        "" => format!("{sign}{whole}"),
        fraction => format!("{sign}{whole}.{fraction}"),
    }
}

/// `812 B`, `3.0 MiB`
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// `850us`, `12.5ms`, `3.4s`, `1m 30s`, `2d 3h`
pub fn lapse(us: i64) -> String {
    let sign = if us < 0 { "-" } else { "" };
    let us = us.unsigned_abs();
    let text = match us {
        0 => "0s".to_owned(),
        1..1_000 => format!("{us}us"),
        1_000..1_000_000 => format!("{}ms", real(us as f64 / 1e3)),
        1_000_000..60_000_000 => format!("{:.1}s", us as f64 / 1e6),
        60_000_000..3_600_000_000 => format!("{}m {}s", us / 60_000_000, us / 1_000_000 % 60),
        3_600_000_000..86_400_000_000 => format!("{}h {}m", us / 3_600_000_000, us / 60_000_000 % 60),
        86_400_000_000.. => format!("{}d {}h", us / 86_400_000_000, us / 3_600_000_000 % 24),
    };
    format!("{sign}{text}")
}

/// RFC 3339 in UTC, as many digits behind the second as there are.
pub fn time(us: i64) -> String {
    match chrono::DateTime::from_timestamp_micros(us) {
        Some(time) => time.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true),
        None => format!("{us} us since 1970"),
    }
}

/// A column type as SQL would write it.
#[expect(clippy::wildcard_enum_match_arm, reason = "arrow's enum: what no table of ours has keeps arrow's own name")]
pub fn data_type(kind: &DataType) -> String {
    match kind {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "text".to_owned(),
        DataType::Int64 => "bigint".to_owned(),
        DataType::Int32 => "integer".to_owned(),
        DataType::Float64 => "double".to_owned(),
        DataType::Boolean => "boolean".to_owned(),
        DataType::Timestamp(_, _) => "timestamp".to_owned(),
        DataType::Decimal128(precision, scale) => format!("decimal({precision},{scale})"),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => "binary".to_owned(),
        DataType::Struct(fields) => {
            let members = fields.iter().map(|field| format!("{} {}", field.name(), data_type(field.data_type())));
            format!("struct({})", members.collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}

/// Control characters as visible marks, so that data can't steer a terminal.
pub fn printable(text: &str) -> String {
    if !text.chars().any(char::is_control) {
        return text.to_owned();
    }
    text.chars().map(|c| if c.is_control() { c.escape_default().to_string() } else { c.to_string() }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_separated() {
        let cases = [(0, "0"), (999, "999"), (1_000, "1,000"), (12_345_678, "12,345,678")];
        for (number, text) in cases {
            assert_eq!(count(number), text);
        }
        assert_eq!(delta(-1_000), "-1,000");
        assert_eq!(delta(i64::MIN), "-9,223,372,036,854,775,808");
    }

    #[test]
    fn bytes_grow_into_their_unit() {
        let cases = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1_048_575, "1.0 MiB"),
            (3 << 20, "3.0 MiB"),
            (u64::MAX, "16.0 EiB"),
        ];
        for (number, text) in cases {
            assert_eq!(bytes(number), text);
        }
    }

    #[test]
    fn lapses_have_one_or_two_units() {
        let cases = [
            (0, "0s"),
            (850, "850us"),
            (12_500, "12.5ms"),
            (3_400_000, "3.4s"),
            (90_000_000, "1m 30s"),
            (-7_260_000_000, "-2h 1m"),
            (183_600_000_000, "2d 3h"),
        ];
        for (us, text) in cases {
            assert_eq!(lapse(us), text);
        }
    }

    #[test]
    fn reals_keep_their_sign_and_lose_their_zeros() {
        let cases = [(0.5, "0.5"), (-0.25, "-0.25"), (1234.0, "1,234"), (2.0 / 3.0, "0.667"), (f64::NAN, "NaN")];
        for (number, text) in cases {
            assert_eq!(real(number), text);
        }
    }

    #[test]
    fn times_are_utc() {
        assert_eq!(time(1_420_070_400_500_000), "2015-01-01T00:00:00.500Z");
        assert_eq!(time(i64::MAX), "9223372036854775807 us since 1970");
    }

    #[test]
    fn types_read_as_in_sql() {
        let member = |name: &str, kind| arrow::datatypes::Field::new(name, kind, true);
        let kind = DataType::Struct(vec![member("a", DataType::Decimal128(18, 2)), member("b", DataType::Utf8)].into());
        assert_eq!(data_type(&kind), "struct(a decimal(18,2), b text)");
    }

    #[test]
    fn control_characters_are_shown_not_sent() {
        assert_eq!(printable("a\u{1b}[2Jb\n"), "a\\u{1b}[2Jb\\n");
    }
}
