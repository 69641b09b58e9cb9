//! Random worlds with random faults. A seed that failed once stays here by its number.

use crate::world::plan::{Plan, Rng, Swarm};
use crate::world::sim::{End, Sim};

/// Everything about a world follows from its seed.
fn world(seed: u64) -> Sim {
    let mut rng = Rng(seed);
    let shards = 1 + rng.below(4) as usize;
    let mut sim = Sim::new(seed, shards);
    for shard in 0..shards {
        let records = rng.below(60);
        sim.fill(shard, records, &mut rng);
    }
    if rng.below(3) == 0 {
        sim.add_shard(shards, &[0]);
        sim.add_shard(shards + 1, &[0]);
        let records = rng.below(20);
        sim.fill(shards, records, &mut rng);
        if shards > 1 && rng.below(2) == 0 {
            sim.add_shard(shards + 2, &[1, shards]);
            let records = rng.below(20);
            sim.fill(shards + 2, records, &mut rng);
        }
    }
    sim.config.parallelism = 1 + rng.below(3) as usize;
    sim.config.shard.commit_size = 100 + rng.below(2_000);
    sim.config.fetch.records = 1 + rng.below(12) as usize;
    sim.config.in_flight = (64 << 10) << rng.below(5);
    sim.config.fetch.bytes = (64 << 10) << rng.below(3);
    sim.config.gold.collect_after = 1 + rng.below(8) as usize;
    sim
}

/// Chaos, process after process, then one in peace.
fn survive(seed: u64) -> Vec<String> {
    let sim = world(seed);
    let mut rng = Rng(seed ^ 0xabcd);
    let mut trace = Vec::new();
    for process in 0..6 {
        let swarm = Swarm { until: 200 + rng.below(400), ..Swarm::draw(&mut rng) };
        let latency_ms = 1 + rng.below(60);
        let ran = sim.run(Plan { seed: rng.next(), swarm: Some(swarm.clone()), latency_ms, ..Plan::default() });
        trace.extend(ran.trace);
        match ran.end {
            End::Crashed => {}
            End::Ended(outcome) => assert!(outcome.is_good(), "seed {seed}, process {process}, {swarm:?}: {outcome:?}"),
            End::Refused(_) | End::Hung => {
                panic!("seed {seed}, process {process}, {swarm:?}: {:?} after {:?}", ran.end, ran.took)
            }
        }
    }
    let last = sim.run(Plan { seed: 78, ..Plan::default() });
    assert!(matches!(&last.end, End::Ended(outcome) if outcome.is_good()), "seed {seed}, in peace: {:?}", last.end);
    trace.extend(last.trace);
    sim.assert_complete();
    trace
}

#[test]
fn hundreds_of_random_worlds_with_random_faults_lose_and_double_nothing() {
    for seed in 0..300 {
        survive(seed);
    }
}

#[test]
fn the_same_seed_gives_the_same_trace_to_the_last_operation() {
    for seed in [3, 17, 101, 202] {
        let (first, second) = (survive(seed), survive(seed));
        let differs = first.iter().zip(&second).position(|(a, b)| a != b);
        assert_eq!(differs, None, "seed {seed}");
        assert_eq!(first.len(), second.len(), "seed {seed}");
        assert!(first.len() > 300, "seed {seed}: {}", first.len());
    }
}
