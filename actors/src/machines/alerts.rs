//! How often people are told the same thing.
//!
//! Owns: one alert per name and subject in five minutes, and how many were left out since. Does not own: the clock (given), the
//! telling (ports::alerts).

use std::collections::BTreeMap;

/// Time between two alerts of one name and subject, microseconds.
pub const QUIET_US: i64 = 300_000_000;

/// Names and subjects that are remembered.
const KNOWN_MAX: usize = 1024;

/// What was told, and when.
#[derive(Clone, Debug, Default)]
pub struct Gate {
    known: BTreeMap<(String, String), Told>,
}

#[derive(Clone, Copy, Debug)]
struct Told {
    at_us: i64,
    left_out: u64,
}

impl Gate {
    /// Shall it be told now? Then: how many equal ones were left out since the last. None = not now.
    pub fn admit(&mut self, name: &str, subject: &str, now_us: i64) -> Option<u64> {
        let key = (name.to_owned(), subject.to_owned());
        // A clock that is set back must not silence anything.
        let quiet = |told: &Told| (0..QUIET_US).contains(&now_us.saturating_sub(told.at_us));
        if let Some(told) = self.known.get_mut(&key).filter(|told| quiet(told)) {
            told.left_out = told.left_out.saturating_add(1);
            return None;
        }
        let left_out = self.known.remove(&key).map_or(0, |told| told.left_out);
        if self.known.len() >= KNOWN_MAX {
            let oldest = self.known.iter().min_by_key(|(_, told)| told.at_us).map(|(key, _)| key.clone());
            oldest.and_then(|key| self.known.remove(&key));
        }
        self.known.insert(key, Told { at_us: now_us, left_out: 0 });
        Some(left_out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_same_is_told_once_in_five_minutes_with_the_number_that_was_left_out() {
        let mut gate = Gate::default();
        assert_eq!(gate.admit("quarantine", "shard-1", 0), Some(0));
        assert_eq!(gate.admit("quarantine", "shard-1", QUIET_US - 1), None);
        assert_eq!(gate.admit("quarantine", "shard-2", QUIET_US - 1), Some(0), "another subject");
        assert_eq!(gate.admit("gap", "shard-1", QUIET_US - 1), Some(0), "another name");
        assert_eq!(gate.admit("quarantine", "shard-1", QUIET_US), Some(1));
        assert_eq!(gate.admit("quarantine", "shard-1", 0), Some(0), "the clock was set back");
    }

    proptest! {
        #[test]
        fn everything_is_told_or_counted(script in prop::collection::vec((0u8..8, 0i64..40_000_000), 1..300)) {
            let (mut gate, mut now, mut told, mut counted) = (Gate::default(), 0, 0, 0);
            let mut last = [None; 8];
            for (subject, step) in &script {
                now += step;
                let Some(left_out) = gate.admit("a", &subject.to_string(), now) else { continue };
                told += 1;
                counted += left_out;
                let before: Option<i64> = last[usize::from(*subject)].replace(now);
                prop_assert!(before.is_none_or(|before| now - before >= QUIET_US));
            }
            let open: u64 = gate.known.values().map(|told| told.left_out).sum();
            prop_assert_eq!(told + counted + open, script.len() as u64);
        }
    }

    #[test]
    fn memory_is_bounded_and_the_oldest_is_forgotten_first() {
        let mut gate = Gate::default();
        for subject in 0..5000 {
            gate.admit("a", &subject.to_string(), subject);
        }
        assert_eq!(gate.known.len(), KNOWN_MAX);
        assert_eq!((gate.admit("a", "4999", 5000), gate.admit("a", "0", 5000)), (None, Some(0)));
    }
}
