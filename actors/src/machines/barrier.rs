//! The in-band barrier at a receiver: order of what comes in, and when an epoch is complete.
//!
//! Owns: the check that stamps are contiguous and of this generation; the set of inputs whose barrier has come. Does not own:
//! what closing an epoch means (writer, dlq, commit).

use std::collections::BTreeMap;

use crate::model::fault::{Fault, Result};
use crate::model::stamp::Stamp;

/// What one receiver knows of its inputs.
#[derive(Debug)]
pub struct Inlet {
    generation: u64,
    next: Vec<u64>,
    epochs: Vec<u64>,
    barriers: BTreeMap<u64, usize>,
}

impl Inlet {
    /// A receiver of this many inputs whose first epoch is `epoch`.
    pub fn new(generation: u64, inputs: usize, epoch: u64) -> Self {
        Self { generation, next: vec![0; inputs], epochs: vec![epoch; inputs], barriers: BTreeMap::new() }
    }

    /// Takes data in.
    pub fn data(&mut self, stamp: Stamp) -> Result<()> {
        let slot = self.next.get_mut(stamp.input).ok_or_else(|| Fault::bug(format!("no input {}", stamp.input)))?;
        if stamp.generation != self.generation || stamp.number != *slot || stamp.epoch != self.epochs[stamp.input] {
            return Err(Fault::bug(format!(
                "out of order: {stamp:?} where generation {}, number {slot}, epoch {} is next",
                self.generation, self.epochs[stamp.input]
            )));
        }
        *slot += 1;
        Ok(())
    }

    /// Takes a barrier in; true when it was the last one of its epoch.
    pub fn barrier(&mut self, stamp: Stamp) -> Result<bool> {
        self.data(stamp)?;
        self.epochs[stamp.input] += 1;
        let came = self.barriers.entry(stamp.epoch).or_default();
        *came += 1;
        let complete = *came == self.next.len();
        if complete {
            self.barriers.remove(&stamp.epoch);
        }
        Ok(complete)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(input: usize, epoch: u64, number: u64) -> Stamp {
        Stamp { generation: 1, epoch, input, number }
    }

    #[test]
    fn an_epoch_closes_with_the_last_inputs_barrier_and_no_input_waits_for_another() {
        let mut inlet = Inlet::new(1, 2, 5);
        assert!(inlet.data(stamp(0, 5, 0)).is_ok());
        assert!(!inlet.barrier(stamp(0, 5, 1)).expect("in order"));
        // Input 0 goes on into epoch 6 while input 1 is still in epoch 5.
        assert!(inlet.data(stamp(0, 6, 2)).is_ok());
        assert!(inlet.data(stamp(1, 5, 0)).is_ok());
        assert!(inlet.barrier(stamp(1, 5, 1)).expect("in order"));
    }

    #[test]
    fn a_lost_doubled_overtaken_or_foreign_message_is_a_bug() {
        for wrong in [stamp(0, 5, 1), stamp(0, 6, 0), stamp(2, 5, 0), Stamp { generation: 2, ..stamp(0, 5, 0) }] {
            assert!(Inlet::new(1, 2, 5).data(wrong).is_err(), "{wrong:?}");
        }
        let mut inlet = Inlet::new(1, 2, 5);
        assert!(inlet.barrier(stamp(0, 5, 0)).is_ok());
        assert!(inlet.data(stamp(0, 5, 1)).is_err(), "data of an epoch after its barrier");
    }
}
