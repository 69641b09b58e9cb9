//! Watched spawn: run one actor to its end and report how it ended.
//!
//! actix's own `Supervisor` restarts on `stop()` only, never on a panic, and keeps the broken state (actix 0.13.5,
//! supervisor.rs). Here the actor runs inside a task of its own, so that a panic arrives as a `JoinError`; the actor is built
//! inside that task, so that a panic in its constructor is seen too. After a panic actix still calls `stopped()`: no actor of
//! ours acts there.
//!
//! Owns: spawning, killing and the exit of one actor; the first fault of a generation. Does not own: what follows from an exit
//! (pipeline).

use std::sync::{Arc, Mutex, PoisonError};

use actix::dev::channel::{AddressReceiver, channel};
use actix::{Actor, Addr, Context};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinError;

use crate::model::fault::{Fault, Kind};
use crate::toolkit::flag::Flag;

/// How an actor ended.
#[derive(Clone, Debug)]
pub enum Exit {
    /// Its shard has ended, or it was told to finish and has.
    Finished,
    /// Killed with its generation, or its neighbour was gone.
    Dismissed,
    /// Somebody newer owns the shard.
    Fenced(Fault),
    /// A fault it could not handle.
    Failed(Fault),
    /// It panicked; the text is the panic's, which never holds payload.
    Panicked(String),
}

impl Exit {
    /// The exit a fault obliges.
    pub fn from_fault(fault: Fault) -> Self {
        match fault.kind() {
            Kind::Fenced => Self::Fenced(fault),
            Kind::Retry | Kind::Poison | Kind::Config | Kind::Corrupt | Kind::Bug => Self::Failed(fault),
        }
    }
}

/// What all actors of one generation share: the kill switch, the first exit, and who still runs.
#[derive(Clone, Debug)]
pub struct Generation {
    number: u64,
    ender: Ender,
    // Every watched actor holds a clone; `recv` ends when the last is gone.
    #[expect(dead_code, reason = "held for its Drop")]
    alive: mpsc::Sender<()>,
}

/// Ends a generation from outside: whoever holds it is none of its actors, and nobody waits for it to go.
#[derive(Clone, Debug, Default)]
pub struct Ender {
    first: Arc<Mutex<Option<(&'static str, Exit)>>>,
    kill: Flag,
}

/// The supervisor's end of a generation.
#[derive(Debug)]
pub struct Watch {
    generation: Generation,
    gone: mpsc::Receiver<()>,
}

impl Generation {
    /// A new generation and the end that watches it.
    pub fn new(number: u64) -> (Self, Watch) {
        let (alive, gone) = mpsc::channel(1);
        let generation = Self { number, ender: Ender::default(), alive };
        (generation.clone(), Watch { generation, gone })
    }

    /// Its number.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Ends the generation for this reason, unless it is ending already: the first fault wins, its consequences are silent.
    /// That a neighbour is gone is always a consequence, even where it is noticed before the neighbour's own end is.
    pub fn end(&self, actor: &'static str, exit: Exit) {
        self.ender.end(actor, exit);
    }

    /// Has it been told to end? Data handlers ask this first.
    pub fn is_ending(&self) -> bool {
        self.ender.kill.is_raised()
    }

    /// For those who may end it without being part of it.
    pub fn ender(&self) -> Ender {
        self.ender.clone()
    }
}

impl Ender {
    /// As [`Generation::end`].
    pub fn end(&self, actor: &'static str, exit: Exit) {
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*first, None | Some((_, Exit::Dismissed))) {
            *first = Some((actor, exit));
        }
        drop(first);
        self.kill.raise();
    }
}

impl Watch {
    /// Waits for the first exit, kills the rest, waits until none of its actors runs any more, and tells the first exit.
    pub async fn ended(self) -> (&'static str, Exit) {
        let Watch { generation, mut gone } = self;
        let ender = generation.ender();
        ender.kill.wait().await;
        drop(generation);
        while gone.recv().await.is_some() {}
        let first = ender.first.lock().unwrap_or_else(PoisonError::into_inner).take();
        first.unwrap_or(("pipeline", Exit::Dismissed))
    }
}

/// Where an actor runs.
#[derive(Clone, Debug)]
pub enum Place {
    /// On the current thread's `LocalSet` (tests and simulation).
    Here,
    /// On this arbiter's thread.
    Arbiter(actix::ArbiterHandle),
}

/// Starts `make()` with a mailbox of `capacity` messages, watched by `generation`.
pub fn spawn_watched<A>(
    place: &Place,
    generation: &Generation,
    name: &'static str,
    capacity: usize,
    make: impl FnOnce() -> A + Send + 'static,
) -> Addr<A>
where
    A: Actor<Context = Context<A>>,
{
    let (sender, receiver) = channel(capacity);
    spawn_watched_with(place, generation, name, receiver, make);
    Addr::new(sender)
}

/// Like [`spawn_watched`], for an actor whose mailbox exists already.
pub fn spawn_watched_with<A>(
    place: &Place,
    generation: &Generation,
    name: &'static str,
    receiver: AddressReceiver<A>,
    make: impl FnOnce() -> A + Send + 'static,
) where
    A: Actor<Context = Context<A>>,
{
    let watcher = generation.clone();
    // Built on the actor's own thread: neither the actor nor its context has to be Send.
    let start = move || drop(actix::spawn(watched(receiver, make, watcher, name)));
    match place {
        Place::Here => start(),
        Place::Arbiter(arbiter) => {
            if !arbiter.spawn_fn(start) {
                generation.end(name, Exit::Failed(Fault::bug("the arbiter of an actor is gone")));
            }
        }
    }
}

async fn watched<A>(receiver: AddressReceiver<A>, make: impl FnOnce() -> A + 'static, generation: Generation, name: &'static str)
where
    A: Actor<Context = Context<A>>,
{
    let kill = generation.ender.kill.clone();
    let mut run = actix::spawn(async move { Context::with_receiver(receiver).into_future(make()).await });
    let ended = tokio::select! {
        biased;
        ended = &mut run => ended,
        () = kill.wait() => {
            run.abort();
            run.await
        }
    };
    let exit = match ended {
        Ok(()) => Exit::Dismissed,
        Err(error) => panic_of(error).map_or(Exit::Dismissed, Exit::Panicked),
    };
    // `generation` holds the last of this actor's `alive`: dropped only now, when nothing of the actor runs any more.
    generation.end(name, exit);
}

/// Waits until a flag is set; for ever if whoever could set it is gone. What `watch` hands out is a read lock: kept across an
/// await it would block the thread of whoever sets the flag next, so it ends in here.
pub(crate) async fn turns_true(flag: &mut watch::Receiver<bool>) {
    let gone = flag.wait_for(|set| *set).await.is_err();
    if gone {
        std::future::pending::<()>().await;
    }
}

/// The text of the panic that ended a task; none if it was aborted.
pub(crate) fn panic_of(error: JoinError) -> Option<String> {
    error.try_into_panic().ok().map(|panic| panic_text(panic.as_ref()))
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic without a text".to_owned())
}

#[cfg(test)]
mod tests {
    use actix::{Handler, Message};

    use super::*;

    struct Fragile(Generation);

    impl Actor for Fragile {
        type Context = Context<Self>;
    }

    #[derive(Message)]
    #[rtype(result = "()")]
    enum Do {
        Panic,
        End,
    }

    impl Handler<Do> for Fragile {
        type Result = ();
        fn handle(&mut self, what: Do, _: &mut Self::Context) {
            match what {
                Do::Panic => panic!("as told"),
                Do::End => self.0.end("fragile", Exit::Finished),
            }
        }
    }

    #[actix::test]
    async fn a_panic_ends_the_whole_generation_and_is_told_with_the_actors_name() {
        let (generation, watch) = Generation::new(1);
        let first = spawn_watched(&Place::Here, &generation, "first", 4, {
            let g = generation.clone();
            move || Fragile(g)
        });
        let second = spawn_watched(&Place::Here, &generation, "second", 4, {
            let g = generation.clone();
            move || Fragile(g)
        });
        drop(generation);
        second.try_send(Do::Panic).expect("room");
        let (name, exit) = watch.ended().await;
        assert_eq!(name, "second");
        assert!(matches!(exit, Exit::Panicked(text) if text == "as told"));
        assert!(!first.connected(), "the neighbour was killed with it");
    }

    #[actix::test]
    async fn a_panic_in_the_constructor_is_seen_too() {
        let (generation, watch) = Generation::new(1);
        spawn_watched::<Fragile>(&Place::Here, &generation, "unborn", 4, || panic!("unborn"));
        drop(generation);
        assert!(matches!(watch.ended().await, ("unborn", Exit::Panicked(_))));
    }

    #[actix::test]
    async fn what_made_an_actor_end_is_told_and_not_that_its_neighbour_missed_it() {
        let (generation, watch) = Generation::new(1);
        generation.end("neighbour", Exit::Dismissed);
        generation.end("broken", Exit::Panicked("the reason".to_owned()));
        generation.end("other", Exit::Failed(Fault::bug("a consequence")));
        drop(generation);
        assert!(matches!(watch.ended().await, ("broken", Exit::Panicked(_))));
    }

    #[actix::test]
    async fn many_actors_that_end_at_the_same_time_do_not_wait_for_each_other() {
        let (generation, watch) = Generation::new(1);
        let actors: Vec<_> = (0..8)
            .map(|_| {
                let g = generation.clone();
                spawn_watched(&Place::Here, &generation, "one of many", 4, move || Fragile(g))
            })
            .collect();
        drop(generation);
        actors[3].try_send(Do::End).expect("room");
        assert!(matches!(watch.ended().await, (_, Exit::Finished)));
    }

    #[actix::test]
    async fn the_first_exit_wins() {
        let (generation, watch) = Generation::new(1);
        let only = spawn_watched(&Place::Here, &generation, "only", 4, {
            let g = generation.clone();
            move || Fragile(g)
        });
        only.try_send(Do::End).expect("room");
        only.try_send(Do::Panic).expect("room");
        generation.end("late", Exit::Failed(Fault::bug("later")));
        drop(generation);
        // `late` was first in time: the messages above are handled only when the runtime gets to them.
        assert!(matches!(watch.ended().await, ("late", Exit::Failed(_))));
    }
}
