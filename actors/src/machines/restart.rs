//! How soon a generation that failed is replaced, and when it is not.
//!
//! Owns: backoff, intensity, quarantine. Does not own: jitter's randomness (given), the restart itself (pipeline).

use std::collections::VecDeque;

/// Settings of the restart policy, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestartConfig {
    /// First pause.
    pub backoff_min_us: i64,
    /// Longest pause.
    pub backoff_max_us: i64,
    /// So many restarts …
    pub intensity: u32,
    /// … within this time, and the next failure is the last.
    pub period_us: i64,
}

/// What follows from a failure.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Start anew after this pause.
    Restart {
        /// The pause.
        after_us: i64,
    },
    /// Too many failures: leave the shard alone until a person has looked.
    Quarantine,
}

/// Failures of one shard.
#[derive(Debug)]
pub struct Restarts {
    config: RestartConfig,
    failures: VecDeque<i64>,
    in_a_row: u32,
    total: u64,
}

impl Restarts {
    /// None yet.
    pub fn new(config: RestartConfig) -> Self {
        Self { config, failures: VecDeque::new(), in_a_row: 0, total: 0 }
    }

    /// Restarts so far.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The generation made progress: the next pause is short again. Its failures still count towards the intensity.
    pub fn progressed(&mut self) {
        self.in_a_row = 0;
    }

    /// A generation ended because the world is at fault: an outage is waited out however long it takes, and says nothing about
    /// us.
    pub fn waited(&mut self, random: u64) -> i64 {
        self.total += 1;
        self.pause_us(random)
    }

    /// A generation failed. `random` spreads the pauses of shards that fail together.
    pub fn failed(&mut self, now_us: i64, random: u64) -> Verdict {
        while self.failures.front().is_some_and(|at| now_us.saturating_sub(*at) > self.config.period_us) {
            self.failures.pop_front();
        }
        if self.failures.len() as u32 >= self.config.intensity {
            return Verdict::Quarantine;
        }
        self.failures.push_back(now_us);
        self.total += 1;
        Verdict::Restart { after_us: self.pause_us(random) }
    }

    fn pause_us(&mut self, random: u64) -> i64 {
        let doubled = self.config.backoff_min_us.saturating_mul(1i64.checked_shl(self.in_a_row.min(40)).unwrap_or(i64::MAX));
        self.in_a_row += 1;
        let pause = doubled.min(self.config.backoff_max_us).max(1);
        // Half of the pause is fixed, half is chance.
        pause / 2 + (random % (pause as u64 / 2 + 1)) as i64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: RestartConfig =
        RestartConfig { backoff_min_us: 200_000, backoff_max_us: 30_000_000, intensity: 5, period_us: 60_000_000 };

    #[test]
    fn pauses_double_up_to_the_maximum_and_shrink_after_progress() {
        let mut restarts = Restarts::new(RestartConfig { intensity: 100, ..CONFIG });
        let pause = |restarts: &mut Restarts| match restarts.failed(0, u64::MAX) {
            Verdict::Restart { after_us } => after_us,
            Verdict::Quarantine => panic!("not yet"),
        };
        for expected in [200_000i64, 400_000, 800_000] {
            let after = pause(&mut restarts);
            assert!((expected / 2..=expected).contains(&after), "{after}");
        }
        (0..60).for_each(|_| assert!(pause(&mut restarts) <= 30_000_000));
        restarts.progressed();
        assert!(pause(&mut restarts) <= 200_000);
    }

    #[test]
    fn an_outage_is_never_the_last_failure_and_its_pauses_grow() {
        let mut restarts = Restarts::new(CONFIG);
        let pauses: Vec<_> = (0..100).map(|_| restarts.waited(0)).collect();
        assert!(pauses[0] <= 200_000 && pauses[99] >= 15_000_000);
        assert!(matches!(restarts.failed(0, 0), Verdict::Restart { .. }), "an outage does not count towards the intensity");
    }

    #[test]
    fn the_failure_after_the_intensity_is_the_last_and_old_ones_do_not_count() {
        let mut restarts = Restarts::new(CONFIG);
        for _ in 0..5 {
            assert!(matches!(restarts.failed(0, 0), Verdict::Restart { .. }));
        }
        assert_eq!(restarts.failed(60_000_000, 0), Verdict::Quarantine);
        assert!(matches!(restarts.failed(60_000_001, 0), Verdict::Restart { .. }));
    }
}
