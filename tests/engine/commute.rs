//! No order, cut, partition or merge tree shows in Gold: equal rows give equal bytes, for every aggregate.

use arrow::array::RecordBatch;
use arrow::ipc::writer::StreamWriter;
use proptest::prelude::*;
use sluicebox::engine::glue::SqlEngine;
use sluicebox_actors::model::window::HOUR_US;
use sluicebox_actors::ports::Engine;

use super::common::{Row, START_US, by_window, engine, finish, partials};

pub(super) const EVERYTHING: &str = "SELECT kind, x > 0 AS positive, count(*) AS c, count(n) AS cn, count(DISTINCT userId) AS du,
    count(DISTINCT x) AS dx, count(DISTINCT price) AS dp, count(DISTINCT ok) AS dok,
    sum(n) AS sn, avg(n) AS an, sum(price) AS sp, avg(price) AS ap, sum(wide) AS sw, avg(wide) AS aw,
    sum(x) AS sx, avg(x) AS ax, stddev(x) AS sdx, stddev_pop(x) AS spx, var_samp(x) AS vsx, var_pop(x) AS vpx,
    stddev(n) AS sdn, var_pop(price) AS vp, mean(x) AS mx,
    min(n) AS min_n, max(n) AS max_n, min(x) AS min_x, max(x) AS max_x, min(price) AS min_p, max(wide) AS max_w,
    min(userId) AS min_u, max(userId) AS max_u, min(ok) AS min_ok, max(day) AS max_day, min(event_time) AS min_e,
    first_value(userId) AS fu, last_value(userId) AS lu, first_value(x) AS fx, last_value(n) IGNORE NULLS AS ln,
    last_value(properties) AS lp, bool_and(ok) AS aok, bool_or(ok) AS ook,
    approx_distinct(userId) AS hu, approx_distinct(n) AS hn, approx_distinct(x) AS hx, hll_sketch(userId) AS sketch,
    approx_percentile_cont(x, 0.95) AS p95, approx_percentile_cont(price, 0.1) AS p10, approx_median(n) AS med,
    sum(x) FILTER (WHERE ok) AS sxok, count(*) FILTER (WHERE n > 0) AS cpos,
    approx_distinct(userId) FILTER (WHERE kind = 'view') AS hview, sum(n / (n - 1)) AS risky
  FROM silver WHERE userId <> 'u3' GROUP BY kind, x > 0 HAVING count(*) > 1 ORDER BY sum(price) DESC LIMIT 5";

/// Without HAVING and LIMIT, and with hundreds of users, so that sketches grow dense.
const MANY: &str = "SELECT count(DISTINCT userId) AS d, approx_distinct(userId) AS a, hll_sketch(userId) AS s,
    approx_percentile_cont(x, 0.5) AS p, sum(x) AS sx, last_value(userId) AS l FROM silver";

fn doubles() -> impl Strategy<Value = Option<f64>> {
    prop_oneof![
        1 => Just(None),
        4 => (-1000i32..1000).prop_map(|cents| Some(f64::from(cents) / 100.0)),
        1 => any::<f64>().prop_map(Some),
        1 => prop::sample::select(vec![0.0, -0.0, f64::NAN, f64::INFINITY, 1e308, 5e-324, -1e-310]).prop_map(Some),
    ]
}

pub(super) fn row(users: u32) -> impl Strategy<Value = Row> {
    let kinds = prop::sample::select(vec![None, Some("view"), Some("buy"), Some("Ünïcode")]);
    let longs = prop_oneof![
        1 => Just(None),
        6 => (-20i64..20).prop_map(Some),
        1 => prop::sample::select(vec![i64::MAX, i64::MIN]).prop_map(Some),
    ];
    let wides = prop_oneof![1 => Just(None), 1 => (-(10i128.pow(38) - 1)..10i128.pow(38)).prop_map(Some)];
    let numbers = (longs, doubles(), prop::option::of(-1_000_000i128..1_000_000), wides);
    let times = (0i64..2 * HOUR_US, 0i64..3);
    let rest = (0..users, prop::option::of(any::<bool>()), prop::option::of(0i32..20_000));
    (kinds, numbers, times, rest).prop_map(|(kind, (n, x, price, wide), (at, delay), (user, ok, day))| Row {
        kind,
        user: format!("u{user}"),
        n,
        x,
        price,
        wide,
        ok,
        day,
        // Few distinct times, so that first and last are often decided by arrival, shard and sequence number.
        event_us: START_US + at / (HOUR_US / 4) * (HOUR_US / 4),
        arrival_us: START_US + 3 * HOUR_US + delay,
        number: 0,
    })
}

pub(super) fn numbered(mut rows: Vec<Row>) -> Vec<Row> {
    rows.iter_mut().enumerate().for_each(|(number, row)| row.number = number);
    rows
}

/// Steps of a linear congruential generator: enough to shuffle by, and the same in every run of a seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n.max(1)
    }
}

pub(super) fn ipc(batch: &RecordBatch) -> Vec<u8> {
    let mut out = Vec::new();
    let mut writer = StreamWriter::try_new(&mut out, batch.schema_ref()).expect("a writer");
    writer.write(batch).expect("writes");
    writer.finish().expect("finishes");
    drop(writer);
    out
}

/// (window, bytes of the rows, overflow) of every window, and the bytes of its merged states.
type Content = Vec<(i64, Vec<u8>, bool, Vec<u8>)>;

fn whole(engine: &SqlEngine, rows: &[Row]) -> Content {
    let windows = by_window(partials(engine, rows, usize::MAX, 1));
    content(engine, windows.into_iter())
}

fn content(engine: &SqlEngine, windows: impl Iterator<Item = (i64, Vec<RecordBatch>)>) -> Content {
    windows
        .map(|(window, parts)| {
            let merged = engine.merge(0, &parts).expect("merges");
            let finished = finish(engine, window, &parts);
            (window, ipc(&finished.rows), finished.overflow, ipc(&merged))
        })
        .collect()
}

/// Shuffled, spread over partitions, cut anywhere, merged in a random tree.
fn torn(engine: &SqlEngine, rows: &[Row], dice: &mut Dice) -> Content {
    let mut rows = rows.to_vec();
    for at in (1..rows.len()).rev() {
        rows.swap(at, dice.below(at + 1));
    }
    let partitions = 1 + dice.below(4);
    let mut parts = vec![Vec::new(); partitions];
    for row in rows {
        parts[dice.below(partitions)].push(row);
    }
    let mut all = Vec::new();
    for part in parts {
        all.extend(partials(engine, &part, 1 + dice.below(7), 1 + dice.below(4)));
    }
    let mut windows = by_window(all);
    for parts in windows.values_mut() {
        while parts.len() > 1 {
            let take = 2 + dice.below(2).min(parts.len() - 2);
            let some: Vec<RecordBatch> = (0..take).map(|_| parts.swap_remove(dice.below(parts.len()))).collect();
            parts.push(engine.merge(0, &some).expect("merges"));
        }
    }
    content(engine, windows.into_iter())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn equal_rows_give_equal_bytes_however_they_are_shuffled_cut_and_merged(
        rows in prop::collection::vec(row(12), 1..60),
        seed: u64,
    ) {
        let engine = engine(EVERYTHING);
        let rows = numbered(rows);
        let (one, other) = (whole(&engine, &rows), torn(&engine, &rows, &mut Dice(seed)));
        prop_assert!(one == other);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4))]

    #[test]
    fn sketches_that_grow_dense_still_commute_to_the_bit(seed: u64) {
        let engine = engine(MANY);
        let mut dice = Dice(seed);
        let rows = (0..4_000).map(|number| {
            let mut row = Row::plain(number);
            row.user = format!("u{}", dice.below(3_000));
            row.x = Some(dice.below(1_000_000) as f64 / 7.0);
            row
        });
        let rows: Vec<Row> = rows.collect();
        let (one, other) = (whole(&engine, &rows), torn(&engine, &rows, &mut dice));
        prop_assert!(one == other);
    }
}
