//! `sluicebox audit`: does everything add up?
//!
//! Owns: its flags. Does not own: the equations (model/ledger), reading lines (read).

use std::sync::{Arc, Mutex, PoisonError};

use clap::Args;
use sluicebox_actors::ports::Engine;

use super::{CliError, Context, Exit};
use crate::output::{Format, human};
use crate::progress::{Progress, Unit};
use crate::read::audit::pass::Audit;
use crate::read::audit::report::Report;
use crate::run;
use crate::settings::Loaded;
use crate::store::home::VISIBLE;
use crate::topology::{self, Compiled, Stores};

/// Flags of `audit`.
#[derive(Debug, Args)]
pub struct AuditArgs {
    /// Leaves out the part that computes Gold once more from Silver
    #[arg(long)]
    pub quick: bool,
}

/// Walks everything; exit 1 if a line's difference is not 0 or something else is wrong.
pub fn run(args: AuditArgs, context: &Context) -> Result<Exit, CliError> {
    let loaded = context.load()?;
    let compiled = topology::compile(&loaded)?;
    let stores = Stores::for_looking(context.data(), Some(&loaded.settings), &VISIBLE, context.clock())?;
    let report = report(&loaded, &compiled, &stores, args.quick, context)?;
    print(&report, context)?;
    Ok(if report.ok() { Exit::Good } else { Exit::Found })
}

/// The audit itself, with its progress on stderr.
pub fn report(loaded: &Loaded, compiled: &Compiled, stores: &Stores, quick: bool, context: &Context) -> Result<Report, CliError> {
    let recompute = (!quick).then(|| stores.recompute(loaded, compiled));
    let mut audit = Audit::new(stores.sources(), compiled.engine.tables().to_vec(), recompute);
    let bar = Mutex::new(Progress::stderr("audit", Unit::Records, None, context.clock()));
    audit.progress = Some(Arc::new(move |at| {
        bar.lock().unwrap_or_else(PoisonError::into_inner).set(at.epochs + at.windows);
    }));
    Ok(run::block_on(audit.run())??)
}

/// Lines, findings, and one sentence. For people: the totals, and every line that does not hold; for programs all lines.
pub fn print(report: &Report, context: &Context) -> Result<(), CliError> {
    let mut output = context.output();
    let mut shown = report.clone();
    if output.format() == Format::Table {
        shown.lines.retain(|line| line.difference != 0 || !line.scope.contains("shard "));
    }
    for batch in [shown.lines_batch()?, shown.findings_batch()?] {
        if batch.num_rows() > 0 {
            let mut printer = output.batches(batch.schema());
            printer.print(&batch)?;
            printer.finish()?;
        }
    }
    let unproven = match report.unproven_starts {
        0 => String::new(),
        starts => format!(", {} unproven starts", human::count(starts)),
    };
    let looked = format!(
        "{} shards, {} epochs, {} files ({}), {} windows computed again from Silver{unproven}",
        human::count(report.shards),
        human::count(report.epochs),
        human::count(report.files),
        human::bytes(report.bytes),
        human::count(report.recomputed),
    );
    output.note(&match report.ok() {
        true => format!("everything adds up: {looked}"),
        false => format!("NOT everything adds up: {looked}"),
    })?;
    Ok(())
}
