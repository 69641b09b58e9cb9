//! Progress of long work, on stderr.
//!
//! Owns: a bar on a terminal, a plain line every few seconds elsewhere. Does not own: the work, and anything on stdout.

use std::io::Write;
use std::sync::Arc;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use sluicebox_actors::ports::Clock;

use crate::output::human;

/// Time between two plain lines, microseconds.
const LINE_EVERY_US: i64 = 5_000_000;

/// What is counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unit {
    /// Records.
    Records,
    /// Bytes.
    Bytes,
    /// Files.
    Files,
}

impl Unit {
    /// The number alone where the total behind it names the unit.
    fn part(self, amount: u64, of: Option<u64>) -> String {
        match (self, of) {
            (Self::Records | Self::Files, Some(_)) => human::count(amount),
            (Self::Records | Self::Bytes | Self::Files, _) => self.show(amount),
        }
    }

    fn show(self, amount: u64) -> String {
        match self {
            Self::Records => format!("{} records", human::count(amount)),
            Self::Bytes => human::bytes(amount),
            Self::Files => format!("{} files", human::count(amount)),
        }
    }
}

/// How much of something long is done.
pub struct Progress {
    label: String,
    unit: Unit,
    total: Option<u64>,
    done: u64,
    clock: Arc<dyn Clock>,
    started_us: i64,
    said_us: i64,
    face: Face,
}

enum Face {
    Bar(ProgressBar),
    Lines(Box<dyn Write + Send>),
    Silent,
}

impl Progress {
    /// On stderr: a bar if that is a terminal, else lines.
    pub fn stderr(label: &str, unit: Unit, total: Option<u64>, clock: Arc<dyn Clock>) -> Self {
        let face = match std::io::IsTerminal::is_terminal(&std::io::stderr()) {
            true => Face::Bar(bar(label, unit, total)),
            false => Face::Lines(Box::new(std::io::stderr())),
        };
        Self::with(label, unit, total, clock, face)
    }

    /// Plain lines on any writer.
    pub fn lines(label: &str, unit: Unit, total: Option<u64>, clock: Arc<dyn Clock>, sink: Box<dyn Write + Send>) -> Self {
        Self::with(label, unit, total, clock, Face::Lines(sink))
    }

    /// Says nothing.
    pub fn silent(clock: Arc<dyn Clock>) -> Self {
        Self::with("", Unit::Records, None, clock, Face::Silent)
    }

    fn with(label: &str, unit: Unit, total: Option<u64>, clock: Arc<dyn Clock>, face: Face) -> Self {
        let now_us = clock.now_us();
        Self { label: label.to_owned(), unit, total, done: 0, clock, started_us: now_us, said_us: now_us, face }
    }

    /// The total, where it is known only now.
    pub fn expect(&mut self, total: Option<u64>) {
        if self.total == total {
            return;
        }
        self.total = total;
        if let Face::Bar(bar) = &mut self.face {
            *bar = self::bar(&self.label, self.unit, total);
        }
    }

    /// More is done.
    pub fn advance(&mut self, amount: u64) {
        self.set(self.done.saturating_add(amount));
    }

    /// So much is done in all.
    pub fn set(&mut self, done: u64) {
        self.done = done;
        if let Face::Bar(bar) = &self.face {
            bar.set_position(done);
            return;
        }
        let now_us = self.clock.now_us();
        if now_us.saturating_sub(self.said_us) >= LINE_EVERY_US {
            self.said_us = now_us;
            match self.total {
                // A rate that falls while files are published and Gold is merged would look like a stall.
                Some(total) if done >= total => self.say_finishing(total, now_us),
                Some(_) | None => self.say(now_us),
            }
        }
    }

    /// Ends the bar, or says the last line.
    pub fn finish(mut self) {
        if let Face::Bar(bar) = &self.face {
            bar.finish_and_clear();
        }
        let now_us = self.clock.now_us();
        self.say(now_us);
    }

    fn say_finishing(&mut self, total: u64, now_us: i64) {
        let lapse = human::lapse(now_us.saturating_sub(self.started_us));
        self.line(&format!("{}: all {} read, finishing, {lapse}", self.label, self.unit.show(total)));
    }

    fn say(&mut self, now_us: i64) {
        let lapse_us = now_us.saturating_sub(self.started_us);
        let of = self.total.map(|total| format!(" of {}", self.unit.show(total))).unwrap_or_default();
        let rate = match lapse_us {
            ..=0 => String::new(),
            _ => format!(", {}/s", self.unit.show((self.done as f64 * 1e6 / lapse_us as f64) as u64)),
        };
        let done = self.unit.part(self.done, self.total);
        self.line(&format!("{}: {done}{of}, {}{rate}", self.label, human::lapse(lapse_us)));
    }

    // A line of progress that can't be written is not worth failing the work for.
    fn line(&mut self, line: &str) {
        match &mut self.face {
            Face::Lines(sink) => writeln!(sink, "{line}").unwrap_or_default(),
            Face::Bar(bar) => bar.println(line),
            Face::Silent => {}
        }
    }
}

fn bar(label: &str, unit: Unit, total: Option<u64>) -> ProgressBar {
    let (position, length, rate) = match unit {
        Unit::Records | Unit::Files => ("{human_pos}", "{human_len}", "{per_sec}"),
        Unit::Bytes => ("{binary_bytes}", "{binary_total_bytes}", "{binary_bytes_per_sec}"),
    };
    let template = match total {
        Some(_) => format!("{{msg}} [{{bar:30}}] {position}/{length} {rate} {{eta}}"),
        None => format!("{{msg}} {{spinner}} {position} {rate} {{elapsed}}"),
    };
    let style = ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr_with_hz(5)).with_style(style);
    bar.set_message(label.to_owned());
    bar
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, Ordering};

    use super::*;
    use crate::output::tests::Shared;

    #[derive(Default)]
    struct Hand(AtomicI64);

    impl Clock for Hand {
        fn now_us(&self) -> i64 {
            self.0.load(Ordering::Relaxed)
        }
        fn random(&self) -> u64 {
            0
        }
    }

    #[test]
    fn lines_come_every_few_seconds_and_once_at_the_end() {
        let clock = Arc::new(Hand::default());
        let shared = Shared::default();
        let mut progress = Progress::lines("put", Unit::Records, Some(20_000), clock.clone(), Box::new(shared.clone()));
        for _ in 0..10 {
            clock.0.fetch_add(1_000_000, Ordering::Relaxed);
            progress.advance(2_000);
        }
        progress.finish();
        let text = shared.text();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert_eq!(lines[0], "put: 10,000 of 20,000 records, 5.0s, 2,000 records/s");
        assert_eq!(lines[1], "put: all 20,000 records read, finishing, 10.0s");
        assert_eq!(lines[2], "put: 20,000 of 20,000 records, 10.0s, 2,000 records/s");
    }
}
