//! How actors send: data under credit, notices upward.
//!
//! Owns: the two ways of sending. Does not own: messages (shells/message).

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
    next: u64,
}

impl<M> Outlet<M>
where
    M: Message + Send + 'static,
    M::Result: Send,
{
    /// An outlet of the actor `from`, which is the receiver's input `input`.
    pub fn new(to: Recipient<M>, generation: Generation, from: &'static str, input: usize) -> Self {
        Self { to, generation, from, input, next: 0 }
    }

    /// Sends what `make` makes of the stamp.
    pub fn send(&mut self, epoch: u64, make: impl FnOnce(Stamp) -> M) {
        let stamp = Stamp { generation: self.generation.number(), epoch, input: self.input, number: self.next };
        self.next += 1;
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
