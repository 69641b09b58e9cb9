//! The table `ledger`: one line per collected epoch, NDJSON, a file per run of consecutive epochs of one shard.
//!
//! Several workers may hold themselves for the one that collects, so appending has to be safe without a lock. A file's key says
//! the shard and the file's first epoch and nothing else, a file is put only where there is none, and the first epoch is the one
//! after the last that stands. So two who have seen the same files put under the same key, one of them is refused, and whoever
//! has seen fewer files puts under a key that is taken. No epoch can stand twice, whoever sleeps for how long in between.
//!
//! Owns: names and content of its files, idempotence, the refusal of contradicting lines. Does not own: when an epoch is
//! collected (machines/gold), where the files lie (ports::Blobs, and who gives the folder).

use std::sync::Arc;

use async_trait::async_trait;

use crate::model::epoch::LedgerLine;
use crate::model::fault::{Fault, Kind, Result};
use crate::model::position::ShardId;
use crate::ports::{Blobs, LedgerFiles};

/// The ledger of one pipeline. Cheap to clone.
#[derive(Clone)]
pub struct Ledger {
    files: Arc<dyn Blobs>,
    /// Where the files of a shard lie.
    folder: fn(&ShardId) -> Result<String>,
}

/// One file, by its name.
struct Run {
    first: u64,
    key: String,
}

impl Ledger {
    /// The ledger in these files, those of a shard in this folder.
    pub fn new(files: Arc<dyn Blobs>, folder: fn(&ShardId) -> Result<String>) -> Self {
        Self { files, folder }
    }

    /// The files of a shard, in order of epochs. An earlier version put the last epoch into the name, too: `1-3.ndjson`.
    async fn runs(&self, shard: &ShardId) -> Result<Vec<Run>> {
        let folder = (self.folder)(shard)?;
        let mut runs = Vec::new();
        for key in self.files.list(&format!("{folder}/")).await? {
            let name = key.strip_prefix(&folder).and_then(|name| name.strip_prefix('/')?.strip_suffix(".ndjson"));
            let first = name.map(|name| name.split_once('-').map_or(name, |(first, _)| first));
            if let Some(first) = first.and_then(|first| first.parse().ok()) {
                runs.push(Run { first, key });
            }
        }
        runs.sort_by_key(|run| run.first);
        Ok(runs)
    }

    async fn read(&self, run: &Run) -> Result<Vec<LedgerLine>> {
        let damaged = |what: &str| Fault::corrupt(format!("{}: {what}; restore it", run.key));
        let text = self.files.get(&run.key).await?;
        if text.last() != Some(&b'\n') {
            return Err(damaged("it ends in the middle of a line"));
        }
        let mut lines = Vec::new();
        for line in text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            lines.push(serde_json::from_slice::<LedgerLine>(line).map_err(|error| damaged(&format!("a line: {error}")))?);
        }
        let promised = !lines.is_empty() && (run.first..).zip(&lines).all(|(epoch, line)| line.header.epoch == epoch);
        if promised { Ok(lines) } else { Err(damaged("not consecutive epochs from the one that its name says")) }
    }

    /// The lines of these files, of which each begins where the one before it ends.
    async fn read_all(&self, runs: &[Run]) -> Result<Vec<LedgerLine>> {
        let mut lines = Vec::<LedgerLine>::new();
        for run in runs {
            let next = lines.last().map_or(run.first, |line| line.header.epoch + 1);
            if run.first != next {
                return Err(Fault::corrupt(format!(
                    "{} begins with epoch {}, but the files before it end before {next}: restore what is missing, delete what \
                     repeats others",
                    run.key, run.first
                )));
            }
            lines.extend(self.read(run).await?);
        }
        Ok(lines)
    }

    /// Puts them as one file under the key of the first; refused (`Corrupt`) if something else stands there.
    async fn write(&self, shard: &ShardId, first: u64, lines: &[LedgerLine]) -> Result<()> {
        let mut text = Vec::new();
        for line in lines {
            serde_json::to_writer(&mut text, line).map_err(|error| Fault::bug(format!("writing a ledger line: {error}")))?;
            text.push(b'\n');
        }
        self.files.put(&format!("{}/{first:010}.ndjson", (self.folder)(shard)?), text.into()).await
    }
}

#[async_trait]
impl LedgerFiles for Ledger {
    async fn append(&self, lines: &[LedgerLine]) -> Result<()> {
        let Some(LedgerLine { header, .. }) = lines.first() else { return Ok(()) };
        let (shard, first) = (&header.shard, header.epoch);
        let consecutive = (first..).zip(lines).all(|(epoch, line)| line.header.epoch == epoch && line.header.shard == *shard);
        if !consecutive {
            return Err(Fault::bug("ledger lines are consecutive epochs of one shard"));
        }
        let mut refused = None;
        loop {
            let runs = self.runs(shard).await?;
            // Those before can hold none of these epochs.
            let of_interest = runs.iter().rposition(|run| run.first <= first).unwrap_or(0);
            let standing = self.read_all(&runs[of_interest..]).await?;
            let next = standing.last().map_or(1, |line| line.header.epoch + 1);
            let known = lines.partition_point(|line| line.header.epoch < next);
            if let Some(other) = lines[..known].iter().find(|line| !standing.contains(line)) {
                let epoch = other.header.epoch;
                return Err(Fault::corrupt(format!("the ledger of {shard} has another line for epoch {epoch}; restore it")));
            }
            let Some(missing) = lines[known..].first() else { return Ok(()) };
            if missing.header.epoch != next {
                return Err(Fault::corrupt(format!(
                    "the ledger of {shard} lacks its files from epoch {next} on, and epoch {} is to be added; restore them",
                    missing.header.epoch
                )));
            }
            match (self.write(shard, next, &lines[known..]).await, refused) {
                // Somebody else has put his cut of these epochs there: what he left out is added behind it.
                (Err(fault), before) if fault.kind() == Kind::Corrupt && before != Some(next) => refused = Some(next),
                (done, _) => return done,
            }
        }
    }

    async fn lines(&self, shard: &ShardId) -> Result<Vec<LedgerLine>> {
        self.read_all(&self.runs(shard).await?).await
    }
}
