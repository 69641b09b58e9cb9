//! `sluicebox run`: the pipeline itself.
//!
//! Owns: its flags. Does not own: the life of the process (run), the wiring (topology).

use clap::Args;

use super::{CliError, Context, Exit};

/// Flags of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Ends when every shard is read to its end and committed; no clock moves windows on
    #[arg(long)]
    pub drain: bool,
}

/// Not connected yet.
pub fn run(_args: RunArgs, context: &Context) -> Result<Exit, CliError> {
    context.load()?;
    Err(CliError::not_wired("run"))
}
