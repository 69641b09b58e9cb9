//! `sluicebox shards`: where each shard stands.
//!
//! Owns: its flags. Does not own: reading rows (read).

use clap::Args;

use super::{CliError, Context, Exit};
use crate::read::shards;
use crate::run;
use crate::source::Source;
use crate::topology::Stores;

/// Flags of `shards`.
#[derive(Debug, Args)]
pub struct ShardsArgs {}

/// One line a shard.
pub fn run(_: ShardsArgs, context: &Context) -> Result<Exit, CliError> {
    let loaded = context.load()?;
    let stores = Stores::for_looking(context.data(), Some(&loaded.settings), &[], context.clock())?;
    let stream = Source::open(context.data(), &loaded.settings, context.clock())?.port();
    let now_us = context.clock().now_us();
    let batch = run::block_on(async { shards::batch(&shards::view(&stores.sources(), Some(stream.as_ref()), now_us).await?) })??;
    let mut output = context.output();
    let mut printer = output.batches(batch.schema());
    printer.print(&batch)?;
    printer.finish()?;
    Ok(Exit::Good)
}
