//! The numbers themselves, against plain computations.

use arrow::array::AsArray;
use arrow::datatypes::{Float64Type, Int64Type};
use sluicebox::engine::sql::silver::SilverPlan;

use super::common::{Row, START_US, events, events_schema, gold, lines, table};

fn rows() -> Vec<Row> {
    (0..1_000)
        .map(|number| {
            let mut row = Row::plain(number);
            row.kind = [Some("view"), Some("buy"), None][number % 3];
            row.user = format!("u{}", number * number % 97);
            row.n = (!number.is_multiple_of(7)).then_some((number as i64 * 37) % 101 - 50);
            row.x = (!number.is_multiple_of(5)).then_some((number as f64 * 1.7) % 13.0 - 4.0);
            row.price = Some((number as i128 * 31) % 1_999);
            row.wide = Some(number as i128);
            row.ok = [Some(true), Some(false), None][number % 3];
            row.event_us = START_US + (number as i64 * 7_919) % 3_000_000;
            row
        })
        .collect()
}

#[test]
fn counts_sums_and_means_are_the_exact_ones() {
    let rows = rows();
    let sql = "SELECT count(*) AS c, count(n) AS cn, count(DISTINCT userId) AS d, sum(n) AS s, avg(n) AS a, sum(price) AS p,
               avg(price) AS ap, min(n) AS mi, max(userId) AS ma FROM silver";
    let ns: Vec<i64> = rows.iter().filter_map(|row| row.n).collect();
    let users: std::collections::BTreeSet<&str> = rows.iter().map(|row| row.user.as_str()).collect();
    let cents: i128 = rows.iter().filter_map(|row| row.price).sum();
    // 1,000 prices: the mean in units of 10^-6 is cents × 10^4 / 1000.
    let (sum, mean) = (ns.iter().sum::<i64>(), cents * 10);
    let expected = format!(
        "1000|{}|{}|{sum}|{}|{}.{:02}|{}.{:06}|{}|{}",
        ns.len(),
        users.len(),
        sum as f64 / ns.len() as f64,
        cents / 100,
        cents % 100,
        mean / 1_000_000,
        mean % 1_000_000,
        ns.iter().min().expect("some"),
        users.last().expect("some"),
    );
    assert_eq!(table(sql, &rows), [expected]);
}

#[test]
fn functions_that_only_an_optimizer_would_replace_are_computed_in_every_place() {
    let rows = rows();
    let sql = "SELECT coalesce(kind, 'none') AS k, sum(nvl(n, 7)) AS s, count(*) FILTER (WHERE ifnull(ok, true)) AS f,
               max(nvl2(x, 1, 2)) AS m FROM silver WHERE coalesce(n, 0) < 50 GROUP BY coalesce(kind, 'none')
               HAVING coalesce(sum(n), 0) <> 0.5";
    let mut expected = Vec::new();
    for (kind, name) in [(Some("buy"), "buy"), (None, "none"), (Some("view"), "view")] {
        let group = || rows.iter().filter(move |row| row.kind == kind && row.n.unwrap_or(0) < 50);
        let sum: i64 = group().map(|row| row.n.unwrap_or(7)).sum();
        let ok = group().filter(|row| row.ok.unwrap_or(true)).count();
        let most = group().map(|row| if row.x.is_some() { 1 } else { 2 }).max().expect("some");
        // nvl2 takes the common type of all three.
        expected.push(format!("{name}|{sum}|{ok}|{most}.0"));
    }
    assert_eq!(table(sql, &rows), expected);
    let sql = "SELECT coalesce(kind, userId) AS a, arrow_cast(n, 'Utf8') AS b FROM events WHERE nvl(n, 0) >= 0";
    let silver = SilverPlan::compile(sql, &[], &events_schema()).expect("compiles");
    let out = silver.apply(&events(&rows), 0).expect("applies");
    assert_eq!(out.failed, []);
    let kept: Vec<&Row> = rows.iter().filter(|row| row.n.unwrap_or(0) >= 0).collect();
    let names = out.batch.column(0).as_string::<i32>();
    assert!(kept.iter().zip(names).all(|(row, name)| name == Some(row.kind.unwrap_or(&row.user))));
    assert_eq!(kept.len(), out.batch.num_rows());
}

#[test]
fn statistics_of_doubles_agree_with_a_two_pass_computation() {
    let rows = rows();
    let sql = "SELECT sum(x) AS s, avg(x) AS a, var_samp(x) AS v, stddev_pop(x) AS d, approx_percentile_cont(x, 0.9) AS p,
               approx_median(x) AS m FROM silver";
    let mut xs: Vec<f64> = rows.iter().filter_map(|row| row.x).collect();
    let n = xs.len() as f64;
    let mean = xs.iter().sum::<f64>() / n;
    let squares: f64 = xs.iter().map(|x| (x - mean).powi(2)).sum();
    xs.sort_by(f64::total_cmp);
    let rank = |p: f64| xs[(p * (n - 1.0)) as usize];
    let expected = [mean * n, mean, squares / (n - 1.0), (squares / n).sqrt(), rank(0.9), rank(0.5)];
    let found = &gold(sql, &rows)[0].rows;
    for (at, expected) in expected.iter().enumerate() {
        let found = found.column(at + 2).as_primitive::<Float64Type>().value(0);
        let tolerance = if at < 4 { 1e-12 } else { 0.01 };
        assert!((found - expected).abs() <= expected.abs() * tolerance, "{at}: {found} {expected}");
    }
}

#[test]
fn first_and_last_go_by_event_time_then_arrival_then_shard_then_sequence_number_as_a_number() {
    let mut rows: Vec<Row> = (0..40).map(Row::plain).collect();
    for row in &mut rows {
        row.event_us = START_US;
        row.arrival_us = START_US;
    }
    // All times equal: shard 0 holds numbers 0, 3, …; shard 2 ends with 38. "10" < "9" as text, not as a number.
    let sql = "SELECT first_value(userId) AS f, last_value(userId) AS l FROM silver";
    assert_eq!(table(sql, &rows), ["u0|u38"]);
    rows[7].event_us = START_US + 1;
    rows[20].arrival_us = START_US - 1;
    assert_eq!(table(sql, &rows), ["u20|u7"]);
    rows[7].n = None;
    let nulls = "SELECT last_value(n) AS l, last_value(n) IGNORE NULLS AS i FROM silver";
    assert_eq!(table(nulls, &rows), ["NULL|38"]);
}

#[test]
fn groups_come_in_the_order_of_their_keys_with_null_first_and_filters_apply() {
    let sql = "SELECT kind, count(*) AS c, count(*) FILTER (WHERE ok) AS t, bool_and(ok) AS a, bool_or(ok) AS o
               FROM silver GROUP BY kind";
    assert_eq!(table(sql, &rows()), ["NULL|333|0|NULL|NULL", "buy|333|0|false|false", "view|334|334|true|true"]);
}

#[test]
fn having_order_and_limit_work_on_finished_groups_and_ties_follow_the_keys() {
    let sql = "SELECT userId, count(*) AS c FROM silver GROUP BY userId HAVING count(*) < 30 ORDER BY c DESC LIMIT 2 OFFSET 1";
    assert_eq!(table(sql, &rows()).len(), 2);
    let ties: Vec<Row> = [3, 1, 2, 0].into_iter().map(Row::plain).collect();
    let sql = "SELECT userId FROM silver GROUP BY userId ORDER BY count(*) LIMIT 3";
    assert_eq!(table(sql, &ties), ["u0", "u1", "u2"]);
    let ordinals = "SELECT userId, sum(n) AS s FROM silver GROUP BY 1 ORDER BY 2 DESC LIMIT 1";
    assert_eq!(table(ordinals, &ties), ["u3|3"]);
}

#[test]
fn an_integer_sum_out_of_range_is_null_and_the_window_says_overflow() {
    let mut rows: Vec<Row> = (0..3).map(Row::plain).collect();
    rows[0].n = Some(i64::MAX);
    rows[1].n = Some(1);
    rows[2].n = Some(0);
    let windows = gold("SELECT sum(n) AS s, count(*) AS c FROM silver", &rows);
    assert!(windows[0].overflow);
    assert_eq!(lines(&windows[0].rows), ["2026-11-23T15:00:00Z|2026-11-23T16:00:00Z|NULL|3"]);
    rows[1].n = Some(-1);
    assert!(!gold("SELECT sum(n) AS s FROM silver", &rows)[0].overflow);
}

#[test]
fn a_gold_expression_that_fails_on_a_row_is_null_there_and_nowhere_else() {
    let mut rows: Vec<Row> = (0..4).map(Row::plain).collect();
    rows.iter_mut().for_each(|row| row.n = Some(2));
    rows[2].n = Some(0);
    assert_eq!(table("SELECT sum(10 / n) AS s, count(*) AS c FROM silver", &rows), ["15|4"]);
    assert_eq!(table("SELECT count(*) AS c FROM silver WHERE 10 / n > 1", &rows), ["3"]);
    assert_eq!(table("SELECT 1 / min(n) AS bad, count(*) AS c FROM silver", &rows), ["NULL|4"]);
}

#[test]
fn windows_lead_the_output_and_one_without_keys_has_one_row() {
    let mut rows: Vec<Row> = (0..2).map(Row::plain).collect();
    rows[1].event_us += 3_600_000_000;
    let windows = gold("SELECT count(*) AS c, max(window_start) = min(window_end) AS w FROM silver", &rows);
    let texts: Vec<String> = windows.iter().flat_map(|window| lines(&window.rows)).collect();
    assert_eq!(texts, ["2026-11-23T15:00:00Z|2026-11-23T16:00:00Z|1|false", "2026-11-23T16:00:00Z|2026-11-23T17:00:00Z|1|false"]);
}

#[test]
fn approximate_distinct_counts_are_within_three_percent() {
    let rows: Vec<Row> = (0..30_000).map(Row::plain).collect();
    let rows = &gold("SELECT approx_distinct(userId) AS a, approx_distinct(n) AS b FROM silver", &rows)[0].rows;
    for at in [2, 3] {
        let estimate = rows.column(at).as_primitive::<Int64Type>().value(0) as f64;
        assert!((estimate / 30_000.0 - 1.0).abs() < 0.03, "{estimate}");
    }
}
