//! Two workers, two shards, a split, three hours, a few epochs: every operation of both goes wrong in every way, once.

use sluicebox_sim::plan::Op;
use sluicebox_sim::sim::Tools;
use sluicebox_sim::sweep::{ACTS, FREEZES_AT, both, ended_well, survives, world};

use crate::threads::for_each_below;

#[test]
fn every_operation_of_two_workers_goes_wrong_in_every_way_and_nothing_is_lost_or_doubled() {
    let tools = Tools::default();
    let sim = world(&tools);
    let (one, two) = both(&sim, None, None);
    ended_well("first", &one, None).unwrap();
    ended_well("second", &two, None).unwrap();
    let wrong = sim.wrong(&[]);
    assert!(wrong.is_empty(), "{wrong:#?}");
    let store = sim.store();
    let epochs: Vec<usize> = store.commits.values().map(Vec::len).collect();
    assert!(epochs.len() == 4 && epochs.iter().sum::<usize>() >= 8, "two shards and their two children: {epochs:?}");
    assert!(store.gold.keys().filter(|(table, _)| table == "hourly").count() == 3, "three hours");
    assert!(store.marks.contains_key("takeover beside a process that lives"), "{:?}", store.marks);
    assert!(one.operations > FREEZES_AT + 20 && two.operations > 150, "{} and {}", one.operations, two.operations);
    assert!(one.counts[&Op::RowUpdate] >= 2 && two.counts[&Op::RowUpdate] >= 4, "both commit");
    drop(store);
    let acts = ACTS.len() as u64;
    for_each_below(one.operations * acts, |n| survives(&tools, Some((n / acts, ACTS[(n % acts) as usize])), None));
    for_each_below(two.operations * acts, |n| survives(&tools, None, Some((n / acts, ACTS[(n % acts) as usize]))));
}

#[test]
fn the_same_holds_where_workers_share_no_disk() {
    let tools = Tools::apart();
    let sim = world(&tools);
    let (one, two) = both(&sim, None, None);
    ended_well("first", &one, None).unwrap();
    ended_well("second", &two, None).unwrap();
    assert!(one.counts[&Op::Hold] >= 2 && two.counts[&Op::Hold] >= 4, "both hold files where the other finds them");
    for held in ["a file is held in its epoch object", "a file is held as an upload"] {
        assert!(sim.store().marks.contains_key(held), "{held}: {:?}", sim.store().marks);
    }
    let acts = ACTS.len() as u64;
    // Every other operation, each kind of fault: the whole sweep runs above.
    let fault = |n: u64| Some((2 * (n / acts) + n % 2, ACTS[(n % acts) as usize]));
    for_each_below(one.operations / 2 * acts, |n| survives(&tools, fault(n), None));
    for_each_below(two.operations / 2 * acts, |n| survives(&tools, None, fault(n)));
}
