//! Who asks the process to end, by SIGTERM or Ctrl-C, and what that means at the time.
//!
//! Owns: both signals, on a thread of their own. Does not own: how a run ends (sluicebox_actors::pipeline).

use std::sync::{Arc, Mutex, PoisonError};

use sluicebox_actors::model::fault::{Fault, Kind, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

/// What a shell says of a program that Ctrl-C ended.
const INTERRUPTED: i32 = 130;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// Nothing is held that would have to be let go, however long services are waited for.
    Beginning,
    /// Asked once, it commits what was read.
    Running,
    /// Asked already, or past the run.
    Leaving,
}

/// What to do about a signal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Act {
    /// Tell the run.
    Stop,
    /// End at once, which is as safe as a crash, with this exit code.
    Exit(i32),
}

impl Phase {
    /// SIGTERM is a request, and at the beginning it is met; Ctrl-C is somebody who gives up on it.
    fn signalled(self, terminate: bool) -> (Self, Act) {
        match self {
            Self::Beginning if terminate => (Self::Leaving, Act::Exit(0)),
            Self::Running => (Self::Leaving, Act::Stop),
            Self::Beginning | Self::Leaving => (Self::Leaving, Act::Exit(INTERRUPTED)),
        }
    }
}

/// Both signals, from when this was made until the process ends: what has caught a signal once can't give it back.
pub struct Signals {
    phase: Arc<Mutex<Phase>>,
    stop: watch::Receiver<bool>,
}

impl Signals {
    /// Catches them from now on: until [`Signals::run`], each ends the process at once.
    pub fn catch() -> Result<Self> {
        let fault = |error: std::io::Error| Fault::caused(Kind::Retry, "catching SIGTERM and Ctrl-C", &error);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(fault)?;
        let caught = {
            let _context = runtime.enter();
            Caught::begin().map_err(fault)?
        };
        let (asks, stop) = watch::channel(false);
        let phase = Arc::new(Mutex::new(Phase::Beginning));
        let answers = answer(caught, phase.clone(), asks);
        std::thread::Builder::new().name("signals".to_owned()).spawn(move || runtime.block_on(answers)).map_err(fault)?;
        Ok(Self { phase, stop })
    }

    /// Something runs: what comes back turns true with the first signal, and the second ends the process at once.
    pub fn run(&self) -> watch::Receiver<bool> {
        self.enter(Phase::Running);
        self.stop.clone()
    }

    fn enter(&self, phase: Phase) {
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner) = phase;
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        self.enter(Phase::Leaving);
    }
}

async fn answer(mut caught: Caught, phase: Arc<Mutex<Phase>>, asks: watch::Sender<bool>) {
    loop {
        let Some(terminates) = caught.next().await else {
            return tracing::warn!("signals can't be received any more: stop with SIGKILL, it is safe");
        };
        let mut phase = phase.lock().unwrap_or_else(PoisonError::into_inner);
        let (next, act) = phase.signalled(terminates);
        *phase = next;
        drop(phase);
        match act {
            Act::Stop => {
                tracing::info!("asked to stop: committing what has been read");
                asks.send_replace(true);
            }
            Act::Exit(code) => {
                tracing::info!(code, "asked to stop: ending at once, nothing is lost by that");
                std::process::exit(code);
            }
        }
    }
}

/// Waits until somebody asks the process to stop.
pub async fn asked() -> std::io::Result<()> {
    // None: no signal comes any more, and nobody would be heard.
    Caught::begin()?.next().await.map(drop).ok_or_else(|| std::io::ErrorKind::BrokenPipe.into())
}

/// Both signals as they come.
struct Caught {
    terminate: Signal,
    interrupt: Signal,
}

impl Caught {
    fn begin() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Is it SIGTERM? None when none can come any more.
    async fn next(&mut self) -> Option<bool> {
        tokio::select! {
            caught = self.terminate.recv() => caught.map(|()| true),
            caught = self.interrupt.recv() => caught.map(|()| false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_asked_once_and_everything_else_ends_at_once() {
        assert_eq!(Phase::Beginning.signalled(true), (Phase::Leaving, Act::Exit(0)));
        assert_eq!(Phase::Beginning.signalled(false), (Phase::Leaving, Act::Exit(130)));
        for terminate in [true, false] {
            let (next, act) = Phase::Running.signalled(terminate);
            assert_eq!((next, act), (Phase::Leaving, Act::Stop));
            assert_eq!(next.signalled(terminate), (Phase::Leaving, Act::Exit(130)));
        }
    }
}
