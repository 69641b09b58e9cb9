//! Time that passes, for pauses between calls.
//!
//! Owns: a monotonic reading in microseconds, which the wall clock of the machine cannot move. Does not own: any time that a
//! result depends on.

use tokio::time::Instant;

/// Counts from when it was made.
#[derive(Clone, Copy, Debug)]
pub struct Elapsed(Instant);

impl Elapsed {
    /// Starts at zero.
    #[expect(clippy::disallowed_methods, reason = "pauses only, and the time of tests that pause it")]
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Microseconds since the start.
    pub fn us(self) -> u64 {
        u64::try_from(self.0.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}
