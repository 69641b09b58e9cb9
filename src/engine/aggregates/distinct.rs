//! `count(DISTINCT x)`, exact: a set of values per group, written sorted.
//!
//! Owns: the sets of all groups in one table and one arena. Does not own: estimates (hll).

use std::hash::BuildHasher;
use std::mem::size_of;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Int64Array, LargeBinaryArray, LargeBinaryBuilder};
use datafusion::common::{DataFusionError, Result};
use datafusion::logical_expr::{EmitTo, GroupsAccumulator};
use foldhash::fast::FixedState;
use hashbrown::HashTable;

use super::cells::{Reader, by_rows, each_value, input, put_number, typed};

#[derive(Clone, Copy)]
struct Entry {
    group: u32,
    len: u32,
    at: usize,
}

/// State: a blob per group, the values' bytes in rising order, each with its length in front.
#[derive(Default)]
pub(crate) struct Distinct {
    table: HashTable<Entry>,
    arena: Vec<u8>,
    counts: Vec<i64>,
}

fn hash(group: u32, value: &[u8]) -> u64 {
    FixedState::with_seed(u64::from(group)).hash_one(value)
}

impl Distinct {
    fn insert(&mut self, group: usize, value: &[u8]) -> Result<bool> {
        let (Ok(group), Ok(len)) = (u32::try_from(group), u32::try_from(value.len())) else {
            return Err(DataFusionError::ResourcesExhausted("count(DISTINCT) over more than 2^32 groups".to_owned()));
        };
        let Self { table, arena, .. } = self;
        let hashed = hash(group, value);
        let same = |entry: &Entry| entry.group == group && arena[entry.at..entry.at + entry.len as usize] == *value;
        if table.find(hashed, same).is_some() {
            return Ok(false);
        }
        let at = arena.len();
        arena.extend_from_slice(value);
        let rehash = |entry: &Entry| hash(entry.group, &arena[entry.at..entry.at + entry.len as usize]);
        table.insert_unique(hashed, Entry { group, len, at }, rehash);
        Ok(true)
    }

    fn add(&mut self, group: usize, value: &[u8]) -> Result<()> {
        if self.insert(group, value)? {
            self.counts[group] += 1;
        }
        Ok(())
    }

    /// Takes the first groups out, their values sorted by (group, bytes); what stays is renumbered.
    fn drain(&mut self, emit_to: EmitTo) -> Result<(Vec<i64>, Vec<Entry>, Vec<u8>)> {
        let counts = emit_to.take_needed(&mut self.counts);
        let (table, arena) = (std::mem::take(&mut self.table), std::mem::take(&mut self.arena));
        let value = |entry: &Entry| &arena[entry.at..entry.at + entry.len as usize];
        let (mut out, stay): (Vec<Entry>, Vec<Entry>) =
            table.into_iter().partition(|entry| (entry.group as usize) < counts.len());
        for entry in &stay {
            self.insert(entry.group as usize - counts.len(), value(entry))?;
        }
        out.sort_unstable_by(|a, b| (a.group, value(a)).cmp(&(b.group, value(b))));
        Ok((counts, out, arena))
    }
}

impl GroupsAccumulator for Distinct {
    fn update_batch(&mut self, values: &[ArrayRef], groups: &[usize], filter: Option<&BooleanArray>, total: usize) -> Result<()> {
        self.counts.resize(total, 0);
        let Some(column) = values.first() else { return Ok(()) };
        let mut outcome = Ok(());
        each_value(column, groups, filter, |group, value| {
            if let Err(error) = self.add(group, value) {
                outcome = Err(error);
            }
        })?;
        outcome
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        Ok(Arc::new(Int64Array::from(self.drain(emit_to)?.0)))
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        let (counts, entries, arena) = self.drain(emit_to)?;
        let mut states = LargeBinaryBuilder::new();
        let mut rest = entries.as_slice();
        let mut blob = Vec::new();
        for count in counts {
            let (mine, others) = rest.split_at(count as usize);
            rest = others;
            blob.clear();
            for entry in mine {
                put_number(entry.len.into(), &mut blob);
                blob.extend_from_slice(&arena[entry.at..entry.at + entry.len as usize]);
            }
            states.append_value(&blob);
        }
        Ok(vec![Arc::new(states.finish())])
    }

    fn merge_batch(&mut self, values: &[ArrayRef], groups: &[usize], total: usize) -> Result<()> {
        self.counts.resize(total, 0);
        let states = typed::<LargeBinaryArray>(input(values)?)?;
        for (row, group) in groups.iter().enumerate() {
            let mut reader = Reader(states.value(row));
            while !reader.0.is_empty() {
                let len = reader.length()?;
                self.add(*group, reader.take(len)?)?;
            }
        }
        Ok(())
    }

    fn convert_to_state(&self, values: &[ArrayRef], filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        by_rows(Self::default(), values, filter)
    }

    fn size(&self) -> usize {
        // One byte of control beside every slot.
        self.table.capacity() * 8 / 7 * (size_of::<Entry>() + 1)
            + self.arena.capacity()
            + self.counts.capacity() * size_of::<i64>()
    }
}
