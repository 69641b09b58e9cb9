//! Places that Gold and letters are handed on to, beside their files.
//!
//! Owns: what a sink is given and what it may answer. Does not own: when something is handed on and what was handed on before
//! (machines/feed), any service (adapters).
//!
//! Whatever is handed on is committed and visible in files already: a sink that is away delays nobody but its own readers. All
//! of it may come twice, after a crash or a lost answer; a sink is idempotent by (row, version) or by a letter's id.

use std::sync::Arc;

use arrow_array::RecordBatch;
use async_trait::async_trait;

use crate::model::fault::Result;
use crate::model::letter::Letter;
use crate::model::row::WindowStatus;
use crate::model::window::Window;

/// One revision of one window.
#[derive(Clone, Debug)]
pub struct GoldRevision {
    /// Gold table.
    pub table: Arc<str>,
    /// The window.
    pub window: Window,
    /// Newer wins, equal is a no-op, older is refused. Made of the pipeline's creation and the revision, so that a rebuilt
    /// pipeline is newer; below 2^63.
    pub version: u64,
    /// Revision of the window, for people.
    pub revision: u64,
    /// Status of the window.
    pub status: WindowStatus,
    /// `window_start, window_end`, then the statement's columns.
    pub rows: RecordBatch,
    /// Columns that tell the rows of one window apart; every other column after the window's two is a measure.
    pub keys: Arc<[String]>,
    /// Values of `keys` that an earlier revision may have shown and this one does not have.
    pub removed: RecordBatch,
}

/// What became of what a sink was given: rows and tombstones, or letters.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Fed {
    /// Those that are stored now.
    pub stored: u64,
    /// Rows for which the sink had this version or a newer one already.
    pub newer: u64,
    /// Those that the sink will never take, by reason: an alert, and the end of it.
    pub refused: Vec<(String, u64)>,
}

/// A sink of rows, such as a database of dashboards.
#[async_trait]
pub trait GoldSink: Send + Sync {
    /// Its name in the settings.
    fn name(&self) -> &str;
    /// Hands a revision over, whole. `Retry` = not all of it is stored, ask again.
    async fn feed(&self, revision: &GoldRevision) -> Result<Fed>;
}

/// A letter and where it lies for good.
#[derive(Clone, Debug)]
pub struct PostedLetter {
    /// The letter.
    pub letter: Letter,
    /// The visible file it is a line of, relative to the root of the tables.
    pub file: String,
    /// Its line, from 0.
    pub line: u64,
}

/// A sink of letters, such as a queue that people are paged by.
#[async_trait]
pub trait LetterSink: Send + Sync {
    /// Its name in the settings.
    fn name(&self) -> &str;
    /// Hands letters over, in order. `Retry` = perhaps not all are there, ask again.
    async fn send(&self, letters: &[PostedLetter]) -> Result<Fed>;
}
