//! What one reader remembers of one shard between two reads.
//!
//! # What can be known of lost records
//! Kinesis says nothing when the records after a position were forgotten: the iterator silently stands at the horizon, or is
//! refused, or finds nothing for ever. Numbers are not dense, so a jump is no sign either. What is certain: nothing is forgotten
//! before the retention period has passed, and in order. So a shard read completely up to a time that lies within the retention
//! has lost nothing ([`Cursor::suspicion`]); else the position's own record is asked for: if it is there, nothing after it
//! is gone. If it is gone, it cannot be known whether others went with it, and it is a gap. A position without memory (a
//! new process) is asked for, unless [`Cursor::recall`] is told until when it was read, and that is less than a day ago: no
//! retention is shorter, so nothing that came later can be gone. Had it been longer, the retention that is set now would not
//! prove it: nobody looked while it may have been lowered and raised again. So a shard that was silent for longer than the
//! retention shows a gap after a stop of more than a day, and after no shorter one.
//!
//! Before the first record there is no record to ask for. A shard that came out of others is known to have been empty when they
//! were read for the last time before their end ([`Cursor::recall`]); if that is too long ago, the last records of those are
//! asked for: while one of them is kept, whatever came after them is. A time of arrival says itself from when on records are
//! wanted.
//! Where nothing can be asked for, it cannot be known what is gone, and it is a gap. A reader that nobody has told anything and
//! that begins at the horizon is a new pipeline's. It is believed until it has got away from there, and tells nobody until when
//! it has read: what goes while it catches up is what a start at the horizon leaves out.
//!
//! Owns: iterator, records that were fetched and not handed out, freshness. Does not own: calls and pace (source).

use std::collections::VecDeque;

use sluicebox_actors::model::position::{Position, Sequence, ShardId};
use sluicebox_actors::model::record::RawRecord;
use sluicebox_actors::ports::{Read, Recall, ShardInfo};

use super::api::{Batch, Begin};

/// Clear of the horizon by so much, a reader that began there has got away from it.
const AWAY_US: i64 = 300_000_000;

/// The shortest retention there is.
const DAY_US: i64 = 86_400_000_000;
/// What is recalled was measured by another process from another machine of the service.
const RECALL_MARGIN_US: i64 = 300_000_000;

/// Why reading goes on at the horizon and not at its position.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Restart {
    /// The service refuses the position.
    Refused,
    /// An iterator that does not move: the position may well be kept.
    Stuck,
}

/// What has to be seen before an answer is believed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Suspicion {
    /// Nothing: no record after the position can be gone.
    Unfounded,
    /// That the position's own record is still kept.
    Own(Sequence),
    /// Nothing was read of the shard.
    Before {
        /// That one of these is, each the last record of a shard that it came from …
        last: Vec<(ShardId, Sequence)>,
        /// … and that it arrived later than this.
        horizon_us: i64,
    },
}

/// Memory of one shard.
#[derive(Debug, Default)]
pub struct Cursor {
    handed: Position,
    fetched: Position,
    fetched_any: bool,
    iterator: Option<String>,
    waiting: VecDeque<RawRecord>,
    children: Option<Vec<ShardInfo>>,
    behind_ms: Option<i64>,
    now_us: i64,
    // All records that arrived until then were fetched, by the service's clock.
    fresh_us: Option<i64>,
    // … and since then nobody has looked at the retention.
    recalled: bool,
    // They came before whatever this shard holds.
    before: Vec<(ShardId, Sequence)>,
    from_horizon: bool,
    gap: Option<Position>,
    // What was known of freshness when it was found.
    gap_fresh_us: Option<i64>,
    // Until the horizon has answered.
    restart: Option<Restart>,
    // Its end was handed out.
    over: bool,
    weight_each: usize,
}

impl Cursor {
    /// A reader wants what follows this position. Anywhere but where the last answer ended, memory is worth nothing.
    pub fn aim(&mut self, after: Position) {
        if !self.fetched_any || self.handed != after {
            self.forget(after);
        }
    }

    fn forget(&mut self, after: Position) {
        let (now_us, weight_each) = (self.now_us, self.weight_each);
        *self = Self { handed: after, fetched: after, fetched_any: true, now_us, weight_each, ..Self::default() };
        self.from_horizon = after == Position::START;
    }

    /// What somebody else remembers: the shard was read completely up to this position until this time of the service's clock.
    pub fn recall(&mut self, after: Position, recall: &Recall) {
        self.aim(after);
        if self.from_horizon {
            // What was fetched as a new pipeline's was not doubted.
            self.forget(after);
        }
        // It was committed after the gap was found, and the gap with it.
        if self.gap.is_some() && Some(recall.fresh_us) > self.gap_fresh_us {
            self.gap = None;
        }
        self.recalled |= self.fresh_us.is_none();
        self.fresh_us = self.fresh_us.max(Some(recall.fresh_us));
        self.before.clone_from(&recall.before);
        self.from_horizon = false;
    }

    /// The iterator that goes on, if there is one.
    pub fn iterator(&self) -> Option<&str> {
        self.iterator.as_deref()
    }

    /// Where a new iterator has to begin: AFTER the last record fetched, never at it, never at the latest.
    pub fn begin(&self) -> Begin {
        match (self.fetched.sequence(), self.fetched.as_arrival()) {
            _ if self.restart.is_some() => Begin::Horizon,
            (Some(last), _) => Begin::After(last),
            // Arrivals have milliseconds: the first that is not earlier.
            (None, Some(at_us)) => Begin::Time(at_us.div_euclid(1000) + i64::from(at_us.rem_euclid(1000) != 0)),
            (None, None) => Begin::Horizon,
        }
    }

    /// A new iterator, or none: the old one has expired.
    pub fn set_iterator(&mut self, iterator: Option<String>) {
        self.iterator = iterator;
    }

    /// So many records of the last size fit into this room.
    pub fn limit(&self, max_records: usize, max_bytes: usize) -> usize {
        let fit = max_bytes.checked_div(self.weight_each).unwrap_or(max_records);
        fit.min(max_records).clamp(1, 10_000)
    }

    /// What must be seen before this answer is believed?
    pub fn suspicion(&self, batch: &Batch, retention_us: i64) -> Suspicion {
        if self.gap.is_some() || self.from_horizon {
            return Suspicion::Unfounded;
        }
        let now_us = self.now_us.max(batch.latest_us.or(batch.date_us).unwrap_or(i64::MIN));
        // The service's clock comes in whole seconds.
        let kept_us = if self.recalled { retention_us.min(DAY_US) - RECALL_MARGIN_US } else { retention_us - 1_000_000 };
        // What arrived before the time at which a reader begins is not wanted.
        let fresh_us = self.fresh_us.max(self.fetched.as_arrival());
        match (self.fetched.sequence(), fresh_us) {
            (_, Some(fresh_us)) if now_us > 0 && now_us.saturating_sub(fresh_us) < kept_us => Suspicion::Unfounded,
            (Some(own), Some(_) | None) => Suspicion::Own(own),
            // A service that does not tell the time yet.
            (None, Some(_)) if now_us <= 0 => Suspicion::Unfounded,
            (None, Some(_)) => Suspicion::Before { last: self.before.clone(), horizon_us: now_us.saturating_sub(retention_us) },
            (None, None) => Suspicion::Unfounded,
        }
    }

    /// What followed the position is gone; the first record left, if it is known.
    pub fn gap(&mut self, first_left: Option<Sequence>) {
        self.gap = Some(first_left.map_or(self.handed, Position::after));
        self.gap_fresh_us = self.fresh_us;
    }

    /// The stream has forgotten the shard, and these came out of it. Whatever was not fetched is lost, unless nobody had begun to
    /// read it.
    pub fn vanish(&mut self, children: Vec<ShardInfo>) {
        if !self.from_horizon {
            self.gap(None);
        }
        (self.iterator, self.restart, self.children) = (None, None, Some(children));
    }

    /// Go on at the horizon: the position cannot be asked for any more.
    pub fn restart_at_horizon(&mut self, why: Restart) {
        // A time that was forgotten leads to the horizon by itself; any other must not lead into the past.
        if self.fetched.as_arrival().is_none() {
            self.restart = Some(why);
        }
        self.iterator = None;
    }

    /// Does the horizon lie before a position that the service refused? Then it is not the same stream.
    pub fn is_replaced(&self, batch: &Batch) -> bool {
        let older = |record: &RawRecord| Position::after(record.sequence) <= self.fetched;
        self.restart == Some(Restart::Refused) && batch.records.first().is_some_and(older)
    }

    /// Was an answer empty although the end of it lies behind by all that is kept? Such an iterator never moves.
    pub fn is_stuck(&self, batch: &Batch, retention_us: i64) -> bool {
        batch.records.is_empty() && batch.behind_ms.is_some_and(|behind| behind.saturating_mul(1000) >= retention_us)
    }

    /// Takes an answer in. `parts` are its records, aggregates taken apart; what was there before is left out.
    pub fn take(&mut self, batch: Batch, parts: Vec<RawRecord>, retention_us: i64) {
        let kinesis_records = batch.records.len();
        let weight: usize = parts.iter().map(RawRecord::weight).sum();
        self.weight_each = weight.checked_div(kinesis_records).unwrap_or(self.weight_each);
        let newest = batch.records.iter().map(|record| record.arrival_us).max();
        self.now_us = self.now_us.max(batch.date_us.or(newest).unwrap_or(i64::MIN));
        self.settle(&batch);
        let known = self.fetched;
        self.waiting.extend(parts.into_iter().filter(|part| Position::after(part.sequence) > known));
        if let Some(last) = self.waiting.back() {
            self.fetched = self.fetched.max(Position::after(last.sequence));
        }
        self.behind_ms = batch.behind_ms;
        self.recalled = false;
        // At the end of a shard, records lie in those that came out of it: only until its own last one is nothing there.
        let read_us = match batch.next {
            Some(_) => batch.behind_ms.map(|behind| self.now_us - behind.saturating_mul(1000)),
            None => newest,
        };
        self.fresh_us = self.fresh_us.max(read_us);
        let away = |fresh: i64| self.now_us - fresh + AWAY_US < retention_us;
        self.from_horizon = self.from_horizon && !self.fresh_us.is_some_and(away);
        if batch.next.is_none() {
            self.children = Some(batch.children);
        }
        self.iterator = batch.next;
    }

    /// What an answer says of a gap, and of a restart at the horizon.
    fn settle(&mut self, batch: &Batch) {
        if let Some(first) = batch.records.first().map(|record| Position::after(record.sequence)) {
            // The horizon lies before the position: nothing after it can be gone.
            let kept = self.restart == Some(Restart::Stuck) && first <= self.fetched;
            let unknown = self.gap == Some(self.fetched);
            self.gap = if kept { None } else { self.gap.map(|left| if unknown { first.max(left) } else { left }) };
        }
        if !batch.records.is_empty() || batch.behind_ms == Some(0) || batch.next.is_none() {
            self.restart = None;
        }
    }

    /// Nothing is left to hand out.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The stream has closed the shard and every record of it was fetched; what it said came out of it.
    pub fn end(&self) -> Option<&[ShardInfo]> {
        self.children.as_deref()
    }

    /// Its reader knows that it has ended.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// There is more, although the last answer was empty.
    pub fn has_more(&self) -> bool {
        self.restart.is_some() || self.iterator.is_some() && self.behind_ms != Some(0)
    }

    /// How far the last record fetched lies behind the tip, milliseconds.
    pub fn behind_ms(&self) -> Option<i64> {
        self.behind_ms
    }

    /// The position asked for, as it stands.
    pub fn fetched(&self) -> Position {
        self.fetched
    }

    /// Hands records out: whole Kinesis records, at least one if there is one.
    pub fn hand_out(&mut self, max_records: usize, max_bytes: usize, children: Option<Vec<ShardInfo>>) -> Read {
        let (mut records, mut weight) = (Vec::new(), 0usize);
        while let Some(first) = self.waiting.front() {
            let sequence = first.sequence;
            let whole = self.waiting.iter().take_while(|part| part.sequence == sequence);
            let (count, bytes) = whole.fold((0, 0), |(count, bytes), part| (count + 1, bytes + part.weight()));
            if !records.is_empty() && (records.len() + count > max_records || weight + bytes > max_bytes) {
                break;
            }
            records.extend(self.waiting.drain(..count));
            weight += bytes;
        }
        // Before the horizon has answered, a gap is a suspicion.
        let trimmed_before = self.gap.filter(|_| self.restart.is_none());
        if let Some(last) = records.last() {
            self.handed = Position::after(last.sequence);
            self.gap = None;
        }
        let all = self.waiting.is_empty();
        self.over = children.is_some();
        let caught_up = all && (self.behind_ms == Some(0) || self.children.is_some());
        let behind_us = match records.last() {
            Some(last) if !all => Some(self.now_us.saturating_sub(last.arrival_us)),
            Some(_) | None => self.behind_ms.map(|behind| behind.saturating_mul(1000)),
        };
        let fresh_us = self.fresh_us.filter(|_| all && !self.from_horizon);
        Read { records, caught_up, now_us: self.now_us, ended: children, trimmed_before, behind_us, fresh_us }
    }
}
