//! `sluicebox demo`: from nothing to audited Gold in one command.
//!
//! Owns: its flags. Does not own: the events it makes, the run.

use clap::Args;

use super::{CliError, Context, Exit};

/// Flags of `demo`.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Events to make
    #[arg(long, value_name = "N", default_value_t = 200_000)]
    pub events: u64,
    /// Makes other events: the same number makes the same events
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
}

/// Not connected yet.
pub fn run(_args: DemoArgs, context: &Context) -> Result<Exit, CliError> {
    context.load()?;
    Err(CliError::not_wired("demo"))
}
