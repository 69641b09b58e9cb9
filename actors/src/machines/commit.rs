//! The commit protocol of one shard: from the parts of an epoch to one compare-and-set, and what may be seen after it.
//!
//! ```text
//! parts of epoch n (seal, a cut per partition, staged files, staged letters)
//!   └▶ Hold files ─▶ Put object ─▶ CreateRows (children, only at the shard's end) ─▶ Swap row IF lease = e AND epoch = n-1
//!        won ─▶ Publish (under a CommitPermit), Committed      lost ─▶ fenced, fatal
//!        unknown ─▶ Reread: names my key = won; unchanged = swap again; else = fenced
//! ```
//!
//! Owns: the order of these steps, the ledger of an epoch, ordinals, pending outputs. Does not own: carrying them out
//! (shells/commit).

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::machines::partition::Cut;
use crate::machines::shard::{Opening, Seal};
use crate::model::epoch::{
    self, EpochHeader, Hash, HeldOutput, ObjectRef, OutputClass, PendingOutput, SegmentBody, WindowCounts,
};
use crate::model::fault::{Fault, Result};
use crate::model::ledger::Counts;
use crate::model::position::Position;
use crate::model::row::{Fence, ShardRow, ShardState};
use crate::ports::{Cas, CommitPermit, GoldTable};

/// Who staged files.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Stager {
    /// Bronze and Silver.
    Writer,
    /// Letters.
    Dlq,
}

/// What never changes within a generation.
#[derive(Clone, Debug)]
pub struct CommitConfig {
    /// Pipeline id.
    pub pipeline: String,
    /// Fingerprint of the configuration.
    pub fingerprint: String,
    /// Is Bronze written?
    pub bronze_on: bool,
    /// The epoch that begins here takes in records that somebody else has read; none = all were read in one piece.
    pub handed_after: Option<Position>,
    /// Number of partitions.
    pub partitions: usize,
    /// The Gold tables: for how long a window's ordinal must be remembered.
    pub tables: Vec<GoldTable>,
}

/// What the last commit of a shard left behind.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// Running totals.
    pub totals: Counts,
    /// Ordinals of every window that may still be touched.
    pub ordinals: BTreeMap<String, BTreeMap<i64, u64>>,
    /// Largest event time ever seen.
    pub max_event_us: Option<i64>,
    /// Arrival of the last record.
    pub last_arrival_us: Option<i64>,
    /// All that had arrived by then was read.
    pub fresh_us: Option<i64>,
}

impl History {
    /// After the epoch with this head.
    pub fn after(header: &EpochHeader) -> Self {
        Self {
            totals: header.totals.clone(),
            ordinals: header.ordinals.clone(),
            max_event_us: header.max_event_us,
            last_arrival_us: header.last_arrival_us,
            fresh_us: header.fresh_us,
        }
    }
}

/// What happens to the commit machine.
#[derive(Debug)]
pub enum CommitEvent {
    /// The shard ended an epoch.
    Sealed(Box<Seal>),
    /// A partition's part.
    Cut(u64, Cut),
    /// Files of an epoch are staged.
    Staged(u64, Stager, Vec<PendingOutput>),
    /// [`CommitEffect::Hold`] is done. The shell repeats it until it is.
    Held(Vec<HeldOutput>),
    /// [`CommitEffect::Put`] is done. The shell repeats it until it is.
    Put,
    /// [`CommitEffect::CreateRows`] is done.
    RowsCreated,
    /// The answer to [`CommitEffect::Swap`]; none = unknown.
    Swapped(Option<Cas>),
    /// The row as it stands, after an unknown answer.
    Reread(Option<Box<ShardRow>>),
    /// These staged files are visible now.
    Published(Vec<String>),
}

impl CommitEvent {
    /// For messages: an event's content may hold payload.
    fn name(&self) -> &'static str {
        match self {
            Self::Sealed(_) => "Sealed",
            Self::Cut(..) => "Cut",
            Self::Staged(..) => "Staged",
            Self::Held(_) => "Held",
            Self::Put => "Put",
            Self::RowsCreated => "RowsCreated",
            Self::Swapped(_) => "Swapped",
            Self::Reread(_) => "Reread",
            Self::Published(_) => "Published",
        }
    }
}

/// An epoch has become true.
#[derive(Clone, Debug)]
pub struct Committed {
    /// The row that says so.
    pub row: ShardRow,
    /// The head of its object.
    pub header: EpochHeader,
}

/// What the shell has to do.
#[derive(Debug)]
pub enum CommitEffect {
    /// Bring these files to where any later owner finds them.
    Hold(Vec<PendingOutput>),
    /// Store the object, durably, before anything else.
    Put(String, Bytes),
    /// Create these rows unless they exist.
    CreateRows(Vec<ShardRow>),
    /// The compare-and-set.
    Swap(Fence, Box<ShardRow>),
    /// Read the row.
    Reread,
    /// Make these files visible.
    Publish(CommitPermit, Vec<HeldOutput>),
    /// Tell the shard and Gold.
    Committed(Box<Committed>),
    /// Tell the shard: every file of every committed epoch is visible.
    Settled,
    /// End the generation.
    Fail(Fault),
}

#[derive(Debug, Default)]
struct Gathering {
    seal: Option<Box<Seal>>,
    cuts: Vec<Cut>,
    staged: BTreeMap<Stager, Vec<PendingOutput>>,
}

/// An epoch whose parts are all there, but for its files.
#[derive(Debug)]
struct Gathered {
    seal: Box<Seal>,
    cuts: Vec<Cut>,
}

#[derive(Debug)]
struct InFlight {
    header: EpochHeader,
    outputs: Vec<HeldOutput>,
    row: ShardRow,
    children: Vec<ShardRow>,
    swaps: u32,
}

/// So often the same swap is tried while the row stands unchanged; then the generation starts anew.
const SWAPS_MAX: u32 = 10;

#[derive(Debug)]
enum Step {
    Idle,
    Holding(Gathered),
    Putting(Box<InFlight>),
    CreatingRows(Box<InFlight>),
    Swapping(Box<InFlight>),
    Rereading(Box<InFlight>),
    Failed,
}

impl Step {
    fn name(&self) -> &'static str {
        match self {
            Self::Idle => "Idle",
            Self::Holding(_) => "Holding",
            Self::Putting(_) => "Putting",
            Self::CreatingRows(_) => "CreatingRows",
            Self::Swapping(_) => "Swapping",
            Self::Rereading(_) => "Rereading",
            Self::Failed => "Failed",
        }
    }
}

/// The state machine of one shard's commits under one lease.
#[derive(Debug)]
pub struct CommitMachine {
    config: CommitConfig,
    row: ShardRow,
    history: History,
    unpublished: Vec<HeldOutput>,
    open: BTreeMap<u64, Gathering>,
    step: Step,
}

impl CommitMachine {
    /// Continues after `row`, which this generation's lease owns; all its pending outputs are published.
    pub fn new(config: CommitConfig, row: ShardRow, history: History) -> Self {
        Self { config, row, history, unpublished: Vec::new(), open: BTreeMap::new(), step: Step::Idle }
    }

    /// These outputs of earlier epochs are not visible either, and travel on.
    pub fn carrying(mut self, unpublished: Vec<HeldOutput>) -> Self {
        self.unpublished = unpublished;
        self
    }

    /// The row as last committed.
    pub fn row(&self) -> &ShardRow {
        &self.row
    }

    /// The epoch whose commit has begun: what the row becomes, and the head of its object.
    pub fn begun(&self) -> Option<Committed> {
        match &self.step {
            Step::Putting(flight) | Step::CreatingRows(flight) | Step::Swapping(flight) | Step::Rereading(flight) => {
                Some(Committed { row: flight.row.clone(), header: flight.header.clone() })
            }
            Step::Idle | Step::Holding(_) | Step::Failed => None,
        }
    }

    /// Takes an event in. `random` makes the key of an epoch object unique; it is used at most once per event.
    pub fn apply(&mut self, event: CommitEvent, random: u64) -> Vec<CommitEffect> {
        match self.step(event, random) {
            Ok(effects) => effects,
            Err(fault) => {
                self.step = Step::Failed;
                vec![CommitEffect::Fail(fault)]
            }
        }
    }

    fn step(&mut self, event: CommitEvent, random: u64) -> Result<Vec<CommitEffect>> {
        let mut effects = Vec::new();
        match (event, std::mem::replace(&mut self.step, Step::Failed)) {
            (_, Step::Failed) => return Ok(effects),
            (CommitEvent::Sealed(seal), step) => {
                self.step = step;
                let epoch = seal.opened.epoch;
                self.open.entry(epoch).or_default().seal = Some(seal);
            }
            (CommitEvent::Cut(epoch, cut), step) => {
                self.step = step;
                self.open.entry(epoch).or_default().cuts.push(cut);
            }
            (CommitEvent::Staged(epoch, stager, outputs), step) => {
                self.step = step;
                if self.open.entry(epoch).or_default().staged.insert(stager, outputs).is_some() {
                    return Err(Fault::bug(format!("{stager:?} staged epoch {epoch} twice")));
                }
            }
            (CommitEvent::Published(staged), step) => {
                self.step = step;
                self.unpublished.retain(|held| !staged.contains(&held.output.staged));
                if self.unpublished.is_empty() {
                    effects.push(CommitEffect::Settled);
                }
            }
            (CommitEvent::Held(outputs), Step::Holding(gathered)) => self.put(gathered, outputs, random, &mut effects)?,
            (CommitEvent::Put, Step::Putting(flight)) if flight.children.is_empty() => self.swap(flight, &mut effects),
            (CommitEvent::Put, Step::Putting(flight)) => {
                effects.push(CommitEffect::CreateRows(flight.children.clone()));
                self.step = Step::CreatingRows(flight);
            }
            (CommitEvent::RowsCreated, Step::CreatingRows(flight)) => self.swap(flight, &mut effects),
            (CommitEvent::Swapped(Some(Cas::Won)), Step::Swapping(flight)) => self.won(*flight, &mut effects),
            // A lost answer may hide a swap that was repeated below us: the row decides, not the answer.
            (CommitEvent::Swapped(Some(Cas::Lost) | None), Step::Swapping(flight)) => {
                effects.push(CommitEffect::Reread);
                self.step = Step::Rereading(flight);
            }
            (CommitEvent::Reread(row), Step::Rereading(flight)) => self.reread(row.map(|row| *row), flight, &mut effects)?,
            (event, step) => return Err(Fault::bug(format!("commit: {} does not follow {}", event.name(), step.name()))),
        }
        self.begin_next(random, &mut effects)?;
        Ok(effects)
    }

    fn swap(&mut self, flight: Box<InFlight>, effects: &mut Vec<CommitEffect>) {
        effects.push(CommitEffect::Swap(self.row.fence(), Box::new(flight.row.clone())));
        self.step = Step::Swapping(flight);
    }

    fn reread(&mut self, row: Option<ShardRow>, mut flight: Box<InFlight>, effects: &mut Vec<CommitEffect>) -> Result<()> {
        let row = row.ok_or_else(|| Fault::corrupt(format!("the row of {} is gone", self.row.shard)))?;
        if row.object == flight.row.object {
            self.won(*flight, effects);
        } else if row.fence() == self.row.fence() {
            flight.swaps += 1;
            if flight.swaps > SWAPS_MAX {
                return Err(Fault::retry(format!("the row of {} could not be swapped {SWAPS_MAX} times in a row", row.shard)));
            }
            self.swap(flight, effects);
        } else {
            let (lease, epoch) = (row.lease_epoch, row.epoch);
            return Err(Fault::fenced(format!("{} belongs to lease {lease} now, at epoch {epoch}", self.row.shard)));
        }
        Ok(())
    }

    fn won(&mut self, flight: InFlight, effects: &mut Vec<CommitEffect>) {
        let InFlight { header, outputs, row, .. } = flight;
        self.history = History::after(&header);
        self.row = row.clone();
        self.unpublished.extend(outputs.iter().cloned());
        let permit = CommitPermit::won(row.lease_epoch, row.epoch);
        if !outputs.is_empty() {
            effects.push(CommitEffect::Publish(permit, outputs));
        }
        effects.push(CommitEffect::Committed(Box::new(Committed { row, header })));
        if self.unpublished.is_empty() {
            effects.push(CommitEffect::Settled);
        }
        self.step = Step::Idle;
    }

    /// Starts the next epoch's commit once all its parts are there. Strictly in order.
    fn begin_next(&mut self, random: u64, effects: &mut Vec<CommitEffect>) -> Result<()> {
        let next = self.row.epoch + 1;
        let complete = self
            .open
            .get(&next)
            .is_some_and(|parts| parts.seal.is_some() && parts.cuts.len() == self.config.partitions && parts.staged.len() == 2);
        if !complete || !matches!(self.step, Step::Idle) {
            return Ok(());
        }
        let Some(Gathering { seal: Some(seal), cuts, staged }) = self.open.remove(&next) else {
            return Err(Fault::bug("a complete epoch without a seal"));
        };
        let (staged, gathered) = (staged.into_values().flatten().collect::<Vec<_>>(), Gathered { seal, cuts });
        if staged.is_empty() {
            return self.put(gathered, Vec::new(), random, effects);
        }
        effects.push(CommitEffect::Hold(staged));
        self.step = Step::Holding(gathered);
        Ok(())
    }

    fn put(&mut self, gathered: Gathered, outputs: Vec<HeldOutput>, random: u64, effects: &mut Vec<CommitEffect>) -> Result<()> {
        let Gathered { seal, cuts } = gathered;
        let next = self.row.epoch + 1;
        let (mut header, bodies) = self.header(&seal, cuts, outputs.iter().map(|held| held.output.clone()).collect())?;
        // Whatever is not visible yet travels on: a takeover reads the newest object and no other.
        let held: Vec<HeldOutput> = self.unpublished.iter().chain(&outputs).cloned().collect();
        let object = epoch::encode(&mut header, &bodies, &held)?;
        let key = self.row.epoch_key(next, random);
        let mut row = self.row.clone();
        row.epoch = next;
        row.position = seal.to;
        row.bound = seal.next.bound;
        row.object = Some(ObjectRef { key: key.clone(), len: object.len() as u64, sha256: Hash::of(&object) });
        let children = match &seal.ended {
            None => Vec::new(),
            Some(children) => {
                row.state = ShardState::Drained;
                row.children = children.iter().map(|child| child.shard.clone()).collect();
                children.iter().map(|child| blocked_row(&row, child)).collect()
            }
        };
        effects.push(CommitEffect::Put(key, object));
        self.step = Step::Putting(Box::new(InFlight { header, outputs, row, children, swaps: 0 }));
        Ok(())
    }

    fn header(&self, seal: &Seal, cuts: Vec<Cut>, outputs: Vec<PendingOutput>) -> Result<(EpochHeader, Vec<SegmentBody>)> {
        // What was lost of earlier epochs is counted where it was taken in.
        let (rebuilt, outputs): (Vec<_>, Vec<_>) = outputs.into_iter().partition(|output| output.epoch < seal.opened.epoch);
        if seal.from != self.row.position || seal.opened.bound != self.row.bound {
            return Err(Fault::bug(format!("epoch {} starts at {} after {}", seal.opened.epoch, seal.from, self.row.position)));
        }
        let rows_of = |class| outputs.iter().filter(|output| output.class == class).map(|output| output.rows).sum::<u64>();
        let mut counts = Counts::default();
        let (mut bodies, mut windows) = (Vec::new(), BTreeMap::new());
        let mut max_event_us = self.history.max_event_us;
        for cut in cuts {
            counts.add(&cut.counts);
            bodies.extend(cut.bodies);
            max_event_us = max_event_us.max(cut.max_event_us);
            add_windows(&mut windows, cut.windows);
        }
        check(seal, &counts, rows_of(OutputClass::Silver))?;
        counts.gaps = seal.gaps;
        counts.bronze = rows_of(OutputClass::Bronze);
        counts.letters = rows_of(OutputClass::Dlq);
        if let Some(broken) = counts.equations(self.config.bronze_on, 1).into_iter().find(|line| line.difference() != 0) {
            return Err(Fault::bug(format!(
                "ledger ({}): {} but {} ≠ {}",
                broken.number, broken.says, broken.left, broken.right
            )));
        }
        let mut totals = self.history.totals.clone();
        totals.add(&counts);
        let mut pending: Vec<PendingOutput> = self.unpublished.iter().map(|held| held.output.clone()).collect();
        pending.extend(rebuilt.iter().chain(&outputs).cloned());
        let header = EpochHeader {
            pipeline: self.config.pipeline.clone(),
            fingerprint: self.config.fingerprint.clone(),
            stream: self.row.stream.clone(),
            shard: self.row.shard.clone(),
            epoch: seal.opened.epoch,
            lease_epoch: self.row.lease_epoch,
            from: seal.from,
            to: seal.to,
            bound_opened: seal.opened.bound,
            bound_committed: seal.next.bound,
            max_event_us,
            last_arrival_us: seal.last_arrival_us.or(self.history.last_arrival_us),
            fresh_us: seal.fresh_us.max(self.history.fresh_us),
            processed_at_us: seal.opened.processed_at_us,
            bronze_on: self.config.bronze_on,
            unproven_start: seal.records > 0 && self.config.handed_after == Some(seal.from),
            counts,
            totals,
            previous: self.row.object.as_ref().map(|object| object.sha256.clone()),
            segments: Vec::new(),
            windows: windows.into_values().collect(),
            ordinals: self.ordinals(&bodies, seal.next),
            pending,
            outputs,
            rebuilt,
            inline: Vec::new(),
        };
        Ok((header, bodies))
    }

    /// One more for every window this epoch touched; windows that the next epoch can't touch any more are forgotten.
    fn ordinals(&self, bodies: &[SegmentBody], next: Opening) -> BTreeMap<String, BTreeMap<i64, u64>> {
        let mut ordinals = self.history.ordinals.clone();
        for table in &self.config.tables {
            if let Some(windows) = ordinals.get_mut(table.name.as_ref()) {
                // Sealed by the bound this epoch OPENED with: it may itself have touched what the next one cannot.
                windows.retain(|start_us, _| !table.windowing.is_sealed(table.windowing.starting(*start_us), self.row.bound));
            }
        }
        let mut touched: Vec<(&str, i64)> = bodies.iter().map(|body| (body.table.as_str(), body.window_us)).collect();
        touched.sort_unstable();
        touched.dedup();
        for (table, window_us) in touched {
            *ordinals.entry(table.to_owned()).or_default().entry(window_us).or_default() += 1;
        }
        debug_assert!(next.bound >= self.row.bound, "a bound never falls");
        ordinals
    }
}

/// Two counts of the same thing, made by different actors, must agree before anything becomes true.
fn check(seal: &Seal, counts: &Counts, silver_rows: u64) -> Result<()> {
    if (seal.records, seal.bytes, silver_rows) != (counts.received, counts.bytes, counts.silver) {
        return Err(Fault::bug(format!(
            "ledger: the shard sent {} records ({} bytes), partitions saw {} ({}); {} Silver rows were made, \
             {silver_rows} written",
            seal.records, seal.bytes, counts.received, counts.bytes, counts.silver
        )));
    }
    Ok(())
}

fn add_windows(sum: &mut BTreeMap<(String, i64), WindowCounts>, windows: Vec<WindowCounts>) {
    for counts in windows {
        let key = (counts.table.clone(), counts.window_us);
        let entry = sum.entry(key).or_insert_with(|| WindowCounts { on_time: 0, late: 0, too_late: 0, ..counts.clone() });
        entry.on_time += counts.on_time;
        entry.late += counts.late;
        entry.too_late += counts.too_late;
    }
}

/// Its bound is unknown: its parents stand for it until it opens with the minimum of what they committed, and this commit may yet
/// be lost.
fn blocked_row(parent: &ShardRow, child: &crate::ports::ShardInfo) -> ShardRow {
    let range = (child.hash_start, child.hash_end);
    let row = ShardRow::new(parent.stream.clone(), child.shard.clone(), range, ShardState::Blocked);
    ShardRow { parents: child.parents.clone(), ..row }
}
