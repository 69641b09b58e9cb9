//! `audit`: does everything that came in stand in Gold, or in a place that says why not?
//!
//! A pass reads in an order that makes it exact beside a running `run`: window rows, then shard rows, then the chains they name,
//! then files; what came later is told apart by a fresh look. Owns: this order, the second pass. Does not own: the questions
//! themselves, one file each: epochs, outputs, records, gold, recompute.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sluicebox_actors::model::epoch::{EpochHeader, OutputClass, PendingOutput};
use sluicebox_actors::model::fault::Result;
use sluicebox_actors::model::position::ShardId;
use sluicebox_actors::model::row::{ShardRow, WindowRow};
use sluicebox_actors::ports::GoldTable;

use super::epochs::{EpochWalk, ShardFacts};
use super::gold::Facts;
use super::outputs::{CLASSES, Expiry, Named};
use super::recompute::{Outcome, Recompute};
use super::report::{Finding, Report};
use super::{gold, outputs, recompute, records};
use crate::read::chain::{Chain, Step};
use crate::read::sources::{Sources, blocking, folders, unescaped};

/// How far an audit is.
#[derive(Clone, Copy, Default, Debug)]
pub struct Progress {
    /// Epochs looked at.
    pub epochs: u64,
    /// Epochs there are.
    pub epochs_all: u64,
    /// Windows looked at.
    pub windows: u64,
    /// Windows there are.
    pub windows_all: u64,
}

/// What to audit and how.
#[derive(Clone)]
pub struct Audit {
    /// Where everything lies.
    pub sources: Sources,
    /// Gold tables as the pipeline file has them.
    pub tables: Vec<GoldTable>,
    /// Windows an event falls into (1 for tumbling).
    pub windows: u64,
    /// Computes Gold again from Silver; none leaves that part out and says so.
    pub recompute: Option<Recompute>,
    /// Files that retention may have removed.
    pub expiry: Expiry,
    /// Told after every epoch and window.
    pub progress: Option<Arc<dyn Fn(Progress) + Send + Sync>>,
}

impl std::fmt::Debug for Audit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Audit").field("sources", &self.sources).field("tables", &self.tables).finish_non_exhaustive()
    }
}

impl Audit {
    /// An audit of everything with tumbling windows.
    pub fn new(sources: Sources, tables: Vec<GoldTable>, recompute: Option<Recompute>) -> Self {
        Self { sources, tables, windows: 1, recompute, expiry: Expiry::new(), progress: None }
    }

    /// Looks at everything; if something is wrong, once more, and reports the second look. A fault means that the audit itself
    /// could not be made.
    pub async fn run(&self) -> Result<Report> {
        let mut report = self.pass().await?;
        report.passes = 1;
        if !report.ok() {
            report = self.pass().await?;
            report.passes = 2;
        }
        Ok(report)
    }

    async fn pass(&self) -> Result<Report> {
        let mut report = Report::default();
        let mut progress = Progress::default();
        // Window rows first: a vector read now can only name epochs that the chains read later contain.
        let mut windows: BTreeMap<String, Vec<WindowRow>> = BTreeMap::new();
        for table in self.table_names().await? {
            let rows = self.sources.rows.windows(&table).await?;
            windows.insert(table, rows);
        }
        let rows = self.sources.rows.shards().await?;
        progress.epochs_all = rows.iter().map(|row| row.epoch).sum();
        progress.windows_all = windows.values().map(|rows| rows.len() as u64).sum();
        let (mut named, mut facts) = (Named::default(), Facts::new());
        for row in &rows {
            let shard = self.shard(row, &mut named, &mut progress, &mut report).await?;
            facts.insert(row.shard.clone(), shard);
        }
        report.shards = rows.len() as u64;
        self.strangers(&rows, named, &facts, &mut report).await?;
        let touched: BTreeSet<String> = facts.values().flat_map(|f| f.touches.keys().map(|(table, _)| table.clone())).collect();
        for table in touched {
            windows.entry(table).or_default();
        }
        let facts = Arc::new(facts);
        for (table, rows) in &windows {
            gold::against_chains(table, rows, &facts, &mut report);
            gold::visible_objects(&self.sources, table, rows, &mut report).await?;
            for row in rows {
                self.again(row, &facts, &mut report).await?;
                progress.windows += 1;
                self.tell(progress);
            }
        }
        if self.recompute.is_none() {
            report.find(Finding::info("Gold was not computed again from Silver"));
        }
        report.close();
        Ok(report)
    }

    async fn table_names(&self) -> Result<BTreeSet<String>> {
        let data = self.sources.data.clone();
        let found = blocking(move || folders(&data, "gold")).await?;
        Ok(found.iter().map(|name| unescaped(name)).chain(self.tables.iter().map(|table| table.name.to_string())).collect())
    }

    /// The chain of one shard with its files, newest epoch first.
    async fn shard(&self, row: &ShardRow, named: &mut Named, progress: &mut Progress, report: &mut Report) -> Result<ShardFacts> {
        let mut walk = EpochWalk::new(row, self.windows);
        let mut chain = Chain::open(&self.sources, row, 0).await?;
        let mut first_pending = None;
        // What later epochs say of files that were lost: the newest of them holds.
        let (mut rebuilt, mut again): (BTreeMap<String, PendingOutput>, u64) = Default::default();
        while let Some(step) = chain.step().await? {
            let (link, by_hash) = match step {
                Step::Broken { epoch, what } => {
                    walk.broken(epoch, &what, report);
                    continue;
                }
                Step::Link(link) => (link, true),
                Step::StandIn(link) => (link, false),
            };
            walk.link(&link, by_hash, report);
            let mut header = link.header().clone();
            for output in header.rebuilt.drain(..) {
                rebuilt.entry(output.path.clone()).or_insert(output);
            }
            for output in &mut header.outputs {
                if let Some(now) = rebuilt.remove(&output.path) {
                    self.written_again(output, now, &header.shard, report);
                    again += 1;
                }
                if !named.insert(&output.path) {
                    let what = format!("{} is named by two epochs", output.path);
                    report.find(Finding::error(what, "report a bug").at(&row.shard, header.epoch));
                }
            }
            if self.files(&header, &walk.pending, report).await? {
                first_pending = Some(header.epoch);
            }
            report.epochs += 1;
            progress.epochs += 1;
            self.tell(*progress);
        }
        if again > 0 {
            let what = "files were lost before they were visible and are written once more from the stream";
            report.find(Finding::info(format!("{again} {what}")).of_shard(&row.shard));
        }
        let mut facts = walk.close(report);
        // Where the chain is broken, the file may be one of those that cannot be read.
        for output in rebuilt.into_values().filter(|_| !facts.broken) {
            let what = format!("{} is written once more, and epoch {} has no such file", output.path, output.epoch);
            report.find(Finding::error(what, "report a bug").of_shard(&row.shard));
        }
        facts.first_pending = first_pending;
        Ok(facts)
    }

    /// A file stands for the lost one if it is of the same epoch and table, and has as many rows.
    fn written_again(&self, lost: &mut PendingOutput, now: PendingOutput, shard: &ShardId, report: &mut Report) {
        if (lost.class, lost.epoch, lost.rows) != (now.class, now.epoch, now.rows) {
            let what = format!("{} is written once more as another table's, with other rows or for another epoch", lost.path);
            report.find(Finding::error(what, "report a bug").at(shard, lost.epoch));
        }
        *lost = now;
    }

    /// The files of one epoch; is one of them not visible yet?
    async fn files(&self, header: &EpochHeader, pending: &[PendingOutput], report: &mut Report) -> Result<bool> {
        let (data, header, pending) = (self.sources.data.clone(), header.clone(), pending.to_vec());
        let (expiry, tables) = (self.expiry.clone(), self.tables.clone());
        let (header, found, records) = blocking(move || {
            let found = outputs::check(&data, &header, &pending, &expiry)?;
            // Damaged files were reported; comparing what is in them would only repeat it.
            let records = if found.whole { Some(records::check(&data, &header, &tables)?) } else { None };
            Ok((header, found, records))
        })
        .await?;
        let scope = format!("shard {}", header.shard);
        for (class, folder) in CLASSES {
            let rows = found.rows.get(&class).copied().unwrap_or(0);
            let (counted, name) = match class {
                OutputClass::Bronze => (header.counts.bronze, "bronze"),
                OutputClass::Silver => (header.counts.silver, "silver"),
                OutputClass::Dlq => (header.counts.letters, "letters"),
            };
            report.add(7, &scope, &format!("rows of published {folder} files = {name}"), rows, counted, "files and epochs");
            if rows != counted && found.findings.is_empty() {
                let what = format!("the rows of its {folder} files are not what it counts");
                report.find(Finding::error(what, "report a bug").at(&header.shard, header.epoch));
            }
        }
        let open = found.rows.get(&OutputClass::Dlq).copied().unwrap_or(0);
        let says = "open letters = letters - those that the repair lane resolved";
        report.add(6, &scope, says, open, header.counts.letters, "files and epochs");
        match records {
            None => report.epochs_not_compared += 1,
            Some(records) => {
                let says = "records = Silver rows + rejected letters + filtered + duplicate, record by record";
                report.add(7, &scope, says, records.records, records.accounted, "Bronze, Silver and letter files");
                report.find_all(records.findings);
            }
        }
        report.files += found.files;
        report.bytes += found.bytes;
        report.find_all(found.findings);
        Ok(found.pending)
    }

    /// Visible files that no epoch names, not even one that was committed since the rows were read.
    async fn strangers(&self, rows: &[ShardRow], named: Named, facts: &Facts, report: &mut Report) -> Result<()> {
        const REMEDY: &str = "move the file out of the data directory; readers count its rows";
        let data = self.sources.data.clone();
        let (strangers, mut named) = blocking(move || Ok((named.strangers(&data)?, named))).await?;
        if strangers.is_empty() {
            return Ok(());
        }
        let old: BTreeMap<&ShardId, u64> = rows.iter().map(|row| (&row.shard, row.epoch)).collect();
        for row in self.sources.rows.shards().await? {
            let mut chain = Chain::open(&self.sources, &row, old.get(&row.shard).copied().unwrap_or(0)).await?;
            while let Some(step) = chain.step().await? {
                if let Step::Link(link) = step {
                    for output in &link.header().outputs {
                        named.insert(&output.path);
                    }
                }
            }
        }
        let strangers: Vec<String> =
            strangers.into_iter().filter(|file| named.insert(&file.relative)).map(|file| file.relative).collect();
        if facts.values().any(|facts| facts.broken) && !strangers.is_empty() {
            let what = format!("{} visible files are named by no epoch that can be read", strangers.len());
            report.find(Finding::error(what, "mend the broken chain first"));
            return Ok(());
        }
        for file in strangers {
            report.find(Finding::error(format!("{file} is named by no epoch"), REMEDY));
        }
        Ok(())
    }

    /// One window computed again.
    async fn again(&self, row: &WindowRow, facts: &Arc<Facts>, report: &mut Report) -> Result<()> {
        let Some(with) = self.recompute.clone() else { return Ok(()) };
        let (data, row, facts) = (self.sources.data.clone(), row.clone(), facts.clone());
        let silver_from = self.expiry.get(&OutputClass::Silver).cloned();
        let (row, outcome) = blocking(move || {
            let outcome = recompute::window(&with, &data, &row, &facts, silver_from.as_ref())?;
            Ok((row, outcome))
        })
        .await?;
        match outcome {
            Outcome::Done(finding) => {
                report.recomputed += 1;
                report.find_all(finding.into_iter().collect());
            }
            Outcome::Skipped(why) => {
                let what = format!("not computed again from Silver: {why}");
                report.find(Finding::info(what).in_window(&row.table, row.start_us));
            }
        }
        Ok(())
    }

    fn tell(&self, progress: Progress) {
        if let Some(tell) = &self.progress {
            tell(progress);
        }
    }
}
