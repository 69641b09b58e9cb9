//! From settings to components: here and in `stores` alone every adapter is known.
//!
//! Owns: the compiled pipeline file, and everything a pipeline runs on. Does not own: the stores behind it (stores), the settings
//! (settings), the life of the process (run), any decision at run time.

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
use sluicebox_actors::ports::{Clock, Engine};
use sluicebox_actors::shells::shard::FetchLimits;
use sluicebox_actors::toolkit::board::Board;

#[cfg(debug_assertions)]
use crate::engine::condemned::Deadly;
use crate::engine::contract::{Contract, ContractError, EventOptions};
use crate::engine::event_time::{TimeFormat, TimeSource};
use crate::engine::glue::{DecoderFactory, SqlEngine};
use crate::engine::inflate::{self, Inflating};
use crate::engine::sql::error::SqlError;
use crate::engine::sql::gold::GoldPlan;
use crate::engine::sql::silver::SilverPlan;
use crate::settings::problem::nearest;
use crate::settings::{self, FieldPath, Loaded, Problem, Settings, SettingsError, Sink, Takes};
use crate::source::{self, Source};

mod sinks;
pub mod stores;

pub use sinks::sinks;
pub use stores::Stores;

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
    let decoders: DecoderFactory = match settings.stream.decompress {
        settings::Decompress::Off => Arc::new(move || Box::new(decoders.decoder())),
        settings::Decompress::Auto => {
            Arc::new(move || Box::new(Inflating { decoder: Box::new(decoders.decoder()), bounds: inflate::Bounds::default() }))
        }
    };
    #[cfg(debug_assertions)]
    let decoders = deadly(decoders);
    let engine = SqlEngine::new(decoders, silver, gold);
    check_keys(loaded, &engine)?;
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

/// Everything a pipeline runs on.
pub fn parts(loaded: &Loaded, engine: &SqlEngine, stores: &Stores, stream: &Source, clock: Arc<dyn Clock>, drain: bool) -> Parts {
    let settings = &loaded.settings;
    let run = clock.random();
    let identity = stores.identity();
    let postmark = Postmark {
        fingerprint: loaded.fingerprint().into(),
        version: env!("CARGO_PKG_VERSION").into(),
        request_id: format!("{run:016x}").into(),
    };
    let config = PipelineConfig {
        // In a fleet no two processes ever have the same.
        owner: match stores.fleet() {
            Some(_) => format!("{}:{}:{run:016x}", crate::run::host_name(), std::process::id()),
            None => format!("{}:{}", crate::run::host_name(), std::process::id()),
        },
        pipeline: identity.pipeline.clone(),
        created_us: identity.created_us,
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
    Parts {
        stream: stream.port(),
        rows: stores.rows.clone(),
        blobs: stores.blobs.clone(),
        outputs: stores.outputs(settings),
        gold_files: stores.gold_files(),
        ledger: stores.ledger.clone(),
        sinks: Default::default(),
        engine: stores.merging(engine, settings),
        clock,
        board: Arc::new(Board::default()),
        fleet: stores.fleet(),
        config: Arc::new(config),
    }
}

/// Is this Gold table one of the sink's?
fn takes(sink: &Sink, table: &str) -> bool {
    sink.is_given() == Takes::Gold && (sink.tables.is_empty() || sink.tables.iter().any(|name| name == table))
}

/// A sink tells rows apart by their group keys: it can't be given a table that does not show them.
fn check_keys(loaded: &Loaded, engine: &SqlEngine) -> Result<(), SettingsError> {
    let mut problems = Vec::new();
    for plan in engine.gold_plans().iter().filter(|plan| plan.key_columns().is_none()) {
        let name = plan.table().name.as_ref();
        for (n, sink) in loaded.settings.sink.iter().enumerate().filter(|(_, sink)| takes(sink, name)) {
            let message =
                format!("`sink.{n}`: the rows of the Gold table `{name}` can't be told apart in the sink `{}`", sink.name);
            let help = format!(
                "name every group key of gold.{name}.sql as a column of its SELECT, unchanged; or list other tables in \
                 sink.{n}.tables"
            );
            problems.push(Problem::new(message).at(loaded.place_of(&format!("sink.{n}.name"))).help(help));
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(SettingsError { problems }) }
}

fn shard_config(settings: &Settings, drain: bool) -> ShardConfig {
    ShardConfig {
        commit_interval_us: settings.commit.interval.us(),
        commit_size: settings.commit.size.as_usize() as u64,
        group_memory: settings.limits.group_memory.as_usize() as u64,
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
