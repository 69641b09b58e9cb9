//! Names of visible files and folders, Hive-style, that Athena, DuckDB and Spark read as they are.
//!
//! Owns: folders of hours and days, encoded path segments, names of Gold objects. Does not own: which file a row goes to
//! (data_files), writing (disk).

use sluicebox_actors::model::fault::{Fault, Result};
use sluicebox_actors::model::window::HOUR_US;

/// Longest segment made from data or from a name that we were given, in bytes, encoded.
pub(crate) const SEGMENT_MAX: usize = 128;

/// Folder of rows whose partition value is missing or empty, as Hive, Spark and DuckDB name it.
pub(crate) const NO_VALUE: &str = "__HIVE_DEFAULT_PARTITION__";

/// Folder of rows whose partition value is longer than [`SEGMENT_MAX`]; the value itself is in the column.
pub(crate) const LONG_VALUE: &str = "__TOO_LONG__";

const HOURS_A_DAY: i64 = 24;

/// Which hour since 1970 a time lies in.
pub(crate) fn hour_of(time_us: i64) -> i64 {
    time_us.div_euclid(HOUR_US)
}

/// Which day since 1970 a time lies in.
pub(crate) fn day_of(time_us: i64) -> i64 {
    time_us.div_euclid(HOURS_A_DAY * HOUR_US)
}

/// `dt=2026-11-23`.
pub(crate) fn day_folder(day: i64) -> String {
    let (year, month, day) = civil(day);
    format!("dt={year:04}-{month:02}-{day:02}")
}

/// `dt=2026-11-23/hour=15`.
pub(crate) fn hour_folder(hour: i64) -> String {
    format!("{}/hour={:02}", day_folder(hour.div_euclid(HOURS_A_DAY)), hour.rem_euclid(HOURS_A_DAY))
}

/// Where readers see the object of a window: `gold/<table>/dt=…/hour=HH/<table>-20261123T15.<extension>`.
pub fn gold_object(table: &str, start_us: i64, extension: &str) -> Result<String> {
    let table = name(table)?;
    Ok(format!("gold/{table}/{}/{table}-{}.{extension}", hour_folder(hour_of(start_us)), window_name(start_us)))
}

/// Where readers see what is known of a window: `gold_windows/table=<table>/dt=…/hour=HH/<table>-20261123T15.parquet`.
pub fn gold_window(table: &str, start_us: i64) -> Result<String> {
    let table = name(table)?;
    let (folder, window) = (hour_folder(hour_of(start_us)), window_name(start_us));
    Ok(format!("gold_windows/table={table}/{folder}/{table}-{window}.parquet"))
}

/// `20261123T15`; minutes, seconds and microseconds only where they are not 0, so that short windows don't share a name.
pub(crate) fn window_name(start_us: i64) -> String {
    let hour = hour_of(start_us);
    let (year, month, day) = civil(hour.div_euclid(HOURS_A_DAY));
    let within = start_us.rem_euclid(HOUR_US);
    let (minutes, seconds, micros) = (within / 60_000_000, within / 1_000_000 % 60, within % 1_000_000);
    let mut out = format!("{year:04}{month:02}{day:02}T{:02}", hour.rem_euclid(HOURS_A_DAY));
    if within != 0 {
        out += &format!("{minutes:02}");
    }
    if seconds != 0 || micros != 0 {
        out += &format!("{seconds:02}");
    }
    if micros != 0 {
        out += &format!("_{micros:06}");
    }
    out
}

/// A given name (a shard, a table) as one path segment. The one it stands for can be read back from it.
pub(crate) fn name(text: &str) -> Result<String> {
    let out = encoded(text);
    if out.is_empty() || out.len() > SEGMENT_MAX {
        return Err(Fault::config(format!("`{}` cannot name a folder: 1 to {SEGMENT_MAX} bytes", out.escape_debug())));
    }
    Ok(out)
}

/// `country=DE`: one folder of a partitioning by a column's value.
pub(crate) fn value_folder(column: &str, value: Option<&str>) -> String {
    let value = match value {
        None | Some("") => NO_VALUE.to_owned(),
        Some(text) if text.len() > SEGMENT_MAX => LONG_VALUE.to_owned(),
        Some(text) => encoded(text),
    };
    let value = if value.len() > SEGMENT_MAX { LONG_VALUE } else { &value };
    format!("{}={value}", encoded(column))
}

/// Percent-encoding of everything but letters, digits, `_`, `-` and `.`; a dot that leads is encoded too.
fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for (i, byte) in text.bytes().enumerate() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-') || (byte == b'.' && i > 0) {
            out.push(char::from(byte));
        } else {
            out += &format!("%{byte:02X}");
        }
    }
    out
}

/// Year, month and day of a day since 1970 in the proleptic Gregorian calendar: eras of 400 years that start in March.
fn civil(day: i64) -> (i64, i64, i64) {
    const ERA: i64 = 146_097;
    let since = day.saturating_add(719_468);
    let of_era = since.rem_euclid(ERA);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + since.div_euclid(ERA) * 400 + i64::from(month <= 2);
    (year, month, of_year - (153 * shifted + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn folders_and_names_are_what_a_calendar_says(time in -2_000_000_000_000_000i64..253_402_300_799_999_999) {
            let at = chrono::DateTime::from_timestamp_micros(time).expect("in range");
            prop_assert_eq!(hour_folder(hour_of(time)), at.format("dt=%Y-%m-%d/hour=%H").to_string());
            prop_assert_eq!(day_folder(day_of(time)), at.format("dt=%Y-%m-%d").to_string());
            let hour = hour_of(time) * HOUR_US;
            let hour = chrono::DateTime::from_timestamp_micros(hour).expect("in range");
            prop_assert_eq!(window_name(hour.timestamp_micros()), hour.format("%Y%m%dT%H").to_string());
        }

        #[test]
        fn any_value_stays_one_segment_and_different_short_values_never_share_a_folder(a: String, b: String) {
            let (x, y) = (value_folder("c", Some(&a)), value_folder("c", Some(&b)));
            super::super::disk::check_key(&x, sluicebox_actors::model::fault::Kind::Bug).expect("a key");
            prop_assert!(!x.contains('/') && x.len() <= SEGMENT_MAX + 2);
            let long = |folder: &str| folder.ends_with(LONG_VALUE);
            prop_assert!(a == b || x != y || long(&x));
        }
    }

    #[test]
    fn values_are_encoded_as_hive_does() {
        assert_eq!(value_folder("country", Some("DE")), "country=DE");
        assert_eq!(value_folder("country", Some("../../etc")), "country=%2E.%2F..%2Fetc");
        assert_eq!(value_folder("country", Some("Zürich/ Süd")), "country=Z%C3%BCrich%2F%20S%C3%BCd");
        assert_eq!(value_folder("country", None), "country=__HIVE_DEFAULT_PARTITION__");
        assert_eq!(value_folder("country", Some("")), "country=__HIVE_DEFAULT_PARTITION__");
        assert_eq!(value_folder("country", Some(&"x".repeat(129))), "country=__TOO_LONG__");
        assert_eq!(value_folder("country", Some(&"/".repeat(43))), "country=__TOO_LONG__");
        assert_eq!(value_folder("country", Some(&"x".repeat(128))).len(), 136);
    }

    #[test]
    fn windows_shorter_than_an_hour_have_names_of_their_own() {
        let hour = 1_795_446_000_000_000; // 2026-11-23T15:00:00Z
        let names = [(0, "20261123T15"), (900, "20261123T1515"), (930, "20261123T151530")];
        for (seconds, expected) in names {
            assert_eq!(window_name(hour + seconds * 1_000_000), expected);
        }
        assert_eq!(window_name(hour + 1_500_000), "20261123T150001_500000");
        assert_eq!(
            gold_object("hourly", hour, "parquet").expect("a path"),
            "gold/hourly/dt=2026-11-23/hour=15/hourly-20261123T15.parquet"
        );
        assert_eq!(
            gold_window("hourly", hour).expect("a path"),
            "gold_windows/table=hourly/dt=2026-11-23/hour=15/hourly-20261123T15.parquet"
        );
    }

    #[test]
    fn a_name_that_is_no_folder_is_refused_or_encoded() {
        assert!(name("").is_err());
        assert!(name(&"x".repeat(129)).is_err());
        assert_eq!(name("..").expect("encoded"), "%2E.");
        assert_eq!(name("shardId-000000000001").expect("as it is"), "shardId-000000000001");
    }
}
