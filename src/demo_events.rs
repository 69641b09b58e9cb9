//! The demo's clickstream: made-up events with everything that real streams have, the same for the same seed.
//!
//! Most events come a few seconds after they happened. About 0.5 % are late by one to 100 minutes, 0.02 % by three to five hours,
//! and 0.1 % of each kind of poison is mixed in, so that a run shows late windows, dead letters and a ledger that adds up.
//!
//! Owns: what the events look like. Does not own: the contract that judges them (config), where they go (input, stream).

use bytes::{BufMut, Bytes, BytesMut};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const MINUTE_US: u64 = 60_000_000;
const HOUR_US: u64 = 60 * MINUTE_US;
const DAY_US: i64 = 24 * HOUR_US as i64;
const USERS: u64 = 100_000;
// Events are cut from shared blocks: one allocation for thousands of them.
const BLOCK: usize = 256 << 10;

/// Events the demo makes unless told otherwise.
pub const DEMO_COUNT: u64 = 2_000_000;
/// Time they are spread over, microseconds: six hours.
pub const DEMO_SPAN_US: i64 = 6 * HOUR_US as i64;

const PAGES: [&str; 12] = [
    "/",
    "/search",
    "/cart",
    "/checkout",
    "/account",
    "/help",
    "/products/kettle",
    "/products/lamp",
    "/products/teapot",
    "/products/desk",
    "/blog/why-we-measure",
    "/blog/exactly-once",
];
const REFERRERS: [&str; 6] = [
    "https://search.example/",
    "https://news.example/today",
    "https://social.example/post/7",
    "https://mail.example/",
    "https://shop.example/",
    "",
];
const CURRENCIES: [&str; 4] = ["EUR", "USD", "GBP", "SEK"];

/// One kind of record that is no event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Poison {
    NotJson,
    Truncated,
    InvalidUtf8,
    MissingField,
    WrongType,
    BadUuid,
    BadTimestamp,
    UnknownType,
    NumberRange,
    DuplicateKey,
    Future,
    RawNul,
}

const POISONS: [Poison; 12] = [
    Poison::NotJson,
    Poison::Truncated,
    Poison::InvalidUtf8,
    Poison::MissingField,
    Poison::WrongType,
    Poison::BadUuid,
    Poison::BadTimestamp,
    Poison::UnknownType,
    Poison::NumberRange,
    Poison::DuplicateKey,
    Poison::Future,
    Poison::RawNul,
];

/// The generator: (record, arrival in microseconds since 1970), arrivals never falling.
#[derive(Debug)]
pub struct DemoEvents {
    rng: StdRng,
    seed: u64,
    made: u64,
    count: u64,
    start_us: i64,
    span_us: i64,
    block: BytesMut,
    // Days since 1970 and their `YYYY-MM-DD`: the date changes seldom.
    day: (i64, [u8; 10]),
}

impl DemoEvents {
    /// `count` events that arrive evenly from `start_us` on, over `span_us`.
    pub fn new(seed: u64, count: u64, start_us: i64, span_us: i64) -> Self {
        Self {
            rng: StdRng::seed_from_u64(seed),
            seed,
            made: 0,
            count,
            start_us,
            span_us: span_us.max(0),
            block: BytesMut::new(),
            day: (i64::MIN, *b"0000-00-00"),
        }
    }

    fn below(&mut self, end: u64) -> u64 {
        below(self.rng.next_u64(), end)
    }

    fn event(&mut self, arrival_us: i64) -> Bytes {
        let dice = self.below(10_000);
        let poison = POISONS.get((dice / 10) as usize).copied();
        // Two draws taken together lean to small delays: most events are a second behind, some four.
        let delay_us = match dice {
            9_998.. => 3 * HOUR_US + 5 * MINUTE_US + self.below(115 * MINUTE_US),
            9_948..9_998 => MINUTE_US + self.below(99 * MINUTE_US),
            _ => self.below(2_000_000).max(20_000) * (1 + self.below(10) / 8),
        };
        let event_us = match poison {
            Some(Poison::Future) => arrival_us + DAY_US,
            Some(_) | None => arrival_us.saturating_sub_unsigned(delay_us),
        };
        self.write(event_us, poison);
        if self.block.capacity() < BLOCK / 8 {
            let written = self.block.split();
            self.block = BytesMut::with_capacity(BLOCK);
            return written.freeze();
        }
        self.block.split().freeze()
    }

    fn write(&mut self, event_us: i64, poison: Option<Poison>) {
        if poison == Some(Poison::NotJson) {
            self.block.put_slice(b"GET /favicon.ico HTTP/1.1 200");
            return;
        }
        // The cube of a uniform draw: a tenth of the users makes almost half of the events.
        let draw = (self.rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        let user = (draw * draw * draw * USERS as f64) as u64;
        let kind = match (self.below(100), poison) {
            (_, Some(Poison::NumberRange)) => "purchase",
            (_, Some(Poison::UnknownType)) => "hover",
            (0..70, _) => "page_view",
            (70..92, _) => "click",
            (92..98, _) => "purchase",
            (_, _) => "signup",
        };
        self.block.put_slice(b"{\"eventType\":\"");
        self.block.put_slice(kind.as_bytes());
        if poison == Some(Poison::DuplicateKey) {
            self.block.put_slice(b"\",\"eventType\":\"click");
        }
        self.block.put_slice(b"\",\"userId\":\"");
        match poison {
            Some(Poison::BadUuid) => self.block.put_slice(b"user-4711"),
            Some(_) | None => self.write_uuid(user),
        }
        match poison {
            Some(Poison::MissingField) => self.block.put_u8(b'"'),
            Some(Poison::BadTimestamp) => self.block.put_slice(b"\",\"timestamp\":\"yesterday at noon\""),
            Some(Poison::WrongType) => self.block.put_slice(b"\",\"timestamp\":true"),
            Some(_) | None => {
                self.block.put_slice(b"\",\"timestamp\":\"");
                self.write_time(event_us);
                self.block.put_u8(b'"');
            }
        }
        self.block.put_slice(b",\"sessionId\":\"");
        match poison {
            Some(Poison::InvalidUtf8) => self.block.put_slice(b"s-\xff\xfe"),
            Some(Poison::RawNul) => self.block.put_slice(b"s-\0"),
            Some(_) | None => {
                // A session lasts an hour of its user.
                self.block.put_slice(b"s-");
                write_hex(&mut self.block, mix(self.seed ^ user ^ ((event_us as u64 / HOUR_US) << 20)), 16);
            }
        }
        self.write_properties(kind, poison);
    }

    fn write_properties(&mut self, kind: &str, poison: Option<Poison>) {
        let (page, referrer) = (self.below(PAGES.len() as u64), self.below(REFERRERS.len() as u64));
        self.block.put_slice(b"\",\"properties\":{\"page\":\"");
        self.block.put_slice(PAGES[page as usize].as_bytes());
        if poison == Some(Poison::Truncated) {
            return;
        }
        self.block.put_slice(b"\",\"referrer\":\"");
        self.block.put_slice(REFERRERS[referrer as usize].as_bytes());
        self.block.put_u8(b'"');
        if kind == "purchase" {
            self.block.put_slice(b",\"amount\":");
            if poison == Some(Poison::NumberRange) {
                self.block.put_slice(b"99999999999999999999.99");
            } else {
                let cents = 199 + self.below(200) * self.below(200);
                write_decimal(&mut self.block, cents / 100, 1);
                self.block.put_u8(b'.');
                write_decimal(&mut self.block, cents % 100, 2);
            }
            let currency = self.below(CURRENCIES.len() as u64);
            self.block.put_slice(b",\"currency\":\"");
            self.block.put_slice(CURRENCIES[currency as usize].as_bytes());
            self.block.put_u8(b'"');
        }
        self.block.put_slice(b"}}");
    }

    /// A version 4 UUID that belongs to this user of this seed.
    fn write_uuid(&mut self, user: u64) {
        let high = mix(self.seed ^ user);
        let low = mix(high ^ user);
        write_hex(&mut self.block, high >> 32, 8);
        self.block.put_u8(b'-');
        write_hex(&mut self.block, high >> 16, 4);
        self.block.put_slice(b"-4");
        write_hex(&mut self.block, high, 3);
        self.block.put_u8(b'-');
        write_hex(&mut self.block, (low >> 48) & 0x3fff | 0x8000, 4);
        self.block.put_u8(b'-');
        write_hex(&mut self.block, low, 12);
    }

    /// RFC 3339 with milliseconds and `Z`.
    fn write_time(&mut self, time_us: i64) {
        let day = time_us.div_euclid(DAY_US);
        if self.day.0 != day {
            self.day = (day, date(day));
        }
        let ms = time_us.rem_euclid(DAY_US) as u64 / 1000;
        self.block.put_slice(&self.day.1);
        for (mark, value, digits) in
            [(b'T', ms / 3_600_000, 2), (b':', ms / 60_000 % 60, 2), (b':', ms / 1000 % 60, 2), (b'.', ms % 1000, 3)]
        {
            self.block.put_u8(mark);
            write_decimal(&mut self.block, value, digits);
        }
        self.block.put_u8(b'Z');
    }
}

impl Iterator for DemoEvents {
    type Item = (Bytes, i64);

    fn next(&mut self) -> Option<Self::Item> {
        if self.made >= self.count {
            return None;
        }
        let share = i128::from(self.span_us) * i128::from(self.made) / i128::from(self.count);
        let arrival_us = self.start_us + share as i64;
        self.made += 1;
        Some((self.event(arrival_us), arrival_us))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = usize::try_from(self.count - self.made).ok();
        (left.unwrap_or(usize::MAX), left)
    }
}

fn below(random: u64, end: u64) -> u64 {
    ((u128::from(random) * u128::from(end)) >> 64) as u64
}

// The finalizer of SplitMix64: spreads neighbours over all 64 bits.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// The lowest `digits` hexadecimal digits.
fn write_hex(out: &mut BytesMut, value: u64, digits: u32) {
    let mut text = [0; 16];
    for (i, digit) in text.iter_mut().enumerate() {
        *digit = b"0123456789abcdef"[(value >> (60 - 4 * i)) as usize & 15];
    }
    out.put_slice(&text[16 - digits as usize..]);
}

/// Decimal, filled up with zeros to `digits`.
fn write_decimal(out: &mut BytesMut, mut value: u64, digits: usize) {
    let mut text = [b'0'; 20];
    let mut first = text.len();
    while value > 0 || first > text.len() - digits {
        first -= 1;
        text[first] = b'0' + (value % 10) as u8;
        value /= 10;
    }
    out.put_slice(&text[first..]);
}

/// `YYYY-MM-DD` of a day counted from 1970, Gregorian, by the calendar's 400-year cycle of 146,097 days that starts in March.
fn date(day: i64) -> [u8; 10] {
    let shifted = day + 719_468;
    let cycle = shifted.div_euclid(146_097);
    let in_cycle = shifted.rem_euclid(146_097);
    let year_of_cycle = (in_cycle - in_cycle / 1_460 + in_cycle / 36_524 - in_cycle / 146_096) / 365;
    let day_of_year = in_cycle - (365 * year_of_cycle + year_of_cycle / 4 - year_of_cycle / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = (year_of_cycle + cycle * 400 + i64::from(month <= 2)).clamp(0, 9999);
    let digit = |value: i64| b'0' + value.rem_euclid(10) as u8;
    let (thousands, hundreds, tens) = (digit(year / 1000), digit(year / 100), digit(year / 10));
    [thousands, hundreds, tens, digit(year), b'-', digit(month / 10), digit(month), b'-', digit(day / 10), digit(day)]
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap};

    use super::*;

    const START_US: i64 = 1_772_323_200_000_000;

    fn sample(count: u64) -> Vec<(Bytes, i64)> {
        DemoEvents::new(7, count, START_US, DEMO_SPAN_US).collect()
    }

    #[test]
    fn a_seed_gives_the_same_bytes_and_another_seed_others() {
        assert_eq!(sample(500), sample(500));
        assert_ne!(sample(500), DemoEvents::new(8, 500, START_US, DEMO_SPAN_US).collect::<Vec<_>>());
    }

    #[test]
    fn arrivals_rise_over_the_span_and_no_more() {
        let events = sample(1000);
        assert_eq!((events.len(), events[0].1), (1000, START_US));
        assert!(events.windows(2).all(|pair| pair[0].1 < pair[1].1));
        assert!(events[999].1 < START_US + DEMO_SPAN_US);
    }

    /// What an event is, judged by serde and chrono.
    fn judge(data: &[u8], arrival_us: i64) -> Result<(String, i64), &'static str> {
        if data.contains(&0) {
            return Err("nul");
        }
        let text = std::str::from_utf8(data).map_err(|_| "utf8")?;
        if text.matches("\"eventType\"").count() > 1 {
            return Err("duplicate key");
        }
        let event: serde_json::Value = serde_json::from_str(text).map_err(|error| if error.is_eof() { "cut" } else { "json" })?;
        let field = |name: &str| event.get(name).ok_or("missing");
        let kind = field("eventType")?.as_str().ok_or("type")?.to_owned();
        if !["page_view", "click", "purchase", "signup"].contains(&&*kind) {
            return Err("kind");
        }
        let user = uuid::Uuid::parse_str(field("userId")?.as_str().ok_or("type")?).map_err(|_| "uuid")?;
        assert_eq!((user.get_version_num(), user.get_variant()), (4, uuid::Variant::RFC4122));
        let time = chrono::DateTime::parse_from_rfc3339(field("timestamp")?.as_str().ok_or("type")?).map_err(|_| "time")?;
        if time.timestamp_micros() > arrival_us {
            return Err("future");
        }
        assert!(field("sessionId")?.is_string() && field("properties")?.is_object());
        if kind == "purchase" {
            let digits = text.split("\"amount\":").nth(1).expect("an amount").split(',').next().expect("digits");
            assert_eq!(digits.split_once('.').expect("a point").1.len(), 2);
            if digits.len() > 18 {
                return Err("range");
            }
        }
        Ok((kind, arrival_us - time.timestamp_micros()))
    }

    #[test]
    fn the_mixture_is_what_the_description_says() {
        let events = sample(200_000);
        let mut poison: BTreeMap<&str, u64> = BTreeMap::new();
        let mut kinds: BTreeMap<String, u64> = BTreeMap::new();
        let (mut late, mut too_late) = (0, 0);
        for (data, arrival_us) in &events {
            match judge(data, *arrival_us) {
                Err(reason) => *poison.entry(reason).or_default() += 1,
                Ok((kind, delay_us)) => {
                    *kinds.entry(kind).or_default() += 1;
                    late += u64::from((MINUTE_US as i64..2 * HOUR_US as i64).contains(&delay_us));
                    too_late += u64::from(delay_us > 3 * HOUR_US as i64);
                    assert!(delay_us >= 0 && (delay_us < 10_000_000 || delay_us >= MINUTE_US as i64), "{delay_us}");
                }
            }
        }
        assert_eq!(poison.len(), POISONS.len(), "{poison:?}");
        assert!(poison.values().all(|count| (100..300).contains(count)), "{poison:?}");
        assert_eq!(kinds.len(), 4, "{kinds:?}");
        assert!((700..1300).contains(&late) && (15..80).contains(&too_late), "{late} {too_late}");
    }

    #[test]
    fn few_users_make_many_events() {
        let mut users: HashMap<Vec<u8>, u64> = HashMap::new();
        for (data, _) in sample(100_000) {
            if let Some(at) = memchr::memmem::find(&data, b"userId\":\"") {
                *users.entry(data[at + 9..].iter().take(36).copied().collect()).or_default() += 1;
            }
        }
        let mut counts: Vec<_> = users.into_values().collect();
        counts.sort_unstable();
        let top: u64 = counts.iter().rev().take(10_000).sum();
        assert!(counts.len() > 25_000 && top > 45_000, "{} users, the top 10,000 made {top}", counts.len());
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        for day in (-1000..2_000_000).step_by(97).chain([0, 58, 59, 60, 11_016, 11_017, 10_956]) {
            let expected = chrono::NaiveDate::from_epoch_days(day).expect("a day").format("%Y-%m-%d").to_string();
            assert_eq!(std::str::from_utf8(&date(i64::from(day))).expect("digits"), expected);
        }
    }
}
