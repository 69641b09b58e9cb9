//! Rare and important situations: a swarm that never meets them is about less than it says.
//!
//! Owns: how a takeover and a deletion are told apart. Does not own: the effects (store), which ones must be met (the tests).

use sluicebox_actors::model::position::ShardId;
use sluicebox_actors::model::row::{ShardRow, ShardState};

use crate::store::Store;
use crate::truth::{Judged, WindowJudged};

impl Store {
    /// This happened.
    pub fn mark(&mut self, what: &'static str) {
        *self.marks.entry(what).or_default() += 1;
    }

    /// Notes what a lease that is being taken finds.
    pub fn mark_takeover(&mut self, old: &ShardRow) {
        if self.alive > 1 {
            self.mark("takeover beside a process that lives");
        }
        let last = self.commits.get(&old.shard).and_then(|commits| commits.last());
        let staged =
            last.map(|last| last.header.pending.iter().filter(|output| self.staged.contains_key(&output.staged)).count());
        let all = last.map_or(0, |last| last.header.pending.len());
        self.mark(match (old.state, staged) {
            (ShardState::Blocked, _) => "a child opens",
            (ShardState::Drained | ShardState::Retired, Some(1..)) => "takeover of a drained shard with files to publish",
            (ShardState::Drained | ShardState::Retired, _) => "takeover of a drained shard",
            (ShardState::Open, None) if old.lease_epoch == 0 => "a shard is taken for the first time",
            (ShardState::Open, None) => "takeover before the first commit",
            (ShardState::Open, Some(0)) => "takeover, all files visible",
            (ShardState::Open, Some(some)) if some < all => "takeover, some files visible",
            (ShardState::Open, Some(_)) => "takeover, no file visible",
        });
    }

    /// Notes what kind of object is deleted.
    pub fn mark_deletion(&mut self, key: &str) {
        let mut parts = key.split('/');
        let what = match (parts.next(), parts.next(), sluicebox_actors::history::epoch_of(key)) {
            (Some("epochs"), Some(shard), Some(epoch)) => {
                let row = self.rows.get(&ShardId::new(shard));
                let named = self.commits.get(&ShardId::new(shard)).into_iter().flatten();
                let named = named.filter_map(|commit| commit.row.object.as_ref()).any(|object| object.key == key);
                match (named, row.is_some_and(|row| epoch > row.epoch)) {
                    (true, _) => "an epoch object is collected",
                    (false, true) => "an epoch object that never became true is deleted at takeover",
                    (false, false) => "an epoch object that never became true is collected",
                }
            }
            (Some("bases"), ..) => "a base is deleted",
            (Some("fed"), ..) => "keys that a sink showed are deleted",
            _ => "a content is deleted",
        };
        if self.blobs.contains_key(key) {
            self.mark(what);
        }
    }

    /// Notes the verdicts of an epoch.
    pub fn mark_letters(&mut self, judged: &Judged) {
        let any = |count: fn(&WindowJudged) -> u64| judged.windows.values().any(|window| count(window) > 0);
        let verdicts = [
            (judged.bad > 0, "a letter for a bad record"),
            (judged.filtered > 0, "a filtered record"),
            (any(|window| window.late), "a late record"),
            (any(|window| window.too_late), "a letter for a record that came too late"),
        ];
        verdicts.into_iter().filter(|(met, _)| *met).for_each(|(_, what)| self.mark(what));
    }
}
