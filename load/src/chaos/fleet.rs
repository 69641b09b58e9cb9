//! `fleet`: workers of the real program share a stream over the Kinesis API, a bucket and a DynamoDB table; they are killed,
//! frozen and stopped, shards split and merge, services fail; then every record is accounted for.
//!
//! The services are played by this process: the embedded stream behind its Kinesis API, and the fakes of S3 and DynamoDB, which
//! lose answers and throttle to order. Every worker has a disk of its own, which dies with it.
//!
//! Owns: the services, the attacks on a fleet and their order. Does not own: what must be there in the end (oracle).

use std::collections::{BTreeMap, HashMap};
use std::net::TcpListener;
use std::path::PathBuf;

use anyhow::{Context, ensure};
use clap::Args;
use sluicebox::clock::SystemClock;
use sluicebox::demo_events::DemoEvents;
use sluicebox_fakeaws::dynamo::FakeDynamo;
use sluicebox_fakeaws::faults::{Fault, FaultPlan};
use sluicebox_fakeaws::s3::FakeS3;
use sluicebox_stream::api::{self, Options, Server};
use sluicebox_stream::embedded::{EmbeddedStream, PutRecord};
use tokio::runtime::Runtime;

use super::dice::Dice;
use super::input::Kind;
use super::oracle;
use super::process::{Process, Sandbox};
use super::producer::{Known, fingerprint};
use super::tally::Tally;
use super::{HOUR_US, HOURS};

/// A worker that is silent for so long counts as gone; a frozen one sleeps for longer.
const FAILOVER_MS: u64 = 3_000;
/// Between two attacks.
const BREATH_MS: u64 = 2_000;
const PUT_EVERY_MS: u64 = 250;
/// Open shards are kept between half of what there was and twice as many.
const BOUNDS: (usize, usize) = (2, 2);
const END_MS: u64 = 120_000;
const SETS: [&str; 11] = [
    "stream.kind=kinesis",
    "store.kind=aws",
    "store.bucket=lake",
    "store.inline=16KiB",
    "stream.parallelism=2",
    "collect.after_epochs=8",
    "restart.backoff_min=20ms",
    "breaker.enabled=false",
    "commit.interval=1s",
    "commit.size=256KiB",
    "limits.in_flight=1MiB",
];

/// Flags of `fleet`.
#[derive(Debug, Args)]
#[command(after_help = "Exit code 1 means that something differs: it is printed, with the seed.")]
pub(crate) struct Fleet {
    /// For so long the fleet is attacked
    #[arg(long, default_value_t = 30)]
    minutes: u64,
    /// Workers at the same time
    #[arg(long, default_value_t = 3)]
    workers: usize,
    /// Shards in the beginning
    #[arg(long, default_value_t = 8)]
    shards: usize,
    /// Records put per second
    #[arg(long, default_value_t = 200)]
    rate: u64,
    /// Input and attacks follow from it; when a process gets how far is up to the machine. Without one, one is drawn and printed
    #[arg(long)]
    seed: Option<u64>,
    /// The sluicebox binary; the one beside this program by default
    #[arg(long)]
    binary: Option<PathBuf>,
    /// A folder to make and to work in; one for temporary files by default
    #[arg(long)]
    dir: Option<PathBuf>,
}

/// What is done to a fleet.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Blow {
    /// SIGKILL to one worker; a new one takes its place.
    Kill,
    /// SIGSTOP for longer than anybody waits, then SIGCONT: it wakes up fenced.
    Freeze,
    /// SIGTERM: must end well; a new one takes its place.
    Stop,
    /// An open shard is split.
    Split,
    /// Two open neighbours are merged.
    Merge,
    /// Answers of DynamoDB get lost or it throttles.
    Rows,
    /// Answers of S3 get lost or it throttles.
    Objects,
    /// One service is gone for some seconds.
    Outage,
}

const BLOWS: [Blow; 10] = [
    Blow::Kill,
    Blow::Kill,
    Blow::Freeze,
    Blow::Freeze,
    Blow::Stop,
    Blow::Split,
    Blow::Merge,
    Blow::Rows,
    Blow::Objects,
    Blow::Outage,
];

/// The services, and the stream as its producer has it.
struct Services {
    s3: FakeS3,
    dynamo: FakeDynamo,
    stream: EmbeddedStream,
    at: PathBuf,
    environment: Vec<(String, String)>,
    _runtime: Runtime,
}

impl Services {
    fn start(folder: &std::path::Path, shards: usize) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let (s3, dynamo) = runtime.block_on(async { anyhow::Ok((FakeS3::start().await?, FakeDynamo::start().await?)) })?;
        let at = folder.join("cloud/stream");
        let stream = EmbeddedStream::open_or_create(&at, "events", shards, SystemClock::shared())?;
        let server = Server::new(at.clone(), SystemClock::shared(), Options::default())?;
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let kinesis = format!("http://{}", listener.local_addr()?);
        runtime.spawn(async move {
            if let Err(fault) = api::serve(listener, server, std::future::pending()).await {
                eprintln!("the Kinesis API ended: {fault}");
            }
        });
        let variables = [
            ("AWS_ENDPOINT_URL_KINESIS", kinesis),
            ("AWS_ENDPOINT_URL_S3", s3.url()),
            ("AWS_ENDPOINT_URL_DYNAMODB", dynamo.url()),
            ("AWS_ACCESS_KEY_ID", "none".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "none".to_owned()),
            ("AWS_REGION", "us-east-1".to_owned()),
        ];
        let environment = variables.map(|(name, value)| (name.to_owned(), value)).to_vec();
        Ok(Self { s3, dynamo, stream, at, environment, _runtime: runtime })
    }

    fn service(&self, number: u64) -> &FaultPlan {
        if number == 0 { self.s3.faults() } else { self.dynamo.faults() }
    }
}

/// A fleet under attack.
struct Siege {
    sandbox: Sandbox,
    services: Services,
    workers: Vec<Process>,
    started: u64,
    dice: Dice,
    known: HashMap<u64, Known>,
    put: u64,
    rate: u64,
    shards: usize,
    start_us: i64,
    blows: BTreeMap<Blow, u64>,
    tally: Tally,
}

/// Attacks a fleet, and compares; false when something differs.
pub(crate) fn fleet(args: &Fleet) -> anyhow::Result<bool> {
    let clock = SystemClock::shared();
    let began_us = clock.now_us();
    let seed = args.seed.unwrap_or_else(|| clock.random() >> 32);
    let Fleet { minutes, workers, shards, rate, .. } = args;
    let again =
        format!("sluicebox-load fleet --minutes {minutes} --workers {workers} --shards {shards} --rate {rate} --seed {seed}");
    println!("{again}");
    let input = Kind::Generated.input();
    let folder = args.dir.clone().unwrap_or_else(|| std::env::temp_dir().join(format!("sluicebox-fleet-{seed}")));
    let own = [format!("store.failover={FAILOVER_MS}ms")];
    let sets = input.sets.iter().cloned().chain(SETS.iter().map(|set| (*set).to_owned())).chain(own).collect();
    let sandbox = Sandbox::new(folder.clone(), super::super::product(args.binary.as_ref())?, None, sets)?;
    let services = Services::start(&sandbox.folder, args.shards)?;
    let sandbox = sandbox.with_environment(services.environment.clone());
    let start_us = (began_us.div_euclid(HOUR_US) - HOURS - 1) * HOUR_US;
    let mut siege = Siege {
        sandbox,
        services,
        workers: Vec::new(),
        started: 0,
        dice: Dice::new(seed),
        known: HashMap::new(),
        put: 0,
        rate: args.rate,
        shards: args.shards,
        start_us,
        blows: BTreeMap::new(),
        tally: Tally::default(),
    };
    for _ in 0..args.workers {
        siege.begin_worker()?;
    }
    siege.hold_out(began_us, args.minutes)?;
    let Siege { sandbox, services, mut tally, known, blows, started, .. } = siege;
    oracle::settle(&sandbox, &services.at, &input, &known, &mut tally)?;
    if services.s3.uploads() > 0 {
        tally.differ(format!("{} uploads are neither completed nor aborted", services.s3.uploads()));
    }
    for (blow, times) in &blows {
        println!("{:<44} {times:>12}", format!("{blow:?}").to_lowercase());
    }
    println!("{:<44} {started:>12}", "workers started");
    println!("{:<44} {:>12}", "shards in the end", services.stream.shards_blocking()?.len());
    tally.print_sizes((clock.now_us() - began_us) as f64 / 1e6);
    if tally.is_good() {
        std::fs::remove_dir_all(&sandbox.folder)?;
    } else {
        println!("all of it is in {}\nagain: {again}", sandbox.folder.display());
    }
    Ok(tally.is_good())
}

impl Siege {
    fn begin_worker(&mut self) -> anyhow::Result<()> {
        self.started += 1;
        let name = format!("worker-{}", self.started);
        let data = self.sandbox.folder.join(&name);
        let worker = self.sandbox.start(self.sandbox.command_on(&data, &["run"]), &name)?;
        self.workers.push(worker);
        Ok(())
    }

    /// One attack after the other until the time is over; then everybody is asked to end.
    fn hold_out(&mut self, began_us: i64, minutes: u64) -> anyhow::Result<()> {
        let end_us = began_us.saturating_add_unsigned(minutes * 60_000_000);
        self.rest(FAILOVER_MS)?;
        while self.sandbox.clock.now_us() < end_us {
            let blow = self.dice.one_of(&BLOWS);
            self.strike(blow).with_context(|| format!("{blow:?}"))?;
            *self.blows.entry(blow).or_default() += 1;
            self.rest(BREATH_MS)?;
            self.nobody_gave_up()?;
            eprint!(".{}", if self.blows.values().sum::<u64>().is_multiple_of(50) { "\n" } else { "" });
        }
        eprintln!();
        for worker in std::mem::take(&mut self.workers) {
            self.must_end(worker)?;
        }
        Ok(())
    }

    /// Nothing is done to anybody for so long, but records come.
    fn rest(&mut self, ms: u64) -> anyhow::Result<()> {
        for _ in 0..ms.div_ceil(PUT_EVERY_MS) {
            self.put()?;
            let _slept: Option<()> = self.sandbox.until(PUT_EVERY_MS, || Ok(None))?;
        }
        Ok(())
    }

    fn put(&mut self) -> anyhow::Result<()> {
        let events = self.rate * PUT_EVERY_MS / 1_000;
        let step_us = HOURS * HOUR_US / 720;
        let from_us = self.start_us + (self.put % 720) as i64 * step_us;
        self.put += 1;
        let events: Vec<PutRecord> = DemoEvents::new(self.dice.next(), events, from_us, step_us)
            .map(|(data, _)| PutRecord { data, ..PutRecord::default() })
            .collect();
        let outcome = self.services.stream.put(&events)?;
        for (event, stored) in events.iter().zip(&outcome) {
            let known = self.known.entry(fingerprint(&event.data)).or_default();
            known.offered += 1;
            known.acknowledged += u64::from(stored.is_ok());
        }
        Ok(())
    }

    fn strike(&mut self, blow: Blow) -> anyhow::Result<()> {
        match blow {
            Blow::Kill => {
                let mut victim = self.victim();
                victim.kill()?;
                drop(victim);
                self.begin_worker()
            }
            Blow::Stop => {
                let worker = self.victim();
                self.must_end(worker)?;
                self.begin_worker()
            }
            Blow::Freeze => {
                let worker = self.victim();
                worker.signal("STOP")?;
                let asleep_ms = FAILOVER_MS + 1_000 + self.dice.below(FAILOVER_MS);
                self.rest(asleep_ms)?;
                worker.signal("CONT")?;
                self.workers.push(worker);
                Ok(())
            }
            Blow::Split | Blow::Merge => self.reshard(blow == Blow::Split),
            Blow::Rows => {
                let operation = self.dice.one_of(&["UpdateItem", "PutItem", "Query", "GetItem"]);
                self.upset(1, operation)
            }
            Blow::Objects => {
                let operation = self.dice.one_of(&[
                    "PutObject",
                    "GetObject",
                    "HeadObject",
                    "ListObjectsV2",
                    "DeleteObject",
                    "CreateMultipartUpload",
                    "UploadPart",
                    "CompleteMultipartUpload",
                ]);
                self.upset(0, operation)
            }
            Blow::Outage => {
                let which = self.dice.below(2);
                self.services.service(which).down(true);
                let ms = 500 + self.dice.below(2 * FAILOVER_MS);
                self.rest(ms)?;
                self.services.service(which).down(false);
                Ok(())
            }
        }
    }

    fn victim(&mut self) -> Process {
        let at = self.dice.below(self.workers.len() as u64) as usize;
        self.workers.remove(at)
    }

    fn upset(&mut self, service: u64, operation: &str) -> anyhow::Result<()> {
        let fault = match self.dice.below(4) {
            0 => Fault::DropRequest,
            1 => Fault::DropResponse,
            2 => Fault::Throttle,
            _ => Fault::Status(500, "InternalError"),
        };
        // Fewer than a worker that begins puts up with.
        let times = 1 + self.dice.below(8) as usize;
        self.services.service(service).next(operation, times, fault);
        Ok(())
    }

    fn reshard(&mut self, split: bool) -> anyhow::Result<()> {
        let mut open: Vec<_> = self.services.stream.shards_blocking()?.into_iter().filter(|info| !info.closed).collect();
        open.sort_by_key(|info| info.hash_start);
        if split && open.len() < self.shards * BOUNDS.1 {
            let info = &open[self.dice.below(open.len() as u64) as usize];
            let middle = info.hash_start + (info.hash_end - info.hash_start) / 2;
            self.services.stream.split(&info.shard, middle)?;
        } else if !split && open.len() > self.shards / BOUNDS.0 {
            let at = self.dice.below(open.len() as u64 - 1) as usize;
            self.services.stream.merge(&open[at].shard, &open[at + 1].shard)?;
        }
        Ok(())
    }

    /// Asked to end, a worker commits what it has read, lets its shards go, and ends with 0.
    fn must_end(&mut self, mut worker: Process) -> anyhow::Result<()> {
        worker.signal("TERM")?;
        let ended = self.sandbox.until(END_MS, || worker.ended())?;
        if !ended.is_some_and(|status| status.success()) {
            self.tally.differ(format!("a worker that was asked to end ended with {ended:?}:\n    {}", worker.last_words()));
        }
        Ok(())
    }

    fn nobody_gave_up(&mut self) -> anyhow::Result<()> {
        for worker in &mut self.workers {
            let ended = worker.ended()?;
            ensure!(ended.is_none(), "a worker gave up, {ended:?}:\n    {}", worker.last_words());
        }
        Ok(())
    }
}
