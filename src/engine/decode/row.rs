//! One record's values between checking and storing, so that a bad record leaves no trace in any column.
//!
//! Owns: typed values by slot, text without escapes. Does not own: what is put there (check), the columns (columns).

use crate::engine::structure::{Kind, Token, text};

/// Members whose place in the previous record is remembered, per object.
const LONGEST_MEMORY: usize = 1024;
/// Scratch text kept allocated between records.
const KEEP_SCRATCH: usize = 64 * 1024;

/// A value on its way to a column.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Slot {
    Null,
    /// A struct that is there; its fields have slots of their own.
    Present,
    Boolean(bool),
    Integer(i64),
    Float(f64),
    /// Units of the column's scale.
    Decimal(i64),
    /// Bytes of the record.
    Record(u32, u32),
    /// Bytes of the scratch text.
    Scratch(u32, u32),
}

impl Slot {
    pub(crate) fn boolean(self) -> Option<bool> {
        if let Self::Boolean(value) = self { Some(value) } else { None }
    }

    pub(crate) fn integer(self) -> Option<i64> {
        if let Self::Integer(value) = self { Some(value) } else { None }
    }

    pub(crate) fn float(self) -> Option<f64> {
        if let Self::Float(value) = self { Some(value) } else { None }
    }

    pub(crate) fn decimal(self) -> Option<i128> {
        if let Self::Decimal(value) = self { Some(i128::from(value)) } else { None }
    }
}

/// The values of one record.
#[derive(Default)]
pub(crate) struct Row {
    slots: Vec<Slot>,
    scratch: String,
    /// Per object of the contract: which member stood at which place in the last record.
    memory: Vec<Vec<u16>>,
    /// Key tokens of undeclared members of the objects being checked, outermost first.
    pub(crate) undeclared: Vec<u32>,
}

impl Row {
    pub(crate) fn new(slots: usize, memories: usize) -> Self {
        let memory = vec![Vec::new(); memories];
        Self { slots: vec![Slot::Null; slots], scratch: String::new(), memory, undeclared: Vec::new() }
    }

    /// Empties every slot.
    pub(crate) fn reset(&mut self) {
        self.slots.fill(Slot::Null);
        self.scratch.clear();
        self.scratch.shrink_to(KEEP_SCRATCH);
        self.undeclared.clear();
    }

    pub(crate) fn set(&mut self, slot: usize, value: Slot) {
        self.slots[slot] = value;
    }

    pub(crate) fn get(&self, slot: usize) -> Slot {
        self.slots[slot]
    }

    /// A slot's text; `None` if it holds none.
    pub(crate) fn text<'a>(&'a self, slot: Slot, record: &'a str) -> Option<&'a str> {
        match slot {
            Slot::Record(start, end) => record.get(start as usize..end as usize),
            Slot::Scratch(start, end) => self.scratch.get(start as usize..end as usize),
            Slot::Null | Slot::Present | Slot::Boolean(_) | Slot::Integer(_) | Slot::Float(_) | Slot::Decimal(_) => None,
        }
    }

    /// A string token's text without escapes.
    pub(crate) fn string(&mut self, token: Token, record: &str) -> Slot {
        if token.kind() == Kind::Escaped {
            let from = self.scratch.len() as u32;
            text::unescape_into(token.inside(record), &mut self.scratch);
            Slot::Scratch(from, self.scratch.len() as u32)
        } else {
            Slot::Record(token.start() as u32 + 1, token.end - 1)
        }
    }

    /// Undeclared members from `base` on as one JSON object, as written; they are forgotten.
    pub(crate) fn rest(&mut self, base: usize, tokens: &[Token], record: &str) -> Slot {
        if self.undeclared.len() == base {
            return Slot::Null;
        }
        let from = self.scratch.len() as u32;
        for (i, key) in self.undeclared.drain(base..).enumerate() {
            self.scratch.push(if i == 0 { '{' } else { ',' });
            self.scratch.push_str(tokens[key as usize].raw(record));
            self.scratch.push(':');
            self.scratch.push_str(tokens[key as usize + 1].raw(record));
        }
        self.scratch.push('}');
        Slot::Scratch(from, self.scratch.len() as u32)
    }

    /// The member that stood at this place last time.
    pub(crate) fn remembered(&self, object: usize, place: usize) -> Option<usize> {
        self.memory[object].get(place).map(|member| usize::from(*member))
    }

    pub(crate) fn remember(&mut self, object: usize, place: usize, member: usize) {
        let Ok(member) = u16::try_from(member) else { return };
        let memory = &mut self.memory[object];
        if place < memory.len() {
            memory[place] = member;
        } else if place < LONGEST_MEMORY {
            memory.resize(place, u16::MAX);
            memory.push(member);
        }
    }
}
