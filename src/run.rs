//! The life of a run: threads, status for people, and the end.
//!
//! Owns: the actix system and its arbiters, for a run and for invocations, `state/status.json`. Does not own: what runs
//! (sluicebox_actors::pipeline), what it runs on (topology), who asks it to end (signals).

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sluicebox_actors::model::fault::{Fault, Kind, Result};
use sluicebox_actors::model::position::ShardId;
use sluicebox_actors::pipeline::{self, Outcome, Parts, Places};
use sluicebox_actors::ports::Clock;
use sluicebox_actors::toolkit::board::{Board, Live, LiveSink};
#[cfg(debug_assertions)]
use sluicebox_actors::toolkit::crash;
use sluicebox_actors::toolkit::spawn::Place;
use sluicebox_lambda::event::Role;
use sluicebox_lambda::function::{self, Function, Observer};
use tokio::sync::watch;

use crate::read::status::{RunStatus, ShardStatus, SinkStatus};

/// How often the status file is written and the observer called.
const LOOK: Duration = Duration::from_millis(250);

/// Runs until `stop` turns true, or until drained. `observe` is called a few times a second.
pub fn run(parts: Parts, data: &Path, stop: watch::Receiver<bool>, observe: impl FnMut(&Board) + 'static) -> Result<Outcome> {
    arm_crashes()?;
    let data: Arc<Path> = data.into();
    on_actors(|places| async move {
        let looking = actix::spawn(look(data.clone(), parts.board.clone(), parts.clock.clone(), observe));
        let (board, clock) = (parts.board.clone(), parts.clock.clone());
        let outcome = pipeline::run(parts, places, stop).await;
        looking.abort();
        // How it ended is what people look for afterwards.
        Looks::new(clock.now_us()).write(&data, &board, clock.now_us());
        outcome
    })
}

/// Fetches invocations from AWS Lambda and answers them, until the sandbox ends. Nothing runs between two of them.
pub fn invoked(parts: Parts, role: Option<Role>, observer: Arc<dyn Observer>) -> Result<()> {
    arm_crashes()?;
    on_actors(|places| function::serve(Function::new(parts, places, role, observer)))
}

/// Tests kill the program where it hurts.
fn arm_crashes() -> Result<()> {
    #[cfg(debug_assertions)]
    for (variable, how) in [("SLUICEBOX_CRASH", crash::How::Crash), ("SLUICEBOX_PANIC", crash::How::Panic)] {
        if let Ok(point) = std::env::var(variable) {
            crash::arm(how, &point)?;
        }
    }
    Ok(())
}

/// Runs work that needs actors, with a thread for each core; they end with it.
fn on_actors<T, F: Future<Output = T>>(work: impl FnOnce(Places) -> F) -> T {
    let system = actix::System::new();
    let (outcome, arbiters) = system.block_on(async move {
        let cores = std::thread::available_parallelism().map_or(2, NonZeroUsize::get);
        let arbiters: Vec<actix::Arbiter> = (0..cores).map(|_| actix::Arbiter::new()).collect();
        let places = Places(arbiters.iter().map(|arbiter| Place::Arbiter(arbiter.handle())).collect());
        (work(places).await, arbiters)
    });
    for arbiter in arbiters {
        arbiter.stop();
        if arbiter.join().is_err() {
            tracing::error!("a thread of actors ended by a panic");
        }
    }
    outcome
}

async fn look(data: Arc<Path>, board: Arc<Board>, clock: Arc<dyn Clock>, mut observe: impl FnMut(&Board)) {
    let mut looks = Looks::new(clock.now_us());
    loop {
        tokio::time::sleep(LOOK).await;
        observe(&board);
        looks.write(&data, &board, clock.now_us());
    }
}

/// Consecutive looks at the board.
struct Looks {
    started_us: i64,
    /// Per shard: records processed, and when that was.
    before: BTreeMap<ShardId, (u64, i64)>,
}

impl Looks {
    fn new(started_us: i64) -> Self {
        Self { started_us, before: BTreeMap::new() }
    }

    fn write(&mut self, data: &Path, board: &Board, now_us: i64) {
        let mut status = RunStatus {
            pid: std::process::id(),
            host: host_name(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_us: self.started_us,
            updated_us: now_us,
            ..RunStatus::default()
        };
        for (shard, live) in board.all() {
            let (processed, at_us) = self.before.insert(shard.clone(), (live.processed, now_us)).unwrap_or((0, self.started_us));
            let seconds = (now_us - at_us).max(1) as f64 / 1e6;
            let records_per_s = live.processed.saturating_sub(processed) as f64 / seconds;
            status.shards.push(shard_status(shard.as_str(), &live, records_per_s));
        }
        status.sinks = board.sinks().iter().map(|(sink, live)| sink_status(sink, live)).collect();
        if let Err(fault) = status.write(data) {
            tracing::debug!(%fault, "status file");
        }
    }
}

fn sink_status(sink: &str, live: &LiveSink) -> SinkStatus {
    SinkStatus {
        sink: sink.to_owned(),
        state: live.life.as_str().to_owned(),
        waiting: live.waiting,
        lag_ms: (live.lag_us / 1_000).unsigned_abs(),
        holds: live.holds,
        last_fault: live.last_fault.as_ref().map(ToString::to_string),
    }
}

fn shard_status(shard: &str, live: &Live, records_per_s: f64) -> ShardStatus {
    ShardStatus {
        shard: shard.to_owned(),
        state: live.life.as_str().to_owned(),
        restarts: live.restarts,
        last_fault: live.last_fault.clone(),
        in_flight_bytes: live.in_flight as u64,
        group_bytes: live.groups,
        epoch_open: live.epoch + 1,
        position_read: live.position.sequence().map(|sequence| sequence.to_string()),
        behind_ms: live.behind_us.map(|behind| behind / 1_000),
        records_per_s,
    }
}

/// The machine's name, for people.
pub fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    if name.trim().is_empty() { "localhost".to_owned() } else { name.trim().to_owned() }
}

/// A runtime for verbs that only look.
pub fn block_on<T>(work: impl Future<Output = T>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|error| Fault::caused(Kind::Retry, "starting the runtime", &error))?;
    Ok(runtime.block_on(work))
}
