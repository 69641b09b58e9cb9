//! `first_value` and `last_value`: of the record that comes first or last in (event time, arrival time, shard, sequence number,
//! sub-sequence number). No two records share that place, so every order of arrival has the same answer.
//!
//! Owns: the place, its order as bytes, the winning value. Does not own: where the place's columns come from (sql/lower).

use std::cmp::Ordering;
use std::mem::size_of;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, BinaryBuilder, BooleanArray, Int32Array, Int64Array, StringArray};
use arrow::datatypes::{DataType, Int64Type};
use datafusion::common::{DataFusionError, Result, ScalarValue};
use datafusion::logical_expr::{EmitTo, GroupsAccumulator};

use super::cells::{by_rows, each, selected, to_longs, typed};

/// Silver columns that say where a record stands, in the order of comparison.
pub(crate) const PLACE: [&str; 5] = ["event_time", "_arrival_time", "_shard", "_sequence", "_sub_sequence"];

struct Places {
    event: Int64Array,
    arrival: Int64Array,
    shard: StringArray,
    sequence: StringArray,
    sub_sequence: Int32Array,
}

impl Places {
    fn of(columns: &[ArrayRef]) -> Result<Self> {
        let [event, arrival, shard, sequence, sub_sequence] = columns else {
            return Err(DataFusionError::Plan("first_value and last_value know the time only in a Gold statement".to_owned()));
        };
        Ok(Self {
            event: to_longs(event)?.as_primitive::<Int64Type>().clone(),
            arrival: to_longs(arrival)?.as_primitive::<Int64Type>().clone(),
            shard: typed::<StringArray>(shard)?.clone(),
            sequence: typed::<StringArray>(sequence)?.clone(),
            sub_sequence: typed::<Int32Array>(sub_sequence)?.clone(),
        })
    }

    fn compare(&self, a: usize, b: usize) -> Ordering {
        let times = |row| (self.event.value(row), self.arrival.value(row));
        let sequence = |row| (self.sequence.value(row).len(), self.sequence.value(row));
        times(a)
            .cmp(&times(b))
            .then_with(|| self.shard.value(a).cmp(self.shard.value(b)))
            .then_with(|| sequence(a).cmp(&sequence(b)))
            .then_with(|| self.sub_sequence.value(a).cmp(&self.sub_sequence.value(b)))
    }

    /// Bytes in the same order: signs flipped to the front, the shard's name ended by a byte that none contains, the sequence
    /// number led by its length.
    fn key(&self, row: usize) -> Box<[u8]> {
        let flipped = |value: i64| (value as u64 ^ 1 << 63).to_be_bytes();
        let (shard, sequence) = (self.shard.value(row), self.sequence.value(row));
        let mut key = Vec::with_capacity(24 + shard.len() + sequence.len());
        key.extend_from_slice(&flipped(self.event.value(row)));
        key.extend_from_slice(&flipped(self.arrival.value(row)));
        key.extend_from_slice(shard.as_bytes());
        key.push(0);
        key.push(sequence.len().min(255) as u8);
        key.extend_from_slice(sequence.as_bytes());
        key.extend_from_slice(&(self.sub_sequence.value(row) as u32 ^ 1 << 31).to_be_bytes());
        key.into_boxed_slice()
    }
}

/// State: the value, and the place it came from (NULL before the first).
pub(crate) struct Edge {
    last: bool,
    ignore_nulls: bool,
    of: DataType,
    best: Vec<Option<(Box<[u8]>, ScalarValue)>>,
    /// Best row of the current batch per group; all free between batches.
    rows: Vec<u32>,
}

const FREE: u32 = u32::MAX;

impl Edge {
    pub(crate) fn new(last: bool, ignore_nulls: bool, of: DataType) -> Self {
        Self { last, ignore_nulls, of, best: Vec::new(), rows: Vec::new() }
    }

    fn wins(&self, order: Ordering) -> bool {
        order == if self.last { Ordering::Greater } else { Ordering::Less }
    }

    fn offer(&mut self, group: usize, key: &[u8], value: &ArrayRef, row: usize) -> Result<()> {
        let better = match &self.best[group] {
            None => true,
            Some((best, _)) => self.wins(key.cmp(best)),
        };
        if better {
            self.best[group] = Some((key.into(), ScalarValue::try_from_array(value, row)?));
        }
        Ok(())
    }

    fn columns(&self, best: Vec<Option<(Box<[u8]>, ScalarValue)>>) -> Result<(ArrayRef, BinaryArray)> {
        let null = ScalarValue::try_from(&self.of)?;
        let mut keys = BinaryBuilder::new();
        let values: Vec<ScalarValue> = best
            .into_iter()
            .map(|best| match best {
                Some((key, value)) => {
                    keys.append_value(key);
                    value
                }
                None => {
                    keys.append_null();
                    null.clone()
                }
            })
            .collect();
        let values = match values.is_empty() {
            true => arrow::array::new_empty_array(&self.of),
            false => ScalarValue::iter_to_array(values)?,
        };
        Ok((values, keys.finish()))
    }
}

impl GroupsAccumulator for Edge {
    fn update_batch(&mut self, values: &[ArrayRef], groups: &[usize], filter: Option<&BooleanArray>, total: usize) -> Result<()> {
        self.best.resize(total, None);
        self.rows.resize(total, FREE);
        let Some((value, place)) = values.split_first() else { return Ok(()) };
        let places = Places::of(place)?;
        let valid = if self.ignore_nulls { value.logical_nulls() } else { None };
        let mut touched = Vec::new();
        let mut rows = std::mem::take(&mut self.rows);
        each(groups, selected(valid.as_ref(), filter).as_ref(), |row, group| {
            if rows[group] == FREE {
                touched.push(group);
                rows[group] = row as u32;
            } else if self.wins(places.compare(row, rows[group] as usize)) {
                rows[group] = row as u32;
            }
        });
        for group in touched {
            let row = std::mem::replace(&mut rows[group], FREE) as usize;
            self.offer(group, &places.key(row), value, row)?;
        }
        self.rows = rows;
        Ok(())
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let best = emit_to.take_needed(&mut self.best);
        Ok(self.columns(best)?.0)
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        let best = emit_to.take_needed(&mut self.best);
        let (values, keys) = self.columns(best)?;
        Ok(vec![values, Arc::new(keys)])
    }

    fn merge_batch(&mut self, values: &[ArrayRef], groups: &[usize], total: usize) -> Result<()> {
        self.best.resize(total, None);
        let [values, keys] = values else {
            return Err(DataFusionError::Internal("the state of first_value has two columns".to_owned()));
        };
        let keys = typed::<BinaryArray>(keys)?;
        for (row, group) in groups.iter().enumerate().filter(|(row, _)| keys.is_valid(*row)) {
            self.offer(*group, keys.value(row), values, row)?;
        }
        Ok(())
    }

    fn convert_to_state(&self, values: &[ArrayRef], filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        by_rows(Self::new(self.last, self.ignore_nulls, self.of.clone()), values, filter)
    }

    fn size(&self) -> usize {
        let held =
            self.best.iter().flatten().map(|(key, value)| key.len() + value.size().saturating_sub(size_of::<ScalarValue>()));
        self.best.capacity() * size_of::<Option<(Box<[u8]>, ScalarValue)>>()
            + held.sum::<usize>()
            + self.rows.capacity() * size_of::<u32>()
    }
}
