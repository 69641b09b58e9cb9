//! Where the files of the table `ledger` lie: `ledger/shard=…/`.
//!
//! Owns: the folder of a shard. Does not own: names and content of the files, who may write which (history::ledger).

use std::sync::Arc;

use sluicebox_actors::history::ledger::Ledger;
use sluicebox_actors::model::fault::Result;
use sluicebox_actors::model::position::ShardId;
use sluicebox_actors::ports::Blobs;

use super::paths;

/// The ledger in these files, whose keys begin at the root of the tables.
pub fn ledger(files: Arc<dyn Blobs>) -> Ledger {
    Ledger::new(files, folder)
}

fn folder(shard: &ShardId) -> Result<String> {
    Ok(format!("ledger/shard={}", paths::name(shard.as_str())?))
}

#[cfg(test)]
mod tests {
    use super::super::blobs::DiskBlobs;
    use super::super::fixtures::{home, shard, visible};
    use super::super::home::Home;
    use super::*;

    use sluicebox_actors::model::epoch::LedgerLine;
    use sluicebox_actors::model::fault::Kind;
    use sluicebox_actors::ports::LedgerFiles;
    use sluicebox_sim::headers::ledger_line;

    fn ledger(home: &Home) -> Ledger {
        super::ledger(Arc::new(DiskBlobs::of_tables(home)))
    }

    fn wait<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(work)
    }

    fn lines(epochs: std::ops::RangeInclusive<u64>) -> Vec<LedgerLine> {
        epochs.map(|epoch| ledger_line(&shard(), epoch)).collect()
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
        let expected = ["0000000001", "0000000004"];
        assert_eq!(visible(&home), expected.map(|run| format!("ledger/shard=shardId-0/{run}.ndjson")));
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
}
