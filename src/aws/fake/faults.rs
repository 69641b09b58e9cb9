//! What shall go wrong, and how often each operation was asked.
//!
//! Owns: the plan of faults of one fake and its counters. Does not own: what a fault looks like on the wire (server, dynamo,
//! s3).

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};

/// One thing that goes wrong with one call.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fault {
    /// Nothing is done and the connection is closed: the caller cannot know.
    DropRequest,
    /// It is done and the connection is closed: the caller cannot know.
    DropResponse,
    /// Nothing is done; the answer is this HTTP status with this error code.
    Status(u16, &'static str),
    /// It is done; the answer comes this much later.
    Delay(Duration),
    /// It is done; the answer comes when the test lets it ([`FaultPlan::release`]).
    Hold,
    /// Nothing is done; the answer is how the service throttles.
    Throttle,
    /// Nothing is done; the answer is status 200 with an error in its body (S3: CompleteMultipartUpload, CopyObject).
    BodyError(&'static str),
}

#[derive(Default)]
struct State {
    next: BTreeMap<String, VecDeque<Option<Fault>>>,
    calls: BTreeMap<String, u64>,
    down: bool,
    ignore_conditions: bool,
}

/// The plan of one fake, to be changed while it runs. Operations are named as AWS names them (`UpdateItem`, `PutObject`).
#[derive(Default)]
pub struct FaultPlan {
    state: Mutex<State>,
    answers: Gate,
}

/// Answers that are held back; one permit lets one of them go.
struct Gate(Semaphore);

impl Default for Gate {
    fn default() -> Self {
        Self(Semaphore::new(0))
    }
}

impl FaultPlan {
    fn state(&self) -> MutexGuard<'_, State> {
        // Every change of the state is one statement: a panic elsewhere leaves it whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next `times` calls of an operation go wrong so, after those that were ordered before.
    pub fn next(&self, operation: &str, times: usize, fault: Fault) {
        let mut state = self.state();
        state.next.entry(operation.to_owned()).or_default().extend(std::iter::repeat_n(Some(fault), times));
    }

    /// The next `times` calls of an operation go well, after what was ordered before.
    pub fn spare(&self, operation: &str, times: usize) {
        let mut state = self.state();
        state.next.entry(operation.to_owned()).or_default().extend(std::iter::repeat_n(None, times));
    }

    /// Whatever was ordered and not met yet is forgotten: from now on calls go well.
    pub fn clear(&self) {
        self.state().next.clear();
    }

    /// Every connection is closed without an answer until told otherwise.
    pub fn down(&self, down: bool) {
        self.state().down = down;
    }

    /// Conditions of writes are accepted and not looked at, as some stores do.
    pub fn ignore_conditions(&self, ignore: bool) {
        self.state().ignore_conditions = ignore;
    }

    pub(crate) fn ignores_conditions(&self) -> bool {
        self.state().ignore_conditions
    }

    /// How often an operation was asked, those that went wrong included.
    pub fn calls(&self, operation: &str) -> u64 {
        self.state().calls.get(operation).copied().unwrap_or(0)
    }

    /// Faults ordered and not met yet: a test that orders one wants to see it happen.
    pub fn left(&self) -> usize {
        self.state().next.values().flatten().flatten().count()
    }

    /// Lets one answer go that is held back, or that will be.
    pub fn release(&self) {
        self.answers.0.add_permits(1);
    }

    /// Waits to be let go.
    pub(crate) async fn held(&self) {
        // It is never closed.
        self.answers.0.acquire().await.map(SemaphorePermit::forget).unwrap_or_default();
    }

    /// Counts a call and says what goes wrong with it.
    pub(crate) fn meet(&self, operation: &str) -> Option<Fault> {
        let mut state = self.state();
        *state.calls.entry(operation.to_owned()).or_default() += 1;
        match state.down {
            true => Some(Fault::DropRequest),
            false => state.next.get_mut(operation).and_then(VecDeque::pop_front).flatten(),
        }
    }
}
