//! `sluicebox dlq`: dead letters.
//!
//! Owns: its flags. Does not own: reading letters (read).

use clap::{Args, Subcommand};

use super::{CliError, Context, Exit};

/// What to do with letters.
#[derive(Debug, Subcommand)]
pub enum DlqVerb {
    /// Lists letters: where, why, since when
    Ls(LsArgs),
    /// Shows one letter whole
    Show(ShowArgs),
}

/// Flags of `dlq ls`.
#[derive(Debug, Args)]
pub struct LsArgs {
    /// Only letters of this stage: decode, contract, time, silver, gold:<table>
    #[arg(long, value_name = "STAGE")]
    pub stage: Option<String>,
    /// Only letters with this reason code
    #[arg(long, value_name = "REASON")]
    pub reason: Option<String>,
    /// Only letters of this shard
    #[arg(long, value_name = "SHARD")]
    pub shard: Option<String>,
    /// Letters to print at most
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub limit: usize,
}

/// Flags of `dlq show`.
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// The letter, as `dlq ls` names it: stream/shard/sequence/sub-sequence/stage
    #[arg(value_name = "ID")]
    pub id: String,
    /// Writes the record's bytes and nothing else
    #[arg(long)]
    pub raw: bool,
}

/// Not connected yet.
pub fn run(verb: DlqVerb, context: &Context) -> Result<Exit, CliError> {
    context.load()?;
    match verb {
        DlqVerb::Ls(_) => Err(CliError::not_wired("dlq ls")),
        DlqVerb::Show(_) => Err(CliError::not_wired("dlq show")),
    }
}
