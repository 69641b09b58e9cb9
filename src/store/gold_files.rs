//! Gold as readers see it: one object per window, replaced whole by a newer revision, and beside it the window's row in
//! `gold_windows`.
//!
//! Owns: the bytes of a window's object, their replacement, the refusal of an older revision. Does not own: when a window is
//! emitted (machines/gold), the columns of `gold_windows` (gold_windows).

use std::sync::Arc;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use bytes::Bytes;
use sluicebox_actors::model::epoch::Hash;
use sluicebox_actors::model::fault::{Fault, Kind, Result};
use sluicebox_actors::model::row::WindowRow;
use sluicebox_actors::ports::{GoldFiles, WindowPermit};

use super::disk::{self, Disk, blocking};
use super::gold_windows;
use super::home::Home;
use super::paths;
use super::row_file::{Format, RowFile};

/// Row groups of an object, encoded.
const ROW_GROUP_BYTES: usize = 64 << 20;

/// The Gold files of one data directory. Cheap to clone.
#[derive(Clone)]
pub struct DiskGoldFiles {
    disk: Arc<Disk>,
    format: Format,
}

impl DiskGoldFiles {
    /// The Gold files of this directory, written in this format.
    pub fn new(home: &Home, format: Format) -> Self {
        Self { disk: home.disk().clone(), format }
    }

    fn publish_now(&self, revision: u64, row: &WindowRow, content: &[u8]) -> Result<()> {
        let (table, start) = (&row.table, row.start_us);
        if revision != row.revision || row.content.as_ref().map(|object| &object.sha256) != Some(&Hash::of(content)) {
            return Err(Fault::bug(format!("{table} at {start}: this is not the content that was committed")));
        }
        let window = paths::gold_window(table, start)?;
        let window_path = self.disk.path(&window, Kind::Bug)?;
        let bytes = gold_windows::encode(row)?;
        if let Some(visible) = disk::read(&window_path)? {
            let seen = gold_windows::revision(visible.into(), &window)?;
            if seen > row.revision {
                let message = format!("{table} at {start}: revision {seen} is visible, {} came too late", row.revision);
                return Err(Fault::fenced(message));
            }
        }
        let object = paths::gold_object(table, start, self.format.extension())?;
        // Object first: a row never promises what is not there yet.
        self.disk.replace(&self.disk.path(&object, Kind::Bug)?, content)?;
        self.disk.replace(&window_path, &bytes)
    }
}

#[async_trait]
impl GoldFiles for DiskGoldFiles {
    fn encode(&self, _table: &str, rows: &RecordBatch) -> Result<Bytes> {
        let mut file = RowFile::new(self.format, Vec::new(), rows, ROW_GROUP_BYTES)?;
        file.write(rows)?;
        Ok(file.finish()?.into())
    }

    async fn publish(&self, permit: WindowPermit, row: &WindowRow, content: Bytes) -> Result<()> {
        let (this, row, revision) = (self.clone(), row.clone(), permit.revision());
        blocking(move || this.publish_now(revision, &row, &content)).await
    }
}
