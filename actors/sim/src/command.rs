//! Many seeds on some threads, with progress and a table of what they met.
//!
//! Owns: sharing seeds out to threads, when to end, what is printed. Does not own: one seed (swarm).

use std::io::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use crate::coverage::Coverage;
use crate::sim::Tools;
use crate::swarm::{Arena, Failure};

/// Seeds that a thread takes at once.
const AT_ONCE: u64 = 64;

/// What to run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Command {
    pub seeds: u64,
    pub from: u64,
    pub threads: u64,
    /// Ends after so many minutes at the latest; none = when the seeds are through.
    pub minutes: Option<u64>,
    /// A failure tells so many of its last operations.
    pub tell: u64,
    /// Several workers share the shards of each world.
    pub fleet: bool,
    /// Processes share no disk.
    pub apart: bool,
    /// Batches of records are handed to invocations of a function.
    pub lambda: bool,
}

impl Default for Command {
    fn default() -> Self {
        Self { seeds: 10_000, from: 0, threads: 2, minutes: None, tell: 40, fleet: false, apart: false, lambda: false }
    }
}

struct Crowd {
    next: AtomicU64,
    end: AtomicBool,
    met: Mutex<Coverage>,
    failed: Mutex<Vec<Failure>>,
}

impl Command {
    /// Reads `--seeds N --from S --threads T --minutes M --tell L --fleet 1 --apart 1`, or `--lambda 1`.
    pub fn parse(arguments: &[String]) -> Result<Self, String> {
        let mut command = Self::default();
        for pair in arguments.chunks(2) {
            let [flag, value] = pair else { return Err(format!("`{}` needs a number", pair[0])) };
            let number = value.replace('_', "").parse().map_err(|error| format!("{flag} `{value}`: {error}"))?;
            match flag.as_str() {
                "--seeds" => command.seeds = number,
                "--from" => command.from = number,
                "--threads" => command.threads = number.clamp(1, 256),
                "--minutes" => command.minutes = Some(number),
                "--tell" => command.tell = number,
                "--fleet" => command.fleet = number != 0,
                "--apart" => command.apart = number != 0,
                "--lambda" => command.lambda = number != 0,
                other => {
                    let known = "--seeds, --from, --threads, --minutes, --tell, --fleet, --apart, --lambda";
                    return Err(format!("unknown `{other}`; there are {known}"));
                }
            }
        }
        Ok(command)
    }

    /// Runs them; false if a seed broke a rule, with the seed and how to see it again.
    #[expect(clippy::disallowed_methods, reason = "measures itself: the simulated worlds have clocks of their own")]
    pub fn run(&self, out: &mut impl Write) -> bool {
        let started = Instant::now();
        let crowd = Crowd {
            next: AtomicU64::new(self.from),
            end: AtomicBool::new(false),
            met: Mutex::default(),
            failed: Mutex::default(),
        };
        std::thread::scope(|scope| {
            let (done, all_done) = channel::<()>();
            for _ in 0..self.threads {
                let (crowd, done) = (&crowd, done.clone());
                scope.spawn(move || {
                    self.take_part(crowd);
                    drop(done);
                });
            }
            drop(done);
            while let Err(RecvTimeoutError::Timeout) = all_done.recv_timeout(Duration::from_secs(10)) {
                let late = self.minutes.is_some_and(|minutes| started.elapsed() >= Duration::from_secs(60 * minutes));
                crowd.end.fetch_or(late, Ordering::Relaxed);
                tell(out, &format!("{}\n", progress(&crowd, started.elapsed())));
            }
        });
        let failed = std::mem::take(&mut *lock(&crowd.failed));
        let met = lock(&crowd.met).clone();
        tell(out, &format!("{met}{}\n", progress(&crowd, started.elapsed())));
        for failure in &failed {
            tell(
                out,
                &format!(
                    "{failure}again: cargo run --release -p sluicebox-sim -- --from {} --seeds 1{}{}\n",
                    failure.seed,
                    if self.fleet {
                        " --fleet 1"
                    } else if self.lambda {
                        " --lambda 1"
                    } else {
                        ""
                    },
                    if self.apart { " --apart 1" } else { "" }
                ),
            );
        }
        failed.is_empty()
    }

    fn take_part(&self, crowd: &Crowd) {
        let tools = if self.apart { Tools::apart() } else { Tools::default() };
        let (arena, end) = (Arena { tools, ..Arena::telling(self.tell as usize) }, self.from.saturating_add(self.seeds));
        while !crowd.end.load(Ordering::Relaxed) {
            let first = crowd.next.fetch_add(AT_ONCE, Ordering::Relaxed);
            if first >= end {
                return;
            }
            let mut met = Coverage::default();
            for seed in first..end.min(first + AT_ONCE) {
                let survived = match (self.fleet, self.lambda) {
                    (true, _) => arena.survive_fleet(seed),
                    (false, true) => arena.survive_lambda(seed),
                    (false, false) => arena.survive(seed),
                };
                match survived {
                    Ok(survived) => met.add(&survived.coverage),
                    Err(failure) => {
                        let mut failed = lock(&crowd.failed);
                        failed.push(*failure);
                        // Many failures of one kind teach no more than a few.
                        crowd.end.fetch_or(failed.len() >= 10, Ordering::Relaxed);
                    }
                }
            }
            lock(&crowd.met).add(&met);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// A terminal that is gone stops nothing.
fn tell(out: &mut impl Write, text: &str) {
    drop(out.write_all(text.as_bytes()));
    drop(out.flush());
}

fn progress(crowd: &Crowd, took: Duration) -> String {
    let (seeds, failed) = (lock(&crowd.met).seeds, lock(&crowd.failed).len());
    let rate = seeds as f64 / took.as_secs_f64().max(0.001);
    format!("{seeds} seeds good, {failed} bad, {:.1} s, {rate:.1} seeds/s", took.as_secs_f64())
}
