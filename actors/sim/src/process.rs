//! One process of a simulated world: every operation goes through one wrapper that counts it, delays it, and lets it go wrong.
//!
//! A process that has crashed is inert: its later operations pend for ever and have no effect, so that nothing that runs while
//! its runtime is dropped can reach the store.
//!
//! Owns: the wrapper, the clock, the ports. Does not own: the effects (store), the schedule (plan).

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arrow_array::RecordBatch;
use async_trait::async_trait;
use bytes::Bytes;
use sluicebox_actors::model::fault::{Fault, Result};
use sluicebox_actors::model::feed::FeedRow;
use sluicebox_actors::model::position::{Position, ShardId};
use sluicebox_actors::model::row::{Fence, Lease, ShardRow, WindowRow};
use sluicebox_actors::ports::{
    Batches, Blobs, Cas, Clock, GoldFiles, Leases, Read, Recall, Rows, ShardInfo, Stream, WindowPermit,
};
use sluicebox_actors::toolkit::credit::{Budget, CHARGE_MIN};
use tokio::sync::Notify;

use crate::plan::{Act, Flaw, Op, Plan, Planner};
use crate::store::{ReadFlaw, Store};
use crate::trace::{Keep, Trace};

/// No process of these tests needs so many operations: one that does goes round in circles.
pub const BUSY: u64 = 120_000;

/// The world as one process sees it.
pub struct Process {
    store: Arc<Mutex<Store>>,
    planner: Mutex<Planner>,
    trace: Mutex<Trace>,
    flaw: Option<Flaw>,
    dead: AtomicBool,
    pub died: Notify,
    /// The process stands still until this moment of its clock.
    frozen_until_us: AtomicI64,
    pub froze: Arc<Notify>,
    /// The clock of the process minus that of the world.
    skew_us: AtomicI64,
    started: tokio::time::Instant,
    started_us: i64,
    seed: u64,
    randoms: AtomicU64,
    /// Processes of a world are numbered.
    pub number: u64,
    /// Slices per shard and lease that are in open files and not written out: each holds a credit.
    pub unwritten: Mutex<BTreeMap<(ShardId, u64), usize>>,
    /// So many slices fit into a shard's byte budget.
    pub slices_max: usize,
}

/// A panic that no hook tells: it is part of the plan.
pub fn planned_panic(text: &str) -> ! {
    std::panic::resume_unwind(Box::new(text.to_owned()))
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A planned panic may strike while a lock is held; what it guards is still whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Process {
    #[expect(clippy::disallowed_methods, reason = "the simulation's clock is tokio's paused one")]
    pub fn new(store: Arc<Mutex<Store>>, plan: Plan, keep: Keep, in_flight: usize) -> Arc<Self> {
        let (started_us, number) = locked(&store).process_starts();
        let (flaw, seed) = (plan.flaw, plan.seed);
        Arc::new(Self {
            store,
            planner: Mutex::new(Planner::new(plan)),
            trace: Mutex::new(Trace::new(keep)),
            flaw,
            dead: AtomicBool::new(false),
            died: Notify::new(),
            frozen_until_us: AtomicI64::new(0),
            froze: Arc::new(Notify::new()),
            skew_us: AtomicI64::new(0),
            started: tokio::time::Instant::now(),
            started_us,
            seed,
            randoms: AtomicU64::new(0),
            number,
            unwritten: Mutex::default(),
            slices_max: Budget::new(in_flight).total() / CHARGE_MIN,
        })
    }

    /// The time of the world, whatever the clock of the process says.
    pub fn world_now_us(&self) -> i64 {
        self.started_us + self.started.elapsed().as_micros() as i64
    }

    /// From now on the clock of the process is so far from that of the world.
    pub fn set_clock(&self, skew_us: i64) {
        self.skew_us.store(skew_us, Ordering::SeqCst);
    }

    pub fn has(&self, flaw: Flaw) -> bool {
        self.flaw == Some(flaw)
    }

    pub fn operations(&self) -> u64 {
        locked(&self.planner).operations()
    }

    pub fn counts(&self) -> BTreeMap<Op, u64> {
        locked(&self.planner).counts()
    }

    /// How often each fault met each kind of operation.
    pub fn met(&self) -> BTreeMap<(Op, &'static str), u64> {
        locked(&self.planner).met().clone()
    }

    pub fn trace(&self) -> Trace {
        locked(&self.trace).clone()
    }

    /// From now on nothing of this process has an effect.
    pub fn die(&self) {
        if !self.dead.swap(true, Ordering::SeqCst) {
            let mut store = locked(&self.store);
            store.alive -= 1;
            store.loses_its_disk(self.number);
        }
        self.died.notify_one();
    }

    fn is_dead(&self) -> bool {
        self.dead.load(Ordering::SeqCst)
    }

    /// What happens in the world, at once.
    pub fn effect<T>(&self, effect: impl FnOnce(&mut Store) -> Result<T>) -> Result<T> {
        let mut store = locked(&self.store);
        store.now_us = store.now_us.max(self.world_now_us());
        effect(&mut store)
    }

    fn plan(&self, op: Op, what: &dyn Display) -> (Duration, Act) {
        let mut planner = locked(&self.planner);
        let (index, latency, act) = planner.next(op);
        let passed_us = self.world_now_us() - self.started_us;
        locked(&self.trace).push(format_args!("{index} {passed_us}us {op:?} {what} {act:?}"));
        let late_at = planner.late_at();
        if let Some(step) = planner.clock_step(index) {
            self.set_clock(step);
        }
        if index == BUSY {
            self.die();
        }
        drop(planner);
        if let Act::Freeze(time) = act {
            self.frozen_until_us.store(self.world_now_us() + time.as_micros() as i64, Ordering::SeqCst);
            self.froze.notify_one();
        }
        if index == late_at && !self.is_dead() {
            let late = std::mem::take(&mut locked(&self.store).late);
            for effect in late {
                effect(&mut locked(&self.store));
            }
        }
        (latency, act)
    }

    /// Every asynchronous operation.
    pub async fn op<T: Send>(
        &self,
        op: Op,
        what: impl Display + Send + Sync,
        effect: impl Fn(&mut Store) -> Result<T> + Send + Sync + 'static,
    ) -> Result<T> {
        if self.is_dead() {
            return std::future::pending().await;
        }
        let (latency, act) = self.plan(op, &what);
        let stall = if let Act::Stall(stall) = act { stall } else { Duration::ZERO };
        if !(latency + stall).is_zero() {
            tokio::time::sleep(latency + stall).await;
        }
        while let wait @ 1.. = self.frozen_until_us.load(Ordering::SeqCst) - self.world_now_us() {
            tokio::time::sleep(Duration::from_micros(wait as u64)).await;
        }
        if self.is_dead() {
            return std::future::pending().await;
        }
        match act {
            Act::Go | Act::Stall(_) | Act::Freeze(_) => self.effect(effect),
            Act::ErrBefore => Err(Fault::retry(format!("planned: {op:?} did not happen"))),
            Act::ErrAfter => {
                drop(self.effect(effect));
                Err(Fault::retry(format!("planned: the answer of {op:?} was lost")))
            }
            Act::Twice => {
                drop(self.effect(&effect));
                self.effect(effect)
            }
            Act::CrashBefore => self.crash().await,
            Act::CrashAfter => {
                drop(self.effect(effect));
                self.crash().await
            }
            Act::CrashLate => {
                locked(&self.store).late.push(Box::new(move |store| drop(effect(store))));
                self.crash().await
            }
            Act::Panic => planned_panic(&format!("planned: panic at {op:?}")),
            Act::Fail(kind) => Err(Fault::new(kind, format!("planned: {op:?} fails for good"))),
        }
    }

    async fn crash<T>(&self) -> T {
        self.die();
        std::future::pending().await
    }

    /// Every synchronous operation: it can't wait, so a dead process gets an error that nobody sees any more.
    pub fn now_op<T>(&self, op: Op, what: impl Display, effect: impl FnOnce(&mut Store) -> Result<T>) -> Result<T> {
        let dead = || Err(Fault::retry("the process is dead"));
        if self.is_dead() {
            return dead();
        }
        let (_, act) = self.plan(op, &what);
        match act {
            Act::Go | Act::Stall(_) | Act::Freeze(_) | Act::Twice => self.effect(effect),
            Act::ErrBefore => Err(Fault::retry(format!("planned: {op:?} did not happen"))),
            Act::ErrAfter => {
                drop(self.effect(effect));
                Err(Fault::retry(format!("planned: {op:?} failed after its effect")))
            }
            Act::CrashBefore | Act::CrashLate => {
                self.die();
                dead()
            }
            Act::CrashAfter => {
                drop(self.effect(effect));
                self.die();
                dead()
            }
            Act::Panic => planned_panic(&format!("planned: panic at {op:?}")),
            Act::Fail(kind) => Err(Fault::new(kind, format!("planned: {op:?} fails for good"))),
        }
    }
}

impl Clock for Process {
    fn now_us(&self) -> i64 {
        self.world_now_us() + self.skew_us.load(Ordering::SeqCst)
    }

    fn random(&self) -> u64 {
        let n = self.randoms.fetch_add(1, Ordering::Relaxed);
        crate::plan::Rng(self.seed.rotate_left(17) ^ n).draw()
    }
}

#[async_trait]
impl Stream for Process {
    fn name(&self) -> Arc<str> {
        "events".into()
    }

    async fn shards(&self) -> Result<Vec<ShardInfo>> {
        self.op(Op::StreamShards, "", |store| Ok(store.streams.values().map(|log| log.info.clone()).collect())).await
    }

    async fn read(&self, shard: &ShardId, after: Position, max_records: usize, max_bytes: usize) -> Result<Read> {
        let what = format!("{shard} after {after}");
        let lies = [(Flaw::StreamSkipsARecord, ReadFlaw::Skip), (Flaw::StreamRepeatsARecord, ReadFlaw::Repeat)];
        let flaw = lies.into_iter().find(|(flaw, _)| self.has(*flaw)).map_or(ReadFlaw::None, |(_, lie)| lie);
        let shard = shard.clone();
        self.op(Op::StreamRead, what, move |store| store.read(&shard, after, max_records, max_bytes, flaw)).await
    }

    async fn recall(&self, shard: &ShardId, after: Position, recall: &Recall) -> Result<()> {
        self.effect(|store| {
            store.recalls.push((shard.clone(), after, recall.clone()));
            Ok(())
        })
    }
}

#[async_trait]
impl Rows for Process {
    async fn shards(&self) -> Result<Vec<ShardRow>> {
        self.op(Op::RowsShards, "", |store| Ok(store.rows.values().cloned().collect())).await
    }

    async fn shard(&self, shard: &ShardId) -> Result<Option<ShardRow>> {
        let key = shard.clone();
        self.op(Op::RowGet, shard, move |store| Ok(store.rows.get(&key).cloned())).await
    }

    async fn create_shard(&self, row: &ShardRow) -> Result<Cas> {
        let new = row.clone();
        self.op(Op::RowCreate, &row.shard, move |store| Ok(store.create_shard(&new))).await
    }

    async fn update_shard(&self, expected: Fence, row: &ShardRow) -> Result<Cas> {
        let (new, ignore) = (row.clone(), self.has(Flaw::RowsIgnoreTheFence));
        let what = format!("{} {}/{} from {expected:?}", row.shard, row.lease_epoch, row.epoch);
        let (op, who) = (if row.epoch == expected.epoch { Op::RowLease } else { Op::RowUpdate }, self.number);
        self.op(op, what, move |store| store.update_shard(expected, &new, ignore, who)).await
    }

    async fn windows(&self, table: &str) -> Result<Vec<WindowRow>> {
        let key = table.to_owned();
        let of = move |store: &mut Store| store.windows.values().filter(|row| row.table == key).cloned().collect();
        self.op(Op::Windows, table, move |store| Ok(of(store))).await
    }

    async fn window(&self, table: &str, start_us: i64) -> Result<Option<WindowRow>> {
        let key = (table.to_owned(), start_us);
        self.op(Op::WindowGet, format!("{table} {start_us}"), move |store| Ok(store.windows.get(&key).cloned())).await
    }

    async fn update_window(&self, expected_version: u64, row: &WindowRow) -> Result<Cas> {
        let new = row.clone();
        let what = format!("{} {} v{} r{} {:?}", row.table, row.start_us, row.version, row.revision, row.status);
        self.op(Op::WindowUpdate, what, move |store| {
            let watermark = store.watermark();
            Ok(store.update_window(expected_version, &new, watermark))
        })
        .await
    }

    async fn feeds(&self, sink: &str) -> Result<Vec<FeedRow>> {
        let name = sink.to_owned();
        let of = move |store: &mut Store| store.kept.feeds.values().filter(|row| row.sink == name).cloned().collect();
        self.op(Op::FeedRows, sink, move |store| Ok(of(store))).await
    }

    async fn feed(&self, sink: &str, key: &str) -> Result<Option<FeedRow>> {
        let at = (sink.to_owned(), key.to_owned());
        self.op(Op::FeedGet, format!("{sink} {key}"), move |store| Ok(store.kept.feeds.get(&at).cloned())).await
    }

    async fn update_feed(&self, expected_version: u64, row: &FeedRow) -> Result<Cas> {
        let new = row.clone();
        let what = format!("{} {} v{}", row.sink, row.key(), row.version);
        self.op(Op::FeedUpdate, what, move |store| Ok(store.update_feed(expected_version, &new))).await
    }
}

#[async_trait]
impl Leases for Process {
    async fn beat(&self, shard: &ShardId, lease_epoch: u64, heartbeat: u64) -> Result<Option<ShardRow>> {
        let key = shard.clone();
        self.op(Op::LeaseBeat, format!("{shard} {lease_epoch}"), move |store| {
            let row = store.rows.get_mut(&key).filter(|row| row.lease_epoch == lease_epoch);
            Ok(row.map(|row| {
                row.heartbeat = heartbeat;
                row.clone()
            }))
        })
        .await
    }

    async fn want(&self, shard: &ShardId, lease_epoch: u64, wanted_by: &str) -> Result<Cas> {
        let (key, name) = (shard.clone(), wanted_by.to_owned());
        self.op(Op::LeaseWant, format!("{shard} by {wanted_by}"), move |store| {
            let row = store.rows.get_mut(&key).filter(|row| row.lease_epoch == lease_epoch);
            Ok(row.map_or(Cas::Lost, |row| {
                row.wanted_by.clone_from(&name);
                Cas::Won
            }))
        })
        .await
    }

    async fn lease(&self, name: &str) -> Result<Option<Lease>> {
        let key = name.to_owned();
        self.op(Op::LeaseGet, name, move |store| Ok(store.leases.get(&key).cloned())).await
    }

    async fn update_lease(&self, expected: Option<&Lease>, lease: &Lease) -> Result<Cas> {
        let (expected, new) = (expected.cloned(), lease.clone());
        self.op(Op::LeaseUpdate, format!("{} {}", lease.name, lease.epoch), move |store| {
            if store.leases.get(&new.name) != expected.as_ref() {
                return Ok(Cas::Lost);
            }
            store.leases.insert(new.name.clone(), new.clone());
            Ok(Cas::Won)
        })
        .await
    }
}

#[async_trait]
impl Blobs for Process {
    async fn put(&self, key: &str, data: Bytes) -> Result<()> {
        let name = key.to_owned();
        self.op(Op::BlobPut, key, move |store| {
            let same = store.blobs.get(&name).is_none_or(|old| *old == data);
            store.rule(same, || format!("blob {name} was put twice with different bytes"));
            store.blobs.insert(name.clone(), data.clone());
            Ok(())
        })
        .await
    }

    async fn get(&self, key: &str) -> Result<Bytes> {
        let name = key.to_owned();
        self.op(Op::BlobGet, key, move |store| {
            store.blobs.get(&name).cloned().ok_or_else(|| Fault::corrupt(format!("there is no blob {name}")))
        })
        .await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<String>> {
        let start = prefix.to_owned();
        self.op(Op::BlobList, prefix, move |store| {
            Ok(store.blobs.keys().filter(|key| key.starts_with(&start)).cloned().collect())
        })
        .await
    }

    async fn delete(&self, key: &str) -> Result<()> {
        let name = key.to_owned();
        self.op(Op::BlobDelete, key, move |store| {
            store.mark_deletion(&name);
            let newest = store.rows.values().filter_map(|row| row.object.as_ref()).any(|object| object.key == name);
            store.rule(!newest, || format!("the newest epoch object {name} was deleted"));
            let named = store.windows.values().any(|row| {
                let content = row.content.as_ref().is_some_and(|content| content.key == name);
                content || row.base.as_ref().is_some_and(|base| base.object.key == name)
            });
            let named = named || store.fed_blobs().contains(&name);
            store.rule(!named, || format!("{name} was deleted while a row names it"));
            store.blobs.remove(&name);
            Ok(())
        })
        .await
    }
}

#[async_trait]
impl GoldFiles for Process {
    fn encode(&self, table: &str, rows: Batches<'_>) -> Result<Bytes> {
        self.now_op(Op::GoldEncode, table, |_| Ok(()))?;
        crate::files::gold_text(rows)
    }

    async fn publish(&self, permit: WindowPermit, row: &WindowRow, content: Bytes) -> Result<()> {
        let (shown, keep_oldest) = (row.clone(), self.has(Flaw::GoldFilesKeepTheOldest));
        let what = format!("{} {} r{}", row.table, row.start_us, permit.revision());
        self.op(Op::GoldPublish, what, move |store| {
            store.publish_gold(&shown, &content, keep_oldest);
            Ok(())
        })
        .await
    }

    async fn decode(&self, table: &str, content: Bytes) -> Result<RecordBatch> {
        self.op(Op::GoldDecode, table, move |_| crate::files::gold_rows(&content)).await
    }
}
