//! The ledger as columns: the table `ledger`, one row per (shard, epoch).
//!
//! Owns: its schema and turning a chain's links into batches, newest first. Does not own: checking them (audit).

use std::sync::Arc;

use arrow::array::builder::{Int64Builder, StringBuilder, TimestampMicrosecondBuilder};
use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use sluicebox_actors::model::epoch::EpochHeader;
use sluicebox_actors::model::fault::{Fault, Kind, Result};
use sluicebox_actors::model::position::ShardId;
use sluicebox_actors::model::window::Bound;

use super::chain::{Chain, Link, Step};
use super::letter_rows::timestamp;

const BATCH_LINKS: usize = 256;

/// The columns of the table `ledger`: `from` and `to` are sequence numbers (`from` null at the start), counts are records,
/// `rebuilt` counts files of earlier epochs that it names anew, `collected` says that only the line is left of the epoch object.
pub fn schema() -> SchemaRef {
    let text = |name: &str| Field::new(name, DataType::Utf8, true);
    let number = |name: &str| Field::new(name, DataType::Int64, true);
    let time = |name: &str| Field::new(name, timestamp(), true);
    Arc::new(Schema::new(vec![
        text("shard"),
        number("epoch"),
        text("from"),
        text("to"),
        time("bound_opened"),
        time("bound_committed"),
        time("processed_at"),
        number("received"),
        number("bytes"),
        number("bronze"),
        number("silver"),
        number("rejected"),
        number("filtered"),
        number("duplicate"),
        number("too_late"),
        number("letters"),
        number("outputs"),
        number("rebuilt"),
        text("digest"),
        Field::new("collected", DataType::Boolean, true),
    ]))
}

/// The links of one shard as batches, newest first; nothing after the first epoch. A broken chain is `Corrupt`.
pub async fn next_batch(chain: &mut Chain<'_>, shard: &ShardId) -> Result<Option<RecordBatch>> {
    let mut held = Vec::new();
    while held.len() < BATCH_LINKS {
        match chain.step().await? {
            None => break,
            Some(Step::Link(link) | Step::StandIn(link)) => held.push(Line::of(&link)),
            Some(Step::Broken { epoch, what }) => {
                let message = format!("the ledger of {shard} is broken at epoch {epoch}: {what}; run `audit`");
                return Err(Fault::corrupt(message));
            }
        }
    }
    if held.is_empty() { Ok(None) } else { batch(&held).map(Some) }
}

struct Line {
    header: EpochHeader,
    digest: String,
    collected: bool,
}

impl Line {
    fn of(link: &Link) -> Self {
        let mut header = link.header().clone();
        header.segments = Vec::new();
        header.windows = Vec::new();
        header.ordinals.clear();
        header.pending = Vec::new();
        Self { header, digest: link.digest().as_str().to_owned(), collected: matches!(link, Link::Line(_)) }
    }
}

fn batch(lines: &[Line]) -> Result<RecordBatch> {
    let text = |of: &dyn Fn(&Line) -> Option<String>| -> ArrayRef {
        let mut builder = StringBuilder::new();
        lines.iter().for_each(|line| builder.append_option(of(line)));
        Arc::new(builder.finish())
    };
    let number = |of: &dyn Fn(&EpochHeader) -> u64| -> ArrayRef {
        let mut builder = Int64Builder::new();
        lines.iter().for_each(|line| builder.append_value(i64::try_from(of(&line.header)).unwrap_or(i64::MAX)));
        Arc::new(builder.finish())
    };
    let time = |of: &dyn Fn(&EpochHeader) -> i64| -> ArrayRef {
        let mut builder = TimestampMicrosecondBuilder::new().with_timezone("UTC");
        lines.iter().for_each(|line| {
            let at = of(&line.header);
            builder.append_option((at != Bound::UNKNOWN.0).then_some(at));
        });
        Arc::new(builder.finish())
    };
    let columns: Vec<ArrayRef> = vec![
        text(&|l| Some(l.header.shard.to_string())),
        number(&|h| h.epoch),
        text(&|l| l.header.from.sequence().map(|sequence| sequence.to_string())),
        text(&|l| l.header.to.sequence().map(|sequence| sequence.to_string())),
        time(&|h| h.bound_opened.0),
        time(&|h| h.bound_committed.0),
        time(&|h| h.processed_at_us),
        number(&|h| h.counts.received),
        number(&|h| h.counts.bytes),
        number(&|h| h.counts.bronze),
        number(&|h| h.counts.silver),
        number(&|h| h.counts.rejected_total()),
        number(&|h| h.counts.filtered_total()),
        number(&|h| h.counts.duplicate),
        number(&|h| h.counts.too_late_total()),
        number(&|h| h.counts.letters),
        number(&|h| h.outputs.len() as u64),
        number(&|h| h.rebuilt.len() as u64),
        text(&|l| Some(l.digest.clone())),
        Arc::new(lines.iter().map(|line| Some(line.collected)).collect::<arrow::array::BooleanArray>()),
    ];
    RecordBatch::try_new(schema(), columns).map_err(|error| Fault::caused(Kind::Bug, "the ledger as columns", &error))
}
