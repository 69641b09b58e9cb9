//! A flag that is raised once and seen by everybody who waits for it.
//!
//! tokio's `watch` would do but for one thing: it wakes its receivers in random order, and a simulated run must be the same run
//! twice. Here whoever has waited longest is woken first.
//!
//! Owns: the flag. Does not own: what it means.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

/// The flag; clones are the same flag.
#[derive(Clone, Debug, Default)]
pub struct Flag(Arc<Raised>);

#[derive(Debug, Default)]
struct Raised {
    raised: AtomicBool,
    waiting: Notify,
}

impl Flag {
    /// From now on it is up.
    pub fn raise(&self) {
        self.0.raised.store(true, Ordering::SeqCst);
        self.0.waiting.notify_waiters();
    }

    /// Is it up?
    pub fn is_raised(&self) -> bool {
        self.0.raised.load(Ordering::SeqCst)
    }

    /// Waits until it is up.
    pub async fn wait(&self) {
        // Made before the look: a flag that is raised in between still wakes it.
        let waiting = self.0.waiting.notified();
        if !self.is_raised() {
            waiting.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[tokio::test]
    async fn everybody_is_woken_in_the_order_of_waiting() {
        for _ in 0..20 {
            let (flag, order, local) = (Flag::default(), Arc::new(Mutex::new(Vec::new())), tokio::task::LocalSet::new());
            for number in 0..8 {
                let (flag, order) = (flag.clone(), order.clone());
                local.spawn_local(async move {
                    flag.wait().await;
                    order.lock().unwrap().push(number);
                });
            }
            let raise = async {
                tokio::task::yield_now().await;
                tokio::task::yield_now().await;
                flag.raise();
            };
            local.run_until(raise).await;
            local.await;
            assert_eq!(*order.lock().unwrap(), (0..8).collect::<Vec<_>>());
            flag.wait().await;
        }
    }
}
