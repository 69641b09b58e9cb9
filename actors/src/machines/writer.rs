//! When buffered rows must go to the staged files, so that their credits become free.
//!
//! Owns: the bytes held by open files. Does not own: the files (ports::DataFiles), barriers (machines/barrier).

/// Credits of rows that are buffered in open files.
#[derive(Debug)]
pub struct HeldCredits<C> {
    held: Vec<C>,
    bytes: usize,
    limit: usize,
}

impl<C> HeldCredits<C> {
    /// Half the budget: the other half keeps the shard reading while this one is written out.
    pub fn new(budget: usize) -> Self {
        Self { held: Vec::new(), bytes: 0, limit: budget / 2 }
    }

    /// Holds a credit; true when everything buffered must be written out now.
    #[must_use]
    pub fn hold(&mut self, credit: C, bytes: usize) -> bool {
        self.bytes += bytes;
        self.held.push(credit);
        self.bytes >= self.limit
    }

    /// The buffers are in the staged files: all credits are free.
    pub fn release(&mut self) {
        self.held.clear();
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_written_out_when_half_of_the_budget_waits_in_them() {
        let mut held = HeldCredits::new(1_000);
        assert!(!held.hold((), 499));
        assert!(held.hold((), 1));
        held.release();
        assert!(!held.hold((), 499), "released credits don't count");
    }
}
