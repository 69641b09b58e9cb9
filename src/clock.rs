//! The one place that asks the machine for the time and for chance.
//!
//! Owns: the wall clock and random names. Does not own: any decision that follows from them.

use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

use sluicebox_actors::ports::Clock;

/// The machine's own clock and random source.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl SystemClock {
    /// As the port.
    pub fn shared() -> Arc<dyn Clock> {
        Arc::new(Self)
    }
}

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the one file that may")]
    fn now_us(&self) -> i64 {
        chrono::Utc::now().timestamp_micros()
    }

    // Every `RandomState` carries fresh keys from the system's random source, and hashing nothing under them gives 64 bits.
    fn random(&self) -> u64 {
        std::collections::hash_map::RandomState::new().build_hasher().finish()
    }
}
