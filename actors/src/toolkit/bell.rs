//! Hints for somebody who has other ways to find out: what is not heard is found in the rows.
//!
//! Owns: the hints that nobody has taken yet, one per key, and their bound. Does not own: truth.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

/// Hints that wait at most; beyond, all are dropped and the listener reads everything.
const MOST: usize = 1 << 14;

/// A bell with one listener; clones are the same bell.
#[derive(Debug)]
pub struct Bell<K, V>(Arc<Inner<K, V>>);

#[derive(Debug)]
struct Inner<K, V> {
    heard: Mutex<Heard<K, V>>,
    rung: Notify,
}

/// What was heard since the last time.
#[derive(Debug)]
pub struct Heard<K, V> {
    /// The newest hint of each key.
    pub hints: BTreeMap<K, V>,
    /// There were more, and they are lost.
    pub missed: bool,
}

impl<K: Ord, V> Default for Bell<K, V> {
    fn default() -> Self {
        Self(Arc::new(Inner { heard: Mutex::new(Heard::nothing()), rung: Notify::new() }))
    }
}

impl<K, V> Clone for Bell<K, V> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K: Ord, V> Heard<K, V> {
    fn nothing() -> Self {
        Self { hints: BTreeMap::new(), missed: false }
    }
}

impl<K: Ord, V> Bell<K, V> {
    /// Something is new.
    pub fn ring(&self, key: K, hint: V) {
        let mut heard = self.0.heard.lock().unwrap_or_else(PoisonError::into_inner);
        if heard.hints.len() >= MOST && !heard.hints.contains_key(&key) {
            *heard = Heard { hints: BTreeMap::new(), missed: true };
        }
        heard.hints.insert(key, hint);
        drop(heard);
        // Kept if nobody waits right now.
        self.0.rung.notify_one();
    }

    /// What was heard since this was asked last.
    pub fn take(&self) -> Heard<K, V> {
        std::mem::replace(&mut *self.0.heard.lock().unwrap_or_else(PoisonError::into_inner), Heard::nothing())
    }

    /// Waits until it rings, or has rung since the last wait.
    pub async fn wait(&self) {
        self.0.rung.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_newest_hint_of_a_key_is_heard_once_and_a_ring_before_the_wait_counts() {
        let bell = Bell::default();
        bell.ring("a", 1);
        bell.clone().ring("a", 2);
        bell.wait().await;
        let heard = bell.take();
        assert_eq!((heard.hints, heard.missed), (BTreeMap::from([("a", 2)]), false));
        assert!(bell.take().hints.is_empty());
    }

    #[test]
    fn hints_beyond_the_bound_are_missed_and_that_is_told() {
        let bell = Bell::default();
        (0..=MOST).for_each(|key| bell.ring(key, ()));
        let heard = bell.take();
        assert_eq!((heard.hints.len(), heard.missed), (1, true));
        assert!(!bell.take().missed);
    }
}
