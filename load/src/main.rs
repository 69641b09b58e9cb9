//! sluicebox-load: makes input, measures the product and breaks it, all from outside.
//!
//! Owns: the arguments. Does not own: the events (sluicebox::demo_events, keys, hostile), the measuring (measure), the breaking
//! (chaos), the simulated world (simulate).

mod chaos;
mod hostile;
mod keys;
mod measure;
mod simulate;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use sluicebox::demo_events::DemoEvents;

/// Makes input for sluicebox, measures it and breaks it from outside.
#[derive(Debug, Parser)]
#[command(name = "sluicebox-load", version)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Writes the demo's clickstream to standard output, one event a line; the same seed makes the same bytes
    Generate(Generate),
    /// Writes events with as many different keys as wanted, and a pipeline file that groups by them
    Keys(keys::Keys),
    /// Writes records that are meant to hurt: as large as can be, cut, deep, not text, and bombs of compressed bytes
    Hostile(hostile::Hostile),
    /// Puts files, drains and audits them with a sluicebox binary, and prints time and peak memory of each step
    Measure(measure::Measure),
    /// Kills a sluicebox binary again and again beside a producer, then compares all tables with a fold of its own
    Chaos(chaos::Chaos),
    /// Attacks workers that share a stream, a bucket and a table, then compares all tables with a fold of its own
    Fleet(chaos::fleet::Fleet),
    /// Runs the pipeline in a simulated world under random faults, seed after seed, and prints what the seeds met
    Simulate(simulate::Simulate),
}

#[derive(Debug, Args)]
struct Generate {
    /// Events to make
    #[arg(long, default_value_t = 100_000)]
    events: u64,
    /// Makes other events
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Arrival of the first event, microseconds since 1970
    #[arg(long, default_value_t = 1_767_600_000_000_000)]
    start_us: i64,
    /// Hours over which they arrive
    #[arg(long, default_value_t = 6)]
    hours: i64,
}

fn main() -> ExitCode {
    let done = match Cli::parse().verb {
        Verb::Generate(args) => generate(&args, &mut std::io::stdout().lock()).map(|()| true),
        Verb::Keys(args) => keys::keys(&args).map(|()| true),
        Verb::Hostile(args) => hostile::hostile(&args).map(|()| true),
        Verb::Measure(args) => measure::measure(&args),
        Verb::Chaos(args) => chaos::chaos(&args),
        Verb::Fleet(args) => chaos::fleet::fleet(&args),
        Verb::Simulate(args) => simulate::simulate(&args, &mut std::io::stdout()),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn generate(args: &Generate, sink: &mut impl Write) -> anyhow::Result<()> {
    let mut sink = std::io::BufWriter::with_capacity(1 << 20, sink);
    for (event, _) in DemoEvents::new(args.seed, args.events, args.start_us, args.hours * 3_600_000_000) {
        sink.write_all(&event)?;
        sink.write_all(b"\n")?;
    }
    sink.flush()?;
    Ok(())
}

/// The binary beside this one, unless another is named.
fn product(named: Option<&PathBuf>) -> anyhow::Result<PathBuf> {
    match named {
        Some(path) => Ok(path.clone()),
        None => Ok(std::env::current_exe()?.with_file_name("sluicebox")),
    }
}
