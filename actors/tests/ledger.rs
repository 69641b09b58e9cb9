//! Goal: whoever appends which epochs in whatever cuts, at the same time too, each epoch stands once.

use std::collections::{BTreeMap, VecDeque};
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use bytes::Bytes;
use proptest::prelude::*;

use sluicebox_actors::history::ledger::Ledger;
use sluicebox_actors::model::epoch::{Hash, LedgerLine};
use sluicebox_actors::model::fault::{Fault, Kind, Result};
use sluicebox_actors::model::position::ShardId;
use sluicebox_actors::ports::{Blobs, LedgerFiles};
use sluicebox_sim::headers::ledger_line;

/// Files in memory. Right after somebody has listed them, a rival appends what is next in `rivals`.
#[derive(Clone, Default)]
struct Files(Arc<Inner>);

#[derive(Default)]
struct Inner {
    files: Mutex<BTreeMap<String, Bytes>>,
    rivals: Mutex<VecDeque<Vec<LedgerLine>>>,
}

impl Files {
    fn files(&self) -> MutexGuard<'_, BTreeMap<String, Bytes>> {
        self.0.files.lock().unwrap()
    }

    fn rivals(&self, cuts: impl IntoIterator<Item = RangeInclusive<u64>>) {
        self.0.rivals.lock().unwrap().extend(cuts.into_iter().map(lines));
    }

    fn ledger(&self) -> Ledger {
        Ledger::new(Arc::new(self.clone()), |shard| Ok(format!("ledger/shard={shard}")))
    }

    fn append(&self, lines: &[LedgerLine]) -> Result<()> {
        wait(self.ledger().append(lines))
    }

    fn names(&self) -> Vec<String> {
        self.files().keys().map(|key| key.replace("ledger/shard=shardId-0/", "")).collect()
    }

    /// Epochs in the order of files, as somebody counts them who reads every file and knows nothing of us.
    fn epochs(&self) -> Vec<u64> {
        let text: Vec<u8> = self.files().values().flat_map(|data| data.to_vec()).collect();
        let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        lines.map(|line| serde_json::from_slice::<LedgerLine>(line).unwrap().header.epoch).collect()
    }
}

#[async_trait]
impl Blobs for Files {
    async fn put(&self, key: &str, data: Bytes) -> Result<()> {
        let mut files = self.files();
        match files.get(key) {
            Some(stored) if *stored != data => Err(Fault::corrupt(format!("{key} exists with other bytes"))),
            Some(_) => Ok(()),
            None => {
                files.insert(key.to_owned(), data);
                Ok(())
            }
        }
    }

    async fn get(&self, key: &str) -> Result<Bytes> {
        self.files().get(key).cloned().ok_or_else(|| Fault::corrupt(format!("no {key}")))
    }

    async fn list(&self, prefix: &str) -> Result<Vec<String>> {
        let listed = self.files().keys().filter(|key| key.starts_with(prefix)).cloned().collect();
        // A rival lists as well, and has none of its own.
        let mut rivals = std::mem::take(&mut *self.0.rivals.lock().unwrap());
        if let Some(lines) = rivals.pop_front() {
            self.ledger().append(&lines).await?;
        }
        *self.0.rivals.lock().unwrap() = rivals;
        Ok(listed)
    }

    async fn delete(&self, key: &str) -> Result<()> {
        Err(Fault::bug(format!("{key} was deleted")))
    }
}

fn wait<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(work)
}

fn shard() -> ShardId {
    ShardId::new("shardId-0")
}

fn line(epoch: u64) -> LedgerLine {
    ledger_line(&shard(), epoch)
}

fn lines(epochs: RangeInclusive<u64>) -> Vec<LedgerLine> {
    epochs.map(line).collect()
}

#[test]
fn lines_come_back_in_order_and_writing_them_again_changes_nothing() {
    let files = Files::default();
    assert_eq!(wait(files.ledger().lines(&shard())).expect("reads"), []);
    for part in [1..=3, 4..=12, 1..=3, 4..=12, 1..=12] {
        files.append(&lines(part)).expect("writes");
    }
    assert_eq!(wait(files.ledger().lines(&shard())).expect("reads"), lines(1..=12));
    assert_eq!(files.names(), ["0000000001.ndjson", "0000000004.ndjson"]);
}

#[test]
fn another_cut_of_epochs_that_are_there_adds_only_what_is_missing() {
    let files = Files::default();
    files.append(&lines(1..=3)).expect("writes");
    files.append(&lines(2..=9)).expect("writes");
    assert_eq!(wait(files.ledger().lines(&shard())).expect("reads"), lines(1..=9));
    assert_eq!(files.names(), ["0000000001.ndjson", "0000000004.ndjson"]);
}

#[test]
fn who_has_listed_and_then_slept_adds_nothing_that_another_has_written_meanwhile() {
    let files = Files::default();
    files.append(&lines(1..=4)).expect("writes");
    files.rivals([5..=12]);
    files.append(&lines(5..=10)).expect("what is there is what was wanted");
    assert_eq!(files.epochs(), (1..=12).collect::<Vec<_>>());
    // And the other way round: the sleeper has more to say.
    files.rivals([13..=14, 15..=15]);
    files.append(&lines(13..=20)).expect("writes the rest");
    assert_eq!(files.epochs(), (1..=20).collect::<Vec<_>>());
    assert_eq!(wait(files.ledger().lines(&shard())).expect("reads"), lines(1..=20));
}

#[test]
fn a_rival_that_says_something_else_is_damage() {
    let files = Files::default();
    let mut other = line(1);
    other.digest = Hash::of(b"other");
    files.0.rivals.lock().unwrap().push_back(vec![other]);
    assert_eq!(files.append(&lines(1..=3)).expect_err("refused").kind(), Kind::Corrupt);
    assert_eq!(files.epochs(), [1]);
}

#[test]
fn lines_that_contradict_what_is_there_are_refused() {
    let files = Files::default();
    files.append(&lines(1..=3)).expect("writes");
    let mut other = line(2);
    other.digest = Hash::of(b"other");
    assert_eq!(files.append(&[other]).expect_err("refused").kind(), Kind::Corrupt);
    assert_eq!(wait(files.ledger().lines(&shard())).expect("reads"), lines(1..=3));
}

#[test]
fn lines_that_do_not_follow_what_is_there_are_refused() {
    let files = Files::default();
    assert_eq!(files.append(&lines(2..=3)).expect_err("refused").kind(), Kind::Corrupt);
    files.append(&lines(1..=3)).expect("writes");
    assert_eq!(files.append(&lines(5..=6)).expect_err("refused").kind(), Kind::Corrupt);
    assert_eq!(files.epochs(), [1, 2, 3]);
}

#[test]
fn lines_that_are_not_consecutive_epochs_of_one_shard_are_refused() {
    let files = Files::default();
    let mut foreign = line(2);
    foreign.header.shard = ShardId::new("shardId-1");
    for lines in [vec![line(1), line(3)], vec![line(2), line(1)], vec![line(1), foreign]] {
        assert_eq!(files.append(&lines).expect_err("refused").kind(), Kind::Bug);
    }
    files.append(&[]).expect("nothing to do");
    assert_eq!(files.names(), Vec::<String>::new());
}

#[test]
fn a_file_that_is_missing_or_says_an_epoch_again_is_refused_by_name() {
    let files = Files::default();
    for part in [1..=3, 4..=5, 6..=7] {
        files.append(&lines(part)).expect("writes");
    }
    let name = |first: u64| format!("ledger/shard=shardId-0/{first:010}.ndjson");
    let whole = files.files().clone();
    files.files().remove(&name(4));
    let fault = wait(files.ledger().lines(&shard())).expect_err("refused");
    assert!(fault.kind() == Kind::Corrupt && fault.message().contains("0000000006"), "{fault}");
    files.files().clone_from(&whole);
    let second = whole[&name(4)].iter().position(|byte| *byte == b'\n').unwrap() + 1;
    files.files().insert(name(5), whole[&name(4)].slice(second..));
    assert_eq!(wait(files.ledger().lines(&shard())).expect_err("refused").kind(), Kind::Corrupt);
}

#[test]
fn files_of_a_version_that_put_the_last_epoch_into_the_name_are_read_and_gone_on_from() {
    let files = Files::default();
    files.append(&lines(1..=3)).expect("writes");
    let data = files.files().pop_first().expect("a file").1;
    files.files().insert("ledger/shard=shardId-0/0000000001-0000000003.ndjson".to_owned(), data);
    files.append(&lines(2..=5)).expect("writes");
    assert_eq!(wait(files.ledger().lines(&shard())).expect("reads"), lines(1..=5));
    assert_eq!(files.names(), ["0000000001-0000000003.ndjson", "0000000004.ndjson"]);
}

proptest! {
    #[test]
    fn whatever_many_append_in_whatever_cuts_at_the_same_time_each_epoch_stands_once(
        cuts in proptest::collection::vec((0u64..8, 0u64..8, any::<bool>()), 1..12),
    ) {
        let files = Files::default();
        // The epochs up to here are objects no more, and so are in the ledger: nobody's cut begins later than the one after.
        let mut standing = 0;
        for (back, more, rival) in cuts {
            let first = (standing + 1_u64).saturating_sub(back).max(1);
            let last = first + more;
            if rival {
                files.rivals([first..=last]);
                continue;
            }
            files.append(&lines(first..=last)).expect("writes");
            standing = standing.max(last);
            prop_assert!(files.epochs().len() as u64 >= standing);
        }
        let epochs = files.epochs();
        prop_assert_eq!(&epochs, &(1..=epochs.len() as u64).collect::<Vec<_>>());
        prop_assert_eq!(wait(files.ledger().lines(&shard())).expect("reads").len(), epochs.len());
    }
}
