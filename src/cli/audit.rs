//! `sluicebox audit`: does everything add up?
//!
//! Owns: its flags. Does not own: the equations (model/ledger), reading lines (read).

use clap::Args;

use super::{CliError, Context, Exit};

/// Flags of `audit`.
#[derive(Debug, Args)]
pub struct AuditArgs {
    /// Only this shard
    #[arg(long, value_name = "SHARD")]
    pub shard: Option<String>,
}

/// Not connected yet.
pub fn run(_args: AuditArgs, context: &Context) -> Result<Exit, CliError> {
    context.load()?;
    Err(CliError::not_wired("audit"))
}
