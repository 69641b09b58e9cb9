//! Goal: what a client may rely on, whoever serves it. One contract, written against the real SDK, runs on our own endpoint and,
//! if `SLUICEBOX_TEST_KINESIS_URL` is set, on the one it names. What can only be shown on ours (our clock, limits, faults) is
//! in modules of its own; where the other one differs, `endpoint/differences.rs` says how and why.

mod endpoint {
    mod bad_input;
    mod differences;
    mod faults;
    pub(crate) mod harness;
    mod limits;
    mod listing;
    mod records;
    mod reshard;
    mod subscription;
    mod time;
}

mod fan_out;
mod source;
