//! `sluicebox shards`: where each shard stands; `shards import`: going on where another reader stopped.
//!
//! Owns: its flags, the words for what is taken over. Does not own: reading rows (read), the takeover (import).

use clap::{Args, Subcommand, ValueEnum};
use sluicebox_actors::model::row::{ShardRow, ShardState};
use sluicebox_aws::connect::Aws;
use sluicebox_aws::dynamo::kcl::plan::{Kpl, Plan, Taken, Ways, Why};

use super::{CliError, Context, Exit};
use crate::import::{self, Asked};
use crate::output::{Cell, Table};
use crate::read::shards;
use crate::settings::Interval;
use crate::source::{self, Source};
use crate::topology::{self, Stores};
use crate::{run, settings};

/// Flags of `shards`.
#[derive(Debug, Args)]
pub struct ShardsArgs {
    /// What else to do than to show them
    #[command(subcommand)]
    pub verb: Option<ShardsVerb>,
}

/// What to do with shards.
#[derive(Debug, Subcommand)]
pub enum ShardsVerb {
    /// Makes the rows of a new pipeline that goes on where a fleet of the Kinesis Client Library stopped
    Import(ImportArgs),
}

/// Flags of `shards import`.
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// The fleet's lease table in DynamoDB: it has the name of the KCL application
    #[arg(long, value_name = "NAME")]
    pub kcl_table: String,
    /// Shows what would be taken over and writes nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Where leases begin that say LATEST or AT_TIMESTAMP: the first record that arrived then or later
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub latest_at: Option<i64>,
    /// What becomes of a KPL aggregate in which a checkpoint lies
    #[arg(long, value_enum)]
    pub kpl: Option<KplArg>,
    /// The application's failoverTimeMillis: for so long the leases are watched, to see that its workers have stopped
    #[arg(long, value_name = "TIME", default_value = "10s")]
    pub failover: Interval,
    /// Takes over although the fleet works: from here on both process every record
    #[arg(long)]
    pub while_running: bool,
}

/// What becomes of an aggregate.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum KplArg {
    /// It is read again, whole, with whatever arrived in the same millisecond
    Again,
    /// What is left of it is not read
    Skip,
}

fn time(text: &str) -> Result<i64, String> {
    match text.parse::<settings::Start>() {
        Ok(settings::Start::At(at_us)) => Ok(at_us),
        Ok(settings::Start::Horizon | settings::Start::Latest) | Err(_) => {
            Err(format!("`{text}` is no time; write one such as 2026-11-23T00:00:00Z"))
        }
    }
}

/// One line a shard, or what else was asked for.
pub fn run(args: ShardsArgs, context: &Context) -> Result<Exit, CliError> {
    match args.verb {
        None => show(context),
        Some(ShardsVerb::Import(args)) => import(args, context),
    }
}

fn show(context: &Context) -> Result<Exit, CliError> {
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

fn import(args: ImportArgs, context: &Context) -> Result<Exit, CliError> {
    let loaded = context.load()?;
    // A pipeline that does not compile would be found out only when the other fleet is gone.
    let compiled = topology::compile(&loaded)?;
    let stream = Source::open(context.data(), &loaded.settings, context.clock())?.kinesis("shards import")?;
    let kpl = args.kpl.map(|kpl| match kpl {
        KplArg::Again => Kpl::Again,
        KplArg::Skip => Kpl::Skip,
    });
    let asked = Asked {
        table: args.kcl_table,
        ways: Ways { latest_at: args.latest_at, kpl },
        failover: args.failover.to_std(),
        while_running: args.while_running,
    };
    let plan = run::block_on(async {
        let aws = Aws::connect(&source::client(&loaded.settings)).await?;
        import::plan(&aws, &stream, &asked).await
    })??;
    print(&plan, context)?;
    if args.dry_run {
        context.output().note("nothing was written")?;
        return Ok(Exit::Good);
    }
    let (stores, _lock) = Stores::for_import(context.data(), &loaded.settings, context.clock())?;
    stores.check_tables(&loaded, &compiled)??;
    run::block_on(import::check(stores.rows.as_ref(), &plan))??;
    stores.begin_import(&asked.table)?;
    run::block_on(import::write(stores.rows.as_ref(), &plan))??;
    stores.end_import()?;
    context.output().note(&format!("{} shards are taken over: go on with `sluicebox run`", plan.taken.len()))?;
    Ok(Exit::Good)
}

fn print(plan: &Plan, context: &Context) -> Result<(), CliError> {
    let mut table = Table::new(["shard", "state", "position", "what it means"]);
    for Taken { row, why } in &plan.taken {
        let position = Cell::Token(if row.state == ShardState::Drained { "end".into() } else { row.position.to_string() });
        table.row([Cell::Token(row.shard.to_string()), shards::word(row.state).into(), position, meaning(row, *why).into()]);
    }
    let mut output = context.output();
    output.table(&table)?;
    for shard in &plan.forgotten {
        output.note(&format!(
            "{shard}: its lease was not at its end, and the stream has forgotten it: what that fleet had not read is lost"
        ))?;
    }
    output.note(
        "Gold: a window that is under way holds only what comes after these positions: the first one of each table is partial, \
         and so is any older one that late records still reach",
    )?;
    Ok(())
}

fn meaning(row: &ShardRow, why: Why) -> String {
    let how = match why {
        Why::Checkpoint => "goes on after its checkpoint",
        Why::Again => "its checkpoint lies inside a KPL aggregate, which is read again with all that arrived in its millisecond",
        Why::Skipped => "its checkpoint lies inside a KPL aggregate, the rest of which is left out",
        Why::NotBegun => "was not begun: from its start",
        Why::AtTime => "was not begun: from --latest-at",
        Why::Ended => "was read to its end",
        Why::EndedBefore => "has no lease, but one that came out of it has: not read",
        Why::NoLease => "has no lease: from its start",
    };
    match row.state {
        ShardState::Blocked => format!("{how}, once its parents are read"),
        ShardState::Open | ShardState::Drained | ShardState::Retired => how.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_time_and_nothing_else() {
        assert_eq!(time("1970-01-01T00:00:01Z"), Ok(1_000_000));
        for text in ["latest", "horizon", "yesterday", "1"] {
            assert!(time(text).unwrap_err().contains(text));
        }
    }
}
