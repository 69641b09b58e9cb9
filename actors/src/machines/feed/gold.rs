//! Which window of Gold a sink is given next.
//!
//! Owns: what is due, whose turn it is, how long the oldest has waited. Does not own: contents and keys (shells/feed), revisions
//! (machines/gold).

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};

use super::{Limit, Turn};
use crate::model::feed::{Feed, FeedRow, WindowFeed};
use crate::model::row::WindowRow;
use crate::model::sabotage::{self, Sabotage};

/// Table and start of a window.
pub type WindowKey = (String, i64);

/// All windows of one sink.
#[derive(Debug)]
pub struct GoldFeed {
    sink: String,
    /// Rows with what the sink has, as far as there are any.
    rows: BTreeMap<WindowKey, FeedRow>,
    /// Since when each that the sink has not the newest of is due.
    due: BTreeMap<WindowKey, i64>,
    /// Whose turn it was: one that fails does not keep the others waiting.
    last: Option<WindowKey>,
    lag: Limit,
}

fn feed_of(row: &FeedRow) -> Option<&WindowFeed> {
    match &row.fed {
        Feed::Window(fed) => Some(fed),
        Feed::Sink { .. } | Feed::Letters(_) => None,
    }
}

impl GoldFeed {
    /// A sink that is behind when a window waits for longer than this.
    pub fn new(sink: &str, max_lag_us: i64) -> Self {
        let lag = Limit::new(max_lag_us.max(0).unsigned_abs());
        Self { sink: sink.to_owned(), rows: BTreeMap::new(), due: BTreeMap::new(), last: None, lag }
    }

    /// A row as stored, at start or when it is new.
    pub fn row_stands(&mut self, row: FeedRow) {
        let Some(key) = feed_of(&row).map(|fed| (fed.table.clone(), fed.start_us)) else { return };
        self.rows.insert(key, row);
    }

    /// Readers can see this revision of a window.
    pub fn published(&mut self, key: WindowKey, revision: u64, now_us: i64) {
        if revision > self.row(&key).1.revision {
            self.due.entry(key).or_insert(now_us);
        }
    }

    fn row(&self, key: &WindowKey) -> (FeedRow, WindowFeed) {
        let row = self.rows.get(key).cloned().unwrap_or_else(|| FeedRow::of_window(&self.sink, &key.0, key.1));
        let fed = feed_of(&row).cloned().unwrap_or_default();
        (row, fed)
    }

    /// The window whose turn it is.
    pub fn next(&self) -> Option<WindowKey> {
        let after = self.last.as_ref().and_then(|last| self.due.range((Excluded(last.clone()), Unbounded)).next());
        after.or_else(|| self.due.first_key_value()).map(|(key, _)| key.clone())
    }

    /// With the window's row as it is now: what to start from if there is something to hand on. Only what is published, and only
    /// the newest: the content that a row names is that of its newest revision.
    pub fn look(&mut self, key: &WindowKey, window: Option<&WindowRow>) -> Option<(FeedRow, WindowFeed)> {
        let (row, fed) = self.row(key);
        let shown = |window: &&WindowRow| window.published == window.revision || sabotage::is(Sabotage::FeedUnpublished);
        let newest = window.filter(shown).map_or(0, |window| window.revision);
        if newest > fed.revision {
            return Some((row, fed));
        }
        // Not due after all, or a revision is on its way: its publication is told.
        self.due.remove(key);
        None
    }

    /// The sink has what this row says.
    pub fn fed(&mut self, row: FeedRow) {
        let Some(key) = feed_of(&row).map(|fed| (fed.table.clone(), fed.start_us)) else { return };
        self.due.remove(&key);
        self.row_stands(row);
        self.last = Some(key);
    }

    /// It could not be handed on: the others' turn.
    pub fn failed(&mut self, key: WindowKey) {
        self.last = Some(key);
    }

    /// Windows that wait.
    pub fn waiting(&self) -> u64 {
        self.due.len() as u64
    }

    /// How long the oldest of them has waited.
    pub fn lag_us(&self, now_us: i64) -> i64 {
        self.due.values().min().map_or(0, |since| now_us.saturating_sub(*since).max(0))
    }

    /// Does the sink fall behind, or is it back?
    pub fn turn(&mut self, now_us: i64) -> Option<Turn> {
        let lag = self.lag_us(now_us).unsigned_abs();
        self.lag.turn(lag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::row::{WindowStatus, WindowTotals};

    fn window(start_us: i64, revision: u64, published: u64) -> WindowRow {
        WindowRow {
            table: "t".into(),
            start_us,
            end_us: start_us + 1,
            version: 1,
            revision,
            status: WindowStatus::Closed,
            vector: BTreeMap::new(),
            content: None,
            rows: 0,
            counts: WindowTotals::default(),
            overflow: false,
            missing: Vec::new(),
            empty_since_us: None,
            sequences: BTreeMap::new(),
            published,
            base: None,
        }
    }

    fn key(start_us: i64) -> WindowKey {
        ("t".to_owned(), start_us)
    }

    fn fed(start_us: i64, revision: u64) -> FeedRow {
        let row = FeedRow::of_window("s", "t", start_us);
        let fed = WindowFeed { table: "t".into(), start_us, revision, ..WindowFeed::default() };
        row.next(Feed::Window(fed))
    }

    #[test]
    fn a_window_is_due_until_its_newest_revision_is_fed() {
        let mut feed = GoldFeed::new("s", 10);
        feed.row_stands(fed(1, 3));
        feed.published(key(1), 3, 0);
        assert_eq!(feed.next(), None);
        feed.published(key(1), 4, 0);
        assert_eq!(feed.next(), Some(key(1)));
        let (_, has) = feed.look(&key(1), Some(&window(1, 5, 5))).expect("due");
        assert_eq!(has.revision, 3, "4 is skipped");
        feed.fed(fed(1, 5));
        assert_eq!((feed.next(), feed.waiting()), (None, 0));
    }

    #[test]
    fn a_revision_that_nobody_can_see_is_not_handed_on() {
        let mut feed = GoldFeed::new("s", 10);
        feed.published(key(1), 1, 0);
        assert!(feed.look(&key(1), Some(&window(1, 2, 1))).is_none(), "the content is that of revision 2");
        assert_eq!(feed.next(), None, "its publication is told");
        feed.published(key(1), 2, 0);
        assert!(feed.look(&key(1), Some(&window(1, 2, 2))).is_some());
        assert!(feed.look(&key(1), None).is_none());
    }

    #[test]
    fn one_window_that_fails_keeps_no_other_waiting() {
        let mut feed = GoldFeed::new("s", 10);
        (1..=3).for_each(|start| feed.published(key(start), 1, 0));
        let mut turns = Vec::new();
        for _ in 0..4 {
            let next = feed.next().expect("due");
            turns.push(next.1);
            feed.failed(next);
        }
        assert_eq!(turns, [1, 2, 3, 1]);
    }

    #[test]
    fn a_sink_is_behind_by_the_age_of_the_oldest_window_that_waits() {
        let mut feed = GoldFeed::new("s", 10);
        feed.published(key(1), 1, 100);
        feed.published(key(2), 1, 105);
        feed.published(key(1), 2, 109);
        assert_eq!((feed.turn(110), feed.turn(111)), (None, Some(Turn::Behind)));
        feed.fed(fed(1, 2));
        assert_eq!((feed.lag_us(112), feed.turn(112)), (7, None));
        feed.fed(fed(2, 1));
        assert_eq!(feed.turn(112), Some(Turn::CaughtUp));
    }
}
