//! What must be true when the world has come to rest, and which function checks which invariant.
//!
//! | | invariant | checked at every change | checked at rest |
//! |---|---|---|---|
//! | I1 | conservation per shard and range | `Store::check_counts` | `check_complete`, `check_lines` |
//! | I2 | Gold is the fold over accepted records; each revision that of its vector | `Store::publish_gold` | `check_gold` |
//! | I3 | each record once in Bronze, and once in Silver, a letter or a filter | `Store::check_counts` | `check_files` |
//! | I4 | revisions rise, one content each | `Store::update_window`, `Store::publish_gold` | |
//! | I5 | one commit per shard and epoch, epochs rise | `Store::commit`, `Store::update_shard` | `check_lines` |
//! | I6 | nothing is visible without its commit | `Store::publish` | `strangers` |
//! | I7 | nothing stays staged or unpublished | | `check_files`, `check_gold`, `assert_tidy` |
//! | I8 | a child does nothing before its parents' last commit | `Store::update_shard`, `Store::read` | |
//! | I9 | B and the watermark never fall; nothing is taken in after a seal | `check_bound`, `check_watermark`, `check_sealed` | |
//! | I10 | liveness: without faults everything ends | | `Life::peace` of the swarm, `Sim::drain` |
//! | I11 | one holder of a permit per shard and epoch | `Store::check_permit` | |
//! | I12 | at most two open epochs; open slices fit the budget | `Files::open`, `OpenFiles::hold` | |
//! | I13 | a sink is given what is published, one content per version | `Store::sink_takes`, `Store::update_feed` | |
//! | I14 | a sink shows the newest revisions and nothing else; every letter came | `Store::sink_receives` | `check_sinks` |
//!
//! Owns: the comparison of everything visible with everything that came in. Does not own: the rules that hold at every change
//! (store).

use std::collections::{BTreeMap, BTreeSet};

use sluicebox_actors::history;
use sluicebox_actors::model::epoch::{EpochObject, Hash, LedgerLine, OutputClass};
use sluicebox_actors::model::ledger::Counts;
use sluicebox_actors::model::position::ShardId;
use sluicebox_actors::model::row::ShardRow;

use crate::sim::Sim;
use crate::store::{Commit, Store};
use crate::truth::{Judged, TABLES};

impl Sim {
    /// Every record that ever came in is where it belongs, exactly once, and nothing else is anywhere.
    #[track_caller]
    pub fn assert_complete(&self) {
        self.assert_complete_but(&[]);
    }

    /// The same, but these shards were given up: of them only what is committed counts.
    #[track_caller]
    pub fn assert_complete_but(&self, lost: &[ShardId]) {
        let wrong = self.wrong(lost);
        assert!(
            wrong.is_empty(),
            "seed {}: {} rules broken:\n{}",
            self.seed,
            wrong.len(),
            wrong[..wrong.len().min(12)].join("\n")
        );
    }

    /// All broken rules.
    pub fn wrong(&self, lost: &[ShardId]) -> Vec<String> {
        self.broken(lost, None)
    }

    /// All broken rules but those about windows that no watermark has reached.
    pub fn wrong_but_open_windows(&self) -> Vec<String> {
        let watermark = self.store().watermark();
        let mut broken = self.broken(&[], Some(watermark));
        // What a dead or overtaken invocation has staged lies there until somebody takes its shard again.
        broken.retain(|rule| !rule.starts_with("still staged"));
        broken
    }

    /// Every rule there is, those of Gold for windows up to here: whoever adds one adds it for all.
    fn broken(&self, lost: &[ShardId], gold_through: Option<i64>) -> Vec<String> {
        let mut store = self.store();
        store.check_complete(lost);
        store.check_files(lost);
        store.check_gold(gold_through);
        store.check_chains();
        store.check_sinks(self.sinks);
        std::mem::take(&mut store.violations)
    }

    /// Nothing is stored that nobody names: to be asked after a drain without crashes.
    #[track_caller]
    pub fn assert_tidy(&self) {
        let store = self.store();
        let contents = store.windows.values().filter_map(|row| row.content.as_ref());
        let bases = store.windows.values().filter_map(|row| row.base.as_ref().map(|base| &base.object));
        let commits = store.commits.values().flatten().filter_map(|commit| commit.row.object.as_ref());
        let fed = store.fed_blobs();
        let named = contents.chain(bases).chain(commits).map(|object| object.key.as_str());
        let named: BTreeSet<_> = named.chain(fed.iter().map(String::as_str)).collect();
        let orphans: Vec<_> = store.blobs.keys().filter(|key| !named.contains(key.as_str())).collect();
        assert!(orphans.is_empty(), "seed {}: nobody names {orphans:?}", self.seed);
        assert!(store.staged.is_empty(), "seed {}: still staged: {:?}", self.seed, store.staged.keys());
        assert!(store.uploads.is_empty(), "seed {}: still staged: {:?}", self.seed, store.uploads);
    }

    /// The visible Gold as text, by (table, start).
    pub fn gold(&self) -> BTreeMap<(String, i64), String> {
        let store = self.store();
        store.gold.iter().map(|(key, shown)| (key.clone(), String::from_utf8_lossy(&shown.content).into_owned())).collect()
    }
}

impl Store {
    fn check_complete(&mut self, lost: &[ShardId]) {
        let ends: Vec<_> = self.streams.iter().map(|(shard, log)| (shard.clone(), log.end(), log.closed_at)).collect();
        for (shard, end, closed) in ends {
            let row = self.rows.get(&shard).cloned();
            let at = row.as_ref().map(|row| row.position);
            let last = self.commits.get(&shard).and_then(|commits| commits.last()).map(|commit| commit.row.epoch);
            self.rule(last.unwrap_or(0) == row.as_ref().map_or(0, |row| row.epoch), || {
                format!("{shard}: commits and row differ")
            });
            if lost.contains(&shard) {
                continue;
            }
            self.rule(at == Some(end), || format!("{shard}: committed to {at:?} of {end:?}"));
            let drained = row.is_some_and(|row| row.state == sluicebox_actors::model::row::ShardState::Drained);
            self.rule(drained == closed.is_some(), || format!("{shard}: drained is {drained}, closed at {closed:?}"));
        }
    }

    /// Files that readers see although no commit says so.
    pub fn strangers(&self) -> Vec<String> {
        let outputs = self.commits.values().flatten().flat_map(|commit| &commit.header.outputs);
        let named: BTreeSet<_> = outputs.map(|output| &output.path).collect();
        self.visible.keys().filter(|path| !named.contains(path)).cloned().collect()
    }

    fn check_files(&mut self, lost: &[ShardId]) {
        let all: Vec<Commit> = self.commits.values().flatten().cloned().collect();
        for commit in &all {
            let (shard, epoch) = (&commit.row.shard, commit.row.epoch);
            for output in &commit.header.outputs {
                let there = self.visible.get(&output.path).map(|file| file.lines.len() as u64);
                let waits = lost.contains(shard) && self.staged.contains_key(&output.staged);
                let whole = there == Some(output.rows) || (there.is_none() && waits);
                self.rule(whole, || format!("{shard}/{epoch}: {} has {there:?} of {} rows", output.path, output.rows));
            }
            for (class, lines) in lines_of(&commit.judged) {
                let mut expected = lines.clone();
                let mut mine: Vec<_> = commit
                    .header
                    .outputs
                    .iter()
                    .filter(|output| output.class == class)
                    .filter_map(|output| self.visible.get(&output.path).or_else(|| self.staged.get(&output.staged)))
                    .flat_map(|file| file.lines.iter().cloned())
                    .collect();
                expected.sort();
                mine.sort();
                self.rule(mine == expected, || format!("{shard}/{epoch}: {class:?} holds {mine:?} but must hold {expected:?}"));
            }
        }
        let strangers = self.strangers();
        self.rule(strangers.is_empty(), || format!("visible without a commit: {strangers:?}"));
        let left: Vec<_> =
            self.staged.iter().filter(|(_, file)| !lost.contains(&file.shard)).map(|(key, _)| key.clone()).collect();
        self.rule(left.is_empty(), || format!("still staged: {left:?}"));
        let left: Vec<_> =
            self.uploads.iter().filter(|(_, upload)| !lost.contains(&upload.shard)).map(|(id, _)| id.clone()).collect();
        self.rule(left.is_empty(), || format!("still staged: uploads that nobody named: {left:?}"));
    }

    /// Gold is the fold over everything committed, window by window; or over what ends by then at the latest.
    fn check_gold(&mut self, through: Option<i64>) {
        let due = |(table, start_us): &(usize, i64)| through.is_none_or(|through| start_us + TABLES[*table].1 <= through);
        let keys: BTreeSet<_> =
            self.commits.values().flatten().flat_map(|commit| commit.judged.windows.keys().copied()).filter(due).collect();
        let mut shown = 0;
        for (table, start_us) in keys {
            let name = TABLES[table].0;
            let (truth, vector) = self.fold(table, start_us, None);
            let row = self.windows.get(&(name.to_owned(), start_us)).cloned();
            let gold = self.gold.get(&(name.to_owned(), start_us)).cloned();
            let at = format!("window {start_us} of {name}");
            if vector.is_empty() {
                self.rule(gold.is_none(), || format!("{at}: shown although nothing is in it"));
                continue;
            }
            shown += 1;
            let right = truth.content(start_us, self.having);
            let bytes = gold.as_ref().map(|gold| gold.content.clone());
            self.rule(bytes.as_ref() == Some(&right), || format!("{at}: shows {bytes:?} but is {right:?}"));
            let Some((row, gold)) = row.zip(gold) else { continue };
            self.rule(row.vector == vector, || format!("{at}: vector {:?} but it is {vector:?}", row.vector));
            self.rule(row.published == row.revision, || format!("{at}: r{} shown of r{}", row.published, row.revision));
            self.rule(gold.row.revision == row.revision, || format!("{at}: readers see r{}", gold.row.revision));
        }
        let all = self.gold.len();
        self.rule(all == shown, || format!("{all} windows are shown, {shown} have something in them"));
    }

    /// Chain and ledger: together they tell every epoch once, without a gap.
    fn check_chains(&mut self) {
        let rows: Vec<ShardRow> = self.rows.values().cloned().collect();
        for row in rows {
            let shard = row.shard.clone();
            let ledger = self.ledger.get(&shard).cloned().unwrap_or_default();
            let objects: BTreeMap<String, bytes::Bytes> = self
                .blobs
                .range(history::prefix(&shard)..)
                .take_while(|(key, _)| key.starts_with(&history::prefix(&shard)))
                .map(|(key, data)| (key.clone(), data.clone()))
                .collect();
            let mut lines = ledger.clone();
            for commit in self.commits.get(&shard).cloned().unwrap_or_default() {
                let object = commit.row.object.clone().expect("a commit names its object");
                let Some(data) = objects.get(&object.key) else { continue };
                let decoded = EpochObject::decode(data).map(|object| object.header);
                self.rule(decoded.is_ok_and(|header| header == commit.header), || format!("{shard}: {} is damaged", object.key));
                if commit.row.epoch > ledger.last().map_or(0, |line| line.header.epoch) {
                    lines.push(LedgerLine::of(&commit.header, Hash::of(data)));
                }
            }
            self.check_lines(&row, &lines);
        }
    }

    fn check_lines(&mut self, row: &ShardRow, lines: &[LedgerLine]) {
        let shard = &row.shard;
        let (mut totals, mut previous, mut position) = (Counts::default(), None, Default::default());
        for (line, number) in lines.iter().zip(1..) {
            let header = &line.header;
            self.rule(header.epoch == number, || format!("{shard}: ledger line {number} is of epoch {}", header.epoch));
            self.rule(header.previous == previous, || format!("{shard}: digest of epoch {} breaks", header.epoch));
            self.rule(header.from == position, || format!("{shard}: epoch {} begins at {}", header.epoch, header.from));
            totals.add(&header.counts);
            self.rule(header.totals == totals, || format!("{shard}: running totals of epoch {} are wrong", header.epoch));
            for (table, gold) in &header.counts.gold {
                let partial = line.partial_rows.get(table).copied().unwrap_or(0);
                self.rule(partial == gold.on_time + gold.late, || format!("{shard}: equation 4 of epoch {}", header.epoch));
            }
            (previous, position) = (Some(line.digest.clone()), header.to);
        }
        self.rule(lines.len() as u64 == row.epoch, || format!("{shard}: {} lines for {} epochs", lines.len(), row.epoch));
        self.rule(position == row.position, || format!("{shard}: lines end at {position}, the row at {}", row.position));
    }
}

fn lines_of(judged: &Judged) -> [(OutputClass, &Vec<String>); 3] {
    [(OutputClass::Bronze, &judged.bronze), (OutputClass::Silver, &judged.silver_rows), (OutputClass::Dlq, &judged.letters)]
}
