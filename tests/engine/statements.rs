//! What may stand in a statement, and what the refusals say.

use arrow::array::AsArray;
use arrow::datatypes::{DataType, Int64Type};
use sluicebox::engine::sql::gold::GoldPlan;
use sluicebox::engine::sql::silver::{CARRIED, SilverPlan};

use super::common::{HOURLY, Row, events, events_schema, lines};

fn silver(sql: &str) -> Result<SilverPlan, String> {
    SilverPlan::compile(sql, &[], &events_schema()).map_err(|error| error.to_string())
}

fn gold(sql: &str) -> Result<GoldPlan, String> {
    let silver = SilverPlan::compile("SELECT *, _processed_at AS processedAt FROM events", &[], &events_schema());
    let silver = silver.expect("compiles");
    GoldPlan::compile("t", sql, silver.schema(), HOURLY).map_err(|error| error.to_string())
}

fn refusal<T>(result: Result<T, String>) -> String {
    result.err().expect("refused")
}

#[test]
fn every_supported_shape_of_a_gold_statement_compiles() {
    for sql in [
        "SELECT count(*) FROM silver",
        "SELECT kind, count(*) AS c FROM silver GROUP BY kind",
        "SELECT silver.kind, count(1) FROM silver WHERE n > 3 GROUP BY silver.kind",
        "SELECT upper(kind) AS k, sum(n) * 2 + 1 AS x FROM silver GROUP BY upper(kind) HAVING sum(n) > 3 ORDER BY x LIMIT 3",
        "SELECT count(*) FROM silver WHERE NULL HAVING NULL",
        "SELECT CAST(x AS REAL) AS r, count(*) FROM silver GROUP BY CAST(x AS REAL)",
        "SELECT window_start, kind, max(n) FROM silver GROUP BY window_start, kind",
        "SELECT kind AS k, count(*) AS c FROM silver GROUP BY 1 ORDER BY 2 DESC NULLS LAST LIMIT 10 OFFSET 2",
        "SELECT kind FROM silver GROUP BY kind ORDER BY max(n)",
        "SELECT s.kind, count(*) FROM silver AS s GROUP BY s.kind",
        "SELECT hour_bucket(event_time) AS h, approx_percentile_cont(x, 1) FROM silver GROUP BY hour_bucket(event_time)",
        "SELECT CASE WHEN n > 1 THEN 'a' ELSE 'b' END AS c, sum(properties.amount) FROM silver GROUP BY 1",
        "SELECT kind, COUNT(DISTINCT userId) FROM silver WHERE kind IN ('a', 'b') AND userId LIKE 'u%' GROUP BY kind",
    ] {
        let plan = gold(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
        let names: Vec<&str> = plan.schema().fields().iter().map(|field| field.name().as_str()).collect();
        assert_eq!(names[..2], ["window_start", "window_end"], "{sql}");
    }
    let sketch = gold("SELECT quantile_sketch(x) FROM silver").expect("compiles");
    assert!(!sketch.is_reproducible() && !sketch.may_remove_groups());
    let having = gold("SELECT count(*) FROM silver HAVING count(*) > 1").expect("compiles");
    assert!(having.is_reproducible() && having.may_remove_groups());
    let plan = gold("SELECT sum(n) AS a, sum(price) AS b, avg(price) AS c, avg(n) AS d, approx_median(price) AS e FROM silver");
    let types: Vec<DataType> = plan.expect("compiles").schema().fields().iter().map(|f| f.data_type().clone()).collect();
    let expected =
        [DataType::Int64, DataType::Decimal128(38, 2), DataType::Decimal128(38, 6), DataType::Float64, DataType::Float64];
    assert_eq!(types[2..], expected);
}

#[test]
fn a_gold_statement_that_cannot_be_split_or_merged_is_refused_with_place_and_remedy() {
    let cases = [
        ("SELECT count(*) FROM silver JOIN other ON true", "cannot have a JOIN; read from `silver` alone"),
        ("SELECT count(*) FROM silver, other", "a statement reads one table"),
        ("SELECT count(*) FROM (SELECT 1) AS t", "cannot have a subquery or a function in FROM"),
        ("SELECT count(*) FROM silver WHERE n = (SELECT max(n) FROM silver)", "cannot have a subquery; compute it in another"),
        (
            "SELECT count(*) FROM silver WHERE n IN (SELECT n FROM silver)",
            "line 1, column 35: a statement cannot have a subquery",
        ),
        ("WITH a AS (SELECT 1) SELECT count(*) FROM silver", "cannot have common table expressions (WITH)"),
        ("SELECT count(*) FROM silver UNION SELECT 1", "cannot have UNION"),
        ("SELECT sum(n) OVER (ORDER BY n) FROM silver", "line 1, column 8: a statement cannot have a window function (`sum`)"),
        ("SELECT row_number() FROM silver", "cannot have a window function (`row_number`)"),
        ("SELECT kind, count(*) FROM silver GROUP BY ROLLUP (kind)", "grouping sets are not supported; write one [[gold]] table"),
        ("SELECT kind, count(*) FROM silver GROUP BY GROUPING SETS ((kind), ())", "grouping sets are not supported"),
        ("SELECT DISTINCT kind FROM silver", "cannot have DISTINCT; remove DISTINCT; GROUP BY gives"),
        (
            "SELECT median(n) FROM silver",
            "line 1, column 8: the aggregate `median` cannot be split into states that merge to the bit; use approx_median(x)",
        ),
        (
            "SELECT array_agg(n) FROM silver",
            "the aggregate `array_agg` cannot be split into states that merge to the bit; keep the rows in Silver",
        ),
        ("SELECT corr(n, x) FROM silver", "the aggregate `corr` cannot be split"),
        ("SELECT sum(DISTINCT n) FROM silver", "sum(DISTINCT …) is not supported; only count(DISTINCT x)"),
        (
            "SELECT first_value(n ORDER BY x) FROM silver",
            "ORDER BY inside first_value is not supported; first_value and last_value go by event time",
        ),
        (
            "SELECT count(*) FROM silver WHERE event_time > now()",
            "`now` gives another value at every call, so a replay could not repeat it; use event_time",
        ),
        ("SELECT max(random()) FROM silver", "`random` gives another value at every call"),
        ("SELECT count(*) FROM silver WHERE event_time > current_timestamp", "gives another value at every call"),
        ("SELECT knd, count(*) FROM silver GROUP BY knd", "line 1, column 8: unknown column `knd`; did you mean `kind`?"),
        ("SELECT sum(properties.amuont) FROM silver", "line 1, column 23: unknown member `amuont`; did you mean `amount`?"),
        ("SELECT kind, count(*) FROM silver", "GROUP BY"),
        ("SELECT max(_processed_at) FROM silver", "`_processed_at` says when a row was processed"),
        (
            "SELECT max(processedAt) FROM silver",
            "line 1, column 12: `processedAt` says when a row was processed, which Gold must not depend on; use event_time",
        ),
        ("SELECT * FROM silver", "cannot have *; name the keys and aggregates"),
        ("SELECT count(*) FROM events", "unknown table `events`; read from `silver`"),
        ("SELECT approx_percentile_cont(x, n) FROM silver", "a constant from 0 to 1"),
        ("SELECT approx_percentile_cont(x, 95) FROM silver", "a constant from 0 to 1"),
        (
            "SELECT approx_percentile_cont(0.9) WITHIN GROUP (ORDER BY x) FROM silver",
            "WITHIN GROUP is not supported; write approx_percentile_cont(x, p)",
        ),
        ("SELECT sum(kind) FROM silver", "sum takes a number"),
        (
            "SELECT count(*) FROM silver WHERE window_start IS NOT NULL",
            "WHERE cannot use `window_start`; use event_time, or HAVING",
        ),
        ("SELECT count(*) AS window_end FROM silver", "`window_end` is the window's own column"),
        ("SELECT count(*) AS a, sum(n) AS a FROM silver", "two columns are called `a`"),
        ("SELECT max(event_time) - min(event_time) AS span FROM silver", "which cannot be stored; CAST it"),
        ("SELECT properties, count(*) FROM silver GROUP BY properties", "a group key cannot be of type"),
        (
            "SELECT uper(kind), count(*) FROM silver GROUP BY 1",
            "line 1, column 8: unknown function `uper`; did you mean `upper`?",
        ),
        (
            "SELECT count(user) FROM silver",
            "line 1, column 14: `user` is a word of SQL, not a column; write the column in double quotes: \"user\"",
        ),
        ("SELECT count(*) FROM silver; SELECT 1", "one SELECT is expected"),
        ("SELECT count(* FROM silver", "gold.t.sql line 1, column 16: not SQL: Expected: ), found: FROM"),
        ("SELECT grouping(kind) FROM silver GROUP BY kind", "the aggregate `grouping`"),
        ("SELECT count(DISTINCT properties) FROM silver", "is not supported"),
    ];
    let mut wrong = Vec::new();
    for (sql, expected) in cases {
        let text = refusal(gold(sql));
        if !text.contains(expected) || !text.starts_with("gold.t.sql") {
            wrong.push(format!("{sql}\n   {text}\n   {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_silver_statement_that_is_more_than_a_projection_and_a_filter_is_refused() {
    let cases = [
        (
            "SELECT count(*) FROM events",
            "line 1, column 8: the Silver statement cannot aggregate (`count`); aggregate in a [[gold]] table",
        ),
        ("SELECT kind FROM events GROUP BY kind", "the Silver statement cannot have GROUP BY"),
        ("SELECT DISTINCT kind FROM events", "cannot have DISTINCT; remove DISTINCT; duplicates"),
        ("SELECT kind FROM events ORDER BY kind", "the Silver statement cannot have ORDER BY"),
        ("SELECT kind FROM events LIMIT 3", "the Silver statement cannot have LIMIT"),
        ("SELECT kind FROM events e JOIN b ON true", "cannot have a JOIN"),
        ("SELECT (SELECT 1) AS a FROM events", "cannot have a subquery"),
        ("SELECT a.kind FROM (SELECT * FROM events) a", "cannot have a subquery or a function in FROM"),
        ("WITH a AS (SELECT 1) SELECT kind FROM events", "common table expressions"),
        ("SELECT kind FROM events UNION ALL SELECT kind FROM events", "cannot have UNION"),
        ("SELECT row_number() OVER () AS a FROM events", "cannot have a window function"),
        (
            "SELECT now() AS t FROM events",
            "`now` gives another value at every call, so a replay could not repeat it; use _processed_at",
        ),
        ("SELECT uuid() AS t FROM events", "`uuid` gives another value at every call"),
        ("SELECT current_date AS t FROM events", "gives another value at every call"),
        ("SELECT kind, n AS kind FROM events", "two columns are called `kind`; give one of them another name with AS"),
        ("SELECT upper(_shard) AS _shard FROM events", "`_shard` is a coordinate that every Silver row carries"),
        ("SELECT userID FROM events", "line 1, column 8: unknown column `userID`; did you mean `userId`?"),
        (
            "SELECT kind\nFROM events\nWHERE event_time > _processed_at",
            "line 3, column 20: which rows are kept must not depend on `_processed_at`",
        ),
        ("SELECT event_time - _arrival_time AS lag FROM events", "column `lag` would have the type"),
        ("SELECT NULL AS nothing FROM events", "column `nothing` would have the type Null, which cannot be stored; CAST it"),
        ("INSERT INTO events VALUES (1)", "one SELECT is expected"),
        ("SELECT kind FROM silver", "unknown table `silver`; read from `events`"),
    ];
    let mut wrong = Vec::new();
    for (sql, expected) in cases {
        let text = refusal(silver(sql));
        if !text.contains(expected) || !text.starts_with("silver.sql") {
            wrong.push(format!("{sql}\n   {text}\n   {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let bad = SilverPlan::compile("SELECT * FROM events", &[("test", "n > x > 3 AND")], &events_schema());
    assert!(bad.err().expect("refused").to_string().starts_with("silver.filter.test.where line 1, column 14: not SQL"));
    let twice = SilverPlan::compile("SELECT * FROM events", &[("a", "ok"), ("a", "ok")], &events_schema());
    assert!(twice.err().expect("refused").to_string().contains("the rule name `a` is taken"));
}

#[test]
fn silver_projects_buckets_and_carries_the_coordinates() {
    let plan = silver(
        "SELECT kind, properties.amount, json_get(_rest, 's') AS s, hour_bucket(event_time) AS hourBucket,
         _processed_at AS processedAt, _shard FROM events WHERE n < 2",
    )
    .expect("compiles");
    let out = plan.apply(&events(&[Row::plain(0), Row::plain(1), Row::plain(2)]), 42).expect("applies");
    let names: Vec<String> = out.batch.schema().fields().iter().map(|field| field.name().clone()).collect();
    assert_eq!(names[..5], ["kind", "amount", "s", "hourBucket", "processedAt"]);
    assert_eq!(names[5..], CARRIED);
    let text = lines(&out.batch.project(&[0, 1, 2, 3, 4, 7, 8]).expect("columns"));
    let expected = "view|1.0|é|2026-11-23T15:00:00Z|1970-01-01T00:00:00.000042Z|shardId-1|2";
    assert_eq!(text[1], expected);
    assert_eq!((out.kept, out.filtered), (vec![0, 1], vec![("where".into(), 1)]));
    let renamed = silver("SELECT e.kind, upper(e.kind) FROM events AS e WHERE e.ok").expect("compiles");
    let renamed = renamed.apply(&events(&[Row::plain(0)]), 0).expect("applies").batch;
    assert_eq!(renamed.schema().field(1).name(), "upper(e.kind)");
    assert_eq!(lines(&renamed.project(&[0, 1]).expect("columns")), ["view|VIEW"]);
    let all = silver("SELECT * FROM events").expect("compiles");
    assert!(all.schema().field_with_name("_processed_at").is_err(), "* leaves the wall clock out");
    assert!(silver("SELECT * EXCEPT (kind) FROM events").expect("compiles").schema().field_with_name("kind").is_err());
}

#[test]
fn a_row_belongs_to_the_first_rule_that_drops_it_and_null_drops() {
    let filters = [("bots", "userId NOT LIKE 'bot%'"), ("small", "n >= 10")];
    let plan = SilverPlan::compile("SELECT kind FROM events WHERE x > 11", &filters, &events_schema()).expect("compiles");
    let mut rows: Vec<Row> = (8..15).map(Row::plain).collect();
    rows[0].user = "bot1".to_owned();
    rows[3].n = None;
    rows[4].x = None;
    let out = plan.apply(&events(&rows), 0).expect("applies");
    let counts: Vec<(&str, u64)> = out.filtered.iter().map(|(name, count)| (name.as_ref(), *count)).collect();
    // 8 is a bot; 9 is small and 11 has no n; 10 is not above 11 and 12 has no x.
    assert_eq!(counts, [("bots", 1), ("small", 2), ("where", 2)]);
    assert_eq!(out.kept, [5, 6]);
}

#[test]
fn a_row_that_cannot_be_evaluated_costs_itself_and_the_reason_holds_no_value() {
    let filters = [("rule", "100 / n > 0")];
    let sql = "SELECT CAST(userId AS BIGINT) AS u, n * 4611686018427387904 AS big FROM events";
    let plan = SilverPlan::compile(sql, &filters, &events_schema()).expect("compiles");
    let mut rows: Vec<Row> = (1..40).map(Row::plain).collect();
    rows.iter_mut().for_each(|row| {
        row.user = row.number.to_string();
        row.n = Some(1);
    });
    rows[3].n = Some(0);
    rows[17].user = "secret".to_owned();
    rows[30].n = Some(2);
    let out = plan.apply(&events(&rows), 0).expect("applies");
    let failed: Vec<(u32, &str)> = out.failed.iter().map(|(row, why)| (*row, why.as_str())).collect();
    let expected = [
        (3, "rule `rule`: division by zero"),
        (17, "column `u`: a value cannot be cast"),
        (30, "column `big`: arithmetic overflow"),
    ];
    assert_eq!(failed, expected);
    assert_eq!(out.kept.len(), 36);
    let users = out.batch.column(0).as_primitive::<Int64Type>();
    for (at, row) in out.kept.iter().enumerate() {
        assert_eq!(users.value(at), rows[*row as usize].number as i64);
    }
}
