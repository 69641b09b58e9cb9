//! The number on every message that goes down.
//!
//! Owns: the stamp. Does not own: its check (machines/barrier), its making (toolkit/outlet).

/// Which message this is: asserted at the receiver, so that nothing is lost, doubled or overtaken unseen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stamp {
    /// Generation of the sender.
    pub generation: u64,
    /// Epoch it belongs to.
    pub epoch: u64,
    /// Which input of the receiver: 0 is the shard, 1 and up are the partitions.
    pub input: usize,
    /// Contiguous per (sender, receiver), from 0.
    pub number: u64,
}
