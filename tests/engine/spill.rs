//! Goal: how much memory a merge has shows in nothing but its files: rows and states are the same to the byte.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow::array::RecordBatch;
use proptest::prelude::*;
use sluicebox::engine::glue::SqlEngine;
use sluicebox::engine::sql::merge::BATCH_ROWS;
use sluicebox::engine::sql::spill::MergeMemory;
use sluicebox_actors::model::fault::{Fault, Kind};
use sluicebox_actors::ports::{Engine, Merger};

use super::common::{HOURLY, Row, by_window, engine, finish, partials};
use super::commute::{EVERYTHING, ipc, numbered, row};

/// Every kind of aggregate in the order of keys; ranks with and without LIMIT; keys of every type.
fn statements() -> Vec<String> {
    let by_key = EVERYTHING.split(" HAVING").next().unwrap_or_default().to_owned();
    let keys = "SELECT kind, userId, n, x, price, wide, ok, day, event_time, count(*) AS c, sum(n) AS s FROM silver
        GROUP BY kind, userId, n, x, price, wide, ok, day, event_time";
    let ranked = "SELECT userId, count(*) AS c, sum(n) AS s FROM silver GROUP BY userId";
    vec![
        by_key,
        EVERYTHING.to_owned(),
        keys.to_owned(),
        format!("{keys} HAVING sum(n) > 0"),
        format!("{ranked} HAVING count(*) > 1000000"),
        format!("{ranked} ORDER BY c DESC"),
        format!("{ranked} ORDER BY c DESC, s LIMIT 3 OFFSET 2"),
        format!("{ranked} LIMIT 4"),
        format!("{ranked} LIMIT 0"),
        "SELECT count(*) AS c, approx_distinct(userId) AS a FROM silver".to_owned(),
    ]
}

/// The engine with so much memory for merges, and the number of files that they make.
fn within(engine: &SqlEngine, bytes: usize) -> (SqlEngine, Arc<AtomicUsize>) {
    let files = Arc::new(AtomicUsize::new(0));
    let counted = files.clone();
    let scratch = move || {
        counted.fetch_add(1, Ordering::Relaxed);
        Ok(tempfile::tempfile().unwrap())
    };
    (engine.merging_within(MergeMemory::new(bytes, Arc::new(scratch))), files)
}

fn filled<'a>(engine: &'a SqlEngine, parts: &[RecordBatch]) -> Box<dyn Merger + 'a> {
    let mut merger = engine.merger(0).unwrap();
    parts.iter().for_each(|part| merger.add(part).unwrap());
    merger
}

/// The rows, whether a sum overflowed, the states: batch by batch as bytes.
fn content(engine: &SqlEngine, window: i64, parts: &[RecordBatch]) -> (Vec<Vec<u8>>, bool, Vec<Vec<u8>>) {
    let (mut rows, mut overflow) = (Vec::new(), false);
    for finished in filled(engine, parts).finish(HOURLY.starting(window)).unwrap() {
        let finished = finished.unwrap();
        rows.push(ipc(&finished.rows));
        overflow |= finished.overflow;
    }
    let states = filled(engine, parts).states().unwrap().map(|batch| ipc(&batch.unwrap())).collect();
    (rows, overflow, states)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn a_merge_by_way_of_files_gives_the_bytes_of_a_merge_in_memory(
        rows in prop::collection::vec(row(40), 1..150),
        batch in 1usize..9,
        bytes in prop::sample::select(vec![0usize, 1 << 14, 1 << 16]),
    ) {
        let rows = numbered(rows);
        for sql in statements() {
            let engine = engine(&sql);
            let (small, _) = within(&engine, bytes);
            for (window, parts) in by_window(partials(&engine, &rows, batch, 1)) {
                let finished = finish(&engine, window, &parts);
                let whole = (vec![ipc(&finished.rows)], finished.overflow, vec![ipc(&engine.merge(0, &parts).unwrap())]);
                prop_assert!(content(&engine, window, &parts) == whole, "in memory: {sql}");
                prop_assert!(content(&small, window, &parts) == whole, "{bytes} bytes: {sql}");
            }
        }
    }
}

#[test]
fn large_windows_come_out_in_even_batches_however_often_they_were_written_out() {
    // Scattered, each key in two partials.
    let count = BATCH_ROWS * 2 + 17;
    let rows: Vec<Row> = (0..2 * count).map(|at| Row { number: at, ..Row::plain(at * 7919 % count) }).collect();
    for sql in [
        "SELECT userId, count(*) AS c, sum(x) AS s, min(kind) AS k FROM silver GROUP BY userId HAVING sum(n) <> 5",
        "SELECT userId, sum(n) AS s FROM silver GROUP BY userId ORDER BY s DESC LIMIT 100000",
    ] {
        let engine = engine(sql);
        let windows = by_window(partials(&engine, &rows, 10_000, 1));
        let (window, parts) = windows.iter().next().unwrap();
        let (small, files) = within(&engine, 8 << 20);
        let (one, other) = (content(&engine, *window, parts), content(&small, *window, parts));
        assert!(one == other, "{sql}");
        assert!(one.0.len() > 1 && one.2.len() == 3, "{sql}: {} and {} batches", one.0.len(), one.2.len());
        assert!(files.load(Ordering::Relaxed) > 4, "{sql}: no memory was missing");
        let sizes = filled(&small, parts).states().unwrap().map(|batch| batch.unwrap().num_rows()).collect::<Vec<_>>();
        assert_eq!(sizes, [BATCH_ROWS, BATCH_ROWS, 17]);
    }
}

#[test]
fn a_merge_with_more_runs_than_may_be_open_merges_them_on_the_way() {
    let rows: Vec<Row> = (0..400).map(Row::plain).collect();
    let engine = engine("SELECT userId, count(*) AS c FROM silver GROUP BY userId");
    let windows = by_window(partials(&engine, &rows, 2, 1));
    let (window, parts) = windows.iter().next().unwrap();
    let (small, files) = within(&engine, 0);
    assert!(content(&engine, *window, parts) == content(&small, *window, parts));
    assert!(files.load(Ordering::Relaxed) > 2 * parts.len(), "a run for every partial, and those that were merged");
}

#[test]
fn a_merge_without_a_place_for_its_files_ends_with_that_fault_and_one_that_needs_none_does_not() {
    let engine = engine("SELECT userId, count(*) AS c FROM silver GROUP BY userId");
    let rows: Vec<Row> = (0..100).map(Row::plain).collect();
    let windows = by_window(partials(&engine, &rows, 10, 1));
    let (window, parts) = windows.iter().next().unwrap();
    let without = |bytes| engine.merging_within(MergeMemory::new(bytes, Arc::new(|| Err(Fault::retry("no room")))));
    let poor = without(0);
    assert_eq!(poor.merger(0).unwrap().add(&parts[0]).unwrap_err().kind(), Kind::Retry);
    assert!(content(&without(1 << 30), *window, parts) == content(&engine, *window, parts));
}
