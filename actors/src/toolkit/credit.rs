//! Byte credits: the one bound on what a shard holds in memory.
//!
//! A shard fetches only while it holds a credit; the credit then travels inside the messages that carry the data and is
//! released by `Drop` when the last of them is done, so no path can forget to give it back.
//!
//! Owns: the budget and the credit. Does not own: how much to fetch (machines/shard), when data counts as staged
//! (machines/writer).

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::model::fault::{Fault, Result};

/// Smallest charge of one fetch. It bounds the NUMBER of messages in flight too: budget / 64 KiB.
pub const CHARGE_MIN: usize = 64 << 10;

/// Bytes that one shard may hold between its source and its staged files.
#[derive(Clone, Debug)]
pub struct Budget {
    free: Arc<Semaphore>,
    total: usize,
}

impl Budget {
    /// A budget of so many bytes, at least one minimal charge and at most 4 GiB.
    pub fn new(bytes: usize) -> Self {
        let total = bytes.clamp(CHARGE_MIN, u32::MAX as usize);
        Self { free: Arc::new(Semaphore::new(total)), total }
    }

    /// Its size in bytes.
    pub fn total(&self) -> usize {
        self.total
    }

    /// Bytes in use.
    pub fn in_use(&self) -> usize {
        self.total - self.free.available_permits()
    }

    /// Most messages that can be in flight between two actors, plus room for barriers.
    pub fn messages_max(&self) -> usize {
        self.total / CHARGE_MIN + 16
    }

    /// Waits for this many bytes. A wish above the whole budget gets the whole budget: one record may be larger than it.
    pub async fn claim(&self, bytes: usize) -> Result<Credit> {
        let bytes = bytes.clamp(CHARGE_MIN, self.total);
        let permit = self.free.clone().acquire_many_owned(bytes as u32).await;
        let permit = permit.map_err(|_| Fault::bug("the byte budget was closed while in use"))?;
        Ok(Credit { permit: Arc::new(permit), bytes })
    }
}

/// A claim on the budget, shared by all messages that carry parts of one fetch.
#[derive(Clone, Debug)]
pub struct Credit {
    // Held for its Drop.
    permit: Arc<OwnedSemaphorePermit>,
    bytes: usize,
}

impl Credit {
    /// Its size in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes in another claim, for a record larger than the fetch was planned for.
    pub fn join(mut self, other: Credit) -> Self {
        if let (Some(mine), Ok(theirs)) = (Arc::get_mut(&mut self.permit), Arc::try_unwrap(other.permit)) {
            mine.merge(theirs);
            self.bytes += other.bytes;
        }
        self
    }

    /// Gives back what a fetch did not use. Only the sole holder can shrink; others keep the larger charge.
    pub fn shrink_to(mut self, bytes: usize) -> Self {
        let keep = bytes.max(CHARGE_MIN);
        if let Some(permit) = Arc::get_mut(&mut self.permit)
            && self.bytes > keep
        {
            drop(permit.split(self.bytes - keep));
            self.bytes = keep;
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_credit_is_free_again_when_the_last_message_that_carries_it_is_gone() {
        let budget = Budget::new(1 << 20);
        let credit = budget.claim(1 << 20).await.expect("open").shrink_to(300 << 10);
        assert_eq!(budget.in_use(), 300 << 10);
        let other = credit.clone();
        drop(credit);
        assert_eq!(budget.in_use(), 300 << 10);
        drop(other);
        assert_eq!(budget.in_use(), 0);
    }

    #[tokio::test]
    async fn a_wish_above_the_budget_waits_for_the_whole_budget_and_no_longer() {
        let budget = Budget::new(1 << 20);
        assert_eq!(budget.claim(10 << 20).await.expect("open").bytes(), 1 << 20);
    }
}
