//! The table `ledger`: lines of epochs whose objects are about to be collected, NDJSON, a file per run of epochs.
//!
//! Owns: `ledger/shard=<shard>/<first>-<last>.ndjson`, and that no epoch stands in two files. Does not own: what a line says
//! (model/epoch), the equations (audit).

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use sluicebox_actors::model::epoch::LedgerLine;
use sluicebox_actors::model::fault::{Fault, Kind, Result};
use sluicebox_actors::model::position::ShardId;
use sluicebox_actors::ports::LedgerFiles;

use super::disk::{self, Created, Disk, blocking};
use super::home::Home;
use super::paths;

/// The ledger files of one data directory. Cheap to clone; a run has one and its clones.
#[derive(Clone)]
pub struct DiskLedgerFiles {
    disk: Arc<Disk>,
    // One writer at a time: two that look at the same gap would both fill it.
    turn: Arc<Mutex<()>>,
}

/// One file: the epochs its name promises.
struct Run {
    first: u64,
    last: u64,
    key: String,
}

impl DiskLedgerFiles {
    /// The ledger of this directory.
    pub fn new(home: &Home) -> Self {
        Self { disk: home.disk().clone(), turn: Arc::default() }
    }

    fn folder(shard: &ShardId) -> Result<String> {
        Ok(format!("ledger/shard={}", paths::name(shard.as_str())?))
    }

    fn runs(&self, shard: &ShardId) -> Result<Vec<Run>> {
        let folder = Self::folder(shard)?;
        let mut runs = Vec::new();
        for (name, kind) in disk::entries(&self.disk.path(&folder, Kind::Bug)?)? {
            let range = name.strip_suffix(".ndjson").and_then(|range| range.split_once('-'));
            let range = range.and_then(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)));
            if let (true, Some((first, last))) = (kind.is_file(), range) {
                runs.push(Run { first, last, key: format!("{folder}/{name}") });
            }
        }
        runs.sort_by_key(|run| run.first);
        Ok(runs)
    }

    fn read(&self, run: &Run) -> Result<Vec<LedgerLine>> {
        let damaged = |what: &str| Fault::corrupt(format!("{}: {what}; restore it", run.key));
        let text = disk::read(&self.disk.path(&run.key, Kind::Bug)?)?.ok_or_else(|| damaged("vanished"))?;
        let mut lines = Vec::new();
        for line in text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            lines.push(serde_json::from_slice::<LedgerLine>(line).map_err(|error| damaged(&format!("a line: {error}")))?);
        }
        let promised = (run.first..=run.last).eq(lines.iter().map(|line| line.header.epoch));
        if promised { Ok(lines) } else { Err(damaged("not the epochs that its name says")) }
    }

    fn append_now(&self, lines: &[LedgerLine]) -> Result<()> {
        let Some(first) = lines.first() else { return Ok(()) };
        let shard = &first.header.shard;
        let expected = (first.header.epoch..).take(lines.len());
        if lines.iter().any(|line| line.header.shard != *shard) || !expected.eq(lines.iter().map(|line| line.header.epoch)) {
            return Err(Fault::bug("ledger lines are consecutive epochs of one shard"));
        }
        // An earlier try may have written other cuts of the same epochs: those stand, and only what is missing is added.
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let mut missing = Vec::new();
        let runs = self.runs(shard)?;
        for line in lines {
            let epoch = line.header.epoch;
            match runs.iter().find(|run| run.first <= epoch && epoch <= run.last) {
                None => missing.push(line),
                Some(run) => {
                    if !self.read(run)?.contains(line) {
                        return Err(Fault::corrupt(format!("{} has another line for epoch {epoch}; restore it", run.key)));
                    }
                }
            }
        }
        missing.chunk_by(|a, b| a.header.epoch + 1 == b.header.epoch).try_for_each(|run| self.write(shard, run))
    }

    fn write(&self, shard: &ShardId, lines: &[&LedgerLine]) -> Result<()> {
        let (Some(first), Some(last)) = (lines.first(), lines.last()) else { return Ok(()) };
        let mut text = Vec::new();
        for line in lines {
            serde_json::to_writer(&mut text, line).map_err(|error| Fault::bug(format!("writing a ledger line: {error}")))?;
            text.push(b'\n');
        }
        let (first, last) = (first.header.epoch, last.header.epoch);
        let key = format!("{}/{first:010}-{last:010}.ndjson", Self::folder(shard)?);
        let path = self.disk.path(&key, Kind::Bug)?;
        match self.disk.create(&path, &text)? {
            Created::New => Ok(()),
            Created::Existing if disk::read(&path)?.as_deref() == Some(text.as_slice()) => Ok(()),
            Created::Existing => Err(Fault::corrupt(format!("{key} exists with other lines; restore it"))),
        }
    }

    fn lines_now(&self, shard: &ShardId) -> Result<Vec<LedgerLine>> {
        let mut lines = Vec::new();
        for run in self.runs(shard)? {
            lines.extend(self.read(&run)?);
        }
        Ok(lines)
    }
}

#[async_trait]
impl LedgerFiles for DiskLedgerFiles {
    async fn append(&self, lines: &[LedgerLine]) -> Result<()> {
        let (this, lines) = (self.clone(), lines.to_vec());
        blocking(move || this.append_now(&lines)).await
    }

    async fn lines(&self, shard: &ShardId) -> Result<Vec<LedgerLine>> {
        let (this, shard) = (self.clone(), shard.clone());
        blocking(move || this.lines_now(&shard)).await
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{home, shard, visible};
    use super::*;

    use proptest::prelude::*;
    use sluicebox_actors::model::epoch::{EpochHeader, Hash};
    use sluicebox_actors::model::ledger::{Counts, GoldCounts};
    use sluicebox_actors::model::position::{Position, Sequence};
    use sluicebox_actors::model::window::Bound;

    fn line(epoch: u64) -> LedgerLine {
        let header = EpochHeader {
            pipeline: "p".into(),
            fingerprint: "f".into(),
            stream: "s".into(),
            shard: shard(),
            epoch,
            lease_epoch: 1,
            from: Position::after(Sequence::dense(epoch)),
            to: Position::after(Sequence::dense(epoch + 1)),
            bound_opened: Bound::UNKNOWN,
            bound_committed: Bound(7),
            max_event_us: Some(-1),
            last_arrival_us: None,
            processed_at_us: 0,
            bronze_on: true,
            unproven_start: true,
            counts: Counts { received: 1, gold: [("t".to_owned(), GoldCounts::default())].into(), ..Counts::default() },
            totals: Counts::default(),
            previous: Some(Hash::of(b"previous")),
            segments: Vec::new(),
            windows: Vec::new(),
            ordinals: [("t".to_owned(), [(0, 1)].into())].into(),
            pending: Vec::new(),
            outputs: Vec::new(),
        };
        LedgerLine::of(&header, Hash::of(&epoch.to_le_bytes()))
    }

    fn lines(epochs: std::ops::RangeInclusive<u64>) -> Vec<LedgerLine> {
        epochs.map(line).collect()
    }

    #[test]
    fn lines_come_back_in_order_and_writing_them_again_changes_nothing() {
        let (_dir, home) = home();
        let ledger = DiskLedgerFiles::new(&home);
        assert_eq!(ledger.lines_now(&shard()).expect("reads"), []);
        for part in [1..=3, 4..=12, 1..=3, 4..=12] {
            ledger.append_now(&lines(part)).expect("writes");
        }
        assert_eq!(ledger.lines_now(&shard()).expect("reads"), lines(1..=12));
        let expected = ["0000000001-0000000003", "0000000004-0000000012"];
        assert_eq!(visible(&home), expected.map(|run| format!("ledger/shard=shardId-0/{run}.ndjson")));
    }

    #[test]
    fn another_cut_of_epochs_that_are_there_adds_only_what_is_missing() {
        let (_dir, home) = home();
        let ledger = DiskLedgerFiles::new(&home);
        ledger.append_now(&lines(3..=5)).expect("writes");
        ledger.append_now(&lines(1..=9)).expect("writes");
        assert_eq!(ledger.lines_now(&shard()).expect("reads"), lines(1..=9));
        assert_eq!(visible(&home).len(), 3);
    }

    #[test]
    fn lines_that_contradict_what_is_there_are_refused() {
        let (_dir, home) = home();
        let ledger = DiskLedgerFiles::new(&home);
        ledger.append_now(&lines(1..=3)).expect("writes");
        let mut other = line(2);
        other.digest = Hash::of(b"other");
        assert_eq!(ledger.append_now(&[other]).expect_err("refused").kind(), Kind::Corrupt);
        assert_eq!(ledger.lines_now(&shard()).expect("reads"), lines(1..=3));
    }

    #[test]
    fn lines_that_are_not_consecutive_epochs_of_one_shard_are_refused() {
        let (_dir, home) = home();
        let ledger = DiskLedgerFiles::new(&home);
        let mut foreign = line(2);
        foreign.header.shard = ShardId::new("shardId-1");
        for lines in [vec![line(1), line(3)], vec![line(2), line(1)], vec![line(1), foreign]] {
            assert_eq!(ledger.append_now(&lines).expect_err("refused").kind(), Kind::Bug);
        }
        ledger.append_now(&[]).expect("nothing to do");
        assert_eq!(visible(&home), Vec::<String>::new());
    }

    #[test]
    fn a_damaged_file_is_refused_by_name() {
        let (_dir, home) = home();
        let ledger = DiskLedgerFiles::new(&home);
        ledger.append_now(&lines(1..=2)).expect("writes");
        let name = visible(&home).remove(0);
        let path = home.data().join(&name);
        let text = std::fs::read_to_string(&path).expect("reads");
        for damaged in [text.lines().next().unwrap_or_default(), "{", ""] {
            std::fs::write(&path, damaged).expect("damages");
            let fault = ledger.lines_now(&shard()).expect_err("refused");
            assert_eq!(fault.kind(), Kind::Corrupt);
            assert!(fault.message().contains(&name), "{fault}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(8))]
        #[test]
        fn whatever_is_appended_in_whatever_cuts_each_epoch_stands_once(
            cuts in proptest::collection::vec((1u64..20, 0u64..8), 1..5),
        ) {
            let (_dir, home) = home();
            let ledger = DiskLedgerFiles::new(&home);
            let mut expected = std::collections::BTreeSet::new();
            for (first, more) in cuts {
                ledger.append_now(&lines(first..=first + more)).expect("writes");
                expected.extend(first..=first + more);
            }
            let found: Vec<_> = ledger.lines_now(&shard()).expect("reads").into_iter().map(|line| line.header.epoch).collect();
            prop_assert_eq!(found, expected.into_iter().collect::<Vec<_>>());
        }
    }
}
