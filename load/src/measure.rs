//! Time and peak memory of the product over given files, step by step.
//!
//! Owns: starting the binary and watching it. Does not own: what it prints (shown when a step fails).

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::Context;
use clap::Args;
use sluicebox::clock::SystemClock;

/// Flags of `measure`.
#[derive(Debug, Args)]
pub(crate) struct Measure {
    /// Files to put, in this order
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// The pipeline file
    #[arg(long)]
    config: PathBuf,
    /// An empty folder for the data
    #[arg(long)]
    data: PathBuf,
    /// The sluicebox binary; the one beside this program by default
    #[arg(long)]
    binary: Option<PathBuf>,
    /// Each file is one record, its bytes unchanged, as `sluicebox put --raw` takes them
    #[arg(long)]
    raw: bool,
    /// Settings for every step, as `sluicebox --set` takes them
    #[arg(long = "set")]
    sets: Vec<String>,
    /// Fails when `run` takes more memory than this, in MiB
    #[arg(long)]
    max_rss_mib: Option<u64>,
}

struct Step {
    seconds: f64,
    rss_mib: u64,
    good: bool,
}

/// Runs the steps and prints a table; false when one failed or took too much.
pub(crate) fn measure(args: &Measure) -> anyhow::Result<bool> {
    let binary = super::product(args.binary.as_ref())?;
    let put: Vec<&str> = args.files.iter().map(|file| file.to_str().unwrap_or_default()).collect();
    let how: &[&str] = if args.raw { &["put", "--raw"] } else { &["put", "--arrival", "event"] };
    let steps: [(&str, Vec<&str>); 3] =
        [("put", how.iter().copied().chain(put).collect()), ("run --drain", vec!["run", "--drain"]), ("audit", vec!["audit"])];
    println!("{:<12} {:>9} {:>12}  ended", "step", "seconds", "peak RSS");
    let mut good = true;
    for (name, arguments) in steps {
        let step = run(&binary, args, &arguments).with_context(|| format!("{name} of {}", binary.display()))?;
        let fits = name != "run --drain" || args.max_rss_mib.is_none_or(|limit| step.rss_mib <= limit);
        let ended = match (step.good, fits) {
            (true, true) => "good",
            (true, false) => "too much memory",
            (false, _) => "FAILED",
        };
        println!("{name:<12} {:>9.2} {:>8} MiB  {ended}", step.seconds, step.rss_mib);
        good &= step.good && fits;
        if !step.good {
            break;
        }
    }
    Ok(good)
}

fn run(binary: &Path, args: &Measure, arguments: &[&str]) -> anyhow::Result<Step> {
    let clock = SystemClock::shared();
    let before_us = clock.now_us();
    let mut command = Command::new(binary);
    command.arg("--config").arg(&args.config).arg("--data").arg(&args.data);
    for set in &args.sets {
        command.arg("--set").arg(set);
    }
    let mut child = command.args(arguments).stdout(Stdio::null()).spawn()?;
    let (rss_mib, good) = watch(&mut child)?;
    Ok(Step { seconds: (clock.now_us() - before_us) as f64 / 1e6, rss_mib, good })
}

/// The kernel keeps the peak while the process lives, so it is read until the process has ended.
#[expect(clippy::disallowed_methods, reason = "watching another process is waiting for time to pass")]
fn watch(child: &mut Child) -> anyhow::Result<(u64, bool)> {
    let status = format!("/proc/{}/status", child.id());
    let mut peak_kib = 0;
    loop {
        if let Some(ended) = child.try_wait()? {
            return Ok((peak_kib / 1024, ended.success()));
        }
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        peak_kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(peak_kib);
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}
