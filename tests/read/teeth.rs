//! The audit has teeth: a finished run is sound, and each way of damaging it is found.
//!
//! Owns: the damages (each takes only a data directory and the ports, so a real run can be damaged by them too). Does not own:
//! the making of the run (support).

#![allow(clippy::unwrap_used, reason = "a helper of a test may end the test")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::RecordBatch;
use bytes::Bytes;
use sluicebox::read::audit::pass::Audit;
use sluicebox::read::audit::recompute::Recompute;
use sluicebox::read::audit::report::{Report, Severity};
use sluicebox::read::chain::epoch_of_key;
use sluicebox::read::files::open_parquet;
use sluicebox::read::sources::{Sources, visible};
use sluicebox_actors::model::epoch::{EpochObject, Hash, OutputClass, SegmentBody, encode};
use sluicebox_actors::model::position::ShardId;
use sluicebox_actors::ports::{Engine, Rows};

use super::ports::ToyGold;
use super::support::{TABLE, TEN, World, parquet, write};

// ---------------------------------------------------------------- damages

fn first(data: &Path, under: &str) -> PathBuf {
    visible(data, under).unwrap().remove(0).path
}

pub(super) fn damage_delete_silver(sources: &Sources) {
    std::fs::remove_file(first(&sources.data, "silver")).unwrap();
}

/// Rewrites a Silver file without its first row.
pub(super) fn damage_drop_rows(sources: &Sources) {
    let path = first(&sources.data, "silver");
    let batches: Vec<RecordBatch> = open_parquet(&path).unwrap().map(Result::unwrap).collect();
    std::fs::write(&path, parquet(&batches[0].slice(1, batches[0].num_rows() - 1))).unwrap();
}

async fn object(sources: &Sources, shard: &ShardId, epoch: u64) -> (String, EpochObject) {
    let row = sources.rows.shard(shard).await.unwrap().unwrap();
    for key in sources.blobs.list(&format!("epochs/{shard}/")).await.unwrap() {
        let data = sources.blobs.get(&key).await.unwrap();
        let object = EpochObject::decode(&data).unwrap();
        let newest = row.object.as_ref().is_some_and(|newest| newest.key == key);
        if epoch_of_key(&key) == Some(epoch) && (newest || epoch < row.epoch && object.header.lease_epoch > 0) {
            return (key, object);
        }
    }
    panic!("no epoch {epoch}");
}

/// Counts one record more in an epoch object, with a checksum that fits.
pub(super) async fn damage_flip_counter(sources: &Sources, shard: &ShardId, epoch: u64) {
    let (key, object) = object(sources, shard, epoch).await;
    let bodies = object.header.segments.iter().map(|segment| SegmentBody {
        table: segment.table.clone(),
        window_us: segment.window_us,
        rows: segment.rows,
        body: object.segment(segment).unwrap(),
    });
    let bodies: Vec<SegmentBody> = bodies.collect();
    let mut header = object.header.clone();
    header.counts.silver += 1;
    let data = encode(&mut header, &bodies, &[]).unwrap();
    sources.blobs.delete(&key).await.unwrap();
    sources.blobs.put(&key, data).await.unwrap();
}

/// One bit of an epoch object.
pub(super) async fn damage_flip_bit(sources: &Sources, shard: &ShardId, epoch: u64) {
    let (key, _) = object(sources, shard, epoch).await;
    let mut data = sources.blobs.get(&key).await.unwrap().to_vec();
    let middle = data.len() / 2;
    data[middle] ^= 1;
    sources.blobs.delete(&key).await.unwrap();
    sources.blobs.put(&key, Bytes::from(data)).await.unwrap();
}

pub(super) async fn damage_delete_epoch(sources: &Sources, shard: &ShardId, epoch: u64) {
    let (key, _) = object(sources, shard, epoch).await;
    sources.blobs.delete(&key).await.unwrap();
}

pub(super) fn damage_remove_gold(sources: &Sources) {
    std::fs::remove_file(first(&sources.data, "gold")).unwrap();
}

/// Puts back what an earlier revision might have been: the object without its last row.
pub(super) fn damage_older_gold(sources: &Sources) {
    let path = first(&sources.data, "gold");
    let batches: Vec<RecordBatch> = open_parquet(&path).unwrap().map(Result::unwrap).collect();
    std::fs::write(&path, parquet(&batches[0].slice(0, batches[0].num_rows() - 1))).unwrap();
}

pub(super) fn damage_swap_windows(sources: &Sources) {
    let files = visible(&sources.data, "gold").unwrap();
    let contents = [0, 1].map(|index: usize| std::fs::read(&files[index].path).unwrap());
    std::fs::write(&files[0].path, &contents[1]).unwrap();
    std::fs::write(&files[1].path, &contents[0]).unwrap();
}

pub(super) fn damage_edit_letter(sources: &Sources) {
    let path = first(&sources.data, "dlq");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(path, text.replacen("\"reason\":\"", "\"reason\":\"un", 1)).unwrap();
}

pub(super) fn damage_duplicate_silver(sources: &Sources) {
    let path = first(&sources.data, "silver");
    std::fs::copy(&path, path.with_file_name("again.parquet")).unwrap();
}

pub(super) fn damage_cut_bronze(sources: &Sources) {
    let path = first(&sources.data, "bronze");
    let data = std::fs::read(&path).unwrap();
    std::fs::write(path, &data[..data.len() / 2]).unwrap();
}

// ---------------------------------------------------------------- tests

fn audit(world: &World) -> Audit {
    let (engine, gold) = (world.engine.clone(), Arc::new(ToyGold));
    let recompute = Recompute { engine, gold, silver: None, fingerprint: Some("f".into()) };
    Audit::new(world.sources(), world.engine.tables().to_vec(), Some(recompute))
}

fn words(report: &Report) -> String {
    let findings = report.findings.iter().filter(|finding| finding.severity == Severity::Error);
    let lines = report.lines.iter().filter(|line| line.difference != 0);
    let findings = findings.map(|f| format!("{:?} {:?} {:?}: {}\n", f.shard, f.epoch, f.window_us, f.what));
    findings.chain(lines.map(|l| format!("({}) {}: {} | {} = {}\n", l.number, l.scope, l.says, l.left, l.right))).collect()
}

fn shard() -> ShardId {
    ShardId::new("shardId-1")
}

#[tokio::test]
async fn a_finished_run_is_sound_and_every_line_of_the_ledger_is_there() {
    for bronze_on in [true, false] {
        let world = World::build_with(bronze_on).await;
        let report = audit(&world).run().await.unwrap();
        assert!(report.ok(), "{}", words(&report));
        assert_eq!(report.findings, Vec::new());
        assert_eq!((report.passes, report.shards, report.epochs, report.epochs_not_compared), (1, 2, 8, 0));
        assert_eq!((report.recomputed, report.pending.len()), (4, 0));
        let numbers: std::collections::BTreeSet<u8> = report.lines.iter().map(|line| line.number).collect();
        let all = if bronze_on { vec![1, 2, 3, 4, 5, 6, 7, 8] } else { vec![1, 3, 4, 5, 6, 7, 8] };
        assert_eq!(numbers.into_iter().collect::<Vec<_>>(), all);
        let total = |number: u8| report.lines.iter().find(|l| l.number == number && l.scope == "total").unwrap().left;
        assert_eq!([total(1), total(3), total(4), total(5), total(8)], [96, 80, 70, 10, 8]);
    }
}

/// Damages a fresh run and demands that the audit fails, naming what must be named.
async fn bites(damage: impl AsyncFnOnce(&World), says: &[&str]) {
    let world = World::build().await;
    damage(&world).await;
    let report = audit(&world).run().await.unwrap();
    assert!(!report.ok(), "not noticed: {says:?}");
    assert_eq!(report.passes, 2);
    let words = words(&report);
    for part in says {
        assert!(words.contains(part), "`{part}` is not said by:\n{words}");
    }
}

#[tokio::test]
async fn a_deleted_silver_file_is_missed_and_its_gold_no_longer_follows() {
    let damage = async |world: &World| damage_delete_silver(&world.sources());
    bites(damage, &["is missing", "rows of published silver files = silver | 70 = 80", "Silver has"]).await;
}

#[tokio::test]
async fn a_silver_file_without_some_rows_is_not_the_committed_one() {
    let damage = async |world: &World| damage_drop_rows(&world.sources());
    bites(damage, &["SHA-256 differ", "another number of rows", "silver files = silver | 79 = 80"]).await;
}

#[tokio::test]
async fn a_flipped_counter_breaks_the_chain_whether_in_the_newest_epoch_or_in_an_older_one() {
    let newest = async |world: &World| damage_flip_counter(&world.sources(), &shard(), 4).await;
    bites(newest, &["chain is broken at epoch 4", "another SHA-256", "line (1) does not hold"]).await;
    let older = async |world: &World| damage_flip_counter(&world.sources(), &shard(), 2).await;
    bites(older, &["chain is broken at epoch 2", "line (1) does not hold"]).await;
    let bit = async |world: &World| damage_flip_bit(&world.sources(), &shard(), 3).await;
    bites(bit, &["chain is broken at epoch 3", "(8) shard shardId-1"]).await;
}

#[tokio::test]
async fn a_deleted_epoch_object_leaves_a_hole() {
    let damage = async |world: &World| damage_delete_epoch(&world.sources(), &shard(), 2).await;
    bites(damage, &["chain is broken at epoch 2", "epochs that the row counts | 2 = 4", "no epoch that can be read"]).await;
}

#[tokio::test]
async fn a_removed_an_older_and_a_swapped_gold_object_are_not_the_committed_revision() {
    bites(async |world: &World| damage_remove_gold(&world.sources()), &["not revision 1"]).await;
    bites(async |world: &World| damage_older_gold(&world.sources()), &["not revision 1", "not the content of any"]).await;
    bites(async |world: &World| damage_swap_windows(&world.sources()), &["not revision 1", "not the content of any"]).await;
}

#[tokio::test]
async fn an_edited_letter_a_second_silver_file_and_a_cut_bronze_file_are_found() {
    bites(async |world: &World| damage_edit_letter(&world.sources()), &["dlq/", "SHA-256 differ"]).await;
    bites(async |world: &World| damage_duplicate_silver(&world.sources()), &["again.parquet is named by no epoch"]).await;
    bites(async |world: &World| damage_cut_bronze(&world.sources()), &["bronze/", "cannot be read", "(7)"]).await;
}

/// A run that lied from the start: hashes fit, contents don't. `edit` changes the outputs of one epoch before it is committed
/// anew.
async fn recommitted(world: &World, epoch: u64, edit: impl Fn(&Path, &mut sluicebox_actors::model::epoch::EpochHeader)) {
    let sources = world.sources();
    let (_, object) = object(&sources, &shard(), epoch).await;
    let mut header = object.header.clone();
    edit(&sources.data, &mut header);
    let bodies = object.header.segments.iter().map(|segment| SegmentBody {
        table: segment.table.clone(),
        window_us: segment.window_us,
        rows: segment.rows,
        body: object.segment(segment).unwrap(),
    });
    let data = encode(&mut header, &bodies.collect::<Vec<_>>(), &[]).unwrap();
    let mut row = sources.rows.shard(&shard()).await.unwrap().unwrap();
    let newest = row.object.as_mut().unwrap();
    (newest.key, newest.len, newest.sha256) = ("epochs/shardId-1/0000000004-2-00".into(), data.len() as u64, Hash::of(&data));
    sources.blobs.put(&newest.key.clone(), data).await.unwrap();
    world.rows.create_shard(&row).await.unwrap();
}

fn rewritten(data: &Path, header: &mut sluicebox_actors::model::epoch::EpochHeader, class: OutputClass, content: Bytes) {
    let output = header.outputs.iter_mut().find(|output| output.class == class).unwrap();
    write(data, &output.path, &content);
    (output.len, output.sha256) = (content.len() as u64, Hash::of(&content));
}

#[tokio::test]
async fn a_record_that_is_twice_in_silver_is_found_even_if_every_hash_fits() {
    let damage = async |world: &World| {
        recommitted(world, 4, |data, header| {
            let path = header.outputs.iter().rfind(|output| output.class == OutputClass::Silver).unwrap().path.clone();
            let batch = open_parquet(&data.join(&path)).unwrap().next().unwrap().unwrap();
            let twice = [batch.slice(0, 1), batch.slice(0, batch.num_rows() - 1)];
            let twice = arrow::compute::concat_batches(&batch.schema(), &twice).unwrap();
            let output = header.outputs.iter_mut().find(|output| output.path == path).unwrap();
            let content = parquet(&twice);
            write(data, &path, &content);
            (output.len, output.sha256) = (content.len() as u64, Hash::of(&content));
        })
        .await;
    };
    bites(damage, &["more than once in Silver", "Gold computed again from Silver has other bytes"]).await;
}

#[tokio::test]
async fn a_letter_with_other_bytes_or_a_wrong_verdict_is_found_even_if_every_hash_fits() {
    let edited = |from: &'static str, to: &'static str| {
        async move |world: &World| {
            recommitted(world, 4, |data, header| {
                let output = header.outputs.iter().find(|output| output.class == OutputClass::Dlq).unwrap();
                let text = std::fs::read_to_string(data.join(&output.path)).unwrap();
                assert!(text.contains(from), "{text}");
                rewritten(data, header, OutputClass::Dlq, text.replace(from, to).into());
            })
            .await;
        }
    };
    bites(edited("\"data\":\"e/8D\"", "\"data\":\"e/8E\""), &["1 letters hold other bytes than Bronze"]).await;
    bites(edited("decode", "contract"), &["by stage and reason"]).await;
    bites(edited("\"epoch\":4", "\"epoch\":3"), &["another stream, shard or epoch"]).await;
    let window = format!("\"window_start_us\":{TEN}");
    let later = format!("\"window_start_us\":{}", TEN + 2 * 3_600_000_000);
    bites(edited(window.leak(), later.leak()), &["its window still took records"]).await;
}

#[tokio::test]
async fn outputs_that_are_committed_and_not_yet_visible_are_no_error_but_lost_ones_are() {
    let world = World::build().await;
    let (_, object) = object(&world.sources(), &shard(), 4).await;
    for output in &object.header.outputs {
        let staged = world.data().join(&output.staged);
        std::fs::create_dir_all(staged.parent().unwrap()).unwrap();
        std::fs::rename(world.data().join(&output.path), staged).unwrap();
    }
    let report = audit(&world).run().await.unwrap();
    assert!(report.ok(), "{}", words(&report));
    assert_eq!((report.epochs_not_compared, report.recomputed), (1, 3));
    std::fs::remove_file(world.data().join(&object.header.outputs[0].staged)).unwrap();
    let report = audit(&world).run().await.unwrap();
    assert!(words(&report).contains("is missing"));
}

#[tokio::test]
async fn windows_that_gold_has_not_taken_in_are_pending_and_no_error() {
    let world = World::build().await;
    let last = TEN + 3 * 3_600_000_000;
    world.rows.windows.lock().unwrap().remove(&(TABLE.to_owned(), last));
    for file in ["gold/by_kind", "gold_windows/table=by_kind"] {
        std::fs::remove_dir_all(world.data().join(file).join("dt=2026-01-06/hour=01")).unwrap();
    }
    let report = audit(&world).run().await.unwrap();
    assert!(report.ok(), "{}", words(&report));
    assert_eq!(report.pending.iter().map(|pending| (pending.window_us, pending.records)).collect::<Vec<_>>(), [(last, 16)]);
}

#[tokio::test]
async fn a_vector_ahead_of_the_chain_and_counts_that_do_not_follow_from_it_are_found() {
    let change = |with: fn(&mut sluicebox_actors::model::row::WindowRow)| {
        async move |world: &World| {
            let mut row = world.rows.window(TABLE, TEN).await.unwrap().unwrap();
            with(&mut row);
            world.rows.update_window(0, &row).await.unwrap();
        }
    };
    bites(change(|row| *row.vector.get_mut(&shard()).unwrap() += 1), &["only 2 were committed"]).await;
    bites(change(|row| row.counts.late += 1), &["counts are not those", "gold_windows does not say", "Silver has"]).await;
    bites(change(|row| row.status = sluicebox_actors::model::row::WindowStatus::Revised), &["gold_windows does not say"]).await;
    let short = change(|row| {
        row.status = sluicebox_actors::model::row::WindowStatus::Sealed;
        *row.vector.get_mut(&shard()).unwrap() = 1;
    });
    bites(short, &["sealed, but 1 committed records"]).await;
}

#[tokio::test]
async fn windows_of_another_configuration_are_listed_and_not_computed_again() {
    let world = World::build().await;
    let mut audit = audit(&world);
    if let Some(recompute) = &mut audit.recompute {
        recompute.fingerprint = Some("newer".into());
    }
    let report = audit.run().await.unwrap();
    assert!(report.ok(), "{}", words(&report));
    assert_eq!((report.recomputed, report.findings.len()), (0, 4));
}

#[tokio::test]
async fn files_that_retention_removed_are_not_missed() {
    let world = World::build().await;
    std::fs::remove_dir_all(world.data().join("silver/dt=2026-01-05")).unwrap();
    let mut audit = audit(&world);
    audit.expiry.insert(OutputClass::Silver, "2026-01-06".into());
    let report = audit.run().await.unwrap();
    assert!(report.ok(), "{}", words(&report));
    assert_eq!(report.recomputed, 2);
    assert!(report.epochs_not_compared > 0);
}
