//! How actors send: data under credit, notices upward.
//!
//! Owns: the two ways of sending. Does not own: messages (shells/message).

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use actix::Recipient;
use actix::dev::{Message, SendError, ToEnvelope};
use actix::{Actor, Addr, Handler};

use crate::model::fault::Fault;
use crate::model::stamp::Stamp;
use crate::toolkit::spawn::{Exit, Generation};

/// A way down for data. The mailbox has room for all that the credits allow, so `Full` is a bug of ours; `Closed` means that
/// the receiver has ended and the generation with it.
#[derive(Debug)]
pub struct Outlet<M>
where
    M: Message + Send + 'static,
    M::Result: Send,
{
    to: Recipient<M>,
    generation: Generation,
    from: &'static str,
    input: usize,
    next: Numbering,
}

/// The numbering of all messages from one sender to one receiver, whatever their type.
#[derive(Clone, Debug, Default)]
pub struct Numbering(Arc<AtomicU64>);

impl<M> Outlet<M>
where
    M: Message + Send + 'static,
    M::Result: Send,
{
    /// An outlet of the actor `from`, which is the receiver's input `input`.
    pub fn new(to: Recipient<M>, generation: Generation, from: &'static str, input: usize, next: Numbering) -> Self {
        Self { to, generation, from, input, next }
    }

    /// Sends what `make` makes of the stamp.
    pub fn send(&mut self, epoch: u64, make: impl FnOnce(Stamp) -> M) {
        let number = self.next.0.fetch_add(1, Ordering::Relaxed);
        let stamp = Stamp { generation: self.generation.number(), epoch, input: self.input, number };
        match self.to.try_send(make(stamp)) {
            Ok(()) => {}
            Err(SendError::Full(_)) => {
                let fault = Fault::bug("a mailbox is full although credits bound it: a message travels without a credit");
                self.generation.end(self.from, Exit::Failed(fault));
            }
            Err(SendError::Closed(_)) => self.generation.end(self.from, Exit::Dismissed),
        }
    }
}

/// A way up for notices. They need no bound: each answers something that came down under a credit. A receiver that is gone is
/// on its way out with the whole generation, so nobody misses the notice.
#[derive(Debug)]
pub struct Notices<A: Actor>(Addr<A>);

impl<A: Actor> Notices<A> {
    /// To this actor.
    pub fn new(to: Addr<A>) -> Self {
        Self(to)
    }

    /// Tells it.
    #[expect(clippy::disallowed_methods, reason = "the one place for upward notices: see the type")]
    pub fn tell<M>(&self, message: M)
    where
        A: Handler<M>,
        A::Context: ToEnvelope<A, M>,
        M: Message + Send + 'static,
        M::Result: Send,
    {
        self.0.do_send(message);
    }
}

impl<A: Actor> Clone for Notices<A> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// A way to whichever generation of an actor runs: it may be away for a while, and then learns from the rows what it missed.
#[derive(Debug)]
pub struct Door<M>(Arc<Mutex<Option<Recipient<M>>>>)
where
    M: Message + Send + 'static,
    M::Result: Send;

impl<M> Door<M>
where
    M: Message + Send + 'static,
    M::Result: Send,
{
    /// Nobody home.
    pub fn closed() -> Self {
        Self(Arc::new(Mutex::new(None)))
    }

    /// From now on messages go here.
    pub fn open(&self, to: Recipient<M>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(to);
    }

    /// Nobody home any more.
    pub fn close(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Tells whoever is home.
    #[expect(clippy::disallowed_methods, reason = "a notice between generations: whoever misses it reads the rows at its start")]
    pub fn tell(&self, message: M) {
        if let Some(to) = self.0.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            to.do_send(message);
        }
    }
}

impl<M> Clone for Door<M>
where
    M: Message + Send + 'static,
    M::Result: Send,
{
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}
