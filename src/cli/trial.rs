//! `sluicebox trial`: what a run starts for itself, to see whether a process dies of some records. Not for people.
//!
//! Owns: its flags, starting itself as a child, what a dead child means. Does not own: the search, the work (trial).

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

use clap::Args;
use sluicebox_actors::model::fault::{Fault, Kind, Result};
use sluicebox_actors::model::position::{Sequence, ShardId};
use sluicebox_actors::model::row::ShardRow;
use sluicebox_actors::ports::Stream;

use super::{CliError, Context, Exit};
use crate::engine::condemned::REASON;
use crate::settings::Loaded;
use crate::source::Source;
use crate::store::deaths::{self, Deaths};
use crate::topology::{self, Stores};
use crate::{run, trial};

/// Flags of `trial`.
#[derive(Debug, Args)]
pub struct TrialArgs {
    /// The shard
    #[arg(long)]
    pub shard: String,
    /// Records after its committed position to leave out
    #[arg(long)]
    pub skip: usize,
    /// Records to try
    #[arg(long)]
    pub take: usize,
}

/// Tries some records and has no effect; whether the process survives it is the answer.
pub fn run(args: TrialArgs, context: &Context) -> Result<Exit, CliError> {
    let loaded = context.load()?;
    let stores = Stores::for_looking(context.data(), Some(&loaded.settings), &[], context.clock())?;
    let stream = Source::open(context.data(), &loaded.settings, context.clock())?.port();
    let engine = topology::compile(&loaded)?.engine.stepping_around(deaths::condemned_in(&stores.home)?);
    let shard = ShardId::new(args.shard);
    let row = run::block_on(stores.rows.shard(&shard))??;
    let row = row.ok_or_else(|| Fault::config(format!("there is no shard {shard}")))?;
    let mut records = run::block_on(trial::next_records(stream.as_ref(), &row, reach(&loaded)))??;
    records.truncate(args.skip + args.take);
    let records = records.split_off(args.skip.min(records.len()));
    trial::process(&engine, stream.as_ref(), &row, records, context.clock().now_us())?;
    Ok(Exit::Good)
}

/// Bytes that a run may hold in flight of one shard.
fn reach(loaded: &Loaded) -> usize {
    loaded.settings.limits.in_flight.as_usize() + loaded.settings.limits.fetch.as_usize()
}

/// Looks at the suspects of a run that is about to start, and condemns the records that the process dies of.
pub fn look_at_suspects(
    deaths: &mut Deaths,
    loaded: &Loaded,
    stream: &dyn Stream,
    rows: &[ShardRow],
    context: &Context,
) -> Result<()> {
    for shard in deaths.suspects() {
        let Some(row) = rows.iter().find(|row| row.shard == shard) else { continue };
        let records = run::block_on(trial::next_records(stream, row, reach(loaded)))??;
        tracing::warn!(%shard, records = records.len(), "the last runs died before this shard got on: trying its next records");
        let found = trial::search(records.len(), |range| dies(&shard, range.start, range.len(), context))?;
        let found: Vec<(Sequence, u32)> = found
            .into_iter()
            .filter_map(|index| records.get(index))
            .map(|record| (record.sequence, record.sub_sequence))
            .collect();
        for (sequence, sub_sequence) in &found {
            tracing::error!(alert = REASON, %shard, %sequence, sub_sequence, "the process dies of this record: now a letter");
        }
        deaths.condemn(&shard, &found)?;
    }
    Ok(())
}

fn dies(shard: &ShardId, skip: usize, take: usize, context: &Context) -> Result<bool> {
    let program = std::env::current_exe().map_err(|error| Fault::caused(Kind::Retry, "finding this program", &error))?;
    let mut command = Command::new(program);
    command.args(["trial", "--shard", shard.as_str(), "--skip", &skip.to_string(), "--take", &take.to_string()]);
    command.arg("--data").arg(context.data());
    for config in &context.global.config {
        command.arg("--config").arg(config);
    }
    for set in context.sets() {
        command.args(["--set", set]);
    }
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    let ended = child.map_err(|error| Fault::caused(Kind::Retry, "starting a trial", &error))?;
    // An error is not a death: whatever it is, the run meets it too, and says it.
    Ok(ended.signal().is_some())
}
