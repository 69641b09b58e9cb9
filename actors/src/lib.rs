//! The processing model of sluicebox: how a record moves from a stream to Bronze, Silver and Gold exactly once.
//!
//! Read downward: a [`pipeline`] is one generation of actors; [`shells`] are those actors; [`toolkit`] is how actors are spawned,
//! watched and fed; [`machines`] hold every decision; [`ports`] is the world; [`model`] is values and arithmetic. Each layer
//! imports only what stands below it, and `tests/tidy.rs` of the root package holds it to that.

pub mod pipeline;

/// One thin actor each.
pub mod shells {
    pub mod commit;
    pub mod dlq;
    pub mod feed;
    pub mod gold;
    pub mod message;
    pub mod partition;
    pub mod shard;
    pub mod writer;
}

pub mod history;

/// Every decision, as plain synchronous structs.
pub mod machines {
    pub mod alerts;
    pub mod barrier;
    pub mod breaker;
    pub mod commit;
    pub mod feed;
    pub mod fleet;
    pub mod gold;
    pub mod partition;
    pub mod restart;
    pub mod shard;
    pub mod writer;
}

pub mod ports;

/// Values and arithmetic.
pub mod model {
    pub mod epoch;
    pub mod fault;
    pub mod feed;
    pub mod ledger;
    pub mod letter;
    pub mod position;
    pub mod record;
    pub mod row;
    pub mod sabotage;
    pub mod stamp;
    pub mod states;
    pub mod window;
}

/// actix mechanics.
pub mod toolkit {
    pub mod bell;
    pub mod board;
    pub mod crash;
    pub mod credit;
    pub mod flag;
    pub mod outlet;
    pub mod pause;
    pub mod spawn;
}
