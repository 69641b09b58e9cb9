//! Any engine, with every call of it counted and at the mercy of the plan.
//!
//! Owns: the wrapper, the lies an engine can tell. Does not own: decoding and merging (engine, or the one that is wrapped).

use std::sync::Arc;

use arrow_array::{BooleanArray, RecordBatch};
use sluicebox_actors::model::fault::Result;
use sluicebox_actors::model::record::RawSlice;
use sluicebox_actors::model::window::Window;
use sluicebox_actors::ports::{Decoded, Engine, Finished, GoldTable, Partial, PartitionEngine};

use crate::plan::{Flaw, Op};
use crate::process::{Process, planned_panic};

/// An engine in a process that can die.
pub struct Faulty {
    process: Arc<Process>,
    inner: Arc<dyn Engine>,
}

impl Faulty {
    /// Around this one.
    pub fn new(process: Arc<Process>, inner: Arc<dyn Engine>) -> Self {
        Self { process, inner }
    }
}

impl Engine for Faulty {
    fn tables(&self) -> &[GoldTable] {
        self.inner.tables()
    }

    fn partition(&self) -> Result<Box<dyn PartitionEngine>> {
        self.process.now_op(Op::EnginePartition, "", |_| Ok(()))?;
        let (process, inner, handed_out) = (self.process.clone(), self.inner.partition()?, Vec::new());
        Ok(Box::new(FaultyPartition { process, inner, handed_out }))
    }

    fn merge(&self, table: usize, parts: &[RecordBatch]) -> Result<RecordBatch> {
        self.process.now_op(Op::EngineMerge, parts.len(), |_| Ok(()))?;
        if self.process.has(Flaw::MergeDropsAPart) && parts.len() > 1 {
            return self.inner.merge(table, &parts[1..]);
        }
        if self.process.has(Flaw::MergeDoublesAPart) {
            let doubled: Vec<_> = parts.iter().chain(parts.first()).cloned().collect();
            return self.inner.merge(table, &doubled);
        }
        self.inner.merge(table, parts)
    }

    fn finish(&self, table: usize, window: Window, merged: &RecordBatch) -> Result<Finished> {
        self.process.now_op(Op::EngineFinish, window.start_us, |_| Ok(()))?;
        self.inner.finish(table, window, merged)
    }

    fn keys(&self, table: usize) -> Option<Arc<[String]>> {
        self.inner.keys(table)
    }

    fn without(&self, rows: &[RecordBatch], others: &[RecordBatch]) -> Result<RecordBatch> {
        self.inner.without(rows, others)
    }
}

struct FaultyPartition {
    process: Arc<Process>,
    inner: Box<dyn PartitionEngine>,
    handed_out: Vec<Partial>,
}

impl PartitionEngine for FaultyPartition {
    fn decode(&mut self, slice: &RawSlice, processed_at_us: i64) -> Result<Decoded> {
        self.process.now_op(Op::EngineDecode, slice.records.len(), |_| Ok(()))?;
        if slice.records.iter().any(|record| record.data.as_ref() == b"boom") {
            planned_panic("planned: a record that panics the engine");
        }
        self.inner.decode(slice, processed_at_us)
    }

    fn admit(&mut self, table: usize, silver: &RecordBatch) -> Result<Option<BooleanArray>> {
        self.process.now_op(Op::EngineAdmit, table, |_| Ok(()))?;
        self.inner.admit(table, silver)
    }

    fn accumulate(&mut self, table: usize, silver: &RecordBatch, rows: &[u32], windows_us: &[i64]) -> Result<()> {
        self.process.now_op(Op::EngineAccumulate, table, |_| Ok(()))?;
        self.inner.accumulate(table, silver, rows, windows_us)
    }

    fn held(&mut self) -> usize {
        self.inner.held()
    }

    fn cut(&mut self) -> Result<Vec<Partial>> {
        self.process.now_op(Op::EngineCut, "", |_| Ok(()))?;
        let partials = self.inner.cut()?;
        if !self.process.has(Flaw::CutForgetsNothing) {
            return Ok(partials);
        }
        self.handed_out.extend(partials);
        Ok(self.handed_out.clone())
    }
}
