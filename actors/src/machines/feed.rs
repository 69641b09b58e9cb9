//! Handing Gold and letters on to sinks: what is due, in which order, and when a sink is too far behind.
//!
//! Nothing is queued: what is due follows from what is published and from the rows that say what each sink has.
//!
//! Owns: the backlog's limit. Does not own: windows (gold), letters (letters), the sinks and their rows (shells/feed).

pub mod gold;
pub mod letters;

/// A limit that is told once when it is passed, and once when it is well below again.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    most: u64,
    passed: bool,
}

/// What changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Turn {
    /// Beyond the limit from now on.
    Behind,
    /// At half of it or below again.
    CaughtUp,
}

impl Limit {
    /// Beyond this much it is too much.
    pub fn new(most: u64) -> Self {
        Self { most, passed: false }
    }

    /// Is it passed?
    pub fn is_passed(&self) -> bool {
        self.passed
    }

    /// With this much now, does anything change?
    pub fn turn(&mut self, now: u64) -> Option<Turn> {
        match self.passed {
            false if now > self.most => {
                self.passed = true;
                Some(Turn::Behind)
            }
            true if now <= self.most / 2 => {
                self.passed = false;
                Some(Turn::CaughtUp)
            }
            true | false => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_told_once_when_passed_and_once_when_half_of_it_is_left() {
        let mut limit = Limit::new(10);
        let turns: Vec<_> = [10, 11, 12, 6, 5, 4, 11].into_iter().map(|now| limit.turn(now)).collect();
        assert_eq!(turns, [None, Some(Turn::Behind), None, None, Some(Turn::CaughtUp), None, Some(Turn::Behind)]);
    }
}
