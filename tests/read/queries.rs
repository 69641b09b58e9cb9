//! `query`, `gold` and `shards` over a finished run in miniature.

#![allow(clippy::unwrap_used, reason = "a helper of a test may end the test")]

use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use futures_util::TryStreamExt;
use sluicebox::read::gold::{self, Range};
use sluicebox::read::query::Catalog;
use sluicebox::read::shards;
use sluicebox::read::sinks::{self, Named};
use sluicebox::read::sources::Sources;
use sluicebox::read::status::{RunStatus, ShardStatus, SinkStatus};
use sluicebox_actors::model::fault::Kind;
use sluicebox_actors::model::window::HOUR_US;
use sluicebox_actors::ports::{Engine, Rows};

use super::support::{TABLE, TEN, World, times, write};

async fn all(catalog: &Catalog, sql: &str) -> Vec<RecordBatch> {
    catalog.query(sql).await.expect(sql).batches.try_collect().await.expect(sql)
}

async fn one(catalog: &Catalog, sql: &str) -> i64 {
    let batches = all(catalog, sql).await;
    assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 1, "{sql}");
    batches[0].column(0).as_primitive::<Int64Type>().value(0)
}

async fn failure(catalog: &Catalog, sql: &str) -> sluicebox_actors::model::fault::Fault {
    match catalog.query(sql).await {
        Err(fault) => fault,
        Ok(answer) => answer.batches.try_collect::<Vec<_>>().await.expect_err(sql),
    }
}

#[tokio::test]
async fn every_table_answers_over_what_is_published() {
    let world = World::build().await;
    let catalog = Catalog::new(world.sources(), Vec::new());
    assert_eq!(catalog.tables().await.unwrap(), ["bronze", "dlq", "gold_by_kind", "gold_windows", "ledger", "silver"],);
    assert_eq!(one(&catalog, "SELECT count(*) FROM bronze").await, 96);
    assert_eq!(one(&catalog, "SELECT count(*) FROM silver").await, 80);
    assert_eq!(one(&catalog, "SELECT count(*) FROM dlq").await, 10);
    assert_eq!(one(&catalog, "SELECT count(*) FROM dlq WHERE stage = 'gold:by_kind' AND data_text IS NOT NULL").await, 2);
    assert_eq!(one(&catalog, "SELECT count(*) FROM dlq WHERE data_text IS NULL AND data IS NOT NULL").await, 8);
    assert_eq!(one(&catalog, "SELECT sum(events) FROM gold_by_kind").await, 70);
    assert_eq!(one(&catalog, "SELECT count(*) FROM gold_windows WHERE status = 'closed' AND \"table\" = 'by_kind'").await, 4);
    assert_eq!(one(&catalog, "SELECT count(*) FROM ledger").await, 8);
    assert_eq!(one(&catalog, "SELECT count(*) FROM ledger WHERE collected").await, 1);
    assert_eq!(one(&catalog, "SELECT sum(received - silver - rejected - filtered - duplicate) FROM ledger").await, 0);
}

#[tokio::test]
async fn identifiers_are_taken_as_written_and_partitions_are_columns() {
    let world = World::build().await;
    let catalog = Catalog::new(world.sources(), Vec::new());
    let sql = "SELECT eventKind, COUNT(*) AS howMany FROM silver GROUP BY eventKind ORDER BY eventKind";
    let answer = catalog.query(sql).await.unwrap();
    assert_eq!(answer.schema.field(1).name(), "howMany");
    assert_eq!(one(&catalog, "SELECT count(DISTINCT dt) FROM silver").await, 2);
    assert_eq!(one(&catalog, "SELECT count(*) FROM silver WHERE dt = '2026-01-06' AND hour = '00'").await, 18);
    assert_eq!(one(&catalog, "SELECT count(*) FROM silver WHERE hour = 0").await, 18);
    assert_eq!(one(&catalog, "SELECT count(*) FROM gold_by_kind WHERE dt = '2026-01-06' AND hour = '00'").await, 1);
    let fault = failure(&catalog, "SELECT eventkind FROM silver").await;
    assert_eq!(fault.kind(), Kind::Config);
}

#[tokio::test]
async fn a_filter_on_the_day_opens_no_file_of_another_day() {
    let world = World::build().await;
    let catalog = Catalog::new(world.sources(), Vec::new());
    for table in ["silver", "bronze", "gold/by_kind", "gold_windows/table=by_kind"] {
        write(world.data(), &format!("{table}/dt=2026-01-05/hour=09/damaged.parquet"), b"PAR1 this is no file of ours PAR1");
    }
    for table in ["silver", "bronze", "gold_by_kind", "gold_windows"] {
        let rows = one(&catalog, &format!("SELECT count(*) FROM {table} WHERE dt = '2026-01-06' AND hour >= '00'")).await;
        assert!(rows > 0, "{table}");
        let fault = failure(&catalog, &format!("SELECT * FROM {table}")).await;
        assert_eq!(fault.kind(), Kind::Corrupt, "{table}: {fault}");
    }
}

#[tokio::test]
async fn files_below_a_further_partition_folder_are_read_too() {
    let world = World::build().await;
    let hour = world.data().join("silver/dt=2026-01-06/hour=00");
    std::fs::create_dir(hour.join("country=DE")).unwrap();
    let name = "shardId-0-0000000003-s.parquet";
    std::fs::rename(hour.join(name), hour.join("country=DE").join(name)).unwrap();
    let catalog = Catalog::new(world.sources(), Vec::new());
    assert_eq!(one(&catalog, "SELECT count(*) FROM silver").await, 80);
    assert_eq!(one(&catalog, "SELECT count(*) FROM silver WHERE dt = '2026-01-06' AND hour = '00'").await, 18);
}

#[tokio::test]
async fn a_query_changes_nothing_and_reads_nothing_outside() {
    let world = World::build().await;
    write(world.data(), "outside.csv", b"a,b\n1,2\n");
    let catalog = Catalog::new(world.sources(), Vec::new());
    let outside = world.data().join("outside.csv");
    for sql in [
        "CREATE TABLE t AS SELECT 1".to_owned(),
        "DROP TABLE silver".to_owned(),
        "INSERT INTO silver SELECT * FROM silver".to_owned(),
        format!("COPY silver TO '{}'", world.data().join("copy.parquet").display()),
        "SET datafusion.execution.batch_size = 1".to_owned(),
        format!("CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '{}'", outside.display()),
        format!("SELECT * FROM '{}'", outside.display()),
        "SELECT nonsense".to_owned(),
    ] {
        assert_eq!(failure(&catalog, &sql).await.kind(), Kind::Config, "{sql}");
    }
    assert!(!world.data().join("copy.parquet").exists());
}

#[tokio::test]
async fn tables_without_files_are_empty_with_the_columns_that_are_known() {
    let world = World::empty();
    let schema = Arc::new(Schema::new(vec![Field::new("eventKind", DataType::Utf8, false)]));
    let schemas = vec![("silver".to_owned(), schema.clone()), ("gold_by_kind".to_owned(), schema)];
    let catalog = Catalog::new(world.sources(), schemas);
    for sql in [
        "SELECT eventKind, dt, hour FROM silver",
        "SELECT eventKind FROM gold_by_kind WHERE dt = '2026-01-01'",
        "SELECT data, _shard, _sequence FROM bronze",
        "SELECT status, revision, window_start FROM gold_windows",
        "SELECT id, data FROM dlq",
        "SELECT shard, epoch, digest FROM ledger",
    ] {
        assert_eq!(all(&catalog, sql).await.iter().map(RecordBatch::num_rows).sum::<usize>(), 0, "{sql}");
    }
}

#[tokio::test]
async fn a_file_that_goes_away_is_looked_for_twice_and_then_named_as_such() {
    let world = World::build().await;
    // A link that leads nowhere is listed and cannot be opened: a file removed in between.
    let place = world.data().join("gold/by_kind/dt=2026-01-05/hour=22/gone.parquet");
    std::os::unix::fs::symlink(world.data().join("nowhere"), &place).unwrap();
    let catalog = Catalog::new(world.sources(), Vec::new());
    let fault = failure(&catalog, "SELECT sum(events) FROM gold_by_kind").await;
    assert_eq!(fault.kind(), Kind::Retry);
    assert!(fault.message().contains("twice"), "{fault}");
    std::fs::remove_file(place).unwrap();
    assert_eq!(one(&catalog, "SELECT sum(events) FROM gold_by_kind").await, 70);
}

#[tokio::test]
async fn a_large_answer_comes_in_pieces_and_a_small_memory_spills_or_refuses() {
    let world = World::build().await;
    let catalog = Catalog::new(world.sources(), Vec::new()).with_memory(8 << 20);
    let sql = "SELECT a._sequence FROM silver a CROSS JOIN silver b CROSS JOIN silver c";
    let answer = catalog.query(sql).await.unwrap();
    let (mut batches, mut rows) = (answer.batches, 0);
    let mut pieces = 0;
    while let Some(batch) = batches.try_next().await.unwrap() {
        rows += batch.num_rows();
        pieces += 1;
    }
    assert_eq!(rows, 80 * 80 * 80);
    assert!(pieces > 10);
    let tight = Catalog::new(world.sources(), Vec::new()).with_memory(64 << 10);
    let sql = "SELECT count(*) FROM (SELECT DISTINCT a._sequence, b._sequence, c._sequence, b._shard, c._shard, a._shard \
               FROM silver a CROSS JOIN silver b CROSS JOIN silver c)";
    assert_eq!(failure(&tight, sql).await.kind(), Kind::Config);
}

#[tokio::test]
async fn gold_is_shown_window_by_window_with_status_and_revision() {
    let world = World::build().await;
    let read = async |range: Range| -> Vec<RecordBatch> {
        gold::content(&world.sources(), TABLE, None, range).await.unwrap().batches.try_collect().await.unwrap()
    };
    let starts = |batches: &[RecordBatch]| batches.iter().map(|batch| batch.column(0).slice(0, 1)).collect::<Vec<_>>();
    let hours = |hours: &[i64]| hours.iter().map(|hour| times(vec![TEN + hour * HOUR_US])).collect::<Vec<_>>();
    let everything = read(Range::default()).await;
    assert_eq!(starts(&everything), hours(&[0, 1, 2, 3]));
    assert_eq!(everything[0].schema().field(5).name(), "status");
    assert_eq!(everything[0].column(5).as_string::<i32>().value(0), "closed");
    assert_eq!(everything[0].column(6).as_primitive::<Int64Type>().value(0), 1);
    let range = Range { from_us: Some(TEN + HOUR_US), to_us: Some(TEN + 3 * HOUR_US), last: None };
    assert_eq!(starts(&read(range).await), hours(&[1, 2]));
    assert_eq!(starts(&read(Range { last: Some(1), ..range }).await), hours(&[2]));
}

#[tokio::test]
async fn gold_shows_the_committed_revision_even_while_readers_still_see_the_one_before() {
    let world = World::build().await;
    let old = gold::content(&world.sources(), TABLE, None, Range { last: Some(1), ..Range::default() }).await.unwrap();
    let old: Vec<RecordBatch> = old.batches.try_collect().await.unwrap();
    // A newer revision is committed and stored, but its file is put back to the old one.
    let place = format!("gold/{TABLE}/dt=2026-01-06/hour=01/{TABLE}-{}.parquet", TEN + 3 * HOUR_US);
    let before = std::fs::read(world.data().join(&place)).unwrap();
    let mut row = world.rows.window(TABLE, TEN + 3 * HOUR_US).await.unwrap().unwrap();
    row.revision = 2;
    let fewer = old[0].slice(0, 1).project(&[0, 1, 2, 3, 4]).unwrap();
    world.publish(row, &fewer).await;
    write(world.data(), &place, &before);
    let new = gold::content(&world.sources(), TABLE, None, Range { last: Some(1), ..Range::default() }).await.unwrap();
    let new: Vec<RecordBatch> = new.batches.try_collect().await.unwrap();
    assert_eq!(new[0].num_rows(), 1);
    assert_eq!(new[0].column(6).as_primitive::<Int64Type>().value(0), 2);
}

#[tokio::test]
async fn an_unknown_gold_table_is_refused_with_the_names_there_are() {
    let world = World::build().await;
    let fault = gold::content(&world.sources(), "by_kin", None, Range::default()).await.unwrap_err();
    assert_eq!(fault.kind(), Kind::Config);
    assert!(fault.message().contains("by_kind"), "{fault}");
    assert_eq!(world.engine.tables().len(), 1);
}

#[tokio::test]
async fn shards_join_rows_newest_epochs_and_the_status_of_the_run() {
    let world = World::build().await;
    std::fs::create_dir_all(world.data().join("state")).unwrap();
    let shard = ShardStatus { shard: "shardId-1".into(), restarts: 3, state: "running".into(), ..Default::default() };
    RunStatus { shards: vec![shard], ..Default::default() }.write(world.data()).unwrap();
    let views = shards::view(&world.sources(), None, 0).await.unwrap();
    let batch = shards::batch(&views).unwrap();
    assert_eq!(batch.column_by_name("bound").unwrap().as_ref(), times(vec![views[0].bound_us.unwrap(); 2]).as_ref());
    assert_eq!(views.iter().map(|view| view.restarts).collect::<Vec<_>>(), [None, Some(3)]);
    assert_eq!(views[0].received, Some(48));
    assert_eq!((views[0].epoch, views[0].state), (4, "open"));
    assert_eq!(views[0].bound_us, Some(TEN + 3 * HOUR_US + 50 * 60_000_000));
}

#[tokio::test]
async fn a_run_says_how_it_does_in_its_own_directory_not_among_copies_of_tables() {
    let world = World::build().await;
    let worker = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(worker.path().join("state")).unwrap();
    let sink = SinkStatus { sink: "rows".into(), state: "waiting".into(), waiting: 7, ..Default::default() };
    let shard = ShardStatus { shard: "shardId-1".into(), restarts: 3, state: "running".into(), ..Default::default() };
    let status = RunStatus { pid: std::process::id(), sinks: vec![sink.clone()], shards: vec![shard], ..Default::default() };
    status.write(worker.path()).unwrap();
    let sources = Sources { worker: worker.path().to_owned(), ..world.sources() };
    let rows = Named { name: "rows".into(), tables: Some(vec!["by_kind".into()]) };
    let sinks = sinks::view(&sources, &[rows], 0).await.unwrap();
    assert_eq!(sinks.into_iter().map(|view| view.run).collect::<Vec<_>>(), [Some(sink)]);
    let shards = shards::view(&sources, None, 0).await.unwrap();
    assert_eq!(shards.iter().map(|view| view.restarts).collect::<Vec<_>>(), [None, Some(3)]);
}
