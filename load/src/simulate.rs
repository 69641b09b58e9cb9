//! The simulated pipeline under random faults, seed after seed.
//!
//! Owns: the flags. Does not own: the seeds, the threads, the report (sluicebox_sim::command).

use std::io::Write;

use clap::Args;
use sluicebox_sim::command::Command;

/// Flags of `simulate`.
#[derive(Debug, Args)]
pub(crate) struct Simulate {
    /// Seeds to run
    #[arg(long, default_value_t = 10_000)]
    seeds: u64,
    /// First seed
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Threads
    #[arg(long, default_value_t = 2)]
    threads: u64,
    /// End after so many minutes, whatever is left
    #[arg(long)]
    minutes: Option<u64>,
    /// Last operations to tell of a seed that broke a rule
    #[arg(long, default_value_t = 40)]
    tell: u64,
    /// Several workers share the shards of each world
    #[arg(long)]
    fleet: bool,
    /// Processes share no disk, as workers on AWS
    #[arg(long)]
    apart: bool,
    /// Batches of records are handed to invocations of a function
    #[arg(long, conflicts_with = "fleet")]
    lambda: bool,
}

/// Success when no seed broke a rule.
pub(crate) fn simulate(args: &Simulate, out: &mut impl Write) -> anyhow::Result<bool> {
    let Simulate { seeds, from, threads, minutes, tell, fleet, apart, lambda } = *args;
    let command = Command { seeds, from, threads: threads.clamp(1, 256), minutes, tell, fleet, apart, lambda };
    Ok(command.run(out))
}
