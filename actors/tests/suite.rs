//! The pipeline in a simulated world: everything outside it is in memory, time is virtual, and whatever can go wrong does.

mod world {
    pub(crate) mod engine;
    pub(crate) mod files;
    pub(crate) mod oracle;
    pub(crate) mod plan;
    pub(crate) mod process;
    pub(crate) mod sim;
    pub(crate) mod store;
    pub(crate) mod truth;
}

mod collect;
mod crash;
mod drain;
mod faults;
mod seeds;
mod supervise;
mod teeth;
mod time;
