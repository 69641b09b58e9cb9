//! The product as other processes: started, watched, signalled, and never left behind.
//!
//! Owns: what every call is given, logs, waiting with an end. Does not own: who is hit and when (attacks).

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use sluicebox::clock::SystemClock;
use sluicebox_actors::ports::Clock;

const LOOK: Duration = Duration::from_millis(5);
/// Lines of a log that are worth showing.
const LAST_WORDS: usize = 25;

/// Waits a moment between two looks at another process.
#[expect(clippy::disallowed_methods, reason = "watching another process is waiting for time to pass")]
pub(super) fn doze() {
    std::thread::sleep(LOOK);
}

/// The directory that is attacked, and how the product is called on it.
pub(super) struct Sandbox {
    pub(super) folder: PathBuf,
    pub(super) clock: Arc<dyn Clock>,
    binary: PathBuf,
    config: Option<PathBuf>,
    sets: Vec<String>,
    environment: Vec<(String, String)>,
}

impl Sandbox {
    /// Makes the folder; it must not be there.
    pub(super) fn new(folder: PathBuf, binary: PathBuf, config: Option<PathBuf>, sets: Vec<String>) -> anyhow::Result<Self> {
        ensure!(!folder.exists(), "{} is there already: name another folder with --dir, or remove it", folder.display());
        ensure!(binary.exists(), "there is no {}: build it, or name one with --binary", binary.display());
        std::fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        let config = config.map(|path| path.canonicalize().with_context(|| format!("open {}", path.display()))).transpose()?;
        let (folder, binary) = (folder.canonicalize()?, binary.canonicalize()?);
        Ok(Self { folder, clock: SystemClock::shared(), binary, config, sets, environment: Vec::new() })
    }

    /// The same, and every call finds these variables.
    pub(super) fn with_environment(self, environment: Vec<(String, String)>) -> Self {
        Self { environment, ..self }
    }

    /// The data directory.
    pub(super) fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// Arguments of a verb, the program first.
    fn words(&self, data: &Path, verb: &[&str]) -> Vec<PathBuf> {
        let mut words = vec![self.binary.clone()];
        words.extend(verb.iter().map(PathBuf::from));
        words.extend([PathBuf::from("--data"), data.to_owned()]);
        if let Some(config) = &self.config {
            words.extend([PathBuf::from("--config"), config.clone()]);
        }
        for set in &self.sets {
            words.extend([PathBuf::from("--set"), PathBuf::from(set)]);
        }
        words
    }

    fn dressed(&self, words: &[PathBuf]) -> Command {
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).current_dir(&self.folder).stdin(Stdio::null());
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("SLUICEBOX")) {
            command.env_remove(name);
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// A verb that nothing of the caller's environment leaks into.
    pub(super) fn command(&self, verb: &[&str]) -> Command {
        self.command_on(&self.data(), verb)
    }

    /// The same on another data directory.
    pub(super) fn command_on(&self, data: &Path, verb: &[&str]) -> Command {
        self.dressed(&self.words(data, verb))
    }

    /// The same under a limit of the size of files; beyond it the process is killed, or, if it is deaf to that, its write fails.
    pub(super) fn command_in_little_room(&self, verb: &[&str], kib: u64, deaf: bool) -> Command {
        let trap = if deaf { "trap '' XFSZ; " } else { "" };
        let script = format!("{trap}ulimit -f {}; exec \"$@\"", kib * 2);
        let mut words = vec![PathBuf::from("sh"), PathBuf::from("-c"), PathBuf::from(script), PathBuf::from("sh")];
        words.extend(self.words(&self.data(), verb));
        self.dressed(&words)
    }

    /// Starts a command; `name` names its log.
    pub(super) fn start(&self, mut command: Command, name: &str) -> anyhow::Result<Process> {
        let (out, err) = (self.folder.join(format!("{name}.out")), self.folder.join(format!("{name}.log")));
        command.stdout(File::create(&out)?).stderr(File::create(&err)?);
        let child = command.spawn().with_context(|| format!("start {command:?}"))?;
        Ok(Process { child, out, err })
    }

    /// Looks until there is something, `None` after this time.
    pub(super) fn until<T>(
        &self,
        limit_ms: u64,
        mut look: impl FnMut() -> anyhow::Result<Option<T>>,
    ) -> anyhow::Result<Option<T>> {
        let end_us = self.clock.now_us().saturating_add_unsigned(limit_ms * 1_000);
        loop {
            if let Some(found) = look()? {
                return Ok(Some(found));
            }
            if self.clock.now_us() >= end_us {
                return Ok(None);
            }
            doze();
        }
    }

    /// Runs a verb to its end; a status of `None` means that it had to be killed after this time.
    pub(super) fn run(&self, command: Command, name: &str, limit_ms: u64) -> anyhow::Result<(Option<ExitStatus>, Process)> {
        let mut process = self.start(command, name)?;
        let status = self.until(limit_ms, || process.ended())?;
        if status.is_none() {
            process.kill()?;
        }
        Ok((status, process))
    }
}

/// A process that is killed when it is let go of.
pub(super) struct Process {
    child: Child,
    out: PathBuf,
    err: PathBuf,
}

impl Process {
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    pub(super) fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// `kill -9`, and how it ended: it may have been quicker.
    pub(super) fn kill(&mut self) -> anyhow::Result<ExitStatus> {
        self.child.kill()?;
        Ok(self.child.wait()?)
    }

    /// Sends a signal by name: `STOP`, `CONT`, `TERM`.
    pub(super) fn signal(&self, name: &str) -> anyhow::Result<bool> {
        let sent = Command::new("kill").arg(format!("-{name}")).arg(self.pid().to_string()).stderr(Stdio::null()).status()?;
        Ok(sent.success())
    }

    /// What it printed.
    pub(super) fn printed(&self) -> anyhow::Result<String> {
        text(&self.out)
    }

    /// What it logged.
    pub(super) fn said(&self) -> anyhow::Result<String> {
        text(&self.err)
    }

    /// The end of its log.
    pub(super) fn last_words(&self) -> String {
        let said = self.said().unwrap_or_default();
        let lines: Vec<&str> = said.lines().collect();
        lines[lines.len().saturating_sub(LAST_WORDS)..].join("\n    ")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended long ago; then there is nothing to kill and nothing to say.
        self.child.kill().unwrap_or_default();
        self.child.wait().map(drop).unwrap_or_default();
    }
}

fn text(path: &Path) -> anyhow::Result<String> {
    let bytes = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
