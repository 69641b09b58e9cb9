//! `sluicebox shards`: where each shard stands.
//!
//! Owns: its flags. Does not own: reading rows (read).

use clap::Args;

use super::{CliError, Context, Exit};

/// Flags of `shards`.
#[derive(Debug, Args)]
pub struct ShardsArgs {}

/// Not connected yet.
pub fn run(_args: ShardsArgs, context: &Context) -> Result<Exit, CliError> {
    context.load()?;
    Err(CliError::not_wired("shards"))
}
