//! The engine as the pipeline knows it: decoder, Silver plan and Gold plans behind `ports::Engine`.
//!
//! Owns: the order of the steps over one slice, the way back from a row to its record. Does not own: any of the steps.

use std::sync::Arc;

use arrow::array::{BooleanArray, RecordBatch};
use arrow::datatypes::SchemaRef;
use sluicebox_actors::model::fault::{Fault, Result};
use sluicebox_actors::model::letter::{Rejection, Stage};
use sluicebox_actors::model::record::RawSlice;
use sluicebox_actors::model::window::Window;
use sluicebox_actors::ports::{Decoded, Engine, Finished, GoldTable, Merger, Partial, PartitionEngine};

pub use super::decode::Events;

use super::condemned::{Condemned, SteppingAround};
use super::decode::Decoder;
use super::sql::gold::GoldPlan;
use super::sql::groups::Groups;
use super::sql::keys;
use super::sql::silver::SilverPlan;
use super::sql::spill::MergeMemory;

/// From raw records to events. A record's fault is a rejection; a `Fault` is ours or the world's.
pub trait EventDecoder: Send {
    /// Decodes one slice. Every record is an event or a rejection.
    fn decode(&mut self, slice: &RawSlice) -> Result<Events>;
}

impl EventDecoder for Decoder {
    fn decode(&mut self, slice: &RawSlice) -> Result<Events> {
        self.decode(slice)
    }
}

/// Makes the decoder of one partition.
pub type DecoderFactory = Arc<dyn Fn() -> Box<dyn EventDecoder> + Send + Sync>;

/// Decode, Silver, Gold.
pub struct SqlEngine {
    decoders: DecoderFactory,
    plans: Arc<Plans>,
    tables: Vec<GoldTable>,
    memory: Option<MergeMemory>,
}

struct Plans {
    silver: SilverPlan,
    gold: Vec<GoldPlan>,
}

impl Plans {
    fn gold(&self, table: usize) -> Result<&GoldPlan> {
        self.gold.get(table).ok_or_else(|| Fault::bug(format!("there is no Gold table number {table}")))
    }
}

impl SqlEngine {
    /// Puts compiled statements behind one door.
    pub fn new(decoders: DecoderFactory, silver: SilverPlan, gold: Vec<GoldPlan>) -> Self {
        let tables = gold.iter().map(|plan| plan.table().clone()).collect();
        Self { decoders, plans: Arc::new(Plans { silver, gold }), tables, memory: None }
    }

    /// The same engine, but these records become letters unread.
    pub fn stepping_around(&self, condemned: Condemned) -> Self {
        let (condemned, inner) = (Arc::new(condemned), self.decoders.clone());
        let decoders: DecoderFactory =
            Arc::new(move || Box::new(SteppingAround { condemned: condemned.clone(), decoder: inner() }));
        Self { decoders, plans: self.plans.clone(), tables: self.tables.clone(), memory: self.memory.clone() }
    }

    /// The same engine, but its merges stay within this memory. Without it they stay within nothing.
    pub fn merging_within(&self, memory: MergeMemory) -> Self {
        let (decoders, plans, tables) = (self.decoders.clone(), self.plans.clone(), self.tables.clone());
        Self { decoders, plans, tables, memory: Some(memory) }
    }

    /// The Silver table.
    pub fn silver_schema(&self) -> &SchemaRef {
        self.plans.silver.schema()
    }

    /// One Gold table's output.
    pub fn gold_schema(&self, table: usize) -> Option<&SchemaRef> {
        self.plans.gold.get(table).map(GoldPlan::schema)
    }

    /// The compiled Gold statements.
    pub fn gold_plans(&self) -> &[GoldPlan] {
        &self.plans.gold
    }

    /// The compiled Silver statement.
    pub fn silver_plan(&self) -> &SilverPlan {
        &self.plans.silver
    }
}

impl Engine for SqlEngine {
    fn tables(&self) -> &[GoldTable] {
        &self.tables
    }

    fn partition(&self) -> Result<Box<dyn PartitionEngine>> {
        let groups = self.plans.gold.iter().map(GoldPlan::groups).collect::<Result<Vec<_>>>()?;
        Ok(Box::new(SqlPartition { decoder: (self.decoders)(), plans: self.plans.clone(), groups, unmeasured: 0, held: 0 }))
    }

    fn merge(&self, table: usize, parts: &[RecordBatch]) -> Result<RecordBatch> {
        self.plans.gold(table)?.merge(parts)
    }

    fn finish(&self, table: usize, window: Window, merged: &RecordBatch) -> Result<Finished> {
        self.plans.gold(table)?.finish(window, merged)
    }

    fn merger(&self, table: usize) -> Result<Box<dyn Merger + '_>> {
        self.plans.gold(table)?.merger(self.memory.as_ref())
    }

    fn keys(&self, table: usize) -> Option<Arc<[String]>> {
        self.plans.gold.get(table)?.key_columns()
    }

    fn without(&self, rows: &[RecordBatch], others: &[RecordBatch]) -> Result<RecordBatch> {
        keys::without(rows, others)
    }
}

/// State of one partition between two cuts.
pub struct SqlPartition {
    decoder: Box<dyn EventDecoder>,
    plans: Arc<Plans>,
    groups: Vec<Groups>,
    /// Rows that came since `held` was measured.
    unmeasured: usize,
    held: usize,
}

/// Rows that may come before what is held is measured again, at the least.
const MEASURE_ROWS: usize = 1_024;

impl SqlPartition {
    /// Bytes held in groups.
    pub fn size(&self) -> usize {
        self.groups.iter().map(Groups::size).sum()
    }
}

impl PartitionEngine for SqlPartition {
    fn decode(&mut self, slice: &RawSlice, processed_at_us: i64) -> Result<Decoded> {
        let events = self.decoder.decode(slice)?;
        let out = self.plans.silver.apply(&events.batch, processed_at_us)?;
        let record = |row: u32| events.origin.get(row as usize).copied();
        let origin: Option<Vec<u32>> = out.kept.iter().map(|row| record(*row)).collect();
        let mut rejections = events.rejections;
        for (row, message) in out.failed {
            let index = record(row).ok_or_else(|| Fault::bug("an event without its record"))?;
            rejections.push(Rejection {
                index,
                stage: Stage::Silver,
                reason: "silver_error",
                path: None,
                message,
                causes: Vec::new(),
            });
        }
        rejections.sort_by_key(|rejection| rejection.index);
        Ok(Decoded {
            silver: out.batch,
            origin: origin.ok_or_else(|| Fault::bug("a Silver row without its record"))?,
            rejections,
            filtered: out.filtered,
            max_event_us: events.max_event_us,
        })
    }

    fn admit(&mut self, table: usize, silver: &RecordBatch) -> Result<Option<BooleanArray>> {
        self.plans.gold(table)?.admit(silver)
    }

    fn accumulate(&mut self, table: usize, silver: &RecordBatch, rows: &[u32], windows_us: &[i64]) -> Result<()> {
        let plan = self.plans.gold(table)?;
        let groups = self.groups.get_mut(table).ok_or_else(|| Fault::bug("groups without a table"))?;
        if rows.len() != windows_us.len() || !plan.reads(silver) {
            return Err(Fault::bug("rows without windows, or of another Silver table"));
        }
        if rows.is_empty() {
            return Ok(());
        }
        self.unmeasured += rows.len();
        groups.accumulate(silver, rows, windows_us, plan.size_us()).map_err(|error| plan.bug(&error))
    }

    fn held(&mut self) -> usize {
        // To measure takes a look at every group: it is worth as many rows as there are groups, less some.
        let groups = self.groups.iter().map(Groups::len).sum::<usize>();
        if self.unmeasured >= MEASURE_ROWS.max(groups / 8) {
            (self.held, self.unmeasured) = (self.size(), 0);
        }
        self.held
    }

    fn cut(&mut self) -> Result<Vec<Partial>> {
        (self.held, self.unmeasured) = (0, 0);
        let mut partials = Vec::new();
        for (table, groups) in self.groups.iter_mut().enumerate() {
            let plan = self.plans.gold(table)?;
            for emitted in groups.cut().map_err(|error| plan.bug(&error))? {
                partials.push(Partial { table, window_us: emitted.window_us, rows: emitted.rows, states: emitted.states });
            }
        }
        Ok(partials)
    }
}
