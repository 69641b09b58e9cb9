//! `sluicebox gold`: a Gold table's windows and rows.
//!
//! Owns: its flags. Does not own: reading tables (read).

use clap::Args;

use super::{CliError, Context, Exit};

/// Flags of `gold`.
#[derive(Debug, Args)]
pub struct GoldArgs {
    /// The table; without one, the tables and their windows
    #[arg(value_name = "TABLE")]
    pub table: Option<String>,
    /// Windows that start at this time or later: 2015-01-01T00:00:00Z
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Windows that start before this time
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
    /// Windows with their status, revision and counts instead of their rows
    #[arg(long)]
    pub windows: bool,
    /// Rows to print at most
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
}

/// Not connected yet.
pub fn run(_args: GoldArgs, context: &Context) -> Result<Exit, CliError> {
    context.load()?;
    Err(CliError::not_wired("gold"))
}
