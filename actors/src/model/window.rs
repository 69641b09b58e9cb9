//! Event time: windows, bounds and the one judge of lateness.
//!
//! Owns: integer arithmetic on microseconds since 1970 (UTC). Does not own: which bound an epoch opens with (machines).

use serde::{Deserialize, Serialize};

/// Microseconds in an hour.
pub const HOUR_US: i64 = 3_600_000_000;

/// What an epoch knows of event time when it opens: every later record of the shard is judged against it. Never falls.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Bound(pub i64);

impl Bound {
    /// Nothing known yet: nothing is late.
    pub const UNKNOWN: Self = Self(i64::MIN);

    /// The bound that follows from the largest event time seen.
    pub fn from_event(event_us: i64, disorder_us: i64) -> Self {
        Self(event_us.saturating_sub(disorder_us))
    }
}

/// Half-open `[start, end)` in microseconds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash, Serialize, Deserialize)]
pub struct Window {
    /// First microsecond that belongs to it.
    pub start_us: i64,
    /// First microsecond that doesn't.
    pub end_us: i64,
}

/// Tumbling windows of one Gold table, aligned to 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Windowing {
    /// Length of a window; positive.
    pub size_us: i64,
    /// How long after its end a window still takes records.
    pub lateness_us: i64,
}

/// Where a record stands to a window, decided by its epoch's opening bound alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The window was open.
    OnTime,
    /// The window had ended but still takes records.
    Late,
    /// The window takes no more: the record becomes a letter of this table.
    TooLate,
}

impl Windowing {
    /// The window of an event. Works before 1970 as after.
    pub fn window_of(&self, event_us: i64) -> Window {
        let start_us = event_us.div_euclid(self.size_us).saturating_mul(self.size_us);
        Window { start_us, end_us: start_us.saturating_add(self.size_us) }
    }

    /// The window that starts here.
    pub fn starting(&self, start_us: i64) -> Window {
        Window { start_us, end_us: start_us.saturating_add(self.size_us) }
    }

    /// The judge of lateness.
    pub fn verdict(&self, window: Window, bound: Bound) -> Verdict {
        if self.is_sealed(window, bound) {
            Verdict::TooLate
        } else if self.is_closed(window, bound) {
            Verdict::Late
        } else {
            Verdict::OnTime
        }
    }

    /// Has the bound passed the window's end?
    pub fn is_closed(&self, window: Window, bound: Bound) -> bool {
        window.end_us <= bound.0
    }

    /// Has the bound passed the window's end and the allowed lateness?
    pub fn is_sealed(&self, window: Window, bound: Bound) -> bool {
        window.end_us.saturating_add(self.lateness_us) <= bound.0
    }
}

/// Is this event further ahead of its own arrival than allowed? Arrival is the stream's clock, so a replay decides alike.
pub fn is_future(event_us: i64, arrival_us: i64, max_future_us: i64) -> bool {
    event_us > arrival_us.saturating_add(max_future_us)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_event_lies_in_exactly_its_window(event in -4_000_000_000_000_000i64..253_402_300_800_000_000, h in 1i64..48) {
            let hours = h;
            let windowing = Windowing { size_us: hours * HOUR_US, lateness_us: 0 };
            let window = windowing.window_of(event);
            prop_assert!(window.start_us <= event && event < window.end_us);
            prop_assert_eq!(window.start_us.rem_euclid(hours * HOUR_US), 0);
            prop_assert_eq!(windowing.window_of(window.end_us).start_us, window.end_us);
        }

        #[test]
        fn a_rising_bound_never_makes_a_record_less_late(event in 0i64..1_000_000, a in 0i64..2_000_000, b in 0i64..2_000_000) {
            let windowing = Windowing { size_us: 1_000, lateness_us: 5_000 };
            let window = windowing.window_of(event);
            let rank = |bound| windowing.verdict(window, Bound(bound)) as u8;
            prop_assert!(rank(a.min(b)) <= rank(a.max(b)));
        }
    }
}
