//! Time that passes, for pauses between calls.
//!
//! Owns: a monotonic reading in microseconds, which the wall clock of the machine cannot move, and waiting by it. Does not own:
//! any time that a result depends on.

use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

/// How a reader waits between its calls. A port, so that a test sees every pause and waits for none.
#[async_trait]
pub trait Pauses: Send + Sync {
    /// Microseconds since some moment in the past; never goes back.
    fn elapsed_us(&self) -> u64;
    /// Returns when so many microseconds have passed.
    async fn pause(&self, micros: u64);
}

/// The machine's own time; counts from when it was made.
#[derive(Clone, Copy, Debug)]
pub struct Elapsed(Instant);

impl Elapsed {
    /// Starts at zero.
    #[expect(clippy::disallowed_methods, reason = "pauses only, and the time of tests that pause it")]
    pub fn start() -> Self {
        Self(Instant::now())
    }
}

#[async_trait]
impl Pauses for Elapsed {
    fn elapsed_us(&self) -> u64 {
        u64::try_from(self.0.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    async fn pause(&self, micros: u64) {
        tokio::time::sleep(Duration::from_micros(micros)).await;
    }
}
