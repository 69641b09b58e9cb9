//! `sluicebox sinks`: what each sink has, and what waits for it.
//!
//! Owns: its flags. Does not own: reading rows (read).

use clap::Args;

use super::{CliError, Context, Exit};
use crate::read::sinks::{self, Named};
use crate::run;
use crate::settings::{Settings, Takes};
use crate::topology::Stores;

/// Flags of `sinks`.
#[derive(Debug, Args)]
pub struct SinksArgs {}

/// One line a sink and Gold table, or a sink and shard.
pub fn run(_: SinksArgs, context: &Context) -> Result<Exit, CliError> {
    let loaded = context.load()?;
    let stores = Stores::for_looking(context.data(), Some(&loaded.settings), &[], context.clock())?;
    let (named, now_us) = (named(&loaded.settings), context.clock().now_us());
    let batch = run::block_on(async { sinks::batch(&sinks::view(&stores.sources(), &named, now_us).await?) })??;
    let mut output = context.output();
    let mut printer = output.batches(batch.schema());
    printer.print(&batch)?;
    printer.finish()?;
    Ok(Exit::Good)
}

fn named(settings: &Settings) -> Vec<Named> {
    let all = || settings.gold.iter().map(|gold| gold.name.clone()).collect();
    let tables = |sink: &crate::settings::Sink| match sink.is_given() {
        Takes::Letters => None,
        Takes::Gold => Some(if sink.tables.is_empty() { all() } else { sink.tables.clone() }),
    };
    settings.sink.iter().map(|sink| Named { name: sink.name.clone(), tables: tables(sink) }).collect()
}
