//! The storm breaker: when a stream of bad records looks like a bad deployment, stop instead of emptying it into the DLQ.
//!
//! Owns: the share of failures among a shard's last records. Does not own: the pause and its alert (machines/shard, pipeline).

use std::collections::VecDeque;

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

/// Counts over a shard's last records. Slices are its grain: the window holds at least `window` records, and no slice more
/// than that needs.
#[derive(Debug)]
pub struct Breaker {
    config: BreakerConfig,
    slices: VecDeque<(u64, u64)>,
    records: u64,
    failed: u64,
}

impl Breaker {
    /// Nothing seen yet.
    pub fn new(config: BreakerConfig) -> Self {
        Self { config, slices: VecDeque::new(), records: 0, failed: 0 }
    }

    /// Takes in one slice: records, and how many failed decode or contract. Some = tripped, with (failed, records).
    pub fn saw(&mut self, records: u64, failed: u64) -> Option<(u64, u64)> {
        if !self.config.enabled || records == 0 {
            return None;
        }
        self.slices.push_back((records, failed));
        self.records += records;
        self.failed += failed;
        while let Some((oldest, bad)) = self.slices.front().copied()
            && self.records - oldest >= self.config.window
        {
            self.slices.pop_front();
            self.records -= oldest;
            self.failed -= bad;
        }
        let tripped = self.records >= self.config.window && self.failed as f64 > self.config.share * self.records as f64;
        tripped.then_some((self.failed, self.records))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: BreakerConfig = BreakerConfig { enabled: true, share: 0.2, window: 1_000 };

    #[test]
    fn it_trips_above_the_share_and_not_at_it() {
        let mut breaker = Breaker::new(CONFIG);
        assert_eq!(breaker.saw(1_000, 200), None);
        assert_eq!(breaker.saw(1_000, 201), Some((201, 1_000)));
    }

    #[test]
    fn it_never_trips_before_the_window_is_full() {
        let mut breaker = Breaker::new(CONFIG);
        assert_eq!(breaker.saw(999, 999), None);
        assert_eq!(breaker.saw(1, 0), Some((999, 1_000)));
    }

    #[test]
    fn old_failures_are_forgotten() {
        let mut breaker = Breaker::new(CONFIG);
        breaker.saw(600, 200);
        assert_eq!(breaker.saw(600, 0), None, "200 of 1,200");
        assert_eq!(breaker.saw(600, 200), None, "200 of 1,200: the first slice is gone");
    }

    #[test]
    fn switched_off_it_never_trips() {
        assert_eq!(Breaker::new(BreakerConfig { enabled: false, ..CONFIG }).saw(1_000_000, 1_000_000), None);
    }
}
