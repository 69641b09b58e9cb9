//! Smallest and largest values, and logical and/or, by a total order.
//!
//! Owns: `min`, `max`, `bool_and`, `bool_or`. Does not own: which row comes first in time (firsts).

use std::mem::size_of;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Decimal128Array, Float64Array, Int64Array, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Decimal128Type, Float64Type, Int64Type};
use datafusion::common::Result;
use datafusion::logical_expr::{EmitTo, GroupsAccumulator};

use super::cells::{by_rows, each, input, selected, to_longs, typed};

/// Doubles as integers of the same order (IEEE totalOrder: -NaN < -inf < … < -0 < +0 < … < inf < NaN).
fn to_key(value: f64) -> i64 {
    let bits = value.to_bits() as i64;
    bits ^ ((bits >> 63) as u64 >> 1) as i64
}

fn from_key(key: i64) -> f64 {
    f64::from_bits((key ^ ((key >> 63) as u64 >> 1) as i64) as u64)
}

/// A number in the order of its column's type.
pub(crate) trait Key: Copy + Ord + Send + 'static {
    /// Smallest and largest.
    const ENDS: (Self, Self);
    /// The column's values as keys; NULLs stay NULL.
    fn read(column: &ArrayRef) -> Result<(Vec<Self>, Option<arrow::buffer::NullBuffer>)>;
    /// Back to a column of that type.
    fn column(keys: Vec<Option<Self>>, of: &DataType) -> Result<ArrayRef>;
}

impl Key for i64 {
    const ENDS: (Self, Self) = (i64::MIN, i64::MAX);

    fn read(column: &ArrayRef) -> Result<(Vec<Self>, Option<arrow::buffer::NullBuffer>)> {
        if let Some(doubles) = column.as_primitive_opt::<Float64Type>() {
            return Ok((doubles.values().iter().map(|value| to_key(*value)).collect(), doubles.nulls().cloned()));
        }
        let longs = to_longs(column)?;
        let longs = longs.as_primitive::<Int64Type>();
        Ok((longs.values().to_vec(), longs.nulls().cloned()))
    }

    fn column(keys: Vec<Option<Self>>, of: &DataType) -> Result<ArrayRef> {
        if of == &DataType::Float64 {
            return Ok(Arc::new(keys.into_iter().map(|key| key.map(from_key)).collect::<Float64Array>()));
        }
        if of == &DataType::Boolean {
            return Ok(Arc::new(keys.into_iter().map(|key| key.map(|key| key != 0)).collect::<BooleanArray>()));
        }
        let longs: ArrayRef = Arc::new(Int64Array::from(keys));
        let longs = if of == &DataType::Date32 { cast(&longs, &DataType::Int32)? } else { longs };
        Ok(cast(&longs, of)?)
    }
}

impl Key for i128 {
    const ENDS: (Self, Self) = (i128::MIN, i128::MAX);

    fn read(column: &ArrayRef) -> Result<(Vec<Self>, Option<arrow::buffer::NullBuffer>)> {
        let decimals = typed::<Decimal128Array>(column)?;
        Ok((decimals.values().to_vec(), decimals.nulls().cloned()))
    }

    fn column(keys: Vec<Option<Self>>, of: &DataType) -> Result<ArrayRef> {
        Ok(Arc::new(keys.into_iter().collect::<arrow::array::PrimitiveArray<Decimal128Type>>().with_data_type(of.clone())))
    }
}

/// `min` and `max` of numbers, times and booleans; the state is a column of the same type.
pub(crate) struct Extreme<K: Key> {
    max: bool,
    of: DataType,
    best: Vec<K>,
    seen: Vec<bool>,
}

impl<K: Key> Extreme<K> {
    pub(crate) fn new(max: bool, of: DataType) -> Self {
        Self { max, of, best: Vec::new(), seen: Vec::new() }
    }
}

impl<K: Key> GroupsAccumulator for Extreme<K> {
    fn update_batch(&mut self, values: &[ArrayRef], groups: &[usize], filter: Option<&BooleanArray>, total: usize) -> Result<()> {
        self.best.resize(total, if self.max { K::ENDS.0 } else { K::ENDS.1 });
        self.seen.resize(total, false);
        let (keys, nulls) = K::read(input(values)?)?;
        let (best, seen, max) = (&mut self.best, &mut self.seen, self.max);
        each(groups, selected(nulls.as_ref(), filter).as_ref(), |row, group| {
            let best = &mut best[group];
            *best = if max { keys[row].max(*best) } else { keys[row].min(*best) };
            seen[group] = true;
        });
        Ok(())
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let best = emit_to.take_needed(&mut self.best);
        let seen = emit_to.take_needed(&mut self.seen);
        K::column(best.into_iter().zip(seen).map(|(best, seen)| seen.then_some(best)).collect(), &self.of)
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        Ok(vec![self.evaluate(emit_to)?])
    }

    fn merge_batch(&mut self, values: &[ArrayRef], groups: &[usize], total: usize) -> Result<()> {
        self.update_batch(values, groups, None, total)
    }

    fn convert_to_state(&self, values: &[ArrayRef], filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        by_rows(Self::new(self.max, self.of.clone()), values, filter)
    }

    fn size(&self) -> usize {
        self.best.capacity() * size_of::<K>() + self.seen.capacity()
    }
}

/// `min` and `max` of strings, by bytes.
pub(crate) struct ExtremeText {
    max: bool,
    best: Vec<Option<String>>,
}

impl ExtremeText {
    pub(crate) fn new(max: bool) -> Self {
        Self { max, best: Vec::new() }
    }
}

impl GroupsAccumulator for ExtremeText {
    fn update_batch(&mut self, values: &[ArrayRef], groups: &[usize], filter: Option<&BooleanArray>, total: usize) -> Result<()> {
        self.best.resize(total, None);
        let texts = typed::<StringArray>(input(values)?)?;
        let (best, max) = (&mut self.best, self.max);
        each(groups, selected(texts.nulls(), filter).as_ref(), |row, group| {
            let text = texts.value(row);
            match &mut best[group] {
                Some(best) if max && text <= best.as_str() || !max && text >= best.as_str() => {}
                Some(best) => {
                    best.clear();
                    best.push_str(text);
                }
                none => *none = Some(text.to_owned()),
            }
        });
        Ok(())
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        Ok(Arc::new(StringArray::from(emit_to.take_needed(&mut self.best))))
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        Ok(vec![self.evaluate(emit_to)?])
    }

    fn merge_batch(&mut self, values: &[ArrayRef], groups: &[usize], total: usize) -> Result<()> {
        self.update_batch(values, groups, None, total)
    }

    fn convert_to_state(&self, values: &[ArrayRef], filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        by_rows(Self::new(self.max), values, filter)
    }

    fn size(&self) -> usize {
        self.best.capacity() * size_of::<Option<String>>() + self.best.iter().flatten().map(String::capacity).sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn keys_have_the_total_order_of_their_doubles(a: u64, b: u64) {
            let (a, b) = (f64::from_bits(a), f64::from_bits(b));
            prop_assert_eq!(to_key(a).cmp(&to_key(b)), a.total_cmp(&b));
            prop_assert_eq!(from_key(to_key(a)).to_bits(), a.to_bits());
        }
    }

    #[test]
    fn the_smallest_and_largest_of_each_group_come_out_and_nulls_do_not_count() {
        let column: ArrayRef = Arc::new(Float64Array::from(vec![Some(2.5), None, Some(-1.0), Some(7.0), Some(-0.0)]));
        for (max, expected) in [(false, [Some(-1.0), None]), (true, [Some(7.0), None])] {
            let mut extreme = Extreme::<i64>::new(max, DataType::Float64);
            extreme.update_batch(std::slice::from_ref(&column), &[0, 1, 0, 0, 0], None, 2).expect("adds");
            let out = extreme.evaluate(EmitTo::All).expect("evaluates");
            assert_eq!(out.as_primitive::<Float64Type>().iter().collect::<Vec<_>>(), expected);
        }
    }
}
