//! What becomes of a message that its receiver can't take.

use actix::dev::channel::{AddressReceiver, channel};
use actix::{Actor, Addr, Context, Handler, Message};

use sluicebox_actors::model::fault::Kind;
use sluicebox_actors::toolkit::outlet::{Numbering, Outlet};
use sluicebox_actors::toolkit::spawn::{Exit, Generation};

#[derive(Message)]
#[rtype(result = "()")]
struct Data;

struct Slow;

impl Actor for Slow {
    type Context = Context<Self>;
}

impl Handler<Data> for Slow {
    type Result = ();
    fn handle(&mut self, Data: Data, _: &mut Self::Context) {}
}

/// A mailbox for one message, which nobody empties; and who it belonged to.
fn mailbox() -> (Addr<Slow>, AddressReceiver<Slow>) {
    let (sender, receiver) = channel(1);
    (Addr::new(sender), receiver)
}

fn outlet(to: Addr<Slow>, generation: &Generation) -> Outlet<Data> {
    Outlet::new(to.recipient(), generation.clone(), "sender", 0, Numbering::default())
}

#[tokio::test]
async fn a_message_that_finds_its_mailbox_full_ends_the_generation_and_is_never_lost_in_silence() {
    let (generation, watch) = Generation::new(1);
    let (to, receiver) = mailbox();
    let mut outlet = outlet(to, &generation);
    for _ in 0..10 {
        outlet.send(1, |_| Data);
    }
    assert!(generation.is_ending(), "ten messages for a mailbox of one");
    drop((generation, outlet, receiver));
    let (actor, exit) = watch.ended().await;
    assert_eq!(actor, "sender");
    assert!(matches!(&exit, Exit::Failed(fault) if fault.kind() == Kind::Bug && fault.message().contains("full")), "{exit:?}");
}

#[tokio::test]
async fn a_message_for_somebody_who_is_gone_ends_the_generation() {
    let (generation, watch) = Generation::new(1);
    let (to, receiver) = mailbox();
    let mut outlet = outlet(to, &generation);
    drop(receiver);
    outlet.send(1, |_| Data);
    assert!(generation.is_ending());
    drop((generation, outlet));
    assert!(matches!(watch.ended().await, ("sender", Exit::Dismissed)), "what became of him says why");
}
