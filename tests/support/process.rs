//! The real program as another process: started, watched, ended in every way there is.
//!
//! Owns: arguments and environment that every test gives it, waiting with an end. Does not own: what it works on (site).

#![allow(clippy::unwrap_used, reason = "a helper of a test may end the test")]

use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

const PAUSE: Duration = Duration::from_millis(5);
/// Two minutes: far beyond what anything here takes on a busy machine.
const LOOKS: u32 = 24_000;

/// What the operating system says of a process that called `abort`.
pub(crate) const ABORTED: i32 = 6;

/// Looks again and again until there is something; fails with what was waited for.
#[expect(clippy::disallowed_methods, reason = "another process is waited for, and it has no other way to tell")]
pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    for _ in 0..LOOKS {
        if let Some(found) = look() {
            return found;
        }
        std::thread::sleep(PAUSE);
    }
    panic!("waited in vain for {what}");
}

/// A call of the program that nothing of the tester's environment leaks into.
pub(crate) fn program(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sluicebox"));
    command.current_dir(folder).stdin(Stdio::null());
    // Of no account: whoever wants AWS here wants a service on this machine.
    command.envs([("AWS_ACCESS_KEY_ID", "none"), ("AWS_SECRET_ACCESS_KEY", "none"), ("AWS_REGION", "us-east-1")]);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("SLUICEBOX")) {
        command.env_remove(name);
    }
    command
}

/// A process that has ended.
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) signal: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    fn new(status: ExitStatus, out: &[u8], err: &[u8]) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self { code: status.code(), signal: status.signal(), out: text(out), err: text(err) }
    }

    /// Runs to its end.
    pub(crate) fn of(mut command: Command) -> Self {
        let output = command.output().unwrap();
        Self::new(output.status, &output.stdout, &output.stderr)
    }

    /// Fails the test unless it ended so.
    pub(crate) fn expect(self, code: i32, doing: &str) -> Self {
        let Self { code: ended, signal, out, err } = &self;
        assert_eq!(*ended, Some(code), "{doing}: exit {ended:?}, signal {signal:?}\n{out}\n{err}");
        self
    }
}

/// A process that works in the background. It is killed when the test lets go of it.
pub(crate) struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    /// Starts it, with its words in this file.
    pub(crate) fn start(mut command: Command, log: PathBuf) -> Self {
        let words = File::create(&log).unwrap();
        command.stdout(words.try_clone().unwrap()).stderr(words);
        Self { child: command.spawn().unwrap(), log }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has said so far.
    pub(crate) fn said(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap()).into_owned()
    }

    /// [`until`] about this process: fails at once when it ends before there is something.
    pub(crate) fn until<T>(&mut self, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        until(what, || {
            let found = look();
            let ended = if found.is_none() { self.child.try_wait().unwrap() } else { None };
            assert!(ended.is_none(), "waited for {what}, but it ended, {ended:?}:\n{}", self.said());
            found
        })
    }

    /// Has it ended?
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// `kill -9`; it must have been running still.
    pub(crate) fn kill(mut self) {
        let ended = self.child.try_wait().unwrap();
        assert!(ended.is_none(), "it had ended before it was killed, {ended:?}:\n{}", self.said());
        self.child.kill().unwrap();
        assert_eq!(self.child.wait().unwrap().signal(), Some(9));
    }

    /// Asks it to end.
    pub(crate) fn terminate(&self) {
        self.signal("-TERM");
    }

    /// It stands still until it is told to go on.
    pub(crate) fn stop(&self) {
        self.signal("-STOP");
    }

    /// It goes on.
    pub(crate) fn go_on(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([signal, &self.pid().to_string()]).status().unwrap();
        assert!(status.success(), "there was nobody to tell {signal}:\n{}", self.said());
    }

    /// Waits until it has said this so often.
    pub(crate) fn until_it_says(&mut self, words: &str, times: usize) {
        let log = self.log.clone();
        let said = move || String::from_utf8_lossy(&std::fs::read(&log).unwrap()).matches(words).count();
        self.until(&format!("{words:?}, {times} times"), || (said() >= times).then_some(()));
    }

    /// Waits for its end.
    pub(crate) fn end(mut self, what: &str) -> Ran {
        let status = until(what, || self.child.try_wait().unwrap());
        Ran::new(status, b"", self.said().as_bytes())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended long ago; then there is nothing to kill and nothing to say.
        self.child.kill().unwrap_or_default();
        self.child.wait().map(drop).unwrap_or_default();
    }
}
