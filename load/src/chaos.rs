//! `chaos`: the real program on a real directory, killed again and again beside a producer; then every record is accounted for.
//!
//! Owns: the flags, the order of things. Does not own: what is done to a run (attacks), what must be there in the end (oracle).

mod aftermath;
mod attacks;
mod dice;
pub(crate) mod fleet;
mod fold;
mod input;
mod oracle;
mod process;
mod producer;
mod tally;

use std::io::Write;
use std::path::PathBuf;

use anyhow::ensure;
use clap::Args;
use sluicebox::clock::SystemClock;

use attacks::{Attack, Attacker, Deck};
use dice::Dice;
use input::{Input, Kind};
use process::Sandbox;
use producer::{Producer, Source};
use tally::Tally;

const HOUR_US: i64 = 3_600_000_000;
/// Hours over which generated events happen; the last of them an hour ago, so that none but the poison is of the future.
const HOURS: i64 = 12;
/// Slices of input planned for each kill.
const SLICES_PER_KILL: u64 = 2;
const LINES_PER_KILL: usize = 500;
const PROBE_MS: u64 = 60_000;
/// Settings of every input: five shards, so that points of a takeover are passed five times.
const SETS: [&str; 5] =
    ["stream.shards=5", "stream.parallelism=2", "collect.after_epochs=4", "restart.backoff_min=20ms", "breaker.enabled=false"];

/// Flags of `chaos`.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit code 1 means that something differs: it is printed, with the command that repeats it. Crash points \
    and panics need a binary of the dev profile; with another they are left out.\n\n\
    Recorded input, from the root of the repository:\n  \
    sluicebox-load chaos --kills 50 --input windows-events --files DIR/windows-events"
)]
pub(crate) struct Chaos {
    /// Kills of a run; those that only ask it to end are not counted
    #[arg(long, default_value_t = 200)]
    kills: u64,
    /// All that is drawn follows from it (input, attacks, delays); when a process gets how far is up to the machine. Without one,
    /// one is drawn and printed
    #[arg(long)]
    seed: Option<u64>,
    /// What is put
    #[arg(long, value_enum, default_value = "generated")]
    input: Kind,
    /// Folder of the recorded files (.json, .gz), taken in the order of their names
    #[arg(long, required_if_eq_any([("input", "windows-events"), ("input", "gharchive"), ("input", "wikiticker")]))]
    files: Option<PathBuf>,
    /// The pipeline file of recorded input, instead of config/examples/INPUT.toml
    #[arg(long)]
    config: Option<PathBuf>,
    /// When the first generated event happens, microseconds since 1970; 13 hours ago by default
    #[arg(long)]
    start_us: Option<i64>,
    /// The sluicebox binary; the one beside this program by default
    #[arg(long)]
    binary: Option<PathBuf>,
    /// A folder to make and to work in; one for temporary files by default
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Keeps the folder also when nothing differs
    #[arg(long)]
    keep: bool,
}

/// Attacks, and compares; false when something differs.
pub(crate) fn chaos(args: &Chaos) -> anyhow::Result<bool> {
    let clock = SystemClock::shared();
    let began_us = clock.now_us();
    let seed = args.seed.unwrap_or_else(|| clock.random() >> 32);
    let start_us = args.start_us.unwrap_or((began_us.div_euclid(HOUR_US) - HOURS - 1) * HOUR_US);
    let input = args.input.input();
    let repeat = repeat(args, seed, start_us, input.name);
    println!("{repeat}");
    let mut attacker = attacker(args, seed, start_us, &input)?;
    let armed = has_points(&attacker.sandbox)?;
    if !armed {
        println!("this binary has no crash points (they are in builds of the dev profile): no crash points, no panics");
    }
    attack(&mut attacker, args.kills, armed)?;
    let Attacker { sandbox, mut producer, mut tally, .. } = attacker;
    if let Some(wrong) = producer.finish(&sandbox)? {
        tally.differ(wrong);
    }
    oracle::settle(&sandbox, &sandbox.data().join("stream"), &input, &producer.known, &mut tally)?;
    tally.print(producer.puts, (clock.now_us() - began_us) as f64 / 1e6);
    if tally.is_good() && !args.keep {
        std::fs::remove_dir_all(&sandbox.folder)?;
    } else {
        println!("all of it is in {}", sandbox.folder.display());
    }
    if !tally.is_good() {
        println!("again: {repeat}");
    }
    Ok(tally.is_good())
}

fn attacker(args: &Chaos, seed: u64, start_us: i64, input: &Input) -> anyhow::Result<Attacker> {
    let mut dice = Dice::new(seed);
    let slices = args.kills.max(1) * SLICES_PER_KILL;
    let (source, config) = match &args.files {
        None => (Source::Generated { start_us, span_us: HOURS * HOUR_US, slices }, args.config.clone()),
        Some(folder) => {
            let mut files: Vec<PathBuf> =
                std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<anyhow::Result<_>>()?;
            files.retain(|path| path.extension().is_some_and(|ending| ending == "gz" || ending == "json"));
            files.sort();
            let config = args.config.clone().unwrap_or_else(|| format!("config/examples/{}.toml", input.name).into());
            (Source::recorded(&files, args.kills as usize * LINES_PER_KILL, slices)?, Some(config))
        }
    };
    let folder = args.dir.clone().unwrap_or_else(|| std::env::temp_dir().join(format!("sluicebox-chaos-{seed}")));
    let sets = SETS.iter().map(|set| (*set).to_owned()).chain(input.sets.iter().cloned()).collect();
    let sandbox = Sandbox::new(folder, super::product(args.binary.as_ref())?, config, sets)?;
    let producer = Producer::new(source, input.put, Dice::new(dice.next()));
    Ok(Attacker { sandbox, producer, tally: Tally::default(), dice })
}

/// One tick per attack.
fn attack(attacker: &mut Attacker, kills: u64, armed: bool) -> anyhow::Result<()> {
    let mut deck = Deck::new(armed);
    let (mut killed, mut ticks) = (0, 0);
    while killed < kills {
        let attack = deck.deal(&mut attacker.dice);
        attacker.carry_out(attack)?;
        let left = aftermath::look(&attacker.sandbox.data())?;
        attacker.tally.attacked(attack, left);
        killed += u64::from(attack != Attack::Terminate);
        ticks += 1;
        eprint!(".{}", if ticks % 50 == 0 { "\n" } else { "" });
        std::io::stderr().flush()?;
    }
    eprintln!();
    Ok(())
}

/// Does the binary know crash points? Only then it refuses one that there is not.
fn has_points(sandbox: &Sandbox) -> anyhow::Result<bool> {
    let mut command = sandbox.command(&["run", "--drain"]);
    command.env("SLUICEBOX_CRASH", "no.such.point");
    let (status, probe) = sandbox.run(command, "probe", PROBE_MS)?;
    let code = status.and_then(|status| status.code());
    ensure!(matches!(code, Some(0 | 78)), "the first run ended with {status:?}: {}", probe.last_words());
    Ok(code == Some(78) && probe.said()?.contains("no.such.point"))
}

fn repeat(args: &Chaos, seed: u64, start_us: i64, input: &str) -> String {
    let mut line = format!("sluicebox-load chaos --kills {} --seed {seed} --input {input}", args.kills);
    match &args.files {
        None => line.push_str(&format!(" --start-us {start_us}")),
        Some(files) => line.push_str(&format!(" --files {}", files.display())),
    }
    for (flag, path) in [("--config", &args.config), ("--binary", &args.binary)] {
        if let Some(path) = path {
            line.push_str(&format!(" {flag} {}", path.display()));
        }
    }
    line
}
