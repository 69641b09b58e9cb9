//! `sluicebox run`: the pipeline itself.
//!
//! Owns: its flags, its progress, its last words. Does not own: the life of the process (run), the wiring (topology).

use clap::Args;
use sluicebox_actors::model::ledger::Counts;
use sluicebox_actors::pipeline::Outcome;
use sluicebox_actors::toolkit::board::Board;

use super::{CliError, Context, Exit, trial};
use crate::observers::Observers;
use crate::output::{Cell, Table, human};
use crate::progress::{Progress, Unit};
use crate::settings::Loaded;
use crate::signals::Signals;
use crate::source::Source;
use crate::store::deaths::Deaths;
use crate::topology::stores::patiently;
use crate::{run, topology};

/// Flags of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Ends when every shard is read to its end and committed; no clock moves windows on
    #[arg(long)]
    pub drain: bool,
}

/// Runs until stopped, or until drained; then says what became of the records.
pub fn run(args: RunArgs, context: &Context) -> Result<Exit, CliError> {
    let loaded = context.load()?;
    let (outcome, totals) = pipeline(&loaded, context, args.drain)?;
    let mut output = context.output();
    for (shard, fault) in &outcome.lost {
        output.note(&format!("{shard} was given up: {fault}"))?;
    }
    if let Some(fault) = &outcome.gold {
        output.note(&format!("Gold was given up: {fault}"))?;
    }
    for (sink, fault) in &outcome.sinks {
        output.note(&format!("the sink {sink} does not have everything, and gets the rest from a later run: {fault}"))?;
    }
    output.table(&summary(&totals))?;
    Ok(if outcome.is_good() { Exit::Good } else { Exit::Found })
}

/// Runs the pipeline over a data directory and returns how it ended, with the committed totals of all shards.
pub fn pipeline(loaded: &Loaded, context: &Context, drain: bool) -> Result<(Outcome, Counts), CliError> {
    let settings = &loaded.settings;
    let compiled = topology::compile(loaded)?;
    let signals = Signals::catch()?;
    let (stores, _lock) = topology::Stores::for_run(context.data(), settings, context.clock())?;
    stores.check_tables(loaded, &compiled)??;
    let stream = Source::for_run(context.data(), settings, context.clock())?;
    let total = if drain { stream.records()? } else { None };
    let rows = run::block_on(patiently(|| stores.rows.shards()))??;
    // Before anything that may raise an alert, and before a fault in their settings could count as a death.
    let mut observers = Observers::start(settings, context.clock())?;
    let sinks = topology::sinks(loaded, context.data())?;
    // From here on, an end that nobody asked for is a death that is looked into.
    let stop = signals.run();
    let mut deaths = Deaths::begin(&stores.home, &rows)?;
    trial::look_at_suspects(&mut deaths, loaded, stream.port().as_ref(), &rows, context)?;
    let engine = compiled.engine.stepping_around(deaths.condemned()?);
    let mut parts = topology::parts(loaded, &engine, &stores, &stream, context.clock(), drain);
    parts.sinks = sinks;
    let board = parts.board.clone();
    observers.watch(settings, board.clone(), context.clock());
    let mut progress = Progress::stderr("run", Unit::Records, total, context.clock());
    let outcome = run::run(parts, context.data(), stop, move |board: &Board| {
        progress.set(board.all().iter().filter_map(|(_, live)| live.position.as_dense()).sum());
    });
    let ended = deaths.end();
    let told = observers.finish();
    // How the run ended matters more than whether that could be noted.
    let outcome = outcome?;
    ended?;
    told?;
    let mut totals = Counts::default();
    for (_, live) in board.all() {
        totals.add(&live.totals);
    }
    Ok((outcome, totals))
}

/// Where the records went: the ledger's first line, in words.
pub fn summary(totals: &Counts) -> Table {
    let mut table = Table::new(["records", "count", "what became of them"]);
    let mut row = |name: &str, count: u64, says: &str| table.row([name.into(), Cell::from(count), says.into()]);
    row("received", totals.received, "read from the stream and committed");
    row("silver", totals.silver, "valid: one row each");
    for (rule, count) in &totals.filtered {
        row("filtered", *count, &format!("left out by the rule `{rule}`"));
    }
    for (reason, count) in &totals.rejected {
        row("letter", *count, reason);
    }
    for (gold, counts) in &totals.gold {
        row(
            "gold",
            counts.on_time + counts.late,
            &format!("in {gold}: {} on time, {} late", human::count(counts.on_time), human::count(counts.late)),
        );
        if counts.too_late > 0 {
            row("letter", counts.too_late, &format!("gold:{gold}/too_late (the record is in Silver)"));
        }
    }
    table
}
