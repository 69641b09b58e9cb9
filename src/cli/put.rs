//! `sluicebox put`: records from files or standard input onto the embedded stream.
//!
//! Owns: its flags. Does not own: reading files and putting (input/put).

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::{CliError, Context, Exit};
use crate::engine::contract::Contract;
use crate::input::csv::CsvColumns;
use crate::input::json_path::JsonPath;
use crate::input::put::{self, PutOptions, PutWorld};
use crate::input::reader::{Format, InputOptions};
use crate::input::{arrival as input, batcher::PutTotals};
use crate::output::{Cell, Table, human};
use crate::progress::{Progress, Unit};
use crate::settings::{FieldPath, Loaded};
use crate::source::Source;
use crate::topology;

/// Flags of `put`.
#[derive(Debug, Args)]
pub struct PutArgs {
    /// Files in the order they are put, plain or .gz; `-` or none reads standard input
    #[arg(value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// How the files are written; without it, by name (.csv, .json, .jsonl, .ndjson) or content
    #[arg(long, value_enum)]
    pub format_in: Option<FormatIn>,
    /// Each file is one record, its bytes unchanged
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
    /// Member that the partition key is taken from, instead of event.partition_key
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
    /// Any lines, each a record as it is.
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

/// Reads the files and puts what is in them; a line for each kind of thing that happened.
pub fn run(args: PutArgs, context: &Context) -> Result<Exit, CliError> {
    let loaded = context.load()?;
    let contract = topology::contract(&loaded)?;
    let stream = Source::open(context.data(), &loaded.settings, context.clock())?.embedded("put")?;
    let event_time = |data: &[u8]| contract.event_time_of(data);
    let options = options(args, &loaded, &contract, &event_time)?;
    let clock = context.clock();
    let mut progress = Progress::stderr("put", Unit::Bytes, None, clock.clone());
    let mut world = PutWorld {
        clock: clock.as_ref(),
        sleep: &pause,
        progress: &mut |_, done| {
            progress.expect(done.total);
            progress.set(done.consumed);
            ControlFlow::Continue(())
        },
    };
    let done = put::put(&stream, options, &mut world);
    progress.finish();
    match done {
        Ok(totals) => report(context, &totals),
        Err(stopped) => {
            report(context, &stopped.totals)?;
            Err(stopped.fault.into())
        }
    }
}

/// Waits.
#[expect(clippy::disallowed_methods, reason = "pacing a producer is waiting for time to pass")]
pub(super) fn pause(wait: Duration) {
    std::thread::sleep(wait);
}

fn options<'a>(
    args: PutArgs,
    loaded: &Loaded,
    contract: &Contract,
    event_time: &'a dyn Fn(&[u8]) -> Option<i64>,
) -> Result<PutOptions<'a>, CliError> {
    let format = match (args.raw, args.format_in) {
        (true, _) => Some(Format::Raw),
        (false, None) => None,
        (false, Some(FormatIn::Ndjson)) => Some(Format::Ndjson),
        (false, Some(FormatIn::Csv)) => Some(Format::Csv),
        (false, Some(FormatIn::Lines)) => Some(Format::Lines),
    };
    let usage = |error: String| CliError::usage(error, "see `sluicebox put --help`");
    let arrival = match args.arrival {
        Arrival::Now => input::Arrival::Now,
        Arrival::Event => input::Arrival::Event(event_time),
        Arrival::Field(field) => input::Arrival::Field(field.to_string().parse().map_err(usage)?),
    };
    let key = args.partition_key.as_ref().or(loaded.settings.event.partition_key.as_ref());
    let partition_key = key.map(|path| JsonPath::new(path.segments().to_vec()));
    let csv = CsvColumns { numbers: contract.number_columns().into_iter().collect(), ..CsvColumns::default() };
    let files = if args.files.is_empty() { vec![PathBuf::from("-")] } else { args.files };
    Ok(PutOptions {
        input: InputOptions { files, format, csv },
        rate: args.rate.map(|rate| rate as f64),
        limit: args.limit,
        arrival,
        partition_key,
    })
}

fn report(context: &Context, totals: &PutTotals) -> Result<Exit, CliError> {
    let mut output = context.output();
    let mut table = Table::new(["shard", "records"]);
    for (shard, records) in &totals.per_shard {
        table.row([shard.to_string().into(), Cell::from(*records)]);
    }
    output.table(&table)?;
    output.note(&format!("{} records put, {}", human::count(totals.records), human::bytes(totals.bytes)))?;
    let also = [
        (totals.empty_lines, "empty lines were left out"),
        (totals.arrival_unknown, "records had no readable arrival time and took their neighbour's"),
        (totals.refused, "records were refused"),
    ];
    for (count, what) in also.into_iter().filter(|(count, _)| *count > 0) {
        output.note(&format!("{} {what}", human::count(count)))?;
    }
    for problem in &totals.problems {
        output.note(problem)?;
    }
    Ok(if totals.refused == 0 && totals.problems.is_empty() { Exit::Good } else { Exit::Found })
}
