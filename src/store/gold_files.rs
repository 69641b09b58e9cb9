//! Gold as readers see it: one object per window, replaced whole by a newer revision, and beside it the window's row in
//! `gold_windows`.
//!
//! Owns: the bytes of a window's object, their replacement, the refusal of an older revision. Does not own: when a window is
//! emitted (machines/gold), the columns of `gold_windows` (gold_windows).

use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use async_trait::async_trait;
use bytes::Bytes;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use sluicebox_actors::model::epoch::Hash;
use sluicebox_actors::model::fault::{Fault, Kind, Result};
use sluicebox_actors::model::row::WindowRow;
use sluicebox_actors::ports::{Batches, GoldFiles, WindowPermit};
use sluicebox_actors::toolkit::crash;

use super::disk::{self, Disk, blocking};
use super::gold_windows;
use super::home::Home;
use super::paths;
use super::row_file::{Format, RowFile};

/// Row groups of an object, encoded.
const ROW_GROUP_BYTES: usize = 64 << 20;

/// The bytes of a window's object: a pure function of the batches.
pub(crate) fn encode(format: Format, mut rows: Batches<'_>) -> Result<Bytes> {
    let first = rows.next().ok_or_else(|| Fault::bug("a window without a batch"))??;
    let mut file = RowFile::new(format, Vec::new(), &first, ROW_GROUP_BYTES)?;
    for batch in std::iter::once(Ok(first)).chain(rows) {
        file.write(&batch?)?;
    }
    Ok(file.finish()?.into())
}

/// The Gold files of one data directory. Cheap to clone; a run has one and its clones.
#[derive(Clone)]
pub struct DiskGoldFiles {
    disk: Arc<Disk>,
    format: Format,
    // One publication at a time: a late one of the generation before must not come between a newer one's look and its write.
    turn: Arc<Mutex<()>>,
}

impl DiskGoldFiles {
    /// The Gold files of this directory, written in this format.
    pub fn new(home: &Home, format: Format) -> Self {
        Self { disk: home.disk().clone(), format, turn: Arc::default() }
    }

    fn publish_now(&self, revision: u64, row: &WindowRow, content: &[u8]) -> Result<()> {
        let (table, start) = (&row.table, row.start_us);
        if revision != row.revision || row.content.as_ref().map(|object| &object.sha256) != Some(&Hash::of(content)) {
            return Err(Fault::bug(format!("{table} at {start}: this is not the content that was committed")));
        }
        let window = paths::gold_window(table, start)?;
        let window_path = self.disk.path(&window, Kind::Bug)?;
        let bytes = gold_windows::encode(row)?;
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
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
        crash::pass("gold.after_object");
        self.disk.replace(&window_path, &bytes)
    }
}

#[async_trait]
impl GoldFiles for DiskGoldFiles {
    fn encode(&self, _table: &str, rows: Batches<'_>) -> Result<Bytes> {
        encode(self.format, rows)
    }

    async fn publish(&self, permit: WindowPermit, row: &WindowRow, content: Bytes) -> Result<()> {
        let (this, row, revision) = (self.clone(), row.clone(), permit.revision());
        blocking(move || this.publish_now(revision, &row, &content)).await
    }

    async fn decode(&self, table: &str, content: Bytes) -> Result<RecordBatch> {
        decode(self.format, table, content).await
    }
}

/// The rows of a window's object.
pub(crate) async fn decode(format: Format, table: &str, content: Bytes) -> Result<RecordBatch> {
    if format != Format::Parquet {
        return Err(Fault::bug(format!("Gold table {table} is not Parquet: its rows can't be handed on")));
    }
    let table = table.to_owned();
    blocking(move || rows(&table, content)).await
}

fn rows(table: &str, content: Bytes) -> Result<RecordBatch> {
    let damaged = |error: &dyn std::error::Error| Fault::caused(Kind::Corrupt, format!("a window of Gold table {table}"), error);
    let builder = ParquetRecordBatchReaderBuilder::try_new(content).map_err(|error| damaged(&error))?;
    let schema = builder.schema().clone();
    let reader = builder.build().map_err(|error| damaged(&error))?;
    let batches = reader.collect::<Result<Vec<_>, _>>().map_err(|error| damaged(&error))?;
    concat_batches(&schema, &batches).map_err(|error| damaged(&error))
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{THREE_O_CLOCK, home, parquet_rows, silver, visible};
    use super::*;

    use arrow::array::{Array, AsArray};
    use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
    use sluicebox_actors::model::epoch::ObjectRef;
    use sluicebox_actors::model::position::{Position, Sequence, ShardId};
    use sluicebox_actors::model::row::{WindowStatus, WindowTotals};
    use sluicebox_actors::model::window::HOUR_US;

    const OBJECT: &str = "gold/hourly/dt=2026-11-23/hour=15/hourly-20261123T15.parquet";
    const WINDOW: &str = "gold_windows/table=hourly/dt=2026-11-23/hour=15/hourly-20261123T15.parquet";

    fn one(rows: RecordBatch) -> Batches<'static> {
        Box::new(std::iter::once(Ok(rows)))
    }

    fn row(revision: u64, content: &[u8]) -> WindowRow {
        let shard = ShardId::new("shardId-0");
        let (first, last) = (Position::START, Position::after(Sequence::dense(9)));
        WindowRow {
            table: "hourly".into(),
            start_us: THREE_O_CLOCK,
            end_us: THREE_O_CLOCK + HOUR_US,
            version: 1,
            revision,
            status: WindowStatus::Provisional,
            vector: [(shard.clone(), 3)].into(),
            content: Some(ObjectRef { key: "k".into(), len: content.len() as u64, sha256: Hash::of(content) }),
            rows: 2,
            counts: WindowTotals { on_time: 5, late: 1, too_late: 0 },
            overflow: false,
            missing: vec![ShardId::new("shardId-1")],
            empty_since_us: None,
            sequences: [(shard, (first, last))].into(),
            published: 0,
            base: None,
        }
    }

    #[test]
    fn equal_rows_give_equal_bytes_and_other_rows_give_others() {
        let (_dir, home) = home();
        for format in [Format::Parquet, Format::Ndjson, Format::NdjsonGzip] {
            let gold = DiskGoldFiles::new(&home, format);
            let encode = |times: &[i64]| gold.encode("hourly", one(silver(times))).expect("encodes");
            assert_eq!(encode(&[1, 2, 3]), encode(&[1, 2, 3]), "{format:?}");
            assert_ne!(encode(&[1, 2, 3]), encode(&[1, 2, 4]), "{format:?}");
            let part = silver(&[0, 1, 2, 3]).slice(0, 3);
            assert_eq!(gold.encode("hourly", one(part)).expect("encodes"), encode(&[0, 1, 2]), "a view is its rows, {format:?}");
        }
    }

    #[tokio::test]
    async fn rows_come_back_from_their_bytes() {
        let (_dir, home) = home();
        let gold = DiskGoldFiles::new(&home, Format::Parquet);
        for times in [[].as_slice(), &[1], &[1, 2, 3]] {
            let bytes = gold.encode("hourly", one(silver(times))).expect("encodes");
            assert_eq!(gold.decode("hourly", bytes).await.expect("decodes"), silver(times));
        }
        let fault = gold.decode("hourly", Bytes::from_static(b"PAR1")).await.expect_err("refused");
        assert_eq!(fault.kind(), Kind::Corrupt);
    }

    #[test]
    fn a_window_without_groups_is_an_object_without_rows() {
        let (_dir, home) = home();
        let gold = DiskGoldFiles::new(&home, Format::Parquet);
        let bytes = gold.encode("hourly", one(silver(&[]))).expect("encodes");
        gold.publish_now(1, &row(1, &bytes), &bytes).expect("publishes");
        let rows = parquet_rows(&home.data().join(OBJECT));
        assert_eq!((rows.num_rows(), rows.num_columns()), (0, 3));
    }

    #[test]
    fn a_published_window_is_one_object_and_one_row_that_says_what_is_in_it() {
        let (_dir, home) = home();
        let gold = DiskGoldFiles::new(&home, Format::Parquet);
        let bytes = gold.encode("hourly", one(silver(&[1, 2]))).expect("encodes");
        gold.publish_now(4, &row(4, &bytes), &bytes).expect("publishes");
        assert_eq!(visible(&home), [OBJECT, WINDOW]);
        assert_eq!(parquet_rows(&home.data().join(OBJECT)), silver(&[1, 2]));
        let said = parquet_rows(&home.data().join(WINDOW));
        let text = |name: &str| said[name].as_string::<i32>().value(0).to_owned();
        let number = |name: &str| said[name].as_primitive::<Int64Type>().value(0);
        assert_eq!((text("table"), text("status")), ("hourly".into(), "provisional".into()));
        assert_eq!(text("missing_shards"), r#"["shardId-1"]"#);
        assert_eq!(text("vector"), r#"{"shardId-0":3}"#);
        assert_eq!(text("sequences"), r#"{"shardId-0":["start","9"]}"#);
        assert_eq!(text("sha256"), Hash::of(&bytes).as_str());
        assert_eq!(["revision", "on_time", "late", "too_late", "rows"].map(number), [4, 5, 1, 0, 2]);
        let start = said["window_start"].as_primitive::<TimestampMicrosecondType>();
        assert_eq!(start.value(0), THREE_O_CLOCK);
        assert!(said["empty_since"].is_null(0));
    }

    #[test]
    fn newer_wins_equal_is_done_again_and_older_is_refused() {
        let (_dir, home) = home();
        let gold = DiskGoldFiles::new(&home, Format::Parquet);
        let (old, new) = (gold.encode("hourly", one(silver(&[1]))), gold.encode("hourly", one(silver(&[1, 2]))));
        let (old, new) = (old.expect("encodes"), new.expect("encodes"));
        gold.publish_now(1, &row(1, &old), &old).expect("publishes");
        for _ in 0..2 {
            gold.publish_now(2, &row(2, &new), &new).expect("publishes");
        }
        let fault = gold.publish_now(1, &row(1, &old), &old).expect_err("refused");
        assert_eq!(fault.kind(), Kind::Fenced);
        assert_eq!(std::fs::read(home.data().join(OBJECT)).expect("reads"), new);
    }

    #[test]
    fn whoever_comes_in_whatever_order_the_newest_revision_stays_and_its_row_names_it() {
        let (_dir, home) = home();
        let gold = DiskGoldFiles::new(&home, Format::Ndjson);
        let gold = &gold;
        std::thread::scope(|scope| {
            for by in 1..=4u64 {
                scope.spawn(move || {
                    for revision in (by..=20).step_by(4) {
                        let bytes = format!("{revision}");
                        let fault = gold.publish_now(revision, &row(revision, bytes.as_bytes()), bytes.as_bytes()).err();
                        assert!(fault.as_ref().is_none_or(|fault| fault.kind() == Kind::Fenced), "{fault:?}");
                    }
                });
            }
        });
        let object = home.data().join(OBJECT.replace(".parquet", ".ndjson"));
        assert_eq!(std::fs::read(object).expect("reads"), b"20");
        let said = parquet_rows(&home.data().join(WINDOW));
        assert_eq!(said["revision"].as_primitive::<Int64Type>().value(0), 20);
    }

    #[test]
    fn a_publication_that_died_between_object_and_row_is_done_again() {
        let (_dir, home) = home();
        let gold = DiskGoldFiles::new(&home, Format::Parquet);
        let bytes = gold.encode("hourly", one(silver(&[1]))).expect("encodes");
        gold.publish_now(1, &row(1, &bytes), &bytes).expect("publishes");
        std::fs::remove_file(home.data().join(WINDOW)).expect("as if never written");
        gold.publish_now(1, &row(1, &bytes), &bytes).expect("publishes");
        assert_eq!(visible(&home), [OBJECT, WINDOW]);
    }

    #[test]
    fn other_content_than_the_row_names_or_another_permit_is_refused() {
        let (_dir, home) = home();
        let gold = DiskGoldFiles::new(&home, Format::Parquet);
        assert_eq!(gold.publish_now(1, &row(1, b"a"), b"b").expect_err("refused").kind(), Kind::Bug);
        assert_eq!(gold.publish_now(2, &row(1, b"a"), b"a").expect_err("refused").kind(), Kind::Bug);
        assert_eq!(visible(&home), Vec::<String>::new());
    }

    #[test]
    fn a_damaged_row_of_gold_windows_is_refused_with_the_way_out() {
        let (_dir, home) = home();
        let gold = DiskGoldFiles::new(&home, Format::Parquet);
        gold.publish_now(1, &row(1, b"a"), b"a").expect("publishes");
        std::fs::write(home.data().join(WINDOW), b"PAR1").expect("damages");
        let fault = gold.publish_now(2, &row(2, b"b"), b"b").expect_err("refused");
        assert_eq!(fault.kind(), Kind::Corrupt);
        assert!(fault.message().contains(WINDOW) && fault.message().contains("delete it"), "{fault}");
    }
}
