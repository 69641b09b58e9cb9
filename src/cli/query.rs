//! `sluicebox query`: SQL over what was published.
//!
//! Owns: its flags. Does not own: tables and execution (read).

use clap::Args;

use super::{CliError, Context, Exit};

/// Flags of `query`.
#[derive(Debug, Args)]
pub struct QueryArgs {
    /// The statement; `-` reads it from standard input
    #[arg(value_name = "SQL")]
    pub sql: String,
    /// Rows to print at most
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
}

/// Not connected yet.
pub fn run(_args: QueryArgs, context: &Context) -> Result<Exit, CliError> {
    context.load()?;
    Err(CliError::not_wired("query"))
}
