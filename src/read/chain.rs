//! Walks the epochs of one shard from the newest back to the first, through live objects and collected ledger lines.
//!
//! Only what the shard's row names, and what that names in turn, is an epoch: objects of lost races lie under the same prefix and
//! are passed over. Owns: finding each predecessor by its SHA-256 and saying where the chain is broken. Does not own: what the
//! epochs say (audit, the table `ledger`).

use std::collections::BTreeMap;

use bytes::Bytes;
use sluicebox_actors::model::epoch::{EpochHeader, EpochObject, Hash, LedgerLine};
use sluicebox_actors::model::fault::{Kind, Result};
use sluicebox_actors::model::row::ShardRow;

use super::sources::Sources;

/// One epoch of a chain.
#[derive(Clone, Debug)]
pub enum Link {
    /// Its object is still there.
    Object {
        /// The object.
        object: Box<EpochObject>,
        /// SHA-256 of its bytes.
        digest: Hash,
        /// Length of its bytes.
        len: u64,
    },
    /// Only its line is left.
    Line(Box<LedgerLine>),
}

impl Link {
    /// The head; that of a line has no segments, ordinals and pending outputs.
    pub fn header(&self) -> &EpochHeader {
        match self {
            Self::Object { object, .. } => &object.header,
            Self::Line(line) => &line.header,
        }
    }

    /// SHA-256 of the epoch object, present or collected.
    pub fn digest(&self) -> &Hash {
        match self {
            Self::Object { digest, .. } => digest,
            Self::Line(line) => &line.digest,
        }
    }

    /// Sum of the hidden row counters per Gold table, as the segments' index says.
    pub fn partial_rows(&self) -> BTreeMap<String, u64> {
        match self {
            Self::Line(line) => line.partial_rows.clone(),
            Self::Object { object, .. } => {
                let mut out = BTreeMap::new();
                for segment in &object.header.segments {
                    *out.entry(segment.table.clone()).or_default() += segment.rows;
                }
                out
            }
        }
    }
}

/// One step back.
#[derive(Clone, Debug)]
pub enum Step {
    /// The next older epoch: the one that its successor (or the row) names.
    Link(Link),
    /// What stands in the place of an epoch that nobody names, because the chain is broken there or above.
    StandIn(Link),
    /// The next older epoch is not the one that its successor names; if something stands in its place, that follows.
    Broken {
        /// Its number.
        epoch: u64,
        /// What is wrong, as a sentence.
        what: String,
    },
}

/// A walk through one shard's chain, newest first. Holds one epoch object at a time.
pub struct Chain<'a> {
    sources: &'a Sources,
    row: &'a ShardRow,
    next: u64,
    stop: u64,
    wanted: Option<Hash>,
    keys: BTreeMap<u64, Vec<String>>,
    lines: BTreeMap<u64, LedgerLine>,
    ready: Option<Step>,
}

/// The prefix of all epoch objects of a shard.
pub fn epoch_prefix(row: &ShardRow) -> String {
    format!("epochs/{}/", row.shard)
}

/// The number of an epoch by the key of its object.
pub fn epoch_of_key(key: &str) -> Option<u64> {
    key.rsplit('/').next()?.split('-').next()?.parse().ok()
}

impl<'a> Chain<'a> {
    /// Starts at the epoch that the row names and ends after the epoch following `stop` (0 = walk to the first).
    pub async fn open(sources: &'a Sources, row: &'a ShardRow, stop: u64) -> Result<Self> {
        let wanted = row.object.as_ref().map(|object| object.sha256.clone());
        let mut chain =
            Self { sources, row, next: row.epoch, stop, wanted, keys: BTreeMap::new(), lines: BTreeMap::new(), ready: None };
        if row.epoch > stop {
            chain.load().await?;
        }
        Ok(chain)
    }

    /// Keys before lines: a line is durable before its object goes, so of an epoch that has no key any more the line is there.
    async fn load(&mut self) -> Result<()> {
        for key in self.sources.blobs.list(&epoch_prefix(self.row)).await? {
            if let Some(epoch) = epoch_of_key(&key)
                && epoch > self.stop
            {
                self.keys.entry(epoch).or_default().push(key);
            }
        }
        self.load_lines().await
    }

    async fn load_lines(&mut self) -> Result<()> {
        let lines = self.sources.ledger.lines(&self.row.shard).await?;
        self.lines =
            lines.into_iter().filter(|line| line.header.epoch > self.stop).map(|line| (line.header.epoch, line)).collect();
        Ok(())
    }

    /// The next older epoch; none after the first.
    pub async fn step(&mut self) -> Result<Option<Step>> {
        if let Some(ready) = self.ready.take() {
            return Ok(Some(ready));
        }
        if self.next <= self.stop {
            return Ok(None);
        }
        let epoch = self.next;
        self.next -= 1;
        let candidates = self.candidates(epoch).await?;
        let matching = candidates.iter().position(|(digest, _)| Some(digest) == self.wanted.as_ref());
        if let Some((digest, data)) = matching.and_then(|index| candidates.get(index)) {
            match EpochObject::decode(data) {
                Ok(object) => {
                    return Ok(Some(self.found(Link::Object {
                        object: Box::new(object),
                        digest: digest.clone(),
                        len: data.len() as u64,
                    })));
                }
                Err(fault) => return Ok(Some(self.broken(epoch, fault.to_string()))),
            }
        }
        if self.lines.get(&epoch).is_none_or(|line| Some(&line.digest) != self.wanted.as_ref()) {
            // Collected between our two looks: then its line is there now.
            self.load_lines().await?;
        }
        let line = self.lines.remove(&epoch);
        if let Some(line) = &line
            && Some(&line.digest) == self.wanted.as_ref()
        {
            return Ok(Some(self.found(Link::Line(Box::new(line.clone())))));
        }
        Ok(Some(self.stand_in(epoch, candidates, line)))
    }

    /// Nothing has the hash that the successor (or the row) names. What stands there is shown all the same, after the break.
    fn stand_in(&mut self, epoch: u64, candidates: Vec<(Hash, Bytes)>, line: Option<LedgerLine>) -> Step {
        let anything = !candidates.is_empty() || line.is_some();
        let known = self.wanted.take().is_some();
        let objects = candidates.into_iter().filter_map(|(digest, data)| {
            let object = EpochObject::decode(&data).ok().filter(|object| object.header.epoch == epoch)?;
            Some(Link::Object { object: Box::new(object), digest, len: data.len() as u64 })
        });
        // Of several tries at one epoch, the one under the highest lease is the likeliest to have been committed.
        let best = objects.max_by_key(|link| link.header().lease_epoch);
        let link = best.or(line.map(|line| Link::Line(Box::new(line))));
        let step = link.map(|link| {
            self.wanted = link.header().previous.clone();
            Step::StandIn(link)
        });
        match step {
            // The break itself was reported further up.
            Some(step) if !known => step,
            step => {
                self.ready = step;
                let what = if anything {
                    "what stands in its place has another SHA-256"
                } else {
                    "neither its object nor its line is there"
                };
                Step::Broken { epoch, what: what.to_owned() }
            }
        }
    }

    fn broken(&mut self, epoch: u64, what: String) -> Step {
        self.wanted = None;
        Step::Broken { epoch, what }
    }

    fn found(&mut self, link: Link) -> Step {
        self.wanted = link.header().previous.clone();
        Step::Link(link)
    }

    async fn candidates(&mut self, epoch: u64) -> Result<Vec<(Hash, Bytes)>> {
        let mut keys = self.keys.remove(&epoch).unwrap_or_default();
        if let (true, Some(object)) = (epoch == self.row.epoch, &self.row.object) {
            keys = vec![object.key.clone()];
        }
        let mut out = Vec::new();
        for key in keys {
            match self.sources.blobs.get(&key).await {
                Ok(data) => {
                    let digest = Hash::of(&data);
                    let done = Some(&digest) == self.wanted.as_ref();
                    if done {
                        out.clear();
                    }
                    out.push((digest, data));
                    if done {
                        break;
                    }
                }
                // Missing: removed by hand, or collected since the list was made.
                Err(fault) if fault.kind() == Kind::Corrupt => {}
                Err(fault) => return Err(fault),
            }
        }
        Ok(out)
    }
}
