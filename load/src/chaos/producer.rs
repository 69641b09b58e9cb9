//! The producer beside the run: one `put` after the other, some of them killed.
//!
//! Owns: slices of the input, what was offered and what was acknowledged. Does not own: what becomes of it (oracle).

use std::collections::HashMap;
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context;
use flate2::read::MultiGzDecoder;
use sluicebox::demo_events::DemoEvents;

use super::dice::Dice;
use super::process::{Process, Sandbox};

/// Longest that one `put` may take.
const PUT_MS: u64 = 120_000;
/// Of a hundred, so many are killed.
const KILLED_PERCENT: u64 = 30;

/// Where records come from.
pub(super) enum Source {
    /// Demo events: slices of a span of time, in its order; after the last the first comes again, with other events.
    Generated { start_us: i64, span_us: i64, slices: u64 },
    /// Lines of files; after the last the first comes again.
    Recorded { lines: Vec<Vec<u8>>, at: usize, slice: usize },
}

impl Source {
    /// The first lines of these files, dealt out to so many slices.
    pub(super) fn recorded(files: &[PathBuf], limit: usize, slices: u64) -> anyhow::Result<Self> {
        let mut lines = Vec::new();
        for path in files {
            let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
            let packed = path.extension().is_some_and(|ending| ending == "gz");
            let plain: Box<dyn Read> = if packed { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) };
            for line in BufReader::with_capacity(1 << 20, plain).split(b'\n') {
                let mut line = line.with_context(|| format!("read {}", path.display()))?;
                line.pop_if(|last| *last == b'\r');
                lines.extend((!line.is_empty()).then_some(line));
                if lines.len() >= limit {
                    break;
                }
            }
        }
        anyhow::ensure!(!lines.is_empty(), "there is no line in {files:?}");
        let slice = lines.len().div_ceil(slices.max(1) as usize);
        Ok(Self::Recorded { lines, at: 0, slice })
    }

    fn slice(&mut self, number: u64, dice: &mut Dice) -> Vec<Vec<u8>> {
        match self {
            Self::Generated { start_us, span_us, slices } => {
                let (step_us, events) = (*span_us / *slices as i64, 200 + dice.below(1_000));
                let from_us = *start_us + (number % *slices) as i64 * step_us;
                DemoEvents::new(dice.next(), events, from_us, step_us).map(|(event, _)| event.to_vec()).collect()
            }
            Self::Recorded { lines, at, slice } => {
                let slice = lines.iter().cycle().skip(*at).take(*slice).cloned().collect::<Vec<_>>();
                *at = (*at + slice.len()) % lines.len();
                slice
            }
        }
    }
}

/// How often a payload was acknowledged, and how often it was offered.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Known {
    pub(super) acknowledged: u64,
    pub(super) offered: u64,
}

/// Identity of a payload.
pub(super) fn fingerprint(data: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    data.hash(&mut hasher);
    hasher.finish()
}

struct Put {
    process: Process,
    /// Fills the pipe, if it reads from one.
    _feeder: Option<Feeder>,
    lines: Vec<u64>,
    files: Vec<PathBuf>,
    started_us: i64,
    kill_at_us: Option<i64>,
    killed: bool,
    /// No file may grow beyond a limit: it may fail.
    cramped: bool,
}

struct Feeder(std::process::Child);

impl Drop for Feeder {
    fn drop(&mut self) {
        self.0.kill().unwrap_or_default();
        self.0.wait().map(drop).unwrap_or_default();
    }
}

/// What was done.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Puts {
    pub(super) started: u64,
    pub(super) killed: u64,
    /// Under a limit of the size of files.
    pub(super) cramped: u64,
    pub(super) repeated: u64,
}

/// Puts slice after slice.
pub(super) struct Producer {
    source: Source,
    flags: &'static [&'static str],
    /// Records a second: the lowest and the highest rate.
    rates: (u64, u64),
    dice: Dice,
    slices: u64,
    put: Option<Put>,
    again: Option<(Vec<PathBuf>, Vec<u64>)>,
    pub(super) known: HashMap<u64, Known>,
    pub(super) puts: Puts,
}

impl Producer {
    pub(super) fn new(source: Source, flags: &'static [&'static str], dice: Dice) -> Self {
        let rates = if matches!(source, Source::Generated { .. }) { (300, 2_000) } else { (150, 600) };
        let (known, puts) = (HashMap::new(), Puts::default());
        Self { source, flags, rates, dice, slices: 0, put: None, again: None, known, puts }
    }

    /// Looks after the `put` that runs, and starts the next one when it has ended. Says what went wrong.
    pub(super) fn tend(&mut self, sandbox: &Sandbox) -> anyhow::Result<Option<String>> {
        let wrong = self.settle(sandbox)?;
        if self.put.is_none() {
            self.next(sandbox, KILLED_PERCENT)?;
        }
        Ok(wrong)
    }

    /// Waits for the `put` that runs, and puts one more slice that nobody kills: something is always acknowledged.
    pub(super) fn finish(&mut self, sandbox: &Sandbox) -> anyhow::Result<Option<String>> {
        let mut wrong = self.wait(sandbox)?;
        self.next(sandbox, 0)?;
        wrong = wrong.or(self.wait(sandbox)?);
        Ok(wrong)
    }

    fn wait(&mut self, sandbox: &Sandbox) -> anyhow::Result<Option<String>> {
        let mut wrong = None;
        sandbox.until(2 * PUT_MS, || {
            wrong = wrong.take().or(self.settle(sandbox)?);
            Ok(self.put.is_none().then_some(()))
        })?;
        Ok(wrong)
    }

    fn next(&mut self, sandbox: &Sandbox, killed_percent: u64) -> anyhow::Result<()> {
        let (files, lines) = match self.again.take() {
            Some(again) => again,
            None => self.write_slice(&sandbox.folder.join("input"))?,
        };
        self.start(sandbox, files, lines, killed_percent)
    }

    fn settle(&mut self, sandbox: &Sandbox) -> anyhow::Result<Option<String>> {
        let Some(put) = &mut self.put else { return Ok(None) };
        let now_us = sandbox.clock.now_us();
        let overdue = now_us - put.started_us > PUT_MS as i64 * 1_000;
        let mut ended = put.process.ended()?;
        if ended.is_none() && (overdue || put.kill_at_us.is_some_and(|at| now_us >= at)) {
            ended = Some(put.process.kill()?);
            put.killed = ended.is_some_and(|status| status.code().is_none());
        }
        let (Some(status), Some(put)) = (ended, self.put.take_if(|_| ended.is_some())) else { return Ok(None) };
        let failed = put.cramped && !status.success() && !put.killed;
        self.puts.killed += u64::from(put.killed);
        if put.killed || failed {
            // As a producer does that got no answer: all of it once more.
            self.again = self.dice.percent(50).then_some((put.files, put.lines));
            return Ok(overdue.then(|| format!("a put did not end: {}", put.process.last_words())));
        }
        for line in put.lines {
            self.known.entry(line).or_default().acknowledged += 1;
        }
        for file in put.files {
            std::fs::remove_file(file)?;
        }
        Ok((!status.success()).then(|| format!("a put ended with {status}: {}", put.process.last_words())))
    }

    fn write_slice(&mut self, folder: &Path) -> anyhow::Result<(Vec<PathBuf>, Vec<u64>)> {
        std::fs::create_dir_all(folder)?;
        let lines = self.source.slice(self.slices, &mut self.dice);
        let parts = lines.len().div_ceil(1 + self.dice.below(3) as usize).max(1);
        let mut files = Vec::new();
        for (part, lines) in lines.chunks(parts).enumerate() {
            let path = folder.join(format!("slice-{}-{part}", self.slices));
            let mut file = BufWriter::new(File::create(&path)?);
            for line in lines {
                file.write_all(line)?;
                file.write_all(b"\n")?;
            }
            file.flush()?;
            files.push(path);
        }
        self.slices += 1;
        Ok((files, lines.iter().map(|line| fingerprint(line)).collect()))
    }

    fn start(&mut self, sandbox: &Sandbox, files: Vec<PathBuf>, lines: Vec<u64>, killed_percent: u64) -> anyhow::Result<()> {
        let rate = (self.rates.0 + self.dice.below(self.rates.1 - self.rates.0)).to_string();
        let mut verb = vec!["put", "--format-in", "lines"];
        verb.extend(self.flags);
        if self.dice.percent(85) {
            verb.extend(["--rate", &rate]);
        }
        let piped = self.dice.percent(30);
        let names: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
        verb.extend(if piped { vec!["-"] } else { names.iter().map(String::as_str).collect() });
        let cramped = self.dice.percent(killed_percent / 2);
        let mut command = match cramped {
            true => sandbox.command_in_little_room(&verb, 33 + self.dice.below(2_000), self.dice.percent(70)),
            false => sandbox.command(&verb),
        };
        let mut feeder = None;
        if piped {
            let mut cat = Command::new("cat").args(&names).stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
            command.stdin(cat.stdout.take().context("a pipe")?);
            feeder = Some(Feeder(cat));
        }
        for line in &lines {
            self.known.entry(*line).or_default().offered += 1;
        }
        self.puts.started += 1;
        self.puts.cramped += u64::from(cramped);
        self.puts.repeated += u64::from(self.known.get(&lines[0]).is_some_and(|known| known.offered > 1));
        let started_us = sandbox.clock.now_us();
        // In want of room it would try again for ten seconds, and nothing else would come in meanwhile.
        let kill = cramped || self.dice.percent(killed_percent);
        let kill_at_us = kill.then(|| started_us.saturating_add_unsigned(self.dice.below(900_000)));
        let process = sandbox.start(command, "put")?;
        self.put = Some(Put { process, _feeder: feeder, lines, files, started_us, kill_at_us, killed: false, cramped });
        Ok(())
    }
}
