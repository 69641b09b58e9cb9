//! How often one shard may be read.
//!
//! Kinesis allows 5 GetRecords and 2 MiB a second and shard, shared by all who poll it; an answer of 10 MiB makes the next 5
//! seconds throw (developer guide, "Quotas and limits"). So after each answer we wait for as long as its bytes are worth.
//!
//! Owns: the moment of the next call, back-off after a throttle. Does not own: time and chance (given), waiting (source).

/// Bytes a second and shard.
const BYTES_A_SECOND: u64 = 2 << 20;
/// Longest pause that a single answer can cost: more bytes than that do not fit one.
const LONGEST_PAUSE_US: u64 = 6_000_000;
const FIRST_BACK_OFF_US: u64 = 250_000;
const LONGEST_BACK_OFF_US: u64 = 5_000_000;

/// Pace of one kind of call on one shard. All times are microseconds of one monotonic clock.
#[derive(Clone, Debug)]
pub struct Pacer {
    interval_us: u64,
    next_us: u64,
    strikes: u32,
}

impl Pacer {
    /// At most so many calls a second, at least one.
    pub fn new(calls_a_second: u32) -> Self {
        Self { interval_us: 1_000_000 / u64::from(calls_a_second.max(1)), next_us: 0, strikes: 0 }
    }

    /// At most one call in this time.
    pub fn every(interval_us: u64) -> Self {
        Self { interval_us, next_us: 0, strikes: 0 }
    }

    /// How long to wait before the next call, microseconds.
    pub fn wait_us(&self, now_us: u64) -> u64 {
        self.next_us.saturating_sub(now_us)
    }

    /// A call goes out.
    pub fn called(&mut self, now_us: u64) {
        self.next_us = self.next_us.max(now_us.saturating_add(self.interval_us));
    }

    /// It brought so many bytes.
    pub fn answered(&mut self, now_us: u64, bytes: u64) {
        self.strikes = 0;
        let worth_us = (bytes.saturating_mul(1_000_000) / BYTES_A_SECOND).min(LONGEST_PAUSE_US);
        self.next_us = self.next_us.max(now_us.saturating_add(worth_us));
    }

    /// It was throttled. Waits double from 250 ms to 5 s; half of each is left to `random`, so that readers drift apart.
    pub fn throttled(&mut self, now_us: u64, random: u64) {
        let longest_us = (FIRST_BACK_OFF_US << self.strikes.min(10)).min(LONGEST_BACK_OFF_US);
        self.strikes = self.strikes.saturating_add(1);
        let pause_us = longest_us / 2 + random % (longest_us / 2 + 1);
        self.next_us = self.next_us.max(now_us.saturating_add(pause_us));
    }

    /// It was refused, which its interval makes up for; readers that were refused together drift apart.
    pub fn refused(&mut self, now_us: u64, random: u64) {
        let drift_us = random % (self.interval_us / 4).max(1);
        self.next_us = self.next_us.max(now_us).saturating_add(drift_us);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Copy, Debug)]
    enum Outcome {
        Brought(u64),
        Throttled(u64),
    }

    fn outcomes() -> impl Strategy<Value = Vec<(Outcome, u64)>> {
        let outcome = prop_oneof![(0u64..=10 << 20).prop_map(Outcome::Brought), any::<u64>().prop_map(Outcome::Throttled)];
        prop::collection::vec((outcome, 0u64..300_000), 1..60)
    }

    proptest! {
        // A reader that obeys never makes a sixth call in any second, nor takes more than 2 MiB a second on top of one answer.
        #[test]
        fn who_obeys_stays_within_the_limits(script in outcomes()) {
            let mut pacer = Pacer::new(5);
            let (mut now, mut calls, mut bytes) = (0u64, Vec::new(), Vec::new());
            for (outcome, takes_us) in script {
                let wait = pacer.wait_us(now);
                prop_assert!(wait <= LONGEST_PAUSE_US);
                now += wait;
                pacer.called(now);
                calls.push(now);
                now += takes_us;
                match outcome {
                    Outcome::Brought(brought) => {
                        pacer.answered(now, brought);
                        bytes.push((now, brought));
                    }
                    Outcome::Throttled(random) => pacer.throttled(now, random),
                }
            }
            for call in &calls {
                prop_assert!(calls.iter().filter(|other| (*call..call + 1_000_000).contains(other)).count() <= 5);
            }
            for pair in bytes.windows(2) {
                let (at, brought) = pair[0];
                prop_assert!(pair[1].0 - at >= brought * 1_000_000 / BYTES_A_SECOND);
            }
        }

        #[test]
        fn back_off_grows_within_its_bounds_and_an_answer_ends_it(random in any::<u64>(), strikes in 1u32..40) {
            let mut pacer = Pacer::new(5);
            for strike in 0..strikes {
                let mut struck = pacer.clone();
                struck.throttled(0, random);
                let longest = (250_000u64 << strike.min(5)).min(5_000_000);
                prop_assert!(struck.wait_us(0) >= longest / 2 && struck.wait_us(0) <= 5_000_000);
                pacer.strikes = struck.strikes;
            }
            pacer.answered(0, 0);
            pacer.throttled(0, random);
            prop_assert!((125_000..=250_000).contains(&pacer.wait_us(0)));
        }
    }

    #[test]
    fn a_full_answer_costs_five_seconds() {
        let mut pacer = Pacer::new(5);
        pacer.called(7);
        assert_eq!(pacer.wait_us(7), 200_000);
        pacer.answered(7, 10 << 20);
        assert_eq!(pacer.wait_us(7), 5_000_000);
    }
}
