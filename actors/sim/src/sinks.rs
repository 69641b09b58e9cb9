//! Sinks of a simulated world: one of Gold by row, one of letters; and the rows that say what they have.
//!
//! Owns: what a sink keeps, the rules at every call of it and at rest. Does not own: faults (process), the feeder (actors).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use async_trait::async_trait;
use bytes::Bytes;
use sluicebox_actors::model::epoch::OutputClass;
use sluicebox_actors::model::fault::Result;
use sluicebox_actors::model::feed::{Feed, FeedRow, version};
use sluicebox_actors::model::letter::Letter;
use sluicebox_actors::ports::{Cas, Fed, GoldRevision, GoldSink, LetterSink, PostedLetter};
use sluicebox_actors::shells::feed::{GoldOutlet, LetterOutlet, Sinks};

use crate::files::gold_text;
use crate::plan::Op;
use crate::process::Process;
use crate::store::Store;
use crate::truth::{SECOND, T0, TABLES};

/// When every simulated pipeline was made.
pub const CREATED: i64 = T0;
/// Rows that one call of the sink takes.
const AT_ONCE: usize = 2;

/// Which sinks a world has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Which {
    /// None.
    #[default]
    None,
    /// Both; shards wait while more than so many letters wait.
    Both { holds: Option<u64> },
}

/// What sinks keep.
#[derive(Default)]
pub struct Kept {
    pub feeds: BTreeMap<(String, String), FeedRow>,
    /// (table, window, key) → version and the row; none = a tombstone.
    pub rows: BTreeMap<(String, i64, String), (u64, Option<String>)>,
    /// Letters by their line, with how often each came.
    pub letters: BTreeMap<String, u64>,
    /// Rows with this key, and letters that say so, are refused for ever.
    pub refuses: Option<&'static str>,
    /// Bytes of the largest window that the sink of Gold is given.
    pub max_window: Option<u64>,
    /// Letter files by their path, as they are read back.
    pub texts: BTreeMap<String, Bytes>,
}

struct ByRow(Arc<Process>);

struct Mailbox(Arc<Process>);

/// The sinks of one process.
pub fn sinks(process: &Arc<Process>, which: Which) -> Sinks {
    let Which::Both { holds } = which else { return Sinks::default() };
    let tables = (0..TABLES.len()).collect();
    let max_window = process.effect(|store| Ok(store.kept.max_window)).ok().flatten().unwrap_or(u64::MAX);
    let gold = GoldOutlet { sink: Arc::new(ByRow(process.clone())), tables, max_lag_us: 60 * SECOND, max_window };
    let (max_backlog, holds) = (holds.unwrap_or(4), holds.is_some());
    let letters = LetterOutlet { sink: Arc::new(Mailbox(process.clone())), max_backlog, holds, replay: false };
    Sinks { gold: vec![gold], letters: vec![letters] }
}

fn keys(rows: &RecordBatch) -> Vec<String> {
    let Some(keys) = rows.column_by_name("key") else { return Vec::new() };
    let text = keys.as_string_opt::<i32>().map(|keys| keys.iter().flatten().map(str::to_owned).collect());
    let view = || keys.as_string_view_opt().map(|keys| keys.iter().flatten().map(str::to_owned).collect());
    text.or_else(view).unwrap_or_default()
}

#[async_trait]
impl GoldSink for ByRow {
    fn name(&self) -> &str {
        "rows"
    }

    async fn feed(&self, revision: &GoldRevision) -> Result<Fed> {
        let text = gold_text(Box::new(std::iter::once(Ok(revision.rows.clone()))))?;
        let text = String::from_utf8_lossy(&text).into_owned();
        let shown = keys(&revision.rows).into_iter().zip(text.lines().map(|line| Some(line.to_owned())));
        let gone = keys(&revision.removed).into_iter().map(|key| (key, None));
        let all: Vec<(String, Option<String>)> = shown.chain(gone).collect();
        let refuses = self.0.effect(|store| Ok(store.kept.refuses))?;
        let (refused, all): (Vec<_>, Vec<_>) = all.into_iter().partition(|(key, _)| Some(key.as_str()) == refuses);
        let (table, start_us) = (revision.table.to_string(), revision.window.start_us);
        let mut fed = Fed::default();
        if !refused.is_empty() {
            fed.refused.push(("unloved".to_owned(), refused.len() as u64));
        }
        // A revision without a row is still a call: the sink is asked whether it is there.
        for some in all.chunks(AT_ONCE).chain(all.is_empty().then_some([].as_slice())) {
            let (some, table, version, number) = (some.to_vec(), table.clone(), revision.version, revision.revision);
            let what = format!("{table} {start_us} r{number} {} rows", some.len());
            let (stored, newer) = self
                .0
                .op(Op::SinkFeed, what, move |store| Ok(store.sink_takes(&table, start_us, version, number, &some)))
                .await?;
            (fed.stored, fed.newer) = (fed.stored + stored, fed.newer + newer);
        }
        Ok(fed)
    }
}

/// A letter as the lines of letter files tell it.
pub fn letter_line(letter: &Letter) -> String {
    format!("{}/{}.{} {} {}", letter.shard, letter.sequence, letter.sub_sequence, letter.stage, letter.reason)
}

#[async_trait]
impl LetterSink for Mailbox {
    fn name(&self) -> &str {
        "letters"
    }

    async fn send(&self, letters: &[PostedLetter]) -> Result<Fed> {
        let posted: Vec<_> = letters.iter().map(|at| (letter_line(&at.letter), at.file.clone(), at.line as usize)).collect();
        self.0
            .op(Op::SinkSend, posted.len(), move |store| {
                let refuses = store.kept.refuses;
                let is_refused = |(line, _, _): &(String, _, _)| refuses.is_some_and(|refuses| line.contains(refuses));
                let (refused, posted): (Vec<_>, Vec<_>) = posted.iter().cloned().partition(is_refused);
                store.sink_receives(&posted);
                let mut fed = Fed { stored: posted.len() as u64, ..Fed::default() };
                if !refused.is_empty() {
                    fed.refused.push(("unloved".to_owned(), refused.len() as u64));
                }
                Ok(fed)
            })
            .await
    }
}

impl Store {
    /// The newer version wins, an equal one must say the same, an older one is refused.
    fn sink_takes(
        &mut self,
        table: &str,
        start_us: i64,
        version: u64,
        revision: u64,
        rows: &[(String, Option<String>)],
    ) -> (u64, u64) {
        let at = format!("sink: window {start_us} of {table} r{revision}");
        let published = self.windows.get(&(table.to_owned(), start_us)).map_or(0, |row| row.published);
        self.rule(published >= revision, || format!("{at}: handed over while readers see r{published}"));
        let (mut stored, mut newer) = (0, 0);
        for (key, row) in rows {
            let known = self.kept.rows.get(&(table.to_owned(), start_us, key.clone())).cloned();
            if let Some((known, shown)) = known {
                let same = known != version || shown == *row;
                self.rule(same, || format!("{at}: {key} is {row:?} and was {shown:?} in the same version"));
                if known > version {
                    newer += 1;
                    self.mark("a sink has a newer version already");
                    continue;
                }
                match (&shown, row) {
                    (Some(_), None) => self.mark("a sink buries a row"),
                    (None, Some(_)) => self.mark("a sink shows a row that was buried"),
                    (None, None) | (Some(_), Some(_)) => {}
                }
            }
            stored += 1;
            self.kept.rows.insert((table.to_owned(), start_us, key.clone()), (version, row.clone()));
        }
        (stored, newer)
    }

    fn sink_receives(&mut self, posted: &[(String, String, usize)]) {
        for (line, file, number) in posted {
            let there = self.visible.get(file).and_then(|file| file.lines.get(*number));
            let same = there == Some(line);
            self.rule(same, || format!("sink: {line} is said to be line {number} of {file}"));
            let times = self.kept.letters.entry(line.clone()).or_default();
            *times += 1;
            if *times == 2 {
                self.mark("a sink gets a letter again");
            }
        }
    }

    pub fn update_feed(&mut self, expected: u64, row: &FeedRow) -> Cas {
        let key = (row.sink.clone(), row.key());
        let old = self.kept.feeds.get(&key).cloned();
        if old.as_ref().map_or(0, |old| old.version) != expected {
            self.mark("a stale swap of a sink's row is refused");
            return Cas::Lost;
        }
        let at = format!("{} of {}", key.1, key.0);
        self.rule(row.version == expected + 1, || format!("{at}: version {} follows {expected}", row.version));
        match (old.map(|old| old.fed), &row.fed) {
            (Some(Feed::Window(old)), Feed::Window(new)) => {
                self.rule(new.revision >= old.revision, || format!("{at}: went back from r{}", old.revision));
            }
            (Some(Feed::Letters(old)), Feed::Letters(new)) => {
                let place = |feed: &sluicebox_actors::model::feed::LetterFeed| (feed.epoch, feed.place.file, feed.place.line);
                self.rule(place(new) >= place(&old), || format!("{at}: went back from {:?}", place(&old)));
            }
            (None, _) | (Some(Feed::Sink { .. }), Feed::Sink { .. }) => {}
            (Some(old), new) => self.rule(false, || format!("{at}: {old:?} became {new:?}")),
        }
        if let Feed::Window(new) = &row.fed
            && let Some(shown) = &new.shown
        {
            let there = self.blobs.contains_key(&shown.key);
            self.rule(there, || format!("{at}: names keys that are not stored"));
        }
        self.kept.feeds.insert(key, row.clone());
        Cas::Won
    }

    /// Keys of blobs that the rows of sinks name.
    pub fn fed_blobs(&self) -> BTreeSet<String> {
        let of = |row: &FeedRow| match &row.fed {
            Feed::Window(fed) => fed.shown.as_ref().map(|shown| shown.key.clone()),
            Feed::Sink { .. } | Feed::Letters(_) => None,
        };
        self.kept.feeds.values().filter_map(of).collect()
    }

    /// At rest a sink shows what readers of files see and nothing else, and has had every letter.
    pub fn check_sinks(&mut self, which: Which) {
        if which == Which::None {
            return;
        }
        let mut right = BTreeMap::new();
        for ((table, start_us), shown) in &self.gold {
            let text = String::from_utf8_lossy(&shown.content).into_owned();
            for line in text.lines() {
                let key = line.split(',').nth(1).unwrap_or_default().to_owned();
                right.insert((table.clone(), *start_us, key), (version(CREATED, shown.row.revision), line.to_owned()));
            }
        }
        let rows = self.kept.rows.iter();
        let mine: BTreeMap<_, _> =
            rows.filter_map(|(key, (version, row))| Some((key.clone(), (*version, row.clone()?)))).collect();
        for (key, row) in &right {
            let shown = mine.get(key);
            self.rule(shown == Some(row), || format!("sink: shows {shown:?} for {key:?} but it is {row:?}"));
        }
        for key in mine.keys().filter(|key| !right.contains_key(*key)) {
            self.rule(false, || format!("sink: shows {key:?}, which is not in Gold"));
        }
        let letters = self.visible.values().filter(|file| file.class == OutputClass::Dlq);
        let letters: BTreeSet<String> = letters.flat_map(|file| file.lines.iter().cloned()).collect();
        let had: BTreeSet<String> = self.kept.letters.keys().cloned().collect();
        for letter in &letters {
            self.rule(had.contains(letter), || format!("sink: the letter {letter} never came"));
        }
        for letter in had.difference(&letters) {
            self.rule(false, || format!("sink: there is no letter {letter}"));
        }
    }
}
