//! `query`: SQL over everything that is published, beside a running `run`.
//!
//! Owns: the session (read-only, bounded memory, identifiers as written), the list of tables, one retry when a file went away
//! between listing and opening. Does not own: reading single files (files), printing (output).

use std::panic::AssertUnwindSafe;
use std::path::{Component, Path};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::{DataFusionError, config};
use datafusion::datasource::file_format::parquet::ParquetFormat;
use datafusion::datasource::listing::{ListingOptions, ListingTable, ListingTableConfig, ListingTableUrl};
use datafusion::execution::context::SQLOptions;
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::prelude::{SessionConfig, SessionContext};
use futures_util::stream::{self, BoxStream, StreamExt};
use sluicebox_actors::model::fault::{Fault, Kind, Result};

use super::letter_rows::timestamp;
use super::sources::{Sources, Visible, blocking, cannot_read, folders, segment, unescaped, visible};
use super::table::{Content, FileTable, LedgerTable, fault_of};
use super::{files, letter_rows};

/// Memory that one query may take before it spills to disk, in bytes.
pub const MEMORY: usize = 512 << 20;
/// Threads of one query.
const PARTS: usize = 2;
/// Disk that one query may spill to, in bytes.
const SPILL: u64 = 16 << 30;
/// Footers read to learn the columns of a table whose schema nobody gave.
const FOOTERS: usize = 8;
const HOURS: [&str; 2] = ["dt", "hour"];

/// The tables of one data directory.
#[derive(Clone, Debug)]
pub struct Catalog {
    sources: Sources,
    schemas: Vec<(String, SchemaRef)>,
    memory: usize,
}

/// An answer on its way.
pub struct Answer {
    /// Its columns, also when no row comes.
    pub schema: SchemaRef,
    /// Its rows as they are found.
    pub batches: BoxStream<'static, Result<RecordBatch>>,
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Answer").field("schema", &self.schema).finish_non_exhaustive()
    }
}

impl Catalog {
    /// `schemas` are the files' columns by name of the table (`silver`, `gold_hourly_by_type`, …) as the pipeline file makes
    /// them; a table that is not named there has the columns of its newest files.
    pub fn new(sources: Sources, schemas: Vec<(String, SchemaRef)>) -> Self {
        Self { sources, schemas, memory: MEMORY }
    }

    /// Another limit on memory, in bytes.
    pub fn with_memory(mut self, bytes: usize) -> Self {
        self.memory = bytes;
        self
    }

    /// Runs one SELECT (or EXPLAIN, DESCRIBE). A statement that would change something, or that cannot be planned, is `Config`.
    pub async fn query(&self, sql: &str) -> Result<Answer> {
        match self.attempt(sql).await {
            Err(Attempt::Vanished) => match self.attempt(sql).await {
                Ok(answer) => Ok(answer),
                Err(Attempt::Vanished) => Err(Fault::retry("files were removed while the query read them, twice; run it again")),
                Err(Attempt::Failed(fault)) => Err(fault),
            },
            Err(Attempt::Failed(fault)) => Err(fault),
            Ok(answer) => Ok(answer),
        }
    }

    /// Plans, starts and waits for the first batch: by then every sort or aggregate has read all of its files.
    async fn attempt(&self, sql: &str) -> Result<Answer, Attempt> {
        let context = self.session(sql).await?;
        let options = SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
        let frame = context.sql_with_options(sql, options).await.map_err(|error| Attempt::of(&error))?;
        let batches = frame.execute_stream().await.map_err(|error| Attempt::of(&error))?;
        let schema = batches.schema();
        // Some damage makes the Parquet reader panic instead of refusing; that must not end the caller.
        let mut batches = AssertUnwindSafe(batches).catch_unwind().map(|batch| match batch {
            Ok(batch) => batch.map_err(|error| Attempt::of(&error)),
            Err(_) => Err(Attempt::Failed(Fault::corrupt("a file is damaged in a way that its reader panics; `audit` names it"))),
        });
        let first = batches.next().await.transpose()?;
        let rest = batches.map(|batch| batch.map_err(Attempt::fault));
        // The session goes with the stream: it owns the spill files.
        let all = stream::iter(first.map(Ok)).chain(rest).map(move |batch| (&context, batch).1);
        Ok(Answer { schema, batches: all.boxed() })
    }

    /// The tables' names, in order.
    pub async fn tables(&self) -> Result<Vec<String>> {
        let mut names = vec!["bronze".to_owned(), "silver".into(), "gold_windows".into(), "dlq".into(), "ledger".into()];
        let data = self.sources.data.clone();
        let found = blocking(move || folders(&data, "gold")).await?;
        names.extend(found.iter().map(|table| format!("gold_{}", unescaped(table))));
        names.extend(self.schemas.iter().map(|(name, _)| name.clone()));
        names.sort();
        names.dedup();
        Ok(names)
    }

    /// Only the tables that the statement names are looked at: a damaged file of another one does not matter to it.
    async fn session(&self, sql: &str) -> Result<SessionContext, Attempt> {
        let mut config = SessionConfig::new()
            .with_target_partitions(PARTS)
            .with_collect_statistics(false)
            .set_bool("datafusion.sql_parser.enable_ident_normalization", false)
            .set_bool("datafusion.execution.parquet.schema_force_view_types", false)
            .set_bool("datafusion.sql_parser.map_string_types_to_utf8view", false);
        config.options_mut().execution.time_zone = Some("UTC".to_owned());
        let runtime = RuntimeEnvBuilder::new()
            .with_memory_pool(Arc::new(FairSpillPool::new(self.memory)))
            .with_max_temp_directory_size(SPILL)
            .build_arc()
            .map_err(|error| Attempt::of(&error))?;
        let context = SessionContext::new_with_config_rt(config, runtime);
        let state = context.state();
        let statement = state.sql_to_statement(sql, &config::Dialect::Generic).map_err(|error| Attempt::of(&error))?;
        let named = state.resolve_table_references(&statement).map_err(|error| Attempt::of(&error))?;
        for name in self.tables().await? {
            if named.iter().any(|named| named.table() == name) {
                self.register(&context, &name).await?;
            }
        }
        Ok(context)
    }

    async fn register(&self, context: &SessionContext, name: &str) -> Result<(), Attempt> {
        let add = |table: Arc<dyn datafusion::catalog::TableProvider>| {
            let name = datafusion::common::TableReference::bare(name);
            context.register_table(name, table).map(drop).map_err(|error| Attempt::of(&error))
        };
        let sources = || self.sources.clone();
        match name {
            "ledger" => return add(Arc::new(LedgerTable::new(sources()))),
            "dlq" => {
                let schema = letter_rows::schema();
                return add(Arc::new(FileTable::new(sources(), name.to_owned(), Content::Letters, &schema, &["dt"], PARTS)));
            }
            _ => {}
        }
        let folder = match name.strip_prefix("gold_") {
            Some(table) if name != "gold_windows" => format!("gold/{}", segment(table)),
            Some(_) | None => name.to_owned(),
        };
        let (data, under) = (self.sources.data.clone(), folder.clone());
        let found = blocking(move || visible(&data, &under)).await?;
        let schema = self.schema(name, &found).await?;
        let replaced = folder.starts_with("gold");
        let plain = found.iter().all(|file| file.relative.ends_with(".parquet"))
            && HOURS.iter().all(|key| schema.column_with_name(key).is_none());
        if replaced || !plain || found.is_empty() {
            return add(Arc::new(FileTable::new(sources(), folder, Content::Rows, &schema, &HOURS, PARTS)));
        }
        // These files never change, so DataFusion's own reader may skip row groups and pages in them.
        let url = ListingTableUrl::parse(folder_url(&self.sources.data.join(&folder))?).map_err(|error| Attempt::of(&error))?;
        let options = ListingOptions::new(Arc::new(ParquetFormat::default().with_force_view_types(false)))
            .with_file_extension(".parquet")
            .with_table_partition_cols(HOURS.map(|key| (key.to_owned(), DataType::Utf8)).to_vec());
        let config = ListingTableConfig::new(url).with_listing_options(options).with_schema(files::nullable(&schema));
        add(Arc::new(ListingTable::try_new(config).map_err(|error| Attempt::of(&error))?))
    }

    /// The columns of a table's files: as given, else as its newest files have them, else those every such table has.
    async fn schema(&self, name: &str, found: &[Visible]) -> Result<SchemaRef> {
        if let Some((_, schema)) = self.schemas.iter().find(|(table, _)| table == name) {
            return Ok(schema.clone());
        }
        let newest: Vec<Visible> =
            found.iter().rev().filter(|file| file.relative.ends_with(".parquet")).take(FOOTERS).cloned().collect();
        if newest.is_empty() {
            return Ok(least(name));
        }
        blocking(move || {
            let mut fields: Vec<Arc<Field>> = Vec::new();
            for file in newest {
                let (schema, _) = match files::parquet_shape(&file.path) {
                    // A damaged file is named when it is read; if the query leaves it out, it does not matter.
                    Err(fault) if files::is_vanished(&fault) || fault.kind() == Kind::Corrupt => continue,
                    other => other?,
                };
                for field in schema.fields() {
                    if !fields.iter().any(|known| known.name() == field.name()) {
                        fields.push(field.clone());
                    }
                }
            }
            Ok(Arc::new(Schema::new(fields)))
        })
        .await
    }
}

/// A folder as a URL, so that no character of its path is taken for a pattern.
fn folder_url(folder: &Path) -> Result<String> {
    let folder = std::path::absolute(folder).map_err(|error| cannot_read(&folder.to_string_lossy(), &error))?;
    let mut url = "file://".to_owned();
    for part in folder.components() {
        if let Component::Normal(part) = part {
            let part = part.to_str().ok_or_else(|| Fault::config("the data directory's path is not UTF-8"))?;
            url.push('/');
            url += &segment(part);
        }
    }
    url.push('/');
    Ok(url)
}

/// What a table without files and without a given schema has at least.
fn least(name: &str) -> SchemaRef {
    let text = |name: &str| Field::new(name, DataType::Utf8, true);
    let time = |name: &str| Field::new(name, timestamp(), true);
    let number = |name: &str| Field::new(name, DataType::Int64, true);
    let coordinates = |mut fields: Vec<Field>| {
        fields.extend([text("_stream"), text("_shard"), text("_sequence"), Field::new("_sub_sequence", DataType::Int32, true)]);
        fields
    };
    let fields = match name {
        "bronze" => {
            let mut fields = coordinates(vec![Field::new("data", DataType::Binary, true)]);
            fields.extend([text("_partition_key"), time("_arrival_time")]);
            fields
        }
        "silver" => {
            let mut fields = coordinates(vec![time("event_time")]);
            fields.push(time("_arrival_time"));
            fields
        }
        "gold_windows" => {
            let mut fields = vec![text("table"), time("window_start"), time("window_end"), text("status")];
            fields.extend([number("revision"), text("missing_shards"), number("on_time"), number("late"), number("too_late")]);
            fields.extend([number("rows"), Field::new("overflow", DataType::Boolean, true), text("vector")]);
            fields.extend([text("sequences"), time("empty_since")]);
            fields
        }
        _ => vec![time("window_start"), time("window_end")],
    };
    Arc::new(Schema::new(fields))
}

enum Attempt {
    /// A file was gone when it was opened.
    Vanished,
    Failed(Fault),
}

impl From<Fault> for Attempt {
    fn from(fault: Fault) -> Self {
        if files::is_vanished(&fault) { Self::Vanished } else { Self::Failed(fault) }
    }
}

impl Attempt {
    fn fault(self) -> Fault {
        match self {
            Self::Failed(fault) => fault,
            Self::Vanished => Fault::retry("a file was removed while the query read it; run it again"),
        }
    }

    fn of(error: &DataFusionError) -> Self {
        if let Some(fault) = fault_of(error) {
            return fault.clone().into();
        }
        let plain = |kind, what: &str| Self::Failed(Fault::new(kind, format!("{what}: {}", error.strip_backtrace())));
        // Their enums grow with every version: everything that is not singled out is the statement's fault.
        let root = error.find_root();
        if let DataFusionError::ObjectStore(inner) = root {
            let gone = matches!(inner.as_ref(), datafusion::object_store::Error::NotFound { .. });
            return if gone { Self::Vanished } else { plain(Kind::Retry, "read files") };
        }
        if let DataFusionError::IoError(inner) = root {
            let gone = inner.kind() == std::io::ErrorKind::NotFound;
            return if gone { Self::Vanished } else { plain(Kind::Retry, "read files") };
        }
        if matches!(root, DataFusionError::ParquetError(_)) {
            return plain(Kind::Corrupt, "a file is damaged (`audit` names it)");
        }
        if matches!(root, DataFusionError::ResourcesExhausted(_)) {
            return plain(Kind::Config, "the query needs more memory than it may take");
        }
        plain(Kind::Config, "the query")
    }
}
