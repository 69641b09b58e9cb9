//! What a process did, operation by operation.
//!
//! Owns: the lines, their running hash, how many of them are kept. Does not own: what is written (process).

use std::collections::VecDeque;
use std::fmt::{Arguments, Write};

/// How much of a trace is kept; its hash always tells all of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Keep {
    Everything,
    /// So many of the last lines.
    Last(usize),
}

/// The operations of one process.
#[derive(Clone, Debug)]
pub struct Trace {
    keep: Keep,
    lines: VecDeque<String>,
    hash: u64,
}

impl Trace {
    pub fn new(keep: Keep) -> Self {
        Self { keep, lines: VecDeque::new(), hash: 0xcbf2_9ce4_8422_2325 }
    }

    /// Adds one line.
    pub fn push(&mut self, line: Arguments<'_>) {
        let full = matches!(self.keep, Keep::Last(most) if self.lines.len() >= most.max(1));
        let mut slot = if full { self.lines.pop_front().unwrap_or_default() } else { String::with_capacity(96) };
        slot.clear();
        slot.write_fmt(line).expect("a String takes anything");
        for byte in slot.bytes() {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        self.lines.push_back(slot);
    }

    /// FNV-1a over every line there ever was.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// The lines that are kept, oldest first.
    pub fn lines(&self) -> Vec<String> {
        self.lines.iter().cloned().collect()
    }
}
