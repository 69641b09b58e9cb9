//! A steady number of records a second.
//!
//! Owns: when records are due. Does not own: the waiting (put).

use std::time::Duration;

/// When the next records are due.
pub(super) struct Pace {
    rate: f64,
    started_us: i64,
    last_us: i64,
    sent: u64,
}

impl Pace {
    /// Starts now.
    pub(super) fn new(rate: f64, now_us: i64) -> Self {
        Self { rate: rate.max(1e-6), started_us: now_us, last_us: now_us, sent: 0 }
    }

    /// How long these records must still wait; none = they are due now and counted as sent.
    pub(super) fn wait(&mut self, records: usize, now_us: i64) -> Option<Duration> {
        // A clock that was set back takes the start along, so that nothing waits for the lost time.
        self.started_us -= (self.last_us - now_us).max(0);
        self.last_us = now_us;
        let due_us = (self.sent as f64 / self.rate * 1e6) as i64;
        let elapsed_us = now_us - self.started_us;
        if elapsed_us < due_us {
            return Some(Duration::from_micros(due_us.abs_diff(elapsed_us)));
        }
        self.sent += records as u64;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_set_back_does_not_hold_the_pace_up() {
        let mut pace = Pace::new(10.0, 1_000_000_000);
        assert_eq!(pace.wait(1, 1_000_000_000), None);
        assert_eq!(pace.wait(1, 5_000), Some(Duration::from_millis(100)));
        assert_eq!(pace.wait(1, 105_000), None);
    }
}
