//! The machine of Gold by itself: what it refuses to emit.

use sluicebox_actors::machines::gold::{GoldConfig, GoldMachine, GoldWork};
use sluicebox_actors::model::epoch::{EpochHeader, Hash, ObjectRef, Segment, WindowCounts};
use sluicebox_actors::model::fault::{Fault, Kind};
use sluicebox_actors::model::position::ShardId;
use sluicebox_actors::model::row::{ShardRow, ShardState, WindowRow, WindowStatus};
use sluicebox_actors::model::window::Bound;
use sluicebox_sim::engine::tables;
use sluicebox_sim::headers::header;
use sluicebox_sim::truth::{MINUTE, T0};

/// After the hour of [`T0`] and before it is sealed.
const CLOSED: Bound = Bound(T0 + 61 * MINUTE);

fn shard() -> ShardId {
    ShardId::new("s")
}

/// Gold that knows one shard, which has come so far.
fn gold(bound: Bound) -> GoldMachine {
    let mut machine = GoldMachine::new(GoldConfig { collect_after: 256, max_wait_us: Vec::new() }, tables());
    shard_is_at(&mut machine, 0, bound);
    machine
}

fn shard_is_at(machine: &mut GoldMachine, epoch: u64, bound: Bound) {
    let row = ShardRow::new("events", shard(), (0, u128::MAX), ShardState::Open);
    machine.know_shard(ShardRow { epoch, bound, ..row });
}

/// An epoch with this partial of the hour of [`T0`], the so many-eth of its shard.
fn epoch(machine: &mut GoldMachine, epoch: u64, ordinal: u64, too_late: u64) {
    let (table, window_us) = ("hourly".to_owned(), T0);
    let header = EpochHeader {
        bound_committed: CLOSED,
        processed_at_us: T0,
        segments: vec![Segment { table: table.clone(), window_us, ordinal, rows: 1, offset: 0, len: 1 }],
        windows: vec![WindowCounts { table, window_us, on_time: 1, late: 0, too_late }],
        ..header(&shard(), epoch)
    };
    let object = ObjectRef { key: format!("epochs/s/{epoch}"), len: 1, sha256: Hash::of(&epoch.to_le_bytes()) };
    machine.know_epoch(&header, object).unwrap();
}

fn emitted(machine: &mut GoldMachine) -> WindowRow {
    match machine.next_work().unwrap() {
        Some(GoldWork::Emit { row, .. }) => *row,
        other => panic!("{other:?}"),
    }
}

/// As readers see it once it is emitted.
fn shown(row: WindowRow) -> WindowRow {
    WindowRow { published: row.revision, ..row }
}

fn refused(machine: &mut GoldMachine) -> Fault {
    machine.next_work().expect_err("nothing to emit here is right")
}

#[test]
fn partials_with_one_missing_among_them_are_damage_and_not_gold() {
    let mut machine = gold(CLOSED);
    epoch(&mut machine, 1, 1, 0);
    epoch(&mut machine, 2, 3, 0);
    let fault = refused(&mut machine);
    assert!(fault.kind() == Kind::Corrupt && fault.message().contains("one is missing"), "{fault}");
}

#[test]
fn a_window_whose_partials_are_gone_is_damage_and_keeps_its_last_revision() {
    let mut before = gold(CLOSED);
    epoch(&mut before, 1, 1, 0);
    epoch(&mut before, 2, 2, 0);
    let row = shown(emitted(&mut before));
    let mut machine = gold(CLOSED);
    machine.know_window(row);
    epoch(&mut machine, 1, 1, 0);
    let fault = refused(&mut machine);
    assert!(fault.kind() == Kind::Corrupt && fault.message().contains("are gone"), "{fault}");
}

#[test]
fn a_partial_for_a_sealed_window_is_a_bug_and_no_revision() {
    let sealed = Bound(T0 + 180 * MINUTE);
    let mut machine = gold(sealed);
    epoch(&mut machine, 1, 1, 0);
    let row = shown(emitted(&mut machine));
    assert_eq!((row.status, row.revision), (WindowStatus::Sealed, 1));
    machine.row_stands(row);
    assert!(machine.next_work().unwrap().is_none(), "it stands");
    epoch(&mut machine, 2, 2, 0);
    let fault = refused(&mut machine);
    assert!(fault.kind() == Kind::Bug && fault.message().contains("sealed"), "{fault}");
}

#[test]
fn late_records_make_a_revision_of_a_closed_window_also_where_the_shards_look_older_than_its_row() {
    let mut machine = gold(CLOSED);
    epoch(&mut machine, 1, 1, 0);
    let row = shown(emitted(&mut machine));
    assert_eq!((row.status, row.revision, row.version), (WindowStatus::Closed, 1, 1));
    // Another Gold, which does not know yet how far the shard has come.
    let mut machine = gold(Bound::UNKNOWN);
    machine.know_window(row);
    epoch(&mut machine, 1, 1, 0);
    assert!(machine.next_work().unwrap().is_none(), "equal Gold is not emitted again");
    epoch(&mut machine, 2, 2, 4);
    let row = emitted(&mut machine);
    assert_eq!((row.status, row.revision, row.version), (WindowStatus::Revised, 2, 2));
    assert_eq!((row.counts.on_time, row.counts.too_late), (2, 4));
}
