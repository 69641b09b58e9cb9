//! What reading a Kinesis stream at a shard's legal maximum costs: CPU of our endpoint and of our source, per shard, as shares of
//! one core. In: 1 MB/s and 1,000 records/s a shard, by the SDK. Out: 2 MB/s a shard, for a backlog lies before what comes in.
//!
//! `cargo run --release -p sluicebox-aws --example kinesis_cpu -- [--shards 4] [--seconds 10] [--fan-out]`
//!
//! Three processes, so that each can be told from the others: this one is the endpoint, a child reads, another child writes.
//!
//! Owns: the load, the measuring. Does not own: what is measured.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::primitives::Blob;
use aws_sdk_kinesis::types::PutRecordsRequestEntry;
use sluicebox_actors::model::fault::{Fault, Kind, Result};
use sluicebox_actors::model::position::Position;
use sluicebox_actors::ports::{Clock, Stream};
use sluicebox_aws::client::{self, AwsRuntime, ClientSettings};
use sluicebox_aws::kinesis::sdk::SdkApi;
use sluicebox_aws::kinesis::source::{KinesisStream, Settings};
use sluicebox_stream::api::{Limits, Options, Server, serve};
use sluicebox_stream::embedded::{EmbeddedStream, PutRecord};

const STREAM: &str = "s";
/// 1,000 of them a second are a shard's share of records, and of bytes with their keys.
const PAYLOAD: usize = 980;
const KEY: &str = "0123456789abcdef";

struct System;

impl Clock for System {
    #[expect(clippy::disallowed_methods, reason = "a measurement is about the time of the machine")]
    fn now_us(&self) -> i64 {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
    }

    fn random(&self) -> u64 {
        self.now_us() as u64
    }
}

#[derive(Clone, Copy)]
struct Load {
    shards: usize,
    seconds: u64,
    fan_out: bool,
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |name: &str, otherwise: u64| {
        let at = args.iter().position(|arg| arg == name);
        at.and_then(|at| args.get(at + 1)).and_then(|text| text.parse().ok()).unwrap_or(otherwise)
    };
    let load = Load {
        shards: number("--shards", 4) as usize,
        seconds: number("--seconds", 10),
        fan_out: args.iter().any(|arg| arg == "--fan-out"),
    };
    let role = args.first().map(String::as_str);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let done = runtime.map_err(|error| failed("a runtime", &error)).and_then(|runtime| {
        runtime.block_on(async {
            match role {
                Some("read") => read(load).await,
                Some("write") => write(load).await,
                Some(_) | None => measure(load).await,
            }
        })
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            tell(&fault.to_string());
            ExitCode::FAILURE
        }
    }
}

fn failed(doing: &str, error: &(dyn std::error::Error + 'static)) -> Fault {
    Fault::caused(Kind::Bug, doing, error)
}

fn tell(line: &str) {
    // Whoever closed the pipe wants to hear no more.
    let _closed = writeln!(std::io::stdout(), "{line}").is_err();
}

async fn measure(load: Load) -> Result<()> {
    let dir = tempfile::tempdir().map_err(|error| failed("a directory", &error))?;
    let clock: Arc<dyn Clock> = Arc::new(System);
    backlog(dir.path(), load, clock.clone())?;
    let server = Server::new(dir.path().to_owned(), clock, Options { limits: Limits::aws(), faults: false })?;
    let listener = TcpListener::bind(("127.0.0.1", 0)).map_err(|error| failed("a port", &error))?;
    let url = format!("http://{}", listener.local_addr().map_err(|error| failed("an address", &error))?);
    let serving = tokio::spawn(serve(listener, server, std::future::pending()));
    let (mut reader, mut writer) = (child("read", &url, load)?, child("write", &url, load)?);
    // Connections, iterators and subscriptions have come about.
    pause(2).await;
    let before = (cpu_s(std::process::id())?, cpu_s(reader.id())?, System.now_us());
    let (bytes, at) = (heard(&mut reader)?, System.now_us());
    pause(load.seconds).await;
    let (more, until) = (heard(&mut reader)?, System.now_us());
    let after = (cpu_s(std::process::id())?, cpu_s(reader.id())?, System.now_us());
    for child in [&mut reader, &mut writer] {
        child.kill().and_then(|()| child.wait()).map_err(|error| failed("ending a child", &error))?;
    }
    serving.abort();
    let (took_s, shards) = ((after.2 - before.2) as f64 / 1e6, load.shards as f64);
    let share = |cpu_s: f64| cpu_s / took_s / shards * 100.0;
    let rate = (more - bytes) as f64 / ((until - at) as f64 / 1e6) / 1e6;
    let way = if load.fan_out { "fan-out" } else { "polling" };
    tell(&format!(
        "{way}: {} shards, {took_s:.1} s, {rate:.2} MB/s out; of one core and shard: endpoint {:.1} %, source {:.1} %",
        load.shards,
        share(after.0 - before.0),
        share(after.1 - before.1),
    ));
    Ok(())
}

/// Twice what is read while it is measured: it never catches up.
fn backlog(dir: &Path, load: Load, clock: Arc<dyn Clock>) -> Result<()> {
    let stream = EmbeddedStream::create(dir, STREAM, load.shards, clock)?;
    let step = u128::MAX / load.shards as u128 + 1;
    for _ in 0..(load.seconds + 4) * 4 {
        let records = (0..load.shards as u128 * 500).map(|n| PutRecord {
            partition_key: Some(KEY.into()),
            explicit_hash_key: Some(n % load.shards as u128 * step),
            data: payload(n as u64).into(),
            arrival_us: None,
        });
        stream.put(&records.collect::<Vec<_>>())?;
    }
    Ok(())
}

fn payload(number: u64) -> Vec<u8> {
    let mut text = format!(r#"{{"eventType":"click","number":{number},"text":""#);
    while text.len() < PAYLOAD - 2 {
        text.push(char::from(b'a' + (text.len() as u64 * 7 + number) as u8 % 26));
    }
    text.push_str("\"}");
    text.into_bytes()
}

fn child(role: &str, url: &str, load: Load) -> Result<Child> {
    let own = std::env::current_exe().map_err(|error| failed("the program itself", &error))?;
    let mut command = Command::new(own);
    command.arg(role).args(["--shards", &load.shards.to_string(), "--seconds", &load.seconds.to_string()]);
    command.args(load.fan_out.then_some("--fan-out")).stdout(Stdio::piped());
    command.env("AWS_ENDPOINT_URL_KINESIS", url).env("AWS_REGION", "us-east-1");
    command.env("AWS_ACCESS_KEY_ID", "any").env("AWS_SECRET_ACCESS_KEY", "any");
    command.spawn().map_err(|error| failed("starting a child", &error))
}

/// The newest of the counts that a reader prints; waits for one.
fn heard(reader: &mut Child) -> Result<u64> {
    let stdout = reader.stdout.as_mut().ok_or_else(|| Fault::bug("a child without output"))?;
    let mut lines = BufReader::with_capacity(1 << 16, stdout);
    let mut line = String::new();
    lines.read_line(&mut line).map_err(|error| failed("the reader's count", &error))?;
    // What has been printed meanwhile lies in the same buffer: the last whole line of it is the newest.
    let rest = String::from_utf8_lossy(lines.buffer()).into_owned();
    let newest = rest.rsplit_once('\n').and_then(|(whole, _)| whole.lines().last()).unwrap_or(&line);
    newest.trim().parse().map_err(|_| Fault::bug(format!("the reader says: {newest}")))
}

/// User and system time of a process so far, seconds.
fn cpu_s(pid: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).map_err(|error| failed("/proc", &error))?;
    // The name in brackets may hold anything.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|text| text.parse::<f64>().ok()).unwrap_or_default();
    Ok((ticks(11) + ticks(12)) / 100.0)
}

async fn pause(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

async fn connect() -> Result<Client> {
    Ok(Client::new(&client::load(&ClientSettings::default()).await?))
}

async fn read(load: Load) -> Result<()> {
    let api = Arc::new(SdkApi::new(connect().await?, STREAM));
    let settings = Settings { fan_out: load.fan_out.then(|| "c".into()), ..Settings::default() };
    let stream = KinesisStream::new(STREAM, api, AwsRuntime::start()?, Arc::new(System), settings);
    let read = Arc::new(std::sync::atomic::AtomicU64::new(0));
    for info in stream.shards().await? {
        let (stream, read) = (stream.clone(), read.clone());
        tokio::spawn(async move {
            let mut after = Position::START;
            loop {
                // A fault of the endpoint is one that is waited out.
                let Ok(got) = stream.read(&info.shard, after, 10_000, 4 << 20).await else { continue };
                after = got.records.last().map_or(after, |last| Position::after(last.sequence));
                let bytes: usize = got.records.iter().map(|record| record.data.len() + record.partition_key.len()).sum();
                read.fetch_add(bytes as u64, std::sync::atomic::Ordering::Relaxed);
            }
        });
    }
    loop {
        pause(1).await;
        tell(&read.load(std::sync::atomic::Ordering::Relaxed).to_string());
    }
}

/// A thousand records a second and shard, in two calls a second for each shard.
async fn write(load: Load) -> Result<()> {
    let client = connect().await?;
    let step = u128::MAX / load.shards as u128 + 1;
    let (begin_us, mut number) = (System.now_us(), 0u64);
    for half in 0.. {
        for shard in 0..load.shards as u128 {
            let entry = |n: u64| {
                let entry = PutRecordsRequestEntry::builder().partition_key(KEY).data(Blob::new(payload(n)));
                entry.explicit_hash_key((shard * step).to_string()).build().map_err(|error| failed("an entry", &error))
            };
            let entries = (number..number + 500).map(entry).collect::<Result<_>>()?;
            number += 500;
            let put = client.put_records().stream_name(STREAM).set_records(Some(entries)).send().await;
            put.map_err(|error| failed("PutRecords", &error))?;
        }
        let due_us = begin_us + (half + 1) * 500_000;
        let left_us = u64::try_from(due_us - System.now_us()).unwrap_or(0);
        tokio::time::sleep(Duration::from_micros(left_us)).await;
    }
    Ok(())
}
