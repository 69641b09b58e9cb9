//! What a sink was given: one row per sink and window, or per sink and shard, under compare-and-set.
//!
//! Owns: the rows, the place in the letters of a shard, the version that a sink sees. Does not own: when something is handed on
//! (machines/feed), where the rows lie (ports::Rows).

use serde::{Deserialize, Serialize};

use super::epoch::ObjectRef;
use super::position::ShardId;

/// One row.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FeedRow {
    /// Name of the sink in the settings.
    pub sink: String,
    /// Counts every update of the row: the CAS compares it. 0 = not stored yet.
    pub version: u64,
    /// What it says.
    pub fed: Feed,
}

/// What a row of a sink says.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "of", rename_all = "snake_case")]
pub enum Feed {
    /// The sink is known: what has no row began after it.
    Sink {
        /// Shards of all workers wait for it: its letters are too many.
        #[serde(default)]
        holds: bool,
    },
    /// Of one window of one Gold table.
    Window(WindowFeed),
    /// Of the letters of one shard.
    Letters(LetterFeed),
}

/// What a sink has of one window.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct WindowFeed {
    /// Gold table.
    pub table: String,
    /// Start of the window.
    pub start_us: i64,
    /// Revision that the sink has whole, but for what was refused; 0 = none.
    pub revision: u64,
    /// Keys of every row that the sink may show, of `revision` and of whatever was tried since: a tombstone is due for each of
    /// them that a later revision lacks.
    pub shown: Option<ObjectRef>,
    /// Rows of that revision that the sink will never take, by reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<(String, u64)>,
}

/// Which letters of one shard a sink has.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LetterFeed {
    /// The shard.
    pub shard: ShardId,
    /// The letters of the epochs up to this one, all of them …
    pub epoch: u64,
    /// … and of the next one those before this place.
    pub place: LetterPlace,
    /// Letters handed over so far, each once …
    pub sent: u64,
    /// … of which the sink will never take so many.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub refused: u64,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// A place in the letters of one epoch.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct LetterPlace {
    /// Which of the epoch's letter files, from 0.
    pub file: u64,
    /// Line in it.
    pub line: u64,
    /// Where that line begins, in bytes.
    pub offset: u64,
}

impl FeedRow {
    /// The row that says that a sink is known.
    pub fn of_sink(sink: &str) -> Self {
        Self { sink: sink.to_owned(), version: 0, fed: Feed::Sink { holds: false } }
    }

    /// Of a window that the sink has nothing of.
    pub fn of_window(sink: &str, table: &str, start_us: i64) -> Self {
        let fed = WindowFeed { table: table.to_owned(), start_us, ..WindowFeed::default() };
        Self { sink: sink.to_owned(), version: 0, fed: Feed::Window(fed) }
    }

    /// Of a shard whose letters after this epoch are the sink's.
    pub fn of_letters(sink: &str, shard: &ShardId, epoch: u64) -> Self {
        let fed = LetterFeed { shard: shard.clone(), epoch, place: LetterPlace::default(), sent: 0, refused: 0 };
        Self { sink: sink.to_owned(), version: 0, fed: Feed::Letters(fed) }
    }

    /// Its key among the rows of its sink.
    pub fn key(&self) -> String {
        match &self.fed {
            Feed::Sink { .. } => sink_key(),
            Feed::Window(fed) => window_key(&fed.table, fed.start_us),
            Feed::Letters(fed) => letters_key(&fed.shard),
        }
    }

    /// What comes after it.
    pub fn next(&self, fed: Feed) -> Self {
        Self { sink: self.sink.clone(), version: self.version + 1, fed }
    }
}

/// Key of the row that says that a sink is known.
pub fn sink_key() -> String {
    "sink".to_owned()
}

/// Key of a window's row.
pub fn window_key(table: &str, start_us: i64) -> String {
    format!("window/{table}/{start_us}")
}

/// Key of the row of a shard's letters.
pub fn letters_key(shard: &ShardId) -> String {
    format!("letters/{shard}")
}

/// Bits of a version below the pipeline's age: a window that is revised every second fills them in two years, and then borrows
/// from a pipeline that would be made a sixteenth of a second later.
const REVISION_BITS: u32 = 26;
/// What is left of 63: sixteenths of a second until 2242.
const CREATED_BITS: u32 = 63 - REVISION_BITS;

/// What a sink sees of a revision: rises with it, and every revision of a pipeline that was made later (by a sixteenth of a
/// second at least) is above all of those of one that was made before. Below 2^63.
pub fn version(created_us: i64, revision: u64) -> u64 {
    let sixteenths = (u128::from(created_us.max(0).unsigned_abs()) * 16) / 1_000_000;
    let created = u64::try_from(sixteenths).unwrap_or(u64::MAX).min((1 << CREATED_BITS) - 2);
    ((created << REVISION_BITS).saturating_add(revision)).min(i64::MAX.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const YEAR_2242_US: i64 = 8_589_000_000_000_000;

    proptest! {
        #[test]
        fn a_later_revision_and_any_revision_of_a_later_pipeline_are_newer(
            created in 0..YEAR_2242_US,
            later in 62_500..YEAR_2242_US,
            revisions in (1..1u64 << REVISION_BITS, 1..1u64 << REVISION_BITS),
        ) {
            let (first, second) = revisions;
            prop_assert_eq!(first.cmp(&second), version(created, first).cmp(&version(created, second)));
            prop_assert!(version(created, first) < 1 << 63);
            if let Some(later) = created.checked_add(later).filter(|later| *later < YEAR_2242_US) {
                prop_assert!(version(later, first) > version(created, second));
            }
        }
    }

    #[test]
    fn versions_stay_within_a_signed_number_whatever_the_clock_said() {
        for created in [i64::MIN, -1, 0, i64::MAX] {
            assert!(version(created, 1) < version(created, 2), "{created}");
            assert!(version(created, u64::MAX) < 1 << 63);
        }
    }

    #[test]
    fn a_row_comes_back_from_its_json_and_has_its_key() {
        let shard = ShardId::new("shardId-3");
        let rows = [FeedRow::of_sink("a"), FeedRow::of_window("a", "hourly", -5), FeedRow::of_letters("a", &shard, 7)];
        assert_eq!(rows.clone().map(|row| row.key()), ["sink", "window/hourly/-5", "letters/shardId-3"]);
        for row in rows {
            let text = serde_json::to_string(&row).expect("writes");
            assert_eq!(serde_json::from_str::<FeedRow>(&text).expect("reads"), row);
        }
    }
}
