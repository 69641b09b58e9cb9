//! Which stores stand behind a pipeline: those of a data directory, or a bucket and a DynamoDB table.
//!
//! Owns: opening them for a run or for looking, what only one kind can do. Does not own: the stores themselves (store,
//! sluicebox_aws), the rest of the wiring (topology).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sluicebox_actors::model::fault::{Fault, Kind, Result};
use sluicebox_actors::pipeline::Fleet;
use sluicebox_actors::ports::{Blobs, Clock, GoldFiles, LedgerFiles, Outputs, Rows};
use sluicebox_aws::client::AwsRuntime;
use sluicebox_aws::connect::Aws;
use sluicebox_aws::s3::blobs::S3Blobs;

use super::Compiled;
use crate::engine::glue::SqlEngine;
use crate::engine::sql::spill::MergeMemory;
use crate::progress::{Progress, Unit};
use crate::read::audit::recompute::Recompute;
use crate::read::sources::Sources;
use crate::settings::{FileFormat, Interval, Loaded, Problem, Settings, SettingsError, StoreKind};
use crate::store::blobs::DiskBlobs;
use crate::store::bucket::gold::BucketGold;
use crate::store::bucket::mirror::{self, Brought};
use crate::store::bucket::outputs::BucketOutputs;
use crate::store::bucket::{Bucket, Demands, Place};
use crate::store::gold_files::DiskGoldFiles;
use crate::store::home::{Home, Identity, RunLock};
use crate::store::imports;
use crate::store::ledger_files::ledger;
use crate::store::outputs::{DiskOutputs, OutputOptions};
use crate::store::row_file::Format;
use crate::store::rows::SqliteRows;
use crate::store::tables;
use crate::{run, source};

/// Copies of a bucket's tables, in the data directory.
const MIRROR: &str = "mirror";
/// Tries to open shared stores, and the first pause between them, which doubles up to the longest: half a minute in all.
const OPEN_TRIES: u32 = 12;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The stores of a pipeline.
pub struct Stores {
    /// The data directory of this worker: everything lies there, or only what is under way.
    pub home: Home,
    /// Rows.
    pub rows: Arc<dyn Rows>,
    /// Epoch objects, Gold contents, bases.
    pub blobs: Arc<dyn Blobs>,
    /// The table `ledger`.
    pub ledger: Arc<dyn LedgerFiles>,
    shared: Option<Shared>,
}

/// What is shared with other workers.
struct Shared {
    bucket: Bucket,
    fleet: Option<Fleet>,
    // The threads of life signs end with it.
    _threads: Option<AwsRuntime>,
}

impl Stores {
    /// Opens or makes what a run needs, and takes the data directory: nothing is opened for writing in one that another run
    /// holds.
    pub fn for_run(data: &Path, settings: &Settings, clock: Arc<dyn Clock>) -> Result<(Self, RunLock)> {
        let (stores, lock) = Self::for_import(data, settings, clock)?;
        match stores.import()? {
            None => Ok((stores, lock)),
            Some(from) => Err(Fault::config(format!(
                "an import from the KCL table {from} has begun here and did not come to its end: call `shards import` again as \
                 it was called. A run would read shards from their start that it has not got to"
            ))),
        }
    }

    /// As [`Stores::for_run`], also where an import was broken off.
    pub fn for_import(data: &Path, settings: &Settings, clock: Arc<dyn Clock>) -> Result<(Self, RunLock)> {
        let home = Home::open_or_create(data, &settings.pipeline.name, clock.clone())?;
        let lock = home.lock_for_run()?;
        let stores = match settings.store.kind {
            StoreKind::Disk => Self::on_disk(home.clone(), SqliteRows::open(&home)?),
            StoreKind::Aws => {
                let (bucket, fleet, threads) = run::block_on(join(settings, clock))??;
                Self::shared(home, Shared { bucket, fleet: Some(fleet), _threads: Some(threads) })
            }
        };
        Ok((stores, lock))
    }

    /// From which table rows are being imported.
    fn import(&self) -> Result<Option<String>> {
        match &self.shared {
            None => imports::begun(&self.home),
            Some(shared) => run::block_on(patiently(|| shared.bucket.import()))?,
        }
    }

    /// Until [`Stores::end_import`] no run begins.
    pub fn begin_import(&self, from: &str) -> Result<()> {
        match &self.shared {
            None => imports::begin(&self.home, from),
            Some(shared) => run::block_on(patiently(|| shared.bucket.begin_import(from)))?,
        }
    }

    /// All rows are there.
    pub fn end_import(&self) -> Result<()> {
        match &self.shared {
            None => imports::end(&self.home),
            Some(shared) => run::block_on(patiently(|| shared.bucket.end_import()))?,
        }
    }

    /// Opens a data directory for looking only.
    pub fn for_reading(data: &Path, clock: Arc<dyn Clock>) -> Result<Self> {
        let home = Home::open(data, clock)?;
        let rows = SqliteRows::open_read_only(&home)?;
        Ok(Self::on_disk(home, rows))
    }

    /// Opens a pipeline for looking only, wherever it lies, with up-to-date copies of these folders of its tables. Without
    /// settings it lies in the data directory.
    pub fn for_looking(data: &Path, settings: Option<&Settings>, folders: &[&str], clock: Arc<dyn Clock>) -> Result<Self> {
        let Some(settings) = settings.filter(|settings| settings.store.kind == StoreKind::Aws) else {
            return Self::for_reading(data, clock);
        };
        let home = Home::open_or_create(data, &settings.pipeline.name, clock.clone())?;
        let into = data.join(MIRROR);
        let bucket = run::block_on(bring(settings, folders, &into, clock))??;
        Ok(Self::shared(home, Shared { bucket, fleet: None, _threads: None }))
    }

    fn on_disk(home: Home, rows: SqliteRows) -> Self {
        let ledger = ledger(Arc::new(DiskBlobs::of_tables(&home)));
        Self { rows: Arc::new(rows), blobs: Arc::new(DiskBlobs::new(&home)), ledger: Arc::new(ledger), home, shared: None }
    }

    fn shared(home: Home, shared: Shared) -> Self {
        let bucket = &shared.bucket;
        let ledger = ledger(Arc::new(S3Blobs::new(bucket.tables().clone())));
        Self {
            home,
            rows: Arc::new(bucket.rows().clone()),
            blobs: Arc::new(bucket.blobs().clone()),
            ledger: Arc::new(ledger),
            shared: Some(shared),
        }
    }

    /// Whose pipeline it is.
    pub fn identity(&self) -> &Identity {
        self.shared.as_ref().map_or(self.home.identity(), |shared| shared.bucket.identity())
    }

    /// The other workers; none where one process has all shards.
    pub fn fleet(&self) -> Option<Fleet> {
        self.shared.as_ref()?.fleet.clone()
    }

    /// Staged and visible files.
    pub fn outputs(&self, settings: &Settings) -> Arc<dyn Outputs> {
        let options = OutputOptions {
            bronze: format(settings.bronze.format),
            silver: format(settings.silver.format),
            partition_by: settings.silver.partition_by.clone(),
            open_files: settings.limits.open_files as usize,
            ..OutputOptions::default()
        };
        match &self.shared {
            None => Arc::new(DiskOutputs::new(&self.home, options)),
            Some(shared) => {
                let tables = shared.bucket.tables().clone();
                Arc::new(BucketOutputs::new(&self.home, options, tables, settings.store.inline.bytes()))
            }
        }
    }

    /// Gold as readers see it.
    pub fn gold_files(&self) -> Arc<dyn GoldFiles> {
        match &self.shared {
            None => Arc::new(DiskGoldFiles::new(&self.home, Format::Parquet)),
            Some(shared) => Arc::new(BucketGold::new(shared.bucket.tables().clone(), Format::Parquet)),
        }
    }

    /// What the read side looks at.
    pub fn sources(&self) -> Sources {
        let data = self.home.data().to_path_buf();
        Sources {
            data: self.tables_at(),
            worker: data,
            rows: self.rows.clone(),
            blobs: self.blobs.clone(),
            ledger: self.ledger.clone(),
        }
    }

    /// Where the tables, or up-to-date copies of them, lie on this disk.
    pub fn tables_at(&self) -> PathBuf {
        let data = self.home.data();
        if self.shared.is_some() { data.join(MIRROR) } else { data.to_path_buf() }
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
            gold: self.gold_files(),
            silver: Some(compiled.engine.silver_schema().clone()),
            fingerprint: Some(loaded.fingerprint()),
        }
    }

    /// Refuses to go on with a Gold table whose states mean something else than those that are stored.
    pub fn check_tables(&self, loaded: &Loaded, compiled: &Compiled) -> Result<Result<(), SettingsError>> {
        let plans = compiled.engine.gold_plans().iter();
        let meanings: Vec<_> = plans.map(|plan| (plan.table().name.as_ref(), plan.meaning().to_owned())).collect();
        let (changed, where_else) = match &self.shared {
            None => (tables::changed(&self.home, &meanings)?, "start in another directory with --data"),
            Some(shared) => (
                run::block_on(patiently(|| shared.bucket.changed(&meanings)))??,
                "set store.prefix and pipeline.name to new ones",
            ),
        };
        let problem = |name: &&str| {
            let message = format!("`gold.{name}`: this pipeline holds windows of the table under another statement");
            let help = format!(
                "name the changed table anew, such as `{name}_2`: it begins with the records that are not committed yet; or \
                 {where_else}"
            );
            Problem::new(message).at(loaded.place_of(&format!("gold.{name}.sql"))).help(help)
        };
        let problems: Vec<_> = changed.iter().map(problem).collect();
        Ok(if problems.is_empty() { Ok(()) } else { Err(SettingsError { problems }) })
    }
}

fn place(settings: &Settings) -> Place {
    let store = &settings.store;
    Place {
        bucket: store.bucket.clone(),
        prefix: settings.store_prefix().to_owned(),
        table: store.table.clone(),
        name: settings.pipeline.name.clone(),
    }
}

/// Opens a shared pipeline for looking, and brings copies of some of its tables.
async fn bring(settings: &Settings, folders: &[&str], into: &Path, clock: Arc<dyn Clock>) -> Result<Bucket> {
    let aws = Aws::connect(&source::client(settings)).await?;
    let bucket = patiently(|| Bucket::open(&aws, place(settings))).await?;
    let mut progress = Progress::stderr("fetch", Unit::Files, None, clock);
    let tell = |brought: Brought| {
        progress.expect(Some(brought.objects));
        progress.set(brought.done);
    };
    mirror::bring(bucket.tables(), folders, into, tell).await?;
    progress.finish();
    Ok(bucket)
}

/// Repeats what is safe to repeat: a service that hiccups while a worker begins is no reason to give up; one that is away for
/// longer is.
pub async fn patiently<T, F: Future<Output = Result<T>>>(mut open: impl FnMut() -> F) -> Result<T> {
    let mut pause = FIRST_PAUSE;
    for _ in 1..OPEN_TRIES {
        match open().await {
            Err(fault) if fault.kind() == Kind::Retry => tracing::warn!(%fault, "beginning"),
            done => return done,
        }
        tokio::time::sleep(pause).await;
        pause = LONGEST_PAUSE.min(pause * 2);
    }
    open().await
}

fn interval(interval: Interval) -> Duration {
    Duration::from_micros(interval.us().unsigned_abs())
}

/// Becomes one of the workers of a shared pipeline.
async fn join(settings: &Settings, clock: Arc<dyn Clock>) -> Result<(Bucket, Fleet, AwsRuntime)> {
    let (store, client) = (&settings.store, source::client(settings));
    let demands = Demands { create_table: store.create_table, max_downtime: interval(store.max_downtime) };
    let aws = Aws::connect(&client).await?;
    let bucket = patiently(|| Bucket::open_or_create(&aws, place(settings), demands, clock.as_ref())).await?;
    let signs = Aws::connect(&client).await?;
    let leases = signs.rows(&store.table, &settings.pipeline.name)?;
    let thread = Some(signs.io().handle());
    let fleet = Fleet { leases: Arc::new(leases), failover: interval(store.failover), thread };
    Ok((bucket, fleet, signs.io().clone()))
}

fn format(format: FileFormat) -> Format {
    match format {
        FileFormat::Parquet => Format::Parquet,
        FileFormat::Ndjson => Format::Ndjson,
        FileFormat::NdjsonGzip => Format::NdjsonGzip,
    }
}
