//! The engine behind its ports: every record of a slice ends in exactly one place, and a damaged state is refused.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, LargeBinaryArray, RecordBatch};
use arrow::datatypes::DataType;
use sluicebox::engine::decode::Events;
use sluicebox::engine::glue::{EventDecoder, SqlEngine};
use sluicebox::engine::sql::gold::{GoldOptions, GoldPlan};
use sluicebox::engine::sql::silver::SilverPlan;
use sluicebox_actors::model::fault::{Kind, Result};
use sluicebox_actors::model::letter::{Rejection, Stage};
use sluicebox_actors::model::position::ShardId;
use sluicebox_actors::model::record::RawSlice;
use sluicebox_actors::ports::Engine;

use super::common::{HOURLY, Row, by_window, engine, events, events_schema, partials, table};

/// Refuses the records 1 and 4 of six; event `e` has n = e.
struct Half;

impl EventDecoder for Half {
    fn decode(&mut self, _slice: &RawSlice) -> Result<Events> {
        let rejection = |index| Rejection {
            index,
            stage: Stage::Decode,
            reason: "invalid_json",
            path: None,
            message: "no".to_owned(),
            causes: Vec::new(),
        };
        let batch = events(&(0..4).map(Row::plain).collect::<Vec<_>>());
        let rejections = vec![rejection(1), rejection(4)];
        Ok(Events { batch, origin: vec![0, 2, 3, 5], rejections, max_event_us: Some(9) })
    }
}

#[test]
fn every_record_of_a_slice_is_a_row_a_rejection_or_filtered_and_rejections_rise() {
    // Event 1 (record 2) divides by zero, event 0 (record 0) is filtered.
    let sql = "SELECT 1 / (n - 1) AS q FROM events WHERE n > 0";
    let silver = SilverPlan::compile(sql, &[], &events_schema()).expect("compiles");
    let gold = GoldPlan::compile("t", "SELECT count(*) FROM silver", silver.schema(), HOURLY).expect("compiles");
    let engine = SqlEngine::new(Arc::new(|| Box::new(Half)), silver, vec![gold]);
    let slice = RawSlice { stream: "s".into(), shard: ShardId::new("shardId-0"), records: Vec::new() };
    let decoded = engine.partition().expect("a partition").decode(&slice, 0).expect("decodes");
    assert_eq!(decoded.origin, [3, 5]);
    assert_eq!(decoded.silver.num_rows(), 2);
    assert_eq!(decoded.filtered, [("where".into(), 1)]);
    let rejected: Vec<(u32, String)> = decoded.rejections.iter().map(|r| (r.index, r.stage.to_string())).collect();
    assert_eq!(rejected, [(1, "decode".to_owned()), (2, "silver".to_owned()), (4, "decode".to_owned())]);
    assert_eq!(decoded.rejections[1].message, "column `q`: division by zero");
    assert_eq!(decoded.max_event_us, Some(9));
}

#[test]
fn states_that_were_cut_short_or_belong_to_another_statement_are_corrupt_and_never_a_panic() {
    let rows: Vec<Row> = (0..50).map(Row::plain).collect();
    for sql in [
        "SELECT sum(x) AS a FROM silver",
        "SELECT stddev(x) AS a FROM silver",
        "SELECT count(DISTINCT userId) AS a FROM silver",
        "SELECT approx_distinct(userId) AS a FROM silver",
        "SELECT approx_median(x) AS a FROM silver",
    ] {
        let engine = engine(sql);
        let parts = by_window(partials(&engine, &rows, 10, 2)).into_values().next().expect("one window");
        let whole = engine.merge(0, &parts).expect("merges");
        let short = |column: &ArrayRef| -> ArrayRef {
            if column.data_type() != &DataType::LargeBinary {
                return column.clone();
            }
            let blobs = column.as_binary::<i64>().iter().flatten().map(|blob| &blob[..blob.len() - 1]);
            Arc::new(LargeBinaryArray::from_iter_values(blobs))
        };
        let columns = whole.columns().iter().map(short).collect();
        let damaged = RecordBatch::try_new(whole.schema(), columns).expect("same types");
        assert_eq!(engine.merge(0, &[damaged]).expect_err("refused").kind(), Kind::Corrupt, "{sql}");
        let other = RecordBatch::new_empty(events_schema());
        assert_eq!(engine.merge(0, &[other]).expect_err("refused").kind(), Kind::Corrupt, "{sql}");
    }
}

#[test]
fn a_table_may_choose_the_size_of_its_sketches_within_bounds() {
    let silver = SilverPlan::compile("SELECT * FROM events", &[], &events_schema()).expect("compiles");
    let sql = "SELECT approx_distinct(userId) AS a FROM silver";
    let compile = |lg_k| GoldPlan::compile_with("t", sql, silver.schema(), HOURLY, GoldOptions { lg_k });
    assert!(compile(10).is_ok());
    assert!(compile(22).err().expect("refused").to_string().contains("8 to 21"));
}

#[test]
fn gold_over_no_row_that_passes_has_no_window() {
    let engine = engine("SELECT count(*) AS c FROM silver WHERE n > 1000");
    assert!(partials(&engine, &(0..5).map(Row::plain).collect::<Vec<_>>(), 2, 1).is_empty());
    let rows: Vec<Row> = (0..5).map(Row::plain).collect();
    assert_eq!(table("SELECT count(*) AS c FROM silver HAVING count(*) > 9", &rows), [""; 0]);
    let singles = "SELECT CAST(x AS REAL) AS r, count(*) AS c FROM silver WHERE n < 2 GROUP BY CAST(x AS REAL)";
    assert_eq!(table(singles, &rows), ["0.0|1", "1.0|1"]);
}
