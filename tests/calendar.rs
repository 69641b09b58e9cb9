//! Goal: an hour of Gold is an hour of UTC, whatever the calendar does and wherever the program runs.

use std::collections::BTreeMap;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde_json::json;

use super::support::site::Site;

/// Events as they are written, and the hour that each lies in: the last moment of a leap day, of a year, the hour that a clock
/// jumps over, and the one that it passes twice.
const EVENTS: [(&str, &str); 10] = [
    ("2024-02-29T23:59:59.999999Z", "2024-02-29T23:00:00Z"),
    ("2024-03-01T00:00:00Z", "2024-03-01T00:00:00Z"),
    ("2024-12-31T23:59:59.999999Z", "2024-12-31T23:00:00Z"),
    ("2025-01-01T01:00:00+01:00", "2025-01-01T00:00:00Z"),
    ("2026-03-29T01:59:59+01:00", "2026-03-29T00:00:00Z"),
    ("2026-03-29T03:00:00+02:00", "2026-03-29T01:00:00Z"),
    ("2026-10-25T02:30:00+02:00", "2026-10-25T00:00:00Z"),
    ("2026-10-25T02:59:59+02:00", "2026-10-25T00:00:00Z"),
    ("2026-10-25T02:00:00+01:00", "2026-10-25T01:00:00Z"),
    ("2026-10-25T02:30:00+01:00", "2026-10-25T01:00:00Z"),
];

fn hours(zone: &str) -> BTreeMap<String, u64> {
    let site = Site::empty().env("TZ", zone);
    site.put(EVENTS.iter().map(|(time, _)| {
        let user = "00000000-0000-4000-8000-000000000001";
        let event = json!({"eventType": "click", "userId": user, "timestamp": time, "sessionId": "s", "properties": {}});
        let at: DateTime<Utc> = time.parse().unwrap();
        (Bytes::from(event.to_string()), at.timestamp_micros())
    }));
    site.drain();
    site.ran(&["audit"]).expect(0, "audit");
    let sql = "SELECT window_start, events FROM gold_hourly_total";
    let rows = site.answers(sql).into_iter();
    rows.map(|row| (row["window_start"].as_str().unwrap().to_owned(), row["events"].as_u64().unwrap())).collect()
}

#[test]
fn leap_days_ends_of_years_and_hours_that_clocks_skip_or_repeat_are_hours_of_utc_in_every_zone() {
    let mut expected = BTreeMap::new();
    for (_, hour) in EVENTS {
        *expected.entry(hour.to_owned()).or_default() += 1;
    }
    for zone in ["UTC", "Europe/Berlin", "Pacific/Apia"] {
        assert_eq!(hours(zone), expected, "{zone}");
    }
}
