//! A pipeline whose state and tables lie in a bucket and a DynamoDB table, shared by any number of workers.
//!
//! ```text
//! <prefix>/.sluicebox.json                          whose tables these are; the same stands in DynamoDB
//! <prefix>/{bronze,silver,gold,gold_windows,ledger,dlq}/…   the tables, as in a data directory
//! <prefix>/state/blobs/…                            epoch objects, Gold contents, bases
//! ```
//!
//! Owns: what is opened where, the identity on both sides, the trust in the store. Does not own: requests (sluicebox_aws), files
//! under way (bucket/outputs), copies for reading (bucket/mirror).

use std::time::Duration;

use sluicebox_actors::model::fault::{Fault, Kind, Result};
use sluicebox_actors::ports::{Clock, Rows};
use sluicebox_aws::connect::Aws;
use sluicebox_aws::dynamo::rows::{DynamoRows, Written};
use sluicebox_aws::s3::blobs::S3Blobs;
use sluicebox_aws::s3::store::{Put, S3Store};

use super::home::{FORMAT, Identity, VISIBLE};

pub mod gold;
pub mod mirror;
pub mod outputs;

const MARKER: &str = ".sluicebox.json";
const BLOBS: &str = "state/blobs";
/// Documents in the DynamoDB table.
const IDENTITY: &str = "identity";
const PIPELINE: &str = "pipeline";
const MEANING: &str = "gold_table";
const IMPORT: &str = "import";
const ROWS: &str = "rows";
const MARKER_MAX: u64 = 1 << 16;
/// Nothing, one side, both: what is being made changes twice.
const LOOKS_MAX: usize = 4;

/// Where a pipeline lies.
#[derive(Clone, Debug)]
pub struct Place {
    /// Bucket.
    pub bucket: String,
    /// What all keys start with.
    pub prefix: String,
    /// DynamoDB table.
    pub table: String,
    /// Name of the pipeline.
    pub name: String,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "s3://{}/{} with the DynamoDB table {}", self.bucket, self.prefix, self.table)
    }
}

/// What a worker insists on before it begins.
#[derive(Clone, Copy, Debug)]
pub struct Demands {
    /// Make the DynamoDB table if there is none?
    pub create_table: bool,
    /// For so long all workers may be down.
    pub max_downtime: Duration,
}

/// An opened pipeline. Cheap to clone.
#[derive(Clone)]
pub struct Bucket {
    rows: DynamoRows,
    tables: S3Store,
    blobs: S3Blobs,
    identity: Identity,
}

impl Bucket {
    /// Opens a pipeline, or makes it where there is nothing of one. Half of one, another's or a newer format is refused, and so
    /// is a store that would let two workers win.
    pub async fn open_or_create(aws: &Aws, place: Place, demands: Demands, clock: &dyn Clock) -> Result<Self> {
        let (rows, tables) = (aws.rows(&place.table, &place.name)?, aws.objects(&place.bucket, &place.prefix)?);
        match demands.create_table {
            true => rows.create_if_missing(true).await?,
            false => rows.check().await?,
        }
        tables.probe(clock).await?;
        if let Some(warning) = tables.check_lifecycle(demands.max_downtime).await? {
            tracing::warn!("{warning}");
        }
        let identity = match identity(&rows, &tables, &place).await? {
            Found::Whole(identity) => identity,
            Found::StateOnly(identity) => mark(&tables, &place, identity).await?,
            Found::Nothing => {
                let identity = create(&rows, &place, clock).await?;
                mark(&tables, &place, identity).await?
            }
        };
        Self::with(aws, &place, rows, tables, identity)
    }

    /// Opens an existing pipeline and writes nothing.
    pub async fn open(aws: &Aws, place: Place) -> Result<Self> {
        let (rows, tables) = (aws.rows(&place.table, &place.name)?, aws.objects(&place.bucket, &place.prefix)?);
        rows.check().await?;
        match identity(&rows, &tables, &place).await? {
            Found::Whole(identity) => Self::with(aws, &place, rows, tables, identity),
            Found::StateOnly(_) | Found::Nothing => {
                let message = format!("there is no pipeline `{}` in {place}: start one with `run`", place.name);
                Err(Fault::config(message))
            }
        }
    }

    fn with(aws: &Aws, place: &Place, rows: DynamoRows, tables: S3Store, identity: Identity) -> Result<Self> {
        let blobs = S3Blobs::new(aws.objects(&place.bucket, &format!("{}/{BLOBS}", place.prefix))?);
        Ok(Self { rows, tables, blobs, identity })
    }

    /// Whose it is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Rows.
    pub fn rows(&self) -> &DynamoRows {
        &self.rows
    }

    /// Epoch objects, Gold contents, bases.
    pub fn blobs(&self) -> &S3Blobs {
        &self.blobs
    }

    /// The tables.
    pub fn tables(&self) -> &S3Store {
        &self.tables
    }

    /// From where rows are being imported.
    pub async fn import(&self) -> Result<Option<String>> {
        Ok(self.rows.document(IMPORT, ROWS).await?.map(|begun| begun.json))
    }

    /// Notes that rows are being imported, as `store::imports` does in a directory.
    pub async fn begin_import(&self, from: &str) -> Result<()> {
        // Whichever was first: an import that goes on writes the rows of its own plan or none.
        self.rows.put_if_absent(IMPORT, ROWS, from).await.map(drop)
    }

    /// They are imported.
    pub async fn end_import(&self) -> Result<()> {
        match self.rows.document(IMPORT, ROWS).await? {
            None => Ok(()),
            Some(begun) => self.rows.delete_if(IMPORT, ROWS, begun.version).await.map(drop),
        }
    }

    /// Notes what the Gold tables mean that are new, and returns the names of those that meant something else before, as
    /// `store::tables::changed` does for a directory.
    pub async fn changed<'a>(&self, meanings: &[(&'a str, String)]) -> Result<Vec<&'a str>> {
        let mut changed = Vec::new();
        for (name, meaning) in meanings {
            let known = self.rows.document(MEANING, name).await?;
            if known.is_some_and(|known| known.json != *meaning) {
                changed.push(*name);
            }
        }
        if !changed.is_empty() {
            return Ok(changed);
        }
        for (name, meaning) in meanings {
            if let Written::Lost(Some(other)) = self.rows.put_if_absent(MEANING, name, meaning).await?
                && other.json != *meaning
            {
                changed.push(*name);
            }
        }
        Ok(changed)
    }
}

/// What there is of a pipeline.
enum Found {
    Whole(Identity),
    /// Made by half, and nothing else was done yet.
    StateOnly(Identity),
    Nothing,
}

/// What stands on both sides: in DynamoDB, and among the tables.
#[derive(Clone, PartialEq)]
struct Sides {
    state: Option<Identity>,
    outputs: Option<Identity>,
}

impl Sides {
    async fn read(rows: &DynamoRows, tables: &S3Store) -> Result<Self> {
        let state = rows.document(IDENTITY, PIPELINE).await?;
        let state = state.map(|found| parse(&found.json, "the identity in DynamoDB")).transpose()?;
        let outputs = match tables.head(MARKER).await? {
            Some(_) => {
                let text = tables.get(MARKER, MARKER_MAX).await?;
                Some(parse(&String::from_utf8_lossy(&text), MARKER)?)
            }
            None => None,
        };
        Ok(Self { state, outputs })
    }
}

/// Both sides carry the same identity, or there is nothing at all. Everything between is refused, once it has been seen twice: a
/// worker that starts at the same time may have made both sides, and shards and tables, between one look of ours and the next.
async fn identity(rows: &DynamoRows, tables: &S3Store, place: &Place) -> Result<Found> {
    let mut sides = Sides::read(rows, tables).await?;
    for _ in 0..LOOKS_MAX {
        let refusal = match judge(sides.clone(), rows, tables, place).await {
            Err(fault) if fault.kind() == Kind::Config => fault,
            found => return found,
        };
        let now = Sides::read(rows, tables).await?;
        if now == sides {
            return Err(refusal);
        }
        sides = now;
    }
    Err(Fault::retry(format!("the identity of {place} changes with every look at it")))
}

async fn judge(sides: Sides, rows: &DynamoRows, tables: &S3Store, place: &Place) -> Result<Found> {
    match (sides.state, sides.outputs) {
        (Some(state), Some(outputs)) if state == outputs => Ok(Found::Whole(state)),
        (Some(state), Some(outputs)) => Err(Fault::config(format!(
            "state and tables in {place} belong to different pipelines ({} and {}): restore the one that belongs there, or set \
             store.prefix or pipeline.name to a new name",
            state.pipeline, outputs.pipeline
        ))),
        (None, Some(outputs)) => Err(Fault::config(format!(
            "{place} holds tables of the pipeline {} but not its state: restore the DynamoDB table, or set store.prefix to a new \
             one (starting afresh here would count everything twice)",
            outputs.pipeline
        ))),
        (Some(state), None) if !has_tables(tables).await? && rows.shards().await?.is_empty() => Ok(Found::StateOnly(state)),
        (Some(state), None) => Err(Fault::config(format!(
            "{place} holds the state of the pipeline {} but its tables do not carry {MARKER}: restore them, or set pipeline.name \
             to a new name",
            state.pipeline
        ))),
        (None, None) if has_tables(tables).await? => Err(Fault::config(format!(
            "{place} holds tables that nobody signed: restore {MARKER} and the DynamoDB table, or set store.prefix to a new one"
        ))),
        (None, None) => Ok(Found::Nothing),
    }
}

fn parse(text: &str, what: &str) -> Result<Identity> {
    let found: Identity = serde_json::from_str(text)
        .map_err(|error| Fault::caused(Kind::Corrupt, format!("{what}: restore it from its copy"), &error))?;
    if found.format > FORMAT {
        let message = format!("{what} has format {}, this program knows up to {FORMAT}: use the newer program", found.format);
        return Err(Fault::config(message));
    }
    Ok(found)
}

async fn has_tables(tables: &S3Store) -> Result<bool> {
    for folder in VISIBLE {
        if tables.any(&format!("{folder}/")).await? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Workers that start at once agree on whichever came first.
async fn create(rows: &DynamoRows, place: &Place, clock: &dyn Clock) -> Result<Identity> {
    let identity = Identity {
        pipeline: format!("{}-{:016x}", place.name, clock.random()),
        name: place.name.clone(),
        created_us: clock.now_us(),
        format: FORMAT,
    };
    let text = serde_json::to_string(&identity).map_err(|error| Fault::caused(Kind::Bug, "an identity", &error))?;
    match rows.put_if_absent(IDENTITY, PIPELINE, &text).await? {
        Written::Won | Written::Already => Ok(identity),
        Written::Lost(Some(other)) => parse(&other.json, "the identity in DynamoDB"),
        Written::Lost(None) => Err(Fault::retry("the identity in DynamoDB vanished while starting")),
    }
}

async fn mark(tables: &S3Store, place: &Place, identity: Identity) -> Result<Identity> {
    let text = serde_json::to_vec_pretty(&identity).map_err(|error| Fault::caused(Kind::Bug, "an identity", &error))?;
    match tables.put_if_absent(MARKER, text.into()).await? {
        Put::Stored => Ok(identity),
        Put::Refused(_) => {
            Err(Fault::config(format!("another pipeline has just begun in {place}: set store.prefix to a prefix of its own")))
        }
    }
}
