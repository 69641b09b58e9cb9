//! Waiting out the world's faults.
//!
//! Owns: the pauses between tries of one operation. Does not own: how often a whole generation restarts (machines/restart).

use std::sync::Arc;
use std::time::Duration;

use crate::model::fault::Fault;
use crate::ports::Clock;

const FIRST_MS: u64 = 50;
const LONGEST_MS: u64 = 5_000;

/// Exponential pauses with jitter, from 50 ms to 5 s.
pub struct Pause {
    clock: Arc<dyn Clock>,
    next_ms: u64,
    tries: u64,
}

impl Pause {
    /// The first pause is the shortest.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, next_ms: FIRST_MS, tries: 0 }
    }

    /// As if so many pauses were over: for tries that are counted elsewhere.
    pub fn after_tries(clock: Arc<dyn Clock>, tries: u32) -> Self {
        let next_ms = FIRST_MS.saturating_mul(1 << tries.min(16)).min(LONGEST_MS);
        Self { clock, next_ms, tries: u64::from(tries) }
    }

    /// Says once what is being waited for, then waits.
    pub async fn after(&mut self, doing: &str, fault: &Fault) {
        self.tries += 1;
        if self.tries == 1 || self.tries.is_multiple_of(20) {
            tracing::warn!(tries = self.tries, %fault, "{doing}: trying again");
        }
        let jitter = self.clock.random() % (self.next_ms / 2 + 1);
        tokio::time::sleep(Duration::from_millis(self.next_ms / 2 + jitter)).await;
        self.next_ms = (self.next_ms * 2).min(LONGEST_MS);
    }
}
