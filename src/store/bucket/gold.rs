//! Gold in a bucket: one object per window, replaced by a newer revision, and beside it the window's row in `gold_windows`.
//!
//! Owns: their replacement, the refusal of an older revision. Does not own: the bytes (gold_files, gold_windows), when a window
//! is emitted (machines/gold).

use arrow::array::RecordBatch;
use async_trait::async_trait;
use bytes::Bytes;
use sluicebox_actors::model::epoch::Hash;
use sluicebox_actors::model::fault::{Fault, Result};
use sluicebox_actors::model::row::WindowRow;
use sluicebox_actors::ports::{Batches, GoldFiles, WindowPermit};
use sluicebox_actors::toolkit::crash;
use sluicebox_aws::s3::store::{Replaced, S3Store};

use crate::store::row_file::Format;
use crate::store::{gold_files, gold_windows, paths};

/// The Gold files of one store. Cheap to clone.
#[derive(Clone)]
pub struct BucketGold {
    store: S3Store,
    format: Format,
}

impl BucketGold {
    /// The Gold files of this store, written in this format.
    pub fn new(store: S3Store, format: Format) -> Self {
        Self { store, format }
    }

    async fn replace(&self, key: &str, data: Bytes, number: u64) -> Result<()> {
        match self.store.replace(key, data, number).await? {
            Replaced::Done | Replaced::Same => Ok(()),
            Replaced::Newer(newer) => Err(Fault::fenced(format!("{key}: {newer} is visible, {number} came too late"))),
        }
    }
}

#[async_trait]
impl GoldFiles for BucketGold {
    fn encode(&self, _table: &str, rows: Batches<'_>) -> Result<Bytes> {
        gold_files::encode(self.format, rows)
    }

    async fn publish(&self, permit: WindowPermit, row: &WindowRow, content: Bytes) -> Result<()> {
        let (table, start) = (&row.table, row.start_us);
        if permit.revision() != row.revision || row.content.as_ref().map(|object| &object.sha256) != Some(&Hash::of(&content)) {
            return Err(Fault::bug(format!("{table} at {start}: this is not the content that was committed")));
        }
        let object = paths::gold_object(table, start, self.format.extension())?;
        // Object first: a row never promises what is not there yet.
        self.replace(&object, content, row.revision).await?;
        crash::pass("gold.after_object");
        // A rebase changes a row without a new revision; its version tells the two apart.
        self.replace(&paths::gold_window(table, start)?, gold_windows::encode(row)?, row.version).await
    }

    async fn decode(&self, table: &str, content: Bytes) -> Result<RecordBatch> {
        gold_files::decode(self.format, table, content).await
    }
}
