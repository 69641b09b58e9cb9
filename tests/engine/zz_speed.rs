use super::common::*;
use sluicebox_actors::ports::Engine;
#[test]
fn speed() {
    let rows: Vec<Row> = (0..8192)
        .map(|i| {
            let mut r = Row::plain(i);
            r.kind = Some(["a", "b", "c", "d", "e", "f", "g", "h", "i"][i % 9]);
            r.user = format!("{:036}", (i as u64).wrapping_mul(0x9E3779B97F4A7C15));
            r.x = Some((i * 7919 % 100000) as f64 / 100.0);
            r
        })
        .collect();
    for sql in [
        "SELECT kind, count(*) AS c FROM silver GROUP BY kind",
        "SELECT kind, count(*) AS c, sum(n) AS s, min(n) AS a, max(n) AS b FROM silver GROUP BY kind",
        "SELECT kind, count(*) AS c, sum(price) AS s FROM silver GROUP BY kind",
        "SELECT kind, sum(x) AS s FROM silver GROUP BY kind",
        "SELECT kind, approx_distinct(userId) AS s FROM silver GROUP BY kind",
        "SELECT kind, approx_percentile_cont(x, 0.95) AS s FROM silver GROUP BY kind",
        "SELECT kind, last_value(x) AS s FROM silver GROUP BY kind",
        "SELECT kind, count(DISTINCT userId) AS s FROM silver GROUP BY kind",
        "SELECT kind, count(*) AS events, approx_distinct(userId) AS unique_users, sum(price) AS revenue, approx_percentile_cont(price, 0.95) AS p95_amount FROM silver GROUP BY kind",
    ] {
        let e = engine(sql);
        let silver = e.silver_plan().apply(&events(&rows), 0).unwrap().batch;
        let mut p = e.partition().unwrap();
        let ix: Vec<u32> = (0..8192).collect();
        let w = vec![START_US; 8192];
        let t = std::time::Instant::now();
        for _ in 0..200 {
            p.accumulate(0, &silver, &ix, &w).unwrap();
        }
        let d = t.elapsed().as_secs_f64();
        println!("{:6.1} M rows/s  {}", 200.0 * 8192.0 / d / 1e6, sql);
        p.cut().unwrap();
    }
    let plan = sluicebox::engine::sql::silver::SilverPlan::compile(
        "SELECT kind, userId, n, x, hour_bucket(event_time) AS h, _processed_at AS p FROM events WHERE n >= 0",
        &[],
        &events_schema(),
    )
    .unwrap();
    let ev = events(&rows);
    let t = std::time::Instant::now();
    for _ in 0..200 {
        plan.apply(&ev, 1).unwrap();
    }
    println!("{:6.1} M rows/s silver", 200.0 * 8192.0 / t.elapsed().as_secs_f64() / 1e6);
}
