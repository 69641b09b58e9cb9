//! The simplest merger: it keeps everything, and merges at the end.
//!
//! Owns: the way from `Engine::merge` and `Engine::finish` to a `Merger`. Does not own: any arithmetic.

use arrow_array::RecordBatch;

use super::{Batches, Engine, Finished, Merger};
use crate::model::fault::Result;
use crate::model::window::Window;

/// A merge of states that fit into memory.
pub struct Whole<'a, E: Engine + ?Sized> {
    engine: &'a E,
    table: usize,
    parts: Vec<RecordBatch>,
}

impl<'a, E: Engine + ?Sized> Whole<'a, E> {
    /// Of one table of this engine.
    pub fn new(engine: &'a E, table: usize) -> Self {
        Self { engine, table, parts: Vec::new() }
    }
}

impl<E: Engine + ?Sized> Merger for Whole<'_, E> {
    fn add(&mut self, states: &RecordBatch) -> Result<()> {
        self.parts.push(states.clone());
        Ok(())
    }

    fn states(&mut self) -> Result<Batches<'_>> {
        let merged = self.engine.merge(self.table, &self.parts)?;
        Ok(Box::new(std::iter::once(Ok(merged))))
    }

    fn finish(&mut self, window: Window) -> Result<Batches<'_, Finished>> {
        let merged = self.engine.merge(self.table, &self.parts)?;
        let finished = self.engine.finish(self.table, window, &merged)?;
        Ok(Box::new(std::iter::once(Ok(finished))))
    }
}
