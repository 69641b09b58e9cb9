//! When a record of a file is said to have arrived.
//!
//! A recorded stream keeps its own lateness only if its arrivals are put with it. A record whose arrival can't be read, or lies
//! in the future, takes that of its neighbour: one bad record must not move the clock of a shard, which never falls again.
//!
//! Owns: reading arrivals and filling the holes. Does not own: event time (the contract), the shard's clock (stream).

use std::str::FromStr;

use chrono::DateTime;
use sonic_rs::JsonValueTrait;

use super::json_path::JsonPath;

/// Where the arrival of a record comes from.
pub enum Arrival<'a> {
    /// The stream's clock.
    Now,
    /// A member of the record.
    Field(ArrivalField),
    /// The event time, by the pipeline's own reading: microseconds since 1970.
    Event(&'a dyn Fn(&[u8]) -> Option<i64>),
}

/// A member that holds an arrival: `path` (RFC 3339 text) or `path:s`, `:ms`, `:us`, `:ns` (a number since 1970, also as text).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ArrivalField {
    path: JsonPath,
    // Microseconds a unit as (multiply, divide); none = RFC 3339.
    unit: Option<(i64, i64)>,
}

impl FromStr for ArrivalField {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (path, unit) = match text.rsplit_once(':') {
            None => (text, None),
            Some((path, "s")) => (path, Some((1_000_000, 1))),
            Some((path, "ms")) => (path, Some((1_000, 1))),
            Some((path, "us")) => (path, Some((1, 1))),
            Some((path, "ns")) => (path, Some((1, 1_000))),
            Some((_, other)) => return Err(format!("`{other}` is not a unit of time: take s, ms, us or ns")),
        };
        Ok(Self { path: path.parse()?, unit })
    }
}

impl ArrivalField {
    fn read(&self, data: &[u8]) -> Option<i64> {
        let value = self.path.find(data)?;
        let text = value.as_str().unwrap_or_else(|| value.as_raw_str());
        match self.unit {
            None => DateTime::parse_from_rfc3339(text).ok().map(|time| time.timestamp_micros()),
            Some((multiply, divide)) => match text.parse::<i64>() {
                Ok(whole) => whole.checked_mul(multiply).map(|time| time / divide),
                // A fraction of a second, as approximateArrivalTimestamp is written.
                Err(_not_whole) => {
                    let time = text.parse::<f64>().ok()? * multiply as f64 / divide as f64;
                    (time.is_finite() && time.abs() < 9e18).then_some(time as i64)
                }
            },
        }
    }
}

/// Reads arrivals and fills the holes.
pub(super) struct Arrivals<'a> {
    from: &'a Arrival<'a>,
    last: Option<i64>,
    unknown: u64,
}

impl<'a> Arrivals<'a> {
    pub(super) fn new(from: &'a Arrival<'a>) -> Self {
        Self { from, last: None, unknown: 0 }
    }

    /// Records so far whose own arrival could not be used.
    pub(super) fn unknown(&self) -> u64 {
        self.unknown
    }

    /// The arrival that the record names, if it is a time between 1970 and now.
    pub(super) fn read(&self, data: &[u8], now_us: i64) -> Option<i64> {
        let arrival = match self.from {
            Arrival::Now => return None,
            Arrival::Field(field) => field.read(data),
            Arrival::Event(read) => read(data),
        };
        arrival.filter(|arrival| (0..=now_us).contains(arrival))
    }

    /// Fills the holes of one batch: with the arrival before, at the start with the first one behind.
    pub(super) fn fill<'b>(&mut self, batch: impl Iterator<Item = &'b mut Option<i64>>) {
        if matches!(self.from, Arrival::Now) {
            return;
        }
        let mut waiting = Vec::new();
        for arrival in batch {
            match arrival {
                Some(known) => self.last = Some(*known),
                None => {
                    self.unknown += 1;
                    *arrival = self.last;
                }
            }
            match arrival {
                Some(known) => {
                    let known = *known;
                    waiting.drain(..).for_each(|hole: &mut Option<i64>| *hole = Some(known));
                }
                None => waiting.push(arrival),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(field: &str, data: &str) -> Option<i64> {
        Arrivals::new(&Arrival::Field(field.parse().expect("a field"))).read(data.as_bytes(), i64::MAX)
    }

    #[test]
    fn times_are_text_or_a_number_with_its_unit() {
        assert_eq!(read("t", r#"{"t":"1970-01-01T01:00:01.5+01:00"}"#), Some(1_500_000));
        assert_eq!(read("a.t:s", r#"{"a":{"t":1.5}}"#), Some(1_500_000));
        assert_eq!(read("t:ms", r#"{"t":1500}"#), Some(1_500_000));
        assert_eq!(read("t:us", r#"{"t":"1500"}"#), Some(1_500));
        assert_eq!(read("t:ns", r#"{"t":1700000000123456789}"#), Some(1_700_000_000_123_456));
        for nothing in [r#"{"t":"yesterday"}"#, r#"{"t":-5}"#, "{}", "", r#"{"t":1e300}"#, r#"{"t":9223372036854775807}"#] {
            assert_eq!(read("t:ms", nothing), None, "{nothing}");
        }
        assert!("t:min".parse::<ArrivalField>().is_err());
    }

    #[test]
    fn a_hole_takes_the_arrival_before_it_and_at_the_start_the_first_one_behind() {
        let source = Arrival::Event(&|_| None);
        let mut arrivals = Arrivals::new(&source);
        let mut batch = [None, None, Some(5), None, Some(7)];
        arrivals.fill(batch.iter_mut());
        assert_eq!(batch, [Some(5), Some(5), Some(5), Some(5), Some(7)]);
        let mut batch = [None, Some(9)];
        arrivals.fill(batch.iter_mut());
        assert_eq!((batch, arrivals.unknown()), ([Some(7), Some(9)], 4));
    }

    #[test]
    fn a_time_in_the_future_is_not_an_arrival() {
        let source = Arrival::Event(&|_| Some(11));
        assert_eq!(Arrivals::new(&source).read(b"", 10), None);
        assert_eq!(Arrivals::new(&source).read(b"", 11), Some(11));
    }
}
