//! `shards`: where every shard stands.
//!
//! Owns: joining rows, newest epochs, the stream and the run's own status. Does not own: any of these.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema};
use sluicebox_actors::model::epoch::EpochObject;
use sluicebox_actors::model::fault::{Fault, Kind, Result};
use sluicebox_actors::model::position::{Position, ShardId};
use sluicebox_actors::model::row::{ShardRow, ShardState};
use sluicebox_actors::model::window::Bound;
use sluicebox_actors::ports::Stream;

use super::sources::{Sources, blocking};
use super::status::RunStatus;

/// Records counted behind a shard at most; beyond, the number is a lower limit.
const COUNT_MAX: u64 = 100_000;
/// Bytes read to count them at most.
const COUNT_BYTES: usize = 64 << 20;
const READ_RECORDS: usize = 10_000;
const READ_BYTES: usize = 4 << 20;
/// `run_state` of a shard whose run is over: a status stays behind, and its last fault still helps.
const STOPPED: &str = "stopped";

/// Where one shard stands.
#[derive(Clone, PartialEq, Debug)]
pub struct ShardView {
    /// Shard.
    pub shard: ShardId,
    /// `blocked`, `open`, `drained`, `retired`; `new` if the stream has it and no run has seen it.
    pub state: &'static str,
    /// Who may commit.
    pub owner: String,
    /// Lease.
    pub lease_epoch: u64,
    /// Last committed epoch.
    pub epoch: u64,
    /// Committed position.
    pub position: Position,
    /// Committed bound, microseconds since 1970; none before the first event.
    pub bound_us: Option<i64>,
    /// Records committed so far.
    pub received: Option<u64>,
    /// When the newest committed epoch was processed, microseconds since 1970.
    pub last_commit_us: Option<i64>,
    /// What is committed against what the stream has.
    pub behind: Option<Behind>,
    /// From the run's status: its state of the shard.
    pub run_state: Option<String>,
    /// From the run's status.
    pub restarts: Option<u64>,
    /// From the run's status.
    pub last_fault: Option<String>,
}

/// What the stream has beyond the committed position.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Behind {
    /// Records.
    pub records: u64,
    /// There are more than were counted.
    pub more: bool,
    /// Age of the first of them by the stream's clock (iterator age), milliseconds; 0 when there is none.
    pub age_ms: i64,
}

/// All shards, by name, as of `now_us`. With a stream, what lies behind is told and shards without a row are listed too.
pub async fn view(sources: &Sources, stream: Option<&dyn Stream>, now_us: i64) -> Result<Vec<ShardView>> {
    let data = sources.worker.clone();
    let mut status = blocking(move || RunStatus::read(&data)).await?;
    if let Some(status) = status.as_mut().filter(|status| !status.is_of_the_living(now_us)) {
        for shard in &mut status.shards {
            shard.state = STOPPED.to_owned();
        }
    }
    let mut out = BTreeMap::new();
    for row in sources.rows.shards().await? {
        out.insert(row.shard.clone(), of_row(sources, &row, status.as_ref()).await?);
    }
    if let Some(stream) = stream {
        for info in stream.shards().await? {
            out.entry(info.shard.clone()).or_insert_with(|| unseen(info.shard));
        }
        for view in out.values_mut() {
            view.behind = behind(stream, &view.shard, view.position).await?;
        }
    }
    Ok(out.into_values().collect())
}

/// A state as people read it.
pub fn word(state: ShardState) -> &'static str {
    match state {
        ShardState::Blocked => "blocked",
        ShardState::Open => "open",
        ShardState::Drained => "drained",
        ShardState::Retired => "retired",
    }
}

async fn of_row(sources: &Sources, row: &ShardRow, status: Option<&RunStatus>) -> Result<ShardView> {
    let newest = match &row.object {
        None => None,
        Some(object) => match sources.blobs.get(&object.key).await.and_then(|data| EpochObject::decode(&data)) {
            Ok(object) => Some(object.header),
            // `audit` says what is wrong with it; the rest of the line still helps.
            Err(fault) if fault.kind() == Kind::Corrupt => None,
            Err(fault) => return Err(fault),
        },
    };
    let run = status.and_then(|status| status.shard(row.shard.as_str()));
    Ok(ShardView {
        shard: row.shard.clone(),
        state: word(row.state),
        owner: row.owner.clone(),
        lease_epoch: row.lease_epoch,
        epoch: row.epoch,
        position: row.position,
        bound_us: (row.bound != Bound::UNKNOWN).then_some(row.bound.0),
        received: newest.as_ref().map(|header| header.totals.received),
        last_commit_us: newest.as_ref().map(|header| header.processed_at_us),
        behind: None,
        run_state: run.map(|run| run.state.clone()),
        restarts: run.map(|run| run.restarts),
        last_fault: run.and_then(|run| run.last_fault.clone()),
    })
}

fn unseen(shard: ShardId) -> ShardView {
    ShardView {
        shard,
        state: "new",
        owner: String::new(),
        lease_epoch: 0,
        epoch: 0,
        position: Position::START,
        bound_us: None,
        received: None,
        last_commit_us: None,
        behind: None,
        run_state: None,
        restarts: None,
        last_fault: None,
    }
}

/// What lies after a position: by subtraction where numbers are dense, else counted up to a limit; none if the stream has
/// forgotten the shard, or does not answer: the other lines are what helps then.
async fn behind(stream: &dyn Stream, shard: &ShardId, from: Position) -> Result<Option<Behind>> {
    let (mut at, mut bytes) = (from, 0);
    let mut out = Behind { records: 0, more: false, age_ms: 0 };
    let newest = stream.newest(shard).await?.and_then(|newest| Some(newest.as_dense()?.saturating_sub(from.as_dense()?)));
    let wanted = if newest.is_some() { 1 } else { READ_RECORDS };
    loop {
        let read = match stream.read(shard, at, wanted, READ_BYTES).await {
            Ok(read) => read,
            Err(fault) if fault.kind() == Kind::Corrupt || fault.kind() == Kind::Retry => return Ok(None),
            Err(fault) => return Err(fault),
        };
        if read.records.is_empty() && read.ended.is_some() && read.trimmed_before.is_some() {
            return Ok(None);
        }
        if let (0, Some(first)) = (out.records, read.records.first()) {
            out.age_ms = read.now_us.saturating_sub(first.arrival_us).max(0) / 1000;
        }
        if let Some(records) = newest {
            out.records = records;
            return Ok(Some(out));
        }
        let Some(last) = read.records.last() else {
            out.age_ms = out.age_ms.max(read.behind_us.unwrap_or(0) / 1000);
            return Ok(Some(out));
        };
        at = Position::after(last.sequence);
        out.records += read.records.len() as u64;
        bytes += read.records.iter().map(sluicebox_actors::model::record::RawRecord::weight).sum::<usize>();
        if read.caught_up {
            return Ok(Some(out));
        }
        if out.records >= COUNT_MAX || bytes >= COUNT_BYTES {
            out.more = true;
            return Ok(Some(out));
        }
    }
}

/// The list as columns.
pub fn batch(views: &[ShardView]) -> Result<RecordBatch> {
    let text =
        |of: &dyn Fn(&ShardView) -> Option<String>| -> ArrayRef { Arc::new(views.iter().map(of).collect::<StringArray>()) };
    let number = |of: &dyn Fn(&ShardView) -> Option<u64>| -> ArrayRef {
        let clamped = views.iter().map(|view| of(view).map(|n| i64::try_from(n).unwrap_or(i64::MAX)));
        Arc::new(clamped.collect::<Int64Array>())
    };
    let time = |of: &dyn Fn(&ShardView) -> Option<i64>| -> ArrayRef {
        Arc::new(views.iter().map(of).collect::<TimestampMicrosecondArray>().with_timezone("UTC"))
    };
    let behind = |view: &ShardView| view.behind.map(|behind| format!("{}{}", behind.records, if behind.more { "+" } else { "" }));
    let age = |view: &ShardView| view.behind.map(|behind| behind.age_ms.unsigned_abs());
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("shard", text(&|view| Some(view.shard.to_string()))),
        ("state", text(&|view| Some(view.state.to_owned()))),
        ("owner", text(&|view| Some(view.owner.clone()))),
        ("lease", number(&|view| Some(view.lease_epoch))),
        ("epoch", number(&|view| Some(view.epoch))),
        ("position", text(&|view| Some(view.position.to_string()))),
        ("bound", time(&|view| view.bound_us)),
        ("received", number(&|view| view.received)),
        ("behind", text(&behind)),
        ("iterator_age_ms", number(&age)),
        ("last_commit", time(&|view| view.last_commit_us)),
        ("run_state", text(&|view| view.run_state.clone())),
        ("restarts", number(&|view| view.restarts)),
        ("last_fault", text(&|view| view.last_fault.clone())),
    ];
    let fields = columns.iter().map(|(name, column)| Field::new(*name, DataType::clone(column.data_type()), true));
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    RecordBatch::try_new(schema, columns.into_iter().map(|(_, column)| column).collect())
        .map_err(|error| Fault::caused(Kind::Bug, "shards as columns", &error))
}
