//! The storm breaker: when a stream of bad records looks like a bad deployment, stop instead of emptying it into the DLQ.
//!
//! Owns: the share of failures among a shard's last records. Does not own: the pause and its alert (machines/shard, pipeline).

use std::collections::{BTreeMap, VecDeque};

/// Settings of the breaker.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BreakerConfig {
    /// Off = every bad record becomes a letter, however many there are.
    pub enabled: bool,
    /// Trips above this share of failures, 0 to 1.
    pub share: f64,
    /// Looks at this many last records; never trips before that many were seen.
    pub window: u64,
}

/// Records that failed decode or contract, by reason.
pub type Failures = BTreeMap<&'static str, u64>;

/// Why it tripped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Trip {
    /// Records that failed.
    pub failed: u64,
    /// Of so many.
    pub records: u64,
    /// The reason that most of them failed for.
    pub reason: &'static str,
    /// How many did.
    pub of_reason: u64,
}

/// Counts over a shard's last records. Slices are its grain: the window holds at least `window` records, and no slice more
/// than that needs.
#[derive(Debug)]
pub struct Breaker {
    config: BreakerConfig,
    slices: VecDeque<(u64, Failures)>,
    records: u64,
    failed: Failures,
}

impl Breaker {
    /// Nothing seen yet.
    pub fn new(config: BreakerConfig) -> Self {
        Self { config, slices: VecDeque::new(), records: 0, failed: Failures::new() }
    }

    /// Takes in one slice: records, and which failed decode or contract.
    pub fn saw(&mut self, records: u64, failed: Failures) -> Option<Trip> {
        if !self.config.enabled || records == 0 {
            return None;
        }
        self.records += records;
        for (reason, count) in &failed {
            *self.failed.entry(reason).or_default() += count;
        }
        self.slices.push_back((records, failed));
        while let Some((oldest, _)) = self.slices.front()
            && self.records - oldest >= self.config.window
            && let Some((oldest, failures)) = self.slices.pop_front()
        {
            self.records -= oldest;
            for (reason, count) in failures {
                *self.failed.entry(reason).or_default() -= count;
            }
        }
        let failed: u64 = self.failed.values().sum();
        let (reason, of_reason) = self.failed.iter().map(|(reason, count)| (*reason, *count)).max_by_key(|(_, count)| *count)?;
        let tripped = self.records >= self.config.window && failed as f64 > self.config.share * self.records as f64;
        tripped.then_some(Trip { failed, records: self.records, reason, of_reason })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: BreakerConfig = BreakerConfig { enabled: true, share: 0.2, window: 1_000 };

    fn failures(count: u64) -> Failures {
        Failures::from([("wrong_type", count)])
    }

    #[test]
    fn it_trips_above_the_share_and_not_at_it() {
        let mut breaker = Breaker::new(CONFIG);
        assert_eq!(breaker.saw(1_000, failures(200)), None);
        let trip = Trip { failed: 201, records: 1_000, reason: "wrong_type", of_reason: 201 };
        assert_eq!(breaker.saw(1_000, failures(201)), Some(trip));
    }

    #[test]
    fn it_names_the_commonest_reason_of_the_window() {
        let mut breaker = Breaker::new(CONFIG);
        assert_eq!(breaker.saw(600, Failures::from([("enum", 100)])), None, "the window is not full");
        breaker.saw(600, Failures::from([("missing_field", 70), ("wrong_type", 80)]));
        let trip = breaker.saw(600, Failures::from([("missing_field", 80), ("wrong_type", 60)])).expect("290 of 1,200");
        assert_eq!((trip.failed, trip.records, trip.reason, trip.of_reason), (290, 1_200, "missing_field", 150));
    }

    #[test]
    fn it_never_trips_before_the_window_is_full() {
        let mut breaker = Breaker::new(CONFIG);
        assert_eq!(breaker.saw(999, failures(999)), None);
        assert_eq!(breaker.saw(1, failures(0)).map(|trip| (trip.failed, trip.records)), Some((999, 1_000)));
    }

    #[test]
    fn old_failures_are_forgotten() {
        let mut breaker = Breaker::new(CONFIG);
        breaker.saw(600, failures(200));
        assert_eq!(breaker.saw(600, failures(0)), None, "200 of 1,200");
        assert_eq!(breaker.saw(600, failures(200)), None, "200 of 1,200: the first slice is gone");
    }

    #[test]
    fn switched_off_it_never_trips() {
        let mut breaker = Breaker::new(BreakerConfig { enabled: false, ..CONFIG });
        assert_eq!(breaker.saw(1_000_000, failures(1_000_000)), None);
    }
}
