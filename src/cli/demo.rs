//! `sluicebox demo`: from nothing to audited Gold in one command.
//!
//! Owns: its flags. Does not own: the events it makes, the run.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use clap::Args;

use super::{CliError, Context, Exit, audit, query};
use crate::demo_events::DemoEvents;
use crate::input::json_path::JsonPath;
use crate::input::put::{self, PutWorld};
use crate::output::human;
use crate::progress::{Progress, Unit};
use crate::read::query::Catalog;
use crate::run;
use crate::settings::{self, load};
use crate::source::Source;
use crate::topology::{self, Stores};

/// Arrival of the first event: 2026-01-05T08:00:00Z. Fixed, so that one seed makes one stream, whenever it is made.
const START_US: i64 = 1_767_600_000_000_000;
const HOUR_US: i64 = 3_600_000_000;
/// Says that a folder was made by the demo, and may be made anew.
const MARK: &str = ".sluicebox-demo";

/// Small epochs, so that a stream of seconds shows what one of hours does: bounds that rise, late records, revisions.
const COMMIT_SIZE: &str = "commit.size=8MiB";
const GOLD: &str = "SELECT g.window_start, w.status, w.revision, g.\"eventType\", g.events, g.unique_users, g.revenue, \
    g.p95_amount \
    FROM gold_hourly_by_type g JOIN gold_windows w ON w.window_start = g.window_start AND w.\"table\" = 'hourly_by_type' \
    ORDER BY g.window_start, g.\"eventType\"";

/// Flags of `demo`.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Events to make
    #[arg(long, value_name = "N", default_value_t = 2_000_000)]
    pub events: u64,
    /// Hours over which they arrive
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = clap::value_parser!(i64).range(1..=1000))]
    pub hours: i64,
    /// Makes other events: the same number makes the same events
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Folder to make; one that an earlier demo made is replaced
    #[arg(long, value_name = "DIR", default_value = "sluicebox-demo")]
    pub into: PathBuf,
}

/// Makes a stream, drains it through the built-in pipeline, audits, and shows Gold.
pub fn run(args: DemoArgs, context: &Context) -> Result<Exit, CliError> {
    let mut output = context.output();
    clear(&args.into)?;
    let context = &context.at(args.into.clone());
    let sets: Vec<String> = std::iter::once(COMMIT_SIZE.to_owned()).chain(context.sets().iter().cloned()).collect();
    let loaded = load::load(&load::Source::Builtin, [], &sets)?;
    let compiled = topology::compile(&loaded)?;

    output.note(&format!(
        "1/4  making {} clickstream events that arrive over {} h: some late, some too late, some broken (seed {})",
        human::count(args.events),
        args.hours,
        args.seed
    ))?;
    make(&args, &loaded.settings, context)?;
    output.note("2/4  running the built-in pipeline over them until everything is read")?;
    let (outcome, totals) = super::run::pipeline(&loaded, context, true)?;
    output.table(&super::run::summary(&totals))?;
    output.note("3/4  auditing: every line of the ledger, every file by its hash, every window computed again from Silver")?;
    let stores = Stores::for_reading(context.data(), context.clock())?;
    let report = audit::report(&loaded, &compiled, &stores, false, context)?;
    audit::print(&report, context)?;
    output.note("4/4  Gold, table hourly_by_type")?;
    let catalog = Catalog::new(stores.sources(), compiled.schemas());
    run::block_on(async {
        let rows = catalog.query(GOLD).await?;
        query::print(context, rows, None).await
    })??;
    places(&args.into, &mut output)?;
    Ok(if outcome.is_good() && report.ok() { Exit::Good } else { Exit::Found })
}

/// Only a folder that a demo made is removed.
fn clear(into: &Path) -> Result<(), CliError> {
    if into.join(MARK).exists() {
        std::fs::remove_dir_all(into)?;
    } else if into.exists() && into.read_dir()?.next().is_some() {
        let message = format!("{} is not empty, and no demo made it", into.display());
        return Err(CliError::usage(message, "name another folder: --into DIR"));
    }
    std::fs::create_dir_all(into)?;
    std::fs::write(into.join(MARK), "made by `sluicebox demo`; the next one replaces this folder\n")?;
    Ok(())
}

fn make(args: &DemoArgs, settings: &settings::Settings, context: &Context) -> Result<(), CliError> {
    let stream = Source::open(context.data(), settings, context.clock())?.embedded("demo")?;
    let events = DemoEvents::new(args.seed, args.events, START_US, args.hours * HOUR_US);
    let key = settings.event.partition_key.as_ref().map(|path| JsonPath::new(path.segments().to_vec()));
    let clock = context.clock();
    let mut progress = Progress::stderr("make", Unit::Records, Some(args.events), clock.clone());
    let mut world = PutWorld {
        clock: clock.as_ref(),
        sleep: &super::put::pause,
        progress: &mut |totals, _| {
            progress.set(totals.records);
            ControlFlow::Continue(())
        },
    };
    let totals = put::put_events(&stream, events, key.as_ref(), &mut world).map_err(|stopped| stopped.fault)?;
    progress.finish();
    if totals.records != args.events {
        return Err(CliError::failed(format!("{} of {} events were taken", totals.records, args.events), "free disk space"));
    }
    Ok(())
}

fn places(into: &Path, output: &mut crate::output::Output) -> Result<(), CliError> {
    let folder = |name: &str| into.join(name).display().to_string();
    output.note("")?;
    for (name, what) in [
        ("bronze", "raw records, by hour of arrival"),
        ("silver", "valid rows, by hour of the event"),
        ("gold", "one file an hour and table"),
        ("gold_windows", "status, revision and counts of each window"),
        ("dlq", "dead letters with their bytes and the reason"),
    ] {
        output.note(&format!("{:32} {what}", folder(name)))?;
    }
    let data = into.display();
    output.note(&format!("\nask it:  sluicebox --data {data} query \"SELECT reason, count(*) FROM dlq GROUP BY reason\""))?;
    output.note(&format!("         sluicebox --data {data} dlq ls --limit 5"))?;
    Ok(())
}
