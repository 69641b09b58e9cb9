//! What all our aggregates share: which rows count, one state per group, states as canonical bytes.
//!
//! Owns: row selection, [`Cells`] (a `GroupsAccumulator` over any [`Kind`] whose state is one blob), the byte reader, the adapter
//! for ungrouped use. Does not own: any arithmetic, SQL names and types (udaf).

use std::mem::size_of;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, LargeBinaryArray, LargeBinaryBuilder};
use arrow::buffer::{BooleanBuffer, NullBuffer};
use datafusion::common::{DataFusionError, Result, ScalarValue};
use datafusion::logical_expr::{Accumulator, EmitTo, GroupsAccumulator};

/// A state that we did not write: damage, or a version we do not know.
pub(crate) fn damaged(what: &str) -> DataFusionError {
    DataFusionError::Execution(format!("a partial state is damaged: {what}"))
}

/// Rows that are valid and pass the filter; `None` = all.
pub(crate) fn selected(valid: Option<&NullBuffer>, filter: Option<&BooleanArray>) -> Option<BooleanBuffer> {
    let filter = filter.map(|filter| match filter.nulls() {
        Some(nulls) => filter.values() & nulls.inner(),
        None => filter.values().clone(),
    });
    match (valid, filter) {
        (None, filter) => filter,
        (Some(valid), None) => Some(valid.inner().clone()),
        (Some(valid), Some(filter)) => Some(valid.inner() & &filter),
    }
}

/// Calls `f(row, group)` for every selected row.
#[inline]
pub(crate) fn each(groups: &[usize], selection: Option<&BooleanBuffer>, mut f: impl FnMut(usize, usize)) {
    match selection {
        None => groups.iter().enumerate().for_each(|(row, group)| f(row, *group)),
        Some(selection) => selection.set_indices().for_each(|row| f(row, groups[row])),
    }
}

/// The first input column of an aggregate.
pub(crate) fn input(values: &[ArrayRef]) -> Result<&ArrayRef> {
    values.first().ok_or_else(|| DataFusionError::Internal("an aggregate without its input column".to_owned()))
}

/// A column of the type that `coerce_types` promised.
pub(crate) fn typed<T: 'static>(array: &ArrayRef) -> Result<&T> {
    array
        .as_any()
        .downcast_ref::<T>()
        .ok_or_else(|| DataFusionError::Internal(format!("an aggregate got a column of type {}", array.data_type())))
}

/// States of single rows, each its own group: what `convert_to_state` asks for.
pub(crate) fn by_rows(
    mut fresh: impl GroupsAccumulator,
    values: &[ArrayRef],
    filter: Option<&BooleanArray>,
) -> Result<Vec<ArrayRef>> {
    let rows = values.first().map_or(0, |column| column.len());
    let groups: Vec<usize> = (0..rows).collect();
    fresh.update_batch(values, &groups, filter, rows)?;
    fresh.state(EmitTo::All)
}

/// One aggregate whose state is a canonical blob: equal states have equal bytes.
pub(crate) trait Kind: Clone + Send + 'static {
    /// State of one group.
    type Cell: Default + Send + 'static;
    /// Adds rows.
    fn update(
        &self,
        cells: &mut [Self::Cell],
        values: &[ArrayRef],
        groups: &[usize],
        filter: Option<&BooleanArray>,
    ) -> Result<()>;
    /// Writes a state; two cells that saw the same rows in any order and cut write the same bytes.
    fn encode(&self, cell: &Self::Cell, out: &mut Vec<u8>);
    /// Adds a written state.
    fn absorb(&self, cell: &mut Self::Cell, state: &mut Reader<'_>) -> Result<()>;
    /// Results, one per cell.
    fn finish(&self, cells: Vec<Self::Cell>) -> Result<ArrayRef>;
    /// Bytes a cell holds beside itself.
    fn heap(&self, cell: &Self::Cell) -> usize;
}

/// A `GroupsAccumulator` over one [`Kind`].
pub(crate) struct Cells<K: Kind> {
    kind: K,
    cells: Vec<K::Cell>,
}

impl<K: Kind> Cells<K> {
    pub(crate) fn new(kind: K) -> Self {
        Self { kind, cells: Vec::new() }
    }

    fn grow(&mut self, groups: usize) {
        if self.cells.len() < groups {
            self.cells.resize_with(groups, K::Cell::default);
        }
    }
}

impl<K: Kind> GroupsAccumulator for Cells<K> {
    fn update_batch(&mut self, values: &[ArrayRef], groups: &[usize], filter: Option<&BooleanArray>, total: usize) -> Result<()> {
        self.grow(total);
        self.kind.update(&mut self.cells, values, groups, filter)
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let cells = emit_to.take_needed(&mut self.cells);
        self.kind.finish(cells)
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        let cells = emit_to.take_needed(&mut self.cells);
        let mut states = LargeBinaryBuilder::new();
        let mut scratch = Vec::new();
        for cell in &cells {
            scratch.clear();
            self.kind.encode(cell, &mut scratch);
            states.append_value(&scratch);
        }
        Ok(vec![Arc::new(states.finish())])
    }

    fn merge_batch(&mut self, values: &[ArrayRef], groups: &[usize], total: usize) -> Result<()> {
        self.grow(total);
        let states = typed::<LargeBinaryArray>(input(values)?)?;
        for (row, group) in groups.iter().enumerate() {
            let mut reader = Reader(states.value(row));
            self.kind.absorb(&mut self.cells[*group], &mut reader)?;
            if !reader.0.is_empty() {
                return Err(damaged("longer than its content"));
            }
        }
        Ok(())
    }

    fn convert_to_state(&self, values: &[ArrayRef], filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        by_rows(Self::new(self.kind.clone()), values, filter)
    }

    fn size(&self) -> usize {
        self.cells.capacity() * size_of::<K::Cell>() + self.cells.iter().map(|cell| self.kind.heap(cell)).sum::<usize>()
    }
}

/// Reads a state from its front.
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(len).ok_or_else(|| damaged("too short"))?;
        self.0 = tail;
        Ok(head)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        self.take(N)?.try_into().map_err(|_| damaged("too short"))
    }

    pub(crate) fn byte(&mut self) -> Result<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// LEB128.
    pub(crate) fn number(&mut self) -> Result<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(damaged("a number that does not end"))
    }

    pub(crate) fn length(&mut self) -> Result<usize> {
        usize::try_from(self.number()?).map_err(|_| damaged("a length out of range"))
    }
}

/// LEB128.
pub(crate) fn put_number(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// One group of a `GroupsAccumulator`, so that our aggregates also run where DataFusion asks for an ungrouped one. The mutex is
/// never contended: `Accumulator` asks for `Sync`, which a `GroupsAccumulator` is not.
pub(crate) struct OneGroup(Mutex<Box<dyn GroupsAccumulator>>);

impl std::fmt::Debug for OneGroup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OneGroup")
    }
}

impl OneGroup {
    pub(crate) fn new(groups: Box<dyn GroupsAccumulator>) -> Self {
        Self(Mutex::new(groups))
    }

    fn get(&mut self) -> &mut dyn GroupsAccumulator {
        self.0.get_mut().unwrap_or_else(PoisonError::into_inner).as_mut()
    }

    /// The group exists even if no row came: merging nothing makes it.
    fn ready(&mut self) -> Result<()> {
        let nothing = self.get().state(EmitTo::First(0))?;
        self.get().merge_batch(&nothing, &[], 1)
    }
}

fn zeros(values: &[ArrayRef]) -> Vec<usize> {
    vec![0; values.first().map_or(0, |column| column.len())]
}

impl Accumulator for OneGroup {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.get().update_batch(values, &zeros(values), None, 1)
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        self.ready()?;
        ScalarValue::try_from_array(&self.get().evaluate(EmitTo::All)?, 0)
    }

    fn size(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).size()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        self.ready()?;
        self.get().state(EmitTo::All)?.iter().map(|column| ScalarValue::try_from_array(column, 0)).collect()
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.get().merge_batch(states, &zeros(states), 1)
    }
}

/// Calls `f(group, bytes)` with the canonical bytes of every selected value: strings and binary as they are, integers, times and
/// booleans as a little-endian i64, doubles as the bits of their one representative (no -0.0, one NaN), decimals as an i128.
/// These are the bytes that Apache DataSketches hashes.
pub(crate) fn each_value(
    array: &ArrayRef,
    groups: &[usize],
    filter: Option<&BooleanArray>,
    mut f: impl FnMut(usize, &[u8]),
) -> Result<()> {
    use arrow::datatypes::{DataType, Decimal128Type, Float64Type, Int64Type};
    let chosen = selected(array.logical_nulls().as_ref(), filter);
    let chosen = chosen.as_ref();
    let of = array.data_type();
    if of == &DataType::Utf8 {
        let array = array.as_string::<i32>();
        each(groups, chosen, |row, group| f(group, array.value(row).as_bytes()));
    } else if of == &DataType::Float64 {
        let values = array.as_primitive::<Float64Type>().values();
        each(groups, chosen, |row, group| f(group, &canonical(values[row]).to_bits().to_le_bytes()));
    } else if matches!(of, DataType::Decimal128(_, _)) {
        let values = array.as_primitive::<Decimal128Type>().values();
        each(groups, chosen, |row, group| f(group, &values[row].to_le_bytes()));
    } else {
        let array = to_longs(array)?;
        let values = array.as_primitive::<Int64Type>().values();
        each(groups, chosen, |row, group| f(group, &values[row].to_le_bytes()));
    }
    Ok(())
}

/// Integers, booleans and times as i64.
pub(crate) fn to_longs(array: &ArrayRef) -> Result<ArrayRef> {
    use arrow::compute::cast;
    use arrow::datatypes::DataType;
    if array.data_type() == &DataType::Int64 {
        return Ok(array.clone());
    }
    let array = if array.data_type() == &DataType::Date32 { cast(array, &DataType::Int32)? } else { array.clone() };
    Ok(cast(&array, &DataType::Int64)?)
}

/// The one representative of a double among its equals.
pub(crate) fn canonical(value: f64) -> f64 {
    if value == 0.0 {
        0.0
    } else if value.is_nan() {
        f64::NAN
    } else {
        value
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::Int64Array;

    use super::*;
    use crate::engine::aggregates::sums::Count;

    #[test]
    fn one_group_exists_before_its_first_row_and_its_state_can_be_taken_and_merged() {
        let one = || OneGroup::new(Box::new(Count::default()));
        assert_eq!(one().evaluate().expect("evaluates"), ScalarValue::Int64(Some(0)));
        let mut first = one();
        first.update_batch(&[Arc::new(Int64Array::from(vec![Some(1), None, Some(3)]))]).expect("adds");
        let state: Vec<ArrayRef> =
            first.state().expect("a state").iter().map(|scalar| scalar.to_array_of_size(1).expect("an array")).collect();
        let mut second = one();
        second.merge_batch(&state).expect("merges");
        assert_eq!(second.evaluate().expect("evaluates"), ScalarValue::Int64(Some(2)));
    }

    #[test]
    fn numbers_of_every_size_come_back() {
        for number in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX] {
            let mut bytes = Vec::new();
            put_number(number, &mut bytes);
            assert_eq!(Reader(&bytes).number().expect("whole"), number);
            assert!(Reader(&bytes[..bytes.len() - 1]).number().is_err());
        }
    }
}
