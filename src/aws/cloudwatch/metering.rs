//! From looks at the totals of shards to numbers for CloudWatch.
//!
//! Totals grow by commits and outlive the process; a metric is what this process committed. So each shard comes with the totals
//! under which it was taken, and where it is taken anew, it starts anew: what was committed in between is for others to count.
//!
//! Owns: names, units and meanings of the metrics, the differences. Does not own: the looks (the caller), the calls (metrics).

use std::collections::BTreeMap;

use sluicebox_actors::model::ledger::Counts;
use sluicebox_actors::model::position::ShardId;
use sluicebox_actors::toolkit::board::Since;

/// A unit of CloudWatch's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unit {
    /// Things.
    Count,
    /// Bytes.
    Bytes,
    /// 0 to 100.
    Percent,
    /// Milliseconds.
    Milliseconds,
}

/// A value, or the statistics of several.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Value {
    /// One value.
    One(f64),
    /// Several.
    Many {
        /// How many.
        count: f64,
        /// Their sum.
        sum: f64,
        /// The least.
        min: f64,
        /// The greatest.
        max: f64,
    },
}

impl Value {
    /// Is it a number that CloudWatch takes?
    pub fn is_finite(self) -> bool {
        match self {
            Self::One(value) => value.is_finite(),
            Self::Many { count, sum, min, max } => [count, sum, min, max].into_iter().all(f64::is_finite) && count > 0.0,
        }
    }
}

/// One number.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Datum {
    /// Its name.
    pub name: &'static str,
    /// Its unit.
    pub unit: Unit,
    /// Itself.
    pub value: Value,
}

/// One shard as it is now.
#[derive(Clone, Debug, Default)]
pub struct Look {
    /// Given up: a person has to look.
    pub given_up: bool,
    /// As it was taken.
    pub since: Since,
    /// Totals, since then by commits of this process.
    pub totals: Counts,
    /// Epochs that this process has committed since then.
    pub epochs: u64,
    /// Is there nothing to read?
    pub idle: bool,
    /// How far the last record read lies behind the stream's clock, microseconds.
    pub behind_us: Option<i64>,
    /// The bound of event time, microseconds since 1970; none = not known.
    pub bound_us: Option<i64>,
}

/// What was not sent yet.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    received: u64,
    failed: u64,
    late: u64,
    letters: u64,
    bytes: u64,
    epochs: Epochs,
}

/// How long epochs took, milliseconds.
#[derive(Clone, Copy, Debug, Default)]
struct Epochs {
    count: u64,
    sum: f64,
    min: f64,
    max: f64,
}

#[derive(Clone, Debug)]
struct Seen {
    /// The lease that it was taken under.
    lease: u64,
    totals: Counts,
    epochs: u64,
    /// The last commit, or the last time there was nothing to read.
    since_us: i64,
}

/// All shards, look by look.
#[derive(Clone, Debug, Default)]
pub struct Metering {
    seen: BTreeMap<ShardId, Seen>,
    open: Sums,
    given_up: u64,
    behind_us: Option<i64>,
    bound_us: Option<i64>,
}

impl Metering {
    /// Takes in how all shards are now.
    pub fn look<'a>(&mut self, shards: impl IntoIterator<Item = (&'a ShardId, &'a Look)>, now_us: i64) {
        (self.given_up, self.behind_us, self.bound_us) = (0, None, None);
        for (shard, look) in shards {
            self.given_up += u64::from(look.given_up);
            self.behind_us = self.behind_us.max(look.behind_us);
            self.bound_us = match (self.bound_us, look.bound_us) {
                (Some(least), Some(bound)) => Some(least.min(bound)),
                (known, bound) => known.or(bound),
            };
            if look.since.lease > 0 {
                self.count(shard, look, now_us);
            }
        }
    }

    fn count(&mut self, shard: &ShardId, look: &Look, now_us: i64) {
        let Since { lease, totals, at_us } = &look.since;
        let new = || Seen { lease: *lease, totals: totals.clone(), epochs: 0, since_us: *at_us };
        let seen = self.seen.entry(shard.clone()).or_insert_with(new);
        if seen.lease != *lease {
            *seen = new();
        }
        let (before, after, open) = (&seen.totals, &look.totals, &mut self.open);
        open.received += after.received.saturating_sub(before.received);
        open.failed += after.rejected_total().saturating_sub(before.rejected_total());
        open.late += late(after).saturating_sub(late(before));
        open.letters += after.letters.saturating_sub(before.letters);
        open.bytes += after.bytes.saturating_sub(before.bytes);
        let epochs = look.epochs.saturating_sub(seen.epochs);
        if epochs > 0 {
            let each_ms = (now_us.saturating_sub(seen.since_us).max(0)) as f64 / 1e3 / epochs as f64;
            let times = &mut open.epochs;
            times.min = if times.count == 0 { each_ms } else { times.min.min(each_ms) };
            times.max = times.max.max(each_ms);
            times.sum += each_ms * epochs as f64;
            times.count += epochs;
        }
        if epochs > 0 || look.idle {
            seen.since_us = now_us;
        }
        (seen.totals, seen.epochs) = (look.totals.clone(), look.epochs);
    }

    /// The numbers since the last time they were [`Metering::sent`].
    pub fn data(&self, now_us: i64) -> Vec<Datum> {
        let open = &self.open;
        let mut data = Vec::new();
        let mut one = |name, unit, value| data.push(Datum { name, unit, value });
        let processed = open.received.saturating_sub(open.failed);
        let count = |number: u64| Value::One(number as f64);
        one("RecordsReceived", Unit::Count, count(open.received));
        one("RecordsProcessed", Unit::Count, count(processed));
        one("RecordsFailed", Unit::Count, count(open.failed));
        one("RecordsLate", Unit::Count, count(open.late));
        one("RecordsDeadLettered", Unit::Count, count(open.letters));
        one("BytesProcessed", Unit::Bytes, count(open.bytes));
        if open.received > 0 {
            one("SuccessRate", Unit::Percent, Value::One(100.0 * processed as f64 / open.received as f64));
        }
        if open.epochs.count > 0 {
            let Epochs { count, sum, min, max } = open.epochs;
            one("ProcessingDuration", Unit::Milliseconds, Value::Many { count: count as f64, sum, min, max });
        }
        if let Some(behind_us) = self.behind_us {
            one("IteratorAgeMs", Unit::Milliseconds, Value::One((behind_us.max(0) / 1000) as f64));
        }
        if let Some(bound_us) = self.bound_us {
            one("BoundLagMs", Unit::Milliseconds, Value::One((now_us.saturating_sub(bound_us).max(0) / 1000) as f64));
        }
        one("ShardsQuarantined", Unit::Count, count(self.given_up));
        data
    }

    /// What [`Metering::data`] said is with CloudWatch, or perhaps: it is not said again.
    pub fn sent(&mut self) {
        self.open = Sums::default();
    }
}

fn late(counts: &Counts) -> u64 {
    counts.gold.values().map(|gold| gold.late).sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sluicebox_actors::model::ledger::GoldCounts;

    use super::*;

    fn shard(number: u8) -> ShardId {
        ShardId::new(format!("shard-{number}"))
    }

    fn totals(received: u64, failed: u64) -> Counts {
        let gold = GoldCounts { late: received / 2, ..GoldCounts::default() };
        Counts {
            received,
            bytes: received * 10,
            letters: failed,
            rejected: BTreeMap::from([("decode/invalid_json".to_owned(), failed)]),
            gold: BTreeMap::from([("hourly".to_owned(), gold)]),
            ..Counts::default()
        }
    }

    /// Taken under this lease with so many records, and now it has so many.
    fn look(lease: u64, before: u64, received: u64, failed: u64) -> Look {
        let since = Since { lease, totals: totals(before, 0), at_us: 0 };
        Look { since, totals: totals(received, failed), epochs: received - before, ..Look::default() }
    }

    fn value(data: &[Datum], name: &str) -> Option<f64> {
        let found = data.iter().find(|datum| datum.name == name)?;
        match found.value {
            Value::One(value) => Some(value),
            Value::Many { sum, .. } => Some(sum),
        }
    }

    #[test]
    fn what_was_there_when_a_shard_was_taken_is_not_counted_and_what_came_since_is_from_the_first_look_on() {
        let mut metering = Metering::default();
        metering.look([(&shard(0), &Look::default()), (&shard(1), &look(1, 70, 70, 0))], 0);
        assert_eq!(value(&metering.data(0), "RecordsReceived"), Some(0.0));
        assert_eq!(value(&metering.data(0), "SuccessRate"), None, "nothing of nothing is no rate");
        metering.look([(&shard(0), &look(1, 1000, 1100, 25))], 60_000_000);
        let data = metering.data(60_000_000);
        let expected = [
            ("RecordsReceived", 100.0),
            ("RecordsProcessed", 75.0),
            ("RecordsFailed", 25.0),
            ("RecordsDeadLettered", 25.0),
            ("RecordsLate", 50.0),
            ("BytesProcessed", 1000.0),
            ("SuccessRate", 75.0),
            ("ProcessingDuration", 60_000.0),
            ("ShardsQuarantined", 0.0),
        ];
        for (name, expected) in expected {
            assert_eq!(value(&data, name), Some(expected), "{name}");
        }
        metering.sent();
        assert_eq!(value(&metering.data(0), "RecordsReceived"), Some(0.0));
    }

    #[test]
    fn what_was_not_sent_is_said_again_with_the_rest() {
        let mut metering = Metering::default();
        for received in [0, 10, 30] {
            metering.look([(&shard(0), &look(1, 0, received, 0))], 0);
            let seen = value(&metering.data(0), "RecordsReceived");
            assert_eq!(seen, Some(received as f64));
        }
    }

    #[test]
    fn a_shard_that_was_away_starts_anew_and_nothing_that_was_ours_before_is_forgotten() {
        let mut metering = Metering::default();
        metering.look([(&shard(0), &look(1, 10, 15, 0))], 0);
        // Given up, let go or between two generations: what was committed last counts.
        metering.look([(&shard(0), &Look { given_up: true, ..look(1, 10, 17, 0) })], 0);
        assert_eq!(value(&metering.data(0), "RecordsReceived"), Some(7.0));
        metering.look([(&shard(0), &look(3, 500, 510, 0))], 0);
        assert_eq!(value(&metering.data(0), "RecordsReceived"), Some(17.0), "others made the 483");
        let lost = |received| Look { given_up: true, ..look(3, 500, received, 0) };
        metering.look([(&shard(0), &lost(510)), (&shard(1), &Look { given_up: true, ..Look::default() })], 0);
        assert_eq!(value(&metering.data(0), "ShardsQuarantined"), Some(2.0));
        assert_eq!(value(&metering.data(0), "RecordsReceived"), Some(17.0));
    }

    #[test]
    fn ages_are_those_of_the_shard_that_is_furthest_behind() {
        let mut metering = Metering::default();
        let at = |behind_us, bound_us| Look { behind_us, bound_us, ..Look::default() };
        metering.look([(&shard(0), &at(None, None))], 0);
        assert_eq!(value(&metering.data(0), "IteratorAgeMs"), None);
        let looks = [(&shard(0), &at(Some(5_000), Some(9_000_000))), (&shard(1), &at(Some(7_000), Some(4_000_000)))];
        metering.look(looks, 0);
        let data = metering.data(10_000_000);
        assert_eq!((value(&data, "IteratorAgeMs"), value(&data, "BoundLagMs")), (Some(7.0), Some(6_000.0)));
    }

    #[test]
    fn time_without_anything_to_read_is_no_processing() {
        let mut metering = Metering::default();
        let idle = Look { idle: true, ..look(1, 0, 0, 0) };
        metering.look([(&shard(0), &idle)], 0);
        metering.look([(&shard(0), &idle)], 3_600_000_000);
        metering.look([(&shard(0), &look(1, 0, 2, 0))], 3_602_000_000);
        let data = metering.data(0);
        let found = data.iter().find(|datum| datum.name == "ProcessingDuration").expect("two epochs");
        assert_eq!(found.value, Value::Many { count: 2.0, sum: 2000.0, min: 1000.0, max: 1000.0 });
    }

    proptest! {
        // Totals may do anything, even fall: no number is negative or no number, and sums are those of what was gained.
        #[test]
        fn no_number_is_ever_negative(script in prop::collection::vec((0u8..3, 0u64..3, 0u64..1000, 0u64..1000), 1..60)) {
            let mut metering = Metering::default();
            for (number, lease, received, failed) in script {
                metering.look([(&shard(number), &look(lease, received.min(failed), received, failed))], received as i64 - 500);
                for datum in metering.data(0) {
                    prop_assert!(datum.value.is_finite(), "{datum:?}");
                    let (Value::One(value) | Value::Many { min: value, .. }) = datum.value;
                    prop_assert!(value >= 0.0, "{datum:?}");
                }
            }
        }
    }
}
