//! The attacks: what is done to a run, and how it must take it.
//!
//! Owns: their kinds, the order in which they are dealt, carrying one out. Does not own: processes (process), results (oracle).

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use sluicebox_actors::toolkit::crash::POINTS;

use super::dice::Dice;
use super::process::{Process, Sandbox};
use super::producer::Producer;
use super::tally::Tally;

/// Longest that a run may take to commit something, or to end when asked.
const PATIENCE_MS: u64 = 60_000;
/// How long a run is given to come by a point.
const POINT_MS: u64 = 4_000;
const ABORT: i32 = 6;
const REFUSED: i32 = 78;
/// What may be asked beside a run.
const LOOKS: [&[&str]; 6] = [
    &["audit"],
    &["gold"],
    &["shards"],
    &["dlq", "ls"],
    &["query", "SELECT count(*) FROM silver"],
    &["query", "SELECT * FROM ledger"],
];
const POINTS_PER_HAND: usize = 5;

/// What is done to a run.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Attack {
    /// SIGKILL at some time, often while it starts.
    Kill,
    /// Dies by its own hand at the n-th passing of a point.
    Point(&'static str, u64),
    /// SIGSTOP, SIGCONT, and SIGKILL after it has committed again.
    Pause,
    /// SIGTERM: must end well.
    Terminate,
    /// An actor panics at the n-th passing of a point; must go on, and is killed or asked to end.
    Panic(&'static str, u64),
    /// A second run on the directory must be refused; then SIGKILL.
    Second,
    /// No file may grow beyond a limit.
    DiskFull,
    /// A verb looks at the directory beside the run, and must end well; then SIGKILL.
    Look,
}

impl Attack {
    /// For the table.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Kill => "SIGKILL at some time",
            Self::Point(..) => "crash point",
            Self::Pause => "SIGSTOP, SIGCONT, SIGKILL",
            Self::Terminate => "SIGTERM",
            Self::Panic(..) => "panic of an actor",
            Self::Second => "a second run, SIGKILL",
            Self::DiskFull => "disk full",
            Self::Look => "a look at the tables, SIGKILL",
        }
    }
}

/// Deals attacks: every kind in every hand, points in turn.
pub(super) struct Deck {
    hand: Vec<Attack>,
    points: Vec<(&'static str, u64)>,
    panics: Vec<(&'static str, u64)>,
    dealt: (usize, usize),
    armed: bool,
}

impl Deck {
    /// `armed`: the binary has crash points.
    pub(super) fn new(armed: bool) -> Self {
        // The pipelines of this test have no sinks: tests/sinks.rs of the root package dies there.
        let names = POINTS.iter().map(|(name, _)| *name).filter(|name| !name.starts_with("feed."));
        let every = |nth: u64| names.clone().map(move |name| (name, nth));
        // Passed once in the life of a process, and not by an actor.
        let once = |(name, nth): &(&str, u64)| *name != "start.after_rows" || *nth == 1;
        let points = every(1).chain(every(2)).chain(every(5)).filter(once).collect();
        let panics = every(3).filter(once).collect();
        Self { hand: Vec::new(), points, panics, dealt: (0, 0), armed }
    }

    pub(super) fn deal(&mut self, dice: &mut Dice) -> Attack {
        if self.hand.is_empty() {
            self.hand = [Attack::Kill, Attack::Kill, Attack::Kill, Attack::Kill].to_vec();
            self.hand.extend([Attack::Pause, Attack::Terminate, Attack::Second, Attack::DiskFull, Attack::Look]);
            if self.armed {
                let points: Vec<Attack> = (0..POINTS_PER_HAND).map(|at| self.point(at)).collect();
                self.hand.extend(points);
                let (panic, nth) = self.panics[self.dealt.1 % self.panics.len()];
                self.hand.push(Attack::Panic(panic, nth));
                self.dealt = (self.dealt.0 + POINTS_PER_HAND, self.dealt.1 + 1);
            }
            dice.shuffle(&mut self.hand);
        }
        self.hand.pop().unwrap_or(Attack::Kill)
    }

    fn point(&self, at: usize) -> Attack {
        // Neighbours are of one layer; steps of eleven, which divides no number of points there was so far, mix them.
        let (point, nth) = self.points[(self.dealt.0 + at) * 11 % self.points.len()];
        Attack::Point(point, nth)
    }
}

/// Who attacks, and what came of it.
pub(super) struct Attacker {
    pub(super) sandbox: Sandbox,
    pub(super) producer: Producer,
    pub(super) tally: Tally,
    pub(super) dice: Dice,
}

impl Attacker {
    /// One attack; afterwards no run is left.
    pub(super) fn carry_out(&mut self, attack: Attack) -> anyhow::Result<()> {
        match attack {
            Attack::Kill => self.kill_sometime(),
            Attack::Point(point, nth) => self.crash_at(point, nth),
            Attack::Pause => self.pause(),
            Attack::Terminate => {
                let mut run = self.start(&[])?;
                self.commits(&mut run, 1)?;
                self.doze(1_000)?;
                self.terminate(&mut run)
            }
            Attack::Panic(point, nth) => self.panic_at(point, nth),
            Attack::Second => {
                let mut run = self.start(&[])?;
                self.commits(&mut run, 1)?;
                self.refused(&run)?;
                self.doze(500)?;
                self.kill(&mut run)
            }
            Attack::DiskFull => self.fill_disk(),
            Attack::Look => self.look(),
        }
    }

    fn kill_sometime(&mut self) -> anyhow::Result<()> {
        let mut run = self.start(&[])?;
        if self.dice.percent(30) {
            self.doze(150)?;
        } else {
            self.commits(&mut run, 1)?;
            self.doze(1_500)?;
        }
        self.kill(&mut run)
    }

    fn crash_at(&mut self, point: &'static str, nth: u64) -> anyhow::Result<()> {
        self.prepare(point)?;
        let mut run = self.start(&[("SLUICEBOX_CRASH", &format!("{point}:{nth}"))])?;
        if self.aborted(&mut run)? {
            self.tally.points.insert((point, nth));
        } else {
            self.tally.not_passed.insert((point, nth));
        }
        Ok(())
    }

    /// So that there is something to take over: outputs that nobody sees, staged files of an epoch that never was.
    fn prepare(&mut self, point: &str) -> anyhow::Result<()> {
        if point.starts_with("takeover") {
            let before = format!("commit.after_swap:{}", 1 + self.dice.below(8));
            let mut run = self.start(&[("SLUICEBOX_CRASH", &before)])?;
            self.aborted(&mut run)?;
        }
        Ok(())
    }

    /// Waits for a run that is to die at a point, and kills it if it doesn't come by.
    fn aborted(&mut self, run: &mut Process) -> anyhow::Result<bool> {
        let status = self.until(POINT_MS, || run.ended())?;
        let Some(status) = status else { return self.kill(run).map(|()| false) };
        if status.signal() != Some(ABORT) {
            self.tally.differ(format!("a run that was to crash ended with {status}:\n    {}", run.last_words()));
        }
        Ok(status.signal() == Some(ABORT))
    }

    fn pause(&mut self) -> anyhow::Result<()> {
        let mut run = self.start(&[])?;
        let before = self.commits(&mut run, 1)?;
        self.doze(300)?;
        run.signal("STOP")?;
        if self.dice.percent(50) {
            self.refused(&run)?;
        }
        self.doze(1_500)?;
        run.signal("CONT")?;
        self.commits(&mut run, before + 2)?;
        self.kill(&mut run)
    }

    fn panic_at(&mut self, point: &'static str, nth: u64) -> anyhow::Result<()> {
        self.prepare(point)?;
        let mut run = self.start(&[("SLUICEBOX_PANIC", &format!("{point}:{nth}"))])?;
        let told = self.until(POINT_MS, || Ok(run.said()?.contains("told to panic at").then_some(())))?;
        match told {
            Some(()) => self.tally.panics.insert(point),
            None => self.tally.not_panicked.insert(point),
        };
        let before = committed(&run)?;
        self.commits(&mut run, before + 1)?;
        if self.dice.percent(50) { self.terminate(&mut run) } else { self.kill(&mut run) }
    }

    fn fill_disk(&mut self) -> anyhow::Result<()> {
        // Mostly a little more than the rows take already: then it opens, and has trouble soon.
        let rows = ["rows.db", "rows.db-wal"].map(|name| std::fs::metadata(self.sandbox.data().join("state").join(name)));
        let taken = rows.into_iter().flatten().map(|file| file.len()).max().unwrap_or(0) / 1_024;
        let kib = if self.dice.percent(75) { taken + self.dice.below(40) } else { self.dice.below(200) };
        let deaf = self.dice.percent(70);
        let verb = ["run", "--set", "commit.size=8MiB", "--set", "commit.interval=1s", "--set", "limits.in_flight=16MiB"];
        let command = self.sandbox.command_in_little_room(&verb, kib, deaf);
        let mut run = self.launch(command)?;
        let limit_ms = 1_500 + self.dice.below(2_000);
        match self.until(limit_ms, || run.ended())? {
            Some(status) if status.success() => {
                self.tally.differ(format!("a run with {kib} KiB of room ended well:\n    {}", run.last_words()));
            }
            Some(_) => self.tally.out_of_room += 1,
            None => {
                let said = run.said()?;
                self.tally.in_trouble += u64::from(said.contains("too large") || said.contains("no room"));
                self.kill(&mut run)?;
            }
        }
        Ok(())
    }

    fn look(&mut self) -> anyhow::Result<()> {
        let mut run = self.start(&[])?;
        self.commits(&mut run, 1)?;
        for _ in 0..3 {
            let verb = self.dice.one_of(&LOOKS);
            let (status, looked) = self.sandbox.run(self.sandbox.command(verb), "look", PATIENCE_MS)?;
            if !status.is_some_and(|status| status.success()) {
                let (printed, logged) = (looked.printed()?, looked.last_words());
                self.tally.differ(format!("{verb:?} beside a run ended with {status:?}:\n{printed}\n    {logged}"));
            }
            self.tally.looks += 1;
        }
        self.kill(&mut run)
    }

    /// A second run beside this one must be refused by its name.
    fn refused(&mut self, first: &Process) -> anyhow::Result<()> {
        let command = self.sandbox.command(&["run", "--drain"]);
        let (status, second) = self.sandbox.run(command, "second", PATIENCE_MS)?;
        let named = second.said()?.contains(&format!("process {} on", first.pid()));
        if status.and_then(|status| status.code()) != Some(REFUSED) || !named {
            self.tally.differ(format!("a second run beside {}: {status:?}\n    {}", first.pid(), second.last_words()));
        } else {
            self.tally.refused += 1;
        }
        Ok(())
    }

    fn start(&mut self, environment: &[(&str, &str)]) -> anyhow::Result<Process> {
        let interval = format!("commit.interval={}ms", self.dice.one_of(&[50, 100, 200, 500]));
        let mut command = self.sandbox.command(&["run", "--set", &interval]);
        command.envs(environment.iter().copied());
        self.launch(command)
    }

    fn launch(&mut self, command: std::process::Command) -> anyhow::Result<Process> {
        self.tally.runs += 1;
        self.sandbox.start(command, "run")
    }

    /// Waits until a run has committed so often; it must not end before.
    fn commits(&mut self, run: &mut Process, count: usize) -> anyhow::Result<usize> {
        let mut ended = None;
        let found = self.until(PATIENCE_MS, || {
            let found = committed(run)?;
            ended = if found < count { run.ended()? } else { None };
            Ok((found >= count || ended.is_some()).then_some(found))
        })?;
        if let Some(status) = ended {
            self.tally.differ(format!("a run ended with {status} by itself:\n    {}", run.last_words()));
        } else if found.is_none() {
            self.tally.differ(format!("no commit in {PATIENCE_MS} ms:\n    {}", run.last_words()));
        }
        Ok(found.unwrap_or(0))
    }

    fn kill(&mut self, run: &mut Process) -> anyhow::Result<()> {
        let status = run.kill()?;
        if status.signal().is_none() {
            self.tally.differ(format!("a run ended with {status} before it was killed:\n    {}", run.last_words()));
        }
        Ok(())
    }

    fn terminate(&mut self, run: &mut Process) -> anyhow::Result<()> {
        run.signal("TERM")?;
        let status = self.until(PATIENCE_MS, || run.ended())?;
        if !status.is_some_and(|status: ExitStatus| status.success()) {
            self.tally.differ(format!("asked to end, a run ended with {status:?}:\n    {}", run.last_words()));
            run.kill()?;
        }
        Ok(())
    }

    /// Up to so long, with an eye on the producer.
    fn doze(&mut self, at_most_ms: u64) -> anyhow::Result<()> {
        let wait_ms = self.dice.below(at_most_ms);
        self.until(wait_ms, || Ok(None::<()>)).map(drop)
    }

    fn until<T>(&mut self, limit_ms: u64, mut look: impl FnMut() -> anyhow::Result<Option<T>>) -> anyhow::Result<Option<T>> {
        let Self { sandbox, producer, tally, .. } = self;
        sandbox.until(limit_ms, || {
            if let Some(wrong) = producer.tend(sandbox)? {
                tally.differ(wrong);
            }
            look()
        })
    }
}

/// Commits that a run has told of.
fn committed(run: &Process) -> anyhow::Result<usize> {
    Ok(run.said()?.lines().filter(|line| line.contains(": committed ")).count())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn all_points_come_in_their_turn_at_each_passing_and_all_kinds_in_every_hand() {
        let (mut deck, mut dice) = (Deck::new(true), Dice::new(1));
        let hands = deck.points.len().div_ceil(5);
        let mut seen = BTreeSet::new();
        for _ in 0..hands {
            let hand: Vec<Attack> = (0..15).map(|_| deck.deal(&mut dice)).collect();
            assert_eq!(hand.iter().map(|attack| attack.name()).collect::<BTreeSet<_>>().len(), 8, "{hand:?}");
            seen.extend(hand.into_iter().filter(|attack| matches!(attack, Attack::Point(..))));
        }
        let points = POINTS.iter().filter(|(name, _)| !name.starts_with("feed.")).count();
        assert_eq!(seen.len(), points * 3 - 2);
        let mut unarmed = Deck::new(false);
        assert!((0..100).all(|_| !matches!(unarmed.deal(&mut dice), Attack::Point(..) | Attack::Panic(..))));
    }
}
