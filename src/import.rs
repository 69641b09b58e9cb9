//! Taking over from a fleet of the Kinesis Client Library: its leases become the rows of a new pipeline.
//!
//! Owns: that nobody works with the leases, the look into aggregates at checkpoints, writing rows only where there are none.
//! Does not own: leases and what they mean (sluicebox_aws::dynamo::kcl), what is printed (cli/shards).

use std::collections::BTreeMap;
use std::time::Duration;

use sluicebox_actors::model::fault::{Fault, Result};
use sluicebox_actors::model::position::ShardId;
use sluicebox_actors::model::row::ShardRow;
use sluicebox_actors::ports::{Cas, Rows, ShardInfo, Stream};
use sluicebox_aws::connect::Aws;
use sluicebox_aws::dynamo::kcl::plan::{self, Plan, Ways};
use sluicebox_aws::dynamo::kcl::{self, Checkpoint, KclLease};
use sluicebox_aws::kinesis::source::KinesisStream;

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Name of the lease table.
    pub table: String,
    /// Where the table does not say enough.
    pub ways: Ways,
    /// A living owner shows a sign of life within this time.
    pub failover: Duration,
    /// Go on although somebody works with the leases.
    pub while_running: bool,
}

/// Reads leases and stream and decides; writes nothing.
pub async fn plan(aws: &Aws, stream: &KinesisStream, asked: &Asked) -> Result<Plan> {
    let leases = settled(aws, asked).await?;
    let listed = stream.shards().await?;
    let cut = cut(stream, &leases, &listed).await?;
    plan::plan(&stream.name(), &leases, &listed, &cut, asked.ways)
}

/// The leases of a fleet that has stopped.
async fn settled(aws: &Aws, asked: &Asked) -> Result<Vec<KclLease>> {
    let before = aws.kcl_leases(&asked.table).await?;
    // Where every lease was let go, nobody is left who could show a sign of life.
    if asked.while_running || before.iter().all(|lease| lease.owner.is_none()) {
        return Ok(before);
    }
    tokio::time::sleep(asked.failover).await;
    let now = aws.kcl_leases(&asked.table).await?;
    let moved: Vec<&ShardId> = kcl::alive(&before, &now).into_iter().map(|lease| &lease.shard).collect();
    if let Some(first) = moved.first() {
        return Err(Fault::config(format!(
            "the fleet is at work: {} of {} leases in {} have moved within {:?}, {first} among them. Both it and this pipeline \
             would process what comes from now on: stop it first, or say that this is meant with --while-running",
            moved.len(),
            now.len(),
            asked.table,
            asked.failover
        )));
    }
    Ok(now)
}

/// The checkpoints that lie inside an aggregate, with the arrival of that record. One that is not kept any more has nothing left
/// that could be read.
async fn cut(stream: &KinesisStream, leases: &[KclLease], listed: &[ShardInfo]) -> Result<BTreeMap<ShardId, i64>> {
    let mut cut = BTreeMap::new();
    for lease in leases.iter().filter(|lease| listed.iter().any(|info| info.shard == lease.shard)) {
        let Checkpoint::After(sequence, part) = lease.checkpoint else { continue };
        if let Some(record) = stream.packed(&lease.shard, sequence).await?
            && part + 1 < record.parts as u64
        {
            cut.insert(lease.shard.clone(), record.arrival_us);
        }
    }
    Ok(cut)
}

/// Is there nothing but rows of this plan? A run, another plan, or the same one after that fleet went on, is refused.
pub async fn check(rows: &dyn Rows, plan: &Plan) -> Result<()> {
    let planned: BTreeMap<&ShardId, &ShardRow> = plan.taken.iter().map(|taken| (&taken.row.shard, &taken.row)).collect();
    match rows.shards().await?.iter().find(|row| planned.get(&row.shard) != Some(row)) {
        None => Ok(()),
        Some(row) => Err(taken(row)),
    }
}

/// Makes the rows. Done twice is done once.
pub async fn write(rows: &dyn Rows, plan: &Plan) -> Result<()> {
    for planned in &plan.taken {
        if rows.create_shard(&planned.row).await? == Cas::Lost
            && let Some(row) = rows.shard(&planned.row.shard).await?
            && row != planned.row
        {
            return Err(taken(&row));
        }
    }
    Ok(())
}

fn taken(row: &ShardRow) -> Fault {
    Fault::config(format!(
        "this pipeline has a row of {} already, at {} in epoch {}, and the leases lead elsewhere: shards are imported only where \
         nothing was read yet. Name a new directory with --data, or, with a shared store, a new pipeline.name and store.prefix",
        row.shard, row.position, row.epoch
    ))
}
