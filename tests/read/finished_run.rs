//! The audit has teeth on a finished run of the real program: each damage is found, and its shard, epoch or window is named.
//!
//! Owns: the run (made once), a copy of it per damage. Does not own: the damages that need only a directory (teeth).

#![allow(clippy::unwrap_used, reason = "a helper of a test may end the test")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;
use sluicebox::clock::SystemClock;
use sluicebox::read::sources::{Sources, visible};
use sluicebox::topology::Stores;
use sluicebox_actors::model::position::ShardId;
use tempfile::TempDir;

use super::support::parquet;
use super::teeth;
use crate::support::drive::{folder, root};
use crate::support::process::{Ran, program};

/// Epochs of a quarter of a megabyte, so that forty thousand events make a dozen of them.
const SMALL: [&str; 4] = ["--set", "commit.size=256KiB", "--set", "limits.fetch=64KiB"];
/// One more event of the demo's last hour, for a second revision of its window.
const LATE: &str = concat!(
    r#"{"eventType":"page_view","userId":"6f1c1f9e-3f0e-4b8e-9d0a-0c8a3f4b5d6e","timestamp":"2026-01-05T13:30:00Z","#,
    r#""properties":{},"sessionId":"s"}"#
);

/// A finished run, with what one Gold object was before its last revision.
struct Finished {
    folder: TempDir,
    older: (PathBuf, Vec<u8>),
}

impl Finished {
    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }
}

fn sluicebox(at: &Path, arguments: &[&str]) -> Ran {
    let mut command = program(at);
    command.env("SLUICEBOX_LOG", "warn").arg("--config").arg(root().join("config/local.toml"));
    Ran::of({
        command.args(["--data", "data"]).args(SMALL).args(arguments);
        command
    })
}

fn gold(data: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let relative = |path: &Path| path.strip_prefix(data).unwrap().to_owned();
    visible(data, "gold").unwrap().iter().map(|file| (relative(&file.path), std::fs::read(&file.path).unwrap())).collect()
}

/// Made once for all tests of this file: a demo, then a late event and a second drain.
fn finished() -> &'static Finished {
    static RUN: OnceLock<Finished> = OnceLock::new();
    RUN.get_or_init(|| {
        let folder = folder();
        let at = folder.path();
        sluicebox(at, &["demo", "--events", "40000", "--into", "data"]).expect(0, "the demo");
        let before = gold(&at.join("data"));
        std::fs::write(at.join("late.ndjson"), LATE).unwrap();
        sluicebox(at, &["put", "--arrival", "event", "late.ndjson"]).expect(0, "the late event");
        sluicebox(at, &["run", "--drain"]).expect(0, "the second drain");
        sluicebox(at, &["audit"]).expect(0, "the audit of the whole run");
        let after = gold(&at.join("data"));
        let older = before.into_iter().find(|(path, content)| after.get(path).is_some_and(|newer| newer != content));
        Finished { older: older.expect("a window with a second revision"), folder }
    })
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// What the audit of a damaged copy must name in at least one finding.
#[derive(Debug)]
enum Named {
    Shard,
    Epoch(u64),
    Window,
}

fn bites(damage: impl AsyncFnOnce(&Sources, &ShardId), named: Named) {
    let place = folder();
    let data = place.path().join("data");
    copy(&finished().data(), &data);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let sources = Stores::for_reading(&data, SystemClock::shared()).unwrap().sources();
        let rows = sources.rows.shards().await.unwrap();
        let long = rows.iter().find(|row| row.epoch >= 3).expect("a shard with three epochs");
        damage(&sources, &long.shard).await;
    });
    let audit = sluicebox(place.path(), &["audit", "--format", "json"]).expect(1, "the audit of a damaged run");
    let objects = audit.out.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let errors: Vec<Value> = objects.filter(|object| object["severity"] == "error").collect();
    let names = |error: &Value| match named {
        Named::Shard => error["shard"].is_string(),
        Named::Epoch(epoch) => error["shard"].is_string() && error["epoch"] == epoch,
        Named::Window => error["table"].is_string() && error["window"].is_string(),
    };
    assert!(errors.iter().any(names), "{named:?} is not named by any of {errors:#?}");
}

/// The same file without its first row group.
fn drop_row_group(sources: &Sources) {
    let path = visible(&sources.data, "silver").unwrap().remove(0).path;
    let file = std::fs::File::open(&path).unwrap();
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
    let schema = builder.schema().clone();
    let groups = (1..builder.metadata().num_row_groups()).collect();
    let rest: Result<Vec<_>, _> = builder.with_row_groups(groups).build().unwrap().collect();
    let rest = arrow::compute::concat_batches(&schema, &rest.unwrap()).unwrap();
    std::fs::write(&path, parquet(&rest)).unwrap();
}

#[test]
fn a_deleted_a_shortened_and_a_doubled_silver_file_are_found() {
    bites(async |sources, _| teeth::damage_delete_silver(sources), Named::Shard);
    bites(async |sources, _| drop_row_group(sources), Named::Shard);
    bites(async |sources, _| teeth::damage_duplicate_silver(sources), Named::Window);
}

#[test]
fn a_flipped_counter_a_flipped_bit_and_a_deleted_epoch_object_are_found() {
    bites(async |sources, shard| teeth::damage_flip_counter(sources, shard, 2).await, Named::Epoch(2));
    bites(async |sources, shard| teeth::damage_flip_bit(sources, shard, 2).await, Named::Epoch(2));
    bites(async |sources, shard| teeth::damage_delete_epoch(sources, shard, 2).await, Named::Epoch(2));
}

#[test]
fn a_removed_an_older_and_a_swapped_gold_object_are_found() {
    bites(async |sources, _| teeth::damage_remove_gold(sources), Named::Window);
    let (path, content) = &finished().older;
    bites(async |sources, _| std::fs::write(sources.data.join(path), content).unwrap(), Named::Window);
    bites(async |sources, _| teeth::damage_swap_windows(sources), Named::Window);
}

#[test]
fn an_edited_letter_and_a_cut_bronze_file_are_found() {
    bites(async |sources, _| teeth::damage_edit_letter(sources), Named::Shard);
    bites(async |sources, _| teeth::damage_cut_bronze(sources), Named::Shard);
}

#[test]
fn a_run_over_a_damaged_newest_epoch_gives_that_shard_up_and_goes_on_with_the_others() {
    let place = folder();
    let data = place.path().join("data");
    copy(&finished().data(), &data);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let damaged = runtime.block_on(async {
        let sources = Stores::for_reading(&data, SystemClock::shared()).unwrap().sources();
        let row = sources.rows.shards().await.unwrap().remove(0);
        teeth::damage_flip_bit(&sources, &row.shard, row.epoch).await;
        row.shard
    });
    // Not the state before it, silently: that would count its records twice.
    let run = sluicebox(place.path(), &["run", "--drain"]).expect(1, "a run over a damaged epoch object");
    let said = run.out + &run.err;
    assert!(said.contains(&format!("{damaged} was given up")) && said.contains("epochs/"), "{said}");
    let shards = sluicebox(place.path(), &["shards", "--format", "json"]).expect(0, "shards").out;
    let views: Vec<Value> = shards.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(views.len() > 1);
    for view in views {
        assert_eq!(view["last_fault"].is_string(), view["shard"] == damaged.as_str(), "{view}");
    }
}
