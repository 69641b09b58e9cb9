//! The table `ledger`: one line per collected epoch, NDJSON, a file per run of consecutive epochs of one shard.
//!
//! Owns: names and content of its files, idempotence, the refusal of contradicting lines. Does not own: when an epoch is
//! collected (machines/gold), where the files lie (ports::Blobs).

use std::sync::Arc;

use async_trait::async_trait;
use sluicebox_actors::model::epoch::LedgerLine;
use sluicebox_actors::model::fault::{Fault, Result};
use sluicebox_actors::model::position::ShardId;
use sluicebox_actors::ports::{Blobs, LedgerFiles};
use tokio::sync::Mutex;

use super::paths;

/// The ledger of one pipeline. Cheap to clone; a run has one and its clones.
#[derive(Clone)]
pub struct Ledger {
    files: Arc<dyn Blobs>,
    // One writer at a time: two that look at the same gap would both fill it.
    turn: Arc<Mutex<()>>,
}

/// One file: the epochs its name promises.
struct Run {
    first: u64,
    last: u64,
    key: String,
}

impl Ledger {
    /// The ledger in these files, whose keys begin at the root of the tables.
    pub fn new(files: Arc<dyn Blobs>) -> Self {
        Self { files, turn: Arc::default() }
    }

    fn folder(shard: &ShardId) -> Result<String> {
        Ok(format!("ledger/shard={}", paths::name(shard.as_str())?))
    }

    async fn runs(&self, shard: &ShardId) -> Result<Vec<Run>> {
        let folder = Self::folder(shard)?;
        let mut runs = Vec::new();
        for key in self.files.list(&format!("{folder}/")).await? {
            let range =
                key.strip_prefix(&folder).and_then(|name| name.strip_prefix('/')?.strip_suffix(".ndjson")?.split_once('-'));
            if let Some((first, last)) = range.and_then(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?))) {
                runs.push(Run { first, last, key });
            }
        }
        runs.sort_by_key(|run| run.first);
        Ok(runs)
    }

    async fn read(&self, run: &Run) -> Result<Vec<LedgerLine>> {
        let damaged = |what: &str| Fault::corrupt(format!("{}: {what}; restore it", run.key));
        let text = self.files.get(&run.key).await?;
        let mut lines = Vec::new();
        for line in text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            lines.push(serde_json::from_slice::<LedgerLine>(line).map_err(|error| damaged(&format!("a line: {error}")))?);
        }
        let promised = (run.first..=run.last).eq(lines.iter().map(|line| line.header.epoch));
        if promised { Ok(lines) } else { Err(damaged("not the epochs that its name says")) }
    }

    async fn write(&self, shard: &ShardId, lines: &[&LedgerLine]) -> Result<()> {
        let (Some(first), Some(last)) = (lines.first(), lines.last()) else { return Ok(()) };
        let mut text = Vec::new();
        for line in lines {
            serde_json::to_writer(&mut text, line).map_err(|error| Fault::bug(format!("writing a ledger line: {error}")))?;
            text.push(b'\n');
        }
        let (first, last) = (first.header.epoch, last.header.epoch);
        self.files.put(&format!("{}/{first:010}-{last:010}.ndjson", Self::folder(shard)?), text.into()).await
    }
}

#[async_trait]
impl LedgerFiles for Ledger {
    async fn append(&self, lines: &[LedgerLine]) -> Result<()> {
        let Some(first) = lines.first() else { return Ok(()) };
        let shard = &first.header.shard;
        let expected = (first.header.epoch..).take(lines.len());
        if lines.iter().any(|line| line.header.shard != *shard) || !expected.eq(lines.iter().map(|line| line.header.epoch)) {
            return Err(Fault::bug("ledger lines are consecutive epochs of one shard"));
        }
        // An earlier try may have written other cuts of the same epochs: those stand, and only what is missing is added.
        let _turn = self.turn.lock().await;
        let mut missing = Vec::new();
        let runs = self.runs(shard).await?;
        for line in lines {
            let epoch = line.header.epoch;
            match runs.iter().find(|run| run.first <= epoch && epoch <= run.last) {
                None => missing.push(line),
                Some(run) => {
                    if !self.read(run).await?.contains(line) {
                        return Err(Fault::corrupt(format!("{} has another line for epoch {epoch}; restore it", run.key)));
                    }
                }
            }
        }
        for run in missing.chunk_by(|a, b| a.header.epoch + 1 == b.header.epoch) {
            self.write(shard, run).await?;
        }
        Ok(())
    }

    async fn lines(&self, shard: &ShardId) -> Result<Vec<LedgerLine>> {
        let mut lines = Vec::new();
        for run in self.runs(shard).await? {
            lines.extend(self.read(&run).await?);
        }
        Ok(lines)
    }
}

#[cfg(test)]
mod tests {
    use super::super::blobs::DiskBlobs;
    use super::super::fixtures::{home, shard, visible};
    use super::super::home::Home;
    use super::*;

    use proptest::prelude::*;
    use sluicebox_actors::model::epoch::{EpochHeader, Hash};
    use sluicebox_actors::model::fault::Kind;
    use sluicebox_actors::model::ledger::{Counts, GoldCounts};
    use sluicebox_actors::model::position::{Position, Sequence};
    use sluicebox_actors::model::window::Bound;

    fn ledger(home: &Home) -> Ledger {
        Ledger::new(Arc::new(DiskBlobs::of_tables(home)))
    }

    fn wait<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(work)
    }

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
            fresh_us: None,
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
            inline: Vec::new(),
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
        let ledger = ledger(&home);
        assert_eq!(wait(ledger.lines(&shard())).expect("reads"), []);
        for part in [1..=3, 4..=12, 1..=3, 4..=12] {
            wait(ledger.append(&lines(part))).expect("writes");
        }
        assert_eq!(wait(ledger.lines(&shard())).expect("reads"), lines(1..=12));
        let expected = ["0000000001-0000000003", "0000000004-0000000012"];
        assert_eq!(visible(&home), expected.map(|run| format!("ledger/shard=shardId-0/{run}.ndjson")));
    }

    #[test]
    fn another_cut_of_epochs_that_are_there_adds_only_what_is_missing() {
        let (_dir, home) = home();
        let ledger = ledger(&home);
        wait(ledger.append(&lines(3..=5))).expect("writes");
        wait(ledger.append(&lines(1..=9))).expect("writes");
        assert_eq!(wait(ledger.lines(&shard())).expect("reads"), lines(1..=9));
        assert_eq!(visible(&home).len(), 3);
    }

    #[test]
    fn lines_that_contradict_what_is_there_are_refused() {
        let (_dir, home) = home();
        let ledger = ledger(&home);
        wait(ledger.append(&lines(1..=3))).expect("writes");
        let mut other = line(2);
        other.digest = Hash::of(b"other");
        assert_eq!(wait(ledger.append(&[other])).expect_err("refused").kind(), Kind::Corrupt);
        assert_eq!(wait(ledger.lines(&shard())).expect("reads"), lines(1..=3));
    }

    #[test]
    fn lines_that_are_not_consecutive_epochs_of_one_shard_are_refused() {
        let (_dir, home) = home();
        let ledger = ledger(&home);
        let mut foreign = line(2);
        foreign.header.shard = ShardId::new("shardId-1");
        for lines in [vec![line(1), line(3)], vec![line(2), line(1)], vec![line(1), foreign]] {
            assert_eq!(wait(ledger.append(&lines)).expect_err("refused").kind(), Kind::Bug);
        }
        wait(ledger.append(&[])).expect("nothing to do");
        assert_eq!(visible(&home), Vec::<String>::new());
    }

    #[test]
    fn a_damaged_file_is_refused_by_name() {
        let (_dir, home) = home();
        let ledger = ledger(&home);
        wait(ledger.append(&lines(1..=2))).expect("writes");
        let name = visible(&home).remove(0);
        let path = home.data().join(&name);
        let text = std::fs::read_to_string(&path).expect("reads");
        for damaged in [text.lines().next().unwrap_or_default(), "{", ""] {
            std::fs::write(&path, damaged).expect("damages");
            let fault = wait(ledger.lines(&shard())).expect_err("refused");
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
            let ledger = ledger(&home);
            let mut expected = std::collections::BTreeSet::new();
            for (first, more) in cuts {
                wait(ledger.append(&lines(first..=first + more))).expect("writes");
                expected.extend(first..=first + more);
            }
            let found: Vec<_> = wait(ledger.lines(&shard())).expect("reads").into_iter().map(|line| line.header.epoch).collect();
            prop_assert_eq!(found, expected.into_iter().collect::<Vec<_>>());
        }
    }
}
