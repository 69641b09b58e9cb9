//! The table `ledger`: lines of epochs whose objects are about to be collected, NDJSON, a file per run of epochs.
//!
//! Owns: `ledger/shard=<shard>/<first>-<last>.ndjson`, and that no epoch stands in two files. Does not own: what a line says
//! (model/epoch), the equations (audit).

use std::sync::Arc;

use async_trait::async_trait;
use sluicebox_actors::model::epoch::LedgerLine;
use sluicebox_actors::model::fault::{Fault, Kind, Result};
use sluicebox_actors::model::position::ShardId;
use sluicebox_actors::ports::LedgerFiles;

use super::disk::{self, Created, Disk, blocking};
use super::home::Home;
use super::paths;

/// The ledger files of one data directory. Cheap to clone.
#[derive(Clone)]
pub struct DiskLedgerFiles {
    disk: Arc<Disk>,
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
        Self { disk: home.disk().clone() }
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
