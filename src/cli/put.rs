//! `sluicebox put`: records from files or standard input onto the embedded stream.
//!
//! Owns: its flags. Does not own: reading files and putting (input/put).

use std::path::PathBuf;

use clap::Args;

use super::{CliError, Context, Exit};
use crate::settings::FieldPath;

/// Flags of `put`.
#[derive(Debug, Args)]
pub struct PutArgs {
    /// Files in the order they are put, plain or .gz; `-` or none reads standard input
    #[arg(value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// How the files are written; without it, by name: .csv, .log and .txt (lines), else ndjson
    #[arg(long, value_enum)]
    pub format_in: Option<FormatIn>,
    /// Puts each line or value as it is, without looking into it; also what is not JSON
    #[arg(long)]
    pub raw: bool,
    /// Records a second at most; without it, as fast as the stream takes them
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub rate: Option<u64>,
    /// Stops after this many records
    #[arg(long, value_name = "N")]
    pub limit: Option<u64>,
    /// Arrival time of each record: `now`, `event` (its event time), or the path of the member that holds it
    #[arg(long, value_name = "FIELD|event|now", default_value = "now")]
    pub arrival: Arrival,
    /// Member that the partition key is taken from, instead of [event] partition_key
    #[arg(long, value_name = "PATH")]
    pub partition_key: Option<FieldPath>,
}

/// How input files are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum FormatIn {
    /// One JSON value a line.
    Ndjson,
    /// CSV with a header: each row becomes a JSON object.
    Csv,
    /// Any lines: each becomes `{"line": …}`, or itself with --raw.
    Lines,
}

/// Where a record's arrival time comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Arrival {
    /// The clock.
    Now,
    /// The event time, as the pipeline file names it.
    Event,
    /// This member, in the pipeline file's time format.
    Field(FieldPath),
}

impl std::str::FromStr for Arrival {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "now" => Ok(Self::Now),
            "event" => Ok(Self::Event),
            path => path.parse().map(Self::Field),
        }
    }
}

/// Not connected yet.
pub fn run(_args: PutArgs, context: &Context) -> Result<Exit, CliError> {
    context.load()?;
    Err(CliError::not_wired("put"))
}
