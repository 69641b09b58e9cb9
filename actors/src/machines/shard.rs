//! The shard: when to read, when an epoch ends, and what the next one knows of event time.
//!
//! Owns: position, epochs and their bounds, idleness, draining, the breaker. Does not own: reading (shells/shard), decoding
//! (machines/partition), committing (machines/commit).

pub use terms::{Extent, OnGap, Opening, Peers, Resumed, Seal, ShardConfig, ShardEffect, ShardEvent};

use crate::machines::breaker::Breaker;
use crate::model::fault::Fault;
use crate::model::position::Position;
use crate::model::record::RawRecord;
use crate::model::sabotage::{self, Sabotage};
use crate::model::window::Bound;
use crate::ports::{Read, ShardInfo};

mod terms;

/// An answer that said that there was nothing more is believed for so long while the next one is waited for.
const EVIDENCE_US: i64 = 1_000_000;

/// Committed evidence of how far a shard is read completely ([`Read::fresh_us`]) grows no older than this while the shard is
/// silent: far less than any stream keeps, and rarely enough to cost nothing.
const RENEWAL_US: i64 = 3_600_000_000;
/// … and no older than this when reading ends.
const LAST_RENEWAL_US: i64 = 60_000_000;

/// While an epoch is being committed the next one may grow to so many times the size at which it is due. Written out, its bytes
/// hold no credit any more, and a store that is away for hours must not fill the disk.
const UNCOMMITTED_MAX: u64 = 4;

/// Where records go on after a hole: dense numbers tell of every record that a stream leaves out. Numbers that are not in order
/// are a hole, too.
fn hole(after: Position, records: &[RawRecord]) -> Option<Position> {
    let mut last = after.as_dense();
    let mut before = (after.sequence(), u32::MAX);
    for record in records {
        let number = record.sequence.as_dense();
        let goes_on = match (last, number) {
            (Some(last), Some(number)) => number == last || number == last + 1,
            (None, _) | (_, None) => true,
        };
        if !goes_on || (Some(record.sequence), record.sub_sequence) <= before {
            return Some(Position::after(record.sequence));
        }
        before = (Some(record.sequence), record.sub_sequence);
        last = number;
    }
    None
}

/// What a shard with nothing to read would commit after this answer, as things stand: the bound, if it moves. Nothing is taken
/// for that, and nobody is disturbed.
pub fn idle_bound(mut machine: ShardMachine, read: Read, peers: Peers, now_us: i64) -> Option<Bound> {
    machine.apply(ShardEvent::Started, now_us);
    machine.apply(ShardEvent::Read(read), now_us);
    machine.apply(ShardEvent::Tick { peers, held: false }, now_us).into_iter().find_map(|effect| match effect {
        ShardEffect::Barrier(seal) => Some(seal.next.bound),
        ShardEffect::Fetch(_) | ShardEffect::Dispatch(_) | ShardEffect::Quiet | ShardEffect::NotQuiet => None,
        ShardEffect::Finished | ShardEffect::Halt(_) | ShardEffect::Skipped { .. } | ShardEffect::Tripped(_) => None,
    })
}

/// The state machine of one shard in one generation.
#[derive(Debug)]
pub struct ShardMachine {
    config: ShardConfig,
    open: Opening,
    from: Position,
    position: Position,
    records: u64,
    bytes: u64,
    groups: u64,
    gaps: u64,
    gap_at: Option<Position>,
    first_record_at_us: Option<i64>,
    sealed_at_us: i64,
    now_us: i64,
    committed: u64,
    settled: bool,
    max_event_us: Option<i64>,
    last_arrival_us: Option<i64>,
    stream_now_us: Option<i64>,
    behind_us: Option<i64>,
    fresh_us: Option<i64>,
    sealed_fresh_us: Option<i64>,
    fetching: bool,
    asked_us: i64,
    next_fetch_us: i64,
    caught_up: bool,
    looked: bool,
    told_of_peers: bool,
    in_partitions: u64,
    ended: Option<Vec<ShardInfo>>,
    last_sealed: bool,
    quiet: bool,
    stopping: bool,
    stopped: bool,
    breaker: Breaker,
    peers: Peers,
    held: bool,
}

impl ShardMachine {
    /// A shard that resumes after `from`.
    pub fn new(config: ShardConfig, from: Resumed, now_us: i64) -> Self {
        let Resumed { committed, position, bound, last_arrival_us, max_event_us, fresh_us } = from;
        Self {
            open: Opening { epoch: committed + 1, bound, processed_at_us: now_us },
            from: position,
            position,
            records: 0,
            bytes: 0,
            groups: 0,
            gaps: 0,
            gap_at: None,
            first_record_at_us: None,
            sealed_at_us: now_us,
            now_us,
            committed,
            settled: true,
            max_event_us,
            last_arrival_us,
            stream_now_us: None,
            behind_us: None,
            fresh_us,
            sealed_fresh_us: fresh_us,
            fetching: false,
            asked_us: now_us,
            next_fetch_us: now_us,
            caught_up: false,
            looked: false,
            told_of_peers: false,
            in_partitions: 0,
            ended: None,
            last_sealed: false,
            quiet: false,
            stopping: matches!(config.extent, Extent::Handed(last) if position >= last),
            stopped: false,
            breaker: Breaker::new(config.breaker),
            peers: Peers::default(),
            held: false,
            config,
        }
    }

    /// What the first epoch of the generation opens with.
    pub fn opening(&self) -> Opening {
        self.open
    }

    /// Has it read everything, with positive evidence?
    pub fn is_idle(&self) -> bool {
        self.caught_up && self.records == 0 && !self.is_unanswered()
    }

    /// A read that does not come back, throttled, failing or waiting for credits, makes what the one before it found old: records
    /// may lie there that nobody can see.
    fn is_unanswered(&self) -> bool {
        let patience_us = EVIDENCE_US.max(2 * self.config.poll_us);
        self.fetching && self.now_us.saturating_sub(self.asked_us) > patience_us
    }

    /// Has the shard ever had a record?
    pub fn had_records(&self) -> bool {
        self.last_arrival_us.is_some()
    }

    /// Bytes that the open epoch's partial aggregates hold, for people.
    pub fn groups(&self) -> u64 {
        self.groups
    }

    /// Read position, for people.
    pub fn position(&self) -> Position {
        self.position
    }

    /// How far reading lies behind the newest record, for people. While a read is not answered it is the most that it can be.
    pub fn behind_us(&self) -> Option<i64> {
        let unseen_us = if self.is_unanswered() { self.now_us.saturating_sub(self.asked_us) } else { 0 };
        Some(self.behind_us?.saturating_add(unseen_us))
    }

    /// Takes an event in; `now_us` is the owner's clock and drives timers only.
    pub fn apply(&mut self, event: ShardEvent, now_us: i64) -> Vec<ShardEffect> {
        let mut effects = Vec::new();
        if self.stopped {
            return effects;
        }
        self.follow_the_clock(now_us);
        match event {
            ShardEvent::Started => {}
            ShardEvent::Read(read) => self.read(read, now_us, &mut effects),
            ShardEvent::Progress { epoch, records, failed, max_event_us, grown } => {
                self.in_partitions = self.in_partitions.saturating_sub(records);
                if epoch == self.open.epoch {
                    self.groups += grown;
                }
                self.max_event_us = self.max_event_us.max(max_event_us);
                if let Some(trip) = self.breaker.saw(records, failed) {
                    self.stopped = true;
                    effects.push(ShardEffect::Tripped(trip));
                    return effects;
                }
            }
            ShardEvent::Committed { epoch } => {
                self.committed = self.committed.max(epoch);
                self.settled = false;
            }
            ShardEvent::Settled => self.settled = true,
            ShardEvent::Tick { peers, held } => {
                // What the last read found is old when it may be read again.
                self.caught_up &= !held;
                (self.peers, self.held, self.told_of_peers) = (peers, held, true);
            }
            ShardEvent::Stop => self.stopping = true,
        }
        if !self.stopped {
            self.seal_when_due(now_us, &mut effects);
            self.stopping |= self.has_looked();
            self.fetch_when_due(now_us, &mut effects);
            self.report_quiet(&mut effects);
        }
        effects
    }

    /// When the owner's clock is set back, timers go back with it: what has been waited counts, and nothing waits for longer.
    fn follow_the_clock(&mut self, now_us: i64) {
        let back = self.now_us.saturating_sub(now_us).max(0);
        self.now_us = now_us;
        self.sealed_at_us -= back;
        self.next_fetch_us -= back;
        self.asked_us -= back;
        self.first_record_at_us = self.first_record_at_us.map(|at| at - back);
    }

    fn read(&mut self, mut read: Read, now_us: i64, effects: &mut Vec<ShardEffect>) {
        self.fetching = false;
        self.stream_now_us = Some(read.now_us);
        self.behind_us = read.behind_us.or(self.behind_us);
        // A delivery that is repeated brings what is here already.
        let again = sabotage::is(Sabotage::CountAgain);
        read.records.retain(|record| again || Position::after(record.sequence) > self.position);
        if let Some(resumes) = read.trimmed_before.or_else(|| hole(self.position, &read.records)).filter(|_| !again) {
            match self.config.on_gap {
                OnGap::Halt => {
                    self.stopped = true;
                    effects.push(ShardEffect::Halt(self.loss(resumes, read.ended.is_some())));
                    return;
                }
                OnGap::Continue => {
                    let skipped = self.count_gap(&read).then(|| ShardEffect::Skipped { after: self.position, resumes });
                    effects.extend(skipped);
                }
            }
        }
        self.caught_up = read.caught_up && read.records.is_empty();
        // What was complete up to an earlier position is complete up to a later one. Evidence that is committed before the gap is
        // would hide it.
        if read.trimmed_before.is_none() || self.gap_at == Some(self.position) {
            self.fresh_us = self.fresh_us.max(read.fresh_us);
        }
        self.looked = true;
        if read.ended.is_some() && read.records.is_empty() {
            self.ended = read.ended;
        }
        let Some(last) = read.records.last() else {
            self.next_fetch_us = now_us + self.config.poll_us;
            return;
        };
        self.position = Position::after(last.sequence);
        self.last_arrival_us = Some(last.arrival_us);
        self.records += read.records.len() as u64;
        self.in_partitions += read.records.len() as u64;
        self.bytes += read.records.iter().map(|record| record.data.len() as u64).sum::<u64>();
        self.first_record_at_us.get_or_insert(now_us);
        self.stopping |= matches!(self.config.extent, Extent::Handed(last) if self.position >= last);
        effects.push(ShardEffect::Dispatch(read.records));
    }

    fn loss(&self, resumes: Position, ended: bool) -> Fault {
        let position = self.position;
        Fault::corrupt(if ended {
            format!(
                "gap: the stream no longer has what followed {position} in this shard, which has ended: its records were \
                 forgotten, or the stream was replaced. Accept that with stream.on_gap = \"continue\": the shard ends there and \
                 what came out of it is read; or start a new pipeline"
            )
        } else {
            format!(
                "gap: the stream no longer has the records after {position}; the next one follows {resumes}. Restore them, or \
                 accept the gap with stream.on_gap = \"continue\""
            )
        })
    }

    /// A gap is told again with every read until the position has passed it, and to every generation. It is counted once, with
    /// what keeps the next one from being told: the records behind it, the shard's end, or evidence that nothing lay behind it.
    /// Was it counted now?
    fn count_gap(&mut self, read: &Read) -> bool {
        let silent = read.caught_up && read.fresh_us.is_some();
        let counts = (!read.records.is_empty() || read.ended.is_some() || silent) && self.gap_at != Some(self.position);
        if counts {
            self.gaps += 1;
            self.gap_at = Some(self.position);
        }
        counts
    }

    /// The bound that the next epoch would open with: from the data of earlier epochs, or, when idle, from the others.
    fn next_bound(&self) -> Bound {
        let own = self.max_event_us.map_or(Bound::UNKNOWN, |event| Bound::from_event(event, self.config.disorder_us));
        let mut bound = self.open.bound.max(own);
        if (!self.is_idle() || self.in_partitions > 0) && !sabotage::is(Sabotage::AdvanceByTheClock) {
            return bound;
        }
        match (self.last_arrival_us, self.max_event_us) {
            // Event time passes at the pace of arrival, and never ahead of a shard that still works. No clock when draining.
            (Some(arrival), Some(event)) if !self.config.drain => {
                let passed = self.stream_now_us.unwrap_or(arrival).saturating_sub(arrival).max(0);
                let clock = Bound::from_event(event.saturating_add(passed), self.config.disorder_us);
                bound = bound.max(self.peers.active.map_or(clock, |active| active.min(clock)));
            }
            (Some(_), _) => {}
            // Never had a record: it only follows.
            (None, _) => bound = bound.max(self.peers.active.or(self.peers.known).unwrap_or(Bound::UNKNOWN)),
        }
        bound
    }

    fn seal_when_due(&mut self, now_us: i64, effects: &mut Vec<ShardEffect>) {
        // At most two epochs are open: this one, and one that is being committed.
        if self.last_sealed || self.open.epoch > self.committed + 1 {
            return;
        }
        let bound = self.next_bound();
        let waited = |since: i64| now_us.saturating_sub(since) >= self.config.commit_interval_us;
        let at_rest = self.is_at_rest();
        let due = if self.ended.is_some() {
            self.in_partitions == 0
        } else if self.stopping {
            (self.records > 0 || self.evidence_is_old()) && self.in_partitions == 0
        } else if self.records > 0 {
            let full = self.bytes >= self.config.commit_size || self.groups >= self.config.group_memory;
            full || self.first_record_at_us.is_some_and(waited) || (self.config.drain && at_rest)
        } else {
            let due = waited(self.sealed_at_us) || (self.config.drain && at_rest) || self.has_looked();
            (bound > self.open.bound && due) || self.evidence_is_old()
        };
        if !due {
            return;
        }
        let next = Opening { epoch: self.open.epoch + 1, bound, processed_at_us: now_us };
        effects.push(ShardEffect::Barrier(Box::new(Seal {
            opened: self.open,
            from: self.from,
            to: self.position,
            records: self.records,
            bytes: self.bytes,
            next,
            last_arrival_us: self.last_arrival_us,
            fresh_us: self.fresh_us,
            gaps: self.gaps,
            ended: self.ended.clone(),
        })));
        self.last_sealed = self.ended.is_some();
        self.open = next;
        self.sealed_fresh_us = self.fresh_us;
        self.from = self.position;
        (self.records, self.bytes, self.groups, self.gaps) = (0, 0, 0, 0);
        self.first_record_at_us = None;
        self.sealed_at_us = now_us;
    }

    /// Would a restart know much less of how far this silent shard is read than this generation does? A shard that never had a
    /// record needs it most: it has no last record that could be looked for.
    fn evidence_is_old(&self) -> bool {
        let silent = self.records == 0 && (self.is_idle() || self.stopping);
        let Some(fresh_us) = self.fresh_us.filter(|_| silent) else { return false };
        let old_us = if self.stopping || self.config.drain { LAST_RENEWAL_US } else { RENEWAL_US };
        self.sealed_fresh_us.is_none_or(|sealed_us| fresh_us.saturating_sub(sealed_us) >= old_us)
    }

    fn fetch_when_due(&mut self, now_us: i64, effects: &mut Vec<ShardEffect>) {
        if self.last_sealed || self.stopping {
            // A read that is under way when the process is asked to end may never come back: what it brings is read again.
            if self.records == 0 && self.open.epoch == self.committed + 1 && self.settled {
                self.stopped = true;
                effects.push(ShardEffect::Finished);
            }
            return;
        }
        let is_large = self.bytes >= self.config.commit_size.saturating_mul(UNCOMMITTED_MAX);
        // Groups are in memory: of these no more than is due may wait.
        let full = self.open.epoch > self.committed + 1 && (is_large || self.groups >= self.config.group_memory);
        // What the last read found is old when it may be read again.
        self.caught_up &= !full;
        if !self.fetching && !self.held && !full && now_us >= self.next_fetch_us {
            (self.fetching, self.asked_us) = (true, now_us);
            effects.push(ShardEffect::Fetch(self.position));
        }
    }

    /// Of a generation that looks once: the answer is in, and so is what the other shards have committed.
    fn has_looked(&self) -> bool {
        self.config.extent == Extent::Once && self.looked && self.told_of_peers
    }

    /// Everything there was has been read and has gone through the partitions.
    fn is_at_rest(&self) -> bool {
        self.caught_up && self.in_partitions == 0
    }

    fn report_quiet(&mut self, effects: &mut Vec<ShardEffect>) {
        let all_committed = self.records == 0 && self.open.epoch == self.committed + 1;
        let quiet = self.config.drain && self.is_at_rest() && all_committed && self.next_bound() == self.open.bound;
        if quiet != self.quiet {
            self.quiet = quiet;
            effects.push(if quiet { ShardEffect::Quiet } else { ShardEffect::NotQuiet });
        }
    }
}
