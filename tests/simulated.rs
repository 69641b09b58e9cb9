//! Goal: the SQL engine in the simulated world: what is proved with a small engine holds with the one that people use.

use std::sync::Arc;

use files::Directory;
use serde_json::json;
use sluicebox::engine::contract::{Contract, EventOptions};
use sluicebox::engine::event_time::{TimeFormat, TimeSource};
use sluicebox::engine::glue::SqlEngine;
use sluicebox::engine::sql::gold::GoldPlan;
use sluicebox::engine::sql::silver::SilverPlan;
use sluicebox_actors::model::window::Windowing;
use sluicebox_actors::ports::Engine;
use sluicebox_sim::plan::Rng;
use sluicebox_sim::sim::{Sim, Tools};
use sluicebox_sim::swarm::Arena;
use sluicebox_sim::sweep::{ACTS, both, survives, world};
use sluicebox_sim::truth::{Dialect, TABLES, Truth};

mod files;

const SCHEMA: &str = r#"{"type": "object", "required": ["key", "at", "value"], "additionalProperties": false,
    "properties": {"key": {"type": "string"}, "at": {"type": "integer"}, "value": {"type": "integer"}}}"#;

fn gold(condition: &str, having: Option<u64>) -> String {
    let columns = "key, count(*) AS n, sum(value) AS sum, min(value) AS least, max(value) AS most";
    let having = having.map(|most| format!("HAVING count(*) <= {most}")).unwrap_or_default();
    format!("SELECT {columns} FROM silver {condition} GROUP BY key {having}")
}

fn engine(having: Option<u64>) -> SqlEngine {
    let time = TimeSource::Path(vec!["at".to_owned()]);
    let options = EventOptions { time, time_format: TimeFormat::EpochUs, default_offset_s: 0, max_future_us: 600_000_000 };
    let contract = Contract::compile(SCHEMA, &options).unwrap();
    let filters = [("negative", "value >= 0")];
    let silver = SilverPlan::compile("SELECT key, value FROM events", &filters, &contract.schema()).unwrap();
    let statements = [gold("", having), gold("WHERE value % 3 <> 0", having)];
    let plans = TABLES.iter().zip(&statements).map(|((name, size_us, lateness_us), sql)| {
        let windowing = Windowing { size_us: *size_us, lateness_us: *lateness_us };
        GoldPlan::compile(name, sql, silver.schema(), windowing).unwrap()
    });
    let plans = plans.collect();
    SqlEngine::new(Arc::new(move || Box::new(contract.decoder())), silver, plans)
}

fn json_lines(truth: &Truth) -> (String, String) {
    let event = |key: &str, at: i64, value: i64| (key.to_owned(), json!({"key": key, "at": at, "value": value}).to_string());
    match truth {
        // No bytes panic this engine; what does is proved where it decodes.
        Truth::Bad | Truth::Boom => ("bad".to_owned(), "{\"key\": ".to_owned()),
        Truth::Filtered { event_us } => event("few", *event_us, -1),
        Truth::Event { key, event_us, value } => event(key, *event_us, *value),
    }
}

fn tools() -> Tools {
    let engines = [None, Some(1), Some(2), Some(3)].map(|having| Arc::new(engine(having)));
    let engine = move |having: Option<u64>| -> Arc<dyn Engine> { engines[having.unwrap_or(0) as usize].clone() };
    let dialect = Dialect { render: json_lines, bad: "decode invalid_json" };
    Tools { engine: Arc::new(engine), dialect, ..Tools::default() }
}

#[test]
fn fifty_random_worlds_with_random_faults_lose_and_double_nothing_with_the_sql_engine() {
    let arena = Arena { tools: tools(), ..Arena::default() };
    for seed in 0..50 {
        if let Err(failure) = arena.survive(seed) {
            panic!("{failure}");
        }
    }
}

/// The same over real files; each world has a directory of its own.
fn tools_over(directory: &Arc<Directory>) -> Tools {
    let directory = directory.clone();
    Tools { outputs: Arc::new(move |process| directory.files(process)), ..tools() }
}

#[test]
fn fifty_random_worlds_with_random_faults_lose_and_double_nothing_with_the_sql_engine_and_real_files() {
    for seed in 100..150 {
        let directory = Directory::new();
        let arena = Arena { tools: tools_over(&directory), ..Arena::default() };
        if let Err(failure) = arena.survive(seed) {
            panic!("{failure}");
        }
        assert_eq!(directory.staged(), Default::default(), "seed {seed}: left over on the disk");
    }
}

#[test]
fn both_engines_give_the_same_gold() {
    let drained = |tools: Tools| {
        let sim = Sim::with(tools, 91, 3);
        let mut rng = Rng(91);
        (0..3).for_each(|shard| sim.fill(shard, 200, &mut rng));
        sim.drain();
        sim.assert_complete();
        sim.gold()
    };
    let (small, sql) = (drained(Tools::default()), drained(tools()));
    assert!(small.len() > 10, "{} windows", small.len());
    assert_eq!(small, sql);
}

/// Every so many operations of the sweep: all of them are swept with the small engine.
const STRIDE: usize = 17;

#[test]
fn operations_of_two_workers_go_wrong_and_nothing_is_lost_or_doubled_with_the_sql_engine() {
    let tools = tools();
    let sim = world(&tools);
    let (one, two) = both(&sim, None, None);
    assert_eq!(sim.wrong(&[]), Vec::<String>::new());
    let cases = |operations: u64| (0..operations).flat_map(|index| ACTS.map(|act| (index, act))).step_by(STRIDE);
    for first in cases(one.operations) {
        survives(&tools, Some(first), None).unwrap();
    }
    for second in cases(two.operations) {
        survives(&tools, None, Some(second)).unwrap();
    }
    // Fewer over real files, whose every rename and sync is one.
    for (first, second) in cases(one.operations).zip(cases(two.operations)).step_by(4) {
        survives(&tools_over(&Directory::new()), Some(first), None).unwrap();
        survives(&tools_over(&Directory::new()), None, Some(second)).unwrap();
    }
}
