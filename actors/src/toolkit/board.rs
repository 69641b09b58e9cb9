//! What everybody in this process may look at: the live state of each shard and each sink.
//!
//! Owns: one entry per shard, written by its own generation and its supervisor; one per sink, written by its feeder.
//! Does not own: truth. Nothing that changes a result is decided by it but the idle rule, whose bounds are committed ones.

use std::sync::atomic::{AtomicBool, Ordering};

use dashmap::DashMap;

use crate::machines::commit::History;
use crate::machines::shard::Peers;
use crate::model::fault::Fault;
use crate::model::ledger::Counts;
use crate::model::position::{Position, ShardId};
use crate::model::row::{ShardRow, ShardState};
use crate::model::window::Bound;

/// What a shard is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Life {
    /// Takes the lease, publishes what is pending.
    #[default]
    Starting,
    /// Reads.
    Running,
    /// Waits for its parents.
    Blocked,
    /// Pauses after a fault.
    Restarting,
    /// Failed too often; a person has to look.
    Quarantined,
    /// The breaker has tripped.
    Tripped,
    /// Another worker has it, or nobody yet.
    Elsewhere,
    /// Read to its end, or told to stop.
    Finished,
}

impl Life {
    /// Given up: only a person brings it back.
    pub fn is_lost(self) -> bool {
        match self {
            Self::Quarantined | Self::Tripped => true,
            Self::Starting | Self::Running | Self::Blocked | Self::Restarting | Self::Elsewhere | Self::Finished => false,
        }
    }

    /// Its name in tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Blocked => "blocked",
            Self::Restarting => "restarting",
            Self::Quarantined => "quarantined",
            Self::Tripped => "tripped",
            Self::Elsewhere => "elsewhere",
            Self::Finished => "finished",
        }
    }
}

/// A shard as it was when it became this process's: what its totals have more, this process has committed.
#[derive(Clone, Debug, Default)]
pub struct Since {
    /// The lease under which it was taken; 0 = never.
    pub lease: u64,
    /// Its totals.
    pub totals: Counts,
    /// When that was, microseconds since 1970.
    pub at_us: i64,
}

/// The live state of a shard.
#[derive(Clone, Debug, Default)]
pub struct Live {
    /// What it is doing.
    pub life: Life,
    /// Generations that failed.
    pub restarts: u64,
    /// The last fault, for people.
    pub last_fault: Option<String>,
    /// Last committed epoch.
    pub epoch: u64,
    /// Committed bound.
    pub bound: Option<Bound>,
    /// Committed position.
    pub committed: Position,
    /// Read position.
    pub position: Position,
    /// Read to its end with positive evidence.
    pub idle: bool,
    /// Had a record at some time.
    pub had_records: bool,
    /// Drained and everything committed.
    pub quiet: bool,
    /// Bytes in flight.
    pub in_flight: usize,
    /// Bytes of the open epoch's partial aggregates.
    pub groups: u64,
    /// How far reading lies behind the newest record by the stream's clock (iterator age), microseconds.
    pub behind_us: Option<i64>,
    /// Running totals as committed, by this process or before it; of a shard that others have, the last that was ours.
    pub totals: Counts,
    /// What of them was not ours.
    pub since: Since,
    /// The last lease that was ours.
    pub lease: u64,
    /// Epochs committed by this process since then.
    pub epochs: u64,
    /// Records processed by this process, committed or not.
    pub processed: u64,
}

impl Live {
    /// No generation of ours is at work.
    fn rest(&mut self, life: Life) {
        (self.life, self.idle, self.in_flight, self.groups) = (life, false, 0, 0);
    }
}

/// What a sink is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum SinkLife {
    /// Takes what is due.
    #[default]
    Feeding,
    /// Did not take what it was given last.
    Waiting,
    /// Given up; a person has to look.
    Quarantined,
    /// The run has ended and it has everything.
    Finished,
    /// The run has ended before it had everything.
    Behind,
}

impl SinkLife {
    /// Its name in tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Feeding => "feeding",
            Self::Waiting => "waiting",
            Self::Quarantined => "quarantined",
            Self::Finished => "finished",
            Self::Behind => "behind",
        }
    }
}

/// The live state of a sink.
#[derive(Clone, Debug, Default)]
pub struct LiveSink {
    /// What it is doing.
    pub life: SinkLife,
    /// Windows or letters that wait for it.
    pub waiting: u64,
    /// How long the oldest window has waited, microseconds.
    pub lag_us: i64,
    /// Shards wait for it.
    pub holds: bool,
    /// The last fault, for people.
    pub last_fault: Option<Fault>,
}

/// All shards, all sinks.
#[derive(Debug, Default)]
pub struct Board {
    shards: DashMap<ShardId, Live>,
    sinks: DashMap<String, LiveSink>,
    /// Another worker says that shards must wait.
    held_elsewhere: AtomicBool,
}

impl Board {
    /// Changes one entry, made if missing.
    pub fn update(&self, shard: &ShardId, change: impl FnOnce(&mut Live)) {
        change(self.shards.entry(shard.clone()).or_default().value_mut());
    }

    /// It is ours from here on: the row under our lease, and what its newest epoch says.
    pub fn take(&self, row: &ShardRow, history: &History, now_us: i64) {
        self.update(&row.shard, |live| {
            // Where nobody had it in between, whatever was committed meanwhile was ours as well, and its answer got lost.
            if live.lease == 0 || live.lease + 1 != row.lease_epoch {
                live.since = Since { lease: row.lease_epoch, totals: history.totals.clone(), at_us: now_us };
                live.epochs = 0;
            }
            (live.life, live.lease) = (Life::Running, row.lease_epoch);
            (live.epoch, live.bound, live.committed) = (row.epoch, Some(row.bound), row.position);
            live.had_records = history.last_arrival_us.is_some();
            live.totals = history.totals.clone();
        });
    }

    /// An epoch of ours is true.
    pub fn committed(&self, row: &ShardRow, totals: &Counts) {
        self.update(&row.shard, |live| {
            (live.epoch, live.bound, live.committed) = (row.epoch, Some(row.bound), row.position);
            live.totals = totals.clone();
            live.epochs += 1;
        });
    }

    /// Of a shard that nobody reads in this process: what its row says holds back idle shards as our own would.
    pub fn tell(&self, row: &ShardRow) {
        let life = match row.state {
            ShardState::Blocked => Life::Blocked,
            ShardState::Open => Life::Elsewhere,
            ShardState::Drained | ShardState::Retired => Life::Finished,
        };
        self.update(&row.shard, |live| {
            live.rest(life);
            (live.epoch, live.bound, live.committed) = (row.epoch, Some(row.bound), row.position);
        });
    }

    /// Its generation is over: nothing is under way any more, and nobody reads there, which is not idle: what has arrived since
    /// may be of any age.
    pub fn settle(&self, shard: &ShardId, life: Life) {
        self.update(shard, |live| live.rest(life));
    }

    /// A copy of one entry.
    pub fn get(&self, shard: &ShardId) -> Option<Live> {
        self.shards.get(shard).map(|live| live.clone())
    }

    /// A copy of all entries, by shard.
    pub fn all(&self) -> Vec<(ShardId, Live)> {
        let mut all: Vec<_> = self.shards.iter().map(|entry| (entry.key().clone(), entry.value().clone())).collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }

    /// Changes the entry of one sink, made if missing.
    pub fn update_sink(&self, sink: &str, change: impl FnOnce(&mut LiveSink)) {
        change(self.sinks.entry(sink.to_owned()).or_default().value_mut());
    }

    /// A copy of the entries of all sinks, by name.
    pub fn sinks(&self) -> Vec<(String, LiveSink)> {
        let mut all: Vec<_> = self.sinks.iter().map(|entry| (entry.key().clone(), entry.value().clone())).collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }

    /// Must shards wait before they read more, because more letters wait for a sink than may?
    pub fn is_held(&self) -> bool {
        self.held_elsewhere.load(Ordering::Relaxed) || self.sinks.iter().any(|sink| sink.value().holds)
    }

    /// What the worker that feeds the sinks says.
    pub fn hold_elsewhere(&self, held: bool) {
        self.held_elsewhere.store(held, Ordering::Relaxed);
    }

    /// What the others have committed.
    pub fn peers_of(&self, shard: &ShardId) -> Peers {
        let mut peers = Peers::default();
        for entry in self.shards.iter() {
            let live = entry.value();
            if entry.key() == shard || live.life == Life::Finished || live.life == Life::Blocked {
                continue; // for a blocked shard its parents stand
            }
            // Nobody has read its row yet: it may know anything, so nobody passes it.
            let bound = live.bound.unwrap_or(Bound::UNKNOWN);
            if !live.idle {
                peers.active = Some(peers.active.map_or(bound, |least| least.min(bound)));
            }
            if bound > Bound::UNKNOWN {
                peers.known = Some(peers.known.map_or(bound, |least| least.min(bound)));
            }
        }
        peers
    }

    /// Have all shards drained that still can, and those that never had a record followed the others?
    pub fn all_quiet(&self) -> bool {
        let all = self.all();
        let lost = all.iter().any(|(_, live)| live.life.is_lost());
        all.iter().all(|(shard, live)| match live.life {
            Life::Finished | Life::Quarantined | Life::Tripped | Life::Elsewhere => true,
            // Its parents end, or one of them is given up and it never opens.
            Life::Blocked => lost,
            Life::Starting | Life::Running | Life::Restarting => {
                let peers = self.peers_of(shard);
                let behind = !live.had_records && live.bound < peers.active.or(peers.known);
                live.quiet && !behind
            }
        })
    }
}
