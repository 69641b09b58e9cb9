//! From settings to components: the only file that knows every adapter.
//!
//! Owns: which implementation stands behind which port, and with which settings. Does not own: the settings (settings), the
//! life of the process (run), any decision at run time.

use std::path::Path;
use std::sync::Arc;

use arrow::datatypes::{DataType, SchemaRef};
use sluicebox_actors::machines::breaker::BreakerConfig;
use sluicebox_actors::machines::gold::GoldConfig;
use sluicebox_actors::machines::restart::RestartConfig;
use sluicebox_actors::machines::shard::{Extent, OnGap, ShardConfig};
use sluicebox_actors::model::fault::Result;
use sluicebox_actors::model::letter::Postmark;
use sluicebox_actors::model::window::Windowing;
use sluicebox_actors::pipeline::{Parts, PipelineConfig};
use sluicebox_actors::ports::{Clock, Engine, Rows};
use sluicebox_actors::shells::shard::FetchLimits;
use sluicebox_actors::toolkit::board::Board;

#[cfg(debug_assertions)]
use crate::engine::condemned::Deadly;
use crate::engine::contract::{Contract, ContractError, EventOptions};
use crate::engine::event_time::{TimeFormat, TimeSource};
use crate::engine::glue::{DecoderFactory, SqlEngine};
use crate::engine::sql::error::SqlError;
use crate::engine::sql::gold::GoldPlan;
use crate::engine::sql::silver::SilverPlan;
use crate::engine::sql::spill::MergeMemory;
use crate::read::audit::recompute::Recompute;
use crate::read::sources::Sources;
use crate::settings::problem::nearest;
use crate::settings::{self, FieldPath, FileFormat, Loaded, Problem, Settings, SettingsError};
use crate::source::{self, Source};
use crate::store::blobs::DiskBlobs;
use crate::store::gold_files::DiskGoldFiles;
use crate::store::home::{Home, RunLock};
use crate::store::ledger_files::DiskLedgerFiles;
use crate::store::outputs::{DiskOutputs, OutputOptions};
use crate::store::row_file::Format;
use crate::store::rows::SqliteRows;
use crate::store::tables;

/// Pause after a read of the embedded stream that found nothing.
const POLL_US: i64 = 100_000;

/// A pipeline file that compiles.
pub struct Compiled {
    /// The event contract.
    pub contract: Contract,
    /// Contract, Silver and Gold as one engine.
    pub engine: Arc<SqlEngine>,
}

impl Compiled {
    /// The columns of every table by its name in SQL.
    pub fn schemas(&self) -> Vec<(String, SchemaRef)> {
        let mut schemas = vec![("silver".to_owned(), self.engine.silver_schema().clone())];
        for (index, table) in self.engine.tables().iter().enumerate() {
            if let Some(schema) = self.engine.gold_schema(index) {
                schemas.push((format!("gold_{}", table.name), schema.clone()));
            }
        }
        schemas
    }
}

/// Compiles contract, Silver and Gold; an error names the place in the pipeline file or in the schema.
pub fn compile(loaded: &Loaded) -> Result<Compiled, SettingsError> {
    let settings = &loaded.settings;
    let contract = contract(loaded)?;
    let filters: Vec<(&str, &str)> =
        settings.silver.filter.iter().map(|filter| (filter.name.as_str(), filter.condition.as_str())).collect();
    let silver = SilverPlan::compile(&settings.silver.sql, &filters, &contract.schema())
        .map_err(|error| SettingsError { problems: vec![sql_problem(loaded, error)] })?;
    let (mut gold, mut problems) = (Vec::new(), Vec::new());
    for table in &settings.gold {
        let windowing = Windowing { size_us: table.window.tumbling.us(), lateness_us: table.window.allowed_lateness.us() };
        match GoldPlan::compile(&table.name, &table.sql, silver.schema(), windowing) {
            Ok(plan) => gold.push(plan),
            Err(error) => problems.push(sql_problem(loaded, error)),
        }
    }
    if !problems.is_empty() {
        return Err(SettingsError { problems });
    }
    let decoders = contract.clone();
    let decoders: DecoderFactory = Arc::new(move || Box::new(decoders.decoder()));
    #[cfg(debug_assertions)]
    let decoders = deadly(decoders);
    let engine = SqlEngine::new(decoders, silver, gold);
    Ok(Compiled { contract, engine: Arc::new(engine) })
}

/// `SLUICEBOX_ABORT_ON=<text>` makes records that hold the text deadly, so that tests can kill the program as a bug would.
#[cfg(debug_assertions)]
fn deadly(inner: DecoderFactory) -> DecoderFactory {
    match std::env::var("SLUICEBOX_ABORT_ON") {
        Ok(text) => Arc::new(move || Box::new(Deadly { text: text.clone(), decoder: inner() })),
        Err(_) => inner,
    }
}

/// Compiles the contract alone; a path of the pipeline file that leads to nothing the schema declares is refused.
pub fn contract(loaded: &Loaded) -> Result<Contract, SettingsError> {
    let event = &loaded.settings.event;
    let contract = Contract::compile(&loaded.schema, &event_options(event))
        .map_err(|error| SettingsError { problems: vec![contract_problem(loaded, error)] })?;
    let time = (!event.time.is_arrival()).then_some(("event.time", &event.time));
    let paths = time.into_iter().chain(event.partition_key.iter().map(|path| ("event.partition_key", path)));
    let problems: Vec<_> = paths.filter_map(|(key, path)| undeclared(loaded, &contract.schema(), key, path)).collect();
    if problems.is_empty() { Ok(contract) } else { Err(SettingsError { problems }) }
}

fn undeclared(loaded: &Loaded, events: &SchemaRef, key: &str, path: &FieldPath) -> Option<Problem> {
    let mut fields = events.fields();
    let own = |name: &str| name.starts_with('_') || name == "event_time";
    // A schema that declares nothing says nothing against any path.
    if fields.iter().all(|field| own(field.name())) {
        return None;
    }
    for segment in path.segments() {
        let Some((_, field)) = fields.find(segment).filter(|_| !own(segment)) else {
            let known = fields.iter().map(|field| field.name().as_str()).filter(|name| !own(name));
            let help = match nearest(segment, known) {
                Some(nearest) => format!("did you mean `{nearest}`?"),
                None => format!("declare `{segment}` in the schema, or name a member that is declared there"),
            };
            let message = format!("`{key}`: the event schema {} declares no `{segment}`", loaded.schema_origin);
            return Some(Problem::new(message).at(loaded.place_of(key)).help(help));
        };
        // JSON text: what is in it, the schema does not say.
        let DataType::Struct(members) = field.data_type() else { return None };
        fields = members;
    }
    None
}

/// How the contract reads an event's time.
pub fn event_options(event: &settings::Event) -> EventOptions {
    let time = if event.time.is_arrival() { TimeSource::Arrival } else { TimeSource::Path(event.time.segments().to_vec()) };
    let time_format = match &event.time_format {
        settings::TimeFormat::Rfc3339 => TimeFormat::Rfc3339,
        settings::TimeFormat::EpochS => TimeFormat::EpochS,
        settings::TimeFormat::EpochMs => TimeFormat::EpochMs,
        settings::TimeFormat::EpochUs => TimeFormat::EpochUs,
        settings::TimeFormat::EpochNs => TimeFormat::EpochNs,
        settings::TimeFormat::Pattern(format) => TimeFormat::Custom(format.clone()),
    };
    EventOptions { time, time_format, default_offset_s: event.time_zone.seconds(), max_future_us: event.max_future.us() }
}

fn contract_problem(loaded: &Loaded, error: ContractError) -> Problem {
    let message = match error.setting {
        "event.schema" => format!("event schema {} at `{}`: {}", loaded.schema_origin, error.pointer, error.message),
        setting => format!("`{setting}`: {}", error.message),
    };
    Problem::new(message).at(loaded.place_of(error.setting)).help(error.remedy)
}

fn sql_problem(loaded: &Loaded, error: SqlError) -> Problem {
    let place = match error.place {
        Some((line, column)) => loaded.place_in(&error.statement, line as usize, column as usize),
        None => loaded.place_of(&error.statement),
    };
    Problem::new(format!("`{}`: {}", error.statement, error.message)).at(place).help(error.remedy)
}

/// A data directory with the stores in it.
pub struct Stores {
    /// The directory.
    pub home: Home,
    /// Rows.
    pub rows: Arc<SqliteRows>,
    /// Objects.
    pub blobs: Arc<DiskBlobs>,
    /// The table `ledger`.
    pub ledger: Arc<DiskLedgerFiles>,
}

impl Stores {
    /// Opens or makes a directory for a run, and takes it: nothing is opened for writing in a directory that another run holds.
    pub fn for_run(data: &Path, settings: &Settings, clock: Arc<dyn Clock>) -> Result<(Self, RunLock)> {
        let home = Home::open_or_create(data, &settings.pipeline.name, clock)?;
        let lock = home.lock_for_run()?;
        let rows = SqliteRows::open(&home)?;
        Ok((Self::with(home, rows), lock))
    }

    /// Opens a directory for looking only.
    pub fn for_reading(data: &Path, clock: Arc<dyn Clock>) -> Result<Self> {
        let home = Home::open(data, clock)?;
        let rows = SqliteRows::open_read_only(&home)?;
        Ok(Self::with(home, rows))
    }

    fn with(home: Home, rows: SqliteRows) -> Self {
        let (blobs, ledger) = (Arc::new(DiskBlobs::new(&home)), Arc::new(DiskLedgerFiles::new(&home)));
        Self { home, rows: Arc::new(rows), blobs, ledger }
    }

    /// What the read side looks at.
    pub fn sources(&self) -> Sources {
        Sources {
            data: self.home.data().to_path_buf(),
            rows: self.rows.clone() as Arc<dyn Rows>,
            blobs: self.blobs.clone(),
            ledger: self.ledger.clone(),
        }
    }

    /// The same engine with the settings' memory for its merges, and this directory for what doesn't fit into it.
    pub fn merging(&self, engine: &SqlEngine, settings: &Settings) -> Arc<SqlEngine> {
        let disk = self.home.disk().clone();
        let memory = MergeMemory::new(settings.limits.merge_memory.as_usize(), Arc::new(move || disk.nameless()));
        Arc::new(engine.merging_within(memory))
    }

    /// What computes Gold once more for the audit.
    pub fn recompute(&self, loaded: &Loaded, compiled: &Compiled) -> Recompute {
        Recompute {
            engine: self.merging(&compiled.engine, &loaded.settings),
            gold: Arc::new(DiskGoldFiles::new(&self.home, Format::Parquet)),
            silver: Some(compiled.engine.silver_schema().clone()),
            fingerprint: Some(loaded.fingerprint()),
        }
    }
}

/// Refuses to go on with a Gold table whose states mean something else than those that are stored.
pub fn check_tables(loaded: &Loaded, compiled: &Compiled, home: &Home) -> Result<Result<(), SettingsError>> {
    let plans = compiled.engine.gold_plans().iter();
    let meanings: Vec<_> = plans.map(|plan| (plan.table().name.as_ref(), plan.meaning().to_owned())).collect();
    let changed = tables::changed(home, &meanings)?;
    let problem = |name: &&str| {
        let message = format!("`gold.{name}`: this directory holds windows of the table under another statement");
        let help = format!(
            "name the changed table anew, such as `{name}_2`: it begins with the records that are not committed yet; or start in \
             another directory with --data"
        );
        Problem::new(message).at(loaded.place_of(&format!("gold.{name}.sql"))).help(help)
    };
    let problems: Vec<_> = changed.iter().map(problem).collect();
    Ok(if problems.is_empty() { Ok(()) } else { Err(SettingsError { problems }) })
}

/// Everything a pipeline runs on.
pub fn parts(loaded: &Loaded, engine: &SqlEngine, stores: &Stores, stream: &Source, clock: Arc<dyn Clock>, drain: bool) -> Parts {
    let settings = &loaded.settings;
    let run = clock.random();
    let identity = stores.home.identity();
    let postmark = Postmark {
        fingerprint: loaded.fingerprint().into(),
        version: env!("CARGO_PKG_VERSION").into(),
        request_id: format!("{run:016x}").into(),
    };
    let config = PipelineConfig {
        owner: format!("{}:{}", crate::run::host_name(), std::process::id()),
        pipeline: identity.pipeline.clone(),
        postmark,
        bronze_on: settings.bronze.enabled,
        parallelism: settings.stream.parallelism as usize,
        in_flight: settings.limits.in_flight.as_usize(),
        fetch: FetchLimits { records: settings.limits.fetch_records as usize, bytes: settings.limits.fetch.as_usize() },
        shard: shard_config(settings, drain),
        restart: RestartConfig {
            backoff_min_us: settings.restart.backoff_min.us(),
            backoff_max_us: settings.restart.backoff_max.us(),
            intensity: settings.restart.intensity,
            period_us: settings.restart.period.us(),
        },
        gold: GoldConfig {
            collect_after: settings.collect.after_epochs as usize,
            max_wait_us: settings.gold.iter().map(|gold| gold.max_wait.map(|wait| wait.us())).collect(),
        },
        start: source::start(settings.stream.start, identity.created_us),
    };
    let options = OutputOptions {
        bronze: format(settings.bronze.format),
        silver: format(settings.silver.format),
        partition_by: settings.silver.partition_by.clone(),
        open_files: settings.limits.open_files as usize,
        ..OutputOptions::default()
    };
    Parts {
        stream: stream.port(),
        rows: stores.rows.clone(),
        blobs: stores.blobs.clone(),
        outputs: Arc::new(DiskOutputs::new(&stores.home, options)),
        gold_files: Arc::new(DiskGoldFiles::new(&stores.home, Format::Parquet)),
        ledger: stores.ledger.clone(),
        engine: stores.merging(engine, settings),
        clock,
        board: Arc::new(Board::default()),
        fleet: None,
        config: Arc::new(config),
    }
}

fn shard_config(settings: &Settings, drain: bool) -> ShardConfig {
    ShardConfig {
        commit_interval_us: settings.commit.interval.us(),
        commit_size: settings.commit.size.as_usize() as u64,
        disorder_us: settings.event.disorder.us(),
        poll_us: POLL_US,
        on_gap: match settings.stream.on_gap {
            settings::OnGap::Halt => OnGap::Halt,
            settings::OnGap::Continue => OnGap::Continue,
        },
        drain,
        extent: Extent::Endless,
        breaker: BreakerConfig {
            enabled: settings.breaker.enabled,
            share: settings.breaker.share,
            window: u64::from(settings.breaker.window),
        },
    }
}

fn format(format: FileFormat) -> Format {
    match format {
        FileFormat::Parquet => Format::Parquet,
        FileFormat::Ndjson => Format::Ndjson,
        FileFormat::NdjsonGzip => Format::NdjsonGzip,
    }
}
